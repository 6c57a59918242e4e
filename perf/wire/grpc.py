"""Infer payloads ↔ gRPC messages, and the target that sends them over hand-made HTTP/2 frames.

Through a gRPC library a request costs the client several times what Triton needs to answer it, so a message
is serialised once and the frames are ours. The service is KServe v2's inference.GRPCInferenceService.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.text.shown import refuse_secrets
from tritonsmith.perf.wire.http2.grpc_connection import GrpcConnection
from tritonsmith.perf.wire.payload import Answer, Array, InferPayload, Parameter, array_from_raw
from tritonsmith.perf.wire.target import HEADER_FIX, Closed, Done

METHOD = "/inference.GRPCInferenceService/ModelInfer"
STREAM_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """A KServe v2 server over gRPC; implements perf.wire.target.Target.

    base_url: `host:port` or `grpc://host:port`; `grpcs://host:port` for TLS.
    headers:  metadata sent with every request (auth); names in lower case, as HTTP/2 wants them.
    ca_file:  extra trusted certificates for TLS; verify=False trusts any (a test server's own).
    streams_per_connection: requests in flight on one connection before another is opened.
    streaming: ask by ModelStreamInfer, one stream a request, for models that give many responses (or none).
               The client closes its half behind the request, so that the stream's end is the answer's end.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: str | None = None
    verify: bool = True
    connect_timeout_s: float = 5.0
    streams_per_connection: int = 32
    streaming: bool = False

    def __post_init__(self) -> None:
        if "://" not in self.base_url:
            object.__setattr__(self, "base_url", f"grpc://{self.base_url}")
        refuse_secrets(self.base_url, HEADER_FIX)
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("grpc", "grpcs") or not parts.hostname:
            raise UsageError("not a gRPC URL", code="bad_url", seen=self.base_url, valid=["127.0.0.1:8001"])

    @property
    def url(self) -> str:
        """As the user would write it."""
        return self.base_url

    @property
    def protocol(self) -> str:
        """`grpc`."""
        return "grpc"

    @property
    def differs_by_slot(self) -> bool:
        """No: every slot sends the same bytes."""
        return False

    def of_process(self, part: int, parts: int) -> GrpcTarget:
        """See Target."""
        return self

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """See Target.encode: the length-prefixed message; the header block belongs to the connection."""
        message: bytes = _request_message(payload).SerializeToString()
        return b"\x00" + len(message).to_bytes(4, "big") + message

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode; the answer is one length-prefixed ModelInferResponse, of a streaming target any
        number of ModelStreamInferResponses, whose outputs are joined along their first dimension."""
        return decode_stream(answer) if self.streaming else decode_message(answer)

    async def connect(self, done: Done, closed: Closed) -> GrpcConnection:
        """See Target.connect; waits for the server's SETTINGS, so that another protocol is an OSError."""
        parts = urlsplit(self.base_url)
        host, port = str(parts.hostname), parts.port or 8001
        context = self.tls_context() if parts.scheme == "grpcs" else None
        authority = parts.netloc.rpartition("@")[2]
        fields = [
            (":method", "POST"),
            (":scheme", "https" if context else "http"),
            (":path", STREAM_METHOD if self.streaming else METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *self.headers.items(),
        ]
        loop = asyncio.get_running_loop()

        async def opened() -> GrpcConnection:
            _, connection = await loop.create_connection(
                lambda: GrpcConnection(done, closed, fields, self.streaming), host, port, ssl=context
            )
            try:
                await connection.ready
            except BaseException:
                connection.close()
                raise
            return connection

        try:
            return await asyncio.wait_for(opened(), self.connect_timeout_s)
        except asyncio.TimeoutError as error:
            raise TimeoutError(f"no HTTP/2 settings in {self.connect_timeout_s:g} s") from error

    def tls_context(self) -> tls.SSLContext:
        """What TLS trusts; HTTP/2 is agreed on by ALPN."""
        context = tls.create_default_context(cafile=self.ca_file)
        context.set_alpn_protocols(["h2"])
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = tls.CERT_NONE
        return context


def _request_message(payload: InferPayload) -> Any:
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(
        model_name=payload.model, model_version=payload.version, id=payload.request_id
    )
    _set_parameters(request.parameters, payload.parameters)
    for tensor in payload.inputs:
        added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.shared is None:
            request.raw_input_contents.append(tensor.data)
        else:
            _set_parameters(added.parameters, tensor.shared.parameters())
    for name in payload.outputs if not payload.shared_outputs else ():
        request.outputs.add(name=name)
    for name, shared in payload.shared_outputs.items():
        _set_parameters(request.outputs.add(name=name).parameters, shared.parameters())
    return request


def _set_parameters(message: Any, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        parameter = message[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            if name == "priority":  # the server reads this one as unsigned
                parameter.uint64_param = value
            else:
                parameter.int64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            parameter.string_param = value


def decode_message(answer: bytes) -> Answer:
    """A length-prefixed ModelInferResponse → Answer; ValueError when it is malformed."""
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    if len(answer) < 5 or answer[0] != 0 or int.from_bytes(answer[1:5], "big") != len(answer) - 5:
        raise ValueError("not one uncompressed gRPC message")
    response = service_pb2.ModelInferResponse()
    try:
        response.ParseFromString(answer[5:])
    except DecodeError as error:
        raise ValueError("the answer is not a ModelInferResponse") from error
    return _answer_of(response)


def _answer_of(response: Any) -> Answer:
    if len(response.outputs) != len(response.raw_output_contents):
        raise ValueError("the answer does not hold every output as raw bytes")
    outputs: dict[str, Array] = {}
    shared: dict[str, tuple[str, tuple[int, ...]]] = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        if not raw and 0 not in shape:  # the only mark that its bytes are in shared memory
            shared[output.name] = (output.datatype, shape)
        else:
            outputs[output.name] = array_from_raw(output.datatype, shape, raw)
    return Answer(outputs, None, response.id, shared, response.model_version)


def decode_stream(answer: bytes) -> Answer:
    """Length-prefixed ModelStreamInferResponses → one Answer, the outputs of all responses joined.

    A response without outputs (an empty final one) adds nothing. ValueError when one is malformed or when
    outputs of one name cannot be joined along their first dimension.
    """
    parts = decode_responses(answer)
    if parts and parts[-1].error is not None:
        return Answer({}, parts[-1].error)
    names = dict.fromkeys(name for part in parts for name in part.outputs)
    joined = {name: np.concatenate([p.outputs[name] for p in parts if name in p.outputs]) for name in names}
    shared = {name: where for part in parts for name, where in part.shared.items()}
    request_id, version = (parts[0].request_id, parts[0].model_version) if parts else ("", "")
    return Answer(joined, None, request_id, shared, version)


def decode_responses(answer: bytes) -> list[Answer]:
    """The same → an Answer each; an error is the last. ValueError when one is malformed."""
    from google.protobuf.message import DecodeError
    from tritonclient.grpc import service_pb2

    parts: list[Answer] = []
    at = 0
    while at < len(answer):
        end = at + 5 + int.from_bytes(answer[at + 1 : at + 5], "big")
        if answer[at] != 0 or len(answer) < at + 5 or end > len(answer):
            raise ValueError("not a run of uncompressed gRPC messages")
        try:
            response = service_pb2.ModelStreamInferResponse.FromString(answer[at + 5 : end])
        except DecodeError as error:
            raise ValueError("a response is not a ModelStreamInferResponse") from error
        if response.error_message:
            return [*parts, Answer({}, response.error_message)]
        parts.append(_answer_of(response.infer_response))
        at = end
    return parts
