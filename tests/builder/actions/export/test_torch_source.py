"""torch callables to ONNX: names, dynamic dimensions, opsets, and every way in which a source can be wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.builder.actions.export.conftest import Sources
from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport
from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.export.checks.verify import Stated, stated_samples
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.torch import export_callable, load, names_of_outputs
from tritonsmith.builder.actions.export.torch.program import write_onnx
from tritonsmith.builder.actions.export.torch.structure import leaves_of
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

FP32, INT64 = dtype_from_config("TYPE_FP32"), dtype_from_config("TYPE_INT64")

LINEAR = """
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)
            self.drop = torch.nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.linear(x))

    def load():
        return Net(), torch.randn(2, 4)
"""


def request(sources: Sources, reference: str = "net:load", **changes: Any) -> ExportRequest:
    values: dict[str, Any] = {"model": "m", "kind": "torch", "max_batch_size": 8, **changes}
    return ExportRequest(reference=reference, search_path=str(sources.directory), **values)


def checked(asked: ExportRequest, sources: Sources) -> tuple[Exported, AccuracyReport]:
    exported, _, (report, _, _) = export_callable(asked, sources.out)
    return exported, report


def failing(sources: Sources, text: str, **changes: Any) -> ExportError:
    sources.write("net.py", text)
    with pytest.raises(ExportError) as caught:
        checked(request(sources, **changes), sources)
    assert not (sources.out / "samples.npz").exists()
    return caught.value


def test_a_module_becomes_one_file_with_a_dynamic_batch_in_eval_mode(sources: Sources) -> None:
    sources.write("net.py", LINEAR)
    exported, report = checked(request(sources, sample_batch_sizes=(1, 3, 8)), sources)
    assert exported.files == ("model.onnx",)
    assert [p.name for p in sources.out.iterdir() if p.name.startswith("model")] == ["model.onnx"]
    assert exported.inputs == (TensorSpec("x", FP32, ("batch", 4)),)
    assert exported.outputs == (TensorSpec("output", FP32, ("batch", 3)),)
    assert exported.opset == 20
    # dropout left in training mode would differ by whole activations
    assert report.passed
    assert report.worst is not None
    assert report.worst.relative_l2 < 1e-5
    assert {d.runtime for d in report.deviations} == {"onnxruntime", "onnxruntime, optimisations off"}
    samples = load_samples(sources.out / "samples.npz").samples
    assert [s.inputs["x"].shape[0] for s in samples] == [1, 3, 8]


def test_samples_are_not_the_example_and_depend_on_the_seed_alone(sources: Sources) -> None:
    sources.write("net.py", LINEAR)
    drawn = []
    for seed in (0, 0, 1):
        exported, _ = checked(request(sources, seed=seed, sample_batch_sizes=(2,)), sources)
        drawn.append(load_samples(sources.out / "samples.npz").samples[0].inputs["x"])
    assert exported.example is not None
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not np.isin(drawn[2], exported.example["x"]).any()


@pytest.mark.parametrize("opset", [18, 19, 21, 22])
def test_the_opset_asked_for_is_the_opset_in_the_file(sources: Sources, opset: int) -> None:
    sources.write("net.py", LINEAR)
    exported, _ = checked(request(sources, opset=opset), sources)
    assert exported.opset == opset
    model = onnx.load(str(exported.model_path))
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]


def test_torch_leaving_another_opset_in_the_file_is_noticed(sources: Sources) -> None:
    """Asked for 17, torch writes 18 and raises nothing; only reading the file back shows it."""
    program = torch.export.export(torch.nn.AdaptiveAvgPool2d(1), (torch.randn(2, 4, 8, 8),))
    with pytest.raises(ExportError) as caught:
        write_onnx(program, request(sources, opset=17), sources.out, ["x"], ["y"], [(2, 4, 8, 8)])
    assert caught.value.code == "opset_changed"
    assert caught.value.seen == 18


@pytest.mark.parametrize("opset", [17, 23, 24])
def test_an_opset_outside_the_range_is_refused_before_anything_runs(sources: Sources, opset: int) -> None:
    error = failing(sources, "raise SystemExit('not reached')", opset=opset)
    assert error.code == "opset_unsupported"
    assert error.valid == ("18 to 22",)


ATTENTION = """
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(50, 8)
            self.positions = torch.nn.Parameter(torch.randn(64, 8))

        def forward(self, ids, mask=None):
            x = self.words(ids) + self.positions[: ids.shape[1]]
            weights = mask.to(x.dtype)[:, :, None]
            return {"tokens": x * weights, "pooled": (x * weights).sum(1) / weights.sum(1)}

    def load():
        # keyword order differs from forward's on purpose
        return Net(), {"mask": torch.ones(1, 5, dtype=torch.int64), "ids": torch.randint(0, 50, (1, 5))}
