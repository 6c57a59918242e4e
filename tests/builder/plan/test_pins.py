"""A name on the hub without a commit → the commit that a hub on a real socket says, kept in the lock until asked anew."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import GateError, TritonsmithError, UsageError
from tritonsmith.builder.build.build import build
from tritonsmith.builder.build.context import BuildOptions, plan_build
from tritonsmith.builder.cache.cache import Cache

pytest.importorskip("huggingface_hub", reason="needs the transformers extra")

FIRST, SECOND = "0123456789abcdef" * 2 + "01234567", "f" * 40
SPEC = """models:
  chat:
    source: {llm: org/model}
    engine: {max_num_seqs: 8}
"""
# Read by huggingface_hub as it is imported, so a build is a process of its own; the rest of a test shares one.
PROGRAM = """
import sys
from pathlib import Path
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.llm.hub import commit_of
from tritonsmith.builder.llm.weights import hub_name
for asked in sys.argv[1:]:
    try:
        print(commit_of(hub_name(asked)))
    except TritonsmithError as error:
        print(error.exit_code, error.code, " ".join(str(error).split()))
"""


@dataclass
class Hub:
    """path → (status, headers, body) or seconds to wait; what it was asked, with the token."""

    url: str
    answers: dict[str, tuple[int, dict[str, str], bytes] | float]
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def has(self, path: str, commit: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps({"id": "org/model", "sha": commit, "siblings": []}).encode()
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[f"/api/models/{path}"] = (status, told, body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    answers: dict[str, tuple[int, dict[str, str], bytes] | float] = {}
    ended = threading.Event()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/api/models/"):  # huggingface_hub asks a hub what else it can, too
                told.asked.append((self.path, self.headers.get("Authorization")))
            answer = answers.get(self.path, (404, {"X-Error-Code": "RepoNotFound"}, b"{}"))
            if isinstance(answer, float):
                ended.wait(answer)
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    told = Hub(f"http://127.0.0.1:{server.server_port}", answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    ended.set()
    server.shutdown()
    server.server_close()


def ask(tmp_path: Path, *names: str, **env: str) -> list[str]:
    """A line for each name: its commit, or an error's exit code, code and text."""
    clean = {"PATH": "", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub"), "HF_HUB_ETAG_TIMEOUT": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**clean, **env},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    return ran.stdout.splitlines()


def test_what_a_hub_may_answer_is_a_commit_or_one_error_that_says_what_to_do(
    tmp_path: Path, hub: Hub
) -> None:
    hub.has("org/model", FIRST)
    hub.has("org/model/revision/main", SECOND)
    hub.has(
        "org/gated",
        None,
        401,
        X_Error_Code="GatedRepo",
        X_Error_Message="Access to model org/gated is restricted",
    )
    hub.has("org/private", None, 401)
    hub.has("org/model/revision/v9", None, 404, X_Error_Code="RevisionNotFound")
    hub.has("org/old", None, 307, Location="/api/models/org/model")
    hub.has("org/short", "abc123")
    hub.has("org/none", None)
    hub.has("org/down", None, 503)
    hub.answers["/api/models/org/garbage"] = (200, {}, b"<html>a proxy's page</html>")
    hub.answers["/api/models/org/slow"] = 30.0
    began = time.monotonic()
    found = ask(
        tmp_path,
        *("org/model", "org/model@main", "org/old", "org/gated", "org/private", "org/absent", "org/model@v9"),
        *("org/short", "org/none", "org/down", "org/garbage", "org/slow"),
        HF_ENDPOINT=hub.url,
        HF_TOKEN="hf_secret",
    )  # fmt: skip
    assert time.monotonic() - began < 60
    assert found[:3] == [FIRST, SECOND, FIRST], "found, a branch, one that was renamed"
    assert hub.asked[0] == ("/api/models/org/model", "Bearer hf_secret")
    gated, private, absent, revision, short, none, down, garbage, slow = found[3:]
    assert gated.startswith("3 hub_refused ") and f"{hub.url}/org/gated" in gated and "HF_TOKEN" in gated
    assert private.startswith("3 hub_refused ") and "check how it is written" in private
    assert absent.startswith("2 hub_no_model ") and "org/absent" in absent
    assert revision.startswith("2 hub_no_revision ") and "'v9'" in revision
    assert short.startswith("3 hub_unreachable ") and "'abc123'" in short
    assert none.startswith("3 hub_unreachable ") and "no commit" in none
    for line in (down, garbage, slow):
        assert line.startswith("3 hub_unreachable ") and "source: {llm: org/" in line and "@COMMIT" in line
    assert not any("hf_secret" in line for line in found)


def test_offline_and_without_a_hub_it_is_what_was_fetched_before_or_an_error(tmp_path: Path) -> None:
    home = tmp_path / "snapshots" / "hf"  # a directory of the user's, called as one of the cache's
    snapshot = home / "hub" / "models--org--model"
    (snapshot / "refs").mkdir(parents=True)
    (snapshot / "refs" / "main").write_text(FIRST)
    (snapshot / "snapshots" / FIRST).mkdir(parents=True)
    (snapshot / "snapshots" / FIRST / "config.json").write_text("{}")
    for env in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        known, other = ask(tmp_path, "org/model", "org/other", HF_HOME=str(home), **env)
        assert known == FIRST
        assert other.startswith("3 hub_unreachable ") and "org/other@COMMIT" in other


@pytest.fixture
def project(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    from huggingface_hub import hf_api

    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    hub.has("org/model", FIRST)
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def options(project: Path, spec: str | None = None, **more: Any) -> BuildOptions:
    if spec is not None:
        (project / "models.yaml").write_text(spec)
    return BuildOptions(project / "models.yaml", cache=Cache(project / "cache"), **more)


def served(project: Path) -> tuple[str, str]:
    told = json.loads((project / "model_repository" / "chat" / "1" / "model.json").read_text())
    return told["model"], told["revision"]


def kept(project: Path) -> Any:
    return json.loads((project / "models.lock.json").read_text())["models"]["chat"]["pinned"]


def test_a_build_stays_at_the_commit_of_the_lock_until_it_is_asked_to_update(
    project: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GateError, match="does not say at which commit org/model is"):
        build(options(project, locked=True))
    assert not hub.asked
    assert not build(options(project)).errors
    assert served(project) == ("org/model", FIRST) and kept(project) == {"org/model": FIRST}
    assert f"org/model is {FIRST} on the hub" in capsys.readouterr().err

    hub.has("org/model", SECOND)
    asked = len(hub.asked)
    assert not plan_build(options(project))[1].stale
    assert (
        not build(options(project, SPEC.replace("8", "4"))).errors
        and not build(options(project, locked=True)).errors
    )
    assert served(project) == ("org/model", FIRST) and len(hub.asked) == asked, "nobody is asked again"

    (project / "models.yaml").write_text(SPEC)
    stale = plan_build(options(project, update_revisions=True))[1].stale
    assert any(SECOND in action.detail for action in stale) and kept(project) == {"org/model": FIRST}
    assert not build(options(project, update_revisions=True)).errors
    assert served(project) == ("org/model", SECOND) and kept(project) == {"org/model": SECOND}
    assert f"no longer {FIRST} but {SECOND}" in capsys.readouterr().err
    with pytest.raises(UsageError):
        build(options(project, locked=True, update_revisions=True))


def test_another_way_to_say_the_same_commit_is_remembered_and_builds_nothing(project: Path, hub: Hub) -> None:
    assert not build(options(project)).errors
    hub.has("org/model/revision/main", FIRST)
    assert not build(options(project, SPEC.replace("org/model", "org/model@main"))).plan.stale
    assert kept(project) == {"org/model@main": FIRST}
    build(options(project))
    asked = len(hub.asked)
    assert asked == 2 and kept(project) == {"org/model@main": FIRST}
    assert not build(options(project, SPEC.replace("org/model", f"org/model@{FIRST}"))).plan.stale
    assert "pinned" not in json.loads((project / "models.lock.json").read_text())["models"]["chat"]
    assert len(hub.asked) == asked


def test_a_model_that_fails_keeps_its_commit(project: Path, hub: Hub) -> None:
    assert not build(options(project)).errors
    hub.has("org/model", SECOND)
    wrong = SPEC + "    version_policy: {specific: {versions: [7]}}\n"
    (error,) = build(options(project, wrong, update_revisions=True)).errors
    assert error.code == "lint" and served(project) == ("org/model", FIRST)
    assert kept(project) == {"org/model": FIRST}


def test_locked_leaves_the_lock_file_as_it_is(project: Path) -> None:
    assert not build(options(project)).errors
    before = (project / "models.lock.json").read_bytes()
    assert not build(options(project, SPEC.replace("org/model", f"org/model@{FIRST}"), locked=True)).errors
    assert (project / "models.lock.json").read_bytes() == before


def test_what_the_hub_refuses_is_said_at_the_specs_line_and_nothing_is_made(project: Path, hub: Hub) -> None:
    hub.has("org/model", None, 401, X_Error_Code="GatedRepo")
    with pytest.raises(TritonsmithError) as caught:
        build(options(project))
    assert (caught.value.code, str(caught.value.where)) == ("hub_refused", f"{project / 'models.yaml'}:3")
    assert not (project / "model_repository").exists() and not (project / "models.lock.json").exists()


@pytest.mark.parametrize("commit", ["main", "../../x", "0" * 39, 7])
def test_a_lock_that_pins_to_something_else_than_a_commit_is_refused(project: Path, commit: Any) -> None:
    assert not build(options(project)).errors
    lock = json.loads((project / "models.lock.json").read_text())
    lock["models"]["chat"]["pinned"] = {"org/model": commit}
    (project / "models.lock.json").write_text(json.dumps(lock))
    with pytest.raises(TritonsmithError) as caught:
        plan_build(options(project))
    assert caught.value.code == "lock_invalid"
