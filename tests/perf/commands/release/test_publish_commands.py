"""publish, versions and rollback as commands: what they print, where they write, how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import onnx_models
from tests.builder.publish.projects import Project
from tests.conftest import Run


def test_publish_versions_rollback(tmp_path: Path, tritonsmith: Run) -> None:
    there = {"TRITONSMITH_PUBLISH_TO": str(tmp_path / "published")}
    project = Project(tmp_path, there["TRITONSMITH_PUBLISH_TO"])
    project.write({"m": 2.0})
    stale = tritonsmith("publish", **there)
    assert stale.returncode == 4 and "error[stale]" in stale.stderr and "tritonsmith build" in stale.stderr
    project.build()
    first = tritonsmith("publish", "--format", "json", **there)
    assert first.returncode == 0, first.stderr
    (model,) = json.loads(first.stdout)["models"]
    assert (model["action"], model["version"], model["served"], model["error"]) == ("published", 1, [1], None)
    project.write({"m": 3.0})
    project.build()
    second = tritonsmith("publish", project.url, "m")
    assert "version 2  serves 2 (before: 1)" in second.stdout and "1 of 1 models published" in second.stdout
    back = tritonsmith("rollback", "m", **there)
    assert back.returncode == 0 and "version 1 is served again (before: 2), 3 files verified" in back.stdout
    told = tritonsmith("versions", project.url, "m", "--format", "json")
    assert [v["state"] for v in json.loads(told.stdout)["versions"]] == ["kept", "served"]
    wrong = tritonsmith("rollback", "m", "9", "--at", project.url)
    assert wrong.returncode == 2 and "valid: 2" in wrong.stderr
    assert wrong.stderr.startswith("note: --at DEST is the argument DEST now")
    assert tritonsmith("rollback", "m").returncode == 2, "nowhere is said where"


def test_the_recorded_answers_come_from_the_remote_cache_when_the_local_one_is_gone(
    tmp_path: Path, tritonsmith: Run
) -> None:
    onnx_models.save(onnx_models.affine(("batch", 3)), tmp_path / "m.onnx")
    (tmp_path / "models.yaml").write_text(
        "models:\n  m:\n    source: {onnx: m.onnx}\n    max_batch_size: 4\n"
    )
    shared = ("--remote-cache", str(tmp_path / "shared"))
    assert tritonsmith("build", *shared).returncode == 0
    elsewhere = {"TRITONSMITH_CACHE": str(tmp_path / "empty")}
    assert tritonsmith("publish", str(tmp_path / "a"), **elsewhere).returncode == 0
    assert smoke(tmp_path / "a")["note"] == "the source's answers are no longer in the cache"
    result = tritonsmith("publish", str(tmp_path / "b"), *shared, "--remote-cache-read-only", **elsewhere)
    assert result.returncode == 0, result.stderr
    assert smoke(tmp_path / "b")["samples"] > 0 and not smoke(tmp_path / "b")["note"]


def smoke(published: Path) -> Any:
    """What a version's provenance says of its smoke test."""
    (record,) = published.rglob("provenance.json")
    return json.loads(record.read_text())["smoke"]
