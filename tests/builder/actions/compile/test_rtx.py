"""TensorRT-RTX compiles on this machine, and says by name what it cannot take; tests/examples has the demo's models."""

from __future__ import annotations

import json
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import onnx_models
from tritonsmith.builder.actions.compile import (
    CompileOptions,
    CompileRequest,
    OptimizationProfile,
    ShapeRange,
    derive_profiles,
    options_from_dict,
    run_compile,
)
from tritonsmith.builder.actions.compile.compilers.network import set_options
from tritonsmith.builder.actions.compile.identity import HEADER_BYTES, EngineHeader, header_of
from tritonsmith.builder.actions.compile.worker import compile_request
from tritonsmith.builder.base.errors import BuildError, SpecError, ToolError, TritonsmithError
from tritonsmith.builder.base.machine.toolchain import this_toolchain
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_config
from tritonsmith.builder.lint.read.engine import read_engine

pytest.importorskip("tensorrt_rtx", reason="pip install 'tritonsmith[rtx]'")
# RTX takes timing caches and does nothing with them; TensorRT's own code path is the same.
pytestmark = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")

WEIGHTS = np.ones((4, 4), np.float32)
X = TensorSpec("x", dtype_from_config("TYPE_FP32"), ("batch", 4))
PROFILES = derive_profiles([X], max_batch_size=8, dynamic_dims={})


def dense() -> Any:
    """y = x · W, batch dynamic."""
    return onnx_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")],
        [onnx_models.tensor("x", ("batch", 4))],
        [onnx_models.tensor("y", ("batch", 4))],
        {"w": WEIGHTS},
    )


def saved(proto: Any, directory: Path) -> str:
    onnx.save(proto, directory / "model.onnx")
    return str(directory / "model.onnx")


def compiled(request: CompileRequest, out_dir: Path) -> Any:
    return compile_request(request, out_dir, threading.Event())


def test_a_graph_is_lowered_in_a_process_of_its_own(tmp_path: Path) -> None:
    request = CompileRequest(
        "dense", "tensorrt_rtx", saved(dense(), tmp_path), PROFILES, CompileOptions(refit=True), opset=17,
        timing_cache_directory=str(tmp_path / "timing"),
    )  # fmt: skip
    assert CompileRequest.from_dict(json.loads(json.dumps(request.as_dict()))) == request
    result = run_compile(request, tmp_path / "out", tmp_path / "log")
    assert result.engine_bytes == (tmp_path / "out" / "model.rtx").stat().st_size > 0
    assert not list((tmp_path / "out").glob("*.plan"))
    head = header_of((tmp_path / "out" / "model.rtx").read_bytes()[:HEADER_BYTES])
    assert head == EngineHeader("tensorrt_rtx", result.version), "the file itself says what wrote it"
    assert "[PROGRESS]" in (tmp_path / "log").read_text()
    assert result.timing_cache == "new" and list((tmp_path / "timing").glob("tensorrt_rtx-*.timing"))
    assert [note.split()[0] for note in result.notes] == ["refit"]


def test_an_engine_is_known_by_what_made_it(tmp_path: Path) -> None:
    request = CompileRequest("dense", "tensorrt_rtx", "/a.onnx", PROFILES, timing_cache_directory="/a")
    elsewhere = CompileRequest("renamed", "tensorrt_rtx", "/b.onnx", PROFILES)
    assert request.identity() == elsewhere.identity()
    assert request.identity() != CompileRequest("dense", "tensorrt_rtx", "/a.onnx").identity()
    assert (
        request.identity()
        != CompileRequest("dense", "tensorrt_rtx", "/a.onnx", PROFILES, CompileOptions(tf32=False)).identity()
    )
    result = compiled(CompileRequest("d", "tensorrt_rtx", saved(dense(), tmp_path), PROFILES), tmp_path)
    assert this_toolchain().fingerprint("tensorrt-rtx")["tensorrt-rtx"] == result.version


