"""The builder's commands, each in a light module of its own under builder/commands."""

from __future__ import annotations

import typer

from builder.commands.build import build
from builder.commands.cache import app as cache
from builder.commands.check import check
from builder.commands.diff import diff
from builder.commands.help import Command
from builder.commands.plan import plan
from builder.commands.schema import schema


def register(app: typer.Typer) -> None:
    """Adds plan, build, check, diff, schema and cache."""
    panel = "Build"
    app.command(cls=Command, rich_help_panel=panel)(plan)
    app.command(cls=Command, rich_help_panel=panel)(build)
    app.command(cls=Command, rich_help_panel=panel)(check)
    app.command(cls=Command, rich_help_panel=panel)(diff)
    app.command(cls=Command, rich_help_panel=panel)(schema)
    app.add_typer(cache, name="cache", rich_help_panel=panel)
