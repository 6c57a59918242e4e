"""Models that are taken over as they are: what travels, what does not, and what the build refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.build import BuildOptions, build, plan_build
from builder.cache import Cache
from builder.errors import SpecError
from builder.model_directory import read_model_directory
from tests.builder.foreign_repository import write_foreign_repository


def options(tmp_path: Path, spec: str) -> BuildOptions:
    path = tmp_path / "models.yaml"
    path.write_text(spec)
    return BuildOptions(path, cache=Cache(tmp_path / "cache"))


def test_what_belongs_to_a_model(tmp_path: Path) -> None:
    for name in (
        "config.pbtxt",
        "labels.txt",
        ".git/x",
        "1/model.py",
        "1/__pycache__/model.pyc",
        "1/config.pbtxt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "2").mkdir()
    (tmp_path / "1" / "loop").symlink_to(tmp_path)
    (tmp_path / "1" / "link.txt").symlink_to(tmp_path / "labels.txt")
    content = read_model_directory(tmp_path)
    assert sorted(content.files) == ["1/config.pbtxt", "1/link.txt", "1/model.py", "labels.txt"]
    assert content.directories == ("2",)


BAD = [
    ("a directory that is not there", "source: {directory: nowhere}", "source_missing", 3),
    ("a file for a directory", "source: {directory: models.yaml}", "source_missing", 3),
    (
        "a placed file that is not there",
        "source: {directory: r/tenfold}\n    model_files: {labels.txt: no.txt}",
        "source_missing",
        4,
    ),
    (
        "a placed file that the source has",
        "source: {directory: r/tenfold}\n    model_files: {1/model.py: models.yaml}",
        "file_twice",
        4,
    ),
]


@pytest.mark.parametrize(("body", "code", "line"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_not_there_is_named_with_its_line(tmp_path: Path, body: str, code: str, line: int) -> None:
    write_foreign_repository(tmp_path / "r")
    asked = options(tmp_path, f"models:\n  m:\n    {body}\n")
    error: BaseException
    try:
        (error,) = build(asked).errors
    except SpecError as raised:
        error = raised
    assert isinstance(error, SpecError) and error.code == code
    assert error.where is not None and error.where.line == line


def test_an_ensemble_is_judged_with_the_models_of_its_steps(tmp_path: Path) -> None:
    write_foreign_repository(tmp_path / "r")
    ensemble = """
  pipeline:
    source: {directory: r/pipeline}
    platform: ensemble
    max_batch_size: 4
    input: [{name: x, data_type: TYPE_FP32, dims: [WIDTH]}]
    output: [{name: y, data_type: TYPE_FP32, dims: [3]}]
    ensemble_scheduling: {step: [{model_name: tenfold, model_version: -1, input_map: {x: x}, output_map: {y: y}}]}
"""
    step = """  tenfold:
    source: {directory: r/tenfold}
    backend: python
    max_batch_size: 8
    input: [{name: x, data_type: TYPE_FP32, dims: [3]}]
    output: [{name: y, data_type: TYPE_FP32, dims: [3]}]
"""
    alone = build(options(tmp_path, "models:" + ensemble.replace("WIDTH", "3")))
    assert [e.code for e in alone.errors] == ["lint"], "its step is in no repository"
    wrong = build(options(tmp_path, "models:" + ensemble.replace("WIDTH", "4") + step))
    assert [(o.model, o.error is None) for o in wrong.outcomes] == [("pipeline", False), ("tenfold", True)]
    assert [e.code for e in wrong.errors] == ["lint"] and "[-1, 4]" in str(wrong.errors[0])
    right = options(tmp_path, "models:" + ensemble.replace("WIDTH", "3") + step)
    assert build(right).errors == ()
    assert plan_build(right)[1].stale == ()
    (tmp_path / "model_repository" / "pipeline" / "1").rmdir()
    assert {a.model for a in plan_build(right)[1].stale} == {"pipeline"}, "an empty version is missed too"
