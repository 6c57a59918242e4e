"""The JSON Schema of models.yaml: what is written somewhere validates against it, and every key says what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tritonsmith.builder.base.triton_proto import model_config_pb2
from tritonsmith.builder.spec.field_words import field_words
from tritonsmith.builder.spec.json_schema import json_schema

ROOT = Path(__file__).parents[3]
SCHEMA = json_schema()


def _specs() -> Iterator[tuple[str, Any]]:
    """Every models.yaml of the examples, and every block of YAML in a page that is one."""
    for path in sorted((ROOT / "examples").rglob("models.yaml")):
        yield str(path.relative_to(ROOT)), yaml.safe_load(path.read_text())
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)):
            try:
                data = yaml.safe_load(block)
            except yaml.YAMLError:
                continue  # a part of a file
            if isinstance(data, dict) and isinstance(data.get("models"), dict):
                yield f"{page.name}, block {number}", data


SPECS = dict(_specs())


@pytest.mark.parametrize("name", SPECS)
def test_what_the_project_shows_validates(name: str) -> None:
    errors = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(SPECS[name])
    ]
    assert errors == []


def test_the_examples_and_the_readme_are_among_them() -> None:
    assert "examples/demo/models.yaml" in SPECS and sum(name.startswith("README") for name in SPECS) >= 2


def _properties(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for number, item in enumerate(schema):
            yield from _properties(item, f"{at}/{number}")
    elif isinstance(schema, dict):
        for name, value in (schema.get("properties") or {}).items():
            yield f"{at}/{name}", value
        for key, value in schema.items():
            yield from _properties(value, f"{at}/{key}")


def test_every_key_says_what_it_is() -> None:
    assert [at for at, field in _properties(SCHEMA) if not field.get("description")] == []


def test_an_editor_does_not_offer_a_datatype_that_says_nothing() -> None:
    types = SCHEMA["$defs"]["ModelInput"]["properties"]["data_type"]["anyOf"][0]["enum"]
    assert "TYPE_FP32" in types and "TYPE_INVALID" not in types


def test_every_field_of_tritons_proto_has_its_words_and_no_other_has() -> None:
    pool = model_config_pb2().DESCRIPTOR.pool
    seen: set[str] = set()
    fields: set[tuple[str, str]] = set()
    waiting = ["inference.ModelConfig"]
    while waiting:
        message = pool.FindMessageTypeByName(waiting.pop())
        if message.full_name in seen:
            continue
        seen.add(message.full_name)
        if not message.GetOptions().map_entry:
            fields |= {(message.full_name.removeprefix("inference."), field.name) for field in message.fields}
        waiting += [field.message_type.full_name for field in message.fields if field.message_type]
    words = field_words()
    assert words.keys() == fields
    assert all(text.endswith((".", "…")) and 3 < len(text) < 140 for text in words.values())


def test_a_step_of_ours_is_not_mistaken_for_tritons() -> None:
    step = {"model": "a", "from": {"x": "x"}, "to": {"y": "y"}}
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert validator.is_valid({"models": {"m": {"source": {"steps": [step]}}}})
    assert not validator.is_valid({"models": {"m": {"source": {"steps": [{"model_name": "a"}]}}}})
    tritons = {"step": [{"model_name": "a", "model_version": -1, "input_map": {"x": "x"}}]}
    assert validator.is_valid(
        {"models": {"m": {"source": {"directory": "d"}, "ensemble_scheduling": tritons}}}
    )
