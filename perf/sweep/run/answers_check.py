"""Before an arm is measured: a few requests to it and to the current config → the same answers, or a TrialError.

A config that answers something else is another model, however fast it is. An arm gets the first requests of the pool,
once each; so did the current config, twice, for one that answers two ways itself has no values to be held to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.actions.accuracy.laid_out import ServedAccuracy, read_accuracy
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.builder.base.files.http_ask import no_answer
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.answers import Tolerance, differs
from tritonsmith.perf.sweep.plan import Arm, SweepSpec
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.trial import Subject
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import Answer, InferPayload
from tritonsmith.perf.wire.rest import ask_infer
from tritonsmith.perf.wire.target import KEPT_LIMIT_BYTES

MOST_REQUESTS = 8
# A slow model is not asked eight times by each of two hundred arms.
LONGEST_S = 2.0
FIRST_TIMEOUT_S = 30.0
"""Some load what they need with their first request."""
_COUNTED_WITHIN_S = 0.25


class AnswersCheck:
    """The current config's answers, and what became of the arms that were held against them.

    model:    the one that gets the load. payloads: batch size → the requests of it.
    same_as:  the variant whose files the model's own are; empty when that is none.
    is_drawn: the requests' values are made up.
    """

    def __init__(
        self,
        spec: SweepSpec,
        arm_server: ArmServer,
        baseline: Arm,
        model: ModelInterface,
        payloads: Mapping[int, Sequence[InferPayload]],
        same_as: str = "",
        is_drawn: bool = False,
    ) -> None:
        self._spec = spec
        self._server = arm_server
        self._baseline = baseline
        self._model = model
        self._payloads = payloads
        self._is_drawn = is_drawn
        self._same_as = same_as
        self._bounds = {name: _bounds_of(name, Path(path)) for name, path in spec.variants.items()}
        self._reference: dict[int, list[Answer]] | None = None
        self._why_not = _why_not_compared(model) if spec.answers == "same" else "--answers any"
        self._why_not_values = ""
        self.held: dict[str, str | None] = {}
        """Arm id → what its answers differ by; empty where by nothing, None where there was nothing to compare."""

    def hold(self, arm: Arm) -> None:
        """The first time for each arm. Raises TrialError `answers_differ` or `arm_unanswered`, what applying it in
        place raises, and ServerError when nothing answers any more."""
        if arm.id in self.held or not self._is_known():
            return
        self.held[arm.id] = None  # should it end the server, it is not asked again
        self._server.apply(arm)
        size = arm.batch_size or self._spec.batch_size
        assert self._reference is not None
        reference = self._reference.get(size, [])
        subject = self._server.subject(arm)
        answers = _ask(subject, self._payloads[size][: len(reference)])
        self._server.check_stubs(arm)
        if _caches(arm) and not _caches(self._baseline):
            _check_cache(self._server.url, subject.model)
        if arm.baseline:
            found = differs(answers, reference, self._model, self._tolerance(arm))
            self._why_not_values = self._why_not_values or found or ""
            self.held[arm.id] = ""
            return
        if not _is_answered(answers, reference):
            return
        values = not self._why_not_values
        found = differs(answers, reference, self._model, self._tolerance(arm), values=values)
        self.held[arm.id] = found or ""
        if found is not None:
            made_up = self._is_drawn and arm.variant and self._bounds[arm.variant] is not None
            raise TrialError(
                f"answers differ: {found}" + ("; the requests' values are drawn" if made_up else ""),
                code="answers_differ",
                fix="--data with real requests judges a precision by what it was made for"
                if made_up
                else "--rtol 0.01 allows more, --answers any ranks other models, too",
            )

    def _is_known(self) -> bool:
        """Whether there are answers of the current config's to hold others against; it is asked when they are needed."""
        if self._reference is None and not self._why_not:
            self._learn()
        return not self._why_not

    def _learn(self) -> None:
        """Ask the current config, twice."""
        self._why_not = (
            "the server ended when the current config was asked"  # should it, it is not asked again
        )
        self._server.apply(self._baseline)
        subject, tolerance = self._server.subject(self._baseline), Tolerance(self._spec.rtol, self._spec.atol)
        first = {size: _ask(subject, pool) for size, pool in self._payloads.items()}
        self._reference = first
        answers = [answer for some in first.values() for answer in some]
        if all(answer.error is not None for answer in answers):
            reason = answers[0].error if answers else f"none in {FIRST_TIMEOUT_S:g} s"
            self._why_not = f"the current config answers no request: {reason}"
            return
        for size, some in first.items():
            again = _ask(subject, self._payloads[size][: len(some)])
            self._why_not_values = self._why_not_values or differs(again, some, self._model, tolerance) or ""
        self._why_not = ""

    def _tolerance(self, arm: Arm) -> Tolerance:
        """By the bounds of the arm's variant and of the one that the model itself is; else by rtol and atol."""
        known = self._bounds.get(arm.variant)
        if not arm.variant or arm.variant == self._same_as or known is None:
            return Tolerance(self._spec.rtol, self._spec.atol)
        of_model = self._bounds.get(self._same_as)
        return Tolerance(bounds=(known,) if of_model is None else (known, of_model))

    def notes(self) -> list[str]:
        """Sentences for the report."""
        if self._why_not:
            return [f"Answers were not compared with the current config's: {self._why_not}."]
        if self._reference is None:
            return []
        same = sum(differs == "" for differs in self.held.values())
        most = max((len(some) for some in self._reference.values()), default=0)
        found = [
            f"{same} of {len(self.held)} arms gave the current config's answers to {most} requests each."
        ]
        if self._why_not_values:
            found.append(
                "Answers were compared by names, shapes and types alone, for the current config's own differ: "
                f"{self._why_not_values}."
            )
        if any(self.held.values()):
            found.append("An arm whose answers differ is out; --answers any ranks it all the same.")
        return found


