"""(a model's files at a destination, a way to read them) → ModelState; what anyone may have written there is typed here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.untrusted import (
    STRICT,
    Distance,
    ModelName,
    RelativePath,
    Sha256,
    parsed,
    refuse_files_below_files,
)
from tritonsmith.builder.publish.destinations.versions import (
    PROVENANCE,
    ROOT,
    STATED_CONFIG,
    ModelState,
    version_number,
)
from tritonsmith.builder.repository.lock import Accuracy, Tools
from tritonsmith.builder.spec.model_directory import CONFIG

FORMAT = "tritonsmith.provenance/1"
_MAX_SMALL_BYTES = 64 << 20
_Count = Annotated[int, Field(ge=0, lt=2**63)]


@with_config(STRICT)
class FileRecord(TypedDict):
    """A published file."""

    sha256: Sha256
    bytes: _Count


@with_config(STRICT)
class _Policy(TypedDict):
    kind: Literal["latest", "all", "specific"]
    count: Annotated[int, Field(ge=1, lt=2**31)]


@with_config(STRICT)
class _Origin(TypedDict):
    name: str
    sha256: Sha256
    commit: str | None
    dirty: bool | None


@with_config(STRICT)
class _Bounds(TypedDict, total=False):
    relative_l2: Distance | None
    cosine: Distance | None
    max_abs: Distance | None
    top1: Distance | None
    negligible_abs: Distance


@with_config(STRICT)
class _Smoke(TypedDict):
    samples: _Count
    bounds: dict[str, _Bounds]
    note: str


@with_config(STRICT)
class Provenance(TypedDict):
    """The record of a published version, as builder.publish.provenance writes it.

    files: path in the version's directory → what it is. root: files that have their copy at the model's root.
    lock, evidence: for people; nothing is done by them.
    """

    format: Literal["tritonsmith.provenance/1"]
    model: ModelName
    version: _Count
    published: str
    tritonsmith: str
    content: Sha256
    policy: _Policy
    previous: list[_Count]
    spec: _Origin
    variant: str | None
    action_key: Sha256
    tools: Tools
    accuracy: Accuracy
    lock: dict[str, Any]
    smoke: _Smoke
    evidence: Any
    root: list[RelativePath]
    files: dict[RelativePath, FileRecord]


def model_state(
    name: str,
    files: Mapping[str, int],
    numbers: Collection[int],
    read: Callable[[str], bytes | None],
    claimed_s: Mapping[int, float],
    tag: str | None = None,
) -> ModelState:
    """What is there of a model. BuildError when a record cannot be read, or is not what a publish writes."""

    def small(path: str) -> bytes | None:
        if path not in files:
            return None
        if files[path] > _MAX_SMALL_BYTES:
            raise _invalid(name, path, f"it has {files[path] >> 20} MiB")
        return read(path)

    config = small(CONFIG)
    records = {n: small(f"{n}/{PROVENANCE}") for n in sorted(numbers)}
    return ModelState(
        name=name,
        files=files,
        numbers=tuple(sorted(numbers)),
        provenance={n: _record(name, n, data) for n, data in records.items() if data is not None},
        config_text=None if config is None else config.decode("utf-8", errors="replace"),
        tag=tag,
        claimed_s=claimed_s,
    )


def _record(model: str, number: int, data: bytes) -> Mapping[str, Any]:
    try:
        # A variant that answered NaN is infinitely far off, and so an older tritonsmith wrote it.
        record = parsed(Provenance, data, infinite=True)
        if (record["model"], record["version"]) != (model, number):
            raise ValueError(f"it is of {record['model']} version {record['version']}")
        _check_files(record)
    except ValueError as error:
        raise _invalid(model, f"{number}/{PROVENANCE}", str(error)) from None
    return record


def _check_files(record: Provenance) -> None:
    """ValueError where a name would lead a switch to something that is not this version's own."""
    if STATED_CONFIG not in record["files"]:
        raise ValueError(f"it has no {STATED_CONFIG}")
    refuse_files_below_files(record["files"])
    refuse_files_below_files([*record["root"], CONFIG])
    for name in record["root"]:
        if version_number(name.partition("/")[0]) is not None:
            raise ValueError(f"{name!r} at the model's root lies in a version")
        if f"{ROOT}/{name}" not in record["files"]:
            raise ValueError(f"it has no {ROOT}/{name}")


def _invalid(model: str, path: str, why: str) -> BuildError:
    return BuildError(
        f"{model}/{path} is not what a publish writes: {why}",
        code="provenance_invalid",
        fix="remove that version's directory if nothing serves it"
        if path != CONFIG
        else "restore it, or remove the model",
    )
