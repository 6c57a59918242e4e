"""A model's tokenizer (tokenizer.json, or what a GGUF file has of one) → texts as tokens, and back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tritonsmith.builder.base.errors import ToolError, UsageError, Where
from tritonsmith.builder.base.files.untrusted import open_regular

_MAGIC = b"GGUF"
_MOST = 1 << 24  # of keys, of an array's values and of a text's bytes
# GGUF's types of numbers (ggml, docs/gguf.md, "File Structure"); 8 is a text, 9 an array.
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
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

    with open_regular(path) as file:
        known = dict(_gguf_fields(file, "tokenizer.ggml."))
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


def _gguf_fields(file: BinaryIO, prefix: str) -> Iterator[tuple[str, Any]]:
    """Keys that begin so and their values (ggml, docs/gguf.md); ValueError for what is no GGUF of version 2 or 3."""
    magic, version, _, count = struct.unpack("<4sIQQ", _exactly(file, 24))
    if magic != _MAGIC or version not in (2, 3) or count > _MOST:
        raise ValueError(f"GGUF version {version} is not read")
    for _ in range(count):
        name = _text(file)
        (kind,) = struct.unpack("<I", _exactly(file, 4))
        value = _value(file, kind)
        if name.startswith(prefix):
            yield name, value


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == 8:
        return _text(file)
    if kind == 9:
        of, length = struct.unpack("<IQ", _exactly(file, 12))
        if length > _MOST:
            raise ValueError("an array that is too long")
        if of in _NUMBERS:
            form = _NUMBERS[of]
            data = _exactly(file, struct.calcsize(form) * length)
            return [number for (number,) in struct.iter_unpack(form, data)]
        return [_value(file, of) for _ in range(length)]
    if kind not in _NUMBERS:
        raise ValueError(f"a value of unknown type {kind}")
    return struct.unpack(_NUMBERS[kind], _exactly(file, struct.calcsize(_NUMBERS[kind])))[0]


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    return _exactly(file, length).decode("utf-8", "replace")


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size) if size <= _MOST else b""
    if len(data) != size:
        raise ValueError("it ends before its fields do")
    return data
