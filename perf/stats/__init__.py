"""RequestRecords → Summary with intervals and verdict; arms over rounds → ratios with intervals; pure."""

from __future__ import annotations

from tritonsmith.perf.stats.intervals import Estimate, Interval, mean_estimate, quantile_estimates
from tritonsmith.perf.stats.ratio import (
    Ratio,
    RoundTable,
    arm_level,
    arm_ratio,
    fit_rounds,
    more_rounds,
    ratio_interval,
    times_end,
)
from tritonsmith.perf.stats.summary import Summary, summarise
from tritonsmith.perf.stats.validity import Validity, ValidityLevel
from tritonsmith.perf.stats.warmup import find_warmup

__all__ = [
    "Estimate",
    "Interval",
    "Ratio",
    "RoundTable",
    "Summary",
    "Validity",
    "ValidityLevel",
    "arm_level",
    "arm_ratio",
    "find_warmup",
    "fit_rounds",
    "mean_estimate",
    "more_rounds",
    "quantile_estimates",
    "ratio_interval",
    "summarise",
    "times_end",
]