def test_the_sidecar_is_what_the_linter_reads(tmp_path: Path) -> None:
    request = CompileRequest("dense", "tensorrt_rtx", saved(dense(), tmp_path), (*PROFILES, *PROFILES))
    engine = read_engine(tmp_path / compiled(request, tmp_path).sidecar_path)
    assert engine is not None
    assert engine.tensors["x"] == {
        "name": "x", "mode": "input", "data_type": "TYPE_FP32", "shape": [-1, 4],
        "is_shape_tensor": False, "non_linear": False,
    }  # fmt: skip
    assert engine.tensors["y"]["mode"] == "output"
    assert engine.profiles == ({"x": {"min": [1, 4], "opt": [8, 4], "max": [8, 4]}},) * 2
    # It is no TensorRT engine, so no rule about TensorRT's versions may judge it.
    assert engine.tensorrt is None


@pytest.mark.parametrize("first", [b"", b"not a timing cache"])
def test_a_damaged_timing_cache_costs_nothing_but_time(tmp_path: Path, first: bytes) -> None:
    request = CompileRequest(
        "dense",
        "tensorrt_rtx",
        saved(dense(), tmp_path),
        PROFILES,
        timing_cache_directory=str(tmp_path / "timing"),
    )
    compiled(request, tmp_path)
    (cache,) = (tmp_path / "timing").iterdir()
    cache.write_bytes(first)
    compiled(request, tmp_path)
    assert len(cache.read_bytes()) > len(first)
    assert list(cache.parent.iterdir()) == [cache]


def test_every_option_reaches_the_builder() -> None:
    """RTX has all the names, though it compiles with few of them here, and ignores hardware_compatibility."""
    import tensorrt_rtx as rtx

    builder = rtx.Builder(rtx.Logger(rtx.Logger.ERROR))
    config = builder.create_builder_config()
    options = options_from_dict(
        {
            "workspace_bytes": 2**28, "builder_optimization_level": 4, "max_aux_streams": 2, "tf32": False,
            **dict.fromkeys(
                ("version_compatible", "exclude_lean_runtime", "refit", "strip", "sparsity", "weight_streaming"), True
            ),
        }
    )  # fmt: skip
    set_options(rtx, config, options)
    flags = rtx.BuilderFlag
    wanted = (
        flags.VERSION_COMPATIBLE, flags.EXCLUDE_LEAN_RUNTIME, flags.REFIT, flags.STRIP_PLAN, flags.SPARSE_WEIGHTS,
        flags.WEIGHT_STREAMING,
    )  # fmt: skip
    assert all(config.get_flag(flag) for flag in wanted) and not config.get_flag(flags.TF32)
    assert config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE) == 2**28
    assert (config.builder_optimization_level, config.max_aux_streams) == (4, 2)
    plain = builder.create_builder_config()
    set_options(rtx, plain, CompileOptions())
    assert plain.get_flag(flags.TF32) and not any(plain.get_flag(flag) for flag in wanted)


def unknown_op() -> Any:
    proto = dense()
    proto.graph.node[0].op_type = "Det"
    del proto.graph.node[0].input[1]
    proto.graph.node[0].name = "volume"
    return proto


def dangling() -> Any:
    proto = dense()
    proto.graph.node[0].input[1] = "nowhere"
    return proto


def beyond(name: str) -> tuple[OptimizationProfile, ...]:
    return (OptimizationProfile({name: ShapeRange((1, 4), (1, 4), (8, 4))}),)


