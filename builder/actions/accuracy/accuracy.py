"""(candidate outputs, reference outputs) → a Deviation for each output, judged by Bounds, and a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, PlainSerializer, computed_field

from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.precisions import precision_rows

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far an output may lie from its reference; None means that measure is not judged.

    relative_l2: largest ‖candidate − reference‖₂ / ‖reference‖₂.
    cosine:      smallest cosine similarity of any row.
    max_abs:     largest absolute difference of any element.
    top1:        smallest share of rows whose largest value stands at the same place.
    negligible_abs: an output whose every element differs by no more passes, whatever its relative measures:
                 a network that sees nothing answers 1e-8 where a sum of terms around 1 is good to 1e-7.
    """

    relative_l2: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    negligible_abs: float = 0.0
    top1: float | None = None

    @property
    def stated(self) -> bool:
        """True when at least one measure is judged."""
        return any(bound is not None for bound in (self.relative_l2, self.cosine, self.max_abs, self.top1))


DEFAULT_RELATIVE_L2_FP16 = 5e-3
"""For an output that is itself FP16, whose spacing is 1e-3 relative."""

NEGLIGIBLE_ABS_FP16 = 1e-3


def default_bounds(dtype: str) -> Bounds:
    """Bounds of an export nobody stated bounds for; `dtype` is the output's NumPy dtype name.

    Integer, boolean and string outputs of an export have to be equal to the reference's.
    """
    if dtype == "float16":
        return Bounds(relative_l2=DEFAULT_RELATIVE_L2_FP16, negligible_abs=NEGLIGIBLE_ABS_FP16)
    if dtype in ("float32", "float64"):
        return variant_bounds("fp32", dtype)
    return Bounds(relative_l2=0.0, max_abs=0.0)


def variant_bounds(precision: str, dtype: str) -> Bounds:
    """Bounds of a variant nobody stated bounds for; integer, boolean and string outputs judge by top-1 of 99 %."""
    row = precision_rows()[precision]
    if dtype.startswith(("float", "bfloat")):
        return Bounds(**row.bounds)
    return default_bounds(dtype) if row.exact else Bounds(top1=0.99)


_Distance = Annotated[
    float,
    PlainSerializer(lambda distance: None if distance == math.inf else distance),
    BeforeValidator(lambda told: math.inf if told is None else told),
]
"""JSON has no infinity: it is null there."""


