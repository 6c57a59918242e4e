"""Rules about TensorRT-LLM's LLM-API layout: model.yaml with triton_config, and the Python model that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tritonsmith.builder.base.files.untrusted import read_bounded
from tritonsmith.builder.lint.read.model import Model, Version
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.files.engine_files import (
    EngineFile,
    fault_of_weights,
    is_relative_here,
    lacks_tokenizer,
    parameter,
    parameter_field,
    place_of,
    read_engine_file,
    unknown_arguments,
    whole_number,
    wrong_values,
)

BACKEND: Final = "tensorrtllm"
ARGUMENTS, TRITON = "model.yaml", "triton_config"
_SOURCE = "TensorRT-LLM/triton_backend/all_models/llmapi/tensorrt_llm/1/model.py"
# Keys of model.yaml that are the Python model's own. Source: the same, and helpers.py beside it.
_ITS_OWN = (TRITON, "logits_post_processors")
_MAX_BYTES = 1 << 18
_YAML = "model: org/name\ntriton_config:\n  max_batch_size: 0\n  decoupled: true"


def _is_llmapi(model: Model, version: Version) -> bool:
    """By its model.yaml, or by a model.py that would read one."""
    if ARGUMENTS in version.entries:
        return True
    if "model.py" not in version.entries or not any(i.name == "text_input" for i in model.config.input):
        return False
    try:
        text = read_bounded(version.path / "model.py", _MAX_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return False
    return "tensorrt_llm" in text and ARGUMENTS in text


def _versions(model: Model) -> Iterator[Version]:
    if model.config.backend == "python" and not model.loose:
        yield from (version for version in model.selected if _is_llmapi(model, version))


def _files(model: Model) -> Iterator[tuple[Version, EngineFile]]:
    """Each served version's model.yaml that TensorRT-LLM is to read: it has triton_config."""
    for version in _versions(model):
        if ARGUMENTS in version.entries:
            file = read_engine_file(version.path / ARGUMENTS)
            if isinstance(file.values.get(TRITON), dict):
                yield version, file


@rule(
    "TRTLLM011",
    "error",
    "load",
    then="the model does not load: it is completed from this file",
    fix="write model: …, and triton_config with max_batch_size and decoupled",
    source=f"{_SOURCE}, get_model_config and auto_complete_config",
    bad="# 1/model.yaml\nmodel: org/name\n# 1/model.py\n# tensorrt_llm reads model.yaml",
    good=f"# 1/model.yaml\n{_YAML}\n# 1/model.py\n# tensorrt_llm reads model.yaml",
    needs="files",
)
def no_arguments(model: Model, context: Context) -> Iterator[Hit]:
    """The model.yaml that TensorRT-LLM's LLM-API model reads is missing, unreadable, or lacks model or triton_config."""
    for version in _versions(model):
        if ARGUMENTS not in version.entries:
            yield Hit(f"version {version.number} has no {ARGUMENTS}", file=version.path)
            continue
        file = read_engine_file(version.path / ARGUMENTS)
        config = file.values.get(TRITON)
        if file.problem is not None:
            yield Hit(f"{ARGUMENTS} cannot be read: {file.problem}", file=file.path)
        elif isinstance(config, dict):
            for key in ("max_batch_size", "decoupled"):
                if key not in config:
                    yield file.hit(f"{TRITON} has no {key}", TRITON)
            if not file.values.get("model"):
                yield Hit(f"{ARGUMENTS} names no model", file=file.path)
        elif _reads_it(version):
            yield Hit(f"{ARGUMENTS} has no {TRITON}", file=file.path)


def _reads_it(version: Version) -> bool:
    """Other models' files may have the same name."""
    try:
        text = read_bounded(version.path / "model.py", _MAX_BYTES).decode(errors="replace")
    except (OSError, ValueError):
        return False
    return "tensorrt_llm" in text and ARGUMENTS in text


