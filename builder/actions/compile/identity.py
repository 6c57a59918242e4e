"""(what an engine was asked to be, what its file and its sidecar say) → how they differ; only the file's head is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.compile.profiles import OptimizationProfile
from tritonsmith.builder.actions.compile.request import CompileOptions
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.machine.releases import is_same_tensorrt

HEADER_BYTES = 28
# First four bytes of a serialised engine → what wrote it. Sources: TensorRT, samples/common/sampleEngines.cpp,
# printPlanVersion (0x74727466, little-endian); TensorRT-RTX 1.7's own engines, read here.
_TAGS: Mapping[bytes, str] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
_VERSION_AT = 24


@dataclass(frozen=True, slots=True)
class EngineHeader:
    """engine: what wrote it. version: `10.16.0.72`; None for a serialisation of which nobody said where it stands."""

    engine: str
    version: str | None


@dataclass(frozen=True, slots=True)
class AskedEngine:
    """What an engine is to be; None is not asked.

    tensors: (name, data_type, shape) of inputs and outputs in any order, -1 for a dynamic dimension.
    """

    engine: str
    version: str | None
    compute_capability: str | None
    platform: str | None
    options: CompileOptions
    profiles: tuple[OptimizationProfile, ...]
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


def header_of(data: bytes) -> EngineHeader:
    """The first HEADER_BYTES of an engine → EngineHeader; ValueError for what is no engine."""
    tag = data[:4]
    if len(data) < HEADER_BYTES or tag not in _TAGS:
        raise ValueError(
            f"it begins with {tag!r}, and a TensorRT engine with {' or '.join(map(repr, _TAGS))}"
        )
    known = int.from_bytes(data[4:8], "little") == 0
    return EngineHeader(
        _TAGS[tag], ".".join(str(n) for n in data[_VERSION_AT:HEADER_BYTES]) if known else None
    )


def differences(asked: AskedEngine, path: Path, told: Mapping[str, Any]) -> list[str]:
    """How the engine at `path`, with the sidecar `told`, differs from what was asked; a phrase each, empty when it does not.

    A sidecar that lacks a value says nothing, and what says nothing is a difference: nobody can tell what it would be.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        header = header_of(head)
    except OSError as error:
        return [f"the file cannot be read: {error.strerror}"]
    except ValueError as error:
        # A plan that brings its lean runtime along is an archive around the engine, whose head nobody documents.
        if not asked.options.version_compatible:
            return [f"the file is no engine: {error}"]
        header = EngineHeader(asked.engine, None)
    return list(_differences(asked, header, path.stat().st_size, told))


def _differences(
    asked: AskedEngine, header: EngineHeader, size_bytes: int, told: Mapping[str, Any]
) -> Iterator[str]:
    if header.engine != asked.engine:
        yield f"it was written by {header.engine}, and {asked.engine} was asked for"
        return
    said = str(told.get(asked.engine) or "")
    version = header.version or said
    if asked.version is not None and not (version and is_same_tensorrt(version, asked.version)):
        yield f"version {version or 'unknown'} is in the file, {asked.version} was asked for"
    if said and not is_same_tensorrt(version, said):
        yield f"version {version} is in the file, {said} beside it"
    rows: tuple[tuple[str, Any, Any], ...] = (
        ("compute_capability", asked.compute_capability, told.get("compute_capability")),
        ("platform", asked.platform, told.get("platform")),
        ("version_compatible", asked.options.version_compatible, told.get("version_compatible")),
        ("hardware_compatibility", asked.options.hardware_compatibility, told.get("hardware_compatibility")),
        ("stripped", asked.options.strip, told.get("stripped")),
        ("engine_bytes", size_bytes, told.get("engine_bytes")),
    )
    for name, wanted, seen in rows:
        if wanted is not None and seen != wanted:
            yield f"{name} is {seen}, {wanted} was asked for"
    yield from _profile_differences(asked.profiles, told.get("profiles"))
    yield from _tensor_differences(asked.tensors, told.get("tensors"))


def _profile_differences(asked: Sequence[OptimizationProfile], told: Any) -> Iterator[str]:
    """Of the inputs that were asked about: TensorRT also tells the static ones."""
    seen = told if isinstance(told, list) else []
    # An engine without dynamic inputs has one profile without sizes.
    if len(seen) != max(len(asked), min(len(seen), 1)):
        yield f"it has {len(seen)} optimization profiles, {len(asked)} were asked for"
        return
    for number, profile in enumerate(asked):
        for name, sizes in profile.as_dict().items():
            if seen[number].get(name) != sizes:
                yield f"optimization profile {number} of {name} is {seen[number].get(name)}, {sizes} was asked for"


def _tensor_differences(asked: Sequence[tuple[str, str, tuple[int, ...]]], told: Any) -> Iterator[str]:
    rows = {str(row.get("name")): row for row in (told if isinstance(told, list) else [])}
    if not asked:
        return
    if rows.keys() != {name for name, _, _ in asked}:
        yield f"it has the tensors {', '.join(sorted(rows))}, not {', '.join(sorted(n for n, _, _ in asked))}"
        return
    for name, data_type, shape in asked:
        row = rows[name]
        if row.get("data_type") != data_type:
            yield f"{name} is {row.get('data_type')}, {data_type} was asked for"
        have = tuple(row.get("shape", ()))
        fits = len(have) == len(shape) and all(
            a == b or -1 in (a, b) for a, b in zip(have, shape, strict=True)
        )
        if not fits:
            yield f"{name} has shape {list(have)}, {list(shape)} was asked for"


def refuse_other(asked: AskedEngine, path: Path, told: Mapping[str, Any], model: str) -> None:
    """BuildError engine_other for an engine that is not what was asked for: it must reach no cache."""
    found = differences(asked, path, told)
    if found:
        raise BuildError(
            f"{model}: the engine that was built is not the one that was asked for: {'; '.join(found)}",
            code="engine_other",
            fix="the log has all that the compiler said; on a machine with several GPUs or TensorRTs, "
            "set CUDA_VISIBLE_DEVICES and use one environment for each",
        )
