"""Whatever a user's modules are called: `builder` and `perf` beside models.yaml are the user's, `tritonsmith` is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

import tritonsmith as ts
from tests import onnx_models
from tests.conftest import Run

BUILDER = '''\
"""The user's own `builder`: a model and its samples, whose factor another module of a name like ours has."""

import numpy

from perf import FACTOR


def samples():
    return [{"x": numpy.full((2, 3), FACTOR, numpy.float32)}]


def load():
    import torch

    class Scaled(torch.nn.Module):
        def forward(self, x):
            return x * FACTOR

    return Scaled(), (torch.ones(2, 3),)
'''
SOURCES = {
    "onnx": '{onnx: m.onnx}\n    accuracy: {samples: "builder:samples"}',
    "torch": '{torch: "builder:load"}',
}
PERF = '''\
"""The user's own `perf`: a number, and a model of Triton's Python backend."""

FACTOR = 3.0


class TritonPythonModel:
    def execute(self, requests):
        return []
'''
SPEC = """\
models:
  scaled:
    max_batch_size: 4
    source: {source}
  step:
    source: {{python: {step}}}
    input: [{{name: x, data_type: TYPE_FP32, dims: [3]}}]
    output: [{{name: y, data_type: TYPE_FP32, dims: [3]}}]
"""


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("onnx", "perf.py"),
        pytest.param("torch", "perf.py", marks=pytest.mark.nightly),
        pytest.param("torch", "perf/__init__.py", marks=pytest.mark.nightly),
    ],
)
def test_a_users_builder_and_perf_are_found_first_and_watched(
    tmp_path: Path,
    cache_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    tritonsmith: Run,
    source: str,
    kind: str,
) -> None:
    if source == "torch":
        pytest.importorskip("torch")
        pytest.importorskip("onnxscript")
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    for name, text in (("builder", BUILDER), ("perf", PERF)):
        place = tmp_path / kind.replace("perf", name)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
    (tmp_path / "models.yaml").write_text(SPEC.format(source=SOURCES[source], step=kind))

    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr
    assert "2 of 2 models written" in built.stdout
    assert (tmp_path / "model_repository" / "step" / "1" / "model.py").read_text() == PERF
    monkeypatch.setenv("TRITONSMITH_CACHE", str(cache_directory))
    monkeypatch.chdir(tmp_path)
    assert ts.plan().stale == ()

    for edited in ("builder", "perf"):
        place = tmp_path / kind.replace("perf", edited)
        before = place.read_text()
        place.write_text(f"{before}\nEDITED = True\n")
        stale = ts.plan("models.yaml", "scaled").of("scaled", "export")
        assert stale.reason is not None and stale.reason.value == "source_changed", edited
        assert place.name in stale.detail
        place.write_text(before)


def test_a_users_tritonsmith_cannot_be_told_from_ours_and_the_refusal_says_so(
    tmp_path: Path, cache_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tritonsmith").mkdir()
    (tmp_path / "tritonsmith" / "mine.py").write_text("def samples(): ...\n")
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    spec = tmp_path / "models.yaml"
    spec.write_text(
        'models:\n  m:\n    source: {onnx: m.onnx}\n    accuracy: {samples: "tritonsmith.mine:samples"}\n'
    )
    monkeypatch.setenv("TRITONSMITH_CACHE", str(cache_directory))
    with pytest.raises(ts.TritonsmithError) as refused:
        ts.build(spec)
    assert (refused.value.code, refused.value.seen) == ("module_not_found", "tritonsmith.mine")
    assert refused.value.fix == "`tritonsmith` is this package's own name; rename yours"
