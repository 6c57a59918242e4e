"""What became of a build: one ModelOutcome a model, one VariantOutcome a variant, and the plan they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.judgement import Judgement
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.builder.plan.plan import BuildPlan

# Actions of a ModelOutcome that changed nothing in the repository.
UNCHANGED = ("up-to-date", "unchanged", "failed", "not built", "cached")
# A variant that only another machine can make.
ELSEWHERE = ("gpu_missing", "gpu_other")


@dataclass(frozen=True, slots=True)
class VariantOutcome:
    """What became of one variant.

    accuracy: its worst deviation from the fp32 source; judged: what the gate says of it; coverage: how much of it is
    in its precision (builder.actions.convert.coverage), empty for fp32 and tf32.
    """

    variant: str
    action: str
    served: bool
    accuracy: Mapping[str, Any]
    error: TritonsmithError | None = None
    judged: Judgement = field(default_factory=Judgement)
    coverage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelOutcome:
    """What became of one model.

    action:   up-to-date, exported, taken over, from cache, laid out, unchanged, failed, not built (another model's
              failure or Ctrl-C came first), cached (its artifacts were made and nothing was to be laid out).
    accuracy: worst deviation of the export from its source; empty when nothing was judged anew or before.
    rows:     what is known of its rows in a batch, a RowsReport as JSON; empty where none batch.
    """

    model: str
    action: str
    version: int
    directory: Path
    seconds: float
    accuracy: Mapping[str, Any]
    error: TritonsmithError | None = None
    variants: tuple[VariantOutcome, ...] = ()
    rows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildResult(Tabular):
    """The whole build; failed models are in outcomes with their error, and their old directory stands untouched.

    variants, variant_errors: directories of variants that were laid out beside, and why others were not.
    """

    repository: Path
    plan: BuildPlan
    outcomes: tuple[ModelOutcome, ...] = ()
    variants: tuple[Path, ...] = ()
    variant_errors: tuple[TritonsmithError, ...] = ()

    def caption(self) -> str:
        """How many models were written, how many failed, and where they are."""
        written = sum(o.action not in UNCHANGED for o in self.outcomes)
        failed = f", {len(self.errors)} failures" if self.errors else ""
        return f"{written} of {len(self.outcomes)} models written{failed}: {self.repository}"

    def rows(self) -> list[dict[str, Any]]:
        """One row a model, followed by one for each of its variants; relative_l2, cosine: its worst from the source;
        token_agreement, perplexity_ratio: of a language model's variant."""
        return [
            {"model": o.model, "variant": name, "served": served, **told}
            for o in self.outcomes
            for name, served, told in (
                (None, None, _told(o) | {"seconds": o.seconds}),
                *((v.variant, v.served, _told(v)) for v in o.variants),
            )
        ]

    @property
    def errors(self) -> tuple[TritonsmithError, ...]:
        """The failures, in the spec's order, then those of variants laid out beside. Where nothing was laid out, engines
        for other machines are none."""
        failed = [(o, o.error) for o in self.outcomes]
        failed += [(o, v.error) for o in self.outcomes for v in o.variants]
        # A model that fails because its variant did has the same error.
        told = {
            str(error): error
            for outcome, error in failed
            if error is not None and not (outcome.action == "cached" and error.code in ELSEWHERE)
        }
        return (*told.values(), *self.variant_errors)


def _told(outcome: ModelOutcome | VariantOutcome) -> dict[str, Any]:
    return {
        "action": outcome.action,
        "relative_l2": outcome.accuracy.get("relative_l2"),
        "cosine": outcome.accuracy.get("cosine"),
        "token_agreement": outcome.accuracy.get("token_agreement"),
        "perplexity_ratio": outcome.accuracy.get("perplexity_ratio"),
        "error": None if outcome.error is None else f"{outcome.error.code}: {outcome.error.message}",
    }
