"""Rules that hold a TensorRT engine's sidecar against the config and the target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.machine.releases import (
    is_same_tensorrt,
    takes_hardware,
    takes_version_compatible,
)
from tritonsmith.builder.lint.read.engine import Engine
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule

_TRT = "tensorrt_backend/src"


@rule(
    "TRT001",
    "error",
    "load",
    then="TensorRT cannot deserialise the engine and the model does not load",
    fix="build it with the target's TensorRT, or version-compatible and "
    "--backend-config=tensorrt,version-compatible=true",
    source="tensorrt_backend README, version-compatible, and src/loader.cc; TensorRT documentation, Version "
    "Compatibility; NvInferRuntime.h, setEngineHostCodeAllowed; server issues 317, 7613 and 2293",
    bad="# built by TensorRT 10.4, served by 10.16",
    good="# built and served by TensorRT 10.16",
    needs="engine",
)
def other_tensorrt(model: Model, context: Context) -> Iterator[Hit]:
    """An engine was built by another TensorRT than the target has, or brings a runtime that the server does not run."""
    runtime = context.target.tensorrt
    trusted = _backend_option(context, "version-compatible") in ("true", "1")
    for version, engine in _engines(model):
        # It holds a copy of TensorRT's lean runtime, whatever TensorRT loads it.
        if engine.version_compatible and not trusted and context.target.server_args is not None:
            yield Hit(
                "version-compatible, and the server is not started with version-compatible=true",
                seen=engine.tensorrt,
                file=version,
            )
            continue
        if runtime is None or engine.tensorrt is None or is_same_tensorrt(engine.tensorrt, runtime):
            continue
        if not (engine.version_compatible and trusted and takes_version_compatible(engine.tensorrt, runtime)):
            yield Hit(
                f"built by TensorRT {engine.tensorrt}, served by {runtime}",
                seen=engine.tensorrt,
                file=version,
            )


@rule(
    "TRT002",
    "error",
    "load",
    then="TensorRT cannot deserialise the engine and the model does not load",
    fix="build it on the target's GPU, or with a hardware compatibility level",
    source="TensorRT documentation, Hardware Compatibility",
    bad="# built for compute capability 8.6, served on 9.0",
    good="# built for compute capability 9.0, served on 9.0",
    needs="engine",
)
def other_gpu(model: Model, context: Context) -> Iterator[Hit]:
    """An engine was built on another GPU compute capability than the one that loads it."""
    for plan in model.plans:
        built, wanted = plan.engine.compute_capability, plan.serves or context.target.compute_capability
        level = (plan.engine.hardware_compatibility or "none").lower()
        if wanted is not None and built is not None and not takes_hardware(built, wanted, level):
            yield Hit(f"built for compute capability {built}, served on {wanted}", seen=built, file=plan.file)


@rule(
    "TRT003",
    "error",
    "load",
    then="the build fails, or a request fails for want of an optimization profile",
    fix="build the engine with a profile that covers max_batch_size and the dims",
    source=f"{_TRT}/instance_state.cc:1861",
    bad="max_batch_size: 8  # the engine has dynamic inputs and no optimization profile",
    good="max_batch_size: 8  # a profile spans x from [1, 4] to [8, 4]",
    needs="engine",
)
def no_profile(model: Model, context: Context) -> Iterator[Hit]:
    """A dynamic input of an engine has no optimization profile, or none that starts at one request."""
    for version, engine in _engines(model):
        for name, info in engine.tensors.items():
            shape = info.get("shape", ())
            if info.get("mode") != "input" or -1 not in shape or info.get("is_shape_tensor"):
                continue
            ranges = [profile[name] for profile in engine.profiles if name in profile]
            if not ranges:
                yield Hit(f"no optimization profile for '{name}'", seen=list(shape), file=version)
            elif model.config.max_batch_size > 0 and min(r["min"][0] for r in ranges) > 1:
                smallest = min(r["min"][0] for r in ranges)
                yield Hit(
                    f"no profile of '{name}' takes a batch of 1",
                    seen=smallest,
                    file=version,
                    severity="warning",
                )


@rule(
    "TRT004",
    "warning",
    "silent",
    then="the server accepts the config, and refuses requests of any other size",
    fix="write the fixed size",
    source=f"{_TRT}/tensorrt_utils.cc:329",
    bad='input { name: "x" dims: [ -1 ] … }  # every profile has min = max = 4 there',
    good='input { name: "x" dims: [ 4 ] … }',
    needs="engine",
)
def dim_not_dynamic(model: Model, context: Context) -> Iterator[Hit]:
    """A dim is -1 in the config, and every optimization profile has it fixed."""
    skip = 1 if model.config.max_batch_size > 0 else 0
    for _, engine in _engines(model):
        for index, tensor in enumerate(model.config.input):
            ranges = [profile[tensor.name] for profile in engine.profiles if tensor.name in profile]
            for place, dim in enumerate(tensor.dims):
                sizes = {size for r in ranges for size in _sizes(r, place + skip)}
                if dim == -1 and len(sizes) == 1:
                    yield Hit(
                        f"'{tensor.name}' is always {sizes.copy().pop()} in dim {place}",
                        f"input[{index}].dims[{place}]",
                        list(tensor.dims),
                    )


@rule(
    "TRT005",
    "error",
    "load",
    then="TensorRT cannot deserialise the engine and the model does not load",
    fix='start the server with --backend-config=tensorrt,plugins="PATH;PATH"',
    source="tensorrt_backend README, plugins",
    bad="# the engine needs libscatter.so, server started without plugins",
    good="# server started with --backend-config=tensorrt,plugins=libscatter.so",
    needs="engine",
)
def plugins_missing(model: Model, context: Context) -> Iterator[Hit]:
    """An engine needs plugins that the server is not started with."""
    if context.target.server_args is None:
        return
    given = {path.rsplit("/", 1)[-1] for path in _backend_option(context, "plugins").split(";") if path}
    for version, engine in _engines(model):
        missing = [name for name in engine.plugins if name.rsplit("/", 1)[-1] not in given]
        if missing:
            yield Hit(
                f"the engine needs {', '.join(missing)}",
                seen=", ".join(sorted(given)) or "none",
                file=version,
            )


def _engines(model: Model) -> Iterator[tuple[Path, Engine]]:
    """(the engine file, its sidecar) of each served version and kind of GPU."""
    return ((plan.file, plan.engine) for plan in model.plans)


def _backend_option(context: Context, name: str) -> str:
    """`--backend-config=tensorrt,NAME=VALUE` → VALUE, or nothing."""
    for value in context.target.flag("backend-config"):
        backend, _, option = value.partition(",")
        key, _, setting = option.partition("=")
        if backend == "tensorrt" and key == name:
            return setting.strip('"')
    return ""


def _sizes(shapes: Any, place: int) -> list[int]:
    return [shapes[key][place] for key in ("min", "max") if place < len(shapes.get(key, ()))]
