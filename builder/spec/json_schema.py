"""The types of models.yaml → its JSON Schema, for editors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from tritonsmith.builder.llm.arguments import ENGINES, Backend, EngineArgument, arguments
from tritonsmith.builder.spec.field_words import field_words
from tritonsmith.builder.spec.model_spec import OWN_KEYS, TRITON_KEYS, ModelSpec, Target, source_type
from tritonsmith.builder.spec.triton_schema import model_config_type, schema_name


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of models.yaml, for editors."""
    own = ModelSpec.model_json_schema()
    triton = _with_words(model_config_type().model_json_schema())
    properties = {k: v for k, v in own["properties"].items() if k in OWN_KEYS}
    properties |= {k: v for k, v in triton["properties"].items() if k in TRITON_KEYS}
    properties["engine"] |= {"properties": _engine_arguments()}
    target = Target.model_json_schema()
    model = {
        "type": "object",
        "description": "A model: where it comes from, and any field of Triton's ModelConfig beside that.",
        "additionalProperties": False,
        "properties": properties,
    }
    origin = source_type().model_json_schema()
    own["$defs"] |= {**origin.pop("$defs", {}), "Source": origin}
    definitions = {k: v for d in (own, triton) for k, v in d.get("$defs", {}).items() if k != "TritonMessage"}
    schema = {
        # Without a title: editors would show it above every key that has none of its own.
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": False,
        "required": ["models"],
        "properties": {
            "target": target
            | {"description": "What the repository must load on; refused before building where it cannot."},
            "defaults": {"$ref": "#/$defs/Model", "description": "Merged under every model."},
            "models": {
                "type": "object",
                "description": "Each model by its name.",
                "additionalProperties": {"$ref": "#/$defs/Model", "required": ["source"]},
            },
        },
        "$defs": {**definitions, "Model": model},
    }
    result = _without_null(schema)
    # A parameter may be written as a scalar, see triton_schema._Parameter.
    result["$defs"]["_Parameter"] = {
        "anyOf": [{"type": ["string", "number", "boolean"]}, result["$defs"]["_Parameter"]]
    }
    return dict(_with_sentences(result, result["$defs"]))


_JSON_TYPES = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "string",
    "list": "array",
    "json": "object",
}


def _engine_arguments() -> dict[str, Any]:
    """Every argument that an engine of any release takes; which of them the target's does, the spec's reader says."""
    of = {backend: arguments(backend) for backend in get_args(Backend)}
    names = sorted({name for known in of.values() for name in known})
    return {
        name: _engine_argument({b: known[name] for b, known in of.items() if name in known}) for name in names
    }


def _engine_argument(of: Mapping[Backend, EngineArgument]) -> dict[str, Any]:
    """Of one name, as one or both engines have it."""
    found = list(of.values())
    kinds = dict.fromkeys(kind for argument in found for kind in argument.types)
    types = [] if "any" in kinds else [_JSON_TYPES[kind] for kind in kinds]
    choices = [choice for argument in found for choice in argument.choices]
    closed = bool(choices) and all(argument.choices for argument in found)
    words = next((argument.description for argument in found if argument.description), "")
    engines = ", ".join(
        f"{ENGINES[backend]} {argument.first} to {argument.last}" for backend, argument in of.items()
    )
    return {
        **({"type": types[0] if len(types) == 1 else types} if types and not closed else {}),
        **({"enum": list(dict.fromkeys(choices))} if closed else {}),
        "description": f"{words} ({engines})" if words else engines,
    }


def _with_words(triton: dict[str, Any]) -> dict[str, Any]:
    """Triton's messages with what each field is, and without titles that only repeat its name."""
    words = field_words()
    messages = {"ModelConfig": triton, **triton["$defs"]}
    for (message, name), text in words.items():
        field = messages.get(schema_name(message) if message != "ModelParameter" else "_Parameter", {})
        if name in field.get("properties", {}):
            field["properties"][name]["description"] = text
    return triton


def _without_null(schema: Any) -> Any:
    """The schema without `null`: a key is left out of models.yaml, never written as null; and without titles, which only
    repeat a key's name."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {k: _without_null(v) for k, v in schema.items() if not (k == "default" and v is None)}
    if isinstance(kept.get("title"), str):
        del kept["title"]
    options = [o for o in kept.get("anyOf", ()) if o != {"type": "null"}]
    if "anyOf" in kept and len(options) == 1:
        del kept["anyOf"]
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept


def _with_sentences(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Each description as an editor shows it: a sentence, with the default, which editors do not show; and names that the
    user chooses are described as the mapping that they stand in, where their values are not described."""
    if isinstance(schema, list):
        return [_with_sentences(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: _with_sentences(value, definitions) for key, value in schema.items()}
    if isinstance(text := told.get("description"), str):
        told["description"] = _sentence(text) + _default(told.get("default"))
        chosen = {} if (values := told.get("additionalProperties", False)) is True else values
        if chosen is not False:
            of_values = definitions.get(str(chosen.get("$ref")).rpartition("/")[2], {}).get("description")
            words = {} if of_values else {"description": told["description"]}
            told["additionalProperties"] = {**words, **chosen}
    return told


def _sentence(text: str) -> str:
    """A word at its beginning gets a capital; `module:callable` and the like stay as they are."""
    capital = text[:1].upper() + text[1:] if re.match(r"[a-z]+[ ,]", text) else text
    return capital + ("." if text[-1] not in ".…" else "")


def _default(value: Any) -> str:
    """Empty lists and mappings, and messages of their own defaults, say nothing."""
    if value is None or isinstance(value, dict | list | tuple):
        return ""
    return f" Default: {str(value).lower() if isinstance(value, bool) else value}."
