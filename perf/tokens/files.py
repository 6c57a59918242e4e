"""A file of prompts (JSON lines, ShareGPT's JSON, a trace of timestamps and lengths) → Prompts.

A line is a text, or an object with `text`, `prompt`, `text_input` or `messages`; with ShareGPT's `conversations`; or with
`input_length` and `hash_ids` of a trace in Mooncake's form, whose text is made up. `output_length` (`output_tokens`,
`max_tokens`) and `timestamp` (milliseconds) may stand beside; other fields are the request's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import UsageError, Where
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded
from tritonsmith.perf.tokens.prompts import Message, Prompt, PromptOptions, TraceText, check_length, user
from tritonsmith.perf.tokens.tokenizer import Tokenizer

_LIMIT_BYTES = 2 << 30
_TEXTS = ("text", "prompt", "text_input")
_OUTPUT = ("output_length", "output_tokens", "max_tokens")
_OWN = (
    *_TEXTS,
    *_OUTPUT,
    "messages",
    "conversations",
    "input_length",
    "hash_ids",
    "timestamp",
    "id",
    "session_id",
)
_FORMS = ("text", "prompt", "messages", "conversations", "input_length")
_USERS = ("human", "user")


def prompts_from_file(options: PromptOptions, tokenizer: Tokenizer | None) -> list[Prompt]:
    """At most options.count of them, in the file's order, or by timestamp where all have one; UsageError with file:line
    for the first row that is none."""
    assert options.file is not None
    path, trace = options.file, TraceText(options.seed, tokenizer)
    rng = np.random.default_rng([options.seed, 7])
    if options.osl is not None:
        check_length("--osl", options.osl)
    prompts: list[Prompt] = []
    for line, row in _rows(path):
        if len(prompts) == options.count:
            break
        try:
            prompt = prompt_from_row(row, line, trace, options.sessions)
        except (ValueError, TypeError) as error:
            raise UsageError(str(error), code="bad_prompts", where=Where(path, line), valid=_FORMS) from None
        if options.osl is not None:
            prompt = replace(prompt, output_tokens=options.osl.draw(rng), exactly=True)
        prompts.append(prompt)
    timed = sum(prompt.at_ns is not None for prompt in prompts)
    if not prompts or 0 < timed < len(prompts):
        why = "some rows have a timestamp and others none" if prompts else "no prompt in the file"
        raise UsageError(why, code="bad_prompts", where=Where(path))
    return sorted(prompts, key=lambda prompt: prompt.at_ns or 0) if timed else prompts


def prompt_from_row(row: Any, number: int, trace: TraceText, sessions: bool = False) -> Prompt:
    """One row; ValueError says what is wrong with it. number: the row's, from which text is made up.

    sessions: a chat is played turn by turn; else it is one request that ends with its last word of the user, of ShareGPT
    with the first.
    """
    if isinstance(row, str):
        return Prompt(user(row))
    if not isinstance(row, Mapping):
        raise ValueError(f"a prompt is a text or an object, not {type(row).__name__}")
    prompt = _asked(row, number, trace, sessions)
    output = next((row[name] for name in _OUTPUT if row.get(name) is not None), None)
    if output is not None and (_whole(output, "output_length") < 1):
        raise ValueError(f"an answer has at least one token, not {output}")
    at_ms = row.get("timestamp")
    if at_ms is not None and (isinstance(at_ms, bool) or not isinstance(at_ms, int | float) or at_ms < 0):
        raise ValueError(f"timestamp is a number of milliseconds, not {at_ms!r}")
    return replace(
        prompt,
        output_tokens=output,
        exactly="input_length" in row,
        at_ns=None if at_ms is None else round(at_ms * 1e6),
        parameters={name: value for name, value in row.items() if name not in _OWN},
    )


def _asked(row: Mapping[str, Any], number: int, trace: TraceText, sessions: bool) -> Prompt:
    for name in _TEXTS:
        if name in row:
            if not isinstance(row[name], str) or not row[name]:
                raise ValueError(f"`{name}` is a text that is not empty")
            return Prompt(user(row[name]))
    if "messages" in row:
        return _of_chat(_messages(row["messages"], "role", "content"), sessions, whole=True)
    if "conversations" in row:
        return _of_chat(_messages(row["conversations"], "from", "value"), sessions, whole=False)
    if "input_length" in row:
        hash_ids = row.get("hash_ids") or []
        if not isinstance(hash_ids, list) or not all(type(n) is int and n >= 0 for n in hash_ids):
            raise ValueError("hash_ids is a list of whole numbers")
        return Prompt(user(trace.of(number, max(1, _whole(row["input_length"], "input_length")), hash_ids)))
    raise ValueError(f"no prompt in it, only {', '.join(map(repr, row)) or 'nothing'}"[:200])


def _messages(value: Any, role: str, content: str) -> list[Message]:
    good = isinstance(value, list) and value
    if not good or not all(isinstance(m, Mapping) and isinstance(m.get(role), str) for m in value):
        raise ValueError(f"a chat is a list of objects with `{role}` and `{content}`")
    if any(not isinstance(m.get(content), str | list) for m in value):
        raise ValueError(f"a message has no `{content}`")
    return [
        m if role == "role" else {"role": "user" if m[role] in _USERS else m[role], "content": m[content]}
        for m in value
    ]


def _of_chat(messages: list[Message], sessions: bool, *, whole: bool) -> Prompt:
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not asked:
        raise ValueError("a chat without a word of the user")
    if sessions:
        return Prompt(tuple(messages[: asked[0] + 1]), tuple(str(messages[i]["content"]) for i in asked[1:]))
    return Prompt(tuple(messages[: asked[-1 if whole else 0] + 1]))


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"`{name}` is a whole number, not {value!r}")
    return value


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of JSON lines, or of one JSON list, whose rows count as lines."""
    try:
        data = read_bounded(path, _LIMIT_BYTES)
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or str(error)
        raise UsageError(f"prompts cannot be read: {why}", code="bad_prompts", where=Where(path)) from None
    if data.lstrip()[:1] == b"[":
        value = _parsed(data, path, None)
        yield from enumerate(value, 1)
        return
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            yield number, _parsed(line, path, number)


def _parsed(data: bytes, path: Path, line: int | None) -> Any:
    try:
        return json_value(data)
    except ValueError as error:
        raise UsageError(
            f"not JSON: {str(error)[:200]}",
            code="bad_prompts",
            where=Where(path, line),
            fix='a line each: {"text": "…"}, {"messages": […]} or {"input_length": 512, "timestamp": 0}',
        ) from None
