"""kill -9 of a job at random moments, and the same command again: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.perf.batch.kills import kill_jobs


def test_three_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    found = kill_jobs(tmp_path, 3, seed=1, rows=300)
    assert found.problems == [] and found.kills == 3, found.text


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    found = kill_jobs(tmp_path, 50, seed=2)
    assert found.problems == [] and found.in_the_middle >= 20, found.text
