"""The builder's commands, each in a light module of its own under builder/commands."""

from __future__ import annotations

import typer

from tritonsmith.builder.commands.build import build
from tritonsmith.builder.commands.cache import app as cache
from tritonsmith.builder.commands.check import check
from tritonsmith.builder.commands.diff import diff
from tritonsmith.builder.commands.help import Command
from tritonsmith.builder.commands.plan import plan
from tritonsmith.builder.commands.schema import schema


def register(app: typer.Typer) -> None:
    """Adds plan, build, check, diff, schema and cache."""
    panel = "Build"
    app.command(cls=Command, rich_help_panel=panel)(plan)
    app.command(cls=Command, rich_help_panel=panel)(build)
    app.command(cls=Command, rich_help_panel=panel)(check)
    app.command(cls=Command, rich_help_panel=panel)(diff)
    app.command(cls=Command, rich_help_panel=panel)(schema)
    app.add_typer(cache, name="cache", rich_help_panel=panel)
