"""(an ONNX operator, what is known of its operands) → the axes along which it reads, and whether it moves the batch's rows.

Two tables over ONNX's operators, those of ONNX Runtime (com.microsoft) and of ai.onnx.ml. READS: operators that make one
element of several, with the axes along which these lie. MOVES: operators that put elements elsewhere, with whether they
take rows of the batch from their places. What neither has, works element by element or moves other axes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import lcm, prod
from typing import Any

from tritonsmith.builder.actions.batch_rows.graph.node import (
    BATCHES,
    Dim,
    Node,
    is_cut,
    is_whole,
    varies,
)

_LARGEST_RANK = 8
_TO_THE_END = 2**31 - 1

Axes = frozenset[int] | None
"""Counted from the first where the rank is known; None is all of them."""

Reads = Callable[[Node], Mapping[int, Axes]]
"""Input → axes along which the operator reads it."""

Moves = Callable[[Node, int, int], bool]
"""(node, input, the batch's axis in it) → whether rows are taken from their places."""


def _axes(node: Node, *axes: int, operand: int = 0) -> Axes:
    return frozenset(node.from_start(axis, operand) for axis in axes)


def _along(*axes: int) -> Reads:
    return lambda node: {0: _axes(node, *axes)}


def _at_axis(default: int) -> Reads:
    return lambda node: {0: _axes(node, int(node.attributes.get("axis", default)))}


def _all_from(node: Node, axis: int, operand: int = 0) -> Axes:
    first, rank = node.from_start(axis, operand), node.rank(operand)
    return frozenset(range(first, _LARGEST_RANK if rank is None else rank)) if first >= 0 else frozenset()


def _from(axis: int, *operands: int) -> Reads:
    return lambda node: {operand: _all_from(node, axis, operand) for operand in operands or (0,)}


def _from_axis(default: int) -> Reads:
    return lambda node: {0: _all_from(node, int(node.attributes.get("axis", default)))}


def _softmax(node: Node) -> Mapping[int, Axes]:
    """Before opset 13, of that axis and all behind it."""
    return _at_axis(-1)(node) if node.opset >= 13 else _from_axis(1)(node)


def _reduced(node: Node) -> Mapping[int, Axes]:
    axes = node.attributes.get("axes")
    if axes is None and node.has(1):
        axes = node.constant(1)
        if axes is None:
            return {}  # known only when it runs
    if axes:
        return {0: _axes(node, *axes)}
    return {} if node.attributes.get("noop_with_empty_axes") else {0: None}


def _optional_axis(node: Node) -> Mapping[int, Axes]:
    return {0: _axes(node, int(node.attributes["axis"])) if "axis" in node.attributes else None}


def _stated_axis(index: int, default: int | None = None) -> Reads:
    """The axis is an input's value."""

    def reads(node: Node) -> Mapping[int, Axes]:
        axes = node.constant(index) if node.has(index) else None if default is None else (default,)
        return {} if axes is None else {0: _axes(node, *axes)}

    return reads


def _product(one: int = 0, other: int = 1) -> Reads:
    """Products of matrices: the last axis of one by the last but one of the other."""

    def reads(node: Node) -> Mapping[int, Axes]:
        first = -2 if node.attributes.get("transA") else -1
        second = -1 if node.attributes.get("transB") or node.rank(other) == 1 else -2
        return {one: _axes(node, first, operand=one), other: _axes(node, second, operand=other)}

    return reads


def _einsum(node: Node) -> Mapping[int, Axes]:
    """Axes whose label the result lacks, which are summed over, or that a term has twice, which is its diagonal."""
    terms, kept = _terms(node)
    found: dict[int, Axes] = {}
    for operand, term in enumerate(terms):
        before, dots, behind = term.partition(".")
        axes = {
            **dict(enumerate(before)),
            **{node.from_start(n - len(behind), operand): label for n, label in enumerate(behind)},
        }
        found[operand] = frozenset(
            a for a, label in axes.items() if label not in kept or term.count(label) > 1
        )
        rank = node.rank(operand)
        if dots and "." not in kept and rank is not None:
            found[operand] = (found[operand] or frozenset()) | set(range(len(before), rank - len(behind)))
    return found


def _terms(node: Node) -> tuple[list[str], str]:
    """The operands' labels and the result's, "." for an ellipsis."""
    equation = node.attributes.get("equation", b"")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, right = text.replace("...", ".").partition("->")
    every = left.replace(",", "")
    return left.split(","), right if arrow else "." + "".join(c for c in every if every.count(c) == 1)


def _batch_norm(node: Node) -> Mapping[int, Axes]:
    return {0: (_all_from(node, 0) or frozenset()) - {1}} if node.attributes.get("training_mode") else {}


def _recurrent(node: Node) -> Mapping[int, Axes]:
    """Over time and the features of a step."""
    return {0: _axes(node, 1 if node.attributes.get("layout") else 0, 2)}


def _scan(node: Node) -> Mapping[int, Axes]:
    """By what a step hands to the next; where that never changes, each step is by itself."""
    scanned = int(node.attributes.get("num_scan_inputs", 1))
    carried = len(node.inputs) - scanned
    axes = node.attributes.get("scan_input_axes") or [0] * scanned
    if all(_is_passed_on(node.attributes["body"], n) for n in range(carried)):
        return {}
    return {carried + n: _axes(node, axis, operand=carried + n) for n, axis in enumerate(axes)}


def _is_passed_on(body: Any, state: int) -> bool:
    """Whether a step's state is the next one's."""
    name = body.output[state].name
    copied = {node.output[0]: node.input[0] for node in body.node if node.op_type == "Identity"}
    while name in copied:
        name = copied[name]
    return bool(name == body.input[state].name)


def _loss(node: Node) -> Mapping[int, Axes]:
    return {0: _all_from(node, 1) if node.attributes.get("reduction") == b"none" else None}


def _stop_words(node: Node) -> Mapping[int, Axes]:
    return {0: None} if node.attributes.get("stopwords") else {}


READS: Mapping[str, Reads] = {
    **dict.fromkeys(
        (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSum",
            "ReduceSumInteger",
            "ReduceSumSquare",
        ),
        _reduced,
    ),
    "QLinearReduceMean": _reduced,
    **dict.fromkeys(("ArgMax", "ArgMin"), _at_axis(0)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("TopK", "LpNormalization", "QLinearSoftmax"), _at_axis(-1)),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _from_axis(-1)
    ),
    **dict.fromkeys(
        ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "MatMulNBits", "MatMulBnb4"),
        _along(-1),
    ),
    **dict.fromkeys(("CumSum", "CumProd"), _stated_axis(1)),
    "DFT": lambda node: _stated_axis(2, -2)(node) if node.opset >= 20 else _at_axis(1)(node),
    "STFT": _along(1),
    **dict.fromkeys(("Unique", "Compress"), _optional_axis),
    "NonZero": lambda node: {0: None},
    "MeanVarianceNormalization": lambda node: {0: _axes(node, *node.attributes.get("axes", (0, 2, 3)))},
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), _recurrent),
    "Scan": _scan,
    **dict.fromkeys(
        (
            "MatMul",
            "Gemm",
            "MatMulInteger",
            "MatMulIntegerToFloat",
            "DynamicQuantizeMatMul",
            "FusedMatMul",
            "FusedGemm",
        ),
        _product(),
    ),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), _product(0, 3)),
    "Einsum": _einsum,
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv", "DeformConv"), _from(1, 0, 1)),
    "QLinearConv": _from(1, 0, 3),
    **dict.fromkeys(
        (
            "ConvTranspose",
            "GroupNormalization",
            "GroupNorm",
            "LRN",
            "Col2Im",
            "AffineGrid",
            "RotaryEmbedding",
        ),
        _from(1),
    ),
    **dict.fromkeys(
        (
            "AveragePool",
            "MaxPool",
            "LpPool",
            "GlobalAveragePool",
            "GlobalMaxPool",
            "GlobalLpPool",
            "QLinearAveragePool",
            "InstanceNormalization",
            "MaxUnpool",
        ),
        _from(2),
    ),
    "GridSample": _from(2),
    **dict.fromkeys(
        ("Attention", "FlexAttention", "LinearAttention", "MultiHeadAttention", "GroupQueryAttention"),
        _from(1, 0, 1, 2),
    ),
    **dict.fromkeys(("QAttention", "EmbedLayerNormalization", "CausalConvWithState"), _from(1)),
    "NonMaxSuppression": _from(1, 0, 1),
    "ReverseSequence": lambda node: {0: _axes(node, int(node.attributes.get("time_axis", 0)))},
    "Det": _along(-2, -1),
    "TfIdfVectorizer": _along(-1),
    "StringNormalizer": _stop_words,
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"), _loss),
    **dict.fromkeys(
        (
            "Normalizer",
            "LinearClassifier",
            "LinearRegressor",
            "SVMClassifier",
            "SVMRegressor",
            "TreeEnsemble",
            "TreeEnsembleClassifier",
            "TreeEnsembleRegressor",
        ),
        _along(-1),
    ),
}


