"""How long it takes to find that nothing changed, and what runs when something did: a table.

    python -m tests.bench.rebuild [--models 1000] [--first 200] [--rounds 3] [--model-navigator-python PYTHON]

The cache is filled by one real export and, under the other models' keys, by copies of what it made, so that the
bench takes a minute and not an hour; --first N builds N models for real besides. The commands that are timed are
whole processes. Exits with 1 when something was written, run or left that should not have been.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import onnx_models
from tests.bench.ground import Ground, actions_in, last_line
from tritonsmith.builder.actions.action import Subject
from tritonsmith.builder.actions.export.action import export_action, source_identity
from tritonsmith.builder.base.files.package_files import portable_name
from tritonsmith.builder.base.text.console import emit_text, note
from tritonsmith.builder.cache.actions import run
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.spec.spec import load_spec

Row = tuple[str, str, str]
"""(what, what is wanted, what was measured)"""


class Wrong(Exception):
    """Something was done that should not have been, or the other way round."""


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.rebuild",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument(
        "--first", type=int, default=0, help="so many models are built for real; 200 take minutes"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each timed command; the median is told")
    parser.add_argument(
        "--model-navigator-python", type=Path, help="a Python that has triton-model-navigator"
    )
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tritonsmith-rebuild-") as temporary:
        scratch = Path(temporary)
        try:
            rows += many_models(scratch / "many", given.models, given.rounds)
            if given.first:
                rows += first_build(scratch / "first", given.first)
            if given.model_navigator_python:
                rows += beside_model_navigator(scratch / "beside", given.model_navigator_python, given.rounds)
        except Wrong as error:
            emit_text(f"WRONG: {error}")
            return 1
        finally:
            emit_text("| what | wanted | measured |\n|---|---|---|")
            for row in rows:
                emit_text("| " + " | ".join(row) + " |")
            emit_text(f"\n{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end")
    return 0


def many_models(root: Path, count: int, rounds: int) -> list[Row]:
    """Nothing changed; one source changed; the repository is gone."""
    ground = Ground(root)
    write_project(root, count)
    note(f"filling the cache for {count} models")
    fill_cache(ground)
    _, done = _timed(ground, "build", "--format", "json")
    _expect(set(actions_in(done).values()), {"from cache"}, "the first build from a full cache")
    _expect(_logs(ground), 1 + count, "actions ever run: one export, and a check of each model's rows")
    # The first reading makes the hints by which the next ones need not read the files again.
    _timed(ground, "plan")
    before = _snapshot(ground)
    rows = []
    for command in ("plan", "build"):
        note(f"{command}, nothing changed")
        times = [_timed(ground, command)[0] for _ in range(rounds)]
        rows.append(
            (
                f"`{command}` of {count:,} models, nothing changed",
                "≤ 1 s, nothing written",
                f"{_median(times)}, nothing written",
            )
        )
    _expect(_snapshot(ground), before, "files after plan and build with nothing changed")
    note("one source changed")
    _save_source(root, count // 2, factor=-7.0)
    changed, done = _timed(ground, "build", "--format", "json")
    acted = {model: action for model, action in actions_in(done).items() if action != "up-to-date"}
    _expect(acted, {_name(count // 2): "exported"}, "what a build does after one source changed")
    after = _snapshot(ground)
    differing = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    touched = {path.split("/")[1] for path in differing if path.startswith("model_repository/")}
    _expect(touched, {_name(count // 2)}, "directories of the repository that changed")
    ran = _logs(ground) - 1 - count
    # A log's name is the model's and the action's, so that the check of its rows has one already.
    _expect(ran, 1, "logs that are new after one source changed")
    rows.append(("one source changed: `build`", "its export and check only", f"one export run, {changed}"))
    note("the repository is gone")
    shutil.rmtree(ground.repository)
    (root / "models.lock.json").unlink()
    logs = _logs(ground)
    again, done = _timed(ground, "build", "--format", "json")
    _expect(set(actions_in(done).values()), {"from cache"}, "a build whose repository is gone")
    _expect(_logs(ground) - logs, 0, "actions run though all is in the cache")
    rows.append(
        (
            f"no `model_repository/`, no lock, a full cache: `build` of {count:,} models",
            "nothing exported, converted or compiled; seconds",
            f"0 actions run; {again}",
        )
    )
    return rows


def first_build(root: Path, count: int) -> list[Row]:
    """Everything is made."""
    ground = Ground(root)
    write_project(root, count)
    note(f"the first build of {count} models")
    spent, done = _timed(ground, "build", "--format", "json")
    _expect(set(actions_in(done).values()), {"exported"}, "the first build")
    return [
        (
            f"the first `build` of {count:,} models",
            "",
            f"{spent}: {spent.cpu_s / count:.2f} s CPU a model, its export and check of rows",
        )
    ]


_NAVIGATOR = """
import sys, time, json
from pathlib import Path
import numpy as np
import model_navigator as nav

if __name__ == "__main__":
    model, workspace, repository = map(Path, sys.argv[1:])
    package = nav.onnx.optimize(
        model,
        dataloader=[{"x": np.ones((1, 3), np.float32)} for _ in range(4)],
        target_device=nav.DeviceKind.CPU,
        target_formats=("onnx",),
        runners=("OnnxCPU",),
        # One batch size, and any stability is enough: the least that it can be told to measure.
        optimization_profile=nav.OptimizationProfile(batch_sizes=[1], stability_percentage=1000.0),
        workspace=workspace,
    )
    if not (repository / "m").exists():
        nav.triton.model_repository.add_model_from_package(repository, "m", package)
