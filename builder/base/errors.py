"""One error tree for the product; every expected failure is an instance with a stable code, an exit code and a hint.

    TritonsmithError            (never raised itself)
    ├── SpecError          2    models.yaml is wrong: syntax, key, type, name, missing file
    ├── UsageError         2    a flag or argument is wrong
    ├── BuildError         1    an action of the build failed
    │   ├── ExportError    1    a source could not be turned into ONNX
    │   └── ConfigError    1    a config.pbtxt could not be rendered, or says something else than meant
    ├── TrialError         1    a load test or a trial of a sweep failed
    ├── ToolError          3    a tool, server, GPU or system library is missing or unusable
    │   └── ServerError    3    a tritonserver could not be started, died, or does not answer
    ├── GateError          4    a gate said no: stale, lint errors, accuracy, SLO, regression
    └── UnexpectedError    1    a bug that one model met, with its traceback; the other models go on

Anything else that is not a TritonsmithError is a bug and is shown with its traceback.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file; `line` counts from 1, None when the whole file is meant."""

    path: Path
    line: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"


class TritonsmithError(Exception):
    """An expected failure.

    message: what failed, one sentence, no full stop needed.
    code:    stable word for scripts (`unknown_key`); never changes once released.
    where:   file and line it is about.
    seen:    the value that was found.
    valid:   the values that would have been accepted.
    fix:     the command or change that mends it.
    details: lines of evidence (a small table), shown below the message.
    traceback: of a bug, shown after everything else; empty for what is expected.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        code: str,
        where: Where | None = None,
        seen: object | None = None,
        valid: Iterable[object] = (),
        fix: str | None = None,
        details: Iterable[str] = (),
        traceback: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.where = where
        self.seen = seen
        self.valid = tuple(valid)
        self.fix = fix
        self.details = tuple(details)
        self.traceback = traceback

    def __str__(self) -> str:
        # What others wrote may have lines of its own: none of them begins where ours do.
        lines = [_indented(f"{self.where}: {self.message}" if self.where else self.message, 4)]
        lines += [f"  {_indented(line, 4)}" for line in self.details]
        if self.seen is not None:
            lines.append(f"  seen:  {_indented(shortened(str(self.seen), _MAX_SEEN), 9)}")
        if self.valid:
            lines.append(f"  valid: {_indented(', '.join(str(v) for v in self.valid), 9)}")
        if self.fix:
            lines.append(f"  fix:   {_indented(self.fix, 9)}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return error_from_form, (self.form(),)

    def form(self) -> dict[str, Any]:
        """The error as it travels between processes and machines, whole; of what others gave it, the text."""
        return {
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in ("message", "code", "fix", "traceback")},
            "where": self.where and (str(self.where.path), self.where.line),
            "seen": None if self.seen is None else str(self.seen),
            "valid": [str(value) for value in self.valid],
            "details": [*self.details],
        }

    def as_dict(self) -> dict[str, object]:
        """The error as one JSON object (what `--format json` prints)."""
        return {
            "code": self.code,
            "message": self.message,
            "where": None if self.where is None else str(self.where),
            "seen": None if self.seen is None else shortened(str(self.seen), _MAX_SEEN),
            "valid": [str(v) for v in self.valid],
            "fix": self.fix,
            "details": list(self.details),
            "exit_code": self.exit_code,
            **({"traceback": self.traceback} if self.traceback else {}),
        }


def _indented(text: object, columns: int) -> str:
    return str(text).replace("\n", "\n" + " " * columns)


def error_from_form(form: Mapping[str, Any]) -> TritonsmithError:
    """The inverse of TritonsmithError.form."""
    kind: type[TritonsmithError] = globals()[form["class"]]
    where = form["where"] and Where(Path(form["where"][0]), form["where"][1])
    return kind(**{**{k: v for k, v in form.items() if k != "class"}, "where": where})


@contextmanager
def at(where: Where | None) -> Iterator[None]:
    """Errors raised inside that name no place are about this one."""
    try:
        yield
    except TritonsmithError as error:
        error.where = error.where or where
        raise


class SpecError(TritonsmithError):
    """models.yaml, its lock file or a file it names is wrong."""

    exit_code = 2


class UsageError(TritonsmithError):
    """A flag or argument is wrong."""

    exit_code = 2


class BuildError(TritonsmithError):
    """An action of the build failed."""

    exit_code = 1


class ExportError(BuildError):
    """A source could not be turned into ONNX."""


class ConfigError(BuildError):
    """A config.pbtxt could not be rendered or read."""


class TrialError(TritonsmithError):
    """A load test or a trial of a sweep failed."""

    exit_code = 1


class ToolError(TritonsmithError):
    """A tool, server, GPU or system library is missing or unusable."""

    exit_code = 3


class ServerError(ToolError):
    """A tritonserver could not be started, died, or does not answer."""


class GateError(TritonsmithError):
    """A gate said no."""

    exit_code = 4


class UnexpectedError(TritonsmithError):
    """A bug that one model met; `traceback` has it whole."""

    exit_code = 1


def worst_of(errors: Sequence[TritonsmithError]) -> TritonsmithError:
    """The one that decides about the whole: the first bug, else the first that is more than a gate's no, else the first."""
    return min(
        errors, key=lambda error: 0 if error.traceback else 1 if error.exit_code != GateError.exit_code else 2
    )


def one_for(errors: Sequence[TritonsmithError]) -> TritonsmithError:
    """The worst, to be raised for all of them; the others stand in its details."""
    worst = worst_of(errors)
    others = [_briefly(error) for error in errors if error is not worst]
    if not others:
        return worst
    told = copy.copy(worst)
    told.details = (*worst.details, *others)
    return told


def _briefly(error: TritonsmithError) -> str:
    place = f"{error.where}: " if error.where else ""
    return f"and {error.code}: {place}{error.message}" + (
        f"; {error.fix}" if error.where and error.fix else ""
    )


_MAX_SEEN = 1000


def shortened(text: str, limit: int = 200) -> str:
    """The text, or its beginning and how long it is: a value may have megabytes."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


_MAX_WORD_LENGTH = 200
_MAX_VALID = 20


def nearest(word: str, valid: Iterable[str]) -> str | None:
    """The valid word most like `word`, or None when nothing is close."""
    if len(word) > _MAX_WORD_LENGTH:  # the comparison takes the square of the length
        return None
    matches = difflib.get_close_matches(
        word, [v for v in valid if len(v) <= _MAX_WORD_LENGTH], n=1, cutoff=0.6
    )
    return matches[0] if matches else None


def did_you_mean(word: str, valid: Iterable[str]) -> str | None:
    """The question that names the nearest valid word; None when nothing is close."""
    close = nearest(word, valid)
    return f"did you mean {close!r}?" if close else None


def unknown(word: object, valid: Iterable[str], fix: str | None = None) -> dict[str, Any]:
    """`seen`, `valid` and `fix` of an error about a word that is none of the valid ones.

    Sets are sorted. fix: what to do when no valid word is near, and said behind the nearest where one is.
    """
    known = sorted(valid) if isinstance(valid, Set) else [*valid]
    return {
        "seen": shortened(str(word)),
        "valid": known[:_MAX_VALID],
        "fix": " ".join(filter(None, (did_you_mean(str(word), known), fix))) or None,
    }
