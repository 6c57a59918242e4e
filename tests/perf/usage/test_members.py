"""Which model of an ensemble takes the time, from counters alone."""

from __future__ import annotations

import pytest

from tritonsmith.perf.usage.counters import ServerCounters, sum_of
from tritonsmith.perf.usage.members import bottleneck_of, members_from


def counters(requests: int, queue_us: float, compute_us: float, executions: int = 0) -> ServerCounters:
    """All of compute is inference."""
    return ServerCounters(
        requests, 0, requests, executions or requests, queue_us, 0.0, compute_us, 0.0, 0, 0, {1: requests}
    )


def test_shares_are_of_the_time_of_all_and_a_model_called_twice_counts_twice() -> None:
    found = members_from({"reader": counters(100, 50, 150), "detector": counters(200, 300, 100)})
    assert [m.name for m in found] == ["reader", "detector"]
    assert [m.share for m in found] == pytest.approx([0.2, 0.8])
    assert [m.queue_share for m in found] == pytest.approx([0.05, 0.6])


@pytest.mark.parametrize(
    ("detector", "part", "words"),
    [
        (counters(100, 710, 50), "queue", "text_boxes spends 71 % of its time in detector's queue"),
        (counters(100, 600, 160), "queue", "60 % of its time in detector's queue and 16 % in its compute"),
        (counters(100, 200, 560), "compute", "56 % of its time in detector's compute and 20 % in its queue"),
        (counters(100, 10, 750), "compute", "text_boxes spends 75 % of its time in detector's compute"),
    ],
)
def test_the_member_with_most_of_the_time_is_named_with_the_part_it_goes_to(
    detector: ServerCounters, part: str, words: str
) -> None:
    found = bottleneck_of(members_from({"reader": counters(100, 40, 200), "detector": detector}))
    assert found is not None and (found.name, found.part) == ("detector", part)
    assert found.words("text_boxes").endswith(words)


def test_where_no_member_has_most_of_the_time_or_there_is_one_alone_none_is_named() -> None:
    even = {name: counters(100, 100, 100) for name in ("a", "b", "c")}
    assert bottleneck_of(members_from(even)) is None
    assert bottleneck_of(members_from({"a": counters(100, 100, 100)})) is None
    assert bottleneck_of(members_from({"a": counters(0, 0, 0), "b": counters(0, 0, 0)})) is None


def test_stretches_add_up_and_their_means_are_weighted_by_requests() -> None:
    both = sum_of([counters(100, 10, 40, 50), counters(300, 50, 80, 100)])
    assert both is not None
    assert (both.requests, both.executions, both.batch_executions) == (400, 150, {1: 400})
    assert (both.mean_queue_us, both.mean_compute_us) == (40.0, 70.0)
    assert sum_of([]) is None and sum_of([counters(0, 0, 0)]) is None
