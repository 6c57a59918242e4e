"""model.yaml beside this file → NVIDIA's own LLM-API model of the image that serves, which reads it.

It runs in Triton's interpreter. Where the image has it: TensorRT-LLM's guide to speculative decoding in Triton
("cp -R /app/all_models/llmapi/ …"). TRITON_LLMAPI_DIRECTORY names another directory with NVIDIA's model.py and helpers.py.
"""

import importlib.util
import os
import sys

DIRECTORY = os.environ.get("TRITON_LLMAPI_DIRECTORY", "/app/all_models/llmapi/tensorrt_llm/1")
PROGRAM = os.path.join(DIRECTORY, "model.py")  # noqa: PTH118 - as small as can be: it is read by whoever serves

if not os.path.isfile(PROGRAM):  # noqa: PTH113
    raise FileNotFoundError(
        f"no {PROGRAM}: this model needs NVIDIA's image with TensorRT-LLM (tritonserver:…-trtllm-python-py3), or "
        "TRITON_LLMAPI_DIRECTORY with its triton_backend/all_models/llmapi/tensorrt_llm/1"
    )
sys.path.insert(0, DIRECTORY)  # its helpers.py
_found = importlib.util.spec_from_file_location("tensorrt_llm_llmapi_model", PROGRAM)
assert _found is not None and _found.loader is not None
_module = importlib.util.module_from_spec(_found)
# Dataclasses in it look for their module by name.
sys.modules[_found.name] = _module
_found.loader.exec_module(_module)


class TritonPythonModel(_module.TritonPythonModel):  # type: ignore[misc, name-defined]
    """NVIDIA's, unchanged."""
