"""`tritonsmith status`: a running Triton → its models, their state, and what they did, once or over and over."""

from __future__ import annotations

from typing import Literal

from tritonsmith.perf.commands.flattened import argument, flag, flattened
from tritonsmith.perf.commands.load.options import ServerFlags


@flattened
def status(
    url: str = argument(
        "http://localhost:8000", "A Triton's URL: http, https, grpc or grpcs.", metavar="URL"
    ),
    *,
    model: list[str] | None = flag(None, "Only this model; may be repeated.", "--model", "-m"),
    watch: bool = flag(
        False,
        "Look again and again until Ctrl-C, and show rates; once where stdout is no terminal.",
        "--watch",
        "-w",
    ),
    every: str = flag("2s", "With --watch: time from look to look."),
    server: ServerFlags,
    format: Literal["text", "json"] = flag("text", "How to write the models."),
) -> None:
    """Show a running server's models, their states and statistics.

    Counters are the server's own since each model was loaded; queue and compute times are means of a request. With --watch
    they are of the time since the last look. A model that is not ready comes with Triton's reason.

    Examples: tritonsmith status
              tritonsmith status https://triton.example -H @token.txt --format json
              tritonsmith status grpc://localhost:8001 --watch --every 5s
    """
    from tritonsmith.perf.commands.serving.looking import run

    run(url, model or (), every if watch else None, server, format == "json")
