"""Several models at once: shares of the machine, time limits, the first failure, and a Ray cluster."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.base.errors import GateError, Where
from tritonsmith.builder.base.processes.budget import Budget, Grant, free_memory_bytes
from tritonsmith.builder.base.processes.run_policy import PeakMemory, RunPolicy, in_one_turn
from tritonsmith.builder.repository.repository import exclusive

SLEEPER = "import time\n\ndef load():\n    time.sleep(600)\n"
SLOW = "import time, torch\n\ndef load():\n    time.sleep(1)\n    return torch.nn.Linear(3, 3), torch.zeros(1, 3)\n"
BROKEN = "def load():\n    raise RuntimeError('no weights here')\n"


class Holder:
    """Holds a share in a thread until it is let go."""

    def __init__(self, budget: Budget, memory_bytes: int, gpus: tuple[int, ...] = ()) -> None:
        self.grant: Grant | None = None
        self._has, self._let_go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(budget, memory_bytes, gpus), daemon=True)
        self._thread.start()

    def _hold(self, budget: Budget, memory_bytes: int, gpus: tuple[int, ...]) -> None:
        with budget.hold(memory_bytes, gpus) as grant:
            self.grant = grant
            self._has.set()
            self._let_go.wait(30)

    def has(self, within_s: float = 5.0) -> bool:
        return self._has.wait(within_s)

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join(5)


def test_a_budget_gives_no_more_than_there_is_and_in_order() -> None:
    budget = Budget(cpus=4, memory_bytes=100, jobs=3)
    first, large = Holder(budget, 60), None
    assert first.has()
    large = Holder(budget, 80)
    small = Holder(budget, 10)
    assert not large.has(0.3), "60 + 80 is more than 100"
    assert not small.has(0.1), "it came later: a large action is not passed over for ever"
    first.let_go()
    assert large.has() and small.has()
    large.let_go()
    small.let_go()


MIB = 1 << 20
V2 = {"memory.max": 800 * MIB, "memory.current": 700 * MIB}
V1 = {"memory/memory.limit_in_bytes": 800 * MIB, "memory/memory.usage_in_bytes": 700 * MIB}
# What the kernel counts: of the files that were read some are in use, and shared memory is no file that gives way.
STAT = {
    "anon": 80 * MIB,
    "file": 620 * MIB,
    "shmem": 20 * MIB,
    "active_file": 50 * MIB,
    "inactive_file": 550 * MIB,
}
CGROUPS: list[tuple[str, dict[str, object], int | None]] = [
    ("v2", {**V2, "memory.stat": STAT}, 650 * MIB),
    (
        "v1",
        {**V1, "memory/memory.stat": {f"total_{k}": v for k, v in STAT.items()} | {"inactive_file": 0}},
        650 * MIB,
    ),
    ("full", {**V2, "memory.stat": {**STAT, "inactive_file": 0}, "memory.current": 900 * MIB}, 0),
    ("without a limit", {**V2, "memory.stat": STAT, "memory.max": "max"}, None),
    ("none", {}, None),
]


@pytest.mark.parametrize(("files", "expected"), [c[1:] for c in CGROUPS], ids=[c[0] for c in CGROUPS])
def test_files_that_were_read_are_no_memory_in_use(
    tmp_path: Path, files: dict[str, object], expected: int | None
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        rows = content.items() if isinstance(content, dict) else []
        path.write_text("".join(f"{k} {v}\n" for k, v in rows) or f"{content}\n")
    free = free_memory_bytes(tmp_path)
    assert free == expected if expected is not None else free > 800 * MIB


def test_an_action_larger_than_the_machine_runs_alone() -> None:
    budget = Budget(cpus=4, memory_bytes=100)
    beside = Holder(budget, 1)
    assert beside.has()
    giant = Holder(budget, 10_000)
    assert not giant.has(0.3)
    beside.let_go()
    assert giant.has()
    giant.let_go()


def test_one_compilation_a_gpu() -> None:
    budget = Budget(cpus=8, memory_bytes=100, gpus=(0, 1))
    one, two = Holder(budget, 1, gpus=(0, 1)), Holder(budget, 1, gpus=(0, 1))
    assert one.has() and two.has()
    assert {h.grant.gpu for h in (one, two) if h.grant} == {0, 1}
    third, plain = Holder(budget, 1, gpus=(0, 1)), Holder(budget, 1)
    assert not third.has(0.3)
    one.let_go()
    assert third.has() and plain.has()
    for holder in (two, third, plain):
        holder.let_go()


def test_an_action_gets_a_gpu_of_the_kind_that_will_do() -> None:
    """The free one that will not do is for others: an engine for an L4 is not compiled on the H100 beside it."""
    budget = Budget(cpus=8, memory_bytes=100, gpus=(0, 1))
    first = Holder(budget, 1, gpus=(1,))
    assert first.has() and first.grant is not None and first.grant.gpu == 1
    second = Holder(budget, 1, gpus=(1,))
    assert not second.has(0.3)
    first.let_go()
    assert second.has()
    second.let_go()
    with RunPolicy().turn("without a budget", (1, 2)) as turn:
        assert turn is not None and turn.grant.gpu == 1


def test_who_is_stopped_while_waiting_gets_nothing_and_blocks_nobody() -> None:
    budget = Budget(cpus=1, memory_bytes=100)
    first = Holder(budget, 1)
    assert first.has()
    with budget.hold(1, stop=lambda: True) as grant:
        assert grant is None
    first.let_go()
    last = Holder(budget, 1)
    assert last.has()
    last.let_go()


def test_cpus_that_are_lent_come_back_before_all_who_hold_nothing() -> None:
    budget = Budget(cpus=1, memory_bytes=100)
    with budget.hold(80) as grant:
        assert grant is not None
        budget.lend(grant)
        small, large = Holder(budget, 20), None
        assert small.has()
        taking = threading.Thread(target=budget.take_back, args=(grant,), daemon=True)
        taking.start()
        large = Holder(budget, 50)  # the first in the queue, for memory that this one has
        small.let_go()
        taking.join(5)
        assert not taking.is_alive() and not large.has(0.3)
        budget.lend(grant)
        assert budget.take_back(grant, stop=lambda: True), "there is nothing to wait for"
        budget.lend(grant)
    assert large.has()
    with budget.hold(1, stop=lambda: True) as other:
        assert other is None
    large.let_go()
    last = Holder(budget, 100)
    assert last.has()
    last.let_go()


def test_cpus_that_are_soon_taken_back_are_nobody_elses_for_so_long() -> None:
    budget = Budget(cpus=1, memory_bytes=100)
    with budget.hold(10) as grant:
        assert grant is not None
        budget.lend(grant, in_s=60)
        other = Holder(budget, 10)
        assert not other.has(0.3)
        assert budget.take_back(grant, stop=lambda: True), "they are still there"
        budget.lend(grant, in_s=0.1)
        assert other.has(), "it took longer than was said"
    other.let_go()


def test_two_that_take_back_do_not_wait_for_each_other() -> None:
    budget = Budget(cpus=1, memory_bytes=100)
    with budget.hold(10) as one:
        assert one is not None
        budget.lend(one)
        with budget.hold(10) as two:
            assert two is not None
            budget.lend(two)
            running = Holder(budget, 10)
            assert running.has()
            taking = []
            for grant in (one, two):

                def take(grant: Grant = grant) -> None:
                    budget.take_back(grant)
                    budget.lend(grant)

                taking.append(threading.Thread(target=take, daemon=True))
                taking[-1].start()
            running.let_go()
            for thread in taking:
                thread.join(5)
                assert not thread.is_alive()


def test_who_is_stopped_has_not_taken_back_what_was_lent() -> None:
    budget = Budget(cpus=1, memory_bytes=100)
    with budget.hold(1) as grant:
        assert grant is not None
        budget.lend(grant)
        other = Holder(budget, 1)
        assert other.has()
        assert not budget.take_back(grant, stop=lambda: True)
    other.let_go()
    last = Holder(budget, 1)
    assert last.has()
    last.let_go()


def test_actions_of_one_turn_are_expected_to_need_what_the_largest_did(tmp_path: Path) -> None:
    policy = RunPolicy(Budget(cpus=2, memory_bytes=10_000), peaks=PeakMemory(tmp_path / "peaks.json"))
    assert policy.peaks is not None
    with in_one_turn():
        for what, peak_bytes in (("export", 1000), ("rows", 3000), ("export", 2000)):
            with policy.turn(what) as turn:
                assert turn is not None
                policy.learn(turn, what, peak_bytes)
    policy.peaks.save()
    known = PeakMemory(tmp_path / "peaks.json")
    assert known.expected_bytes("export") == known.expected_bytes("rows") == 3750


def test_an_action_that_needs_more_than_the_turn_has_gets_one_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "peaks.json"
    path.write_text('{"small": 10, "smaller": 5, "large": 80}')
    policy = RunPolicy(Budget(cpus=1, memory_bytes=100), peaks=PeakMemory(path))
    with in_one_turn():
        turns = []
        for what in ("small", "smaller", "large"):
            with policy.turn(what) as turn:
                turns.append(turn)
        assert turns[0] is turns[1] is not turns[2]
        with policy.turn("on a GPU", (0,)) as turn:
            assert turn is not turns[2]


def test_peaks_are_remembered_and_a_damaged_file_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "peaks.json"
    peaks = PeakMemory(path)
    peaks.learn("the export of m", 1000)
    peaks.save()
    assert PeakMemory(path).expected_bytes("the export of m") == 1250
    path.write_text('{"the export of m": "much", "x"')
    assert PeakMemory(path).expected_bytes("the export of m") == 1 << 30


def project(directory: Path, **sources: str) -> None:
    lines = ["models:"]
    for name, text in sources.items():
        if text == "onnx":
            onnx_models.save(onnx_models.affine(("batch", 3)), directory / f"{name}.onnx")
            source = f"{{onnx: {name}.onnx}}"
        else:
            (directory / f"{name}_source.py").write_text(text)
            source = f'{{torch: "{name}_source:load"}}'
        lines += [f"  {name}:", f"    source: {source}", "    max_batch_size: 4"]
    (directory / "models.yaml").write_text("\n".join(lines) + "\n")


def actions(result: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {m["model"]: m["action"] for m in json.loads(result.stdout)["models"]}


def test_an_action_that_takes_too_long_is_stopped_and_the_others_are_built(
    tmp_path: Path, tritonsmith: Run
) -> None:
    project(tmp_path, slow=SLEEPER, good="onnx")
    result = tritonsmith("build", "--timeout", "6", "--jobs", "2", "--format", "json")
    assert result.returncode == 1, result.stderr
    assert actions(result) == {"slow": "failed", "good": "exported"}
    assert "error[export_timeout]" in result.stderr and "took longer than 6 s" in result.stderr
    assert (tmp_path / "model_repository" / "good" / "config.pbtxt").is_file()


@pytest.mark.parametrize("more", [(), ("--artifacts-only",)], ids=["laid out", "artifacts only"])
def test_fail_fast_ends_what_runs_and_says_what_was_not_built(
    tmp_path: Path, tritonsmith: Run, more: tuple[str, ...]
) -> None:
    project(tmp_path, broken=BROKEN, slow=SLEEPER)
    result = tritonsmith("build", "--fail-fast", "--jobs", "2", *more, timeout=60)
    assert result.returncode == 1
    assert "no weights here" in result.stderr and "_cancelled" not in result.stderr
    assert "slow    not built" in result.stdout
    assert "0 of 2 models written, 1 failed and left as they were, 1 not built" in result.stdout


def test_only_the_named_models_and_their_steps_are_built(tmp_path: Path, tritonsmith: Run) -> None:
    project(tmp_path, a="onnx", b="onnx", c="onnx")
    assert tritonsmith("build", "a", "c").returncode == 0
    assert sorted(p.name for p in (tmp_path / "model_repository").iterdir()) == ["a", "c"]
    assert sorted(json.loads((tmp_path / "models.lock.json").read_text())["models"]) == ["a", "c"]
    assert tritonsmith("plan", "a", "--exit-code").returncode == 0
    assert tritonsmith("plan", "--exit-code").returncode == 4
    wrong = tritonsmith("build", "aa")
    assert wrong.returncode == 2 and "did you mean 'a'?" in wrong.stderr


def test_locked_builds_what_the_lock_says_and_nothing_else(tmp_path: Path, tritonsmith: Run) -> None:
    project(tmp_path, a="onnx", b="onnx")
    assert tritonsmith("build", "--locked").returncode == 4, "there is no lock yet"
    assert tritonsmith("build").returncode == 0
    lock = (tmp_path / "models.lock.json").read_text()
    before = (tmp_path / "model_repository" / "a" / "1" / "model.onnx").read_bytes()
    (tmp_path / "model_repository" / "a" / "1" / "model.onnx").unlink()
    assert tritonsmith("build", "--locked").returncode == 0, "what was lost is made again"
    assert (tmp_path / "model_repository" / "a" / "1" / "model.onnx").read_bytes() == before
    spec = tmp_path / "models.yaml"
    spec.write_text(spec.read_text().replace("max_batch_size: 4", "max_batch_size: 8", 1))
    refused = tritonsmith("build", "--locked")
    assert refused.returncode == 4 and "max_batch_size: 4 → 8" in refused.stderr
    assert (tmp_path / "models.lock.json").read_text() == lock


def test_the_plan_is_made_after_the_wait_for_another_build(
    tmp_path: Path, tritonsmith: Run, cache_directory: Path
) -> None:
    """What was edited while the other build ran is refused, too; a model that left the spec would be deleted."""
    project(tmp_path, a="onnx", b="onnx")
    assert tritonsmith("build").returncode == 0
    lock = (tmp_path / "models.lock.json").read_text()
    spec = tmp_path / "models.yaml"
    both = spec.read_text()
    with exclusive(tmp_path / "model_repository"):
        waiting = subprocess.Popen(
            [sys.executable, "-m", "tritonsmith", "build", "--locked"],
            cwd=tmp_path,
            env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory)},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_flock(waiting.pid)
        spec.write_text(both.partition("  b:")[0])
    _, told = waiting.communicate(timeout=60)
    assert waiting.returncode == 4 and "error[locked]" in told and "b: remove" in told
    assert (tmp_path / "models.lock.json").read_text() == lock
    assert (tmp_path / "model_repository" / "b" / "config.pbtxt").is_file()


def wait_for_flock(pid: int, within_s: float = 60.0) -> None:
    """Until the process stands in the queue of a lock that another holds: the kernel's list marks it with an arrow."""
    end = time.monotonic() + within_s
    queued = re.compile(rf"-> FLOCK .* {pid} ")
    while not queued.search(Path("/proc/locks").read_text()):
        assert time.monotonic() < end, "it never waited"
        time.sleep(0.02)


