"""The demo at several precisions on a CPU: what the gate refuses, what is served instead, and what TensorRT-RTX lowers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tritonsmith.builder.actions.accuracy.accuracy import variant_bounds
from tritonsmith.builder.actions.accuracy.calibration import CalibrationSpec
from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.actions.compile import CompileRequest, derive_profiles, run_compile
from tritonsmith.builder.actions.convert import ConvertRequest, run_convert
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_onnx
from tritonsmith.builder.build.build import BuildOptions, reference_samples_path
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.lint.read.onnx_io import read_onnx
from tritonsmith.builder.spec.spec import load_spec
from tritonsmith.perf.demo.live_check import check_live
from tritonsmith.perf.server.launch import ServerSpec, launch

# Three minutes; tests/builder/actions/convert/test_minilm.py and test_build_variants.py hold the same gates in `make test`.
pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.demo, pytest.mark.timeout(600)]

RANGES: dict[str, dict[str, tuple[int, int, int]]] = {
    "minilm": {"sequence": (1, 32, 256)},
    "detector": {f"p2o.DynamicDimension.{axis}": (32, 640, 960) for axis in (1, 2)},
    "crepe": {},
}


@dataclass(frozen=True)
class Demo:
    """A build of precision.yaml: where it lies, and what it said."""

    project: Path
    models: dict[str, dict[str, Any]]
    stderr: str

    def graph(self, model: str, variant: str) -> Path:
        """The ONNX file of a variant."""
        return self.project / "variants" / f"{model}__{variant}" / "1" / "model.onnx"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    project = tmp_path_factory.mktemp("precision") / "demo"
    shutil.copytree(
        ROOT / "examples" / "demo", project, ignore=shutil.ignore_patterns("*.lock.json", "__pycache__")
    )
    command = ["build", "--spec", "precision.yaml", "--variants", "variants", "--format", "json"]
    result = subprocess.run(
        [sys.executable, "-m", "tritonsmith", *command],
        cwd=project,
        env={**os.environ, "TRITONSMITH_CACHE": str(project.parent / "cache"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=480,
    )
    assert result.returncode == 0, result.stderr
    models = {
        m["model"]: {v["variant"]: v for v in m["variants"]} for m in json.loads(result.stdout)["models"]
    }
    return Demo(project, models, result.stderr)


def test_the_gate_refuses_and_falls_back(demo: Demo) -> None:
    served = {m: next(n for n, v in variants.items() if v["served"]) for m, variants in demo.models.items()}
    assert demo.models.keys() == RANGES.keys()
    assert served["minilm"] == "smooth", "plain int8 loses too much of a sentence, and the gate says so"
    minilm = demo.models["minilm"]
    assert minilm["int8"]["accuracy"]["cosine"] < 0.99 < minilm["smooth"]["accuracy"]["cosine"]
    assert minilm["int8"]["judged"]["layers"] and minilm["int8"]["judged"]["exclude"]
    assert "minilm/int8: not accurate enough" in demo.stderr and "smooth is served instead" in demo.stderr
    assert served["crepe"] == "int8"


@pytest.mark.server
def test_every_variant_is_served_and_answers_within_its_bounds(demo: Demo) -> None:
    options = BuildOptions(demo.project / "precision.yaml", cache=Cache(demo.project.parent / "cache"))
    precisions = {
        m.name: {n: v.precision for n, v in m.variants.items()} for m in load_spec(options.spec).models
    }
    laid_out = {m: next(n for n, v in variants.items() if v["served"]) for m, variants in demo.models.items()}
    # What the gate refuses is laid out among the variants, too, to be looked at.
    passed = {
        (m, n): f"{m}__{n}"
        for m, variants in demo.models.items()
        for n, variant in variants.items()
        if variant["judged"]["passed"]
    }
    assert len(passed) > 5
    for repository, models in (
        ("model_repository", {(m, n): m for m, n in laid_out.items()}),
        ("variants", passed),
    ):
        start = ServerSpec(repositories=(demo.project / repository,), exit_timeout_s=0)
        with launch(start) as server:
            assert server.refusals() == {}
            for (model, variant), name in models.items():
                path = reference_samples_path(options, model)
                assert path is not None
                urls = {"http_url": server.http_url, "grpc_url": server.grpc_url}
                bounds = variant_bounds(precisions[model][variant], "float32")
                checked = check_live(name, load_samples(path), **urls, clients=8, bounds=bounds)
                assert checked.report.passed and checked.requests > 8, (name, checked.report.failures[:3])


def test_every_variant_of_the_demo_is_lowered(demo: Demo, tmp_path: Path) -> None:
    """Each graph that the build made for ONNX Runtime is what TensorRT would compile, too."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
    made = [(model, variant) for model, variants in demo.models.items() for variant in variants]
    assert len(made) == 10
    for model, variant in made:
        lower(model, demo.graph(model, variant), tmp_path / model / variant)


@pytest.mark.parametrize(
    ("model", "precision", "exclude", "options"),
    [
        ("minilm", "bf16", (), {}),
        ("minilm", "fp8", (), {}),
        ("minilm", "int4", (), {"block_size": 64}),
        ("minilm", "nvfp4", (), {}),
        ("minilm", "nvfp4", (), {"activations": False}),
        ("crepe", "bf16", (), {}),
        ("crepe", "fp8", (), {}),
        ("crepe", "nvfp4", (), {}),
        ("detector", "bf16", ("ConvTranspose",), {}),
        ("detector", "fp8", (), {}),
    ],
)
def test_precisions_that_onnxruntime_does_not_serve_are_lowered(
    demo: Demo, tmp_path: Path, model: str, precision: Any, exclude: tuple[str, ...], options: dict[str, Any]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
    lower(model, converted(demo, model, precision, tmp_path, exclude, options), tmp_path / "engine")


def test_what_does_not_lower_names_its_node(demo: Demo, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
    with pytest.raises(BuildError, match=r"node p2o\.ConvTranspose\.\d \(DECONVOLUTION\)") as refused:
        lower("detector", converted(demo, "detector", "bf16", tmp_path), tmp_path / "engine")
    assert refused.value.code == "engine_build"
    with pytest.raises(BuildError) as nothing:
        converted(demo, "detector", "nvfp4", tmp_path)
    assert (nothing.value.code, nothing.value.seen) == (
        "nothing_to_convert",
        "nvfp4 takes Gemm and MatMul, not Conv",
    )


def converted(
    demo: Demo,
    model: str,
    precision: Any,
    out_dir: Path,
    exclude: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
) -> Path:
    request = ConvertRequest(
        model,
        str(demo.graph(model, "fp32")),
        precision,
        exclude,
        calibration=CalibrationSpec(f"{model}:calibration", str(demo.project)),
        options=options or {},
    )
    return out_dir / run_convert(request, out_dir, out_dir / "log").onnx_file


def lower(model: str, path: Path, out_dir: Path) -> None:
    out_dir.mkdir(parents=True)
    surface = read_onnx(path)
    inputs = [TensorSpec(t.name, dtype_from_onnx(t.element), t.shape or ()) for t in surface.inputs]
    profiles = derive_profiles(inputs, max_batch_size=8, dynamic_dims=RANGES[model], model=model)
    request = CompileRequest(model, "tensorrt_rtx", str(path), profiles, opset=surface.opset)
    assert run_compile(request, out_dir, out_dir / "log").engine_bytes > 1_000_000
