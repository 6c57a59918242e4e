"""Streamed texts on the wire: events of OpenAI's API, events and gRPC messages of Triton → chunks with their times.

Formats: OpenAI's API reference, "Streaming" (chat.completion.chunk, text_completion; `usage` in the last chunk when
stream_options.include_usage asks for it; `data: [DONE]` at the end); Triton's generate extension; text_output,
num_input_tokens and num_output_tokens of triton-inference-server/vllm_backend (docs/additional_outputs.md, the latter
counting each response's own tokens).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tritonsmith.perf.wire.generate.connection import GenerateConnection
from tritonsmith.perf.wire.generate.events import EventParser
from tritonsmith.perf.wire.generate.target import GenerateTarget, generate_body
from tritonsmith.perf.wire.grpc import STREAM_METHOD, GrpcTarget
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.http2.grpc_connection import GrpcConnection
from tritonsmith.perf.wire.http2.grpc_stream import ResponseParser
from tritonsmith.perf.wire.paths import model_path
from tritonsmith.perf.wire.payload import InferPayload, http_message
from tritonsmith.perf.wire.rest import exchange, reason
from tritonsmith.perf.wire.target import KEPT_LIMIT_BYTES, Chunks, Closed, Done, Responses

_TEXT_LIMIT = 300
_TEXT_FIELDS = ("content", "reasoning_content", "reasoning", "text")
"""Where a choice, or its delta, has text; a model's reasoning is text that its user waits for, too."""


class Collected:
    """One request's chunks so far. keep: their text, too."""

    __slots__ = ("_at_ns", "_keep", "_sizes", "_text", "_tokens", "input_tokens", "output_tokens")

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._at_ns, self._tokens, self._sizes = array("q"), array("i"), array("i")
        self._text = bytearray()
        self.input_tokens = self.output_tokens = -1

    def add(self, now: int, text: bytes, tokens: int) -> None:
        """A chunk that was whole at `now`; tokens: as the server says, -1 where it does not."""
        self._at_ns.append(now)
        self._tokens.append(tokens)
        self._sizes.append(len(text))
        if self._keep:
            self._text += text

    def chunks(self) -> Chunks:
        """All of them."""
        told = self._at_ns, self._tokens, self._sizes
        return Chunks(*told, bytes(self._text), self.input_tokens, self.output_tokens)


class OpenAiEvents(EventParser):
    """See EventParser, whose responses are here the chunks with text: a role, an empty text and a count are none."""

    __slots__ = ("_ended", "_got", "_head", "_tail")

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self._got = Collected(keep)
        self._ended = False
        self._head = self._tail = b""  # of a chunk whose text alone differs from the next one's

    def _event(self, data: bytes, now: int) -> None:
        if self._head and data.startswith(self._head) and data.endswith(self._tail):
            # The same JSON but for a text without escapes, which is what most chunks are: no need to parse it.
            inner = data[len(self._head) : len(data) - len(self._tail)]
            if inner and b'"' not in inner and b"\\" not in inner:
                self._got.add(now, inner, -1)
                self._count(now)
                return
        if data == b"[DONE]":
            self._ended = True
            return
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, Mapping):
            self._error = self._error or "a chunk that is no JSON object"
            return
        error = error_in(said)
        if error is not None:
            self._error = self._error or error
            return
        text, tokens = text_in(said), self._counted(said.get("usage"))
        self._got.add(now, text.encode("utf-8", "replace"), tokens)
        if text:
            self._count(now)
            self._remember(data, text, tokens)

    def _counted(self, usage: Any) -> int:
        """Tokens that this chunk adds, where it tells how many there are so far."""
        if not isinstance(usage, Mapping):
            return -1
        before = max(0, self._got.output_tokens)
        self._got.input_tokens = whole(usage.get("prompt_tokens"), self._got.input_tokens)
        self._got.output_tokens = whole(usage.get("completion_tokens"), self._got.output_tokens)
        return max(0, self._got.output_tokens - before) if self._got.output_tokens >= 0 else -1

    def _remember(self, data: bytes, text: str, tokens: int) -> None:
        literal = b'"' + text.encode("utf-8", "replace") + b'"'
        if tokens == -1 and b"\\" not in data and data.count(literal) == 1:
            at = data.find(literal) + 1
            head, tail = data[:at], data[at + len(literal) - 2 :]
            if head.endswith((b'"content":"', b'"content": "', b'"text":"', b'"text": "')):
                self._head, self._tail = head, tail

    def failure(self) -> str | None:
        """See EventParser.failure; a stream that ends without [DONE] was cut off."""
        if self._error is not None:
            return f"OpenAI stream: {self._error}"
        return super().failure() or (None if self._ended else "protocol: the stream ended without [DONE]")

    def responses(self) -> Responses:
        """See EventParser.responses."""
        return Responses(*super().responses()[:3], self._got.chunks())


