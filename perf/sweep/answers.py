"""(an arm's answers, the current config's to the same requests) → what they differ by, or None; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, compare
from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.wire.payload import Answer

Array = npt.NDArray[Any]

# Relative and absolute, of outputs whose own spacing is coarser than FP32's: 2^-10 and 2^-7.
LEAST_TOLERANCE = {"FP16": (1e-2, 1e-3), "BF16": (3e-2, 1e-2)}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an arm's answers may lie from the current config's.

    rtol, atol: of outputs of floats: |arm − current| ≤ atol + rtol · max(|current|, rms of current), so that values next
                to zero are held to what their output is like. All else has to be equal.
    bounds:     stand in for them where the arm or the current config is a variant of a precision of its own: each lies
                within its bounds of the source, so the two within their sum.
    """

    rtol: float = 1e-3
    atol: float = 1e-5
    bounds: tuple[ServedAccuracy, ...] = ()

    def bounds_of(self, dtype: str) -> Bounds:
        """The sum of the bounds, for an output of this NumPy dtype."""
        each = [accuracy.bounds_of(dtype) for accuracy in self.bounds]

        def total(name: str) -> float | None:
            known = [value for b in each if (value := getattr(b, name)) is not None]
            return sum(known) if len(known) == len(each) else None

        cosines = [b.cosine for b in each if b.cosine is not None]
        angle = sum(math.acos(min(1.0, c)) for c in cosines)
        tops = [b.top1 for b in each if b.top1 is not None]
        return Bounds(
            relative_l2=total("relative_l2"),
            cosine=math.cos(min(angle, math.pi)) if len(cosines) == len(each) else None,
            max_abs=total("max_abs"),
            negligible_abs=sum(b.negligible_abs for b in each),
            top1=max(0.0, 1.0 - sum(1.0 - t for t in tops)) if tops else None,
        )


@dataclass(frozen=True, slots=True)
class ArmText:
    """How a language model's arm answers; each None where it is not known.

    token_agreement, perplexity_ratio: of its variant's weights against the source's, as the build measured them.
    same_text: the share of the current config's greedy answers that its own begin with, 0 to 1.
    """

    token_agreement: float | None = None
    perplexity_ratio: float | None = None
    same_text: float | None = None


def same_text(texts: Sequence[str], reference: Sequence[str]) -> float | None:
    """The share of the reference's characters up to the first that differs, of all texts together; None of no character."""
    pairs = list(zip(texts, reference, strict=False))
    total = sum(max(len(text), len(wanted)) for text, wanted in pairs)
    alike = sum(
        len(list(takewhile(lambda two: two[0] == two[1], zip(*pair, strict=False)))) for pair in pairs
    )
    return alike / total if total else None


def differs(
    answers: Sequence[Answer],
    reference: Sequence[Answer],
    model: ModelInterface,
    tolerance: Tolerance,
    *,
    values: bool = True,
) -> str | None:
    """What the answers differ by, of the pairs that both are answers; None when they are the same.

    values: False compares names, shapes and types alone.
    """
    kinds = {spec.name: spec.dtype.kserve for spec in model.outputs}
    pairs = [
        (number, a.outputs, r.outputs)
        for number, (a, r) in enumerate(zip(answers, reference, strict=False), 1)
        if a.error is None and r.error is None
    ]
    for number, got, want in pairs:
        if (other := _other_form(got, want)) is not None:
            return f"{other} at request {number}"
    if not values or not pairs:
        return None
    for name in pairs[0][2]:
        of_output = [(number, got[name], want[name]) for number, got, want in pairs if name in want]
        kind = kinds.get(name, "")
        if tolerance.bounds and kind != "BYTES":
            found = _beyond_bounds(name, kind, of_output, tolerance)
        else:
            found = _largest_deviation(kind, of_output, tolerance)
        if found is not None:
            return f"output {name}, {found}"
    return None


_Pairs = Sequence[tuple[int, Array, Array]]


