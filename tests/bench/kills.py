"""kill -9 of builds and publishes at random moments, two builds at once: Rows, most with a live server on the repository."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.ground import MODELS, Ground, Row, half_written, last_line, references
from tests.bench.live import watched
from tests.faults import check_directory

Tell = Callable[[str, int, int], None]
"""(what is done, how many are done, of how many)"""

# Those that a live server loads again and again: each load is a process of its backend.
_LIVE = MODELS[:2]


def kill_builds(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """A build of two models from one state to the other is killed; with a full cache, and with an empty one."""
    row = Row("`kill -9` at a random moment of `build`")
    rng = random.Random(seed)
    states = references(scratch, _LIVE)
    ground = Ground(scratch / "killed", _LIVE)
    ground.write(0)
    _must_succeed(ground.run("build"))
    ground.write(1)
    _must_succeed(ground.run("build"))
    hit = {"full": [0, 0, 0], "empty": [0, 0, 0]}
    longest_s = {"full": 2.0, "empty": 6.0}
    now = 1
    with watched(ground.repository, _LIVE, scratch / "build.log") as seen:
        while row.times < times:
            tell("kills of build", row.times, times)
            # Two with a full cache, then two with an empty one: each from either state.
            kind = "empty" if row.times % 4 in (2, 3) else "full"
            ground.forget(cache=kind == "empty")
            now = 1 - now
            ground.write(now)
            started = time.monotonic()
            # Every third kill is aimed: it comes when the first of the models has just been exchanged, or a little later.
            first = ground.repository / _LIVE[0] if row.times % 3 == 2 else None
            moment_s = rng.uniform(0.0, longest_s[kind] if first is None else 0.1)
            if not _killed(ground.start("build"), moment_s, after=first):
                longest_s[kind] = 0.5 * longest_s[kind] + 0.5 * (time.monotonic() - started)
                _must_succeed(ground.run("build"))
                row.problems += seen.wait_for(_LIVE, now)
                continue
            trees = ground.trees()
            changed = sum(files == states[now][model] for model, files in trees.items())
            hit[kind][0 if changed == 0 else 2 if changed == len(_LIVE) else 1] += 1
            problems = [] if set(trees) == set(_LIVE) else [f"models are gone after a kill: {sorted(trees)}"]
            problems += half_written(trees, states)
            started = time.monotonic()
            problems += ground.problems_of_next_build(states[now])
            longest_s[kind] = 0.7 * longest_s[kind] + 0.3 * (time.monotonic() - started)
            # The next change waits for the server: see docs/reliability.md of a model that changes while it is loaded.
            problems += seen.wait_for(_LIVE, now)
            row.settle(problems)
    row.problems += seen.problems
    row.fault += (
        f" of {len(_LIVE)} models, half of them with an empty cache (before the first model was exchanged "
        f"{hit['full'][0] + hit['empty'][0]}, between two {hit['full'][1] + hit['empty'][1]}, "
        f"after the last {hit['full'][2] + hit['empty'][2]})"
    )
    row.seen = seen.text
    return [row]


def kill_first_builds(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """There is no repository yet, no lock, and every other time no cache; the sources change before the next run."""
    row = Row("`kill -9` at a random moment of the very first `build`; then the sources change")
    rng = random.Random(seed)
    states = references(scratch)
    ground = Ground(scratch / "killed")
    longest_s, partly = 5.0, 0
    while row.times < times:
        tell("kills of first builds", row.times, times)
        ground.forget(cache=row.times % 2 == 1, repository=True)
        ground.write(0)
        ground.write(state := row.times % 2)
        started = time.monotonic()
        first = ground.repository / MODELS[0] if row.times % 3 else None
        moment_s = rng.uniform(0.0, longest_s if first is None else 0.03)
        if not _killed(ground.start("build"), moment_s, after=first):
            longest_s = 0.5 * longest_s + 0.5 * (time.monotonic() - started)
            continue
        trees = ground.trees()
        partly += 0 < len(trees) < len(MODELS)
        problems = half_written(trees, states)
        if rng.random() < 0.5:
            ground.write(state := 1 - state)
        row.settle([*problems, *ground.problems_of_next_build(states[state])])
    row.seen = (
        f"no server; each model whole or not there, by content ({partly} times some were there, some not)"
    )
    return [row]


def kill_publishes(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """A publish of two models over those of the other state is killed, on disk."""
    row = Row("`kill -9` at a random moment of `publish` to a directory")
    rng = random.Random(seed)
    published = scratch / "published"
    projects = two_projects(scratch, _LIVE)
    for project in projects:
        _must_succeed(project.run("publish", str(published)))
    longest_s, before_kill, changed = 2.0, check_directory(published), 0
    now = 1
    with watched(published, _LIVE, scratch / "publish.log") as seen:
        while row.times < times:
            tell("kills of publish", row.times, times)
            now = 1 - now
            started = time.monotonic()
            first = published / _LIVE[0] if row.times % 3 == 2 else None
            moment_s = rng.uniform(0.0, longest_s if first is None else 0.1)
            if not _killed(projects[now].start("publish", str(published)), moment_s, after=first):
                longest_s = 0.5 * longest_s + 0.5 * (time.monotonic() - started)
                continue
            problems = _unsound(published)
            after = {} if problems else check_directory(published)
            changed += any(before_kill.get(model) != versions for model, versions in after.items())
            started = time.monotonic()
            problems += problems_of_next_publish(projects[now], str(published))
            longest_s = 0.7 * longest_s + 0.3 * (time.monotonic() - started)
            problems += _unsound(published)
            before_kill = check_directory(published) if not problems else {}
            row.settle(problems)
        row.problems += seen.wait_for(_LIVE, now)
    row.problems += seen.problems
    row.fault += f", {len(_LIVE)} models ({changed} times at least one new version was visible already)"
    row.seen = seen.text
    return [row]


def two_builds(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """Two processes build one directory with one cache, begun at once; the cache is empty every other time."""
    row = Row(f"two `build` at once in one directory, with one cache, {len(_LIVE)} models")
    states = references(scratch, _LIVE)
    ground = Ground(scratch / "shared", _LIVE)
    ground.write(1)
    _must_succeed(ground.run("build"))
    with watched(ground.repository, _LIVE, scratch / "two.log") as seen:
        for number in range(times):
            tell("two builds at once", number, times)
            ground.forget(cache=number % 4 in (2, 3))
            ground.write(state := number % 2)
            pair = [ground.start("build"), ground.start("build")]
            problems = [p for process in pair for p in _failure(process)]
            problems += ground.problems_of_next_build(states[state])
            row.settle([*problems, *seen.wait_for(_LIVE, state)])
    row.problems += seen.problems
    row.seen = seen.text
    return [row]


def problems_of_next_publish(project: Ground, destination: str) -> list[str]:
    """Runs the next publish, and once more what is to do then: nothing."""
    done = project.run("publish", destination)
    if done.returncode:
        return [f"the next publish ended with {done.returncode}: {last_line(done.stderr)}"]
    again = project.run("publish", destination, "--dry-run")
    if again.returncode or "nothing to publish" not in again.stdout:
        return [f"after the next publish there is still something to do: {last_line(again.stdout)}"]
    return []


def two_projects(scratch: Path, models: tuple[str, ...]) -> tuple[Ground, Ground]:
    """The same models, each project in a state of its own, built."""
    projects = Ground(scratch / "state-0", models), Ground(scratch / "state-1", models)
    for state, project in enumerate(projects):
        project.write(state)
        _must_succeed(project.run("build"))
    return projects


def _unsound(published: Path) -> list[str]:
    try:
        check_directory(published)
    except (AssertionError, OSError, KeyError) as error:
        return [f"after a kill: {error}"]
    return []


def _killed(process: subprocess.Popen[str], moment_s: float, after: Path | None = None) -> bool:
    """kill -9 after so many seconds; False when it had ended before. after: a directory that appears or is exchanged first."""
    with process:
        old = None if after is None else _inode(after)
        while after is not None and process.poll() is None and _inode(after) == old:
            time.sleep(0.002)
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    return process.returncode == -signal.SIGKILL


def _inode(directory: Path) -> int | None:
    try:
        return directory.stat().st_ino
    except FileNotFoundError:
        return None


def _failure(process: subprocess.Popen[str]) -> list[str]:
    with process:
        _, errors = process.communicate(timeout=300)
    return [] if process.returncode == 0 else [f"ended with {process.returncode}: {last_line(errors)}"]


def _must_succeed(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def fresh(directory: Path) -> Path:
    """An empty directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory
