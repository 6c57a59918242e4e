"""Rules about config.pbtxt of the vLLM backend."""

from __future__ import annotations

from collections.abc import Iterator

from tritonsmith.builder.lint.read.model import Model
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.common import tensors, type_name
from tritonsmith.builder.lint.rules.files.engine_files import parameter, parameter_field
from tritonsmith.builder.lint.rules.files.vllm import ARGUMENTS, BACKEND, engines, is_on
from tritonsmith.builder.llm.contract import FIRST_TRUE, FLAGS, TENSORS

_SOURCE = "vllm_backend/src/model.py"
_METRICS = FLAGS[0]
_TYPES = {tensor.name: tensor.data_type for side in TENSORS[BACKEND].values() for tensor in side}
# The backend knows it, and a repository need not say it.
_TYPES["embedding_request"] = "TYPE_STRING"


@rule(
    "VLLM017",
    "error",
    "load",
    then="the model does not load: the backend sends answers when the engine has them, and sets decoupled itself",
    fix="write model_transaction_policy { decoupled: true }",
    source=f"{_SOURCE}, auto_complete_config and _init_engine_args; triton_python_backend_utils.py, "
    "set_model_transaction_policy",
    bad="model_transaction_policy { decoupled: false }",
    good="model_transaction_policy { decoupled: true }",
)
def not_decoupled(model: Model, context: Context) -> Iterator[Hit]:
    """A model of the vLLM backend is not decoupled, or leaves that to a server that completes no config."""
    config = model.config
    if config.backend != BACKEND or config.model_transaction_policy.decoupled:
        return
    if config.HasField("model_transaction_policy"):
        yield Hit("the vLLM backend is decoupled", "model_transaction_policy", "decoupled: false")
    elif not context.auto_complete:
        yield Hit(
            "the vLLM backend is decoupled, and the server completes no config", "model_transaction_policy"
        )


@rule(
    "VLLM018",
    "error",
    "load",
    then="the model does not load: the backend sets 0, and a config may only be completed upwards",
    fix="write max_batch_size: 0; max_num_seqs in model.json says how many requests share a step",
    source=f"{_SOURCE}, auto_complete_config; triton_python_backend_utils.py, set_max_batch_size",
    bad="max_batch_size: 8",
    good="max_batch_size: 0",
)
def batching_in_triton(model: Model, context: Context) -> Iterator[Hit]:
    """A model of the vLLM backend has max_batch_size above 0."""
    size = model.config.max_batch_size
    if model.config.backend == BACKEND and size > 0:
        yield Hit("vLLM batches itself, Triton does not", "max_batch_size", size)


@rule(
    "VLLM019",
    "error",
    "silent",
    then="the model loads, and its requests fail or are read as something else",
    fix="give it the backend's type, or leave it out: the backend adds what is missing",
    source=f"{_SOURCE}, _auto_complete_inputs_and_outputs and initialize",
    bad='input { name: "stream" data_type: TYPE_STRING dims: [ 1 ] }',
    good='input { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }',
)
def another_type(model: Model, context: Context) -> Iterator[Hit]:
    """A tensor that the vLLM backend reads or writes is declared with another type."""
    if model.config.backend != BACKEND:
        return
    for field, tensor in tensors(model):
        wanted, seen = _TYPES.get(tensor.name), type_name(tensor.data_type)
        if wanted not in (None, seen):
            yield Hit(f"'{tensor.name}' is {wanted} to the backend", f"{field}.data_type", seen)
    outputs = {output.name for output in model.config.output}
    if not context.auto_complete and "text_output" not in outputs:
        yield Hit("text_output is not declared, and the server completes no config")


def _flag(name: str, word: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{word}" }} }}'


@rule(
    "VLLM020",
    "warning",
    "silent",
    then="it counts as off",
    fix='write "true"',
    source=f'{_SOURCE}, _get_bool_config_param; vllm_backend pull requests 73 and 76: before 24.12 it was "yes"',
    bad=_flag(_METRICS, "yes"),
    good=_flag(_METRICS, "true"),
)
def unread_flag(model: Model, context: Context) -> Iterator[Hit]:
    """REPORT_CUSTOM_METRICS or ENABLE_VLLM_HEALTH_CHECK has a word that the release's backend does not take for on."""
    release = context.target.release
    wanted = "yes" if release is not None and release < FIRST_TRUE else "true"
    for name in FLAGS if model.config.backend == BACKEND else ():
        word = (parameter(model, name) or "").strip()
        if word.lower() not in ("", "false", "no", "off", "0", wanted):
            where = f" of Triton {release}" if release is not None else ""
            yield Hit(
                f"the backend{where} takes '{wanted}' alone for on",
                parameter_field(name),
                word,
                fix=f'write "{wanted}"',
            )


@rule(
    "VLLM021",
    "warning",
    "silent",
    then="Triton's metrics have none of the engine's",
    fix="drop disable_log_stats, or REPORT_CUSTOM_METRICS",
    source=f"{_SOURCE}, initialize and _setup_metrics; vllm_backend/ci/L0_backend_vllm/metrics_test/test.sh",
    bad=f'{_flag(_METRICS, "true")}\n# 1/model.json\n{{"model": "facebook/opt-125m", "disable_log_stats": true}}',
    good=f'{_flag(_METRICS, "true")}\n# 1/model.json\n{{"model": "facebook/opt-125m"}}',
    needs="files",
)
def metrics_without_statistics(model: Model, context: Context) -> Iterator[Hit]:
    """The engine's metrics are asked for, and its statistics or the server's metrics are off."""
    if (parameter(model, _METRICS) or "").lower() not in ("true", "yes"):
        return
    refused = context.target.flag("allow-metrics")
    for _, file in engines(model):
        if is_on(file.values.get("disable_log_stats")):
            yield file.hit(
                f"{_METRICS} is on, and {ARGUMENTS} has disable_log_stats", "disable_log_stats", True
            )
        elif refused and refused[-1].lower() in ("false", "0"):
            yield Hit(
                f"{_METRICS} is on, and the server is started without metrics", parameter_field(_METRICS)
            )
