"""The steps of the GPU check, in the order they run: the cheap and telling ones first."""

from __future__ import annotations

from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.perf.doctor.gpu_check.step import Step

STEPS: tuple[Step, ...] = (
    Step("versions", "versions:versions", limit_s=40, cpu=True),
    Step("device copies", "copies:copies", limit_s=40, cpu=True),
    *(
        Step(f"onnxruntime {name}", "sessions:precision", name, 60, cpu=not row.tf32)
        for name, row in precision_rows().items()
        if row.on_cuda is not None
    ),
    Step("cuDNN missing", "sessions:without_cudnn", limit_s=40, hide="libcudnn.so.9"),
    Step("serve KIND_GPU", "serving:load_and_unload", "KIND_GPU", 120),
    Step("serve KIND_AUTO", "serving:load_and_unload", "KIND_AUTO", 60, cpu=True),
    Step("serve KIND_CPU", "serving:load_and_unload", "KIND_CPU", 60, cpu=True),
    Step("system shared memory", "regions:regions", "system", 60, cpu=True),
    Step("CUDA shared memory", "regions:regions", "cuda", 60),
    Step("energy", "energy:energy", limit_s=60),
    Step("sweep", "sweeping:sweep", limit_s=120, cpu=True),
    Step("TensorRT-RTX", "engines:rtx", limit_s=60, cpu=True),
    Step("TensorRT", "engines:tensorrt", limit_s=120),
    Step("Triton with plans", "engines:triton", limit_s=120),
)
