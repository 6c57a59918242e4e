"""A table of small ONNX models that are odd in what Triton compares: names, dtypes, ranks, dims, batch dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import tensor

FLOAT = TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Odd:
    """One row: a sentence, the graph, and what its spec says beside the source."""

    says: str
    proto: Any
    spec: Mapping[str, Any] = field(default_factory=dict)


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
    *,
    ir_version: int = 9,
    opset: int = 20,
) -> Any:
    """An unchecked ModelProto: odd ones may be refused by onnx's checker."""
    initializers = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    made = helper.make_graph(list(nodes), "odd", list(inputs), list(outputs), initializers)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=ir_version)


def through(
    shape: Sequence[Any], out: Any = None, element: int = FLOAT, op: str = "Identity", **names: str
) -> Any:
    """y = op(x): x of `shape`, y declared as `out` where it is not the same; None declares no shape."""
    x, y = names.get("x", "x"), names.get("y", "y")
    declared = shape if out is None else out
    return graph(
        [helper.make_node(op, [x], [y])],
        [helper.make_tensor_value_info(x, element, list(shape))],
        [helper.make_tensor_value_info(y, element, None if declared == "none" else list(declared))],
    )


def _reshape(declared: Any, target: Any) -> Any:
    return graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", ["batch", 4])],
        [helper.make_tensor_value_info("y", FLOAT, declared)],
        {"shape": np.array(target, np.int64)},
    )


def _folded() -> Any:
    """The shape of y is known after constant folding only."""
    return graph(
        [
            helper.make_node("Mul", ["two", "two"], ["four"]),
            helper.make_node("Concat", ["minus", "four"], ["shape"], axis=0),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", "columns"])],
        {"two": np.array([2], np.int64), "minus": np.array([-1], np.int64)},
    )


def _reshaped_by_input() -> Any:
    return graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [tensor("x", ["n"]), tensor("shape", ["rank"], "INT64")],
        [helper.make_tensor_value_info("y", FLOAT, None)],
    )


def _weights_as_inputs(ir_version: int) -> Any:
    return graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        [tensor("x", ["batch", 3]), tensor("w", [3])],
        [tensor("y", ["batch", 3])],
        {"w": np.array([1, 2, 3], np.float32)},
        ir_version=ir_version,
    )


def _sum_of_all() -> Any:
    return graph(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [tensor("x", ["batch", 4])],
        [tensor("y", [])],
    )


def _scalar_in() -> Any:
    return graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        [tensor("x", ["batch", 4]), tensor("factor", [])],
        [tensor("y", ["batch", 4])],
    )


def _sequence_out() -> Any:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    return graph(
        [helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)],
        [tensor("x", ["n", 4])],
        [helper.make_value_info("parts", kind)],
    )


def _map_out() -> Any:
    keyed = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    return graph(
        [helper.make_node("ZipMap", ["x"], ["scores"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])],
        [tensor("x", ["n", 3])],
        [helper.make_value_info("scores", helper.make_sequence_type_proto(keyed))],
    )


def _optional_in() -> Any:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, [4]))
    return graph(
        [helper.make_node("OptionalGetElement", ["x"], ["y"])],
        [helper.make_value_info("x", kind)],
        [tensor("y", [4])],
    )


def _inner(element: int) -> Any:
    """y = float(that type(x)): the odd type stays inside."""
    return graph(
        [
            helper.make_node("Cast", ["x"], ["low"], to=element),
            helper.make_node("Cast", ["low"], ["y"], to=FLOAT),
        ],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4])],
    )


def _cast_out(element: int) -> Any:
    return graph(
        [helper.make_node("Cast", ["x"], ["y"], to=element)],
        [tensor("x", ["batch", 4])],
        [helper.make_tensor_value_info("y", element, ["batch", 4])],
    )


def _no_inputs() -> Any:
    return graph(
        [
            helper.make_node(
                "Constant", [], ["y"], value=numpy_helper.from_array(np.arange(4, dtype=np.float32))
            )
        ],
        [],
        [tensor("y", [4])],
    )


def _unused_input() -> Any:
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", ["batch", 4]), tensor("unused", ["batch", 2])],
        [tensor("y", ["batch", 4])],
    )


def _same_name_through() -> Any:
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", ["batch", 4])],
        [tensor("x", ["batch", 4]), tensor("y", ["batch", 4])],
    )


def _twice(where: str) -> Any:
    made = through(["batch", 4])
    getattr(made.graph, where).append(getattr(made.graph, where)[0])
    return made


def _constant_output() -> Any:
    return graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4]), tensor("anchors", [2, 2])],
        {"anchors": np.array([[1, 2], [3, 4]], np.float32)},
    )


def _two_outputs() -> Any:
    return graph(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        [tensor("x", ["batch", 4])],
        [tensor("y", ["batch", 4]), tensor("z", ["batch", 4])],
    )


