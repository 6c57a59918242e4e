"""(Triton's reason for refusing a model, what the linter finds in that model) → the rules that explain the refusal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tritonsmith.builder.lint.check import Finding
from tritonsmith.builder.lint.table import RULES

# What stands for itself in a sentence: quoted names, numbers, TYPE_FP32, max_batch_size.
_PARTICULAR = re.compile(r"'([^']+)'|(\b[A-Z][A-Z0-9_]{3,}\b|\b\w+_\w+\b|\d+)")
_WORD = re.compile(r"[a-z]{4,}")


def explaining_rules(reason: str, findings: Sequence[Finding]) -> list[str]:
    """Sorted ids; empty when nothing is found that Triton would refuse.

    Triton polls before it loads and tells of the first thing it dislikes, so that of findings at the earliest stage
    those explain it whose particulars (names, types, numbers) the reason holds; where these do not tell them apart,
    those that share most words with it.
    """
    refusing = [f for f in findings if f.severity == "error" and f.stage != "silent"]
    earliest = [f for f in refusing if f.stage == "poll"] or refusing
    likeness = [_likeness(finding, reason) for finding in earliest]
    most = max(likeness, default=(0.0, 0))
    return sorted({f.rule for f, like in zip(earliest, likeness, strict=True) if like == most})


def _likeness(finding: Finding, reason: str) -> tuple[float, int]:
    """(share of the finding's particulars that the reason holds, words in common)."""
    particulars = {
        quoted or plain for quoted, plain in _PARTICULAR.findall(f"{finding.message} {finding.seen or ''}")
    }
    said = {*re.findall(r"[\w./$-]+", reason), *re.findall(r"\w+", reason)}
    ours = _WORD.findall(f"{finding.message} {RULES[finding.rule].title}".lower())
    common = set(ours) & set(_WORD.findall(reason.lower()))
    return (len(particulars & said) / len(particulars) if particulars else 0.0, len(common))
