"""`tritonsmith.batch`: answers in the order of the rows, while rows are read on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import tritonsmith
from tests.perf.batch.jobs import WIDTH
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import TritonsmithError


def rows(count: int, read: list[int] | None = None) -> Iterator[list[float]]:
    for number in range(count):
        if read is not None:
            read.append(number)
        yield [float(number)] * WIDTH


def test_answers_come_in_the_order_of_the_rows_without_the_batch_dimension() -> None:
    with fake_server(error_every=7) as server:
        answers = list(tritonsmith.batch(rows(5000), "m", where=server.url, in_flight=4))
    assert len(answers) == 5000 and all(a["y"].shape == (WIDTH,) for a in answers)
    assert [a["y"][0] for a in answers] == [2.0 * n for n in range(5000)]
    assert server.infer_requests < 1000, "rows were sent together"


def test_rows_are_mappings_arrays_or_values() -> None:
    given = [{"x": [1.0] * WIDTH}, np.full(WIDTH, 2, np.float32), [3.0] * WIDTH]
    with fake_server() as server:
        answers = tritonsmith.batch(given, where=server.url, model="m", in_flight=1)
        assert [a["y"][0] for a in answers] == [2.0, 4.0, 6.0]


def test_rows_are_not_read_far_ahead_of_the_answers_that_are_taken() -> None:
    read: list[int] = []
    with fake_server() as server:
        answers = tritonsmith.batch(rows(100_000, read), "m", where=server.url, in_flight=2)
        for _ in range(10):
            next(answers)
        held = threading.Event()
        held.wait(0.5)
        assert 10 <= len(read) < 6000
        answers.close()  # type: ignore[attr-defined]
        assert not any(thread.name == "batch" for thread in threading.enumerate())


def test_a_row_that_fails_is_raised_or_stands_in_its_place() -> None:
    with fake_server(refuse_value=3.0) as server:
        answers = list(tritonsmith.batch(rows(10), "m", where=server.url, in_flight=1, errors="return"))
        failed = answers[3]
        assert isinstance(failed, TritonsmithError) and "row 4: that value is refused" in failed.message
        assert [i for i, a in enumerate(answers) if isinstance(a, TritonsmithError)] == [3]
        with pytest.raises(TritonsmithError, match="that value is refused"):
            list(tritonsmith.batch(rows(10), "m", where=server.url, in_flight=1))
        with pytest.raises(TritonsmithError, match="has the shape"):
            list(tritonsmith.batch([[1.0]], "m", where=server.url, in_flight=1))


def test_leaving_does_not_wait_for_rows_that_do_not_come() -> None:
    waits, comes = threading.Event(), threading.Event()

    def waiting() -> Iterator[list[float]]:
        yield from rows(1500)
        waits.set()
        comes.wait(20)

    with fake_server() as server:
        answers = tritonsmith.batch(waiting(), "m", where=server.url, in_flight=1, by_length=False)
        next(answers)
        assert waits.wait(20)
        began_s = time.monotonic()
        answers.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began_s < 15
        comes.set()


def test_what_the_callers_rows_raise_is_raised_by_the_answers() -> None:
    def broken() -> Iterator[list[float]]:
        yield [1.0] * WIDTH
        raise KeyError("the caller's own")

    with fake_server() as server, pytest.raises(KeyError, match="the caller's own"):
        list(tritonsmith.batch(broken(), "m", where=server.url, in_flight=1))
