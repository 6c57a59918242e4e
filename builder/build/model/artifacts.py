"""(a model of the spec, the cache) → its Artifact: exported, or files that are taken over as they are."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tritonsmith.builder.actions.export import ExportRequest, ExportResult, run_export
from tritonsmith.builder.base.errors import BuildError, SpecError, TritonsmithError, UnexpectedError, Where
from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.base.files.package_files import PACKAGE_PREFIX, resolve_package_file
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.base.toolchain import this_toolchain
from tritonsmith.builder.cache.cache import Artifact, Cache
from tritonsmith.builder.cache.record import TAKEN
from tritonsmith.builder.lint.read.files import exists, is_dir, is_file
from tritonsmith.builder.lint.read.model import Model, read_model
from tritonsmith.builder.model_config.ensemble import check_steps
from tritonsmith.builder.model_config.model_config import model_config_as_stated
from tritonsmith.builder.plan.observe import export_parameters, export_tools, graph_level, portable_name
from tritonsmith.builder.plan.plan import action_key, request_digest
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.python_source import place_python_source, source_files
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec, stated_tensors

_Error = TypeVar("_Error", bound=TritonsmithError)

# Where an artifact keeps files that were taken over, apart from the cache's own record: a model's directory.


def is_exported(spec: ModelSpec) -> bool:
    """Whether the source goes through an export, which checks it against itself; else it is taken over."""
    return spec.source.row.export is not None


def make_artifact(spec: ModelSpec, repository: RepositorySpec, cache: Cache) -> Artifact:
    """Makes the artifact and puts it into the cache. BuildError and SpecError name the spec's line."""
    if is_exported(spec):
        return _export(spec, repository, cache)
    return _take_over(spec, repository, cache)


def files_to_serve(artifact: Artifact) -> dict[str, Path]:
    """Path in the model's directory → the artifact's file."""
    names: Sequence[str] = artifact.record["served_files"]
    if "directories" in artifact.record:
        return {name: artifact.directory / TAKEN / name for name in names}
    return {f"1/{name}": artifact.directory / name for name in names}


def model_as_taken(spec: ModelSpec, artifact: Artifact, repository: RepositorySpec) -> Model | None:
    """A taken-over directory as Triton will have it, its config as the spec states it; None when it has no files."""
    files = files_to_serve(artifact)
    if not files:
        return None
    name, file = next(iter(files.items()))
    root = file.parents[len(Path(name).parts) - 1]
    return read_model(root, stated=model_config_as_stated(spec, repository))


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
        if exists(path) and not (is_dir(path) if wanted == "directory" else is_file(path)):
            raise SpecError(
                f"{model.name}: {reference!r} is no {wanted}",
                code="source_missing",
                where=where,
                seen=_kind(path),
            )
        if not exists(path):
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


def source_path(reference: str, root: Path) -> Path:
    """A file as the spec names it → its path."""
    return resolve_package_file(reference) if reference.startswith(PACKAGE_PREFIX) else root / reference


def _take_over(spec: ModelSpec, repository: RepositorySpec, cache: Cache) -> Artifact:
    """Files as they are, into the cache: the model is served from there even when the originals are gone."""
    row = spec.source.row
    assert row.place is not None
    place: _Place = function_of(row.place)
    root = repository.root
    with cache.workspace() as made:
        (made / TAKEN).mkdir()
        try:
            taken, directories, listing = place(spec, root, made / TAKEN)
        except BuildError as error:
            raise _at_source(error, spec, repository) from None
        dependencies = dict(listing)
        for file in (*taken, *(source_path(f, root) for f in spec.source.files)):
            dependencies[portable_name(file, root)] = cache.stats.digest(file)
        parameters, tools = export_parameters(spec), export_tools(spec, this_toolchain())
        identity = request_digest(parameters, tools)
        batched = (spec.max_batch_size or 0) > 0
        stated = row.stated
        record = {
            "inputs": [t.as_dict() for t in _stated(spec, "input", batched)] if stated else [],
            "outputs": [t.as_dict() for t in _stated(spec, "output", batched)] if stated else [],
            "dependencies": dict(sorted(dependencies.items())),
            "accuracy": {"passed": True, "samples": 0, "note": "taken over as it is", "deviations": []},
            "served_files": _names_below(made / TAKEN),
            "directories": list(directories),
            "samples": None,
            "tools": tools,
        }
        key = action_key(identity, dependencies)
        artifact = cache.put(key, made, record, f"take over {spec.name}")
        cache.remember(identity, dependencies, key)
    return artifact


_Placed = tuple[Sequence[Path], Sequence[str], Mapping[str, str]]
"""(files it was made from, empty directories, further dependencies)"""

_Place = Callable[[ModelSpec, Path, Path], _Placed]


def place_directory(spec: ModelSpec, root: Path, into: Path) -> _Placed:
    """A model's directory as it is."""
    directory = root / spec.source.reference
    content = read_model_directory(directory, source_roots(directory, root))
    for name, file in content.files.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, into / name)
    listing = {f"{portable_name(directory, root)}/": content.listing_digest}
    return list(content.files.values()), content.directories, listing


def place_python(spec: ModelSpec, root: Path, into: Path) -> _Placed:
    """model.py and what stands beside it."""
    (into / "1").mkdir()
    place_python_source(spec, root, into / "1")
    return list(source_files(spec, root).values()), (), {}


