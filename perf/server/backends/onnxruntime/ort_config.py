"""(Triton model config, the ONNX model's own inputs and outputs) → the completed config, or the reason for a
refusal.

The rules are those of Triton's C++ onnxruntime backend (triton-inference-server/onnxruntime_backend,
src/onnxruntime.cc and onnxruntime_utils.cc): what it completes we complete, what it refuses we refuse.
"""

from collections import namedtuple

TensorInfo = namedtuple("TensorInfo", ["name", "data_type", "dims"])
"""data_type: Triton's config name (TYPE_FP32), TYPE_INVALID when Triton's backend cannot carry it; dims: the
whole shape, -1 where it is dynamic, () for a scalar."""

DEFAULT_MAX_BATCH_SIZE = 4

ONNX_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}


class ConfigRefused(Exception):
    """The config and the model do not fit; the message says which tensor and what each side has."""


def tensor_infos(nodes):
    """onnxruntime's NodeArgs → {name: TensorInfo}."""
    infos = {}
    for node in nodes:
        dims = tuple(d if isinstance(d, int) and d >= 0 else -1 for d in (node.shape or ()))
        infos[node.name] = TensorInfo(node.name, ONNX_TYPES.get(node.type, "TYPE_INVALID"), dims)
    return infos


def unsupported(nodes):
    """(name, ONNX type) of the nodes that neither backend can carry: bfloat16, complex, sequences, maps."""
    return [(n.name, n.type) for n in nodes if n.type not in ONNX_TYPES]


def complete(config, inputs, outputs, default_max_batch_size=DEFAULT_MAX_BATCH_SIZE):
    """Fill in what `config` (a dict, changed in place) leaves out.

    As production does, a config that names both its inputs and its outputs is left alone, and one side that
    is named is never touched.
    """
    named_inputs = bool(config.get("input")) or bool(config.get("batch_input"))
    named_outputs = bool(config.get("output"))
    if named_inputs and named_outputs:
        return
    batchable = all(i.dims and i.dims[0] == -1 for i in (*inputs.values(), *outputs.values()))
    if batchable:
        if not config.get("max_batch_size"):
            config["max_batch_size"] = max(default_max_batch_size, 0)
        schedulers = ("sequence_batching", "dynamic_batching")
        if config["max_batch_size"] > 1 and not any(s in config for s in schedulers):
            config["dynamic_batching"] = {}
    elif config.get("max_batch_size"):
        raise ConfigRefused(
            f"autofill failed for model '{config['name']}': max_batch_size is {config['max_batch_size']}, "
            "but the model does not support batching (an input or output has no dynamic first dimension)"
        )
    batching = bool(config.get("max_batch_size"))
    if not named_inputs:
        not_requested = control_names(config) | {s["input_name"] for s in states(config)}
        config["input"] = [_io(i, batching) for i in inputs.values() if i.name not in not_requested]
    if not named_outputs:
        not_returned = {s["output_name"] for s in states(config)}
        config["output"] = [_io(o, batching) for o in outputs.values() if o.name not in not_returned]


def _io(info, batching):
    dims = list(info.dims[1:] if batching else info.dims)
    io = {"name": info.name, "data_type": info.data_type, "dims": dims or [1]}
    # Triton has no empty dims; a scalar without batching is [1], and the backend makes it a scalar again.
    if not dims and batching:
        io["reshape"] = {"shape": []}
    return io


def same_dims(model, config, exact):
    """Whether a config's dims describe the model's; a dynamic dim of the model takes any (onnxruntime_backend,
    src/onnxruntime_utils.cc, CompareDimsSupported)."""
    return all(a == b or (a == -1 and not exact) for a, b in zip(model, config, strict=True))


def validate(config, inputs, outputs, overridable=None, same_dims=same_dims):
    """Raise ConfigRefused unless `config` describes the model: names, types, ranks, dims, batch dimension.

    overridable: initializers that a request may replace; they count as optional inputs.
    same_dims:   (the model's dims, the config's, whether exactly) → whether they fit, of equal ranks.
    """
    name = config["name"]
    _check_controls(config, inputs)
    expected = sum(not io.get("optional") for io in config.get("input", []))
    expected += len(_batch_input_names(config)) + len(control_names(config)) + len(states(config))
    if expected != len(inputs):
        raise ConfigRefused(
            f"unable to load model '{name}', configuration expects {expected} inputs, "
            f"model provides {len(inputs)}"
        )
    known = {**inputs, **(overridable or {})}
    batching = config.get("max_batch_size", 0) > 0
    for io in config.get("input", []):
        if io.get("optional") and batching:
            raise ConfigRefused(
                f"unable to load model '{name}', optional input '{io['name']}' is not supported "
                "for models that support batching"
            )
        info = _matching(config, io, known, "input")
        if io.get("allow_ragged_batch"):
            if info.dims != (-1,):
                raise ConfigRefused(
                    f"unable to load model '{name}', ragged input '{io['name']}' needs a model input "
                    f"of shape [-1], model provides {_shape(info.dims)}"
                )
        else:
            _check_dims(name, io, info, batching, exact=False, same_dims=same_dims)
    scattered = _batch_output_names(config)
    for io in config.get("output", []):
        info = _matching(config, io, outputs, "output")
        if io["name"] not in scattered:
            _check_dims(name, io, info, batching, exact=True, same_dims=same_dims)
    for state in states(config):
        _matching(config, {**state, "name": state["input_name"]}, inputs, "input state")
        _matching(config, {**state, "name": state["output_name"]}, outputs, "output state")


