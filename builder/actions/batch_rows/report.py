"""What is known of a model's rows, as a value that travels between processes and into the lock as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.files.untrusted import STRICT

ROWS_REVISION = 4
"""Raised when the check sees more than before: what was verified by an earlier one is verified again."""

Verdict = Literal["independent", "mixed", "cannot_run", "random", "unverified"]
"""
independent: every row that was run was answered in its batch as it is alone.
mixed:       a row's answer depends on its batch, or the answer has another number of rows than the request.
cannot_run:  ONNX Runtime fails at a batch size that the model would be served with.
random:      two runs of one batch differ, so that nothing can be compared.
unverified:  no inputs could be made, or the graph reads other rows though no answer showed it.
"""


@dataclass(frozen=True, slots=True)
class RowsReport(JsonForm):
    """The verdict on one model.

    sizes: batch sizes that were run, ascending; the largest is below max_batch_size where memory bounds it.
    note:  one sentence: what is wrong, what could not be verified, or what a reader should know all the same;
           empty when there is nothing to say.
    op:    the first operator of the graph that mixes rows, when one could be found; of an unverified model, the first
           that reads other rows, though no answer showed it.
    """

    verdict: Verdict
    sizes: tuple[int, ...] = ()
    note: str = ""
    op: str = ""

    @property
    def refused(self) -> bool:
        """Whether batching the model would give wrong answers or none."""
        return self.verdict in ("mixed", "cannot_run")

    @property
    def in_doubt(self) -> bool:
        """Refused, or by its graph able to be: nobody who is free to choose a batch size would choose one above 0."""
        return self.refused or (self.verdict == "unverified" and bool(self.op))

    def as_dict(self) -> Any:
        """JSON form, a RowsJson; fields that say nothing are left out."""
        return {key: value for key, value in JsonForm.as_dict(self).items() if value}


@with_config(STRICT)
class RowsJson(TypedDict):
    """JSON form of a RowsReport, as the cache and the lock have it."""

    verdict: Verdict
    sizes: NotRequired[list[Annotated[int, Field(ge=1, lt=2**31)]]]
    note: NotRequired[str]
    op: NotRequired[str]


report_from_dict = RowsReport.from_dict


def sizes_to_run(max_batch_size: int, preferred: Iterable[int] = ()) -> tuple[int, ...]:
    """Batch sizes to look at: a row alone, two, three, what the batcher prefers to make, and its largest."""
    return tuple(sorted({s for s in (1, 2, 3, *preferred, max_batch_size) if 1 <= s <= max_batch_size}))
