"""The page of --watch: over plain HTTP, in a browser where there is one, and how long it is served."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Run
from tests.perf.sweep.live_runs import arms_of, event, journal, write
from tritonsmith.perf.commands.sweep.watch import WatchFlags, watched
from tritonsmith.perf.commands.sweep.watch_page import PageServer

ARMS = arms_of(2, "<img src=x onerror=alert({})>".format)
LINES = [*journal(ARMS, {"arm02": 1.5})]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[PageServer]:
    """A page of a run that has yet to begin, in tmp_path / 'run'."""
    (tmp_path / "run").mkdir()
    (tmp_path / "secret").write_text("a canary")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = PageServer(listening, tmp_path / "run")
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def asked(
    port: int, path: str = "/", method: str = "GET", host: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """As it is written: no client tidies the path or the host."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()


def told(port: int) -> dict[str, Any]:
    answer, body = asked(port, "/data")
    assert answer.status == 200
    data: dict[str, Any] = json.loads(body)
    return data


class TestHttp:
    def test_it_fills_while_the_journal_grows(self, page: PageServer, tmp_path: Path) -> None:
        assert told(page.port)["race"] is None
        write(tmp_path / "run", LINES[:10])
        data = told(page.port)
        assert data["model"] == "crepe" and not data["is_over"]
        assert [row["rounds"] for row in data["race"]["rows"]] == [1, 1, 1]
        assert data["race"]["doing"].startswith("round 1, concurrency 8")
        with (tmp_path / "run" / "run.jsonl").open("a") as file:
            file.writelines(LINES[10:])
        assert not told(page.port)["is_over"], "its report is to be written"
        (tmp_path / "run" / "report.html").write_text("a report")
        data = told(page.port)
        assert data["is_over"] and data["over"].endswith(f"Report at {tmp_path / 'run' / 'report.html'}")
        assert data["race"]["rows"][1]["state"] == "winner"

    def test_nothing_else_is_served(self, page: PageServer, tmp_path: Path) -> None:
        write(tmp_path / "run", LINES)
        for path in (
            "/run.jsonl", "/../secret", "/data/../../secret", "/%2e%2e/secret", "//secret", "/data?x=1", "/data/",
            str(tmp_path / "secret"), "http://127.0.0.1/data", "*",
        ):  # fmt: skip
            answer, body = asked(page.port, path)
            assert (answer.status, b"canary" in body, b"trial" in body) == (404, False, False), path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
            answer, _ = asked(page.port, "/data", method)
            assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD", method

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:{}", "127.0.0.1", "127.0.0.1:1", "", "[::1]:{}"]
    )
    def test_it_answers_to_no_other_name(self, host: str, page: PageServer) -> None:
        for path in ("/", "/data"):
            assert asked(page.port, path, host=host.format(page.port))[0].status == 403
        assert asked(page.port, host=f"localhost:{page.port}")[0].status == 200

    def test_head_has_no_body(self, page: PageServer) -> None:
        for path in ("/", "/data"):
            answer, body = asked(page.port, path, "HEAD")
            assert answer.status == 200 and body == b"" and int(answer.headers["Content-Length"]) > 10

    def test_the_policy_lets_its_own_script_and_style_run_and_nothing_else(self, page: PageServer) -> None:
        answer, body = asked(page.port)
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
        for tag in ("style", "script"):
            (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body.decode(), re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "innerHTML" not in body.decode() and "http" not in body.decode().replace("http-equiv", "")

    def test_what_is_no_journal_is_told_and_ends_nothing(self, page: PageServer, tmp_path: Path) -> None:
        write(tmp_path / "run", ["nonsense\n"])
        data = told(page.port)
        assert data["is_over"] and "the run cannot be read: JSONDecodeError" in data["over"]

    def test_who_leaves_or_talks_nonsense_disturbs_nobody(
        self, page: PageServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path / "run", LINES)
        for said in (
            b"GET /data HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % page.port,
            b"\x16\x03\x01\x00\r\n\r\n",
            b"GET",
        ):
            with socket.create_connection(("127.0.0.1", page.port)) as stranger:
                stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
                stranger.sendall(said)
        assert told(page.port)["model"] == "crepe"
        assert capfd.readouterr() == ("", "")

    def test_only_this_machine_reaches_it(self, page: PageServer) -> None:
        assert page.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.timeout(120)
class TestBrowser:
    def dumped(self, port: int, tmp_path: Path) -> str:
        """The page's DOM after its script ran for a while, as HTML."""
        assert BROWSER is not None
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [BROWSER, *flags, "--virtual-time-budget=2000", "--dump-dom", f"http://127.0.0.1:{port}/"]
        return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout

    def test_a_person_sees_the_race_and_its_end(self, page: PageServer, tmp_path: Path) -> None:
        write(tmp_path / "run", LINES[:-1])
        dom = self.dumped(page.port, tmp_path)
        assert ">Sweep of crepe, under way</h1>" in dom and ">at concurrency 32</th>" in dom
        assert re.search(
            r'<td class="better"[^>]*><span>1\.5\d×</span><small>1\.\d\d–1\.\d\d</small><small>better', dom
        )
        assert "&lt;img src=x onerror=alert(2)&gt;</th>" in dom and "<img" not in dom
        assert "So far: Winner: " in unescape(dom) and "round 3, concurrency 32: " in dom
        with (tmp_path / "run" / "run.jsonl").open("a") as file:
            file.writelines([event("note", text="<b>a note</b>"), LINES[-1]])
        (tmp_path / "run" / "report.html").write_text("a report")
        dom = self.dumped(page.port, tmp_path)
        assert f"Report at {tmp_path / 'run' / 'report.html'}</p>" in dom
        assert ">Sweep of crepe</h1>" in dom and "<li>&lt;b&gt;a note&lt;/b&gt;</li>" in dom


class TestServing:
    def test_it_lives_beside_the_sweep_and_shows_its_end(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        directory = write(tmp_path / "run", [*journal(ARMS, {})])  # an earlier run is not shown
        seen: list[str] = []
        others = set(psutil.Process().children())
        with watched(directory, WatchFlags(watch=True)):
            port = int(re.search(r"watch: http://127\.0\.0\.1:(\d+)/", capsys.readouterr().err)[1])  # type: ignore[index]
            (child,) = set(psutil.Process().children()) - others
            assert told(port)["race"] is None
            assert child.nice() == 19
            new = write(tmp_path / "new", LINES[:10])
            (new / "run.jsonl").replace(directory / "run.jsonl")
            assert told(port)["race"]["done"] == 4
            closed = threading.Thread(target=_look_until_it_is_over, args=(port, seen))
            closed.start()
        closed.join()
        assert seen[-1] == "The sweep ended without a word: what was measured is in its run directory."
        assert not child.is_running()

    def test_without_a_look_nobody_waits_for_it(self, tmp_path: Path) -> None:
        with watched(tmp_path, WatchFlags(watch=True)):
            pass
        begun_s, others = time.monotonic(), set(psutil.Process().children())
        with watched(tmp_path, WatchFlags()):
            assert set(psutil.Process().children()) <= others
        assert time.monotonic() - begun_s < 2  # its patience with a page that is looked at is longer

    def test_a_port_that_is_taken_is_one_error(self, tritonsmith: Run, tmp_path: Path) -> None:
        (tmp_path / "model_repository" / "m").mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            ended = tritonsmith(
                "sweep", "-m", "m", "--set", "instance_group.count=1,2", "--watch-port", str(port)
            )
        assert ended.returncode == 2 and "Traceback" not in ended.stderr
        assert f"error[port_taken]: port {port} of 127.0.0.1 is taken" in ended.stderr
        assert not (tmp_path / "sweep-m").exists()

    def test_report_watches_a_run_of_another_process(self, tritonsmith: Run, tmp_path: Path) -> None:
        directory = write(tmp_path / "run", LINES[:10])

        def end() -> None:
            time.sleep(2.0)
            with (directory / "run.jsonl").open("a") as file:
                file.writelines(LINES[10:])

        threading.Thread(target=end).start()
        ended = tritonsmith("report", "run", "--watch")
        assert ended.returncode == 0 and "watch: http://127.0.0.1:" in ended.stderr
        assert ended.stdout.startswith("Winner: ") and (directory / "report.html").is_file()


def _look_until_it_is_over(port: int, seen: list[str]) -> None:
    while True:
        data = told(port)
        if data["is_over"]:
            seen.append(data["over"])
            return
        time.sleep(0.1)
