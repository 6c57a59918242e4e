"""(a model of the spec, the files that it names) → nothing, or SpecError for one that is not there or cannot be taken over."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.package_files import source_path
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.lint.read.files import exists, is_dir, is_file
from tritonsmith.builder.model_config.ensemble import check_steps
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec


def check_source(spec: RepositorySpec, model: ModelSpec) -> None:
    """SpecError, with file and line, when a file that the source names is not there."""
    named: list[tuple[str, tuple[str, ...]]] = []
    row = model.source.row
    if row.check is not None:
        function_of(row.check)(model, spec)
    elsewhere = row.reference == "directory or name" and not exists(
        source_path(model.source.reference, spec.root)
    )
    if row.reference not in ("callable", "steps") and not elsewhere:
        named.append((model.source.reference, ("source", row.kind)))
    named += [(name, ("source", "files")) for name in model.source.files]
    named += [(file, ("model_files", name)) for name, file in model.model_files.items()]
    if model.smoke is not None:
        named.append((model.smoke, ("smoke",)))
    named += _data_files(model)
    for reference, keys in named:
        where = spec.where(model.name, *keys)
        try:
            path = source_path(reference, spec.root)
        except SpecError as error:
            raise SpecError(
                error.message, code=error.code, where=where, seen=error.seen, valid=error.valid, fix=error.fix
            ) from None
        wanted = (
            "directory" if keys == ("source", row.kind) and row.reference.startswith("directory") else "file"
        )
        if keys == ("calibration",) and is_dir(path):
            continue
        is_there = is_dir(path) if wanted == "directory" else is_file(path)
        if not is_there and exists(path):
            raise SpecError(
                f"{model.name}: {reference!r} is no {wanted}",
                code="source_missing",
                where=where,
                seen=_kind(path),
            )
        if not is_there:
            beside = (
                sorted(p.name for p in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else ()
            )
            raise SpecError(
                f"{model.name}: there is no {wanted} {reference!r}",
                code="source_missing",
                where=where,
                seen=path,
                valid=beside[:10],
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


def _data_files(model: ModelSpec) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(file, its keys) of the arrays that the spec names; `module:callable` is none, nor what the build itself refuses."""
    stated = [(model.accuracy.samples, ("accuracy", "samples")), (model.calibration, ("calibration",))]
    stated += [
        (v.accuracy.samples, ("variants", n, "accuracy", "samples")) for n, v in model.variants.items()
    ]
    for reference, keys in stated:
        if reference is not None and (reference.endswith(".npz") or ":" not in reference):
            yield str(Path(reference).expanduser()), keys


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = {
        stat.S_ISDIR: "a directory",
        stat.S_ISREG: "a file",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for is_kind, name in kinds.items() if is_kind(mode)), "a device")
