"""Models that are taken over as they are: what travels, what does not, and what the build refuses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.builder.foreign_repository import write_foreign_repository
from tests.conftest import Run
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.build.build import BuildOptions, build, plan_build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.importing.files import imported_paths
from tritonsmith.builder.lint.check import check
from tritonsmith.builder.lint.diff import diff
from tritonsmith.builder.spec.model_directory import read_model_directory
from tritonsmith.builder.spec.spec import load_spec


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


def repository_with_a_link(tmp_path: Path, target: str) -> Path:
    """A repository below tmp_path/theirs whose one model has a link; a key lies outside."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    write_foreign_repository(tmp_path / "theirs" / "r")
    (tmp_path / "theirs" / "r" / "tenfold" / "1" / "more.txt").symlink_to(target)
    (tmp_path / "ours").mkdir()
    return tmp_path / "theirs" / "r"


def asked_for(tmp_path: Path) -> BuildOptions:
    return options(
        tmp_path / "ours",
        "models:\n  m:\n    source: {directory: ../theirs/r/tenfold}\n    backend: python\n    max_batch_size: 8\n"
        "    input: [{name: x, data_type: TYPE_FP32, dims: [3]}]\n    output: [{name: y, data_type: TYPE_FP32, dims: [3]}]\n",
    )


@pytest.mark.parametrize("target", ["../../../../private/key", "../../../../private", "/etc"])
def test_a_link_out_of_a_strangers_repository_is_not_followed(tmp_path: Path, target: str) -> None:
    repository = repository_with_a_link(tmp_path, target)
    with pytest.raises(SpecError) as caught:
        build(asked_for(tmp_path))
    assert caught.value.code == "source_refused" and "more.txt" in str(caught.value)
    assert caught.value.where is not None and caught.value.where.line == 3
    assert not list((tmp_path / "ours").rglob("more.txt*"))
    imported = imported_paths([repository], tmp_path / "ours")
    assert "tenfold" not in {m.name for m in imported.models}
    assert any("'tenfold' is not in the spec" in n.message for n in imported.notes)
    assert isinstance(check([repository]), list), "a check reads no more than names and ONNX files"


def test_links_inside_the_repository_are_copied(tmp_path: Path) -> None:
    repository_with_a_link(tmp_path, "../../labelled/labels.txt")
    assert build(asked_for(tmp_path)).errors == ()
    copied = tmp_path / "ours" / "model_repository" / "m" / "1" / "more.txt"
    assert copied.is_file() and not copied.is_symlink()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    write_foreign_repository(tmp_path / "r")
    model = tmp_path / "r" / "tenfold"
    os.mkfifo(tmp_path / "fifo")
    text = "models:\n  m:\n    source: {directory: r/tenfold}\n"
    for field in (
        "model_files: {a.txt: fifo}",
        "smoke: fifo",
        "calibration: fifo",
        "accuracy: {samples: fifo}",
    ):
        with pytest.raises(SpecError, match="is no file") as caught:
            plan_build(options(tmp_path, f"{text}    {field}\n"))
        assert caught.value.where is not None and caught.value.where.line == 4
    for source in ("onnx: fifo", "python: fifo", "onnx: r", "exported_program: fifo", "directory: fifo"):
        with pytest.raises(SpecError, match="is no "):
            inputs = "input: [{name: x, data_type: TYPE_FP32, dims: [1]}]"
            spec = f"models:\n  m: {{source: {{{source}}}, {inputs}, {inputs.replace('in', 'out', 1)}}}\n"
            plan_build(options(tmp_path, spec))
    os.mkfifo(model / "1" / "pipe")
    with pytest.raises(SpecError, match="neither a file nor a directory"):
        plan_build(options(tmp_path, text))
    os.mkfifo(model / "1" / "model.plan.json")
    check([tmp_path / "r"])
    assert diff(tmp_path / "r", tmp_path / "r").models == ()


def test_a_fifo_where_a_build_would_write_is_not_waited_for(tmp_path: Path) -> None:
    write_foreign_repository(tmp_path / "r")
    asked = options(
        tmp_path, "models:\n  tenfold:\n    source: {directory: r/tenfold}\n    backend: python\n"
    )
    (tmp_path / "model_repository" / "tenfold").mkdir(parents=True)
    os.mkfifo(tmp_path / "model_repository" / "tenfold" / "pipe")
    assert plan_build(asked)[1].stale


def test_links_that_multiply_and_deep_directories_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in range(30):
        (tmp_path / "m" / f"d{level}").mkdir(parents=True)
        for link in "ab":
            (tmp_path / "m" / f"d{level}" / link).symlink_to(f"../d{level + 1}")
    monkeypatch.setattr("tritonsmith.builder.spec.model_directory.MAX_ENTRIES", 2000)
    with pytest.raises(OSError, match="more than 2000 files"):
        read_model_directory(tmp_path / "m")
    deep = tmp_path / "deep"
    (deep / "/".join("a" * 150)).mkdir(parents=True)
    with pytest.raises(OSError, match="more than 100 levels"):
        read_model_directory(deep)


def test_names_that_are_no_text_are_no_traceback(tmp_path: Path, tritonsmith: Run) -> None:
    write_foreign_repository(tmp_path / "r")
    for name in (b"\xff\xfe", "a\u202eb".encode(), b"line\nbreak", "cafe\u0301".encode()):
        shutil.copytree(tmp_path / "r" / "tenfold", os.fsdecode(os.fsencode(tmp_path / "r") + b"/" + name))
    for arguments in (("check", "r"), ("init", "r"), ("diff", "r", "r/tenfold"), ("plan",)):
        found = tritonsmith(*arguments)
        assert found.returncode in (0, 4), found.stderr
        assert "Traceback" not in found.stderr
    assert set(yaml.safe_load((tmp_path / "models.yaml").read_text())["models"]) >= {"tenfold", "labelled"}
    assert len(load_spec(tmp_path / "models.yaml").models) == 5
