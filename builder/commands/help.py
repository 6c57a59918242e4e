"""A command → its --help: sentences that fit the terminal, options in their groups, no name shortened."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tritonsmith.builder.base.errors import UsageError, unknown
from tritonsmith.builder.base.text.console import is_verbose, note, set_loudness
from tritonsmith.builder.base.text.text_layout import cells, wrapped
from tritonsmith.builder.commands.parameters import completion
from tritonsmith.builder.commands.parameters.everywhere import PANEL, with_flags
from tritonsmith.builder.commands.parameters.metavars import metavar_of

_NAME_COLUMNS = 26
_PANELS = ("Start here", "Build", "Measure", "Publish")
"""Those of commands, in the order in which they are met; others follow."""

OLD_NAMES = {"sweep": {"--spec": "--sweep-spec"}}
"""Names of a command's options that still work and are not shown → the names of now."""

Rows = Sequence[tuple[str, str]]
"""(name, what it is) each."""


class Command(TyperCommand):
    """A command that explains itself so."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name, in brackets what may be left out."""
        return _usage(self, ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own and those that every command has, each with what stands for its value and completes it."""
        return completion.completed([_named(p) for p in with_flags(super().get_params(ctx))])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Says which name an old one has now. An option whose value is yet to be typed does not hide what stands before it."""
        if ctx.resilient_parsing and args and args[-1] in _with_value(self.get_params(ctx)):
            args = args[:-1]
        before_rest = args[: args.index("--")] if "--" in args else args
        for old, new in OLD_NAMES.get(self.name or "", {}).items():
            if not ctx.resilient_parsing and any(word.partition("=")[0] == old for word in before_rest):
                note(f"note: `{self.name} {old}` is named {new} now; {old} is models.yaml everywhere else")
        rest: list[str] = super().parse_args(ctx, args)
        if (
            "verbose" in ctx.params
        ):  # a command whose own result has more in it: the same flag, and the same meaning
            ctx.params["verbose"] = ctx.params["verbose"] or is_verbose()
            set_loudness(verbose=ctx.params["verbose"])
        return rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        formatter.write(_help(self, ctx, formatter.width, options_of(self, ctx)))


class Group(TyperGroup):
    """A command of commands that explains itself so."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words after the command's name, in brackets what may be left out."""
        return _usage(self, ctx)

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own and those that every command has."""
        return [_named(p) for p in with_flags(super().get_params(ctx))]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer does; UsageError with the nearest name for an unknown one."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise UsageError(
                f"{ctx.command_path} has no such command",
                code="unknown_command",
                **unknown(args[0], self.list_commands(ctx), f"{ctx.command_path} --help lists them"),
            )
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help."""
        groups = {**_commands(self, ctx), **options_of(self, ctx)}
        formatter.write(_help(self, ctx, formatter.width, groups))


def show_help(
    ctx: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", show_default=False)] = None,
) -> None:
    """Show what a command does, its options and examples.

    Examples: tritonsmith help build
              tritonsmith help cache gc
    """
    at: Any = ctx.find_root()
    for word in command or ():
        if not isinstance(at.command, TyperGroup):
            raise UsageError(
                f"{at.command_path} has no commands of its own", code="unknown_command", seen=word
            )
        name, found, _ = at.command.resolve_command(at, [word])
        assert found is not None
        at = type(ctx)(found, info_name=name, parent=at)
    typer.echo(at.get_help())


def _with_value(parameters: Sequence[Any]) -> set[str]:
    return {name for p in parameters if p.metavar and p.param_type_name == "option" for name in p.opts}


def _named(parameter: Any) -> Any:
    parameter.metavar = metavar_of(parameter)
    return parameter


def _help(command: Any, ctx: Any, width: int, groups: Mapping[str, Rows]) -> str:
    usage = " ".join(["Usage:", ctx.command_path, *command.collect_usage_pieces(ctx)])
    parts = [wrapped(usage, width)]
    parts += [_paragraph(text, width) for text in (command.help or "").split("\n\n")]
    parts += ["\n".join([f"{name}:", *_lines(rows, width)]) for name, rows in groups.items()]
    return "\n\n".join(parts) + "\n"


def _usage(command: Any, ctx: Any) -> list[str]:
    pieces = ["[OPTIONS]"]
    for parameter in command.get_params(ctx):
        if parameter.param_type_name == "argument" and not getattr(parameter, "hidden", False):
            needed = parameter.required or "[required]" in (parameter.help or "")
            name = parameter.metavar if needed else f"[{parameter.metavar}]"
            pieces.append(name + ("..." if parameter.nargs != 1 else ""))
    return [*pieces, "COMMAND", "[ARGS]..."] if isinstance(command, TyperGroup) else pieces


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


def options_of(command: Any, ctx: Any) -> dict[str, Rows]:
    """Panel → its arguments and options, each with what it is; what every command has comes last."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    old = OLD_NAMES.get(command.name or "", {})
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        is_argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        if parameter.name == "help" and not is_argument:
            panel = PANEL
        name = _argument(parameter) if is_argument else _option(parameter, old)
        groups[panel].append((name, _text(record[1])))
    general = {PANEL: groups.pop(PANEL)} if PANEL in groups else {}
    return {**groups, **general}


def _argument(parameter: Any) -> str:
    return f"{parameter.metavar}..." if parameter.nargs != 1 else str(parameter.metavar)


def _option(parameter: Any, old: Mapping[str, str]) -> str:
    names = [", ".join(_short_first(name for name in parameter.opts if name not in old))]
    if parameter.secondary_opts:
        names.append(", ".join(_short_first(parameter.secondary_opts)))
    value = f" {parameter.metavar}" if parameter.metavar else ""
    return " / ".join(names) + value


def _short_first(names: Any) -> list[str]:
    return sorted(names, key=lambda name: name.startswith("--"))


def _text(text: str) -> str:
    """What a parameter is, and in one pair of brackets what holds of its value: `[default: 4; at least 1]`."""
    text = text.replace("\\[", "[")  # as typer before 0.2x writes for rich
    text = re.sub(r"; (?:default:|by default) ([^\[\]]+?)\.?(?=  \[|$)", r".  [default: \1]", text)
    text = text.replace("]  [", "; ")
    text = re.sub(r"\b([\d.]+)<=x<=([\d.]+)", r"\1 to \2", text)
    text = re.sub(r"\bx>=([\d.]+)", r"at least \1", text)
    text = re.sub(r"(\d)\.0(?=[;\]])", r"\1", text)
    return re.sub(r"default: \((.*?)\)(?=[;\]])", r"default: \1", text)


def _commands(group: Any, ctx: Any) -> dict[str, Rows]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        panel = getattr(command, "rich_help_panel", None)
        first = " ".join((command.help or "").split("\n\n")[0].split())
        groups[panel if isinstance(panel, str) else "Commands"].append((name, first))
    order = {panel: place for place, panel in enumerate(_PANELS)}
    return dict(sorted(groups.items(), key=lambda group: order.get(group[0], len(order))))
