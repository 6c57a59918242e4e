"""(fp32 model, calibration samples) → Q/DQ around the inputs and weights of its heavy ops, as TensorRT reads them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tritonsmith.builder.actions.convert.conversion import Conversion, Converted
from tritonsmith.builder.actions.convert.coverage import not_quantizable
from tritonsmith.builder.actions.convert.graph import at_opset, in_order
from tritonsmith.builder.actions.convert.options import Int8Options
from tritonsmith.builder.actions.convert.precisions.smooth import smoothed
from tritonsmith.builder.actions.convert.prepare import split_shared_constants
from tritonsmith.builder.base.errors import BuildError

if TYPE_CHECKING:
    from tritonsmith.builder.actions.accuracy.samples import Array

PER_CHANNEL_OPSET = 13
FLOAT8_OPSET = 19
INT8_MAX, FLOAT8_MAX = 127.0, 448.0

_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


class _Reader:
    """Calibration samples as onnxruntime.quantization reads them."""

    def __init__(self, samples: Sequence[Mapping[str, Array]]) -> None:
        self._samples = samples
        self._left = iter(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Mapping[str, Array]:
        return next(self._left)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Goes on with these samples."""
        self._left = iter(self._samples[start_index:end_index])

    def get_next(self) -> Mapping[str, Array] | None:
        """The next sample, None at the end."""
        return next(self._left, None)


def quantizable_nodes(model: Any, op_types: Iterable[str]) -> list[str]:
    """Nodes of these types that have a constant weight; products of two activations lose more than they win."""
    constants = {t.name for t in model.graph.initializer if t.data_type == 1}  # FLOAT
    return [
        node.name
        for node in model.graph.node
        if node.op_type in set(op_types) and any(name in constants for name in node.input[1:2])
    ]


