"""The perf harness's commands, each in a light module of its own under perf/commands."""

from __future__ import annotations

import typer

from perf.commands.apply import apply
from perf.commands.compare import compare
from perf.commands.demo import demo
from perf.commands.init import init
from perf.commands.load import load
from perf.commands.report import report
from perf.commands.serve import serve
from perf.commands.sweep import sweep


def register(app: typer.Typer) -> None:
    """Adds the commands that need a live server, and init, which may read one."""
    panel = "Measure"
    app.command(rich_help_panel=panel)(serve)
    app.command(rich_help_panel=panel)(load)
    app.command(rich_help_panel=panel)(sweep)
    app.command(rich_help_panel=panel)(report)
    app.command(rich_help_panel=panel)(compare)
    app.command(rich_help_panel=panel)(apply)
    app.command(rich_help_panel="Start here")(demo)
    app.command(rich_help_panel="Start here")(init)
