"""A file of prompts → prompts, and one error with its line for what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritonsmith.builder.actions.language.prompts import BUILT_IN, read_prompts
from tritonsmith.builder.base.errors import SpecError

CHAT = [{"role": "user", "content": "Hello"}]


def written(tmp_path: Path, text: str, name: str = "p.jsonl") -> Path:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_each_form_of_a_line(tmp_path: Path) -> None:
    text = (
        '"one"\n\n{"text": "two", "max_tokens": 4}\n{"prompt": "drei ä"}\n'
        '{"messages": [{"role": "user", "content": "Hello", "name": "x"}]}\n'
    )
    assert read_prompts(written(tmp_path, text)) == ["one", "two", "drei ä", CHAT]


def test_a_text_files_lines_are_prompts_as_they_are(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, '{"not": json\nSay "x"\n', "p.txt")) == ['{"not": json', 'Say "x"']


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    text = '\ufeff"one\u2028two\x85"\r\n{"text": "three\u2029"}\n'
    assert read_prompts(written(tmp_path, text)) == ["one\u2028two\x85", "three\u2029"]
    assert read_prompts(written(tmp_path, "\ufeffa\x0cb\nc\r\n", "p.txt")) == ["a\x0cb", "c"]


def test_without_a_file_there_are_ours() -> None:
    assert read_prompts(None) == list(BUILT_IN) and len(set(BUILT_IN)) == 16


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", None, "no prompt in the file"),
        ('"a"\nb\n', 2, "no prompt"),
        ('{"answer": 1}', 1, "neither a text nor messages"),
        ('{"text": ""}', 1, "not empty"),
        ("[1]", 1, "not list"),
        ('{"messages": []}', 1, "neither a text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', 1, "both texts"),
    ],
)
def test_what_is_no_prompt_is_one_error_with_its_line(
    tmp_path: Path, text: str, line: int | None, told: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read_prompts(written(tmp_path, text))
    assert caught.value.code == "bad_prompts" and told in caught.value.message
    assert caught.value.where is not None and caught.value.where.line == line


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        read_prompts(tmp_path / "none.jsonl")