@rule(
    "TRTLLM012",
    "warning",
    "load",
    then="the engine does not start where it has no such argument: its settings forbid unknown ones",
    fix="leave it out",
    source=f"{_SOURCE}, LLM(**…); TensorRT-LLM, tests/unittest/api_stability (builder/llm/tables/tensorrtllm.csv)",
    bad=f"# 1/model.yaml\ntensor_parallel: 2\n{_YAML}",
    good=f"# 1/model.yaml\ntensor_parallel_size: 2\n{_YAML}",
    needs="files",
)
def unknown_argument(model: Model, context: Context) -> Iterator[Hit]:
    """model.yaml has an argument that no known state of TensorRT-LLM has."""
    for _, file in _files(model):
        yield from unknown_arguments(BACKEND, file, context, _ITS_OWN)


@rule(
    "TRTLLM013",
    "error",
    "load",
    then="the engine does not start",
    fix="give it a value of its type",
    source=f"{_SOURCE}, LLM(**…); TensorRT-LLM, tests/unittest/api_stability (builder/llm/tables/tensorrtllm.csv)",
    bad=f"# 1/model.yaml\nmax_num_tokens: many\n{_YAML}",
    good=f"# 1/model.yaml\nmax_num_tokens: 8192\n{_YAML}",
    needs="files",
)
def wrong_value(model: Model, context: Context) -> Iterator[Hit]:
    """model.yaml gives an argument of TensorRT-LLM a value of another type, or none of its choices."""
    for _, file in _files(model):
        yield from wrong_values(BACKEND, file, context)


def _triton(file: EngineFile) -> Mapping[str, Any]:
    return {str(key): value for key, value in file.values[TRITON].items()}


@rule(
    "TRTLLM014",
    "error",
    "load",
    then="the model does not load: what config.pbtxt says may not be completed to something else",
    fix="drop them from config.pbtxt: model.yaml says them",
    source=f"{_SOURCE}, auto_complete_config; triton_python_backend_utils.py, set_max_batch_size and "
    "set_model_transaction_policy",
    bad=f"max_batch_size: 8\n# 1/model.yaml\n{_YAML}",
    good=f"# 1/model.yaml\n{_YAML}",
    needs="files",
)
def said_twice(model: Model, context: Context) -> Iterator[Hit]:
    """config.pbtxt and triton_config in model.yaml disagree on max_batch_size or decoupled."""
    for _, file in _files(model):
        triton, written = _triton(file), model.written
        size = whole_number(triton.get("max_batch_size"), 0)
        if written.max_batch_size > size:
            yield Hit(
                f"max_batch_size is {written.max_batch_size} here, and {size} in {ARGUMENTS}",
                "max_batch_size",
                written.max_batch_size,
            )
        ours = written.model_transaction_policy.decoupled
        if written.HasField("model_transaction_policy") and ours != bool(triton.get("decoupled")):
            yield Hit(
                f"decoupled is {str(ours).lower()} here, and {triton.get('decoupled')} in {ARGUMENTS}",
                "model_transaction_policy",
                ours,
            )


@rule(
    "TRTLLM015",
    "error",
    "silent",
    then="a request has a batch dimension that the model does not read",
    fix="write max_batch_size: 0; TensorRT-LLM batches itself",
    source="TensorRT-LLM/triton_backend/all_models/llmapi/tensorrt_llm/1/model.yaml (batching is not supported)",
    bad=f"# 1/model.yaml\n{_YAML.replace('size: 0', 'size: 8')}",
    good=f"# 1/model.yaml\n{_YAML}",
    needs="files",
)
def batching_in_triton(model: Model, context: Context) -> Iterator[Hit]:
    """triton_config in model.yaml has max_batch_size above 0."""
    for _, file in _files(model):
        size = _triton(file).get("max_batch_size")
        text = file.text.partition(TRITON)[0]
        if whole_number(size, 0) > 0:
            line = EngineFile(file.path, text=file.text[len(text) :]).line_of("max_batch_size")
            yield Hit(
                f"{TRITON} has max_batch_size {size}",
                seen=size,
                file=file.path,
                line=line and line + text.count("\n"),
            )


