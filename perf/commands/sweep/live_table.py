"""How a race stands, the size of a terminal → the lines of the table that is drawn there while a sweep runs; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from tritonsmith.builder.base.text.shown import one_line
from tritonsmith.builder.base.text.text_layout import cells, narrowed, table
from tritonsmith.perf.report.page.standing import MARKS
from tritonsmith.perf.stats import times_end
from tritonsmith.perf.sweep.live.race import Race, RaceCell, RaceRow

MOST_ROWS = 12
_OTHER_LINES = 8  # what stands above and below the rows
_BAR = 14
# From the richest to the barest: (interval, rounds and state); what fits the terminal first is taken.
_FORMS = (("span", True), ("within", True), ("within", False), ("", True), ("", False))


def live_lines(race: Race, width: int, lines: int) -> list[str]:
    """At most `lines` lines of at most `width` columns."""
    most = max(2, min(MOST_ROWS, lines - _OTHER_LINES))
    shown = race.rows if len(race.rows) <= most else race.rows[: most - 1]
    head = f"{race.model}: × the current config's {race.objective}"
    beneath = [*_more(race, len(shown)), _legend(shown, width)]
    news = f"note: {race.news}" if race.news else ""
    text = [head, *_table(race, shown, width), *beneath, news, race.doing, _time(race, width)]
    return [_cut(one_line(line), width) for line in text if line][:lines]


def _table(race: Race, rows: Sequence[RaceRow], width: int) -> list[str]:
    for points in range(len(race.points), 0, -1):
        for form, is_whole in _FORMS:
            lines = table(_cells_of(race, rows, points, form, is_whole), width, names=(0,))
            if max(map(cells, lines)) <= width:
                return lines
    return table([(row.label,) for row in rows], width, names=(0,))


def _cells_of(
    race: Race, rows: Sequence[RaceRow], points: int, form: str, is_whole: bool
) -> list[tuple[str, ...]]:
    wheres = [_short(where, i == 0) for i, where in enumerate(race.wheres[:points])]
    left_out = [f"+{len(race.points) - points}"] if points < len(race.points) else []
    head = ("", *wheres, *left_out, *(("rounds", "state") if is_whole else ()))
    out = [head]
    for row in rows:
        ends = (str(row.rounds), row.state) if is_whole else ()
        mark = "▶ " if row.state in ("ahead", "settling", "confirming", "winner") else "  "
        shown = [_cell(cell, form) for cell in row.cells[:points]]
        out.append((mark + one_line(row.label), *shown, *([""] if left_out else []), *ends))
    return out


def _short(where: str, is_first: bool) -> str:
    number = where.removeprefix("at concurrency ")
    return number if number == where or not is_first else f"at {number}"


def _cell(cell: RaceCell, form: str) -> str:
    if cell.resolution is not None:
        return f"{'  ' if form else ''}±{_share(cell.resolution)}"
    if cell.outcome is None:
        return ""
    text = f"{MARKS[cell.outcome]} {'' if cell.ratio is None else f'{cell.ratio:.2f}'}".rstrip()
    if cell.ratio is None or cell.high is None or cell.low is None or not form:
        return text
    if form == "span":
        return f"{text} {times_end(cell.low)}–{times_end(cell.high)}"
    return f"{text} ±{_share(cell.high / cell.ratio - 1)}"


def _share(value: float) -> str:
    if value >= 0.995:
        return ">99%"
    return f"{value:.0%}" if value >= 0.095 else f"{value * 100:.1f}%"


def _more(race: Race, shown: int) -> Iterator[str]:
    rest = race.rows[shown:]
    if rest:
        states = [row.state for row in rest]
        kinds = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        yield f"  … {len(rest)} more: {kinds}"


def _legend(rows: Sequence[RaceRow], width: int) -> str:
    seen = {cell.outcome for row in rows for cell in row.cells}
    marks = "  ".join(f"{mark} {outcome}" for outcome, mark in MARKS.items() if outcome in seen)
    pair = "  ± identical configs" if any(cell.resolution is not None for cell in rows[0].cells) else ""
    return marks + pair if cells(marks + pair) <= width else marks


def _time(race: Race, width: int) -> str:
    """`━━━━────  23 of about 40 trials  0:00:21  0:00:09 left`; of a budget it is the time that is known, not the trials."""
    share = race.done / max(1, race.expected)
    if race.has_budget and race.left_s is not None:
        share = race.used_s / max(race.used_s + race.left_s, 1e-9)
    full = round(_BAR * min(1.0, share))
    about = "" if race.has_budget else f" of {race.expected}"
    trials, took = f"{race.done}{about} trials", _clock(race.used_s)
    left = "" if race.left_s is None else f"{'' if race.has_budget else 'about '}{_clock(race.left_s)} left"
    bar = f"{'━' * full}{'─' * (_BAR - full)}"
    forms = ([bar, trials, took, left], [trials, took, left], [trials, left or took], [took])
    texts = ("  ".join(filter(None, form)) for form in forms)
    return next((text for text in texts if cells(text) <= width), took)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _cut(line: str, width: int) -> str:
    return line if cells(line) <= width else narrowed(line, width)
