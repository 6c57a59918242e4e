"""A model at a precision, on ONNX Runtime's CUDA provider → where its nodes really ran, and how far from the CPU's answers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.accuracy.accuracy import compare, variant_bounds
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.perf.doctor.gpu_check.step import MissingError, Outcome, UnexpectedError
from tritonsmith.perf.doctor.gpu_check.steps import models
from tritonsmith.perf.server.embedded import OUR_BACKENDS

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def precision(device: str, work: Path, argument: str) -> dict[str, Any] | Outcome:
    """The perceptron (and for fp32 and tf32 the convolution) judged by the gate's bounds against fp32 on the CPU.

    What the precision's row says must run wholly on the GPU; what it says may need emulation and ONNX Runtime has no
    kernels for (bf16) is `refused`.
    """
    row = precision_rows()[argument]
    ort = _onnxruntime(device)
    source = models.perceptron(work / "perceptron.onnx")
    graphs = {"perceptron": (source, models.rows((models.ROWS, models.WIDTH)))}
    if row.convert is None:
        conv = models.convolution(work / "convolution.onnx")
        graphs["convolution"] = (conv, models.rows((2, *models.CONV)))
    facts: dict[str, Any] = {"onnxruntime": ort.__version__}
    for name, (path, x) in graphs.items():
        made = models.converted(path, argument, work / name) if row.convert is not None else path
        reference = _run(ort, path, [CPU], x, work / "reference")[0]
        wanted = [CPU] if device == "cpu" else [(CUDA, {"use_tf32": int(bool(row.tf32))})]
        if row.tf32 and device == "gpu":
            exact = _run(ort, path, [(CUDA, {"use_tf32": 0})], x, work / "exact")[0]
        try:
            answer, ran = _run(ort, made, wanted, x, work / name)
        except Exception as error:  # onnxruntime raises classes of its own that only its C module names
            if row.on_cuda == "part" and row.emulate is not None and "NOT_IMPLEMENTED" in str(error):
                return Outcome("refused", f"onnxruntime has no kernel: {str(error)[:300]}", facts)
            raise
        deviation = compare(answer, reference, bounds=variant_bounds(argument, "float32"))[0]
        facts[name] = {
            "nodes": ran,
            "relative_l2": deviation.relative_l2,
            "cosine": deviation.cosine,
            "max_abs": deviation.max_abs,
        }
        if row.tf32 and device == "gpu":
            # A switch that changes nothing is no switch; no bit differs where the GPU has no TF32 (before 8.0).
            facts[name]["differs_from_fp32"] = any((answer[key] != exact[key]).any() for key in answer)
        if not deviation.passed:
            raise UnexpectedError(f"{name} at {argument}: {'; '.join(deviation.violations)}", **facts)
        if device == "gpu" and (not ran.get(CUDA) or (row.on_cuda == "wholly" and ran.get(CPU))):
            raise UnexpectedError(f"{name} at {argument} ran elsewhere than on the GPU: {ran}", **facts)
    return facts


def without_cudnn(device: str, work: Path, argument: str) -> dict[str, Any]:
    """The embedded backend's session of a KIND_GPU instance, in a process that cannot load cuDNN: it must raise."""
    ort = _onnxruntime(device)
    path = models.convolution(work / "convolution.onnx")
    sys.path.append(str(OUR_BACKENDS / "onnxruntime"))
    import ort_session  # type: ignore[import-not-found]

    try:
        session = ort_session.session_from_config({"name": "convolution"}, path, "GPU", 0)
        session.run(None, {"x": models.rows((1, *models.CONV))})
    except Exception as error:  # this is what is wanted; its words are the fact
        return {"refused_with": str(error)[:500]}
    if CUDA in session.get_providers() and (found := mapped("libcudnn", Path("/proc/self/maps").read_text())):
        raise MissingError(f"cuDNN could not be hidden from this process: it loaded {found[0]}")
    where = ", ".join(session.get_providers())
    raise UnexpectedError(
        f"without cuDNN the session runs on {where} instead of failing", onnxruntime=ort.__version__
    )


def mapped(library: str, maps: str) -> list[str]:
    """Paths of a library that /proc/PID/maps lists."""
    return sorted({line.split()[-1] for line in maps.splitlines() if library in line.rpartition("/")[2]})


def nodes_by_provider(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """ONNX Runtime's profile (a JSON list of events) → how many distinct nodes ran on each provider."""
    seen = {
        (event["name"], event["args"]["provider"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return dict(Counter(provider for _, provider in seen))


def _run(
    ort: Any, path: Path, providers: list[Any], x: Any, prefix: Path
) -> tuple[dict[str, Any], dict[str, int]]:
    """(answers, nodes by the provider that really ran them)"""
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    answers = dict(zip(names, session.run(names, {"x": x}), strict=True))
    events = json.loads(Path(session.end_profiling()).read_text())
    return answers, nodes_by_provider(events)


def _onnxruntime(device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"onnxruntime: {error}; wheel onnxruntime-gpu") from None
    if device == "gpu" and CUDA not in onnxruntime.get_available_providers():
        raise MissingError("this onnxruntime has no CUDA provider; wheel onnxruntime-gpu")
    return onnxruntime
