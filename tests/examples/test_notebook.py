"""The notebook's cells run in order where an event loop runs already, as a kernel runs them."""

from __future__ import annotations

import ast
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

import tritonsmith
from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "notebook" / "tritonsmith.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Runs it and gives the value of its last expression, which a notebook shows."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), NOTEBOOK.name, "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.server
@pytest.mark.nightly
def test_its_cells_run_in_order(
    tmp_path: Path,
    cache_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRITONSMITH_CACHE", str(cache_directory))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {}

    async def kernel() -> list[Any]:
        return [run_cell(source, names) for source in code_cells()]

    shown = asyncio.run(kernel())
    tables = [value for value in shown if hasattr(value, "_repr_html_")]
    assert [type(value).__name__ for value in tables] == [
        "BuildPlan", "BuildResult", "LintReport", "LoadTestResult", "Comparison",
    ]  # fmt: skip
    assert all("<table>" in value._repr_html_() for value in tables if value.rows())
    before = names["before"]
    assert isinstance(before, tritonsmith.LoadTestResult)
    assert len(before.records) > 10 and not before.records.failures()
    assert names["built"].repository.parent == names["work"] and names["work"].parent == tmp_path
    assert capfd.readouterr().out == ""
