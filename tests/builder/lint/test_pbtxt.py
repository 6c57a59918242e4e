"""Text proto → message, lines and mistakes."""

from __future__ import annotations

import time

import pytest

from tritonsmith.builder.lint.read.pbtxt import MAX_BYTES, parse_config

TEXT = """\
# a comment
name: "m"
max_batch_size: 8
input [
  { name: "x" data_type: TYPE_FP32
    dims: [ -1,
            3 ] },
  { name: "y" data_type: TYPE_FP32 dims: 4 dims: 5 }
]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]  # two sizes
  priority_queue_policy {
    key: 2
    value { max_queue_size: 1 }
  }
}
parameters: { key: "A" value: { string_value: "b" } }
parameters < key: "C.d" value < string_value: "e" "f" > >
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 2),
        ("max_batch_size", 3),
        ("input", 4),
        ("input[0]", 5),
        ("input[0].dims", 6),
        ("input[0].dims[0]", 6),
        ("input[0].dims[1]", 7),
        ("input[1].name", 8),
        ("input[1].dims[1]", 8),
        ("dynamic_batching.preferred_batch_size[1]", 11),
        ('dynamic_batching.priority_queue_policy["2"]', 12),
        ('dynamic_batching.priority_queue_policy["2"].max_queue_size', 14),
        ('parameters["A"]', 17),
        ('parameters["C.d"].string_value', 18),
    ],
)
def test_every_field_has_its_line(path: str, line: int) -> None:
    parsed = parse_config(TEXT)
    assert parsed.problems == ()
    assert parsed.lines[path] == line


@pytest.mark.parametrize(
    ("path", "line", "why"),
    [
        ("input[0].optional", 5, "a field that is not given has its message's line"),
        ('parameters["A"].other', 17, "so has a field of a map entry"),
        ("optimization.cuda", None, "a message that is not given has none"),
        ("input[7].dims[0]", 4, "an element that is not there has the list's"),
    ],
)
def test_absent_field_has_its_parents_line(path: str, line: int | None, why: str) -> None:
    assert parse_config(TEXT).line_of(path) == line, why


def test_message_is_text_formats_own() -> None:
    message = parse_config(TEXT).message
    assert message is not None
    assert message.input[1].dims == [4, 5]
    assert message.parameters["C.d"].string_value == "ef"


def test_comments_keep_their_lines() -> None:
    parsed = parse_config(TEXT)
    assert dict(parsed.comments) == {1: "a comment", 11: "two sizes"}
    assert parsed.alone == {1}


@pytest.mark.parametrize(
    ("text", "line", "message", "fix"),
    [
        ('name: "m"\nmax_batch: 8', 2, "no field 'max_batch'", "did you mean 'max_batch_size'?"),
        ("input {\n nam: 1\n}", 2, "no field 'nam' (in 'input[0]')", "did you mean 'name'?"),
        (
            "input { data_type: FP32 }",
            1,
            "'FP32' is no value of 'input[0].data_type'",
            "did you mean 'TYPE_FP32'?",
        ),
        ("\ninput {", 2, "'input[0]' is opened here and never closed", "add '}'"),
        ("dynamic_batching { }\nsequence_batching { }", 2, "exclude each other", "keep one of"),
        ('name: "a"\nname: "b"', 2, "'name' is given twice", None),
        ("name", 1, "':' is missing", "write 'name: VALUE'"),
        ("name:", 1, "ends in the middle", None),
        ("}", 1, "unexpected '}'", None),
        ("max_batch_size: {}", 1, "has no value", None),
        ("input: 3", 1, "'{' belongs here", None),
        ("dims: [", 1, "no field 'dims'", None),
        ('max_batch_size: "x"', 1, "Couldn't parse integer", None),
        ("max_batch_size: 99999999999", 1, "out of range", None),
        ('name: "unclosed', 1, "", None),
    ],
)
def test_mistakes_name_line_and_remedy(text: str, line: int, message: str, fix: str | None) -> None:
    parsed = parse_config(text)
    assert parsed.message is None
    problem = parsed.problems[0]
    assert problem.line == line
    assert message.lower() in problem.message.lower()
    if fix is not None:
        assert problem.fix is not None and fix in problem.fix


def test_several_mistakes_are_named_at_once() -> None:
    parsed = parse_config('nme: "m"\nmax_batch: [ { deep: 1 } ]\ninput { dtype: 1 }\n')
    assert [problem.line for problem in parsed.problems] == [1, 2, 3]


@pytest.mark.parametrize("text", ["{" * 100_000, "input {" * 50_000, "x: " + "[" * 100_000, "# " * 100_000])
def test_deep_or_long_text_ends(text: str) -> None:
    parse_config(text)


def test_huge_text_is_refused() -> None:
    assert (
        parse_config(" " * (MAX_BYTES + 1)).problems[0].message
        == "the file is too large to be a model config"
    )


def test_many_map_entries_take_linear_time() -> None:
    text = "".join(f'parameters {{ key: "k{n}" value {{ string_value: "v" }} }}\n' for n in range(5_000))
    parsed = parse_config(text)
    assert parsed.lines['parameters["k4999"].string_value'] == 5_000


HOSTILE = {
    "unknown messages in one another": "foo " + "{ a " * 100_000 + "}" * 100_000,
    "messages never closed": "foo " + "{ a " * 100_000,
    "known messages in one another": "input " + "{" * 100_000,
    "angles": "foo " + "< a " * 100_000,
    "lists": "foo: " + "[" * 100_000,
    "backslashes": 'platform: "' + "\\\\" * 200_000 + '"',
    "a number of a million digits": "max_batch_size: " + "9" * 1_000_000,
    "a name of a million letters": "x" * 1_000_000 + ": 1",
    "a hundred thousand unknown fields": "".join(f"f{i}: 1\n" for i in range(100_000)),
    "too large": " " * ((1 << 20) + 1),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_a_few_short_problems(text: str) -> None:
    began = time.process_time()
    parsed = parse_config(text)
    assert time.process_time() - began < 2
    assert parsed.message is None and 1 <= len(parsed.problems) <= 101
    assert all(len(p.message) + len(p.seen or "") < 1000 for p in parsed.problems)


def test_the_line_of_too_many_backslashes_is_told() -> None:
    (problem,) = parse_config("# a\n" + 'platform: "' + "\\" * 64 + '"').problems
    assert problem.line == 2 and "backslashes" in problem.message
    assert parse_config('platform: "' + "\\\\" * 30 + '"').message is not None


@pytest.mark.parametrize(
    ("text", "path", "place", "piece", "why"),
    [
        (TEXT, "input[0].dims[1]", (7, 13), "3", "an element of a list"),
        (TEXT, "input[1].dims[1]", (8, 44), "dims: 5", "one of a repeated field"),
        (TEXT, 'parameters["C.d"].string_value', (18, 33), 'string_value: "e" "f"', "a text in pieces"),
        (
            TEXT,
            "dynamic_batching.priority_levels",
            (10, 1),
            "dynamic_batching",
            "the message of what is not there",
        ),
        (
            '\tname:\t"é" \tplatform: "x"',
            "platform",
            (1, 13),
            'platform: "x"',
            "a tab and an é are a column each",
        ),
        ('\ufeffname: "a"', "name", (1, 1), 'name: "a"', "a byte order mark is none"),
        ('# a\r\nname: "a"\r\n', "name", (2, 1), 'name: "a"', "line ends of two characters"),
        ('# a\rname: "a"', "name", None, "", "a comment goes on to the next line feed, as for Triton"),
        ('name:\n  "a"', "name", (1, 1), "name", "the value stands on another line"),
        (
            'inputs: { nam: "a" }',
            "input[0].name",
            (1, 11),
            'nam: "a"',
            "misspelt, and walked as what is meant",
        ),
    ],
)
def test_every_field_has_its_column(
    text: str, path: str, place: tuple[int, int] | None, piece: str, why: str
) -> None:
    found = parse_config(text).place_of(path)
    if place is None:
        assert found is None, why
        return
    assert found is not None and (found.line, found.column) == place, why
    assert text[found.start : found.end] == piece, why


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("max_batch_size: abc", (1, 17)),
        ("\n\tinput { dims: [ 1 2 ] }", (2, 20)),
        ("name: 'a'\n  flavour: 1", (2, 3)),
        ("dynamic_batching { } sequence_batching { }", (1, 22)),
        ("name: 'a' name: 'b'", (1, 11)),
        ("input {", (1, 1)),
        ("input { name }", (1, 9)),
    ],
)
def test_every_mistake_has_its_column(text: str, place: tuple[int, int]) -> None:
    problem = parse_config(text).problems[0]
    assert problem.place is not None and (problem.place.line, problem.place.column) == place, problem
