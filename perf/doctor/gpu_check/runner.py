"""(steps, a device, a budget) → one Line a step: each in a process group of its own that ends with its time limit."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tritonsmith.builder.base.machine.own import python_path
from tritonsmith.perf.doctor.gpu_check.step import Device, Line, Outcome, Step

_TAIL_BYTES = 2000


def run_steps(steps: Sequence[Step], device: Device, work: Path, budget_s: float) -> Iterator[Line]:
    """Each step's Line as soon as it is known; a step for which no second is left fails, and says so."""
    deadline = time.monotonic() + budget_s
    for number, step in enumerate(steps):
        begun = time.monotonic()
        left_s = deadline - begun
        if left_s < 1:
            yield Line(step.name, device, Outcome("failed", "no time was left for it"), 0.0)
            continue
        place = work / f"{number:02d}"
        place.mkdir()
        outcome = _run(step, device, place, min(step.limit_s, left_s))
        yield Line(step.name, device, outcome, time.monotonic() - begun)


def _run(step: Step, device: Device, place: Path, limit_s: float) -> Outcome:
    answer, log_path = place / "answer.json", place / "log.txt"
    command = [sys.executable, "-m", "tritonsmith.perf.doctor.gpu_check.worker"]
    command += [step.call, step.argument, device, str(place), str(answer)]
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            command,
            env=environment(os.environ, place, step.hide),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            return Outcome("failed", f"not done within {limit_s:.0f} s", {"log": tail_of(log_path)})
        finally:
            # Its server's guard is in a session of its own and ends by itself when the worker's pipe closes.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    try:
        found = json.loads(answer.read_text())
    except OSError:
        how = f"its process ended with exit code {child.returncode} and no answer"
        return Outcome("failed", how, {"log": tail_of(log_path)})
    outcome = Outcome(found["status"], found["why"], found["facts"])
    if outcome.status != "failed":
        return outcome
    return Outcome("failed", outcome.why, {**outcome.facts, "log": tail_of(log_path)})


def tail_of(path: Path) -> str:
    """The end of a log."""
    return path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")


def environment(base: Mapping[str, str], place: Path, hide: str = "") -> dict[str, str]:
    """A step's variables: our package first, no network for pip, CUDA's libraries from the wheels beside torch.

    hide: a library that the loader must not find: an empty file of its name comes first, which the loader refuses
    (`file too short`) wherever else the library lies.
    """
    env = {**base, "PIP_NO_INDEX": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    env["PYTHONPATH"] = python_path(base)
    libraries = cuda_libraries(Path(p) for p in dict.fromkeys([*site.getsitepackages(), *sys.path]))
    if hide:
        hidden = place / "hidden"
        hidden.mkdir()
        (hidden / hide).write_bytes(b"")
        libraries.insert(0, hidden)
    given = [base["LD_LIBRARY_PATH"]] if base.get("LD_LIBRARY_PATH") else []
    paths = [*map(str, libraries[:1] if hide else []), *given, *map(str, libraries[1 if hide else 0 :])]
    if paths:
        env["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
    return env


def cuda_libraries(places: Iterator[Path]) -> list[Path]:
    """The lib directories of NVIDIA's wheels (nvidia/cudnn/lib, nvidia/cu13/lib …) in these site-packages."""
    return sorted({lib for place in places for lib in place.glob("nvidia/*/lib") if lib.is_dir()})
