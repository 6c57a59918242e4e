"""Lengths in tokens, or what a file says → the prompts of a load, and how long their answers are to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data.distribution import Distribution, Normal, Span

if TYPE_CHECKING:
    from tritonsmith.perf.tokens.tokenizer import Tokenizer

Message = Mapping[str, Any]
"""Of OpenAI's chat: role and content."""

DEFAULT_ISL = DEFAULT_OSL = Span(128, 128)
ONE = Span(1, 1)
TRACE_BLOCK_TOKENS = 512
"""What one of a trace's hash_ids stands for (Mooncake, FAST25-release, README: "block size of 512")."""
_MOST_BYTES = 2 << 30
_FEW_TRIES = 8
# Short English words, which tokenizers that learned from English have whole, with the blank before them.
_TEXT = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part
"""
_WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request, or one session of several.

    messages:      what is asked, as a chat; of a plain text one message of the user.
    later:         what the user says next, each after the answer to what went before; of sessions only.
    output_tokens: how many tokens are asked for; None: as the server likes.
    exactly:       the answer is to be so long, whatever the model would say (ignore_eos, min_tokens).
    at_ns:         when it is due in a trace.
    parameters:    fields of the request beside.
    """

    messages: tuple[Message, ...]
    later: tuple[str, ...] = ()
    output_tokens: int | None = None
    exactly: bool = False
    at_ns: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """Where prompts come from, as asked.

    file:          JSON lines or ShareGPT's JSON; None: text is made up.
    isl, osl:      input and output lengths in tokens; None: 128 where text is made up, else as the file says.
    shared_prefix: tokens at the front that all made-up prompts share.
    turns:         user's turns of a made-up session; sessions alone have more than one.
    count:         different prompts made, or read at most.
    """

    file: Path | None = None
    isl: Distribution | None = None
    osl: Distribution | None = None
    shared_prefix: int = 0
    turns: Distribution = ONE
    count: int = 512
    sessions: bool = False
    seed: int = 0


def user(text: str) -> tuple[Message, ...]:
    """A text as a chat of one message."""
    return ({"role": "user", "content": text},)


def text_of(messages: Sequence[Message]) -> str:
    """A chat for a model that takes plain text: the contents, a line each."""
    return "\n".join(content_of(message) for message in messages)


def content_of(message: Message) -> str:
    """A message's text; of a list of parts, that of those which are text."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def made_up(options: PromptOptions, tokenizer: Tokenizer | None) -> list[Prompt]:
    """`count` prompts of random words, every draw from the seed. Without a tokenizer a word counts as a token."""
    rng = np.random.default_rng([options.seed, 7])
    isl, osl = options.isl or DEFAULT_ISL, options.osl or DEFAULT_OSL
    check_length("--isl", isl)
    check_length("--osl", osl)
    _check_prefix(options.shared_prefix, isl)
    shared = text_of_length(options.shared_prefix, np.random.default_rng([options.seed, 8]), tokenizer)
    blank = " " if shared else ""
    prompts = []
    for _ in range(options.count):
        turns = options.turns.draw(rng) if options.sessions else 1
        own = max(1, isl.draw(rng) - options.shared_prefix)
        first = shared + text_of_length(own, rng, tokenizer, blank)
        later = tuple(text_of_length(isl.draw(rng), rng, tokenizer) for _ in range(turns - 1))
        prompts.append(Prompt(user(first), later, osl.draw(rng), exactly=True))
    return prompts


def check_length(flag: str, length: Distribution) -> None:
    """UsageError when it may be 0 tokens, which no server takes."""
    least = 1 if isinstance(length, Normal) else length.low
    if least < 1:
        raise UsageError("a length is at least one token", code="bad_length", seen=f"{flag} {least:g}")


def _check_prefix(prefix: int, isl: Distribution) -> None:
    """UsageError when prompts would be longer than asked for, to have a word of their own."""
    shortest = isl.mean if isinstance(isl, Normal) else isl.low
    if prefix and prefix >= shortest:
        raise UsageError(
            "the shared prefix leaves the prompts no token of their own",
            code="bad_length",
            seen=f"--shared-prefix {prefix} of --isl {shortest:g}",
            fix=f"--isl {prefix + 64}, which counts the prefix in",
        )


def text_of_length(tokens: int, rng: np.random.Generator, tokenizer: Tokenizer | None, lead: str = "") -> str:
    """Random words of so many tokens: exactly by the tokenizer (but for what its model joins at the edges), else a word
    each. lead: the blank between a text before it and this one, which counts with it."""
    if tokens <= 0:
        return ""
    text = lead + " ".join(_WORDS[i] for i in rng.integers(0, len(_WORDS), tokens))
    if tokenizer is None:
        return text
    text = cut_to(tokens, text, tokenizer)
    for _ in range(_FEW_TRIES):  # what was cut may be read as other tokens
        missing = tokens - tokenizer.count(text)
        if missing == 0:
            break
        if missing < 0:
            text = cut_to(tokens, text, tokenizer)
        else:
            text += "".join(" " + _WORDS[i] for i in rng.integers(0, len(_WORDS), missing))
    return text if text.startswith(lead) else lead + text  # some decoders drop the first blank


def cut_to(tokens: int, text: str, tokenizer: Tokenizer | None) -> str:
    """The text's first tokens; without a tokenizer its first words."""
    if tokenizer is not None:
        return tokenizer.decode(tokenizer.encode(text)[:tokens])
    lead = " " if text.startswith(" ") else ""
    return lead + " ".join(text.split()[:tokens])


class TraceText:
    """The text of a trace's requests: equal hash_ids give equal blocks of text, so that prefixes are shared as there."""

    def __init__(self, seed: int, tokenizer: Tokenizer | None) -> None:
        self._seed, self._tokenizer = seed, tokenizer
        self._blocks: dict[tuple[int, str], str] = {}
        self._bytes = 0

    def of(self, row: int, tokens: int, hash_ids: Sequence[int]) -> str:
        """The request's in the trace's `row`; ValueError when it has more blocks than tokens fill, UsageError when all of
        it is more than memory should hold."""
        blocks = [self._block(number, " " if place else "") for place, number in enumerate(hash_ids)]
        last = tokens - TRACE_BLOCK_TOKENS * (len(blocks) - 1)
        if blocks and last <= 0:
            raise ValueError(
                f"{len(blocks)} hash_ids are as many blocks of {TRACE_BLOCK_TOKENS} tokens, and input_length is {tokens}"
            )
        if blocks and last < TRACE_BLOCK_TOKENS:  # the last block is not full
            blocks[-1] = cut_to(last, blocks[-1], self._tokenizer)
        missing = tokens - TRACE_BLOCK_TOKENS * len(blocks)
        if missing > 0:
            own = np.random.default_rng([self._seed, 10, row])
            blocks.append(text_of_length(missing, own, self._tokenizer, " " if blocks else ""))
        text = "".join(blocks)
        self._bytes += len(text)
        if self._bytes > _MOST_BYTES:
            raise UsageError(
                "the trace's prompts are more than 2 GiB of text",
                code="trace_too_large",
                fix="--requests 1000",
            )
        return text

    def _block(self, number: int, lead: str) -> str:
        if (number, lead) not in self._blocks:
            rng = np.random.default_rng([self._seed, 9, number])
            self._blocks[number, lead] = text_of_length(TRACE_BLOCK_TOKENS, rng, self._tokenizer, lead)
        return self._blocks[number, lead]
