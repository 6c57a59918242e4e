"""Mutates locks, cache entries, manifests and records, runs the commands that read them, and prints what became of it.

    python -m tests.bench.hostile [--times 10000] [--seed 1] [--processes 2] [--only NUMBER] [--kind WORDS]

A case is one mutated file (or what stands in its place) and the commands that read it, in this process. It ends
well when they succeed, warn or refuse with an error of builder.base.errors; a traceback, more than a second, a change
outside of what the commands own, or a repository that is not what the sources say is a failure, and exits with 1.
Everything happens below one temporary directory, and all that a mutation names lies below it.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import os
import random
import re
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import typer

from tests.bench import hostile_ground as ground
from tests.bench import mutations
from tests.bench.mutations import Aims, Mutate
from tests.bench.snapshot import Snapshot
from tritonsmith import command_line
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.console import emit_text, note

LIMIT_S = 1.0
# A case that takes longer is broken off; one that only took longer than the limit is tried again, for the machine may be busy.
_HANGS_S = 3.0
_PREPARES_S = 300.0
# ONNX Runtime keeps a database of its own in the user's home.
_OTHERS = ("home/.cache/Microsoft",)
_TRIES = 3

Command = tuple[str, ...] | Callable[[Path], None]
Files = Sequence[tuple[Mutate, float]]
"""Ways to mutate with their shares; what is left is damage to the file itself."""

_JSON: Files = ((mutations.mutate_json, 0.72), (mutations.mutate_bytes, 0.14))
_SIGNED: Files = (
    (mutations.mutate_signed, 0.45),
    (mutations.mutate_json, 0.27),
    (mutations.mutate_bytes, 0.14),
)
_LINES: Files = ((mutations.mutate_lines, 0.8), (mutations.mutate_bytes, 0.12))
_TEXT: Files = ((mutations.mutate_text, 0.72), (mutations.mutate_bytes, 0.14))
_ZIP: Files = ((mutations.mutate_zip, 0.72), (mutations.mutate_bytes, 0.2))
_BYTES: Files = ((mutations.mutate_bytes, 0.6),)
_JOURNAL: Files = ((ground.forged_answers, 0.4), (mutations.mutate_bytes, 0.3))


_FORGING = (mutations.mutate_signed, ground.forged_answers)


@dataclass(frozen=True, slots=True)
class Kind:
    """Files that a stranger may have written, and the commands that read them.

    project:  the prepared directory, see hostile_ground. files: patterns below it.
    mutates:  ways to mutate, or by the file's suffix.
    commands: one of these sequences is run; {store}, {published} and {url} are the project's own places.
    owns:     what the commands may change, below the project.
    share:    of all cases.
    """

    name: str
    project: str
    files: Sequence[str]
    mutates: Files | Mapping[str, Files]
    commands: Sequence[Sequence[Command]]
    owns: Sequence[str]
    share: float
    environment: Mapping[str, str] = field(default_factory=dict)


_BUILT = ("cache", "store", "model_repository", "models.lock.json")
_SHARED = ("--remote-cache", "{store}")
_PLACES = ("published", "published-store", *_BUILT)


def _publishes(url: str) -> Sequence[Sequence[Command]]:
    return (
        [("publish", url)],
        [("publish", url, "other")],
        [("publish", url, "--dry-run", "--format", "json")],
        [("versions", url), ("versions", url, "other", "--format", "json")],
        [("rollback", url, "other")],
        [("rollback", url, "other", "1")],
        [("publish", url, "other"), ("rollback", url, "other")],
    )


_RECORDS = [
    ("report", "load.npz"),
    ("report", "load.npz", "--format", "json"),
    ("compare", "load.npz", "before.npz"),
]
_RUNS: Sequence[Sequence[Command]] = (
    [("report", "run")],
    [("report", "run", "--format", "json")],
    [("report", "run", "--format", "md", "--output", "report")],
    [("compare", "run", "before")],
    [("compare", "before", "run", "--arm", "all", "--format", "md")],
    [("apply", "run")],
    [("apply", "run", "--arm", "arm02", "--format", "json")],
    [ground.resume],
)
_RUN_OWNS = ("run", "report", "evidence", "models.yaml", *_BUILT)

_BATCH = ("batch", "in.jsonl", "-o", "out.jsonl", "--url", "{server}", "--wait", "0s", "-q")

KINDS = (
    Kind(
        "lock", "built", ["models.lock.json"], _JSON,
        [
            [("plan",)], [("plan", "--format", "markdown")], [("plan", "--format", "json")],
            [("build", *_SHARED)], [("build", *_SHARED)], [("build", "--locked", *_SHARED)], [("build", "m", *_SHARED)],
            [("publish", "{published}", "--dry-run")],
            [("publish", "{published}", "other")], [("build", *_SHARED), ("publish", "{published}")],
        ],
        _PLACES, 0.24,
    ),
    Kind(
        "local cache: manifests", "bare", ["cache/artifacts/*/*/artifact.json"], _SIGNED,
        [[("build", *_SHARED)], [("build", *_SHARED)], [("plan", *_SHARED)], [("cache", "ls")], [("cache", "verify")]],
        _BUILT, 0.10,
    ),
    Kind(
        "local cache: files", "bare",
        ["cache/artifacts/*/*/*.*", "cache/artifacts/*/*/model/*", "cache/artifacts/*/*", "cache/artifacts"], _BYTES,
        [[("build", *_SHARED)], [("build", *_SHARED)], [("cache", "verify")], [("cache", "gc", "--max-size", "1KiB")]],
        _BUILT, 0.06,
    ),
    Kind(
        "local cache: request records", "bare", ["cache/requests/*/*/*.json", "cache/requests/*/*"], _JSON,
        [[("build", *_SHARED)], [("plan",)]], _BUILT, 0.05,
    ),
    Kind(
        "local cache: stat.json", "built", ["cache/stat.json"], ((ground.forged_stamps, 0.3), *_JSON),
        [[("plan",)], [("build", *_SHARED)]], _BUILT, 0.04,
    ),
    Kind(
        "local cache: claims and debts", "bare", ["cache/running/*", "cache/tmp/*", "cache/owed/*/*", "cache/tmp"], _BYTES,
        [[("build", *_SHARED)], [("cache", "gc", "--max-size", "1KiB")]], _BUILT, 0.02,
    ),
    Kind(
        "shared cache: manifests", "fresh", ["store/artifacts/*/*/artifact.json"], _SIGNED,
        [[("build", "other", *_SHARED)], [("build", "other", *_SHARED)], [("plan", *_SHARED)],
         [("cache", "verify", "--remote", *_SHARED)], [("cache", "ls", "--remote", *_SHARED)]],
        _BUILT, 0.07,
    ),
    Kind(
        "shared cache: objects", "fresh", ["store/artifacts/*/*/*", "store/artifacts/*/*"], _BYTES,
        [[("build", "other", *_SHARED)], [("build", "other", *_SHARED)], [("cache", "verify", "--remote", *_SHARED)]],
        _BUILT, 0.05,
    ),
    Kind(
        "shared cache: request records", "fresh", ["store/requests/*/*/*.json", "store/requests/*/*"], _JSON,
        [[("build", "other", *_SHARED)], [("plan", *_SHARED)]], _BUILT, 0.04,
    ),
    Kind(
        "shared cache: marker", "fresh", ["store/tritonsmith-cache.json"], _JSON,
        [[("build", "other", *_SHARED)], [("cache", "ls", "--remote", *_SHARED)]], _BUILT, 0.02,
    ),
    Kind(
        "destination, a directory", "built",
        ["published/*/*/.tritonsmith/*.json", "published/other/*/.tritonsmith/*.json", "published/*/config.pbtxt",
         "published/other/*/.tritonsmith", "published/other/*", "published/other"],
        {".json": _JSON, ".pbtxt": _TEXT, "": _BYTES}, _publishes("{published}"), _PLACES, 0.10,
    ),
    Kind(
        "destination, written as a store", "built",
        ["published-store/*/*/.tritonsmith/*.json", "published-store/other/*/.tritonsmith/*.json",
         "published-store/*/config.pbtxt", "published-store/other/*", "published-store/other"],
        {".json": _JSON, ".pbtxt": _TEXT, "": _BYTES}, _publishes("{url}"), _PLACES, 0.07,
    ),
    Kind(
        "destination: smoke.npz", "built", ["published/m/*/.tritonsmith/smoke.npz"], _ZIP,
        [[ground.expected_answers]], _PLACES, 0.02,
    ),
    Kind("sweep: run.json", "runs", ["run/run.json"], _JSON, _RUNS, _RUN_OWNS, 0.04),
    Kind("sweep: run.jsonl", "killed", ["run/run.jsonl"], _LINES, _RUNS, _RUN_OWNS, 0.03),
    Kind("request records", "runs", ["load.npz"], _ZIP, [[c] for c in _RECORDS], _RUN_OWNS, 0.02),
    Kind(
        "evidence", "built", ["evidence/m.json", "evidence"], _JSON,
        [[("publish", "{published}", "m")]], (*_PLACES, "evidence"), 0.01,
    ),
    Kind(
        "engine sidecars", "engine", ["model_repository/m/1/model.plan.json"], _JSON,
        [[("check", "model_repository")], [("check", "model_repository", "--format", "json")]], _BUILT, 0.02,
    ),
    Kind(
        "batch job: journal", "batch", ["out.jsonl.journal"], _JOURNAL, [[_BATCH], [_BATCH], [(*_BATCH, "--restart")]],
        ("out.jsonl", "out.jsonl.journal", "out.errors.jsonl"), 0.03,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One mutation and what was run: enough to do it again.

    forged: the file's own digest was made right, so that it is believed.
    """

    number: int
    kind: Kind
    file: str
    how: str
    commands: Sequence[Command]
    forged: bool

    def __str__(self) -> str:
        told = [c if isinstance(c, str) else c.__name__ for c in map(_words, self.commands)]
        return f"case {self.number}: {self.kind.name}: {self.file}: {self.how}; {'; '.join(told)}"


