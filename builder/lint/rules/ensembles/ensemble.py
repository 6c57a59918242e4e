"""Rules about an ensemble's own config: what it may hold, and how its steps hang together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import is_ensemble

_CORE = "core/src/model_config_utils.cc"
_IO = (
    'input { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }\n'
    'output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }\n'
)


def _ensemble(steps: str, more: str = "") -> str:
    return f'platform: "ensemble"\n{more}{_IO}ensemble_scheduling {{ step [\n{steps} ] }}'


def _step(inputs: str, outputs: str, model: str = "m") -> str:
    """`x=IN` → a step whose maps are written out."""
    maps = "".join(
        f' {kind} {{ key: "{key}" value: "{value}" }}'
        for kind, pairs in (("input_map", inputs), ("output_map", outputs))
        for key, _, value in (pair.partition("=") for pair in pairs.split())
    )
    return f'  {{ model_name: "{model}" model_version: -1{maps} }}'


ONE_STEP = _ensemble(_step("x=IN", "y=OUT"))


@rule(
    "ENS001",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write ensemble_scheduling with its steps",
    source=f"{_CORE}:1676",
    bad='platform: "ensemble"',
    good=ONE_STEP,
)
def ensemble_without_scheduling(model: Model, context: Context) -> Iterator[Hit]:
    """platform is "ensemble", and there is no ensemble_scheduling."""
    if model.config.platform == "ensemble" and not model.config.HasField("ensemble_scheduling"):
        yield Hit("an ensemble without ensemble_scheduling", "platform", "ensemble")


@rule(
    "ENS002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write at least one step",
    source=f"{_CORE}:192",
    bad='platform: "ensemble"\nensemble_scheduling { }',
    good=ONE_STEP,
)
def ensemble_without_steps(model: Model, context: Context) -> Iterator[Hit]:
    """ensemble_scheduling has no step."""
    if model.config.HasField("ensemble_scheduling") and not len(model.config.ensemble_scheduling.step):
        yield Hit("no step", "ensemble_scheduling", "[]")


@rule(
    "ENS003",
    "error",
    "poll",
    then="the server does not poll the model",
    fix='write platform: "ensemble"',
    source=f"{_CORE}:166",
    bad='backend: "python"\n' + ONE_STEP.replace('platform: "ensemble"\n', ""),
    good=ONE_STEP,
)
def scheduling_without_platform(model: Model, context: Context) -> Iterator[Hit]:
    """ensemble_scheduling is given, and platform is not "ensemble"."""
    if model.config.HasField("ensemble_scheduling") and model.config.platform != "ensemble":
        yield Hit(f"platform is '{model.config.platform}'", "ensemble_scheduling", model.config.platform)


@rule(
    "ENS004",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop backend",
    source=f"{_CORE}:1457",
    bad='backend: "python"\n' + ONE_STEP,
    good=ONE_STEP,
)
def ensemble_with_backend(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has a backend."""
    if model.config.platform == "ensemble" and model.config.backend:
        yield Hit(f"backend is '{model.config.backend}'", "backend", model.config.backend)


