"""A space too large to measure whole → combinations to measure next, from what was measured so far."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tritonsmith.perf.sweep.plan import Choice, SweepSpec, axes_of


class Proposer(Protocol):
    """Asked for combinations, told what they were worth."""

    def ask(self, count: int) -> list[Choice]:
        """Up to `count` combinations that were not proposed before; fewer when the space is used up."""

    def tell(self, choice: Choice, score: float) -> None:
        """The score of one that was proposed, larger is better."""


def proposer_of(spec: SweepSpec) -> Proposer:
    """Optuna's TPE when it is installed and random was not asked for, else random; seeded by the spec."""
    axes = axes_of(spec)
    if spec.search != "random" and importlib.util.find_spec("optuna") is not None:
        return OptunaProposer(axes, spec.seed)
    return RandomProposer(axes, spec.seed)


def words_for(spec: SweepSpec) -> str:
    """How the space is searched, for the notes."""
    head = f"{min(spec.proposals, spec.combinations)} of {spec.combinations} combinations are proposed"
    if isinstance(proposer_of(spec), OptunaProposer):
        return f"{head} by optuna's TPE (seed {spec.seed}) and measured."
    why = "" if spec.search == "random" else " (optuna is not installed: pip install 'tritonsmith[search]')"
    return f"{head} at random (seed {spec.seed}) and measured{why}."


class RandomProposer:
    """Without replacement, each combination equally likely."""

    def __init__(self, axes: Mapping[str, Sequence[Any]], seed: int) -> None:
        self._axes = axes
        self._total = math.prod(len(values) for values in axes.values())
        self._random = random.Random(seed)
        self._seen: set[tuple[int, ...]] = set()

    def ask(self, count: int) -> list[Choice]:
        """See Proposer."""
        choices: list[Choice] = []
        while len(choices) < count and len(self._seen) < self._total:
            place = tuple(self._random.randrange(len(values)) for values in self._axes.values())
            if place not in self._seen:
                self._seen.add(place)
                choices.append(_choice(self._axes, place))
        return choices

    def tell(self, choice: Choice, score: float) -> None:
        """Luck learns nothing."""


class OptunaProposer:
    """Tree-structured Parzen estimators (Bergstra et al. 2011) over the place of each axis's value."""

    def __init__(self, axes: Mapping[str, Sequence[Any]], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._axes = axes
        self._total = math.prod(len(values) for values in axes.values())
        self._distributions: dict[str, Any] = {
            name: optuna.distributions.IntDistribution(0, len(values) - 1)
            if _is_ordered(values)
            else optuna.distributions.CategoricalDistribution(list(range(len(values))))
            for name, values in axes.items()
        }
        self._trials: dict[tuple[int, ...], Any] = {}
        self._fallback = RandomProposer(axes, seed)

    def ask(self, count: int) -> list[Choice]:
        """See Proposer. A place that TPE proposes again and again gives way to a random new one."""
        choices: list[Choice] = []
        for _ in range(count):
            place, trial = self._new_place()
            if place is None:
                break
            self._trials[place] = trial
            choices.append(_choice(self._axes, place))
        return choices

    def _new_place(self) -> tuple[tuple[int, ...] | None, Any]:
        import optuna

        for _ in range(10):
            trial = self._study.ask(self._distributions)
            place = tuple(int(trial.params[name]) for name in self._axes)
            if place not in self._trials:
                return place, trial
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        while choices := self._fallback.ask(1):
            place = _place(self._axes, choices[0])
            if place not in self._trials:
                self._study.enqueue_trial(dict(zip(self._axes, place, strict=True)))
                return place, self._study.ask(self._distributions)
        return None, None

    def tell(self, choice: Choice, score: float) -> None:
        """See Proposer."""
        trial = self._trials.get(_place(self._axes, choice))
        if trial is not None:
            self._study.tell(trial, score, skip_if_finished=True)


def _choice(axes: Mapping[str, Sequence[Any]], place: tuple[int, ...]) -> Choice:
    return {name: values[at] for (name, values), at in zip(axes.items(), place, strict=True)}


def _place(axes: Mapping[str, Sequence[Any]], choice: Choice) -> tuple[int, ...]:
    return tuple(list(values).index(choice[name]) for name, values in axes.items())


def _is_ordered(values: Sequence[Any]) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return numbers and all(a < b for a, b in itertools.pairwise(values))
