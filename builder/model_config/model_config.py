"""ModelSpec + the artifact's tensors → Triton's ModelConfig message → config.pbtxt text, and text → message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tritonsmith.builder.base.errors import ConfigError, SpecError, Where
from tritonsmith.builder.base.tensors import TensorSpec
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.model_config.field_views import FieldView, Verbatim, printable, views
from tritonsmith.builder.model_config.language_model import language_model_config
from tritonsmith.builder.model_config.templates import environment, template_path
from tritonsmith.builder.spec.spec import ModelSpec, RepositorySpec

if TYPE_CHECKING:
    from jinja2 import Environment


TEMPLATE = "config.pbtxt.j2"

# What Triton's onnxruntime backend fills in for a model with a dynamic first dimension (its
# --backend-config=default-max-batch-size), see docs/user_guide/model_configuration.md of the server.
DEFAULT_MAX_BATCH_SIZE = 4


def batches(tensors: Sequence[TensorSpec]) -> bool:
    """Whether every tensor has a dynamic first dimension, Triton's condition for batching a model."""
    return all(t.shape and not (isinstance(t.shape[0], int) and t.shape[0] >= 0) for t in tensors)


def model_config_from_spec(
    model: ModelSpec,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    spec: RepositorySpec | None = None,
    backend: str | None = None,
) -> Any:
    """The ModelConfig that is meant: what the spec states, completed from the model's own tensors.

    inputs, outputs: the artifact's, whole shapes. SpecError when the spec contradicts the model.
    """
    row = model.source.row
    if not row.backend:
        return model_config_as_stated(model, spec)
    if model.source.kind == "llm":
        return _message(model, language_model_config(model, spec), spec)
    stated = model.config.as_proto_json()
    config: dict[str, Any] = {"name": model.name, **stated}
    max_batch_size = stated.get("max_batch_size")
    if max_batch_size is None and row.stated:
        max_batch_size = 0
    elif max_batch_size is None:
        max_batch_size = DEFAULT_MAX_BATCH_SIZE if batches((*inputs, *outputs)) else 0
        if (
            max_batch_size
            and not model.state
            and not {"dynamic_batching", "sequence_batching"} & stated.keys()
        ):
            config["dynamic_batching"] = {}
    elif max_batch_size > 0 and not batches((*inputs, *outputs)):
        raise _fixed_batch(model, (*inputs, *outputs), spec)
    config["max_batch_size"] = max_batch_size
    if not {"backend", "platform"} & stated.keys():
        config["backend"] = backend or row.backend
    config["input"] = _tensors("input", model, stated.get("input", ()), inputs, max_batch_size > 0, spec)
    config["output"] = _tensors("output", model, stated.get("output", ()), outputs, max_batch_size > 0, spec)
    if model.state:
        config |= _with_states(model, config, outputs, max_batch_size > 0, spec)
    return _message(model, config, spec)


# Sequences that may be under way at once when the spec does not say; their states are kept.
_CANDIDATE_SEQUENCES = 64


def _with_states(
    model: ModelSpec,
    config: Mapping[str, Any],
    outputs: Sequence[TensorSpec],
    batched: bool,
    spec: RepositorySpec | None,
) -> dict[str, Any]:
    """Inputs and outputs without those of `state:`, and the sequence batcher that keeps them from request to request.

    SpecError when a tensor is not the model's, its pair has another type or shape, or a size is left open: the first
    state of a sequence is zeros of a fixed size.
    """
    inputs = {t["name"]: t for t in config["input"]}
    returned = {t.name: _tensor(t, batched) for t in outputs}
    states = []
    for fed, kept in model.state.items():
        at = _where(spec, model.name, "state", fed)
        for name, kind, known in ((fed, "input", inputs), (kept, "output", returned)):
            if name not in known:
                raise SpecError(
                    f"{model.name}: state: the model has no {kind} {name!r}",
                    code="unknown_tensor",
                    where=at,
                    valid=sorted(known),
                )
        one, other = inputs[fed], returned[kept]
        dims, back = _shape_of(one), _shape_of(other)
        fits = len(dims) == len(back) and all(b in (d, -1) for d, b in zip(dims, back, strict=True))
        if one["data_type"] != other["data_type"] or (not fits and -1 not in dims):
            raise SpecError(
                f"{model.name}: state: output {kept!r} cannot be fed to input {fed!r}",
                code="state_mismatch",
                where=at,
                seen=f"{kept} {other['data_type']} {back}",
                valid=[f"{fed} {one['data_type']} {dims}"],
            )
        if -1 in dims:
            raise SpecError(
                f"{model.name}: state: {fed!r} has a dynamic dimension, and a sequence begins with zeros of a fixed size",
                code="state_dynamic",
                where=at,
                seen=dims,
                fix=f"state every input, and {fed!r} with a size in place of each -1 (one sequence a request: 1)",
            )
        states.append(
            {
                "input_name": fed,
                "output_name": kept,
                "data_type": one["data_type"],
                "dims": dims or [1],
                "initial_state": [
                    {
                        "name": f"{fed} at the start",
                        "data_type": one["data_type"],
                        "dims": dims or [1],
                        "zero_data": True,
                    }
                ],
            }
        )
    rest = {
        "input": [t for t in config["input"] if t["name"] not in model.state],
        "output": [t for t in config["output"] if t["name"] not in model.state.values()],
    }
    for kind, tensors in rest.items():
        if not tensors:
            raise SpecError(
                f"{model.name}: state: no {kind} is left for requests",
                code="state_refused",
                where=_where(spec, model.name, "state"),
            )
    batcher = {"oldest": {"max_candidate_sequences": _CANDIDATE_SEQUENCES}}
    stated = config.get("sequence_batching", {})
    if {"oldest", "direct"} & stated.keys():
        batcher = {}
    return {**rest, "sequence_batching": {**batcher, **stated, "state": states}}


