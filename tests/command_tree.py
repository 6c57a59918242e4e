"""The command line → all of its commands, and a line that somebody would type → what typer makes of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

from tritonsmith import command_line

ROOT: Any = typer.main.get_command(command_line.app)


def all_commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """`cache gc` and its command, of every command that does something, and the groups `cache` and `server`."""
    for name, command in group.commands.items():
        yield " ".join((*path, name)), command
        if hasattr(command, "commands"):
            yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands())


def context_of(name: str) -> Any:
    """The context that a command's help is made in."""
    command, at = ROOT, ROOT.make_context("tritonsmith", [], resilient_parsing=True)
    for word in name.split():
        command = command.commands[word]
        at = type(at)(command, info_name=word, parent=at)
    return at


def parsed(line: str) -> Any:
    """The context of the command that the line runs, with its values; typer's or our error where the line is wrong."""
    words = shlex.split(re.split(r" [>|] ", line.strip())[0], comments=True)
    assert words[0] == "tritonsmith"
    at = ROOT.make_context("tritonsmith", words[1:])
    while hasattr(at.command, "commands"):
        before = getattr(at, "_protected_args", None) or getattr(at, "protected_args", [])  # click up to 8.1
        name, command, rest = at.command.resolve_command(at, [*before, *at.args])
        at = command.make_context(name, rest, parent=at)
    return at


def examples_of(command: Any) -> list[str]:
    """The lines of the paragraph `Examples:`."""
    paragraphs = [p for p in (command.help or "").split("\n\n") if p.startswith("Example")]
    return [line.strip() for p in paragraphs for line in p.rstrip().partition(":")[2].split("\n")]
