"""What a stranger may have written (text, names, paths) → values that can do no harm, or a ValueError that says why.

Lock files come with pull requests, cache entries from whoever may write to the bucket, manifests from whoever may
write to a destination. They are parsed by dataclasses and TypedDicts with the config STRICT and fields of the types below.
"""

from __future__ import annotations

import json
import math
import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

import pydantic_core
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

T = TypeVar("T")

MAX_JSON_BYTES = 64 << 20
"""A lock of 10,000 models has 20 MiB."""
_MAX_NAME_BYTES = 200
# NAME_MAX and PATH_MAX of Linux, less what a temporary name beside adds.
_MAX_COMPONENT_BYTES = 200
_MAX_PATH_BYTES = 2000


STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Of a dataclass or a TypedDict, as its `__pydantic_config__`: exact types, no unknown keys, finite numbers."""


def fault_of_text(text: str) -> str | None:
    """Why a name would not look on a screen like what it is; None when it is plain.

    Refused: control characters (C0, C1), what has no glyph (zero-width, direction marks, line separators), what
    is not normalised (NFC): two names that look the same would be two things. Categories: Unicode, chapter 4.5.
    """
    hidden = _hidden(text)
    if hidden is None and unicodedata.normalize("NFC", text) != text:
        return f"is not in Unicode's normal form C, as {unicodedata.normalize('NFC', text)!a} is"
    return hidden


def _hidden(text: str) -> str | None:
    if text.isascii() and text.isprintable():
        return None
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            return f"has {character!r} in it"
    return None


def fault_of_model_name(name: str) -> str | None:
    """Why `name` cannot be a model's name (it becomes a directory and a URL path segment); None when it can."""
    if not name or name.strip() != name:
        return "is empty or has a space at an end"
    if name.startswith("."):
        return "starts with a dot"
    for bad in "/\\":
        if bad in name:
            return f"has {bad!r} in it"
    fault = fault_of_text(name)
    if fault is not None:
        return fault
    size = len(name.encode())
    return f"is longer than {_MAX_NAME_BYTES} bytes" if size > _MAX_NAME_BYTES else None


@lru_cache(maxsize=1000)  # of the names of all entries' files, most are the same few
def fault_of_relative_path(text: str) -> str | None:
    """Why `text` cannot be the path of a file inside a directory; None when it can: relative, normalised, with `/`.

    Any of Unicode's normal forms will do: on a Mac files have names in form D.
    """
    if not text or text.startswith("/") or "\\" in text:
        return "is not a relative path with '/'"
    if any(part in ("", ".", "..") for part in text.split("/")):
        return "has an empty part, '.' or '..' in it"
    if any(len(part.encode(errors="replace")) > _MAX_COMPONENT_BYTES for part in text.split("/")):
        return f"has a part of more than {_MAX_COMPONENT_BYTES} bytes"
    if len(text) > _MAX_PATH_BYTES:
        return f"is longer than {_MAX_PATH_BYTES} bytes"
    return _hidden(text)


def fault_of_dependency(name: str) -> str | None:
    """Why `name` cannot be that of a file which is only ever read to tell whether it changed; None when it can.

    It may lie anywhere (absolute, with `..`, `package:NAME/path`, `DIRECTORY/`): who made it read it there.
    """
    if not name or "\0" in name:
        return "is empty or has '\\x00' in it"
    return f"is longer than {_MAX_PATH_BYTES} bytes" if len(name) > _MAX_PATH_BYTES else None


def _without(fault_of: Callable[[str], str | None], what: str) -> Callable[[str], str]:
    """The text as it is, or a ValueError with its fault."""

    def checked(text: str) -> str:
        fault = fault_of(text)
        if fault is not None:
            raise ValueError(f"{what} {fault}")
        return text

    return checked


_model_name = _without(fault_of_model_name, "a model's name")
_relative_path = _without(fault_of_relative_path, "the path")
_dependency = _without(fault_of_dependency, "a dependency's name")


