"""Random graphs are built, served and asked by many at once: no answer is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import graphs

pytestmark = pytest.mark.server
# Three that were once served in batches and mixed, and others of all types.
SEEDS = (1_000_134, 1_000_193, 1_000_203, *range(3_000_000, 3_000_009))


def test_a_few_random_graphs_answer_each_row_rightly(tmp_path: Path) -> None:
    tally = graphs.run_piece(SEEDS, tmp_path, asked=16)
    assert tally.wrong == [] and tally.faults == []
    # All kinds of outcomes are among them, or nothing was tested.
    assert tally.refused["rows_mixed"] >= 2 and tally.unbatched >= 1 and tally.served >= 8
    assert tally.answers == tally.requests == 16 * tally.served and tally.merged > tally.requests // 4


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_five_hundred_random_graphs_answer_each_row_rightly() -> None:
    tally = graphs.run(range(500), seed=4, piece=50)
    assert tally.wrong == [] and tally.faults == [], graphs.table(tally)
    assert tally.graphs == 500 and tally.served > 300 and tally.merged > tally.requests // 4
