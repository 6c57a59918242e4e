"""Paths of ONNX files, model directories and repositories → the models that a spec of them has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tritonsmith.builder.actions.batch_rows import RowsReport, RowsRequest, sizes_to_run
from tritonsmith.builder.base.errors import SpecError, TritonsmithError, UsageError, Where
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.tensors import dtype_from_onnx
from tritonsmith.builder.importing.from_repository import imported_model, relative, without_batching
from tritonsmith.builder.importing.imported import Imported, ImportedModel, Note
from tritonsmith.builder.importing.pretrained import is_pretrained, pretrained_models
from tritonsmith.builder.lint.check import read_paths
from tritonsmith.builder.lint.deep.rows import rows_by_running, rows_of_file
from tritonsmith.builder.lint.read.autofill import DEFAULT_MAX_BATCH_SIZE, can_batch
from tritonsmith.builder.lint.read.model import CONFIG, Model, is_version_name, refuse_unreadable
from tritonsmith.builder.lint.read.onnx_io import OnnxModel, OnnxProblem, OnnxTensor, read_onnx
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.refusals import folded_name


def imported_paths(paths: Sequence[Path], root: Path) -> Imported:
    """Every model found; file names in the spec are relative to `root`, the directory that it will lie in.

    A path is an .onnx file, a directory with .onnx files or a Hugging Face model, a model repository, a model directory, or its
    config.pbtxt. UsageError for anything else. A model that cannot be read, a config.pbtxt that Triton would not
    read among them, is a failure beside the others, and raised where there are none.
    """
    models: list[ImportedModel] = []
    notes: list[Note] = []
    failures: list[TritonsmithError] = []
    for path in paths:
        for subject, find in _models_at(path, root):
            try:
                found, more = find()
            except Exception as error:
                failures.append(failure_of(error, subject))
                continue
            notes += more
            for model in found:
                models.append(_named_apart(model, models, notes))
    if not models:
        for failure in failures:
            raise failure
        raise UsageError(
            f"there is no model in {', '.join(map(str, paths))}",
            code="no_models",
            valid=(
                ".onnx files",
                "directories of .onnx files",
                "directories of Hugging Face models",
                "model repositories",
                "model directories",
                "URLs",
            ),
        )
    return Imported(tuple(models), tuple(notes), tuple(failures))


_Found = tuple[Sequence[ImportedModel], list[Note]]
_Finds = Iterator[tuple[str, Callable[[], _Found]]]
"""(name for messages, what finds its models)"""


def _models_at(path: Path, root: Path) -> _Finds:
    if path.is_file() and path.name != CONFIG:
        yield str(path), partial(_onnx_file, path, root)
    elif path.is_file() and any(is_version_name(p.name) for p in path.parent.iterdir() if p.is_dir()):
        yield from _repository_at(path.parent, root)
    elif path.is_file():
        raise UsageError(
            f"{path} has no model directory around it: it says nothing of the model's files",
            code="loose_config",
            where=Where(path),
            fix="give the model's directory, with its version directories",
        )
    elif not path.is_dir():
        raise UsageError(f"there is no {path}", code="no_such_path", where=Where(path))
    elif not (path / CONFIG).exists() and is_pretrained(path):
        yield str(path), lambda: (tuple(pretrained_models(path, root)), [])
    elif not (path / CONFIG).exists() and (files := sorted(path.glob("*.onnx"))):
        for file in files:
            yield str(file), partial(_onnx_file, file, root)
    else:
        yield from _repository_at(path, root)


def _onnx_file(path: Path, root: Path) -> _Found:
    try:
        onnx = read_onnx(path)
    except OnnxProblem as problem:
        raise SpecError(
            f"not an ONNX model: {problem}",
            code="not_onnx",
            where=Where(path),
            valid=("an .onnx file", "a model repository or directory"),
        ) from None
    name = _name_of_file(path)
    model = ImportedModel(name, {"onnx": relative(path, root)}, {}, {}, (surface(onnx),))
    if not can_batch(onnx):
        return (model,), []
    report = rows_of_file(RowsRequest(name, str(path.absolute()), sizes_to_run(DEFAULT_MAX_BATCH_SIZE)))
    if report.in_doubt:
        remarks = (*model.remarks, f"not batched: {report.note}")
        return (replace(model, fields={"max_batch_size": 0}, remarks=remarks),), []
    return (model,), _unverified([report], path)


def _name_of_file(path: Path) -> str:
    """The file's name; `model.onnx` says nothing, so the directory's, which is not a version's."""
    absolute = path.absolute()
    for candidate in (absolute.stem, *(p.name for p in absolute.parents)):
        if candidate != "model" and not is_version_name(candidate) and fault_of_model_name(candidate) is None:
            return candidate
    return "model"


