"""What a plan refuses before anything of the user's runs: callables, files and wires, all at once, each with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.base.errors import SpecError, TritonsmithError
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.plan.plan import BuildPlan

NEVER = "raise SystemExit('this runs code of the user')\n"
WIRED = """\
models:
  double:
    source: {onnx: double.onnx}
    max_batch_size: 8
  length:
    source: {python: step.py}
    max_batch_size: 8
    input: [{name: TEXT, data_type: TYPE_STRING, dims: [1]}]
    output: [{name: lengths, data_type: %s, dims: [%s]}]
  torchy:
    source: {torch: "m:load"}
    max_batch_size: 8
    input: [{name: ids, data_type: TYPE_FP32, dims: [-1]}]
  search:
    source:
      steps:
        - {model: length, from: {TEXT: TEXT}, to: {%s: lengths}}
        - {model: double, from: {%s: lengths}, to: {y: doubled}}
        - {model: torchy, from: {%s: doubled}, to: {anything: out}}
"""


def planned(root: Path, spec: str) -> BuildPlan:
    (root / "models.yaml").write_text(spec)
    return plan_build(BuildOptions(root / "models.yaml", cache=Cache(root / "cache")))[1]


def faults(root: Path, spec: str) -> list[tuple[str, str]]:
    """(code, place) of each."""
    return [(error.code, str(error.where).rpartition("/")[2]) for error in planned(root, spec).errors]


@pytest.fixture
def wired(tmp_path: Path) -> Path:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "double.onnx")
    (tmp_path / "step.py").write_text(NEVER)
    (tmp_path / "m.py").write_text(NEVER + "def load(): ...\n")
    return tmp_path


WIRES = [
    (
        "an input that a header does not have",
        ("TYPE_FP32", "3", "lengths", "X1", "ids"),
        "unknown_step_tensor",
    ),
    ("an output that is not stated", ("TYPE_FP32", "3", "length", "x", "ids"), "unknown_step_tensor"),
    (
        "an input that a torch source does not state",
        ("TYPE_FP32", "3", "lengths", "x", "idz"),
        "unknown_step_tensor",
    ),
    ("another type than the header's", ("TYPE_FP64", "3", "lengths", "x", "ids"), "step_dtype_mismatch"),
    ("another size than the header's", ("TYPE_FP32", "4", "lengths", "x", "ids"), "step_shape_mismatch"),
]


@pytest.mark.parametrize(("words", "code"), [w[1:] for w in WIRES], ids=[w[0] for w in WIRES])
def test_wires_are_held_against_what_is_known_of_their_ends(
    wired: Path, words: tuple[str, ...], code: str
) -> None:
    errors = planned(wired, WIRED % words).errors
    told = [str(error) for error in errors]
    assert [type(error) for error in errors] == [SpecError] and code in f"{errors[0].code} {told}", told
    assert "models.yaml:1" in told[0] and errors[0].exit_code == 2


def test_what_fits_is_planned(wired: Path) -> None:
    assert faults(wired, WIRED % ("TYPE_FP32", "3", "lengths", "x", "ids")) == []


def test_what_is_known_of_no_end_fits(wired: Path) -> None:
    spec = WIRED.replace("    input: [{name: ids, data_type: TYPE_FP32, dims: [-1]}]\n", "")
    assert faults(wired, spec % ("TYPE_FP32", "-1", "lengths", "x", "whatever")) == []


def test_what_a_request_need_not_give_need_not_be_wired(wired: Path) -> None:
    """A state, which Triton keeps, and an input that has a default in the file."""
    weights = {"w": np.ones((3,), np.float32)}
    inputs = [onnx_models.tensor("x", ["batch", 3]), onnx_models.tensor("w", [3])]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    onnx_models.save(
        onnx_models.model(nodes, inputs, [onnx_models.tensor("y", ["batch", 3])], weights),
        wired / "double.onnx",
    )
    stated = "    input: [{name: ids, data_type: TYPE_FP32, dims: [-1]}%s]\n"
    state = stated % ", {name: past, data_type: TYPE_FP32, dims: [4]}" + "    state: {past: present}\n"
    spec = WIRED.replace(stated % "", state)
    assert faults(wired, spec % ("TYPE_FP32", "3", "lengths", "x", "ids")) == []


def test_faults_of_one_ensemble_are_told_at_once(wired: Path) -> None:
    (error,) = planned(wired, WIRED % ("TYPE_FP64", "3", "lenghts", "X", "idz")).errors
    assert "did you mean 'lengths'?" in str(error)
    assert "models.yaml:18: search: 'double' has no input 'X'" in str(error)
    assert "models.yaml:19: search: 'torchy' has no input 'idz'" in str(
        error
    ) and "did you mean 'ids'?" in str(error)


CALLABLES = [
    ("a function", "def load(): ...", "m:load", None),
    ("a typo", "def load(): ...", "m:laod", "did you mean 'load'?"),
    ("another module", "", "n:load", "there is m"),
    ("a class's method", "class A:\n  def load(self): ...", "m:A.load", None),
    ("in a branch", "try:\n  import json as load\nexcept ImportError:\n  load = None", "m:load", None),
    ("by global", "def f():\n  global load\n  load = 1", "m:load", None),
    ("only inside a function", "def f():\n  def load(): ...", "m:load", "no load"),
    ("all of another module", "from os.path import *", "m:load", None),
    ("made while it runs", "globals()['load'] = print", "m:load", None),
    ("__getattr__", "def __getattr__(name): ...", "m:load", None),
    ("no Python", "def load(:", "m:load", "not valid Python"),
    ("a module in a package", "", "p.inner:load", None),
    ("not in the package", "", "p.outer:load", "p.outer does not exist"),
    ("in what is no package", "", "m.inner:load", "m.inner does not exist"),
    ("a namespace package", "", "q.inner:load", None),
    ("of Python itself", "", "json:loads", None),
    ("built into the interpreter", "", "time:time", None),
    ("of a module that is no text", "", "_bisect:whatever", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reference", "said"), [c[1:] for c in CALLABLES], ids=[c[0] for c in CALLABLES]
)
def test_callables_are_looked_up_in_the_text(
    tmp_path: Path, text: str, reference: str, said: str | None
) -> None:
    (tmp_path / "m.py").write_text(NEVER + text + "\n" if "(:" not in text else text)
    for package in ("p", "q"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "inner.py").write_text(NEVER + "load = None\n")
    (tmp_path / "p" / "__init__.py").write_text(NEVER)
    errors = planned(tmp_path, f'models:\n  a:\n    source: {{torch: "{reference}"}}\n').errors
    if said is None:
        assert errors == ()
        return
    (error,) = errors
    assert (type(error), error.exit_code) == (SpecError, 2)
    assert said in str(error).replace("valid: m,", "there is m") and "models.yaml:3" in str(error).replace(
        "(", ""
    ), error


def test_samples_and_calibration_are_looked_up_too_and_the_others_are_planned(
    tmp_path: Path, tritonsmith: Run
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "data.py").write_text(NEVER + "def samples(): ...\n")
    spec = """\
