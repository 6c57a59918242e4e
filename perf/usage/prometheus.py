"""Prometheus text of Triton's metrics port → its samples; what is no finite number is left out. Pure, in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SAMPLE = re.compile(
    r"^(nv_\w{1,80})\{([^}\n]{0,4000})\}[ \t]+([-+]?\d{1,20}(?:\.\d{0,20})?(?:[eE][-+]?\d{1,2})?)[ \t\r]*$",
    re.MULTILINE,
)
_LABEL = re.compile(r'\b(\w{1,80})="((?:[^"\\]|\\.)*)"')


def samples_of(text: str, *names: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of these metrics, in their order."""
    for name, labels, value in _SAMPLE.findall(text):
        if name in names:
            yield name, dict(_LABEL.findall(labels)), float(value)
