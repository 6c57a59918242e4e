"""Before an arm is measured: a few requests to it and to the current config → the same answers, or a TrialError.

A config that answers something else is another model, however fast it is. An arm gets the first requests of the pool,
once each; so did the current config, twice, for one that answers two ways itself has no values to be held to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tritonsmith.builder.actions.accuracy.laid_out import LanguageAccuracy, ServedAccuracy, read_accuracy
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.builder.base.files.http_ask import no_answer
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.server import control
from tritonsmith.perf.sweep.answers import ArmText, Tolerance, differs, same_text
from tritonsmith.perf.sweep.plan import Arm, SweepSpec
from tritonsmith.perf.sweep.run.arm_server import ArmServer
from tritonsmith.perf.sweep.trial import ANSWER_TIMEOUT_S, Subject
from tritonsmith.perf.tokens.wire import ask_text
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
MOST_TEXTS, LONGEST_TEXTS_S = 4, 1.0
"""Of a language model, for each arm."""


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


class TextCheck:
    """The same of a language model: how much of the current config's greedy answers an arm gives, which is told and judges
    no arm; and what the build measured of its variants, of which one out of its bounds is out.

    requests: (tokens of an answer) → requests with other texts than any trial's.
    """

    def __init__(
        self,
        spec: SweepSpec,
        arm_server: ArmServer,
        baseline: Arm,
        requests: Callable[[int], Sequence[InferPayload]],
        same_as: str = "",
    ) -> None:
        self._server, self._baseline, self._requests, self._same_as = arm_server, baseline, requests, same_as
        known = {name: read_accuracy(Path(path)) for name, path in spec.variants.items()}
        self._accuracy = {name: None if told is None else told.language for name, told in known.items()}
        self._tokens = spec.osl or 1
        self._payloads = requests(self._tokens)[:MOST_TEXTS]
        self._is_asked = spec.answers == "same"
        self._reference: list[str] | None = None
        self._why_not = ""
        self.shares: dict[str, float | None] = {}
        self.held: dict[str, str | None] = {}
        """As AnswersCheck.held."""

    def refused(self) -> dict[str, TrialError]:
        """Variant → its bound that the build found it out of; none where any answer will do."""
        return {
            name: TrialError(
                f"the build refused it: {'; '.join(told.refused)}",
                code="accuracy_refused",
                fix="--answers any ranks it all the same",
            )
            for name, told in self._accuracy.items()
            if told is not None and told.refused and self._is_asked
        }

    def hold(self, arm: Arm) -> None:
        """See AnswersCheck.hold; TrialError `arm_unanswered` alone."""
        if arm.id in self.held or not self._is_asked or self._why_not:
            return
        self.held[arm.id] = None  # should it end the server, it is not asked again
        if self._reference is None and not self._learn():
            return
        self._server.apply(arm)
        texts, reason = self._ask(arm)
        self._server.check_stubs(arm)
        if not arm.baseline and not any(texts):
            raise TrialError(
                f"none of {len(texts)} request{'s' * (len(texts) != 1)} was answered with a text: "
                f"{reason or 'it was empty'}",
                code="arm_unanswered",
            )
        share = self.shares[arm.id] = same_text(texts, self._reference or ())
        self.held[arm.id] = None if share is None else "" if share == 1 else f"{1 - share:.0%} of the text"

    def _learn(self) -> bool:
        """Ask the current config; of one that is slow shorter answers than the load's."""
        self._why_not = "the server ended when the current config was asked"
        self._server.apply(self._baseline)
        self._ask(self._baseline, most=1)  # some load what they need with their first request
        begun_s = time.monotonic()
        texts, reason = self._ask(self._baseline, most=1)
        took_s = time.monotonic() - begun_s
        if took_s > LONGEST_TEXTS_S:
            self._tokens = max(1, int(self._tokens * LONGEST_TEXTS_S / took_s))
            self._payloads = self._requests(self._tokens)[:MOST_TEXTS]
        if any(texts):
            texts, reason = self._ask(self._baseline)
        self._reference = texts
        self._why_not = (
            "" if any(texts) else f"the current config answers no text: {reason or 'it was empty'}"
        )
        return not self._why_not

    def _ask(self, arm: Arm, most: int = MOST_TEXTS) -> tuple[list[str], str | None]:
        """(the answers to the first requests, in order and one at a time, fewer of an arm that takes long; an error)"""
        subject, texts, error = self._server.subject(arm), [], None
        target, begun_s = HttpTarget(subject.http_url), time.monotonic()
        for payload in self._payloads[:most]:
            try:
                text, reason = ask_text(target, replace(payload, model=subject.target), ANSWER_TIMEOUT_S)
            except TimeoutError:
                text, reason = "", f"none in {ANSWER_TIMEOUT_S:g} s"
            except OSError as failed:
                raise no_answer(target.url, failed) from None
            texts.append("" if reason else text)
            error = error or reason
            if time.monotonic() - begun_s > LONGEST_TEXTS_S / 2:
                break
        return texts, error

    def of_arms(self, arms: Sequence[Arm]) -> dict[str, ArmText]:
        """Arm id → what is known of how it answers."""
        found = {}
        for arm in arms:
            told = self._accuracy.get(arm.variant or self._same_as) or LanguageAccuracy()
            found[arm.id] = ArmText(told.token_agreement, told.perplexity_ratio, self.shares.get(arm.id))
        return found

    def notes(self) -> list[str]:
        """Sentences for the report."""
        found = [
            f"{name}: its accuracy is not known: "
            + (told.note if told else "it was not laid out by `tritonsmith build --variants`")
            for name, told in self._accuracy.items()
            if told is None or told.note
        ]
        if not self._is_asked or self._why_not:
            why = self._why_not or "--answers any"
            return [*found, f"Texts were not compared with the current config's: {why}."]
        if self._reference is not None:
            found.append(
                f"Same text: the share of the current config's greedy answers ({len(self._reference)} of up to "
                f"{self._tokens} tokens) that an arm's own begin with. Sums in another order change some, so no arm is judged "
                "by it."
            )
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
