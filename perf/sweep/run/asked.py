"""What a sweep was asked for beside its spec → the journal's `asked`, which `--resume` needs no other flag for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from tritonsmith.perf.data import DataOptions


@dataclass(frozen=True, slots=True)
class Asked:
    """where: a URL or the repository's absolute path. launch: as --launch takes it. variants: name → absolute path."""

    where: str = ""
    launch: str = ""
    data: DataOptions = field(default_factory=DataOptions)
    variants: Mapping[str, str] = field(default_factory=dict)


def asked_for(where: str, launch: str, data: DataOptions, variants: Mapping[str, str]) -> Asked:
    """As it holds in any other working directory."""
    return Asked(
        where=where if "://" in where else str(Path(where).absolute()),
        launch=launch,
        data=data if data.file is None else replace(data, file=data.file.absolute()),
        variants={name: str(Path(path).absolute()) for name, path in variants.items()},
    )


def data_over(given: DataOptions, earlier: DataOptions) -> DataOptions:
    """The earlier run's data, with what is given now in its place."""
    plain = DataOptions()
    stated = {f.name: getattr(given, f.name) for f in fields(given)}
    return replace(earlier, **{name: v for name, v in stated.items() if v != getattr(plain, name)})
