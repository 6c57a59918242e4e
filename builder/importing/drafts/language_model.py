"""A language model's file, directory or name → the entry of a first spec that serves it, with what its files say of it."""

from __future__ import annotations

from pathlib import Path

from tritonsmith.builder.base.text.quantities import text_of_bytes
from tritonsmith.builder.importing.imported import ImportedModel
from tritonsmith.builder.llm.weights import is_language_model, json_of, read_weights

_SOME_TOKENS = 4096


def is_fetched_decoder(name: str) -> bool:
    """Whether the hub's cache on this machine has a language model of the name; nothing is fetched."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):
        return False
    return isinstance(found, str) and is_language_model(json_of(Path(found)))


def language_model(name: str, reference: str, path: Path | None) -> ImportedModel:
    """reference: as the spec has it; path: None of a model of the hub. SpecError for what no engine reads."""
    if path is None:
        return ImportedModel(
            name, {"llm": reference}, {"backend": "vllm"}, {}, ("fetched by the server", _bounds(None))
        )
    weights = read_weights(path)
    said = [weights.architecture, text_of_bytes(weights.weight_bytes)]
    if weights.positions is not None:
        said.append(f"at most {weights.positions} tokens")
    if not weights.chat_template:
        said.append("no chat template")
    told = (", ".join(said), _bounds(weights.positions))
    return ImportedModel(name, {"llm": reference}, {"backend": "vllm"}, {}, told)


def _bounds(positions: int | None) -> str:
    length = min(_SOME_TOKENS, positions or _SOME_TOKENS)
    return f"engine: {{max_model_len: {length}, max_num_seqs: 32}} bounds what the cache takes"
