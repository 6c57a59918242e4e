"""A real socket that answers like a Triton, but for what a test has it do: any bytes, without end if need be.

    with hostile_server(script) as url: ...

A script gets the method and path of each request and gives the bytes to send, piece by piece; the connection closes
behind the last. `described` is the honest part: a server with the model `m`, x FP32 [-1, 4] → y.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

Script = Callable[[str], Iterable[bytes]]
"""`GET /v2/…` → what is sent."""

NASTY = "<script>alert(1)</script>|`x`[a](javascript:b)\x1b[31m\u202e${{ secrets.T }}\r\n::error::z"
_PIECE = 1 << 16


@contextmanager
def hostile_server(script: Script) -> Iterator[str]:
    """Its URL, for as long as the block runs."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        ended = threading.Event()

        def accept() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    threading.Thread(target=_serve, args=(connection, script, ended), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            with suppress(OSError):  # wakes accept()
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join(5)


def _serve(connection: socket.socket, script: Script, ended: threading.Event) -> None:
    with connection, suppress(OSError, ValueError):
        connection.settimeout(10)
        asked = b""
        while b"\r\n" not in asked:
            piece = connection.recv(_PIECE)
            if not piece:
                return
            asked += piece
        method, path, _ = asked.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        for piece in script(f"{method} {path}"):
            if ended.is_set():
                return
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.2)
        while connection.recv(_PIECE):  # unread bytes would turn the end into a reset
            pass


