"""What a sweep changes on a server that others share is noted before it is changed, and put back however the sweep ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import ROOT
from tests.perf.explicit_server import CONFIG, ExplicitServer
from tests.perf.fake_server import running
from tritonsmith.builder.base.errors import ServerError, TrialError, UsageError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.sweep.attached.changes import CHANGES, Changes, ModelBefore, ServerBefore
from tritonsmith.perf.sweep.attached.held import held_server, is_left_changed
from tritonsmith.perf.sweep.attached.place import place_of
from tritonsmith.perf.sweep.plan import SweepSpec
from tritonsmith.perf.sweep.run import SweepProgress
from tritonsmith.perf.sweep.run.session import sweep_target
from tritonsmith.perf.sweep.run_record import JOURNAL, RunResult, load_run
from tritonsmith.perf.sweep.target import SweepTarget

COUNT = "instance_group.count"
FLAGS = ("-m", "m", "--set", f"{COUNT}=2,3", "-c", "1", "--duration", "100ms", "--warmup", "20ms")


def with_count(count: int) -> dict[str, Any]:
    config = deepcopy(CONFIG)
    config["instance_group"][0]["count"] = count
    return {**config, "name": "m"}


@pytest.fixture
def server() -> Iterator[ExplicitServer]:
    """Its model `m` is loaded with the repository's config, one instance."""
    with running(ExplicitServer(loaded={"m": with_count(1)})) as server:
        yield server


def swept(
    server: ExplicitServer, output: Path, watch: Callable[[SweepProgress], None] | None = None, **more: Any
) -> RunResult:
    quick = {"concurrency": [1], "rounds": 1, "duration_s": 0.05, "warmup_s": 0.0, "space": {COUNT: [2]}}
    return sweep_target(
        SweepSpec.model_validate({"model": "m", **quick}),
        SweepTarget(server.url, None),
        DataOptions(),
        output,
        command="tritonsmith sweep",
        on_progress=watch,
        **more,
    )


def changes_file(server: ExplicitServer) -> Path:
    return place_of(f"127.0.0.1:{server.port}") / CHANGES


def test_what_was_served_is_on_disk_before_any_order_and_gone_when_all_is_as_before(
    server: ExplicitServer, tmp_path: Path
) -> None:
    noted: list[bool] = []
    order = server._order

    async def looked_at(*of: Any) -> tuple[int, Any]:
        noted.append(changes_file(server).exists())
        return await order(*of)

    server._order = looked_at  # type: ignore[method-assign,assignment]
    run = swept(server, tmp_path / "run")
    assert run.complete and noted and all(noted)
    assert server.loaded == {"m": with_count(1)} and server.orders[-2:] == ["unload m", "load m"]
    assert not changes_file(server).exists()
    # It begins with the repository's own config, which a plain load would not show.
    assert server.orders[:3] == ["unload m", "load m", "load m"]


def test_the_current_config_is_the_repositorys_and_what_was_served_is_put_back(
    server: ExplicitServer, tmp_path: Path
) -> None:
    server.loaded["m"] = with_count(4)
    run = swept(server, tmp_path / "run")
    assert run.arms[0].config["instance_group"][0]["count"] == 1
    assert any(
        "another config than its repository has (instance_group.count is 4, was 1)" in n for n in run.notes
    )
    assert server.count() == 4


def test_a_model_that_was_not_loaded_is_not_afterwards(server: ExplicitServer, tmp_path: Path) -> None:
    server.loaded.clear()
    assert swept(server, tmp_path / "run").complete
    assert server.loaded == {}


