"""The config that a server tells of a model → the same without what every server adds to it by itself."""

from __future__ import annotations

import re
from typing import Any

from tritonsmith.builder.lint.read.autofill import BACKENDS

# core, src/constants.h, SEQUENCE_IDLE_DEFAULT_MICROSECONDS
_SEQUENCE_IDLE_US = 1_000_000


def without_server_defaults(config: Any) -> Any:
    """A copy without the fields that say what holds anyway.

    They are what Triton's NormalizeModelConfig writes (core, src/model_config_utils.cc), and what
    AutoCompleteBackendFields derives from `backend`, both as seen in the answers of a live 2.51.0: the version
    policy, pinned memory, a preferred batch size of max_batch_size, instance groups' names, the platform and file
    name that go with a backend, and the name of the backend's own library.
    """
    result = type(config)()
    result.CopyFrom(config)
    _without_derived_names(result)
    policy = result.version_policy
    if not policy.ListFields() or (policy.HasField("latest") and policy.latest.num_versions == 1):
        result.ClearField("version_policy")
    _without_pinned_memory(result)
    batching = result.dynamic_batching if result.HasField("dynamic_batching") else None
    if batching is not None and list(batching.preferred_batch_size) == [result.max_batch_size]:
        batching.ClearField("preferred_batch_size")
    if result.sequence_batching.max_sequence_idle_microseconds == _SEQUENCE_IDLE_US:
        result.sequence_batching.ClearField("max_sequence_idle_microseconds")
    for group in result.instance_group:
        if re.fullmatch(re.escape(result.name) + r"(_\d+)?", group.name):
            group.ClearField("name")
    if not result.model_transaction_policy.decoupled:
        result.ClearField("model_transaction_policy")
    return result


def _without_derived_names(config: Any) -> None:
    backend = config.backend
    platform, filename = BACKENDS.get(backend, ("", ""))
    if platform and config.platform == platform:
        config.platform = ""
    if filename and config.default_model_filename == filename:
        config.default_model_filename = ""
    if backend and config.runtime in (f"libtriton_{backend}.so", "model.py"):
        config.runtime = ""


def _without_pinned_memory(config: Any) -> None:
    optimization = config.optimization
    for name in ("input_pinned_memory", "output_pinned_memory"):
        if optimization.HasField(name) and getattr(optimization, name).enable:
            optimization.ClearField(name)
    if not optimization.ListFields():
        config.ClearField("optimization")