@rule(
    "TRTLLM016",
    "error",
    "load",
    then="the model does not load: each instance is to be told its GPUs",
    fix='name the GPUs of each instance: parameters { key: "gpu_device_ids" value { string_value: "0;1" } }',
    source=f"{_SOURCE}, initialize",
    bad=f"instance_group {{ kind: KIND_CPU count: 2 }}\n# 1/model.yaml\n{_YAML}",
    good='instance_group { kind: KIND_CPU count: 2 }\nparameters { key: "gpu_device_ids" value { string_value: "0;1" } }\n'
    f"# 1/model.yaml\n{_YAML}",
    needs="files",
)
def instances_without_gpus(model: Model, context: Context) -> Iterator[Hit]:
    """Several instances of an LLM-API model, and gpu_device_ids does not have GPUs for each."""
    for _, _file in _files(model):
        groups = model.config.instance_group
        count = groups[0].count if len(groups) else 1
        text = parameter(model, "gpu_device_ids")
        told = len(text.split(";")) if text else 0
        if count > 1 and told < count:
            place = "instance_group[0].count" if text is None else parameter_field("gpu_device_ids")
            yield Hit(f"{count} instances, and gpu_device_ids has GPUs for {told}", place, text or count)


@rule(
    "TRTLLM017",
    "error",
    "load",
    then="the engine does not start",
    fix="lower it to the GPUs that there are, or name a target with more",
    source="TensorRT-LLM, tensorrt_llm/llmapi/llm_args.py, _ParallelConfig.world_size",
    bad=f"# 1/model.yaml\ntensor_parallel_size: 4\n{_YAML}\n# target with 2 GPUs",
    good=f"# 1/model.yaml\ntensor_parallel_size: 2\n{_YAML}\n# target with 2 GPUs",
    needs="gpus",
)
def more_gpus_than_there_are(model: Model, context: Context) -> Iterator[Hit]:
    """An LLM-API model takes more GPUs than the target has."""
    known = context.target.gpus
    keys = ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size")
    for _, file in _files(model):
        sizes = {key: whole_number(file.values.get(key)) for key in keys if key in file.values}
        needed = 1
        for size in sizes.values():
            needed *= size
        if known is not None and needed > max(known, 1):
            told = " × ".join(f"{key} {size}" for key, size in sizes.items())
            yield file.hit(
                f"the engine takes {needed} GPUs ({told}), and the target has {known}",
                next(iter(sizes)),
                needed,
            )


@rule(
    "TRTLLM018",
    "error",
    "load",
    then="the model does not load",
    fix="put the weights and their tokenizer there, and name them by the path that the server has",
    source=f"{_SOURCE}: the path goes to TensorRT-LLM as it is",
    bad="# 1/model.yaml\n" + _YAML.replace("org/name", "/models/m/1/weights"),
    good="# 1/model.yaml\n"
    + _YAML.replace("org/name", "/models/m/1/weights")
    + "\n# 1/weights/model.safetensors\n\n# 1/weights/tokenizer.json\n{}",
    needs="files",
)
def no_weights(model: Model, context: Context) -> Iterator[Hit]:
    """model.yaml names weights in this version that are not there, have no tokenizer, or are named by a relative path."""
    for version, file in _files(model):
        value = file.values.get("model")
        if not isinstance(value, str):
            continue
        path = place_of(model, version, value)
        if is_relative_here(version, value):
            yield file.hit(
                f"{value} lies beside {ARGUMENTS}, and is looked for in the server's working directory",
                "model",
                value,
                f"write /models/{model.name}/{version.number}/{value}, if the server has the repository at /models",
            )
        elif path is not None and (fault := fault_of_weights(path)):
            yield file.hit(f"{value} {fault}", "model", value)
        elif path is not None and lacks_tokenizer(path) and not file.values.get("tokenizer"):
            yield file.hit(f"{value} has no tokenizer", "model", value)
