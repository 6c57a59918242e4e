"""Triton's field → what it is, in a sentence; the words for editors that its protobuf descriptor does not carry.

After the comments of model_config.proto (triton-inference-server/common) and Triton's model configuration guide.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

_TABLE = Path(__file__).with_name("triton_fields.csv")


@lru_cache(maxsize=1)
def field_words() -> Mapping[tuple[str, str], str]:
    """(message without `inference.`, field) → its description."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {(row["message"], row["field"]): row["description"] for row in csv.DictReader(file)}
