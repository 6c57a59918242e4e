"""A directory with a Hugging Face model → its network, and where a tokenizer lies beside it, an ensemble from text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.export.sources.transformers import OUTPUTS, task_of
from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.untrusted import fault_of_model_name, read_bounded
from tritonsmith.builder.importing.drafts.language_model import language_model
from tritonsmith.builder.importing.from_repository import relative
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.llm.weights import is_language_model

PROGRAM = "package:tritonsmith/builder/importing/steps/tokenizer.py"
_MAX_TOKENS = 512


def is_pretrained(directory: Path) -> bool:
    """Whether the directory is a Hugging Face model's, by its config.json."""
    return bool(_json(directory / "config.json").get("model_type"))


def is_fetched(name: str) -> bool:
    """Whether a Hugging Face model of the name is in the hub's cache on this machine; nothing is fetched."""
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) is None:
        return False
    try:
        from huggingface_hub import try_to_load_from_cache

        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except (ImportError, ValueError):
        return False


def pretrained_models(directory: Path, root: Path, name: str | None = None) -> Iterator[ImportedModel]:
    """NAME, and with a tokenizer.json NAME_tokenizer and the ensemble NAME_text.

    A model without a head gives embeddings: the mean over its tokens, divided by its length. A decoder is served as it is
    (source: llm). ExportError for another model that generates; UsageError for a name that Triton could not take.
    """
    name = name or directory.resolve().name
    if fault := fault_of_model_name(name):
        raise UsageError(
            f"{name!r} {fault}",
            code="model_name",
            where=Where(directory),
            fix="--name NAME, or rename the directory",
        )
    config = _json(directory / "config.json")
    if is_language_model(config):
        yield language_model(name, relative(directory, root), directory)
        return
    task = task_of(str(next(iter(config.get("architectures") or ()), "")), Where(directory / "config.json"))
    source: dict[str, Any] = {"transformers": relative(directory, root)}
    outputs = OUTPUTS[task]
    if task == "feature-extraction":
        source |= {"pooling": "mean", "normalize": True}
        outputs = ("embeddings",)
    yield ImportedModel(name, source, {}, {}, (task,))
    if task == "image-classification" or not (directory / "tokenizer.json").is_file():
        return
    tensors = ["input_ids", "attention_mask"]
    if config.get("type_vocab_size", 0) > 1:
        tensors.append("token_type_ids")
    wires = {tensor: tensor for tensor in tensors}
    # Those of a RoBERTa begin after the padding's; of two more positions than the text may have, none is lost.
    largest = int(config.get("max_position_embeddings") or _MAX_TOKENS)
    offset = int(config.get("pad_token_id") or 0) + 1 if "roberta" in config["model_type"] else 0
    yield ImportedModel(
        f"{name}_tokenizer",
        {
            "python": PROGRAM,
            "files": [relative(directory / "tokenizer.json", root)],
            "requirements": ["tokenizers>=0.20"],
        },
        {
            "max_batch_size": 4,
            "input": [{"name": "TEXT", "data_type": "TYPE_STRING", "dims": [1]}],
            "output": [{"name": t, "data_type": "TYPE_INT64", "dims": [-1]} for t in tensors],
            "parameters": {
                "max_tokens": str(largest - offset),
                "pad_id": str(config.get("pad_token_id") or 0),
                "pad_token": _pad_token(directory, int(config.get("pad_token_id") or 0)),
            },
        },
        {},
        ("texts → token ids, padded to the longest of a request",),
    )
    yield ImportedModel(
        f"{name}_text",
        {
            "steps": [
                {"model": f"{name}_tokenizer", "from": {"TEXT": "TEXT"}, "to": wires},
                {"model": name, "from": wires, "to": {output: output for output in outputs}},
            ]
        },
        {},
        {},
        (f"texts → {', '.join(outputs)}",),
    )


def _pad_token(directory: Path, number: int) -> str:
    added = _json(directory / "tokenizer.json")
    for token in added.get("added_tokens") or ():
        if token.get("id") == number:
            return str(token.get("content"))
    words = (added.get("model") or {}).get("vocab")
    by_number = {v: k for k, v in words.items()} if isinstance(words, dict) else {}
    return str(by_number.get(number, "[PAD]"))


def _json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(read_bounded(path, 64 << 20))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
