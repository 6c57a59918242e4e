"""(model config, instance kind, providers of this onnxruntime) → the execution providers of a session, in
order.

What production's backend reads from optimization.execution_accelerators and from parameters is read here; it
reads neither optimization.cuda nor a gpu accelerator of a KIND_CPU instance, nor do we. Sources:
triton-inference-server/onnxruntime_backend, src/onnxruntime.cc, ModelState::LoadModel; ONNX Runtime's
documentation of its CUDA, TensorRT and OpenVINO providers' options.
"""

CUDNN_SEARCH = {"0": "EXHAUSTIVE", "1": "HEURISTIC", "2": "DEFAULT"}
ARENA_STRATEGY = {"0": "kNextPowerOfTwo", "1": "kSameAsRequested"}
NO_LIMIT = str(2**64 - 1)
PRECISIONS = {
    "FP32": {},
    "FP16": {"trt_fp16_enable": "1"},
    "BF16": {"trt_bf16_enable": "1"},
    "INT8": {"trt_int8_enable": "1"},
}
RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}


def providers(config, parameters, kind, device_id, available):
    """([provider or (provider, options)], [note]); RuntimeError for what cannot be had."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    chosen, notes = [], []
    if kind == "GPU":
        chosen += _gpu(config, parameters, accelerators, device_id, available)
    for accelerator in accelerators.get("cpu_execution_accelerator", []):
        name = accelerator["name"]
        if name != "openvino":
            raise RuntimeError(f"unknown Execution Accelerator '{name}' is requested")
        if "OpenVINOExecutionProvider" in available:
            chosen.append(("OpenVINOExecutionProvider", {"device_type": "CPU"}))
        else:
            # Production's image has it; the answers are the same without.
            notes.append("accelerator 'openvino' is not in this onnxruntime; the CPU provider runs instead")
    return [*chosen, "CPUExecutionProvider"], notes


def _gpu(config, parameters, accelerators, device_id, available):
    chosen = []
    cuda = {}
    for accelerator in accelerators.get("gpu_execution_accelerator", []):
        name, values = accelerator["name"], accelerator.get("parameters", {})
        if name == "tensorrt":
            _need(config, "TensorrtExecutionProvider", "accelerator 'tensorrt'", available)
            chosen.append(("TensorrtExecutionProvider", _tensorrt_options(values, device_id)))
        elif name == "cuda":
            cuda.update(values)
        else:
            raise RuntimeError(f"unknown Execution Accelerator '{name}' is requested")
    _need(config, "CUDAExecutionProvider", "a KIND_GPU instance", available)
    options = {**cuda, "device_id": str(device_id), **_cuda_options(parameters)}
    return [*chosen, ("CUDAExecutionProvider", options)]


def check_granted(config, chosen, granted):
    """RuntimeError unless the session runs on every provider that was asked for.

    onnxruntime's Python session warns "Failed to create CUDAExecutionProvider" and goes on with the CPU's where a library
    of CUDA or cuDNN is missing (onnxruntime_pybind_state.cc); production's backend appends the provider by the C API and
    fails the load. A CPU's numbers must not stand for a GPU's.
    """
    names = [provider if isinstance(provider, str) else provider[0] for provider in chosen]
    refused = [name for name in names if name not in granted]
    if refused:
        raise RuntimeError(
            f"model '{config['name']}' asks for {', '.join(refused)}, and onnxruntime could not start it (it runs on "
            f"{', '.join(granted)}); the server's log names the library of CUDA, cuDNN or TensorRT that is missing"
        )


def _need(config, provider, what, available):
    if provider not in available:
        raise RuntimeError(
            f"model '{config['name']}' asks for {what}, but this onnxruntime has no {provider} "
            f"(it has {', '.join(available)}); install onnxruntime-gpu"
        )


def _cuda_options(parameters):
    """What production sets after the accelerator's parameters, and so in their place: from the config's `parameters`, or
    its own default ("Parse CUDA EP configurations directly from the parameters field" in LoadModel)."""
    options = {
        "gpu_mem_limit": parameters.get("gpu_mem_limit", NO_LIMIT),
        "do_copy_in_default_stream": parameters.get("do_copy_in_default_stream", "1"),
    }
    for key, values in (("cudnn_conv_algo_search", CUDNN_SEARCH), ("arena_extend_strategy", ARENA_STRATEGY)):
        number = parameters.get(key, "0")
        if number not in values:
            raise RuntimeError(f"unsupported {key} value '{number}' is requested")
        options[key] = values[number]
    return options


def _tensorrt_options(values, device_id):
    options = {"device_id": str(device_id)}
    for key, value in values.items():
        if key == "precision_mode":
            if value not in PRECISIONS:
                raise RuntimeError(f"unsupported precision mode '{value}' is requested")
            options.update(PRECISIONS[value])
        elif key in RENAMED or key.startswith("trt_"):
            options[RENAMED.get(key, key)] = value
        else:
            raise RuntimeError(f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator")
    return options
