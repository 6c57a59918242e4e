"""What a server that is told to follow may answer, from a small HTTP server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.publish import Switched
from tritonsmith.perf.commands.release.live import LiveRelease
from tritonsmith.perf.commands.release.options import ReleaseFlags, release_from_flags
from tritonsmith.perf.wire.http import HttpTarget

# Triton's own words, src/core/server.cc.
NONE = "explicit model load / unload is not allowed"
POLLING = f"{NONE} if polling is enabled"


class Told:
    """What the server says: of a load (status, error), and of the model's versions."""

    def __init__(self) -> None:
        self.url = ""
        self.load: tuple[int, str] = (200, "")
        self.rows: list[dict[str, str]] = []
        self.key: str | None = None
        self.asked: list[str] = []


@pytest.fixture
def told() -> Iterator[Told]:
    answers = Told()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answers.asked.append(self.path)
            status, body = 200, "{}"
            if answers.key is not None and self.headers.get("admin-key") != answers.key:
                status, body = 403, json.dumps({"error": "This API is restricted"})
            elif self.path.endswith("/load"):
                status, body = answers.load[0], json.dumps({"error": answers.load[1]})
            elif self.path == "/v2/repository/index":
                body = json.dumps([{"name": "another"}, *({"name": "m", **row} for row in answers.rows)])
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    answers.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield answers
    server.shutdown()
    server.server_close()


def row(version: int, state: str, reason: str = "") -> dict[str, str]:
    return {"version": str(version), "state": state, "reason": reason}


def follow(told: Told, *served: int, timeout_s: float = 0.5) -> str:
    return LiveRelease([HttpTarget(told.url)], timeout_s).follow(Switched("m", served))


def test_a_server_that_loads_on_request(told: Told) -> None:
    told.rows = [row(1, "UNLOADING"), row(2, "READY")]
    assert "(explicit): version 2 ready in" in follow(told, 2)
    assert told.asked == ["/v2/repository/models/m/load", "/v2/repository/index"]


def test_a_server_without_control_must_be_restarted(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.load = (503, NONE)
    assert follow(told, 2).endswith("must be restarted")
    assert "restart it" in capsys.readouterr().err


def test_a_server_that_polls_is_waited_for(told: Told) -> None:
    told.load = (503, POLLING)
    told.rows = [row(1, "READY"), row(2, "LOADING")]
    threading.Timer(0.2, lambda: setattr(told, "rows", [row(1, "UNLOADING"), row(2, "READY")])).start()
    assert "(poll): version 2 ready" in follow(told, 2, timeout_s=5.0)


def test_versions_that_are_not_meant_are_not_ready_either(told: Told) -> None:
    told.load = (503, POLLING)
    told.rows = [row(1, "READY"), row(2, "READY")]
    with pytest.raises(TrialError, match=r"did not get 'm' ready within 0\.5 s") as caught:
        follow(told, 1)
    assert caught.value.seen == "versions ready: 1, 2, not 1"
    assert "--repository-poll-secs" in str(caught.value.fix)


def test_a_version_that_cannot_be_loaded(told: Told) -> None:
    told.rows = [row(1, "READY"), row(2, "UNAVAILABLE", "onnx: not a graph")]
    with pytest.raises(TrialError, match="could not load version 2 of 'm': onnx: not a graph"):
        follow(told, 2)
    told.load = (400, "failed to load 'm': out of memory")
    with pytest.raises(TrialError, match="refused to load 'm': failed to load 'm': out of memory"):
        follow(told, 2)


def test_a_restricted_server_wants_its_header(told: Told) -> None:
    told.key, told.rows = "secret", [row(1, "READY")]
    with pytest.raises(TrialError, match="restricted") as caught:
        follow(told, 1)
    assert "--header" in str(caught.value.fix)
    release = release_from_flags(ReleaseFlags([told.url], ["admin-key: secret"], None, 5.0))
    assert release is not None and "version 1 ready" in release.follow(Switched("m", [1]))


def test_no_server(told: Told) -> None:
    assert release_from_flags(ReleaseFlags(header=["a: b"])) is None
    with pytest.raises(ServerError, match="nothing answers HTTP"):
        LiveRelease([HttpTarget("http://127.0.0.1:9")]).check()
    told.key = "secret"
    with pytest.raises(ServerError, match="is not live"):
        LiveRelease([HttpTarget(told.url)]).check()
