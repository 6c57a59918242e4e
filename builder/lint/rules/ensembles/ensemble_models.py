"""Rules about an ensemble and the models that its steps name: they must be there, and fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tritonsmith.builder.base.errors import did_you_mean
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import model_dims, same_dims, type_name
from tritonsmith.builder.lint.rules.ensembles.ensemble import ONE_STEP, in_turn, steps

_ENSEMBLE = "core/src/ensemble_utils.cc"
_MANAGER = "core/src/model_repository_manager.cc"


@rule(
    "ENS014",
    "error",
    "load",
    then="the ensemble does not load",
    fix="put the model into the repository, or correct the name",
    source=f"{_MANAGER}:2156",
    bad=ONE_STEP.replace('"m"', '"absent"'),
    good=ONE_STEP,
    needs="files",
)
def step_model_absent(model: Model, context: Context) -> Iterator[Hit]:
    """A step names a model that is not in the repository."""
    for field, step in steps(model):
        if step.model_name and not step.model_namespace and _step_model(step, context) is None:
            known = {name for repository in context.repositories for name in repository.models}
            yield Hit(
                f"there is no model '{step.model_name}' in the repository",
                f"{field}.model_name",
                step.model_name,
                fix=did_you_mean(step.model_name, known),
            )


@rule(
    "ENS015",
    "error",
    "load",
    then="the ensemble does not load",
    fix="write model_version: -1 for the newest, or a version that the model serves",
    source=f"{_MANAGER}:1907; seen live on 2.51.0",
    bad=ONE_STEP.replace("-1", "7"),
    good=ONE_STEP,
    needs="files",
)
def step_version_absent(model: Model, context: Context) -> Iterator[Hit]:
    """A step names a version that the model does not have or does not serve."""
    for field, step, other in _step_models(model, context):
        served = [version.number for version in other.selected]
        if step.model_version != -1 and other.versions and step.model_version not in served:
            left_out = "model_version is left out and means 0; " if step.model_version == 0 else ""
            yield Hit(
                f"{left_out}'{step.model_name}' serves version {', '.join(map(str, served)) or 'none'}",
                f"{field}.model_version",
                step.model_version,
            )


@rule(
    "ENS016",
    "error",
    "load",
    then="the ensemble does not load",
    fix="use an input of the step's model",
    source=f"{_ENSEMBLE}:141",
    bad=ONE_STEP.replace('key: "x"', 'key: "absent"'),
    good=ONE_STEP,
    needs="files",
)
def input_map_key(model: Model, context: Context) -> Iterator[Hit]:
    """A key of input_map is no input of the step's model."""
    yield from _map_keys(model, context, "input", "input_map")


@rule(
    "ENS017",
    "error",
    "load",
    then="the ensemble does not load",
    fix="map it, or make it optional in its model",
    source=f"{_ENSEMBLE}:173",
    bad=ONE_STEP + "  # m also has the input z",
    good=ONE_STEP,
    needs="files",
)
def input_unmapped(model: Model, context: Context) -> Iterator[Hit]:
    """A required input of a step's model is not mapped."""
    for field, step, other in _step_models(model, context):
        for tensor in other.config.input:
            if tensor.name not in step.input_map and not tensor.optional and len(step.input_map):
                yield Hit(
                    f"the input '{tensor.name}' of '{step.model_name}' is not mapped",
                    f"{field}.input_map",
                    ", ".join(sorted(step.input_map)),
                )


@rule(
    "ENS018",
    "error",
    "load",
    then="the ensemble does not load",
    fix="use an output of the step's model",
    source=f"{_ENSEMBLE}:194",
    bad=ONE_STEP.replace('key: "y"', 'key: "absent"'),
    good=ONE_STEP,
    needs="files",
)
def output_map_key(model: Model, context: Context) -> Iterator[Hit]:
    """A key of output_map is no output of the step's model."""
    yield from _map_keys(model, context, "output", "output_map")


