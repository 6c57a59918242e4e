"""Servers that mean harm, on real sockets: one clear error, in little memory and in bounded time, whatever asks them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.perf.hostile_server import BROKEN, MISCOUNTED, MISTOLD, Script, always, answer, hostile_server
from tritonsmith.builder.base.errors import ServerError, TritonsmithError
from tritonsmith.builder.base.files.http_ask import ask, json_from
from tritonsmith.perf.usage.prometheus import samples_of
from tritonsmith.perf.wire import told

MOST_MIB, MOST_S = 100, 12


def judged(every: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.hostile_commands", str(every)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and rows, done.stderr
    bad = [
        row
        for row in rows
        if row["bug"]
        or row["code"] not in (1, 2, 3)
        # A load whose requests failed is no error of the tool, and says so.
        or not (row["error"] or "because" in row["out"])
        or row.get("length", 0) > 4000
        or row["peak_mib"] > MOST_MIB
        or row["took_s"] > MOST_S
    ]
    assert bad == []


def test_commands_end_with_one_error_in_bounded_memory_and_time() -> None:
    judged(every=23)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_all_commands_end_so_with_all_servers() -> None:
    judged(every=1)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_refused(name: str) -> None:
    began_s = time.monotonic()
    with hostile_server(BROKEN[name]) as url, pytest.raises((OSError, ValueError, TritonsmithError)):
        reply = ask(url, "GET", "/v2", timeout_s=5)
        told.server_metadata_from(json_from(reply.body), url)
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("lies", MISTOLD.values(), ids=MISTOLD)
def test_a_lie_about_types_is_refused(lies: dict[str, Any]) -> None:
    parse = {
        "/v2": told.server_metadata_from,
        "/index": told.index_from,
        "/models/m": told.model_metadata_from,
        "/config": told.config_from,
    }
    huge = 1 << 40
    for end, lie in lies.items():
        if end == "/models/m" and lie["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [huge]}]:
            continue  # no lie, but nothing that is drawn
        with pytest.raises(ServerError) as caught:
            parse[end](lie if not isinstance(lie, bytes) else json_from(lie), "http://h")
        assert caught.value.code == "not_triton"


@pytest.mark.parametrize("lie", MISCOUNTED.values(), ids=MISCOUNTED)
def test_a_lie_about_counters_is_refused(lie: Any) -> None:
    with pytest.raises(ServerError):
        told.statistics_from(lie, "http://h")


def test_what_grpc_writes_as_text_and_newer_tritons_add_is_taken() -> None:
    metadata = {"name": "m", "inputs": [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"], "new": 1}]}
    assert told.model_metadata_from(metadata, "")["inputs"][0] == {
        "name": "x", "datatype": "FP32", "shape": [-1, 4], "new": 1,
    }  # fmt: skip
    config = {
        "max_batch_size": "4",
        "version_policy": None,
        "input": [{"dims": ["-1", 2.0]}],
        "new": {"a": [1]},
    }
    assert told.config_from(config, "") == {
        "max_batch_size": 4,
        "input": [{"dims": [-1, 2]}],
        "new": {"a": [1]},
    }


DRIPS = {
    "head": always(b"HTTP/1.1 200 OK\r\n", endless=b"X", pause_s=0.02),
    "body": always(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", endless=b" ", pause_s=0.02),
    "chunks": always(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", endless=b"1\r\n \r\n", pause_s=0.02
    ),
}


@pytest.mark.parametrize("drip", DRIPS.values(), ids=DRIPS)
def test_a_slow_drip_ends_at_the_deadline_of_the_whole(drip: Script) -> None:
    began_s = time.monotonic()
    with hostile_server(drip) as url, pytest.raises(TimeoutError, match=r"no whole answer within 0\.4 s"):
        ask(url, "GET", "/v2", timeout_s=0.4)
    assert time.monotonic() - began_s < 2


def test_a_redirect_is_told_and_not_followed() -> None:
    with (
        hostile_server(BROKEN["redirect"]) as url,
        pytest.raises(OSError, match=r"169\.254\.0\.1.*not followed"),
    ):
        ask(url, "GET", "/v2", timeout_s=5)


def test_an_honest_answer_comes_whole_whatever_its_framing() -> None:
    text = json.dumps({"name": "é" * 100_000}).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (text[:7], text[7:90_000], text[90_000:]))
    for script in (
        always(*answer(text)),
        always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"),
        always(b"HTTP/1.0 200 OK\r\n\r\n" + text),
    ):
        with hostile_server(script) as url:
            assert ask(url, "GET", "/v2", timeout_s=5).body == text


def test_one_module_asks_over_http() -> None:
    asking = re.compile(
        r"^\s*(?:import|from) (?:http\.client|urllib\.request|requests|urllib3|aiohttp)\b", re.MULTILINE
    )
    own = {
        "builder/base/files/http_ask.py",
        "perf/server/environment/canary.py",
    }  # the canary asks a server that it has just started
    found = {
        str(path.relative_to(ROOT))
        for package in ("builder", "perf")
        for path in (ROOT / package).rglob("*.py")
        if asking.search(path.read_text()) and "bench" not in path.parts
    }
    assert found == own


def test_metrics_of_a_liar_cost_no_time_and_no_error() -> None:
    began_s = time.monotonic()
    labels = "nv_inference_request_failure{" + "a" * 3000
    text = "nv_energy_consumption{\n" * 200_000 + f"{labels}}} 1\n" * 200
    text += 'nv_energy_consumption{a="b"} 1e999\nnv_energy_consumption{a="b"} --\nnv_energy_consumption{a="c"} 2e1\n'
    assert [(of, value) for _, of, value in samples_of(text, "nv_energy_consumption")] == [({"a": "c"}, 20.0)]
    list(samples_of(text, "nv_inference_request_failure"))
    assert time.monotonic() - began_s < 3
