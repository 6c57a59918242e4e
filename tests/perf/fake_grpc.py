"""Two gRPC servers on real sockets: one of grpcio, which follows the protocol, and one that plays a script."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np


@dataclass
class GrpcServer:
    """grpcio's server for any model: y = 2·x. Every n-th call fails, waits or lies on demand.

    A streamed request gets x's first value as its number of responses, y = 0, 1, 2 …; -1 is an error.
    require: (name, value) of the metadata without which a request is UNAUTHENTICATED.
    """

    port: int = 0
    require: tuple[str, str] | None = None
    requests: int = 0
    error_every: int = 0
    wrong_every: int = 0
    delay_s: float = 0.0
    metadata: list[dict[str, Any]] = field(default_factory=list)
    last: Any = None
    parameters: list[dict[str, Any]] = field(default_factory=list)
    server: Any = None

    def infer(self, request: Any, context: Any) -> Any:
        import grpc  # type: ignore[import-untyped]
        from tritonclient.grpc import service_pb2

        self.requests += 1
        number = self.requests
        self.last = request
        self.parameters.append(
            {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in request.parameters.items()}
        )
        self.metadata.append(dict(context.invocation_metadata()))
        if self.require is not None and self.metadata[-1].get(self.require[0]) != self.require[1]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        if self.delay_s:
            time.sleep(self.delay_s)
        if self.error_every and number % self.error_every == 0:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Request timeout expired: 100 % µs")
        x = np.frombuffer(request.raw_input_contents[0], np.float32)
        y = 2 * x + (1 if self.wrong_every and number % self.wrong_every == 0 else 0)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="y", datatype="FP32", shape=request.inputs[0].shape)
        answer.raw_output_contents.append(y.astype(np.float32).tobytes())
        return answer

    def describe(self, kind: str, request: Any, context: Any) -> Any:
        """Any model: x FP32 [-1, 4] → y, and what was counted."""
        from tritonclient.grpc import service_pb2

        self.metadata.append(dict(context.invocation_metadata()))
        if kind == "ServerMetadata":
            return service_pb2.ServerMetadataResponse(name="fake", version="0.0")
        if kind == "ModelMetadata":
            answer = service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])
            answer.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
            answer.outputs.add(name="y", datatype="FP32", shape=[-1, 4])
            return answer
        if kind == "ModelConfig":
            answer = service_pb2.ModelConfigResponse()
            answer.config.name, answer.config.max_batch_size = request.name, 8
            return answer
        answer = service_pb2.ModelStatisticsResponse()
        row = answer.model_stats.add(name=request.name, version="1", inference_count=self.requests)
        row.inference_stats.success.count = self.requests
        return answer

    def register_cuda(self, request: Any, context: Any) -> Any:
        from tritonclient.grpc import service_pb2

        self.last = request
        return service_pb2.CudaSharedMemoryRegisterResponse()

    def stream(self, requests: Any, context: Any) -> Any:
        from tritonclient.grpc import service_pb2

        for request in requests:
            self.requests += 1
            count = int(np.frombuffer(request.raw_input_contents[0], np.float32)[0])
            if count < 0:
                yield service_pb2.ModelStreamInferResponse(error_message="no such number")
            for number in range(count):
                time.sleep(self.delay_s)
                message = service_pb2.ModelStreamInferResponse()
                answer = message.infer_response
                answer.model_name, answer.id = request.model_name, request.id
                answer.outputs.add(name="y", datatype="FP32", shape=[1])
                answer.raw_output_contents.append(np.float32(number).tobytes())
                yield message


@contextmanager
def grpc_server(
    credentials: Any = None, options: Any = (), address: str = "127.0.0.1:0", **behaviour: Any
) -> Iterator[GrpcServer]:
    """A running grpcio server; keyword arguments are GrpcServer's."""
    import grpc
    from tritonclient.grpc import service_pb2

    fake = GrpcServer(**behaviour)
    limits = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), *options]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=limits)
    handler = grpc.unary_unary_rpc_method_handler(
        fake.infer,
        request_deserializer=service_pb2.ModelInferRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    stream_handler = grpc.stream_stream_rpc_method_handler(
        fake.stream,
        request_deserializer=service_pb2.ModelInferRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    name = "inference.GRPCInferenceService"
    cuda_handler = grpc.unary_unary_rpc_method_handler(
        fake.register_cuda,
        request_deserializer=service_pb2.CudaSharedMemoryRegisterRequest.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )
    described = {
        kind: grpc.unary_unary_rpc_method_handler(
            partial(fake.describe, kind),
            request_deserializer=getattr(service_pb2, f"{kind}Request").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        for kind in ("ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics")
    }
    handlers = {
        **described,
        "ModelInfer": handler,
        "ModelStreamInfer": stream_handler,
        "CudaSharedMemoryRegister": cuda_handler,
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    fake.port = (
        server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    )
    fake.server = server
    server.start()
    try:
        yield fake
    finally:
        server.stop(0).wait()


Script = Callable[["Peer"], Awaitable[None]]


@dataclass
class Peer:
    """The scripted server's side of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    frames: list[tuple[int, int, int, bytes]] = field(default_factory=list)

    async def read_frame(self) -> tuple[int, int, int, bytes]:
        """(type, flags, stream, payload)"""
        head = await self.reader.readexactly(9)
        payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        got = (head[3], head[4], int.from_bytes(head[5:], "big"), payload)
        self.frames.append(got)
        return got

    async def read_request(self) -> int:
        """Read on until a stream is ended by the client; its number."""
        while True:
            kind, flags, stream, _ = await self.read_frame()
            if kind == 0 and flags & 1:
                return stream

    def write(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
        self.writer.write(head + payload)


@contextmanager
def scripted_server(script: Script, settings: bytes = b"") -> Iterator[int]:
    """A server that reads the preface, sends SETTINGS and plays the script; its port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(24)
            peer = Peer(reader, writer)
            peer.write(4, 0, 0, settings)
            await script(peer)
            await writer.drain()
            await asyncio.sleep(5)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def up() -> Any:
        return await asyncio.start_server(serve, "127.0.0.1", 0)

    server = asyncio.run_coroutine_threadsafe(up(), loop).result(5)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def down() -> None:
            server.close()
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(down(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()
