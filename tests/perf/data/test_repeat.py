"""How requests repeat: the numbers that stand for them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.repeat import Repeat, repeat_from_text


def numbers(repeat: Repeat, count: int, seed: int = 0, part: int = 0, parts: int = 1) -> np.ndarray:
    blocks = itertools.islice(repeat.blocks(seed, part, parts), -(-count // 256))
    return np.concatenate(list(blocks))[:count]


def test_without_repeats_every_number_is_new_in_every_process() -> None:
    parts = [numbers(Repeat(), 20_000, part=part, parts=3) for part in range(3)]
    assert len(set(np.concatenate(parts).tolist())) == 60_000
    assert parts[0][:3].tolist() == [0, 3, 6]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_the_stated_share_is_one_of_those_before_and_each_as_likely(share: float) -> None:
    drawn = numbers(Repeat(share), 50_000)
    seen: set[int] = set()
    repeats = 0
    for number in drawn.tolist():
        repeats += number in seen
        assert number in seen or number == len(seen)  # a new one is the next
        seen.add(number)
    assert repeats / len(drawn) == pytest.approx(share, abs=0.01)
    again = drawn[1:][np.diff(np.maximum.accumulate(drawn)) == 0]
    assert np.median(again / len(seen)) == pytest.approx(0.19, abs=0.04)  # of x·y with both uniform


def test_zipf_has_the_frequencies_of_its_exponent_within_its_universe() -> None:
    drawn = numbers(Repeat(0.0, 1.1, 1000), 200_000)
    counts = np.bincount(drawn, minlength=1000)
    expected = np.arange(1, 1001) ** -1.1
    expected *= len(drawn) / expected.sum()
    assert len(counts) == 1000
    assert counts[:20] == pytest.approx(expected[:20], rel=0.1)
    assert counts[500:].sum() == pytest.approx(expected[500:].sum(), rel=0.1)


def test_a_seed_gives_one_sequence_and_another_gives_another() -> None:
    for repeat in (Repeat(0.3), Repeat(0.0, 1.1, 1000)):
        assert (numbers(repeat, 5000, 1) == numbers(repeat, 5000, 1)).all()
        assert (numbers(repeat, 5000, 1) != numbers(repeat, 5000, 2)).any()


@pytest.mark.parametrize(
    ("text", "repeat"),
    [
        ("0", Repeat()), ("0.3", Repeat(0.3)), ("zipf:1.1", Repeat(0.0, 1.1, 10_000)),
        ("zipf:0.9:500", Repeat(0.0, 0.9, 500)), ("pool", None),
    ],
)  # fmt: skip
def test_what_is_typed(text: str, repeat: Repeat | None) -> None:
    assert repeat_from_text(text) == repeat
    if repeat is not None:
        assert repeat_from_text(str(repeat)) == repeat


@pytest.mark.parametrize(
    "text", ["", "1", "-0.1", "nan", "zipf", "zipf:a", "zipf:1:1", "zipf:1:2:3", "zipf:nan:9", "zipf:1:1e3", "all"]
)  # fmt: skip
def test_what_is_refused_names_what_is_valid(text: str) -> None:
    with pytest.raises(UsageError, match="--repeat") as error:
        repeat_from_text(text)
    assert "zipf:1.1" in error.value.valid
