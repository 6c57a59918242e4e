"""Rules about the GPUs that engines of the vLLM backend run on, and what they take of their memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.files.engine_files import (
    EngineFile,
    parameter,
    parameter_field,
    whole_number,
)
from tritonsmith.builder.lint.rules.files.vllm import BACKEND, engines
from tritonsmith.builder.llm.arguments import arguments

_SOURCE = "vllm_backend/src/model.py, _validate_device_config"
_IDS = "GPU_DEVICE_IDS"
_OPT = '"model": "facebook/opt-125m"'
_MODEL_KIND = "instance_group { kind: KIND_MODEL }"
_SHARE = "gpu_memory_utilization"
_MOST_GPUS = 1024  # of one engine that are counted one by one


@dataclass(frozen=True, slots=True)
class _Group:
    """An instance group as the server makes it. kind: MODEL, GPU, CPU, or AUTO where the target's GPUs are not known."""

    index: int | None
    kind: str
    count: int
    gpus: tuple[int, ...]

    @property
    def field(self) -> str | None:
        return None if self.index is None else f"instance_group[{self.index}]"


def _groups(model: Model, context: Context) -> Iterator[_Group]:
    """Without any, Triton makes one of KIND_AUTO; that becomes KIND_GPU where it has GPUs (core, model_config_utils.cc)."""
    known = context.target.gpus
    if not len(model.config.instance_group):
        yield _Group(None, _auto(known), 1, ())
    for index, group in enumerate(model.config.instance_group):
        gpus = tuple(group.gpus)
        kind = {group.KIND_MODEL: "MODEL", group.KIND_GPU: "GPU", group.KIND_CPU: "CPU"}.get(
            group.kind, "AUTO"
        )
        yield _Group(
            index, ("GPU" if gpus else _auto(known)) if kind == "AUTO" else kind, max(1, group.count), gpus
        )


def _auto(gpus: int | None) -> str:
    return "AUTO" if gpus is None else "GPU" if gpus else "CPU"


def world_size(file: EngineFile) -> int:
    """GPUs of one engine that the backend counts."""
    values = file.values
    return whole_number(values.get("tensor_parallel_size")) * whole_number(
        values.get("pipeline_parallel_size")
    )


def _parallel(file: EngineFile) -> str:
    names = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
    return " × ".join(f"{name} {file.values[name]}" for name in names if name in file.values)


@rule(
    "VLLM012",
    "error",
    "load",
    then="the model does not load: the backend takes a KIND_GPU instance to be on one GPU",
    fix="write instance_group { kind: KIND_MODEL }",
    source=_SOURCE,
    bad=f'instance_group {{ kind: KIND_GPU }}\n# 1/model.json\n{{{_OPT}, "tensor_parallel_size": 2}}',
    good=f'{_MODEL_KIND}\n# 1/model.json\n{{{_OPT}, "tensor_parallel_size": 2}}',
    needs="files",
)
def several_gpus_for_one(model: Model, context: Context) -> Iterator[Hit]:
    """An engine of tensor_parallel_size × pipeline_parallel_size GPUs is in an instance group that is not KIND_MODEL."""
    for _, file in engines(model):
        for group in _groups(model, context):
            if world_size(file) > 1 and group.kind == "GPU":
                yield Hit(
                    f"the engine takes {world_size(file)} GPUs ({_parallel(file)}), in an instance on one",
                    group.field and f"{group.field}.kind",
                    f"KIND_{group.kind}",
                )


@rule(
    "VLLM013",
    "error",
    "load",
    then="the engine does not start",
    fix="lower it to the GPUs that there are, or name a target with more",
    source="vllm/config/parallel.py, ParallelConfig; vllm/engine/arg_utils.py",
    bad=f'{_MODEL_KIND}\n# 1/model.json\n{{{_OPT}, "tensor_parallel_size": 4}}\n# target with 2 GPUs',
    good=f'{_MODEL_KIND}\n# 1/model.json\n{{{_OPT}, "tensor_parallel_size": 2}}\n# target with 2 GPUs',
    needs="gpus",
)
def more_gpus_than_there_are(model: Model, context: Context) -> Iterator[Hit]:
    """An engine of the vLLM backend takes more GPUs than the target has."""
    known = context.target.gpus
    for _, file in engines(model) if known else ():
        needed = world_size(file) * whole_number(file.values.get("data_parallel_size"))
        # Ray's workers may be on other machines.
        if known is not None and needed > known and file.values.get("distributed_executor_backend") != "ray":
            key = next(name for name in _PARALLEL if whole_number(file.values.get(name)) > 1)
            yield file.hit(
                f"the engine takes {needed} GPUs ({_parallel(file)}), and the target has {known}", key, needed
            )


_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def _ids(text: str) -> str:
    return (
        f'{_MODEL_KIND}\nparameters {{ key: "{_IDS}" value {{ string_value: "{text}" }} }}\n# 1/model.json\n'
    )


