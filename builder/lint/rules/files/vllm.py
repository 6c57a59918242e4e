"""Rules about model.json, LoRA adapters and weights of the vLLM backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tritonsmith.builder.lint.read.files import is_file
from tritonsmith.builder.lint.read.model import Model, Version
from tritonsmith.builder.lint.rule import Context, Hit, rule
from tritonsmith.builder.lint.rules.files.engine_files import (
    EngineFile,
    fault_of_weights,
    is_relative_here,
    lacks_tokenizer,
    named,
    place_of,
    read_engine_file,
    unknown_arguments,
    whole_number,
    wrong_values,
)
from tritonsmith.builder.llm.arguments import arguments, arguments_versions

BACKEND: Final = "vllm"
ARGUMENTS, LORA = "model.json", "multi_lora.json"
_SOURCE = "vllm_backend/src/model.py"
_OPT = '"model": "facebook/opt-125m"'


def engines(model: Model) -> Iterator[tuple[Version, EngineFile]]:
    """Each served version of a model of the vLLM backend that has a model.json, and what it says."""
    if model.config.backend == BACKEND and not model.loose:
        for version in model.selected:
            if ARGUMENTS in version.entries:
                yield version, read_engine_file(version.path / ARGUMENTS)


def is_on(value: object) -> bool:
    """As the backend reads `enable_lora`: true, "true", "True"."""
    return str(value).lower() == "true"


@rule(
    "VLLM001",
    "error",
    "load",
    then="the model does not load: the backend asserts that the file is there",
    fix='put the arguments of the engine into it: {"model": "…"}',
    source=f"{_SOURCE}, _init_engine_args",
    bad="# 1/weights.txt\n",
    good=f"# 1/model.json\n{{{_OPT}}}",
    needs="files",
)
def no_arguments(model: Model, context: Context) -> Iterator[Hit]:
    """A served version of a model of the vLLM backend has no model.json."""
    if model.config.backend == BACKEND:
        for version in model.selected:
            if not is_file(version.path / ARGUMENTS):
                yield Hit(f"version {version.number} has no {ARGUMENTS}", file=version.path)


@rule(
    "VLLM002",
    "error",
    "load",
    then="the model does not load",
    fix="write a JSON object of engine arguments",
    source=f"{_SOURCE}, _init_engine_args",
    bad=f"# 1/model.json\n{{{_OPT},}}",
    good=f"# 1/model.json\n{{{_OPT}}}",
    needs="files",
)
def unreadable_arguments(model: Model, context: Context) -> Iterator[Hit]:
    """model.json of the vLLM backend is no JSON object."""
    for _, file in engines(model):
        if file.problem is not None:
            yield Hit(f"{ARGUMENTS} cannot be read: {file.problem}", file=file.path)


@rule(
    "VLLM003",
    "warning",
    "silent",
    then="vLLM serves its own default, a small model fetched from the hub",
    fix="name the weights: a directory, a GGUF file or a name on the hub",
    source=f"{_SOURCE}, AsyncEngineArgs(**…); vllm/engine/arg_utils.py, EngineArgs.model",
    bad='# 1/model.json\n{"max_num_seqs": 8}',
    good=f'# 1/model.json\n{{{_OPT}, "max_num_seqs": 8}}',
    needs="files",
)
def no_weights_named(model: Model, context: Context) -> Iterator[Hit]:
    """model.json of the vLLM backend names no model."""
    for _, file in engines(model):
        if file.problem is None and not file.values.get("model"):
            default = arguments(BACKEND, context.target.release)["model"].default
            yield Hit(f"{ARGUMENTS} names no model; vLLM takes {default}", file=file.path)


@rule(
    "VLLM004",
    "error",
    "load",
    then="the model does not load: AsyncEngineArgs got an unexpected keyword argument",
    fix="leave it out",
    source=f"{_SOURCE}, AsyncEngineArgs(**…); vllm/engine/arg_utils.py of each version (builder/llm/tables/vllm.csv)",
    bad=f'# 1/model.json\n{{{_OPT}, "max_model_length": 2048}}',
    good=f'# 1/model.json\n{{{_OPT}, "max_model_len": 2048}}',
    needs="files",
)
def unknown_argument(model: Model, context: Context) -> Iterator[Hit]:
    """model.json has an argument that the target's vLLM does not have, or that no vLLM has where the target is not told."""
    for _, file in engines(model):
        yield from unknown_arguments(BACKEND, file, context)


