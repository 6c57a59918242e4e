"""Every command of the tutorial, run in its order by somebody new: a wheel, a fresh environment and home, 80 columns."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conftest import ROOT
from tests.pages import Block, blocks, environment
from tests.terminal import Terminal

BLOCKS = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
INSTALL = re.findall(
    r"^(?:pip install|tritonsmith) [^#\n]*", (ROOT / "docs" / "index.md").read_text("utf-8"), re.M
)[:3]
URL = "http://127.0.0.1:8000"
SAYS_ITS_URL = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--format", "json"]


class Reader:
    """Somebody who follows the page, in terminals of 80 columns."""

    def __init__(self, project: Path, shell: Mapping[str, str]) -> None:
        self.project = project
        self.shell = {**shell, "NO_COLOR": "1", "TERM": "xterm-256color"}
        self.said = ""
        self.seconds: list[tuple[float, str]] = []
        self.server: subprocess.Popen[str] | None = None
        self.url = URL

    def follows(self, block: Block) -> None:
        """Writes the file, runs the commands, or compares what is shown with what the last ones said."""
        if block.mark.startswith("file: "):
            (self.project / block.mark.removeprefix("file: ")).write_text(block.body)
        elif block.mark == "background":
            self.serves(*block.commands)
        elif (
            block.mark.startswith("only-after: ") and block.mark.removeprefix("only-after: ") not in self.said
        ):
            return
        elif block.language == "console":
            self.said = "".join(self.runs(command) for command in block.commands)
            if block.mark == "then stop":
                self.stops()
        elif block.language == "yaml":
            self.compares(block, (self.project / "models.yaml").read_text())
        else:
            self.compares(block, self.said)

    def runs(self, command: str, timeout_s: float = 120) -> str:
        began = time.monotonic()
        line = ["bash", "-ceu", command.replace(URL, self.url)]
        with Terminal(line, cwd=self.project, env=self.shell) as terminal:
            shown = terminal.finish(timeout_s)
        self.seconds.append((time.monotonic() - began, command))
        assert shown.code == 0, f"{command}\n{shown.text}"
        too_wide = [
            line for line in shown.too_wide if not line.startswith("+")
        ]  # of a file's diff, as it is there
        assert not command.startswith("tritonsmith") or not too_wide, f"{command}\n{too_wide}"
        return shown.plain.replace("\r\n", "\n")

    def serves(self, command: str) -> None:
        """As the second terminal; on free ports, which a test may not take for granted."""
        began = time.monotonic()
        self.server = subprocess.Popen(
            [*command.split(), *SAYS_ITS_URL],
            cwd=self.project,
            stdout=subprocess.PIPE,
            text=True,
            env=self.shell,
        )
        assert self.server.stdout is not None
        text = ""
        while not text.rstrip().endswith("}") or text.count("{") != text.count("}"):
            line = self.server.stdout.readline()
            assert line, "the server ended before it was ready"
            text += line
        self.url = json.loads(text)["http_url"]
        self.seconds.append((time.monotonic() - began, command))

    def stops(self) -> None:
        """Ctrl-C in the second terminal."""
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.communicate(timeout=30)
            assert self.server.returncode == 130
            self.server = None

    def compares(self, block: Block, said: str) -> None:
        if block.mark == "varies":  # the words, whatever the numbers and the verdict
            wanted = re.findall(r"(?<![\w…])[a-z_]{4,}(?![\w…])", block.body)
            missing = [word for word in wanted if word not in said]
        else:
            missing = [
                line for line in block.body.splitlines() if not re.search(loosely(line), said, re.MULTILINE)
            ]
        assert not missing, f"{missing} is not in\n{said}"


def loosely(line: str) -> str:
    """A line of the page → a pattern: measured numbers and … may be anything, whole numbers and words are as shown."""
    loose = re.compile(r"…|\d+\.\d+(?:e-?\d+)?|\s+")
    pieces = loose.split(line.strip())
    marks = [
        {"…": ".*"}.get(mark, r"\s+" if mark.isspace() else r"[\d.]+(e-?\d+)?")
        for mark in loose.findall(line.strip())
    ]
    return re.escape(pieces[0]) + "".join(
        mark + re.escape(piece) for mark, piece in zip(marks, pieces[1:], strict=True)
    )


@pytest.fixture
def newcomer() -> Iterator[Reader]:
    """Nothing of this checkout, of this environment or of its caches is theirs; pip's configuration is the machine's."""
    with TemporaryDirectory() as temporary:  # no name as long as pytest's: homes are called /home/ann
        home, project, constraint = (Path(temporary) / name for name in ("home", "project", "constraint.txt"))
        home.mkdir()
        project.mkdir()
        constraint.write_text("torch==2.13.0\n")
        shell = {
            name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG", "LC_"))
        }
        shell |= {
            "HOME": str(home),
            "PATH": f"{home}/venv/bin:/usr/bin:/bin",
            "PIP_CONSTRAINT": str(constraint),
        }
        reader = Reader(project, shell)
        yield reader
        if reader.server is not None:
            reader.server.kill()
            reader.server.communicate()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """The checkout's."""
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path / "built"),
    ]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    return next((tmp_path / "built").glob("*.whl"))


