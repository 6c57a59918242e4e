"""Paths → Findings: repositories, model directories or single config.pbtxt files judged by the rule table."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.base.errors import TritonsmithError, UsageError, Where, nearest
from tritonsmith.builder.base.processes.failure import failure_of
from tritonsmith.builder.base.text.quantities import counted
from tritonsmith.builder.base.text.tabular import Tabular
from tritonsmith.builder.lint.deep.rows import rows_by_running
from tritonsmith.builder.lint.deep.sessions import Loaded, as_loaded
from tritonsmith.builder.lint.read.edits import Edit
from tritonsmith.builder.lint.read.model import (
    CONFIG,
    Model,
    Repository,
    is_version_name,
    read_beside,
    read_loose,
    read_repository,
)
from tritonsmith.builder.lint.rule import Context, Hit, Rule, Severity, Stage
from tritonsmith.builder.lint.table import RULES
from tritonsmith.builder.lint.target import Target, target_from_text

if TYPE_CHECKING:
    from tritonsmith.builder.actions.batch_rows import RowsReport


@dataclass(frozen=True, slots=True)
class LintOptions:
    """How to check.

    target: what the repository must load on, a release or a Target; what it leaves open is not judged.
    select: rule ids or families (`BATCH`) to judge; empty means all.
    ignore: rule ids or families not to judge.
    deep:   run the ONNX files, too, each in a process of its own; nothing else of a repository is ever run.
    loaded: model → version → what loading its ONNX file showed, where that is known.
    """

    target: Target | str | None = None
    select: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    deep: bool = False
    loaded: Mapping[str, Mapping[int, Loaded]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    rule:        id of the rule.
    path, line:  where; line counts from 1, None when the whole file or directory is meant.
    message:     what is wrong here, one sentence.
    seen:        the value found, as text.
    consequence: what Triton does about it; stage: when it does.
    fix:         what to change.
    field:       path of the config's field that it is about, such as `output[0].dims`.
    column, end_column: the characters of the line that it is about, from 1, the end not among them; None when that is
                 the whole line or more.
    edits:       what `check --fix` writes; empty when a person has to decide.
    """

    rule: str
    severity: Severity
    path: Path
    line: int | None
    model: str
    message: str
    seen: str | None
    stage: Stage
    consequence: str
    fix: str
    field: str | None = None
    column: int | None = None
    end_column: int | None = None
    edits: tuple[Edit, ...] = ()

    @property
    def fixable(self) -> bool:
        """Whether `check --fix` can mend it."""
        return bool(self.edits)

    @property
    def where(self) -> Where:
        """The place as `path:line`."""
        return Where(self.path, self.line)


def check(paths: Sequence[Path], options: LintOptions | None = None) -> list[Finding]:
    """Judge every model under the paths.

    A path is a model repository, a model directory or a config.pbtxt. Findings come sorted by place and rule.
    UsageError when a path does not exist or a rule id is unknown. Never raises for what is in the files, but for
    a bug: what could not be judged is not let through.
    """
    found = report(paths, options)
    for failure in found.failures:
        raise failure
    return found.findings


@dataclass(frozen=True, slots=True)
class LintReport(Tabular):
    """What a check found, and how many models it judged.

    failures: of rules that ended before they could judge one.
    texts:    those of the files that findings with a column are in, as they were judged.
    """

    findings: list[Finding]
    models: int
    failures: tuple[TritonsmithError, ...] = ()
    texts: Mapping[Path, str] = field(default_factory=dict, repr=False)

    @property
    def errors(self) -> list[Finding]:
        """The findings that Triton would refuse a model for."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def caption(self) -> str:
        """`3 models: 1 error, 2 warnings`."""
        return summary(self.findings, self.models)

    def rows(self) -> list[dict[str, Any]]:
        """One row a finding."""
        return [
            asdict(replace(finding, edits=())) | {"path": str(finding.path), "edits": len(finding.edits)}
            for finding in self.findings
        ]


def summary(findings: Sequence[Finding], models: int) -> str:
    """`3 models: 1 error, 2 warnings`."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = counted(len(findings) - errors, "warning")
    return f"{counted(models, 'model')}: {counted(errors, 'error')}, {warnings}"


