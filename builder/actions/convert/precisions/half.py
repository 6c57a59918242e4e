"""An fp32 model → the same in fp16 or bf16, with what would overflow, is excluded or has no such form left in fp32."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from typing import Any

from tritonsmith.builder.actions.accuracy.intermediates import element_types
from tritonsmith.builder.actions.convert.conversion import Conversion, Converted
from tritonsmith.builder.actions.convert.graph import ONNX_DOMAINS, at_opset, in_order, names_read, opset_of
from tritonsmith.builder.actions.convert.precisions.overflow import overflowing_nodes, unfit_constants
from tritonsmith.builder.actions.convert.prepare import (
    has_body,
    outer_names,
    rename_outer,
    split_shared_constants,
)
from tritonsmith.builder.base.errors import BuildError

BF16_OPSET = 22
"""Convolution and pooling take bf16 from this opset on (ONNX operators' changelog)."""

_IO_CASTS = ("graph_input_cast", "graph_output_cast")
_CAST_SUFFIXES = ("_cast_to_fp32_node", "_cast_to_fp16_node")


def convert_fp16(conversion: Conversion) -> Converted:
    """All but what would overflow, on the samples that there are."""
    model, samples = conversion.model, conversion.range_samples()
    names = {node.name for node in model.graph.node}
    keep = {**conversion.excluded, **unfit_constants(model)}
    if samples:
        keep |= overflowing_nodes(model, conversion.request.source_onnx, samples)
    made, kept = fp16_from_fp32(model, keep, conversion.request.keep_io)
    notes = () if samples else ("no samples: nodes were not checked for overflow in fp16",)
    return Converted(made, kept, _changed(made, names - kept.keys()), notes)


def convert_bf16(conversion: Conversion) -> Converted:
    """All that has a form in bf16."""
    opset, names = opset_of(conversion.model), {node.name for node in conversion.model.graph.node}
    made, kept = bf16_from_fp32(conversion.model, conversion.excluded, conversion.request.keep_io)
    raised = (f"opset raised from {opset} to {opset_of(made)} for bf16",)
    notes = raised if opset_of(made) != opset else ()
    return Converted(made, kept, _changed(made, names - kept.keys()), notes)


def _changed(made: Any, names: Set[str]) -> tuple[str, ...]:
    return tuple(node.name for node in made.graph.node if node.name in names)


def fp16_from_fp32(model: Any, keep: Mapping[str, str], keep_io: bool) -> tuple[Any, dict[str, str]]:
    """→ (the model, node name → why it stays in fp32). `keep`: node name → reason.

    The conversion itself is onnxruntime.transformers.float16; it leaves some ops in fp32 for ONNX Runtime's sake.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
    floats = _nodes_with_floats(model)
    reasons = {
        node.name: f"{node.op_type} stays in fp32"
        for node in model.graph.node
        if node.op_type in DEFAULT_OP_BLOCK_LIST and node.name in floats
    }
    reasons |= _without_form(model, "float16", "fp16")
    reasons |= {node.name: "its body stays in fp32" for node in model.graph.node if has_body(node)}
    reasons |= {name: reason for name, reason in keep.items() if name in floats}
    split_shared_constants(model, reasons)
    types = element_types(model)
    typed = _typed(model)
    converted = convert_float_to_float16(
        typed,
        keep_io_types=keep_io,
        disable_shape_infer=True,
        node_block_list=sorted(reasons),
    )
    _widen_for_bodies(converted, types, keep_io)
    _tidy(converted)
    return converted, reasons


def _widen_for_bodies(model: Any, types: Mapping[str, int], keep_io: bool) -> None:
    """Bodies stay, and the converter does not look into them: what they take from outside is cast back for them."""
    import onnx

    graph = model.graph
    outside = {value.name for value in (*graph.input, *graph.output)} if keep_io else set()
    outside |= {tensor.name for tensor in graph.initializer}
    cast: set[str] = set()
    for node in list(graph.node):
        wanted = {n for n in outer_names(node) - outside if types.get(n) == onnx.TensorProto.FLOAT}
        rename_outer(node, {name: f"{name}_body" for name in wanted})
        for name in sorted(wanted - cast):
            # Named as the converter names its own, which _tidy shortens.
            node_name = f"{name}_body_cast_to_fp32_node"
            graph.node.append(
                onnx.helper.make_node(
                    "Cast", [name], [f"{name}_body"], name=node_name, to=onnx.TensorProto.FLOAT
                )
            )
        cast |= wanted


def bf16_from_fp32(model: Any, keep: Mapping[str, str], keep_io: bool) -> tuple[Any, dict[str, str]]:
    """As fp16_from_fp32, with bfloat16: the same places of change, another type, fp32's own range.

    The model is raised to BF16_OPSET when a node has a bf16 form only there.
    """
    import onnx

    if any(t == onnx.TensorProto.FLOAT16 for t in element_types(model).values()):
        raise BuildError(
            "the model already computes in fp16; bf16 is made from fp32 alone",
            code="not_fp32",
            fix="give the fp32 model as source",
        )
    if _without_bf16(model):
        model = at_opset(model, BF16_OPSET)
    reasons = _without_bf16(model)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    converted, kept = fp16_from_fp32(model, {**keep, **reasons}, keep_io)
    _retype(converted, weights)
    return converted, kept


def _without_form(model: Any, kind: str, precision: str) -> dict[str, str]:
    """Node name → reason, of nodes with floats that have to stay in fp32. kind: ONNX's word for the type."""
    floats, types, opset = _nodes_with_floats(model), element_types(model), opset_of(model)
    return {
        node.name: f"{node.op_type} has no {precision} form at opset {opset}"
        for node in model.graph.node
        if node.name in floats and not _takes(node, opset, types, kind)
    }


def _without_bf16(model: Any) -> dict[str, str]:
    return _without_form(model, "bfloat16", "bf16")


_FIXED_FLOAT_INPUTS = {"Resize": ("scales",)}
"""The converter leaves these in fp32 and the node in half."""


def _takes(node: Any, opset: int, types: Mapping[str, int], kind: str) -> bool:
    """Every fp32 input and output of the node may be of the kind."""
    import onnx

    if node.domain not in ONNX_DOMAINS:
        return kind == "float16"  # ONNX Runtime's own operators have no schema here; most take fp16
    try:
        schema = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return False
    if schema.name == "Cast":
        return True
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    formal = [
        (given, names[min(i, len(names) - 1)])  # a variadic one stands last
        for given_names, names in ((node.input, schema.inputs), (node.output, schema.outputs))
        for i, given in enumerate(given_names)
        if len(names)
    ]
    return all(
        f"tensor({kind})" in allowed.get(one.type_str, (one.type_str,))
        for given, one in formal
        if types.get(given) == onnx.TensorProto.FLOAT
        and one.name not in _FIXED_FLOAT_INPUTS.get(node.op_type, ())
    )


def _nodes_with_floats(model: Any) -> set[str]:
    """Names of nodes that read or write fp32; only those are a conversion's business."""
    import onnx

    types = element_types(model)
    return {
        node.name
        for node in model.graph.node
        if any(types.get(name) == onnx.TensorProto.FLOAT for name in (*node.input, *node.output))
    }


def _typed(model: Any) -> Any:
    """The model with the types of its inner tensors stated: the converter puts casts only where it knows them."""
    import onnx

    types = element_types(model)
    known = {value.name for value in (*model.graph.input, *model.graph.output)}
    del model.graph.value_info[:]
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known and name in types:
                known.add(name)
                model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, types[name], None))
    return model