def test_a_line_is_compared_loosely() -> None:
    line = "classifier  exported       9.5 s  rel. L2 5.2e-08  (new)"
    assert re.search(loosely(line), "classifier  exported  12.25 s  rel. L2 7e-08  (new)")
    assert not re.search(loosely(line), "classifier  failed  12.25 s  rel. L2 7e-08  (new)")
    assert not re.search(loosely("1 model: 0 errors, 0 warnings"), "1 model: 1 errors, 0 warnings")
    assert re.search(
        loosely("1 of 1 models written: …/model_repository"), "1 of 1 models written: /x/model_repository"
    )


def test_its_beginning_is_what_it_shows(tmp_path: Path) -> None:
    reader = Reader(tmp_path, environment())
    first = next(n for n, block in enumerate(BLOCKS) if block.commands == ["tritonsmith plan"])
    begins = [block for block in BLOCKS[:first] if block.mark.startswith("file: ")]
    for block in (*begins, *BLOCKS[first : first + 2]):
        reader.follows(block)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_newcomer_has_a_model_of_their_own_served_and_swept_in_ten_minutes(
    newcomer: Reader, wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newcomer.runs(f"{sys.executable} -m venv $HOME/venv")
    assert [command.split()[:2] for command in INSTALL] == [
        ["pip", "install"],
        ["tritonsmith", "server"],
        ["tritonsmith", "doctor"],
    ]
    for command in INSTALL:
        newcomer.runs(
            command.replace("tritonsmith[torch]", f"tritonsmith[torch] @ {wheel.as_uri()}"), timeout_s=900
        )
    for block in BLOCKS:
        newcomer.follows(block)
    where = newcomer.runs("python -c 'import tritonsmith; print(tritonsmith.__file__)' | tail -c 60")
    assert "site-packages/tritonsmith/__init__.py" in where
    assert (newcomer.project / "production" / "classifier" / "1" / "model.onnx").is_file()
    swept = next(n for n, (_, command) in enumerate(newcomer.seconds) if "sweep model_repository" in command)
    to_swept_s = sum(seconds for seconds, _ in newcomer.seconds[: swept + 1])
    with capsys.disabled():
        rows = [f"{seconds:6.1f} s  {command[:60]}" for seconds, command in newcomer.seconds]
        print(
            "\n".join(
                ["", *rows, f"{to_swept_s:6.1f} s  from an empty environment to a model served and swept"]
            )
        )
        print(f"{sum(s for s, _ in newcomer.seconds):6.1f} s  the whole tutorial")
    assert to_swept_s < 600