"""

NAMED = tuple(TensorSpec(name, INT64, ("batch", "sequence")) for name in ("ids", "mask"))


def test_stated_dimension_names_reach_the_inputs_and_the_outputs(sources: Sources) -> None:
    sources.write("net.py", ATTENTION)
    asked = request(
        sources, inputs=NAMED, dynamic_dims={"sequence": (1, 8, 64)}, sample_batch_sizes=(1, 3, 8)
    )
    exported, report = checked(asked, sources)
    assert exported.inputs == NAMED
    assert exported.outputs == (
        TensorSpec("tokens", FP32, ("batch", "sequence", 8)),
        TensorSpec("pooled", FP32, ("batch", 8)),
    )
    assert report.passed
    shapes = [s.inputs["ids"].shape for s in load_samples(sources.out / "samples.npz").samples]
    assert shapes == [(1, 8), (3, 1), (8, 64)]


def test_an_example_of_batch_1_does_not_fix_the_batch(sources: Sources) -> None:
    sources.write("net.py", ATTENTION)
    exported, report = checked(request(sources), sources)
    assert exported.inputs[0].shape == ("batch", 5)
    assert report.passed


def test_a_promise_beyond_the_position_table_is_refused(sources: Sources) -> None:
    error = failing(sources, ATTENTION, inputs=NAMED, dynamic_dims={"sequence": (1, 8, 128)})
    assert error.code in ("dim_range", "not_exportable")
    assert "64" in str(error)


def test_tensors_stated_under_other_names_rename_by_position(sources: Sources) -> None:
    sources.write("net.py", LINEAR)
    asked = request(
        sources, inputs=(TensorSpec("INPUT", FP32, (-1, 4)),), outputs=(TensorSpec("OUTPUT", FP32, (-1, 3)),)
    )
    exported, report = checked(asked, sources)
    assert exported.inputs == (TensorSpec("INPUT", FP32, ("batch", 4)),)
    assert [t.name for t in exported.outputs] == ["OUTPUT"]
    assert report.passed


def test_a_dimension_of_a_multiple_is_found_and_an_unnamed_one_gets_a_name(sources: Sources) -> None:
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.down = torch.nn.Conv2d(1, 2, 2, stride=2)
                self.up = torch.nn.ConvTranspose2d(2, 1, 2, stride=2)

            def forward(self, image):
                return image + self.up(self.down(image))

        def load():
            return Net(), (torch.rand(1, 1, 16, 16),)
        """,
    )
    asked = request(sources, inputs=(TensorSpec("image", FP32, ("batch", 1, -1, "width")),))
    exported, report = checked(asked, sources)
    assert exported.inputs[0].shape == ("batch", 1, "image_dim2", "width")
    assert report.passed


def test_without_batching_and_stated_shapes_everything_is_fixed(sources: Sources) -> None:
    sources.write("net.py", LINEAR)
    exported, report = checked(request(sources, max_batch_size=0), sources)
    assert exported.inputs[0].shape == (2, 4)
    assert exported.outputs[0].shape == (2, 3)
    assert report.passed


