"""What a rule is: a row of facts about one mistake, and a small pure function that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tritonsmith.builder.actions.batch_rows import RowsReport
    from tritonsmith.builder.lint.read.edits import Edit, Place
    from tritonsmith.builder.lint.read.model import Model, Repository
    from tritonsmith.builder.lint.target import Target

Severity = Literal["error", "warning"]
Stage = Literal["poll", "load", "silent"]

STAGE_TEXT: dict[Stage, str] = {
    "poll": "refused when the repository is polled; a client reads “failed to poll from model repository”",
    "load": "refused when the model is loaded",
    "silent": "accepted without a word",
}


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule's function found.

    message: one sentence about this case.
    field:   path of the field in config.pbtxt it is about.
    seen:    the value found.
    file:    the file it is about when that is not config.pbtxt.
    line:    line in that file; place: where in the text of config.pbtxt, when no field has that place.
    fix:     a better fix than the rule's own, for this case.
    severity: this case's, when it is milder than the rule's.
    """

    message: str
    field: str | None = None
    seen: object = None
    file: Path | None = None
    line: int | None = None
    fix: str | None = None
    severity: Severity | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule may look at beside its model.

    repository:    the models that stand beside it.
    repositories:  all repositories of this check.
    target:        what the repository must load on; every field of it may be unknown.
    auto_complete: whether the server completes configs, which --disable-auto-complete-config ends.
    rows:          model directory → version → what running it showed; None when nothing is run.
    """

    repository: Repository
    repositories: tuple[Repository, ...]
    target: Target
    auto_complete: bool
    rows: Mapping[Path, Mapping[int, RowsReport]] | None = None


Judge = Callable[["Model", Context], Iterable[Hit]]
Repair = Callable[["Model", Hit], Iterable["Edit"]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table.

    id:       stable; family and number.
    title:    the condition, one sentence (the function's docstring).
    stage:    when the server notices.
    then:     what the server does or what happens.
    source:   the place in Triton's sources or documentation that says so.
    bad:      a smallest config (or tree) that breaks it, good: one that does not.
    needs:    what must be known for it to be judged: config (the text parses), files (the model's
              directory), onnx, engine (a sidecar), target, server (its flags), gpus, deep (the model was run).
    repair:   (model, hit) → edits of its config.pbtxt after which the hit is gone and nothing is lost; none where a
              person has to decide. None: it never can.
    """

    id: str
    severity: Severity
    stage: Stage
    title: str
    then: str
    fix: str
    source: str
    bad: str
    good: str
    needs: str
    judge: Judge
    repair: Repair | None = None

    @property
    def family(self) -> str:
        """The letters of the id: `BATCH004` → `BATCH`."""
        return self.id.rstrip("0123456789")


def rule(
    id: str,
    severity: Severity,
    stage: Stage,
    *,
    then: str,
    fix: str,
    source: str,
    bad: str,
    good: str,
    needs: str = "config",
    repair: Repair | None = None,
) -> Callable[[Judge], Rule]:
    """Make a function the judge of a rule; its docstring is the rule's title."""

    def make(judge: Judge) -> Rule:
        title = (judge.__doc__ or "").strip().splitlines()[0].rstrip(".")
        return Rule(
            id, severity, stage, title, then, fix, source, bad.strip(), good.strip(), needs, judge, repair
        )

    return make
