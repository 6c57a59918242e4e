"""`tritonsmith init URL` on a real Triton, and a foreign repository that is served the same before and after its import."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.builder.foreign_repository import write_foreign_repository
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.build.build import BuildOptions, build
from tritonsmith.builder.cache.cache import Cache
from tritonsmith.builder.importing.files import imported_paths
from tritonsmith.builder.importing.spec_text import text_of_spec
from tritonsmith.perf.commands.init import imported_url
from tritonsmith.perf.server import control

NAMES = ("labelled", "tenfold", "pipeline")


def answer(triton: LiveTriton) -> list[float]:
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}]}
    url = f"http://{triton.http_url}/v2/models/pipeline/infer"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=20) as response:
        return list(json.load(response)["outputs"][0]["data"])


def served_from(triton: LiveTriton, repository: Path) -> dict[str, object]:
    """Puts the models into the live server's repository, loads them, and reads their configs back."""
    for name in NAMES:
        shutil.rmtree(triton.repository / name, ignore_errors=True)
        shutil.copytree(repository / name, triton.repository / name)
        control.load_model(triton.http_url, name)
    return {name: control.model_config(triton.http_url, name) for name in NAMES}


@pytest.mark.nightly
@pytest.mark.server
def test_an_imported_repository_is_served_as_before(triton: LiveTriton, tmp_path: Path) -> None:
    foreign = write_foreign_repository(tmp_path / "foreign")
    before = served_from(triton, foreign)
    assert answer(triton) == [30.0, 50.0, 70.0]

    live = [m for m in imported_url(f"http://{triton.http_url}").models if m.name in NAMES]
    assert {m.name: next(iter(m.source)) for m in live} == {
        "labelled": "onnx",
        "pipeline": "steps",
        "tenfold": "directory",
    }
    assert all("TODO" in m.remarks[0] for m in live if m.name != "pipeline")
    assert yaml.safe_load(text_of_spec(live))["models"].keys() == set(NAMES)

    spec = tmp_path / "models.yaml"
    spec.write_text(text_of_spec(imported_paths([foreign], tmp_path).models))
    result = build(BuildOptions(spec, cache=Cache(tmp_path / "cache")))
    assert result.errors == ()
    assert served_from(triton, result.repository) == before
    assert answer(triton) == [30.0, 50.0, 70.0]
    for name in reversed(NAMES):
        control.unload_model(triton.http_url, name)
