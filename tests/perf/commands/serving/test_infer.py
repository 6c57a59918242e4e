"""`infer` against small servers: what it shows, keeps and sends, the code that it prints, how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from tests.conftest import Run
from tests.perf.fake_grpc import GrpcServer, grpc_server
from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError
from tritonsmith.builder.base.text.text_layout import cells
from tritonsmith.perf.commands.load.options import ProtocolFlags
from tritonsmith.perf.commands.serving.answer import Told, keep
from tritonsmith.perf.commands.serving.code import code_for
from tritonsmith.perf.commands.serving.infer import infer
from tritonsmith.perf.data.interface import ModelInterface
from tritonsmith.perf.load.once import Asked, ask_once
from tritonsmith.perf.wire.grpc import GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import Answer, InferPayload, tensor_from_array

X = "x=[1, 2.5, 3, 4]"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture
def over_grpc() -> Iterator[GrpcServer]:
    with grpc_server() as running:
        yield running


def asked(capsys: pytest.CaptureFixture[str], *arguments: Any, **flags: Any) -> Any:
    infer(*arguments, model="m", format="json", **flags)
    return json.loads(capsys.readouterr().out)


def test_an_answer_is_a_table(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    infer(server.url, [X])
    out, err = capsys.readouterr()
    assert re.match(
        r"m version 1, HTTP, \d+\.\d ms\n\nOUTPUT +DATATYPE +SHAPE +MIN +MAX +MEAN +VALUES\n", out
    )
    assert re.search(r"^y +FP32 +\[1, 4\] +2 +8 +5\.25 +2, 5, 6, 8$", out, re.MULTILINE)
    assert err == "note: x: a batch of one, [1, 4]\n"
    assert server.infer_requests == 1


def test_values_that_are_not_given_are_drawn_and_said(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = asked(capsys, server.url, seed=3, output=tmp_path / "kept.npz")
    assert said["notes"] == ["values were drawn for x (--seed 3)"]
    kept = np.load(tmp_path / "kept.npz")
    np.testing.assert_array_equal(kept["y"], 2 * kept["x"])
    again = asked(capsys, server.url, data=tmp_path / "kept.npz")
    assert again["responses"] == said["responses"] and again["notes"] == []


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_both_protocols_answer_alike(
    server: FakeServer, over_grpc: GrpcServer, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"protocol": protocol, "grpc_url": f"127.0.0.1:{over_grpc.port}", "header": ["A-Token: s"]}
    said = asked(capsys, server.url, [X], **flags)
    (response,) = said["responses"]
    assert response["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [[2, 5, 6, 8]]}]
    assert said["protocol"] == protocol and 0 < said["latency_ms"] < 5000
    seen = over_grpc.metadata[0]["a-token"] if protocol == "grpc" else server.last_head
    assert "s" in seen and (protocol == "grpc" or "A-Token: s" in seen)


def test_every_response_of_a_decoupled_model_is_listed(
    server: FakeServer, over_grpc: GrpcServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.decoupled = True
    where = {"grpc_url": f"127.0.0.1:{over_grpc.port}"}
    infer(server.url, ["x=[3, 0, 0, 0]"], model="m", output=tmp_path / "kept.npz", **where)
    out = capsys.readouterr().out
    assert "3 responses, the first after" in out
    assert re.findall(r"^(\d) +y +FP32 +\[1\] .* (\d)$", out, re.MULTILINE) == [
        ("1", "0"),
        ("2", "1"),
        ("3", "2"),
    ]
    kept = np.load(tmp_path / "kept.npz")
    assert [kept[f"{n}/y"].tolist() for n in range(3)] == [[0], [1], [2]]
    assert asked(capsys, server.url, ["x=[0, 0, 0, 0]"], **where)["responses"] == []
    with pytest.raises(UsageError, match="is asked over gRPC"):
        infer(server.url, ["x=[0, 0, 0, 0]"], model="m", protocol="http", **where)
    with pytest.raises(TrialError, match="no such number"):
        infer(server.url, ["x=[-1, 0, 0, 0]"], model="m", **where)


def test_what_a_stream_gave_before_it_failed_is_not_lost() -> None:
    from tritonclient.grpc import service_pb2

    from tests.perf.fake_grpc import Peer, scripted_server

    def framed(message: Any) -> bytes:
        data: bytes = message.SerializeToString()
        return b"\0" + len(data).to_bytes(4, "big") + data

    good = service_pb2.ModelStreamInferResponse()
    good.infer_response.outputs.add(name="y", datatype="FP32", shape=[1])
    good.infer_response.raw_output_contents.append(np.float32(7).tobytes())
    bad = service_pb2.ModelStreamInferResponse(error_message="out of " + "memory " * 100)

    async def script(peer: Peer) -> None:
        stream = await peer.read_request()
        peer.write(1, 4, stream, b"\x88\x00\x0ccontent-type\x10application/grpc")
        peer.write(0, 0, stream, framed(good) + framed(bad))
        peer.write(1, 5, stream, b"\x00\x0bgrpc-status\x010")

    with scripted_server(script) as port:
        payload = InferPayload("m", (tensor_from_array("x", np.ones((1,), np.float32)),))
        found = ask_once(GrpcTarget(f"127.0.0.1:{port}", streaming=True), payload, 5.0)
    assert found.answers[0].outputs["y"].tolist() == [7]
    assert found.error is not None and found.error.count("memory") == 100


def test_a_refusal_is_tritons_own_reason_whole(
    tritonsmith: Run, server: FakeServer, over_grpc: GrpcServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.behaviour.error_every = over_grpc.error_every = 1
    refused = tritonsmith("infer", server.url, X, "-m", "m")
    assert refused.returncode == 1 and refused.stdout == ""
    assert "error[request_refused]: Triton refused `m`: Request timeout expired" in refused.stderr
    with pytest.raises(typer.Exit) as ended:
        infer(
            server.url, [X], model="m", format="json", protocol="grpc", grpc_url=f"127.0.0.1:{over_grpc.port}"
        )
    assert ended.value.exit_code == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert "UNAVAILABLE: Request timeout expired: 100 % µs" in error["message"]


@pytest.mark.parametrize(
    ("values", "flags", "code"),
    [
        (["x=[1, 2]"], {}, "bad_shape"),
        (["y=[1]"], {}, "unknown_input"),
        (["x=[[1,2,3,4],[1,2,3,4]]", "x=1"], {}, "bad_input"),
        ([f"x={[[0] * 4] * 9}"], {}, "bad_batch_size"),
        ([X], {"data": Path("a.npz")}, "two_inputs"),
        ([X], {"timeout": "soon"}, "bad_time"),
        ([X], {"output": Path()}, "bad_output"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    server: FakeServer, values: list[str], flags: Any, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        infer(server.url, values, model="m", **flags)
    assert caught.value.code == code and server.infer_requests == 0


def test_where_nothing_answers_it_is_a_server_error(server: FakeServer) -> None:
    with pytest.raises(ServerError, match=r"nothing answers at grpc://127\.0\.0\.1:9"):
        infer(server.url, [X], model="m", protocol="grpc", grpc_url="127.0.0.1:9")
    server.behaviour.never = True
    began_s = time.monotonic()
    with pytest.raises(ServerError, match=r"no whole answer within 0\.2 s"):
        infer(server.url, [X], model="m", timeout="200ms")
    assert time.monotonic() - began_s < 5
    server.behaviour.never, server.behaviour.drop_every = False, 1
    with pytest.raises(ServerError, match="by the server before an answer"):
        infer(server.url, [X], model="m")


def run_code(text: str, cwd: Path) -> list[str]:
    """What the curl line printed, if there is one, and what the program printed."""
    curl, _, python = text.rpartition("# pip install")
    printed = []
    for command in (["bash", "-ceu", curl], [sys.executable, "-c", f"#{python}"]):
        if command[-1].strip():
            done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout.strip())
    return printed


def test_the_code_asks_the_same(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.behaviour.require_header = ("X-Token", "it's $ecret")
    (tmp_path / "token.txt").write_text("X-Token: it's $ecret\n")
    infer(
        server.url,
        ["x=[0.1, -3, 1e-30, 4]"],
        model="m",
        header=[f"@{tmp_path / 'token.txt'}"],
        show_code=True,
    )
    out = capsys.readouterr().out
    assert "$ecret" not in out and server.infer_requests == 0
    by_curl, by_python = run_code(out, tmp_path)
    want = (2 * np.array([[0.1, -3, 1e-30, 4]], np.float32)).tolist()
    assert np.float32(json.loads(by_curl)["outputs"][0]["data"]).tolist() == want[0]
    assert by_python == f"y {want}"


def test_values_too_long_for_code_are_read_from_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with fake_server() as server:
        server.width = 2000
        infer(server.url, model="m", show_code=True)
        out, err = capsys.readouterr()
        assert "np.load('inputs.npz')['x']" in out and "-o inputs.npz writes it" in err
        assert "8,000 bytes of values are too long for a line" in err and "curl" not in out
        infer(server.url, model="m", show_code=True, output=tmp_path / "inputs.npz")
        (by_python,) = run_code(capsys.readouterr().out, tmp_path)
        answer = json.loads(by_python.removeprefix("y "))
        np.testing.assert_array_equal(np.float32(answer), 2 * np.load(tmp_path / "inputs.npz")["x"])


@pytest.mark.parametrize(
    ("kserve", "values"),
    [
        ("FP16", [0.1, 65504, -0.0]), ("BF16", [0.1, 3e38]), ("FP32", [np.nan, np.inf, 1]), ("FP64", [0.1, 1e300]),
        ("INT8", [-128]), ("UINT64", [2**64 - 1]), ("BOOL", [True, False]), ("BYTES", [b"\xff\0'\"\n", "é".encode()]),
    ],
)  # fmt: skip
def test_code_has_the_very_bytes_of_each_type(kserve: str, values: list[Any]) -> None:
    numpy = {
        "FP16": "f2",
        "BF16": "f4",
        "FP32": "f4",
        "FP64": "f8",
        "INT8": "i1",
        "UINT64": "u8",
        "BOOL": "?",
    }
    array = np.array([values], numpy.get(kserve, object))
    tensor = tensor_from_array("x", array, kserve)
    payload = InferPayload("m", (tensor,))
    code = code_for(HttpTarget("h:1"), "http://h:1", payload, 3.0, ProtocolFlags(), None)
    made = code.python.partition("answer =")[0]
    seen: dict[str, Any] = {}
    exec(made, seen)
    assert seen["inputs"][0]._get_binary_data() == tensor.data
    assert (code.curl is None) == (kserve in ("FP16", "BF16", "FP32") or b"\xff\0'\"\n" in values)


def told(outputs: dict[str, Any]) -> Told:
    model = ModelInterface("m", (), (), 0)
    return Told(model, HttpTarget("h:1"), InferPayload("m", ()), Asked((Answer(outputs),), 1, 2_000_000), ())


def test_a_table_fits_the_terminal_and_hides_what_would_move_its_cursor() -> None:
    texts = np.array(["\x1b[2J" + "long " * 200, b"\xff", "e"], object)
    outputs = {
        "a" * 60: np.arange(5000, dtype=np.int64),
        "t\n": texts,
        "f": np.array([np.nan, 1], np.float32),
    }
    for width in (60, 80, 200):
        lines = told(outputs).text(width).split("\n")
        assert max(map(cells, lines)) <= width
        assert "\x1b" not in "".join(lines) and len(lines) == 6
    empty = told({"y": np.zeros((0, 3), np.float32)}).text(80)
    assert re.search(r"y +FP32 +\[0, 3\]", empty)


def test_an_answer_that_is_one_text_is_shown_whole_between_words_as_wide_as_the_terminal() -> None:
    words = "Once upon a time there lived an old fisherman in a small house by the sea. " * 3
    text = f"{words}\n\n\tand \x1b[2J so on"
    for width in (40, 80, None):
        lines = told({"text_output": np.array([text.encode()], object)}).text(width).split("\n")
        at = lines.index("", 3)
        assert "…" in lines[at - 1], "the table has its beginning"
        whole = lines[at + 1 :]
        assert " ".join(" ".join(whole).split()) == " ".join(text.replace("\x1b", "\\x1b").split())
        assert width is None or max(map(cells, whole)) <= width
        assert "" in whole, "a line of the text's own that is empty"
    assert told({"t": np.array([b"short"], object)}).text(80).endswith('"short"')
    for other in ({"t": np.array([text, text], object)}, {"t": np.array([text], object), "n": np.zeros(1)}):
        assert told(other).text(80).count("\n") == 2 + len(other)
    long = told({"t": np.array(["x " * 20_000], object)}).text(80)
    assert long.endswith("… 20,000 characters more: --format json")


def test_the_pieces_of_a_streamed_text_are_shown_joined() -> None:
    def streamed(name: str) -> str:
        pieces = ("a pi", "ece \xc3", "\xa9!")
        answers = tuple(Answer({name: np.array([piece.encode("latin-1")], object)}) for piece in pieces)
        model = ModelInterface("m", (), (), 0)
        asked = Asked(answers, 1, 2_000_000)
        return Told(model, GrpcTarget("h:1", streaming=True), InferPayload("m", ()), asked, ()).text(80)

    assert streamed("text_output").endswith("\n\na piece é!")
    assert len(streamed("row").split("\n")) == 6, "of another model each response is an answer of its own"


def test_json_has_what_json_lacks_as_text() -> None:
    outputs = {"f": np.array([np.nan, -np.inf, 0.1]), "b": np.array([b"\xff", b"a"], object)}
    said = told(outputs).as_json()["responses"][0]["outputs"]
    assert [output["data"] for output in said] == [["NaN", "-Infinity", 0.1], [{"b64": "/w=="}, "a"]]
    json.loads(json.dumps(said, allow_nan=False))


def test_what_an_npz_would_change_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "kept.npz"
    array = np.ones((1,), np.float32)
    payload = InferPayload("m", (tensor_from_array("file", array),))
    keep(path, payload, told({"y": np.array([b"ab", b""], object)}).responses)
    kept = np.load(path)
    assert kept["file"].tolist() == [1] and kept["y"].tolist() == [b"ab", b""]
    before = path.read_bytes()
    with pytest.raises(TrialError, match="NUL"):
        keep(path, payload, told({"y": np.array([b"ab\0"], object)}).responses)
    assert path.read_bytes() == before
    keep(path, payload, told({"file": np.array([5], np.int64)}).responses)
    assert {name: a.tolist() for name, a in np.load(path).items()} == {"file": [5]}
