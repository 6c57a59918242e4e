"""A directory → small projects as builds, publishes and sweeps leave them, and what their sources say must lie there."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol

from tests import onnx_models
from tests.bench.mutations import Aims, Random, mutate_json
from tests.perf.batch.jobs import ask, job_on, problems_of
from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.builder.publish import open_destination
from tritonsmith.builder.publish.rollback import known_state
from tritonsmith.builder.publish.undo import expected_of

_DEPTH = 16
# More than `_DEPTH` chains of the longest `..` could be joined by no command.
MODELS = ("m", "other")


class Run(Protocol):
    """A command line that must succeed."""

    def __call__(self, *command: str) -> None: ...


def deep(area: Path) -> Path:
    """A directory so far below that no path of a mutation leads out of the area."""
    path = area.joinpath(*"abcdefghijklmnopqrstuvwxyz"[:_DEPTH])
    path.mkdir(parents=True, exist_ok=True)
    return path


def plant_victim(area: Path) -> Path:
    """Canaries that no command has any reason to touch."""
    victim = area / "victim"
    (victim / "directory").mkdir(parents=True)
    (victim / "file").write_text("do not touch\n")
    (victim / "secret").write_text("nor read\n")
    (victim / "secret").chmod(0o600)
    (victim / "script").write_text("#!/bin/sh\n")
    (victim / "script").chmod(0o755)
    (victim / "directory" / "config.pbtxt").write_text('name: "victim"\n')
    (victim / "link").symlink_to("file")
    return victim


def places(project: Path) -> Mapping[str, str]:
    """What the words in braces of a command mean."""
    return {
        "store": str(project / "store"),
        "published": str(project / "published"),
        "url": f"file://{project}/published-store",
        "server": answering().url if project.name == "batch" else "",
    }


_SPEC = """\
models:
  m:
    source: {onnx: m.onnx}
    max_batch_size: 4
    variants:
      fp32: {}
      fp16: {precision: fp16}
    serve: [fp16, fp32]
  other:
    source: {directory: other}
    backend: onnxruntime
    max_batch_size: 4
    input: [{name: x, data_type: TYPE_FP32, dims: [3]}]
    output: [{name: y, data_type: TYPE_FP32, dims: [3], label_filename: labels.txt}]
