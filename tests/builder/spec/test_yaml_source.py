"""Hostile YAML: deep, exponential, huge or tagged text is one error with its line, soon and without recursion."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.spec.yaml_source import read_yaml, yaml_from_text

DEEP = 100_000


def bomb(first: str, of: str, close: str, levels: int = 9) -> str:
    """Each level has the one before nine times."""
    lines = [f"a0: &a0 {first}"]
    for level in range(1, levels):
        items = ", ".join(f"{'k' + str(i) + ': ' if of == '{' else ''}*a{level - 1}" for i in range(9))
        lines.append(f"a{level}: &a{level} {of}{items}{close}")
    return "\n".join(lines)


HOSTILE = {
    "lists in one another": ("models: " + "[" * DEEP + "]" * DEEP, "yaml_depth", 1),
    "lists never closed": ("models:\n  " + "[" * DEEP, "yaml_depth", 2),
    "maps in one another": ("{a: " * DEEP + "1" + "}" * DEEP, "yaml_depth", 1),
    "block lists": ("- " * DEEP + "x", "yaml_depth", 1),
    "block maps": ("".join(" " * i + "a:\n" for i in range(1000)), "yaml_depth", 101),
    "keys in one another": ("? " * DEEP, "yaml_key", 1),
    "an alias bomb of lists": (bomb("[x, x, x, x, x, x, x, x, x]", "[", "]"), "yaml_size", 5),
    "an alias bomb of maps": (bomb("{k: 1}", "{", "}"), "yaml_size", 6),
    "an alias deeper than its place": (
        "a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 60 + "*a" + "]" * 60,
        "yaml_depth",
        2,
    ),
    "an alias inside what it names": ("models:\n  &a [*a]", "yaml_depth", 2),
    "an alias that names nothing": ("models:\n  *a", "yaml_syntax", 2),
    "merge keys": ("a: &a {x: 1}\nb:\n  <<: *a", "yaml_merge", 3),
    "an alias for a key": ("a: &a x\n*a : 1", "yaml_key", 2),
    "an integer of 5000 digits": ("a:\n  b: " + "9" * 5000, "yaml_value", 2),
    "a hexadecimal of 1,000,000 digits": ("a: 0x" + "f" * 1_000_000, "yaml_value", 1),
    "sexagesimals": ("a: 1" + ":59" * 20_000 + ".5", "yaml_value", 1),
    "a word that is no bool": ("a: 1\nb: !!bool foo", "yaml_value", 2),
    "nothing as an integer": ("a: !!int ''", "yaml_value", 1),
    "a Python object": ("a: !!python/object/apply:os.getpid []", "yaml_value", 1),
    "a Python name": ("a: 1\nb: !!python/name:os.getpid", "yaml_value", 2),
    "a tagged map": ("a: !!python/object:os.x {b: 1}", "yaml_value", 1),
    "a set": ("a: !!set {b}", "yaml_value", 1),
    "bytes": ("a: !!binary aGVsbG8=", "yaml_value", 1),
    "a tag of somebody's own": ("a: !mine b", "yaml_value", 1),
    "a zero byte": ("a: 1\nb: x\0y", "yaml_syntax", 2),
    "half a surrogate pair": ('a: "\\ud800"', "yaml_syntax", 1),
    "a second document": ("a: 1\n---\na: 1", "yaml_syntax", 2),
    "a key of 2000 characters": ("? " + "x" * 2000 + "\n: 1", "yaml_key", 1),
    "a key twice": ("a: 1\nb: 2\na: 3", "duplicate_key", 3),
}


@pytest.mark.parametrize(("text", "code", "line"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_one_error_with_its_line(text: str, code: str, line: int) -> None:
    began = time.process_time()
    with pytest.raises(SpecError) as caught:
        yaml_from_text(text, Path("models.yaml"))
    assert time.process_time() - began < 1
    # Newer libyaml counts brackets itself, and comes first.
    assert caught.value.code == code or (code == "yaml_depth" and "nesting depth" in caught.value.message)
    assert caught.value.where is not None and caught.value.where.line == line
    assert len(str(caught.value)) < 500


def test_what_aliases_stand_for_is_copied_with_its_lines() -> None:
    source = yaml_from_text("a: &a\n  b: [1, {c: x}]\nd: [*a, *a]\n", Path("models.yaml"))
    assert source.data == {"a": {"b": [1, {"c": "x"}]}, "d": [{"b": [1, {"c": "x"}]}] * 2}
    assert source.data["d"][0] is not source.data["d"][1]
    assert source.lines["d", 1, "b", 1, "c"] == 2 and source.lines["d", 1] == 3


def test_scalars_are_those_of_json() -> None:
    text = "[1, 0x10, 1.5, true, null, ~, '1', 2001-01-01, 2001-99-99, yes]"
    assert yaml_from_text(text, Path("x")).data == [
        1, 16, 1.5, True, None, None, "1", "2001-01-01", "2001-99-99", True,
    ]  # fmt: skip


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    fifo = tmp_path / "models.yaml"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, Path("/dev/zero")):
        with pytest.raises(SpecError, match="regular"):
            read_yaml(path)
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(SpecError, match="16 MiB"):
        read_yaml(large)