def _shape_of(tensor: Mapping[str, Any]) -> list[int]:
    """A tensor's dims as the model takes them."""
    shape = tensor["reshape"].get("shape", ()) if "reshape" in tensor else tensor["dims"]
    return [int(d) for d in shape]


def model_config_as_stated(model: ModelSpec, spec: RepositorySpec | None = None) -> Any:
    """The ModelConfig that the spec states and nothing more, but for the name."""
    config = {"name": model.name, **model.config.as_proto_json()}
    for kind in ("input", "output"):
        if kind in config:
            config[kind] = [_with_plain_dims(t) for t in config[kind]]
    return _message(model, config, spec)


def runs_on_cpus_alone(config: Any) -> bool:
    """Whether every instance group of a ModelConfig is stated to be on CPUs."""
    groups = config.instance_group
    return bool(groups) and all(group.Kind.Name(group.kind) == "KIND_CPU" for group in groups)


def _message(model: ModelSpec, config: dict[str, Any], spec: RepositorySpec | None) -> Any:
    from google.protobuf import json_format

    try:
        return json_format.ParseDict(config, model_config_pb2().ModelConfig())
    except json_format.ParseError as error:
        raise ConfigError(
            f"{model.name}: {error}", code="config_invalid", where=_where(spec, model.name)
        ) from None


def _with_plain_dims(tensor: Mapping[str, Any]) -> dict[str, Any]:
    """A named dimension is -1 to Triton."""
    plain = {"dims": [-1 if isinstance(d, str) else d for d in tensor["dims"]]} if "dims" in tensor else {}
    return {**tensor, **plain}


def _tensors(
    kind: Literal["input", "output"],
    model: ModelSpec,
    stated: Sequence[Mapping[str, Any]],
    actual: Sequence[TensorSpec],
    batched: bool,
    spec: RepositorySpec | None,
) -> list[dict[str, Any]]:
    by_name = {t.name: t for t in actual}
    result: list[dict[str, Any]] = []
    for index, given in enumerate(stated):
        at = _where(spec, model.name, kind, index)
        name = given.get("name") or (actual[index].name if index < len(actual) else None)
        if name not in by_name:
            raise SpecError(
                f"{model.name}: the model has no {kind} {name!r}",
                code="unknown_tensor",
                where=at,
                valid=sorted(by_name),
            )
        result.append(_checked_tensor(kind, model.name, given, by_name.pop(name), batched, at))
    by_name = {n: t for n, t in by_name.items() if n not in model.state}
    if stated and kind == "input" and by_name:
        raise SpecError(
            f"{model.name}: these inputs of the model are not stated: {', '.join(sorted(by_name))}",
            code="missing_input",
            where=_where(spec, model.name, kind),
            fix="state every input, or none to infer them all",
        )
    if stated:
        known = {t["name"] for t in result}
        own = (*model.state, *model.state.values())
        return result + [_tensor(t, batched) for t in actual if t.name in own and t.name not in known]
    return [_tensor(t, batched) for t in actual]


def _tensor(tensor: TensorSpec, batched: bool) -> dict[str, Any]:
    shape = tensor.wire_shape[1:] if batched else tensor.wire_shape
    if shape:
        return {"name": tensor.name, "data_type": tensor.dtype.config, "dims": list(shape)}
    # Triton has no rank-0 dims. A scalar beside a batch is dims [1] with an empty reshape; without one, that is refused,
    # and the backend makes a scalar of [1] by itself (AutoCompleteIO in onnxruntime_backend's src/onnxruntime.cc).
    reshape: dict[str, Any] = {"reshape": {"shape": []}} if batched else {}
    return {"name": tensor.name, "data_type": tensor.dtype.config, "dims": [1], **reshape}


