"""A run directory → a page on 127.0.0.1 that fills while its run.jsonl grows, and the one endpoint that it asks.

Started beside a sweep as `python -m … SOCKET DIRECTORY JOURNAL`, for as long as its standard input stays open, so that
whatever ends the sweep ends it, too. It is a process of its own, and of the lowest priority: the sweep is measuring.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.shown import without_secrets
from tritonsmith.builder.model_config.templates import packaged_directory
from tritonsmith.perf.records.typed import MALFORMED, json_of
from tritonsmith.perf.sweep.live.follow import Follower
from tritonsmith.perf.sweep.live.race import Race, RaceWatch
from tritonsmith.perf.sweep.run_record import JOURNAL

LOOPBACK = "127.0.0.1"
PAGE = "watch.html"
GRACE_S = 2.5
"""Of a page that is looked at, after the end: it asks once a second."""
_LOOKED_AT_S = 5.0


class PageServer(ThreadingHTTPServer):
    """Serves `/` and `/data`, to this machine alone."""

    daemon_threads = True

    def __init__(
        self, listening: socket.socket, directory: Path, earlier: tuple[int, int] | None = None
    ) -> None:
        """listening: bound to 127.0.0.1 and listening. earlier: see Follower."""
        self.port: int = listening.getsockname()[1]
        super().__init__((LOOPBACK, self.port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.directory = directory
        self.page = (packaged_directory() / PAGE).read_bytes()
        self.policy = _policy(self.page.decode())
        self.hosts = {f"{name}:{self.port}" for name in (LOOPBACK, "localhost")}
        self.watch = RaceWatch(Follower(directory, earlier))
        self.is_ended = False  # the sweep's process, whatever the journal says
        self.asked_s = -1e9
        self._lock = threading.Lock()

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone: that is nobody's concern."""

    def data(self) -> bytes:
        """What the page shows, as JSON: `race` is null before the run begins."""
        with self._lock:
            self.asked_s = time.monotonic()
            try:
                race, fault = self.watch.look(), ""
            except (TritonsmithError, *MALFORMED) as error:
                race, fault = None, str(error)
            is_over = self.is_ended or bool(fault) or (race is not None and race.is_over)
            told = {
                "directory": self.directory.name,
                "model": None if race is None else race.model,
                "race": None if race is None else json_of(race),
                "is_over": is_over and not self._report_is_awaited(race),
                "over": fault or self._over(race),
                "silent_s": self._silent_s(),
            }
        return without_secrets(json.dumps(told)).encode()

    def _report(self) -> Path | None:
        """The report of this run, once it is written."""
        report, journal = self.directory / "report.html", self.directory / JOURNAL
        try:
            return report if report.stat().st_mtime >= journal.stat().st_mtime else None
        except OSError:
            return None

    def _report_is_awaited(self, race: Race | None) -> bool:
        return race is not None and race.is_over and not self.is_ended and self._report() is None

    def _over(self, race: Race | None) -> str:
        """How it ended, for people."""
        report = self._report() if race is not None and race.is_over else None
        if race is None or not race.is_over:
            return "The sweep ended without a word: what was measured is in its run directory."
        end = f"Ended: {race.stop_reason}." if race.stop_reason else "Ended."
        return end if report is None else f"{end}\nReport at {report}"

    def _silent_s(self) -> float:
        try:
            return max(0.0, time.time() - (self.directory / JOURNAL).stat().st_mtime)
        except OSError:
            return 0.0

    def has_run_ended(self) -> bool:
        """By its journal. UsageError for what is none."""
        with self._lock:
            self.watch.follower.read()
            return self.watch.follower.is_over

    def linger(self) -> None:
        """So long after the end that a page which is looked at shows it."""
        self.is_ended = True
        if time.monotonic() - self.asked_s < _LOOKED_AT_S:
            time.sleep(GRACE_S)


def _policy(page: str) -> str:
    """A Content-Security-Policy by which the page's own style and script run, and nothing else does."""

    def allowed(tag: str) -> str:
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {allowed('style')}; script-src {allowed('script')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 10.0
    server_version, sys_version = "tritonsmith", ""

    def do_GET(self) -> None:
        """`/` and `/data`; 403 for a request that came by another name, as a page of a stranger's would send it."""
        if self.headers.get("Host") not in self.server.hosts:
            self._answer(HTTPStatus.FORBIDDEN, b"this page is for this machine alone\n", "text/plain")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, self.server.page, "text/html")
        elif self.path == "/data":
            self._answer(HTTPStatus.OK, self.server.data(), "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is nothing here\n", "text/plain")

    do_HEAD = do_GET

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What is not GET or HEAD, or no HTTP at all."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self._answer(status, f"{status.phrase}\n".encode(), "text/plain")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", self.server.policy),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: stderr is the sweep's."""


def main(arguments: list[str]) -> None:
    """arguments: the listening socket's descriptor, the run directory, the earlier journal's `device:inode` or ``."""
    descriptor, directory, journal = arguments
    os.nice(19)
    earlier = None if not journal else (int(journal.partition(":")[0]), int(journal.partition(":")[2]))
    server = PageServer(socket.socket(fileno=int(descriptor)), Path(directory), earlier)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while sys.stdin.buffer.read(1):
        pass
    server.linger()


if __name__ == "__main__":
    main(sys.argv[1:])
