"""RunResult → everything that the report's template prints, and the flat rows of its CSV; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tritonsmith.perf.report import charts, numbers
from tritonsmith.perf.report.cells import Cell, common_reasons
from tritonsmith.perf.report.columns import (
    Column,
    Place,
    Point,
    cells_of,
    columns,
    columns_in,
    measured_columns,
    rate_of,
    verdict_point,
)
from tritonsmith.perf.report.page.grid import grid_of
from tritonsmith.perf.report.page.members import held_up_by, shown_compositions
from tritonsmith.perf.report.page.next_step import next_steps
from tritonsmith.perf.report.page.standing import TAGS, one_line_of, standing_of
from tritonsmith.perf.report.page.trust import trust_of
from tritonsmith.perf.report.page.why import what_next, why_winner
from tritonsmith.perf.report.svg.pareto import front_of
from tritonsmith.perf.stats import Estimate
from tritonsmith.perf.sweep.judge.words import notes_of_arms
from tritonsmith.perf.sweep.plan import Arm, config_path
from tritonsmith.perf.sweep.run_record import RunResult, final_rounds

TABLES: Sequence[Place] = ("page", "summary", "all")
HEADLINE = {
    "winner": "Winner",
    "depends": "It depends on the load",
    "keep": "Keep the current config",
    "equivalent": "Equivalent",
    "undecided": "Undecided",
    "nothing_fits": "Nothing meets the constraints",
    "failed": "Failed",
}

PAGE_ROWS = 600
MARKDOWN_ROWS, MARKDOWN_CELLS = 150, 600
"""A comment on a pull request takes 65,536 characters."""


def view_of(run: RunResult) -> dict[str, Any]:
    """The template's variables."""
    cells = cells_of(run)
    point = verdict_point(run)
    arms = charts.shown_arms(run)
    shown = {place: measured_columns(run, cells, place) for place in TABLES}
    rows, standing = table(run, cells, shown, _best(run, PAGE_ROWS)), standing_of(run, cells)
    few = {arm.id for arm in _best(run, MARKDOWN_ROWS)}
    hidden = sum(not arm.baseline for arm in run.arms) - sum(not arm.baseline for arm in arms)
    labels = {arm.id: arm.label for arm in run.arms}
    of_language = run.spec.osl is not None  # Triton counts a whole answer as one inference, batched by none
    told_by_map = notes_of_arms(run.spec, labels, run.verdict.points, run.verdict.broken)
    return {
        "title": f"Sweep of {run.spec.model}",
        "run": run,
        "verdict": run.verdict,
        "sentence": sentence_below_badge(run.verdict.sentence),
        "headline": HEADLINE[run.verdict.outcome],
        "point": point,
        "where": run.spec.where_words(point),
        "facts": facts_line(run),
        "because": why_winner(run, cells),
        "why": why_sentence(run, cells, point),
        "next": what_next(run, cells),
        "held_up": held_up_by(run),
        "members": shown_compositions(run),
        "notes": [n for n in run.verdict.notes if not standing or n not in told_by_map],
        "alarms": alarms(run),
        "standing": standing,
        "folded": standing.folded[: MARKDOWN_CELLS // len(standing.columns)] if standing else (),
        "grid": grid_of(run),
        "steps": next_steps(run),
        "legend": charts.legend(run),
        "hidden": hidden,
        "charts": {
            "forest": charts.forest(run, point),
            **_load_charts(run, cells),
            "server": None if of_language else charts.server_time(run, cells, point),
            "batches": None if of_language else charts.batch_sizes(run, cells, point),
        },
        "cost_charts": [
            (column.chart, chart)
            for column in shown["page"]
            if column.chart and (chart := charts.cost_chart(run, cells, point, column))
        ],
        "columns": shown,
        "server_parts": [name for name, _ in charts.SERVER_PARTS],
        "page_rows": rows,
        "rows_in_all": len(run.arms) * len(run.spec.concurrency),
        "best": [row for row in rows if row["concurrency"] == point and row["arm"].id in few],
        "all_points": [row for row in rows if row["arm"].id in few],
        "trust": trust_of(run),
        "reasons": common_reasons(run),
        "environment": environment_rows(run),
        "reproduce": reproduce(run),
        "winner_config": winner_config(run),
        "number": numbers,
    }


def _load_charts(run: RunResult, cells: charts.Cells) -> dict[str, str | None]:
    """By load; a search for the highest rate has no load points but its probes."""
    none: dict[str, str | None] = dict.fromkeys(
        ("probes", "throughput", "p50", "p99", "trade_off", "tokens", "ttft", "itl")
    )
    if run.spec.slo_p99_ms is not None:
        return none | {"probes": charts.probes(run)}
    if run.spec.osl is not None:
        return none | {
            "tokens": charts.throughput(run, cells),
            "ttft": charts.latency(run, cells, "ttft_p50"),
            "itl": charts.latency(run, cells, "itl_p50"),
        }
    return none | {
        "throughput": charts.throughput(run, cells),
        "p50": charts.latency(run, cells, "p50"),
        "p99": charts.latency(run, cells, "p99"),
        "trade_off": charts.trade_off(run, cells),
    }


def sentence_below_badge(sentence: str) -> str:
    """`Tie: no arm …` → `No arm …`: the badge above it has said the first word."""
    head, colon, rest = sentence.partition(": ")
    if not colon or head not in HEADLINE.values():
        return sentence
    is_name = "_" in rest.partition(" ")[0]  # max_batch_size is not spelt Max_batch_size
    return rest if is_name else rest[:1].upper() + rest[1:]


def facts_line(run: RunResult) -> list[str]:
    """What was measured, in a few numbers."""
    requests = sum(t.summary.requests for t in run.trials if t.summary)
    environment = run.environment
    points = len(run.spec.concurrency)
    loads = f"{points} load point{'s' if points > 1 else ''}"
    if run.spec.slo_p99_ms is not None:
        loads = run.spec.where_words(0).removeprefix("at ")
    return [
        f"{len(run.arms)} arms × {loads} × {_rounds_words(run)}",
        f"{requests:,} requests",
        f"{run.wall_s:.0f} s",
        f"Triton {environment.get('server_version', '?')} ({environment.get('server', '?')})",
        str(environment.get("started", ""))[:16].replace("T", " ") + " UTC",
    ]


def _rounds_words(run: RunResult) -> str:
    """`4 rounds + 6 settling`: the rounds of few arms that settled or confirmed a lead are counted apart."""
    confirming, settling = final_rounds(run.trials)
    usual = {result.trial.round for result in run.trials} - settling - confirming
    words = f"{len(usual)} round{'' if len(usual) == 1 else 's'}"
    words += f" + {len(settling)} settling" if settling else ""
    return words + (f" + {len(confirming)} confirming" if confirming else "")


def alarms(run: RunResult) -> list[str]:
    """What must be read before any number: failures, refusals, a run that did not come to its end."""
    found = []
    if not run.complete:
        found.append(f"This run did not come to its end: {run.stop_reason}.")
    failures: dict[str, int] = {}
    requests = 0
    for trial in run.trials:
        if trial.summary is not None:
            requests += trial.summary.requests
            for reason, count in trial.summary.failures.items():
                failures[reason] = failures.get(reason, 0) + count
    if failures:
        total = sum(failures.values())
        worst = max(failures, key=lambda r: failures[r])
        found.append(f"{total:,} of {requests:,} requests failed; most often: {worst} ({failures[worst]:,}).")
    labels = {arm.id: arm.label for arm in run.arms}
    found += [
        f"{labels[arm]}: does not count, {one_line_of(error)}."
        for arm, error in run.arm_errors.items()
        if arm not in run.verdict.broken  # the verdict's notes tell of those
    ]
    lost = [t for t in run.trials if t.error is not None]
    if lost:
        found.append(
            f"{len(lost)} trial{'s' if len(lost) > 1 else ''} failed; the first: {one_line_of(lost[0].error or '')}."
        )
    return found


def why_sentence(run: RunResult, cells: charts.Cells, point: int) -> str | None:
    """What the server's own counters say about the best arm beside the current config."""
    arm_id = run.verdict.arm_id
    ours = cells.get((arm_id, point)) if arm_id else None
    base = next((cells.get((a.id, point)) for a in run.arms if a.baseline), None)
    if ours is None or base is None or ours.server is None or base.server is None or run.spec.osl is not None:
        return None
    label = next(arm.label for arm in run.arms if arm.id == arm_id)
    a, b = ours.server, base.server
    text = (
        f"In the server, a request of {label} waited {numbers.milliseconds(a.queue_ns)} ms in the queue "
        f"(current config {numbers.milliseconds(b.queue_ns)} ms) and computed for "
        f"{numbers.milliseconds(a.total_ns - a.queue_ns)} ms "
        f"(current {numbers.milliseconds(b.total_ns - b.queue_ns)} ms)"
    )
    if a.mean_batch is not None and b.mean_batch is not None:
        text += f", in batches of {a.mean_batch:.1f} on average (current {b.mean_batch:.1f})"
    return text + "."


def _best(run: RunResult, rows: int) -> list[Arm]:
    """The A/A pair and as many of the others, the best, as a table of so many rows has room for; in their order."""
    others = charts.by_merit(run, [arm for arm in run.arms if not arm.baseline])
    kept = {arm.id for arm in others[: max(2, rows // len(run.spec.concurrency) - 2)]}
    return [arm for arm in run.arms if arm.baseline or arm.id in kept]


def table(
    run: RunResult, cells: charts.Cells, shown: Mapping[Place, Sequence[Column]], arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    """One row an arm and load point, load point by load point, ready to print; `shown` of a row: place → (text, interval)s."""
    rows = []
    labels = charts.row_labels(run.arms)
    for point in run.spec.concurrency:
        for position, arm in enumerate(arms):
            cell, state = cells.get((arm.id, point)), state_of(run, arm, point)
            of = None if cell is None else Point(run, arm, point, cell, state)
            rows.append(
                {
                    "arm": arm,
                    "label": labels[arm.id],
                    "concurrency": point,
                    "load": run.spec.where_words(point).removeprefix("at "),
                    "first": position == 0,
                    "state": state,
                    "tag": TAGS.get(state, state),
                    "cell": cell,
                    "error": None if cell else why_no_cell(run, arm),
                    "shown": {
                        place: [column.shown(of, place) for column in found if of]
                        for place, found in shown.items()
                    },
                }
            )
    return rows


def state_of(run: RunResult, arm: Arm, point: int) -> str:
    """winner (better, and the verdict's), or how the arm stands there, or baseline, dropped, empty."""
    verdict = run.verdict
    found = verdict.of(arm.id, point)
    if found is None:
        return "dropped" if arm.id in run.dropped else "baseline" if arm.baseline else ""
    if found.outcome == "better" and verdict.outcome == "winner" and arm.id == verdict.arm_id:
        return "winner"
    return "dropped" if found.outcome == "undecided" and arm.id in run.dropped else found.outcome


def why_no_cell(run: RunResult, arm: Arm) -> str:
    """What a table says in place of numbers."""
    return one_line_of(run.arm_errors.get(arm.id, "")) or "not measured"


def environment_rows(run: RunResult) -> list[tuple[str, str]]:
    """Where it was measured."""
    e = run.environment
    memory, size = e.get("memory_bytes"), run.spec.batch_size
    rows = [
        (
            "Model",
            f"{run.spec.model}, version {e.get('model_version') or '?'}, backend {e.get('backend') or '?'}",
        ),
        ("Server", f"Triton {e.get('server_version', '?')}, {e.get('server', '?')}"),
        ("Processor", f"{e.get('cpu', '?')}, {e.get('cores', '?')} cores"),
        ("Memory", f"{memory / 2**30:.0f} GiB" if isinstance(memory, int) else "?"),
        ("System", str(e.get("system", "?"))),
        ("Load average at the start", str(e.get("load_average", "?"))),
        (
            "Client",
            f"tritonsmith {e.get('tritonsmith', '?')}, Python {e.get('python', '?')}, same machine, HTTP",
        ),
        (
            "Requests",
            f"{e.get('payloads', '?')} different ones"
            + (f", {size} inference{'s' if size > 1 else ''} each" if run.spec.osl is None else " a trial"),
        ),
        ("Seed", str(run.spec.seed)),
        ("Started", str(e.get("started", "?"))),
    ]
    if run.spec.load_model is not None:
        rows.insert(1, ("Under load", f"{run.spec.load_model}, of which {run.spec.model} is a part"))
    if run.spec.beside:
        told = ", ".join(f"{name} at concurrency {count}" for name, count in run.spec.beside.items())
        rows.insert(1, ("At work beside it", told))
    return rows


def reproduce(run: RunResult) -> str:
    """The command that was run, or the sweep as YAML for --sweep-spec."""
    import yaml

    command = str(run.environment.get("command") or "")
    spec = run.spec.model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    head = f"{command}\n\n# the same as a file: " if command else ""
    return f"{head}# sweep.yaml, for: tritonsmith sweep DIR --sweep-spec sweep.yaml\n{text}".strip()


def all_settings(arm: Arm) -> dict[str, Any]:
    """Path → value, those of other composing models as `MODEL:path`."""
    others = {
        f"{name}:{path}": v for name, values in arm.other_settings.items() for path, v in values.items()
    }
    return {**arm.settings, **others}


def winner_config(run: RunResult) -> str | None:
    """The settings to put into models.yaml or config.pbtxt, as YAML in Triton's own nesting."""
    if run.verdict.outcome != "winner":
        return None
    import yaml

    arm = next(arm for arm in run.arms if arm.id == run.verdict.arm_id)
    nested = config_path.with_values({}, arm.settings)
    if arm.variant:
        nested = {"serve": arm.variant.removeprefix(f"{run.spec.model}__"), **nested}
    if arm.other_settings:
        nested = {run.spec.model: nested} if nested else {}
        nested |= {name: config_path.with_values({}, values) for name, values in arm.other_settings.items()}
    if not nested:
        return None
    return yaml.safe_dump(nested, sort_keys=False).strip()


def csv_rows(run: RunResult) -> list[dict[str, Any]]:
    """One row an arm and load point, plain numbers in the units that the columns name.

    Of what was compared and never measured (a config that the server refused) the numbers are empty.
    """
    cells = cells_of(run)
    front = set(front_of(cells, rate_of(run)))
    arms = {arm.id: arm for arm in run.arms}
    shown = columns_in("csv", run)
    compared = {(arm, point.concurrency) for point in run.verdict.points for arm in point.arms}
    rows = []
    for arm, point in sorted({*cells, *compared}, key=lambda place: (place[1], place[0])):
        state = state_of(run, arms[arm], point)
        cell = cells.get((arm, point)) or _unmeasured(arm, point)
        of = Point(run, arms[arm], point, cell, state, (arm, point) in front)
        rows.append({name: value for column in shown for name, value in column.fields(of).items()})
    return rows


def _unmeasured(arm: str, point: int) -> Cell:
    empty = {name: Estimate(None, None, "not measured") for name, c in columns().items() if c.of_round}
    return Cell(arm, point, 0, empty, 0, {}, {}, (), None)