def test_artifacts_only_fills_the_cache_and_lays_nothing_out(tmp_path: Path, tritonsmith: Run) -> None:
    project(tmp_path, a="onnx", b="onnx")
    made = tritonsmith("build", "--artifacts-only", "--format", "json")
    assert made.returncode == 0 and actions(made) == {"a": "cached", "b": "cached"}
    assert not (tmp_path / "model_repository").exists() and not (tmp_path / "models.lock.json").exists()
    built = tritonsmith("build", "--format", "json")
    assert actions(built) == {"a": "from cache", "b": "from cache"}


def test_an_error_travels_whole() -> None:
    import pickle

    error = GateError("no", code="c", where=Where(Path("a"), 3), seen=1, valid=(1, 2), fix="f", details=["x"])
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.as_dict()) == (GateError, str(error), error.as_dict())


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Address of a Ray cluster on this machine; its nodes have a cache of their own."""
    pytest.importorskip("ray", reason="Ray is not installed; run `make install`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    # A socket's path has to be short.
    temporary = Path("/tmp") / f"ray-{os.getpid()}"
    head = subprocess.Popen(
        [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *(f"--port={address.split(':')[1]}", "--node-ip-address=127.0.0.1", "--num-cpus=2"),
            *("--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={temporary}"),
        ],
        # A token that the user's home holds is not in the home that the build has here.
        env={**os.environ, "TRITONSMITH_CACHE": str(tmp_path / "node"), "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert head.stdout is not None
    said = ""
    try:
        for line in head.stdout:
            said += line
            if "Ray runtime started" in line:
                break
        else:
            raise AssertionError(said)
        yield address
    finally:
        head.terminate()
        head.communicate(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_ray_cluster_makes_them_and_its_errors_come_back(
    tmp_path: Path, tritonsmith: Run, cluster: str
) -> None:
    project(tmp_path, good="onnx", broken=BROKEN)
    remote = ("--remote-cache", str(tmp_path / "shared"))
    unshared = tritonsmith("build", "--executor", f"ray:{cluster}")
    assert unshared.returncode == 2 and "--remote-cache" in unshared.stderr
    result = tritonsmith("build", "--executor", f"ray:{cluster}", *remote, "--format", "json")
    assert result.returncode == 1, result.stderr
    assert actions(result) == {"good": "exported", "broken": "failed"}
    assert "no weights here" in result.stderr
    assert (tmp_path / "node" / "artifacts").is_dir(), "made by the node, in its own cache"
    assert tritonsmith("build", "good", "--locked").returncode == 0


def test_each_model_is_laid_out_as_soon_as_it_is_made(tmp_path: Path, cache_directory: Path) -> None:
    """A build that is stopped by a slow model has the quick ones in the repository and in the lock."""
    project(tmp_path, slow=SLEEPER, quick="onnx")
    build = subprocess.Popen(
        [sys.executable, "-m", "tritonsmith", "build", "--jobs", "2"],
        cwd=tmp_path,
        env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory)},
        stderr=subprocess.DEVNULL,
    )
    try:
        lock = tmp_path / "models.lock.json"
        deadline = time.monotonic() + 30
        while not lock.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert build.poll() is None, "the slow model is still being exported"
        assert list(json.loads(lock.read_text())["models"]) == ["quick"]
        assert (tmp_path / "model_repository" / "quick" / "config.pbtxt").is_file()
    finally:
        build.send_signal(signal.SIGINT)
        assert build.wait(30) == 130


def test_a_terminal_shows_what_runs(tmp_path: Path, cache_directory: Path) -> None:
    project(tmp_path, a="onnx", b=SLOW)
    shown, terminal = os.openpty()
    try:
        build = subprocess.Popen(
            [sys.executable, "-m", "tritonsmith", "build", "--jobs", "2"],
            cwd=tmp_path,
            env={**os.environ, "TRITONSMITH_CACHE": str(cache_directory), "TERM": "xterm"},
            stdout=subprocess.DEVNULL,
            stderr=terminal,
        )
        text = b""
        while build.poll() is None or select.select([shown], [], [], 0.2)[0]:
            if select.select([shown], [], [], 0.2)[0]:
                text += os.read(shown, 1 << 16)
    finally:
        os.close(terminal)
        os.close(shown)
    assert build.returncode == 0
    assert "export of b" in text.decode() and "1/2" in text.decode()