def text_in(said: Mapping[str, Any]) -> str:
    """The text that a chunk of OpenAI's API adds, of all its choices."""
    text = ""
    for choice in said.get("choices") or ():
        delta = choice.get("delta")
        of = delta if isinstance(delta, Mapping) else choice
        text += "".join(of[name] for name in _TEXT_FIELDS if isinstance(of.get(name), str))
        for call in of.get("tool_calls") or ():
            made = call.get("function") or {}
            text += f"{made.get('name') or ''}{made.get('arguments') or ''}"
    return text


def error_in(said: Mapping[str, Any]) -> str | None:
    """The server's words in an error object, in one line."""
    error = said.get("error")
    if error is None:
        if said.get("object") != "error":
            return None
        error = said
    words = error.get("message", error) if isinstance(error, Mapping) else error
    return " ".join(str(words).split())[:_TEXT_LIMIT]


def whole(value: Any, otherwise: int) -> int:
    """A count as a server tells it, alone or in a list of one."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31
    return value if good else otherwise


class TritonEvents(EventParser):
    """The same of Triton's generate_stream: a response's text is its output text_output."""

    __slots__ = ("_got",)

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self._got = Collected(keep)

    def _event(self, data: bytes, now: int) -> None:
        try:
            said = json.loads(data)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, Mapping):
            self._error = self._error or "a response that is no JSON object"
            return
        if "error" in said and "model_name" not in said:
            self._error = self._error or error_in(said)
            return
        text = said.get("text_output")
        text = "".join(map(str, text)) if isinstance(text, list) else text if isinstance(text, str) else ""
        add_triton(
            self._got,
            now,
            text.encode("utf-8", "replace"),
            said.get("num_input_tokens"),
            said.get("num_output_tokens"),
        )
        if text:
            self._count(now)

    def responses(self) -> Responses:
        """See EventParser.responses."""
        return Responses(*super().responses()[:3], self._got.chunks())


def add_triton(got: Collected, now: int, text: bytes, input_tokens: Any, output_tokens: Any) -> None:
    """A response of vllm_backend: num_output_tokens are those of this response alone."""
    tokens = whole(output_tokens, -1)
    got.input_tokens = whole(input_tokens, got.input_tokens)
    if tokens >= 0:
        got.output_tokens = max(0, got.output_tokens) + tokens
    got.add(now, text, tokens)


class TokenResponses(ResponseParser):
    """The same of ModelStreamInfer's responses."""

    __slots__ = ("_buffer", "_got", "_said")

    def __init__(self, keep: bool = False) -> None:
        super().__init__()
        self._got = Collected(keep)
        self._buffer = b""
        self._said: str | None = None

    def feed(self, data: bytes, now: int) -> None:
        """See ResponseParser.feed."""
        data, at = self._buffer + data, 0
        while len(data) - at >= 5:
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            if end > len(data):
                break
            self._message(data[at + 5 : end], now)
            at = end
        self._buffer = data[at:]

    def _message(self, message: bytes, now: int) -> None:
        from google.protobuf.message import DecodeError
        from tritonclient.grpc import service_pb2

        try:
            response = service_pb2.ModelStreamInferResponse.FromString(message)
        except DecodeError:
            self._said = self._said or "a response that is no ModelStreamInferResponse"
            return
        if response.error_message:
            self._said = self._said or " ".join(response.error_message.split())[:_TEXT_LIMIT]
            return
        inner = response.infer_response
        raw = {o.name: data for o, data in zip(inner.outputs, inner.raw_output_contents, strict=False)}
        if not raw:  # the empty response that only says that it is the last
            return
        text = _texts(raw.get("text_output", b""))
        counts = [
            int.from_bytes(raw[name], "little") if 0 < len(raw.get(name, b"")) <= 8 else None
            for name in ("num_input_tokens", "num_output_tokens")
        ]
        add_triton(self._got, now, text, *counts)
        if text:
            self._response(now)

    def failure(self) -> str | None:
        """See ResponseParser.failure."""
        if self._said is not None:
            return f"gRPC stream: {self._said}"
        return "protocol: a response that is cut off" if self._buffer else None

    def responses(self) -> Responses:
        """See ResponseParser.responses."""
        return Responses(*super().responses()[:3], self._got.chunks())


