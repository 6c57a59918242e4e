"""Where a load's values come from, as asked: files, shapes, ranges, batch size, seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.perf.data.distribution import Distribution, Span


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Where values come from.

    file:       .npz (arrays or a samples file of `tritonsmith build`), perf_analyzer's .json, or a directory
                of .npz files, or of one file a tensor (`NAME.npy`, or one row's raw little-endian bytes in
                `NAME`; a file named like an output holds what is expected); None draws values.
    shapes:     input → its dimensions without the batch; a distribution is drawn from for each request, and
                equal ones give equal sizes in one request (a mask is as long as its ids).
    ranges:     input → range of its values; BYTES: range of lengths. By default floats lie in 0..1,
                integers are 0 or 1, BYTES have 16 letters.
    batch_size: rows a request. None: 1 when values are drawn, else as in the file.
    pool:       distinct requests made.
    """

    file: Path | None = None
    shapes: Mapping[str, tuple[Distribution, ...]] = field(default_factory=dict)
    ranges: Mapping[str, Span] = field(default_factory=dict)
    batch_size: int | None = None
    pool: int = 32
    seed: int = 0
