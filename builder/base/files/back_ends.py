"""What fsspec's back ends answer and raise → values and reasons of ours."""

from __future__ import annotations

from typing import Any


def present(data: Any) -> bool:
    """Whether one of many answers is an object; raises what is another failure."""
    if isinstance(data, FileNotFoundError):
        return False
    if isinstance(data, Exception):
        raise data
    return True


def modified_s(info: dict[str, Any]) -> float:
    """Seconds since the epoch, 0.0 where the store does not tell."""
    stamps = ("LastModified", "mtime", "updated", "last_modified", "created")
    value: Any = next((info[name] for name in stamps if info.get(name)), 0.0)
    if hasattr(value, "timestamp"):
        return float(value.timestamp())
    return float(value) if isinstance(value, (int, float)) else 0.0


def reason(error: Exception) -> str:
    """The first line of what a back end says, bounded."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _causes(error: BaseException | None) -> str:
    """The types and texts of an error and of what it came from: back ends wrap their vendors' errors."""
    told = ""
    while error is not None:
        told += f"{type(error).__name__} {error} "
        error = error.__cause__
    return told


def is_refused_condition(error: Exception) -> bool:
    """Whether the store says that the condition of a put does not hold."""
    refusals = ("PreconditionFailed", "pre-condition", "ConditionalRequestConflict", "ResourceExistsError")
    return isinstance(error, FileExistsError) or any(word in _causes(error) for word in refusals)


def is_unknown_condition(error: Exception) -> bool:
    """Whether the back end or the store cannot judge the condition of a put."""
    return isinstance(error, TypeError) or "NotImplemented" in _causes(error)
