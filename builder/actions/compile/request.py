"""What a compilation is asked for and what it gives back, as values that travel between processes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tritonsmith.builder.actions.compile.profiles import ProfileForm
from tritonsmith.builder.base.errors import SpecError, Where, unknown
from tritonsmith.builder.base.files.json_forms import JsonForm

EngineKind = Literal["tensorrt", "tensorrt_rtx"]
HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")
OPTIMIZATION_LEVELS = range(6)
"""TensorRT's builder_optimization_level; higher searches longer (NvInfer.h, setBuilderOptimizationLevel)."""


@dataclass(frozen=True, slots=True)
class CompileOptions(JsonForm):
    """TensorRT's own builder settings; None leaves TensorRT's default. Precision is the graph's, not an option.

    workspace_bytes:    limit of memory for intermediate results; default: all of the GPU's.
    version_compatible: the engine also runs on newer TensorRTs of its major (and 10 on 11).
    exclude_lean_runtime: with version_compatible: smaller, needs the lean runtime where it is served.
    hardware_compatibility: run on other GPUs: ampere_plus (compute capability 8.0 and up) or
                        same_compute_capability.
    refit:              weights may be exchanged later. strip: they are left out; Triton cannot serve such a plan.
    sparsity:           use 2:4 structured sparsity where the weights have it.
    tf32:               TF32 for fp32 matrix products, TensorRT's default.
    """

    workspace_bytes: int | None = None
    builder_optimization_level: int | None = None
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    hardware_compatibility: str = "none"
    refit: bool = False
    strip: bool = False
    sparsity: bool = False
    tf32: bool = True
    weight_streaming: bool = False
    max_aux_streams: int | None = None


def options_from_dict(data: Mapping[str, Any], where: Where | None = None) -> CompileOptions:
    """A spec's mapping → CompileOptions; SpecError names the nearest valid key or value."""
    valid = [f.name for f in fields(CompileOptions)]
    for key in data:
        if key not in valid:
            raise SpecError(
                f"unknown TensorRT option {key!r}",
                code="unknown_key",
                where=where,
                **unknown(key, valid),
            )
    options = CompileOptions(**data)
    _check_options(options, where)
    return options


def _check_options(options: CompileOptions, where: Where | None) -> None:
    rows: tuple[tuple[str, bool, tuple[object, ...]], ...] = (
        (
            "builder_optimization_level",
            options.builder_optimization_level in (None, *OPTIMIZATION_LEVELS),
            tuple(OPTIMIZATION_LEVELS),
        ),
        (
            "hardware_compatibility",
            options.hardware_compatibility in HARDWARE_COMPATIBILITY,
            HARDWARE_COMPATIBILITY,
        ),
        (
            "workspace_bytes",
            options.workspace_bytes is None or _is_count(options.workspace_bytes, 1),
            ("bytes, at least 1",),
        ),
        (
            "max_aux_streams",
            options.max_aux_streams is None or _is_count(options.max_aux_streams, 0),
            ("0 and up",),
        ),
        (
            "exclude_lean_runtime",
            options.version_compatible or not options.exclude_lean_runtime,
            ("true only with version_compatible: true",),
        ),
        *(
            (f.name, isinstance(getattr(options, f.name), bool), ("true", "false"))
            for f in fields(CompileOptions)
            if isinstance(f.default, bool)
        ),
    )
    for name, good, valid in rows:
        if not good:
            raise SpecError(
                f"{name} has a value that TensorRT does not take",
                code="wrong_value",
                where=where,
                seen=repr(getattr(options, name)),
                valid=valid,
            )


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, slots=True)
class CompileRequest(JsonForm):
    """One ONNX graph to compile.

    model:    its name, for messages.
    onnx:     absolute path; external data lies beside it.
    opset:    of the default operator set, as the artifact's record says.
    timing_cache_directory: kept between builds, one file a TensorRT version and GPU; None keeps none.
    compute_capability: `8.9`. TensorRT: of the GPU to build on, None for any. TensorRT-RTX: to compile for, None for
        every GPU it can.
    """

    model: str
    engine: EngineKind
    onnx: str
    profiles: tuple[ProfileForm, ...] = ()
    options: CompileOptions = field(default_factory=CompileOptions)
    opset: int | None = None
    timing_cache_directory: str | None = None
    compute_capability: str | None = None

    def identity(self) -> dict[str, object]:
        """What decides about the engine beside the ONNX file's content and the compiler: part of its action's key.

        Paths, the name and the timing cache are not in it; engine bytes differ from build to build and never are.
        """
        parts = self.as_dict()
        return {key: parts[key] for key in ("engine", "profiles", "options", "compute_capability")}


@dataclass(frozen=True, slots=True)
class SerialisedEngine:
    """A serialised engine and what the network said of itself: rows as in the sidecar's `tensors`."""

    engine_bytes: int
    tensors: tuple[dict[str, Any], ...]
    parse_seconds: float
    build_seconds: float
    timing_cache: str


@dataclass(frozen=True, slots=True)
class CompileResult(JsonForm):
    """What run_compile left in its output directory.

    engine_path:  below out_dir: `model.plan` (TensorRT) or `model.rtx` (TensorRT-RTX, a proof, no Triton plan).
    sidecar_path: `model.plan.json` or `model.rtx.json`, the sidecar's content as in builder.actions.compile.sidecar.
    version:      of the compiler. compute_capability: of the GPU it was built for, None for RTX's default.
    timing_cache: "none" | "new" | "reused" | "refused" (another version's or GPU's, or damaged; made anew).
    notes:        what the compiler could not be asked for, one sentence each.
    """

    engine: EngineKind
    engine_path: str
    sidecar_path: str
    engine_bytes: int
    version: str
    compute_capability: str | None
    parse_seconds: float
    build_seconds: float
    timing_cache: str
    notes: tuple[str, ...] = ()
