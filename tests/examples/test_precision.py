"""examples/demo/precision.yaml: three models at three precisions on a CPU, the gate's refusals and what is served instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run


@pytest.mark.slow
@pytest.mark.demo
@pytest.mark.timeout(400)
def test_the_demo_at_three_precisions(tmp_path: Path, tritonsmith: Run) -> None:
    project = tmp_path / "demo"
    shutil.copytree(
        ROOT / "examples" / "demo", project, ignore=shutil.ignore_patterns("*.lock.json", "__pycache__")
    )
    result = tritonsmith(
        "build",
        "--spec",
        "precision.yaml",
        "--variants",
        "variants",
        "--format",
        "json",
        cwd=project,
        timeout=380,
    )
    assert result.returncode == 0, result.stderr
    built = {
        m["model"]: {v["variant"]: v for v in m["variants"]} for m in json.loads(result.stdout)["models"]
    }
    served = {model: next(n for n, v in variants.items() if v["served"]) for model, variants in built.items()}
    assert built.keys() == {"minilm", "detector", "crepe"} and {len(v) for v in built.values()} == {3, 4}
    assert served["minilm"] == "smooth", "plain int8 loses too much of a sentence, and the gate says so"
    assert (
        built["minilm"]["int8"]["accuracy"]["cosine"] < 0.99 < built["minilm"]["smooth"]["accuracy"]["cosine"]
    )
    assert "minilm/int8: not accurate enough" in result.stderr and "smooth is served instead" in result.stderr
    assert served["crepe"] == "int8"
    assert len(list((project / "variants").iterdir())) == 10