def _other_form(got: Mapping[str, Array], want: Mapping[str, Array]) -> str | None:
    if got.keys() != want.keys():
        return f"outputs {', '.join(sorted(got))} instead of {', '.join(sorted(want))}"
    for name, array in want.items():
        if got[name].shape != array.shape:
            return f"output {name} has shape {list(got[name].shape)} instead of {list(array.shape)}"
        if got[name].dtype != array.dtype:
            return f"output {name} is {got[name].dtype.name} instead of {array.dtype.name}"
    return None


def _largest_deviation(kind: str, pairs: _Pairs, tolerance: Tolerance) -> str | None:
    """The value that is furthest beyond what is allowed."""
    worst, said = 1.0, None
    for number, got, want in pairs:
        if kind not in ("FP16", "BF16", "FP32", "FP64"):
            other = int((got != want).sum())
            if other:
                return f"{other} of {want.size} values are others at request {number} (all have to be equal)"
            continue
        g, w = _floats(kind, got), _floats(kind, want)
        with np.errstate(invalid="ignore", over="ignore"):
            least_rtol, least_atol = LEAST_TOLERANCE.get(kind, (0.0, 0.0))
            finite = w[np.isfinite(w)]
            rms = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
            allowed = max(tolerance.atol, least_atol) + max(tolerance.rtol, least_rtol) * np.maximum(
                np.abs(w), rms
            )
            same = (g == w) | (np.isnan(g) & np.isnan(w))
            off = np.where(same, 0.0, np.abs(g - w))
            beyond = np.where(same, 0.0, np.where(np.isfinite(off), off / allowed, np.inf))
        if beyond.size and beyond.max() > worst:
            at = np.unravel_index(beyond.argmax(), beyond.shape)
            worst = float(beyond[at])
            said = f"largest deviation {off[at]:.3g} at request {number} (allowed {allowed[at]:.3g})"
    return said


def _beyond_bounds(name: str, kind: str, pairs: _Pairs, tolerance: Tolerance) -> str | None:
    """The first measure that is out of the bounds, of the request where it is most."""
    worst, said = -1.0, None
    agreements: list[float] = []
    bounds = Bounds()
    for number, got, want in pairs:
        bounds = tolerance.bounds_of("float16" if kind in ("FP16", "BF16") else want.dtype.name)
        g, w = got, want
        if kind.startswith(("FP", "BF")):
            g, w = _floats(kind, got), _floats(kind, want)
            nan = np.isnan(g) & np.isnan(w)
            g, w = np.where(nan, 0.0, g), np.where(nan, 0.0, w)
        (deviation,) = compare({name: g}, {name: w}, bounds=replace(bounds, top1=None))
        if bounds.top1 is not None and deviation.top1 is not None:
            agreements.append(deviation.top1 * _rows(want))
        # `compare` takes bounds that judge nothing for none.
        stated = replace(deviation, bounds=replace(bounds, top1=None))
        if stated.violations and stated.relative_l2 > worst:
            worst, said = stated.relative_l2, f"{stated.violations[0]} at request {number}"
    if said is None and bounds.top1 is not None and agreements:
        return _too_few_agree(agreements, sum(_rows(want) for _, _, want in pairs), bounds.top1)
    return said


def _rows(array: Array) -> int:
    return array.shape[0] if array.ndim > 1 and array[0].size > 1 else array.size


def _too_few_agree(agreements: Sequence[float], rows: int, top1: float) -> str | None:
    """A share of 99 % does not show in eight rows: three standard deviations and a row more are chance."""
    others, expected = rows - round(sum(agreements)), (1.0 - top1) * rows
    if others <= expected + 3.0 * math.sqrt(expected) + 1.0:
        return None
    return f"{others} of {rows} rows have another top-1 (top-1 agreement of {top1:g} is allowed)"


def _floats(kind: str, array: Array) -> npt.NDArray[np.float64]:
    if kind == "BF16":  # the upper half of an FP32's bits
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return np.asarray(array, np.float64)
