"""How each arm stands at each load point → the sentence and the notes that people read; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tritonsmith.perf.stats import Ratio, times_end
from tritonsmith.perf.sweep.judge.comparison import ArmVerdict, Outcome, PointVerdict
from tritonsmith.perf.sweep.judge.objective import objective_words
from tritonsmith.perf.sweep.plan import SweepSpec

NOISY = 0.1
"""An A/A pair that differs by more than this share: little can be told on such a machine."""

Labels = Mapping[str, str]

_ELSEWHERE: Mapping[Outcome, str] = {
    "equivalent": "equivalent",
    "undecided": "undecided",
    "outside": "outside the constraints",
    "broken": "broken",
}


def listed(points: Sequence[int]) -> str:
    """`1, 8 and 32`."""
    texts = [str(point) for point in points]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def sentence(
    spec: SweepSpec,
    labels: Labels,
    outcome: str,
    points: Sequence[PointVerdict],
    arm_id: str | None,
    here: PointVerdict | None,
) -> str:
    """The finding. arm_id, here: the arm that it is about, and where it begins."""
    if arm_id is None or here is None:
        return "Keep the current config: no other config was compared with it."
    found = here.arms[arm_id]
    label = labels[arm_id]
    others = elsewhere([p for p in points if p is not here], arm_id)
    tail = f"; {others}" if others else ""
    numbers = _numbers(spec, found.ratio, here)
    if outcome == "winner":
        return f"Winner: {label} gives {numbers}{tail}."
    if outcome == "depends":
        return f"It depends on the load: {label} gives {numbers}{tail}."
    if outcome == "keep":
        closest = "" if numbers is None else f"; the closest, {label}, has {numbers}{tail}"
        is_better = "is shown to be better" if _has_undecided(points) else "is better"
        return f"Keep the current config: no other config {is_better} {_anywhere(spec)}{closest}."
    if outcome == "equivalent":
        return (
            f"Equivalent: no config is better than the current one by {spec.margin:.0%} or more; the highest, {label}, "
            f"has {numbers}{tail}."
        )
    return f"Undecided: {label} shows {numbers}{tail}; {what_decides(found)}."


def what_decides(found: ArmVerdict) -> str:
    """What an undecided arm lacks."""
    if found.why is not None:
        return found.why
    if found.more_rounds is None:
        return "it is so near 1× or the machine so noisy that more rounds would hardly decide"
    return f"about {found.more_rounds:,} more round{'s' if found.more_rounds > 1 else ''} would decide"


def _has_undecided(points: Sequence[PointVerdict]) -> bool:
    return any(one.outcome == "undecided" for point in points for one in point.arms.values())


def _anywhere(spec: SweepSpec) -> str:
    return "at any load" if len(spec.objective_points) > 1 else spec.where_words(spec.objective_points[0])


def _numbers(spec: SweepSpec, ratio: Ratio | None, here: PointVerdict) -> str:
    """`1.34× the current config's throughput at concurrency 1 (95 % interval …)`."""
    where, what = spec.where_words(here.concurrency), objective_words(spec)
    if ratio is None or ratio.value is None:
        return f"no {what} that can be compared {where}"
    text = f"{ratio.value:.2f}× the current config's {what} {where}"
    if ratio.interval is None:
        return text
    between = f"95 % interval {times_end(ratio.interval.low)} to {times_end(ratio.interval.high)}"
    pair = "" if here.resolution is None else f"; identical configs differed by {here.resolution:.1%}"
    return f"{text} ({between}{pair})"


def elsewhere(points: Sequence[PointVerdict], arm_id: str) -> str:
    """`1.10× at 8, 0.80× at 32; equivalent at 4 and 16`: how the arm stands at these load points."""
    by: dict[Outcome, list[PointVerdict]] = {}
    for point in points:
        if arm_id in point.arms:
            by.setdefault(point.arms[arm_id].outcome, []).append(point)
    ratios = {o: [(p.concurrency, p.arms[arm_id].ratio) for p in found] for o, found in by.items()}
    shown = {
        o: ", ".join(
            f"{ratio.value:.2f}× at {at}" for at, ratio in cells if ratio is not None and ratio.value
        )
        for o, cells in ratios.items()
    }
    parts = [text for o, text in shown.items() if o in ("better", "worse") and text]
    for outcome, word in _ELSEWHERE.items():
        if outcome in by:
            parts.append(f"{word} at {listed([p.concurrency for p in by[outcome]])}")
    return "; ".join(parts)


def notes_of_arms(
    spec: SweepSpec, labels: Labels, points: Sequence[PointVerdict], broken: Mapping[str, str]
) -> list[str]:
    """Which arms do not count, and why; what shows each arm at each load point has no need of them."""
    told = [f"Broken: {labels[arm_id]}: {_short(why)}." for arm_id, why in broken.items()]
    for p in points:
        outside = [labels[arm] for arm in p.having("outside")]
        if outside:
            told.append(f"Outside the constraints {spec.where_words(p.concurrency)}: {'; '.join(outside)}.")
    return told


def notes(
    spec: SweepSpec,
    labels: Labels,
    points: Sequence[PointVerdict],
    broken: Mapping[str, str],
    told: str | None,
) -> Iterator[str]:
    """What else must be known to read the sentence, which tells of the arm `told`."""
    yield from notes_of_arms(spec, labels, points, broken)
    missed = [p.concurrency for p in points if not p.current_fits]
    if missed:
        yield f"The current config itself misses the constraints {_at(spec, missed)}."
    for p in points:
        better = [arm for arm in p.having("better") if arm not in broken]
        if p.best in better and p.best != told and told not in p.like_best:
            ratio = p.arms[p.best].ratio
            times = (
                ""
                if ratio is None or ratio.value is None
                else f" with {ratio.value:.2f}× the current config's"
            )
            yield f"The best {spec.where_words(p.concurrency)} is {labels[p.best]}{times}."
    noisy = [p for p in points if p.resolution is not None and p.resolution > NOISY]
    if noisy:
        worst = max(p.resolution or 0.0 for p in noisy)
        yield (
            f"Two identical configs differed by up to {worst:.0%} {_at(spec, [p.concurrency for p in noisy])}: the "
            "machine is too noisy for more there. More rounds or a quiet machine help."
        )


def _at(spec: SweepSpec, points: Sequence[int]) -> str:
    return spec.where_words(points[0]) if len(points) == 1 else f"at concurrency {listed(points)}"


def _short(why: str) -> str:
    return " ".join(why.partition("\nAt:\n")[0].split()).rstrip(";. ")


def no_current(spec: SweepSpec) -> str:
    """The current config gave no value."""
    return "Failed: the current config could not be measured, so nothing can be compared with it."


def all_broken(labels: Labels, broken: Mapping[str, str]) -> str:
    """Nothing else works."""
    first = next(iter(broken), None)
    told = "" if first is None else f"; the first, {labels[first]}: {_short(broken[first])}"
    return f"Failed: nothing can be compared with the current config, every other config is broken{told}."
