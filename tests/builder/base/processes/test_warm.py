"""Workers forked from a process that has their imports behave as interpreters of their own, however many tasks they take."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tritonsmith.builder.base.errors import BuildError, TritonsmithError
from tritonsmith.builder.base.processes import warm
from tritonsmith.builder.base.processes.child import ChildTask, run_child
from tritonsmith.builder.base.processes.run_policy import RunPolicy, in_one_turn, run_under
from tritonsmith.builder.base.processes.warm import WarmWorkers


@pytest.fixture(name="workers", scope="module")
def _workers() -> Iterator[WarmWorkers]:
    workers = WarmWorkers()
    yield workers
    workers.close()


def ask(
    workers: WarmWorkers | None,
    directory: Path,
    do: str = "answer",
    shares: bool = False,
    timeout_s: float = 60,
    log: str = "log",
) -> Mapping[str, Any]:
    task = ChildTask("tests.builder.odd_worker", "odd", "odd", imports=("decimal", "numpy"), shares=shares)
    with run_under(RunPolicy(warm=workers)):
        return run_child(task, {"do": do}, directory / "out", directory / log, timeout_s)


def is_gone(process: int) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(process)


def test_it_has_the_imports_and_all_else_of_its_own(workers: WarmWorkers, tmp_path: Path) -> None:
    fresh = ask(None, tmp_path)
    one, other = (ask(workers, tmp_path) for _ in range(2))
    assert (fresh["had"], one["had"]) == (False, True)
    assert one["parent"] == other["parent"] != os.getpid() == fresh["parent"]
    assert one["process"] != other["process"]
    assert one["group"] and one["here"] == fresh["here"]
    assert not set(one["drawn"]) & set(other["drawn"]), "forked workers must not draw the same"


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize(
    ("do", "code", "said"),
    [
        ("segfault", "odd_crashed", "died of signal 11"),
        ("exit", "odd_crashed", "left with exit status 7"),
        ("kill", "odd_killed", "killed by signal 9"),
        ("sleep", "odd_timeout", "took longer than 0.5 s"),
        ("run out of memory", "unexpected", "MemoryError"),
    ],
)
def test_one_that_fails_costs_its_own_task_alone(
    workers: WarmWorkers, tmp_path: Path, do: str, code: str, said: str, shares: bool
) -> None:
    before = ask(workers, tmp_path, shares=shares)
    with pytest.raises(TritonsmithError, match=said) as raised:
        ask(workers, tmp_path, do, shares, timeout_s=0.5 if do == "sleep" else 60)
    assert raised.value.code == code
    after = ask(workers, tmp_path, shares=shares)
    assert after["process"] != before["process"]
    assert (after["parent"], after["state"]) == (before["parent"], before["state"])


@pytest.mark.parametrize(
    ("do", "stays"),
    [("change all", True), ("limit", False), ("import", False), ("thread", False), ("child", False)],
)
def test_what_a_task_leaves_behind_is_none_of_the_next_ones(
    workers: WarmWorkers, tmp_path: Path, do: str, stays: bool
) -> None:
    """What can be put back, is; a process of which that is not known takes no further task."""
    before = ask(workers, tmp_path, shares=True)
    odd = ask(workers, tmp_path, do, shares=True, log="odd")
    assert odd["process"] == before["process"]
    after = ask(workers, tmp_path, shares=True)
    assert after["state"] == before["state"]
    assert (after["process"] == odd["process"]) == stays
    assert stays or is_gone(odd["process"])
    assert not set(before["drawn"]) & set(after["drawn"])


def test_each_task_has_a_log_of_its_own(workers: WarmWorkers, tmp_path: Path) -> None:
    """A warning that was said in one process before is in the second log, too."""
    processes = [ask(workers, tmp_path, "warn", shares=True, log=log)["process"] for log in ("one", "two")]
    assert processes[0] == processes[1]
    one, two = ((tmp_path / log).read_text() for log in ("one", "two"))
    assert one == two and "as often as it is asked" in one and one.count("did warn") == 1


def test_no_task_pays_for_those_before_it(workers: WarmWorkers, tmp_path: Path) -> None:
    """One that died where others had been is run again in a process that is new."""
    before = ask(workers, tmp_path, shares=True)
    assert ask(workers, tmp_path, "kill unless first", shares=True)["process"] != before["process"]


def test_a_process_takes_so_many_tasks_and_no_more(tmp_path: Path) -> None:
    with closing(WarmWorkers()) as workers:
        processes = [ask(workers, tmp_path, shares=True)["process"] for _ in range(warm.MOST_TASKS + 1)]
        assert len(set(processes[:-1])) == 1 and processes[-1] != processes[0]
        assert is_gone(processes[0])


def test_one_that_keeps_much_memory_takes_no_further_task(workers: WarmWorkers, tmp_path: Path) -> None:
    grown = ask(workers, tmp_path, "grow", shares=True)
    assert ask(workers, tmp_path, shares=True)["process"] != grown["process"]


def test_tasks_of_one_turn_leave_things_to_one_another(workers: WarmWorkers, tmp_path: Path) -> None:
    with in_one_turn():
        one = ask(workers, tmp_path, "leave", shares=True)
        other = ask(workers, tmp_path, shares=True)
        alone = ask(workers, tmp_path)
    after = ask(workers, tmp_path, shares=True)
    assert one["process"] == other["process"] == after["process"] != alone["process"]
    assert (other["left"], alone["left"], after["left"]) == (["it"], [], [])


def test_the_process_they_come_from_is_replaced_when_it_dies(workers: WarmWorkers, tmp_path: Path) -> None:
    before = ask(workers, tmp_path)
    with suppress(BuildError):  # it may have answered before the loss was seen
        ask(workers, tmp_path, "kill parent")
    assert ask(workers, tmp_path)["parent"] != before["parent"]


def test_one_that_dies_while_it_waits_is_replaced(workers: WarmWorkers, tmp_path: Path) -> None:
    before = ask(workers, tmp_path, shares=True)
    os.kill(before["process"], signal.SIGKILL)
    assert ask(workers, tmp_path, shares=True)["process"] != before["process"]


def test_one_that_waits_outlives_its_parent_and_no_build(tmp_path: Path) -> None:
    with closing(WarmWorkers()) as workers:
        before = ask(workers, tmp_path, shares=True)
        os.kill(before["parent"], signal.SIGKILL)
        after = ask(workers, tmp_path, shares=True)
    assert is_gone(before["process"]) and is_gone(after["process"])


def test_it_ends_with_the_build(tmp_path: Path) -> None:
    workers = WarmWorkers()
    asked = ask(workers, tmp_path, shares=True)
    workers.close()
    assert not psutil.pid_exists(asked["parent"]) and not psutil.pid_exists(asked["process"])


def test_it_ends_with_a_build_that_is_killed(tmp_path: Path) -> None:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        asked = ask(WarmWorkers(), tmp_path, shares=True)
        os.write(send, b"%d %d" % (asked["parent"], asked["process"]))
        signal.pause()
    processes = [int(number) for number in os.read(receive, 100).split()]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert all(is_gone(process) for process in processes)
