"""`status`: a server's index and counters → a table, JSON, and rates from look to look."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.perf.fake_server import FakeServer, fake_server
from tests.terminal import CTRL_C, Terminal
from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError
from tritonsmith.builder.base.text.text_layout import cells
from tritonsmith.perf.commands.serving.looked import Look, json_of_look, look_from, text_of_look
from tritonsmith.perf.commands.serving.status import status
from tritonsmith.perf.load.once import ask_once
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array


def ask(server: FakeServer, rows: int, times: int) -> None:
    payload = InferPayload("m", (tensor_from_array("x", np.ones((rows, 4), np.float32)),))
    for _ in range(times):
        assert ask_once(HttpTarget(server.url), payload, 5).error is None


def test_a_look_has_states_counters_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server() as server:
        ask(server, 1, 1)
        ask(server, 4, 3)
        status(server.url, watch=True)  # not on a terminal: once
        text = capsys.readouterr().out
        assert text.startswith(f"fake 0.0 at {server.url}: 1 of 3 models ready\n\nMODEL ")
        (row,) = re.findall("^m .*", text, re.MULTILINE)
        assert row.split() == [
            "m",
            "1",
            "READY",
            "4",
            "0",
            "3.2",
            "50",
            "µs",
            "100",
            "µs",
            "4:",
            "75%,",
            "1:",
            "25%",
        ]
        assert re.search("^unloaded +- +NOT LOADED$", text, re.MULTILINE)
        assert text.endswith("\n\nbroken version 2: onnx: not a graph\n")
        status(server.url, model=["m"], format="json")
        (told,) = json.loads(capsys.readouterr().out)["models"]
        assert (told["name"], told["state"], told["reason"]) == ("m", "READY", None)
        assert told["counters"]["batch_executions"] == {"1": 1, "4": 3}
        with pytest.raises(UsageError) as caught:
            status(server.url, model=["n"])
        assert caught.value.code == "unknown_model"


def test_a_server_that_wants_a_header_is_shown_it(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server(require_header=("X-Token", "t")) as server:
        with pytest.raises(TrialError, match="no access"):
            status(server.url)
        status(server.url, header=["X-Token: t"])
        assert "READY" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "fix"), [("localhost:8000", "http://localhost:8000"), (".", "status http://localhost:8000")]
)
def test_what_is_no_url_is_a_usage_error(url: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        status(url)
    assert caught.value.code == "bad_url" and fix in str(caught.value.fix)


def test_where_nothing_answers_it_is_a_server_error() -> None:
    for url in ("http://127.0.0.1:9", "[::1]:9"):
        with pytest.raises(ServerError, match="nothing answers HTTP at"):
            status(url)


def look(at_s: float, *rows: Any) -> Look:
    """rows: (name, requests, hits, misses)."""
    index = [{"name": name, "version": "1", "state": "READY"} for name, *_ in rows]
    statistics = [
        {
            "name": name,
            "version": "1",
            "inference_count": requests,
            "execution_count": requests,
            "inference_stats": {
                "success": {"count": requests, "ns": 0},
                "queue": {"count": requests, "ns": requests**2 * 1000},
                "cache_hit": {"count": hits, "ns": 0},
                "cache_miss": {"count": misses, "ns": 0},
            },
        }
        for name, requests, hits, misses in rows
    ]
    return look_from({"name": "triton"}, "http://h", index, statistics, (), at_s)


def test_between_two_looks_only_what_came_since_counts() -> None:
    first, second = (
        look(10.0, ("a", 10, 1, 9), ("b", 50, 0, 0)),
        look(12.5, ("a", 20, 10, 10), ("b", 5, 0, 0)),
    )
    head, _, names, a, b = text_of_look(second, first, None).split("\n")
    assert head.endswith("; of the last 2.5 s") and "REQUESTS/S" in names
    # 10 more requests in 2.5 s, whose queue time is (20² - 10²) µs of all; 9 of 10 look-ups hit.
    assert a.split() == ["a", "1", "READY", "4.0", "0.0", "1.0", "30", "µs", "0", "µs", "90%"]
    assert b.split()[3] == "2.0", "loaded anew in between: what it counted since"
    assert "a 1 READY 20" in " ".join(text_of_look(second, None, None).split())
    idle = text_of_look(replace(second, at_s=14.5), second, None).split("\n")[3]
    assert idle.split() == ["a", "1", "READY", "0.0", "0.0"]


def test_the_table_fits_and_shows_no_control_characters() -> None:
    wide = look(1.0, ("a\x1b[31m" + "n" * 90, 10, 1, 9))
    for width in (70, 100, 160):
        assert max(cells(line) for line in text_of_look(wide, None, width).split("\n")[2:]) <= width
    assert "\x1b" not in text_of_look(wide, None, None)
    assert "no models" in text_of_look(look(1.0), None, 80)
    assert json_of_look(wide)["models"][0]["counters"]["cache_hits"] == 1


def test_a_watch_shows_rates_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tritonsmith", "status"]
    with fake_server() as server:
        environment = {**os.environ, "TERM": "xterm"}
        with Terminal(
            [*command, server.url, "--watch", "--every", "300ms"], cwd=tmp_path, env=environment, columns=120
        ) as terminal:
            terminal.wait_for("1 of 3 models ready")
            ask(server, 2, 40)
            terminal.wait_for(r"REQUESTS/S[\s\S]*m +1 +READY +[1-9][\d.]* +0\.0 +2\.0 +50 µs")
            terminal.press(CTRL_C)
            shown = terminal.finish(20)
    assert shown.code == 130 and shown.is_cursor_visible and "Traceback" not in shown.raw
    assert shown.text.count("models ready") == 1, "one picture, drawn over"
