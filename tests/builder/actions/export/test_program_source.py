"""Saved ExportedPrograms to ONNX, and archives that would run code while loading."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tritonsmith.builder.actions.accuracy.accuracy import AccuracyReport
from tritonsmith.builder.actions.export.checks.verify import stated_samples, verify
from tritonsmith.builder.actions.export.exported import Exported
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.program import export_saved_program
from tritonsmith.builder.base.errors import ExportError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

FP32 = dtype_from_config("TYPE_FP32")
DYNAMIC = torch.export.Dim.DYNAMIC


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """x [batch, length, 4], scale [batch, 1, 1] → two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: Any, scale: Any) -> dict[str, Any]:
        return {"tokens": self.linear(x) * scale, "pooled": x.mean(1)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dynamic in batch and, up to 32, in length."""
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    shapes = {"x": {0: DYNAMIC, 1: DYNAMIC(max=32)}, "scale": {0: DYNAMIC}}
    example = (torch.randn(2, 5, 4), torch.rand(2, 1, 1))
    torch.export.save(torch.export.export(Net().eval(), example, dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "fixed.pt2"
    example = (torch.randn(2, 5, 4), torch.rand(2, 1, 1))
    torch.export.save(torch.export.export(Net().eval(), example), path)
    return path


def request(path: Path, **changes: Any) -> ExportRequest:
    values: dict[str, Any] = {"max_batch_size": 8, **changes}
    return ExportRequest("m", "exported_program", str(path), str(path.parent), **values)


def checked(asked: ExportRequest, out: Path) -> tuple[Exported, AccuracyReport]:
    exported = export_saved_program(asked, out)
    report, _, _ = verify(asked, exported, stated_samples(asked), out)
    return exported, report


def code(asked: ExportRequest, out: Path) -> str:
    with pytest.raises(ExportError) as caught:
        checked(asked, out)
    assert list(out.iterdir()) == []
    return caught.value.code


def test_its_dynamic_dimensions_stay_dynamic(saved: Path, tmp_path: Path) -> None:
    exported, report = checked(request(saved), tmp_path)
    x, scale = exported.inputs
    assert (x.name, x.shape[0], x.shape[2]) == ("x", "batch", 4)
    assert isinstance(x.shape[1], str)
    assert scale == TensorSpec("scale", FP32, ("batch", 1, 1))
    assert [t.name for t in exported.outputs] == ["tokens", "pooled"]
    assert exported.outputs[0].shape == ("batch", x.shape[1], 3)
    assert exported.dependencies == (saved,)
    assert report.passed
    assert report.samples == 2


def test_stated_names_name_its_dimensions(saved: Path, tmp_path: Path) -> None:
    stated = (TensorSpec("x", FP32, ("batch", "length", 4)),)
    exported, report = checked(request(saved, inputs=stated, dynamic_dims={"length": (1, 8, 32)}), tmp_path)
    assert exported.inputs[0] == stated[0]
    assert exported.outputs[0].shape == ("batch", "length", 3)
    assert report.passed


def test_outputs_that_are_not_listed_go_and_so_does_what_was_there_for_them(
    saved: Path, tmp_path: Path
) -> None:
    exported, report = checked(request(saved, output_names=("pooled",)), tmp_path)
    assert [t.name for t in exported.outputs] == ["pooled"]
    assert report.passed
    model = onnx.load(str(exported.model_path))
    assert {node.op_type for node in model.graph.node} == {"ReduceMean"}
    assert not [weight.name for weight in model.graph.initializer if "linear" in weight.name]


def test_a_program_that_keeps_state_is_refused(tmp_path: Path) -> None:
    class Counting(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Any) -> Any:
            self.seen += 1
            return x * self.seen

    path = tmp_path / "counting.pt2"
    torch.export.save(
        torch.export.export(Counting(), (torch.randn(2, 4),), dynamic_shapes={"x": {0: DYNAMIC}}), path
    )
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "stateful"


def test_a_promise_beyond_its_range_is_refused(saved: Path, tmp_path: Path) -> None:
    stated = (TensorSpec("x", FP32, ("batch", "length", 4)),)
    assert code(request(saved, inputs=stated, dynamic_dims={"length": (1, 8, 64)}), tmp_path) == "dim_range"


def test_a_fixed_program_does_not_batch(fixed: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        checked(request(fixed), tmp_path)
    assert caught.value.code == "fixed_batch"
    assert caught.value.fix is not None
    assert "max_batch_size: 0" in caught.value.fix
    exported, report = checked(request(fixed, max_batch_size=0), tmp_path)
    assert exported.inputs[0].shape == (2, 5, 4)
    assert report.passed


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda good: b"", id="an empty file"),
        pytest.param(lambda good: b"no archive", id="text"),
        pytest.param(lambda good: good[: len(good) // 2], id="half a file"),
        pytest.param(lambda good: pickle.dumps({"a": 1}), id="a bare pickle"),
    ],
)
def test_what_is_no_program(saved: Path, tmp_path: Path, content: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(content(saved.read_bytes()))
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "corrupt_program"


def test_a_plain_checkpoint_is_no_program(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "weights.pt2")
    (tmp_path / "out").mkdir()
    assert code(request(tmp_path / "weights.pt2"), tmp_path / "out") == "corrupt_program"


def test_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert code(request(tmp_path / "none.pt2"), tmp_path / "out") == "source_missing"


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, "ran"))


Change = Callable[[str, bytes], bytes]


def rewritten(saved: Path, target: Path, change: Change, extra: dict[str, bytes] | None = None) -> Path:
    """The archive with some members changed or added; members stay uncompressed, as torch wants them."""
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        root = source.namelist()[0].partition("/")[0]
        for info in source.infolist():
            out.writestr(info.filename, change(info.filename, source.read(info)))
        for name, data in (extra or {}).items():
            out.writestr(f"{root}/{name}", data)
    return target


def test_a_pickled_constant_is_refused_and_never_run(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model_constants_config.json"):
            return data
        payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps({"config": {"evil": payload}}).encode()

    bomb = {"data/constants/opaque_obj_0": pickle.dumps(Bomb(marker))}
    path = rewritten(saved, tmp_path / "evil.pt2", change, bomb)
    # the archive is a real danger: torch itself runs what is in it
    torch.export.load(str(path))
    assert marker.exists()
    marker.unlink()
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "unsafe_program"
    assert not marker.exists()


def test_a_pickled_weight_is_not_unpickled_in_full(saved: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return data
        config = json.loads(data)
        next(iter(config["config"].values())).update(path_name="weight_99", use_pickle=True)
        return json.dumps(config).encode()

    torch.save(Bomb(marker), tmp_path / "bomb.pt")
    extra = {"data/weights/weight_99": (tmp_path / "bomb.pt").read_bytes()}
    path = rewritten(saved, tmp_path / "evil.pt2", change, extra)
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "corrupt_program"
    assert not marker.exists()


@pytest.mark.parametrize(
    "expression",
    [
        "exec('import os')",
        "Symbol('s0); exec(1')",
        "Add(x for x in y)",
        "s0.__class__",
        "eval(chr(49))",
        "(lambda: s0)()",
        "s0 if s0 else s0.real",
    ],
)
def test_a_size_that_is_no_arithmetic_is_refused(saved: Path, tmp_path: Path, expression: str) -> None:
    def change(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        text = data.decode()
        at = text.index('"expr_str"')
        start = text.index(":", at) + 1
        end = text.index('"', text.index('"', start) + 1) + 1
        return (text[:start] + json.dumps(expression) + text[end:]).encode()

    path = rewritten(saved, tmp_path / "evil.pt2", change)
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "unsafe_program"


def test_compiled_code_in_the_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    extra = {"data/aotinductor/model/wrapper.so": b"\x7fELF"}
    path = rewritten(saved, tmp_path / "evil.pt2", lambda _, data: data, extra)
    (tmp_path / "out").mkdir()
    assert code(request(path), tmp_path / "out") == "unsafe_program"