def _matching(config, io, infos, what):
    name = config["name"]
    if io["name"] not in infos:
        raise ConfigRefused(
            f"unexpected inference {what} '{io['name']}' for model '{name}': allowed {what}s are "
            + ", ".join(sorted(infos))
        )
    info = infos[io["name"]]
    if info.data_type == "TYPE_INVALID" or io["data_type"] in ("TYPE_BF16", "TYPE_INVALID"):
        raise ConfigRefused(
            f"unsupported datatype {io['data_type']} for {what} '{io['name']}' for model '{name}'"
        )
    if info.data_type != io["data_type"]:
        raise ConfigRefused(
            f"unable to load model '{name}', configuration expects datatype {io['data_type']} for {what} "
            f"'{io['name']}', model provides {info.data_type}"
        )
    return info


def _check_dims(model, io, info, batching, exact, same_dims):
    dims = tuple(int(d) for d in (io["reshape"].get("shape", []) if "reshape" in io else io.get("dims", [])))
    if not info.dims:
        if any(d != 1 for d in dims):
            raise ConfigRefused(
                f"unable to load model '{model}', scalar tensor '{io['name']}': every dimension in the model "
                f"configuration must be 1, configuration provides {_shape(dims)}"
            )
        return
    if batching and info.dims[0] != -1:
        raise ConfigRefused(
            f"model '{model}', tensor '{io['name']}': for the model to support batching the first "
            f"dimension must be -1; but shape expected by the model is {_shape(info.dims)}"
        )
    full = (-1, *dims) if batching else dims
    fits = len(full) == len(info.dims) and same_dims(info.dims, full, exact)
    if not fits:
        note = " (the batch dimension first, because max_batch_size > 0)" if batching else ""
        raise ConfigRefused(
            f"model '{model}', tensor '{io['name']}': the model expects {len(info.dims)} dimensions (shape "
            f"{_shape(info.dims)}) but the model configuration specifies {len(full)} dimensions (shape "
            f"{_shape(full)}){note}"
        )


def controls(config):
    """(control kind, tensor name, data type) of every sequence control that is a tensor."""
    rows = []
    for control_input in config.get("sequence_batching", {}).get("control_input", []):
        for control in control_input.get("control", []):
            data_type = control.get("data_type", "TYPE_INVALID")
            for key in ("int32_false_true", "fp32_false_true", "bool_false_true"):
                if control.get(key):
                    data_type = "TYPE_" + key.split("_")[0].upper()
            rows.append((control.get("kind", "CONTROL_SEQUENCE_START"), control_input["name"], data_type))
    return rows


def control_names(config):
    """Names of the tensors that carry sequence controls."""
    return {name for _, name, _ in controls(config)}


def _check_controls(config, inputs):
    model, batching = config["name"], config.get("max_batch_size", 0) > 0
    for _, name, data_type in controls(config):
        if name not in inputs:
            raise ConfigRefused(
                f"configuration specified sequence control '{name}', but model does not provide that input"
            )
        dims = inputs[name].dims[1:] if batching else inputs[name].dims
        if dims != (1,):
            raise ConfigRefused(
                f"unable to load model '{model}', sequence control '{name}' in model has dims {_shape(dims)} "
                "but dims [1] is expected"
            )
        if inputs[name].data_type != data_type:
            raise ConfigRefused(
                f"unable to load model '{model}', sequence control '{name}', the model expects data-type "
                f"{inputs[name].data_type} but the model configuration specifies data-type {data_type}"
            )


def states(config):
    """The implicit states of sequence_batching: input_name, output_name, data_type, dims, initial_state."""
    return config.get("sequence_batching", {}).get("state", [])


def _batch_input_names(config):
    return [name for row in config.get("batch_input", []) for name in row.get("target_name", [])]


def _batch_output_names(config):
    return {name for row in config.get("batch_output", []) for name in row.get("target_name", [])}


def _shape(dims):
    return "[" + ",".join(str(d) for d in dims) + "]"
