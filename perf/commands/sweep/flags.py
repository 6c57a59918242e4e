"""Flags of `tritonsmith sweep` and a sweep.yaml → SweepSpec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.perf.commands.load.flags import seconds_from_text
from tritonsmith.perf.commands.sweep.options import (
    ArmFlags,
    PayloadFlags,
    RoundFlags,
    SweepFlags,
    VerdictFlags,
)
from tritonsmith.perf.sweep.plan import SweepSpec, setting_from_text, spec_from_mapping, spec_from_yaml

if TYPE_CHECKING:
    from tritonsmith.perf.sweep.run.resume import Earlier

NOT_OF_SPEC = ("spec", "variants", "data", "shape", "range_")


def values_of(*groups: SweepFlags | ArmFlags | VerdictFlags | RoundFlags | PayloadFlags) -> dict[str, Any]:
    """The spec's keys and values of the flags that are given."""

    def milliseconds(text: str) -> float:
        return seconds_from_text(text) * 1000

    read: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "set_": ("space", settings),
        "variant": ("variants", lambda given: dict(pairs(given, "=", "--variant fp16=models/minilm_fp16"))),
        "beside": ("beside", counts),
        "concurrency": ("concurrency", numbers),
        "duration": ("duration_s", seconds_from_text),
        "warmup": ("warmup_s", seconds_from_text),
        "budget": ("budget_s", seconds_from_text),
        "slo_p99": ("slo_p99_ms", milliseconds),
        "max_p99": ("max_p99_ms", milliseconds),
        "max_memory": ("max_memory_mib", float),
    }
    values = {}
    for name, given in (item for group in groups for item in asdict(group).items()):
        if name not in NOT_OF_SPEC and given not in (None, []) and (name, given) != ("model", ""):
            key, value_of = read.get(name, (name, lambda same: same))
            values[key] = value_of(given)
    return values


def spec_from_flags(
    file: Path | None,
    given: dict[str, Any],
    earlier: Earlier | None = None,
    model: Callable[[], str] | None = None,
) -> SweepSpec:
    """A sweep.yaml and the values of flags → SweepSpec; flags win.

    earlier: the run that is resumed, whose spec stands in for the file where there is none.
    model:   asked for a name where none is given; it raises what there is to choose from.
    """
    if file is not None:
        spec = spec_from_yaml(file, given)
    else:
        values = given if earlier is None else earlier.settings | given
        if "model" not in values:
            if model is None:
                raise UsageError("which model?", code="no_model", fix="--model NAME")
            values = values | {"model": model()}
        spec = spec_from_mapping(values)
    before = None if earlier is None else earlier.spec.get("model")
    if before not in (None, spec.model):
        raise UsageError(
            "the run that is to be resumed is of another model",
            code="other_model",
            seen=spec.model,
            valid=[before],
            fix="begin a run of its own: --output DIR",
        )
    return spec


def with_variants_in(spec: SweepSpec, directory: Path) -> SweepSpec:
    """Also the variants laid out as DIRECTORY/MODEL__VARIANT; UsageError when there is none."""
    head = f"{spec.model}__"
    found = {p.name.removeprefix(head): str(p) for p in sorted(directory.glob(f"{head}*")) if p.is_dir()}
    if not found:
        raise UsageError(
            f"there are no variants of '{spec.model}' here",
            code="no_variants",
            where=Where(directory),
            fix=f"tritonsmith build --variants {directory}",
        )
    return spec.model_copy(update={"variants": {**found, **spec.variants}})


def settings(flags: Sequence[str]) -> dict[str, list[Any]]:
    """`--set` flags → path → values; UsageError when a path comes twice."""
    space: dict[str, list[Any]] = {}
    for flag in flags:
        path, values = setting_from_text(flag)
        if path in space:
            raise UsageError(
                f"{path} is given twice", code="bad_setting", seen=flag, fix=f"--set {path}=V1,V2"
            )
        space[path] = values
    return space


def pairs(flags: Sequence[str], sign: str, example: str) -> Iterator[tuple[str, str]]:
    """NAME, sign, VALUE of each flag; UsageError with the example for what is not that, or comes twice."""
    seen: set[str] = set()
    for flag in flags:
        name, found, value = flag.partition(sign) if sign == "=" else flag.rpartition(sign)
        if not (name and found and value) or name in seen:
            raise UsageError("not what this flag takes", code="bad_setting", seen=flag, fix=example)
        seen.add(name)
        yield name, value


def counts(flags: Sequence[str]) -> dict[str, int]:
    """`--beside MODEL:4` flags → {MODEL: 4}."""
    return {
        name: number for name, text in pairs(flags, ":", "--beside MODEL:4") for number in numbers(text)[:1]
    }


def numbers(text: str) -> list[int]:
    """`1,8,32` → load points."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            "load points are whole numbers", code="bad_concurrency", seen=text, fix="--concurrency 1,8,32"
        ) from None
