"""BuildResult → what people read of it, and its JSON form; pure."""

from __future__ import annotations

from tritonsmith.builder.actions.language.measures import text_of
from tritonsmith.builder.base.text.text_layout import named_lines, narrowed, wrapped
from tritonsmith.builder.build.results import ELSEWHERE, UNCHANGED, BuildResult, ModelOutcome, VariantOutcome
from tritonsmith.builder.plan.plan import BuildPlan
from tritonsmith.builder.plan.words import why

# More models that were up to date than this are counted instead of listed.
_LISTED = 20
_KINDS_SHOWN = 4


def text_of_build(result: BuildResult, width: int | None = None) -> str:
    """One line a model and a closing line. width: of the terminal; None where there is none."""
    longest = max((len(o.model) for o in result.outcomes), default=0)
    fresh = [o for o in result.outcomes if o.action == "up-to-date"]
    shown = [o for o in result.outcomes if o.action != "up-to-date" or len(fresh) <= _LISTED]
    lines = named_lines(
        lambda room: [line for o in shown for line in _model_lines(o, result.plan, room, width)],
        longest,
        width,
    )
    if len(fresh) > _LISTED:
        lines.append(f"{len(fresh)} models up-to-date")
    changed = sum(o.action not in UNCHANGED for o in result.outcomes)
    failed = sum(o.error is not None for o in result.outcomes)
    missing = sum(_is_missing(v, o.action) for o in result.outcomes for v in o.variants)
    tail = f", {failed} failed and left as they were" if failed else ""
    skipped = sum(o.action == "not built" for o in result.outcomes)
    tail += f", {skipped} not built" if skipped else ""
    tail += f", {missing} variant{'s' if missing > 1 else ''} could not be made" if missing else ""
    summary = (
        f"{changed} of {len(result.outcomes)} models written{tail}"
        if changed or failed or missing
        else "nothing to do"
    )
    made = sum(o.action == "cached" for o in result.outcomes)
    if made:
        return "\n".join(
            [*lines, f"{made} of {len(result.outcomes)} models made into the cache{tail}; nothing laid out"]
        )
    removed = [a.model for a in result.plan.actions if a.kind == "remove"]
    if removed:
        summary += f"; removed: {', '.join(removed)}"
    return "\n".join([*lines, f"{summary}: {result.repository}"])


def _model_lines(outcome: ModelOutcome, plan: BuildPlan, room: int, width: int | None) -> list[str]:
    reasons = (why(action) for action in plan.actions_of(outcome.model) if action.reason is not None)
    first = next(filter(None, reasons), "")
    deviation = outcome.accuracy.get("relative_l2")
    parts = [
        f"{narrowed(outcome.model, room).ljust(room)}  {outcome.action:<10}",
        f"{outcome.seconds:6.1f} s",
        "" if deviation is None else f"rel. L2 {float(deviation):.1e}",
        first and f"({first})",
    ]
    lines = wrapped("  ".join(p for p in parts if p), width, hang=room + 2).split("\n")
    told = _rows_line(outcome)
    if told:
        lines += wrapped(f"{' ' * (room + 2)}{told}", width, hang=room + 2).split("\n")
    longest = max((len(v.variant) for v in outcome.variants), default=0)
    for variant in outcome.variants:
        lines.append(_variant_line(variant, room, longest, outcome.action))
        for finding in (*_stayed(variant), *variant.judged.findings):
            lines += wrapped(f"{' ' * (room + 6)}{finding}", width).split("\n")
    return lines


def _rows_line(outcome: ModelOutcome) -> str:
    """What a reader has to know of a model's rows that was built now."""
    note, verdict = outcome.rows.get("note", ""), outcome.rows.get("verdict")
    if not note or outcome.action == "up-to-date":
        return ""
    lead = {
        "mixed": "max_batch_size 0, since rows of a batch depend on one another: ",
        "cannot_run": "max_batch_size 0, since a batch cannot be run: ",
        "unverified": "batching not verified: ",
        "random": "batching not verified: ",
    }
    return f"{lead.get(str(verdict), 'batching: ')}{note}"


def _is_missing(variant: VariantOutcome, model_action: str) -> bool:
    """Whether the variant could not be made; an engine is not missed where only artifacts for elsewhere are made."""
    is_elsewhere = model_action == "cached" and variant.error is not None and variant.error.code in ELSEWHERE
    return variant.error is not None and not is_elsewhere


def _variant_line(variant: VariantOutcome, room: int, longest: int, model_action: str) -> str:
    deviation, cosine = variant.accuracy.get("relative_l2"), variant.accuracy.get("cosine")
    action = variant.action if variant.error is None or _is_missing(variant, model_action) else "elsewhere"
    parts = [
        f"{' ' * room}  {'▸' if variant.served else ' '} {variant.variant:<{longest}}  {action:<10}",
        "" if deviation is None else f"rel. L2 {float(deviation):.1e}",
        "" if cosine is None else f"cosine {float(cosine):.6f}",
        text_of(variant.accuracy) if "token_agreement" in variant.accuracy else "",
        _coverage(variant),
        "" if variant.judged.passed else "refused",
        "" if variant.error is None else variant.error.code,
    ]
    return "  ".join(p for p in parts if p).rstrip()


def _coverage(variant: VariantOutcome) -> str:
    """`3 of 4 ops, 75 % of weights`; empty where the precision changes nothing of the graph."""
    told = variant.coverage
    if not told:
        return ""
    share = 100 * told["weight_bytes"] // max(1, told["of_weight_bytes"])  # 99.9 % is not all
    what = "matrices" if "token_agreement" in variant.accuracy else "ops"
    return f"{told['nodes']} of {told['of_nodes']} {what}, {share} % of weights"


def _stayed(variant: VariantOutcome) -> list[str]:
    """What is not in the precision, by kind and reason, the most frequent first."""
    kept = list(variant.coverage.get("kept", {}).items())
    more = sum(count for _, count in kept[_KINDS_SHOWN:])
    lines = [f"not converted: {count} × {kind}" for kind, count in kept[:_KINDS_SHOWN]]
    return [*lines, f"not converted: {more} more, for other reasons (--format json)"] if more else lines


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
                "rows": dict(o.rows),
                "error": None if o.error is None else o.error.as_dict(),
                "variants": [
                    {
                        "variant": v.variant,
                        "action": v.action,
                        "served": v.served,
                        "accuracy": dict(v.accuracy),
                        "coverage": dict(v.coverage),
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
