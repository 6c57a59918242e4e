"""A variant's precision and stated bounds ↔ the file beside a variant that was laid out; how far its answers may be off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, variant_bounds
from tritonsmith.builder.base.errors import SpecError, Where
from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.builder.base.precisions import precision_rows

ACCURACY_FILE = "tritonsmith-accuracy.json"
"""In the model's directory, where Triton reads nothing of this name."""


@dataclass(frozen=True, slots=True)
class LanguageAccuracy(JsonForm):
    """What the build measured of a language model's variant, against its source.

    token_agreement: 0 to 1; perplexity_ratio: the variant's / the source's; both None where nothing was judged.
    refused: a line for each bound that it is out of. note: why nothing was judged.
    """

    token_agreement: float | None = None
    perplexity_ratio: float | None = None
    refused: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServedAccuracy(JsonForm):
    """What answers of a served model are held to. stated: the bounds of models.yaml, by name; empty: the precision's.

    language: of a language model, what was measured; it has no bounds of outputs.
    """

    precision: str = "fp32"
    stated: Mapping[str, float] = field(default_factory=dict)
    language: LanguageAccuracy | None = None

    def bounds_of(self, dtype: str) -> Bounds:
        """The bounds of an output of this NumPy dtype.

        Where nothing is stated, FP32 is held to TF32's: a GPU computes FP32 products so where it may, and no build
        on a CPU can tell.
        """
        if self.stated:
            return Bounds(**self.stated)
        if precision_rows()[self.precision].exact and dtype.startswith("float"):
            return variant_bounds("fp16" if dtype == "float16" else "tf32", dtype)
        return variant_bounds(self.precision, dtype)


def write_accuracy(directory: Path, accuracy: ServedAccuracy) -> None:
    """Writes the file into the model's directory."""
    write_atomically(directory / ACCURACY_FILE, json.dumps(accuracy.as_dict(), indent=1) + "\n")


def read_accuracy(directory: Path) -> ServedAccuracy | None:
    """What the file says; None where there is none, SpecError `bad_accuracy` for what is not such a file."""
    path = directory / ACCURACY_FILE
    if not path.is_file():
        return None
    try:
        found = ServedAccuracy.from_dict(json_value(read_bounded(path)))
        if found.language is None:
            Bounds(**found.stated)
            precision_rows()[found.precision]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SpecError(
            f"the variant's bounds cannot be read: {str(error).splitlines()[0]:.200}",
            code="bad_accuracy",
            where=Where(path),
            fix="tritonsmith build --variants lays the variant out anew",
        ) from None
    return found