def test_several_outputs_are_numbered_and_variadic_inputs_too(sources: Sources) -> None:
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            def forward(self, *parts):
                return parts[0] + parts[1], [parts[0] > 0, parts[1].to(torch.int64)]

        def load():
            return Net(), (torch.randn(2, 4), torch.randn(2, 4))
        """,
    )
    exported, report = checked(request(sources), sources)
    assert [t.name for t in exported.inputs] == ["parts_0", "parts_1"]
    assert [(t.name, t.dtype.config) for t in exported.outputs] == [
        ("output_0", "TYPE_FP32"),
        ("output_1.0", "TYPE_BOOL"),
        ("output_1.1", "TYPE_INT64"),
    ]
    assert report.passed


def test_weights_above_the_limit_lie_beside_the_model_in_a_directory(sources: Sources) -> None:
    """The limit is 2 GiB; the same path is taken here with 1 KiB."""
    sources.write(
        "net.py",
        """
        def load():
            return torch.nn.Linear(64, 64), torch.randn(2, 64)
        """,
    )
    exported, report = checked(request(sources, external_above_bytes=1024), sources)
    assert exported.files[0] == "model.onnx/model.onnx"
    assert len(exported.files) == 2
    assert all((sources.out / file).is_file() for file in exported.files)
    assert (sources.out / exported.files[1]).stat().st_size >= 64 * 64 * 4
    assert exported.model_path.stat().st_size < 64 * 64 * 4
    assert report.passed


def test_an_export_that_answers_otherwise_fails_its_report_without_raising(sources: Sources) -> None:
    """A module whose Python state changes after the capture is not what was exported."""
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            calls = 0

            def forward(self, x):
                Net.calls += 1
                return x * 1.0 if Net.calls <= 3 else x * 1.01

        def load():
            return Net(), torch.randn(2, 4)
        """,
    )
    _, report = checked(request(sources), sources)
    assert not report.passed
    assert report.worst is not None
    assert report.worst.relative_l2 == pytest.approx(0.01, rel=0.05)


def test_stated_samples_are_used_cut_and_completed(sources: Sources) -> None:
    sources.write(
        "net.py",
        LINEAR
        + """
    def samples():
        return [{"x": torch.full((11, 4), 2.0)}]
    """,
    )
    _, report = checked(request(sources, samples="net:samples", sample_batch_sizes=(1, 3, 8)), sources)
    found = load_samples(sources.out / "samples.npz")
    assert sorted(s.inputs["x"].shape[0] for s in found.samples) == [1, 3, 8]
    assert all((s.inputs["x"] == 2.0).all() for s in found.samples)
    assert found.origin == "net:samples"
    assert report.samples == 3


# ---- bad sources, one by one -----------------------------------------------------------------------------


def test_a_module_that_does_not_exist_names_the_nearest(sources: Sources) -> None:
    sources.write("network.py", LINEAR)
    with pytest.raises(ExportError) as caught:
        export_callable(request(sources, "netwrk:load"), sources.out)
    assert caught.value.code == "module_not_found"
    assert caught.value.valid == ("network",)


def test_an_import_that_fails_points_at_the_line(sources: Sources) -> None:
    path = sources.write("net.py", "import math\nimport not_there_at_all\n")
    with pytest.raises(ExportError) as caught:
        export_callable(request(sources), sources.out)
    assert caught.value.code == "import_failed"
    assert str(caught.value.where) == f"{path}:{sources.line(path, 'not_there')}"
    assert caught.value.fix is not None
    assert "not_there_at_all" in caught.value.fix


def test_a_syntax_error_points_at_the_line(sources: Sources) -> None:
    path = sources.write("net.py", "def load(:\n    pass\n")
    with pytest.raises(ExportError) as caught:
        export_callable(request(sources), sources.out)
    assert caught.value.code == "import_failed"
    assert str(caught.value.where) == f"{path}:2"


def test_an_attribute_that_does_not_exist_names_the_nearest(sources: Sources) -> None:
    error = failing(sources, LINEAR, reference="net:laod")
    assert error.code == "attribute_not_found"
    assert error.fix == "did you mean 'load'?" and "load" in error.valid


