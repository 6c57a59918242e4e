"""The tensorrt backend: which profile a batch runs on; what a server without a GPU says; a plan served on one."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import tritonclient.http as httpclient
from hypothesis import given, settings
from hypothesis import strategies as st

import tritonsmith.perf.server
from tritonsmith.builder.base.errors import TrialError
from tritonsmith.perf.server import control

if TYPE_CHECKING:
    from tests.perf.conftest import LiveTriton

BACKEND = Path(perf.server.__file__).with_name("backends") / "tensorrt"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BACKEND / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rules = load("trt_rules")


Shape = tuple[int, ...]
Profile = dict[str, tuple[Shape, Shape, Shape]]


def x(low: int, best: int, high: int, width: int = 4) -> Profile:
    return {"x": ((low, width), (best, width), (high, width))}


SMALL_AND_LARGE = [x(1, 2, 8), x(1, 8, 8), x(9, 16, 32)]


@pytest.mark.parametrize(
    ("allowed", "batch", "expected"),
    [
        ([0, 1, 2], 1, 0),
        ([0, 1, 2], 7, 1),
        ([0, 1, 2], 9, 2),
        # Between two, the first.
        ([0, 1], 5, 0),
        # Only the instance's own count.
        ([1], 1, 1),
    ],
)
def test_a_batch_runs_on_the_nearest_profile(allowed: list[int], batch: int, expected: int) -> None:
    assert rules.nearest_profile(SMALL_AND_LARGE, allowed, {"x": (batch, 4)}) == expected


def production_s_choice(profiles: list[Profile], allowed: list[int], shapes: dict[str, Shape]) -> int | None:
    """GetMostOptimizedProfile and EvaluateTensorRTContext of tensorrt_backend's src/instance_state.cc (6871856e), line by
    line: a map of contexts by profile index, and `input_shape_vec[idx - 1]` as it stands there."""
    infinite = 2**63 - 1
    total_batch_size = next(iter(shapes.values()))[0]
    chosen, shortest = None, infinite
    for index in sorted(allowed):
        distance = 0
        for name, shape in shapes.items():
            low, opt, high = profiles[index][name]
            if any(n < a or n > b for n, a, b in zip(shape, low, high, strict=True)):
                distance = infinite
                break
            distance += abs(opt[0] - total_batch_size)
            for idx in range(1, len(opt)):
                distance += abs(opt[idx] - shape[idx - 1])
        if distance < shortest:
            chosen, shortest = index, distance
    return chosen


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[Profile], list[int], dict[str, Shape]]:
    """Profiles of one or two inputs that share the batch, those that an instance runs, and a batch."""
    ranks = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    sizes = st.lists(st.integers(1, 12), min_size=3, max_size=3).map(sorted)

    def profile() -> Profile:
        batch = draw(sizes)
        axes = [[batch, *(draw(sizes) for _ in range(rank - 1))] for rank in ranks]
        return {f"x{i}": tuple(zip(*dims, strict=True)) for i, dims in enumerate(axes)}  # type: ignore[misc]

    profiles = [profile() for _ in range(draw(st.integers(1, 4)))]
    allowed = draw(st.lists(st.integers(0, len(profiles) - 1), min_size=1, unique=True))
    batch = draw(st.integers(1, 12))
    shapes = {
        f"x{i}": (batch, *(draw(st.integers(1, 12)) for _ in range(rank - 1))) for i, rank in enumerate(ranks)
    }
    return profiles, allowed, shapes


@settings(max_examples=300, deadline=None)
@given(choices())
def test_the_profile_is_the_one_that_production_takes(
    choice: tuple[list[Profile], list[int], dict[str, Shape]],
) -> None:
    profiles, allowed, shapes = choice
    expected = production_s_choice(profiles, allowed, shapes)
    if expected is None:
        with pytest.raises(RuntimeError, match="no optimization profile takes"):
            rules.nearest_profile(profiles, allowed, shapes)
    else:
        assert rules.nearest_profile(profiles, allowed, shapes) == expected


def test_production_measures_a_dim_against_the_one_before_it() -> None:
    """Two profiles, one made for 8 columns and one for 2, and a batch of 2 rows of 8: production takes the second."""
    profiles = [{"x": ((1, 1), (2, 8), (9, 9))}, {"x": ((1, 1), (2, 2), (9, 9))}]
    assert rules.nearest_profile(profiles, [0, 1], {"x": (2, 8)}) == 1


def test_the_plan_is_the_one_for_this_gpu() -> None:
    config = {"cc_model_filenames": {"9.0": "model_sm90.plan"}, "default_model_filename": "other.plan"}
    assert rules.plan_name(config, "9.0") == "model_sm90.plan"
    assert rules.plan_name(config, "8.9") == "other.plan"
    assert rules.plan_name({"default_model_filename": ""}, "8.9") == "model.plan"
    assert rules.first_gpu({"instance_group": [{"gpus": [2, 3]}, {"gpus": [0]}]}) == 2
    assert rules.first_gpu({}) == rules.first_gpu({"instance_group": [{"gpus": []}]}) == 0


@pytest.mark.parametrize(
    ("engine", "config", "exact", "fits"),
    [
        ((-1, 4), (-1, 4), True, True),
        ((-1, 4), (-1, -1), False, True),
        ((-1, -1), (-1, 4), False, True),
        ((-1, 4), (-1, -1), True, False),
        ((-1, 4), (-1, 5), False, False),
    ],
)
def test_a_dynamic_dim_on_either_side_takes_any(
    engine: Shape, config: Shape, exact: bool, fits: bool
) -> None:
    assert rules.same_dims(engine, config, exact) is fits


@pytest.mark.parametrize("shape", [(33, 4), (2, 5), (2, 4, 1)])
def test_a_shape_that_no_profile_takes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match=r"no optimization profile takes x .*0: x \[1, 4\]\.\.\[8, 4\]"):
        rules.nearest_profile(SMALL_AND_LARGE, [0, 1, 2], {"x": shape})


def test_an_instance_runs_its_groups_profiles() -> None:
    config = {"name": "m", "instance_group": [{"name": "m_0"}, {"name": "m_1", "profile": ["1", "2"]}]}
    assert rules.profiles_of_instance(config, "m_0_3", 3) == [0]
    assert rules.profiles_of_instance(config, "m_1_0", 3) == [1, 2]
    with pytest.raises(RuntimeError, match="profile 2; the engine has 2"):
        rules.profiles_of_instance(config, "m_1_0", 2)


def test_the_largest_batch_is_the_profiles() -> None:
    assert rules.largest_batch(SMALL_AND_LARGE, [0, 1, 2], 4) == 32
    assert rules.largest_batch(SMALL_AND_LARGE, [0], 4) == 8, (
        "an instance without `profile` runs the first alone"
    )
    assert rules.largest_batch([{}], [0], 4) == 4


def test_a_model_s_profiles_are_those_of_its_groups() -> None:
    config = {"name": "m", "instance_group": [{"profile": ["2"]}, {"profile": ["0", "2"]}, {}]}
    assert rules.profiles_of_model(config, 3) == [0, 2]
    assert rules.profiles_of_model({"name": "m"}, 3) == [0]
    with pytest.raises(RuntimeError, match="profile 2; the engine has 2"):
        rules.profiles_of_model(config, 2)


CONFIG = """backend: "tensorrt"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
"""


@pytest.mark.server
@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is an NVIDIA GPU")
def test_without_a_gpu_a_plan_is_refused_with_the_reason(triton: LiveTriton) -> None:
    plan = triton.repository / "engine" / "1" / "model.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"plan")
    (triton.repository / "engine" / "config.pbtxt").write_text(CONFIG)
    with pytest.raises(TrialError, match="no NVIDIA GPU"):
        control.load_model(triton.http_url, "engine")


# The backend as it is, around an engine that needs no GPU: outputs in an order that is nobody's alphabet.
ON_NUMPY = """
import importlib.util
import sys

