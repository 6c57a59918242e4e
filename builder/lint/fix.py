"""Paths → the config.pbtxt files that can be mended, their texts before and after; written one by one, in one step each."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path

from tritonsmith.builder.base.errors import ConfigError, TritonsmithError, Where
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.lint.check import Finding, LintOptions, chosen_rules, judge, read_models
from tritonsmith.builder.lint.read.edits import edited
from tritonsmith.builder.lint.read.model import Model, with_text
from tritonsmith.builder.lint.rule import Context
from tritonsmith.builder.lint.table import RULES

_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Mended:
    """What can be made of one config.pbtxt.

    repository:    the directory that may be written in; it holds the model's, or a lone file.
    before, after: its text; after was read and judged again.
    gone:          the findings that it no longer has, those among them that the first of the mends showed.
    had, has:      how many findings the model has, before and after.
    """

    repository: Path
    path: Path
    before: str
    after: str
    gone: tuple[Finding, ...]
    had: int
    has: int

    def diff(self) -> str:
        """A unified diff that `patch -p0` takes; line ends are the file's own."""
        lines = unified_diff(
            _lines(self.before), _lines(self.after), str(self.path), str(self.path), lineterm="\n"
        )
        return "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
        )


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    return [f"{part}\n" for part in parts[:-1]] + parts[-1:] * bool(parts[-1])


def mended(paths: Sequence[Path], options: LintOptions) -> Iterator[Mended]:
    """Every file that edits make better. Nothing is written. UsageError as of `check`."""
    chosen = {rule.id for rule in chosen_rules(options)}
    failures: list[TritonsmithError] = []
    for models, context in read_models(paths, options, failures):
        for model in models:
            mend = _mend(model, context, chosen)
            if mend is not None:
                yield mend


def _mend(model: Model, context: Context, chosen: set[str]) -> Mended | None:
    """One rule's edits after another, each kept only when it holds: some show what was hidden before."""
    after, gone = model, list[Finding]()
    refused: set[str] = set()
    first = found = _judged(model, context)
    for _ in range(_ROUNDS):
        rule = next((f.rule for f in found or () if f.edits and f.rule in chosen - refused), None)
        if found is None or rule is None:
            break
        mend = [f for f in found if f.rule == rule and f.edits]
        better = _better(after, context, found, mend)
        if better is None:
            refused.add(rule)
        else:
            after, gone = better, gone + mend
            found = _judged(after, context)
    if not gone or first is None or found is None:
        return None
    assert model.parsed is not None and after.parsed is not None
    root = model.path if model.loose else model.path.parent
    had, has = (sum(f.rule in chosen for f in each) for each in (first, found))
    return Mended(root, model.config_path, model.parsed.text, after.parsed.text, tuple(gone), had, has)


def _better(model: Model, context: Context, found: list[Finding], mend: list[Finding]) -> Model | None:
    """The model with the edits of these findings: it parses, they are gone, and no new error came of them."""
    assert model.parsed is not None
    text = edited(model.parsed.text, [edit for finding in mend for edit in finding.edits])
    if text is None or text == model.parsed.text:
        return None
    better = with_text(model, text)
    after = _judged(better, context)
    if after is None or better.config is None:
        return None
    left = {_mistake(f) for f in after}
    before = {_mistake(f) for f in found}
    new_errors = {_mistake(f) for f in after if f.severity == "error"} - before
    is_worse = bool(new_errors) and model.config is not None  # what could not be read had no findings
    return None if is_worse or left & {_mistake(f) for f in mend} else better


def _mistake(finding: Finding) -> tuple[str, str]:
    return finding.rule, finding.field or finding.message


def _judged(model: Model, context: Context) -> list[Finding] | None:
    """What all rules find; None when one of them could not judge it."""
    failures: list[TritonsmithError] = []
    found = list(judge(model, context, tuple(RULES.values()), failures))
    return None if failures else found


def write(mend: Mended) -> None:
    """Replaces the file in one step. ConfigError where it must not be, or is another than was read."""
    path = mend.path
    root = mend.repository
    if path.resolve() != root.resolve() / path.relative_to(root):
        raise _refused(path, "is reached through a link, which may lead to what others share")
    try:
        status = path.lstat()
        if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
            raise _refused(path, "is read-only")
        with replacing(path) as temporary:
            with temporary.open("xb") as file:
                os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
                with suppress(PermissionError):
                    os.fchown(file.fileno(), status.st_uid, status.st_gid)
                file.write(mend.after.encode())
                file.flush()
                os.fsync(file.fileno())
            if path.read_bytes() != mend.before.encode():
                raise _refused(path, "was changed while it was checked")
    except OSError as error:
        raise _refused(path, f"cannot be written: {error.strerror}") from error


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{path} {why}: it is left as it was",
        code="not_fixed",
        where=Where(path),
        fix="tritonsmith check --fix --diff prints what it would write",
    )