def test_an_own_config_that_is_refused_leaves_what_was_served(server: ExplicitServer, tmp_path: Path) -> None:
    server.loaded["m"] = with_count(4)
    server.refused.add("m")
    with pytest.raises(TrialError) as error:
        swept(server, tmp_path / "run")
    assert error.value.code == "model_refused"
    assert server.count() == 4 and not changes_file(server).exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loaded", "before", "after"),
    [
        (with_count(3), ModelBefore(with_count(1), True, override=False), 1),
        # Killed between the unload and the load, before it was known whose config it was.
        (None, ModelBefore(with_count(1), True), 1),
        (None, ModelBefore(with_count(4), True), 4),
        (with_count(3), ModelBefore(None, True), None),
        (
            None,
            ModelBefore(with_count(1), False),
            1,
        ),  # of an ensemble, say, which its model's unload took along
    ],
    ids=["override", "unloaded", "unloaded, served by override", "was not loaded", "not swept"],
)
def test_whatever_a_killed_sweep_left_is_put_back_and_said_in_one_line(
    server: ExplicitServer, loaded: dict[str, Any] | None, before: ModelBefore, after: int | None
) -> None:
    server.loaded = {} if loaded is None else {"m": loaded}
    place = place_of(f"127.0.0.1:{server.port}")
    Changes(place).begin(ServerBefore(f"127.0.0.1:{server.port}", models={"m": before}))
    said: list[str] = []
    with held_server(server.url, "next", on_note=said.append):
        assert (server.count() if "m" in server.loaded else None) == after
    assert len(said) == 1 and "did not come to its end; put back: m " in said[0]
    assert not is_left_changed(server.url)


def test_a_config_that_was_mended_in_the_repository_meanwhile_is_not_taken_back(
    server: ExplicitServer,
) -> None:
    place = place_of(f"127.0.0.1:{server.port}")
    Changes(place).begin(
        ServerBefore(
            f"127.0.0.1:{server.port}", models={"m": ModelBefore(with_count(1), True, override=False)}
        )
    )
    server.loaded["m"] = with_count(3)
    server.repository["m"] = with_count(2)
    with held_server(server.url, "next"):
        assert server.count() == 2


def test_a_server_that_was_started_anew_is_left_alone(server: ExplicitServer) -> None:
    """It may be another, on the same port, with a model of the same name."""
    url = f"127.0.0.1:{server.port}"
    before = ServerBefore(url, models={"m": ModelBefore(with_count(4), True)})
    Changes(place_of(url)).begin(before)
    path = changes_file(server)
    noted = json.loads(path.read_text())
    assert noted["started_s"] == psutil.Process().create_time()
    path.write_text(json.dumps({**noted, "started_s": noted["started_s"] - 60}))
    said: list[str] = []
    with held_server(server.url, "next", on_note=said.append):
        assert server.orders == [] and not path.exists()
    assert said[0].endswith("put back: nothing, as it was started anew")


def test_a_model_that_is_not_there_any_more_blocks_no_sweep(server: ExplicitServer) -> None:
    url = f"127.0.0.1:{server.port}"
    models = {"gone": ModelBefore(with_count(1), True), "m": ModelBefore(with_count(1), True)}
    Changes(place_of(url)).begin(ServerBefore(url, models=models))
    server.loaded["m"] = with_count(3)
    said: list[str] = []
    with held_server(server.url, "next", on_note=said.append):
        assert server.count() == 1
    assert "gone is not in its repository any more; m has" in said[0]


def test_a_server_that_does_not_answer_stays_noted_as_changed(server: ExplicitServer, tmp_path: Path) -> None:
    def end(step: SweepProgress) -> None:
        if step.done == 2:
            server.stop_listening()

    said: list[str] = []
    run = swept(server, tmp_path / "run", end, on_note=said.append)
    assert not run.complete and any("--restore" in note for note in run.notes)
    assert said == [f"{server.url} is still changed: tritonsmith sweep --restore {server.url} puts it back"]
    server.listen()
    with held_server(server.url, "next"):
        assert server.count() == 1


def test_a_file_of_changes_that_is_none_is_one_error(server: ExplicitServer) -> None:
    path = changes_file(server)
    path.write_text('{"url": 3}')
    with pytest.raises(UsageError) as error, held_server(server.url, "next"):
        raise AssertionError("swept all the same")
    assert error.value.code == "changes_damaged" and str(path) in str(error.value)
    path.unlink()


