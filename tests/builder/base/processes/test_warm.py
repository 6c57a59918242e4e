"""Workers forked from a process that has their imports behave as interpreters of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import BuildError
from tritonsmith.builder.base.processes.child import ChildTask, run_child
from tritonsmith.builder.base.processes.run_policy import RunPolicy, run_under
from tritonsmith.builder.base.processes.warm import WarmWorkers


@pytest.fixture(name="workers")
def _workers() -> Iterator[WarmWorkers]:
    workers = WarmWorkers()
    yield workers
    workers.close()


def ask(workers: WarmWorkers | None, directory: Path, do: str = "answer") -> Mapping[str, Any]:
    task = ChildTask("tests.builder.odd_worker", "odd", "odd", imports=("decimal", "numpy"))
    with run_under(RunPolicy(warm=workers)):
        return run_child(task, {"do": do}, directory / "out", directory / "log", timeout_s=60)


def test_it_has_the_imports_and_all_else_of_its_own(workers: WarmWorkers, tmp_path: Path) -> None:
    fresh = ask(None, tmp_path)
    one, other = (ask(workers, tmp_path) for _ in range(2))
    assert (fresh["had"], one["had"]) == (False, True)
    assert one["parent"] == other["parent"] != os.getpid() == fresh["parent"]
    assert one["group"] and one["here"] == fresh["here"]
    assert not set(one["drawn"]) & set(other["drawn"]), "forked workers must not draw the same"


@pytest.mark.parametrize(
    ("do", "said"), [("segfault", "died of signal 11"), ("exit", "left with exit status 7")]
)
def test_one_that_dies_costs_itself_alone(workers: WarmWorkers, tmp_path: Path, do: str, said: str) -> None:
    before = ask(workers, tmp_path)
    with pytest.raises(BuildError, match=said) as raised:
        ask(workers, tmp_path, do)
    assert raised.value.code == "odd_crashed"
    assert ask(workers, tmp_path)["parent"] == before["parent"]


def test_the_process_they_come_from_is_replaced_when_it_dies(workers: WarmWorkers, tmp_path: Path) -> None:
    before = ask(workers, tmp_path)
    with suppress(BuildError):  # it may have answered before the loss was seen
        ask(workers, tmp_path, "kill parent")
    assert ask(workers, tmp_path)["parent"] != before["parent"]


def test_it_ends_with_the_build(tmp_path: Path) -> None:
    workers = WarmWorkers()
    nursery = ask(workers, tmp_path)["parent"]
    workers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(nursery, 0)


def test_it_ends_with_a_build_that_is_killed(tmp_path: Path) -> None:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(send, b"%d" % ask(WarmWorkers(), tmp_path)["parent"])
        signal.pause()
    nursery = int(os.read(receive, 100))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{nursery}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{nursery}").exists()
