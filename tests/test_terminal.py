"""Every command on a real terminal: what stands there, that nothing is wider than it, and Ctrl-C typed into it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests import onnx_models
from tests.conftest import ROOT
from tests.terminal import CTRL_C, Shown, Terminal
from tests.test_readme import README
from tritonsmith import command_line

LONG = "a_model_with_a_name_that_is_rather_long_for_a_table_v2"
SPEC = """\
models:
  tiny:
    source: {onnx: tiny.onnx}
    max_batch_size: 8
  %s:
    source: {onnx: long.onnx}
    max_batch_size: 8
    dynamic_batching: {preferred_batch_size: [4]}
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """A directory with a spec, what was built of it and a cache, and the temporary files of all that runs there."""

    root: Path

    def environment(self) -> dict[str, str]:
        kept = {
            k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        }
        own = {
            "TRITONSMITH_CACHE": str(self.root / "cache"),
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
        }
        return {**kept, **own}

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    def terminal(self, *arguments: str, columns: int = 80, more: Mapping[str, str] | None = None) -> Terminal:
        command = [sys.executable, "-m", "tritonsmith", *arguments]
        return Terminal(command, cwd=self.root, env=self.environment() | dict(more or {}), columns=columns)

    def shown(self, *arguments: str, columns: int = 80, more: Mapping[str, str] | None = None) -> Shown:
        with self.terminal(*arguments, columns=columns, more=more) as terminal:
            return terminal.finish()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    root = tmp_path_factory.mktemp("terminal")
    (root / "tmp").mkdir()
    for name in ("tiny", "long"):
        onnx_models.save(onnx_models.affine(("batch", 16)), root / f"{name}.onnx")
    (root / "models.yaml").write_text(SPEC % LONG)
    return Ground(root)


def well_shown(shown: Shown, *, code: int = 0) -> None:
    """What holds of every command."""
    assert shown.code == code, shown.text
    assert "Traceback" not in shown.raw and shown.is_cursor_visible
    assert not shown.too_wide, shown.too_wide
    # A line that the terminal had to break goes on in the first column without a word's beginning.
    assert all(len(line) <= shown.columns for line in shown.screen)


# The cheapest real run of every command that needs no server, in their order; the exit code when it is not 0.
STEPS: list[tuple[str, str, int]] = [
    ("plan", "Plan: 2 to add, 0 to change, 0 to remove.", 0),
    ("build", "2 of 2 models written", 0),
    ("check model_repository", "then: ", 0),
    ("publish published", "2 of 2 models published", 0),
    ("versions published", "MODEL ", 0),
    ("cache ls", "entries", 0),
    ("server status", "tritonserver 2.", 0),
    ("doctor", "all that the basic work needs is here", 0),
    ("diff published model_repository", "compared", 0),
    ("cache verify", "all whole", 0),
    ("cache gc --max-size 1KiB --dry-run", "would be removed", 0),
    ("init --output drafted.yaml long.onnx", "drafted.yaml: 1 model", 0),
    ("check --format sarf model_repository", "Invalid value for '--format'", 2),
    ("build --spec absent.yaml", "error[", 2),
]
WIDE_STEPS = STEPS[:6]
CHANGED = [
    ("plan", "config.pbtxt  max_batch_size: 8 → 16", 0),
    ("build tiny", "1 of 1 models written", 0),
    ("publish published tiny", "version 2", 0),
    ("rollback published tiny", "version 1 is served again", 0),
]
# What is copied as it stands is as wide as it is: JSON, YAML, diffs.
DOCUMENTS = {"schema"}


@pytest.mark.timeout(240)
def test_every_command_fits_the_terminal(ground: Ground, tmp_path_factory: pytest.TempPathFactory) -> None:
    def own_ground(columns: int) -> Ground:
        own = Ground(tmp_path_factory.mktemp(f"terminal{columns}"))
        shutil.copytree(ground.root, own.root, dirs_exist_ok=True)
        return own

    def run_all(own: Ground, columns: int, steps: list[tuple[str, str, int]]) -> None:
        for line, said, code in steps:
            shown = own.shown(*line.split(), columns=columns)
            well_shown(shown, code=code)
            assert said in shown.text, f"{line}\n{shown.text}"
        assert not left_behind(own)

    narrow = own_ground(80)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run_all, (narrow, own_ground(120)), (80, 120), (STEPS, WIDE_STEPS)))
    spec = narrow.root / "models.yaml"
    spec.write_text(spec.read_text().replace("max_batch_size: 8", "max_batch_size: 16", 1))
    run_all(narrow, 80, CHANGED)