def report(paths: Sequence[Path], options: LintOptions | None = None) -> LintReport:
    """`check`, with the number of models judged."""
    options = options or LintOptions()
    rules = chosen_rules(options)
    findings: list[Finding] = []
    failures: list[TritonsmithError] = []
    texts: dict[Path, str] = {}
    models = 0
    for judged, context in read_models(paths, options, failures):
        models += len(judged)
        for model in judged:
            found = list(judge(model, context, rules, failures))
            findings += found
            if model.parsed is not None and any(f.column for f in found):
                texts[model.config_path] = model.parsed.text
    findings = sorted(
        dict.fromkeys(findings), key=lambda f: (str(f.path), f.line or 0, f.column or 0, f.rule, f.message)
    )
    return LintReport(findings, models, tuple(failures), texts)


def read_models(
    paths: Sequence[Path], options: LintOptions, failures: list[TritonsmithError]
) -> Iterator[tuple[list[Model], Context]]:
    """The models of each path that are to be judged, and what they stand in; failures: filled by those that are run."""
    target = options.target
    if isinstance(target, str):
        target = target_from_text(target)
    target = target or Target()
    repositories = read_paths(paths, next(iter(target.flag("model-config-name")), None))
    auto_complete = not target.is_on("disable-auto-complete-config")
    if options.loaded:
        repositories = [_as_loaded(repository, options.loaded) for repository in repositories]
    is_deep = options.deep and any(rule.needs == "deep" for rule in chosen_rules(options))
    seen: set[Path] = set()  # a model is judged once, however often and by whichever of its paths it is given
    for repository in repositories:
        judged = [
            model
            for name, model in repository.models.items()
            if (repository.judged is None or name in repository.judged)
            and model.config_path.absolute() not in seen
        ]
        seen |= {model.config_path.absolute() for model in judged}
        rows: dict[Path, Mapping[int, RowsReport]] = {}
        for model in judged if is_deep else ():
            with _own_failure(f"{model.name}, run", failures):
                rows[model.path] = rows_by_running(model, auto_complete)
        yield (
            judged,
            Context(repository, tuple(repositories), target, auto_complete, rows if is_deep else None),
        )


def _as_loaded(repository: Repository, loaded: Mapping[str, Mapping[int, Loaded]]) -> Repository:
    models = {n: as_loaded(m, loaded[n]) if n in loaded else m for n, m in repository.models.items()}
    return replace(repository, models=models)


@contextmanager
def _own_failure(what: str, failures: list[TritonsmithError]) -> Iterator[None]:
    """What goes wrong with one model or rule is noted, and the others are judged."""
    try:
        yield
    except Exception as error:
        failures.append(failure_of(error, what))


def read_paths(paths: Sequence[Path], config_name: str | None = None) -> list[Repository]:
    """Each path as a repository: itself, the one around a model directory, or one around a lone file."""
    return [_read_path(Path(path), config_name) for path in paths]


def _read_path(path: Path, config_name: str | None) -> Repository:
    if path.is_dir():
        return read_beside(path, config_name) if _is_model(path) else read_repository(path, config_name)
    if path.is_file():
        directory = path.parent
        if path.name == CONFIG and _has_versions(directory):
            return read_beside(directory, config_name)
        return read_loose(path)
    raise UsageError(
        f"there is no {path}",
        code="no_such_path",
        where=Where(path),
        fix="give a model repository, a model directory or a config.pbtxt",
    )


def _is_model(path: Path) -> bool:
    """A directory is a model when it has a config.pbtxt, or a version directory that holds files."""
    if (path / CONFIG).is_file():
        return True
    return any(
        is_version_name(child.name) and not _has_versions(child) and any(child.iterdir())
        for child in path.iterdir()
        if child.is_dir() and not (child / CONFIG).exists()
    )


def _has_versions(path: Path) -> bool:
    try:
        return any(is_version_name(child.name) and child.is_dir() for child in path.iterdir())
    except OSError:
        return False


