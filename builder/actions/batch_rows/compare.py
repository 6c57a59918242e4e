"""(an answer, the answer it should equal) → whether they are the same but for rounding, and how far they are apart.

Two comparisons need two measures. Where only a row's neighbours changed, the same instructions computed it from the
same numbers at the same place, so that it is the same to the last bit, whatever the precision. Where the number of rows
changed, a product is blocked otherwise and its sum rounds otherwise: there builder.actions.accuracy.accuracy's bounds of an export hold,
1e-4 of a row's length in fp32, which lies ten times above what ten layers round and far below what a mean over two
strangers moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tritonsmith.builder.actions.accuracy.accuracy import compare

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

ULPS = 1
"""Units in the last place that count as the same. None is expected; a library may align its loops otherwise."""

ROUNDING_L2 = 1e-5
"""Of a row's length, or a unit in the last place where that is more. Rows that decide about shapes (a model that cuts
its batch to the longest row) round this much."""

ROUNDING_ELEMENT = 1e-3
"""Of one element, where the row as a whole lies within ROUNDING_L2: a small value beside large ones counts, too."""


def changed(a: Array, b: Array) -> Array:
    """Elements that are not the same bits; NaN equals NaN. The shapes are equal."""
    import numpy as np

    differing: Array = np.asarray(a != b)
    if a.dtype.kind == "f":
        differing &= ~(np.isnan(a) & np.isnan(b))
    return differing


def is_same(a: Array, b: Array) -> bool:
    """Whether nothing but the last bits differs; integers, booleans and strings have none."""
    import numpy as np

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    if a.tobytes() == b.tobytes():
        return True
    special = ~(np.isfinite(a) & np.isfinite(b))
    if bool(np.any(changed(a, b) & special)):
        return False
    x, y = np.where(special, 0.0, a.astype(np.float64)), np.where(special, 0.0, b.astype(np.float64))
    slack = ULPS * float(np.finfo(a.dtype).eps) * np.maximum(np.abs(x), np.abs(y))
    return bool(np.all(np.abs(x - y) <= slack))


def is_rounding(a: Array, b: Array) -> bool:
    """Whether two runs of equal shape differ by so little that a sum in another order explains it."""
    import numpy as np

    if a.dtype.kind != "f" or a.shape != b.shape:
        return False
    unit = float(np.finfo(a.dtype).eps)
    if relative_l2(a, b) > max(ROUNDING_L2, unit):
        return False
    x, y = _finite(a, b)
    slack = max(ROUNDING_ELEMENT, 4 * unit) * np.maximum(np.abs(x), np.abs(y))
    return bool(np.all(np.abs(x - y) <= slack))


def is_within_bounds(candidate: Array, reference: Array) -> bool:
    """Whether a row in a batch is the row alone within its dtype's bounds; NaN equals NaN, integers exactly."""
    if candidate.shape != reference.shape or candidate.dtype != reference.dtype:
        return False
    if candidate.dtype.kind == "f":
        if bool(changed(candidate, reference)[_nan(candidate) | _nan(reference)].any()):
            return False
        candidate, reference = _without_nan(candidate), _without_nan(reference)
    return compare({"row": candidate}, {"row": reference})[0].passed


def relative_l2(candidate: Array, reference: Array) -> float:
    """‖c − r‖₂ / ‖r‖₂; the share of differing elements where there are no numbers; infinite for another shape."""
    import numpy as np

    if candidate.shape != reference.shape or candidate.dtype != reference.dtype:
        return float("inf")
    differing = changed(candidate, reference)
    if candidate.dtype.kind != "f":
        return float(differing.mean()) if differing.size else 0.0
    if bool((differing & ~(np.isfinite(candidate) & np.isfinite(reference))).any()):
        return float("inf")
    c, r = _finite(candidate, reference)
    norm, distance = float(np.linalg.norm(r)), float(np.linalg.norm(c - r))
    return distance / norm if norm > 0 else distance


def _finite(a: Array, b: Array) -> tuple[Array, Array]:
    import numpy as np

    finite = np.isfinite(a) & np.isfinite(b)
    return np.where(finite, a.astype(np.float64), 0.0), np.where(finite, b.astype(np.float64), 0.0)


def _nan(a: Array) -> Array:
    import numpy as np

    return np.isnan(a)


def _without_nan(a: Array) -> Array:
    import numpy as np

    return np.where(np.isnan(a), np.zeros((), a.dtype), a)
