"""(model config, model file, instance) → an onnxruntime.InferenceSession with the options the config asks
for."""

import os
from pathlib import Path

import onnxruntime as ort
import ort_providers

# Triton's optimization.graph.level: -1 fewer, 0 default, 1 extended, 2 (and up) none at all; the meaning is
# the one of the onnxruntime_backend repository, README "Model Config Options".
GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def model_path(model_dir, version, filename):
    """The ONNX file of a version; a directory of that name holds model.onnx beside its external data."""
    path = Path(model_dir, str(version), filename or "model.onnx")
    return path / "model.onnx" if os.path.isdir(as_bytes(path)) else path  # noqa: PTH112


def as_bytes(path):
    """A path for Python's own calls: a stub's Python encodes file names as ASCII, whatever the locale."""
    return str(path).encode()


def session_from_config(config, path, kind="CPU", device_id=0):
    """Load `path`; raises RuntimeError when the file is absent or the config asks for what cannot be had."""
    if not os.path.exists(as_bytes(path)):  # noqa: PTH110
        raise RuntimeError(f"unable to find '{path}' for model instance '{config['name']}'")
    parameters = {k: v.get("string_value", "") for k, v in config.get("parameters", {}).items()}
    options = _session_options(config, parameters)
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    chosen, notes = ort_providers.providers(
        config, parameters, kind, device_id, ort.get_available_providers()
    )
    for note in notes:
        print(f"model '{config['name']}': {note}", flush=True)
    if kind == "GPU" and hasattr(ort, "preload_dlls"):
        # CUDA and cuDNN from NVIDIA's wheels lie where no loader looks; what is not there is named when a session starts.
        ort.preload_dlls()
    session = ort.InferenceSession(str(path), options, providers=chosen)
    ort_providers.check_granted(config, chosen, session.get_providers())
    return session


def _session_options(config, parameters):
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)

    mode = parameters.get("execution_mode", "0")
    if mode not in ("0", "1"):
        raise RuntimeError(f"parameter execution_mode is '{mode}'; expected values are 0 or 1")
    options.execution_mode = (
        ort.ExecutionMode.ORT_PARALLEL if mode == "1" else ort.ExecutionMode.ORT_SEQUENTIAL
    )

    # An instance is a process here, so a thread that spins takes a core from the server and the other
    # instances.
    options.intra_op_num_threads = _int(parameters, "intra_op_thread_count") or _default_threads()
    options.inter_op_num_threads = _int(parameters, "inter_op_thread_count")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    key = "session.use_device_allocator_for_initializers"
    if key in parameters:
        options.add_session_config_entry(key, parameters[key])
    if "enable_mem_arena" in parameters:
        options.enable_cpu_mem_arena = _bool(parameters, "enable_mem_arena")
    if "enable_mem_pattern" in parameters:
        options.enable_mem_pattern = _bool(parameters, "enable_mem_pattern")
    return options


def _default_threads():
    # As in production: all cores. The count is fixed, not divided by the instances, so that adding instances
    # to a loaded model leaves the running ones as they were.
    return len(os.sched_getaffinity(0))


def _int(parameters, key):
    text = parameters.get(key, "0")
    try:
        return int(text)
    except ValueError:
        raise RuntimeError(f"parameter {key} is '{text}'; expected an integer") from None


def _bool(parameters, key):
    text = parameters[key].lower()
    if text not in ("1", "0", "true", "false"):
        raise RuntimeError(f"parameter {key} is '{parameters[key]}'; expected true, false, 1 or 0")
    return text in ("1", "true")
