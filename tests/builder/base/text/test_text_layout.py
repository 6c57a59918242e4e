"""Lines and tables at the width of a terminal: broken between words, names shortened, nothing else lost."""

from __future__ import annotations

import shlex

from hypothesis import example, given
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.base.text.text_layout import cells, command_lines, narrowed, table, wrapped

ERROR = SpecError(
    "unknown key 'max_queue_delay' in models.another_model_with_a_rather_long_name.dynamic_batching",
    code="unknown_key",
    valid=["default_priority_level", "default_queue_policy", "max_queue_delay_microseconds"],
    fix="did you mean 'max_queue_delay_microseconds'? write it below dynamic_batching",
)


def test_an_error_is_broken_between_words_beside_its_labels() -> None:
    assert wrapped(f"error[{ERROR.code}]: {ERROR}", 60).split("\n") == [
        "error[unknown_key]: unknown key 'max_queue_delay' in",
        "    models.another_model_with_a_rather_long_name.dynamic_batching",
        "  valid: default_priority_level, default_queue_policy,",
        "         max_queue_delay_microseconds",
        "  fix:   did you mean 'max_queue_delay_microseconds'? write",
        "         it below dynamic_batching",
    ]


@given(
    words=st.lists(st.text(st.sampled_from("ab '\"$-=,é"), max_size=9), min_size=1, max_size=9),
    width=st.integers(1, 60),
)
@example(words=["tritonsmith", "--set", "a b=1,2", "--output", "it's"], width=20)
def test_a_broken_command_is_the_same_command(words: list[str], width: int) -> None:
    whole = shlex.join(words)
    assert command_lines(whole, None) == [whole]
    text = "\n".join(command_lines(whole, width))
    assert shlex.split(text.replace("\\\n", "")) == words, (
        "a shell takes a backslash and the end of its line away"
    )


def test_a_command_is_broken_at_the_width_of_the_terminal() -> None:
    command = "tritonsmith sweep model_repository --set 'a b=1,2' --output sweep"
    assert command_lines(command, 40) == [
        "tritonsmith sweep model_repository \\",
        "    --set 'a b=1,2' --output sweep",
    ]


def test_without_a_terminal_text_stays_as_it_is() -> None:
    assert wrapped(str(ERROR), None) == str(ERROR)


def test_a_number_stays_beside_its_unit_and_colours_take_no_room() -> None:
    assert wrapped("it took 1.3 s in all", 12, hang=0) == "it took\n1.3 s in all"
    assert wrapped("\x1b[31mred\x1b[0m words here", 14) == "\x1b[31mred\x1b[0m words here"


@given(st.lists(st.text("ab—é語\t -:", max_size=12), max_size=30).map(" ".join), st.integers(20, 100))
def test_wrapping_loses_no_word_and_breaks_none(text: str, width: int) -> None:
    lines = wrapped(text, width).split("\n")
    assert [word for line in lines for word in line.split(" ") if word] == [w for w in text.split(" ") if w]
    for line in lines:
        assert cells(line) <= width or " " not in line.strip(" "), line


@given(st.text("ab/é語", max_size=60), st.integers(1, 40))
def test_a_shortened_name_keeps_both_ends(name: str, width: int) -> None:
    short = narrowed(name, width)
    assert cells(short) <= width and (short == name or "…" in short)
    begin, _, end = short.partition("…")
    assert name.startswith(begin) and name.endswith(end)


ROWS = [
    ("key", "what", "size", "age"),
    ("35db6afa8734", "convert another_model_with_a_rather_long_name_v2/fp16", "3.0 KiB", "2 min"),
    ("c61039c9aa17", "export 語", "12.5 MiB", "3 s"),
]


def test_a_table_is_as_wide_as_it_is_without_a_terminal() -> None:
    assert table(ROWS, right=(2, 3), names=(1,)) == [
        "key           what                                                       size    age",
        "35db6afa8734  convert another_model_with_a_rather_long_name_v2/fp16   3.0 KiB  2 min",
        "c61039c9aa17  export 語                                              12.5 MiB    3 s",
    ]


def test_names_are_shortened_first_and_columns_left_out_then() -> None:
    assert table(ROWS, 60, right=(2, 3), names=(1,), drop=(3,)) == [
        "key           what                               size    age",
        "35db6afa8734  convert anothe…g_name_v2/fp16   3.0 KiB  2 min",
        "c61039c9aa17  export 語                      12.5 MiB    3 s",
    ]
    assert table(ROWS, 44, right=(2, 3), names=(1,), drop=(3,)) == [
        "key           what                      size",
        "35db6afa8734  convert an…e_v2/fp16   3.0 KiB",
        "c61039c9aa17  export 語             12.5 MiB",
    ]


def test_sentences_go_on_below_their_beginning() -> None:
    rows = [("model", "why"), ("m", "a reason of some length that has to be read to its very end")]
    lines = table(rows, 40, names=(0,), text=1)
    assert lines == [
        "model  why",
        "m      a reason of some length that has",
        "       to be read to its very end",
    ]
