"""Preflight: a table of machines, each with the one thing that is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ToolError
from perf.server import embedded
from perf.server.preflight import MIN_SHM_BYTES, Observed, check, observe, problems

GOOD = Observed(
    system="Linux",
    machine="x86_64",
    glibc=(2, 36),
    python="3.11",
    bash="/usr/bin/bash",
    pytriton="0.7.0",
    stub_exists=True,
    stub_error=None,
    numpy="1.26.4",
    onnxruntime="1.31.1",
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
        ({"python": "3.13"}, "python_unsupported", "python3.12 -m venv"),
        ({"pytriton": None, "stub_exists": False}, "pytriton_missing", "tritonsmith[embedded]"),
        ({"stub_exists": False}, "stub_missing", "nvidia-pytriton==0.7.0"),
        ({"bash": None}, "bash_missing", "apt-get install bash"),
        (
            {"stub_error": "error while loading shared libraries: libpython3.11.so.1.0: cannot open"},
            "libpython_missing",
            "apt-get install libpython3.11",
        ),
        ({"stub_error": "libcudart-0.so: cannot open"}, "stub_unusable", "--force-reinstall"),
        ({"numpy": "2.4.6"}, "numpy_too_new", "numpy<2"),
        ({"numpy": None}, "numpy_missing", "numpy<2"),
        ({"onnxruntime": None}, "onnxruntime_missing", "pip install onnxruntime"),
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
def test_this_machine_is_observed(tmp_path: Path) -> None:
    parts = embedded.locate()
    env = embedded.environment(os.environ, tmp_path / "lib")
    seen = observe(parts, env)
    check(seen)
    assert seen.pytriton == "0.7.0"
    assert seen.numpy is not None and seen.numpy.startswith("1.")


@pytest.mark.server
def test_a_stub_that_cannot_be_loaded_says_which_library_it_misses(tmp_path: Path) -> None:
    parts = embedded.locate()
    assert parts is not None
    # Copied away from the wheel it no longer finds the wheel's libraries.
    copy = tmp_path / "stub"
    copy.write_bytes(parts.stub.read_bytes())
    copy.chmod(0o755)
    seen = observe(replace(parts, stub=copy), {"PATH": os.defpath})
    assert "cannot open shared object file" in str(seen.stub_error)


def test_the_childs_environment_puts_this_python_first(tmp_path: Path) -> None:
    base = {"PATH": "/usr/bin", "PYTHONHOME": "/elsewhere", "LD_LIBRARY_PATH": "/mine", "LANG": "C"}
    env = embedded.environment(base, tmp_path / "lib")
    first = Path(env["PATH"].split(os.pathsep)[0])
    assert (first / "python").exists() or (first / "python3").exists()
    assert env["PATH"].endswith(os.pathsep + "/usr/bin")
    assert "PYTHONHOME" not in env
    assert (env["LANG"], env["PYTHONNOUSERSITE"]) == ("C", "1")
    assert env["LD_LIBRARY_PATH"].endswith("/mine")
    own = embedded.own_libpython()
    if own is not None:
        # Nothing but this Python's own library may come before the system's.
        assert [p.name for p in (tmp_path / "lib").iterdir()] == [own.name]
