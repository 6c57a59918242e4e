"""A model of an instance kind on the embedded server → its answers, and the memory it took and gave back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tritonsmith.perf.doctor.gpu_check.step import MissingError, UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.doctor.gpu_check.steps.versions import version_of
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import Server, ServerSpec, launch
from tritonsmith.perf.usage import nvml
from tritonsmith.perf.usage.resource_use import GpuReading

MODEL = "perceptron"
_ROUNDS = 2
_GIVEN_BACK_S = 10.0
_SLACK_BYTES = 64 << 20


def load_and_unload(device: str, work: Path, argument: str) -> dict[str, Any]:
    """Two rounds of load, ask, unload; every byte and process of a round is gone before the next.

    On a GPU memory is NVML's of the whole GPU, which nobody else may use meanwhile; else of the instances' processes.
    """
    uses_gpu = device == "gpu" and argument != "KIND_CPU"
    if uses_gpu:
        require_onnxruntime_gpu()
    used_bytes = gpu_memory() if device == "gpu" else None
    onnx = models.perceptron(work / "perceptron.onnx")
    repository = models.repository(work / "repository", MODEL, onnx, argument)
    x = models.rows((models.ROWS, models.WIDTH))
    expected = reference(onnx, x)
    spec = ServerSpec(
        repositories=(repository,), model_control="explicit", log_path=work / "tritonserver.log"
    )
    facts: dict[str, Any] = {"rounds": []}
    with launch(spec) as server:
        facts["triton"] = server.version
        for _ in range(_ROUNDS):
            facts["rounds"].append(_round(server, x, expected, used_bytes, uses_gpu, facts))
    return facts


def _round(
    server: Server,
    x: Any,
    expected: Any,
    used_bytes: Callable[[], int] | None,
    uses_gpu: bool,
    facts: dict[str, Any],
) -> dict[str, Any]:
    before = used_bytes() if used_bytes else 0
    control.load_model(server.http_url, MODEL)
    facts["instance_group"] = control.model_config(server.http_url, MODEL)["instance_group"]
    check_answer(answer_of(server, MODEL, x), expected)
    during = used_bytes() if used_bytes else resident_bytes(server)
    control.unload_model(server.http_url, MODEL)
    control.wait_instances(server, MODEL, 0)
    seen = {"before_bytes": before, "loaded_bytes": during}
    if used_bytes is None:
        return seen
    if uses_gpu and during - before < _SLACK_BYTES:
        raise UnexpectedError(
            "the loaded model takes no memory of the GPU, so it does not run there", **facts, **seen
        )
    after = _settled(used_bytes, before + _SLACK_BYTES)
    if after > before + _SLACK_BYTES:
        kept = (after - before) >> 20
        raise UnexpectedError(f"{kept} MiB of the GPU were not given back by the unload", **facts, **seen)
    return {**seen, "after_bytes": after}


def _settled(used_bytes: Callable[[], int], enough: int) -> int:
    """Memory in use when it is down to `enough`, or after ten seconds."""
    deadline = time.monotonic() + _GIVEN_BACK_S
    while (now := used_bytes()) > enough and time.monotonic() < deadline:
        time.sleep(0.2)
    return now


def gpu_memory() -> Callable[[], int]:
    """NVML's memory in use; MissingError without NVML."""
    reading = gpu_reading()
    return lambda: int(told(reading().memory_bytes, "memory"))


def gpu_reading() -> Callable[[], GpuReading]:
    """NVML's readings of the first GPU that CUDA shows; MissingError says what is missing."""
    try:
        library = nvml.open_nvml()
        handles = nvml.handles_of(library, nvml.gpus_of_process(os.getpid())[:1])
    except ImportError:
        raise MissingError("pynvml is not installed; wheel nvidia-ml-py") from None
    except Exception as error:  # pynvml.NVMLError, a class that is known only when it is imported
        raise MissingError(f"NVML: {error}") from None
    if not handles:
        raise MissingError("CUDA shows no GPU to this process")
    return lambda: next(iter(nvml.read(library, handles).values()))


def told(value: float | None, what: str) -> float:
    """What NVML told; MissingError for what this GPU does not tell."""
    if value is None:
        raise MissingError(f"NVML tells no {what} of this GPU")
    return value


def require_onnxruntime_gpu() -> None:
    """MissingError unless the embedded server would get ONNX Runtime with CUDA: it takes the version installed here."""
    if version_of("onnxruntime-gpu") is None:
        raise MissingError("onnxruntime-gpu is not installed; wheel onnxruntime-gpu")


def resident_bytes(server: Server) -> int:
    """Of the model's instances."""
    import psutil

    return sum(psutil.Process(pid).memory_info().rss for pid in control.instance_pids(server, MODEL))


def reference(onnx: Path, x: Any) -> Any:
    """The CPU's answer."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"]).run(["y"], {"x": x})[0]


def answer_of(server: Server, model: str, x: Any) -> Any:
    """One request over gRPC, by NVIDIA's own client."""
    import tritonclient.grpc as triton

    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    client = triton.InferenceServerClient(server.grpc_url)
    try:
        return client.infer(model, [tensor], client_timeout=60).as_numpy("y")
    finally:
        client.close()


def check_answer(got: Any, expected: Any) -> float:
    """The relative L2 distance; UnexpectedError when it is beyond what TF32 explains."""
    from tritonsmith.builder.actions.accuracy.accuracy import compare, variant_bounds

    deviation = compare({"y": got}, {"y": expected}, bounds=variant_bounds("tf32", "float32"))[0]
    if not deviation.passed:
        raise UnexpectedError(f"the server answers otherwise than the CPU: {'; '.join(deviation.violations)}")
    return deviation.relative_l2