def test_a_callable_that_raises_points_at_its_innermost_line(sources: Sources) -> None:
    text = """
        def weights():
            return open("missing.bin", "rb").read()

        def load():
            return weights()
    """
    error = failing(sources, text)
    assert error.code == "callable_failed"
    assert "FileNotFoundError" in error.message
    assert "missing.bin" in error.message
    path = sources.directory / "net.py"
    assert str(error.where) == f"{path}:{sources.line(path, 'missing.bin')}"


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param("raise SystemExit(3)", "callable_failed", "SystemExit", id="a callable that exits"),
        pytest.param("return None", "source_returned", "NoneType", id="nothing"),
        pytest.param(
            "return torch.nn.Linear(4, 3)", "source_returned", "Linear", id="a module without an example"
        ),
        pytest.param(
            "return torch.randn(2), torch.nn.Linear(4, 3)",
            "source_returned",
            "Tensor, Linear",
            id="the wrong way round",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), ()", "example_inputs", "no example inputs", id="no inputs"
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), 5",
            "source_returned",
            "Linear, int",
            id="an example that is a number",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), ([1.0],)",
            "example_inputs",
            "input.0 is not a tensor",
            id="a list for a tensor",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), {'inputt': torch.randn(2, 4)}",
            "example_inputs",
            "valid: input",
            id="a misspelt name",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), (torch.randn(2, 4), torch.randn(2))",
            "example_inputs",
            "2 example inputs",
            id="too many",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3), torch.randn(2, 5)",
            "forward_failed",
            "input: [2, 5]",
            id="a shape forward refuses",
        ),
        pytest.param(
            "return torch.jit.script(torch.nn.Linear(4, 3)), torch.randn(2, 4)",
            "script_module",
            "TorchScript",
            id="TorchScript",
        ),
        pytest.param(
            "return torch.nn.Linear(4, 3).bfloat16(), torch.randn(2, 4, dtype=torch.bfloat16)",
            "unsupported_tensor",
            "bfloat16",
            id="bfloat16 inputs",
        ),
        pytest.param(
            "return torch.nn.Identity(), torch.tensor(1.0)",
            "no_batch_dimension",
            "scalar",
            id="a scalar with batching",
        ),
    ],
)
def test_a_callable_that_returns_something_else(sources: Sources, body: str, code: str, words: str) -> None:
    error = failing(sources, f"def load():\n    {body}\n")
    assert error.code == code
    assert words in str(error)


def forward(body: str, example: str = "torch.randn(2, 4)") -> str:
    return f"""
class Net(torch.nn.Module):
    def forward(self, x):
        {body}

def load():
    return Net(), {example}
"""


def test_a_branch_on_values_cannot_be_exported_and_the_line_is_named(sources: Sources) -> None:
    error = failing(sources, forward("return x if x.sum() > 0 else -x"))
    assert error.code == "not_exportable"
    path = sources.directory / "net.py"
    assert str(error.where) == f"{path}:{sources.line(path, 'x.sum()')}"
    assert "data-dependent" in error.message
    assert len(str(error)) < 1000


def test_a_batch_size_fixed_in_the_code_is_an_error(sources: Sources) -> None:
    error = failing(sources, forward("return x.reshape(2, 4) * 2"))
    assert error.code == "not_exportable"
    assert "specialized" in error.message


def test_an_output_without_the_batch_first_is_an_error(sources: Sources) -> None:
    error = failing(sources, forward("return x.sum(0)"))
    assert error.code == "fixed_batch"
    assert error.fix is not None
    assert "max_batch_size: 0" in error.fix


def test_an_output_with_another_number_of_rows_than_the_batch_is_an_error(sources: Sources) -> None:
    error = failing(sources, forward("return x[x > 0]"))
    assert error.code == "not_batched"
    assert error.fix == "max_batch_size: 0"


def test_an_operator_without_onnx_form_is_named(sources: Sources) -> None:
    error = failing(sources, forward("return torch.linalg.svd(x)[1]", "torch.randn(2, 3, 3)"))
    assert error.code == "onnx_conversion"
    assert "svd" in str(error)
    assert len(str(error)) < 1500


def test_outputs_that_are_no_tensors_are_refused(sources: Sources) -> None:
    error = failing(sources, forward("return {'y': x, 'n': 3}"))
    assert error.code == "forward_returned"
    assert error.seen == "n: int"


