"""Prompts of given lengths, from files in every form, and the one error of a row that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.tokens.files import prompts_from_file
from tritonsmith.perf.tokens.prompts import PromptOptions, made_up, text_of
from tritonsmith.perf.tokens.tokenizer import Tokenizer, tokenizer_from_file


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE that learned few words, so that most of the made-up ones are several tokens."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(["the water of the people is what they said"] * 9, trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    inner.save(str(path))
    return tokenizer_from_file(path)


def test_made_up_prompts_have_the_lengths_that_are_asked(tokenizer: Tokenizer) -> None:
    options = PromptOptions(isl=Span(3, 40), osl=Normal(20, 5), count=30)
    prompts = made_up(options, tokenizer)
    lengths = [tokenizer.count(text_of(prompt.messages)) for prompt in prompts]
    assert all(3 <= length <= 40 for length in lengths) and len(set(lengths)) > 8
    assert all(prompt.exactly and (prompt.output_tokens or 0) >= 1 for prompt in prompts)
    assert made_up(options, tokenizer) == prompts, "every draw is of the seed"
    assert len(set(map(repr, made_up(PromptOptions(count=30), None)))) == 30
    fixed = made_up(PromptOptions(isl=Span(17, 17), count=20), tokenizer)
    assert {tokenizer.count(text_of(prompt.messages)) for prompt in fixed} == {17}


def test_a_shared_prefix_is_shared_and_counted(tokenizer: Tokenizer) -> None:
    prompts = made_up(PromptOptions(isl=Span(64, 64), shared_prefix=48, count=8), None)
    words = [text_of(prompt.messages).split() for prompt in prompts]
    assert all(len(w) == 64 and w[:48] == words[0][:48] for w in words)
    assert len({tuple(w[48:]) for w in words}) == 8
    exact = [
        text_of(p.messages) for p in made_up(PromptOptions(isl=Span(64, 64), shared_prefix=47), tokenizer)
    ]
    assert {tokenizer.count(text) for text in exact} == {64}
    first = [tuple(tokenizer.encode(text)[:47]) for text in exact]
    assert len(set(first)) == 1


@pytest.mark.parametrize("isl", [Span(48, 48), Span(20, 90), Normal(40, 3)])
def test_a_shared_prefix_that_fills_the_prompts_is_refused(isl: Any) -> None:
    with pytest.raises(UsageError, match="no token of their own") as caught:
        made_up(PromptOptions(isl=isl, shared_prefix=48), None)
    assert "--shared-prefix 48" in str(caught.value.seen)


@pytest.mark.parametrize("words", [False, True], ids=["tokenizer", "words"])
def test_a_trace_has_its_lengths_and_its_shared_blocks(
    tmp_path: Path, tokenizer: Tokenizer, words: bool
) -> None:
    rows = [(40, [1]), (512, [1]), (1300, [1, 2, 3]), (1300, [1, 2]), (1024, [1, 2]), (9, [])]
    path = tmp_path / "trace.jsonl"
    path.write_text(
        "\n".join(json.dumps({"timestamp": 0, "input_length": n, "hash_ids": ids}) for n, ids in rows)
    )
    prompts = prompts_from_file(PromptOptions(file=path), None if words else tokenizer)
    texts = [text_of(prompt.messages) for prompt in prompts]
    count = (lambda text: len(text.split())) if words else tokenizer.count
    assert [count(text) for text in texts] == [n for n, _ in rows]
    assert texts[1].startswith(texts[0]) and texts[2].startswith(texts[4]) and texts[3].startswith(texts[4])
    assert texts[2] != texts[3]


ROWS: list[tuple[Any, str, int | None]] = [
    ("just a text", "just a text", None),
    ({"text": "a", "output_tokens": 9}, "a", 9),
    ({"prompt": "b", "max_tokens": 7}, "b", 7),
    ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "c"}]}, "s\nc", None),
    ({"conversations": [{"from": "human", "value": "d"}, {"from": "gpt", "value": "e"}]}, "d", None),
    ({"input_length": 3, "output_length": 2}, "", 2),
]


@pytest.mark.parametrize("as_list", [False, True], ids=["JSON lines", "one list"])
def test_every_form_of_a_row_is_read(tmp_path: Path, as_list: bool) -> None:
    path = tmp_path / "prompts.json"
    rows = [row for row, _, _ in ROWS]
    path.write_text(json.dumps(rows) if as_list else "\n\n".join(map(json.dumps, rows)))
    prompts = prompts_from_file(PromptOptions(file=path, count=100), None)
    for prompt, (_, text, output) in zip(prompts, ROWS, strict=True):
        assert prompt.output_tokens == output
        assert text_of(prompt.messages) == text or (not text and len(text_of(prompt.messages).split()) == 3)
    assert [prompt.exactly for prompt in prompts] == [False] * 5 + [True]
    assert len(prompts_from_file(PromptOptions(file=path, count=2), None)) == 2


def test_a_chat_becomes_a_session_turn_by_turn(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    says = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    path.write_text(json.dumps([{"id": "1", "conversations": [{"from": f, "value": v} for f, v in says]}]))
    (session,) = prompts_from_file(PromptOptions(file=path, sessions=True), None)
    assert text_of(session.messages) == "a" and session.later == ("c",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("3", "a prompt is a text or an object"),
        ('{"question": "a"}', "no prompt in it, only 'question'"),
        ('{"text": ""}', "is a text that is not empty"),
        ('{"messages": []}', "a chat is a list"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "without a word of the user"),
        ('{"text": "a", "output_tokens": 0}', "at least one token"),
        ('{"input_length": "long"}', "whole number"),
        ('{"input_length": 5, "hash_ids": ["x"]}', "list of whole numbers"),
        ('{"input_length": 512, "hash_ids": [1, 2]}', "2 hash_ids are as many blocks of 512 tokens"),
        ('{"text": "a", "timestamp": -1}', "milliseconds"),
    ],
)
def test_a_row_that_is_none_is_one_error_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"text": "fine"}}\n\n{line}\n')
    with pytest.raises(UsageError) as caught:
        prompts_from_file(PromptOptions(file=path), None)
    assert caught.value.code == "bad_prompts" and said in str(caught.value)
    assert f"{path}:3" in str(caught.value)


def test_timestamps_are_of_all_rows_or_none(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a", "timestamp": 5}\n{"text": "b"}')
    with pytest.raises(UsageError, match="others none"):
        prompts_from_file(PromptOptions(file=path), None)


@pytest.mark.parametrize("length", [Span(0, 0), Span(0, 5)])
def test_no_length_is_zero(length: Span) -> None:
    with pytest.raises(UsageError, match="at least one token"):
        made_up(PromptOptions(osl=length), None)


@pytest.mark.parametrize("data", [b"", b"{}", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 16])
def test_a_file_that_is_no_tokenizer_is_one_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        tokenizer_from_file(path)
    assert caught.value.code == "bad_tokenizer"


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        # What SmolLM2's, Qwen2.5's and Llama 3's tokenizer.json cut it into; GPT-2's.
        ("smollm", "I|'|LL|Ġpay|Ġ|1|2|3|4|5|.|ĊĊĠ|Ġok"),
        ("qwen2", "I|'LL|Ġpay|Ġ|1|2|3|4|5|.ĊĊ|Ġ|Ġok"),
        ("llama-bpe", "I|'LL|Ġpay|Ġ|123|45|.ĊĊ|Ġ|Ġok"),
        ("gpt-2", "I|'|LL|Ġpay|Ġ12345|.|ĊĊĠ|Ġok"),
    ],
)
def test_a_gguf_files_words_are_cut_as_its_model_cuts_them(tmp_path: Path, pre: str, words: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    # Every word a token, so that the tokens tell how the text was cut.
    parts = list(dict.fromkeys(words.split("|")))
    letters = list(dict.fromkeys("".join(parts)))
    made: list[str] = []
    merges: list[str] = []
    for part in parts:
        for end in range(2, len(part) + 1):
            made.append(part[:end])
            merges.append(f"{part[: end - 1]} {part[end - 1]}")
    writer.add_token_list(list(dict.fromkeys([*letters, *made])))
    writer.add_token_merges(list(dict.fromkeys(merges)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    read = tokenizer_from_file(tmp_path / "m.gguf")
    text = "I'LL pay 12345.\n\n  ok"
    assert [read.decode([i]) for i in read.encode(text)] == [
        w.replace("Ġ", " ").replace("Ċ", "\n") for w in words.split("|")
    ]
    assert read.decode(read.encode(text)) == text