sys.path.append({backend!r})
spec = importlib.util.spec_from_file_location("trt_model", {backend!r} + "/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
FACTORS = {factors!r}


class Engine:
    outputs = FACTORS

    def run(self, feed, wanted, profiles):
        return [FACTORS[name] * feed["x"] for name in wanted]


class TritonPythonModel(module.TritonPythonModel):
    def initialize(self, args):
        self._engine, self._profiles, self._batching = Engine(), [0], True
"""
FACTORS = {"zeta": 2, "beta": 3, "Omega": 5, "alpha": 7}


@pytest.mark.server
def test_outputs_come_in_the_engines_order_however_they_are_asked_for(triton: LiveTriton) -> None:
    model = triton.repository / "on_numpy" / "1" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text(ON_NUMPY.format(backend=str(BACKEND), factors=FACTORS))
    io = '{ name: "%s" data_type: TYPE_FP32 dims: [ 2 ] }\n'
    (model.parent.parent / "config.pbtxt").write_text(
        'backend: "python"\nmax_batch_size: 4\ninput '
        + io % "x"
        + "".join("output " + io % name for name in sorted(FACTORS))
        + "instance_group { kind: KIND_CPU }\n"
    )
    control.load_model(triton.http_url, "on_numpy")
    tensor = httpclient.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 10]], np.float32))
    with httpclient.InferenceServerClient(triton.http_url) as client:
        for n in (1, 4):
            for names in itertools.permutations(FACTORS, n):
                wanted = [httpclient.InferRequestedOutput(name) for name in names]
                answer = client.infer("on_numpy", [tensor], outputs=wanted)
                assert [o["name"] for o in answer.get_response()["outputs"]] == [
                    name for name in FACTORS if name in names
                ]
                for name in names:
                    np.testing.assert_array_equal(
                        answer.as_numpy(name), [[FACTORS[name], 10 * FACTORS[name]]]
                    )


@pytest.mark.gpu
@pytest.mark.slow
def test_a_plan_is_built_and_its_engine_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU with TensorRT: the build, its sidecar, and the backend's own runtime on two profiles."""
    trt = pytest.importorskip(
        "tensorrt", reason="TensorRT is not installed: pip install 'tritonsmith[tensorrt]'"
    )
    from tests import onnx_models
    from tritonsmith.builder.actions.compile import (
        CompileRequest,
        StatedProfile,
        derive_profiles,
        run_compile,
    )
    from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
    from tritonsmith.builder.lint.read.engine import read_engine

    onnx.save(onnx_models.affine(("batch", 4)), tmp_path / "model.onnx")
    profiles = derive_profiles(
        [TensorSpec("x", dtype_from_config("TYPE_FP32"), ("batch", 4))],
        max_batch_size=8,
        dynamic_dims={},
        stated=[StatedProfile(batch=(1, 1, 4)), StatedProfile(batch=(1, 8, 8))],
    )
    request = CompileRequest(
        "affine", "tensorrt", str(tmp_path / "model.onnx"), profiles, opset=onnx_models.OPSET,
        timing_cache_directory=str(tmp_path / "timing"),
    )  # fmt: skip
    first = run_compile(request, tmp_path / "out", tmp_path / "log")
    assert (first.engine_path, first.timing_cache) == ("model.plan", "new")
    assert run_compile(request, tmp_path / "out", tmp_path / "log").timing_cache == "reused"
    sidecar = read_engine(tmp_path / "out" / first.sidecar_path)
    assert sidecar is not None and sidecar.tensorrt == trt.__version__ and len(sidecar.profiles) == 2

    monkeypatch.setattr(sys, "path", [*sys.path, str(BACKEND)])  # as Triton's stub finds them
    import trt_cuda  # type: ignore[import-not-found]
    import trt_engine  # type: ignore[import-not-found]

    engine = trt_engine.Engine(trt, tmp_path / "out" / "model.plan", trt_cuda.Device(0))
    for batch in (1, 3, 8, 2):
        given = np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)
        (answer,) = engine.run({"x": given}, ["y"], [0, 1])
        np.testing.assert_allclose(answer, given * 2 + 1, rtol=1e-5)
    with pytest.raises(RuntimeError, match="no optimization profile takes"):
        engine.run({"x": np.zeros((9, 4), np.float32)}, ["y"], [0, 1])