@rule(
    "VLLM014",
    "error",
    "load",
    then="the model does not load",
    fix="name each GPU once, as many as the engine takes: 0,1",
    source=_SOURCE,
    bad=_ids("0,0") + f'{{{_OPT}, "tensor_parallel_size": 2}}',
    good=_ids("0,1") + f'{{{_OPT}, "tensor_parallel_size": 2}}',
    needs="files",
)
def wrong_device_ids(model: Model, context: Context) -> Iterator[Hit]:
    """GPU_DEVICE_IDS is no list of different GPUs of the target, or not as many as the engine takes."""
    for _, file in engines(model):
        text = parameter(model, _IDS)
        if not text:
            continue
        place = parameter_field(_IDS)
        try:
            gpus = [int(part.strip()) for part in text.split(",")]
        except ValueError:
            yield Hit(f"{_IDS} is no list of numbers with commas", place, text)
            continue
        known = context.target.gpus
        if any(gpu < 0 for gpu in gpus) or len(set(gpus)) < len(gpus):
            yield Hit(f"{_IDS} has a negative number or one twice", place, text)
        elif world_size(file) > 1 and len(gpus) != world_size(file):
            yield Hit(
                f"{_IDS} has {len(gpus)}, and the engine takes {world_size(file)} ({_parallel(file)})",
                place,
                text,
            )
        elif known is not None and max(gpus) >= known:
            yield Hit(f"{_IDS} names GPU {max(gpus)}, and the target has {known}", place, text)
        elif all(group.kind == "GPU" for group in _groups(model, context)):
            yield Hit(f"{_IDS} is read of KIND_MODEL instances alone", place, text, severity="warning")


def _device_ids(model: Model) -> tuple[int, ...]:
    parts = (parameter(model, _IDS) or "").split(",")
    return tuple(dict.fromkeys(int(part) for part in parts if re.fullmatch(r"\s*\d{1,6}\s*", part)))


def _shares(model: Model, context: Context) -> Mapping[int, float]:
    """GPU → the share of its memory that the newest served version's engines take, all instances together."""
    taken: Counter[int] = Counter()
    for _, file in list(engines(model))[-1:]:
        share = file.values.get(_SHARE, arguments(BACKEND, context.target.release)[_SHARE].default)
        if (
            isinstance(share, bool)
            or not isinstance(share, int | float)
            or file.values.get("kv_cache_memory_bytes")
        ):
            continue
        for group in _groups(model, context):
            for gpu in _gpus_of(group, model, file, context):
                taken[gpu] += share * group.count  # type: ignore[assignment]
    return taken


def _gpus_of(group: _Group, model: Model, file: EngineFile, context: Context) -> tuple[int, ...]:
    if group.kind == "CPU" or context.target.gpus == 0:
        return ()
    if group.kind == "MODEL":
        return _device_ids(model) or tuple(range(min(world_size(file), _MOST_GPUS)))
    return group.gpus or tuple(range(context.target.gpus or 1))


@rule(
    "VLLM015",
    "error",
    "load",
    then="the engine that is loaded last finds less free memory than its share and does not start",
    fix=f"lower {_SHARE}, so that the shares of a GPU are at most 1 together, or spread the models over GPUs",
    source="vllm/v1/worker/utils.py, request_memory; vllm_backend/ci/L0_backend_vllm/vllm_backend/test.sh",
    bad=f'instance_group {{ kind: KIND_MODEL count: 2 }}\n# 1/model.json\n{{{_OPT}, "{_SHARE}": 0.6}}',
    good=f'{_MODEL_KIND}\n# 1/model.json\n{{{_OPT}, "{_SHARE}": 0.6}}',
    needs="files",
)
def shares_above_one(model: Model, context: Context) -> Iterator[Hit]:
    """The vLLM engines of a GPU take more than its memory, over all instances and models of the repository."""
    taken = _shares(model, context)
    before: Counter[int] = Counter()
    names: list[str] = []
    if taken and context.target.flag("model-control-mode")[-1:] != ("explicit",):
        for name, other in sorted(context.repository.models.items()):
            if name >= model.name or other.config is None or not (shares := _shares(other, context)):
                continue
            before.update(shares)
            names.append(name)
    for gpu, share in taken.items():
        together = before[gpu] + share
        if before[gpu] > 1 + 1e-9 or together <= 1 + 1e-9:
            continue
        _, file = list(engines(model))[-1]
        alone = share > 1 + 1e-9
        others = "" if alone else f", {', '.join(names)} {before[gpu]:g} of it"
        yield Hit(
            f"the engines of {model.name} take {share:g} of GPU {gpu}{others}: {share if alone else together:g} together",
            seen=file.values.get(_SHARE, "vLLM's default"),
            file=file.path,
            line=file.line_of(_SHARE),
            severity=None if alone else "warning",  # a server may load some of a repository's models alone
        )
        return


@rule(
    "VLLM016",
    "warning",
    "silent",
    then="each instance is an engine with weights and KV cache of its own; vLLM batches in one as well",
    fix="count: 1, and raise max_num_seqs",
    source=f"{_SOURCE}; vllm_backend/samples/model_repository/vllm_model/config.pbtxt",
    bad=f'instance_group {{ kind: KIND_MODEL count: 2 }}\n# 1/model.json\n{{{_OPT}, "{_SHARE}": 0.4}}',
    good=f'instance_group {{ kind: KIND_MODEL count: 1 }}\n# 1/model.json\n{{{_OPT}, "{_SHARE}": 0.8}}',
    needs="config",
)
def several_engines(model: Model, context: Context) -> Iterator[Hit]:
    """Several instances of the vLLM backend are on the same GPUs."""
    groups: list[Any] = list(_groups(model, context)) if model.config.backend == BACKEND else []
    for group in groups:
        if group.count > 1 and group.kind != "CPU":
            yield Hit(f"{group.count} engines on the same GPUs", f"{group.field}.count", group.count)
