"""Flags of `load` over real sockets: request parameters, headers, TLS, IPv6; and what it tells beside latency."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.perf.certificates import made_certificate
from tests.perf.fake_grpc import grpc_server
from tests.perf.fake_server import FakeServer, fake_server
from tests.perf.load.test_load import command
from tritonsmith.builder.base.errors import ServerError, TritonsmithError, UsageError
from tritonsmith.perf.commands.load.flags import (
    headers_from_flags,
    metrics_address_from_text,
    parameters_from_flags,
)
from tritonsmith.perf.commands.release.live import LiveRelease
from tritonsmith.perf.load.load_test import LoadTest, fitted, run_load_test
from tritonsmith.perf.load.result import LoadTestResult, result_from_records
from tritonsmith.perf.load.text import observed_of
from tritonsmith.perf.records.record import load_records
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.report.load.view import load_view
from tritonsmith.perf.server.launch import ServerSpec, kind_from_text, launch
from tritonsmith.perf.stats import Summary
from tritonsmith.perf.sweep.target import target_from_text
from tritonsmith.perf.usage.counters import ServerCounters
from tritonsmith.perf.wire.http import HttpTarget

TEN = ("-m", "m", "--requests", "10", "--warmup", "0s")


def error_of(*arguments: str) -> TritonsmithError:
    with pytest.raises(TritonsmithError) as caught:
        command(*arguments)
    return caught.value


# Request parameters.

GIVEN = (
    "max_tokens:256:int",
    "k:7:uint",
    "stream:true:bool",
    "prompt:a:b c:string",
    "t:0.5:double",
    "n:-1:int",
)
MEANT = {"max_tokens": 256, "k": 7, "stream": True, "prompt": "a:b c", "t": 0.5, "n": -1}
FLAGS = [part for text in GIVEN for part in ("--request-parameter", text)]


def test_parameters_are_read_by_their_types() -> None:
    found = parameters_from_flags([*GIVEN, "off:False:bool", "empty::string", "big:9223372036854775807:uint"])
    assert found == MEANT | {"off": False, "empty": "", "big": (1 << 63) - 1}
    assert [type(found[name]) for name in ("max_tokens", "stream", "t")] == [int, bool, float]


@pytest.mark.parametrize(
    ("flag", "code", "fix"),
    [
        ("max_tokens", "bad_parameter", "--request-parameter"),
        ("max_tokens:256", "bad_parameter", "--request-parameter"),
        ("max_tokens:256:long", "bad_parameter", "--request-parameter"),
        (":256:int", "bad_parameter", "--request-parameter"),
        ("a:1.5:int", "bad_parameter", ""),
        ("a:1_0:int", "bad_parameter", ""),
        ("a:-1:uint", "bad_parameter", ""),
        ("a:9223372036854775808:uint", "bad_parameter", ""),
        ("a:yes:bool", "bad_parameter", ""),
        ("a:nan:double", "bad_parameter", ""),
        ("sequence_id:1:int", "reserved_parameter", "--sequences"),
        ("sequence_start:true:bool", "reserved_parameter", "--sequences"),
        ("priority:1:uint", "reserved_parameter", "--priority"),
        ("timeout:5:int", "reserved_parameter", "--request-timeout"),
        ("headers:x:string", "reserved_parameter", "-H"),
        ("triton_enable_empty_final_response:true:bool", "reserved_parameter", "another name"),
    ],
)
def test_a_parameter_that_is_none_or_tritons_own_is_one_error(flag: str, code: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        parameters_from_flags([flag])
    assert caught.value.code == code and fix in (caught.value.fix or "") and caught.value.exit_code == 2
    with pytest.raises(UsageError, match="twice"):
        parameters_from_flags(["a:1:int", "a:2:int"])


@pytest.mark.parametrize(
    "data", [(), ("--data", "x.npz"), ("--sequences", "2")], ids=["drawn", "file", "sequences"]
)
def test_every_request_carries_the_parameters_over_both_protocols(
    data: tuple[str, ...], tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((1, 4), np.float32))
    more = [str(tmp_path / part) if part == "x.npz" else part for part in data]
    with fake_server() as http, grpc_server() as grpc:
        asked = (*TEN, *FLAGS, "--priority", "2", *more)
        assert command(http.url, *asked)[0] == 0
        assert command(f"grpc://127.0.0.1:{grpc.port}", *asked)[0] == 0
    for seen in (http.parameters, grpc.parameters):
        assert len(seen) >= 10
        for parameters in seen:
            assert {name: parameters[name] for name in MEANT} == MEANT and parameters["priority"] == 2
            assert type(parameters["stream"]) is bool and type(parameters["max_tokens"]) is int


# Headers.


def test_headers_reach_both_protocols_and_a_host_stands_in_for_the_address() -> None:
    asked = (*TEN, "-H", "X-Tenant: t:1", "-H", "Host: triton.example")
    with fake_server() as http, grpc_server() as grpc:
        assert command(http.url, *asked)[0] == 0
        assert command(f"grpc://127.0.0.1:{grpc.port}", *asked)[0] == 0
    lines = http.last_head.split("\r\n")
    assert "X-Tenant: t:1" in lines and [line for line in lines if line.startswith("Host")] == [
        "Host: triton.example"
    ]
    assert len(grpc.metadata) >= 13, "what is asked once is among them"
    assert all(metadata["x-tenant"] == "t:1" and "host" not in metadata for metadata in grpc.metadata)


@pytest.mark.parametrize(
    "flag",
    ["no colon", "A B: c", "Ä: c", "A: é", "A: b\x00c", "A: b\r\nC: d", "Content-Length: 3", "Transfer-Encoding: x",
     "inference-header-content-length: 5", "TE: x"],
)  # fmt: skip
def test_a_header_that_would_break_a_request_is_one_error(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        headers_from_flags([flag])
    assert caught.value.code == "bad_header"


# TLS.


@pytest.fixture(scope="module")
def server_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made_certificate(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def client_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made_certificate(tmp_path_factory.mktemp("client"), "client")


def https(files: tuple[Path, Path], clients: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files[1], files[0])
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    return context


def grpcs(files: tuple[Path, Path], clients: Path | None = None) -> Any:
    import grpc  # type: ignore[import-untyped]

    pair = [(files[0].read_bytes(), files[1].read_bytes())]
    if clients is None:
        return grpc.ssl_server_credentials(pair)
    return grpc.ssl_server_credentials(pair, clients.read_bytes(), require_client_auth=True)


def test_insecure_trusts_any_certificate_and_nothing_else_does(server_files: tuple[Path, Path]) -> None:
    with fake_server(ssl=https(server_files)) as http, grpc_server(grpcs(server_files)) as grpc:
        for url in (http.url, f"grpcs://127.0.0.1:{grpc.port}"):
            error = error_of(url, *TEN)
            assert isinstance(error, ServerError) and "--ca-file" in str(error.fix)
            for flags in (("-k",), ("--ca-file", str(server_files[1]))):
                assert command(url, *TEN, *flags)[0] == 0


def test_a_clients_certificate_is_shown_to_a_server_that_asks(
    server_files: tuple[Path, Path], client_files: tuple[Path, Path], tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(client_files[0].read_text() + client_files[1].read_text())
    shown = (("--cert", str(client_files[1]), "--key", str(client_files[0])), ("--cert", str(both)))
    with (
        fake_server(ssl=https(server_files, client_files[1])) as http,
        grpc_server(grpcs(server_files, client_files[1])) as grpc,
    ):
        for url in (http.url, f"grpcs://127.0.0.1:{grpc.port}"):
            trust = ("--ca-file", str(server_files[1]))
            assert error_of(url, *TEN, *trust).exit_code == 3
            for flags in shown:
                assert command(url, *TEN, *trust, *flags)[0] == 0
            assert "--cert" in str(error_of(url, *TEN, *trust).fix)


def test_files_that_are_no_certificates_are_one_error_and_no_question(
    server_files: tuple[Path, Path], client_files: tuple[Path, Path], tmp_path: Path
) -> None:
    junk, locked = tmp_path / "junk.pem", tmp_path / "locked.key"
    junk.write_text("no certificate")
    encrypt = [
        "openssl",
        "ec",
        "-aes256",
        "-passout",
        "pass:x",
        "-in",
        str(client_files[0]),
        "-out",
        str(locked),
    ]
    subprocess.run(encrypt, check=True, capture_output=True)
    certificate, other_key = str(client_files[1]), str(server_files[0])
    with fake_server(ssl=https(server_files)) as http:
        for flags in (
            ("--ca-file", str(junk)),
            ("--cert", str(junk)),
            ("--cert", certificate),
            ("--cert", certificate, "--key", other_key),
            ("--cert", certificate, "--key", str(locked)),
            ("--key", other_key),
        ):
            error = error_of(http.url, *TEN, *flags)
            assert error.code == "bad_certificate" and error.exit_code == 2, flags
    assert http.infer_requests == 0


# IPv6.


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


@IPV6
def test_a_server_at_an_ipv6_address_is_loaded_attached_to_and_released() -> None:
    with fake_server(host="::1") as http, grpc_server(address="[::1]:0") as grpc:
        assert http.url == f"http://[::1]:{http.port}"
        for where in (http.url, f"[::1]:{http.port}", f"grpc://[::1]:{grpc.port}"):
            assert command(where, *TEN)[0] == 0
        for grpc_url in (f"[::1]:{grpc.port}", f"grpc://[::1]:{grpc.port}"):
            assert command(http.url, *TEN, "--protocol", "grpc", "--grpc-url", grpc_url)[0] == 0
        assert f"Host: [::1]:{http.port}" in http.last_head.split("\r\n")
        for text in (http.url, f"[::1]:{http.port}"):
            kind, reference = kind_from_text(text)  # serve --launch, sweep --launch
            with launch(ServerSpec(kind=kind, reference=reference)) as server:
                assert server.http_url == f"[::1]:{http.port}" and server.alive()
            assert target_from_text(text).launch == http.url  # sweep
        LiveRelease([HttpTarget(http.url)]).check()
        LiveRelease([HttpTarget(f"[::1]:{http.port}")]).check()
    result = run_on("::1")
    assert result.resources is not None
    assert "on another machine" not in (result.resources.why_no_process or "")


def run_on(host: str) -> LoadTestResult:
    with fake_server(host=host) as server:
        return run_load_test(server.url, LoadTest("m", Closed(1), duration_s=None, requests=3, warmup_s=0))


def test_the_ports_beside_keep_their_brackets() -> None:
    from tritonsmith.perf.load.load_test import metrics_url_of, server_of

    assert (
        metrics_url_of("http://[::1]:8000")
        == "[::1]:8002"
        == metrics_url_of("grpc://[::1]:8001").replace("2", "2")
    )
    _, target = server_of("http://[::1]:8000", LoadTest("m", Closed(1), protocol="grpc"))
    assert target.url == "grpc://[::1]:8001"
    assert metrics_address_from_text("http://[::1]:8002/metrics") == "[::1]:8002"


@pytest.mark.parametrize("bare", ["::1:8000", "http://::1:8000", "grpc://::1:8001"])
def test_a_bare_ipv6_address_is_told_its_right_form(bare: str) -> None:
    asks: Sequence[Any] = [
        lambda: command(bare, *TEN),
        lambda: command("http://127.0.0.1:1", *TEN, "--protocol", "grpc", "--grpc-url", bare),
        lambda: target_from_text(bare),
        lambda: kind_from_text(bare),
        lambda: HttpTarget(bare),
    ]
    for ask in asks:
        with pytest.raises(UsageError) as caught:
            ask()
        assert caught.value.exit_code == 2 and "[::1]:800" in str(caught.value.fix)


@pytest.mark.parametrize("broken", ["http://[::1", "http://h:99999", "http://[::1]:x"])
def test_a_broken_address_is_a_usage_error_everywhere(broken: str) -> None:
    for ask in (
        lambda: command(broken, *TEN),
        lambda: target_from_text(broken),
        lambda: kind_from_text(broken),
    ):
        with pytest.raises(UsageError) as caught:
            ask()
        assert caught.value.code == "bad_url"


# What it tells.


def test_mean_slowest_and_bytes_a_second_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with fake_server() as server:
        asked = (
            server.url,
            "-m",
            "m",
            "-c",
            "2",
            "--duration",
            "400ms",
            "--warmup",
            "100ms",
            "-o",
            str(path),
        )
        code, text = command(*asked)
        request_bytes = (
            len(server.last_head) + len(json.dumps(server.last_header, separators=(",", ":"))) + 16
        )
    assert code == 0 and "mean" in text and "max" in text and "traffic     sent" in text
    records = load_records(path)
    measured = records.measured()
    assert set(records.header.request_bytes) == {request_bytes}
    result = result_from_records(records)
    summary = result.summary
    assert summary.sent_bytes_per_s == pytest.approx(request_bytes * len(measured) / 0.4, rel=0.02)
    assert summary.received_bytes_per_s == pytest.approx(server.answer_bytes * len(measured) / 0.4, rel=0.05)
    assert summary.max_latency_ns == max(measured.latency_ns[measured.ok][-summary.answered :])
    assert typed(Summary, json_of(summary)) == summary
    rows = {row["metric"]: row for row in result.rows()}
    assert summary.max_latency_ns is not None
    assert rows["sent"]["unit"] == "MB/s" and rows["max latency"]["value"] == pytest.approx(
        summary.max_latency_ns / 1e6
    )


@pytest.mark.nightly
def test_bytes_are_counted_over_processes_and_lost_connections(tmp_path: Path) -> None:
    test = LoadTest("m", Closed(4), duration_s=0.4, warmup_s=0, processes=2)
    with fake_server(close_every=3) as server:
        result = run_load_test(server.url, test)
    header = result.records.header
    answers = int((result.records.first_byte_ns > 0).sum())
    assert header.received_bytes is not None
    assert header.received_bytes == pytest.approx(answers * server.answer_bytes, rel=0.1), (
        "those that are gone, too"
    )


def test_bytes_of_grpc_are_counted() -> None:
    with grpc_server() as grpc:
        url = f"grpc://127.0.0.1:{grpc.port}"
        result = run_load_test(url, fitted(LoadTest("m", Closed(2), duration_s=0.3, warmup_s=0), url))
    assert result.summary.sent_bytes_per_s and result.summary.received_bytes_per_s
    assert 40 < result.records.header.request_bytes[0] < 100


def test_an_ensembles_members_are_told_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    ensembles = {"pipe": ["tok", "inner", "tok"], "inner": ["net"]}
    asked = ("-m", "pipe", "--requests", "20", "--warmup", "0s", "-o", str(path))
    with fake_server(ensembles=ensembles) as server:
        code, text = command(server.url, *asked)
        said = json.loads(command(server.url, *asked, "--format", "json")[1])
    assert code == 0
    table = text[text.index("members") :].splitlines()[:4]
    assert [line.split()[0] for line in table] == ["members", "tok", "inner", "net"]
    assert "60 µs" in table[1] and "20" in table[1]
    assert {name: row["mean_queue_us"] for name, row in said["members"].items()} == {
        "tok": 60,
        "inner": 70,
        "net": 90,
    }
    assert all(row["requests"] == 20 and row["mean_batch_size"] == 1 for row in said["members"].values())
    again = result_from_records(load_records(path))
    assert {name: json_of(row) for name, row in again.members.items()} == said["members"]
    assert isinstance(again.members["net"], ServerCounters)
    assert "net 20 requests, queue 90 µs" in observed_of(again)["members"]
    assert "net 20 requests" in str(load_view(again.records, again.summary)["environment"])
    with fake_server() as plain:
        assert "members" not in command(plain.url, *TEN)[1]


def test_each_step_has_its_verdict_in_its_row_and_the_worst_leads(tmp_path: Path) -> None:
    # 500 answers are enough for p99, 6 are not.
    path = tmp_path / "run.npz"
    with fake_server() as server:
        steps = ("--step", "20:300ms", "--request-rate", "1500", "--duration", "800ms", "--warmup", "0s")
        code, text = command(server.url, "-m", "m", *steps, "-o", str(path))
    summary = result_from_records(load_records(path)).summary
    first, second = (step.validity for step in summary.steps)
    assert (
        first is not None
        and first.verdict.value == "TOO_SHORT"
        and "measure for" in str(first.recommendation)
    )
    assert second is not None and second.verdict.value != "TOO_SHORT"
    assert summary.validity.verdict.value == "TOO_SHORT"
    assert any(reason.startswith("at 20: 6 answered requests") for reason in summary.validity.reasons)
    assert "the step at 20" in str(summary.validity.recommendation)
    assert text.startswith("TOO_SHORT") and code == 0
    row = next(line for line in text.splitlines() if line.strip().startswith("steps"))
    assert row.split()[1:4] == ["20", "requests/s", "TOO_SHORT"]
    assert typed(Summary, json_of(summary)) == summary


def test_fake_servers_say_where_they_are() -> None:
    assert FakeServer(host="::1", port=8000).url == "http://[::1]:8000"
