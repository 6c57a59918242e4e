"""(SweepSpec, a server with the model as it is) → arms, placement, requests and what earlier runs left."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import TrialError, UsageError
from tritonsmith.builder.llm.contract import VLLM_ARGUMENTS_FILE
from tritonsmith.perf.data import DataOptions, ModelInterface, payloads_from_options
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launches.table import launch_rows
from tritonsmith.perf.server.spec import kind_from_text
from tritonsmith.perf.sweep.judge.propose import words_for
from tritonsmith.perf.sweep.judge.strategy import GENERATION
from tritonsmith.perf.sweep.language import Fresh, fitted, fresh_requests
from tritonsmith.perf.sweep.plan import (
    CLIENT_BATCH,
    Arm,
    ArmPlanner,
    Placement,
    SweepSpec,
    check_budget,
    check_has_settings,
    default_space,
    fitted_to_budget,
    plan_arms,
)
from tritonsmith.perf.sweep.plan.config_path import ENGINE
from tritonsmith.perf.sweep.plan.fingerprint import Content, content_of, digest_of_tree
from tritonsmith.perf.sweep.repeats import with_repeat
from tritonsmith.perf.sweep.run import scratch
from tritonsmith.perf.sweep.run.answers_check import AnswersCheck, TextCheck
from tritonsmith.perf.sweep.run.arm_server import ArmServer, Found, widest
from tritonsmith.perf.sweep.run.beside import BesideLoad
from tritonsmith.perf.sweep.run.options import SweepOptions
from tritonsmith.perf.sweep.run.resume import Earlier, changes, earlier_run
from tritonsmith.perf.wire.payload import InferPayload, digest_of_inputs

Payloads = Mapping[int, Sequence[InferPayload]]
"""Batch size → the requests of it."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """All that stands before the first trial.

    spec:     with a space, also where none was asked for.
    fresh:    of a language model, a trial's own requests.
    notes:    sentences for the report. earlier: the run that is resumed, empty without one.
    changed:  what is not as it was in the earlier run, in words.
    content:  None when nothing is kept, or when the model's files cannot be read.
    refused:  variants that Triton does not load, or that are out of their bounds, with the reason.
    answers:  what each arm's are held against.
    """

    spec: SweepSpec
    planner: ArmPlanner
    arms: tuple[Arm, ...]
    notes: tuple[str, ...]
    placement: Placement
    payloads: Payloads
    fresh: Fresh | None
    beside: BesideLoad | None
    content: Content | None
    earlier: Earlier
    changed: tuple[str, ...]
    environment: Mapping[str, Any]
    refused: Mapping[str, TrialError]
    answers: AnswersCheck | TextCheck


def prepare(spec: SweepSpec, arm_server: ArmServer, options: SweepOptions) -> Preparation:
    """Nothing is written and no config changed until it stands; sets the arm_server's placement.

    Raises what run_sweep raises of UsageError, and TritonsmithError for a model that Triton refuses as it is.
    """
    found = arm_server.look()
    check_has_settings(found.current)
    spec, of_language = fitted(spec, found.interface)
    notes = [options.changes.note] if options.changes is not None and options.changes.note else []
    notes += [
        f"The server had '{name}' loaded with another config than its repository has ({'; '.join(differing)}): the "
        "current config is the repository's, and what was served is put back at the end."
        for name, differing in found.overrides.items()
    ]
    notes += of_language
    if not spec.space and not spec.variants:
        spec = spec.model_copy(update={"space": default_space(found.current, os.cpu_count() or 1)})
        notes.append(f"No settings were named, so these are tried: {words_for_space(spec)}.")
    files = _digests(spec, arm_server, found.current)
    plan = plan_arms(spec, found.current, found.variants, files, found.composing)
    notes += plan.notes
    # Of a search, what stands on the server at once.
    expected = plan.arms if spec.is_grid else plan.arms * (1 + GENERATION // 2)
    if not spec.is_grid:
        notes.append(words_for(spec))
    placement, why = _choose_placement(spec, expected, arm_server, options)
    arm_server.placement = placement
    asked_s, spec = spec.duration_s, fitted_to_budget(spec, len(expected), placement)
    if spec.duration_s != asked_s:
        notes.append(
            f"Measurements last {spec.duration_s:g} s instead of {asked_s:g} s, so that the budget of "
            f"{spec.budget_s:g} s has room for more rounds."
        )
    check_budget(spec, len(expected), placement)
    fresh = fresh_requests(spec, found.interface)
    payloads = _payloads(spec, found, plan.arms, options) if fresh is None else {1: fresh(0)}
    spec, repeats = with_repeat(spec, plan.arms, payloads.values())
    notes += repeats
    notes.append(f"Arms {_PLACEMENT_WORDS[placement]}: {why}.")
    content = _content(spec, arm_server, options, payloads) if options.output is not None else None
    earlier = _earlier(options, content)
    same_as = next((name for name in spec.variants if name in files and files[name] == files[""]), "")
    texts = _text_check(spec, arm_server, plan.arms[0], found.interface, same_as)
    return Preparation(
        spec=spec,
        planner=ArmPlanner(spec, found.current, found.variants, files, found.composing),
        arms=plan.arms,
        notes=tuple(notes),
        placement=placement,
        payloads=payloads,
        fresh=fresh,
        beside=_beside(spec, found),
        content=content,
        earlier=earlier,
        changed=() if content is None else tuple(changes(earlier, content, spec, found.current)),
        environment=_environment(spec, arm_server, options, found, placement, payloads),
        refused={**texts.refused(), **found.refused} if texts is not None else found.refused,
        answers=texts
        or AnswersCheck(
            spec,
            arm_server,
            plan.arms[0],
            found.interface,
            payloads,
            same_as=same_as,
            is_drawn=options.payloads is None and options.data.file is None,
        ),
    )


def _text_check(
    spec: SweepSpec, arm_server: ArmServer, baseline: Arm, model: ModelInterface, same_as: str
) -> TextCheck | None:
    """None of a model that is not asked by tokens."""
    if spec.osl is None:
        return None

    def requests(tokens: int) -> Sequence[InferPayload]:
        fresh = fresh_requests(spec.model_copy(update={"osl": tokens}), model)
        return () if fresh is None else fresh(-1)  # a trial's text would be in a prefix cache

    return TextCheck(spec, arm_server, baseline, requests, same_as)


_PLACEMENT_WORDS: dict[Placement, str] = {
    "side_by_side": "stood side by side",
    "in_place": "were loaded in place, one after the other",
    "auto": "",
}


def words_for_space(spec: SweepSpec) -> str:
    """`instance_group.count=1,2 …`, as --set takes it."""
    return " ".join(f"{path}={','.join(map(str, values))}" for path, values in spec.space.items())


def _choose_placement(
    spec: SweepSpec, expected: Sequence[Arm], arm_server: ArmServer, options: SweepOptions
) -> tuple[Placement, str]:
    if spec.load_model is not None:
        if spec.placement == "side_by_side":
            raise UsageError(
                "the arms of a composing model cannot stand side by side: its ensemble names one model",
                code="no_scratch",
                fix="--placement in_place",
            )
        return "in_place", f"the ensemble {spec.load_model} names one model"
    in_process = not launch_rows()[kind_from_text(options.kind)[0]].stubs
    if spec.max_memory_mib is not None and in_process and spec.placement == "auto":
        return "in_place", "so that the server's memory is that of one arm"
    return scratch.choose_placement(spec.placement, expected, arm_server.source, options.scratch)


def _payloads(spec: SweepSpec, found: Found, arms: Sequence[Arm], options: SweepOptions) -> Payloads:
    """A pool for each batch size of the arms."""
    interface = widest(found.interface, arms)
    sizes = {spec.batch_size, *spec.space.get(CLIENT_BATCH, ())}
    payloads: Payloads
    if options.payloads is not None:
        payloads = {spec.batch_size: options.payloads}
        if sizes != {spec.batch_size}:
            raise UsageError(f"{CLIENT_BATCH} needs data that can be drawn", code="bad_setting")
    else:
        payloads = {
            size: payloads_from_options(
                found.interface if size == spec.batch_size else interface, _data_options(spec, options, size)
            )
            for size in sorted(sizes)
        }
    pool = [payload for some in payloads.values() for payload in some]
    if spec.max_wrong is not None and all(payload.expected is None for payload in pool):
        raise UsageError(
            "answers cannot be checked: the data hold no outputs",
            code="no_expected",
            fix="--data SAMPLES.npz with the right outputs, as `tritonsmith build` keeps them",
        )
    return payloads


def _data_options(spec: SweepSpec, options: SweepOptions, batch: int) -> DataOptions:
    data = options.data
    own = data.file is not None and batch == 1 and CLIENT_BATCH not in spec.space
    return replace(data, batch_size=data.batch_size if own else batch, seed=spec.seed)


def _beside(spec: SweepSpec, found: Found) -> BesideLoad | None:
    if not spec.beside:
        return None
    pools = {
        name: payloads_from_options(model, DataOptions(seed=spec.seed))
        for name, model in found.beside.items()
    }
    return BesideLoad(pools, spec.beside)


def _digests(spec: SweepSpec, arm_server: ArmServer, current: Mapping[str, Any]) -> dict[str, str]:
    """Variant → its files, the model's own under ""; what an engine is told is part of an arm's config instead."""
    if arm_server.source is None or not spec.variants:
        return {}
    told = (VLLM_ARGUMENTS_FILE,) if ENGINE in current else ()
    directories = {"": arm_server.source, **{name: Path(path) for name, path in spec.variants.items()}}
    return {name: digest_of_tree(directory, told) for name, directory in directories.items()}


def _content(
    spec: SweepSpec, arm_server: ArmServer, options: SweepOptions, payloads: Payloads
) -> Content | None:
    """None where the model's files cannot be read, which leaves nothing to know a trial again by."""
    if arm_server.source is None:
        return None
    directories = {name: scratch.model_directory(options.repositories, name) for name in arm_server.others}
    return content_of(
        spec,
        f"{options.kind} {arm_server.server.version}",
        {"": arm_server.source, **directories},
        [payload for some in payloads.values() for payload in some],
        scratch.machine(),
        {
            name: control.model_config(arm_server.url, name)
            for name in arm_server.others
            if name not in spec.composing
        },
    )


def _earlier(options: SweepOptions, content: Content | None) -> Earlier:
    if not options.resume or options.output is None:
        return Earlier()
    if content is None:
        raise UsageError(
            "only a sweep that sees the model's files can be resumed: trials are known by content",
            code="no_content",
            seen=options.kind,
            fix="begin anew without --resume",
        )
    return earlier_run(options.output)


def _environment(
    spec: SweepSpec,
    arm_server: ArmServer,
    options: SweepOptions,
    found: Found,
    placement: Placement,
    payloads: Payloads,
) -> dict[str, object]:
    return scratch.environment(
        {
            "server": options.kind,
            "server_version": arm_server.server.version,
            "model": spec.model,
            "model_version": ", ".join(str(v) for v in found.metadata.get("versions", [])),
            "backend": found.current.get("backend") or found.current.get("platform"),
            "placement": placement,
            "payloads": len(payloads[spec.batch_size]),
            "data": digest_of_inputs(payloads[spec.batch_size]),
            "protocol": "http",
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": options.command,
            **({"members": {n: json_of(c) for n, c in found.members.items()}} if found.members else {}),
        }
    )
