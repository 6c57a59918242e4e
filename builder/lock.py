"""Lock ↔ models.lock.json: per model the identity of what was built, sorted and stable, made to be reviewed and committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.digest import write_atomically
from builder.errors import SpecError, Where

_VERSION = 1
# Written even when empty; variants and what is served only where there are variants.
_ALWAYS = ("parameters", "tools", "dependencies", "key", "config", "files", "accuracy")


@dataclass(frozen=True, slots=True)
class LockedModel:
    """One model as it was last built.

    parameters:   the export's parameters as the spec had them.
    tools:        versions of what made it.
    dependencies: source file → sha256; paths relative to the spec, or package:NAME/path.
    key:          the export's action key.
    config:       what config.pbtxt was rendered from (`spec`, `template`), as digests.
    files:        the model's directory: relative path → sha256.
    accuracy:     the worst deviation from the source.
    variants:     name → what identified it (`parameters`, `tools`, `dependencies`, `key`) and its accuracy.
    served:       the variant that is laid out; None without variants.
    rows:         what is known of its rows in a batch (builder.batch_rows); empty where none batch.
    """

    parameters: Mapping[str, Any]
    tools: Mapping[str, str | None]
    dependencies: Mapping[str, str]
    key: str
    config: Mapping[str, str]
    files: Mapping[str, str]
    accuracy: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    served: str | None = None
    rows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lock:
    """All models of one spec."""

    models: Mapping[str, LockedModel] = field(default_factory=dict)


def lock_path(spec: Path) -> Path:
    """models.yaml → models.lock.json beside it."""
    return spec.with_name(f"{spec.stem}.lock.json")


def read_lock(path: Path) -> Lock:
    """The lock; an empty one when there is no file; SpecError when it is not a lock."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Lock()
    except (OSError, ValueError) as error:
        raise _not_a_lock(path, str(error)) from None
    try:
        if data["lock_version"] != _VERSION:
            raise _not_a_lock(path, f"lock_version {data['lock_version']}, this tritonsmith reads {_VERSION}")
        return Lock({name: LockedModel(**entry) for name, entry in data["models"].items()})
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_a_lock(path, str(error)) from None


def _not_a_lock(path: Path, why: str) -> SpecError:
    return SpecError(
        f"not a lock file: {why}",
        code="lock_invalid",
        where=Where(path),
        fix=f"restore {path.name} from version control, or delete it to build everything anew",
    )


def text_of_lock(lock: Lock) -> str:
    """The file's text: sorted keys, one value a line, so that a diff is readable."""
    models = {
        name: {
            f: getattr(entry, f)
            for f in LockedModel.__dataclass_fields__
            if getattr(entry, f) or f in _ALWAYS
        }
        for name, entry in lock.models.items()
    }
    return (
        json.dumps({"lock_version": _VERSION, "models": models}, indent=2, sort_keys=True, ensure_ascii=False)
        + "\n"
    )


def write_lock(path: Path, lock: Lock) -> None:
    """Writes the lock when it says something new."""
    text = text_of_lock(lock)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
