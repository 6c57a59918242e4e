"""Lock ↔ models.lock.json: per model the identity of what was built, sorted and stable, made to be reviewed and committed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import with_config
from typing_extensions import NotRequired, TypedDict

from tritonsmith.builder.actions.batch_rows.report import RowsJson
from tritonsmith.builder.base.errors import SpecError, Where
from tritonsmith.builder.base.files.disk import write_atomically
from tritonsmith.builder.base.files.untrusted import (
    STRICT,
    Dependency,
    Distance,
    LaidOutPath,
    ModelName,
    Sha256,
    parsed,
    read_bounded,
)

_VERSION = 1
# Written even when empty; variants and what is served only where there are variants.
_ALWAYS = ("parameters", "tools", "dependencies", "key", "config", "files", "accuracy")

Dependencies = Mapping[Dependency, Sha256]
"""Source file → sha256; paths relative to the spec or absolute, or package:NAME/path; `DIRECTORY/`: what is listed there."""
Tools = Mapping[str, str | None]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


@with_config(STRICT)
class Accuracy(TypedDict, total=False):
    """The worst deviation, where anything was compared; note: why nothing was. Of a language model's variant what
    builder.actions.language.measures says, and the digest of the source's answers."""

    samples: int
    note: str | None
    relative_l2: Distance
    cosine: Distance
    max_abs: Distance
    token_agreement: Distance
    perplexity_ratio: Distance
    perplexity: Distance
    prompts: int
    prompt_tokens: int
    answer_tokens: int
    reference: Sha256


@with_config(STRICT)
class LockedEngine(TypedDict):
    """An engine of a variant, for one compute capability."""

    key: Sha256
    parameters: Mapping[str, Any]
    tools: Tools


@with_config(STRICT)
class LockedCoverage(TypedDict):
    """How much of a model is in its precision (builder.actions.convert.coverage)."""

    nodes: Annotated[int, Field(ge=0, lt=2**63)]
    of_nodes: Annotated[int, Field(ge=0, lt=2**63)]
    weight_bytes: Annotated[int, Field(ge=0, lt=2**63)]
    of_weight_bytes: Annotated[int, Field(ge=0, lt=2**63)]
    kept: Mapping[str, int]


@with_config(STRICT)
class LockedVariant(TypedDict):
    """What identified a variant. engines: compute capability (`9.0`; empty: not known) → engine."""

    key: Sha256
    parameters: Mapping[str, Any]
    tools: Tools
    dependencies: Dependencies
    accuracy: Accuracy
    engines: NotRequired[Mapping[str, LockedEngine]]
    coverage: NotRequired[LockedCoverage]


@dataclass(frozen=True, slots=True)
class LockedModel:
    """One model as it was last built.

    parameters:   the export's parameters as the spec had them.
    tools:        versions of what made it.
    dependencies: source file → sha256.
    key:          the export's action key.
    config:       what config.pbtxt was rendered from (`spec`, `template`), as digests.
    files:        the model's directory: relative path → sha256; an empty directory is `NAME/` → "".
    accuracy:     the worst deviation from the source.
    variants:     name → what identified it and its accuracy.
    served:       the variant that is laid out; None without variants.
    rows:         what is known of its rows in a batch (builder.actions.batch_rows); None where none batch.
    exporter:     which of torch's exporters wrote the model; None where torch had no part in it.
    engine:       of a language model, the arguments that its engine is given.
    pinned:       a name on the hub, as the spec has it without a commit → the commit that it stands for.
    """

    __pydantic_config__ = STRICT

    parameters: Mapping[str, Any]
    tools: Tools
    dependencies: Dependencies
    key: Sha256
    config: Mapping[str, Sha256]
    files: Mapping[LaidOutPath, Sha256 | Literal[""]]
    accuracy: Accuracy
    variants: Mapping[str, LockedVariant] = field(default_factory=dict)
    served: str | None = None
    rows: RowsJson | None = None
    exporter: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    pinned: Mapping[str, Commit] = field(default_factory=dict)

    @property
    def keys(self) -> Iterator[str]:
        """Every cache key that it names: of the export, its variants and their engines."""
        yield self.key
        for variant in self.variants.values():
            yield variant["key"]
            yield from (engine["key"] for engine in variant.get("engines", {}).values())


@dataclass(frozen=True, slots=True)
class Lock:
    """All models of one spec."""

    models: Mapping[str, LockedModel] = field(default_factory=dict)


@with_config(STRICT)
class _File(TypedDict):
    lock_version: Literal[1]
    models: Mapping[ModelName, LockedModel]


def finite(measure: float) -> float:
    """JSON has no infinity, which is how far NaN is from a reference: the largest float stands for it."""
    return measure if math.isfinite(measure) else math.copysign(sys.float_info.max, measure)


def measured_again(before: LockedModel | None, after: LockedModel) -> LockedModel:
    """The entry of before, when the same files were only measured again: a deviation near rounding is never twice the same."""
    if before is None:
        return after
    here, there = dict(_measures(before)), dict(_measures(after))
    is_near = here.keys() == there.keys() and all(
        _is_near(here[name], there[name], name[1] in _DEVIATIONS) for name in here
    )
    return before if is_near and _unmeasured(before) == _unmeasured(after) else after


def _measures(entry: LockedModel) -> Iterator[tuple[tuple[str, str], object]]:
    for variant, accuracy in [("", entry.accuracy), *((n, v["accuracy"]) for n, v in entry.variants.items())]:
        yield from (((variant, name), value) for name, value in accuracy.items())


def _unmeasured(entry: LockedModel) -> str:
    """As text: what was read has lists where what was made has tuples."""
    variants = {
        name: LockedVariant(**{**one, "accuracy": Accuracy()}) for name, one in entry.variants.items()
    }
    return text_of_lock(Lock({"": replace(entry, accuracy=Accuracy(), variants=variants)}))


# Distances from nothing, of which rounding is a large part; the rest are near 1, where half of it would hide a refusal.
_DEVIATIONS = ("relative_l2", "max_abs")


def _is_near(one: object, other: object, is_deviation: bool) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0.5 if is_deviation else 1e-4, abs_tol=1e-6)
    return one == other


def lock_path(spec: Path) -> Path:
    """models.yaml → models.lock.json beside it."""
    return spec.with_name(f"{spec.stem}.lock.json")


def read_lock(path: Path) -> Lock:
    """The lock; an empty one when there is no file; SpecError when it is not a lock."""
    try:
        return Lock(parsed(_File, read_bounded(path), infinite=True)["models"])
    except FileNotFoundError:
        return Lock()
    except (OSError, ValueError) as error:
        raise _not_a_lock(path, str(error)) from None


def _not_a_lock(path: Path, why: str) -> SpecError:
    return SpecError(
        f"not a lock file: {why}",
        code="lock_invalid",
        where=Where(path),
        fix=f"restore {path.name} from version control, or delete it to build everything anew",
    )


def text_of_lock(lock: Lock) -> str:
    """The file's text: sorted keys, one value a line, so that a diff is readable."""
    models = {
        name: {
            f: getattr(entry, f)
            for f in LockedModel.__dataclass_fields__
            if getattr(entry, f) or f in _ALWAYS
        }
        for name, entry in lock.models.items()
    }
    return (
        json.dumps(
            {"lock_version": _VERSION, "models": models},
            indent=2,
            sort_keys=True,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n"
    )


def write_lock(path: Path, lock: Lock) -> None:
    """Writes the lock when it says something new."""
    text = text_of_lock(lock)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
