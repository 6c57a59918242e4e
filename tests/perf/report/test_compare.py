"""Two runs → what changed between them: coverage by simulation, gates by a table, the command as a process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run
from tests.perf.report.test_report import run_result, summary
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.markdown import cell
from tritonsmith.perf.records.record import RecordHeader, RequestRecords, save_records
from tritonsmith.perf.report.compare.compare import Change, Comparison, compare_records, compare_runs
from tritonsmith.perf.report.compare.gate import gate_from_text, judge, says_no
from tritonsmith.perf.report.compare.text import headline, markdown_of, text_of
from tritonsmith.perf.stats import Estimate, Interval, mean_estimate
from tritonsmith.perf.stats.change import mover_change, share_change, welch_change
from tritonsmith.perf.sweep.run_record import RunResult, write_run
from tritonsmith.perf.sweep.trial import TrialResult


def records(
    rate_per_s: float, median_ms: float, seed: int, failed: int = 0, concurrency: int = 8
) -> RequestRecords:
    """Two seconds of a closed loop."""
    rng = np.random.default_rng(seed)
    n = int(rate_per_s * 2)
    due: Any = np.sort(rng.integers(10**9, 3 * 10**9, n))
    end = due + rng.lognormal(np.log(median_ms * 1e6), 0.2, n).astype(np.int64)
    status = np.zeros(n, np.uint16)
    status[:failed] = 1
    header = RecordHeader(
        "minilm", "http://x", "http", {"kind": "closed", "concurrency": concurrency}, reasons=("ok", "HTTP 503"),
        start_ns=10**9, measure_start_ns=10**9, stop_ns=3 * 10**9, client_cpu_s=0.1, client_wall_s=2.0,
    )  # fmt: skip
    return RequestRecords(header, due, due + 500, end, end, status, np.zeros(n, np.int32))


def change_of(comparison: Comparison, metric: str) -> Change:
    return next(c for c in comparison.points[0].changes if c.metric == metric)


class TestIntervals:
    """300 cases each: 95 % intervals that cover less than 91 % are wrong, not unlucky."""

    def test_unpaired_rounds_cover_the_true_change(self) -> None:
        rng = np.random.default_rng(1)
        hits = 0
        for _ in range(300):
            a, b = rng.lognormal(0, 0.05, 4), rng.lognormal(np.log(1.1), 0.15, 5)
            _, interval = welch_change(list(a), list(b), 0.95)
            assert interval is not None
            hits += interval.contains(0.1)
        assert hits >= 0.91 * 300

    def test_two_estimates_cover_the_true_change(self) -> None:
        rng = np.random.default_rng(2)
        hits = 0
        for _ in range(300):
            _, interval = mover_change(
                mean_estimate(rng.lognormal(0, 0.3, 320)), mean_estimate(rng.lognormal(np.log(1.1), 0.3, 320))
            )
            assert interval is not None
            hits += interval.contains(0.1)
        assert hits >= 0.91 * 300

    def test_shares_of_failures_cover_the_true_difference(self) -> None:
        rng = np.random.default_rng(3)
        hits = 0
        for _ in range(300):
            failed = int(rng.binomial(2000, 0.01)), int(rng.binomial(2000, 0.02))
            hits += share_change((failed[0], 2000), (failed[1], 2000), 0.95)[1].contains(0.01)
        assert hits >= 0.91 * 300

    def test_unpaired_is_wider_than_paired_under_common_drift(self) -> None:
        drift = [1.0, 1.3, 0.8, 1.1]
        _, interval = welch_change(drift, [1.2 * d for d in drift], 0.95)
        assert interval is not None and interval.high - interval.low > 0.5


class TestLoadTests:
    def test_a_slower_answer_is_a_regression_with_an_interval_around_the_truth(self) -> None:
        change = change_of(compare_records(records(900, 2.0, 1), records(900, 2.4, 2)), "p50")
        assert change.finding == "regression"
        assert change.interval is not None and change.interval.contains(0.2)

    def test_the_same_load_twice_is_no_difference(self) -> None:
        comparison = compare_records(records(900, 2.0, 1), records(900, 2.0, 2))
        assert comparison.findings == []
        assert headline(comparison) == "No difference that these runs can tell."

    def test_more_throughput_is_an_improvement(self) -> None:
        comparison = compare_records(records(600, 2.0, 1), records(900, 2.0, 2))
        assert change_of(comparison, "throughput").finding == "improvement"
        assert headline(comparison).startswith("Improvement: throughput +")

    def test_new_failures_are_a_regression_of_their_own(self) -> None:
        comparison = compare_records(records(900, 2.0, 1), records(900, 2.0, 2, failed=90))
        assert change_of(comparison, "failures").finding == "regression"
        assert "failures" in text_of(comparison, ())

    def test_it_says_what_the_intervals_do_not_hold(self) -> None:
        notes = " ".join(compare_records(records(900, 2.0, 1), records(900, 2.0, 2)).notes)
        assert "not what changed on the machine between them" in notes


def slower(run: RunResult, factor: float) -> RunResult:
    """The same sweep on a server that gives `factor` of the throughput; other seeds."""

    def one(t: TrialResult) -> TrialResult:
        assert t.summary is not None
        rate_per_s = (t.summary.throughput_per_s.value or 0.0) * factor
        return replace(t, summary=summary(rate_per_s, 1000 + t.trial.number))

    return replace(run, trials=tuple(one(t) for t in run.trials))


class TestSweeps:
    def test_the_current_configs_are_compared_at_each_common_load_point(self) -> None:
        comparison = compare_runs(run_result(), slower(run_result(), 0.5))
        assert [p.label for p in comparison.points] == [
            "current config, concurrency 1",
            "current config, concurrency 8",
        ]
        assert change_of(comparison, "throughput").finding == "regression"
        notes = " ".join(comparison.notes)
        assert "measured apart" in notes and "all 2 load points" in notes

    def test_a_sweep_against_itself_is_no_difference(self) -> None:
        assert compare_runs(run_result(), run_result(), "all").findings == []

    def test_arms_are_chosen_by_label_id_or_all(self) -> None:
        run = run_result()
        assert {p.arm for p in compare_runs(run, run, "all").points} == {"current config", "count 2"}
        assert {p.arm for p in compare_runs(run, run, "arm02").points} == {"count 2"}
        with pytest.raises(TritonsmithError) as error:
            compare_runs(run, run, "count 3")
        assert error.value.code == "no_arm" and "count 2" in str(error.value.fix)

    def test_a_difference_as_small_as_between_identical_configs_is_none(self) -> None:
        change = Change("throughput", 100, 104, 0.04, Interval(0.02, 0.06), resolution=0.05)
        assert change.finding == "no difference"
        assert replace(change, resolution=0.01).finding == "improvement"

    def test_one_round_has_no_interval_and_says_so(self) -> None:
        change = change_of(compare_runs(run_result(rounds=1), run_result(rounds=1)), "throughput")
        assert change.finding == "unknown" and "two rounds" in str(change.why)


GATES = [
    ("p99<=5%", (0.06, 0.10), "violated"),
    ("p99<=5%", (-0.02, 0.04), "passed"),
    ("p99<=5%", (-0.02, 0.07), "open"),
    ("p99 <= 5 %".replace(" %", "%"), (0.051, 0.052), "violated"),
    ("throughput>=-3%", (-0.10, -0.05), "violated"),
    ("throughput>=-3%", (-0.02, 0.01), "passed"),
    ("throughput≥-3%", (-0.05, 0.0), "open"),
    ("p99<=5%", None, "open"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "ends", "status"), GATES)
def test_a_gate_is_judged_by_the_whole_interval(
    text: str, ends: tuple[float, float] | None, status: str
) -> None:
    gate = gate_from_text(text)
    interval = None if ends is None else Interval(*ends)
    assert gate.judge(Change(gate.metric, 1.0, 1.0, 0.0, interval)) == status


@pytest.mark.parametrize("b", [None, 0.0])
def test_a_metric_that_was_lost_altogether_violates(b: float | None) -> None:
    assert gate_from_text("throughput>=-3%").judge(Change("throughput", 100.0, b, None, None)) == "violated"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "METRIC<=N%"),
        ("p99<5%", "METRIC<=N%"),
        ("p98<=5%", "did you mean"),
        ("p99<=5", "in percent"),
        ("p99<=20ms", "METRIC<=N%"),
        ("throughput<=3%", "throughput>=-3%"),
        ("p99>=-5%", "p99<=5%"),
        ("", "METRIC<=N%"),
    ],
)
def test_a_gate_that_is_not_one_is_one_clear_error(text: str, said: str) -> None:
    with pytest.raises(TritonsmithError) as error:
        gate_from_text(text)
    assert said in str(error.value)
    assert (error.value.code, error.value.exit_code) == ("bad_gate", 2)


def test_strict_turns_what_cannot_be_told_into_a_no() -> None:
    comparison = compare_records(records(300, 2.0, 1), records(300, 2.0, 2))
    judgements = judge(comparison, [gate_from_text("p99<=0.01%")])
    assert [j.status for j in judgements] == ["open"]
    assert not says_no(judgements, strict=False) and says_no(judgements, strict=True)


def test_markdown_escapes_what_a_label_may_hold() -> None:
    assert cell("a|b *c* <d>\n[e]") == r"a\|b \*c\* &lt;d&gt; \[e\]"
    text = markdown_of(compare_records(records(900, 2.0, 1), records(900, 2.5, 2)), ())
    assert text.startswith("**Regression: p") and "<details>" in text and text.endswith("</details>")


def test_an_estimate_without_an_interval_gives_a_change_without_one() -> None:
    change, interval = mover_change(Estimate(100.0), Estimate(110.0, Interval(100, 120)))
    assert change == pytest.approx(0.1) and interval is None


def test_the_command_exits_with_4_when_a_gate_says_no(tmp_path: Path, tritonsmith: Run) -> None:
    save_records(records(900, 2.0, 1), tmp_path / "a.npz")
    save_records(records(900, 3.0, 2), tmp_path / "b.npz")
    result = tritonsmith("compare", "a.npz", "b.npz", "--gate", "p50<=5%", "--format", "json")
    assert result.returncode == 4, result.stderr
    assert json.loads(result.stdout)["gate"] == "violated"
    assert tritonsmith("compare", "b.npz", "a.npz", "--gate", "p50<=5%").returncode == 0
    (tmp_path / "run").mkdir()
    write_run(run_result(), tmp_path / "run")
    mixed = tritonsmith("compare", "a.npz", "run")
    assert mixed.returncode == 2 and "two_kinds" in mixed.stderr