def _slice(node: Node, _: int, axis: int) -> bool:
    """Forward and whole is a batch as it was, or one of several laid one after another."""
    if "starts" in node.attributes:  # before opset 10
        starts, ends, axes = (node.attributes.get(name) for name in ("starts", "ends", "axes"))
        steps = None
    else:
        starts, ends, axes, steps = (node.constant(index) for index in (1, 2, 3, 4))
        if node.has(3) and axes is None:
            return is_cut(node.result(axis))
    sliced = [node.from_start(a) for a in axes or range(len(starts or ends or ()))]
    if axis not in sliced:
        return is_cut(node.result(axis))
    at = sliced.index(axis)
    if steps is not None and steps[at] < 0:
        return True
    if node.result(axis) is not None:
        return is_cut(node.result(axis))
    # Sizes that are known only when it runs.
    return (starts is not None and starts[at] != 0) or (ends is not None and ends[at] < _TO_THE_END)


def _picked(node: Node, operand: int, axis: int) -> bool:
    """Of what is read from or written to along an axis, and of what is written."""
    return operand != 1 and 1 in node.picks and axis == node.from_start(int(node.attributes.get("axis", 0)))


def _gather_nd(node: Node, operand: int, axis: int) -> bool:
    if operand != 0 or 1 not in node.picks:
        return False
    first = int(node.attributes.get("batch_dims", 0))
    return first <= axis < first + _places(node)