def answer(value: Any, status: int = 200) -> list[bytes]:
    """JSON, or bytes as they are, as a whole and honest answer."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return [b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body]


def described(path: str) -> Any:
    """What an honest server says."""
    tensor = {"datatype": "FP32", "shape": [-1, 4]}
    if path.endswith("/repository/index"):
        return [{"name": "m", "version": "1", "state": "READY"}]
    if path.endswith("/config"):
        dims = {"data_type": "TYPE_FP32", "dims": [4]}
        return {
            "name": "m",
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "input": [{"name": "x", **dims}],
            "output": [{"name": "y", **dims}],
        }
    if path.endswith("/stats"):
        return {"model_stats": [{"name": "m", "version": "1", "inference_count": 0}]}
    if path.endswith("/ready") or path.endswith("/live"):
        return {}
    if path.endswith("/models/m"):
        x, y = {"name": "x", **tensor}, {"name": "y", **tensor}
        return {"name": "m", "versions": ["1"], "platform": "p", "inputs": [x], "outputs": [y]}
    return {"name": "triton", "version": "2.51.0", "extensions": []}


def telling(lies: Mapping[str, Any]) -> Script:
    """Honest but for these: end of the path → JSON, or bytes of a whole body."""

    def script(asked: str) -> list[bytes]:
        path = asked.split(" ")[1]
        lie = [value for end, value in lies.items() if path.endswith(end)]
        return answer(lie[0] if lie else described(path))

    return script


def always(*first: bytes, endless: bytes = b"", pause_s: float = 0.0) -> Script:
    """The same bytes whatever is asked; `endless` again and again behind them."""

    def script(_: str) -> Iterator[bytes]:
        yield from first
        while endless:
            yield endless
            time.sleep(pause_s)

    return script


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"

BROKEN: dict[str, Script] = {
    "closes-at-once": always(),
    "no-http": always(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "endless-head": always(_OK, endless=b"X-A: b\r\n" * 4096),
    "head-without-line-end": always(b"HTTP/1.1 200 ", endless=b"a" * _PIECE),
    "endless-interim-answers": always(endless=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "huge-length": always(_OK + b"Content-Length: 999999999999999\r\n\r\n", endless=b"[" * _PIECE),
    "length-of-hundred-digits": always(_OK + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n{}"),
    "negative-length": always(_OK + b"Content-Length: -1\r\n\r\n", endless=b" " * _PIECE),
    "length-that-is-no-number": always(_OK + b"Content-Length: many\r\n\r\n", endless=b" " * _PIECE),
    "cut-off": always(_OK + b"Content-Length: 100\r\n\r\n{}"),
    "endless-body": always(_OK + b"\r\n", endless=b" " * _PIECE),
    "endless-chunks": always(_CHUNKED, endless=b"10000\r\n" + b" " * _PIECE + b"\r\n"),
    "one-endless-chunk": always(_CHUNKED + b"FFFFFFFFFFFF\r\n", endless=b" " * _PIECE),
    "negative-chunk": always(_CHUNKED + b"-1\r\n", endless=b" " * _PIECE),
    "no-chunk": always(_CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"),
    "endless-trailer": always(_CHUNKED + b"0\r\n", endless=b"X-A: b\r\n" * 4096),
    "redirect": always(b"HTTP/1.1 302 F\r\nLocation: http://169.254.0.1/\r\nContent-Length: 0\r\n\r\n"),
    "gzip": always(_OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\x1f\x8b"),
    "deep": always(*answer(b"[" * 1_000_000)),
    "deep-object": always(*answer(b'{"name":' * 2000 + b"1" + b"}" * 2000)),
    "many-small-lists": always(*answer(b"[" + b"[]," * 1_390_000 + b"[]]")),
    "huge-error": always(b"HTTP/1.1 500 E\r\n\r\n", endless=b"e" * _PIECE),
    "no-json": always(*answer(b"<html>")),
    "not-utf-8": always(*answer(b'{"name": "\xff"}')),
    "half-a-surrogate-pair": always(*answer(b'{"name": "\\ud800", "version": "\\ud800"}')),
    "number-without-end": always(*answer(b'{"name": ' + b"9" * 100_000 + b"}")),
    "infinite-number": always(*answer(b'{"name": 1e999}')),
    "nan": always(*answer(b'{"version": NaN}')),
    "list": always(*answer([])),
    "null": always(*answer(None)),
    "text": always(*answer("text")),
}

_TENSOR = {"name": "x", "datatype": "FP32", "shape": [4]}
MISTOLD: dict[str, Mapping[str, Any]] = {
    "models-are-a-number": {"/index": {"models": 5}},
    "row-without-name": {"/index": [{"state": "READY"}]},
    "row-is-text": {"/index": ["m"]},
    "state-is-a-list": {"/index": [{"name": "m", "state": ["READY"]}]},
    "version-is-an-object": {"/v2": {"version": {}}, "/index": [{"name": "m", "version": {}, "state": "READY"}]},
    "inputs-are-a-number": {"/models/m": {"name": "m", "inputs": 5}, "/config": {"input": 5}},
    "shape-is-text": {"/models/m": {"name": "m", "inputs": [_TENSOR | {"shape": "4"}]}, "/config": {"input": "4"}},
    "negative-dimension": {
        "/models/m": {"name": "m", "inputs": [_TENSOR | {"shape": [-7]}]}, "/config": {"input": [{"dims": "-7"}]},
    },
    "fractional-dimension": {
        "/models/m": {"name": "m", "inputs": [_TENSOR | {"shape": [1.5]}]}, "/config": {"max_batch_size": 1.5},
    },
    "huge-dimension": {
        "/models/m": {"name": "m", "inputs": [_TENSOR | {"shape": [1 << 40]}]},
        "/config": {"max_batch_size": 1 << 40},
    },
    "unknown-datatype": {
        "/models/m": {"name": "m", "inputs": [_TENSOR | {"datatype": "FP99"}]}, "/config": {"max_batch_size": "x"},
    },
    "config-is-a-list": {"/config": []},
    "config-of-lists": {"/config": {"sequence_batching": [1], "model_transaction_policy": [2]}},
    "config-of-text": {"/config": {"instance_group": [{"count": "many"}]}},
}  # fmt: skip

MISCOUNTED: dict[str, Any] = {
    "statistics-are-a-list": [],
    "statistics-of-text": {"model_stats": "x"},
    "negative-counts": {"model_stats": [{"inference_count": -1}]},
    "huge-counts": {"model_stats": [{"inference_count": 1 << 70}]},
    "durations-are-lists": {"model_stats": [{"inference_stats": {"success": [1]}}]},
    "batches-are-a-number": {"model_stats": [{"batch_stats": 5}]},
}

# HTTP/2, after the client's first bytes.


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _setting(*pairs: tuple[int, int]) -> bytes:
    return _frame(4, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


_SETTINGS = _setting((3, 100))
_BIG = _frame(1, 0, 1, b"\x00" * 16384)
FRAMES: dict[str, tuple[bytes, bytes, bytes]] = {
    # name → (to the preface, to the first request, what follows without end)
    "closes-at-once": (b"", b"", b""),
    "http-1": (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b""),
    "noise": (b"\xff" * 64, b"", b"\xff" * _PIECE),
    "goaway": (_SETTINGS, _frame(7, 0, 0, struct.pack(">II", 0, 11)), b""),
    "short-goaway": (_SETTINGS, _frame(7, 0, 0, b"x"), b""),
    "odd-settings": (_frame(4, 0, 0, b"12345"), b"", b""),
    "window-too-large": (_setting((4, 1 << 31)), b"", b""),
    "frame-size-zero": (_setting((5, 0)), b"", b""),
    "frame-size-too-large": (_setting((5, 1 << 25)), b"", b""),
    "huge-settings": (_setting(*((i % 65536, 0) for i in range(100, 21000))), b"", b""),
    "no-streams": (_setting((3, 0)), b"", b""),
    "settings-flood": (_SETTINGS, b"", _SETTINGS * 500),
    "ping-flood": (_SETTINGS, b"", _frame(6, 0, 0, b"12345678") * 3000),
    "window-overflow": (_SETTINGS, _frame(8, 0, 0, struct.pack(">I", (1 << 31) - 1)) * 2, b""),
    "window-of-nothing": (_SETTINGS, _frame(8, 0, 0, bytes(4)), b""),
    "short-window": (_SETTINGS, _frame(8, 0, 0, b"x"), b""),
    "frame-too-large": (_SETTINGS, b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", b"x" * _PIECE),
    "push": (_SETTINGS, _frame(5, 4, 1, bytes(4)), b""),
    "continuation-of-nothing": (_SETTINGS, _frame(9, 4, 1), b""),
    "continuation-flood": (_SETTINGS, _BIG, _frame(9, 0, 1, b"\x00" * 16384) * 4),
    "malformed-hpack": (_SETTINGS, _frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x0f"), b""),
    "hpack-number-without-end": (_SETTINGS, _frame(1, 4, 1, b"\xff" * 100_000), b""),
    "hpack-bomb": (
        _SETTINGS,
        _frame(1, 4, 1, b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4000 + b"\xbe" * 60_000),
        b"",
    ),
    "headers-flood": (_SETTINGS, b"", _frame(1, 4, 1, b"\x88") * 2000),
    "padding-past-the-end": (_SETTINGS, _frame(1, 0x4 | 0x8, 1, b"\xff\x88"), b""),
    "body-without-end": (_SETTINGS, _frame(1, 4, 1, b"\x88"), _frame(0, 0, 1, b"x" * 16384)),
    "reset": (_SETTINGS, _frame(3, 0, 1, struct.pack(">I", 7)), b""),
    "goaway-at-once": (_SETTINGS + _frame(7, 0, 0, bytes(8)), b"", b""),
}


@contextmanager
def frame_server(first: bytes, then: bytes, endless: bytes) -> Iterator[str]:
    """HOST:PORT that sends `first` to a client's first bytes, the others to its first request."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        ended = threading.Event()

        def serve(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.settimeout(5)
                connection.recv(_PIECE)
                connection.sendall(first)
                asked = b""
                while first and b"application/grpc" not in asked:  # an HTTP/2 acknowledgement may come before
                    piece = connection.recv(_PIECE)
                    if not piece:
                        return
                    asked += piece
                connection.sendall(then)
                while first and not ended.is_set():
                    if not endless:
                        if not connection.recv(_PIECE):
                            return
                        continue
                    connection.sendall(endless)

        def accept() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            with suppress(OSError):
                socket.create_connection(listener.getsockname(), 1).close()
            thread.join(5)
