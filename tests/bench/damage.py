"""Cache entries that are damaged, disks that are full or read-only: Rows."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.bench.ground import Ground, Row, actions_in, half_written, last_line, references
from tests.bench.kills import Tell, problems_of_next_publish
from tests.faults import check_directory
from tritonsmith.builder.build.build import BuildOptions, build
from tritonsmith.builder.cache.cache import Cache

Damage = Callable[[bytes], bytes | None]
_NOT_DATA = ("running", "logs", "tmp")


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: Mapping[str, Damage] = {
    "truncated": lambda content: content[: len(content) // 2],
    "a bit flipped": _flipped,
    "missing": lambda content: None,
}


def local_cache(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """Each file of a local cache, damaged in each way; the repository is gone, so that the build wants the cache."""
    models = ("first",)
    wanted = references(scratch, models)[0]
    ground = _built(scratch / "damaged", models)
    whole = scratch / "whole"
    shutil.copytree(ground.cache_directory, whole)
    files = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    files = [p for p in files if p.parts[0] not in _NOT_DATA]
    rows = []
    for name, damage in DAMAGES.items():
        row = Row(f"a file of the local cache {name}, each of {len(files)} in turn")
        remade = 0
        for file in files:
            tell(f"local cache: {name}", row.times, len(files))
            ground.forget(cache=True)
            shutil.copytree(whole, ground.cache_directory)
            _damage(ground.cache_directory / file, damage)
            problems, action = _rebuilt(ground, wanted)
            remade += action == "exported"
            shutil.rmtree(ground.repository, ignore_errors=True)
            options = BuildOptions(ground.root / "models.yaml", cache=Cache(ground.cache_directory))
            (again,) = build(options).outcomes
            healed = [] if again.action in ("laid out", "from cache") else [f"{file} was not healed"]
            row.settle([*problems, *healed, *ground.problems(wanted)])
        row.seen = f"right content, by digest; the export was made again {remade} times, and not once more"
        rows.append(row)
    return [*rows, _silent(scratch, wanted)]


def _silent(scratch: Path, wanted: Mapping[str, Mapping[str, str]]) -> Row:
    """A disk that gives other bytes back, and nothing in the file's stat tells it: the stamps are forged."""
    row = Row("a file of the local cache with a bit flipped that its size and times do not show")
    for name in ("model.onnx", "weights.bin"):
        ground = _built(scratch / f"silent-{name}", ("first",))
        (file,) = [p for p in (ground.cache_directory / "artifacts").rglob(name) if p.is_file()]
        _damage(file, _flipped)
        stamps = ground.cache_directory / "stat.json"
        known = json.loads(stamps.read_text())
        stat = file.stat()
        entry = known[str(file.resolve())]
        known[str(file.resolve())] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, entry[4]]
        stamps.write_text(json.dumps(known))
        shutil.rmtree(ground.repository)
        done = ground.run("build")
        problems = (
            [] if done.returncode or ground.trees() == wanted else [f"{name}: the flipped bit was laid out"]
        )
        row.settle([*problems, *ground.problems_of_next_build(wanted)])
    row.seen = "the build that meets it lays nothing out and says so; the next one makes the entry anew"
    return row


