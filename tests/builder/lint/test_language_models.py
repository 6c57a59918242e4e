"""Upstream's own repositories have no finding; each rule about language models at its edges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builder.lint.fixtures import Tree, target
from tests.builder.lint.upstream import five_models, llmapi, vllm, vllm_with_lora
from tritonsmith.builder.lint.check import Finding, LintOptions, check


def found(files: dict[str, str | bytes], root: Path, options: LintOptions | None = None) -> list[Finding]:
    tree = Tree(files, options=options or LintOptions())
    return check(tree.write(root), tree.options)


def ids(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


@pytest.mark.parametrize(
    ("files", "options"),
    [
        pytest.param(vllm(), LintOptions(), id="vllm_model"),
        pytest.param(
            vllm(), target(release="25.06", image="vllm-python-py3", gpus=1), id="vllm_model on 25.06"
        ),
        pytest.param(vllm_with_lora(), LintOptions(), id="multi_lora"),
        pytest.param(vllm_with_lora("true"), LintOptions(), id="multi_lora, enabled by a text"),
        pytest.param(
            vllm_with_lora("false"),
            target(release="25.06", image="vllm-python-py3", gpus=2),
            id="not enabled",
        ),
        pytest.param(llmapi(), LintOptions(), id="llmapi"),
        pytest.param(
            llmapi(), target(release="26.07", image="trtllm-python-py3", gpus=1), id="llmapi on 26.07"
        ),
        pytest.param(five_models(), LintOptions(), id="five models"),
        pytest.param(
            five_models(decoupled_mode="True"),
            target(release="25.06", image="trtllm-python-py3", gpus=1),
            id="five models, decoupled, on 25.06",
        ),
        pytest.param(five_models(triton_backend="python"), LintOptions(), id="five models in Python"),
    ],
)
def test_upstreams_own_repositories_have_no_finding(
    files: dict[str, str | bytes], options: LintOptions, tmp_path: Path
) -> None:
    assert [f"{f.rule} {f.path.name}:{f.line} {f.message}" for f in found(files, tmp_path, options)] == []


def of_vllm(
    root: Path, options: LintOptions | None = None, more: str = "", /, **arguments: Any
) -> list[Finding]:
    """What is found in one model of the vLLM backend with these arguments."""
    return found(vllm("chat", {"model": "facebook/opt-125m", **arguments}, more), root, options)


ON_25_06 = target(release="25.06", image="vllm-python-py3")
ON_26_08 = target(release="26.08", image="vllm-python-py3")
ON_26_10 = target(release="26.10", image="vllm-python-py3")


@pytest.mark.parametrize(
    ("options", "name", "told"),
    [
        # vLLM 0.27.1 has lost it, 0.9.0rc1 has it
        (
            ON_26_08,
            "swap_space",
            "vLLM 0.27.1+b1082979.nv26.8.62699174 of Triton 26.08 has no argument 'swap_space'",
        ),
        (ON_25_06, "swap_space", None),
        (ON_25_06, "kv_cache_memory_bytes", "of Triton 25.06 has no argument"),
        # no vLLM is known of 26.10, nor without a target: only what none has is told
        (ON_26_10, "swap_space", None),
        (ON_26_10, "swap_spaces", "vLLM, 0.5.5 to 0.33.0 has no argument 'swap_spaces'"),
        (None, "swap_space", None),
    ],
)
def test_an_argument_is_judged_by_the_vllm_of_the_release(
    options: LintOptions | None, name: str, told: str | None, tmp_path: Path
) -> None:
    findings = of_vllm(tmp_path, options, **{name: 4})
    assert ids(findings) == ([] if told is None else ["VLLM004"])
    if told is not None:
        (finding,) = findings
        assert told in finding.message and finding.line == 3 and finding.path.name == "model.json"


def test_an_argument_that_is_gone_says_who_has_it_and_a_typo_what_is_near(tmp_path: Path) -> None:
    first, second = of_vllm(tmp_path, ON_26_08, swap_space=4, max_model_length=2048)
    assert "vLLM 0.5.5 to 0.17.1 have it." in first.fix
    assert second.fix == "did you mean 'max_model_len'?"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_model_len": 2048, "gpu_memory_utilization": 1, "served_model_name": ["a", "b"]}, []),
        ({"max_model_len": None, "speculative_config": {"method": "ngram"}}, []),
        ({"max_model_len": "2048"}, ["warning"]),
        ({"max_model_len": 2048.0}, ["warning"]),
        ({"max_model_len": True}, ["error"]),
        ({"max_model_len": "long"}, ["error"]),
        ({"max_model_len": [2048]}, ["error"]),
        ({"tensor_parallel_size": None}, ["error"]),
        ({"enforce_eager": "true"}, ["warning"]),
        ({"enforce_eager": "sometimes"}, ["error"]),
        ({"enable_lora": "false"}, []),  # as the backend's own tests write it
        ({"dtype": "bfloat16"}, []),
        ({"dtype": "bf16"}, ["error"]),
        ({"max_lora_rank": 16}, []),
        ({"max_lora_rank": 17}, ["error"]),
        ({"max_num_seqs": 0}, ["error"]),
        ({"max_model_len": -1}, []),
    ],
)
def test_a_value_is_judged_by_type_and_choices(
    arguments: dict[str, Any], expected: list[str], tmp_path: Path
) -> None:
    findings = of_vllm(tmp_path, ON_26_08, **arguments)
    assert [(f.rule, f.severity) for f in findings] == [("VLLM005", severity) for severity in expected]


def test_a_nearby_choice_is_named(tmp_path: Path) -> None:
    (finding,) = of_vllm(tmp_path, ON_26_08, dtype="bfloat-16")
    assert finding.fix == "did you mean 'bfloat16'?" and "'bfloat-16'" in finding.message


@pytest.mark.parametrize(
    ("text", "rule", "said"),
    [
        ("{", "VLLM002", "cannot be read"),
        ("[1]", "VLLM002", "it is a list, not an object"),
        ('{"model": "a/b", "model": "c/d"}', "VLLM002", "cannot be read"),
        ("\xff", "VLLM002", "cannot be read"),
        ("{}", "VLLM003", "vLLM takes Qwen/Qwen3-0.6B"),
        ("[" * 100_000, "VLLM002", "nested too deeply"),
    ],
)
def test_a_model_json_that_cannot_be_used(text: str, rule: str, said: str, tmp_path: Path) -> None:
    files = {**vllm("chat"), "repository/chat/1/model.json": text.encode("latin-1")}
    (finding,) = found(files, tmp_path, ON_26_08)
    assert finding.rule == rule and said in finding.message


WEIGHTS = {"repository/chat/1/w/model.safetensors": b"x", "repository/chat/1/w/tokenizer.json": "{}"}


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("org/name", {}, []),
        ("/elsewhere/chat/w", {}, []),  # another machine's to say
        ("./w", {}, []),  # in the server's working directory
        ("/models/chat/1/w", WEIGHTS, []),
        ("/srv/repository/chat/1/w", WEIGHTS, []),
        ("/models/chat/1/w", {}, ["VLLM007"]),
        ("/models/chat/1/w", {"repository/chat/1/w/config.json": "{}"}, ["VLLM007"]),
        ("/models/chat/1/w", dict([*WEIGHTS.items()][:1]), ["VLLM008"]),
        ("/models/other/1/w", {}, []),
        ("/models/chat/1/m.gguf", {"repository/chat/1/m.gguf": b"GGUF"}, []),
        ("/models/chat/1/m.gguf", {}, ["VLLM007"]),
        ("w", WEIGHTS, ["VLLM009"]),
        ("./w", WEIGHTS, ["VLLM009"]),
    ],
)
def test_weights_are_looked_for_where_the_path_is_known_to_lead(
    name: str, files: dict[str, str | bytes], expected: list[str], tmp_path: Path
) -> None:
    assert ids(found({**vllm("chat", {"model": name}), **files}, tmp_path)) == expected


def test_adapters_are_looked_for_only_where_lora_is_on(tmp_path: Path) -> None:
    paths = {"doll": "/models/chat/1/lora/doll", "sheep": "/elsewhere/sheep", "cow": 7}
    lora = {"repository/chat/1/multi_lora.json": json.dumps(paths, indent=1)}
    on = found({**vllm("chat", {"model": "a/b", "enable_lora": True}), **lora}, tmp_path / "on")
    assert [(f.rule, f.line) for f in on] == [("VLLM011", 2), ("VLLM010", 4)]
    assert found({**vllm("chat", {"model": "a/b"}), **lora}, tmp_path / "off") == []


GPU = "instance_group { kind: KIND_GPU }"


def grouped(group: str, name: str = "chat", **arguments: Any) -> dict[str, str | bytes]:
    """A model of the vLLM backend with another instance group than the sample's."""
    files = vllm(name, {"model": "a/b", **arguments})
    config = files[f"repository/{name}/config.pbtxt"]
    assert isinstance(config, str)
    config = config.replace("instance_group [ { count: 1 kind: KIND_MODEL } ]", group)
    return {**files, f"repository/{name}/config.pbtxt": config}


