"""A model's tokenizer (tokenizer.json, or what a GGUF file has of one) → texts as tokens, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import ToolError, UsageError, Where
from tritonsmith.builder.base.files.untrusted import open_regular
from tritonsmith.builder.llm.gguf import read_gguf

_MAGIC = b"GGUF"
# tokenizer.ggml.pre → what the models' own tokenizer.json have; llama.cpp, src/llama-vocab.cpp, lists them by name.
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_BY_KIND = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = {
    name: _BY_KIND.format(digits=digits)
    for names, digits in ((("llama-bpe", "llama3", "llama-v3"), "{1,3}"), (("qwen2", "stablelm2"), ""))
    for name in names
}
_CONTROL = 3  # of tokenizer.ggml.token_type: never part of a text


class Tokenizer:
    """Whole texts in and out, without what a chat template or a model adds at the ends."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        """The tokens' ids."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of some tokens."""
        return str(self._inner.decode(ids, skip_special_tokens=False))

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._inner.encode(text, add_special_tokens=False).ids)


def tokenizer_from_file(path: Path) -> Tokenizer:
    """tokenizer.json, a directory that holds one, or a GGUF file with a byte-level BPE ("gpt2"). UsageError for another
    file, ToolError where the library `tokenizers` is missing."""
    try:
        import tokenizers
    except ImportError:
        raise ToolError(
            "counting tokens needs the library `tokenizers`",
            code="no_tokenizers",
            fix="pip install tokenizers",
        ) from None
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        with open_regular(path) as file:
            is_gguf = file.read(4) == _MAGIC
        inner = _from_gguf(path) if is_gguf else tokenizers.Tokenizer.from_file(str(path))
    except UsageError:
        raise
    except Exception as error:  # tokenizers raises Exception itself for a file that is none
        raise UsageError(
            f"not a tokenizer: {str(error)[:200]}",
            code="bad_tokenizer",
            where=Where(path),
            fix="give the model's tokenizer.json or its GGUF file",
        ) from None
    return Tokenizer(inner)


def _from_gguf(path: Path) -> Any:
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as Inner

    known = read_gguf(path, lists="tokenizer.ggml.").values
    kind = known.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UsageError(
            "the GGUF file's tokenizer is of a kind that is not read here",
            code="bad_tokenizer",
            where=Where(path),
            seen=kind,
            valid=["gpt2 (byte-level BPE)"],
            fix="give the model's tokenizer.json",
        )
    tokens: list[str] = known["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in known.get("tokenizer.ggml.merges", [])]
    inner = Inner(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = _pre_tokenizer(str(known.get("tokenizer.ggml.pre", "")))
    inner.decoder = decoders.ByteLevel()
    types = known.get("tokenizer.ggml.token_type", [])
    special = [token for token, type_ in zip(tokens, types, strict=False) if type_ == _CONTROL]
    inner.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return inner


def _pre_tokenizer(name: str) -> Any:
    """What cuts a text into words before it is merged: the file has its name alone. GPT-2's for a name that is not here."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if name in _DIGITS:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if name in _PATTERNS:
        by_pattern = Split(Regex(_PATTERNS[name]), "isolated")
        return Sequence([by_pattern, ByteLevel(add_prefix_space=False, use_regex=False)])
    return ByteLevel(add_prefix_space=False)
