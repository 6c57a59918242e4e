"""Scores of source and variant → how much they agree, by hand; and what bounds make of it."""

from __future__ import annotations

import math

import pytest

from tritonsmith.builder.actions.language.measures import Score, failures, measures_from_scores
from tritonsmith.builder.llm.precisions import LanguageBounds

SOURCE = (Score((1, 2, 3), 2 * math.log(8), 2), Score((4,), math.log(2), 2))


def test_the_same_scores_agree_wholly() -> None:
    measured = measures_from_scores(SOURCE, SOURCE)
    assert (measured.token_agreement, measured.perplexity_ratio) == (1.0, 1.0)
    assert (measured.prompts, measured.prompt_tokens, measured.answer_tokens) == (2, 4, 4)
    # 7 ln 2 over 4 tokens.
    assert measured.perplexity == pytest.approx(2 ** (7 / 4))


def test_a_position_counts_once_whatever_its_answers_length() -> None:
    variant = (Score((1, 9, 3), 2 * math.log(8), 2), Score((4,), 3 * math.log(2), 2))
    measured = measures_from_scores(SOURCE, variant)
    assert measured.token_agreement == 3 / 4
    # Two bits more over four tokens: a tokens' share of them, not a prompt's.
    assert measured.perplexity_ratio == pytest.approx(2 ** (2 / 4))


@pytest.mark.parametrize(
    ("agreement", "ratio", "told"),
    [
        (0.95, 1.02, []),
        (0.9499, 1.02, ["token agreement 0.9499 < 0.95"]),
        (0.96, 1.0201, ["perplexity ratio 1.0201 > 1.02"]),
        (0.1, math.inf, ["token agreement", "perplexity ratio inf"]),
        # What is no number keeps no bound.
        (math.nan, math.nan, ["token agreement nan", "perplexity ratio nan"]),
    ],
)
def test_what_is_out_of_its_bound_is_told(agreement: float, ratio: float, told: list[str]) -> None:
    measured = {
        "token_agreement": agreement,
        "perplexity_ratio": ratio,
        "prompts": 2,
        "prompt_tokens": 9,
        "answer_tokens": 5,
    }
    lines = failures(measured, LanguageBounds(0.95, 1.02))
    assert len(lines) == len(told) and all(t in line for t, line in zip(told, lines, strict=True))


def test_losses_beyond_a_float_are_infinite_not_an_error() -> None:
    measured = measures_from_scores(SOURCE, (Score((1, 2, 3), 1e6, 2), Score((4,), 1.0, 2)))
    assert measured.perplexity_ratio == math.inf
    assert failures(measured.as_dict(), LanguageBounds(0, 1e9))