@pytest.mark.parametrize(
    ("group", "arguments", "gpus", "expected"),
    [
        ("", {"tensor_parallel_size": 2}, None, []),  # Triton's own group depends on where it runs
        ("", {"tensor_parallel_size": 2}, 2, ["VLLM012"]),
        ("", {"tensor_parallel_size": 2}, 0, []),
        (GPU, {"tensor_parallel_size": "2"}, None, ["VLLM005", "VLLM012"]),
        (GPU, {"pipeline_parallel_size": 2}, None, ["VLLM012"]),
        (GPU, {}, 1, []),
        ("instance_group { kind: KIND_AUTO gpus: [ 0, 1 ] }", {"tensor_parallel_size": 2}, None, ["VLLM012"]),
        (
            "instance_group { kind: KIND_MODEL }",
            {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
            8,
            [],
        ),
        (
            "instance_group { kind: KIND_MODEL }",
            {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
            4,
            ["VLLM013"],
        ),
        ("instance_group { kind: KIND_MODEL }", {"data_parallel_size": 2}, 1, ["VLLM013"]),
    ],
)
def test_parallel_engines_against_groups_and_gpus(
    group: str, arguments: dict[str, Any], gpus: int | None, expected: list[str], tmp_path: Path
) -> None:
    findings = found(grouped(group, **arguments), tmp_path, target(gpus=gpus))
    assert sorted(ids(findings)) == expected


def test_rays_workers_may_be_on_other_machines(tmp_path: Path) -> None:
    ray = {"tensor_parallel_size": 8, "distributed_executor_backend": "ray"}
    assert of_vllm(tmp_path, target(gpus=4), **ray) == []


def ids_of_devices(text: str) -> str:
    return f'parameters {{ key: "GPU_DEVICE_IDS" value {{ string_value: "{text}" }} }}'


@pytest.mark.parametrize(
    ("text", "size", "said"),
    [
        ("0, 1", 2, None),
        ("3", 1, None),
        ("0;1", 2, "no list of numbers"),
        ("0,0", 2, "one twice"),
        ("-1", 1, "negative"),
        ("0,1,2", 2, "has 3, and the engine takes 2"),
        ("0,4", 2, "names GPU 4, and the target has 4"),
    ],
)
def test_device_ids(text: str, size: int, said: str | None, tmp_path: Path) -> None:
    findings = of_vllm(tmp_path, target(gpus=4), ids_of_devices(text), tensor_parallel_size=size)
    assert ids(findings) == ([] if said is None else ["VLLM014"])
    assert said is None or said in findings[0].message


def test_shares_are_added_up_over_the_models_of_a_repository(tmp_path: Path) -> None:
    one = grouped("instance_group { kind: KIND_MODEL }", "a", gpu_memory_utilization=0.5)
    two = grouped("instance_group { kind: KIND_MODEL }", "b", gpu_memory_utilization=0.4)
    three = grouped("instance_group { kind: KIND_MODEL }", "c", gpu_memory_utilization=0.3)
    assert found({**one, **two}, tmp_path / "two") == []
    (finding,) = found({**one, **two, **three}, tmp_path / "three")
    assert (finding.rule, finding.severity, finding.model) == ("VLLM015", "warning", "c")
    assert "a, b 0.9 of it: 1.2 together" in finding.message


def test_shares_are_those_of_one_gpu(tmp_path: Path) -> None:
    first = grouped("instance_group { kind: KIND_GPU gpus: [ 0 ] }", "a")
    second = grouped("instance_group { kind: KIND_GPU gpus: [ 1 ] }", "b")
    both = grouped(
        "instance_group { kind: KIND_MODEL }", "c", tensor_parallel_size=2, gpu_memory_utilization=0.1
    )
    assert found({**first, **second}, tmp_path / "apart", target(gpus=2)) == []
    assert ids(found({**first, **second, **both}, tmp_path / "both", target(gpus=2))) == ["VLLM015"]


def test_a_share_that_is_left_out_is_the_engines_default(tmp_path: Path) -> None:
    a, b = (grouped("instance_group { kind: KIND_MODEL }", name) for name in "ab")
    (finding,) = found({**a, **b}, tmp_path, target(release="24.10", image="vllm-python-py3"))
    assert "0.9 of GPU 0, a 0.9 of it: 1.8 together" in finding.message


def test_models_that_a_server_loads_when_it_is_told_are_not_added_up(tmp_path: Path) -> None:
    from tests.builder.lint.fixtures import started_with

    a, b = (grouped("instance_group { kind: KIND_MODEL }", name) for name in "ab")
    assert found({**a, **b}, tmp_path, started_with("--model-control-mode=explicit")) == []


def test_instances_of_one_model_take_its_share_each(tmp_path: Path) -> None:
    two = grouped("instance_group { kind: KIND_MODEL count: 2 }", gpu_memory_utilization=0.6)
    findings = found(two, tmp_path)
    assert [(f.rule, f.severity) for f in findings] == [("VLLM015", "error"), ("VLLM016", "warning")]


@pytest.mark.parametrize(
    ("word", "release", "expected"),
    [
        ("true", "26.08", []),
        ("True", "26.08", []),
        ("yes", "26.08", ["VLLM020"]),
        ("yes", None, ["VLLM020"]),
        ("yes", "24.11", []),
        ("true", "24.11", ["VLLM020"]),
        ("no", "26.08", []),
        ("1", "26.08", ["VLLM020"]),
    ],
)
def test_a_flag_is_on_by_the_word_that_the_release_takes(
    word: str, release: str | None, expected: list[str], tmp_path: Path
) -> None:
    flag = f'parameters {{ key: "REPORT_CUSTOM_METRICS" value {{ string_value: "{word}" }} }}'
    assert ids(of_vllm(tmp_path, target(release=release, image="vllm-python-py3"), flag)) == expected


def test_what_the_backend_completes_may_be_left_out_unless_the_server_completes_nothing(
    tmp_path: Path,
) -> None:
    from tests.builder.lint.fixtures import started_with

    files: dict[str, str | bytes] = {
        "repository/chat/config.pbtxt": 'backend: "vllm"\n',
        "repository/chat/1/model.json": '{"model": "a/b"}',
    }
    assert [f for f in found(files, tmp_path / "a") if f.rule.startswith("VLLM")] == []
    bare = found(files, tmp_path / "b", started_with("--disable-auto-complete-config"))
    assert {"VLLM017", "VLLM019"} <= set(ids(bare))


def test_a_lone_config_is_judged_without_its_files(tmp_path: Path) -> None:
    config = vllm("chat")["repository/chat/config.pbtxt"]
    tree = Tree({"config.pbtxt": config}, ("config.pbtxt",))
    assert check(tree.write(tmp_path)) == []


def test_a_template_that_is_not_filled_in_says_what_to_fill(tmp_path: Path) -> None:
    findings = found(five_models(triton_max_batch_size="", engine_dir="", tokenizer_dir=""), tmp_path)
    told = {(f.rule, f.model, f.line) for f in findings if f.rule.startswith("TRTLLM")}
    assert ("TRTLLM001", "tensorrt_llm", 3) in told and ("TRTLLM001", "ensemble", 3) in told
    filled = found(five_models(engine_dir="", tokenizer_dir="", triton_backend=""), tmp_path / "again")
    assert {(f.rule, f.model) for f in filled if f.rule == "TRTLLM002"} == {
        ("TRTLLM002", "preprocessing"),
        ("TRTLLM002", "postprocessing"),
        ("TRTLLM002", "tensorrt_llm"),
    }
    assert any("engine_dir:VALUE" in f.fix for f in found(five_models(engine_dir=""), tmp_path / "engine"))


def test_the_name_of_a_placeholder_in_a_comment_or_a_text_is_no_value() -> None:
    from tritonsmith.builder.lint.rules.files.tensorrtllm import _PLACEHOLDER

    text = "a: ${b} # ${c}\nd: \"${e}\" f: '${g}'\nh: ${i}"
    assert [m["name"] for m in _PLACEHOLDER.finditer(text) if m["name"]] == ["b", "i"]


@pytest.mark.parametrize(
    ("llm", "bls", "expected"),
    [("True", "True", 0), ("False", "False", 0), ("True", "False", 1), ("False", "True", 1)],
)
def test_bls_and_the_model_that_it_calls_are_decoupled_alike(
    llm: str, bls: str, expected: int, tmp_path: Path
) -> None:
    files = five_models(decoupled_mode=llm)
    name = "repository/tensorrt_llm_bls/config.pbtxt"
    config = files[name]
    assert isinstance(config, str)
    findings = found({**files, name: config.replace(f"decoupled: {llm}", f"decoupled: {bls}")}, tmp_path)
    assert ids(findings).count("TRTLLM010") == expected


@pytest.mark.parametrize(
    ("built", "release", "expected"),
    [
        ("0.20.0", "25.06", None),
        ("0.20.0", None, None),
        ("0.20.0", "26.08", None),  # the image of 26.08 is not known
        ("0.19.0", "25.06", "error"),  # TensorRT 10.9 against 10.10
        ("1.0.0", "25.08", "warning"),  # TensorRT 10.11 in both
        ("0.17.0.post1", "25.01", None),
    ],
)
def test_an_engine_is_of_the_releases_tensorrt_llm(
    built: str, release: str | None, expected: str | None, tmp_path: Path
) -> None:
    engine: dict[str, str | bytes] = {
        "repository/tensorrt_llm/1/engine/config.json": json.dumps(
            {"version": built, "pretrained_config": {}}
        ),
        "repository/tensorrt_llm/1/engine/rank0.engine": b"",
    }
    files = five_models(engine_dir="/models/tensorrt_llm/1/engine")
    findings = found({**files, **engine}, tmp_path, target(release=release, image="trtllm-python-py3"))
    assert [f.severity for f in findings if f.rule == "TRTLLM007"] == ([] if expected is None else [expected])
    assert [f.rule for f in findings if f.rule != "TRTLLM007"] == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("max_batch_size: 0", "max_batch_size: 4", "TRTLLM015"),
        ("  decoupled: False\n", "", "TRTLLM011"),
        ("model: TinyLlama/TinyLlama-1.1B-Chat-v1.0\n", "", "TRTLLM011"),
        ("triton_config:", "triton:", "TRTLLM011"),
        ("tensor_parallel_size", "tensor_parallelism", "TRTLLM012"),
        ("pipeline_parallel_size: 1", "pipeline_parallel_size: all", "TRTLLM013"),
        ("model: Tiny", "model: [Tiny", "TRTLLM011"),
        ("model: TinyLlama/TinyLlama-1.1B-Chat-v1.0", "model: /models/tensorrt_llm/1/w", "TRTLLM018"),
    ],
)
def test_each_mistake_in_model_yaml_is_told_once(old: str, new: str, rule: str, tmp_path: Path) -> None:
    files = llmapi()
    text = files["repository/tensorrt_llm/1/model.yaml"]
    assert isinstance(text, str) and old in text
    findings = found({**files, "repository/tensorrt_llm/1/model.yaml": text.replace(old, new)}, tmp_path)
    assert ids(findings) == [rule]


