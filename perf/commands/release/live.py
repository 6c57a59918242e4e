"""(live Tritons, a model whose published versions changed) → servers that serve them and answered as recorded, or an error."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tritonsmith.builder.actions.accuracy.accuracy import Bounds, Deviation, compare
from tritonsmith.builder.actions.accuracy.samples import Sample
from tritonsmith.builder.base.errors import ServerError, TrialError
from tritonsmith.builder.base.files.http_ask import (
    ANSWER_LIMIT_BYTES,
    SIGN_IN,
    is_strange,
    no_answer,
    not_triton,
)
from tritonsmith.builder.base.text.console import note
from tritonsmith.builder.publish import Expected, Switched
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.paths import repository_path
from tritonsmith.perf.wire.payload import InferPayload, tensor_from_array
from tritonsmith.perf.wire.rest import RestApi, ask_infer, call, reason

ControlMode = Literal["explicit", "poll", "none"]

_TIMEOUT_S = 30.0
_LOOK_S = 0.1
# A poll that fails is followed by another: one failure seen for so long is the server's last word.
_GIVE_UP_S = 3.0


@dataclass(frozen=True, slots=True)
class LiveRelease:
    """Triton servers that read a destination; implements builder.publish.Release.

    timeout_s: how long one of them may take to load a model.
    """

    targets: Sequence[HttpTarget]
    timeout_s: float = 600.0

    def check(self) -> None:
        """See Release."""
        for target in self.targets:
            reply = call(target, "GET", "/v2/health/live", timeout_s=_TIMEOUT_S)
            if is_strange(reply):
                raise not_triton(target.url, reply)
            if reply.status != 200:
                raise ServerError(
                    f"the server at {target.url} is not live",
                    code="server_unreachable",
                    seen=f"HTTP {reply.status} {reason(reply)}".strip(),
                    fix=SIGN_IN if reply.status in (401, 403) else None,
                )

    def follow(self, switched: Switched) -> str:
        """See Release. Nothing but the model in question is loaded, so other models answer throughout."""
        return "; ".join(self._follow(target, switched) for target in self.targets)

    def forget(self, model: str) -> None:
        """See Release."""
        for target in self.targets:
            # A server that polls sees by itself that the model is gone, one without control cannot be told.
            call(target, "POST", f"{repository_path(model)}/unload", {}, timeout_s=self.timeout_s)

    def _follow(self, target: HttpTarget, switched: Switched) -> str:
        started = time.monotonic()
        model, newest = switched.model, switched.served[-1]
        mode = self._load(target, model)
        if mode == "none":
            note(f"warning: the server at {target.url} neither polls nor loads on request: restart it")
            return f"{target.url} must be restarted"
        self._wait(target, model, tuple(switched.served), mode)
        told = f"{target.url} ({mode}): version {newest} ready in {time.monotonic() - started:.1f} s"
        if switched.expected is None:
            return told
        asked, worst = ask_recorded(target, model, newest, switched.expected)
        return f"{told}, {asked} answers as recorded (relative L2 ≤ {worst.relative_l2:.1e})"

    def _load(self, target: HttpTarget, model: str) -> ControlMode:
        reply = call(target, "POST", f"{repository_path(model)}/load", {}, timeout_s=self.timeout_s)
        if reply.status == 200:
            return "explicit"
        why = reason(reply)
        if "not allowed if polling is enabled" in why:
            return "poll"
        if "load / unload is not allowed" in why:
            return "none"
        forbidden = reply.status in (401, 403)
        raise TrialError(
            f"the server at {target.url} refused to load {model!r}: {why}",
            code="model_refused",
            seen=f"HTTP {reply.status}",
            fix=SIGN_IN if forbidden else None,
        )

    def _wait(self, target: HttpTarget, model: str, served: tuple[int, ...], mode: ControlMode) -> None:
        """Returns when exactly these versions are ready; older ones may still be unloading."""
        deadline = time.monotonic() + self.timeout_s
        failing_since: float | None = None
        while True:
            rows = _index(target, model)
            ready = tuple(sorted(v for v, (state, _) in rows.items() if state == "READY"))
            if ready == served:
                return
            failed = {
                v: r for v, (s, r) in rows.items() if v in served and s == "UNAVAILABLE" and r != "unloaded"
            }
            now = time.monotonic()
            failing_since = (failing_since or now) if failed else None
            patience_s = _GIVE_UP_S if mode == "poll" else 0.0
            if failing_since is not None and now - failing_since >= patience_s:
                version, why = next(iter(failed.items()))
                raise TrialError(
                    f"the server at {target.url} could not load version {version} of {model!r}: {why}",
                    code="model_refused",
                )
            if now > deadline:
                raise TrialError(
                    f"the server at {target.url} did not get {model!r} ready within {self.timeout_s:g} s",
                    code="not_ready",
                    seen=f"versions ready: {', '.join(map(str, ready)) or 'none'}, not {', '.join(map(str, served))}",
                    fix="does it read this destination?"
                    + (" how often does it poll (--repository-poll-secs)?" if mode == "poll" else ""),
                )
            time.sleep(_LOOK_S)


def ask_recorded(target: HttpTarget, model: str, version: int, expected: Expected) -> tuple[int, Deviation]:
    """Sends the recorded requests → (how many answers were compared, the one furthest off).

    The first is sent once more without a version, as clients do. TrialError `smoke_test` when an answer is
    refused, comes from another version, or is further off than its bounds.
    """
    worst: list[Deviation] = []
    samples = expected.samples.samples
    asked = [(sample, str(version)) for sample in samples] + [(samples[0], "")]
    for sample, asked_version in asked:
        outputs, answered = _infer(target, model, asked_version, sample)
        if answered != str(version):
            raise _smoke_failed(target, model, version, f"version {answered} answered in its place")
        for name, reference in sample.outputs.items():
            bounds = Bounds(**expected.bounds[name])
            (deviation,) = compare(
                {name: outputs[name]} if name in outputs else {}, {name: reference}, bounds=bounds
            )
            if not deviation.passed:
                raise _smoke_failed(
                    target,
                    model,
                    version,
                    f"output {name!r} of {sample.label}: {', '.join(deviation.violations)}",
                )
            worst.append(deviation)
    return len(asked), max(worst, key=lambda d: d.relative_l2)


def _infer(target: HttpTarget, model: str, version: str, sample: Sample) -> tuple[dict[str, Any], str]:
    payload = InferPayload(
        model,
        tuple(tensor_from_array(name, array) for name, array in sample.inputs.items()),
        version=version,
        outputs=tuple(sample.outputs),
    )
    # An answer in JSON is a few times as long as its tensors.
    limit_bytes = ANSWER_LIMIT_BYTES + 16 * sum(array.nbytes for array in sample.outputs.values())
    try:
        answer = ask_infer(target, payload, timeout_s=_TIMEOUT_S, limit_bytes=limit_bytes)
    except OSError as error:
        raise no_answer(target.url, error) from error
    if answer.error is not None:
        raise _smoke_failed(target, model, version, answer.error)
    return dict(answer.outputs), answer.model_version


def _smoke_failed(target: HttpTarget, model: str, version: int | str, why: str) -> TrialError:
    return TrialError(
        f"the smoke test of {model!r} version {version or 'unnamed'} at {target.url} failed: {why}",
        code="smoke_test",
    )


def _index(target: HttpTarget, model: str) -> dict[int, tuple[str, str]]:
    """Version → (state, reason) of one model."""
    rows = [row for row in RestApi(target).repository_index() if row["name"] == model]
    return {
        int(row["version"]): (row.get("state", ""), row.get("reason", ""))
        for row in rows
        if row.get("version", "").isdecimal()
    }
