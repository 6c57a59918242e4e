"""`tritonsmith apply`: the winner of a sweep → models.yaml, with the evidence beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tritonsmith.builder.commands.options import DEFAULT_SPEC, Format, FormatOption, SpecOption
from tritonsmith.perf.commands.flattened import flag, flattened


@flattened
def apply(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run directory of `sweep`.")],
    spec: SpecOption = DEFAULT_SPEC,
    arm: str | None = flag(None, "Apply this arm (id or label) whatever the verdict."),
    load: int | None = flag(None, "Apply what is best at this load point.", min=1),
    weights: str | None = flag(
        None,
        "Apply what is best over a mix of loads (1:0.7,32:0.3): each load point and its share.",
        metavar="N:SHARE,N:SHARE",
    ),
    dry_run: bool = flag(False, "Print the diff and write nothing.", "--dry-run"),
    format: FormatOption = Format.text,
) -> None:
    """Write a sweep's winner into models.yaml, with its evidence.

    What is written are Triton's own fields that were swept, `serve` for a variant, nothing else. Comments and
    formatting stay as they are. A comment above each setting gives the ratio with its interval, the server and the
    date; the whole evidence goes to evidence/MODEL.json beside the spec. Where nothing won, nothing is applied unless
    --load, --weights or --arm says what is wanted. `tritonsmith plan` shows what follows from it, `tritonsmith build`
    does it.

    Examples: tritonsmith apply sweep-minilm
              tritonsmith apply sweep-minilm --weights 1:0.7,32:0.3
              tritonsmith apply sweep-minilm --arm arm03 --dry-run
    """
    from tritonsmith.builder.base.errors import SpecError, UsageError, Where
    from tritonsmith.builder.base.text.console import emit_document, emit_json, emit_text, note
    from tritonsmith.perf.commands.apply.chosen import chosen_arm, mix_words, weights_from_text
    from tritonsmith.perf.commands.apply.winner import application, write
    from tritonsmith.perf.sweep.run_record import load_run

    result = load_run(run)
    if load is not None and weights is not None:
        raise UsageError(
            "--load and --weights say the same thing twice", code="bad_weights", fix=f"--load {load}"
        )
    mix = {load: 1.0} if load is not None else None if weights is None else weights_from_text(weights)
    chosen = chosen_arm(result, arm, mix)
    if chosen is None:
        why = result.verdict.sentence
        if mix is not None:
            why = f"No config was found better than the current one {mix_words(result, mix)}."
        if format is Format.json:
            emit_json({"applied": False, "why": why, "diff": "", "files": []})
            return
        other = (
            ""
            if mix is not None or len(result.verdict.points) < 2
            else "--load N takes the best at one load, "
        )
        emit_text(f"{why}\nNothing was applied; {other}--arm ID any config.")
        return
    if not spec.is_file():
        raise SpecError(
            "there is no spec to write the settings into",
            code="spec_missing",
            where=Where(spec),
            fix=f"tritonsmith init DIR writes one; without a spec, {run / 'config.pbtxt'} is the winner's config",
        )
    plan = application(result, chosen, spec)
    changed = plan.after != plan.before
    if changed and not dry_run:
        write(plan)
    if format is Format.json:
        files = [str(plan.path), str(plan.evidence_path)] if changed and not dry_run else []
        why = "" if files else "dry run" if changed else "the spec has these settings already"
        emit_json(
            {"applied": bool(files), "why": why, "diff": plan.diff, "files": files, "notes": plan.notes}
        )
    elif changed:
        emit_document(plan.diff)
    else:
        emit_text(f"{spec} has {chosen.arm.label} with this evidence already")
    for text in plan.notes:
        note(f"note: {text}")
    if changed:
        note("nothing was written (--dry-run)" if dry_run else f"written: {spec}, {plan.evidence_path}")
