"""Rules about the response cache and decoupled models."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule

_CORE = "core/src/model_config_utils.cc"
_GUIDE = "server/docs/user_guide"
_CACHE = "response_cache { enable: true }"
# Backends that leave their outputs in GPU memory when they run there.
_GPU_OUTPUTS = frozenset({"tensorrt", "onnxruntime", "pytorch"})


@rule(
    "CACHE001",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop response_cache",
    source=f"{_CORE}:1687",
    bad=f"{_CACHE}\nmodel_transaction_policy {{ decoupled: true }}",
    good=_CACHE,
)
def cache_and_decoupled(model: Model, context: Context) -> Iterator[Hit]:
    """A decoupled model has a response cache."""
    if model.config.response_cache.enable and model.config.model_transaction_policy.decoupled:
        yield Hit("a decoupled model cannot be cached", "response_cache.enable", True)


@rule(
    "CACHE002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop response_cache",
    source=f"{_CORE}:1576",
    bad=f"{_CACHE}\nsequence_batching {{ }}",
    good=f"{_CACHE}\ndynamic_batching {{ }}",
)
def cache_and_sequences(model: Model, context: Context) -> Iterator[Hit]:
    """A sequence model has a response cache."""
    if model.config.response_cache.enable and model.config.HasField("sequence_batching"):
        yield Hit("a sequence model cannot be cached", "response_cache.enable", True)


@rule(
    "CACHE003",
    "warning",
    "silent",
    then="the server loads the model and caches nothing",
    fix="start the server with --cache-config=local,size=BYTES",
    source=f"{_GUIDE}/model_configuration.md:732; seen live on 2.51.0",
    bad=f"{_CACHE}  # server started without --cache-config",
    good=f"{_CACHE}  # server started with --cache-config=local,size=1048576",
    needs="server",
)
def cache_not_configured(model: Model, context: Context) -> Iterator[Hit]:
    """A model has a response cache, and the server is started without one."""
    target = context.target
    if target.server_args is None or not model.config.response_cache.enable:
        return
    if not target.flag("cache-config") and not target.flag("response-cache-byte-size"):
        yield Hit("the server is started without --cache-config", "response_cache.enable", True)


@rule(
    "CACHE004",
    "warning",
    "silent",
    then="responses in GPU memory are not cached",
    fix="drop response_cache, or serve the model on a CPU",
    source=f"{_GUIDE}/response_cache.md:250-256",
    bad=f'backend: "onnxruntime"\ninstance_group {{ kind: KIND_GPU }}\n{_CACHE}',
    good=f'backend: "onnxruntime"\ninstance_group {{ kind: KIND_CPU }}\n{_CACHE}',
)
def cache_of_gpu_outputs(model: Model, context: Context) -> Iterator[Hit]:
    """A model with a response cache leaves its outputs in GPU memory."""
    if not model.config.response_cache.enable or model.config.backend not in _GPU_OUTPUTS:
        return
    groups = model.config.instance_group
    if model.config.backend == "tensorrt" or any(group.kind == group.KIND_GPU for group in groups):
        yield Hit(
            f"outputs of '{model.config.backend}' lie in GPU memory",
            "response_cache.enable",
            model.config.backend,
        )


# What the cache knows a request by: model, version, names of the inputs and their bytes.
_HASH = "core/src/cache_manager.cc, TritonCache::Hash; seen live on 2.51.0"
_X = 'input {{ name: "x" data_type: TYPE_FP32 dims: [ {} ] }}'
_Y = 'output {{ name: "{}" data_type: TYPE_FP32 dims: [ 4 ] }}'


@rule(
    "CACHE005",
    "warning",
    "silent",
    then="a request is answered with the outputs that the first one with the same inputs asked for, whatever it asks for",
    fix="have all clients name the same outputs, or drop response_cache",
    source=_HASH,
    bad=f"{_CACHE}\n{_Y.format('y')}\n{_Y.format('z')}",
    good=f"{_CACHE}\n{_Y.format('y')}",
)
def cache_of_several_outputs(model: Model, context: Context) -> Iterator[Hit]:
    """A model with a response cache has several outputs."""
    outputs = [output.name for output in model.config.output]
    if model.config.response_cache.enable and len(outputs) > 1:
        yield Hit(
            f"the cache does not tell apart which of {len(outputs)} outputs a request asks for",
            "response_cache.enable",
            ", ".join(outputs),
        )


@rule(
    "CACHE006",
    "warning",
    "silent",
    then="a request is answered with the response to the same bytes in another shape: 3×2 with that to 2×3",
    fix="leave one dim variable, the batch's among them (max_batch_size: 1 is none), or drop response_cache",
    source=_HASH,
    bad=f"{_CACHE}\n{_X.format('-1')}  # and max_batch_size: 8",
    good=f"{_CACHE}\n{_X.format('4')}  # and max_batch_size: 8",
)
def cache_of_several_shapes(model: Model, context: Context) -> Iterator[Hit]:
    """A model with a response cache takes the same number of elements in several shapes."""
    if not model.config.response_cache.enable:
        return
    for place, tensor in enumerate(model.config.input):
        dims = ([-1] if model.config.max_batch_size > 1 else []) + list(tensor.dims)
        if dims.count(-1) > 1:
            yield Hit(
                f"the cache does not tell apart shapes of '{tensor.name}' that have the same elements",
                f"input[{place}].dims",
                dims,
            )


@rule(
    "DEC001",
    "warning",
    "silent",
    then="plain HTTP infer is refused; a decoupled model answers on a gRPC stream or on /generate_stream",
    fix="leave gRPC on, or drop decoupled",
    source=f"{_GUIDE}/decoupled_models.md; seen live on 2.51.0 (HTTP 501)",
    bad="model_transaction_policy { decoupled: true }  # server started with --allow-grpc=false",
    good="model_transaction_policy { decoupled: true }  # server started with gRPC",
    needs="server",
)
def decoupled_without_grpc(model: Model, context: Context) -> Iterator[Hit]:
    """A model is decoupled, and the server is started without gRPC."""
    allowed = context.target.flag("allow-grpc")
    if model.config.model_transaction_policy.decoupled and allowed and allowed[-1].lower() in ("false", "0"):
        yield Hit("a decoupled model on a server without gRPC", "model_transaction_policy.decoupled", True)
