"""Infer payloads ↔ gRPC messages, and the target that sends them over hand-made HTTP/2 frames.

Through a gRPC library a request costs the client several times what Triton needs to answer it, so a message
is serialised once and the frames are ours. The service is KServe v2's inference.GRPCInferenceService.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritonsmith.builder.base.files.address import Address, address_of, refuse_bare_ipv6
from tritonsmith.builder.base.text.shown import refuse_secrets
from tritonsmith.perf.wire.http2.grpc_connection import GrpcConnection
from tritonsmith.perf.wire.http2.grpc_stream import ResponseParser
from tritonsmith.perf.wire.payload import Answer, Array, InferPayload, Parameter, array_from_raw
from tritonsmith.perf.wire.target import HEADER_FIX, KEPT_LIMIT_BYTES, Closed, Done, Tls

SERVICE = "/inference.GRPCInferenceService"
METHOD = f"{SERVICE}/ModelInfer"
STREAM_METHOD = f"{SERVICE}/ModelStreamInfer"


@dataclass(frozen=True, slots=True)
class GrpcTarget:
    """A KServe v2 server over gRPC; implements perf.wire.target.Target.

    base_url: `host:port` or `grpc://host:port`; `grpcs://host:port` for TLS.
    headers:  metadata sent with every request (auth); names in lower case, as HTTP/2 wants them.
    ca_file, verify, cert_file, key_file: what TLS trusts and shows, see Tls.
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
    cert_file: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        if "://" not in self.base_url:
            object.__setattr__(self, "base_url", f"grpc://{self.base_url}")
        refuse_bare_ipv6(self.base_url)
        refuse_secrets(self.base_url, HEADER_FIX)
        self.address()

    def address(self) -> Address:
        """The URL's parts; UsageError bad_url when it is none."""
        return address_of(self.base_url, ("grpc", "grpcs"), "grpc://127.0.0.1:8001")

    @property
    def tls(self) -> Tls:
        """What grpcs trusts and shows."""
        return Tls(self.ca_file, self.verify, self.cert_file, self.key_file)

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
        return framed(_request_message(payload).SerializeToString())

    def decode(self, answer: bytes) -> Answer:
        """See Target.decode; the answer is one length-prefixed ModelInferResponse, of a streaming target any
        number of ModelStreamInferResponses, whose outputs are joined along their first dimension."""
        return decode_stream(answer) if self.streaming else decode_message(answer)

    async def connect(self, done: Done, closed: Closed) -> GrpcConnection:
        """See Target.connect; waits for the server's SETTINGS, so that another protocol is an OSError."""
        if self.streaming:
            return await self.opened(STREAM_METHOD, done, closed, ResponseParser)
        return await self.opened(METHOD, done, closed)

    async def opened(
        self,
        path: str,
        done: Done,
        closed: Closed,
        parser: Callable[[], ResponseParser] | None = None,
        limit_bytes: int = KEPT_LIMIT_BYTES,
    ) -> GrpcConnection:
        """A connection whose requests are calls of this path; parser: see GrpcConnection; limit_bytes: of an answer that
        is kept."""
        at = self.address()
        headers = {name.lower(): value for name, value in self.headers.items()}
        authority = headers.pop("host", at.authority)
        context = self.tls.context(("h2",)) if at.scheme == "grpcs" else None
        fields = [
            (":method", "POST"),
            (":scheme", "https" if context else "http"),
            (":path", path),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *headers.items(),
        ]
        loop = asyncio.get_running_loop()

        async def opened() -> GrpcConnection:
            _, connection = await loop.create_connection(
                lambda: GrpcConnection(done, closed, fields, parser, limit_bytes),
                at.host,
                at.port or 8001,
                ssl=context,
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


def framed(message: bytes) -> bytes:
    """gRPC's length-prefixed message, uncompressed (PROTOCOL-HTTP2.md)."""
    return b"\x00" + len(message).to_bytes(4, "big") + message


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
