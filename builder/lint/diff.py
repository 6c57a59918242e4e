"""Two repositories, model directories or configs → what differs by meaning: models, fields, file contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tritonsmith.builder.base.files.digest import digest_of_file
from tritonsmith.builder.lint.check import read_paths
from tritonsmith.builder.lint.read.model import Model, Repository, refuse_unreadable
from tritonsmith.builder.lint.read.server_defaults import without_server_defaults
from tritonsmith.builder.model_config.field_changes import field_changes
from tritonsmith.builder.spec.model_directory import read_model_directory

Kind = Literal["added", "removed", "changed"]
ABSENT = None


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    path: a field as the proto names it (`input["x"].dims`, `dynamic_batching.priority_levels`), or a file's
          path inside the model's directory.
    old, new: the values as text; None where there is none.
    """

    what: Literal["field", "file"]
    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What became of one model; `changes` is empty when it was added or removed as a whole."""

    model: str
    kind: Kind
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """Every model that differs, by name, and how many were compared."""

    models: tuple[ModelChange, ...]
    compared: int


def diff(left: Path, right: Path, *, as_served: bool = False, files: bool = True) -> Difference:
    """What leads from `left` to `right`; each a repository, a model directory or a config.pbtxt.

    as_served: compare what the server makes of each config: missing fields filled in as it does, and defaults
               that are written out the same as left out.
    files:     compare the other files of model directories by content.
    The order of fields and of named items does not matter, but for inputs. Two single models are compared
    whatever they are called. UsageError for a path that is not there, ConfigError for a config that cannot be read.
    """
    (old,), (new,) = read_paths([left]), read_paths([right])
    before, after = _judged(old), _judged(new)
    if len(before) == len(after) == 1 and old.judged is not None and new.judged is not None:
        (one,), (other,) = before.values(), after.values()
        pairs: dict[str, tuple[Model | None, Model | None]] = {other.name: (one, other)}
    else:
        names = sorted(before.keys() | after.keys())
        pairs = {name: (before.get(name), after.get(name)) for name in names}
    changes = [_model_change(name, a, b, as_served, files) for name, (a, b) in pairs.items()]
    return Difference(tuple(c for c in changes if c is not None), len(pairs))


def _judged(repository: Repository) -> dict[str, Model]:
    wanted = repository.judged
    return {
        name: model
        for name, model in repository.models.items()
        if (wanted is None or name in wanted) and (model.parsed is not None or model.versions)
    }


def _model_change(
    name: str, old: Model | None, new: Model | None, as_served: bool, files: bool
) -> ModelChange | None:
    if old is None or new is None:
        return ModelChange(name, "added" if old is None else "removed")
    before, after = _config(old, as_served), _config(new, as_served)
    if old.name != new.name and not (old.written.name and new.written.name):
        # Two single models under names of their own: a directory's name says nothing of the config.
        before.ClearField("name")
        after.ClearField("name")
    changes = [Change("field", c.path, c.old, c.new) for c in field_changes(before, after)]
    if files and not old.loose and not new.loose:
        changes += _files(old.path, new.path)
    return ModelChange(name, "changed", tuple(changes)) if changes else None


def _config(model: Model, as_served: bool) -> Any:
    refuse_unreadable(model)
    config = type(model.config)()
    config.CopyFrom(model.config if as_served else model.written)
    if not model.loose and not config.name:
        config.name = model.name
    return without_server_defaults(config) if as_served else config


def _files(old: Path, new: Path) -> Iterator[Change]:
    before, after = read_model_directory(old), read_model_directory(new)
    empty = ({f"{d}/" for d in before.directories}, {f"{d}/" for d in after.directories})
    for name in sorted({*before.files, *after.files, *(empty[0] ^ empty[1])}):
        left, right = before.files.get(name), after.files.get(name)
        if left is not None and right is not None:
            if (texts := _contents(left, right)) is not None:
                yield Change("file", name, *texts)
        elif name.endswith("/"):
            yield Change("file", name, *("empty" if name in side else ABSENT for side in empty))
        else:
            yield Change("file", name, *(None if f is None else _size(f) for f in (left, right)))


def _contents(left: Path, right: Path) -> tuple[str, str] | None:
    """How two files differ; None when they do not. Files of different size are not read."""
    if left.stat().st_size != right.stat().st_size:
        return _size(left), _size(right)
    digests = digest_of_file(left), digest_of_file(right)
    return None if digests[0] == digests[1] else (f"sha256 {digests[0][:12]}", f"sha256 {digests[1][:12]}")


def _size(path: Path) -> str:
    return f"{path.stat().st_size} bytes"