def _bounds_of(name: str, directory: Path) -> ServedAccuracy | None:
    """As `build --variants` left them; else those of the precision that the variant's name tells, if it does."""
    known = read_accuracy(directory)
    words = re.split(r"[^a-z0-9]+", name.lower())
    return known or next((ServedAccuracy(word) for word in words if word in precision_rows()), None)


def _why_not_compared(model: ModelInterface) -> str:
    if model.decoupled:
        return f"{model.name} is decoupled and may answer any number of times"
    return f"{model.name} keeps state from request to request" if model.sequence_ids else ""


def _ask(subject: Subject, payloads: Sequence[InferPayload]) -> list[Answer]:
    """The answers to the first payloads, in their order; fewer, or none, of a model that takes long.

    ServerError when nothing answers any more.
    """
    target, answers = HttpTarget(subject.http_url), []
    begun_s = time.monotonic()
    for payload in payloads[:MOST_REQUESTS]:
        try:
            answer = ask_infer(
                target,
                replace(payload, model=subject.target),
                timeout_s=FIRST_TIMEOUT_S,
                limit_bytes=KEPT_LIMIT_BYTES,
            )
        except TimeoutError:
            break
        except OSError as error:
            raise no_answer(target.url, error) from None
        answers.append(answer)
        if time.monotonic() - begun_s > LONGEST_S:
            break
    return answers


def _is_answered(answers: Sequence[Answer], reference: Sequence[Answer]) -> bool:
    """Whether there are two answers to compare; TrialError when the arm answers nothing of what the current config does."""
    errors = [a.error for a, r in zip(answers, reference, strict=False) if r.error is None]
    if errors and None not in errors:
        raise TrialError(
            f"none of {len(errors)} request{'s' * (len(errors) != 1)} was answered: {errors[0]}",
            code="arm_unanswered",
        )
    return bool(errors)


def _caches(arm: Arm) -> bool:
    return bool(arm.config.get("response_cache", {}).get("enable", False))


def _check_cache(url: str, model: str) -> None:
    """TrialError where the config asks for a response cache and the server has none, of which Triton says nothing."""
    deadline_s = time.monotonic() + _COUNTED_WITHIN_S
    while True:
        rows = [row.get("inference_stats", {}) for row in control.model_statistics(url, model)]
        looked_up = sum(
            int(row.get(name, {}).get("count", 0)) for row in rows for name in ("cache_hit", "cache_miss")
        )
        if looked_up:
            return
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.01)
    if any(int(row.get("success", {}).get("count", 0)) for row in rows):
        raise TrialError(
            "response_cache is enabled, and the server was started without a cache: it counts no hit and no miss",
            code="no_response_cache",
            fix="start it with --cache-config=local,size=BYTES",
        )