@dataclass(slots=True)
class Outcome:
    """What became of one case.

    word:     ok, warned, forged (another, valid model was laid out, as the forged entry says), or an error's code.
    failures: what must not be, in words.
    """

    case: Case
    word: str
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    traceback: str = ""


class Hang(BaseException):
    """The watchdog's; no `except Exception` may catch it."""


def _words(command: Command) -> Any:
    return " ".join(command) if isinstance(command, tuple) else command


class Harness:
    """Prepared projects in one directory, and the cases that are run on them."""

    def __init__(self, area: Path, seed: int) -> None:
        """area: an empty directory of the harness's own."""
        self.area = area
        self.seed = seed
        self.victim = ground.plant_victim(area)
        self.aims = Aims(self.victim)
        self._projects: dict[str, Snapshot] = {}
        self._around: Snapshot | None = None
        # Typer makes its commands anew for each call, which takes longer than most of them.
        command_line.app = typer.main.get_command(command_line.app)  # type: ignore[assignment]

    @cached_property
    def _deep(self) -> Path:
        """Where the projects lie: no chain of `..` that a mutation makes leads out of the area."""
        return ground.deep(self.area)

    def prepare(self, kinds: Sequence[Kind]) -> None:
        """Makes the projects that these kinds need."""
        with _surroundings(self.area), _no_flushing():
            wanted = dict.fromkeys(kind.project for kind in kinds)
            copies = ["built"] if {"bare", "fresh"} & wanted.keys() else []
            for project in dict.fromkeys([*copies, *wanted]):
                ground.PROJECTS[project](self._deep / project, partial(self._must, self._deep / project))
                self._projects[project] = Snapshot.of(self._deep / project)
        self._around = Snapshot.of(self.area, [str(self._deep.relative_to(self.area)), *_OTHERS])

    def run(
        self, kinds: Sequence[Kind], numbers: Sequence[int], tell: Callable[[int], None]
    ) -> list[Outcome]:
        """One outcome a case; the kinds come in turn, by their shares."""
        outcomes = []
        with _surroundings(self.area), _no_flushing(), _watched():
            for number in numbers:
                outcomes.append(self._tried(number, kinds))
                tell(len(outcomes))
        for name, snapshot in self._projects.items():
            # Each case looks at its own project and around them; what reached another one shows here.
            outcomes[-1].failures += [
                f"changed outside, by some case: {name}: {d}" for d in snapshot.differences()
            ]
        return outcomes

    def _tried(self, number: int, kinds: Sequence[Kind]) -> Outcome:
        tries: list[Outcome] = []
        while len(tries) < _TRIES and not (tries and (tries[-1].seconds <= LIMIT_S or tries[-1].traceback)):
            tries.append(self._case(number, kinds))
        outcome = min(tries, key=lambda outcome: outcome.seconds)
        # Where others run as well, everything takes as many times longer as there are for each core.
        if outcome.seconds > LIMIT_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
            outcome.failures.append(f"it took {outcome.seconds:.1f} s")
        return outcome

    def _case(self, number: int, kinds: Sequence[Kind]) -> Outcome:
        rng = random.Random(f"{self.seed}/{number}")
        kind = rng.choices(kinds, [k.share for k in kinds])[0]
        project = self._deep / kind.project
        snapshot = self._projects[kind.project]
        try:
            case = self._mutated(rng, number, kind, project)
            outcome = self._ran(case, project)
            outcome.failures += self._outside(snapshot, [*kind.owns, case.file])
        finally:
            snapshot.restore()
        return outcome

    def _outside(self, snapshot: Snapshot, owned: Sequence[str]) -> list[str]:
        """What changed that the commands do not own; it is put back."""
        assert self._around is not None
        told = [*self._around.differences(), *snapshot.differences(owned)]
        if told:
            self._around.restore()
        return [f"changed outside: {change}" for change in told]

    def _mutated(self, rng: random.Random, number: int, kind: Kind, project: Path) -> Case:
        pattern = rng.choice(kind.files)
        path = rng.choice(
            sorted(p for p in project.glob(pattern) if p.name != "artifact.json" or "artifact" in pattern)
        )
        commands = [
            tuple(w.format(**ground.places(project)) for w in c) if isinstance(c, tuple) else c
            for c in rng.choice(kind.commands)
        ]
        name = path.relative_to(project).as_posix()
        ways = kind.mutates
        if isinstance(ways, Mapping):
            ways = ways.get(path.suffix, ways[""])
        chosen = rng.random()
        if path.is_file():
            for mutate, share in ways:
                chosen -= share
                if chosen < 0:
                    content = path.read_bytes()
                    path.write_bytes(mutate(rng, content, self.aims))
                    how = mutate.__name__.replace("_", " ")
                    return Case(number, kind, name, how, commands, mutate in _FORGING)
        how = mutations.damage_file(rng, path, self.victim)
        return Case(number, kind, name, how, commands, False)

    def _ran(self, case: Case, project: Path) -> Outcome:
        codes: list[str] = []
        failures: list[str] = []
        trace = ""
        started = time.perf_counter()
        for command in case.commands:
            code, text, trace = _called(command, project)
            if trace:
                what = "it hung" if "Hang:" in trace else "traceback"
                failures.append(f"{what}: {trace.strip().splitlines()[-1][:300]}")
                break
            codes += re.findall(r"^error\[(\w+)\]", text, re.MULTILINE)
            warned = bool(re.search(r"^(warning|note):", text, re.MULTILINE))
            codes += ["warned"] if warned and not code else []
            if not code and isinstance(command, tuple):
                failures += self._wrong(command, project)
        seconds = time.perf_counter() - started
        word = next((c for c in codes if c != "warned"), "warned" if codes else "ok")
        if case.forged and failures and not trace and all(f.startswith("wrong:") for f in failures):
            word, failures = "forged", []
        return Outcome(case, "traceback" if trace else word, seconds, failures, trace)

    def _wrong(self, command: Sequence[str], project: Path) -> list[str]:
        """What a command that succeeded left, which is not what the sources say."""
        asked = [word for word in command[1:2] if word in ("m", "other")]
        if command[0] == "build":
            return ground.wrongly_built(project, asked)
        if command[0] == "batch":
            return ground.wrongly_answered(project)
        if command[0] == "publish" and "--dry-run" not in command:
            return ground.wrongly_published(
                project, command[1], [w for w in command[2:3] if w in ("m", "other")]
            )
        return []

    def _must(self, project: Path, *command: str) -> None:
        code, text, trace = _called(command, project, _PREPARES_S)
        assert code == 0, f"{command}: {code} {text} {trace}"


