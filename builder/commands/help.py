"""A command → its --help: sentences that fit the terminal, options in their groups, no name shortened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

from tritonsmith.builder.base.text.text_layout import cells, wrapped

_NAME_COLUMNS = 26

Rows = Sequence[tuple[str, str]]
"""(name, what it is) each."""


class Command(TyperCommand):
    """A command that explains itself so."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        formatter.write(_help(self, ctx, formatter.width, _options(self, ctx)))


class Group(TyperGroup):
    """A command of commands that explains itself so."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        groups = {**_options(self, ctx), **_commands(self, ctx)}
        formatter.write(_help(self, ctx, formatter.width, groups))


def _help(command: Any, ctx: Any, width: int, groups: Mapping[str, Rows]) -> str:
    usage = " ".join(["Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [wrapped(usage, width)]
    parts += [_paragraph(text, width) for text in (command.help or "").split("\n\n")]
    parts += ["\n".join([f"{name}:", *_lines(rows, width)]) for name, rows in groups.items()]
    return "\n\n".join(parts) + "\n"


def _paragraph(text: str, width: int) -> str:
    """Sentences run on however they are broken in the source; of examples each line is one."""
    if text.startswith("Example"):
        return wrapped(text.rstrip(), width)
    return wrapped(" ".join(text.split()), width, hang=0)


def _lines(rows: Rows, width: int) -> list[str]:
    """What it is stands beside each name, and below a name that is too long for that."""
    names = [cells(name) for name, _ in rows]
    room = max((n for n in names if n <= _NAME_COLUMNS), default=_NAME_COLUMNS)
    hang = " " * (room + 4)
    lines = []
    for name, text in rows:
        first, *others = wrapped(text, width - len(hang), hang=0).split("\n")
        lines += [f"  {name:<{room}}  {first}"] if cells(name) <= room else [f"  {name}", hang + first]
        lines += [hang + line for line in others]
    return lines


def _options(command: Any, ctx: Any) -> dict[str, Rows]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        if record is not None:
            groups[getattr(parameter, "rich_help_panel", None) or kind].append(record)
    return dict(groups)


def _commands(group: Any, ctx: Any) -> dict[str, Rows]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        panel = getattr(command, "rich_help_panel", None)
        first = " ".join((command.help or "").split("\n\n")[0].split())
        groups[panel if isinstance(panel, str) else "Commands"].append((name, first))
    return dict(groups)