def test_an_output_that_is_not_listed_is_not_exported_at_all(sources: Sources) -> None:
    """It has no form in ONNX, the next is no tensor, and the last has most of the weights."""
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.head, self.large = torch.nn.Linear(3, 5), torch.nn.Linear(3, 500)

            def forward(self, x):
                return {"y": self.head(x), "s": torch.linalg.svd(x)[1], "kind": "cat", "large": self.large(x)}

        def load():
            return Net(), torch.randn(2, 3, 3)
        """,
    )
    exported, report = checked(request(sources, output_names=("y",)), sources)
    assert report.passed
    assert [tensor.name for tensor in exported.outputs] == ["y"]
    model = onnx.load(str(exported.model_path))
    assert sum(len(weight.raw_data) for weight in model.graph.initializer) == 4 * (3 * 5 + 5)
    assert {node.op_type for node in model.graph.node} == {"MatMul", "Add"}


X = torch.zeros(2, 4)
NESTED = {"a": X, "b": (X, [X, None]), "n": 3}


@pytest.mark.parametrize(
    ("returned", "listed", "names"),
    [
        pytest.param(X, [], ["output"], id="one tensor"),
        pytest.param((X,), [], ["output"], id="a tuple of one"),
        pytest.param((X, [X]), [], ["output_0", "output_1.0"], id="a list in a tuple"),
        pytest.param(
            {"x": X, "x_out": X}, [], ["x_out", "x_out_2"], id="an input's name, and what it would become"
        ),
        pytest.param(
            NESTED, ["b.1.0"], [None, None, "b.1.0", None], id="one of many, beside what is no tensor"
        ),
        pytest.param(NESTED, ["p", "q", "r"], ["p", "q", "r", None], id="renamed by position, tensors only"),
        pytest.param({"\u202e": X, " ": X}, [], ["output_0", "output_1"], id="names that do not show"),
        pytest.param({"k" * 300: X, "y": X}, [], ["output_0", "y"], id="a name of no use"),
    ],
)
def test_names_of_outputs(
    sources: Sources, returned: Any, listed: list[str], names: list[str | None]
) -> None:
    asked = request(sources, output_names=tuple(listed))
    assert names_of_outputs(asked, list(leaves_of(returned)), ["x"], "forward")[0] == names


@pytest.mark.parametrize(
    ("returned", "listed", "code", "words"),
    [
        pytest.param(NESTED, ["a", "c"], "stated_tensor", "c", id="an output that there is not"),
        pytest.param(NESTED, ["n"], "forward_returned", "n: int", id="a number that is listed"),
        pytest.param({"a": X}, ["x"], "tensor_names", "x", id="renamed to an input's name"),
        pytest.param((), [], "forward_returned", "no tensor", id="nothing"),
    ],
)
def test_names_of_outputs_that_are_refused(
    sources: Sources, returned: Any, listed: list[str], code: str, words: str
) -> None:
    with pytest.raises(ExportError) as caught:
        names_of_outputs(
            request(sources, output_names=tuple(listed)), list(leaves_of(returned)), ["x"], "forward"
        )
    assert caught.value.code == code
    assert words in str(caught.value)


def test_a_module_is_run_in_evaluation_mode_without_gradients_and_given_back_as_it_was(
    sources: Sources,
) -> None:
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.drop, self.norm = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4).eval()
                self.w = torch.nn.Parameter(torch.ones(4))

            def forward(self, x):
                seen.append((self.training, self.drop.training, self.norm.training, torch.is_grad_enabled()))
                return self.drop(self.norm(x)) * self.w

        net, seen = Net(), []

        def load():
            return net, torch.randn(2, 4, requires_grad=True)
        """,
    )
    loaded = load(request(sources))
    net = sys.modules["net"]
    assert set(net.seen) == {(False, False, False, False)}
    assert (net.net.training, net.net.drop.training, net.net.norm.training) == (True, True, False)
    assert net.net.w.requires_grad
    assert loaded.notes == ("Net was in training mode: it is exported in evaluation mode, as after .eval()",)


