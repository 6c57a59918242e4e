"""models.yaml: what is accepted, and the one clear error for everything else."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.untrusted import fault_of_model_name
from tritonsmith.builder.spec.json_schema import json_schema
from tritonsmith.builder.spec.spec import load_spec

GOOD = """\
target: {triton: "25.10", gpus: [h100]}
defaults: {max_batch_size: 32}
models:
  minilm:
    source: {torch: "pkg.module:load"}
    input:
      - {name: ids, data_type: TYPE_INT64, dims: [sequence]}
    dynamic_dims: {sequence: {max: 128}}
    dynamic_batching: {preferred_batch_size: [8, 32], max_queue_delay_microseconds: 500}
    instance_group: [{kind: KIND_CPU, count: 2}]
    parameters: {intra_op_thread_count: 2}
  detector:
    source: {onnx: detector.onnx}
    max_batch_size: 0
"""


def spec_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    return path


def test_a_good_spec_keeps_what_it_says(tmp_path: Path) -> None:
    spec = load_spec(spec_file(tmp_path, GOOD))
    minilm, detector = spec.models
    assert (minilm.name, minilm.max_batch_size, minilm.source.kind) == ("minilm", 32, "torch")
    assert (detector.max_batch_size, detector.source.reference) == (0, "detector.onnx")
    config = minilm.config.as_proto_json()
    assert config["dynamic_batching"] == {
        "preferred_batch_size": [8, 32],
        "max_queue_delay_microseconds": 500,
    }
    assert config["parameters"] == {"intra_op_thread_count": {"string_value": "2"}}
    assert spec.target.triton == "25.10"
    assert str(spec.where("minilm", "max_batch_size")).endswith("models.yaml:2"), "inherited from defaults"
    assert str(spec.where("minilm", "dynamic_batching")).endswith("models.yaml:9")


def test_a_dim_that_follows_from_others_has_the_range_that_follows(tmp_path: Path) -> None:
    dims = "{past: {min: 0, opt: 32, max: 127}, new: {max: 1}, sequence: past + new, wide: {max: 9}}"
    text = GOOD.replace("{sequence: {max: 128}}", dims).replace(
        "[sequence]}", "[sequence]}\n      - {name: p, dims: [past, new, wide]}"
    )
    model = load_spec(spec_file(tmp_path, text)).models[0]
    assert model.dim_relations == {"sequence": "past + new"}
    assert model.dim_ranges == {
        "past": (0, 32, 127),
        "new": (1, 1, 1),
        "wide": (1, 9, 9),
        "sequence": (1, 33, 128),
    }
    schema = jsonschema.Draft202012Validator(json_schema())
    schema.validate(yaml.safe_load(text))


def test_a_models_scheduling_choice_replaces_the_defaults(tmp_path: Path) -> None:
    text = (
        "defaults: {dynamic_batching: {max_queue_delay_microseconds: 9, preserve_ordering: true}}\n"
        "models:\n"
        "  stream:\n    source: {onnx: s.onnx}\n    sequence_batching: {max_sequence_idle_microseconds: 5}\n"
        "  plain:\n    source: {onnx: p.onnx}\n    dynamic_batching: {max_queue_delay_microseconds: 1}\n"
    )
    stream, plain = (m.config.as_proto_json() for m in load_spec(spec_file(tmp_path, text)).models)
    assert "sequence_batching" in stream and "dynamic_batching" not in stream
    assert plain["dynamic_batching"] == {"max_queue_delay_microseconds": 1, "preserve_ordering": True}


def test_three_lines_are_enough(tmp_path: Path) -> None:
    spec = load_spec(spec_file(tmp_path, "models:\n  d:\n    source: {onnx: d.onnx}\n"))
    assert spec.models[0].max_batch_size is None


# what is replaced in GOOD, by what, the error's code, its line, a word it must hold
BAD: list[tuple[str, str, str, str, int | None, str]] = [
    ("a misspelt key of ours", "source: {onnx", "sorce: {onnx", "unknown_key", 13, "did you mean 'source'"),
    ("a misspelt key of Triton's", "count: 2", "cuont: 2", "unknown_key", 10, "did you mean 'count'"),
    ("a misspelt key two levels down", "max_queue_delay_microseconds", "max_queue_delay", "unknown_key", 9, "microseconds"),
    ("a misspelt key at the top", "defaults:", "default:", "unknown_key", 2, "did you mean 'defaults'"),
    ("a misspelt enum", "KIND_CPU", "KIND_CPUS", "wrong_value", 10, "did you mean 'KIND_CPU'"),
    ("a string for a number", "max_batch_size: 0", "max_batch_size: many", "wrong_type", 14, "integer"),
    ("a bool for a number", "max_batch_size: 0", "max_batch_size: true", "wrong_type", 14, "integer"),
    ("a wrong type in defaults", "{max_batch_size: 32}", "{max_batch_size: [1]}", "wrong_type", 2, "integer"),
    ("a number beyond int32", "max_batch_size: 0", "max_batch_size: 4294967296", "wrong_type", 14, "2147483647"),
    ("a list for a mapping", "parameters: {intra_op_thread_count: 2}", "parameters: [8]", "wrong_type", 11, "parameters"),
    ("two sources", "{onnx: detector.onnx}", "{onnx: a.onnx, torch: 'a:b'}", "wrong_value", 13, "exactly one"),
    ("no source", "source: {onnx: detector.onnx}", "opset: 20", "no_source", 12, "source"),
    ("a torch source without a callable", "pkg.module:load", "pkg.module", "wrong_type", 5, "pattern"),
    ("an opset out of range", "    max_batch_size: 0", "    opset: 17", "wrong_type", 14, "18"),
    ("a slash in a name", "  detector:", "  a/b:", "model_name", 12, "'/'"),
    ("a name that climbs", "  detector:", "  ..:", "model_name", 12, "dot"),
    ("an empty name", "  detector:", "  '':", "model_name", 12, "empty"),
    ("a name with a line break", "  detector:", '  "a\\nb":', "model_name", 12, "has"),
    ("the same name twice", "  detector:", "  minilm:", "duplicate_key", 12, "line 4"),
    ("names that differ in case", "  detector:", "  MiniLM:", "duplicate_name", 12, "case"),
    ("a range for a dim nobody has", "dynamic_dims: {sequence", "dynamic_dims: {sequense", "unknown_dim", 8, "sequence"),
    ("a range upside down", "{max: 128}", "{min: 200, max: 128}", "wrong_value", 8, "min <= opt <= max"),
    ("a dim of a dim nobody has", "{sequence: {max: 128}}", "{sequence: past + 1}", "unknown_dim", 8, "'past'"),
    ("a dim that is no sum", "{sequence: {max: 128}}", "{sequence: past ** 2}", "wrong_value", 8, "past + new"),
    ("a dim of itself", "{sequence: {max: 128}}", "{sequence: sequence + 1}", "wrong_value", 8, "follows from itself"),
    ("a dim below nothing", "{sequence: {max: 128}}", "{k: {max: 9}, sequence: k - 2}", "wrong_value", 8, "-1"),
    ("an exporter that there is not", "    max_batch_size: 0", "    exporter: onnx", "wrong_value", 14, "torchscript"),
    ("two schedulers", "    parameters:", "    sequence_batching: {}\n    parameters:", "wrong_value", 4, "exclude"),
    ("bad YAML", "[{kind", "[}kind", "yaml_syntax", None, "YAML"),
    ("a merge key", "    source: {onnx: detector.onnx}", "    <<: {max_batch_size: 1}", "yaml_merge", 13, "defaults"),
    ("a target that is no release", '"25.10"', "'2510'", "wrong_type", 1, "pattern"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, old: str, new: str, code: str, line: int | None, word: str
) -> None:
    assert old in GOOD
    path = spec_file(tmp_path, GOOD.replace(old, new, 1) if old != "  detector:" else GOOD.replace(old, new))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    error = caught.value
    assert error.code == code
    assert word in str(error)
    assert error.where is not None and error.where.path == path
    if line is not None:
        assert error.where.line == line


@pytest.mark.parametrize(
    "text", ["", "[]", "models:", "models: {}", "models: []", "3", "models: {a: 3}", "models: {a: }"]
)
def test_a_file_without_models_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError):
        load_spec(spec_file(tmp_path, text))


def test_a_missing_spec_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--spec"):
        load_spec(tmp_path / "models.yaml")


def test_aliases_of_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
    with pytest.raises(SpecError, match="values"):
        load_spec(spec_file(tmp_path, bomb))


def test_yaml_cannot_construct_objects(tmp_path: Path) -> None:
    text = GOOD.replace("max_batch_size: 0", "max_batch_size: !!python/object/apply:os.getpid []")
    with pytest.raises(SpecError):
        load_spec(spec_file(tmp_path, text))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_a_good_name_is_one_path_segment(name: str) -> None:
    if fault_of_model_name(name) is None:
        assert Path("repository", name).resolve().parent == Path("repository").resolve()
        assert Path(name).name == name


def test_the_published_schema_accepts_what_the_loader_accepts(tmp_path: Path) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(GOOD))
    for _, old, new, code, _, _ in BAD:
        if code == "unknown_key":
            assert list(validator.iter_errors(yaml.safe_load(GOOD.replace(old, new, 1)))), (
                f"schema accepts {new!r}"
            )
