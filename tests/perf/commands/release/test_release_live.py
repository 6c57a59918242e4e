"""Publishing to live servers: they follow, or all is as before; requests to this and other models never fail."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests import onnx_models
from tests.builder.publish.projects import Project
from tests.conftest import Run
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.base.errors import GateError
from tritonsmith.builder.publish import Switched, list_versions, rollback
from tritonsmith.perf.commands.release.live import LiveRelease
from tritonsmith.perf.server import control
from tritonsmith.perf.server.launch import ServerSpec, launch
from tritonsmith.perf.wire.http import HttpTarget

pytestmark = [pytest.mark.server, pytest.mark.slow]


@dataclass
class Asked:
    """What came of requests that were sent all the time: wrong or refused ones, and the versions that answered."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


def ask(url: str, model: str) -> tuple[str, float]:
    """(version, y) for x = 1."""
    connection = http.client.HTTPConnection(url, timeout=20)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 1.0, 1.0]}]}
    connection.request("POST", f"/v2/models/{model}/infer", json.dumps(body))
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, content
    return content["model_version"], content["outputs"][0]["data"][0]


@contextmanager
def always_asking(url: str, *models: str) -> Iterator[dict[str, Asked]]:
    """Requests to each model one after the other, until the end of the block."""
    asked = {model: Asked() for model in models}
    done = threading.Event()

    def run(model: str) -> None:
        while not done.is_set():
            try:
                version, _ = ask(url, model)
                if asked[model].versions[-1:] != [version]:
                    asked[model].versions.append(version)
            except Exception as error:
                asked[model].failed.append(str(error))
            asked[model].requests += 1
            time.sleep(0.005)

    threads = [threading.Thread(target=run, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        done.set()
        for thread in threads:
            thread.join()


class Spoiling(LiveRelease):
    """A disk that spoils a version after it was published: another model lies there when the server loads it."""

    def __init__(self, release: LiveRelease, repository: Path, version: int) -> None:
        super().__init__(release.targets, release.timeout_s)
        object.__setattr__(self, "spoiled", (repository, version))

    def follow(self, switched: Switched) -> str:
        repository, version = self.spoiled  # type: ignore[attr-defined]
        if switched.served[-1] == version:
            file = repository / switched.model / str(version) / "model.onnx"
            file.unlink()
            onnx_models.save(onnx_models.affine(("batch", 3), scale=1000.0), file)
        return LiveRelease.follow(self, switched)


def scaled(project: Project, scale: float, extra: str = "") -> None:
    """`published` as y = scale · x + 1, exported, so that the build records its answers."""
    onnx_models.save(onnx_models.affine(("batch", 3), scale=scale), project.root / "m.onnx")
    (project.root / "models.yaml").write_text(
        f"models:\n  published:\n    source: {{onnx: m.onnx}}\n    max_batch_size: 4\n{extra}"
    )
    project.build()


@pytest.mark.nightly
def test_an_explicit_server_follows_or_all_is_as_before(
    triton: LiveTriton, tmp_path: Path, tritonsmith: Run
) -> None:
    url = triton.http_url
    project = Project(tmp_path, str(triton.repository))
    release = LiveRelease([HttpTarget(url)], 60.0)
    triton.load("beside", onnx_models.affine(("batch", 3), scale=9.0))
    scaled(project, 2.0)
    (first,) = project.publish(release=release).models
    assert first.error is None and "(explicit): version 1 ready" in first.live
    assert "4 answers as recorded" in first.live and ask(url, "published") == ("1", 3.0)
    with always_asking(url, "published", "beside") as asked:
        scaled(project, 3.0)
        assert project.publish(release=release).models[0].error is None
        assert ask(url, "published") == ("2", 4.0)

        scaled(project, 4.0)
        (spoiled,) = project.publish(release=Spoiling(release, triton.repository, 3)).models
        assert isinstance(spoiled.error, GateError) and spoiled.error.code == "release_failed"
        assert "the smoke test of 'published' version 3" in spoiled.error.message
        assert "version 2 is served again" in spoiled.error.details[0]
        assert "4 answers as recorded" in spoiled.error.details[0]
        assert ask(url, "published") == ("2", 4.0) and spoiled.served == (2,)

        scaled(project, 5.0, "    instance_group: [{kind: KIND_GPU, count: 1}]\n")
        refused = tritonsmith("publish", str(triton.repository), "--reload", f"http://{url}")
        assert refused.returncode == 4, refused.stderr
        assert "failed on the live servers and was undone" in refused.stderr and "KIND_GPU" in refused.stderr
        assert "version 2 is served again" in refused.stderr and "failed" in refused.stdout

        back = rollback(project.destination, "published", None, release)
        assert back.version == 1 and ask(url, "published") == ("1", 3.0)
    assert {m: a.failed for m, a in asked.items()} == {"published": [], "beside": []}
    assert asked["beside"].requests > 200 and asked["published"].versions[:2] == ["1", "2"]
    assert asked["published"].versions[-1] == "1"
    told = [(r.version, r.state) for r in list_versions(project.destination, "published")]
    assert told == [(4, "failed"), (3, "failed"), (2, "kept"), (1, "served")]
    control.unload_model(url, "published")
    control.unload_model(url, "beside")


def test_a_model_that_was_taken_over_is_held_to_the_answers_its_spec_states(
    triton: LiveTriton, tmp_path: Path
) -> None:
    project = Project(tmp_path, str(triton.repository))
    release = LiveRelease([HttpTarget(triton.http_url)], 60.0)
    x = np.ones((1, 3), np.float32)
    np.savez(tmp_path / "smoke.npz", x=x, y=3.0 * x)
    for scale, served in ((2.0, (1,)), (7.0, (1,))):
        project.write({"taken": scale}, "    smoke: smoke.npz\n")
        project.build()
        (told,) = project.publish(release=release).models
        assert told.served == served and not told.notes
        if scale == 2.0:
            assert told.error is None and "2 answers as recorded" in told.live
        else:
            assert told.error is not None and "the smoke test of 'taken' version 2" in told.error.message
        assert ask(triton.http_url, "taken") == ("1", 3.0)
    control.unload_model(triton.http_url, "taken")


@pytest.mark.nightly
def test_a_server_that_polls_never_sees_half_a_model(tmp_path: Path) -> None:
    repository = tmp_path / "published"
    project = Project(tmp_path, str(repository))
    repository.mkdir()
    onnx_models.add_model(repository, "beside", onnx_models.affine(("batch", 3), scale=9.0))
    log = tmp_path / "log"
    spec = ServerSpec(repositories=(repository,), model_control="poll", log_path=log, exit_timeout_s=0)
    with launch(spec) as server:
        url = server.http_url
        release = LiveRelease([HttpTarget(url)], 60.0)
        scaled(project, 2.0)
        (first,) = project.publish(release=release).models
        assert first.error is None and "(poll): version 1 ready" in first.live
        with always_asking(url, "published", "beside") as asked:
            scaled(project, 3.0)
            assert project.publish(release=release, keep=1).models[0].removed == (1,)
            assert ask(url, "published") == ("2", 4.0)
            scaled(project, 4.0)
            project.publish()
            assert rollback(project.destination, "published", None, release).version == 2
            whole = log.read_text()
            scaled(project, 5.0)
            (spoiled,) = project.publish(release=Spoiling(release, repository, 4)).models
            assert spoiled.error is not None and "version 2 is served again" in spoiled.error.details[0]
            assert ask(url, "published") == ("2", 4.0)
        assert {m: a.failed for m, a in asked.items()} == {"published": [], "beside": []}
    assert not [line for line in whole.splitlines() if "failed" in line and "model" in line]
    assert "ignore version directory" not in log.read_text()