def chosen_rules(options: LintOptions) -> tuple[Rule, ...]:
    """Those that are selected and not ignored. UsageError for a name that there is not."""
    families = {rule.family for rule in RULES.values()}
    for name in (*options.select, *options.ignore):
        if name not in RULES and name not in families:
            raise unknown_rule(name)
    return tuple(
        rule
        for rule in RULES.values()
        if (not options.select or rule.id in options.select or rule.family in options.select)
        and rule.id not in options.ignore
        and rule.family not in options.ignore
    )


def unknown_rule(name: str) -> UsageError:
    """The error for a rule id that does not exist; it names the nearest."""
    families = sorted({rule.family for rule in RULES.values()})
    close = nearest(name.upper(), [*RULES, *families])
    return UsageError(
        f"there is no rule {name!r}",
        code="unknown_rule",
        seen=name,
        valid=families,
        fix=f"did you mean {close}?" if close else "docs/rules.md lists every rule",
    )


def judge(
    model: Model, context: Context, rules: Iterable[Rule], failures: list[TritonsmithError]
) -> Iterator[Finding]:
    """What the rules find in one model that it does not say to ignore; failures: filled by rules that cannot judge it."""
    suppressed = _suppressions(model)
    for rule in rules:
        if model.config is None and rule.needs != "":
            continue
        if model.loose and rule.needs == "files":
            continue
        found: list[Finding] = []
        with _own_failure(f"{model.name}, {rule.id}", failures):
            found.extend(_finding(rule, hit, model) for hit in rule.judge(model, context))
        for finding in found:
            muted = suppressed.get(None, set()) | suppressed.get(finding.line, set())
            if finding.path != model.config_path:
                muted = suppressed.get(None, set())
            if not muted & {rule.id, rule.family, "all"}:
                yield finding


def _finding(rule: Rule, hit: Hit, model: Model) -> Finding:
    path, line, place = model.config_path, hit.line, hit.place
    if hit.file is not None:
        path = hit.file
    elif model.parsed is None:
        path = model.path
    elif hit.field is not None:
        place = model.place_of(hit.field)
    column, end_column = None, None
    if place is not None and model.parsed is not None:
        column = place.column
        first_line = model.parsed.text[place.start : place.end].split("\n", 1)[0]
        end_column = column + max(1, len(first_line))
    edits: tuple[Edit, ...] = ()
    if rule.repair is not None and path == model.config_path:
        edits = tuple(rule.repair(model, hit))
    return Finding(
        rule=rule.id,
        severity=hit.severity or rule.severity,
        path=path,
        line=line if place is None else place.line,
        model=model.name,
        message=hit.message,
        seen=None if hit.seen is None else str(hit.seen),
        stage=rule.stage,
        consequence=rule.then,
        fix=hit.fix or rule.fix,
        field=hit.field,
        column=column,
        end_column=end_column,
        edits=edits,
    )


_DIRECTIVE = re.compile(
    r"\btritonsmith:\s*ignore(?P<file>-file)?\s*=\s*(?P<ids>[A-Za-z0-9]+(?:\s*,\s*[A-Za-z0-9]+)*)"
)


def _suppressions(model: Model) -> dict[int | None, set[str]]:
    """Line → rule ids muted there; None is the whole file.

    `# tritonsmith: ignore=BATCH004` counts for its own line, or for the next field's when it stands alone;
    `# tritonsmith: ignore-file=BATCH004` counts for the model.
    """
    muted: dict[int | None, set[str]] = {}
    parsed = model.parsed
    if parsed is None or not parsed.comments:
        return muted
    field_lines = sorted(set(parsed.lines.values()))
    for line, text in parsed.comments.items():
        match = _DIRECTIVE.search(text)
        if match is None:
            continue
        ids = {
            word.strip() if word.strip() == "all" else word.strip().upper()
            for word in match["ids"].split(",")
        }
        place: int | None = line
        if match["file"]:
            place = None
        elif line in parsed.alone:
            following = bisect_right(field_lines, line)
            place = field_lines[following] if following < len(field_lines) else line
        muted.setdefault(place, set()).update(ids)
    return muted
