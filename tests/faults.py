"""Work that is killed again and again, and what must be true of a published repository after each kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritonsmith.builder.publish import Destination
from tritonsmith.builder.publish.destinations.versions import PROVENANCE

_ROOT = Path(__file__).parent.parent

# One process does the work, so that all is imported, and again, to tell how long it takes on this machine; the others
# are forks of it: a kill hits work, not imports.
_NURSERY = """
import importlib, json, os, sys, time
job = json.loads(sys.argv[1])
module, _, name = job["work"].partition(":")
work = getattr(importlib.import_module(module), name)
work(*job["arguments"])
started_s = time.monotonic()
work(*job["arguments"])
print(time.monotonic() - started_s, flush=True)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        while True:
            work(*job["arguments"])
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


@dataclass(frozen=True, slots=True)
class Kills:
    """How often publishes were killed, how many different states they left, how many had nothing there before."""

    times: int
    states_seen: int
    first_publishes: int


def kill_at_random(
    work: str,
    arguments: Sequence[str],
    check: Callable[[], None],
    *,
    times: int,
    seed: int,
) -> None:
    """Runs `work` ("module:callable", over and over in a process of its own), kill -9s it at a random moment of it,
    calls `check`, and begins again where the killed one stopped."""
    rng = random.Random(seed)
    with _nursery(work, arguments) as (nursery, takes_s):
        assert nursery.stdin is not None and nursery.stdout is not None
        for _ in range(times):
            nursery.stdin.write("go\n")
            nursery.stdin.flush()
            pid = int(nursery.stdout.readline())
            time.sleep(rng.uniform(0.0, takes_s))
            os.kill(pid, signal.SIGKILL)
            assert nursery.stdout.readline() == "dead\n"
            check()


@contextmanager
def _nursery(work: str, arguments: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """The process that forks, and how long the work takes."""
    job = json.dumps({"work": work, "arguments": list(arguments)})
    process = subprocess.Popen(
        [sys.executable, "-c", _NURSERY, job],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        assert process.stdout is not None
        yield process, float(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def publish_both(first: str, second: str, url: str) -> None:
    """Work for kill_at_random: two built projects of the same models, published one over the other."""
    from tests.builder.publish.projects import Project

    for root in (first, second):
        done = Project(Path(root), url).publish(keep=2)
        assert not done.errors, done.errors


def kill_publishes(directory: Path, *, times: int, seed: int) -> Kills:
    """Two builds of the same models are published over one another, and killed at `times` random moments.

    After each kill a server could load what lies there, and at the end the next publish of each succeeds and
    leaves nothing behind. Every fourth time the destination is emptied, so that first publishes are killed too.
    """
    from tests.builder.publish.projects import two_builds

    published = directory / "published"
    first, second = two_builds(directory, str(published))
    seen: list[dict[str, tuple[int, ...]]] = []

    def check() -> None:
        seen.append(check_directory(published))
        if len(seen) % 4 == 0:
            shutil.rmtree(published, ignore_errors=True)

    arguments = [str(first.root), str(second.root), str(published)]
    kill_at_random("tests.faults:publish_both", arguments, check, times=times, seed=seed)
    for project in (second, first):
        assert not project.publish().errors
    assert check_directory(published) == {m: first.destination.state(m).served for m in ("m", "other")}
    assert first.labels("m") == "2.0"
    assert not [p for p in directory.iterdir() if "staging" in p.name], "what a killed one left is swept up"
    return Kills(len(seen), len({tuple(sorted(s.items())) for s in seen}), len(seen) // 4)


def check_destination(destination: Destination) -> dict[str, tuple[int, ...]]:
    """Asserts that a server could load every model there, as it was published: the config's versions are whole,
    and so are the files at the model's root. Returns what each model serves.

    Everything that is served is compared with its provenance by content.
    """
    served: dict[str, tuple[int, ...]] = {}
    for model in destination.models():
        state = destination.state(model)
        assert not state.is_foreign and state.config_text is not None, (
            f"{model} is not as any publish leaves it"
        )
        served[model] = state.served
        for number in state.served:
            record = state.provenance[number]
            for name, told in record["files"].items():
                assert destination.digest(model, f"{number}/{name}") == told["sha256"], (
                    f"{model}/{number}/{name}"
                )
        for number in state.served[-1:]:
            # A store has no way to change the root's files together with config.pbtxt: they may be the next one's.
            allowed = [number] if "://" not in destination.url else list(state.complete)
            for name in state.root_of(number):
                there = destination.digest(model, name)
                assert there in [state.root_of(n).get(name) for n in allowed], (
                    f"{model}/{name} is of no version"
                )
    return served


def check_directory(path: Path) -> dict[str, tuple[int, ...]]:
    """check_destination of a directory, and that nothing lies in it that Triton would stumble over."""
    from tritonsmith.builder.publish.destinations.disk import DiskDestination

    if not path.is_dir():
        return {}
    served = check_destination(DiskDestination(path))
    assert all(served.values()), f"a model is there that serves nothing: {served}"
    for entry in path.iterdir():
        assert entry.is_dir() and not entry.name.startswith("."), f"Triton would poll {entry.name}"
        for version in entry.iterdir():
            whole = not version.name.isdigit() or (version / PROVENANCE).is_file()
            assert whole and (not version.is_dir() or version.name.isdigit()), f"{version} is half a version"
    return served