"""


def _write(project: Path, scale: float) -> None:
    """m is the same whatever the scale, for an export takes a process."""
    project.mkdir(parents=True, exist_ok=True)
    (project / "models.yaml").write_text(_SPEC)
    onnx_models.save(onnx_models.affine(("batch", 3)), project / "m.onnx")
    onnx_models.save(onnx_models.affine(("batch", 3), scale=scale), project / "other" / "1" / "model.onnx")
    (project / "other" / "labels.txt").write_text(f"{scale}\n" * 3)


def built(project: Path, run: Run) -> None:
    """Published at each of two states, then built once more; with evidence, two caches and a lock."""
    at = places(project)
    (project / "evidence").mkdir(parents=True)
    evidence = {"format": "tritonsmith.evidence/1", "ratio": {"value": 1.5}}
    (project / "evidence" / "m.json").write_text(json.dumps(evidence))
    for number, scale in enumerate((2.0, 3.0, 4.0)):
        _write(project, scale)
        run("build", "--remote-cache", at["store"])
        if number < 2:
            run("publish", at["published"])
            run("publish", at["url"])
    for name in ("published", "published-store"):
        failed = project / name / "other" / "1" / ".tritonsmith" / "failed.json"
        failed.write_text(json.dumps({"at": "2026-11-21T03:00:00+00:00", "why": "wrong answer"}))
    shutil.copytree(project / "model_repository", project / "wanted")


def bare(project: Path, run: Run) -> None:
    """Sources and caches of `built`, without repository and lock: the next build takes all from the local cache."""
    _write(project, 4.0)
    for name in ("cache", "store", "wanted"):
        shutil.copytree(project.with_name("built") / name, project / name)
    for name in ("tmp/1-x.a", "running/1-x.lock", "owed/0000000000000000/artifact.x"):
        (project / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "cache" / name).write_text("")


def fresh(project: Path, run: Run) -> None:
    """As bare, and the local cache is gone too: the next build takes all from the shared one."""
    bare(project, run)
    shutil.rmtree(project / "cache")


def runs(project: Path, run: Run) -> None:
    """Two finished sweeps, and the records of a load test."""
    _swept(project)
    shutil.copytree(project / "run", project / "before")
    (project / "run" / "run.jsonl").unlink()


def killed(project: Path, run: Run) -> None:
    """A sweep of which only the journal is there, and a finished one."""
    _swept(project)
    shutil.copytree(project / "run", project / "before")
    (project / "run" / "run.json").unlink()


def engine(project: Path, run: Run) -> None:
    """A repository with a TensorRT engine and its sidecar."""
    directory = project / "model_repository" / "m"
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(
        'name: "m"\nbackend: "tensorrt"\nmax_batch_size: 8\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]\noutput [{ name: "y" data_type: TYPE_FP32 dims: [4] }]\n'
    )
    (directory / "1" / "model.plan").write_bytes(b"an engine")
    tensor = {"data_type": "TYPE_FP32", "shape": [-1, 4], "is_shape_tensor": False, "non_linear": False}
    sidecar = {
        "format": 1, "engine": "tensorrt", "tensorrt": "10.16.0.72", "compute_capability": "9.0", "gpu": "a GPU",
        "version_compatible": False, "hardware_compatibility": "none", "stripped": False, "plugins": [], "devices": 1,
        "tensors": [{"name": "x", "mode": "input", **tensor}, {"name": "y", "mode": "output", **tensor}],
        "profiles": [{"x": {"min": [1, 4], "opt": [8, 4], "max": [8, 4]}}],
        "engine_bytes": 9, "device_memory_bytes": [4096], "options": {},
    }  # fmt: skip
    (directory / "1" / "model.plan.json").write_text(json.dumps(sidecar))


def _swept(project: Path) -> None:
    from tests.perf.report.test_compare import records
    from tests.perf.report.test_report import run_result
    from tritonsmith.perf.records.record import save_records
    from tritonsmith.perf.records.typed import json_of
    from tritonsmith.perf.sweep.run_record import Journal, write_run

    _write(project, 2.0)
    result = run_result()
    result = replace(result, spec=result.spec.model_copy(update={"model": "m"}))
    (project / "run").mkdir()
    journal = Journal(project / "run")
    journal.write(
        "start",
        spec=result.spec.model_dump(mode="json"),
        environment=dict(result.environment),
        arms=[json_of(arm) for arm in result.arms],
        notes=list(result.notes),
        content={"the model's files": "0" * 64},
    )
    for trial in result.trials:
        journal.write("trial", **{**json_of(trial), "key": f"{trial.trial.number:064d}"})
    journal.write("note", text="a note")
    journal.write("end", stop_reason=result.stop_reason, complete=True, wall_s=20.0, interrupted=False)
    journal.close()
    write_run(result, project / "run")
    save_records(records(200, 2.0, 1), project / "load.npz")
    save_records(records(220, 2.0, 2), project / "before.npz")


BATCH_ROWS = 30
_OPEN = ExitStack()
atexit.register(_OPEN.close)


@cache
def answering() -> FakeServer:
    """A server whose answer to x is 2·x, as long as the process lives."""
    return _OPEN.enter_context(fake_server())


def batch(project: Path, run: Run) -> None:
    """A batch job that was killed after two thirds of its rows."""
    from tritonsmith.perf.batch.job import prepared

    project.mkdir(parents=True)
    with prepared(job_on(answering(), project, map(ask, range(BATCH_ROWS)))) as ready:
        ready.send()
    journal = project / "out.jsonl.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[: 1 + BATCH_ROWS * 2 // 3]))


def wrongly_answered(project: Path) -> list[str]:
    """What a batch job that succeeded wrote and is not its rows' answers."""
    try:
        return [f"wrong: {told}" for told in problems_of(project / "out.jsonl", BATCH_ROWS)]
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        return [f"wrong: a line is no answer: {error!r}"]


