"""A page of Markdown → its fenced blocks, the commands in it, its headings' anchors; and how its commands are run."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. mark: what the comment just above it says, as `run: examples/demo`; empty without one."""

    mark: str
    language: str
    body: str

    @property
    def commands(self) -> list[str]:
        """What stands behind `$ `."""
        return [line[2:] for line in self.body.splitlines() if line.startswith("$ ")]


def blocks(text: str) -> list[Block]:
    """The page's fenced blocks in their order."""
    found = re.findall(r"(?:<!-- ([^\n]+) -->\n)?```(\w+)\n(.*?)```", text, re.DOTALL)
    return [Block(*one) for one in found]


def commands_of(text: str) -> list[str]:
    """Every command line of tritonsmith on a page: in blocks, indented, or as inline code."""
    lines = re.findall(r"^(?: {4,}|\$ )?(tritonsmith [a-z][^\n]*)", text.replace("\\\n", " "), re.MULTILINE)
    return lines + re.findall(r"`(tritonsmith [a-z][^`\n]*)`", text)


def anchors(text: str) -> set[str]:
    """The anchors of its headings, as GitHub and the site name them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def environment() -> dict[str, str]:
    """Of a shell in which the virtual environment is active."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
    }
