"""`How to add …` of CONTRIBUTING.md, from outside: a package adds a source, precision, server, column and lint rule."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import onnx_models
from tests.perf.report.test_compare import records
from tests.perf.report.test_report import Page, run_result
from tritonsmith.perf.records.record import save_records
from tritonsmith.perf.sweep.run_record import write_run

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROWS = {
    "sources": "acme.source:ROW",
    "precisions": "acme.precision:ROW",
    "launches": "acme.launch:ROW",
    "columns": "acme.column:ROW",
    "rules": "acme.lint_rule:large_batch",
}


def installed(root: Path, rows: dict[str, str]) -> str:
    """A directory as pip leaves it, with tests/acme and the entry points."""
    shutil.copytree(Path(__file__).with_name("acme"), root / "acme")
    info = root / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    groups = (f"[tritonsmith.{group}]\nrow = {value}\n" for group, value in rows.items())
    (info / "entry_points.txt").write_text("".join(groups))
    return str(root)


@pytest.fixture
def acme(tmp_path: Path) -> str:
    return installed(tmp_path / "site", ROWS)


def matrix() -> Any:
    weights = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    return onnx_models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        [onnx_models.tensor("x", ["batch", 16])],
        [onnx_models.tensor("y", ["batch", 8])],
        {"w": weights},
    )


def test_a_source_is_one_row_and_one_function(tmp_path: Path, tritonsmith: Run, acme: str) -> None:
    onnx_models.save(onnx_models.affine(["batch", 3]), tmp_path / "a.onnx")
    (tmp_path / "models.yaml").write_text("models: {a: {source: {doubled: a.onnx, how: thoroughly}}}\n")
    ran = tritonsmith("build", PYTHONPATH=acme)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "model_repository" / "a" / "1" / "model.onnx").is_file()
    assert '"doubled"' in tritonsmith("schema", PYTHONPATH=acme).stdout
    without = tritonsmith("build")
    assert without.returncode == 2 and "unknown key 'doubled' in models.a.source" in without.stderr


def test_a_precision_is_one_row_and_one_function(tmp_path: Path, tritonsmith: Run, acme: str) -> None:
    """Its graph is served when its own bounds let it pass; a stricter bound refuses it; without the package it is unknown."""
    onnx_models.save(matrix(), tmp_path / "a.onnx")
    spec = "models: {a: {source: {onnx: a.onnx}, variants: {small: {precision: int8_weights%s}}}}\n"
    (tmp_path / "models.yaml").write_text(spec % "")
    ran = tritonsmith("build", PYTHONPATH=acme)
    assert ran.returncode == 0, ran.stderr
    served = onnx.load(str(tmp_path / "model_repository" / "a" / "1" / "model.onnx"))
    stored = {tensor.name: tensor.data_type for tensor in served.graph.initializer}
    assert stored["w_int8"] == onnx.TensorProto.INT8 and "w" not in stored
    lock = json.loads((tmp_path / "models.lock.json").read_text())
    variant = lock["models"]["a"]["variants"]["small"]
    assert 1e-4 < variant["accuracy"]["relative_l2"] < 0.05 and variant["coverage"]["nodes"] == 1
    (tmp_path / "models.yaml").write_text(spec % ", accuracy: {relative_l2: 0.0001}")
    assert tritonsmith("build", PYTHONPATH=acme).returncode == 4
    without = tritonsmith("plan")
    assert without.returncode == 2 and "int8_weights" in without.stderr and "'nvfp4'" in without.stderr


def test_a_kind_of_server_is_one_row_and_one_function(tmp_path: Path, tritonsmith: Run, acme: str) -> None:
    (tmp_path / "models").mkdir()
    serve = ("serve", "models", "--launch", "small:ranker", "--format", "json")
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    server = subprocess.Popen(
        [sys.executable, "-m", "tritonsmith", *serve, *ports],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": acme}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        told = json.loads(_document(server.stdout))
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
    assert (told["version"], told["models"][0]["name"]) == ("0.1", "ranker")
    with pytest.raises(ProcessLookupError):
        os.kill(told["pid"], 0)
    without = tritonsmith(*serve)
    assert without.returncode == 2 and "small:MODEL" not in without.stderr
    wrong = tritonsmith("serve", "models", "--launch", "smal:ranker", PYTHONPATH=acme)
    assert wrong.returncode == 2 and "small:MODEL" in wrong.stderr


def _document(stream: Any) -> str:
    """The lines up to the one that ends the JSON."""
    text = ""
    for line in stream:
        text += line
        if line.rstrip() == "}":
            break
    return text


def test_a_column_is_one_row(tmp_path: Path, tritonsmith: Run, acme: str) -> None:
    """In the CSV with its interval, on the page, on the terminal, and in the report of a single load test."""
    (tmp_path / "run").mkdir()
    write_run(run_result(), tmp_path / "run")
    save_records(records(900, 2.0, 1), tmp_path / "load.npz")
    ran = tritonsmith("report", "run", "--format", "text", PYTHONPATH=acme)
    assert ran.returncode == 0, ran.stderr
    assert "tail ratio" in ran.stdout and "1.6 to 1" in ran.stdout
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run" / "report.csv").read_text())))
    for row in rows:
        assert float(row["p99_over_p50_low"]) <= float(row["p99_over_p50"]) <= float(row["p99_over_p50_high"])
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert page.stack == [] and "tail ratio" in page.text and "1.6 to 1" in page.text
    load = tritonsmith("report", "load.npz", "--format", "csv", PYTHONPATH=acme).stdout
    assert [line for line in load.splitlines() if line.startswith("tail ratio,")]
    assert "tail ratio" not in tritonsmith("report", "run", "--format", "text").stdout


def test_a_lint_rule_is_one_function(tmp_path: Path, tritonsmith: Run, acme: str) -> None:
    (tmp_path / "config.pbtxt").write_text('backend: "onnxruntime"\nmax_batch_size: 128\n')
    found = json.loads(tritonsmith("check", "config.pbtxt", "--format", "json", PYTHONPATH=acme).stdout)
    (finding,) = [f for f in found["findings"] if f["rule"] == "ACME001"]
    assert finding["line"] == 2 and finding["severity"] == "warning"
    explained = tritonsmith("check", "--explain", "ACME001", PYTHONPATH=acme)
    assert "max_batch_size is above 64" in explained.stdout
    assert "ACME001" not in tritonsmith("check", "config.pbtxt", "--format", "json").stdout


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("acme.nowhere:ROW", "cannot be imported: ModuleNotFoundError"),
        ("acme.source:ROW", "of type SourceRow, not PrecisionRow"),
        ("acme.taken:ROW", "there is a 'fp16' already"),
    ],
)
def test_a_row_that_will_not_do_names_its_package(
    tmp_path: Path, tritonsmith: Run, row: str, why: str
) -> None:
    """Left out, it would be missed by nobody but in production."""
    site = installed(tmp_path / "site", {"precisions": row})
    (tmp_path / "site" / "acme" / "taken.py").write_text(
        "from dataclasses import replace\nfrom acme.precision import ROW\nROW = replace(ROW, name='fp16')\n"
    )
    (tmp_path / "models.yaml").write_text("models: {}\n")
    ran = tritonsmith("plan", PYTHONPATH=site)
    assert ran.returncode == 3 and "bad_row" in ran.stderr and why in ran.stderr
    assert "uninstall acme" in ran.stderr and "Traceback" not in ran.stderr
