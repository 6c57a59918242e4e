"""Names that a server could not be started with, or not asked by: refused or told by check, build and init."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import onnx_models
from tests.builder.lint.fixtures import MODEL_PY, Tree, model
from tritonsmith.builder.base.odd_names import encoded_in_paths, read_otherwise, stub_words
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.importing.live import imported_configs
from tritonsmith.builder.importing.spec_text import without_refused
from tritonsmith.builder.lint.check import check

ENSEMBLE = """platform: "ensemble"
input { name: "IN" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "OUT" data_type: TYPE_FP32 dims: [ 4 ] }
ensemble_scheduling { step { model_name: "m" model_version: -1
  input_map { key: "x" value: "IN" } output_map { key: "y" value: "OUT" } } }
"""


def test_what_a_shell_and_a_client_read_otherwise() -> None:
    assert [read_otherwise(text) for text in ("größe-出力_1.2@4%5+6=7:8,9#0/a", "a b", "a$(b)", "a\nb")] == [
        None,
        " ",
        "$",
        "\n",
    ]
    assert [encoded_in_paths(name) for name in ("a-1_2.3~", "é", "50%", "a+b")] == [None, "é", "%", "+"]
    assert [(field, bad) for _, field, _, bad in stub_words("m", "a;b.py", ["g", "g&"])] == [
        ("default_model_filename", ";"),
        ("instance_group[1].name", "&"),
    ]


@pytest.mark.parametrize(
    ("config", "found"),
    [('backend: "python"', True), ('backend: "onnxruntime"', False), (ENSEMBLE, False)],
    ids=["python", "onnxruntime", "ensemble"],
)
def test_a_command_is_an_error_where_every_triton_runs_it(config: str, found: bool, tmp_path: Path) -> None:
    findings = check(Tree({**model(config, "a b"), **model("", "m")}).write(tmp_path))
    assert [f.severity for f in findings if f.rule == "BACK008"] == ["error"] * found
    assert [f.model for f in findings if f.rule == "REPO015"] == ["a b"]


def test_a_build_refuses_a_python_model_and_warns_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "m.py").write_text(MODEL_PY)
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  a (b):\n"
        "    source: {python: m.py}\n"
        "    input: [{name: x, data_type: TYPE_FP32, dims: [3]}]\n"
        "    output: [{name: y, data_type: TYPE_FP32, dims: [3]}]\n"
        "  c d:\n"
        "    source: {onnx: m.onnx}\n"
    )
    (error,) = build(BuildOptions(tmp_path / "models.yaml", cache=Cache(tmp_path / "cache"))).errors
    assert error.code == "lint" and error.where is not None and str(error.where).endswith("models.yaml:3")
    assert "BACK008 its name has ' ' in it" in error.message
    assert not (tmp_path / "model_repository" / "a (b)").exists()
    assert (tmp_path / "model_repository" / "c d" / "1" / "model.onnx").exists()
    said = capsys.readouterr().err
    assert "models.yaml:7: c d: 'c d' has ' ' in it; tritonsmith check --explain REPO015" in said


def test_init_says_what_a_server_will_make_of_the_names() -> None:
    config = {"backend": "python", "max_batch_size": 0, "instance_group": [{"name": "g;h", "count": 1}]}
    found = without_refused(imported_configs([config | {"name": "a b"}, config | {"name": "m"}]))
    told = [str(note) for note in found.notes]
    assert [m.name for m in found.models] == ["a b", "m"]
    assert sum("its name has ' ' in it" in text and "BACK008" in text for text in told) == 1
    assert sum("an instance_group's name has ';' in it" in text for text in told) == 2
    assert sum("REPO015" in text for text in told) == 1