def _texts(raw: bytes) -> bytes:
    """BYTES elements, each behind its length in 4 bytes, one after the other."""
    joined, at = b"", 0
    while at + 4 <= len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        joined += raw[at + 4 : end]
        at = end
    return joined


@dataclass(frozen=True, slots=True)
class OpenAiPayload(InferPayload):
    """A request of OpenAI's API. body: its JSON."""

    body: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenAiTarget(HttpTarget):
    """See HttpTarget; base_url ends with the API's path (/v1). endpoint: `chat` or `completions`; keep_text: of answers."""

    endpoint: str = "chat"
    keep_text: bool = False

    @property
    def protocol(self) -> str:
        """`openai chat` or `openai completions`."""
        return f"openai {self.endpoint}"

    @property
    def streaming(self) -> bool:
        """Any number of chunks a request."""
        return True

    def encode(self, payload: InferPayload, slot: int | None = None) -> bytes:
        """See Target.encode."""
        assert isinstance(payload, OpenAiPayload)
        at = self.address()
        path = f"{at.path}/{'chat/completions' if self.endpoint == 'chat' else 'completions'}"
        fields = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        return http_message(path, at.authority, fields, self.headers, payload.body)

    async def connect(self, done: Done, closed: Closed) -> GenerateConnection:
        """See Target.connect."""
        parser = partial(OpenAiEvents, self.keep_text)
        return await self.opened(lambda: GenerateConnection(done, closed, parser))


@dataclass(frozen=True, slots=True)
class TextTarget(GenerateTarget):
    """See GenerateTarget; reads what each response holds."""

    keep_text: bool = False

    async def connect(self, done: Done, closed: Closed) -> GenerateConnection:
        """See Target.connect."""
        parser = partial(TritonEvents, self.keep_text)
        return await self.opened(lambda: GenerateConnection(done, closed, parser))


def ask_text(target: HttpTarget, payload: InferPayload, timeout_s: float) -> tuple[str, str | None]:
    """One request by generate_stream on a connection of its own → (the whole text, why there is none).

    OSError when nothing answers.
    """
    path = f"{model_path(payload.model, payload.version)}/generate_stream"
    fields = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    body = generate_body(payload)
    reply = exchange(target, "POST", path, body, fields, timeout_s=timeout_s, limit_bytes=KEPT_LIMIT_BYTES)
    if reply.status != 200:
        return "", f"HTTP {reply.status}: {reason(reply)}"
    events = TritonEvents(keep=True)
    try:
        events.feed(reply.body, 0)
    except ValueError as error:
        return "", f"protocol: {error}"
    chunks = events.responses().chunks
    return "" if chunks is None else chunks.text.decode("utf-8", "replace"), events.failure()


@dataclass(frozen=True, slots=True)
class GrpcTextTarget(GrpcTarget):
    """See GrpcTarget; streams, and reads what each response holds."""

    keep_text: bool = field(default=False)

    async def connect(self, done: Done, closed: Closed) -> GrpcConnection:
        """See Target.connect."""
        return await self.opened(STREAM_METHOD, done, closed, partial(TokenResponses, self.keep_text))
