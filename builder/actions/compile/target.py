"""What an engine is compiled for, and whether a machine can compile it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN, TENSORRT_FIX
from tritonsmith.builder.base.errors import ToolError
from tritonsmith.builder.base.machine.machine import Machine
from tritonsmith.builder.base.machine.releases import is_same_tensorrt, tensorrt_requirement

ELSEWHERE = (
    "tritonsmith build --artifacts-only on a machine with that GPU, with the --remote-cache of this one"
)


@dataclass(frozen=True, slots=True)
class EngineTarget:
    """What an engine is compiled for; None where neither the spec nor this machine says it.

    gpu: the kind of GPU as the spec names it. compute_capability: `9.0`. tensorrt: version, all that is known of it.
    platform: operating system and CPU of the servers.
    """

    gpu: str | None
    compute_capability: str | None
    tensorrt: str | None
    platform: str | None = "linux_x86_64"

    @property
    def name(self) -> str:
        """For people: `h100 (9.0), TensorRT 10.16`."""
        gpu = " ".join(
            filter(None, [self.gpu, f"({self.compute_capability})" if self.compute_capability else ""])
        )
        return f"{gpu or 'a GPU'}{f', TensorRT {self.tensorrt}' if self.tensorrt else ''}"

    @property
    def tools(self) -> dict[str, str | None]:
        """What an engine is made by and for; what the spec calls the GPU is no part of it."""
        return {
            "tensorrt": self.tensorrt,
            "compute_capability": self.compute_capability,
            "platform": self.platform,
        }

    def as_dict(self) -> dict[str, str | None]:
        """JSON form."""
        return asdict(self)


def can_compile(target: EngineTarget, machine: Machine) -> bool:
    """Whether the machine has the GPU, the TensorRT and the platform that the engine is for."""
    return (
        bool(machine.gpus_of(target.compute_capability))
        and machine.platform == target.platform
        and machine.tensorrt is not None
        and (target.tensorrt is None or is_same_tensorrt(machine.tensorrt, target.tensorrt))
    )


def not_here(target: EngineTarget, machine: Machine) -> ToolError:
    """Why the machine cannot compile the engine: gpu_missing, tensorrt_missing, gpu_other."""
    if not machine.gpus:
        return ToolError(
            f"the engine for {target.name} is in no cache, and TensorRT compiles on a GPU only, and this machine has none",
            code="gpu_missing",
            seen=machine.why_no_gpu,
            fix=f"{ELSEWHERE}; or serve a variant with backend onnxruntime",
        )
    if machine.tensorrt is None and machine.gpus_of(target.compute_capability):
        return ToolError(
            f"the engine for {target.name} is in no cache, and TensorRT is not installed",
            code="tensorrt_missing",
            fix=f"pip install '{tensorrt_requirement(target.tensorrt)}'" if target.tensorrt else TENSORRT_FIX,
        )
    return ToolError(
        f"an engine for {target.name} is not compiled on another GPU, by another TensorRT or on another platform",
        code="gpu_other",
        seen=f"{', '.join(f'{g.name} ({g.compute_capability})' for g in machine.gpus)} with TensorRT "
        f"{machine.tensorrt} on {machine.platform}",
        valid=(f"{target.name}, {target.platform}",),
        fix=ELSEWHERE,
    )


def plan_names(targets: Sequence[EngineTarget]) -> list[str]:
    """File names of a model's plans: model.plan, or model_sm90.plan … where there are several kinds of GPU."""
    if len(targets) == 1:
        return [PLAN]
    return [PLAN.replace(".", f"_sm{(t.compute_capability or '').replace('.', '')}.") for t in targets]
