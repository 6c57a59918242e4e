"""A run directory or a record file that no sweep wrote: one error, whatever is in it; nothing is executed or waited for."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.perf.report.test_report import run_result
from tritonsmith.builder.actions.accuracy.samples import load_samples
from tritonsmith.builder.base.errors import BuildError, UsageError
from tritonsmith.perf.records.record import load_records
from tritonsmith.perf.records.typed import json_of
from tritonsmith.perf.sweep.run.resume import earlier_run
from tritonsmith.perf.sweep.run_record import FORMAT, JOURNAL, RESULT, load_run, write_json


def _set(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = to

    return change


BAD_RUNS: dict[str, Callable[[Any], None]] = {
    "trials that are text": _set("trials", to="abc"),
    "a trial that is a number": _set("trials", 0, to=3),
    "a round that is text": _set("trials", 0, "round", to="first"),
    "a summary that is a list": _set("trials", 0, "summary", to=[]),
    "requests that are text": _set("trials", 0, "summary", "requests", to="many"),
    "counters that are none": _set("trials", 0, "server", to={}),
    "a mean of the server that is no number": _set("trials", 0, "server", "mean_queue_us", to=float("inf")),
    "an arm without a name": _set("arms", 0, to={}),
    "settings that are a list": _set("arms", 0, "settings", to=[1]),
    "a spec that is none": _set("spec", to={"model": 1}),
    "another format": _set("format", to="tritonsmith.run/9"),
}


@pytest.mark.parametrize("change", BAD_RUNS.values(), ids=BAD_RUNS)
def test_a_run_of_wrong_types_is_one_error(tmp_path: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(json.dumps({"format": FORMAT, **json_of(run_result(rounds=1))}))
    change(data)
    write_json(tmp_path / RESULT, data)
    with pytest.raises(UsageError) as raised:
        load_run(tmp_path)
    assert raised.value.code in ("run_damaged", "run_format") and len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "3", '{"event": "start"}', '{"a": 1, "a": 2}', "\0\n\0"]
)
@pytest.mark.parametrize("name", [RESULT, JOURNAL])
def test_a_run_that_is_no_run_is_one_error(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(f"{text}\n{text}\n" if name == JOURNAL else text)
    with pytest.raises(UsageError):
        load_run(tmp_path)
    if name == JOURNAL and text != '{"event": "start"}':
        with pytest.raises(UsageError):
            earlier_run(tmp_path)


def _zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def test_a_file_of_records_of_wrong_types_is_one_error(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, sent_ns=np.array([{}], dtype=object))
    os.mkfifo(tmp_path / "fifo")
    for path in (
        pickled,
        tmp_path / "fifo",
        tmp_path,
        _zip(tmp_path / "a", header__json=b"[]"),
        _zip(tmp_path / "b", header__json=b"[" * 100_000),
        _zip(tmp_path / "c", header__json=b'{"format": "tritonsmith.records/1", "seed": "x"}'),
    ):
        with pytest.raises(UsageError, match="not a record file"):
            load_records(path)


def test_samples_that_are_none_are_one_error(tmp_path: Path) -> None:
    header = {"format": "tritonsmith-samples-1", "origin": "x", "samples": []}
    entry = {"name": "x", "dtype": "float32", "shape": [2], "key": "t0"}
    os.mkfifo(tmp_path / "fifo.npz")
    bad: list[Path] = [tmp_path / "fifo.npz", tmp_path]
    for number, told in enumerate(
        [
            [],
            {**header, "samples": [1]},
            {**header, "samples": [{"label": "s", "inputs": [{**entry, "key": "t9"}], "outputs": []}]},
            {**header, "samples": [{"label": "s", "inputs": [{**entry, "shape": [3]}], "outputs": []}]},
            {**header, "samples": [{"label": "s", "inputs": [{**entry, "shape": [-1]}], "outputs": []}]},
            {**header, "samples": [{"label": "s", "inputs": [{**entry, "dtype": "bytes"}], "outputs": []}]},
        ]
    ):
        path = tmp_path / f"{number}.npz"
        packed = np.frombuffer(json.dumps(told).encode(), dtype=np.uint8)
        np.savez(path, __header__=packed, t0=np.zeros(2, np.float32))
        bad.append(path)
    for path in bad:
        with pytest.raises(BuildError) as raised:
            load_samples(path)
        assert raised.value.code == "samples_unreadable", path


def test_a_small_file_of_huge_arrays_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(9 << 20, np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 100_000
    with pytest.raises(BuildError, match="8 MiB"):
        load_samples(tmp_path / "bomb.npz", 8 << 20)
