"""What a stranger may have written: which names, paths and JSON are taken, and what is said of the others."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from tritonsmith.builder.base.files.untrusted import (
    MAX_JSON_BYTES,
    Distance,
    fault_of_model_name,
    fault_of_relative_path,
    inside,
    json_value,
    open_regular,
    parsed,
    read_bounded,
    refuse_files_below_files,
)

GOOD_NAMES = ("minilm", "a b", "modèle", "模型", "v1.2-x_y", "emoji😀")
BAD_NAMES = {
    "": "empty",
    " a": "space",
    ".git": "dot",
    "..": "dot",
    "a/b": "'/'",
    "a\\b": "'\\\\'",
    "a\0": "\\x00",
    "a\nb": "\\n",
    "a\x1b[31m": "\\x1b",
    "a\x85b": "\\x85",
    "a\u202eb": "\\u202e",
    "a\u200bb": "\\u200b",
    "a\u2028b": "\\u2028",
    "a\ufeff": "\\ufeff",
    "a\ud800": "\\ud800",
    "e\u0301": "normal form C",
    "x" * 201: "200 bytes",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_that_prints_is_taken(name: str) -> None:
    assert fault_of_model_name(name) is None


@pytest.mark.parametrize(("name", "word"), BAD_NAMES.items())
def test_a_name_that_misleads_is_refused(name: str, word: str) -> None:
    fault = fault_of_model_name(name)
    assert fault is not None and word in fault


@pytest.mark.parametrize(
    "path", ["a", "1/mode\u0300le.onnx", "model.onnx/weights 1.bin", ".tritonsmith/root/x"]
)
def test_a_path_inside_is_taken(path: str, tmp_path: Path) -> None:
    assert fault_of_relative_path(path) is None
    assert inside(tmp_path, path) == tmp_path / path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "..",
        "../a",
        "a/../b",
        "a//b",
        "a/",
        "./a",
        "a\\b",
        "a\0b",
        "a\nb",
        "x" * 201,
        "a/" * 1200 + "b",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the path"):
        inside(tmp_path, path)


def test_a_link_on_the_way_is_refused_and_one_at_the_end_is_not(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path / "other")
    with pytest.raises(ValueError, match="'link' is a link on the way"):
        inside(home, "link/file")
    assert inside(home, "link") == home / "link"


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 11)
    assert read_bounded(tmp_path / "large", 11) == b"x" * 11
    with pytest.raises(ValueError, match="larger"):
        read_bounded(tmp_path / "large", 10)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_a_file_that_tells_no_size_is_read_whole_and_no_further_than_the_limit() -> None:
    status = Path("/proc/self/status")
    assert status.stat().st_size == 0 and b"VmRSS" in read_bounded(status)
    with pytest.raises(ValueError, match="larger"):
        read_bounded(status, 10)


def test_a_small_file_takes_no_memory_for_the_limit(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"x" * 100)
    tracemalloc.start()
    try:
        assert len(read_bounded(tmp_path / "small")) == 100
        assert tracemalloc.get_traced_memory()[1] < MAX_JSON_BYTES / 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        ("[" * 210 + "]" * 210, "too deep"),
        ('{"a": NaN}', "NaN"),
        ("1e999", "finite"),
        ('"\\ud800"', "hex escape"),
        (b'"\xed\xa0\x80"', "codec"),
        ('{"a": 1, "a": 2}', "twice"),
        (b"\xff\xfe\xfa", "codec"),
        ("{", "Expecting"),
        ("1" * 5000, "digits"),
    ],
)
def test_what_is_no_plain_json_is_a_value_error(text: str | bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        json_value(text)


def test_what_an_older_version_wrote_as_infinity_is_a_number_only_where_it_is_asked_for() -> None:
    numbers = dict[str, Distance]
    assert parsed(numbers, '{"a": Infinity}', infinite=True) == {"a": float("inf")}
    with pytest.raises(ValueError, match="Infinity"):
        parsed(numbers, '{"a": Infinity}')


def test_the_fault_of_a_value_is_one_short_line() -> None:
    with pytest.raises(ValueError, match=r"^k{160}: .*, not 'x") as raised:
        parsed(dict[str, int], f'{{"{"k" * 9000}": "{"x" * 9000}"}}')
    assert len(str(raised.value)) < 500 and "\n" not in str(raised.value)


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"], ["a/b/c", "a/b"], ["a/b", "x", "a"]])
def test_names_that_cannot_all_be_files_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"twice|below"):
        refuse_files_below_files(names)
    refuse_files_below_files(["a/b", "a/c", "A", "ab"])
