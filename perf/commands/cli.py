"""The perf harness's commands, each in a light module of its own under perf/commands."""

from __future__ import annotations

import typer

from tritonsmith.builder.commands.help import Command
from tritonsmith.perf.commands.apply.command import apply
from tritonsmith.perf.commands.batch.command import batch
from tritonsmith.perf.commands.demo import demo
from tritonsmith.perf.commands.doctor import doctor
from tritonsmith.perf.commands.init import init
from tritonsmith.perf.commands.load.load import load
from tritonsmith.perf.commands.release.publish import publish
from tritonsmith.perf.commands.release.rollback import rollback
from tritonsmith.perf.commands.release.versions import versions
from tritonsmith.perf.commands.runs.compare import compare
from tritonsmith.perf.commands.runs.report import report
from tritonsmith.perf.commands.serving.infer import infer
from tritonsmith.perf.commands.serving.serve import serve
from tritonsmith.perf.commands.serving.server import app as server
from tritonsmith.perf.commands.serving.status import status
from tritonsmith.perf.commands.sweep.sweep import sweep


def register(app: typer.Typer) -> None:
    """Adds the commands that need a live server, and init, which may read one."""
    panel = "Measure"
    app.command(cls=Command, rich_help_panel=panel)(serve)
    app.command(cls=Command, rich_help_panel=panel)(status)
    app.command(cls=Command, rich_help_panel=panel)(infer)
    app.command(cls=Command, rich_help_panel=panel)(load)
    app.command(cls=Command, rich_help_panel=panel)(batch)
    app.command(cls=Command, rich_help_panel=panel)(sweep)
    app.command(cls=Command, rich_help_panel=panel)(report)
    app.command(cls=Command, rich_help_panel=panel)(compare)
    app.command(cls=Command, rich_help_panel=panel)(apply)
    app.add_typer(server, name="server", rich_help_panel=panel)
    panel = "Publish"
    app.command(cls=Command, rich_help_panel=panel)(publish)
    app.command(cls=Command, rich_help_panel=panel)(rollback)
    app.command(cls=Command, rich_help_panel=panel)(versions)
    app.command(cls=Command, rich_help_panel="Start here")(init)
    app.command(cls=Command, rich_help_panel="Start here")(demo)
    app.command(cls=Command, rich_help_panel="Start here")(doctor)
