"""(the spec's target, a machine) → what engines are compiled for: the GPUs, the TensorRT and the platform that will serve
them."""

from __future__ import annotations

from tritonsmith.builder.actions.compile.target import EngineTarget
from tritonsmith.builder.base.machine.machine import Machine
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