def _tidy(model: Any) -> None:
    """Leaves of the converter's casts what is needed, and puts the nodes in order.

    It casts every result of an fp32 node to fp16, also where the next reader casts it back: that costs digits, and
    turns what was kept for its size into infinity.
    """
    import onnx

    graph = model.graph
    ours = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and _is_ours(node)}
    narrowed = {
        name: node.input[0] for name, node in ours.items() if node.attribute[0].i == onnx.TensorProto.FLOAT16
    }
    outputs = {value.name for value in graph.output}
    shortcut: dict[str, str] = {}
    for name, node in ours.items():
        wide = narrowed.get(node.input[0])
        if wide is not None and name not in narrowed:
            shortcut[name] = wide
            if name in outputs:  # the output keeps its name, so it stays a node
                node.op_type, node.input[0] = "Identity", wide
                del node.attribute[:]
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in shortcut:
                node.input[index] = shortcut[name]
        rename_outer(node, shortcut)
    read = {name for node in graph.node for name in names_read(node)} | outputs
    seen: set[str] = set()
    kept = []
    for node in graph.node:
        name = node.output[0]
        if name in ours and (name not in read or name in seen):
            continue
        seen.add(name)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    in_order(graph)


def _is_ours(node: Any) -> bool:
    return bool(node.name.endswith(_CAST_SUFFIXES) or node.name.startswith(_IO_CASTS))


def _retype(model: Any, weights: Mapping[str, Any]) -> None:
    """Every fp16 in the model becomes bf16; weights are rounded anew from their fp32 values."""
    import ml_dtypes
    import onnx

    fp16, bf16 = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16

    def tensor(value: Any, source: Any | None) -> None:
        if value.data_type == fp16:
            array = onnx.numpy_helper.to_array(value) if source is None else source
            value.CopyFrom(onnx.numpy_helper.from_array(array.astype(ml_dtypes.bfloat16), value.name))

    def graph(inner: Any) -> None:
        for value in inner.initializer:
            tensor(value, weights.get(value.name))
        for value in (*inner.input, *inner.output, *inner.value_info):
            if value.type.tensor_type.elem_type == fp16:
                value.type.tensor_type.elem_type = bf16
        for node in inner.node:
            for attribute in node.attribute:
                if attribute.name in ("to", "dtype") and attribute.i == fp16:
                    attribute.i = bf16
                if attribute.HasField("t"):
                    tensor(attribute.t, None)
                if attribute.HasField("g"):
                    graph(attribute.g)

    graph(model.graph)