def _concat_with_empty() -> Any:
    return graph(
        [helper.make_node("Concat", ["x", "none"], ["y"], axis=0)],
        [tensor("x", ["n", 4])],
        [tensor("y", ["n", 4])],
        {"none": np.zeros((0, 4), np.float32)},
    )


def _empty_out() -> Any:
    return graph(
        [helper.make_node("Slice", ["x", "none", "none", "axis"], ["y"])],
        [tensor("x", ["batch", 4])],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", "columns"])],
        {"none": np.array([0], np.int64), "axis": np.array([1], np.int64)},
    )


def _io(name: str, dims: Sequence[Any], data_type: str = "TYPE_FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": data_type, "dims": list(dims), **more}


ODD: dict[str, Odd] = {
    "inferred_dim": Odd(
        "an output says a name where ONNX Runtime infers a size",
        through(["batch", 4], ["rows", "columns"]),
    ),
    "inferred_rank": Odd(
        "an output without a shape, which ONNX Runtime infers", through(["batch", 4], "none")
    ),
    "folded_dim": Odd("an output's size is known after constant folding only", _folded()),
    "unknown_rank": Odd("an output whose rank depends on an input's values", _reshaped_by_input()),
    "reshape_to_fixed": Odd(
        "Reshape makes the first dimension fixed, the graph says a name", _reshape(["b", "c"], [2, -1])
    ),
    "wrong_dim": Odd("an output declares 5 columns and has 4", through(["batch", 4], ["batch", 5])),
    "scalar_out": Odd("an output of rank 0 beside a batch", _sum_of_all()),
    "scalar_out_batched": Odd("the same, with a batch size stated", _sum_of_all(), {"max_batch_size": 4}),
    "scalar_in": Odd("an input of rank 0", _scalar_in()),
    "scalar_in_batched": Odd("the same, with a batch size stated", _scalar_in(), {"max_batch_size": 4}),
    "scalar_only": Odd("one scalar in and one out", through([])),
    "zero_dim_in": Odd("an input of no elements", through([0, 4])),
    "zero_dim_inner": Odd("an empty tensor inside", _concat_with_empty()),
    "zero_dim_out": Odd("an output of no columns", _empty_out()),
    "nameless_dims": Odd("dims that say nothing", through([None, None])),
    "negative_dim": Odd("a dim that says -1", through([-1, 4])),
    "fixed": Odd("all dims fixed", through([1, 4])),
    "fixed_batched": Odd("all dims fixed, and a batch size stated", through([1, 4]), {"max_batch_size": 8}),
    "fixed_out": Odd("a dynamic input, an output of fixed size", _constant_output()),
    "fixed_out_batched": Odd("the same, with a batch size stated", _constant_output(), {"max_batch_size": 8}),
    "ir3": Odd("weights are inputs too, as in IR version 3", _weights_as_inputs(3)),
    "ir8": Odd("weights are inputs too, and may be overridden", _weights_as_inputs(8)),
    "sequence": Odd("an output is a sequence of tensors", _sequence_out()),
    "map": Odd("an output is a sequence of maps", _map_out()),
    "optional": Odd("an input is an optional tensor", _optional_in()),
    "bool": Odd("bools", through(["batch", 4], element=TensorProto.BOOL)),
    "string": Odd("strings", through(["batch", 4], element=TensorProto.STRING)),
    "bfloat16": Odd("bfloat16 in and out", through(["batch", 4], element=TensorProto.BFLOAT16)),
    "bfloat16_out": Odd("bfloat16 out", _cast_out(TensorProto.BFLOAT16)),
    "bfloat16_inner": Odd("bfloat16 inside", _inner(TensorProto.BFLOAT16)),
    "float8_inner": Odd("fp8 inside", _inner(TensorProto.FLOAT8E4M3FN)),
    "float8_out": Odd("fp8 out", _cast_out(TensorProto.FLOAT8E4M3FN)),
    "int4": Odd("int4 in and out", through(["batch", 4], element=TensorProto.INT4)),
    "complex64": Odd("complex numbers", through(["batch", 4], element=TensorProto.COMPLEX64)),
    "float64": Odd("doubles", through(["batch", 4], element=TensorProto.DOUBLE)),
    "uint16": Odd("uint16", through(["batch", 4], element=TensorProto.UINT16)),
    "torch_names": Odd(
        "names as torch writes them", through(["batch", 4], x="onnx::x.1", y="/head/Add_output_0")
    ),
    "colon_names": Odd(
        "names as TensorFlow writes them",
        through(["batch", 4], x="serving_default_x:0", y="StatefulPartitionedCall:0"),
    ),
    "spaced_names": Odd(
        "names with spaces, quotes and a percent sign",
        through(["batch", 4], x='in "x" 100%', y="out 'y' ?#&"),
    ),
    "other_names": Odd("names that are not ASCII", through(["batch", 4], x="größe", y="出力")),
    "newline_name": Odd("a name with a line break", through(["batch", 4], x="a\nb")),
    "empty_name": Odd("an input without a name", through(["batch", 4], x="")),
    "long_name": Odd("a name of 5000 bytes", through(["batch", 4], x="x" * 5000)),
    "no_inputs": Odd("a graph without inputs", _no_inputs()),
    "unused_input": Odd("an input that nothing reads", _unused_input()),
    "same_name": Odd("an input that is an output too", _same_name_through()),
    "input_twice": Odd("an input that is declared twice", _twice("input")),
    "output_twice": Odd("an output that is declared twice", _twice("output")),
    "subset": Odd(
        "one output of two is stated", _two_outputs(), {"max_batch_size": 4, "output": [_io("z", [4])]}
    ),
    "unknown_stated": Odd(
        "an output is stated that is not there", _two_outputs(), {"output": [_io("q", [4])]}
    ),
    "stated_twice": Odd(
        "an output is stated twice",
        _two_outputs(),
        {"max_batch_size": 4, "output": [_io("z", [4]), _io("z", [4])]},
    ),
    "narrow_in": Odd(
        "an input's open dim is stated as a size",
        through(["batch", "n"]),
        {"max_batch_size": 4, "input": [_io("x", [4])]},
    ),
    "narrow_out": Odd(
        "an output's open dim is stated as a size",
        through(["batch", "n"]),
        {"max_batch_size": 4, "input": [_io("x", [4])], "output": [_io("y", [4])]},
    ),
    "wide_in": Odd(
        "an input's fixed dim is stated as open",
        through(["batch", 4]),
        {"max_batch_size": 4, "input": [_io("x", [-1])]},
    ),
    "wide_out": Odd(
        "an output's fixed dim is stated as open",
        through(["batch", 4]),
        {"max_batch_size": 4, "output": [_io("y", [-1])]},
    ),
    "other_dtype": Odd(
        "an output is stated with another dtype",
        through(["batch", 4]),
        {"output": [_io("y", [4], "TYPE_FP16")]},
    ),
    "reshaped": Odd(
        "an input comes flat and is reshaped",
        through(["batch", 2, 2]),
        {"max_batch_size": 4, "input": [_io("x", [4], reshape={"shape": [2, 2]})]},
    ),
    "reshaped_out": Odd(
        "an output is given flat",
        through(["batch", 2, 2]),
        {"max_batch_size": 4, "output": [_io("y", [4], reshape={"shape": [2, 2]})]},
    ),
    "scalar_stated": Odd(
        "a scalar is stated as dims [1]",
        _scalar_in(),
        {"max_batch_size": 0, "input": [_io("x", [-1, 4]), _io("factor", [1])]},
    ),
    "optional_stated": Odd(
        "an input is stated as optional that the graph needs",
        _two_outputs(),
        {"max_batch_size": 0, "input": [_io("x", [-1, 4], optional=True)]},
    ),
    "weights_stated": Odd(
        "an overridable weight is stated as an optional input",
        _weights_as_inputs(8),
        {"max_batch_size": 0, "input": [_io("x", [-1, 3]), _io("w", [3], optional=True)]},
    ),
    "level_off": Odd(
        "optimisations are off",
        _folded(),
        {"optimization": {"graph": {"level": 2}}},
    ),
}