"""


def beside_model_navigator(root: Path, python: Path, rounds: int) -> list[Row]:
    """The same small ONNX model by both, twice each, in turn: the second time nothing has changed."""
    probe = subprocess.run(
        [str(python), "-c", "import model_navigator; print(model_navigator.__version__)"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        return [("beside Model Navigator", "", f"not importable by {python}: {last_line(probe.stderr)}")]
    ground = Ground(root)
    write_project(root, 1)
    (root / "navigator.py").write_text(_NAVIGATOR)
    command = [str(python), "navigator.py", str(root / "sources" / f"{_name(0)}.onnx"), "workspace", "theirs"]
    ours: list[Spent] = []
    theirs: list[Spent] = []
    for number in range(rounds + 1):
        note(f"beside Model Navigator: round {number} of {rounds}")
        ours.append(_timed(ground, "build")[0])
        spent, done = _spent(lambda: subprocess.run(command, cwd=root, capture_output=True, text=True))
        theirs.append(spent)
        if not (root / "theirs" / "m" / "config.pbtxt").is_file():
            raise Wrong(f"Model Navigator laid nothing out: {last_line(done.stdout)}")
    version = probe.stdout.strip().splitlines()[-1]
    return [
        (f"no-change rebuild of one small model, Model Navigator {version} beside ours", "", _beside(ours[1:], theirs[1:])),
        ("its first build", "", _beside(ours[:1], theirs[:1])),
    ]  # fmt: skip


def _beside(ours: Sequence[Spent], theirs: Sequence[Spent]) -> str:
    clock = [their.clock_s / our.clock_s for our, their in zip(ours, theirs, strict=True)]
    cpu = [their.cpu_s / our.cpu_s for our, their in zip(ours, theirs, strict=True)]
    return (
        f"{statistics.median(clock):.1f}× by the clock ({min(clock):.1f} to {max(clock):.1f}), "
        f"{statistics.median(cpu):.1f}× of CPU; theirs {_median(theirs)}, ours {_median(ours)}"
    )


def write_project(root: Path, count: int) -> None:
    """models.yaml and `count` ONNX files; each model is another factor."""
    root.mkdir(parents=True)
    lines = ["models:"]
    for number in range(count):
        _save_source(root, number, float(number + 1))
        lines += [f"  {_name(number)}:", f"    source: {{onnx: sources/{_name(number)}.onnx}}"]
        lines += ["    max_batch_size: 4"]
    (root / "models.yaml").write_text("\n".join(lines) + "\n")


def fill_cache(ground: Ground) -> None:
    """The first model's artifact by a real export; the others' under the keys that their exports would have."""
    cache = Cache(ground.cache_directory)
    repository = load_spec(ground.root / "models.yaml")
    made = run(export_action(Subject(repository.models[0], repository)), repository.root, cache)
    for spec in repository.models[1:]:
        source = ground.root / spec.source.reference
        identity = source_identity(spec)
        dependencies = {portable_name(source, repository.root): cache.stats.digest(source)}
        key = identity.key(dependencies)
        with cache.workspace() as directory:
            shutil.copyfile(made.directory / str(made.record["samples"]), directory / "samples.npz")
            shutil.copyfile(source, directory / "model.onnx")
            cache.put(key, directory, {**made.record, "dependencies": dependencies}, f"export {spec.name}")
        cache.remember(str(identity.request), dependencies, key)
    cache.stats.save()


def _save_source(root: Path, number: int, factor: float) -> None:
    path = root / "sources" / f"{_name(number)}.onnx"
    onnx_models.save(onnx_models.affine(("batch", 3), scale=factor), path)


def _name(number: int) -> str:
    return f"model_{number:04}"


@dataclass(frozen=True)
class Spent:
    """What a command took: seconds by the clock, and of the CPU, which other work on the machine stretches less."""

    clock_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.clock_s:.2f} s ({self.cpu_s:.2f} s CPU)"


def _timed(ground: Ground, *arguments: str) -> tuple[Spent, subprocess.CompletedProcess[str]]:
    return _spent(lambda: ground.run(*arguments))


def _spent(
    run: Callable[[], subprocess.CompletedProcess[str]],
) -> tuple[Spent, subprocess.CompletedProcess[str]]:
    """Runs a command with all that it starts."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = run()
    clock_s = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Wrong(f"{done.args} ended with {done.returncode}: {last_line(done.stderr)}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(clock_s, cpu_s), done


def _median(spent: Sequence[Spent]) -> Spent:
    return Spent(statistics.median(s.clock_s for s in spent), statistics.median(s.cpu_s for s in spent))


def _logs(ground: Ground) -> int:
    """Actions that ever ran: each leaves its log, in place of its own from before."""
    return len(list((ground.cache_directory / "logs").glob("*.log")))


def _snapshot(ground: Ground) -> dict[str, tuple[int, int, int]]:
    """Every file of the project and of the cache but its hints of what files' stats mean: inode, size, mtime."""
    found = {}
    for root in (ground.root, ground.cache_directory):
        for path in root.rglob("*"):
            if path.name not in ("stat.json", "stat.lock"):
                stat = path.stat()
                found[path.relative_to(root).as_posix()] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def _expect(seen: object, wanted: object, what: str) -> None:
    if seen != wanted:
        raise Wrong(f"{what}: {json.dumps(seen, default=str)[:300]} instead of {str(wanted)[:300]}")


if __name__ == "__main__":
    sys.exit(main())
