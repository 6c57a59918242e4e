"""Files, callables, model directories and repositories → the models that a spec of them has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from tritonsmith.builder.actions.batch_rows import RowsReport
from tritonsmith.builder.base.errors import TritonsmithError, UsageError, Where, nearest
from tritonsmith.builder.base.files.untrusted import broken_link, fault_of_model_name
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.processes.run_policy import current_policy, run_under
from tritonsmith.builder.base.processes.warm import WarmWorkers
from tritonsmith.builder.importing.drafts.asked import Asked
from tritonsmith.builder.importing.drafts.draft import accepted_entry, drafted
from tritonsmith.builder.importing.drafts.language_model import is_fetched_decoder
from tritonsmith.builder.importing.drafts.names import module_from_file, name_of_callable
from tritonsmith.builder.importing.drafts.recognise import kind_of_file, might_be_model, suffixes
from tritonsmith.builder.importing.from_repository import imported_model, relative, without_batching
from tritonsmith.builder.importing.imported import Imported, ImportedModel, Note
from tritonsmith.builder.importing.pretrained import is_fetched, is_pretrained, pretrained_models
from tritonsmith.builder.lint.check import read_paths
from tritonsmith.builder.lint.deep.rows import rows_by_running
from tritonsmith.builder.lint.read.model import CONFIG, Model, is_version_name, refuse_unreadable
from tritonsmith.builder.llm.hub import commit_of
from tritonsmith.builder.llm.weights import hub_name, is_pinned
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.nearby import origin_in
from tritonsmith.builder.spec.refusals import folded_name


def imported_paths(origins: Sequence[Path | str], root: Path, asked: Asked | None = None) -> Imported:
    """Every model found; file names in the spec are relative to `root`, the directory that it will lie in.

    An origin is a model's file, a directory of such, a Hugging Face model's directory or name, a model repository, a model
    directory or its config.pbtxt, or `module:callable`. UsageError for anything else. A model that cannot be read or built,
    a config.pbtxt that Triton would not read among them, is a failure beside the others, and raised where there are none.
    """
    asked = asked or Asked()
    models: list[ImportedModel] = []
    notes: list[Note] = []
    failures: list[TritonsmithError] = []
    finds = [found for origin in origins for found in _models_at(origin, root, asked)]
    if asked.of_one_model and len(finds) > 1:
        raise UsageError(
            f"{' and '.join(asked.of_one_model)} are said of one model, and there are {len(finds)}",
            code="several_models",
            seen=", ".join(subject for subject, _ in finds[:8]),
            fix="one init a model, each with --output of its own",
        )
    with _warm_workers():
        for subject, find in finds:
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
            f"there is no model in {', '.join(map(str, origins))}",
            code="no_models",
            fix=_instead(origins),
            valid=(
                *(f"*{suffix}" for suffix in suffixes()),
                "module:callable",
                "directories of such files, or of Hugging Face models",
                "model repositories",
                "model directories",
                "URLs",
            ),
        )
    return Imported(tuple(models), tuple(notes), tuple(failures))


def refuse_flags(asked: Asked, origin: str) -> None:
    """UsageError for what is said of models whose configs are there already."""
    flags = [*asked.of_one_model, *(["--preset"] if asked.preset else [])]
    if flags:
        raise UsageError(
            f"{' and '.join(flags)}: the models of {origin} have names and configs, which are taken over as they are",
            code="config_is_there",
            fix=f"tritonsmith init {shlex.quote(origin)}",
        )


def _instead(origins: Sequence[Path | str]) -> str | None:
    """Of one directory, the callable in it that may be meant."""
    path = Path(origins[0])
    found = origin_in(path) if len(origins) == 1 and path.is_dir() else None
    return (
        None
        if found is None
        else f"tritonsmith init {found} --output {shlex.quote(str(path / 'models.yaml'))}"
    )


@contextmanager
def _warm_workers() -> Iterator[None]:
    """Within the block, what is run for one model begins with the libraries that another's has imported."""
    warm = WarmWorkers()
    try:
        with run_under(replace(current_policy(), warm=warm)):
            yield
    finally:
        warm.close()


