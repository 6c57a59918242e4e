"""(a server's URL, how often) → looks at its models, told once or drawn over on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.address import is_bracketed
from tritonsmith.builder.base.text.console import emit_json, emit_text, is_drawable, width_of
from tritonsmith.builder.base.text.shown import visible, without_secrets
from tritonsmith.perf.commands.load.flags import seconds_from_text, server_fields
from tritonsmith.perf.commands.load.options import ServerFlags
from tritonsmith.perf.commands.serving.looked import Look, json_of_look, look_from, text_of_look
from tritonsmith.perf.load.load_test import LoadTest, fitted, server_of
from tritonsmith.perf.load.served_model import unknown_model
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.wire.api import ServerApi

_LEAST_S = 0.2


def run(url: str, models: Sequence[str], every: str | None, flags: ServerFlags, as_json: bool) -> None:
    """Tell a look, or draw one after the other; every: None looks once."""
    every_s = max(_LEAST_S, seconds_from_text(every)) if every is not None else 0.0
    api = _api(url, flags)
    if every_s and not as_json and is_drawable(sys.stdout):
        _watch(api, url, models, every_s)
        return
    look = _look(api, url, models)
    emit_json(json_of_look(look)) if as_json else emit_text(text_of_look(look, None, width_of(sys.stdout)))


def _api(url: str, flags: ServerFlags) -> ServerApi:
    if is_bracketed(url):  # [::1]:8000 is nothing else
        url = f"http://{url}"
    if "://" not in url:
        is_directory = Path(url).is_dir()
        raise UsageError(
            "a directory does not say where it is served" if is_directory else "not a server's URL",
            code="bad_url",
            seen=url,
            valid=["http://HOST:8000", "https://HOST", "grpc://HOST:8001", "grpcs://HOST:8001"],
            fix="tritonsmith status http://localhost:8000"
            if is_directory
            else f"tritonsmith status http://{url}",
        )
    test = LoadTest("", Closed(1), **server_fields(flags))
    api, _ = server_of(url, fitted(test, url))
    return api


def _look(api: ServerApi, url: str, models: Sequence[str]) -> Look:
    index = api.repository_index()
    names = sorted({str(row["name"]) for row in index})
    for name in models:
        if name not in names:
            raise unknown_model(name, names)
    statistics = api.statistics("")
    about = api.server_metadata()
    return look_from(about, url, index, statistics, models, time.monotonic())


def _watch(api: ServerApi, url: str, models: Sequence[str], every_s: float) -> None:
    """Until Ctrl-C; the last picture stays."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    last: Look | None = None
    console = Console(file=sys.stdout, highlight=False)

    def picture(look: Look) -> Any:
        width = width_of(sys.stdout)
        text = visible(without_secrets(text_of_look(look, last, width)))
        lines = text.split("\n")
        room = max(console.height - 1, 1)  # what does not fit would be drawn again below, again and again
        if len(lines) > room:
            lines = [*lines[: room - 1], f"… {len(lines) - room + 1} lines more; --model NAME shows one"]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                look = _look(api, url, models)
                live.update(picture(look), refresh=True)
                last = look
                time.sleep(every_s)
    finally:
        console.show_cursor()
