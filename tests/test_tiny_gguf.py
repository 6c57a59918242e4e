"""The small language model of the tests: small, the same each time, and a GGUF that says what it is."""

from __future__ import annotations

from pathlib import Path

import gguf

from tests.tiny_gguf import CHAT_TEMPLATE, tiny_gguf, tiny_tokenizer


def test_the_small_model_is_the_same_for_the_same_seed_and_another_for_another(tmp_path: Path) -> None:
    first, again, other = (tiny_gguf(tmp_path / f"{n}.gguf", seed=n // 2) for n in range(3))

    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert first.stat().st_size < 5_000_000


def test_the_small_model_has_a_chat_template_only_where_one_is_asked_for(tmp_path: Path) -> None:
    field = "tokenizer.chat_template"
    chat = gguf.GGUFReader(tiny_gguf(tmp_path / "chat.gguf"))
    base = gguf.GGUFReader(tiny_gguf(tmp_path / "base.gguf", chat_template=False))

    assert chat.fields[field].contents() == CHAT_TEMPLATE
    assert field not in base.fields


def test_its_tokenizer_spells_any_text() -> None:
    text = "Tell me a story é 😀 of 12"

    assert tiny_tokenizer().decode(tiny_tokenizer().encode(text).ids) == text
