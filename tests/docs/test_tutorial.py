"""Every command of the tutorial is run here in its order, in an empty directory, and gives what the page shows."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import Block, blocks, environment

BLOCKS = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
URL = "http://127.0.0.1:8000"
SAYS_ITS_URL = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--format", "json"]


class Reader:
    """Somebody who follows the page."""

    def __init__(self, project: Path) -> None:
        self.project = project
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

    def runs(self, command: str) -> str:
        began = time.monotonic()
        result = subprocess.run(
            ["bash", "-ceu", command.replace(URL, self.url)],
            cwd=self.project,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=120,
        )
        self.seconds.append((time.monotonic() - began, command[:60]))
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def serves(self, command: str) -> None:
        """As the second terminal; on free ports, which a test may not take for granted."""
        began = time.monotonic()
        self.server = subprocess.Popen(
            [*command.split(), *SAYS_ITS_URL],
            cwd=self.project,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
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
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    if reader.server is not None:
        reader.server.kill()
        reader.server.communicate()


def test_a_line_is_compared_loosely() -> None:
    line = "classifier  exported       9.5 s  rel. L2 5.2e-08  (new)"
    assert re.search(loosely(line), "classifier  exported  12.25 s  rel. L2 7e-08  (new)")
    assert not re.search(loosely(line), "classifier  failed  12.25 s  rel. L2 7e-08  (new)")
    assert not re.search(loosely("1 model: 0 errors, 0 warnings"), "1 model: 1 errors, 0 warnings")
    assert re.search(
        loosely("1 of 1 models written: …/model_repository"), "1 of 1 models written: /x/model_repository"
    )


def test_its_beginning_is_what_it_shows(reader: Reader) -> None:
    first = next(n for n, block in enumerate(BLOCKS) if block.commands == ["tritonsmith plan"])
    begins = [block for block in BLOCKS[:first] if block.mark.startswith("file: ")]
    for block in (*begins, *BLOCKS[first : first + 2]):
        reader.follows(block)


@pytest.mark.nightly
@pytest.mark.server
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="not installed: torch; run `make install`"
)
@pytest.mark.timeout(400)
def test_its_commands_do_what_it_shows(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITONSMITH_CACHE", str(reader.project / "cache"))
    for block in BLOCKS:
        reader.follows(block)
    assert (reader.project / "production" / "classifier" / "1" / "model.onnx").is_file()
    with capsys.disabled():
        rows = [f"{seconds:6.1f} s  {command}" for seconds, command in reader.seconds]
        print("\n".join(["", *rows, f"{sum(s for s, _ in reader.seconds):6.1f} s  the whole tutorial"]))