@rule(
    "ENS005",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop instance_group: instances belong to the step models",
    source=f"{_CORE}:172",
    bad=ONE_STEP + "\ninstance_group { count: 1 }",
    good=ONE_STEP,
)
def ensemble_with_instances(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has an instance_group."""
    if is_ensemble(model) and len(model.config.instance_group):
        yield Hit("an ensemble has no instances of its own", "instance_group")


@rule(
    "ENS006",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop optimization: it belongs to the step models",
    source=f"{_CORE}:178",
    bad=ONE_STEP + "\noptimization { priority: PRIORITY_MAX }",
    good=ONE_STEP,
)
def ensemble_with_optimization(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has optimization settings."""
    if is_ensemble(model) and model.config.HasField("optimization"):
        yield Hit("an ensemble has nothing to optimise", "optimization")


@rule(
    "ENS007",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop model_warmup: warm the step models up",
    source=f"{_CORE}:184",
    bad=ONE_STEP + '\nmodel_warmup { name: "w" batch_size: 1 }',
    good=ONE_STEP,
)
def ensemble_with_warmup(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has model_warmup."""
    if is_ensemble(model) and len(model.config.model_warmup):
        yield Hit("an ensemble cannot be warmed up", "model_warmup")


@rule(
    "ENS008",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write model_name, input_map and output_map",
    source=f"{_CORE}:95",
    bad=_ensemble('  { model_name: "m" model_version: -1 input_map { key: "x" value: "IN" } }'),
    good=ONE_STEP,
)
def step_incomplete(model: Model, context: Context) -> Iterator[Hit]:
    """A step has no model_name, no input_map or no output_map."""
    for field, step in steps(model):
        missing = [name for name in ("model_name", "input_map", "output_map") if not len(getattr(step, name))]
        if missing:
            yield Hit(
                f"the step '{step.model_name}' has no {' and no '.join(missing)}", field, ", ".join(missing)
            )


@rule(
    "ENS009",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="feed it to a step, or drop it",
    source=f"{_CORE}:205",
    bad=_ensemble(_step("x=IN", "y=OUT"), 'input { name: "EXTRA" data_type: TYPE_FP32 dims: [ 4 ] }\n'),
    good=ONE_STEP,
)
def input_unused(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble input is read by no step."""
    if not _is_judged(model):
        return
    read = _readers(model)
    for index, tensor in enumerate(model.config.input):
        if tensor.name and tensor.name not in read:
            yield Hit(f"no step reads '{tensor.name}'", f"input[{index}].name", tensor.name)


@rule(
    "ENS010",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="map a step's output to it, or drop it",
    source=f"{_CORE}:237",
    bad=_ensemble(_step("x=IN", "y=OUT"), 'output { name: "EXTRA" data_type: TYPE_FP32 dims: [ 4 ] }\n'),
    good=ONE_STEP,
)
def output_unwritten(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble output is written by no step."""
    if not _is_judged(model):
        return
    written, read = _writers(model), _readers(model)
    passed = {tensor.name for tensor in model.config.input} & read.keys()
    for index, tensor in enumerate(model.config.output):
        if tensor.name and tensor.name not in written and tensor.name not in passed:
            yield Hit(f"no step writes '{tensor.name}'", f"output[{index}].name", tensor.name)


@rule(
    "ENS011",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop the entry of output_map, or make the tensor an output",
    source=f"{_CORE}:285",
    bad=_ensemble(_step("x=IN", "y=OUT z=LOST")),
    good=ONE_STEP,
)
def tensor_unused(model: Model, context: Context) -> Iterator[Hit]:
    """A tensor that a step writes is read by no step and is no ensemble output."""
    read = _readers(model)
    outputs = {tensor.name for tensor in model.config.output}
    for name, fields in _writers(model).items():
        if name not in read and name not in outputs:
            yield Hit(f"nothing uses '{name}'", fields[0], name)


@rule(
    "ENS012",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="give one of them a name of its own",
    source=f"{_CORE}:114",
    bad=_ensemble(_step("x=IN", "y=OUT") + ",\n" + _step("x=IN", "y=OUT")),
    good=ONE_STEP,
)
def tensor_written_twice(model: Model, context: Context) -> Iterator[Hit]:
    """Two steps write one ensemble tensor."""
    for name, fields in _writers(model).items():
        for field in fields[1:]:
            if field.split(".output_map")[0] != fields[0].split(".output_map")[0]:
                yield Hit(f"another step writes '{name}' already", field, name)


@rule(
    "ENS013",
    "error",
    "poll",
    then="the server does not poll the model: none of these tensors can ever be there",
    fix="break the cycle",
    source=f"{_CORE}:267",
    bad=_ensemble(_step("x=IN x2=B", "y=A") + ",\n" + _step("x=A", "y=B y2=OUT")),
    good=_ensemble(_step("x=IN", "y=A") + ",\n" + _step("x=A", "y=OUT")),
)
def cycle(model: Model, context: Context) -> Iterator[Hit]:
    """Steps wait for one another's tensors in a circle."""
    if not _is_judged(model):
        return
    written = _writers(model)
    ready = {tensor.name for tensor in model.config.input}
    ready |= {name for name in _readers(model) if name not in written}
    ran = set()
    for field, step in in_turn(model, ready):
        ready |= set(step.output_map.values())
        ran.add(field)
    waiting = next(((field, step) for field, step in steps(model) if field not in ran), None)
    if waiting is not None:
        field, step = waiting
        lacking = sorted(name for name in step.input_map.values() if name not in ready)
        yield Hit(f"the step '{step.model_name}' waits for {', '.join(lacking)} in a circle", field, lacking)


@rule(
    "ENS019",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="give each output a tensor of its own",
    source=f"{_CORE}:114; core/src/ensemble_utils.cc:224",
    bad=_ensemble(_step("x=IN", "y=OUT z=OUT")),
    good=ONE_STEP,
)
def outputs_merged(model: Model, context: Context) -> Iterator[Hit]:
    """Two outputs of one step are mapped to one tensor."""
    for field, step in steps(model):
        seen: dict[str, str] = {}
        for key in sorted(step.output_map):
            value = step.output_map[key]
            if value in seen:
                yield Hit(
                    f"'{seen[value]}' and '{key}' both write '{value}'", f'{field}.output_map["{key}"]', value
                )
            seen.setdefault(value, key)


@rule(
    "ENS026",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="map an output of a step to it, or make it an ensemble input",
    source=f"{_CORE}:237-290",
    bad=_ensemble(_step("x=IN x2=NOWHERE", "y=OUT")),
    good=ONE_STEP,
)
def tensor_from_nowhere(model: Model, context: Context) -> Iterator[Hit]:
    """A step reads a tensor that is no ensemble input and that no step writes."""
    written = _writers(model)
    inputs = {tensor.name for tensor in model.config.input}
    for name, fields in _readers(model).items():
        if name not in written and name not in inputs:
            yield Hit(f"nothing writes '{name}'", fields[0], name)


def steps(model: Model) -> Iterator[tuple[str, Any]]:
    """(field path, step) of each step."""
    for index, step in enumerate(model.config.ensemble_scheduling.step):
        yield f"ensemble_scheduling.step[{index}]", step


def in_turn(model: Model, ready: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """(field path, step) in an order in which they can run, from the tensors that are there; without those that cannot."""
    lacking: dict[str, set[str]] = {}
    readers: dict[str, list[tuple[str, Any]]] = {}
    known = set(ready)
    waiting: deque[tuple[str, Any]] = deque()
    for field, step in steps(model):
        lacking[field] = set(step.input_map.values()) - known
        for name in lacking[field]:
            readers.setdefault(name, []).append((field, step))
        if not lacking[field]:
            waiting.append((field, step))
    while waiting:
        field, step = waiting.popleft()
        yield field, step
        for name in step.output_map.values():
            for reader, its_step in readers.pop(name, ()):
                lacking[reader].discard(name)
                if not lacking[reader]:
                    waiting.append((reader, its_step))


def _readers(model: Model) -> dict[str, list[str]]:
    """Ensemble tensor → fields of the input_map entries that read it."""
    return _mapped(model, "input_map")


def _writers(model: Model) -> dict[str, list[str]]:
    """Ensemble tensor → fields of the output_map entries that write it."""
    return _mapped(model, "output_map")


def _mapped(model: Model, kind: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for field, step in steps(model):
        entries = getattr(step, kind)
        for key in sorted(entries):
            found.setdefault(entries[key], []).append(f'{field}.{kind}["{key}"]')
    return found


def _is_judged(model: Model) -> bool:
    return bool(model.config.HasField("ensemble_scheduling") and len(model.config.ensemble_scheduling.step))