# Below, with a server; the demo's own tests end it at each of its stages.
SERVED = {"serve", "infer", "status", "load", "sweep", "report", "compare", "apply", "batch", "demo"}


def test_every_command_of_readme_is_shown_here() -> None:
    listed = set(re.findall(r"^\| `tritonsmith (\w+)`", README, re.MULTILINE))
    assert listed == {line.split()[0] for line, _, _ in (*STEPS, *CHANGED)} | SERVED | DOCUMENTS


@pytest.fixture(scope="module")
def built(ground: Ground) -> Ground:
    well_shown(ground.shown("build"))
    return ground


@dataclass(frozen=True, slots=True)
class Live:
    """A Triton that `serve` serves on a terminal of its own."""

    ground: Ground
    terminal: Terminal
    url: str


@pytest.fixture(scope="module")
def live(built: Ground) -> Iterator[Live]:
    flags = "--http-port 0 --grpc-port 0 --metrics-port 0 --model-control explicit --load-model tiny"
    with built.terminal("serve", "model_repository", *flags.split()) as terminal:
        url = terminal.wait_for(r"HTTP +(\S+)\s")[1]
        pid = int(terminal.wait_for(r"pid (\d+)\s")[1])
        terminal.wait_for("serving; Ctrl-C stops it")
        yield Live(built, terminal, url)
        terminal.press(CTRL_C)
        shown = terminal.finish()
        well_shown(shown, code=130)
        assert "interrupted" in shown.screen[-1]
        assert not psutil.pid_exists(pid) and not left_behind(built, terminal.pid)


def left_behind(ground: Ground, pid: int = 0) -> set[Path]:
    """Temporary files, a process's shared memory, half-laid directories."""
    shared = Path("/dev/shm").glob(f"tritonsmith_{pid}_*")
    return {*ground.temporary.glob("tritonsmith*"), *shared, *ground.root.glob(".*staging*")}


def interrupted(ground: Ground, terminal: Terminal, before: set[Path]) -> Shown:
    """Types Ctrl-C; how the command ended, with nothing left of it. before: what was left behind before it."""
    family = psutil.Process(terminal.pid).children(recursive=True)
    terminal.press(CTRL_C)
    shown = terminal.finish()
    well_shown(shown, code=130)
    assert "interrupted; nothing half-written was left" in shown.screen[-1]
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert left_behind(ground, terminal.pid) <= before
    return shown


@pytest.mark.timeout(120)
def test_ctrl_c_ends_a_build(ground: Ground, tmp_path: Path) -> None:
    own = Ground(tmp_path / "own")
    shutil.copytree(
        ground.root, own.root, ignore=shutil.ignore_patterns("model_repository", "cache", "*.lock.json")
    )
    with own.terminal("build") as terminal:
        terminal.wait_for("export of")
        interrupted(own, terminal, set())
    assert not (own.root / "model_repository").exists() or not list((own.root / "model_repository").iterdir())


@pytest.mark.timeout(120)
def test_ctrl_c_ends_a_publish_that_waits_for_a_server(built: Ground) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with built.terminal("publish", "unpublished", "--reload", url) as terminal:
            connection, _ = silent.accept()
            with connection:
                terminal.wait_for("gates")
                interrupted(built, terminal, set())
    assert "nothing was published" in built.shown("versions", "unpublished").text


