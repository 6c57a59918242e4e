"""What a plan says of config.pbtxt is what a build then makes of it: fields are compared, and the build is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import onnx_models
from tests.builder.build.test_build_ensemble import SPEC, STEP
from tests.conftest import Run
from tritonsmith.builder.model_config.field_changes import field_changes
from tritonsmith.builder.model_config.model_config import model_config_from_text


@pytest.mark.parametrize(
    "variants",
    [
        "",
        pytest.param("    variants: {fp16: {precision: fp16}}\n", marks=pytest.mark.nightly),
    ],
    ids=["exports", "variants"],
)
def test_the_fields_that_a_plan_names_are_those_that_a_build_changes(
    variants: str, tmp_path: Path, tritonsmith: Run
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3), scale=2.0, offset=0.0), tmp_path / "double.onnx")
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "words.txt").write_text("a\nb\n")
    (tmp_path / "models.yaml").write_text(SPEC + variants)
    assert tritonsmith("build").returncode == 0
    before = laid_out(tmp_path)
    spec = (SPEC + variants).replace("max_batch_size: 8", "max_batch_size: 4")
    spec += "    instance_group: [{kind: KIND_CPU, count: 2}]\n"
    (tmp_path / "models.yaml").write_text(spec)
    config = tmp_path / "model_repository" / "length" / "config.pbtxt"
    config.write_text(config.read_text() + 'parameters { key: "by hand" value { string_value: "x" } }\n')
    before["length"] = laid_out(tmp_path)["length"]

    planned = json.loads(tritonsmith("plan", "--format", "json").stdout)
    foreseen = {m["model"]: [(c["path"], c["old"], c["new"]) for c in m["config"]] for m in planned["models"]}
    assert ("max_batch_size", "8", "4") in foreseen["search"], "an ensemble by what its steps will be"
    assert any("by hand" in path for path, _, _ in foreseen["length"])
    shown = tritonsmith("plan").stdout
    assert "config.pbtxt  max_batch_size: 8 → 4" in shown and shown.endswith("to change, 0 to remove.\n")

    assert tritonsmith("build").returncode == 0
    after = laid_out(tmp_path)
    made = {m: [(c.path, c.old, c.new) for c in field_changes(before[m], after[m])] for m in before}
    assert foreseen == made


def laid_out(root: Path) -> dict[str, Any]:
    found = sorted((root / "model_repository").glob("*/config.pbtxt"))
    return {path.parent.name: model_config_from_text(path.read_text()) for path in found}
