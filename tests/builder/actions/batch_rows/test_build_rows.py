"""`build`, `check --deep` and `init` on models whose rows mix: refused, unbatched, said; run once and looked up after."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from tests import onnx_models
from tests.builder.actions.batch_rows.models import KINDS, X, Y, model, node
from tests.conftest import Run
from tritonsmith.builder.lint.check import LintOptions, check
from tritonsmith.builder.lint.deep.rows import rows_of_file
from tritonsmith.builder.lint.table import RULES


def put(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        onnx.save(KINDS[name].make(), str(directory / f"{name}.onnx"))


def lock_of(directory: Path) -> Any:
    return json.loads((directory / "models.lock.json").read_text())["models"]


def test_build_refuses_what_is_stated_and_unbatches_what_is_inferred(
    tmp_path: Path, tritonsmith: Run
) -> None:
    put(tmp_path, "mean", "layers", "fixed_reshape", "cut_to_the_longest")
    onnx.save(model([node("Log", ["x"], ["y"])], [X], [Y]), str(tmp_path / "log.onnx"))
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        "  stated:\n    source: {onnx: mean.onnx}\n    max_batch_size: 8\n"
        "  left_out:\n    source: {onnx: mean.onnx}\n"
        "  fixed:\n    source: {onnx: fixed_reshape.onnx}\n    max_batch_size: 8\n"
        "  good:\n    source: {onnx: layers.onnx}\n    max_batch_size: 8\n"
        "    dynamic_batching: {preferred_batch_size: [5]}\n"
        "  unknown:\n    source: {onnx: log.onnx}\n    max_batch_size: 8\n"
        "  doubted:\n    source: {onnx: cut_to_the_longest.onnx}\n    max_batch_size: 8\n"
        "  doubted_left_out:\n    source: {onnx: cut_to_the_longest.onnx}\n"
    )
    built = tritonsmith("build", "--format", "json")
    assert built.returncode == 4, built.stderr
    outcomes = {m["model"]: m for m in json.loads(built.stdout)["models"]}
    refused = outcomes["stated"]["error"]
    assert refused["code"] == "rows_mixed" and refused["where"].endswith("models.yaml:4")
    assert " of 2 of output y differs by" in refused["message"]
    assert "the first operator that mixes rows is ReduceMean 'bad'" in refused["message"]
    fails = outcomes["fixed"]["error"]
    assert fails["code"] == "batch_size_fails" and "cannot be reshaped" in fails["message"]
    assert not (tmp_path / "model_repository" / "stated").exists()

    config = (tmp_path / "model_repository" / "left_out" / "config.pbtxt").read_text()
    assert "max_batch_size" not in config and "dynamic_batching" not in config and "dims: [ -1, 6 ]" in config
    lock = lock_of(tmp_path)
    assert lock["left_out"]["rows"]["op"] == "ReduceMean 'bad'"
    assert lock["good"]["rows"] == {"verdict": "independent", "sizes": [1, 2, 3, 5, 8]}
    assert lock["unknown"]["rows"]["verdict"] == "unverified"
    assert "accuracy.samples" in lock["unknown"]["rows"]["note"]
    # No answer differed, yet the graph reads other rows: said where it is stated, not chosen where it is left out.
    for name, batched in (("doubted", True), ("doubted_left_out", False)):
        assert "ReduceMax" in lock[name]["rows"]["op"] and lock[name]["rows"]["verdict"] == "unverified"
        config = (tmp_path / "model_repository" / name / "config.pbtxt").read_text()
        assert ("max_batch_size" in config) == batched

    (tmp_path / "model_repository" / "left_out" / "config.pbtxt").unlink()
    (tmp_path / "model_repository" / "unknown" / "config.pbtxt").unlink()
    text = tritonsmith("build").stdout
    assert "max_batch_size 0, since rows of a batch depend on one another: row " in text
    assert "batching not verified: made-up inputs give NaN; state accuracy.samples" in text


def test_only_outputs_that_are_served_must_be_right(tmp_path: Path, tritonsmith: Run) -> None:
    nodes = [
        node("Relu", ["x"], ["y"]),
        node("ReduceMean", ["x", "axes"], ["m"], keepdims=1),
        node("Sub", ["x", "m"], ["z"]),
    ]
    both = model(nodes, [X], [Y, onnx_models.tensor("z", ("b", 6))], {"axes": np.array([0])})
    onnx.save(both, str(tmp_path / "m.onnx"))
    spec = "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"
    (tmp_path / "models.yaml").write_text(spec + "    output: [{name: y}]\n")
    assert tritonsmith("build").returncode == 0
    (tmp_path / "models.yaml").write_text(spec + "    output: [{name: y}, {name: z}]\n")
    assert tritonsmith("build").returncode == 4


def test_other_sizes_are_run_without_another_export_and_an_old_lock_is_made_up_for(
    tmp_path: Path, tritonsmith: Run
) -> None:
    put(tmp_path, "layers")
    spec = tmp_path / "models.yaml"
    spec.write_text("models:\n  m:\n    source: {onnx: layers.onnx}\n    max_batch_size: 8\n")
    assert tritonsmith("build").returncode == 0
    spec.write_text(spec.read_text() + "    dynamic_batching: {preferred_batch_size: [6]}\n")
    built = json.loads(tritonsmith("build", "--format", "json").stdout)["models"][0]
    assert built["action"] == "laid out" and built["rows"]["sizes"] == [1, 2, 3, 6, 8]

    path = tmp_path / "models.lock.json"
    lock = json.loads(path.read_text())
    del lock["models"]["m"]["rows"], lock["models"]["m"]["config"]["rows"]
    path.write_text(json.dumps(lock))
    plan = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    assert {a["reason"] for a in plan if a["state"] != "up-to-date"} == {"rows_unchecked"}
    assert tritonsmith("build", "--locked").returncode == 0
    assert tritonsmith("build").returncode == 0
    assert lock_of(tmp_path)["m"]["rows"]["sizes"] == [1, 2, 3, 6, 8]
    assert "nothing to do" in tritonsmith("build").stdout


def test_directories_are_run_too_and_samples_verify_them(tmp_path: Path, tritonsmith: Run) -> None:
    tensors = "input: [{name: x, data_type: TYPE_FP32, dims: [6]}], output: [{name: y, data_type: TYPE_FP32, dims: [6]}]"
    for name, proto in (
        ("mean", KINDS["mean"].make()),
        ("log", model([node("Log", ["x"], ["y"])], [X], [Y])),
    ):
        onnx_models.save(proto, tmp_path / name / "1" / "model.onnx")
        onnx_models.save(proto, tmp_path / name / "2" / "model.onnx")
    (tmp_path / "inputs.py").write_text(
        "import numpy as np\ndef of():\n    return [{'x': np.arange(1, 25, dtype='f').reshape(4, 6)}]\n"
    )
    (tmp_path / "models.yaml").write_text(
        "models:\n"
        f"  stated: {{source: {{directory: mean}}, max_batch_size: 8, {tensors}}}\n"
        "  left_out: {source: {directory: mean}}\n"
        f"  zero: {{source: {{directory: mean}}, {tensors.replace('[6]', '[-1, 6]')}}}\n"
        f"  log: {{source: {{directory: log}}, max_batch_size: 2, {tensors}, accuracy: {{samples: 'inputs:of'}}}}\n"
    )
    built = tritonsmith("build", "--format", "json")
    outcomes = {m["model"]: m for m in json.loads(built.stdout)["models"]}
    assert built.returncode == 4
    assert outcomes["stated"]["error"]["code"] == "rows_mixed"
    assert "Triton would infer it" in outcomes["left_out"]["error"]["message"]
    assert outcomes["zero"]["error"] is None and outcomes["zero"]["rows"] == {}
    assert outcomes["log"]["rows"] == {"verdict": "independent", "sizes": [1, 2]}


def strangers(root: Path) -> Path:
    """A repository of someone else's: mixing as stated, mixing as Triton would complete it, and safe."""
    config = 'backend: "onnxruntime"\nmax_batch_size: 8\n'
    onnx_models.add_model(root, "stated", KINDS["mean"].make(), config)
    onnx_models.add_model(root, "completed", KINDS["lstm_time_major"].make())
    onnx_models.add_model(root, "safe", KINDS["layers"].make(), config)
    return root


