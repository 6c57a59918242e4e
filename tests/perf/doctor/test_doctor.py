"""doctor: every look is a line, a look that raises stops no other, required things alone decide the exit code."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from tests.conftest import Run
from tritonsmith.builder.base.text.text_layout import cells
from tritonsmith.perf.doctor.machine import ROWS, Check, Finding, Machine, Row, checks, is_free, text_of


def machine(tmp_path: Path, **environ: str) -> Machine:
    return Machine({"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environ}, tmp_path / "models.yaml")


def look(name: str, where: Machine) -> Check:
    return checks(where, [row for row in ROWS if row.name == name])[0]


def there(_: Machine) -> Finding:
    return True, "1.0", "never shown"


def lacking(_: Machine) -> Finding:
    return False, "none", "install it"


def broken(_: Machine) -> Finding:
    raise RuntimeError("driver said no")


def test_a_look_that_raises_is_a_line_and_the_rest_go_on(tmp_path: Path) -> None:
    found = checks(
        machine(tmp_path), [Row("a", True, broken), Row("b", False, lacking), Row("c", True, there)]
    )
    assert [c.state for c in found] == ["missing", "optional", "ok"]
    assert "RuntimeError: driver said no" in found[0].seen
    assert (found[1].fix, found[2].fix) == ("install it", "")


def test_text_names_states_in_words_and_fits_eighty_columns(tmp_path: Path) -> None:
    found = checks(machine(tmp_path), [Row("a", True, lacking), *ROWS])
    text = text_of(found, 80)
    assert text.endswith("missing for the basic work: a")
    # A path is one word, which people copy.
    assert all(cells(line) <= 80 or "/" in line for line in text.splitlines())
    assert "fix: install it" in " ".join(text.split())


def test_command_answers_as_text_and_json_within_its_exit_codes(tritonsmith: Run, tmp_path: Path) -> None:
    done = tritonsmith("doctor", "--format", "json")
    told = json.loads(done.stdout)
    assert [c["name"] for c in told["checks"]] == [row.name for row in ROWS]
    assert done.returncode == (3 if told["missing"] else 0)
    assert {c["name"] for c in told["checks"] if c["state"] == "missing"} == set(told["missing"])


def test_something_required_that_is_missing_is_exit_3(tritonsmith: Run, tmp_path: Path) -> None:
    (in_the_way := tmp_path / "file").write_text("canary")
    done = tritonsmith("doctor", TRITONSMITH_CACHE=str(in_the_way / "cache"))
    assert done.returncode == 3
    assert "missing for the basic work: cache" in done.stdout
    assert in_the_way.read_text() == "canary"


def test_credentials_are_named_and_never_shown(tmp_path: Path) -> None:
    seen = look(
        "object stores", machine(tmp_path, AWS_ACCESS_KEY_ID="AKIASECRET", AWS_SECRET_ACCESS_KEY="hush")
    )
    assert "s3 by AWS_ACCESS_KEY_ID" in seen.seen
    assert "SECRET" not in str(seen).replace("AWS_ACCESS_KEY_ID", "") and "hush" not in str(seen)
    assert look("object stores", machine(tmp_path)).state == "optional"


def test_a_shared_cache_that_is_no_address_is_said(tmp_path: Path) -> None:
    assert (
        look("shared cache", machine(tmp_path, TRITONSMITH_REMOTE_CACHE="ftp://host/x")).state == "optional"
    )
    fine = look("shared cache", machine(tmp_path, TRITONSMITH_REMOTE_CACHE=str(tmp_path)))
    assert fine.state == "ok" and "well formed" in fine.seen


@pytest.mark.parametrize(
    ("target", "state", "words"),
    [
        ("", "ok", "names no `target"),
        ('target: {triton: "24.10"}\n', "optional", "Triton 24.10 needs driver 560"),
    ],
)
def test_the_driver_is_held_against_the_target(tmp_path: Path, target: str, state: str, words: str) -> None:
    from tritonsmith.perf.doctor.gpu_check.steps.nvidia import driver_version

    if driver_version() is not None:
        pytest.skip("this machine has a driver")
    (tmp_path / "models.yaml").write_text(f"{target}models: {{m: {{source: {{onnx: m.onnx}}}}}}\n")
    seen = look("driver", machine(tmp_path))
    assert (seen.state, words in seen.seen) == (state, True)


def test_a_port_that_is_taken_is_seen() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(1)
        port = held.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)


@pytest.mark.parametrize(
    ("program", "seen", "state"),
    [
        ("echo 27.5.1", "engine 27.5.1", "ok"),
        ("echo Cannot connect to the daemon >&2; exit 1", "no engine: Cannot connect", "optional"),
    ],
    ids=["engine", "client alone"],
)
def test_a_docker_client_without_an_engine_is_not_docker(
    tmp_path: Path, program: str, seen: str, state: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\n{program}\n")
    docker.chmod(0o755)
    found = look("Docker", machine(tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert (found.state, seen in found.seen) == (state, True)