def _checked_tensor(
    kind: str, model: str, given: Mapping[str, Any], actual: TensorSpec, batched: bool, at: Where | None
) -> dict[str, Any]:
    inferred = _tensor(actual, batched)
    merged = {**inferred, **given, "name": actual.name}
    if merged["data_type"] != inferred["data_type"]:
        raise SpecError(
            f"{model}: {kind} {actual.name!r} is stated as {merged['data_type']}",
            code="dtype_mismatch",
            where=at,
            seen=f"the model has {inferred['data_type']}",
            fix=f"data_type: {inferred['data_type']}",
        )
    merged = _with_plain_dims(merged)
    meant = given.get("reshape", {}).get("shape", merged["dims"]) if "dims" in given else inferred["dims"]
    if "reshape" not in given and "dims" in given:
        merged.pop("reshape", None)
    model_dims = list(actual.wire_shape[1:] if batched else actual.wire_shape)
    # An input's open dimension may be stated as a size; an output's dims are compared exactly when it is loaded.
    narrows = kind == "input"
    fits = len(meant) == len(model_dims) and all(
        m == a or (narrows and a == -1) for m, a in zip(meant, model_dims, strict=True)
    )
    fits = fits or (not model_dims and not batched and all(m == 1 for m in meant))
    if kind == "input" and merged.get("optional"):
        raise SpecError(
            f"{model}: input {actual.name!r} is stated as optional, but the model needs it",
            code="input_not_optional",
            where=at,
            fix="leave `optional` out; an initializer that is a graph input too is one that may be left out",
        )
    if "dims" in given and not fits:
        raise SpecError(
            f"{model}: {kind} {actual.name!r} is stated with dims {list(given['dims'])}",
            code="dims_mismatch",
            where=at,
            seen=f"the model has {list(actual.shape)}" + (", batch dimension included" if batched else ""),
            fix=f"dims: {model_dims}",
        )
    return merged


def _fixed_batch(model: ModelSpec, tensors: Sequence[TensorSpec], spec: RepositorySpec | None) -> SpecError:
    fixed = next(t for t in tensors if not batches([t]))
    return SpecError(
        f"{model.name}: max_batch_size is {model.max_batch_size}, but {fixed.name!r} has no dynamic first dimension",
        code="fixed_batch",
        where=_where(spec, model.name, "max_batch_size"),
        seen=f"shape {list(fixed.shape)}",
        fix="max_batch_size: 0, or export the model again with a dynamic first dimension",
    )


def _where(spec: RepositorySpec | None, model: str, *keys: str | int) -> Where | None:
    return None if spec is None else spec.where(model, *keys)


@lru_cache(maxsize=4)
def _environment(templates: Path | None) -> Environment:
    """Kept for its compiled templates, 20 ms each; a template that changes on disk is read again."""
    return environment(templates, autoescape=False, finalize=printable)


def text_from_model_config(message: Any, *, spec_name: str, templates: Path | None = None) -> str:
    """config.pbtxt for the message, rendered by the template and accepted only if it parses back to the same message.

    ConfigError when the template fails, or renders something else than `message`.
    """
    from jinja2 import TemplateError

    where = Where(template_path(TEMPLATE, templates))
    fields = {f.name: f for f in views(message)}
    shown: set[str] = set()

    def select(*names: str) -> list[FieldView]:
        shown.update(names)
        return [fields[n] for n in names if n in fields]

    env = _environment(templates)
    try:
        text = (
            env.get_template(TEMPLATE).render(
                config=fields,
                spec_name=spec_name,
                raw=Verbatim,
                pad=lambda depth: Verbatim("  " * depth),
                comment=lambda value: Verbatim(" ".join(str(value).split())),
                select=select,
                remaining=lambda: [f for n, f in fields.items() if n not in shown],
            )
            + "\n"
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise ConfigError(
            f"the template failed for model {message.name!r}: {error}",
            code="template_failed",
            where=Where(where.path, line),
        ) from None
    parsed = model_config_from_text(text, where)
    # Compared as bytes: NaN differs from itself.
    if _bytes(parsed) != _bytes(message):
        raise ConfigError(
            f"the template rendered another config for model {message.name!r} than the spec means",
            code="template_mismatch",
            where=where,
            seen=_first_difference(message, parsed),
            fix="render every field of `config`; templates/config.pbtxt.j2 shows how",
        )
    return text


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))


def model_config_from_text(text: str, where: Where | None = None) -> Any:
    """Text proto → ModelConfig; ConfigError with file and line when it is not one."""
    from google.protobuf import text_format

    try:
        return text_format.Parse(text, model_config_pb2().ModelConfig())
    except text_format.ParseError as error:
        path = None if where is None else Where(where.path, error.GetLine())
        raise ConfigError(
            f"not a valid config.pbtxt: {error!s:.300}", code="config_syntax", where=path
        ) from None
    except (ValueError, TypeError, RecursionError) as error:  # of a number in a list of numbers, say
        raise ConfigError(
            f"not a valid config.pbtxt: {error!s:.300}", code="config_syntax", where=where
        ) from None


def _first_difference(meant: Any, rendered: Any) -> str:
    for descriptor in meant.DESCRIPTOR.fields:
        left, right = getattr(meant, descriptor.name), getattr(rendered, descriptor.name)
        if left != right or (
            meant.DESCRIPTOR.fields_by_name[descriptor.name].has_presence
            and (meant.HasField(descriptor.name) != rendered.HasField(descriptor.name))
        ):
            return f"{descriptor.name}: meant {str(left)!r}, rendered {str(right)!r}"
    return "a field that differs in presence only"
