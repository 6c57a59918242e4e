"""`tritonsmith build`: brings the model repository up to date with its spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from builder.commands.options import (
    DEFAULT_SPEC,
    Format,
    FormatOption,
    RepositoryOption,
    SpecOption,
    TargetOption,
    TemplatesOption,
    build_options,
)
from builder.console import emit_json, emit_text, note, progress

if TYPE_CHECKING:
    from builder.build import BuildResult, VariantOutcome


def build(
    spec: SpecOption = DEFAULT_SPEC,
    repository: RepositoryOption = None,
    templates: TemplatesOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace model directories that no build of this spec made.")
    ] = False,
    lint: Annotated[bool, typer.Option(help="Refuse to lay out a model that Triton would refuse.")] = True,
    variants: Annotated[
        Path | None,
        typer.Option(
            help="Also lay every variant out, as MODEL__VARIANT in this directory.", show_default=False
        ),
    ] = None,
    target: TargetOption = None,
    format: FormatOption = Format.text,
) -> None:
    """Build what is stale and lay the model repository out."""
    from builder.build import build as run_build

    options = build_options(spec, repository, templates, overwrite=overwrite, lint=lint, target=target)
    with progress() as bar:
        task = bar.add_task("reading the spec", total=1)
        result = run_build(
            options, lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
        )
    emit_json(as_json(result)) if format is Format.json else emit_text(text_of_build(result))
    if variants is not None:
        from builder.variant_directories import lay_out_variants

        for of_model in lay_out_variants(options, variants).values():
            for path in of_model.values():
                note(f"variant: {path}")
    for error in result.errors:
        note(f"error[{error.code}]: {error}")
    if result.errors:
        worse = [e for e in result.errors if e.exit_code != 4]
        raise typer.Exit((worse or result.errors)[0].exit_code)


def text_of_build(result: BuildResult) -> str:
    """One line a model and a closing line."""
    width = max((len(o.model) for o in result.outcomes), default=0)
    lines = []
    for outcome in result.outcomes:
        reason = result.plan.of(outcome.model, "lay_out").reason
        export = result.plan.of(outcome.model, "export").reason
        why = export or reason
        deviation = outcome.accuracy.get("relative_l2")
        parts = [
            f"{outcome.model.ljust(width)}  {outcome.action:<10}",
            f"{outcome.seconds:6.1f} s",
            "" if deviation is None else f"rel. L2 {float(deviation):.1e}",
            "" if why is None else f"({why.value})",
        ]
        lines.append("  ".join(p for p in parts if p))
        lines += [_variant_line(v, width) for v in outcome.variants]
    changed = sum(o.action not in ("up-to-date", "unchanged", "failed") for o in result.outcomes)
    failed = sum(o.error is not None for o in result.outcomes)
    missing = sum(v.error is not None for o in result.outcomes for v in o.variants)
    tail = f", {failed} failed and left as they were" if failed else ""
    tail += f", {missing} variant{'s' if missing > 1 else ''} could not be made" if missing else ""
    summary = (
        f"{changed} of {len(result.outcomes)} models written{tail}"
        if changed or failed or missing
        else "nothing to do"
    )
    removed = [a.model for a in result.plan.actions if a.kind == "remove"]
    if removed:
        summary += f"; removed: {', '.join(removed)}"
    return "\n".join([*lines, f"{summary}: {result.repository}"])


def _variant_line(variant: VariantOutcome, width: int) -> str:
    deviation, cosine = variant.accuracy.get("relative_l2"), variant.accuracy.get("cosine")
    parts = [
        f"{' ' * width}  {'▸' if variant.served else ' '} {variant.variant:<8}  {variant.action:<10}",
        "" if deviation is None else f"rel. L2 {float(deviation):.1e}",
        "" if cosine is None else f"cosine {float(cosine):.6f}",
        "" if variant.judged.passed else "refused",
        "" if variant.error is None else variant.error.code,
    ]
    return "  ".join(p for p in parts if p).rstrip()


def as_json(result: BuildResult) -> dict[str, object]:
    """The whole result as one JSON object."""
    return {
        "repository": str(result.repository),
        "models": [
            {
                "model": o.model,
                "action": o.action,
                "version": o.version,
                "directory": str(o.directory),
                "seconds": round(o.seconds, 3),
                "accuracy": dict(o.accuracy),
                "error": None if o.error is None else o.error.as_dict(),
                "variants": [
                    {
                        "variant": v.variant,
                        "action": v.action,
                        "served": v.served,
                        "accuracy": dict(v.accuracy),
                        "judged": v.judged.as_dict(),
                        "error": None if v.error is None else v.error.as_dict(),
                    }
                    for v in o.variants
                ],
            }
            for o in result.outcomes
        ],
        "plan": [a.as_dict() for a in result.plan.actions],
    }