@pytest.mark.parametrize(
    ("code", "says", "content", "profiles", "options"),
    [
        # An operator that TensorRT does not have: its node and name.
        ("engine_parse", r"node volume \(Det\): UNSUPPORTED_NODE", unknown_op, PROFILES, {}),
        ("engine_parse", "MODEL_DESERIALIZE_FAILED", b"garbage", (), {}),
        ("engine_parse", r"node dense \(MatMul\): INVALID_GRAPH", dangling, PROFILES, {}),
        # Empty bytes parse without a word.
        ("engine_empty", "the ONNX file is empty", b"", (), {}),
        ("engine_workspace", "workspace", dense, PROFILES, {"workspace_bytes": 1}),
        # TensorRT does not tell of the first at all.
        (
            "profile_unknown_input",
            "names an input that the graph does not have: z",
            dense,
            (*beyond("z"),),
            {},
        ),
        ("profile_missing_input", "dynamic inputs and no optimization profile: x", dense, (), {}),
    ],
)
def test_failures_say_what_and_where(
    tmp_path: Path, code: str, says: str, content: Any, profiles: Any, options: dict[str, Any]
) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        onnx.save(content(), path)
    request = CompileRequest("m", "tensorrt_rtx", str(path), profiles, CompileOptions(**options))
    with pytest.raises(TritonsmithError, match=says) as failed:
        compiled(request, tmp_path)
    assert failed.value.code == code
    assert not (tmp_path / "model.rtx").exists()
    assert not held_by(failed.value), "a collection inside the next build would wait for that build's lock"


def held_by(error: BaseException) -> list[str]:
    """TensorRT's objects that a failure keeps alive in the frames of its traceback."""
    kept = [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values()]
    return [repr(value) for value in kept if type(value).__module__.startswith("tensorrt_rtx")]


def test_a_cancelled_build_leaves_no_engine(tmp_path: Path) -> None:
    request = CompileRequest("dense", "tensorrt_rtx", saved(dense(), tmp_path), PROFILES)
    stop = threading.Event()
    stop.set()
    with pytest.raises(BuildError) as cancelled:
        compile_request(request, tmp_path, stop)
    assert cancelled.value.code == "compile_cancelled"
    with pytest.raises(BuildError) as cancelled:
        run_compile(request, tmp_path, tmp_path / "log", stop=lambda: True)
    assert cancelled.value.code == "compile_cancelled"
    assert not (tmp_path / "model.rtx").exists()


def test_an_opset_that_the_parser_does_not_know_is_refused_before_a_build(tmp_path: Path) -> None:
    request = CompileRequest("m", "tensorrt_rtx", str(tmp_path / "absent.onnx"), opset=99)
    with pytest.raises(SpecError, match="opset 99"):
        run_compile(request, tmp_path, tmp_path / "log")


def test_gpus_that_are_not_here_can_be_compiled_for(tmp_path: Path) -> None:
    request = CompileRequest(
        "dense", "tensorrt_rtx", saved(dense(), tmp_path), PROFILES, compute_capability="8.9"
    )
    assert compiled(request, tmp_path).compute_capability == "8.9"
    with pytest.raises(SpecError) as refused:
        compiled(CompileRequest(**{**_fields(request), "compute_capability": "9.0"}), tmp_path)
    assert "8.9" in refused.value.valid


def _fields(request: CompileRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.__slots__}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workspace": 1}, "did you mean 'workspace_bytes'"),
        ({"builder_optimization_level": 9}, "valid: 0, 1, 2, 3, 4, 5"),
        ({"hardware_compatibility": "ampere"}, "ampere_plus"),
        ({"exclude_lean_runtime": True}, "only with version_compatible"),
        ({"workspace_bytes": 0}, "at least 1"),
        ({"refit": "yes"}, "true, false"),
    ],
)
def test_options_that_tensorrt_would_not_take_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=says):
        options_from_dict(options)


def test_without_a_gpu_tensorrt_is_refused_at_once(tmp_path: Path) -> None:
    from tritonsmith.builder.base.machine.cuda import gpus

    if gpus()[0]:
        pytest.skip("there is a GPU")
    with pytest.raises(ToolError, match="compiles on a GPU only") as missing:
        run_compile(CompileRequest("m", "tensorrt", "/absent.onnx"), tmp_path / "out", tmp_path / "log")
    assert (missing.value.code, missing.value.exit_code) == ("gpu_missing", 3)
    assert not (tmp_path / "out").exists()
