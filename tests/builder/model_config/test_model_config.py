"""config.pbtxt: rendered from the spec and the model, parsed back to the same message, never fooled by text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import ConfigError, SpecError
from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.model_config.field_views import quoted
from tritonsmith.builder.model_config.model_config import (
    model_config_from_spec,
    model_config_from_text,
    text_from_model_config,
)
from tritonsmith.builder.spec.spec import RepositorySpec, load_spec

IDS = TensorSpec("ids", dtype_from_kserve("INT64"), ("batch", "sequence"))
EMBEDDING = TensorSpec("embedding", dtype_from_kserve("FP32"), ("batch", 384))

GOLDEN = """\
# Rendered by tritonsmith from models.yaml; edit that file instead.
name: "m"
backend: "onnxruntime"
max_batch_size: 8
input [
  {
    name: "ids"
    data_type: TYPE_INT64
    dims: [ -1 ]
  }
]
output [
  {
    name: "embedding"
    data_type: TYPE_FP32
    dims: [ 384 ]
  }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
}
instance_group [
  {
    count: 2
    kind: KIND_CPU
  }
]
version_policy {
  latest {
    num_versions: 2
  }
}
parameters [
  {
    key: "threads"
    value {
      string_value: "2"
    }
  }
]
"""


def spec_of(tmp_path: Path, body: str) -> RepositorySpec:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  m:\n    source: {{onnx: m.onnx}}\n{body}")
    return load_spec(path)


def message_of(tmp_path: Path, body: str, inputs: Any = (IDS,), outputs: Any = (EMBEDDING,)) -> Any:
    spec = spec_of(tmp_path, body)
    return model_config_from_spec(spec.models[0], inputs, outputs, spec)


def test_the_whole_text(tmp_path: Path) -> None:
    message = message_of(
        tmp_path,
        "    max_batch_size: 8\n"
        "    dynamic_batching: {preferred_batch_size: [4, 8], max_queue_delay_microseconds: 500}\n"
        "    instance_group: [{kind: KIND_CPU, count: 2}]\n"
        "    version_policy: {latest: {num_versions: 2}}\n"
        "    parameters: {threads: 2}\n",
    )
    assert text_from_model_config(message, spec_name="models.yaml") == GOLDEN


def test_an_unstated_max_batch_size_is_what_triton_would_fill_in(tmp_path: Path) -> None:
    batched = message_of(tmp_path, "")
    assert (batched.max_batch_size, batched.HasField("dynamic_batching")) == (4, True)
    fixed = TensorSpec("x", dtype_from_kserve("FP32"), (1, 3))
    unbatched = message_of(tmp_path, "", (fixed,), (fixed,))
    assert (unbatched.max_batch_size, list(unbatched.input[0].dims)) == (0, [1, 3])
    assert not unbatched.HasField("dynamic_batching")


def test_a_scalar_becomes_dims_1_without_the_reshape_that_triton_refuses(tmp_path: Path) -> None:
    rate = TensorSpec("rate", dtype_from_kserve("INT64"), ())
    message = message_of(tmp_path, "    max_batch_size: 0\n", (rate,), (rate,))
    assert list(message.input[0].dims) == [1]
    assert not message.input[0].HasField("reshape")


def test_a_stated_reshape_is_kept_and_stated_names_of_dims_become_minus_one(tmp_path: Path) -> None:
    body = "    max_batch_size: 8\n    input: [{name: ids, data_type: TYPE_INT64, dims: [tokens, 1], reshape: {shape: [-1]}}]\n"
    message = message_of(tmp_path, body)
    assert list(message.input[0].dims) == [-1, 1]
    assert list(message.input[0].reshape.shape) == [-1]


WRONG = [
    ("    max_batch_size: 8\n", (TensorSpec("x", dtype_from_kserve("FP32"), (1, 3)),), "fixed_batch"),
    ("    max_batch_size: 8\n    input: [{name: idz}]\n", (IDS,), "unknown_tensor"),
    ("    max_batch_size: 8\n    input: [{name: ids, data_type: TYPE_INT32}]\n", (IDS,), "dtype_mismatch"),
    ("    max_batch_size: 8\n    input: [{name: ids, dims: [3, 4]}]\n", (IDS,), "dims_mismatch"),
    ("    max_batch_size: 8\n    input: [{name: ids}]\n", (IDS, EMBEDDING), "missing_input"),
]


@pytest.mark.parametrize(("body", "inputs", "code"), WRONG, ids=[w[2] for w in WRONG])
def test_a_spec_that_contradicts_the_model_is_refused_with_its_line(
    tmp_path: Path, body: str, inputs: tuple[TensorSpec, ...], code: str
) -> None:
    with pytest.raises(SpecError) as caught:
        message_of(tmp_path, body, inputs)
    assert caught.value.code == code
    assert caught.value.where is not None and caught.value.where.line in (4, 5)


def test_a_users_template_may_override_a_block(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "config.pbtxt.j2").write_text(
        '{% extends "builtin/config.pbtxt.j2" %}{% block header %}# owner: search team{% endblock %}'
    )
    text = text_from_model_config(message_of(tmp_path, ""), spec_name="models.yaml", templates=tmp_path / "t")
    assert text.startswith("# owner: search team\nname:")


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ('name: "m"\n', "template_mismatch"),
        ("name: {{ nothing }}\n", "template_failed"),
        ("name: {% if %}\n", "template_failed"),
        ("no such field\n", "config_syntax"),
        ("instance_group { kind: 214748364832 }\n", "config_syntax"),
        ("{{ ''.__class__.__mro__ }}", "template_failed"),
    ],
    ids=[
        "drops fields",
        "undefined name",
        "syntax",
        "not text proto",
        "no enum",
        "reaches for Python's insides",
    ],
)
def test_a_template_that_renders_something_else_is_refused(tmp_path: Path, template: str, code: str) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "config.pbtxt.j2").write_text(template)
    with pytest.raises(ConfigError) as caught:
        text_from_model_config(message_of(tmp_path, ""), spec_name="models.yaml", templates=tmp_path / "t")
    assert caught.value.code == code


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_survives_quoting(value: str) -> None:
    text = f"parameters [{{ key: {quoted(value)} value {{ string_value: {quoted(value)} }} }}]"
    message = text_format.Parse(text, model_config_pb2().ModelConfig())
    assert dict(message.parameters.items())[value].string_value == value


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        max_size=4,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
def test_text_that_would_break_text_proto_comes_back_as_it_was(
    parameters: dict[str, str], spec_name: str
) -> None:
    message = model_config_pb2().ModelConfig(name="m")
    for key, value in parameters.items():
        message.parameters[key].string_value = value
    assert model_config_from_text(text_from_model_config(message, spec_name=spec_name)) == message
