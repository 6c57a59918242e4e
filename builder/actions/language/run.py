"""(a GGUF file, a type) → a GGUF file of that type; (a GGUF file, prompts or answers) → Answers: each by a child process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.builder.actions.convert.coverage import Coverage
from tritonsmith.builder.actions.language.measures import Score
from tritonsmith.builder.actions.language.prompts import Prompt
from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.files.json_forms import JsonForm
from tritonsmith.builder.base.machine.server_home import needed_language_python
from tritonsmith.builder.base.processes.child import ChildTask, run_child

_WORKER = "tritonsmith.builder.actions.language.worker"
_PROGRAM = Path(__file__).with_name("openvino_answers.py")

ANSWER_TOKENS = 48
"""Of each greedy answer at most: what the built-in prompts give then, 768 positions, tells 0.95 from 0.97."""


@dataclass(frozen=True, slots=True)
class Asked(JsonForm):
    """A prompt and the source's greedy answer to it, as tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Answers(JsonForm):
    """One of each a prompt, in the prompts' order."""

    sequences: tuple[Asked, ...]
    scores: tuple[Score, ...]


class NotLoaded(Exception):
    """The engine does not take the file; the text is its own."""


def write_gguf(source: Path, precision: str | None, made: Path, log: Path, what: str) -> Coverage | None:
    """precision: None for F16 with the values that the file has. Errors: of quantize; ToolError llm_missing."""
    task = ChildTask(_WORKER, f"writing the weights of {what}", "weights")
    request = {"source": str(source.absolute()), "precision": precision, "name": made.name}
    answer = run_child(task, request, made.parent, log)
    return Coverage.from_dict(answer["coverage"]) if "coverage" in answer else None


def answers_of(
    gguf: Path, prompts: Sequence[Prompt], reference: Answers | None, scratch: Path, log: Path, what: str
) -> Answers:
    """reference: the source's, which are scored by this file; None: this is the source, and it answers first.

    scratch: an empty directory. NotLoaded; BuildError no_chat_template, short_prompt, other_tokenizer; ToolError
    language_engine_missing.
    """
    engine = needed_language_python()
    program = (str(engine.python), "-I", str(_PROGRAM))
    task = ChildTask("", f"comparing answers of {what}", "answers", program=program)
    request = {
        "gguf": os.path.realpath(gguf),
        "prompts": list(prompts),
        "max_tokens": ANSWER_TOKENS,
        "sequences": None if reference is None else [s.as_dict() for s in reference.sequences],
    }
    answer = run_child(task, request, scratch, log)
    if "refused" in answer:
        raise _refusal(answer["refused"], answer["words"], prompts, what)
    return Answers.from_dict(answer)


def _refusal(code: str, words: str, prompts: Sequence[Prompt], what: str) -> Exception:
    if code == "not_loaded":
        return NotLoaded(words)
    if code == "no_chat_template":
        return BuildError(
            f"{what}: a prompt is a chat, and the weights' chat template does not take it",
            code=code,
            seen=words,
            fix='prompts in the model\'s own form: {"text": "…"}',
        )
    if code == "other_tokenizer":
        return BuildError(
            f"{what}: its tokenizer makes other tokens of the prompts than the source's",
            code=code,
            fix="a file of the same model: nothing can be compared token by token else",
        )
    shown: Mapping[str, Any] = {"seen": str(prompts[int(words)])[:80]}
    return BuildError(
        f"{what}: a prompt of fewer than two tokens has no perplexity",
        code=code,
        fix="a longer prompt",
        **shown,
    )