def test_check_deep_finds_what_triton_would_mix(tmp_path: Path, tritonsmith: Run) -> None:
    repository = strangers(tmp_path / "repository")
    before = sorted(p for p in repository.rglob("*"))
    assert tritonsmith("check", "repository").returncode == 0
    deep = tritonsmith("check", "repository", "--deep", "--format", "json")
    assert deep.returncode == 4
    found = {f["model"]: f for f in json.loads(deep.stdout)["findings"]}
    assert found.keys() == {"stated", "completed"}
    assert {f["rule"] for f in found.values()} == {"BATCH015"}
    assert "ReduceMean 'bad'" in found["stated"]["message"] and found["stated"]["line"] == 2
    assert "Triton completes it to 4" in found["completed"]["message"]
    assert sorted(p for p in repository.rglob("*")) == before
    flags = ("--server-args", "--disable-auto-complete-config --strict-readiness")
    alone = tritonsmith("check", "repository/completed", "--deep", *flags)
    assert "BATCH015" not in alone.stdout


def test_check_deep_loads_no_library_of_custom_operators(tmp_path: Path) -> None:
    custom = onnx.helper.make_model(
        onnx.helper.make_graph([onnx.helper.make_node("Mine", ["x"], ["y"], domain="mine")], "g", [X], [Y]),
        opset_imports=[onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("mine", 1)],
        ir_version=10,
    )
    config = 'backend: "onnxruntime"\nmax_batch_size: 8\nmodel_operations { op_library_filename: [ "libmine.so" ] }\n'
    onnx_models.add_model(tmp_path, "m", custom, config)
    (tmp_path / "m" / "1" / "libmine.so").write_bytes(b"not a library")
    found = check([tmp_path], LintOptions(deep=True, select=frozenset({"BATCH017"})))
    assert len(found) == 1 and "cannot load the model" in found[0].message