_Found = tuple[Sequence[ImportedModel], list[Note]]
_Finds = Iterator[tuple[str, Callable[[], _Found]]]
"""(name for messages, what finds its models)"""


_CALLABLE = re.compile(r"(?P<module>[\w.]+|.*\.py):(?P<callable>[\w.]+)", re.ASCII)


def _models_at(origin: Path | str, root: Path, asked: Asked) -> _Finds:
    path = Path(origin)
    if path.is_file() and path.name != CONFIG:
        yield str(path), partial(_file, path, root, asked)
    elif path.is_file() and any(is_version_name(p.name) for p in path.parent.iterdir() if p.is_dir()):
        yield from _repository_at(path.parent, root, asked)
    elif path.is_file():
        raise UsageError(
            f"{path} has no model directory around it: it says nothing of the model's files",
            code="loose_config",
            where=Where(path),
            fix="give the model's directory, with its version directories",
        )
    elif not path.is_dir():
        yield _elsewhere(str(origin), root, asked)
    elif not (path / CONFIG).exists() and is_pretrained(path):
        yield str(path), partial(_pretrained, path, root, asked)
    elif not (path / CONFIG).exists() and (found := _models_in(path)):
        for file in found:
            yield from _models_at(file, root, asked)
    else:
        yield from _repository_at(path, root, asked)


def _models_in(directory: Path) -> list[Path]:
    """Files and Hugging Face directories among its entries; files of a suffix that says little only by their content."""
    return [
        path
        for path in sorted(directory.iterdir())
        if not path.name.startswith(".")
        and (might_be_model(path) if path.is_file() else path.is_dir() and is_pretrained(path))
    ]


def _elsewhere(origin: str, root: Path, asked: Asked) -> tuple[str, Callable[[], _Found]]:
    """What is no path: a callable, or the name of a Hugging Face model that was fetched before."""
    if match := _CALLABLE.fullmatch(origin):
        return origin, partial(_callable, match["module"], match["callable"], root, asked)
    named = hub_name(origin)
    if named is not None and (named.revision is not None or is_fetched_decoder(origin)):
        reference = origin if is_pinned(named) else f"{named.name}@{commit_of(named)}"
        name = asked.name or named.name.rpartition("/")[2]
        return origin, lambda: ((drafted(name, "llm", reference, None, root, asked),), [])
    if is_fetched(origin):
        name = asked.name or origin.rpartition("/")[2]
        return origin, lambda: ((drafted(name, "transformers", origin, None, root, asked),), [])
    path = Path(origin)
    beside = sorted(p.name for p in path.parent.iterdir() if p.exists())[:8] if path.parent.is_dir() else ()
    near = nearest(path.name, beside)
    raise UsageError(
        f"there is no {path}",
        code="no_such_path",
        where=Where(path),
        seen=broken_link(path),
        valid=beside,
        fix=f"did you mean {path.parent / near}?" if near else "of a torch model, module:callable",
    )


def _callable(module: str, name: str, root: Path, asked: Asked) -> _Found:
    reference = f"{module_from_file(Path(module), name, root) if module.endswith('.py') else module}:{name}"
    own = asked.name or name_of_callable(reference)
    return (drafted(own, "torch", reference, None, root, asked),), []


def _pretrained(path: Path, root: Path, asked: Asked) -> _Found:
    network, *others = pretrained_models(path, root, asked.name)
    if "llm" in network.source:
        return (network,), []
    return (accepted_entry(network, path, root, asked), *others), []


def _file(path: Path, root: Path, asked: Asked) -> _Found:
    kind = kind_of_file(path)
    name = asked.name or _name_of_file(path)
    return (drafted(name, kind, relative(path, root), path, root, asked),), []


def _name_of_file(path: Path) -> str:
    """The file's name; `model.onnx` says nothing, so the directory's, which is not a version's."""
    absolute = path.absolute()
    for candidate in (absolute.stem, *(p.name for p in absolute.parents)):
        if candidate != "model" and not is_version_name(candidate) and candidate:
            return candidate
    return "model"


def _repository_at(path: Path, root: Path, asked: Asked) -> _Finds:
    refuse_flags(asked, str(path))
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
    return replace(model, name=name)
