"""The source's answers as a cache has them → what is wrong with them, so that they are asked anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tritonsmith.builder.actions.language.action import fault_of_answers

GOOD = {
    "sequences": [{"prompt": [1, 2], "answer": [3]}],
    "scores": [{"top": [3], "nll": 0.5, "tokens": 1}],
}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps(GOOD), None),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({**GOOD, "scores": []}), "do not go together"),
        (json.dumps({"sequences": [], "scores": []}), "do not go together"),
        (json.dumps(GOOD).replace('"top": [3]', '"top": [3, 4]'), "do not go together"),
        (json.dumps(GOOD).replace('"top": [3]', '"top": ["x"]'), "cannot be read"),
        (json.dumps(GOOD).replace('"tokens": 1', '"tokens": 0'), "no token"),
        (json.dumps(GOOD).replace("0.5", '"much"'), "cannot be read"),
    ],
)
def test_answers_that_nothing_can_be_held_against_are_refused(
    tmp_path: Path, text: str, told: str | None
) -> None:
    (tmp_path / "answers.json").write_text(text)
    found = fault_of_answers(tmp_path)
    assert list(found) == [] if told is None else told in found[0]


def test_a_source_that_the_engine_does_not_take_has_none(tmp_path: Path) -> None:
    assert not fault_of_answers(tmp_path)