def forged_answers(rng: Random, content: bytes, aims: Aims) -> bytes:
    """A journal's line changed, doubled or of another row, with the checksum that it then has to have."""
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    number, key, state, text = lines[at].split(b" ", 4)[1:]
    how = rng.random()
    if how < 0.6:
        text = mutate_json(rng, text, aims).replace(b"\n", b"")
    elif how < 0.75:
        number = rng.choice((b"0", b"-1", b"1", b"999", b"9" * 30, b"x"))
    elif how < 0.85:
        key = rng.choice((b"0" * 16, b"f" * 16, b"", lines[-1].split(b" ")[2]))
    else:
        state = rng.choice((b"+", b"-", b"=", b"!", b"?"))
    body = b" ".join((number, key, state, text))
    forged = b"%08x %s" % (zlib.crc32(body), body)
    lines[at : at + rng.randrange(2)] = [forged]
    return b"\n".join(lines) + b"\n"


PROJECTS: Mapping[str, Callable[[Path, Run], None]] = {
    "built": built,
    "bare": bare,
    "fresh": fresh,
    "runs": runs,
    "killed": killed,
    "engine": engine,
    "batch": batch,
}


def wrongly_built(project: Path, models: Sequence[str]) -> list[str]:
    """Models whose directory is not what an undamaged build lays out, byte for byte."""
    return [
        f"wrong: {model} was built, and is not what its sources say: {told}"
        for model in models or MODELS
        if (told := _difference(project / "wanted" / model, project / "model_repository" / model))
    ]


def wrongly_published(project: Path, url: str, models: Sequence[str]) -> list[str]:
    """Models whose newest served version has other files than the repository, after a publish that succeeded."""
    told = []
    for model in models or MODELS:
        served = open_destination(url).state(model).served
        place = project / ("published-store" if "://" in url else "published") / model
        for file in (project / "wanted" / model / "1").iterdir():
            copy = place / str(served[-1]) / file.name if served else place
            if not copy.is_file() or copy.read_bytes() != file.read_bytes():
                told.append(
                    f"wrong: {model} was published, and {file.name} of version {served[-1:]} is another"
                )
    return told


def _difference(wanted: Path, there: Path) -> str:
    left, right = _contents(wanted), _contents(there)
    return next(
        (name for name in sorted(left.keys() | right.keys()) if left.get(name) != right.get(name)), ""
    )


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(Path(root) / name, directory): (Path(root) / name).read_bytes()
        for root, _, names in os.walk(directory)
        for name in names
    }


def expected_answers(project: Path) -> None:
    """Reads what a publish with --reload would ask the servers."""
    destination = open_destination(str(project / "published"))
    for number, record in known_state(destination, "m").provenance.items():
        expected_of(destination, "m", number, record)


def resume(project: Path) -> None:
    """Reads what `sweep --resume` would reuse."""
    from tritonsmith.perf.sweep.plan import SweepSpec
    from tritonsmith.perf.sweep.plan.fingerprint import Content
    from tritonsmith.perf.sweep.run.resume import changes, earlier_run, sentence

    earlier = earlier_run(project / "run")
    sentence(earlier, changes(earlier, Content({}), SweepSpec(model="m"), {}), 0)


def forged_stamps(rng: Random, content: bytes, aims: Aims) -> bytes:
    """stat.json of files as they are now, with digests that are not theirs."""
    known = json.loads(content)
    for path in list(known):
        s = Path(path).stat()
        stamp = [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino]
        known[path] = [*stamp, rng.choice((known[path][4], "0" * 64, aims.name(rng), 7, None, [], "x"))]
    return json.dumps(known).encode()