def surface(onnx: OnnxModel) -> str:
    """`x FP32 [batch, 3] → y FP32 [batch, 3]`"""
    return f"{', '.join(map(_tensor, onnx.inputs))} → {', '.join(map(_tensor, onnx.outputs))}"


def _tensor(tensor: OnnxTensor) -> str:
    try:
        dtype = dtype_from_onnx(tensor.element).kserve
    except KeyError:
        dtype = "?"
    dims = "?" if tensor.shape is None else ", ".join(str(d) for d in tensor.shape)
    return f"{tensor.name} {dtype} [{dims}]"


def _repository_at(path: Path, root: Path) -> _Finds:
    (repository,) = read_paths([path])
    judged = repository.judged
    for name, model in repository.models.items():
        if judged is None or name in judged:
            yield name, partial(_model_of_repository, model, root)


def _model_of_repository(model: Model, root: Path) -> _Found:
    if model.parsed is None and not model.versions:
        return (), [
            Note("no model: it has neither a config.pbtxt nor a version directory", Where(model.path))
        ]
    reason = fault_of_model_name(model.name) or _fault_of_content(model, root)
    if reason is not None:
        return (), [Note(f"{model.name!r} is not in the spec: it {reason}", Where(model.path))]
    refuse_unreadable(model)
    imported, notes = imported_model(model, root), list(_losses(model))
    reports = list(rows_by_running(model).values())
    refused = next((report for report in reports if report.in_doubt), None)
    if refused is not None:
        return (without_batching(imported, model, refused),), notes
    return (imported,), [*notes, *_unverified(reports, model.path)]


def _unverified(reports: Sequence[RowsReport], path: Path) -> list[Note]:
    return [
        Note(f"batching not verified: {report.note}", Where(path))
        for report in reports
        if report.verdict in ("unverified", "random")
    ]


def _fault_of_content(model: Model, root: Path) -> str | None:
    """Why a build would not take the model's files over; None when it would."""
    try:
        read_model_directory(model.path, source_roots(model.path, root))
    except OSError as error:
        return f"cannot be taken over: {error}"
    return None


def _losses(model: Model) -> Iterator[Note]:
    """What the spec cannot hold."""
    parsed = model.parsed
    if parsed is None:
        return
    for line, text in sorted(parsed.comments.items()):
        if text and not text.startswith("Rendered by tritonsmith from "):
            yield Note(f"comment not carried over: # {text}", Where(model.config_path, line))
    written = model.written.name
    if written and written != model.name:
        yield Note(
            f"name {written!r} not carried over: a model is called like its directory, {model.name!r}",
            Where(model.config_path, model.line_of("name")),
        )


def _named_apart(model: ImportedModel, before: Sequence[ImportedModel], notes: list[Note]) -> ImportedModel:
    """The model under a name that no other has, not even in other case."""
    taken = {folded_name(m.name) for m in before}
    if folded_name(model.name) not in taken:
        return model
    number = next(n for n in range(2, len(taken) + 3) if folded_name(f"{model.name}_{n}") not in taken)
    name = f"{model.name}_{number}"
    origin = next(iter(model.source.values()))
    notes.append(Note(f"{origin}: there is a model {model.name!r} already; this one is called {name!r}"))
    return ImportedModel(name, model.source, model.fields, model.model_files, model.remarks)