@dataclass(frozen=True, slots=True)
class Deviation(JsonForm):
    """How one output of one run differs from its reference.

    output:      the output's name.
    runtime:     what computed the candidate (`onnxruntime`, `onnxruntime, optimisations off`).
    sample:      label of the sample, as in the SampleSet.
    relative_l2: ‖c − r‖₂ / ‖r‖₂ in float64 over the whole tensor; where ‖r‖₂ is 0, ‖c‖₂ itself.
    cosine:      smallest cosine similarity over rows (first dimension; the whole tensor below rank 2).
                 Two zero rows count as 1, one zero row against another as 0.
    max_abs:     largest |c − r|.
    top1:        share of rows whose largest value stands at the same place; below rank 2, or with a single
                 value a row, the share of equal values.
    failure:     why the numbers cannot be compared (missing, shape, dtype, NaN, Inf); None when they can.
    bounds:      what it was judged by.
    """

    output: str
    relative_l2: _Distance
    cosine: float
    max_abs: _Distance
    failure: str | None = None
    bounds: Bounds = field(default_factory=Bounds)
    runtime: str = ""
    sample: str = ""
    top1: float | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def violations(self) -> tuple[str, ...]:
        """One phrase for each thing wrong; empty when the output is within its bounds."""
        if self.failure is not None:
            return (self.failure,)
        if self.bounds.negligible_abs and self.max_abs <= self.bounds.negligible_abs:
            return ()
        found = []
        if self.bounds.relative_l2 is not None and not self.relative_l2 <= self.bounds.relative_l2:
            found.append(f"relative L2 {self.relative_l2:.3g} > {self.bounds.relative_l2:.3g}")
        if self.bounds.cosine is not None and not self.cosine >= self.bounds.cosine:
            found.append(f"cosine {self.cosine:.6g} < {self.bounds.cosine:.6g}")
        if self.bounds.max_abs is not None and not self.max_abs <= self.bounds.max_abs:
            found.append(f"max abs {self.max_abs:.3g} > {self.bounds.max_abs:.3g}")
        if self.bounds.top1 is not None and not (self.top1 is not None and self.top1 >= self.bounds.top1):
            seen = "unknown" if self.top1 is None else f"{self.top1:.4g}"
            found.append(f"top-1 agreement {seen} < {self.bounds.top1:.4g}")
        return tuple(found)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True when the output is within its bounds."""
        return not self.violations


@dataclass(frozen=True, slots=True)
class AccuracyReport(JsonForm):
    """The verdict on one candidate.

    deviations: of all samples, the comparisons furthest from the reference by each measure.
    samples:    number of samples compared; 0 when none could be made, `note` then says why.
    """

    deviations: tuple[Deviation, ...]
    samples: int
    note: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """True when every output of every runtime is within its bounds."""
        return all(deviation.passed for deviation in self.deviations)

    @property
    def worst(self) -> Deviation | None:
        """The comparison furthest from its reference; None when nothing was compared."""
        return max(self.deviations, key=_badness, default=None)

    @property
    def failures(self) -> tuple[Deviation, ...]:
        """The comparisons outside their bounds."""
        return tuple(deviation for deviation in self.deviations if not deviation.passed)

    def judged_by(self, bounds: Bounds) -> AccuracyReport:
        """The same numbers judged by other bounds, for every output alike."""
        return replace(self, deviations=tuple(replace(d, bounds=bounds) for d in self.deviations))


report_from_dict = AccuracyReport.from_dict


def report_from_deviations(deviations: Iterable[Deviation], samples: int) -> AccuracyReport:
    """All comparisons → a report of those that matter: for each output and runtime the worst by each measure.

    So `judged_by` other bounds says what judging every comparison would have said.
    """
    grouped: dict[tuple[str, str], list[Deviation]] = {}
    for deviation in deviations:
        grouped.setdefault((deviation.output, deviation.runtime), []).append(deviation)
    kept: dict[Deviation, None] = {}
    for group in grouped.values():
        kept[max(group, key=_badness)] = None
        kept[max(group, key=lambda d: (d.failure is not None, d.relative_l2))] = None
        kept[min(group, key=lambda d: d.cosine)] = None
        kept[max(group, key=lambda d: d.max_abs)] = None
        kept[min(group, key=lambda d: 1.0 if d.top1 is None else d.top1)] = None
    return AccuracyReport(tuple(kept), samples)


def compare(
    candidate: Mapping[str, Array],
    reference: Mapping[str, Array],
    *,
    bounds: Bounds | None = None,
    runtime: str = "",
    sample: str = "",
) -> tuple[Deviation, ...]:
    """One Deviation for each output of the reference, in its order; the candidate may have more.

    Object arrays (BYTES) are compared element by element: relative_l2 is then the share of elements that
    differ. `bounds` None takes default_bounds of each output's dtype.
    """
    found = []
    for name, expected in reference.items():
        judged = bounds if bounds is not None and bounds.stated else default_bounds(expected.dtype.name)
        deviation = _compare_one(name, candidate.get(name), expected)
        found.append(replace(deviation, bounds=judged, runtime=runtime, sample=sample))
    return tuple(found)


def _compare_one(name: str, candidate: Array | None, reference: Array) -> Deviation:
    if candidate is None:
        return _failed(name, "the output is missing")
    if candidate.shape != reference.shape:
        return _failed(name, f"shape {list(candidate.shape)} instead of {list(reference.shape)}")
    if candidate.dtype != reference.dtype:
        return _failed(name, f"dtype {candidate.dtype.name} instead of {reference.dtype.name}")
    if reference.dtype == object:
        return _compare_bytes(name, candidate, reference)
    return _compare_numbers(name, candidate, reference)


def _compare_bytes(name: str, candidate: Array, reference: Array) -> Deviation:
    pairs = list(zip(candidate.reshape(-1).tolist(), reference.reshape(-1).tolist(), strict=True))
    differing = sum(_as_bytes(c) != _as_bytes(r) for c, r in pairs)
    share = differing / len(pairs) if pairs else 0.0
    return Deviation(
        name, relative_l2=share, cosine=1.0 - share, max_abs=float(differing > 0), top1=1.0 - share
    )


def _as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _compare_numbers(name: str, candidate: Array, reference: Array) -> Deviation:
    import numpy as np

    c, r = candidate.astype(np.float64), reference.astype(np.float64)
    if np.isnan(r).any():
        return _failed(name, f"NaN in {int(np.isnan(r).sum())} of {r.size} reference values")
    if np.isnan(c).any():
        return _failed(name, f"NaN in {int(np.isnan(c).sum())} of {c.size} values")
    # An infinity is right only where the reference has the same one; such elements then carry no distance.
    infinite = np.isinf(c) | np.isinf(r)
    if infinite.any():
        if not np.array_equal(c[infinite], r[infinite]):
            return _failed(
                name, f"Inf in {int(np.isinf(c).sum())} values, {int(np.isinf(r).sum())} in the reference"
            )
        c, r = np.where(infinite, 0.0, c), np.where(infinite, 0.0, r)
    difference = np.abs(c - r)
    norm = float(np.linalg.norm(r))
    distance = float(np.linalg.norm(difference))
    return Deviation(
        name,
        relative_l2=distance / norm if norm > 0 else distance,
        cosine=_smallest_row_cosine(c, r),
        max_abs=float(difference.max(initial=0.0)),
        top1=_top1_agreement(c, r),
    )


def _top1_agreement(candidate: Array, reference: Array) -> float:
    if reference.size == 0:
        return 1.0
    if reference.ndim < 2 or reference[0].size == 1:
        return float((candidate == reference).mean())
    rows = reference.shape[0]
    best_c, best_r = (a.reshape(rows, -1).argmax(axis=1) for a in (candidate, reference))
    return float((best_c == best_r).mean())


def _smallest_row_cosine(candidate: Array, reference: Array) -> float:
    import numpy as np

    if reference.size == 0:
        return 1.0
    rows = reference.shape[0] if reference.ndim > 1 else 1
    c, r = candidate.reshape(rows, -1), reference.reshape(rows, -1)
    norms_c, norms_r = np.linalg.norm(c, axis=1), np.linalg.norm(r, axis=1)
    zero_c, zero_r = norms_c == 0, norms_r == 0
    # Each row is scaled first: the product of two tiny or huge norms leaves float64's range.
    unit_c = c / np.where(zero_c, 1.0, norms_c)[:, None]
    unit_r = r / np.where(zero_r, 1.0, norms_r)[:, None]
    cosines = np.where(zero_c & zero_r, 1.0, np.einsum("ij,ij->i", unit_c, unit_r))
    return float(np.clip(cosines.min(), -1.0, 1.0))


def _failed(name: str, failure: str) -> Deviation:
    return Deviation(name, relative_l2=float("inf"), cosine=-1.0, max_abs=float("inf"), failure=failure)


def _badness(deviation: Deviation) -> tuple[bool, float, float]:
    return (not deviation.passed, deviation.relative_l2, deviation.max_abs)
