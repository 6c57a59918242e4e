"""One HTTP/2 connection of a gRPC client: messages out on streams, answers in, flow control both ways.

The fields of a request are in the server's table after the first one, and a few bytes from then on. An answer's
header blocks are looked up whole in a table of those seen before: with a header table of size 0, which our
SETTINGS ask for, they repeat byte for byte, and only an unseen one is decoded. Format: RFC 9113; gRPC's
PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import cast

from tritonsmith.builder.base.files.http_ask import spoken
from tritonsmith.perf.wire.http2 import frames as http2
from tritonsmith.perf.wire.http2.blocks import BLOCKS, GOOD_HEADS, GOOD_TRAILERS, fields_of_block, reason_of
from tritonsmith.perf.wire.http2.frames import FRAME_HEAD, FRAME_HEAD_BYTES, Http2Error
from tritonsmith.perf.wire.http2.grpc_stream import ResponseParser, Stream
from tritonsmith.perf.wire.http2.joined_writes import JoinedWrites
from tritonsmith.perf.wire.target import KEPT_LIMIT_BYTES, Closed, Done

_RECEIVE_FRAME_BYTES = 1 << 17
_CONNECTION_WINDOW_BYTES = 1 << 26
_TOP_UP_BYTES = _CONNECTION_WINDOW_BYTES // 2
_BLOCK_LIMIT_BYTES = 1 << 17

_LAST_HEADERS = http2.END_HEADERS | http2.END_STREAM


class GrpcConnection(asyncio.Protocol):
    """One HTTP/2 connection; implements perf.wire.target.Connection."""

    def __init__(
        self,
        done: Done,
        closed: Closed,
        fields: Sequence[tuple[str, str]],
        parser: Callable[[], ResponseParser] | None = None,
        limit_bytes: int = KEPT_LIMIT_BYTES,
    ) -> None:
        """parser: of answers of many messages, makes one for each request."""
        self.received_bytes = 0
        self._limit_bytes = limit_bytes
        self._done = done
        self._parser = parser
        self._on_closed: Closed | None = closed
        self._fields = fields
        self._block = http2.header_block(fields)
        self._once: bytes | None = None  # the block of the next request alone
        self._streams: dict[int, Stream] = {}
        self._stream_of: dict[int, int] = {}  # slot → stream
        self._next_stream = 1
        self._buffer = b""
        self._headers: tuple[int, int, bytearray] | None = None  # a block that goes on in CONTINUATION
        self._received_bytes = 0
        self._settings: dict[int, int] = {}
        self._send_window = http2.DEFAULT_WINDOW_BYTES
        self._stream_window = http2.DEFAULT_WINDOW_BYTES
        self._frame_bytes = http2.DEFAULT_FRAME_BYTES
        self._most_streams = 1 << 30
        self._held: deque[int] = deque()  # streams with unsent bytes
        self._waiting: deque[tuple[int, bytes, bool]] = deque()  # beyond the server's limit of streams
        self.open = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = JoinedWrites(self._transport)
        own = (
            (http2.HEADER_TABLE_SIZE, 0),
            (http2.ENABLE_PUSH, 0),
            (http2.INITIAL_WINDOW_SIZE, http2.LARGEST_WINDOW_BYTES),
            (http2.MAX_FRAME_SIZE, _RECEIVE_FRAME_BYTES),
        )
        more = _CONNECTION_WINDOW_BYTES - http2.DEFAULT_WINDOW_BYTES
        self._write(http2.PREFACE + http2.settings_frame(own) + http2.window_update_frame(0, more))

    # Sending.

    def send(self, slot: int, request: bytes, keep: bool) -> None:
        """See Connection.send."""
        if len(self._streams) >= self._most_streams:
            self._waiting.append((slot, request, keep))
            return
        number = self._next_stream
        self._next_stream = number + 2
        if self._next_stream > http2.LAST_STREAM_ID:
            self.open = False
        stream = Stream(slot, keep, None if self._parser is None else self._parser())
        self._streams[number] = stream
        self._stream_of[slot] = number
        length = len(request)
        block = self._block
        if self._once is not None:
            block, self._once = self._once, None
        headers = FRAME_HEAD.pack(len(block) << 8 | http2.HEADERS, http2.END_HEADERS, number)
        room = min(self._frame_bytes, self._send_window, self._stream_window)
        if length <= room and not self._held:
            self._send_window -= length
            data = FRAME_HEAD.pack(length << 8, http2.END_STREAM, number)
            self._write(b"".join((headers, block, data, request)))
            return
        self._write(headers + block)
        stream.unsent = memoryview(request)
        stream.window = self._stream_window
        self._held.append(number)
        self._pump()

    def _pump(self) -> None:
        """Send what the windows allow, streams in the order they came."""
        for _ in range(len(self._held)):
            number = self._held.popleft()
            stream = self._streams.get(number)
            if stream is None or stream.unsent is None:
                continue
            while stream.unsent is not None:
                size = min(len(stream.unsent), self._frame_bytes, self._send_window, stream.window)
                if size <= 0:
                    self._held.append(number)
                    break
                last = size == len(stream.unsent)
                head = FRAME_HEAD.pack(size << 8, http2.END_STREAM if last else 0, number)
                self._write.flush()
                self._transport.writelines((head, stream.unsent[:size]))  # no copy of what may be large
                self._send_window -= size
                stream.window -= size
                stream.unsent = None if last else stream.unsent[size:]

    def cancel(self, slot: int, reason: str) -> None:
        """See Connection.cancel; the other streams go on."""
        number = self._stream_of.get(slot)
        if number is not None:
            self._write(http2.frame(http2.RST_STREAM, 0, number, http2.UINT32.pack(http2.CANCEL)))
            self._end(number, reason)
            return
        for waiting in self._waiting:
            if waiting[0] == slot:
                self._waiting.remove(waiting)
                self._done(slot, 0, monotonic_ns(), reason, None)
                return

    def close(self) -> None:
        """See Connection.close."""
        self._on_closed = None
        self.open = False
        self._transport.close()

    # Receiving.

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        now = monotonic_ns()
        self._write.hold()
        self.received_bytes += len(data)
        if self._buffer:
            data = self._buffer + data
        at, size = 0, len(data)
        streams, unpack = self._streams, FRAME_HEAD.unpack_from
        try:
            while size - at >= FRAME_HEAD_BYTES:
                mixed, flags, number = unpack(data, at)
                start = at + FRAME_HEAD_BYTES
                end = start + (mixed >> 8)
                if end > size:
                    if mixed >> 8 > _RECEIVE_FRAME_BYTES:
                        raise Http2Error(
                            "a frame that is too large"
                            if self._settings
                            else f"not HTTP/2 but {spoken(data[at : at + 80])}"
                        )
                    break
                at = end
                kind = mixed & 0xFF
                stream = streams.get(number)
                # The hot path: `_on_frame` for the frames of a usual answer that nobody looks at, written out.
                if stream is not None and not stream.watched and self._headers is None:
                    if kind == http2.DATA and not flags:
                        self._received_bytes += mixed >> 8
                        continue
                    if kind == http2.HEADERS and flags == http2.END_HEADERS:
                        if data[start:end] in GOOD_HEADS:
                            stream.first_ns = stream.first_ns or now
                            continue
                    elif (
                        kind == http2.HEADERS and flags == _LAST_HEADERS and data[start:end] in GOOD_TRAILERS
                    ):
                        self._answered(number, stream, now)
                        continue
                self._on_frame(kind, flags, number, data[start:end], now)
        except Http2Error as error:
            self._fail_all(f"protocol: {error}")
            return
        self._buffer = data[at:] if at else data
        if self._received_bytes > _TOP_UP_BYTES:
            self._write(http2.window_update_frame(0, self._received_bytes))
            self._received_bytes = 0
        self._write.release()

    def _on_frame(self, kind: int, flags: int, number: int, payload: bytes, now: int) -> None:
        if self._headers is not None and kind != http2.CONTINUATION:
            raise Http2Error("a header block without its end")
        if kind == http2.DATA:
            self._received_bytes += len(payload)
            stream = self._streams.get(number)
            if stream is None:  # cancelled by us
                return
            if not stream.first_ns:
                stream.first_ns = now
            if stream.keep or stream.parser is not None:
                data = http2.without_padding(flags, payload) if flags & http2.PADDED else payload
                if stream.keep:
                    stream.body += data
                    if len(stream.body) > self._limit_bytes:
                        raise Http2Error(f"an answer of more than {self._limit_bytes >> 20} MiB")
                if stream.parser is not None:
                    stream.parser.feed(data, now)
            if flags & http2.END_STREAM:
                self._end(number, "protocol: an answer without a grpc-status", now)
        elif kind == http2.HEADERS:
            if flags & (http2.PADDED | http2.HAS_PRIORITY):
                payload = http2.without_padding(flags, payload)
            if flags & http2.END_HEADERS:
                self._on_headers(number, flags & http2.END_STREAM, payload, now)
            else:
                self._headers = (number, flags & http2.END_STREAM, bytearray(payload))
        elif kind == http2.CONTINUATION:
            if self._headers is None or self._headers[0] != number:
                raise Http2Error("a CONTINUATION of nothing")
            self._headers[2].extend(payload)
            if len(self._headers[2]) > _BLOCK_LIMIT_BYTES:
                raise Http2Error("a header block that does not end")
            if flags & http2.END_HEADERS:
                _, ends, block = self._headers
                self._headers = None
                self._on_headers(number, ends, bytes(block), now)
        else:
            self._on_control(kind, flags, number, payload)

    def _on_headers(self, number: int, ends: int, block: bytes, now: int) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.first_ns:
            stream.first_ns = now
        fields = BLOCKS.get(block) or fields_of_block(block)
        if ends:
            status = fields.get("grpc-status")
            if status == "0" and stream.failure is None:
                GOOD_TRAILERS.add(block)
                self._end(number, None, now)
            else:
                self._end(number, stream.failure or reason_of(fields), now)
        elif fields.get(":status") == "200":
            GOOD_HEADS.add(block)
        else:
            stream.failure = f"HTTP {fields.get(':status')} instead of gRPC"

    def _on_control(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == http2.WINDOW_UPDATE and len(payload) == 4:
            self._on_window(number, http2.UINT32.unpack(payload)[0] & http2.LARGEST_WINDOW_BYTES)
        elif kind == http2.PING and len(payload) == 8:
            if not flags & http2.ACK:
                self._write.acknowledge(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.SETTINGS:
            if not flags & http2.ACK:
                self._on_settings(http2.settings_from_payload(payload))
        elif kind == http2.RST_STREAM and len(payload) == 4:
            code = http2.UINT32.unpack(payload)[0]
            self._end(number, f"connection: stream reset by the server: {http2.error_name(code)}")
        elif kind == http2.GOAWAY and len(payload) >= 8:
            self._on_goaway(*(n for (n,) in http2.UINT32.iter_unpack(payload[:8])))
        elif kind in (http2.WINDOW_UPDATE, http2.PING, http2.RST_STREAM, http2.GOAWAY):
            raise Http2Error("a frame of a wrong size")
        elif kind == http2.PUSH_PROMISE:
            raise Http2Error("a push that was forbidden")
        # Frames of unknown kinds are to be ignored (RFC 9113, 4.1).

    def _on_settings(self, settings: dict[int, int]) -> None:
        window = settings.get(http2.INITIAL_WINDOW_SIZE, self._stream_window)
        for held in self._held:
            stream = self._streams.get(held)
            if stream is not None:
                stream.window += window - self._stream_window
        self._stream_window = window
        self._frame_bytes = settings.get(http2.MAX_FRAME_SIZE, self._frame_bytes)
        self._most_streams = settings.get(http2.MAX_CONCURRENT_STREAMS, self._most_streams)
        self._settings.update(settings or {0: 0})
        self._write.acknowledge(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self._choose_blocks(settings.get(http2.HEADER_TABLE_SIZE))
        if not self.ready.done():
            self.open = True
            self.ready.set_result(None)
        self._pump()

    def _choose_blocks(self, table_bytes: int | None) -> None:
        """How to write the request's fields, which never change: kept in the server's table after the first request
        they cost it and us a byte each, and it needs not parse them again."""
        indexing = http2.indexing_block(self._fields)
        if not self.ready.done():
            if indexing is not None and (table_bytes is None or table_bytes >= http2.DEFAULT_TABLE_BYTES):
                self._once, self._block = indexing, http2.indexed_block(len(self._fields))
        elif table_bytes is not None and table_bytes < http2.DEFAULT_TABLE_BYTES:
            self._block = http2.header_block(self._fields)
            self._once = http2.EMPTY_TABLE + self._block

    def _on_window(self, number: int, increment_bytes: int) -> None:
        if not increment_bytes:
            raise Http2Error("a window that grows by nothing")
        if number == 0:
            self._send_window += increment_bytes
            if self._send_window > http2.LARGEST_WINDOW_BYTES:
                raise Http2Error("a window that is too large")
        elif number in self._streams:
            # Only a stream that holds bytes back counts its window; a whole request never needs more.
            self._streams[number].window += increment_bytes
        if self._held:
            self._pump()

    def _on_goaway(self, last: int, code: int) -> None:
        self.open = False
        name = http2.error_name(code)
        for number in [n for n in self._streams if n > last]:
            self._end(number, f"connection: refused by the server's GOAWAY: {name}")
        self._fail_waiting(f"connection: refused by the server's GOAWAY: {name}")
        if not self._streams:
            self._drop()

    # Ending.

    def _answered(self, number: int, stream: Stream, now: int) -> None:
        """`_end` of a request that was answered well; in one call where nothing else is to be done."""
        if stream.failure is not None or stream.unsent is not None or self._waiting or not self.open:
            self._end(number, stream.failure, now)
            return
        del self._streams[number], self._stream_of[stream.slot]
        self._done(stream.slot, stream.first_ns or now, now, None, None)

    def _end(self, number: int, reason: str | None, now: int = 0) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        del self._stream_of[stream.slot]
        first_ns, responses = stream.first_ns, None
        if stream.parser is not None:
            first_ns, responses = stream.parser.first_ns, stream.parser.responses()
            reason = reason or stream.parser.failure()
        # Of a stream that failed, what came before is worth something.
        is_worth = reason is None or stream.parser is not None
        answer = bytes(stream.body) if stream.keep and is_worth else None
        if reason is None and stream.unsent is not None:
            # Answered before it was wholly sent: the server will not take the rest.
            self._write(http2.frame(http2.RST_STREAM, 0, number, http2.UINT32.pack(http2.CANCEL)))
        if self._waiting and self.open and len(self._streams) < self._most_streams:
            self.send(*self._waiting.popleft())
        self._done(stream.slot, first_ns, now or monotonic_ns(), reason, answer, responses)
        if not self.open and not self._streams and not self._waiting:
            self._drop()

    def _fail_waiting(self, reason: str) -> None:
        while self._waiting:
            slot, _, _ = self._waiting.popleft()
            self._done(slot, 0, monotonic_ns(), reason, None)

    def _fail_all(self, reason: str) -> None:
        self.open = False
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(reason.removeprefix("protocol: ")))
        for number in list(self._streams):
            self._end(number, reason)
        self._fail_waiting(reason)
        self._drop()

    def _drop(self) -> None:
        self.open = False
        self._transport.abort()
        closed, self._on_closed = self._on_closed, None
        if closed is not None and self.ready.done() and self.ready.exception() is None:
            closed(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        how = "reset" if exc else "closed"
        for stream in self._streams.values():
            when = "inside the answer" if stream.first_ns else "before an answer"
            stream.failure = f"connection: {how} by the server {when}"
        self.open = False
        for number, stream in list(self._streams.items()):
            self._end(number, stream.failure)
        if self._buffer and not self.ready.done():  # an alert of TLS is shorter than a frame's head
            self._fail_all(f"protocol: not HTTP/2 but {spoken(self._buffer[:80])}")
        self._fail_all(f"connection: {how} by the server before an answer")
