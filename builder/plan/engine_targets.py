"""(the spec's target, a machine) → what engines are compiled for: the GPUs, the TensorRT and the platform that will serve
them."""

from __future__ import annotations

from collections.abc import Sequence

from tritonsmith.builder.actions.compile.compilers.tensorrt import PLAN
from tritonsmith.builder.base.machine import Machine
from tritonsmith.builder.base.releases import is_same_tensorrt
from tritonsmith.builder.plan.plan import EngineTarget
from tritonsmith.builder.plan.targets import compute_capability_of, serving_target
from tritonsmith.builder.spec.spec import RepositorySpec


def engine_targets(spec: RepositorySpec, machine: Machine) -> tuple[EngineTarget, ...]:
    """One EngineTarget a compute capability that `target:` names; the machine's GPU where it names none.

    So a machine without a GPU, or with another, knows which engines are stale, and finds in a shared cache what others
    compiled.
    """
    where = spec.source.where(("target",))
    serving = serving_target(spec.target, where)
    tensorrt = serving.target.tensorrt or machine.tensorrt
    platform = serving.platform or machine.platform
    if spec.target.gpus:
        by_capability: dict[str, str] = {}
        for gpu in spec.target.gpus:
            by_capability.setdefault(compute_capability_of(gpu, where), gpu)
        return tuple(EngineTarget(g, c, tensorrt, platform) for c, g in by_capability.items())
    capabilities = dict.fromkeys(gpu.compute_capability for gpu in machine.gpus)
    return tuple(EngineTarget(None, c, tensorrt, platform) for c in capabilities) or (
        EngineTarget(None, None, tensorrt, platform),
    )


def can_compile(target: EngineTarget, machine: Machine) -> bool:
    """Whether the machine has the GPU, the TensorRT and the platform that the engine is for."""
    return (
        bool(machine.gpus_of(target.compute_capability))
        and machine.platform == target.platform
        and machine.tensorrt is not None
        and (target.tensorrt is None or is_same_tensorrt(machine.tensorrt, target.tensorrt))
    )


def plan_names(targets: Sequence[EngineTarget]) -> list[str]:
    """File names of a model's plans: model.plan, or model_sm90.plan … where there are several kinds of GPU."""
    if len(targets) == 1:
        return [PLAN]
    return [PLAN.replace(".", f"_sm{(t.compute_capability or '').replace('.', '')}.") for t in targets]