@rule(
    "ENS020",
    "error",
    "load",
    then="the ensemble does not load",
    fix="convert the tensor in a step between, or correct a data_type",
    source=f"{_ENSEMBLE}:95",
    bad=ONE_STEP.replace('"IN" data_type: TYPE_FP32', '"IN" data_type: TYPE_INT32'),
    good=ONE_STEP,
    needs="files",
)
def type_differs(model: Model, context: Context) -> Iterator[Hit]:
    """A tensor's data type differs between those who write and read it."""
    for name, first, other in _disagreements(model, context):
        if first.data_type != other.data_type:
            yield Hit(
                f"'{name}' is {type_name(first.data_type)} by {first.owner} "
                f"and {type_name(other.data_type)} by {other.owner}",
                other.field,
                type_name(other.data_type),
            )


@rule(
    "ENS021",
    "error",
    "load",
    then="the ensemble does not load",
    fix="make the dims equal; a step that does not batch has the ensemble's batch as its first dim",
    source=f"{_ENSEMBLE}:112",
    bad=ONE_STEP.replace('"IN" data_type: TYPE_FP32 dims: [ 4 ]', '"IN" data_type: TYPE_FP32 dims: [ 5 ]'),
    good=ONE_STEP,
    needs="files",
)
def shape_differs(model: Model, context: Context) -> Iterator[Hit]:
    """A tensor's shape differs between those who write and read it, batch dimension included."""
    for name, first, other in _disagreements(model, context):
        if not same_dims(first.dims, other.dims) and not same_dims(first.full_dims, other.full_dims):
            yield Hit(
                f"'{name}' is {list(first.full_dims)} by {first.owner} "
                f"and {list(other.full_dims)} by {other.owner}",
                other.field,
                list(other.full_dims),
            )


@rule(
    "ENS022",
    "error",
    "load",
    then="the ensemble does not load",
    fix="lower the ensemble's max_batch_size, or raise the step model's",
    source=f"{_ENSEMBLE}:300",
    bad="max_batch_size: 16\n" + ONE_STEP + "  # m has max_batch_size 8",
    good="max_batch_size: 8\n" + ONE_STEP,
    needs="files",
)
def batch_above_step(model: Model, context: Context) -> Iterator[Hit]:
    """The ensemble's max_batch_size is above a step model's."""
    size = model.config.max_batch_size
    for field, step, other in _step_models(model, context):
        if 0 < other.config.max_batch_size < size:
            yield Hit(
                f"max_batch_size is {size}, that of '{step.model_name}' {other.config.max_batch_size}",
                f"{field}.model_name" if not size else "max_batch_size",
                size,
            )


@rule(
    "ENS023",
    "error",
    "load",
    then="the ensemble does not load: responses of different decoupled models cannot be paired",
    fix="join before the decoupled models, or merge them into one",
    source=f"{_ENSEMBLE}:338",
    bad="# a and b are decoupled; joined reads an output of each",
    good="# a and b are not decoupled",
    needs="files",
)
def decoupled_join(model: Model, context: Context) -> Iterator[Hit]:
    """A step joins tensors that come from different decoupled models."""
    labels: dict[str, int] = {tensor.name: 0 for tensor in model.config.input}
    last = 0
    for field, step in in_turn(model, labels):
        origins = {labels[name] for name in step.input_map.values()}
        if len(origins) > 1:
            yield Hit(
                f"the step '{step.model_name}' joins tensors of different decoupled models",
                field,
                ", ".join(sorted(step.input_map.values())),
            )
            return
        other = _step_model(step, context)
        label = next(iter(origins), 0)
        if other is not None and other.config is not None and other.config.model_transaction_policy.decoupled:
            last += 1
            label = last
        labels.update(dict.fromkeys(step.output_map.values(), label))