def test_what_is_no_tensor_becomes_part_of_the_model_and_is_told(sources: Sources) -> None:
    sources.write(
        "net.py",
        """
        class Net(torch.nn.Module):
            def forward(self, x, mask=None, *, double=False, mode="a", bias):
                assert mask is None and mode == "b"
                return x * 2 + bias if double else x

        def load():
            return Net().eval(), {"x": torch.randn(2, 4), "mask": None, "double": True, "mode": "b", "bias": torch.ones(2, 1)}
        """,
    )
    loaded = load(request(sources))
    assert loaded.names == ["x", "bias"]
    assert loaded.notes == ("part of the model, no inputs: double=True, mode='b'",)


def test_nan_in_the_sources_own_answer_raises(sources: Sources) -> None:
    error = failing(sources, forward("return torch.log(x)"))
    assert error.code == "reference_not_finite"
    assert error.seen is not None


def test_a_forward_that_fails_on_other_values_points_at_the_line(sources: Sources) -> None:
    sources.write("net.py", ATTENTION)
    sources.write(
        "data.py", "def samples():\n    return [{n: torch.full((1, 5), 50) for n in ('ids', 'mask')}]\n"
    )
    with pytest.raises(ExportError) as caught:
        checked(request(sources, samples="data:samples"), sources)
    assert caught.value.code == "reference_failed"
    assert caught.value.where is not None
    assert caught.value.where.path.name == "net.py"


@pytest.mark.parametrize(
    ("stated", "code", "words"),
    [
        pytest.param(
            {"inputs": (TensorSpec("x", INT64, ("batch", 4)),)},
            "stated_tensor",
            "TYPE_FP32 [2, 4]",
            id="another dtype",
        ),
        pytest.param(
            {"inputs": (TensorSpec("x", FP32, ("batch", 5)),)}, "stated_tensor", "[2, 4]", id="another size"
        ),
        pytest.param(
            {"inputs": (TensorSpec("x", FP32, ("batch", 4, 1)),)},
            "stated_tensor",
            "[2, 4]",
            id="another rank",
        ),
        pytest.param(
            {"dynamic_dims": {"width": (1, 2, 3)}}, "unknown_dim", "width", id="a range for an unused name"
        ),
        pytest.param(
            {"inputs": (TensorSpec("x", FP32, ("batch", "n")),), "dynamic_dims": {"n": (8, 8, 16)}},
            "example_inputs",
            "8 to 16",
            id="an example outside the range",
        ),
        pytest.param(
            {"outputs": (TensorSpec("a", FP32, (-1, 3)), TensorSpec("b", FP32, (-1, 3)))},
            "stated_tensor",
            "a",
            id="too many outputs",
        ),
    ],
)
def test_what_is_stated_must_agree_with_the_source(
    sources: Sources, stated: dict[str, Any], code: str, words: str
) -> None:
    error = failing(sources, LINEAR, **stated)
    assert error.code == code
    assert words in str(error)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param("return 5", "samples_returned", "int", id="a number"),
        pytest.param("return []", "samples_returned", "list", id="no samples"),
        pytest.param("return [{'y': torch.ones(1, 4)}]", "samples_mismatch", "input", id="an unknown input"),
        pytest.param("return [{'x': torch.ones(1, 5)}]", "samples_mismatch", "[1, 5]", id="a wrong shape"),
        pytest.param(
            "return [{'x': torch.ones(1, 4).double()}]",
            "samples_mismatch",
            "astype('float32')",
            id="a wrong dtype",
        ),
        pytest.param(
            "raise ValueError('no data')", "callable_failed", "no data", id="a callable that raises"
        ),
    ],
)
def test_bad_samples(sources: Sources, body: str, code: str, words: str) -> None:
    sources.write("data.py", f"def samples():\n    {body}\n")
    error = failing(sources, LINEAR, samples="data:samples")
    assert error.code == code
    assert words in str(error)


def test_a_samples_file_counts_as_a_dependency(sources: Sources) -> None:
    np.savez(sources.directory / "calib.npz", x=np.ones((2, 4), np.float32))
    stated = stated_samples(request(sources, samples="calib.npz"))
    assert isinstance(stated, Stated)
    assert stated.dependencies == (Path(sources.directory / "calib.npz"),)