def shared_cache(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """Each object of a shared cache, damaged in each way; a machine with an empty home builds, then another one."""
    models = ("first",)
    wanted = references(scratch, models)[0]
    url = str(scratch / "store")
    _built(scratch / "origin", models, "--remote-cache", url)
    store, whole = scratch / "store", scratch / "whole"
    shutil.copytree(store, whole)
    objects = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    rows = []
    for name, damage in DAMAGES.items():
        row = Row(f"an object of the shared cache {name}, each of {len(objects)} in turn")
        remade = 0
        for number, file in enumerate(objects):
            tell(f"shared cache: {name}", row.times, len(objects))
            shutil.rmtree(store)
            shutil.copytree(whole, store)
            _damage(store / file, damage)
            problems: list[str] = []
            for machine in ("one", "two"):
                ground = Ground(scratch / f"{number}-{machine}", models)
                ground.write(0)
                done = ground.run("build", "--remote-cache", url, "--format", "json")
                problems += [] if done.returncode == 0 else [f"{file}: {last_line(done.stderr)}"]
                problems += ground.problems(wanted)
                made = done.returncode == 0 and actions_in(done)["first"] == "exported"
                remade += made and machine == "one"
                # A store whose format cannot be read is left alone by everyone.
                if made and machine == "two" and file.name != "tritonsmith-cache.json":
                    problems.append(f"{file} was not healed")
                shutil.rmtree(ground.root)
                ground.forget(cache=True)
            row.settle(problems)
        row.seen = (
            f"right content, by digest; made again {remade} times by the first machine; "
            "the second found it healed (but for the format's marker)"
        )
        rows.append(row)
    return rows


def full_disks(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """A small file system with more and more room left, from nothing to enough, under each thing that is written."""
    models = ("first", "second")
    padding = 60_000
    states = references(scratch, models, padding)
    rows = []
    for what in ("cache", "project", "cache and project"):
        row = Row(f"disk full: the {what}'s, at {times} fill levels")
        failed = 0
        for number in range(times):
            tell(row.fault, number, times)
            with _mounted(fresh_mount(scratch), "size=8m") as mount:
                ground = _on(mount, what, scratch, models, padding)
                ground.write(0)
                assert ground.run("build").returncode == 0
                ground.write(1)
                with _filled(mount, leaves_bytes=number * 560_000 // times):
                    done = ground.run("build")
                failed += done.returncode != 0
                problems = _refusal(done, "free space")
                problems += half_written(ground.trees(), states)
                problems += [] if set(ground.trees()) == set(models) else ["a model is gone"]
                row.settle([*problems, *ground.problems_of_next_build(states[1])])
        row.seen = f"old or new, each model whole, by content ({failed} builds failed with one error, the others had room)"
        rows.append(row)
    return [*rows, _full_destination(scratch, times, models, padding, tell)]


def _full_destination(scratch: Path, times: int, models: tuple[str, ...], padding: int, tell: Tell) -> Row:
    row = Row(f"disk full: the destination's of `publish`, at {times} fill levels")
    projects = [Ground(scratch / f"publishes-{state}", models, padding) for state in (0, 1)]
    for state, project in enumerate(projects):
        project.write(state)
        assert project.run("build").returncode == 0
    failed = 0
    for number in range(times):
        tell(row.fault, number, times)
        with _mounted(fresh_mount(scratch), "size=8m") as mount:
            published = mount / "models"
            assert projects[0].run("publish", str(published)).returncode == 0
            with _filled(mount, leaves_bytes=number * 280_000 // times):
                done = projects[1].run("publish", str(published))
            failed += done.returncode != 0
            problems = _refusal(done, "free space")
            check_directory(published)
            row.settle([*problems, *problems_of_next_publish(projects[1], str(published))])
            check_directory(published)
    row.seen = f"every served version whole, by digest ({failed} publishes failed with one error, the others had room)"
    return row


def read_only(scratch: Path, times: int, seed: int, tell: Tell) -> list[Row]:
    """The directory that is to be written cannot be; nothing changes, and the next run does it."""
    models = ("first", "second")
    states = references(scratch, models)
    rows = []
    for what in ("cache", "project"):
        row = Row(f"read-only: the {what}'s directory")
        for state in (1, 0):
            tell(row.fault, row.times, 2)
            with _mounted(fresh_mount(scratch), "size=8m") as mount:
                ground = _on(mount, what, scratch, models, 0)
                ground.write(1 - state)
                assert ground.run("build").returncode == 0
                ground.write(state)
                with _unwritable(mount):
                    done = ground.run("build")
                problems = _refusal(done, "") + half_written(ground.trees(), states)
                problems += [] if done.returncode else ["the build says that it succeeded"]
                problems += [] if ground.trees() == states[1 - state] else ["something changed"]
                row.settle([*problems, *ground.problems_of_next_build(states[state])])
        row.seen = "the old models, whole, by content; the build failed with one error"
        rows.append(row)
    row = Row("read-only: the destination's directory of `publish`")
    projects = [Ground(scratch / f"publishes-{state}", models) for state in (0, 1)]
    for state, project in enumerate(projects):
        project.write(state)
        assert project.run("build").returncode == 0
    with _mounted(fresh_mount(scratch), "size=8m") as mount:
        published = mount / "models"
        assert projects[0].run("publish", str(published)).returncode == 0
        for project in (projects[1], projects[0]):
            served = check_directory(published)
            with _unwritable(mount):
                done = project.run("publish", str(published))
            problems = _refusal(done, "") + (
                [] if done.returncode else ["the publish says that it succeeded"]
            )
            problems += [] if check_directory(published) == served else ["something changed"]
            row.settle([*problems, *problems_of_next_publish(project, str(published))])
            check_directory(published)
    row.seen = "the versions served before, whole, by digest; the publish failed with one error"
    return [*rows, row]


def fresh_mount(scratch: Path) -> Path:
    """An empty directory to mount over."""
    directory = scratch / "mount"
    directory.mkdir(exist_ok=True)
    return directory


def _on(mount: Path, what: str, scratch: Path, models: tuple[str, ...], padding: int) -> Ground:
    """A project of which `what` lies on the small file system, the rest not."""
    elsewhere = scratch / "elsewhere"
    shutil.rmtree(elsewhere, ignore_errors=True)
    root = (mount if "project" in what else elsewhere) / "project"
    return Ground(root, models, padding, (mount if "cache" in what else elsewhere) / "cache")


def _built(root: Path, models: tuple[str, ...], *arguments: str) -> Ground:
    ground = Ground(root, models)
    ground.write(0)
    done = ground.run("build", *arguments)
    assert done.returncode == 0, done.stderr
    return ground


def _rebuilt(ground: Ground, wanted: Mapping[str, Mapping[str, str]]) -> tuple[list[str], str]:
    """(problems, what became of the model) when the repository is gone."""
    shutil.rmtree(ground.repository)
    done = ground.run("build", "--format", "json")
    if done.returncode:
        return [f"the build that met it ended with {done.returncode}: {last_line(done.stderr)}"], "failed"
    return ground.problems(wanted), actions_in(done)["first"]


def _damage(file: Path, damage: Damage) -> None:
    content = damage(file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)


def _refusal(done: subprocess.CompletedProcess[str], words: str) -> list[str]:
    """What is wrong with how a run failed; nothing when it succeeded."""
    if done.returncode == 0:
        return []
    if "Traceback" in done.stderr or done.returncode != 1:
        return [f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1][:200]}"]
    return [] if words in done.stderr else [f"the error does not say {words!r}: {last_line(done.stderr)}"]


@contextmanager
def _mounted(directory: Path, options: str) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def _unwritable(mount: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=True)


@contextmanager
def _filled(mount: Path, leaves_bytes: int) -> Iterator[None]:
    """All but so many bytes are taken."""
    filler = mount / "filler"
    free = shutil.disk_usage(mount).free - leaves_bytes
    with filler.open("wb") as file:
        file.write(b"\0" * max(0, free // 4096 * 4096))
    try:
        yield
    finally:
        filler.unlink()
