"""A small KServe v2 HTTP server on a real socket, in its own thread, that misbehaves on demand.

It serves any model name with input `x` (FP32) and output `y` = 2·x, with batch dimension first.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

INDEX = [
    {"name": "m", "version": "1", "state": "READY"},
    {"name": "broken", "version": "2", "state": "UNAVAILABLE", "reason": "onnx: not a graph"},
    {"name": "unloaded"},
]
NOT_SERVED = ("missing", "mn", "broken", "unloaded")


@dataclass
class Behaviour:
    """What the server does; may be changed while it runs.

    delay_s:        answer so much later, each request by itself.
    stall_until_s:  time.monotonic before which nothing is answered (the whole server stands still).
    error_every:    every n-th infer request is answered with HTTP 503.
    chunked:        bodies in chunks of so many bytes; 0 sends Content-Length.
    piece_bytes:    write answers in pieces of this size, with a pause between; 0 writes at once.
    drop_every:     every n-th infer request: the connection is reset instead of an answer.
    drop_inside:    with drop_every: after half of the answer.
    close_every:    every n-th infer answer says `Connection: close` and closes.
    until_eof:      no Content-Length; the end of the connection ends the body.
    wrong_every:    every n-th infer answer has wrong values.
    continue_first: an interim 100 answer comes first.
    never:          infer requests are never answered.
    count_after_s:  statistics count a request so long after its answer.
    require_header: (name, value) without which everything is HTTP 403.
    infer_status:   every infer request is refused with this status.
    refuse_value:   infer requests with this value are refused with HTTP 400.
    """

    delay_s: float = 0.0
    stall_until_s: float = 0.0
    error_every: int = 0
    chunked: int = 0
    piece_bytes: int = 0
    drop_every: int = 0
    drop_inside: bool = False
    close_every: int = 0
    until_eof: bool = False
    wrong_every: int = 0
    continue_first: bool = False
    never: bool = False
    count_after_s: float = 0.0
    require_header: tuple[str, str] | None = None
    infer_status: int = 0
    refuse_value: float | None = None


@dataclass
class FakeServer:
    """host, port and what was seen.

    values_seen: how often an infer request had a row that begins with this value.
    ensembles: model → the models of its steps; each counts what the fake is asked, with a queue of its own length.

    To generate_stream it answers with as many events as x says, y = 0, 1, 2 …; after as many as -x an error object.
    """

    behaviour: Behaviour = field(default_factory=Behaviour)
    max_batch_size: int = 8
    width: int = 4
    decoupled: bool = False
    port: int = 0
    infer_requests: int = 0
    connections: int = 0
    request_times_s: list[float] = field(default_factory=list)
    last_head: str = ""
    last_header: dict[str, Any] = field(default_factory=dict)
    parameters: list[dict[str, Any]] = field(default_factory=list)
    batch_counts: dict[int, int] = field(default_factory=dict)
    compute_ns: int = 0
    regions: list[tuple[str, Any]] = field(default_factory=list)
    ssl: Any = None
    host: str = "127.0.0.1"
    answer_bytes: int = 0
    ensembles: dict[str, list[str]] = field(default_factory=dict)
    last_values: list[float] = field(default_factory=list)
    values_seen: Counter[float] = field(default_factory=Counter)
    _loop: asyncio.AbstractEventLoop | None = None
    _server: asyncio.AbstractServer | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.ssl else 'http'}://{host}:{self.port}"

    def stop_listening(self) -> None:
        """Close the listener and reset all connections; `listen` opens the same port again."""
        self._call(self._down())

    def listen(self) -> None:
        self._call(self._up())

    def _call(self, work: Any) -> None:
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _up(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, self.host, self.port, ssl=self.ssl, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _down(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = {
                    n.strip().lower(): v.strip()
                    for n, _, v in (line.partition(":") for line in head.split("\r\n")[1:])
                }
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if not await self._answer(head, fields, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, head: str, fields: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        behaviour = self.behaviour
        method, path, _ = head.split(" ", 2)
        if behaviour.require_header is not None:
            name, value = behaviour.require_header
            if fields.get(name.lower()) != value:
                return await self._write(writer, 403, b'{"error":"no access"}', None, close=False)
        if "sharedmemory/region" in path:
            self.regions.append((path, json.loads(body or b"null")))
        if path.endswith("/generate_stream"):
            self.infer_requests += 1
            self.last_head = head
            return await self._generate(json.loads(body), writer)
        if not path.endswith("/infer"):
            status, data = self._describe(method, path)
            return await self._write(writer, status, json.dumps(data).encode(), None, close=False)
        self.infer_requests += 1
        number = self.infer_requests
        self.last_head = head
        self.request_times_s.append(time.monotonic())
        while (left_s := behaviour.stall_until_s - time.monotonic()) > 0:
            await asyncio.sleep(left_s)
        if behaviour.delay_s:
            await asyncio.sleep(behaviour.delay_s)
        if behaviour.never:
            await asyncio.sleep(3600)

        def turn(every: int) -> bool:
            return every > 0 and number % every == 0

        if behaviour.infer_status:
            return await self._write(writer, behaviour.infer_status, b"no access", None, close=False)
        if turn(behaviour.error_every):
            return await self._write(writer, 503, b'{"error":"Request timeout expired"}', None, close=False)
        json_length, answer = self._infer(fields, body, turn(behaviour.wrong_every))
        if behaviour.refuse_value is not None and behaviour.refuse_value in self.last_values:
            return await self._write(writer, 400, b'{"error":"that value is refused"}', None, close=False)
        if turn(behaviour.drop_every):
            if behaviour.drop_inside:
                writer.write(self._head(200, len(answer), json_length, False) + answer[: len(answer) // 2])
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.transport.abort()
            return False
        return await self._write(writer, 200, answer, json_length, close=turn(behaviour.close_every))

    async def _generate(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        self.last_header = asked
        self.parameters.append(asked.get("parameters", {}))
        x = asked["x"]
        count = int(x[0] if isinstance(x, list) else x)
        events = [{"model_name": "m", "model_version": "1", "y": float(n)} for n in range(abs(count))]
        if count < 0:
            events.append({"error": "no such number"})
        self._count(1)
        lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
        if self.behaviour.piece_bytes or self.behaviour.chunked:
            return await self._write(writer, 200, b"".join(lines), None, close=False)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for line in lines:
            await asyncio.sleep(self.behaviour.delay_s)
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _infer(self, fields: dict[str, str], body: bytes, wrong: bool) -> tuple[int | None, bytes]:
        """A request with binary tensors gets such an answer, one of JSON alone gets JSON."""
        told = fields.get("inference-header-content-length")
        length = len(body) if told is None else int(told)
        header = json.loads(body[:length])
        self.last_header = header
        self.parameters.append(header.get("parameters", {}))
        shape = header["inputs"][0]["shape"]
        values = (
            np.array(header["inputs"][0]["data"]) if told is None else np.frombuffer(body[length:], "<f4")
        )
        self.last_values = values.ravel().tolist()
        self.values_seen.update(self.last_values[:: shape[-1]])
        y = (2 * values.reshape(shape) + (1 if wrong else 0)).astype("<f4")
        if self.behaviour.count_after_s:
            asyncio.get_running_loop().call_later(self.behaviour.count_after_s, self._count, shape[0])
        else:
            self._count(shape[0])
        output: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": shape}
        output |= (
            {"data": y.ravel().tolist()} if told is None else {"parameters": {"binary_data_size": y.nbytes}}
        )
        text = json.dumps(
            {"id": header.get("id", ""), "model_name": "m", "model_version": "1", "outputs": [output]}
        ).encode()
        return (None, text) if told is None else (len(text), text + y.tobytes())

    def _count(self, batch_size: int) -> None:
        self.batch_counts[batch_size] = self.batch_counts.get(batch_size, 0) + 1
        self.compute_ns += 100_000

    def _head(self, status: int, length: int, json_length: int | None, close: bool) -> bytes:
        lines = [f"HTTP/1.1 {status} X"]
        if json_length is not None:
            lines.append(f"Inference-Header-Content-Length: {json_length}")
        if self.behaviour.chunked:
            lines.append("Transfer-Encoding: chunked")
        elif not self.behaviour.until_eof:
            lines.append(f"Content-Length: {length}")
        if close:
            lines.append("Connection: close")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    async def _write(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, json_length: int | None, close: bool
    ) -> bool:
        behaviour = self.behaviour
        head = self._head(status, len(body), json_length, close)
        if behaviour.continue_first:
            head = b"HTTP/1.1 100 Continue\r\n\r\n" + head
        if behaviour.chunked:
            size = behaviour.chunked
            chunks = [body[i : i + size] for i in range(0, len(body), size)]
            body = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nTrailer: t\r\n\r\n"
        data = head + body
        if json_length is not None:
            self.answer_bytes = len(data)
        step = behaviour.piece_bytes or len(data)
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            if behaviour.piece_bytes:
                await writer.drain()
                await asyncio.sleep(0.0005)
        await writer.drain()
        return not (close or behaviour.until_eof)

    def _describe(self, method: str, path: str) -> tuple[int, Any]:
        dims = [-1, self.width] if self.max_batch_size else [self.width]
        tensor = {"datatype": "FP32", "shape": dims}
        parts = path.strip("/").split("/")
        if path == "/v2/repository/index":
            return 200, INDEX
        if path == "/v2":
            return 200, {"name": "fake", "version": "0.0", "extensions": []}
        if path.startswith("/v2/health/"):
            return 200, {}
        if path == "/v2/models/stats":
            return 200, {"model_stats": [self._stats("m")]}
        if parts[:2] == ["v2", "models"] and len(parts) >= 3:
            if parts[2] in NOT_SERVED:
                return 400, {"error": f"Request for unknown model: '{parts[2]}' is not found"}
            what = parts[3] if len(parts) > 3 else ""
            if what == "config":
                steps = [{"model_name": name} for name in self.ensembles.get(parts[2], [])]
                scheduling = {"ensemble_scheduling": {"step": steps}} if steps else {}
                policy = {"model_transaction_policy": {"decoupled": self.decoupled}}
                return 200, {"name": parts[2], "max_batch_size": self.max_batch_size, **scheduling, **policy}
            if what == "stats":
                return 200, {"model_stats": [self._stats(parts[2])]}
            return 200, {
                "name": parts[2],
                "versions": ["1"],
                "platform": "fake",
                "inputs": [{"name": "x", **tensor}],
                "outputs": [{"name": "y", **tensor}],
            }
        return 404, {"error": "not found"}

    def _stats(self, model: str) -> dict[str, Any]:
        count = sum(self.batch_counts.values())
        zero = {"count": 0, "ns": 0}
        compute = {"count": count, "ns": self.compute_ns}
        members = [name for steps in self.ensembles.values() for name in steps]
        place = members.index(model) + 1 if model in members else 0
        return {
            "name": model,
            "version": "1",
            "inference_count": sum(size * n for size, n in self.batch_counts.items()),
            "execution_count": count,
            "inference_stats": {
                "success": compute,
                "fail": zero,
                "queue": {"count": count, "ns": count * (50_000 + 10_000 * place)},
                "compute_input": zero,
                "compute_infer": compute,
                "compute_output": zero,
                "cache_hit": zero,
                "cache_miss": zero,
            },
            "batch_stats": [
                {"batch_size": size, "compute_infer": {"count": n, "ns": n * 100_000}}
                for size, n in sorted(self.batch_counts.items())
            ],
        }


@contextmanager
def fake_server(
    ssl: Any = None,
    max_batch_size: int = 8,
    width: int = 4,
    host: Any = "127.0.0.1",
    ensembles: Any = None,
    **behaviour: Any,
) -> Iterator[FakeServer]:
    """A running server; keyword arguments are Behaviour's."""
    server = FakeServer(
        Behaviour(**behaviour),
        max_batch_size=max_batch_size,
        width=width,
        ssl=ssl,
        host=host,
        ensembles=ensembles or {},
    )
    with running(server):
        yield server


Kind = TypeVar("Kind", bound=FakeServer)


@contextmanager
def running(server: Kind) -> Iterator[Kind]:
    """It listens for the length of the block."""
    loop = asyncio.new_event_loop()
    server._loop = loop
    thread = threading.Thread(target=loop.run_forever, name="fake-server", daemon=True)
    thread.start()
    server.listen()
    try:
        yield server
    finally:
        server.stop_listening()

        async def drained() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        server._call(drained())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