@rule(
    "ENS024",
    "error",
    "load",
    then="the ensemble does not load",
    fix="break the circle",
    source=f"{_MANAGER}:2253",
    bad="# in model_repository/pipeline/config.pbtxt\n" + ONE_STEP.replace('"m"', '"pipeline"'),
    good=ONE_STEP,
    needs="files",
)
def ensemble_in_itself(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has itself as a step, directly or through other ensembles."""
    circles = context.repository.circles
    for field, step in steps(model):
        if step.model_name in circles and circles[step.model_name] == circles.get(model.name):
            yield Hit(
                f"'{model.name}' is a step of itself"
                + ("" if step.model_name == model.name else ", through others"),
                f"{field}.model_name",
                step.model_name,
            )


@rule(
    "ENS025",
    "error",
    "load",
    then="with a decoupled step the ensemble does not load; with a sequence step its responses are not cached",
    fix="drop response_cache, or the step",
    source="server/docs/user_guide/response_cache.md:226-232; seen live on 2.51.0",
    bad=ONE_STEP + "\nresponse_cache { enable: true }  # m is decoupled",
    good=ONE_STEP + "\nresponse_cache { enable: true }",
    needs="files",
)
def cache_of_uncacheable(model: Model, context: Context) -> Iterator[Hit]:
    """An ensemble has a response cache, and a step's model cannot be cached."""
    if not model.config.response_cache.enable:
        return
    for _, step, other in _step_models(model, context):
        if other.config.model_transaction_policy.decoupled or other.config.HasField("sequence_batching"):
            decoupled = other.config.model_transaction_policy.decoupled
            yield Hit(
                f"'{step.model_name}' is {'decoupled' if decoupled else 'a sequence model'}",
                "response_cache",
                step.model_name,
                severity=None if decoupled else "warning",
            )


@dataclass(frozen=True, slots=True)
class _Side:
    """One description of an ensemble tensor: the ensemble's own, or a step model's."""

    owner: str
    field: str
    data_type: int
    dims: tuple[int, ...]
    full_dims: tuple[int, ...]


def _side(owner: str, field: str, tensor: Any, dims: list[int], batching: bool) -> _Side:
    full = (-1, *dims) if batching else tuple(dims)
    return _Side(owner, field, tensor.data_type, tuple(dims), full)


def _disagreements(model: Model, context: Context) -> Iterator[tuple[str, _Side, _Side]]:
    """(tensor, its first description, a further one) in the order in which the core meets them."""
    first: dict[str, _Side] = {}
    batching = model.config.max_batch_size > 0
    for kind in ("input", "output"):
        for index, tensor in enumerate(getattr(model.config, kind)):
            side = _side("the ensemble", f"{kind}[{index}]", tensor, model_dims(tensor), batching)
            first.setdefault(tensor.name, side)
    for field, step, other in _step_models(model, context):
        step_batches = other.config.max_batch_size > 0
        for kind in ("input", "output"):
            entries = getattr(step, f"{kind}_map")
            for tensor in getattr(other.config, kind):
                if tensor.name not in entries:
                    continue
                name = entries[tensor.name]
                place = f'{field}.{kind}_map["{tensor.name}"]'
                side = _side(f"'{step.model_name}'", place, tensor, list(tensor.dims), step_batches)
                if name in first:
                    yield name, first[name], side
                else:
                    first[name] = side


def _map_keys(model: Model, context: Context, kind: str, field_name: str) -> Iterator[Hit]:
    for field, step, other in _step_models(model, context):
        names = dict.fromkeys(tensor.name for tensor in getattr(other.config, kind))
        for key in sorted(getattr(step, field_name)):
            if names and key not in names:
                known = ", ".join(list(names)[:20]) + (", …" if len(names) > 20 else "")
                yield Hit(
                    f"'{step.model_name}' has no {kind} '{key}', but {known}",
                    f'{field}.{field_name}["{key}"]',
                    key,
                    fix=did_you_mean(key, names),
                )


def _step_model(step: Any, context: Context) -> Model | None:
    here = context.repository.models.get(step.model_name)
    if here is not None:
        return here
    return next(
        (r.models[step.model_name] for r in context.repositories if step.model_name in r.models), None
    )


def _step_models(model: Model, context: Context) -> Iterator[tuple[str, Any, Model]]:
    """(field path, step, its model) where the model is there and its config parses."""
    for field, step in steps(model):
        other = _step_model(step, context)
        if other is not None and other.config is not None:
            yield field, step, other
