"""Modules as strangers bring them: each is exported exactly, or refused with the reason that is the right one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.torch import export_callable
from tritonsmith.builder.base.dim_relations import ranges_with_relations
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

MODULE = "tests.builder.actions.export.strange_modules"
FILE = Path(__file__).with_name("strange_modules.py")
FP32 = dtype_from_config("TYPE_FP32")
LAYER = ("key", "value")


@dataclass(frozen=True)
class Row:
    """A module of strange_modules, a sentence about it, and what must come of it.

    inputs: name → shape, as the spec states them. outputs: their names. seen: words of the error, its place included.
    """

    name: str
    sentence: str
    code: str | None = None
    seen: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("output",)
    inputs: dict[str, tuple[int | str, ...]] = field(default_factory=dict)
    ranges: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    relations: dict[str, str] = field(default_factory=dict)
    found: dict[str, str] | None = None
    exporter: str = "dynamo"
    asked: Any = None
    batch: int = 4


def exact(name: str, sentence: str, *outputs: str, **others: Any) -> Row:
    return Row(name, sentence, outputs=outputs or ("output",), **others)


def refused(name: str, sentence: str, code: str, *seen: str, **others: Any) -> Row:
    return Row(name, sentence, code=code, seen=seen, **others)


PAST = {"past": ("batch", "past", 4), "new": ("batch", "new", 4), "mask": ("batch", "total")}
PAST_RANGES = {"past": (0, 4, 10), "new": (1, 2, 3)}
TIME = {"x": ("batch", "time", 4)}

QUICK = (
    exact(
        "input_names_collide",
        "inputs and outputs called like values inside the graph",
        "add_1",
        "mul_1",
        "linear",
        "x",
    ),
    exact(
        "output_like_input",
        "an output called like an input has another name: a tensor of an ONNX file has one",
        "x_out",
        "y",
    ),
    exact(
        "cache",
        "a cache of a class of its own goes in and comes out, named by layer",
        "logits",
        "past_key_values.0.key",
        "past_key_values.0.value",
        inputs={
            "x": ("batch", "new", 4),
            "mask": ("batch", "total"),
            **{f"cache.0.{part}": ("batch", "past", 4) for part in LAYER},
        },
        ranges=PAST_RANGES,
        relations={"total": "past + new"},
        found={},
    ),
    exact(
        "bidirectional_over_time",
        "torch.export unrolls an RNN over its example's length; TorchScript writes one node",
        inputs=TIME,
        ranges={"time": (1, 5, 30)},
        exporter="torchscript",
    ),
    exact(
        "down_and_up", "only multiples of 4 come out as they went in", inputs={"x": ("batch", 1, "h", 32)},
        ranges={"h": (16, 62, 127)},
        found={"h": "4*any"},
    ),
    refused("dropout_in_eval", "dropout that never ends", "not_deterministic", "aten.bernoulli", "F.dropout"),
    refused("vae", "a sample is drawn inside", "not_deterministic", "aten.randn_like", "torch.randn_like(mean)"),
    refused("numpy_noise", "random numbers of Python's", "not_deterministic", "no random operator of torch"),
    refused("counts", "a buffer counts the calls", "stateful", "changed by a call: n", "sequence_batching"),
    refused("counts_in_python", "an attribute counts the calls", "stateful", "changed by a call: n"),
    refused("slow_average", "a running average that two runs do not show", "stateful", "mean"),
    refused("in_place_on_leaf", "a parameter is written in forward", "stateful", "changed by a call: w"),
    refused("baked_view", "the batch is written into a view", "not_exportable", "x.view(2, -1)", "x.shape[0]", "TorchScript"),
    refused("baked_expand", "the batch is written into an expand", "not_exportable", "self.b.expand(2, 4)"),
    refused("branch_on_values", "a branch on values", "not_exportable", "if x.sum() > 0", "torch.where or torch.cond"),
    refused("item", "a value is taken out", "not_exportable", "x.max().item()", "may not look at values"),
    refused("roll_by_value", "a slice by a value", "not_exportable", "may not look at values"),
    refused("numpy_inside", "NumPy inside", "not_exportable", "x.numpy()", "stay in torch"),
    refused("packed", "packed sequences", "not_exportable", "mask what it answers behind the end"),
    refused("energy_and_forces", "a gradient is taken inside", "not_exportable", "takes a gradient"),
    refused("quantised", "a module that torch quantised", "not_exportable", "precision: int8"),
    refused("returns_a_float", "a number beside the tensor", "forward_returned", "1: float"),
    refused("returns_a_string", "a word beside the tensor", "forward_returned", "kind: str", "output:"),
    refused("returns_nothing", "no answer", "forward_returned", "no tensor"),
    refused("complex_output", "a complex answer", "unsupported_tensor", "complex64", "view_as_real"),
    refused("complex_input", "a complex input", "unsupported_tensor", "complex64", "view_as_real"),
    refused("a_number_as_input", "a number where a tensor belongs", "example_inputs", "torch.tensor(3)"),
    refused("sparse_input", "a sparse input", "unsupported_tensor", "sparse"),
    refused("on_meta", "weights that were never loaded", "no_weights", "linear.weight"),
    refused("other_device", "a device named in forward", "forward_failed", "self.table.to", "exported on the CPU"),
    refused(
        "past_and_new", "a relation that the example has, and the model has not", "dim_relation", "total = new + past",
        inputs=PAST,
        ranges=PAST_RANGES,
        relations={"total": "past + 2"},
    ),
    refused(
        "past_and_new", "a relation that not even the example has", "dim_relation", "total 5", "valid: 6",
        inputs=PAST,
        ranges=PAST_RANGES,
        relations={"total": "2*past"},
    ),
    refused(
        "size_decides", "a branch on a size, with no range stated", "dim_range", "max: 6", inputs=TIME
    ),
    refused(
        "branch_on_values", "a trace would hold one branch for ever", "data_dependent", "if x.sum() > 0",
        asked="torchscript",
    ),
)  # fmt: skip

PLAIN = (
    "conv", "group_norm", "lstm_batch_first", "gru_time_major", "transformer", "attention", "mixture_of_experts",
    "interpolate", "einsum", "embedding_bag", "old_weight_norm", "weight_norm", "spectral_norm", "scatter", "cumsum",
    "masked_fill", "cond", "while_loop", "scan", "while_true_python", "tied", "in_train_mode", "returns_its_input",
    "keyword_only", "optional_none_between", "list_of_tensors", "dict_input", "half_weights", "double",
    "custom_function", "in_place_on_input", "requires_grad", "custom_attention_loop", "fft_magnitude", "stft",
    "grid_sample", "pixel_shuffle", "scripted_part", "compiled", "data_parallel", "remembers_its_inputs", "prints",
    "vmapped", "positions", "rotary_cached", "counts_calls_only", "scratch_buffer",
)  # fmt: skip

NIGHTLY = (
    refused(
        "bidirectional_over_time", "the first exporter alone", "not_exportable", "exporter: torchscript",
        inputs=TIME,
        asked="dynamo",
    ),
    exact(
        "returns_twice_the_same",
        "one tensor twice, and the input itself",
        "output_0",
        "output_1",
        "output_2",
    ),
    exact(
        "output_like_weight",
        "outputs called like the weights, and like a note of the exporter",
        "linear.weight",
        "linear.bias",
    ),
    *(exact(name, name.replace("_", " ")) for name in PLAIN),
    exact("integer_math", "floors and remainders of negative numbers", "output_0", "output_1", "output_2"),
    exact("returns_a_parameter", "a weight beside the answer", "output_0", "output_1"),
    exact("multihead", "attention and its weights", "output_0", "output_1"),
    exact("sort_topk", "orders", "values", "order", "top", "best"),
    exact("returns_structseq", "torch.return_types.max", "values", "indices"),
    exact("named_tuple", "a named tuple in a named tuple", "first", "second.first", "second.second"),
    exact("nested_dicts", "dicts and lists in a dict, and None", "boxes.left", "boxes.right", "scores.0", "extra.left"),
    exact(
        "dataclass_output", "a dataclass of tuples of tuples",
        "logits", "hidden_states.0", "hidden_states.1",
        *(f"past_key_values.{layer}.{part}" for layer in (0, 1) for part in (0, 1)),
    ),
    exact("strange_keys", "keys that no name can have", "output_0", "output_1", "7", "a b", "å"),
    exact("keys_that_meet", "two paths that are one name", "a.b", "a.b_2", "x."),
    exact(
        "old_cache", "a cache of lists, as transformers had them",
        "logits", "past_key_values.0.key", "past_key_values.0.value",
    ),
    exact(
        "one_tensor_thrice", "the same tensor for three inputs; no 3-D attention in torch's exporter",
        exporter="torchscript",
    ),
    exact("nonzero", "as many rows as there are", batch=0),
    exact("detection", "boxes in, fewer boxes out", "boxes_out", "scores_out", batch=0),
    exact("unique", "as many values as there are", batch=0),
    exact("past_and_new", "total is found to be past and new", inputs=PAST, found={"total": "new + past"}),
    exact(
        "past_and_new", "total is stated to be past and new, and past may be nothing", inputs=PAST, ranges=PAST_RANGES,
        relations={"total": "past + new"}, found={},
    ),
    exact("n_and_one_more", "one more", inputs={"x": ("batch", "n"), "y": ("batch", "m")}, found={"m": "n + 1"}),
    exact(
        "n_and_one_more", "one less", inputs={"x": ("batch", "n"), "y": ("batch", "m")}, ranges={"m": (2, 5, 10)},
        relations={"n": "m - 1"}, found={},
    ),
    exact("twice", "twice", inputs={"x": ("batch", "n"), "y": ("batch", "m")}, found={"m": "2*n"}),
    exact(
        "added", "equal dims stay equal", inputs={"a": ("batch", "n"), "b": ("batch", "m")}, ranges={"n": (1, 5, 9)},
        found={"m": "n"},
    ),
    exact("halved", "half", inputs={"a": ("batch", 1, "n"), "b": ("batch", 1, "m")}, found={"m": "(n//2)"}),
    exact("size_decides", "within the branch of the example", inputs=TIME, ranges={"time": (1, 5, 6)}),
    refused("size_decides", "beyond it", "dim_range", "0 to 6", inputs=TIME, ranges={"time": (1, 5, 40)}),
    refused(
        "size_decides_below", "below the branch of the example", "dim_range", "8 to 40", inputs=TIME,
        ranges={"time": (1, 16, 40)},
    ),
    refused("lstm_states", "states have the layer first", "fixed_batch", "output_1.0"),
    refused("running_mean", "a running mean", "stateful", "mean"),
    refused("scalar_output", "a loss beside the answer", "no_batch_dimension", "loss"),
    refused("svd", "an operator without a form in ONNX", "onnx_conversion", "aten._linalg_svd", "opset 20", "aten::linalg_svd"),
    refused("inverse", "another", "onnx_conversion", "aten.linalg_inv_ex"),
    refused("custom_operator", "an operator of one's own", "onnx_conversion", "tritonsmith_tests.doubled"),
)  # fmt: skip


def of(row: Row) -> str:
    return f"{row.name}: {row.sentence}"


@pytest.mark.parametrize("row", QUICK, ids=of)
def test_what_strangers_bring(row: Row, tmp_path: Path) -> None:
    check(row, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("row", NIGHTLY, ids=of)
def test_what_more_of_them_bring(row: Row, tmp_path: Path) -> None:
    check(row, tmp_path)


def check(row: Row, out: Path) -> None:
    request = ExportRequest(
        row.name,
        "torch",
        f"{MODULE}:{row.name}",
        str(FILE.parent),
        max_batch_size=row.batch,
        sample_batch_sizes=(1, 3, 4) if row.batch else (),
        inputs=tuple(TensorSpec(name, FP32, shape) for name, shape in row.inputs.items()),
        dynamic_dims=ranges_with_relations(row.ranges, row.relations)[0],
        dim_relations=row.relations,
        exporter=row.asked,
    )
    if row.code is not None:
        with pytest.raises(ExportError) as caught:
            export_callable(request, out)
        error = caught.value
        line = (
            ""
            if error.where is None or error.where.line is None
            else error.where.path.read_text().splitlines()[error.where.line - 1]
        )
        told = f"{error}\n{line}"
        assert error.code == row.code, told
        for words in row.seen:
            assert words in told
        return
    exported, _, (report, _, _) = export_callable(request, out)
    assert report.passed
    assert tuple(tensor.name for tensor in exported.outputs) == row.outputs
    assert exported.exporter == row.exporter
    if row.found is not None:
        found = {name: text for name, text in exported.relations.items() if name not in row.relations}
        assert {name: text.partition("_")[0] for name, text in found.items()} == row.found
    _assert_the_dims_keep_to_each_other(row, exported.relations, out)


def _assert_the_dims_keep_to_each_other(row: Row, relations: Any, out: Path) -> None:
    """The samples have every stated size at least once, and no two dims always the same."""
    seen: dict[str, set[int]] = {}
    for sample in load_samples(out / "samples.npz").samples:
        for name, shape in row.inputs.items():
            for dim, size in zip(shape, sample.inputs[name].shape, strict=True):
                if isinstance(dim, str):
                    seen.setdefault(dim, set()).add(size)
    for name, sizes in row.ranges.items():
        if name in seen and name not in relations:
            assert seen[name] >= set(sizes)
