"""A server that others share is held by one sweep at a time: not by one that was killed, but by one that cannot be seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tritonsmith.builder.base.errors import ServerError, ToolError
from tritonsmith.perf.sweep.attached.lock import LOCK, locked_server, this_process
from tritonsmith.perf.sweep.attached.place import place_of, server_key

URL = "http://localhost:8000"
HOLD = """
import sys, time
from pathlib import Path
from tritonsmith.perf.sweep.attached.lock import locked_server
with locked_server(Path(sys.argv[1]), "http://localhost:8000", "tritonsmith sweep of another shell"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the server in this directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_server_that_is_held_is_refused_with_who_holds_it_and_is_free_when_that_one_is_killed(
    other: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(ServerError) as error, locked_server(tmp_path, URL, "mine"):
        raise AssertionError("two sweeps hold it")
    assert error.value.code == "server_held" and error.value.exit_code == 3
    told = str(error.value)
    assert f"process {other.pid} on {os.uname().nodename} since 20" in told
    assert "tritonsmith sweep of another shell" in told and "--wait" in told

    waiting: list[str] = []
    ended_s: list[float] = []

    def kill() -> None:
        while not waiting:
            time.sleep(0.01)
        other.kill()
        ended_s.append(time.monotonic())

    thread = threading.Thread(target=kill)
    thread.start()
    with locked_server(tmp_path, URL, "mine", wait=True, tell=waiting.append) as killed:
        assert ended_s and killed is not None and killed.pid == other.pid
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    thread.join()
    assert len(waiting) == 1 and str(other.pid) in waiting[0]
    # Who lets go in order leaves nothing to be told of.
    with locked_server(tmp_path, URL, "mine") as before:
        assert before is None


def test_who_lets_go_because_of_an_error_was_not_killed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked_server(tmp_path, URL, "mine"):
        raise KeyboardInterrupt
    with locked_server(tmp_path, URL, "mine") as before:
        assert before is None


@pytest.mark.parametrize(
    ("changes", "elsewhere"),
    [
        ({}, False),  # the same kernel: nobody holds the flock, so it is dead
        ({"boot_id": "another"}, False),  # this machine, started anew
        ({"host": "another"}, False),  # another container on this kernel
        ({"host": "another", "boot_id": "another"}, True),
    ],
    ids=str,
)
def test_a_claim_that_nobody_here_holds_stands_only_when_it_is_another_machines(
    tmp_path: Path, changes: dict[str, str], elsewhere: bool
) -> None:
    me = this_process("theirs")
    (tmp_path / LOCK).write_text(
        json.dumps({"host": me.host, "boot_id": me.boot_id, "pid": 7, "since": "2026", **changes})
    )
    if elsewhere:
        with pytest.raises(ServerError) as error, locked_server(tmp_path, URL, "mine"):
            raise AssertionError("two sweeps hold it")
        assert error.value.code == "server_held"
        assert "process 7 on another" in str(error.value) and "--break-lock" in str(error.value)
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == 7, "the claim is as it was"
    with locked_server(tmp_path, URL, "mine", break_lock=True) as before:
        assert before is not None and before.pid == 7


@pytest.mark.parametrize("text", ["{", '{"pid": "x"}', "[]", "\x00\x00"])
def test_a_claim_that_was_cut_off_is_of_nobody_who_is_known(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(ServerError) as error, locked_server(tmp_path, URL, "mine"):
        raise AssertionError("nobody said that it is over")
    assert "--break-lock" in str(error.value)


def test_every_name_of_this_machine_is_one_server_and_other_ports_are_others() -> None:
    assert {server_key(f"{host}:8000") for host in ("localhost", "127.0.0.1", "127.0.1.1", "[::1]")} == {
        "localhost-8000"
    }
    assert server_key("localhost:8001") == "localhost-8001"
    assert server_key("192.0.2.7:8000") == "192.0.2.7-8000"
    assert server_key("no-such-host.invalid:8000") == "no-such-host.invalid-8000"


def test_without_a_place_to_note_it_down_nothing_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ToolError) as error:
        place_of("localhost:8000")
    assert error.value.code == "no_state_directory" and "XDG_STATE_HOME" in str(error.value)
