"""(a model of the spec, the files and callables that it names) → a SpecError for each that is not there or is refused."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from tritonsmith.builder.actions.action import place_error
from tritonsmith.builder.actions.export.sources.callable_check import check_callable
from tritonsmith.builder.base.errors import SpecError, did_you_mean
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.files.untrusted import broken_link
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.lint.read.files import exists, is_dir, is_file
from tritonsmith.builder.model_config.ensemble import check_steps
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def source_faults(spec: RepositorySpec, model: ModelSpec) -> list[SpecError]:
    """Of each file that the model names and that is not there, and of what its kind of source checks: file and line."""
    row = model.source.row
    faults: list[SpecError] = []
    if row.check is not None:
        faults += faults_of(function_of(row.check), model, spec)
    for reference, keys in _named(spec, model):
        faults += faults_of(_check_named, spec, model, reference, keys)
    return faults


def callable_faults(spec: RepositorySpec, model: ModelSpec) -> list[SpecError]:
    """Of each `module:callable` that the model names and that its module's text shows not to be there."""
    faults: list[SpecError] = []
    row = model.source.row
    stated: list[tuple[str, tuple[str, ...]]] = []
    if row.reference == "callable":
        stated.append((model.source.reference, ("source", row.kind)))
    stated += [(reference, keys) for reference, keys in _data(model) if not _is_file(reference)]
    for reference, keys in stated:
        what = ".".join(keys) if keys[0] != "source" else "source"
        where = spec.where(model.name, *keys)
        found = faults_of(check_callable, reference, spec.root, what)
        faults += [place_error(fault, model.name, where) for fault in found]
    return faults


def faults_of(check: Callable[..., object], *arguments: object) -> list[SpecError]:
    """The error that the check raises, in a list; empty where it raises none."""
    try:
        check(*arguments)
    except SpecError as error:
        return [error]
    return []


def _named(spec: RepositorySpec, model: ModelSpec) -> list[tuple[str, tuple[str, ...]]]:
    """(file or directory, its keys)"""
    named: list[tuple[str, tuple[str, ...]]] = []
    row = model.source.row
    elsewhere = row.reference == "directory or name" and not exists(
        source_path(model.source.reference, spec.root)
    )
    if row.reference not in ("callable", "steps", "weights") and not elsewhere:
        named.append((model.source.reference, ("source", row.kind)))
    named += [(name, ("source", "files")) for name in model.source.files]
    named += [(file, ("model_files", name)) for name, file in model.model_files.items()]
    if model.smoke is not None:
        named.append((model.smoke, ("smoke",)))
    return named + [(str(Path(r).expanduser()), keys) for r, keys in _data(model) if _is_file(r)]


def _check_named(spec: RepositorySpec, model: ModelSpec, reference: str, keys: tuple[str, ...]) -> None:
    row = model.source.row
    where = spec.where(model.name, *keys)
    try:
        path = source_path(reference, spec.root)
    except SpecError as error:
        raise SpecError(
            error.message, code=error.code, where=where, seen=error.seen, valid=error.valid, fix=error.fix
        ) from None
    wanted = "directory" if keys == ("source", row.kind) and row.reference.startswith("directory") else "file"
    if keys == ("calibration",) and is_dir(path):
        return
    is_there = is_dir(path) if wanted == "directory" else is_file(path)
    if not is_there and exists(path):
        raise SpecError(
            f"{model.name}: {reference!r} is no {wanted}",
            code="source_missing",
            where=where,
            seen=_kind(path),
        )
    if not is_there:
        found = path.parent.glob(f"*{path.suffix}") if path.parent.is_dir() else ()
        beside = sorted(p.name for p in found if exists(p))
        raise SpecError(
            f"{model.name}: there is no {wanted} {reference!r}",
            code="source_missing",
            where=where,
            seen=broken_link(path) or path,
            valid=beside[:10],
            fix=did_you_mean(path.name, beside),
        )
    if wanted == "directory" and row.place is not None:
        try:
            read_model_directory(path, source_roots(path, spec.root))
        except OSError as error:
            raise SpecError(
                f"{model.name}: it cannot be taken over: {error}",
                code="source_refused",
                where=where,
                fix="leave it out of the model's directory, or copy what it leads to into the repository",
            ) from None


def check_ensemble(model: ModelSpec, spec: RepositorySpec) -> None:
    """As builder.model_config.ensemble.check_steps, among the models of the spec."""
    check_steps(model, [m.name for m in spec.models], spec)


def _data(model: ModelSpec) -> list[tuple[str, tuple[str, ...]]]:
    """(reference, its keys) of the arrays that the spec names: files or callables."""
    stated = [(model.accuracy.samples, ("accuracy", "samples")), (model.calibration, ("calibration",))]
    stated += [
        (v.accuracy.samples, ("variants", n, "accuracy", "samples")) for n, v in model.variants.items()
    ]
    return [(reference, keys) for reference, keys in stated if reference is not None]


def _is_file(reference: str) -> bool:
    return reference.endswith((".npz", ".jsonl", ".txt")) or ":" not in reference


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = {
        stat.S_ISDIR: "a directory",
        stat.S_ISREG: "a file",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")
