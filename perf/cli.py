"""The perf harness's commands, each in a light module of its own under perf/commands."""

from __future__ import annotations

import typer

from builder.commands.help import Command
from perf.commands.apply import apply
from perf.commands.compare import compare
from perf.commands.demo import demo
from perf.commands.doctor import doctor
from perf.commands.init import init
from perf.commands.load import load
from perf.commands.publish import publish
from perf.commands.report import report
from perf.commands.rollback import rollback
from perf.commands.serve import serve
from perf.commands.server import app as server
from perf.commands.sweep import sweep
from perf.commands.versions import versions


def register(app: typer.Typer) -> None:
    """Adds the commands that need a live server, and init, which may read one."""
    panel = "Measure"
    app.command(cls=Command, rich_help_panel=panel)(serve)
    app.command(cls=Command, rich_help_panel=panel)(load)
    app.command(cls=Command, rich_help_panel=panel)(sweep)
    app.command(cls=Command, rich_help_panel=panel)(report)
    app.command(cls=Command, rich_help_panel=panel)(compare)
    app.command(cls=Command, rich_help_panel=panel)(apply)
    app.add_typer(server, name="server", rich_help_panel=panel)
    panel = "Publish"
    app.command(cls=Command, rich_help_panel=panel)(publish)
    app.command(cls=Command, rich_help_panel=panel)(rollback)
    app.command(cls=Command, rich_help_panel=panel)(versions)
    app.command(cls=Command, rich_help_panel="Start here")(demo)
    app.command(cls=Command, rich_help_panel="Start here")(init)
    app.command(cls=Command, rich_help_panel="Start here")(doctor)
