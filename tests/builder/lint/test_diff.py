"""`tritonsmith diff`: what differs by meaning, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builder.foreign_repository import write_foreign_repository
from tests.conftest import Run
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.lint.diff import diff

BASE = """\
name: "m"
backend: "python"
max_batch_size: 4
input [ { name: "a" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "b" data_type: TYPE_INT64 dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU count: 2 } ]
dynamic_batching { priority_levels: 2 priority_queue_policy { key: 1 value { max_queue_size: 4 } } }
parameters { key: "p" value { string_value: "1" } }
model_warmup { name: "w" inputs { key: "a" value { data_type: TYPE_FP32 zero_data: true } } }
"""
POLICY = 'dynamic_batching.priority_queue_policy["1"]'
WARM = 'model_warmup["w"].inputs["a"]'
B = '{name: "b" data_type: TYPE_INT64 dims: 1}'
TRUE = "true"
ONE = '{string_value: "1"}'
# What it is; text to replace; with what; the changes as (path, old, new).
CASES = [
    ("layout and comments say nothing", "max_batch_size: 4", "# four\n\n  max_batch_size : 4", []),
    ("a number", "max_batch_size: 4", "max_batch_size: 8", [("max_batch_size", "4", "8")]),
    ("a field that goes", "max_batch_size: 4", "", [("max_batch_size", "4", "0")]),
    ("an enum in a list", "KIND_CPU", "KIND_GPU", [("instance_group[0].kind", "KIND_CPU", "KIND_GPU")]),
    ("an item by its name", "dims: [ 1 ]", "dims: [ 2, 2 ]", [('input["b"].dims', "[1]", "[2, 2]")]),
    ("a renamed item", '"b"', '"c"', [('input["b"]', B, None), ('input["c"]', None, B.replace('"b"', '"c"'))]),
    ("a map's value", '"1"', '"2"', [('parameters["p"].string_value', '"1"', '"2"')]),
    ("a map's key", 'key: "p"', 'key: "q"', [('parameters["p"]', ONE, None), ('parameters["q"]', None, ONE)]),
    ("a whole-number key", "max_queue_size: 4", "max_queue_size: 5", [(f"{POLICY}.max_queue_size", "4", "5")]),
    ("another of oneof", "zero_data", "random_data", [(f"{WARM}.zero_data", TRUE, None), (f"{WARM}.random_data", None, TRUE)]),
    ("an empty message", "instance_group [", "response_cache { }\ninstance_group [", [("response_cache", None, "{}")]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_configs_differ_by_meaning(
    tmp_path: Path, old: str, new: str, expected: list[tuple[str, str | None, str | None]]
) -> None:
    left, right = tmp_path / "a.pbtxt", tmp_path / "b.pbtxt"
    left.write_text(BASE)
    right.write_text(BASE.replace(old, new))
    assert BASE.count(old) == 1
    changes = [c for m in diff(left, right).models for c in m.changes]
    assert [(c.path, c.old, c.new) for c in changes] == expected


def test_the_order_of_inputs_counts_that_of_outputs_does_not(tmp_path: Path) -> None:
    for kind, told in (("input", ["input (order)"]), ("output", [])):
        a, b = (f'{{ name: "{n}" data_type: TYPE_FP32 dims: [ 3 ] }}' for n in "ab")
        (tmp_path / "a.pbtxt").write_text(f"{kind} [ {a}, {b} ]")
        (tmp_path / "b.pbtxt").write_text(f"{kind} [ {b}, {a} ]")
        found = diff(tmp_path / "a.pbtxt", tmp_path / "b.pbtxt").models
        assert [c.path for m in found for c in m.changes] == told


def test_repositories_models_files_and_versions(tmp_path: Path, tritonsmith: Run) -> None:
    left, right = (write_foreign_repository(tmp_path / side) for side in "lr")
    assert diff(left, right).models == ()
    (left / "gone").mkdir()
    (left / "gone" / "config.pbtxt").write_text('backend: "python"')
    (right / "tenfold" / "1" / "model.py").write_text("# of another size")
    (right / "labelled" / "labels.txt").write_text("a\nb\nd\n")
    (right / "pipeline" / "1").rmdir()
    (right / "two" / "3").mkdir()
    (right / "minimal" / "config.pbtxt").write_text("max_batch_size: 4\ndynamic_batching { }")
    (right / "tenfold" / "1" / "__pycache__").mkdir()
    told = tritonsmith("diff", "l", "r", "--exit-code")
    assert told.returncode == 4
    lines = told.stdout.splitlines()
    assert lines[0] == "- gone  removed"
    assert [line for line in lines if line.startswith("~")] == [
        "~ labelled",
        "~ minimal",
        "~ pipeline",
        "~ tenfold",
        "~ two",
    ]
    assert any(line.startswith("    labels.txt: sha256 ") for line in lines)
    assert "    1/: empty → none" in lines and "    3/: none → empty" in lines
    assert any(line.startswith("    1/model.py: ") and "bytes → 17 bytes" in line for line in lines)
    (right / "two" / "3").rmdir()
    served = {m.model for m in diff(left, right, as_served=True, files=False).models}
    assert served == {"gone"}, "a default that is written out is the same config"
    assert tritonsmith("diff", "l", "l", "--exit-code").returncode == 0


def test_two_models_are_compared_whatever_they_are_called(tmp_path: Path) -> None:
    repository = write_foreign_repository(tmp_path / "r")
    (change,) = diff(repository / "tenfold", repository / "two", files=False).models
    assert "name" not in {c.path for c in change.changes}
    assert {"backend", "max_batch_size"} <= {c.path for c in change.changes}


def test_a_config_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.pbtxt").write_text('name: "m"\nmax_batchsize: 4')
    with pytest.raises(TritonsmithError, match=r"a\.pbtxt:2"):
        diff(tmp_path / "a.pbtxt", tmp_path / "a.pbtxt")
