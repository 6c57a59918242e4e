"""Rules about max_batch_size, the dynamic batcher and its queues."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tritonsmith.builder.lint.read.autofill import can_batch
from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule

_GUIDE = "server/docs/user_guide"


@rule(
    "BATCH001",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="write 0 for a model that does not batch",
    source="core/src/model_config_utils.cc:1481",
    bad="max_batch_size: -1",
    good="max_batch_size: 8",
)
def negative_max_batch_size(model: Model, context: Context) -> Iterator[Hit]:
    """max_batch_size is negative."""
    if model.config.max_batch_size < 0:
        yield Hit(
            f"max_batch_size is {model.config.max_batch_size}", "max_batch_size", model.config.max_batch_size
        )


@rule(
    "BATCH002",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="preferred sizes are 1 or more",
    source="core/src/model_config_utils.cc:1497",
    bad="max_batch_size: 8\ndynamic_batching { preferred_batch_size: [ 0 ] }",
    good="max_batch_size: 8\ndynamic_batching { preferred_batch_size: [ 4 ] }",
)
def preferred_not_positive(model: Model, context: Context) -> Iterator[Hit]:
    """A preferred_batch_size is 0 or less."""
    for field, size in _preferred(model):
        if size <= 0:
            yield Hit(f"a preferred batch size is {size}", field, size)


@rule(
    "BATCH003",
    "error",
    "poll",
    then="the server does not poll the model, even when max_batch_size would be filled in at load",
    fix="raise max_batch_size, or drop the size",
    source="core/src/model_config_utils.cc:1503; onnxruntime_backend issue 148",
    bad="max_batch_size: 8\ndynamic_batching { preferred_batch_size: [ 16 ] }",
    good="max_batch_size: 8\ndynamic_batching { preferred_batch_size: [ 8 ] }",
)
def preferred_above_max(model: Model, context: Context) -> Iterator[Hit]:
    """A preferred_batch_size is above max_batch_size as it is written."""
    limit = model.written.max_batch_size
    for field, size in _preferred(model):
        if size > max(limit, 0):
            yield Hit(f"preferred batch size {size} is above max_batch_size {limit}", field, size)


@rule(
    "BATCH004",
    "warning",
    "silent",
    then="the server loads the model and batches nothing",
    fix="set max_batch_size, or drop dynamic_batching",
    source=f"{_GUIDE}/model_configuration.md:93; seen live on 2.51.0",
    bad="max_batch_size: 0\ndynamic_batching { }",
    good="max_batch_size: 8\ndynamic_batching { }",
)
def batching_without_batch(model: Model, context: Context) -> Iterator[Hit]:
    """dynamic_batching stands on a model with max_batch_size 0."""
    if model.config.HasField("dynamic_batching") and model.config.max_batch_size == 0:
        yield Hit("dynamic_batching has nothing to batch: max_batch_size is 0", "dynamic_batching", 0)


@rule(
    "BATCH005",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="set default_priority_level between 1 and priority_levels",
    source="core/src/model_config_utils.cc:1516",
    bad="max_batch_size: 8\ndynamic_batching { priority_levels: 2 }",
    good="max_batch_size: 8\ndynamic_batching { priority_levels: 2 default_priority_level: 1 }",
)
def default_priority_outside(model: Model, context: Context) -> Iterator[Hit]:
    """default_priority_level is not within 1 … priority_levels; left out, it is 0."""
    batching = model.config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        given = "dynamic_batching.default_priority_level" if default else "dynamic_batching.priority_levels"
        yield Hit(f"default_priority_level is {default}, priority_levels {levels}", given, default)


@rule(
    "BATCH006",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="use a level between 1 and priority_levels",
    source="core/src/model_config_utils.cc:1525",
    bad="max_batch_size: 8\ndynamic_batching { priority_levels: 2 default_priority_level: 1\n"
    "  priority_queue_policy { key: 3 value { max_queue_size: 4 } } }",
    good="max_batch_size: 8\ndynamic_batching { priority_levels: 2 default_priority_level: 1\n"
    "  priority_queue_policy { key: 2 value { max_queue_size: 4 } } }",
)
def policy_for_no_priority(model: Model, context: Context) -> Iterator[Hit]:
    """priority_queue_policy has a key that is no priority level."""
    batching = model.config.dynamic_batching
    levels = batching.priority_levels
    for key in batching.priority_queue_policy if levels else ():
        if not 1 <= key <= levels:
            yield Hit(
                f"there is no priority level {key}, levels are 1 to {levels}",
                f'dynamic_batching.priority_queue_policy["{key}"]',
                key,
            )


@rule(
    "BATCH007",
    "warning",
    "silent",
    then="the server loads the model and never uses the policy",
    fix="set priority_levels, or use default_queue_policy",
    source="core/src/model_config_utils.cc:1508; seen live on 2.51.0",
    bad="max_batch_size: 8\n"
    "dynamic_batching { priority_queue_policy { key: 1 value { max_queue_size: 4 } } }",
    good="max_batch_size: 8\ndynamic_batching { default_queue_policy { max_queue_size: 4 } }",
)
def policy_without_priorities(model: Model, context: Context) -> Iterator[Hit]:
    """priority_queue_policy is given while priority_levels is 0."""
    batching = model.config.dynamic_batching
    if len(batching.priority_queue_policy) and not batching.priority_levels:
        yield Hit(
            "priority_queue_policy without priority_levels is never used",
            "dynamic_batching.priority_queue_policy",
            sorted(batching.priority_queue_policy),
        )


@rule(
    "BATCH008",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="drop preserve_ordering, or use one priority level",
    source="core/src/model_config_utils.cc:1536",
    bad="max_batch_size: 8\n"
    "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
    good="max_batch_size: 8\n"
    "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 }",
)
def ordering_with_priorities(model: Model, context: Context) -> Iterator[Hit]:
    """preserve_ordering stands beside more than one priority level."""
    batching = model.config.dynamic_batching
    if batching.preserve_ordering and batching.priority_levels > 1:
        yield Hit(
            f"preserve_ordering and {batching.priority_levels} priority levels exclude each other",
            "dynamic_batching.preserve_ordering",
            True,
        )


@rule(
    "BATCH009",
    "error",
    "poll",
    then="the server does not poll the model",
    fix="use timeout_action REJECT, or drop preserve_ordering",
    source="core/src/model_config_utils.cc:1547",
    bad="max_batch_size: 8\ndynamic_batching { preserve_ordering: true\n"
    "  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 100 } }",
    good="max_batch_size: 8\ndynamic_batching { preserve_ordering: true\n"
    "  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 100 } }",
)
def ordering_with_delay(model: Model, context: Context) -> Iterator[Hit]:
    """preserve_ordering stands beside a queue policy that delays requests."""
    if not model.config.dynamic_batching.preserve_ordering:
        return
    for field, policy in _policies(model):
        if policy.default_timeout_microseconds and policy.timeout_action == policy.DELAY:
            yield Hit("a policy that delays requests cannot preserve their order", field, "DELAY")


@rule(
    "BATCH010",
    "warning",
    "silent",
    then="requests never time out, and the policy has no effect",
    fix="set default_timeout_microseconds, or allow_timeout_override: true",
    source="model_config.proto, ModelQueuePolicy: default_timeout_microseconds 0 means no timeout",
    bad="max_batch_size: 8\ndynamic_batching { default_queue_policy { timeout_action: DELAY } }",
    good="max_batch_size: 8\ndynamic_batching { default_queue_policy "
    "{ timeout_action: DELAY default_timeout_microseconds: 5000 } }",
)
def policy_without_timeout(model: Model, context: Context) -> Iterator[Hit]:
    """A queue policy says what happens at a timeout, and there is none."""
    for field, policy in _policies(model):
        if policy.default_timeout_microseconds or policy.allow_timeout_override:
            continue
        if policy.timeout_action == policy.DELAY or _states_action(model, field):
            yield Hit("timeout_action without a timeout", f"{field}.timeout_action", "0 microseconds")


@rule(
    "BATCH011",
    "warning",
    "silent",
    then="requests wait for a size that brings nothing; only an engine tuned for batch sizes gains by it",
    fix="set max_queue_delay_microseconds instead; for TensorRT prefer the profiles' opt sizes",
    source=f"{_GUIDE}/batcher.md, Recommended Configuration Process; server issue 8141",
    bad="max_batch_size: 8\ndynamic_batching { preferred_batch_size: [ 4 ] }",
    good="max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 100 }",
)
def preferred_without_profile(model: Model, context: Context) -> Iterator[Hit]:
    """preferred_batch_size is set for a model without tuned batch sizes, or to a size that is not tuned."""
    sizes = list(model.written.dynamic_batching.preferred_batch_size)
    if not sizes or not model.config.backend:
        return
    if model.config.backend != "tensorrt":
        if sizes == [model.config.max_batch_size]:
            return  # as Triton has it when none is set
        yield Hit(
            f"the backend '{model.config.backend}' has no tuned batch sizes",
            "dynamic_batching.preferred_batch_size",
            sizes,
        )
        return
    for engine in model.engines.values():
        tuned = {
            shapes["opt"][0]
            for profile in engine.profiles
            for shapes in profile.values()
            if shapes.get("opt")
        }
        for field, size in _preferred(model):
            if tuned and size not in tuned:
                yield Hit(
                    f"no optimization profile is tuned for batch size {size}, but {sorted(tuned)}",
                    field,
                    size,
                )


@rule(
    "BATCH012",
    "warning",
    "silent",
    then="requests are rejected while they wait for their batch",
    fix="make max_queue_delay_microseconds smaller than the timeout",
    source="model_config.proto, ModelDynamicBatching and ModelQueuePolicy",
    bad="max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 5000\n"
    "  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1000 } }",
    good="max_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 500\n"
    "  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 1000 } }",
)
def delay_above_timeout(model: Model, context: Context) -> Iterator[Hit]:
    """max_queue_delay_microseconds is longer than the timeout of a policy that rejects."""
    delay = model.config.dynamic_batching.max_queue_delay_microseconds
    for field, policy in _policies(model):
        timeout = policy.default_timeout_microseconds
        if policy.timeout_action == policy.REJECT and timeout and delay > timeout:
            yield Hit(
                f"requests wait up to {delay} us for a batch and are rejected after {timeout} us",
                f"{field}.default_timeout_microseconds",
                timeout,
            )


@rule(
    "BATCH013",
    "error",
    "load",
    then="the backend refuses it: its first dimension must be dynamic when max_batch_size is above 0",
    fix="write max_batch_size: 0, or export the model with a dynamic first dimension",
    source="onnxruntime_backend/src/onnxruntime_utils.cc:500; tensorrt_backend/src/model_state.cc:668",
    bad='backend: "onnxruntime"\nmax_batch_size: 8  # the graph\'s input is x[1, 4]',
    good='backend: "onnxruntime"\nmax_batch_size: 8  # the graph\'s input is x[batch, 4]',
    needs="onnx",
)
def fixed_first_dimension(model: Model, context: Context) -> Iterator[Hit]:
    """max_batch_size is above 0, and a tensor of the model file has a fixed first dimension."""
    size = model.config.max_batch_size
    if size <= 0:
        return
    for number, surface in model.onnx_models:
        for tensor in (*surface.inputs, *surface.outputs) if not can_batch(surface) else ():
            shape = tensor.wire_shape
            # A scalar is refused only where the backend completes the config (AutoCompleteMaxBatch).
            if shape is not None and (shape[0] != -1 if shape else _is_completed(model)):
                yield Hit(
                    f"'{tensor.name}' of version {number} has shape {list(tensor.shape or ())}, "
                    f"whose first dimension is not dynamic, and max_batch_size is {size}",
                    "max_batch_size",
                    size,
                )
    for number, engine in model.engines.items():
        for name, info in engine.tensors.items():
            shape = tuple(info.get("shape", ()))
            if info.get("mode") == "input" and shape and shape[0] != -1 and not info.get("is_shape_tensor"):
                yield Hit(f"'{name}' of engine {number} has shape {list(shape)}", "max_batch_size", size)


@rule(
    "BATCH014",
    "error",
    "load",
    then="the TensorRT backend refuses the model",
    fix="lower max_batch_size, or build the engine with a larger optimization profile",
    source="tensorrt_backend/src/model_state.cc:690",
    bad='backend: "tensorrt"\nmax_batch_size: 64  # the engine\'s largest profile ends at batch 32',
    good='backend: "tensorrt"\nmax_batch_size: 32',
    needs="engine",
)
def max_above_profile(model: Model, context: Context) -> Iterator[Hit]:
    """max_batch_size is above the largest batch of the engine's optimization profiles that instance groups run."""
    size = model.config.max_batch_size
    # Without any named, profile 0 (GetProfileIndices, GetMaxSupportedBatchSize).
    named = {name for group in model.config.instance_group for name in group.profile} or {"0"}
    for engine in model.engines.values():
        tops = [
            min(shapes["max"][0] for shapes in profile.values())
            for index, profile in enumerate(engine.profiles)
            if str(index) in named and profile
        ]
        if tops and size > max(tops):
            yield Hit(f"max_batch_size is {size}, the engine takes up to {max(tops)}", "max_batch_size", size)


def _preferred(model: Model) -> Iterator[tuple[str, int]]:
    for index, size in enumerate(model.written.dynamic_batching.preferred_batch_size):
        yield f"dynamic_batching.preferred_batch_size[{index}]", size


def _policies(model: Model) -> Iterator[tuple[str, Any]]:
    """(field path, ModelQueuePolicy) of every queue policy that is given."""
    batching = model.config.dynamic_batching
    if batching.HasField("default_queue_policy"):
        yield "dynamic_batching.default_queue_policy", batching.default_queue_policy
    for key in batching.priority_queue_policy:
        yield f'dynamic_batching.priority_queue_policy["{key}"]', batching.priority_queue_policy[key]


def _states_action(model: Model, field: str) -> bool:
    """Whether the text itself gives a timeout_action; REJECT is the default, so the message cannot tell."""
    return model.parsed is not None and f"{field}.timeout_action" in model.parsed.lines


def _is_completed(model: Model) -> bool:
    """Whether the backend had inputs or outputs to fill in."""
    return not (len(model.written.input) + len(model.written.batch_input) and len(model.written.output))
