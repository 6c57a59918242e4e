"""(the spec's target, this machine) → what engines are compiled for: the GPUs and the TensorRT that will serve them."""

from __future__ import annotations

from collections.abc import Sequence

from builder.compile.cuda import gpus
from builder.compile.tensorrt import PLAN
from builder.plan import EngineTarget
from builder.releases import is_same_tensorrt
from builder.spec import RepositorySpec
from builder.targets import compute_capability_of, serving_target
from builder.toolchain import Toolchain


def engine_targets(spec: RepositorySpec, toolchain: Toolchain) -> tuple[EngineTarget, ...]:
    """One EngineTarget a compute capability that `target:` names; this machine's GPU where it names none.

    So a machine without a GPU knows which engines are stale, and finds in a shared cache what others compiled.
    """
    stated = spec.target
    where = spec.source.where(("target",))
    tensorrt = serving_target(stated, where).target.tensorrt or toolchain.fingerprint("tensorrt")["tensorrt"]
    if stated.gpus:
        by_capability: dict[str, str] = {}
        for gpu in stated.gpus:
            by_capability.setdefault(compute_capability_of(gpu, where), gpu)
        return tuple(EngineTarget(gpu, capability, tensorrt) for capability, gpu in by_capability.items())
    found, _ = gpus()
    capabilities = dict.fromkeys(gpu.compute_capability for gpu in found)
    return tuple(EngineTarget(None, c, tensorrt) for c in capabilities) or (
        EngineTarget(None, None, tensorrt),
    )


def can_compile_here(target: EngineTarget, toolchain: Toolchain) -> bool:
    """Whether this machine's GPU and TensorRT are those that the engine is for."""
    found, _ = gpus()
    installed = toolchain.fingerprint("tensorrt")["tensorrt"]
    return (
        any(gpu.compute_capability == target.compute_capability for gpu in found)
        and installed is not None
        and (target.tensorrt is None or is_same_tensorrt(installed, target.tensorrt))
    )


def plan_names(targets: Sequence[EngineTarget]) -> list[str]:
    """File names of a model's plans: model.plan, or model_sm90.plan … where there are several kinds of GPU."""
    if len(targets) == 1:
        return [PLAN]
    return [PLAN.replace(".", f"_sm{(t.compute_capability or '').replace('.', '')}.") for t in targets]