def place_nothing(spec: ModelSpec, root: Path, into: Path) -> _Placed:
    """An ensemble has no files, but Triton wants a version directory of it."""
    return (), ("1",), {}


def _names_below(directory: Path) -> list[str]:
    return sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())


def _export(spec: ModelSpec, repository: RepositorySpec, cache: Cache) -> Artifact:
    request = export_request(spec, repository)
    log = log_path(cache, repository, spec.name)
    with cache.workspace() as directory:
        try:
            result = run_export(request, directory, log)
        except (BuildError, UnexpectedError) as error:
            raise _at_source(error, spec, repository) from None
        for line in result.notes:
            note(f"{spec.name}: {line}")
        root = repository.root
        # What is gone after an export was a temporary file of the source's own, unless the spec names it.
        named = [
            *spec.source.files,
            *([] if spec.source.row.reference == "callable" else [spec.source.reference]),
        ]
        files = sorted({*result.dependencies, *(str(source_path(f, root)) for f in named)})
        dependencies = {portable_name(Path(f), root): cache.stats.digest(Path(f)) for f in files}
        parameters, tools = export_parameters(spec), export_tools(spec, this_toolchain())
        identity = request_digest(parameters, tools)
        key = action_key(identity, dependencies)
        record = _record(result, directory, dependencies, tools)
        artifact = cache.put(key, directory, record, f"export {spec.name}")
        cache.remember(identity, dependencies, key)
    return artifact


def log_path(cache: Cache, repository: RepositorySpec, what: str) -> Path:
    """Where the log of an action of this spec is kept; the next run of the action replaces it."""
    path = cache.root / "logs" / f"{digest_of_value([str(repository.path.resolve()), what])[:16]}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _at_source(error: _Error, spec: ModelSpec, repository: RepositorySpec) -> _Error:
    return place_error(error, spec.name, repository.where(spec.name, "source", spec.source.kind))


def place_error(error: _Error, subject: str, line: Where) -> _Error:
    """The same error, saying what of the spec it is about; its own place (the user's code, a file) stays."""
    message = error.message.removeprefix(f"{subject}: ")
    if error.where is None or error.where == line:
        where, prefix = line, subject
    else:
        where, prefix = error.where, f"{subject} ({line.path.name}:{line.line})"
    return type(error)(
        f"{prefix}: {message}",
        code=error.code,
        where=where,
        seen=error.seen,
        valid=error.valid,
        fix=error.fix,
        details=error.details,
        traceback=error.traceback,
    )


def export_request(spec: ModelSpec, repository: RepositorySpec) -> ExportRequest:
    """The spec's model as an export to run."""
    samples = spec.accuracy.samples
    if samples is not None and ":" not in samples:
        samples = str(repository.root / samples)
    largest = spec.max_batch_size or 0
    listed = stated_tensors(spec, "output")
    return ExportRequest(
        model=spec.name,
        kind=spec.source.kind,
        reference=_absolute_reference(spec, repository.root),
        options=spec.source.options,
        search_path=str(repository.root),
        opset=spec.opset,
        max_batch_size=largest,
        inputs=_stated(spec, "input", largest > 0),
        outputs=_stated(spec, "output", largest > 0),
        output_names=tuple(names) if None not in (names := [t["name"] for t in listed]) else (),
        dynamic_dims=spec.dim_ranges,
        dim_relations=spec.dim_relations,
        exporter=spec.exporter,
        samples=samples,
        sample_batch_sizes=tuple(sorted({1, min(3, largest), largest})) if largest > 0 else (),
        seed=0,
        graph_level=graph_level(spec),
    )


def _absolute_reference(spec: ModelSpec, root: Path) -> str:
    reference, row = spec.source.reference, spec.source.row
    if row.reference == "callable":
        return reference
    path = source_path(reference, root)
    return reference if row.reference == "directory or name" and not exists(path) else str(path)


def _stated(spec: ModelSpec, kind: Any, batched: bool) -> tuple[TensorSpec, ...]:
    """The spec's tensors with whole shapes; a tensor without dims and data_type is left to the model."""
    return tuple(
        TensorSpec(
            t["name"],
            dtype_from_config(t["data_type"]),
            ("batch", *_model_dims(t)) if batched else tuple(_model_dims(t)),
        )
        for t in stated_tensors(spec, kind)
        if t["name"] and t["data_type"] and t["dims"] is not None
    )


def _model_dims(tensor: Mapping[str, Any]) -> Sequence[int | str]:
    reshape = tensor.get("reshape")
    return tuple(reshape["shape"] or ()) if reshape else tuple(tensor["dims"])


def _record(
    result: ExportResult, directory: Path, dependencies: Mapping[str, str], tools: Mapping[str, str | None]
) -> dict[str, Any]:
    return {
        "inputs": [t.as_dict() for t in result.inputs],
        "outputs": [t.as_dict() for t in result.outputs],
        "opset": result.opset,
        "ir_version": result.ir_version,
        "dependencies": dict(sorted(dependencies.items())),
        "accuracy": result.accuracy.as_dict(),
        "served_files": list(result.files),
        "samples": result.samples_path,
        "tools": dict(tools),
        "seconds": round(result.seconds, 3),
        "relations": dict(result.relations),
        "exporter": result.exporter,
        "notes": list(result.notes),
    }
