"""(the source's answers and scores, a variant's scores) → Measures; (Measures, bounds) → what is out of them; pure.

Token agreement is the share of the positions of the source's own greedy answers at which source and variant put the same
token first, both having read the prompt and the source's answer up to there (top-1 agreement under teacher forcing). One
early difference so counts once, where two answers that are written freely would have nothing in common after it.

Perplexity is exp(−mean ln p(token)) over all tokens of the prompts but the first of each, which nothing precedes
(Jelinek et al. 1977; llama.cpp's llama-perplexity measures the same over chunks of a text). The ratio is the variant's
divided by the source's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.llm.precisions import LanguageBounds


@dataclass(frozen=True, slots=True)
class Score(JsonForm):
    """Of one prompt and its answer. top: the token put first at each position of the answer; nll: −ln p of the prompt's tokens
    but the first, summed; tokens: how many these are."""

    top: tuple[int, ...]
    nll: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Measures(JsonForm):
    """token_agreement: 0 to 1. perplexity: the variant's. prompts, prompt_tokens, answer_tokens: how much was compared."""

    token_agreement: float
    perplexity_ratio: float
    perplexity: float
    prompts: int
    prompt_tokens: int
    answer_tokens: int


def measures_from_scores(source: Sequence[Score], variant: Sequence[Score]) -> Measures:
    """One of each a prompt, in the same order; at least one token of an answer."""
    pairs = [pair for a, b in zip(source, variant, strict=True) for pair in zip(a.top, b.top, strict=True)]
    perplexity = perplexity_of(variant)
    return Measures(
        token_agreement=sum(a == b for a, b in pairs) / len(pairs),
        perplexity_ratio=_exp(_mean_nll(variant) - _mean_nll(source)),
        perplexity=perplexity,
        prompts=len(source),
        prompt_tokens=sum(score.tokens for score in source),
        answer_tokens=len(pairs),
    )


def perplexity_of(scores: Sequence[Score]) -> float:
    """At least 1; infinite where it is beyond a float."""
    return _exp(_mean_nll(scores))


def _mean_nll(scores: Sequence[Score]) -> float:
    return sum(score.nll for score in scores) / sum(score.tokens for score in scores)


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def failures(measured: Mapping[str, Any], bounds: LanguageBounds) -> tuple[str, ...]:
    """A line for each measure that is out of its bound; what is no number is out of any."""
    agreement, ratio = measured["token_agreement"], measured["perplexity_ratio"]
    found = []
    if not agreement >= bounds.token_agreement:
        found.append(
            f"token agreement {agreement:.4f} < {bounds.token_agreement:g} "
            f"({measured['answer_tokens']} tokens of {measured['prompts']} answers)"
        )
    if not ratio <= bounds.perplexity_ratio:
        found.append(
            f"perplexity ratio {ratio:.4f} > {bounds.perplexity_ratio:g} "
            f"({measured['prompt_tokens']} tokens of {measured['prompts']} prompts)"
        )
    return tuple(found)


def text_of(measured: Mapping[str, Any]) -> str:
    """`agrees 98.4 %  perplexity ×1.003`."""
    return f"agrees {100 * measured['token_agreement']:.1f} %  perplexity ×{measured['perplexity_ratio']:.3f}"