def test_another_python_model_may_have_a_model_yaml(tmp_path: Path) -> None:
    files = llmapi()
    files["repository/tensorrt_llm/1/model.yaml"] = "anything: 1\n"
    files["repository/tensorrt_llm/1/model.py"] = "# nothing of NVIDIA's\n"
    assert found(files, tmp_path) == []


@pytest.mark.parametrize(
    ("release", "name", "expected"),
    [
        ("26.08", "/elsewhere/m.gguf", ["VLLM022"]),
        ("26.08", "org/name", []),
        ("26.06", "/elsewhere/m.gguf", []),
        ("24.10", "/elsewhere/m.gguf", []),
        ("26.10", "/elsewhere/m.gguf", []),  # its vLLM is not known
        (None, "/elsewhere/m.gguf", []),
    ],
)
def test_a_gguf_file_needs_a_vllm_that_reads_it(
    release: str | None, name: str, expected: list[str], tmp_path: Path
) -> None:
    options = target(release=release, image="vllm-python-py3")
    assert ids(found(vllm("chat", {"model": name}), tmp_path, options)) == expected


HOSTILE: tuple[Any, ...] = (
    10**12,
    -(10**12),
    1e308,
    "9" * 5000,
    "²",
    "0,²",
    "../" * 50,
    "\0",
    "a" * 5000,
    [[]],
    {"": {}},
)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:12])
def test_no_value_stops_a_check(value: Any, tmp_path: Path) -> None:
    keys = ("tensor_parallel_size", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens")
    arguments = dict.fromkeys(keys, value) | {"model": value, "enable_lora": True}
    text = value if isinstance(value, str) and value.isprintable() else "²,9999999999"
    files = vllm("chat", arguments, ids_of_devices(text))
    files["repository/chat/1/multi_lora.json"] = json.dumps({"a": value})
    model_yaml = json.dumps({**arguments, "triton_config": {"max_batch_size": value, "decoupled": value}})
    files |= {**llmapi(), "repository/tensorrt_llm/1/model.yaml": model_yaml}
    engine = {"version": value, "pretrained_config": {"mapping": {"world_size": value}}}
    five = {
        n.replace("repository/", "repository/five_"): c for n, c in five_models(gpu_device_ids=text).items()
    }
    five["repository/five_tensorrt_llm/config.pbtxt"] = str(
        five["repository/five_tensorrt_llm/config.pbtxt"]
    ).replace("/engines/llama", "/models/five_tensorrt_llm/1/engine")
    five["repository/five_tensorrt_llm/1/engine/config.json"] = json.dumps(engine)
    assert found({**files, **five}, tmp_path, target(release="26.02", gpus=2))
