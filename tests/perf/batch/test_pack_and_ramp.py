"""Rows into requests, and how many are in flight: pure parts of a batch job."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.perf.batch.answers import Failure
from tritonsmith.perf.batch.rows.reader import Row
from tritonsmith.perf.batch.sending.pack import Packer
from tritonsmith.perf.batch.sending.ramp import LEVEL_LIMIT_S, Ramp
from tritonsmith.perf.batch.sending.retries import Remedy, failure_of_reason, remedy_for


def row(number: int, group: int, length: int, count: int = 1) -> Row:
    return Row(number, number, str(number), {}, count, (group,), length)


rows_of = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50), st.integers(1, 4)), max_size=200)


@settings(max_examples=80, deadline=None)
@given(rows_of, st.integers(4, 9), st.booleans(), st.booleans(), st.integers(1, 60))
def test_every_row_is_in_one_request_of_its_group_that_is_not_too_large(
    given_rows: list[tuple[int, int, int]], most: int, by_length: bool, carries: bool, window: int
) -> None:
    rows = [row(number, *one) for number, one in enumerate(given_rows)]
    packer = Packer(iter(rows), most, by_length=by_length, carries=carries, window_rows=window)
    seen: Counter[int] = Counter()
    while (packed := packer.next()) is not None:
        assert len({r.group for r in packed.rows}) == 1 and packed.count <= most
        seen.update(r.number for r in packed.rows)
    assert seen == Counter(range(len(rows)))
    assert packer.next() is None and packer.sent.lengths == packer.arrival.lengths == sum(
        r.length * r.count for r in rows
    )


def test_sorting_by_length_pads_less_and_fills_requests() -> None:
    rows = [row(n, n % 3, 1 + (n * 37) % 64) for n in range(3000)]
    packer = Packer(iter(rows), 16)
    while packer.next() is not None:
        pass
    assert packer.sent.requests == -(-1000 // 16) * 3 and packer.arrival.requests == 3000
    assert packer.sent.padded < 1.05 * packer.sent.lengths


def test_rare_rows_wait_for_others_of_their_group_in_later_windows() -> None:
    rows = [row(n, 1 if n % 100 == 0 else 0, 1) for n in range(4000)]
    packer = Packer(iter(rows), 8, window_rows=400)
    while packer.next() is not None:
        pass
    assert packer.sizes == {8: 500}


def ramped(rate_at: dict[int, float], most: int = 64) -> Ramp:
    """A ramp over a server that does so many rows a second at each number in flight."""
    clock = [0.0]
    ramp = Ramp(lambda: clock[0], most)
    for _ in range(100_000):
        if ramp.is_settled:
            return ramp
        clock[0] += 1 / rate_at[ramp.width]
        ramp.done(1)
    raise AssertionError("never settled")


def test_the_ramp_stops_where_more_in_flight_bring_nothing() -> None:
    assert ramped({1: 100, 2: 190, 4: 300, 8: 305, 16: 305, 32: 400}).width == 4, "8 are no better"
    assert ramped({1: 100, 2: 190, 4: 300, 8: 320, 16: 320, 32: 320}).width == 8
    assert ramped({1: 100, 2: 190, 4: 300, 8: 290, 16: 280}).width == 4
    assert ramped({1: 100, 2: 90, 4: 95}).width == 1
    assert ramped({1: 100, 2: 90, 4: 200, 8: 200, 16: 200}).width == 4, "a busy moment at 2"
    assert ramped({1: 100, 2: 200, 4: 400}, most=4).width == 4


def test_a_level_of_a_slow_model_is_judged_after_a_limit() -> None:
    clock = [0.0]
    ramp = Ramp(lambda: clock[0])
    while not ramp.levels:
        clock[0] += LEVEL_LIMIT_S / 2
        ramp.done(1)
    assert clock[0] <= 2 * LEVEL_LIMIT_S and Ramp(lambda: 0.0, fixed=5).width == 5


def test_reasons_have_their_remedies() -> None:
    table = {
        "connection: reset by the server before an answer": Remedy.BROKEN,
        "timeout: no answer within 5 s": Remedy.BROKEN,
        "HTTP 503: Request timeout expired": Remedy.AGAIN,
        "HTTP 429": Remedy.AGAIN,
        "gRPC UNAVAILABLE: exceeds maximum queue size": Remedy.AGAIN,
        "HTTP 401: who": Remedy.ENDS,
        "HTTP 400: no": Remedy.REFUSED,
        "HTTP 500: failed": Remedy.REFUSED,
        "answer: output `y` has the shape [1]": Remedy.REFUSED,
    }
    assert {reason: remedy_for(reason) for reason in table} == table
    assert failure_of_reason("HTTP 400: no") == Failure("request_refused", "no", 400)
    assert failure_of_reason("HTTP 500: broke").code == "server_error"