def test_ragged_inputs_are_not_run(tmp_path: Path) -> None:
    config = (
        'backend: "onnxruntime"\nmax_batch_size: 8\n'
        'input { name: "values" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true }\n'
        'output { name: "totals" data_type: TYPE_FP32 dims: [ 1 ] }\n'
        'batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_FP32'
        ' source_input: "values" }\n'
    )
    onnx_models.add_model(tmp_path, "m", onnx_models.row_sums(), config)
    found = check([tmp_path], LintOptions(deep=True, select=frozenset({"BATCH015", "BATCH016", "BATCH017"})))
    assert [f.rule for f in found] == ["BATCH017"] and "ragged" in found[0].message


def test_init_writes_max_batch_size_0_where_rows_mix(tmp_path: Path, tritonsmith: Run) -> None:
    strangers(tmp_path / "repository")
    onnx_models.save(KINDS["mean"].make(), tmp_path / "repository" / "completed" / "2" / "model.onnx")
    onnx_models.save(
        KINDS["lstm_time_major"].make(), tmp_path / "repository" / "completed" / "2" / "model.onnx"
    )
    put(tmp_path, "mean")
    done = tritonsmith("init", "repository", "mean.onnx")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "models.yaml").read_text()
    spec = yaml.safe_load(text)["models"]
    assert spec["stated"]["max_batch_size"] == spec["completed"]["max_batch_size"] == 0
    assert spec["mean"]["max_batch_size"] == 0 and spec["safe"]["max_batch_size"] == 8
    assert spec["completed"]["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4, 3]}]
    assert text.count("# not batched: ") == 3 and "LSTM 'bad'" in text
    built = tritonsmith("build", "--repository", "built")
    assert built.returncode == 0, built.stderr
    assert tritonsmith("check", "built", "--deep").returncode == 0


def test_a_file_that_cannot_be_read_is_not_verified(tmp_path: Path) -> None:
    from tritonsmith.builder.actions.batch_rows import RowsRequest

    (tmp_path / "m.onnx").write_bytes(b"nothing of the kind")
    report = rows_of_file(RowsRequest("m", str(tmp_path / "m.onnx"), (1, 2)))
    assert report.verdict == "unverified" and "not an ONNX file" in report.note


@pytest.mark.parametrize("rule_id", ["BATCH015", "BATCH016", "BATCH017", "BATCH018"])
def test_rules_need_deep(rule_id: str) -> None:
    assert RULES[rule_id].needs == "deep"
