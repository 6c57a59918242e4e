"""Accelerators and parameters of a config → onnxruntime's execution providers, as production's backend reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from tests import onnx_models
from tests.perf.server.test_onnxruntime_rules import load

ort_providers = load("ort_providers")
ALL = [
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
]
CPU = "CPUExecutionProvider"


def gpu(name: str, **parameters: str) -> dict[str, Any]:
    return {"gpu_execution_accelerator": [{"name": name, "parameters": parameters}]}


def chosen(
    accelerators: dict[str, Any], kind: str, parameters: dict[str, str], available: list[str] = ALL
) -> tuple[list[Any], list[str]]:
    config = {"name": "m", "optimization": {"execution_accelerators": accelerators}}
    result: tuple[list[Any], list[str]] = ort_providers.providers(config, parameters, kind, 1, available)
    return result


def test_a_session_on_fewer_providers_than_were_asked_for_is_refused(tmp_path: Path) -> None:
    """onnxruntime itself falls back without an error: here it is asked for what this build does not have."""
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    asked: list[Any] = [CUDA, CPU]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Specified provider 'CUDAExecutionProvider' is not in available …"
        session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=asked)
    if "CUDAExecutionProvider" in session.get_providers():
        pytest.skip("this machine has a GPU that onnxruntime uses")
    with pytest.raises(
        RuntimeError, match="model 'm' asks for CUDAExecutionProvider, and onnxruntime could not"
    ):
        ort_providers.check_granted({"name": "m"}, asked, session.get_providers())
    ort_providers.check_granted({"name": "m"}, [CPU], session.get_providers())


# What production's backend sets whatever the accelerator says.
ALWAYS = {
    "device_id": "1",
    "gpu_mem_limit": "18446744073709551615",
    "do_copy_in_default_stream": "1",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "arena_extend_strategy": "kNextPowerOfTwo",
}
CUDA = ("CUDAExecutionProvider", ALWAYS)


@pytest.mark.parametrize(
    ("accelerators", "kind", "parameters", "expected"),
    [
        ({}, "CPU", {}, [CPU]),
        ({}, "GPU", {}, [CUDA, CPU]),
        # A gpu accelerator accelerates no CPU instance.
        (gpu("tensorrt"), "CPU", {}, [CPU]),
        (gpu("tensorrt"), "GPU", {}, [("TensorrtExecutionProvider", {"device_id": "1"}), CUDA, CPU]),
        (
            gpu(
                "tensorrt",
                precision_mode="FP16",
                max_workspace_size_bytes="1024",
                trt_engine_cache_enable="true",
            ),
            "GPU",
            {},
            [
                (
                    "TensorrtExecutionProvider",
                    {
                        "device_id": "1",
                        "trt_fp16_enable": "1",
                        "trt_max_workspace_size": "1024",
                        "trt_engine_cache_enable": "true",
                    },
                ),
                CUDA,
                CPU,
            ],
        ),
        # Both places of CUDA's options; the model's parameters win, and so do their defaults.
        (
            gpu("cuda", use_tf32="0", gpu_mem_limit="7"),
            "GPU",
            {"gpu_mem_limit": "5", "cudnn_conv_algo_search": "1"},
            [
                (
                    "CUDAExecutionProvider",
                    {**ALWAYS, "gpu_mem_limit": "5", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
                ),
                CPU,
            ],
        ),
        (
            gpu("cuda", device_id="7", gpu_mem_limit="7", arena_extend_strategy="kSameAsRequested"),
            "GPU",
            {},
            [CUDA, CPU],
        ),
        # Of parameters production knows those four alone.
        ({}, "GPU", {"use_ep_level_unified_stream": "1"}, [CUDA, CPU]),
        (
            {"cpu_execution_accelerator": [{"name": "openvino"}]},
            "CPU",
            {},
            [("OpenVINOExecutionProvider", {"device_type": "CPU"}), CPU],
        ),
    ],
)
def test_providers_in_order(
    accelerators: dict[str, Any], kind: str, parameters: dict[str, str], expected: list[Any]
) -> None:
    assert chosen(accelerators, kind, parameters) == (expected, [])


def test_openvino_that_is_not_here_is_told_of() -> None:
    providers, notes = chosen({"cpu_execution_accelerator": [{"name": "openvino"}]}, "CPU", {}, [CPU])
    assert providers == [CPU] and "openvino" in notes[0]


@pytest.mark.parametrize(
    ("accelerators", "kind", "available", "parameters", "says"),
    [
        ({}, "GPU", [CPU], {}, "asks for a KIND_GPU instance, but this onnxruntime has no CUDA"),
        (gpu("tensorrt"), "GPU", ALL[1:], {}, "accelerator 'tensorrt', but this onnxruntime has no Tensorrt"),
        (gpu("openvino"), "GPU", ALL, {}, "unknown Execution Accelerator 'openvino'"),
        (
            {"cpu_execution_accelerator": [{"name": "onednn"}]},
            "CPU",
            ALL,
            {},
            "unknown Execution Accelerator",
        ),
        (gpu("tensorrt", precision_mode="FP8"), "GPU", ALL, {}, "unsupported precision mode 'FP8'"),
        (gpu("tensorrt", workspace="1"), "GPU", ALL, {}, "unknown parameter 'workspace'"),
        ({}, "GPU", ALL, {"arena_extend_strategy": "2"}, "unsupported arena_extend_strategy"),
    ],
)
def test_what_cannot_be_had_is_refused(
    accelerators: dict[str, Any], kind: str, available: list[str], parameters: dict[str, str], says: str
) -> None:
    with pytest.raises(RuntimeError, match=says):
        chosen(accelerators, kind, parameters, available)