@rule(
    "VLLM005",
    "error",
    "load",
    then="the engine does not start; a number or truth value written as text may pass, or count as true",
    fix="give it a value of its type",
    source="vllm/engine/arg_utils.py, vllm/config (builder/llm/tables/vllm.csv)",
    bad=f'# 1/model.json\n{{{_OPT}, "dtype": "fp16"}}',
    good=f'# 1/model.json\n{{{_OPT}, "dtype": "float16"}}',
    needs="files",
)
def wrong_value(model: Model, context: Context) -> Iterator[Hit]:
    """model.json gives an engine argument a value of another type, none of its choices, or beyond its bounds."""
    for _, file in engines(model):
        for hit in wrong_values(BACKEND, file, context):
            # The backend's own tests write enable_lora as text.
            if not (hit.message.startswith("'enable_lora'") and hit.severity == "warning"):
                yield hit


@rule(
    "VLLM006",
    "error",
    "load",
    then="the engine does not start: vLLM compares these numbers",
    fix="raise max_num_batched_tokens",
    source="vllm/config/scheduler.py, SchedulerConfig.verify_max_model_len",
    bad=f'# 1/model.json\n{{{_OPT}, "max_num_batched_tokens": 64, "max_num_seqs": 128}}',
    good=f'# 1/model.json\n{{{_OPT}, "max_num_batched_tokens": 2048, "max_num_seqs": 128}}',
    needs="files",
)
def too_few_tokens(model: Model, context: Context) -> Iterator[Hit]:
    """max_num_batched_tokens is below max_num_seqs, or below max_model_len while chunked prefill is off."""
    for _, file in engines(model):
        tokens = whole_number(file.values.get("max_num_batched_tokens"), 0)
        for key in ("max_num_seqs", "max_model_len"):
            least = whole_number(file.values.get(key), 0)
            counts = key == "max_num_seqs" or file.values.get("enable_chunked_prefill") is False
            if 0 < tokens < least and counts:
                yield file.hit(
                    f"max_num_batched_tokens is {tokens}, and {key} {least}",
                    "max_num_batched_tokens",
                    tokens,
                    f"at least {least}",
                )


@rule(
    "VLLM007",
    "error",
    "load",
    then="the model does not load: vLLM finds no weights there",
    fix="put the weights there, or name where they are",
    source=f"{_SOURCE}: the path goes to vLLM as it is",
    bad='# 1/model.json\n{"model": "/models/m/1/weights"}',
    good='# 1/model.json\n{"model": "/models/m/1/weights"}\n# 1/weights/model.safetensors\n'
    "# 1/weights/config.json\n{}\n# 1/weights/tokenizer.json\n{}",
    needs="files",
)
def no_weights(model: Model, context: Context) -> Iterator[Hit]:
    """`model` or `tokenizer` in model.json is a path into this version, and nothing that an engine loads is there."""
    for version, file in engines(model):
        for key in ("model", "tokenizer"):
            value = file.values.get(key)
            path = place_of(model, version, value) if isinstance(value, str) else None
            if path is None:
                continue
            fault = fault_of_weights(path)
            if fault is not None and (key == "model" or fault == "is not there"):
                yield file.hit(f"{value} {fault}", key, value)


@rule(
    "VLLM008",
    "error",
    "load",
    then="the model does not load: transformers finds no tokenizer",
    fix='put tokenizer.json and tokenizer_config.json beside the weights, or name a "tokenizer"',
    source="vllm/engine/arg_utils.py: tokenizer is the model where it is not given",
    bad='# 1/model.json\n{"model": "/models/m/1/weights"}\n# 1/weights/model.safetensors\n'
    "# 1/weights/config.json\n{}",
    good='# 1/model.json\n{"model": "/models/m/1/weights"}\n# 1/weights/model.safetensors\n'
    "# 1/weights/config.json\n{}\n# 1/weights/tokenizer.json\n{}",
    needs="files",
)
def no_tokenizer(model: Model, context: Context) -> Iterator[Hit]:
    """The directory that has the weights has no tokenizer, and model.json names no other."""
    for version, file in engines(model):
        value = file.values.get("model")
        if (
            not isinstance(value, str)
            or file.values.get("tokenizer")
            or file.values.get("skip_tokenizer_init")
        ):
            continue
        path = place_of(model, version, value)
        if path is not None and fault_of_weights(path) is None and lacks_tokenizer(path):
            yield file.hit(f"{value} has no tokenizer", "model", value)


