"""models.yaml expresses all of Triton's ModelConfig: any message → YAML text → spec → message → pbtxt → the same message."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.builder.proto_messages import messages, model_config_descriptor, random_message, set_field, values
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.files.untrusted import fault_of_text
from tritonsmith.builder.importing.fields import fields_from_message
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.importing.spec_text import text_of_spec
from tritonsmith.builder.model_config.model_config import (
    model_config_from_spec,
    model_config_from_text,
    text_from_model_config,
)
from tritonsmith.builder.spec.spec import load_spec

FIELDS = [f for f in model_config_descriptor().fields if f.name != "name"]
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def there_and_back(message: Any) -> None:
    """The whole way; the name is the directory's, everything else must come back."""
    message.name = "m"
    for tensor in (*message.input, *message.output):
        if fault_of_text(tensor.name):  # a spec refuses names that do not print
            tensor.name = "x"
    model = ImportedModel("m", {"directory": "m"}, fields_from_message(message), {})
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".yaml") as file:
        file.write(text_of_spec([model]))
        file.flush()
        spec = load_spec(Path(file.name))
    built = model_config_from_spec(spec.models[0], (), (), spec)
    assert built == message
    assert model_config_from_text(text_from_model_config(built, spec_name="models.yaml")) == message


def test_the_proto_has_nothing_that_the_strategies_do_not_know() -> None:
    for field in FIELDS:
        values(field)
    assert len(FIELDS) >= 24


@pytest.mark.parametrize("field", FIELDS, ids=[f.name for f in FIELDS])
@settings(max_examples=12, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_a_field_comes_back(field: Any, data: st.DataObject) -> None:
    message = data.draw(messages(model_config_descriptor()))
    message.ClearField(field.name)
    set_field(message, field, data.draw(values(field)))
    there_and_back(message)


@pytest.mark.parametrize(
    "count", [1_500, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.nightly])]
)
def test_thousands_of_configs_come_back(count: int) -> None:
    rng = random.Random(5)
    for number in range(count):
        message = random_message(model_config_descriptor(), rng)
        try:
            there_and_back(message)
        except Exception as error:
            error.args = (f"config {number} of seed 5: {message}", *error.args)
            raise


@pytest.mark.parametrize(
    "body",
    [
        "dynamic_batching: {}\n    sequence_batching: {}",
        "version_policy: {all: {}, latest: {}}",
        "sequence_batching: {direct: {}, oldest: {}}",
    ],
)
def test_what_excludes_one_another_is_refused(tmp_path: Path, body: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n  m:\n    source: {{directory: m}}\n    {body}\n")
    with pytest.raises(SpecError, match="exclude one another"):
        load_spec(path)
