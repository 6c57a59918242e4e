"""publish, versions and rollback as commands: what they print, where they write, how they end."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert tritonsmith("rollback", "m").returncode == 2, "nowhere is said where"
