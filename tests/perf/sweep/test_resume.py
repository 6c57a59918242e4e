"""A run that is there: gone on with as it was asked for, overwritten only when told, kept by a Ctrl-C at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.perf.explicit_server import lay_out_binary
from tests.perf.report.test_report import run_result
from tests.perf.sweep.test_sweep import arms
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.commands.sweep.request import Request, how_to_go_on, request_from
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.sweep.plan import SweepSpec, Trial
from tritonsmith.perf.sweep.plan.fingerprint import MACHINE, SERVER, SETTINGS, Content, content_of
from tritonsmith.perf.sweep.run.asked import Asked, asked_for
from tritonsmith.perf.sweep.run.resume import Earlier, changes, earlier_run, sentence
from tritonsmith.perf.sweep.run.session import check_output, sweep_target
from tritonsmith.perf.sweep.run_record import (
    JOURNAL,
    RECORDS,
    RESULT,
    Journal,
    is_run,
    load_run,
    write_run,
)
from tritonsmith.perf.sweep.target import SweepTarget

CONFIG = """
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""
COUNT = "instance_group.count"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model repository; its `m` has one file."""
    version = tmp_path / "models" / "m" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"weights")
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return tmp_path / "models"


def journal(directory: Path, asked: Asked | None, **spec: Any) -> None:
    run = run_result()
    start = {
        "spec": SweepSpec(model="m", **spec).model_dump(mode="json"),
        "environment": dict(run.environment),
        "arms": [json_of(arm) for arm in run.arms],
        "notes": [],
        "content": {"the model's files": "1"},
        "asked": None if asked is None else json_of(asked),
    }
    written = Journal(directory, start=start)
    for trial in run.trials:
        written.write("trial", **{**json_of(trial), "key": f"k{trial.trial.number}"})
    written.close()


# What a resumed run takes from the one before.


def test_resume_needs_nothing_else_and_what_is_given_wins(repository: Path, tmp_path: Path) -> None:
    data = DataOptions(
        file=tmp_path / "samples.npz",
        shapes={"x": (Span(1, 4), Normal(20.0, 5.0))},
        ranges={"x": Span(0.5, 2.0)},
    )
    variants = {"fp16": str(tmp_path / "fp16")}
    asked = asked_for(str(repository), "binary:/bin/sh", data, variants)
    assert typed(Asked, json_of(asked)) == asked
    run = tmp_path / "run"
    journal(run, asked, space={COUNT: [1, 2]}, variants={"fp16": "fp16"}, rounds=6)

    def resumed(data: DataOptions | None = None, launch: str | None = None, **given: Any) -> Request:
        return request_from(None, launch, None, given, data or DataOptions(), run, resume=True)

    again = resumed()
    assert (again.target.repository, again.target.launch) == (repository, "binary:/bin/sh")
    assert again.data == data
    assert again.spec == SweepSpec(model="m", space={COUNT: [1, 2]}, variants=variants, rounds=6)
    more = resumed(DataOptions(shapes={"x": (Span(2, 2),)}), "embedded", rounds=8)
    assert (more.spec.rounds, more.spec.space, more.target.launch) == (8, again.spec.space, "embedded")
    assert more.data == replace(data, shapes={"x": (Span(2, 2),)})
    # Defaults of before do not stand in the way.
    assert resumed(slo_p99_ms=20.0).spec.objective == "rate"
    with pytest.raises(UsageError) as error:
        resumed(model="other")
    assert error.value.code == "other_model"


def test_a_journal_of_before_that_was_kept_resumes_with_the_defaults(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repository.rename(tmp_path / "model_repository")
    journal(tmp_path / "run", None, rounds=3)
    asked = request_from(None, None, None, {}, DataOptions(), Path("run"), resume=True)
    assert (asked.target.repository, asked.spec.rounds) == (Path("model_repository"), 3)


def test_what_is_asked_for_holds_in_any_directory(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = asked_for("models", "embedded", DataOptions(file=Path("x.npz")), {"fp16": "v/fp16"})
    assert asked.where == str(repository) and asked.data.file == tmp_path / "x.npz"
    assert asked.variants == {"fp16": str(tmp_path / "v/fp16")}
    assert asked_for("http://h:8000", "http://h:8000", DataOptions(), {}).where == "http://h:8000"


# What changed since.


def content(**parts: str) -> Content:
    plain = {"the model's files": "1", SERVER: "embedded 2.51.0", MACHINE: "cpu", SETTINGS: "s"}
    return Content(plain | {name.replace("_", " "): value for name, value in parts.items()})


CURRENT = {"max_batch_size": 8, "instance_group": [{"kind": "KIND_CPU", "count": 1}]}
BEFORE = Earlier(
    spec=SweepSpec(model="m", duration_s=0.5).model_dump(mode="json"),
    parts=content().parts,
    current=CURRENT,
)


@pytest.mark.parametrize(
    ("now", "spec", "current", "told"),
    [
        ({}, {}, {}, []),
        ({"the_server": "embedded 2.52.0"}, {}, {}, ["the server (embedded 2.52.0, was embedded 2.51.0)"]),
        ({"the_files_of_tok": "1"}, {}, {}, ["the files of tok"]),
        ({}, {}, {"max_batch_size": 4}, ["the current config's max_batch_size is 4, was 8"]),
        (
            {},
            {},
            {"instance_group": [{"kind": "KIND_CPU", "count": 2}]},
            ["the current config's instance_group.count is 2, was 1"],
        ),
        # Triton makes the name of a group from the model's.
        ({}, {}, {"instance_group": [{"name": "m_0", "kind": "KIND_CPU", "count": 1}]}, []),
        (
            {"the_measurement_settings": "t"},
            {"duration_s": 1.0, "rounds": 8},
            {},
            ["rounds is 8, was None", "duration_s is 1.0, was 0.5"],
        ),
    ],
    ids=["nothing", "server", "files beside", "config.pbtxt", "its instances", "a name", "flags"],
)
def test_what_changed_is_named(
    now: dict[str, str], spec: dict[str, Any], current: dict[str, Any], told: list[str]
) -> None:
    asked = SweepSpec.model_validate({"model": "m", "duration_s": 0.5, **spec})
    assert changes(BEFORE, content(**now), asked, {**CURRENT, **current}) == told
    text = sentence(replace(BEFORE, finished={"k": run_result().trials[0]}), told, 0)
    assert all(part in text for part in told)


def test_another_models_config_is_part_of_what_was_measured(repository: Path) -> None:
    """Of an ensemble's other steps, and of models beside: no arm's config tells it."""

    def key(count: int) -> str:
        configs = {"tok": {"instance_group": [{"kind": "KIND_CPU", "count": count}]}}
        directories = {"": repository / "m", "tok": repository / "m"}
        made = content_of(SweepSpec(model="m"), "s", directories, [], "", configs)
        return made.key(arms()[0], Trial(0, 0, "arm00", 1))

    assert key(1) == key(1) != key(2)


# A directory that holds something.


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_a_run_that_is_there_is_only_gone_on_with_or_overwritten_when_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    journal(run, None)
    before = snapshot(run)
    with pytest.raises(UsageError) as error:
        request_from("models", None, None, {"model": "m"}, DataOptions(), run)
    assert error.value.code == "run_exists"
    assert f"tritonsmith sweep --resume -o {run}" in str(error.value) and "--overwrite" in str(error.value)
    with pytest.raises(UsageError) as error:
        request_from("models", None, None, {}, DataOptions(), run, resume=True, overwrite=True)
    assert error.value.code == "two_ways"
    assert snapshot(run) == before
    check_output(run, overwrite=True)
    check_output(run, resume=True)
    with pytest.raises(UsageError) as error:
        request_from(None, None, None, {}, DataOptions(), tmp_path / "none", resume=True)
    assert error.value.code == "no_run"


@pytest.mark.parametrize(
    ("files", "is_ours"),
    [
        ({JOURNAL: ""}, True),  # killed before its first line
        ({JOURNAL: '{"eve'}, True),
        ({JOURNAL: '{"event": "start", "spec'}, True),
        ({JOURNAL: '{"requests": 3}\n'}, False),
        ({RESULT: "{}"}, False),
        ({"notes.txt": "mine"}, False),
    ],
    ids=["empty", "torn", "torn later", "another's", "no journal", "notes"],
)
def test_only_a_run_of_ours_is_overwritten(tmp_path: Path, files: dict[str, str], is_ours: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert is_run(tmp_path) is is_ours
    if is_ours:
        check_output(tmp_path, overwrite=True)
        return
    for resume, overwrite in ((False, False), (False, True), (True, False)):
        with pytest.raises(UsageError) as error:
            check_output(tmp_path, resume=resume, overwrite=overwrite)
        assert error.value.code == "bad_output"
    assert snapshot(tmp_path) == {name: text.encode() for name, text in files.items()}


def test_overwriting_removes_what_a_sweep_wrote_and_nothing_else(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    journal(run, None)
    ours = ["run.json", "report.html", "report.md", "report.json", "report.csv", "config.pbtxt"]
    ours += [f"{RECORDS}/0000.npz", f"{RECORDS}/0017.npz"]
    theirs = ["notes.txt", "report.html.bak", "run.jsonl.old", "a/0001.npz"]
    theirs += [f"{RECORDS}/mine.npz", f"{RECORDS}/17.npz"]
    for name in (*ours, *theirs):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(name)
    Journal(run).close()
    assert {*snapshot(run)} == {JOURNAL, *theirs}
    # Not through a link, whoever laid it.
    elsewhere.mkdir()
    (elsewhere / "0001.npz").write_text("another run's")
    (run / RECORDS).rename(run / "moved")
    (run / RECORDS).symlink_to(elsewhere)
    Journal(run).close()
    assert {*snapshot(elsewhere)} == {"0001.npz"}
    # A directory that is no run yet may hold a user's file of such a name.
    (elsewhere / "config.pbtxt").write_text("mine")
    Journal(elsewhere).close()
    assert (elsewhere / "config.pbtxt").read_text() == "mine"


def test_going_on_keeps_the_requests_of_what_may_be_reused_and_the_report(tmp_path: Path) -> None:
    journal(tmp_path, None)
    (tmp_path / RECORDS).mkdir()
    for name in ("0000.npz", "0999.npz"):
        (tmp_path / RECORDS / name).write_text(name)
    (tmp_path / "report.html").write_text("as it was cut short")
    Journal(tmp_path, tuple(earlier_run(tmp_path).finished.values())).close()
    assert {*snapshot(tmp_path)} == {JOURNAL, f"{RECORDS}/0000.npz", "report.html"}


@pytest.mark.parametrize(
    "left", ['{"event": "tri', "\x00\x00\x00", '{"event": "trial", "number": 1'], ids=ascii
)
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path, left: str) -> None:
    journal(tmp_path, None)
    whole = earlier_run(tmp_path)
    with (tmp_path / JOURNAL).open("a") as file:
        file.write(left)
    assert earlier_run(tmp_path) == whole
    assert len(load_run(tmp_path).trials) == len(run_result().trials)


# Ctrl-C.


def test_one_line_tells_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "my run"

    def told(overwrite: bool = False, inode: int = 0, launch: str = "embedded") -> str:
        target = SweepTarget(launch, None if "://" in launch else tmp_path)
        return how_to_go_on(Request(SweepSpec(model="m"), target, DataOptions(), run, overwrite, inode))

    assert told() == "nothing was measured yet; the same command begins anew"
    journal(run, None)
    assert told() == f"tritonsmith sweep --resume -o '{run}' goes on from here"
    # The run that was to be overwritten is not this one.
    assert "begins anew" in told(overwrite=True, inode=(run / JOURNAL).stat().st_ino)
    assert "--overwrite begins anew" in told(launch="http://h:8000")
    write_run(replace(run_result(), complete=True), run)
    assert told() == f"the sweep is whole: tritonsmith report '{run}' writes its report"


QUICK = ("--set", f"{COUNT}=1,2", "-c", "1,2", "--duration", "60ms", "--warmup", "10ms")


class Swept:
    """Sweeps of this repository by the command, on a server that stands in for Triton."""

    def __init__(self, repository: Path, directory: Path) -> None:
        self.repository, self.directory = repository, directory
        self.binary = lay_out_binary(directory / "triton")
        self.run = directory / "run"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tritonsmith", "sweep", *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def interrupted(self, when: Callable[[], bool], rounds: int = 30) -> tuple[int, str]:
        """Ctrl-C as soon as that is so → the exit code and what was said."""
        launch = ("--launch", f"binary:{self.binary}", "-o", "run", "--rounds", str(rounds))
        with self.start(str(self.repository), *QUICK, *launch) as process:
            deadline_s = time.monotonic() + 60
            while not when() and process.poll() is None and time.monotonic() < deadline_s:
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        return process.returncode, stderr

    def resumed(self, *arguments: str) -> str:
        process = self.start("--resume", "-o", "run", *arguments)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert load_run(self.run).complete
        return stderr

    def trials(self) -> int:
        path = self.run / JOURNAL
        return path.read_text().count('"trial"') if path.exists() else 0


def test_ctrl_c_in_a_trial_keeps_all_and_resume_needs_no_other_flag(repository: Path, tmp_path: Path) -> None:
    swept = Swept(repository, tmp_path)
    code, stderr = swept.interrupted(lambda: swept.trials() >= 8)
    assert code == 130, stderr
    assert "tritonsmith sweep --resume -o run goes on from here" in stderr
    before = earlier_run(swept.run).finished
    assert len(before) >= 8
    (repository / "m" / "config.pbtxt").write_text(CONFIG)  # touched, and the same
    asked = request_from(None, None, None, {"rounds": 1}, DataOptions(), swept.run, resume=True)
    run = sweep_target(
        asked.spec, asked.target, asked.data, asked.directory, command="tritonsmith sweep", resume=True
    )
    assert (run.spec.rounds, run.spec.duration_s) == (1, 0.06)
    first = [t for t in run.trials if t.trial.round == 0]
    assert len(first) == 6 and all(before.get(t.key) == t for t in first)
    assert any("finished trials of the earlier run are reused" in note for note in run.notes)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda repository: (repository / "m/config.pbtxt").write_text(CONFIG.replace("8", "4")),
            "max_batch_size is 4, was 8",
        ),
        (lambda repository: (repository / "m/1/model.onnx").write_bytes(b"others"), "the model's files"),
    ],
    ids=["config.pbtxt", "a model file"],
)
def test_what_changed_is_said_and_measured_again(
    repository: Path, tmp_path: Path, change: Callable[[Path], object], told: str
) -> None:
    swept = Swept(repository, tmp_path)
    swept.interrupted(lambda: swept.trials() >= 8)
    before = earlier_run(swept.run).finished
    change(repository)
    stderr = swept.resumed("--rounds", "1")
    assert "changed since the earlier run" in stderr and told in stderr
    run = load_run(swept.run)
    assert before and not [t for t in run.trials if t.key in before]
    assert any("Nothing of the earlier run is reused" in note and told in note for note in run.notes)


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_ctrl_c_at_any_moment_keeps_what_was_recorded_and_exits_130(repository: Path, tmp_path: Path) -> None:
    """From the interpreter's start to the report; the seed is in the directories' names."""
    seed = random.SystemRandom().randrange(10**6)
    drawn = random.Random(seed)
    for number in range(12):
        directory = tmp_path / f"{seed}-{number}"
        directory.mkdir()
        swept = Swept(repository, directory)
        end_s = time.monotonic() + drawn.uniform(0.3, 5.0)
        code, stderr = swept.interrupted(lambda end_s=end_s: time.monotonic() >= end_s, drawn.choice([1, 30]))  # type: ignore[misc]
        if code == 0:
            assert load_run(swept.run).complete  # it was faster
            continue
        assert (code, stderr.count("interrupted; "), "Traceback" in stderr) == (130, 1, False), stderr
        kept = earlier_run(swept.run).finished
        if swept.run.exists():
            assert "tritonsmith " in stderr.splitlines()[-2] or "begins anew" in stderr, stderr
            swept.resumed("--rounds", "1")
            now = {t.key: t for t in load_run(swept.run).trials}
            assert all(now.get(t.key, t) == t for t in kept.values() if swept.trials() >= 6)