def _laid_out(text: str) -> str:
    return _relative_path(text.removesuffix("/")) and text


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, AfterValidator(_model_name)]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
LaidOutPath = Annotated[str, AfterValidator(_laid_out)]
"""A relative path, and `NAME/` for an empty directory."""
Dependency = Annotated[str, AfterValidator(_dependency)]
Distance = Annotated[float, Field(allow_inf_nan=True)]
"""A number that an older tritonsmith may have written as Infinity."""


def refuse_files_below_files(names: Iterable[str]) -> None:
    """ValueError when a name is there twice, or one is a directory of another: they cannot all be files."""
    found = set()
    for name in names:
        if name in found:
            raise ValueError(f"{name!r:.80} is there twice")
        found.add(name)
    for name in found:
        if any(name[:end] in found for end, letter in enumerate(name) if letter == "/"):
            raise ValueError(f"{name!r:.80} lies below another file")


def inside(directory: Path, name: str) -> Path:
    """`directory / name`, and ValueError for a name that leads anywhere else, through a link on its way too.

    The last part may be a link itself: who renames or deletes it means the link, who reads uses `open_regular`.
    """
    path = directory / _relative_path(name)
    for above in [name[:end] for end, letter in enumerate(name) if letter == "/"]:
        if os.path.islink(f"{directory}/{above}"):  # noqa: PTH114  (asked thousands of times a plan)
            raise ValueError(f"{above!r} is a link on the way to {name!r}")
    return path


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading; OSError for a FIFO or a device, which would block or never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(descriptor, "rb")


def broken_link(path: Path) -> str | None:
    """Where a symbolic link that leads to nothing leads, in words; None for what is no link."""
    try:
        return f"it is a link to {str(path.readlink())!r}, which is not there"
    except OSError:
        return None


def read_bounded(path: Path, limit_bytes: int = MAX_JSON_BYTES) -> bytes:
    """A regular file's content; ValueError above the limit, OSError when it cannot be read."""
    with open_regular(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        # Python sets aside as much memory as is asked for.
        data = file.read(min(size_bytes, limit_bytes) + 1)
        if size_bytes < len(data) <= limit_bytes:  # it grows, or does not tell its size
            data += file.read(limit_bytes + 1 - len(data))
    if len(data) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes >> 20} MiB")
    return data


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """Made once for each type, when it is asked for: that takes milliseconds."""
    return _adapter_of(kind)


_adapter_of = cache(TypeAdapter[Any])


def parsed(kind: type[T], text: str | bytes, infinite: bool = False) -> T:
    """JSON → what the type says; ValueError with the place and the fault of the first value that is none.

    infinite: Infinity and NaN are numbers where the type is Distance.
    """
    with _refused():
        _loaded(text, infinite)  # pydantic takes the second of two names
        checked: T = adapter_of(kind).validate_json(text)
        return checked


def json_value(text: str | bytes, infinite: bool = False) -> Any:
    """JSON → values; ValueError for what is none, is nested deeper than some 200, is not UTF-8 or has lone surrogates, has
    NaN, Infinity (unless infinite) or what would become it, or a name twice."""
    with _refused():
        value = _loaded(text, infinite)
        pydantic_core.from_json(text)
        return value


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "recursion limit" in str(error):
            raise ValueError("it is nested too deeply") from None
        raise (ValueError(first_fault(error)) if isinstance(error, ValidationError) else error) from None


def _loaded(text: str | bytes, infinite: bool) -> Any:
    return json.loads(
        text.decode() if isinstance(text, bytes) else text,
        parse_constant=float if infinite else _no_constant,
        parse_float=_finite,
        object_pairs_hook=_no_twins,
    )


def first_fault(error: ValidationError) -> str:
    """`models.minilm.key: String should match …, not '../x'`, in one line of bounded length."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    seen = "" if first["type"] in ("missing", "extra_forbidden") else f", not {first['input']!r:.80}"
    return f"{place:.160}: {first['msg']}{seen}" if place else f"{first['msg']}{seen}"


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is no finite number")
    return number


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twin, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twin[:80]!r} is there twice")
    return found
