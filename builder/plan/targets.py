"""(what the repository must load on, what is about to be built) → nothing, or the first reason why it would not load."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tritonsmith.builder.actions.compile.request import CompileOptions
from tritonsmith.builder.base.errors import GateError, ServerError, SpecError, UsageError, Where, did_you_mean
from tritonsmith.builder.base.machine.releases import (
    IMAGES,
    NVIDIA_BACKENDS,
    builds_for,
    is_same_tensorrt,
    is_whole_tensorrt,
    release_from_image,
    release_from_triton_version,
    releases,
    takes_version_compatible,
    tensorrt_of,
)
from tritonsmith.builder.base.precisions import precision_rows
from tritonsmith.builder.base.text.shown import refuse_secrets
from tritonsmith.builder.lint.target import Target, onnx_limits, target_from_text
from tritonsmith.builder.spec.spec import Target as StatedTarget

# GPU → compute capability. Source: NVIDIA's list of CUDA GPUs by compute capability.
COMPUTE_CAPABILITIES: Mapping[str, str] = {
    "v100": "7.0", "t4": "7.5", "rtx2080ti": "7.5",
    "a100": "8.0", "a30": "8.0", "a2": "8.6", "a10": "8.6", "a10g": "8.6", "a16": "8.6", "a40": "8.6",
    "rtx3090": "8.6", "rtxa6000": "8.6", "orin": "8.7",
    "l4": "8.9", "l40": "8.9", "l40s": "8.9", "rtx4090": "8.9", "rtx6000ada": "8.9",
    "h100": "9.0", "h200": "9.0", "h20": "9.0", "gh200": "9.0",
    "b100": "10.0", "b200": "10.0", "gb200": "10.0", "b300": "10.3", "gb300": "10.3",
    "rtx5090": "12.0", "rtxpro6000": "12.0", "gb10": "12.1",
}  # fmt: skip
# GPUs of boards whose CPU is ARM's; all others are taken to sit in x86-64 machines. Sources: NVIDIA's product pages of
# Grace Hopper, Grace Blackwell, DGX Spark and Jetson.
_ARM_GPUS = frozenset({"orin", "gh200", "gb200", "gb300", "gb10"})
PLATFORMS = ("linux_x86_64", "linux_aarch64")
# What follows the model in the driver's names: `NVIDIA A100-SXM4-80GB`, `NVIDIA RTX 6000 Ada Generation`.
_NAME_NOISE = re.compile(
    r"\b(nvidia|tesla|geforce|quadro|generation|(server|workstation) edition|blackwell|sxm\d?|pcie|nvl|hbm\d\w*|\d+gb)\b"
)
# Hardware compatibility level → the least compute capability that TensorRT builds it on. Source: NvInfer.h,
# HardwareCompatibilityLevel ("only supported for engines built on NVIDIA Ampere and later", "Turing and later").
_LEAST_OF_LEVEL: Mapping[str, str] = {"ampere_plus": "8.0", "same_compute_capability": "7.5"}
_ANSWER_WITHIN_S = 10.0
_STATE_IT = 'state it: target: {triton: "…", tensorrt: "10.16.0.72"}; in the image: dpkg -l libnvinfer10'


@dataclass(frozen=True, slots=True)
class ServingTarget:
    """A linter's Target and what the spec says of the GPUs that serve; empty means not stated.

    compute_capabilities: of each kind. kinds: as the spec names them, one of each.
    platform: operating system and CPU of the servers, one of PLATFORMS.
    """

    target: Target
    compute_capabilities: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model that is about to be built, as far as it is known by then; None is not judged.

    opset, ir_version: of the ONNX file, exported or to be compiled.
    tensorrt: that its plans (backend tensorrt) are built by, on whichever machine.
    precision: of the plan's graph.
    options: the plan's.
    """

    model: str
    backend: str
    opset: int | None = None
    ir_version: int | None = None
    tensorrt: str | None = None
    precision: str = "fp32"
    options: CompileOptions = field(default_factory=CompileOptions)
    where: Where | None = None


