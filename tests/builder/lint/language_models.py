"""Rules about language models → their trees, from the examples that the rules document.

An example is config.pbtxt, then files of the model's directory, each after a line `# PATH`, and the target at its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tritonsmith.builder.lint.check import LintOptions
from tritonsmith.builder.lint.rule import Rule
from tritonsmith.builder.lint.target import Target

TEXT_IN = 'input { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] }'
TEXT_OUT = 'output { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] }'
IDS_IN = 'input { name: "input_ids" data_type: TYPE_INT32 dims: [ -1 ] }'
IDS_OUT = 'output { name: "output_ids" data_type: TYPE_INT32 dims: [ -1 ] }'
DECOUPLED = "model_transaction_policy { decoupled: true }"
_FILE = re.compile(r"^# (\d+/\S+)(?:\n|\Z)", re.MULTILINE)
_RELEASE, _GPUS = (
    re.compile(r"^# target (\d\d\.\d\d)$", re.M),
    re.compile(r"^# target with (\d+) GPUs$", re.M),
)
_LLMAPI = range(11, 19)


def example_options(rule: Rule, example: str) -> LintOptions:
    """The target that an example names."""
    release, gpus = _RELEASE.search(example), _GPUS.search(example)
    return LintOptions(
        target=Target(
            release=release.group(1) if release else None,
            image="vllm-python-py3" if rule.family == "VLLM" else "trtllm-python-py3",
            gpus=int(gpus.group(1)) if gpus else None,
        )
    )


def example_files(rule: Rule, example: str, name: str = "m") -> dict[str, str | bytes]:
    """Path below the repository's parent → content."""
    text = _GPUS.sub("", _RELEASE.sub("", example))
    config, *rest = _FILE.split(text)
    files = dict(zip(rest[::2], rest[1::2], strict=True))
    if rule.id == "TRTLLM010":
        both = "tensorrt_llm is, too" in example
        return {
            **_called(both),
            **_directory("tensorrt_llm_bls", _bls(config), {"1/model.py": "import os\n"}),
        }
    if rule.id == "TRTLLM001":
        return _directory(name, f"{config}\n{IDS_IN}\n{IDS_OUT}\n", {"1/.keep": ""})
    if rule.family == "VLLM":
        config, files = _vllm(config, files)
    elif int(rule.id[-3:]) in _LLMAPI:
        config = f'backend: "python"\n{TEXT_IN}\n{TEXT_OUT}\n{config}'
        files.setdefault("1/model.py", "import os\n")
    else:
        config = f"{IDS_IN}\n{IDS_OUT}\n{config}"
        files.setdefault("1/.keep", "")
    return _directory(name, config, files)


def _vllm(config: str, files: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    base = ['backend: "vllm"']
    if "model_transaction_policy" not in config:
        base.append(DECOUPLED)
    return "\n".join([*base, config]), dict(files or {"1/model.json": '{"model": "facebook/opt-125m"}'})


def _directory(name: str, config: str, files: Mapping[str, str]) -> dict[str, str | bytes]:
    return {f"repository/{name}/{path}": text for path, text in {"config.pbtxt": config, **files}.items()}


def _bls(config: str) -> str:
    keys = ("accumulate_tokens", "tensorrt_llm_model_name")
    parameters = "\n".join(f'parameters {{ key: "{k}" value {{ string_value: "${{{k}}}" }} }}' for k in keys)
    return f'backend: "python"\n{TEXT_IN}\n{TEXT_OUT}\n{parameters}\n{config}'


def _called(decoupled: bool) -> dict[str, str | bytes]:
    values = {"gpt_model_type": "inflight_fused_batching", "gpt_model_path": "/engines/m"}
    parameters = "\n".join(
        f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}' for k, v in values.items()
    )
    policy = DECOUPLED if decoupled else ""
    config = f'backend: "tensorrtllm"\n{IDS_IN}\n{IDS_OUT}\n{parameters}\n{policy}'
    return _directory("tensorrt_llm", config, {"1/.keep": ""})