def test_a_ctrl_c_while_it_is_still_starting_is_no_traceback(ground: Ground, tmp_path: Path) -> None:
    # It falls into an import.
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    shown = ground.shown("plan", more={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert (shown.code, shown.raw.strip()) == (130, "interrupted; nothing half-written was left")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("more", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_colours_and_drawing_may_be_declined(built: Ground, more: dict[str, str]) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")
    check = built.shown("check", "model_repository", more=more)
    verify = built.shown("cache", "verify", more=more)
    well_shown(check)
    well_shown(verify)
    assert not coloured.search(check.raw) and not re.search(r"\x1b\[[0-9;]*3[0-7]m", verify.raw)
    if "TERM" in more:
        assert "\x1b" not in check.raw + verify.raw
    else:
        assert coloured.search(built.shown("check", "model_repository").raw)


@pytest.mark.timeout(120)
def test_a_terminal_that_is_closed_does_not_end_a_build(built: Ground, tmp_path: Path) -> None:
    own = Ground(tmp_path / "own")
    shutil.copytree(
        built.root, own.root, ignore=shutil.ignore_patterns("model_repository", "cache", "*.lock.json")
    )
    command = [sys.executable, "-m", "tritonsmith", "build"]
    with Terminal(
        ["env", "--ignore-signal=HUP", *command],
        cwd=own.root,
        env=own.environment(),
        stdout=tmp_path / "said",
    ) as terminal:
        terminal.wait_for("export of")
        terminal.close()
        assert terminal.wait() == 0
    assert "2 of 2 models written" in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    "name", ["", "cache gc", *sorted(re.findall(r"^\| `tritonsmith (\w+)`", README, re.MULTILINE))]
)
def test_help_fits_and_shortens_no_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(command_line.app, [*name.split(), "--help"])
    assert shown.exit_code == 0 and shown.stdout.startswith("Usage: ")
    assert all(len(line) <= 80 for line in shown.stdout.splitlines()), shown.stdout
    if name == "plan":
        assert (
            "--remote-cache-read-only" in shown.stdout and " text|json|markdown|github-matrix" in shown.stdout
        )


def test_help_on_a_terminal(ground: Ground) -> None:
    shown = ground.shown("sweep", "--help")
    well_shown(shown)
    assert re.search(r"^  -c, --concurrency N,N +Load points: requests in", shown.text, re.MULTILINE)


@pytest.mark.server
@pytest.mark.timeout(240)
def test_what_is_measured_fits_the_terminal(live: Live) -> None:
    load = ["--model", "tiny", "--concurrency", "4", "--duration", "300ms", "--output", "load.npz"]
    sweep = "--model tiny --set instance_group.count=1,2 --concurrency 1,2 --rounds 1 --duration 50ms --warmup 20ms"
    shown = live.ground.shown("load", live.url, *load)
    well_shown(shown)
    assert "throughput  " in shown.text and "every request is in load.npz" in shown.text
    shown = live.ground.shown("sweep", live.url, *sweep.split(), "--output", "sweep")
    well_shown(shown)
    assert "vs current" in shown.text and "report: sweep/report.html" in shown.text
    assert set(re.findall(r"\d of (\d+) trials", shown.plain)) == {"6"}, "trials in all: known from the start"
    assert re.search(r"current config .* 1 +current *\r\n", shown.plain) and "  racing" in shown.plain
    assert "rounds  state" not in shown.text, "the table is taken away"
    rows = [json.dumps({"id": f"row {number}", "x": [float(number)] * 16}) for number in range(40)]
    (live.ground.root / "rows.jsonl").write_text("\n".join(rows))
    for line, text, columns in (
        (f"batch rows.jsonl -o answers.jsonl --url {live.url} -m tiny", "40 of 40 rows answered", 80),
        ("report sweep", "vs current", 80),
        ("compare sweep sweep", "throughput ", 80),
        ("compare sweep sweep", "throughput ", 120),
        ("apply sweep", "Nothing was applied", 80),
    ):
        shown = live.ground.shown(*line.split(), columns=columns)
        well_shown(shown)
        assert text in shown.text, shown.text


@pytest.mark.server
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("load URL --model tiny --duration 20s", r" [1-9]\d* requests"),
        # The client processes still import what they need.
        ("load URL --model tiny --duration 20s --processes 2", "asking the server"),
        (
            "sweep URL --model tiny --set instance_group.count=1,2 --concurrency 1 --duration 2s --output cut",
            "round 1",
        ),
    ],
    ids=["load", "load-processes", "sweep"],
)
def test_ctrl_c_ends_what_measures(live: Live, line: str, at: str) -> None:
    with live.ground.terminal(*line.replace("URL", live.url).split()) as terminal:
        terminal.wait_for(at)
        if "--processes" in line:
            wait_until_a_child_imports(terminal, "_multiarray_umath")
        interrupted(live.ground, terminal, left_behind(live.ground))


def wait_until_a_child_imports(terminal: Terminal, library: str) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        for child in psutil.Process(terminal.pid).children():
            with suppress(psutil.Error):
                if any(library in loaded.path for loaded in child.memory_maps()):
                    return
    raise TimeoutError(library)