def test_a_config_that_another_client_loads_in_a_trial_ends_the_sweep(
    server: ExplicitServer, tmp_path: Path
) -> None:
    """As a sweep of another machine does, which no lock here can see."""

    def meddle(step: SweepProgress) -> None:
        if step.done == 1 and step.text.startswith("round"):
            loop = server._loop
            assert loop is not None
            loop.call_soon_threadsafe(loop.call_later, 0.03, server.loaded.update, {"m": with_count(7)})

    run = swept(server, tmp_path / "run", meddle)
    assert not run.complete and len(run.trials) == 2
    assert "another client changed 'm'" in run.stop_reason
    assert "instance_group.count is 7" in (run.trials[1].error or "")
    assert server.count() == 1


# The command.


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tritonsmith", "sweep", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "500"}


def started(server: ExplicitServer, directory: Path, *more: str) -> subprocess.Popen[str]:
    """A sweep of many rounds, whose second arm serves."""
    process = subprocess.Popen(
        command(server.url, *FLAGS, "--rounds", "30", "-o", "cut", *more),
        cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        if (
            (directory / "cut" / JOURNAL).exists()
            and (directory / "cut" / JOURNAL).read_text().count('"trial"') >= 2
            and "m" in server.loaded
            and server.count() > 1
        ):
            return process
        time.sleep(0.005)
    raise AssertionError(process.communicate())


def test_a_sweep_that_is_killed_is_put_back_by_the_next_and_two_at_a_time_are_refused(
    server: ExplicitServer, tmp_path: Path
) -> None:
    process = started(server, tmp_path)
    try:
        with pytest.raises(ServerError) as error:
            swept(server, tmp_path / "second")
        assert error.value.code == "server_held" and f"process {process.pid} on" in str(error.value)
        assert not (tmp_path / "second").exists()
    finally:
        process.kill()
        process.communicate()
    assert server.count() > 1
    done = subprocess.run(
        command(f"http://localhost:{server.port}", *FLAGS, "--rounds", "1", "-o", "next"),
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if "put back" in line and "did not come" in line)
    assert f"process {process.pid} on" in line and line.endswith("m has its repository's config again")
    run = load_run(tmp_path / "next")
    assert run.arms[0].config["instance_group"][0]["count"] == 1 and line in run.notes
    assert server.loaded == {"m": with_count(1)}


def test_ctrl_c_puts_the_server_back_at_once_and_tells_how_to_go_on(
    server: ExplicitServer, tmp_path: Path
) -> None:
    process = started(server, tmp_path)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert server.loaded == {"m": with_count(1)} and not is_left_changed(server.url)
    assert "tritonsmith report cut shows what was measured" in stderr
    assert load_run(tmp_path / "cut").interrupted


@pytest.mark.nightly
def test_restore_puts_back_without_a_sweep_and_says_when_there_is_nothing(
    server: ExplicitServer, tmp_path: Path
) -> None:
    process = started(server, tmp_path)
    process.kill()
    process.communicate()
    told = []
    for _ in range(2):
        done = subprocess.run(
            command("--restore", server.url),
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "")
        told.append(done.stderr)
    assert "put back: m has its repository's config again" in told[0]
    assert told[1] == f"no sweep that is known here has left {server.url} changed\n"
    assert server.loaded == {"m": with_count(1)}
    assert server.orders[-2:] == ["unload m", "load m"]


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_whenever_it_ends_the_server_is_put_back(
    server: ExplicitServer, tmp_path: Path, ending: signal.Signals
) -> None:
    """At once by a Ctrl-C, by whoever comes next after a kill; the seed is in the directories' names."""
    seed = random.SystemRandom().randrange(10**6)
    drawn = random.Random(seed)
    server.load_s = 0.1
    for number in range(10):
        directory = tmp_path / f"{seed}-{number}"
        directory.mkdir()
        process = subprocess.Popen(
            command(server.url, *FLAGS, "--rounds", "30", "-o", "run"),
            cwd=directory, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline_s = time.monotonic() + 60
        orders = len(server.orders) + drawn.randrange(12)
        while len(server.orders) < orders and time.monotonic() < deadline_s:
            time.sleep(0.005)
        time.sleep(drawn.uniform(0.0, 0.15))
        process.send_signal(ending)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGKILL) and "Traceback" not in stderr, stderr
        if ending is signal.SIGINT:
            assert not is_left_changed(server.url), stderr
        else:
            with held_server(server.url, "next"):
                pass
        assert server.loaded == {"m": with_count(1)}, (directory, stderr)
