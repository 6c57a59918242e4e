"""The scripted text server, one process for all tests of this directory."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Scripted:
    port: int

    @property
    def openai(self) -> str:
        return f"openai://127.0.0.1:{self.port}/v1"

    @property
    def triton(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> list[dict[str, Any]]:
        """What it was asked since the last look, and when it wrote what."""
        with urllib.request.urlopen(f"{self.triton}/log", timeout=10) as answer:
            rows: list[dict[str, Any]] = json.loads(answer.read())
        return rows


def scripted_server() -> Iterator[Scripted]:
    """One, as long as somebody waits for the next."""
    program = Path(__file__).with_name("scripted_server.py")
    process = subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        yield Scripted(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)


_scripted_server = pytest.fixture(scope="session", name="_scripted_server")(scripted_server)


@pytest.fixture
def scripted(_scripted_server: Scripted) -> Scripted:
    _scripted_server.log()
    return _scripted_server