REFUSED: dict[str, str] = {
    "unknown_rank": "unsupported_tensor",
    "wrong_dim": "lint",
    "scalar_out_batched": "no_batch_dimension",
    "scalar_in_batched": "no_batch_dimension",
    "zero_dim_in": "unsupported_tensor",
    "zero_dim_out": "unsupported_tensor",
    "fixed_batched": "fixed_batch",
    "fixed_out_batched": "fixed_batch",
    "sequence": "unsupported_tensor",
    "map": "unsupported_tensor",
    "optional": "unsupported_tensor",
    "bfloat16": "unsupported_tensor",
    "bfloat16_out": "lint",
    "float8_out": "unsupported_tensor",
    "int4": "unsupported_tensor",
    "complex64": "unsupported_tensor",
    "empty_name": "invalid_onnx",
    "input_twice": "invalid_onnx",
    "output_twice": "lint",
    "unknown_stated": "stated_tensor",
    "stated_twice": "unknown_tensor",
    "narrow_out": "dims_mismatch",
    "wide_in": "stated_tensor",
    "wide_out": "stated_tensor",
    "other_dtype": "stated_tensor",
    "optional_stated": "input_not_optional",
    "weights_stated": "stated_tensor",
}
"""Row → the code of the error that its build ends with. All the others are built and served."""

QUICK = (
    "folded_dim",
    "inferred_dim",
    "inferred_rank",
    "level_off",
    "narrow_out",
    "optional_stated",
    "other_names",
    "scalar_in",
    "scalar_out",
    "unknown_rank",
    "zero_dim_in",
)
"""What the quick run takes of them: the rows that were once built and then refused, or the other way round."""