models:
  good:
    source: {onnx: m.onnx}
    accuracy: {samples: "data:samples"}
  a:
    source: {onnx: m.onnx}
    accuracy: {samples: "data:sample"}
    calibration: "date:calibration"
  b:
    source: {torch: "data:load"}
"""
    (tmp_path / "models.yaml").write_text(spec)
    done = tritonsmith("plan")
    assert done.returncode == 2 and "+ good" in done.stdout and "Traceback" not in done.stderr
    assert "models.yaml:7: a: accuracy.samples module data has no sample" in done.stderr
    assert "models.yaml:8: a: calibration module date does not exist" in done.stderr
    assert "models.yaml:10: b: source module data has no load" in done.stderr
    assert "2 models could not be looked at" in done.stdout
    assert done.stdout.endswith("Plan: 1 to add, 0 to change, 0 to remove.\n")


def test_what_is_no_reference_is_left_to_the_build(tmp_path: Path) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    spec = 'models:\n  a:\n    source: {onnx: m.onnx}\n    accuracy: {samples: "s3://bucket/samples"}\n'
    assert planned(tmp_path, spec).errors == ()


def test_files_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "data.npz").write_bytes(b"")
    spec = "models:\n  a:\n    source: {onnx: a.onnx}\n  b:\n    source: {onnx: b.onnx}\n    calibration: date.npz\n"
    with pytest.raises(TritonsmithError) as caught:
        planned(tmp_path, spec + '  c:\n    source: {torch: "nothing:load"}\n')
    told = str(caught.value)
    assert caught.value.exit_code == 2 and "models.yaml:3: a: there is no file 'a.onnx'" in told
    assert "models.yaml:5: b: there is no file 'b.onnx'" in told
    assert "models.yaml:6: b: there is no file 'date.npz'; did you mean 'data.npz'?" in told
    assert "models.yaml:8: c: source module nothing does not exist" in told
