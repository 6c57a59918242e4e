"""A file of prompts, or none → what source and variant are asked; SpecError with file:line for a row that is no prompt.

A line is a text as JSON, or an object with `text` or `prompt` (asked as it is) or `messages` (put into the model's own form
by its chat template); of a file that ends in .txt it is the text itself. What else stands in an object is passed over, so
that a file of prompts for load tests will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tritonsmith.builder.base.errors import SpecError, Where
from tritonsmith.builder.base.files.untrusted import json_value, read_bounded

Prompt = str | list[dict[str, str]]
"""A text, or a chat: [{role, content}, …]."""

# fmt: off
BUILT_IN: tuple[str, ...] = (
    "The water cycle describes how water moves between the ocean, the air and the land. The sun warms the surface of "
    "the sea, water evaporates and rises, and as it cools it forms clouds, from which rain and snow",
    "Photosynthesis is the process by which green plants use sunlight to make sugar from carbon dioxide and water. It "
    "takes place in the leaves, in small bodies called chloroplasts, and it gives off",
    "In 1969 two astronauts walked on the surface of the Moon for the first time. Millions of people watched on "
    "television as the first of them stepped off the ladder and said that it was one small step for",
    "The capital of France is Paris, the capital of Italy is Rome, the capital of Japan is Tokyo, and the capital of "
    "Spain is",
    "To make tea, first bring fresh water to the boil. Put a spoon of tea leaves into a warm pot, pour the water over "
    "them, and wait for three to five minutes. Then",
    'def factorial(n):\n    """Return the product of the whole numbers from 1 to n."""\n    if n < 2:\n        return 1\n'
    '    return n * factorial(n - 1)\n\n\ndef fibonacci(n):\n    """Return the n-th Fibonacci number."""\n    if n < 2:',
    "Dear Ms. Smith,\n\nThank you for your letter of the third of May, in which you ask about the delivery of your "
    "order. We are sorry to hear that the parcel has not arrived. We have asked the carrier, and",
    "Once upon a time there lived an old fisherman in a small house by the sea. Every morning before the sun rose he "
    "pushed his boat into the water and rowed out to where the fish were. One day he caught",
    "Question: A train leaves the station at nine o'clock and travels at sixty kilometres an hour. How far has it gone "
    "at half past ten?\nAnswer: It travels for one and a half hours, and sixty times one and a half is",
    "The heart pumps blood through the body. Blood that is rich in oxygen leaves the left side of the heart through "
    "the aorta and reaches every organ; on its way back it carries carbon dioxide to the lungs, where",
    "A good password is long, is used in one place only, and cannot be guessed from what others know of its owner. It "
    "is best kept in a password manager, which can also make one, because people tend to",
    "Translate into French.\nEnglish: Good morning, how are you today?\nFrench: Bonjour, comment allez-vous "
    "aujourd'hui ?\nEnglish: Where is the railway station?\nFrench:",
    "The price of a good depends on how much of it is offered and how much of it is wanted. When the harvest is poor "
    "there is less wheat to be had, and if as many people as before want bread, its price",
    "Summary: The council met on Tuesday to discuss the new bridge. Most of its members were in favour, but several "
    "asked who would pay for it. After two hours it was decided that the engineers should",
    "There are three states of matter that we meet every day: solid, liquid and gas. In a solid the particles are held "
    "in fixed places; in a liquid they can move past one another; in a gas they",
    "SELECT name, price FROM products WHERE price > 100 ORDER BY price DESC;\n-- The number of orders of each "
    "customer:\nSELECT customer_id, COUNT(*) FROM orders",
)
# fmt: on
"""Asked where no file is named: prose, facts, code, a letter, arithmetic, a translation."""

_LIMIT_BYTES = 64 << 20
_TEXTS = ("text", "prompt", "text_input")
_VALID = ('{"text": "…"}', '{"prompt": "…"}', '{"messages": [{"role": "user", "content": "…"}]}', '"…"')


def read_prompts(path: Path | None) -> list[Prompt]:
    """In the file's order; the built-in ones without a file. SpecError bad_prompts."""
    if path is None:
        return list(BUILT_IN)
    prompts = [prompt for _, prompt in _rows(path)]
    if not prompts:
        raise SpecError("no prompt in the file", code="bad_prompts", where=Where(path), valid=_VALID)
    return prompts


def _rows(path: Path) -> Iterator[tuple[int, Prompt]]:
    """(line, prompt)"""
    try:
        # Not splitlines: inside a text of JSON U+2028, U+0085 and the like may stand as they are.
        lines = read_bounded(path, _LIMIT_BYTES).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise SpecError(f"prompts cannot be read: {error}", code="bad_prompts", where=Where(path)) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, line if path.suffix == ".txt" else _prompt(json_value(line.encode()))
        except ValueError as error:
            raise SpecError(
                f"no prompt: {str(error)[:200]}",
                code="bad_prompts",
                where=Where(path, number),
                seen=line[:80],
                valid=_VALID,
                fix="one prompt a line, as JSON; a text of its own on each line is a file that ends in .txt",
            ) from None


def _prompt(row: Any) -> Prompt:
    if isinstance(row, str):
        return _text(row, "a prompt")
    if not isinstance(row, Mapping):
        raise ValueError(f"a prompt is a text or an object, not {type(row).__name__}")
    for name in _TEXTS:
        if name in row:
            return _text(row[name], f"`{name}`")
    chat = row.get("messages")
    if not isinstance(chat, list) or not chat:
        raise ValueError(f"neither a text nor messages in it, only {', '.join(map(repr, row)) or 'nothing'}")
    if not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in chat
    ):
        raise ValueError("messages is a list of objects with `role` and `content`, both texts")
    return [{"role": m["role"], "content": m["content"]} for m in chat]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is a text that is not empty")
    return value
