"""A running server's addresses, process and log → whether it lives, what it refused, how it ended."""

from __future__ import annotations

import json
import re
import signal
from contextlib import suppress
from pathlib import Path

from tritonsmith.builder.base.errors import ServerError
from tritonsmith.perf.server import control
from tritonsmith.perf.server.process.ports import Ports
from tritonsmith.perf.server.process.process import GuardedProcess
from tritonsmith.perf.wire.rest import tidy


class Server:
    """A running server; its URLs are host:port, as Triton's clients want them."""

    def __init__(
        self,
        *,
        host: str,
        ports: Ports,
        version: str = "",
        process: GuardedProcess | None = None,
        log_path: Path | None = None,
    ) -> None:
        self.http_url = f"{host}:{ports.http}"
        self.grpc_url = f"{host}:{ports.grpc}"
        self.metrics_url = f"{host}:{ports.metrics}"
        self.version = version
        self.log_path = log_path
        self._process = process

    @property
    def pid(self) -> int | None:
        """The server's process; None when it is attached or in a container."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and always for an attached server."""
        return None if self._process is None else self._process.exit_code

    def alive(self) -> bool:
        """Whether the process runs; for an attached server, whether it answers."""
        if self._process is None:
            return control.is_ready(self.http_url)
        return self._process.exit_code is None

    def stop(self) -> None:
        """End the server and all it started; nothing for an attached one. Safe to call twice."""
        if self._process is not None:
            self._process.stop()

    def refusals(self) -> dict[str, str]:
        """{model: Triton's own reason} of every model it would not load."""
        log = ""
        if self.log_path is not None and self.log_path.exists():
            log = self.log_path.read_text(errors="replace")
        return refusals_from(control.repository_index(self.http_url), log)


# What Triton 2.51 logs for a model it could not even poll, and for an ensemble that does not hang together: both have a
# row without a state in the index. A model without a version to serve has no row at all.
_POLL_FAILED = re.compile(r"Poll failed for model directory '([^']+)': (.*)")
_REFUSED = re.compile(r'model_repository_manager\.cc:\d+\] (".*")$')
_NO_VERSION = re.compile(r"failed to load model '(.+?)': (.*)", re.DOTALL)
_PARSER = re.compile(r"^(?:\[libprotobuf ERROR .*?\] )?(Error parsing text-format .*)$")


def refusals_from(index: list[control.IndexRow], log: str) -> dict[str, str]:
    """(repository index, the server's log) → {model: reason}; a model one of whose versions serves is not in
    it."""
    serving = {row.name for row in index if row.state == "READY"}
    reasons = {
        row.name: row.reason
        for row in index
        if row.state == "UNAVAILABLE" and row.reason and row.reason != "unloaded"
    }
    listed = {row.name for row in index}
    never_loaded = {row.name for row in index if not row.state}
    parser = ""
    for line in log.splitlines():
        if match := _PARSER.search(line):
            parser = match.group(1)
        if match := _POLL_FAILED.search(line):
            name, reason = match[1], match[2].removesuffix('"')
            if name in never_loaded:
                reasons[name] = f"{reason} ({parser})" if parser and "text proto" in reason else reason
            parser = ""
        if match := _REFUSED.search(line):
            reason = _unquoted(match[1])
            if (of_model := _NO_VERSION.match(reason)) and of_model[1] not in listed:
                reasons[of_model[1]] = of_model[2]
            reason = tidy(reason.removeprefix("Invalid argument: "))
            reasons |= dict.fromkeys(_ensemble_of(reason, never_loaded), reason)
    return {name: reason for name, reason in sorted(reasons.items()) if name not in serving}


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text[1:-1]


def _ensemble_of(reason: str, names: set[str]) -> list[str]:
    """The ensemble that a refusal is about: the longest of the names it begins with, which may hold anything."""
    begins = (
        "ensemble {} ",
        "ensemble '{}' ",
        "in ensemble {},",
        "circular dependency between ensembles: {} -> ",
    )
    found = [name for name in names if reason.startswith(tuple(words.format(name) for words in begins))]
    return [max(found, key=len)] if found else []


def server_ended(server: Server, when: str) -> ServerError:
    """The error for a server that is gone and should not be, with the last words of its log."""
    code = server.exit_code
    how = f"ended with exit code {code}{_signal_of(code)}" if server.pid else "does not answer any more"
    return ServerError(
        f"tritonserver {how} {when}",
        code="server_died",
        seen=last_words(server),
        fix="look into its whole log: --log FILE",
    )


def _signal_of(exit_code: int | None) -> str:
    if exit_code is None or exit_code <= 128:
        return ""
    with suppress(ValueError):
        return f" ({signal.Signals(exit_code - 128).name})"
    return ""


# What a crash writes: C++'s own words of an exception that nobody caught.
_CRASH = re.compile(r"terminate called |\s*what\(\): ")
_ERROR = re.compile(r"E\d{4} |error: |\S*tritonserver: ")
_NO_GPU = "CudaDriverHelper has not been initialized"  # said at every start on a machine without a GPU


def last_words(server: Server) -> str | None:
    """What a crash said; else the last error of the log; else its last line."""
    if server.log_path is None or not server.log_path.exists():
        return None
    lines = [line for line in server.log_path.read_text(errors="replace").splitlines() if line.strip()]
    if crash := [line.strip() for line in lines if _CRASH.match(line)]:
        return " ".join(crash[-2:])
    errors = [line for line in lines if _ERROR.match(line) and _NO_GPU not in line]
    return next(reversed(errors or lines), None)
