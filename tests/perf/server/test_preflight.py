"""Preflight: a table of machines, each with the one thing that is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import ToolError
from tritonsmith.perf.server import embedded
from tritonsmith.perf.server.environment import environment
from tritonsmith.perf.server.preflight import MIN_SHM_BYTES, Observed, check, check_stub, observe, problems

GOOD = Observed(
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
    bash="/usr/bin/bash",
    shm_free_bytes=2**30,
)


def test_a_good_machine_passes() -> None:
    check(GOOD)


@pytest.mark.parametrize(
    ("wrong", "code", "fix"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "platform_unsupported", "--launch docker:"),
        ({"machine": "aarch64"}, "platform_unsupported", "--launch docker:"),
        ({"glibc": (2, 31)}, "glibc_too_old", "Debian 12"),
        ({"bash": None}, "bash_missing", "apt-get install bash"),
        ({"shm_free_bytes": MIN_SHM_BYTES - 1}, "shm_full", "--shm-size"),
        ({"shm_free_bytes": None}, "shm_full", "--shm-size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_named_with_its_fix(wrong: dict[str, Any], code: str, fix: str) -> None:
    found = list(problems(replace(GOOD, **wrong)))
    assert [problem.code for problem in found] == [code]
    assert fix in str(found[0].fix)
    with pytest.raises(ToolError) as caught:
        check(replace(GOOD, **wrong))
    assert caught.value.exit_code == 3


def test_an_unknown_c_library_and_the_least_room_pass() -> None:
    check(replace(GOOD, glibc=None, shm_free_bytes=MIN_SHM_BYTES))


@pytest.mark.server
def test_a_stub_that_cannot_be_loaded_says_which_library_it_misses(tmp_path: Path) -> None:
    check(observe())
    parts = embedded.locate(environment.ensure())
    # Copied away from the wheel it no longer finds the wheel's libraries.
    copy = tmp_path / "stub"
    copy.write_bytes(parts.stub.read_bytes())
    copy.chmod(0o755)
    with pytest.raises(ToolError) as caught:
        check_stub(replace(parts, stub=copy), {"PATH": os.defpath})
    assert caught.value.code == "stub_unusable"
    assert "cannot open shared object file" in str(caught.value.seen)


def test_a_stub_sees_the_servers_python_first_and_the_users_modules_last(tmp_path: Path) -> None:
    libpython = tmp_path / "elsewhere" / "libpython3.11.so.1.0"
    base = {
        "PATH": "/usr/bin",
        "PYTHONHOME": "/elsewhere",
        "PYTHONPATH": os.pathsep.join(["/mine", "", "here"]),
        "LD_LIBRARY_PATH": "/mine",
        "LANG": "C",
    }
    python = embedded.PythonEnvironment(tmp_path / "server", "3.11", libpython)
    env = embedded.variables(python, base, tmp_path / "lib")
    assert env["PATH"] == os.pathsep.join([str(tmp_path / "server" / "bin"), "/usr/bin"])
    assert not {"PYTHONHOME", "PYTHONPATH"} & set(env)
    assert env[embedded.MODEL_PATH] == os.pathsep.join(["/mine", str(Path("here").absolute())])
    assert (env["LANG"], env["PYTHONNOUSERSITE"]) == ("C", "1")
    assert env["LD_LIBRARY_PATH"] == os.pathsep.join([str(tmp_path / "lib"), "/mine"])
    # Nothing but this Python's own library may come before the system's.
    assert {p.name: p.readlink() for p in (tmp_path / "lib").iterdir()} == {libpython.name: libpython}