def serving_target(stated: StatedTarget, where: Where | None = None) -> ServingTarget:
    """The spec's `target:` → ServingTarget; SpecError for a release or a GPU that is not known, and for GPUs of
    machines with different CPUs: an engine runs on one platform only."""
    if stated.triton is not None and stated.triton not in releases():
        raise SpecError(
            f"no Triton release {stated.triton!r} is known",
            code="unknown_release",
            where=where,
            seen=stated.triton,
            valid=tuple(releases()),
            fix=did_you_mean(stated.triton, releases()),
        )
    kinds = tuple(dict.fromkeys(_plain(gpu) for gpu in stated.gpus))
    capabilities = tuple(dict.fromkeys(compute_capability_of(gpu, where) for gpu in stated.gpus))
    target = Target(
        release=stated.triton,
        # Kinds of GPUs: how many of them a server has, nobody said.
        gpus=None,
        tensorrt=stated.tensorrt or tensorrt_of(stated.triton),
        compute_capability=capabilities[0] if len(capabilities) == 1 else None,
    )
    return ServingTarget(target, capabilities, kinds, _platform(stated, kinds, where))


def _platform(stated: StatedTarget, kinds: Sequence[str], where: Where | None) -> str | None:
    """As stated, else what the kinds of GPUs say; None where no GPU is named."""
    arm = [kind for kind in kinds if kind in _ARM_GPUS]
    wrong = set(kinds) - set(arm) if arm and stated.platform is None else ()
    if wrong or (arm and stated.platform not in (None, "linux_aarch64")):
        raise SpecError(
            "the target's GPUs sit in machines with different CPUs, and an engine runs on the platform only that built it",
            code="target_platform",
            where=where,
            seen=", ".join(stated.gpus) + (f" on {stated.platform}" if stated.platform else ""),
            valid=(f"ARM: {', '.join(sorted(_ARM_GPUS))}",),
            fix="one spec for each platform; or platform: linux_aarch64, where all of them sit in ARM machines",
        )
    if stated.platform is not None or not kinds:
        return stated.platform
    return PLATFORMS[bool(arm)]


def _plain(gpu: str) -> str:
    """The name without its vendor, form factor and memory: `NVIDIA H100 80GB HBM3` and `h100` are one."""
    return re.sub(r"[\s_-]", "", _NAME_NOISE.sub("", re.sub(r"[_-]", " ", gpu.lower())))


def compute_capability_of(gpu: str, where: Where | None = None) -> str:
    """`H100`, `NVIDIA A100-SXM4-80GB`, `sm90` or `9.0` → compute capability; SpecError names the nearest known GPU."""
    plain = _plain(gpu)
    numbers = re.fullmatch(r"(?:sm)?(\d+)\.?(\d)", plain)
    if numbers is not None:
        return f"{numbers.group(1)}.{numbers.group(2)}"
    known = COMPUTE_CAPABILITIES.get(plain)
    if known is None:
        raise SpecError(
            f"no GPU {gpu!r} is known",
            code="unknown_gpu",
            where=where,
            seen=gpu,
            valid=(*COMPUTE_CAPABILITIES, "a compute capability such as 9.0"),
            fix=did_you_mean(plain, COMPUTE_CAPABILITIES),
        )
    return known


def target_from_reference(text: str) -> Target:
    """`26.08`, `26.08-IMAGE`, an image of any registry, or a live server's URL → Target.

    UsageError when it names no known release; ServerError when the server does not answer.
    """
    if text.startswith(("http://", "https://")):
        target = target_from_text(_release_of_server(text))
    else:
        image = release_from_image(text) if ":" in text else None
        # An SDK or minimal image serves nothing that is judged here; its release still says the versions.
        short = text if image is None else "-".join(image if image[1] in IMAGES else image[:1])
        target = target_from_text(short)
    return replace(target, tensorrt=tensorrt_of(target.release, target.image))


