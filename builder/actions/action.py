"""What every action is to the plan and to the build: an Identity to be found by, and a run that gives files and a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tritonsmith.builder.base.errors import TritonsmithError, Where
from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec
from tritonsmith.builder.spec.variant_spec import Variant

Kind = Literal["source", "rows", "convert", "compile", "layers", "proof", "weights", "reference"]
"""source: an export, or what was taken over. rows: what is known of its rows in a batch. weights: of a language model's
variant. reference: its source's answers."""

TAKEN = "model"
"""Where the files of a source that is taken over lie in its artifact, apart from the cache's own record."""

_Error = TypeVar("_Error", bound=TritonsmithError)


@dataclass(frozen=True, slots=True)
class Identity:
    """What decides about an action's result; never what the result is, which differs from run to run.

    parameters, tools: as the plan compares them and the lock keeps them.
    request: digest of all that is known before it runs; None while what it is made from is not there.
    reads:   it reads files whose names only a run tells; their content is part of its key.
    """

    parameters: Mapping[str, Any]
    tools: Mapping[str, str | None]
    request: str | None
    reads: bool = False

    def key(self, dependencies: Mapping[str, str] | None = None) -> str:
        """The artifact's key, by the content of the files that it reads."""
        return digest_of_value({"request": self.request, "dependencies": dependencies or {}})


def request_digest(
    action: str, parameters: Mapping[str, Any], tools: Mapping[str, str | None], **of: str
) -> str:
    """of: `base`, the key of the artifact that it is made from."""
    return digest_of_value({"action": action, **of, "parameters": parameters, "tools": tools})


@dataclass(frozen=True, slots=True)
class Artifact:
    """What one action made.

    directory: where its files lie; read-only for everyone.
    files:     relative path → sha256.
    record:    what the action tells about it (tensors, opset, accuracy, tools …), JSON.
    """

    key: str
    directory: Path
    files: Mapping[str, str]
    record: Mapping[str, Any]

    @property
    def served(self) -> dict[str, Path]:
        """Path in the model's directory → the artifact's file."""
        names: Sequence[str] = self.record["served_files"]
        if "directories" in self.record:
            return {name: self.directory / TAKEN / name for name in names}
        return {f"1/{name}": self.directory / name for name in names}

    @property
    def onnx(self) -> Path | None:
        """Its ONNX file; None where it has none."""
        return next((file for file in self.served.values() if file.suffix == ".onnx"), None)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run tells. read: the files that it read; listings: of directories, name that ends in / → digest."""

    record: Mapping[str, Any]
    read: Sequence[Path] = ()
    listings: Mapping[str, str] = field(default_factory=dict)


class Workplace(Protocol):
    """Where an action may write beside its result: what a cache gives."""

    @property
    def root(self) -> Path:
        """Of what is kept from build to build."""
        ...

    def workspace(self) -> AbstractContextManager[Path]:
        """A private directory that goes away."""
        ...


@dataclass(frozen=True, slots=True)
class Action:
    """One action, complete: all that is left is to find its artifact, or to run it.

    kind:    of its record.
    what:    the action and the model, for people.
    run:     (directory that takes its files, Workplace) → Ran.
    differs: (a directory of files that the cache has) → how they differ from what is asked for.
    """

    kind: Kind
    what: str
    identity: Identity
    run: Callable[[Path, Workplace], Ran]
    differs: Callable[[Path], Sequence[str]] = lambda directory: ()


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action is for: a model of a spec, or one of its variants."""

    spec: ModelSpec
    repository: RepositorySpec
    variant: str = ""

    @property
    def name(self) -> str:
        """MODEL or MODEL/VARIANT."""
        return f"{self.spec.name}/{self.variant}" if self.variant else self.spec.name

    @property
    def stated(self) -> Variant:
        """The variant as the spec has it."""
        return self.spec.variants[self.variant]

    @property
    def where(self) -> Where:
        """Its line in the spec."""
        keys = ("variants", self.variant) if self.variant else ("source", self.spec.source.kind)
        return self.repository.where(self.spec.name, *keys)

    def log(self, place: Workplace, what: str = "") -> Path:
        """Where an action's log is kept; its next run replaces it."""
        digest = digest_of_value([str(self.repository.path.resolve()), f"{self.name}{what}"])
        path = place.root / "logs" / f"{digest[:16]}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


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
