"""CompileRequest → proof that TensorRT-RTX parses and lowers the graph, on any x86-64 machine, GPU or not.

What it writes is an engine of TensorRT-RTX: Triton's tensorrt backend cannot load it, so it is never named
model.plan and never laid out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.compile.compilers.failures import BuildLog
from tritonsmith.builder.actions.compile.compilers.network import build_engine, import_compiler
from tritonsmith.builder.actions.compile.compilers.timing_cache import TimingCache
from tritonsmith.builder.actions.compile.request import CompileOptions, CompileRequest, CompileResult
from tritonsmith.builder.actions.compile.sidecar import finished
from tritonsmith.builder.base.errors import ToolError

PROOF = "model.rtx"

# Names that RTX 1.7 has and without a GPU refuses or ignores: tried one by one.
_UNPROVEN: tuple[tuple[str, object], ...] = (
    ("version_compatible", False),
    ("exclude_lean_runtime", False),
    ("hardware_compatibility", "none"),
    ("refit", False),
    ("strip", False),
)


def require_rtx() -> None:
    """ToolError when TensorRT-RTX is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        raise ToolError(
            "TensorRT-RTX is not installed",
            code="tensorrt_rtx_missing",
            fix="pip install 'tritonsmith[rtx]'",
        )


def compile_tensorrt_rtx(
    request: CompileRequest, out_dir: Path, cancelled: Callable[[], bool]
) -> CompileResult:
    """Builds out_dir/model.rtx, a proof. Options that RTX cannot show without a GPU are left out and noted."""
    require_rtx()
    rtx = import_rtx()
    version = str(rtx.__version__)
    options, notes = provable(request.options)
    request = replace(request, options=options)
    cache = TimingCache(
        None if request.timing_cache_directory is None else Path(request.timing_cache_directory),
        request.engine,
        version,
        request.compute_capability,
    )
    path = out_dir / PROOF
    built = build_engine(rtx, request, path, BuildLog(), cancelled, cache)
    return finished(
        request, built, path, version=version, compute_capability=request.compute_capability, notes=notes
    )


def import_rtx() -> Any:
    """The module; ToolError when it cannot be loaded."""
    return import_compiler("tensorrt_rtx", "TensorRT-RTX", "rtx")


def provable(options: CompileOptions) -> tuple[CompileOptions, tuple[str, ...]]:
    """(the options without what RTX cannot show, one note each)."""
    dropped: dict[str, Any] = {
        name: default for name, default in _UNPROVEN if getattr(options, name) != default
    }
    notes = tuple(f"{name} is not proven: TensorRT-RTX does not take it without a GPU" for name in dropped)
    return replace(options, **dropped), notes