def _release_of_server(url: str) -> str:
    refuse_secrets(url, "name the release: --target 26.08")
    try:
        from tritonsmith.builder.base.files.http_ask import ask, json_from  # with ssl: for live servers alone

        reply = ask(url, "GET", "/v2", timeout_s=_ANSWER_WITHIN_S)
        version = json_from(reply.body)["version"]
        if reply.status != 200 or not isinstance(version, str):
            raise ValueError(f"HTTP {reply.status}: {reply.body[:80]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"{url} does not answer like a Triton server",
            code="server_unreachable",
            seen=str(error),
            fix="give its HTTP address, http://HOST:8000, or the release: --target 26.08",
        ) from None
    release = release_from_triton_version(version)
    if release is None:
        raise UsageError(
            f"the server at {url} is Triton {version}, which is no release in the table",
            code="unknown_release",
            seen=version,
            valid=tuple(row["triton"] for row in releases().values() if row["triton"]),
            fix="name the release: --target 26.08",
        )
    return release


def check_target(target: ServingTarget, models: Sequence[PlannedModel]) -> None:
    """Raises the first of `target_problems`."""
    for problem in target_problems(target, models):
        raise problem


def target_problems(target: ServingTarget, models: Sequence[PlannedModel]) -> Iterator[GateError]:
    """Every reason why a planned model would not load: target_gpu, target_backend, target_onnx, target_precision,
    target_tensorrt_unknown, target_tensorrt, target_hardware, target_stripped, target_lean_runtime.

    An engine is built for each kind of GPU of the target, here or on another machine: what this machine has decides
    nothing."""
    for model in models:
        yield from _backend_problems(target.target, model)
        if model.backend == "onnxruntime":
            yield from _onnx_problems(target.target, model)
        if model.backend == "tensorrt":
            yield from _gpu_problems(target, model)
            yield from _precision_problems(target, model)
            yield from _hardware_problems(target, model)
            yield from _tensorrt_problems(target, model)


def _backend_problems(target: Target, model: PlannedModel) -> Iterator[GateError]:
    known = target.backends
    if known is not None and model.backend in NVIDIA_BACKENDS and model.backend not in known:
        yield _refused(
            model,
            "target_backend",
            f"{_image(target)} has no backend {model.backend!r}",
            seen=model.backend,
            valid=sorted(known),
        )


def _onnx_problems(target: Target, model: PlannedModel) -> Iterator[GateError]:
    limits = None if target.onnxruntime is None else onnx_limits(target.onnxruntime)
    if limits is None:
        return
    rows = (
        ("IR version", model.ir_version, limits[0], "export with an older onnx, or onnx.version_converter"),
        ("opset", model.opset, limits[1], f"opset: {min(limits[1], 20)} in the spec"),
    )
    for what, seen, newest, fix in rows:
        if seen is not None and seen > newest:
            yield _refused(
                model,
                "target_onnx",
                f"ONNX Runtime {target.onnxruntime} of {_image(target)} loads no {what} above {newest}",
                seen=f"{what} {seen}",
                valid=(f"up to {newest}",),
                fix=fix,
            )


def _gpu_problems(target: ServingTarget, model: PlannedModel) -> Iterator[GateError]:
    row = releases().get(target.target.release or "")
    least = row["min_compute_capability"] if row else ""
    for capability in target.compute_capabilities:
        if least and _below(capability, least):
            yield _refused(
                model,
                "target_gpu",
                f"{_image(target.target)} does not serve GPUs of compute capability {capability}",
                seen=capability,
                valid=(f"{least} and up",),
            )

    version = model.tensorrt or target.target.tensorrt
    for capability in target.compute_capabilities if version is not None else ():
        if not builds_for(version or "", capability):
            yield _refused(
                model,
                "target_gpu",
                f"TensorRT {version} compiles nothing for GPUs of compute capability {capability}",
                seen=capability,
                fix="a target with another TensorRT, or this variant with backend onnxruntime",
            )


