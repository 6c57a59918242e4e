"""A run and a record file as versions before wrote them → the same values, and the same files written again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.load.text import result_as_dict
from tritonsmith.perf.records.record import load_records, save_records
from tritonsmith.perf.sweep.run.resume import earlier_run
from tritonsmith.perf.sweep.run_record import JOURNAL, RESULT, Journal, load_run, write_run

OLD = Path(__file__).parent / "old_files"


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _as_old(new: Any, old: Any) -> Any:
    """Without the fields that there were none of then, which are empty in what is read of an old file."""
    if isinstance(new, dict) and isinstance(old, dict):
        assert all(value in (None, {}, []) for name, value in new.items() if name not in old)
        return {name: _as_old(value, old[name]) for name, value in new.items() if name in old}
    if isinstance(new, list) and isinstance(old, list):
        return [_as_old(one, other) for one, other in zip(new, old, strict=True)]
    return new


def test_a_run_is_read_and_comes_out_as_it_was_but_for_the_verdict_which_is_made_anew(tmp_path: Path) -> None:
    run = load_run(OLD)
    write_run(run, tmp_path)
    again, old = _read(tmp_path / RESULT), _read(OLD / RESULT)
    assert again.pop("verdict") != old.pop("verdict")
    assert again.pop("spec").items() >= old.pop("spec").items()
    assert _as_old(again, old) == old
    first, failed = run.trials[:2]
    assert first.slo is not None and [probe.outcome for probe in first.slo.probes] == ["met", "client"]
    assert first.summary is not None and first.summary.streaming is not None and len(first.summary.steps) == 2
    assert failed.summary is None and failed.error == "refused"
    ratio = run.verdict.ratio_of("arm02", 8)
    assert ratio is not None and ratio.interval is not None and run.verdict.broken == {"arm03": "no memory"}


def test_an_interval_without_a_level_has_that_of_its_summary(tmp_path: Path) -> None:
    data = _read(OLD / RESULT)
    data["trials"][0]["summary"]["level"] = 0.8
    (tmp_path / RESULT).write_text(json.dumps(data))
    first, _, third, *_ = load_run(tmp_path).trials
    for result, level in ((first, 0.8), (third, 0.95)):
        assert result.summary is not None
        interval = result.summary.mean_latency_ns.interval
        assert interval is not None and interval.level == level


def test_a_journal_is_read_and_resumed_from(tmp_path: Path) -> None:
    shutil.copy(OLD / JOURNAL, tmp_path)
    run = load_run(tmp_path)
    assert [arm.id for arm in run.arms] == ["arm00", "arm01", "arm02", "arm03"]
    assert run.arms[2].other_settings == {"tok": {"instance_group.count": 2}}
    assert (run.arm_errors, run.dropped, run.notes[-1]) == (
        {"arm03": "no memory"},
        {"arm02": "slow"},
        "hello",
    )
    earlier = earlier_run(tmp_path)
    assert sorted(earlier.finished) == ["k0", "k1"]
    old = [json.loads(line) for line in (OLD / JOURNAL).read_text().splitlines()]
    journal = Journal(tmp_path, tuple(earlier.finished.values()))
    journal.close()
    kept = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    wanted = [{**next(e for e in old if e.get("key") == key), "event": "kept"} for key in ("k0", "k1")]
    assert _as_old(kept, wanted) == wanted


@pytest.mark.parametrize(
    ("event", "key", "to"),
    [
        ("start", "environment", 3),
        ("start", "notes", [3]),
        ("end", "wall_s", "long"),
        ("end", "complete", "perhaps"),
        ("trial", "others", "x"),
    ],
)
def test_a_journal_of_other_types_is_one_error(tmp_path: Path, event: str, key: str, to: object) -> None:
    events = [json.loads(line) for line in (OLD / JOURNAL).read_text().splitlines()]
    found = next(e for e in events if e["event"] == event)
    assert key in found
    found[key] = to
    (tmp_path / JOURNAL).write_text("".join(f"{json.dumps(e)}\n" for e in events))
    with pytest.raises(UsageError, match=key) as raised:
        load_run(tmp_path)
    assert raised.value.code == "run_damaged"


def test_a_record_file_is_read_and_reported(tmp_path: Path) -> None:
    result = result_from_records(load_records(OLD / "load.npz"))
    said, old = json.loads(json.dumps(result_as_dict(result))), _read(OLD / "load.json")
    # What is computed of the rows today and was not then.
    assert said["summary"].pop("max_latency_ns") == result.records.latency_ns[result.records.ok].max()
    assert said["summary"].pop("validity")["verdict"] == "TOO_SHORT", "its steps are judged, too"
    assert [step.pop("validity")["verdict"] for step in said["summary"]["steps"]] == ["TOO_SHORT"] * 2
    assert old["summary"].pop("validity")["verdict"] == "VALID"
    assert _as_old(said, old) == old
    save_records(result.records, tmp_path / "again.npz")
    assert load_records(tmp_path / "again.npz").header == result.records.header
