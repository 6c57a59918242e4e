"""A line's record → what it asks: OpenAI's batch form, or a plain record with columns for the model's inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tritonsmith.builder.base.errors import did_you_mean
from tritonsmith.perf.batch.rows.lines import BadLineError

Kind = Literal["infer", "generate", "chat", "embeddings"]
URLS = (
    "/v2/models/MODEL/infer",
    "/v2/models/MODEL/generate",
    "/v1/chat/completions",
    "/v1/embeddings",
)
_MODEL_URL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(infer|generate)\Z")
_OPENAI: dict[str, Kind] = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings"}
ID_COLUMNS = ("custom_id", "id")


@dataclass(frozen=True, slots=True)
class Plain:
    """How plain records are read.

    columns: column → input; empty: those that are called as an input is.
    id_column: "" means `custom_id` or `id` where a record has one, else the line's number.
    """

    model: str
    columns: Mapping[str, str] = field(default_factory=dict)
    id_column: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """What all lines of a job ask."""

    kind: Kind
    model: str
    version: str = ""

    def __str__(self) -> str:
        version = f"/versions/{self.version}" if self.version else ""
        if self.kind in ("infer", "generate"):
            return f"/v2/models/{self.model}{version}/{self.kind}"
        return f"/v1/{'chat/completions' if self.kind == 'chat' else self.kind} of {self.model}"


@dataclass(frozen=True, slots=True)
class Ask:
    """One line's question; address None: a plain record, whose id may be a whole number and is given back as one."""

    id: str | int
    address: Address | None
    body: Mapping[str, Any]


def ask_of(record: Mapping[str, Any], number: int, plain: Plain | None, instead: str = "") -> Ask:
    """BadLineError for a record that asks nothing. instead: the model that lines of OpenAI's form ask, whatever they name."""
    return _openai(record, instead) if plain is None else _plain(record, number, plain)


def is_openai_form(record: Mapping[str, Any]) -> bool:
    """Whether it is a line of the batch form, and not a record with columns for a model's inputs."""
    return isinstance(record.get("url"), str) and isinstance(record.get("body"), Mapping)


def _openai(record: Mapping[str, Any], instead: str) -> Ask:
    for name in ("custom_id", "url", "body"):
        if name not in record:
            hint = did_you_mean(name, record)
            raise BadLineError(f"lacks `{name}`{f'; it has {hint[13:-1]}' if hint else ''}", name)
    custom_id, method, url, body = (record.get(n) for n in ("custom_id", "method", "url", "body"))
    if not isinstance(custom_id, str) or not custom_id:
        raise BadLineError(f"is to be a text, and is {_shown(custom_id)}", "custom_id")
    if method not in (None, "POST"):
        raise BadLineError(f"is to be POST, and is {_shown(method)}", "method")
    if not isinstance(body, Mapping):
        raise BadLineError(f"is to be an object, and is {_shown(body)}", "body")
    return Ask(custom_id, _address(url, body, instead), body)


def _address(url: Any, body: Mapping[str, Any], instead: str) -> Address:
    if not isinstance(url, str):
        raise BadLineError(f"is to be a text, and is {_shown(url)}", "url")
    if url in _OPENAI:
        model = instead or body.get("model")
        if not isinstance(model, str) or not model:
            raise BadLineError(f"is to name the model, and is {_shown(model)}", "body.model")
        return Address(_OPENAI[url], model)
    found = _MODEL_URL.match(url)
    if found is None:
        hint = did_you_mean(url, URLS)
        raise BadLineError(
            f"an unknown url, {_shown(url)}{f' ({hint})' if hint else ''}; known: {', '.join(URLS)}", "url"
        )
    return Address("infer" if found[3] == "infer" else "generate", instead or found[1], found[2] or "")


def _plain(record: Mapping[str, Any], number: int, plain: Plain) -> Ask:
    column = plain.id_column or next((name for name in ID_COLUMNS if name in record), "")
    if not column:
        return Ask(str(number), None, record)
    if column not in record:
        raise BadLineError(not_there(record), f"column `{column}`")
    value = record[column]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise BadLineError(f"is to be the row's id, and is {_shown(value)}", f"column `{column}`")
    return Ask(value, None, record)


def not_there(record: Mapping[str, Any]) -> str:
    """What is wrong with a record without a column, and what it has."""
    return f"is not there; there are {', '.join(f'`{name}`' for name in record)[:200]}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