@rule(
    "VLLM009",
    "error",
    "load",
    then="vLLM looks for it in the directory that the server was started in, then on the hub",
    fix="write the path by which the server reads the repository: /models/NAME/1/…",
    source=f"{_SOURCE}: the path goes to vLLM as it is",
    bad='# 1/model.json\n{"model": "weights"}\n# 1/weights/model.safetensors\n',
    good='# 1/model.json\n{"model": "/models/m/1/weights"}\n# 1/weights/model.safetensors\n'
    "# 1/weights/tokenizer.json\n{}",
    needs="files",
)
def relative_weights(model: Model, context: Context) -> Iterator[Hit]:
    """model.json or multi_lora.json names by a relative path what lies beside it."""
    for version, file in engines(model):
        lora = (
            _adapters(version) if is_on(file.values.get("enable_lora")) else EngineFile(version.path / LORA)
        )
        paths = [(file, key) for key in ("model", "tokenizer")] + [(lora, key) for key in lora.values]
        for of, key in paths:
            value = of.values.get(key)
            if isinstance(value, str) and is_relative_here(version, value):
                yield of.hit(
                    f"{value} lies beside {of.path.name}, and is looked for in the server's working directory",
                    key,
                    value,
                    f"write /models/{model.name}/{version.number}/{value}, if the server has the repository at /models",
                )


def _adapters(version: Version) -> EngineFile:
    if LORA not in version.entries:
        return EngineFile(version.path / LORA)
    return read_engine_file(version.path / LORA)


_ON = f'# 1/model.json\n{{{_OPT}, "enable_lora": true}}\n'


@rule(
    "VLLM010",
    "error",
    "load",
    then="the model does not load",
    fix='write it: {"NAME": "/path/of/the/adapter"}',
    source=f"{_SOURCE}, _setup_lora",
    bad=_ON,
    good=_ON + '# 1/multi_lora.json\n{"doll": "/loras/doll"}',
    needs="files",
)
def no_adapters(model: Model, context: Context) -> Iterator[Hit]:
    """model.json enables LoRA, and multi_lora.json is missing or no object of names and paths."""
    for version, file in engines(model):
        if not is_on(file.values.get("enable_lora")):
            continue
        if LORA not in version.entries:
            yield file.hit(f"there is no {LORA} beside it", "enable_lora", file.values["enable_lora"])
            continue
        lora = _adapters(version)
        if lora.problem is not None:
            yield Hit(f"{LORA} cannot be read: {lora.problem}", file=lora.path)
        for name, value in lora.values.items():
            if not isinstance(value, str):
                yield lora.hit(f"the adapter '{name}' is no path", name, value)


@rule(
    "VLLM011",
    "error",
    "silent",
    then="the model loads; a request for that adapter fails",
    fix="put the adapter there, or name where it is",
    source="vllm_backend/src/utils/request.py: LoRARequest takes the path of multi_lora.json",
    bad=_ON + '# 1/multi_lora.json\n{"doll": "/models/m/1/lora/doll"}',
    good=_ON
    + '# 1/multi_lora.json\n{"doll": "/models/m/1/lora/doll"}\n# 1/lora/doll/adapter_config.json\n{}',
    needs="files",
)
def absent_adapter(model: Model, context: Context) -> Iterator[Hit]:
    """multi_lora.json names an adapter in this version that is not there, or has no adapter_config.json."""
    for version, file in engines(model):
        lora = _adapters(version) if is_on(file.values.get("enable_lora")) else EngineFile(file.path)
        for name, value in lora.values.items():
            path = place_of(model, version, value) if isinstance(value, str) else None
            if path is not None and not is_file(path / "adapter_config.json"):
                yield lora.hit(f"{value} has no adapter_config.json", name, value)


# The first version in the tables without the code; 0.22.1 has it. Source: vllm/model_executor/model_loader of both, and
# vllm/docs/features/quantization/gguf.md.
_FIRST_WITHOUT_GGUF = "0.24.0"
_GGUF = '# 1/model.json\n{"model": "org/name", "load_format": "gguf"}\n'


@rule(
    "VLLM022",
    "warning",
    "load",
    then="the engine does not start, unless the image has the package vllm-gguf-plugin",
    fix="install vllm-gguf-plugin in the image, or serve the weights as safetensors",
    source="vllm/docs/features/quantization/gguf.md of 0.24.0; vllm/model_executor/model_loader of 0.22.1 and 0.24.0",
    bad=_GGUF + "# target 26.07",
    good=_GGUF + "# target 26.06",
    needs="target",
)
def gguf_without_its_plugin(model: Model, context: Context) -> Iterator[Hit]:
    """model.json names a GGUF file, and the target's vLLM reads none of its own."""
    order = arguments_versions(BACKEND, None)
    of_target = arguments_versions(BACKEND, context.target.release)
    if order.index(of_target[0]) < order.index(_FIRST_WITHOUT_GGUF):
        return
    for _, file in engines(model):
        values = {
            key: str(file.values.get(key, "")).lower() for key in ("model", "load_format", "quantization")
        }
        key = next(
            (k for k, v in values.items() if v == "gguf" or (k == "model" and v.endswith(".gguf"))), None
        )
        if key is not None:
            yield file.hit(f"{named(BACKEND, context)} reads no GGUF of its own", key, file.values[key])
