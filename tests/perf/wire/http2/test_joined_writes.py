"""What is sent while a read is taken in goes out in few writes, in order, and nothing is kept behind it."""

from __future__ import annotations

import asyncio

import pytest

from tritonsmith.perf.wire.http2.frames import Http2Error
from tritonsmith.perf.wire.http2.joined_writes import JoinedWrites


class _Recorded(asyncio.Transport):
    """A transport that is a list of its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closing = False
        self.waiting_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes


def test_outside_a_read_each_request_goes_at_once() -> None:
    transport = _Recorded()
    write = JoinedWrites(transport)
    write(b"a")
    write(b"b")
    assert transport.written == [b"a", b"b"]


def test_inside_a_read_they_are_joined_by_eight_and_the_rest_at_its_end() -> None:
    transport = _Recorded()
    write = JoinedWrites(transport)
    write.hold()
    for number in range(11):
        write(b"%x" % number)
    assert transport.written == [b"01234567"]
    write.release()
    assert transport.written == [b"01234567", b"89a"]
    write(b"z")
    assert transport.written[-1] == b"z"


def test_what_is_kept_goes_before_what_is_written_past_it() -> None:
    transport = _Recorded()
    write = JoinedWrites(transport)
    write.hold()
    write(b"head")
    write.flush()
    transport.write(b"body")
    write.release()
    assert transport.written == [b"head", b"body"]


def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    transport = _Recorded()
    write = JoinedWrites(transport)
    write.hold()
    write(b"a")
    transport.closing = True
    write.release()
    assert transport.written == []


def test_a_peer_that_reads_no_acknowledgement_is_cut_off() -> None:
    transport = _Recorded()
    write = JoinedWrites(transport)
    for _ in range(10_000):  # taken as it comes: nothing is owed
        write.acknowledge(b"x" * 17)
    transport.waiting_bytes = 1 << 30
    with pytest.raises(Http2Error, match="flood"):
        for _ in range(10_000):
            write.acknowledge(b"x" * 17)
