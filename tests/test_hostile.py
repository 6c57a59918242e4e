"""Hostile locks, cache entries, manifests and records: a thousand of the bench's mutations, and each kind of mend by itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import onnx_models
from tests.bench import hostile, mutations
from tests.conftest import ROOT, Run
from tritonsmith.builder.base.errors import BuildError, UsageError
from tritonsmith.builder.base.files.npz import read_npz
from tritonsmith.builder.base.files.object_store import open_store
from tritonsmith.builder.build.build import BuildOptions, build, context_of
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.publish.provenance import spec_origin
from tritonsmith.builder.repository.lock import Lock, write_lock
from tritonsmith.builder.spec.spec import load_spec
from tritonsmith.perf.records.record import load_records, save_records
from tritonsmith.perf.sweep.run_record import RESULT, load_run, write_run

_NOBODY = 65534


def _fuzz(*arguments: str, scratch: Path, become: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """The bench in a process of its own, which writes to nothing but `scratch`. become: makes it another user's."""
    return subprocess.run(
        [*become, sys.executable, "-m", "tests.bench.hostile", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(scratch), "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.parametrize("cases", [150, pytest.param(1_000, marks=pytest.mark.nightly)])
def test_mutations_end_in_an_answer_or_an_error(tmp_path: Path, cases: int) -> None:
    done = _fuzz("--times", str(cases), scratch=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]
    (told,) = [line for line in done.stdout.splitlines() if line.startswith(f"{cases} cases:")]
    assert "0 tracebacks, 0 cases over 1 s, 0 changes outside, 0 wrong answers" in told


@dataclass(frozen=True)
class _Nobody:
    """A user who owns nothing but a directory. become: what runs a command as this user."""

    become: tuple[str, ...]
    home: Path

    def run(self, *command: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "NO_COLOR": "1", "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.home / "tmp"), **env,
        }  # fmt: skip
        return subprocess.run(
            [*self.become, sys.executable, "-m", "tritonsmith", *command],
            cwd=cwd or self.home, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip


@pytest.fixture
def nobody(tmp_path_factory: pytest.TempPathFactory) -> _Nobody:
    """User 65534; where the interpreter lies in a home that only its owner may enter, with the right to read it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv on this machine")
    plain = ("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups")
    reads = [f"--{which}=-all,+dac_read_search" for which in ("bounding-set", "inh-caps", "ambient-caps")]
    starts_itself = "import builder, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    for become in ((*plain, "--"), (*plain, *reads, "--")):
        seen = subprocess.run(
            [*become, sys.executable, "-c", starts_itself], cwd=ROOT, capture_output=True, check=False
        )
        if seen.returncode == 0:
            break
    else:
        pytest.skip(f"user {_NOBODY} may not read this interpreter or checkout")
    home = tmp_path_factory.mktemp("nobody")
    (home / "tmp").mkdir()
    for above in (home, *home.parents):
        # pytest's own directories are for their owner alone.
        if above.name.startswith(("nobody", "pytest-")):
            above.chmod(0o755)
    for own in (home, home / "tmp"):
        os.chown(own, _NOBODY, _NOBODY)
    return _Nobody(become, home)


def test_a_user_without_rights_gets_answers_or_errors_too(nobody: _Nobody) -> None:
    done = _fuzz("--times", "80", "--seed", "7", scratch=nobody.home / "tmp", become=nobody.become)
    assert done.returncode == 0, done.stdout + done.stderr[-2_000:]


def test_a_user_without_rights_builds_plans_and_checks_from_a_checkout_that_is_not_theirs(
    nobody: _Nobody,
) -> None:
    """The spec's directory is another's: the repository and the cache go where the user may write."""
    checkout = nobody.home / "checkout"
    checkout.mkdir()
    onnx_models.save(onnx_models.affine(("batch", 3)), checkout / "m.onnx")
    (checkout / "models.yaml").write_text(
        "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"
    )
    for own in (checkout, *checkout.iterdir()):
        own.chmod(own.stat().st_mode | 0o055)
    plan = nobody.run("plan", cwd=checkout)
    assert plan.returncode == 0 and "export" in plan.stdout, plan.stderr
    refused = nobody.run("build", cwd=checkout)
    assert refused.returncode == 1 and "error[disk]" in refused.stderr and "Traceback" not in refused.stderr
    assert sorted(p.name for p in checkout.iterdir()) == ["m.onnx", "models.yaml"]
    os.chown(checkout, _NOBODY, _NOBODY)
    built = nobody.run("build", cwd=checkout)
    assert built.returncode == 0, built.stderr
    checked = nobody.run("check", "model_repository", cwd=checkout)
    assert checked.returncode == 0, checked.stdout + checked.stderr


class TestMutations:
    def test_a_signed_manifest_is_one_that_the_cache_believes(self, tmp_path: Path) -> None:
        """Else the mutations with a right digest would be misses, and test nothing."""
        cache = Cache(tmp_path)
        with cache.workspace() as made:
            (made / "x").write_text("x")
            artifact = cache.put("0" * 64, made, {"a": 1.5, "b": ["ä"]}, "what")
        text = (artifact.directory / "artifact.json").read_bytes()
        assert mutations.signed(text) == text

    def test_a_changed_canary_is_seen(self, tmp_path: Path) -> None:
        from tests.bench.hostile_ground import plant_victim
        from tests.bench.snapshot import Snapshot

        victim = plant_victim(tmp_path)
        snapshot = Snapshot.of(tmp_path)
        (victim / "file").write_text("do not touch!")
        (victim / "script").chmod(0o777)
        (victim / "link").unlink()
        (victim / "new").mkdir()
        told = [d.partition(" is ")[0] for d in snapshot.differences()]
        assert told == ["victim/file", "victim/link", "victim/new", "victim/script"]
        snapshot.restore()
        assert snapshot.differences() == []

    def test_a_traceback_a_wrong_answer_and_a_change_are_failures(self, tmp_path: Path) -> None:
        """Each is brought about once, on a project that the harness made."""
        harness = hostile.Harness(tmp_path, seed=1)
        kinds = [k for k in hostile.KINDS if k.name == "engine sidecars"]
        harness.prepare(kinds)

        def breaks(project: Path) -> None:
            (harness.victim / "file").write_text("touched")
            raise KeyError("what")

        kind = replace(kinds[0], commands=[[breaks]])
        (outcome,) = harness.run([kind], [0], lambda done: None)
        assert any(f.startswith("traceback: KeyError") for f in outcome.failures)
        assert any("victim/file" in f for f in outcome.failures)
        assert (harness.victim / "file").read_text() == "do not touch\n"


class TestStoreInADirectory:
    def test_no_object_is_written_or_deleted_behind_a_link(self, tmp_path: Path) -> None:
        victim, root = tmp_path / "victim", tmp_path / "store"
        victim.mkdir()
        (victim / "canary").write_text("here")
        root.mkdir()
        (root / "artifacts").symlink_to(victim)
        store = open_store(f"file://{root}")
        for change in (
            lambda: store.put("artifacts/new", b"x"),
            lambda: store.put_new("artifacts/new", b"x"),
            lambda: store.delete(["artifacts/canary"]),
            lambda: store.get("artifacts/canary"),
            lambda: store.download("artifacts/canary", tmp_path / "copy"),
        ):
            with pytest.raises(BuildError, match="behind a link") as caught:
                change()
            assert caught.value.code == "store_object"
        assert [(p.name, p.read_text()) for p in victim.iterdir()] == [("canary", "here")]


def test_git_starts_no_program_that_the_repository_names(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path)]
    (tmp_path / "models.yaml").write_text("models: {m: {source: {onnx: m.onnx}}}\n")
    (tmp_path / ".gitattributes").write_text("*.txt filter=evil\n")
    (tmp_path / "a.txt").write_text("a")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\ncat\n")
    program.chmod(0o755)
    for name in ("core.fsmonitor", "filter.evil.clean", "filter.evil.process", "core.pager"):
        subprocess.run([*git, "config", name, str(program)], check=True)
    (tmp_path / "a.txt").write_text("b")
    origin = spec_origin(load_spec(tmp_path / "models.yaml"))
    assert origin.commit is not None and origin.dirty is True
    assert not (tmp_path / "canary").exists()
    # It is a trap: git alone steps into it.
    subprocess.run([*git, "status"], check=False, capture_output=True)
    assert (tmp_path / "canary").exists()


class TestLinksOfACheckout:
    """A pull request can bring a link as it can bring a lock file."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        root = tmp_path / "checkout"
        onnx_models.save(onnx_models.affine(("batch", 3)), root / "m.onnx")
        (root / "models.yaml").write_text(
            "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"
        )
        (tmp_path / "victim" / "m").mkdir(parents=True)
        (tmp_path / "victim" / "m" / "precious").write_text("here")
        (tmp_path / "victim" / "m.json").write_text("here")
        return root

    def test_a_repository_that_leads_elsewhere_is_not_built_in(self, checkout: Path) -> None:
        lock = {"lock_version": 1, "models": {}}
        (checkout / "models.lock.json").write_text(json.dumps(lock))
        (checkout / "model_repository").symlink_to("../victim")
        options = BuildOptions(checkout / "models.yaml", cache=Cache(checkout / "cache"), overwrite=True)
        with pytest.raises(UsageError, match="is a link") as caught:
            build(options)
        assert caught.value.code == "repository_link" and "--repository ../victim" in str(caught.value.fix)
        assert (checkout.parent / "victim" / "m" / "precious").read_text() == "here"
        meant = replace(options, repository=checkout / "model_repository")
        assert context_of(meant).repository == checkout / "model_repository", "who names it, means it"

    def test_a_lock_that_is_a_link_is_replaced_and_its_target_is_not_written(self, checkout: Path) -> None:
        victim, lock = checkout.parent / "victim" / "m.json", checkout / "models.lock.json"
        lock.symlink_to("../victim/m.json")
        write_lock(lock, Lock())
        assert not lock.is_symlink() and victim.read_text() == "here"

    def test_evidence_that_leads_elsewhere_is_not_written(self, checkout: Path) -> None:
        from tests.perf.report.test_report import run_result
        from tritonsmith.perf.commands.apply.chosen import Chosen
        from tritonsmith.perf.commands.apply.winner import application

        run = run_result()
        run = replace(run, spec=run.spec.model_copy(update={"model": "m"}))
        (checkout / "evidence").symlink_to("../victim")
        with pytest.raises(UsageError, match="is a link") as caught:
            application(run, Chosen(run.arms[2], None, "", False), checkout / "models.yaml")
        assert caught.value.code == "evidence_link"


class TestArchives:
    def test_a_bomb_is_refused_before_it_is_unpacked(self, tmp_path: Path) -> None:
        with (
            zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("a.npy", "w") as member,
        ):
            member.write(
                mutations._npy("{'descr': '<i8', 'fortran_order': False, 'shape': (34603008,), }", b"")
            )
            for _ in range(264):
                member.write(bytes(1 << 20))
        assert (tmp_path / "x.npz").stat().st_size < 2 << 20
        with pytest.raises(ValueError, match="times its own size"):
            read_npz(tmp_path / "x.npz")

    @pytest.mark.parametrize(
        "header", ["(" * 500, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"]
    )
    def test_a_header_that_numpy_cannot_take_is_no_traceback(self, header: str, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr("a.npy", mutations._npy(header, b"x"))
        with pytest.raises(ValueError):
            read_npz(tmp_path / "x.npz")
        with pytest.raises(UsageError) as caught:
            load_records(tmp_path / "x.npz")
        assert caught.value.code == "record_format"


class TestRunsAndRecords:
    @pytest.fixture
    def records(self, tmp_path: Path) -> Path:
        from tests.perf.report.test_compare import records

        save_records(records(100, 2.0, 1), tmp_path / "load.npz")
        return tmp_path / "load.npz"

    @pytest.mark.parametrize(
        ("column", "values"),
        [
            ("status", [7]),
            ("payload_index", [3]),
            ("payload_index", [-1]),
            ("end_ns", [-(2**63)]),
            ("end_ns", [[1, 2]]),
        ],
    )
    def test_columns_that_lead_out_of_their_tables(
        self, column: str, values: list[object], records: Path
    ) -> None:
        with np.load(records) as saved:
            members = {name: saved[name] for name in saved.files}
        columns = {n: v[:1] for n, v in members.items() if n != "header.json"}
        columns[column] = np.asarray(values, columns[column].dtype)
        np.savez(records, **columns)
        with zipfile.ZipFile(records, "a") as archive:
            archive.writestr("header.json", members["header.json"])
        with pytest.raises(UsageError, match="not a record file"):
            load_records(records)

    @pytest.mark.parametrize(
        ("place", "value", "told"),
        [
            (("arms", 0, "id"), "arm01", "two arms"),
            (("trials", 0, "arm_id"), "arm77", "of no arm"),
            (("trials", 0, "summary", "latency_ns"), {}, "lacks one of"),
            (("trials", 0, "server", "executions"), "many", "executions"),
            (("trials", 0, "others"), "x", "trials.0.others"),
            (("environment",), 3, "environment"),
        ],
    )
    def test_a_run_whose_values_are_of_other_types(
        self, place: tuple[str | int, ...], value: object, told: str, tmp_path: Path
    ) -> None:
        from tests.perf.report.test_report import run_result

        write_run(run_result(), tmp_path)
        data = json.loads((tmp_path / RESULT).read_text())
        holder: Any = data
        for key in place[:-1]:
            holder = holder[key]
        assert isinstance(place[-1], int) or place[-1] in holder
        holder[place[-1]] = value
        (tmp_path / RESULT).write_text(json.dumps(data))
        with pytest.raises(UsageError, match=told) as caught:
            load_run(tmp_path)
        assert caught.value.code == "run_damaged"


def test_plan_runs_nothing_of_the_sources(tmp_path: Path) -> None:
    """A torch source, a callable that makes samples, a python source: a build would run the first two."""
    touch = f"import pathlib\npathlib.Path({str(tmp_path / 'canary')!r}).touch()\n"
    (tmp_path / "evil.py").write_text(f"{touch}def make(): ...\ndef samples(): ...\n")
    (tmp_path / "sitecustomize.py").write_text((tmp_path / "evil.py").read_text())
    x, y = (f"[{{name: {name}, data_type: TYPE_FP32, dims: [3]}}]" for name in "xy")
    tensors = f"    input: {x}\n    output: {y}\n"
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        f"  a:\n    source: {{torch: 'evil:make'}}\n    max_batch_size: 4\n    accuracy: {{samples: 'evil:samples'}}\n{tensors}"
        f"  b:\n    source: {{python: evil.py}}\n    max_batch_size: 4\n{tensors}"
    )
    options = BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "cache"))
    assert {action.model for action in context_of(options).plan().stale} == {"a", "b"}
    assert not (tmp_path / "canary").exists()


def test_check_runs_nothing_of_a_strangers_repository(tmp_path: Path, tritonsmith: Run) -> None:
    """model.py, a package beside it, sitecustomize, shared objects: `check` reads names and bytes only."""
    canary = tmp_path / "canary"
    code = f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n"
    model = tmp_path / "repository" / "m"
    (model / "1").mkdir(parents=True)
    for path in ("1/model.py", "model.py", "sitecustomize.py", "onnx.py", "numpy.py", "1/helper.py"):
        (model / path).write_text(code)
    for path in ("repository/sitecustomize.py", "repository/onnx.py"):
        (tmp_path / path).write_text(code)
    (model / "1" / "libcustom.so").write_bytes(b"\x7fELF not one")
    (model / "config.pbtxt").write_text(
        'name: "m"\nbackend: "python"\nmax_batch_size: 8\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]\noutput [{ name: "y" data_type: TYPE_FP32 dims: [4] }]\n'
        'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }\n'
    )
    # The console script: `python -m` would put the present directory on the path before any code of ours runs.
    script = Path(sys.executable).with_name("tritonsmith")
    done = subprocess.run(
        [script, "check", "."], cwd=tmp_path / "repository", capture_output=True, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr and done.stdout, done.stderr
    assert not canary.exists()
