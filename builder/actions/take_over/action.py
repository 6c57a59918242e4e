"""(a model of the spec) → the Action that takes its files over, to be served even when the originals are gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic.config import with_config

from tritonsmith.builder.actions.action import TAKEN, Action, Identity, Ran, Subject, Workplace, place_error
from tritonsmith.builder.actions.export.action import source_identity, whole_tensors
from tritonsmith.builder.actions.record import MORE, SourceRecord
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.copies import copy_file
from tritonsmith.builder.base.files.package_files import portable_name, source_path
from tritonsmith.builder.base.files.untrusted import RelativePath
from tritonsmith.builder.base.rows import function_of
from tritonsmith.builder.spec.model_directory import read_model_directory, source_roots
from tritonsmith.builder.spec.python_source import place_python_source, source_files
from tritonsmith.builder.spec.spec import ModelSpec


@with_config(MORE)
class TakenOverRecord(SourceRecord):
    """Of a source that is taken over."""

    directories: list[RelativePath]


_Placed = tuple[Sequence[Path], Sequence[str], Mapping[str, str]]
"""(files it was made from, empty directories, further dependencies)"""

_Place = Callable[[ModelSpec, Path, Path], _Placed]


def take_over_action(model: Subject) -> Action:
    """BuildError of its run names the spec's line."""
    identity = source_identity(model.spec)
    return Action("source", f"take over {model.name}", identity, partial(_run, model, identity))


def _run(model: Subject, identity: Identity, made: Path, place: Workplace) -> Ran:
    spec, root = model.spec, model.repository.root
    row, taken = spec.source.row, made / TAKEN
    assert row.place is not None
    placed: _Place = function_of(row.place)
    taken.mkdir()
    try:
        files, directories, listings = placed(spec, root, taken)
    except BuildError as error:
        raise place_error(error, model.name, model.where) from None
    record = {
        "inputs": [t.as_dict() for t in whole_tensors(spec, "input")] if row.stated else [],
        "outputs": [t.as_dict() for t in whole_tensors(spec, "output")] if row.stated else [],
        "accuracy": {"passed": True, "samples": 0, "note": "taken over as it is", "deviations": []},
        "served_files": sorted(p.relative_to(taken).as_posix() for p in taken.rglob("*") if p.is_file()),
        "directories": list(directories),
        "samples": None,
        "tools": identity.tools,
    }
    return Ran(record, [*files, *(source_path(f, root) for f in spec.source.files)], listings)


def place_directory(spec: ModelSpec, root: Path, into: Path) -> _Placed:
    """A model's directory as it is."""
    directory = root / spec.source.reference
    content = read_model_directory(directory, source_roots(directory, root))
    for name, file in content.files.items():
        copy_file(file, into / name)
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