def _scatter_nd(node: Node, operand: int, axis: int) -> bool:
    """Of what is written to, the axes that places are in; of what is written, the axes that it shares with the places."""
    if 1 not in node.picks or operand == 1:
        return False
    return axis < (_places(node) if operand == 0 else (node.rank(1) or 1) - 1)


def _places(node: Node) -> int:
    """How many axes an element of the indices speaks of."""
    last = node.dim((node.rank(1) or 1) - 1, 1)
    return 1 if last is None else last[0]


def _regions(index: int) -> Moves:
    """Regions of the images that they name."""
    return lambda node, operand, axis: operand == axis == 0 and index in node.picks


def _concat(node: Node, _: int, axis: int) -> bool:
    joined = node.from_start(int(node.attributes.get("axis", 1)))
    return axis == joined and any(is_cut(node.dim(axis, n)) for n in range(len(node.shapes)))


def _split(node: Node, _: int, axis: int) -> bool:
    parted = node.from_start(int(node.attributes.get("axis", 0)))
    return axis == parted and any(is_cut(node.result(axis, n)) for n in range(len(node.results)))


def _pad(node: Node, _: int, axis: int) -> bool:
    pads = node.attributes.get("pads") or node.attributes.get("paddings") or node.constant(1)
    axes = node.constant(3) if node.has(3) else range(node.rank() or 0)
    if pads is None or axes is None:
        return _resized(node, 0, axis)
    padded = [node.from_start(a) for a in axes]
    return axis in padded and any(pads[padded.index(axis) :: len(padded)])


def _resized(node: Node, _: int, axis: int) -> bool:
    before, after = node.dim(axis), node.result(axis)
    return before is not None and after is not None and before != after


def _last_two(node: Node, _: int, axis: int) -> bool:
    return axis in (node.from_start(-1), node.from_start(-2))


def _reshape(node: Node, _: int, axis: int) -> bool:
    """Whether rows are cut otherwise.

    An axis may hold rows joined with what lay before and behind them, so that the distance from row to row (its stride)
    is the axis's own or that times a part of the rest. Some stride has to be possible before and after.
    """
    before, after = node.shapes[0], node.results[0] if node.results else None
    if before is None or after is None or None in before or None in after:
        return False
    batched = [a for a, dim in enumerate(after) if varies(dim)]
    if 0 in (dim[0] for dim in before if dim is not None):
        return False  # nothing to cut
    if len(batched) != 1 or sum(varies(dim) for dim in before) != 1:
        return False
    if not is_whole(before[axis]) or not is_whole(after[batched[0]]):
        return is_whole(before[axis])  # once is enough
    (stride, others), (stride_after, others_after) = _strides(before, axis), _strides(after, batched[0])
    common = lcm(stride, stride_after)
    return others % (common // stride) != 0 or others_after % (common // stride_after) != 0


def _strides(shape: tuple[Dim, ...], axis: int) -> tuple[int, int]:
    """(the axis's stride, what it holds beside the rows)."""
    sizes = [dim[0] for dim in shape if dim is not None]
    return prod(sizes[axis + 1 :]), sizes[axis] // BATCHES[0]


MOVES: Mapping[str, Moves] = {
    "Slice": _slice,
    **dict.fromkeys(("Gather", "GatherElements", "Scatter", "ScatterElements"), _picked),
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "ArrayFeatureExtractor": lambda node, operand, axis: operand == 0 and axis == node.from_start(-1),
    "RoiAlign": _regions(2),
    "MaxRoiPool": _regions(1),
    "Concat": _concat,
    "Split": _split,
    "Pad": _pad,
    **dict.fromkeys(("Resize", "Upsample", "CenterCropPad"), _resized),
    "Trilu": _last_two,
    "Reshape": _reshape,
}