def _hardware_problems(target: ServingTarget, model: PlannedModel) -> Iterator[GateError]:
    """Sources: TensorRT 11.3 documentation, Engine Compatibility ("By default, TensorRT engines are only compatible with
    the type of device where they were built"); Triton tells plans apart by compute capability alone
    (tensorrt_backend, src/model_state.cc, cc_model_filenames)."""
    level = model.options.hardware_compatibility
    least = _LEAST_OF_LEVEL.get(level)
    for capability in target.compute_capabilities:
        kinds = [kind for kind in target.kinds if compute_capability_of(kind) == capability]
        if level == "none" and len(kinds) > 1:
            yield _refused(
                model,
                "target_hardware",
                f"{' and '.join(kinds)} get the same plan, as Triton tells GPUs apart by compute capability alone, "
                "and a plan is for one kind of GPU",
                seen=f"compute capability {capability}",
                fix="engine: {hardware_compatibility: same_compute_capability} in the variant",
            )
        if least is not None and _below(capability, least):
            yield _refused(
                model,
                "target_hardware",
                f"TensorRT builds no {level} engine for GPUs of compute capability {capability}",
                seen=capability,
                valid=(f"{least} and up",),
            )


def _precision_problems(target: ServingTarget, model: PlannedModel) -> Iterator[GateError]:
    least = precision_rows()[model.precision].least_capability
    level = _LEAST_OF_LEVEL.get(model.options.hardware_compatibility)
    if model.options.hardware_compatibility == "ampere_plus" and least and level and _below(level, least):
        yield _refused(
            model,
            "target_precision",
            f"an ampere_plus engine runs on compute capability {level}, which has no {model.precision}",
            seen="hardware_compatibility: ampere_plus",
            valid=("none", "same_compute_capability"),
        )
    for capability in target.compute_capabilities:
        if least is not None and _below(capability, least):
            yield _refused(
                model,
                "target_precision",
                f"TensorRT has no {model.precision} for GPUs of compute capability {capability}",
                seen=capability,
                valid=(f"{least} and up",),
                fix="precision: fp16, or int8",
            )


def _tensorrt_problems(target: ServingTarget, model: PlannedModel) -> Iterator[GateError]:
    if model.options.strip:
        yield _refused(
            model,
            "target_stripped",
            "Triton cannot serve a plan without its weights",
            seen="strip: true",
            fix="leave out strip",
        )
    if model.options.exclude_lean_runtime:
        yield _refused(
            model,
            "target_lean_runtime",
            # tensorrt_backend, src/loader.cc: deserializeCudaEngine, and loadRuntime nowhere.
            "Triton loads no lean runtime for a plan that brings none",
            seen="exclude_lean_runtime: true",
            fix="leave out exclude_lean_runtime",
        )
    runtime, built = target.target.tensorrt, model.tensorrt
    if runtime is None and target.target.release is not None:
        yield _refused(
            model,
            "target_tensorrt_unknown",
            f"the TensorRT of {_image(target.target)} is not in the table, and a plan loads on its own version only",
            fix=_STATE_IT,
        )
    if runtime is not None and not is_whole_tensorrt(runtime):
        yield _refused(
            model,
            "target_tensorrt_unknown",
            f"{runtime} does not say which TensorRT the target has, and a plan loads on its own build only",
            seen=runtime,
            valid=("MAJOR.MINOR.PATCH.BUILD",),
            fix=_STATE_IT,
        )
    if runtime is not None and built is not None and not is_same_tensorrt(built, runtime):
        compatible = takes_version_compatible(built, runtime)
        if not (compatible and model.options.version_compatible):
            yield _refused(
                model,
                "target_tensorrt",
                f"a plan of TensorRT {built} does not load on TensorRT {runtime}",
                seen=built,
                valid=(runtime,),
                fix=(
                    "version_compatible: true, and serve with --backend-config=tensorrt,version-compatible=true; "
                    f"or build with TensorRT {runtime}"
                    if compatible
                    else f"build with TensorRT {runtime}, in the target's image"
                ),
            )


def _below(capability: str, least: str) -> bool:
    return tuple(map(int, capability.split("."))) < tuple(map(int, least.split(".")))


def _image(target: Target) -> str:
    return "the target" if target.release is None else f"Triton {target.release}-{target.image}"


def _refused(
    model: PlannedModel,
    code: str,
    message: str,
    *,
    seen: object = None,
    valid: Sequence[object] = (),
    fix: str | None = None,
) -> GateError:
    return GateError(
        f"{model.model}: {message}", code=code, where=model.where, seen=seen, valid=valid, fix=fix
    )
