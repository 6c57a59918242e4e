"""Flags of `tritonsmith sweep`, None where not given, and a sweep.yaml → SweepSpec."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritonsmith.perf.sweep.plan import SweepSpec


def spec_from_flags(
    file: Path | None,
    flags: dict[str, Any],
    resumed: Path | None = None,
    model: Callable[[], str] | None = None,
) -> SweepSpec:
    """A sweep.yaml and flags, None where not given, → SweepSpec; flags win.

    resumed: directory of an earlier run, whose spec stands in where neither names a model.
    model:   asked for a name where none is given; it raises what there is to choose from.
    """
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.perf.sweep.plan import spec_from_mapping, spec_from_yaml

    given = {key: value for key, value in flags.items() if value is not None}
    if file is not None:
        base = spec_from_yaml(file).model_dump(exclude_unset=True)
        return spec_from_mapping(base | given)
    if "model" not in given and resumed is not None:
        from tritonsmith.perf.sweep.run.resume import earlier_run

        given = {**earlier_run(resumed).spec, **given}
    if "model" not in given:
        if model is None:
            raise UsageError("which model?", code="no_model", fix="--model NAME")
        given["model"] = model()
    return spec_from_mapping(given)


def with_variants_in(spec: SweepSpec, directory: Path) -> SweepSpec:
    """Also the variants laid out as DIRECTORY/MODEL__VARIANT; UsageError when there is none."""
    from tritonsmith.builder.base.errors import UsageError, Where

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


def settings(flags: Sequence[str] | None) -> Iterator[tuple[str, list[Any]]]:
    """`--set` flags → (path, values) of each; UsageError when a path comes twice."""
    from tritonsmith.builder.base.errors import UsageError
    from tritonsmith.perf.sweep.plan import setting_from_text

    seen: set[str] = set()
    for flag in flags or ():
        path, values = setting_from_text(flag)
        if path in seen:
            raise UsageError(
                f"{path} is given twice", code="bad_setting", seen=flag, fix=f"--set {path}=V1,V2"
            )
        seen.add(path)
        yield path, values


def pairs(flags: Sequence[str] | None, sign: str, example: str) -> Iterator[tuple[str, str]]:
    """NAME, sign, VALUE of each flag; UsageError with the example for what is not that, or comes twice."""
    from tritonsmith.builder.base.errors import UsageError

    seen: set[str] = set()
    for flag in flags or ():
        name, found, value = flag.partition(sign) if sign == "=" else flag.rpartition(sign)
        if not (name and found and value) or name in seen:
            raise UsageError("not what this flag takes", code="bad_setting", seen=flag, fix=example)
        seen.add(name)
        yield name, value


def counts(flags: Sequence[str] | None) -> dict[str, int]:
    """`--beside MODEL:4` flags → {MODEL: 4}."""
    return {
        name: number for name, text in pairs(flags, ":", "--beside MODEL:4") for number in numbers(text)[:1]
    }


def numbers(text: str) -> list[int]:
    """`1,8,32` → load points."""
    from tritonsmith.builder.base.errors import UsageError

    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            "load points are whole numbers", code="bad_concurrency", seen=text, fix="--concurrency 1,8,32"
        ) from None
