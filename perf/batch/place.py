"""(a server's API, what is asked) → what a job needs to know of the model: what it takes, its digest, how it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.builder.base.files.digest import StatCache, digest_of_value
from tritonsmith.builder.base.files.disk import files_below
from tritonsmith.builder.cache.cache import default_cache_directory
from tritonsmith.perf.batch.rows.asks import Address, Plain
from tritonsmith.perf.batch.rows.chat import ChatTemplate, template_at, template_in_repository
from tritonsmith.perf.batch.rows.reader import RowReader, embedding_tensors
from tritonsmith.perf.batch.sending.asking import Asking, GenerateAsking, InferAsking
from tritonsmith.perf.data.interface import ModelInterface, check_batch, check_names
from tritonsmith.perf.load.load_test import LoadTest, ServedAt, server_of
from tritonsmith.perf.load.served_model import interface_of, members_of
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.server.control import RELOADED
from tritonsmith.perf.wire.api import ServerApi
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.payload import Parameter


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a model, of every row alike.

    plain: how plain records are read; None: lines of OpenAI's batch form. batch_size: None: the model's max_batch_size.
    model: that is asked instead of the one that lines of OpenAI's form name; "": that one.
    wire:  fields of LoadTest that say how a server is asked: protocol, grpc_url, headers, ca_file, …
    """

    plain: Plain | None = None
    version: str = ""
    batch_size: int | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    chat_template: Path | None = None
    wire: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question put to a server that is there."""

    api: ServerApi
    model: ModelInterface
    address: Address
    reader: RowReader
    asking: Asking
    digest: str


def asked_of(question: Question, address: Address | None, served: ServedAt, repository: Path | None) -> Asked:
    """address: what the first line asks; None for plain records. UsageError for a model that cannot be asked so."""
    named = question.plain.model if address is None and question.plain else address.model if address else ""
    version = question.version or (address.version if address else "")
    test = served.known_to(LoadTest(named, Closed(1), version=version, **question.wire))
    api, target = server_of(served.http_url, test)
    try:
        model = interface_of(api, named, version)
    except UsageError as error:
        if error.code == "unknown_model" and address is not None and not question.model:
            instead = f"--model {error.valid[0] if len(error.valid) == 1 else 'NAME'}"
            error.fix = " ".join(
                filter(None, (error.fix, f"{instead} asks that instead of what the lines name"))
            )
        raise
    if address is None:
        address = Address("generate" if model.decoupled else "infer", model.name, version)
    _check_kind(model, address)
    check_batch(model, question.batch_size)
    if question.plain is not None:
        check_names(model, list(question.plain.columns.values()))
    template = _template(question, address, repository) if address.kind == "chat" else None
    most = question.batch_size or model.max_batch_size
    reader = RowReader(model, address, question.plain, most, question.parameters, template, question.model)
    asking: Asking
    if address.kind in ("infer", "embeddings"):
        asking = InferAsking(target, model)
    elif isinstance(target, HttpTarget):
        asking = GenerateAsking(target, model)
    else:
        raise UsageError(
            "generate is asked over HTTP", code="bad_url", seen=target.url, fix="give the HTTP address"
        )
    members = members_of(api, model)
    return Asked(api, model, address, reader, asking, model_digest(api, model, members, repository))


def _check_kind(model: ModelInterface, address: Address) -> None:
    if model.sequence_ids:
        raise UsageError(
            f"`{model.name}` takes sequences of requests, in order, and the rows of a batch have none",
            code="sequences_needed",
        )
    if address.kind in ("infer", "embeddings") and model.decoupled:
        raise UsageError(
            f"`{model.name}` may answer any number of times, which infer does not take",
            code="bad_url",
            seen=str(address),
            fix=f"/v2/models/{model.name}/generate",
        )
    if address.kind == "embeddings":
        embedding_tensors(model)
    if address.kind == "chat" and not any(spec.name == "text_input" for spec in model.inputs):
        raise UsageError(
            f"`{model.name}` is no language model: it has no input `text_input`",
            code="no_chat",
            seen=", ".join(spec.name for spec in model.inputs),
        )


def _template(question: Question, address: Address, repository: Path | None) -> ChatTemplate:
    if question.chat_template is not None:
        return template_at(question.chat_template)
    if repository is None:
        raise UsageError(
            "a chat becomes a text by the model's chat template, which its server does not tell",
            code="no_template",
            fix="--chat-template FILE: the model's .gguf, its directory with tokenizer_config.json, or the template",
        )
    return template_in_repository(repository, address.model, question.version)


def model_digest(
    api: ServerApi, model: ModelInterface, members: tuple[str, ...], repository: Path | None
) -> str:
    """Over what the server says of the model and of an ensemble's members, and over their files where these are here."""
    told = [
        _config(api, name, model.version if name == model.name else "") for name in (model.name, *members)
    ]
    metadata = dict(api.model_metadata(model.name, model.version))
    files: dict[str, str] = {}
    if repository is not None:
        cache = StatCache(default_cache_directory() / "stat.json")
        for name in (model.name, *members):
            directory = repository / name
            for path in files_below(directory) if directory.is_dir() else ():
                if path.parent.name != "__pycache__":  # which Python writes, with the time of the file in it
                    files[str(path.relative_to(repository))] = cache.digest(path)
        cache.save()
    return digest_of_value([told, metadata, files])


def _config(api: ServerApi, name: str, version: str) -> dict[str, Any]:
    """Without the mark of a model that was loaded anew."""
    config = dict(api.model_config(name, version))
    parameters = {k: v for k, v in config.get("parameters", {}).items() if k != RELOADED}
    return {**config, "parameters": parameters}