def chosen_nodes(
    conversion: Conversion, op_types: Iterable[str], unfit: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(nodes to convert, node → why it stays). unfit: why a node with a constant weight cannot be."""
    types = tuple(op_types)
    candidates = quantizable_nodes(conversion.model, types)
    kept = {name: reason for name, reason in conversion.excluded.items() if name in candidates}
    kept |= {name: reason for name, reason in unfit.items() if name in candidates and name not in kept}
    kept |= not_quantizable(conversion.model, types, conversion.request.precision)
    return tuple(name for name in candidates if name not in kept), kept


def convert_int8(conversion: Conversion) -> Converted:
    """The inputs and weights of the ops that the options name."""
    return _converted(conversion, quantized_int8)


def convert_fp8(conversion: Conversion) -> Converted:
    """As convert_int8."""
    return _converted(conversion, quantized_fp8)


def _converted(conversion: Conversion, quantize: Callable[..., Any]) -> Converted:
    model, options, calibration = conversion.model, conversion.options, conversion.calibration
    assert calibration is not None
    chosen, kept = chosen_nodes(conversion, options.op_types, {})
    notes: tuple[str, ...] = ()
    if not chosen:
        return Converted(model, kept)
    # What is not quantized reads the weight itself, not what its rounding gives back.
    split_shared_constants(model, {node.name for node in model.graph.node} - set(chosen))
    if options.smooth_quant is not None:
        path = conversion.request.source_onnx
        count = smoothed(model, path, calibration.samples, chosen, options.smooth_quant)
        notes = (f"SmoothQuant, exponent {options.smooth_quant:g}, on {count} activations",)
    return Converted(quantize(model, calibration.samples, chosen, options), kept, chosen, notes)


def quantized_int8(
    model: Any, samples: Sequence[Mapping[str, Array]], nodes: Sequence[str], options: Int8Options
) -> Any:
    """Symmetric int8 with one scale an activation tensor and one an output channel of weights.

    Weights are stored as int8 behind a DequantizeLinear and biases stay fp32: TensorRT rejects int32 biases
    and zero points.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType

    return _quantized(
        at_opset(model, PER_CHANNEL_OPSET),
        samples,
        nodes,
        options,
        QuantType.QInt8,
        getattr(CalibrationMethod, _METHODS[options.method]),
        {"CalibPercentile": options.percentile} if options.method == "percentile" else {},
    )


def quantized_fp8(
    model: Any, samples: Sequence[Mapping[str, Array]], nodes: Sequence[str], options: Int8Options
) -> Any:
    """float8e4m3fn in the places and with the ranges of quantized_int8; opset 19 at least.

    onnxruntime's own fp8 takes its scales from standard deviations and clips the outliers that carry a
    transformer's meaning; the largest value at 448, fp8's maximum, keeps them.
    """
    import ml_dtypes
    import numpy as np
    import onnx

    model = at_opset(model, FLOAT8_OPSET)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    made = quantized_int8(model, samples, nodes, options)
    constants = {t.name: t for t in made.graph.initializer}
    pairs = [n for n in made.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {node.input[0]: node.input[1] for node in pairs}
    axes = {node.input[0]: next((a.i for a in node.attribute if a.name == "axis"), 0) for node in pairs}

    def store(tensor: Any, values: Array) -> None:
        eights = np.clip(values, -FLOAT8_MAX, FLOAT8_MAX).astype(ml_dtypes.float8_e4m3fn)
        tensor.CopyFrom(
            onnx.helper.make_tensor(
                tensor.name, onnx.TensorProto.FLOAT8E4M3FN, eights.shape, eights.tobytes(), raw=True
            )
        )

    for name in sorted(set(scales.values())):
        scale = onnx.numpy_helper.to_array(constants[name]) * np.float32(INT8_MAX / FLOAT8_MAX)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(scale.astype(np.float32), name))
    for name, tensor in constants.items():
        if tensor.data_type != onnx.TensorProto.INT8:
            continue
        source = weights.get(name.removesuffix("_quantized"))
        if source is None:  # a zero point
            store(tensor, np.zeros(tuple(tensor.dims), np.float32))
            continue
        scale = onnx.numpy_helper.to_array(constants[scales[name]])
        shape = [1] * source.ndim
        if scale.ndim:
            shape[axes[name]] = -1
        store(tensor, source / scale.reshape(shape))
    return made


def _quantized(
    model: Any,
    samples: Sequence[Mapping[str, Array]],
    nodes: Sequence[str],
    options: Int8Options,
    quant_type: Any,
    method: Any,
    extra: Mapping[str, Any],
) -> Any:
    import onnx
    from onnxruntime.quantization import QuantFormat, quantize_static

    _beta_into_bias(model.graph)

    with tempfile.TemporaryDirectory(prefix="tritonsmith-") as name, _only_errors():
        source, target = Path(name) / "source.onnx", Path(name) / "target.onnx"
        large = model.ByteSize() > 2**30
        onnx.save(model, str(source), save_as_external_data=large, location="weights")
        try:
            quantize_static(
                str(source),
                str(target),
                _Reader(samples),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(options.op_types),
                nodes_to_quantize=list(nodes),
                per_channel=True,
                activation_type=quant_type,
                weight_type=quant_type,
                calibrate_method=method,
                use_external_data_format=large,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "DedicatedQDQPair": True,
                    # One sample at a time: histograms of samples with different shapes cannot be stacked.
                    "CalibStridedMinMax": 1,
                    "OpTypesToExcludeOutputQuantization": []
                    if options.quantize_outputs
                    else list(options.op_types),
                    **extra,
                },
            )
        except (ValueError, RuntimeError, AttributeError, TypeError, KeyError) as error:
            raise BuildError(
                f"onnxruntime.quantization fails: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                code="quantization_failed",
                fix="the log has its traceback; another method, or excluding the node it names, may pass",
            ) from error
        made = onnx.load(str(target))
        in_order(made.graph)  # the quantizer's own order does not see what bodies read
        return made


def _beta_into_bias(graph: Any) -> None:
    """Multiplies constant biases of Gemm by its beta, which the quantizer sets to 1 even where biases stay fp32."""
    import numpy as np
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        beta = next((a for a in node.attribute if node.op_type == "Gemm" and a.name == "beta"), None)
        if beta is None or beta.f == 1.0 or len(node.input) < 3 or node.input[2] not in constants:
            continue
        values = onnx.numpy_helper.to_array(constants[node.input[2]]) * np.float32(beta.f)
        node.input[2], beta.f = f"{node.input[2]}_of_{node.name}", 1.0
        graph.initializer.append(onnx.numpy_helper.from_array(values, node.input[2]))


class _only_errors:
    """Hides onnxruntime's advice to pre-process, which it gives through the root logger on every call."""

    def __enter__(self) -> None:
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *exception: object) -> None:
        logging.disable(self._level)