def _called(command: Command, project: Path, limit_s: float = _HANGS_S) -> tuple[int, str, str]:
    """(exit code, stderr, traceback) of a command line or a function, in this process and in the project's directory."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    kept, before = (sys.stdout, sys.stderr), Path.cwd()
    code, trace = 1, ""
    died: list[str] = []
    threading.excepthook = lambda args: died.append(
        "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
    )
    os.chdir(project)
    sys.stdout, sys.stderr = out, errors
    try:
        with _fifos_released(project, limit_s):
            if isinstance(command, tuple):
                code = command_line._run(list(command))
            else:
                command(project)
                code = 0
    except TritonsmithError as error:
        errors.write(f"error[{error.code}]: {error}\n")
        code = error.exit_code
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        trace = "".join(traceback.format_exception(error))
    finally:
        sys.stdout, sys.stderr = kept
        os.chdir(before)
        threading.excepthook = threading.__excepthook__
    errors.seek(0)
    told = errors.buffer.getvalue().decode()
    return code, told, trace or "".join(died)


@contextmanager
def _fifos_released(project: Path, limit_s: float) -> Iterator[None]:
    """The watchdog for one case: whoever waits for a FIFO gets its end first, so that no thread is left behind."""

    def expired(number: int, frame: FrameType | None) -> None:
        for root, _, names in os.walk(project):
            for name in names:
                path = Path(root) / name
                with suppress(OSError):
                    if stat.S_ISFIFO(path.lstat().st_mode):
                        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        raise Hang(f"nothing came of it in {limit_s:.0f} s")

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _watched() -> Iterator[None]:
    """Shows where this process stands when even the watchdog could not end a case, and ends it."""
    with suppress(io.UnsupportedOperation, AttributeError):
        faulthandler.dump_traceback_later(3_600, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _surroundings(area: Path) -> Iterator[None]:
    """Home, temporary files and caches lie in the area."""
    for name in ("home/.cache", "tmp"):
        (area / name).mkdir(parents=True, exist_ok=True)
    own = {
        "HOME": str(area / "home"),
        "TMPDIR": str(area / "tmp"),
        "TRITONSMITH_CACHE": "cache",
        "NO_COLOR": "1",
    }
    before = dict(os.environ)
    for name in [n for n in os.environ if n.startswith(("TRITONSMITH", "XDG_", "MLFLOW"))]:
        del os.environ[name]
    os.environ.update(own)
    tempfile.tempdir = None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        tempfile.tempdir = None


@contextmanager
def _no_flushing() -> Iterator[None]:
    """fsync waits for a disk that others use too, and here no power is cut."""
    with mock.patch("os.fsync"):
        yield


def table(outcomes: Sequence[Outcome]) -> str:
    """kind | cases | ok | warned | forged | refused, by code | longest."""
    lines = ["| kind | cases | ok | ok with a warning | refused (error codes) | forged | longest, s |"]
    lines.append("|---|---:|---:|---:|---|---:|---:|")
    for kind in KINDS:
        of = [o for o in outcomes if o.case.kind.name == kind.name]
        words = Counter(o.word for o in of)
        refused = [(w, n) for w, n in words.most_common() if w not in ("ok", "warned", "forged")]
        told = ", ".join(f"{w} {n}" for w, n in refused)
        if of:
            lines.append(
                f"| {kind.name} | {len(of)} | {words['ok']} | {words['warned']} | {sum(n for _, n in refused)}"
                f"{f' ({told})' if told else ''} | {words['forged']} | {max(o.seconds for o in of):.2f} |"
            )
    failed = [f for o in outcomes for f in o.failures]
    counts = {
        "tracebacks": sum(f.startswith("traceback") for f in failed),
        "cases over 1 s": sum(f.startswith("it ") for f in failed),
        "changes outside": sum(f.startswith("changed outside") for f in failed),
        "wrong answers": sum(f.startswith("wrong:") for f in failed),
    }
    longest = max((o.seconds for o in outcomes), default=0.0)
    told = ", ".join(f"{n} {what}" for what, n in counts.items())
    return "\n".join([*lines, "", f"{len(outcomes)} cases: {told}; the longest took {longest:.2f} s"])


def text_of_failures(outcomes: Sequence[Outcome], *, whole: bool = False) -> str:
    """Failures that happened at the same place, together: how many, the first case, and the last frames of ours."""
    groups: dict[str, list[tuple[Outcome, str]]] = {}
    for outcome in outcomes:
        for failure in outcome.failures:
            frames = re.findall(
                r'File ".*?((?:builder|perf)/[^"]+)", line (\d+), in (\w+)', outcome.traceback
            )
            place = " < ".join(f"{file}:{line} {function}" for file, line, function in frames[:-5:-1])
            what = failure if place else re.sub(r"[0-9a-f]{12,}|[\d.]+ s", "…", failure)[:80]
            groups.setdefault(f"{place} {what.partition(': ')[2][:40] if place else what}", []).append(
                (outcome, failure)
            )
    lines = []
    for place, of in sorted(groups.items(), key=lambda group: -len(group[1])):
        outcome, failure = of[0]
        lines += [f"FAILED {len(of)} times: {place}", f"    {failure}", f"    {outcome.case}"]
        lines += [outcome.traceback] if whole else []
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def _outcomes(
    seed: int, kinds: Sequence[Kind], numbers: Sequence[int], tell: Callable[[int], None] = lambda done: None
) -> list[Outcome]:
    """The cases in a directory that is made for them and goes with them."""
    with tempfile.TemporaryDirectory(prefix="tritonsmith-hostile-") as directory:
        harness = Harness(Path(directory).resolve(), seed)
        harness.prepare(kinds)
        return harness.run(kinds, numbers, tell)


def main() -> int:
    """Runs the cases, prints the table and every failure."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", default="", help="only kinds with these words in their name")
    parser.add_argument("--processes", type=int, default=1, help="that share the cases")
    parser.add_argument("--only", type=int, help="one case again, with its traceback")
    given = parser.parse_args()
    kinds = [kind for kind in KINDS if given.kind in kind.name]
    numbers = list(range(given.times)) if given.only is None else [given.only]
    told_s = [time.monotonic()]

    def tell(done: int) -> None:
        if time.monotonic() - told_s[0] > 30.0:
            told_s[0] = time.monotonic()
            note(f"{done} of {len(numbers)} cases")

    started = time.monotonic()
    shares = [numbers[first :: given.processes] for first in range(given.processes)]
    if given.processes == 1:
        outcomes = _outcomes(given.seed, kinds, numbers, tell)
    else:
        with ProcessPoolExecutor(given.processes) as pool:
            parts = pool.map(partial(_outcomes, given.seed, kinds), shares)
            outcomes = sorted((o for part in parts for o in part), key=lambda outcome: outcome.case.number)
    took_s = time.monotonic() - started
    emit_text(f"{table(outcomes)}\nseed {given.seed}, {took_s:.0f} s")
    emit_text(text_of_failures(outcomes, whole=given.only is not None))
    return 1 if any(o.failures for o in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
