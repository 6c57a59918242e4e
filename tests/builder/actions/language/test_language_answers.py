"""What the embedded server's engine says of a model's answers, held against an account of the model in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf
import pytest

from tests.builder.actions.language.numpy_llama import logits_of, nll_of
from tests.tiny_gguf import tiny_gguf
from tritonsmith.builder.actions.language.prompts import Prompt
from tritonsmith.builder.actions.language.quantize import quantize_gguf
from tritonsmith.builder.actions.language.run import Answers, NotLoaded, answers_of
from tritonsmith.builder.base.errors import BuildError, ToolError
from tritonsmith.builder.base.machine.server_home import HOME_VARIABLE, language_python

needs_engine = pytest.mark.skipif(
    language_python() is None, reason="no engine: tritonsmith server install --with vllm"
)
PROMPTS: list[Prompt] = ["Tell me a story", [{"role": "user", "content": "What is the capital of France?"}]]


def asked(
    path: Path, scratch: Path, prompts: Sequence[Prompt] = PROMPTS, reference: Answers | None = None
) -> Answers:
    return answers_of(path, prompts, reference, scratch / "ov", scratch / "log", "chat")


@pytest.mark.server
@needs_engine
def test_perplexity_and_first_tokens_are_those_of_the_model_as_it_is_written(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf")
    answers = asked(path, tmp_path)
    assert len(answers.sequences) == 2
    for sequence, score in zip(answers.sequences, answers.scores, strict=True):
        prompt, answer = list(sequence.prompt), list(sequence.answer)
        logits = logits_of(path, prompt + answer)
        assert score.nll == pytest.approx(nll_of(logits, prompt), rel=1e-3)
        assert score.tokens == len(prompt) - 1 and len(score.top) == len(answer)
        # Two tokens as good as each other may change places with the order of a sum.
        best = logits[len(prompt) - 1 : -1]
        lost = best.max(-1) - best[range(len(answer)), list(score.top)]
        assert lost.max() < 0.02 and (lost == 0).mean() > 0.9
    # The chat is put into the model's own form.
    told = gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].contents()
    assert told[answers.sequences[1].prompt[0]] == "<|im_start|>"


@pytest.mark.server
@needs_engine
def test_another_file_is_scored_on_the_sources_answers(tmp_path: Path) -> None:
    source, other = tiny_gguf(tmp_path / "m.gguf"), tiny_gguf(tmp_path / "n.gguf", seed=1)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    reference = asked(source, tmp_path / "a")
    given = asked(other, tmp_path / "b", reference=reference)
    assert given.sequences == reference.sequences
    agreed = [
        a == b
        for x, y in zip(reference.scores, given.scores, strict=True)
        for a, b in zip(x.top, y.top, strict=True)
    ]
    assert sum(agreed) / len(agreed) < 0.2


@pytest.mark.server
@needs_engine
@pytest.mark.parametrize("precision", ["bf16", "q5_0"])
def test_a_type_that_the_engine_does_not_read_is_said_in_its_words(tmp_path: Path, precision: str) -> None:
    quantize_gguf(tiny_gguf(tmp_path / "m.gguf"), precision, tmp_path / "n.gguf")
    with pytest.raises(NotLoaded, match=r"nsupported|failed"):
        asked(tmp_path / "n.gguf", tmp_path)


@pytest.mark.server
@needs_engine
def test_prompts_that_nothing_can_be_measured_on(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", chat_template=False)
    with pytest.raises(BuildError) as caught:
        asked(path, tmp_path, ["Tell me a story", "x"])
    assert caught.value.code == "short_prompt" and caught.value.seen == "x"


def test_without_the_engine_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    half_made = tmp_path / "layers" / f"triton-2.51.0-python-3.11-{'0' * 16}-vllm-{'1' * 16}"
    (half_made / "bin").mkdir(parents=True)
    (half_made / "bin" / "python3").touch()
    (half_made / "lib/python3.11/site-packages/openvino_genai-2026.4.1.0.dist-info").mkdir(parents=True)
    assert language_python() is None  # it has no marker yet
    with pytest.raises(ToolError) as caught:
        asked(tmp_path / "m.gguf", tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("language_engine_missing", 3)
    assert caught.value.fix == "tritonsmith server install --with vllm"
    (half_made / "tritonsmith.json").touch()
    found = language_python()
    assert found is not None and found.version == "2026.4.1.0"
