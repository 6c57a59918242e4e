"""A run → pages, tables and files; a run that was cut short, refused arms and hostile names included."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.perf.load.slo import Probe, SloResult
from tritonsmith.perf.records.record import RecordHeader, RequestRecords
from tritonsmith.perf.records.typed import json_of, typed
from tritonsmith.perf.report import html_of, load_run, numbers, report_json, text_of, write_report
from tritonsmith.perf.report.svg.elements import linear_axis, log_axis
from tritonsmith.perf.stats import Summary, summarise
from tritonsmith.perf.sweep.plan import Arm, SweepSpec, Trial
from tritonsmith.perf.sweep.run_record import (
    JOURNAL,
    RESULT,
    Journal,
    RunResult,
    verdict_of,
    write_run,
)
from tritonsmith.perf.sweep.trial import TrialResult, failed
from tritonsmith.perf.usage.counters import ServerCounters

SPEC = SweepSpec(model="minilm", space={"instance_group.count": [1, 2]}, concurrency=(1, 8), rounds=3)
ENVIRONMENT = {
    "server": "embedded",
    "server_version": "2.51.0",
    "cpu": "A CPU",
    "cores": 2,
    "started": "2026-11-21T03:00:00+00:00",
}


def summary(rate_per_s: float, seed: int, failed: int = 0) -> Summary:
    """A second of a closed loop at this rate."""
    rng = np.random.default_rng(seed)
    n = int(rate_per_s)
    due: Any = np.sort(rng.integers(10**9, 2 * 10**9, n))
    end = due + rng.lognormal(np.log(2e6), 0.2, n).astype(np.int64)
    status = np.zeros(n, np.uint16)
    status[:failed] = 1
    header = RecordHeader(
        "minilm", "http://x", "http", {"kind": "closed"}, reasons=("ok", "HTTP 503: <busy>"),
        start_ns=10**9, measure_start_ns=10**9, stop_ns=2 * 10**9, client_cpu_s=0.1, client_wall_s=1.0,
    )  # fmt: skip
    return summarise(RequestRecords(header, due, due + 500, end, end, status, np.zeros(n, np.int32)))


def counters(batch: int) -> ServerCounters:
    return ServerCounters(
        1000, 0, 1000, 1000 // batch, 300.0, 50.0, 900.0, 40.0, 0, 0, {batch: 1000 // batch}
    )


def run_result(gain: float = 1.5, rounds: int = 3, failed: int = 0, labels: str = "count 2") -> RunResult:
    arms = (
        Arm("arm00", "current config", {}, {"max_batch_size": 8}, True),
        Arm("arm01", "current config, again", {}, {"max_batch_size": 8}, True),
        Arm("arm02", labels, {"instance_group.count": 2}, {"max_batch_size": 8}),
    )
    trials: list[TrialResult] = []
    for round_ in range(rounds):
        for point in SPEC.concurrency:
            for arm in arms:
                factor = gain if arm.id == "arm02" else 1.0
                number = len(trials)
                trial = Trial(number, round_, arm.id, point)
                result = summary(900 * factor * (1 + round_ / 10), number, failed)
                trials.append(TrialResult(trial, result, counters(4), None, 1.2))
    return RunResult(
        spec=SPEC,
        arms=arms,
        environment=ENVIRONMENT,
        trials=tuple(trials),
        verdict=verdict_of(SPEC, arms, trials),
        stop_reason="all 3 rounds were measured",
        complete=True,
        notes=("Arms stood side by side: there is room.",),
        wall_s=20.0,
    )


class Page(HTMLParser):
    """Tags that never close wrongly, texts, and every address that the page would fetch."""

    VOID = frozenset(("meta", "br", "img", "link", "input", "hr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


class TestPage:
    def test_it_is_one_whole_page_that_fetches_nothing_and_runs_its_own_script_alone(self) -> None:
        text = html_of(run_result())
        page = Page(text)
        assert page.stack == []
        assert page.fetched == []
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert re.findall(r"script-src ([^;]*);", text) == [f"'sha256-{digest}'"]
        assert not re.search(r"<[^>]*\son\w+=", text)
        assert not re.search(r"url\(|@import|https?://", text)

    def test_the_verdict_stands_first_with_ratio_interval_and_resolution(self) -> None:
        text = Page(html_of(run_result())).text
        assert "Winner" in text
        assert re.search(r"Count 2 gives 1\.\d\d× the current config's throughput at concurrency \d", text)
        assert "95 % interval" in text and "identical configs differed by" in text

    def test_every_chart_is_there(self) -> None:
        page = Page(html_of(run_result()))
        assert page.tags.count("svg") >= 7 + 3  # charts and the legend's keys
        for heading in (
            "Throughput",
            "p50 latency",
            "p99 latency",
            "Time inside the server",
            "Realised batch sizes",
        ):
            assert heading in page.text

    def test_what_is_equivalent_is_called_so(self) -> None:
        text = Page(html_of(run_result(gain=1.0))).text
        assert "No config is better than the current one by 5% or more" in text

    def test_hostile_names_stay_text(self) -> None:
        evil = "<script>alert(1)</script>&\"'"
        text = html_of(replace(run_result(labels=evil), notes=(evil,)))
        assert text.count("<script") == 1 and "<script>alert" not in text
        assert evil in Page(text).text

    def test_failures_are_told_before_any_chart(self) -> None:
        text = Page(html_of(run_result(failed=5))).text
        assert "HTTP 503: <busy>" in text
        assert text.index("requests failed") < text.index("Inferences per second")

    def test_one_round_has_a_page_too(self) -> None:
        assert "Undecided" in Page(html_of(run_result(rounds=1))).text

    def test_a_run_without_a_single_trial_has_a_page_too(self) -> None:
        run = run_result()
        empty = replace(
            run, trials=(), verdict=verdict_of(SPEC, run.arms, ()), complete=False, stop_reason="interrupted"
        )
        text = Page(html_of(empty)).text
        assert "Nothing was measured." in text
        assert "did not come to its end: interrupted" in text

    def test_a_refused_arm_is_in_the_table_with_tritons_reason(self) -> None:
        run = run_result()
        kept = tuple(t for t in run.trials if t.trial.arm_id != "arm02")
        refused = replace(
            run, trials=kept, verdict=verdict_of(SPEC, run.arms, kept), arm_errors={"arm02": "no GPU here"}
        )
        assert "no GPU here" in Page(html_of(refused)).text

    def test_a_user_may_override_the_template_and_its_errors_name_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "report.html.j2").write_text("{{ headline }} of {{ run.spec.model }}")
        assert html_of(run_result(), tmp_path) == "Winner of minilm"
        (tmp_path / "report.html.j2").write_text("{{ nothing_of_this_name }}")
        with pytest.raises(TritonsmithError, match="template failed") as error:
            html_of(run_result(), tmp_path)
        assert str(tmp_path) in str(error.value.where)


class TestFiles:
    def test_three_files_are_written_and_the_csv_has_a_row_a_point(self, tmp_path: Path) -> None:
        files = write_report(run_result(), tmp_path)
        rows = list(csv.DictReader(files.csv.open()))
        assert len(rows) == 6
        best = next(r for r in rows if r["arm"] == "arm02" and r["concurrency"] == "8")
        low, value, high = (float(best[f"throughput_per_s{end}"]) for end in ("_low", "", "_high"))
        assert low < value < high
        assert json.loads(files.json.read_text())["verdict"]["outcome"] == "winner"
        assert not list(tmp_path.glob(".*"))

    def test_the_terminal_gets_the_verdict_and_a_table(self) -> None:
        lines = text_of(run_result()).splitlines()
        assert lines[0].startswith("Winner: count 2")
        assert any(line.startswith("▶ count 2") for line in lines)

    def test_json_gives_the_same_run_and_so_the_same_report_back(self, tmp_path: Path) -> None:
        run = run_result()
        again = typed(RunResult, json_of(run))
        assert report_json(again) == json.loads(json.dumps(report_json(run)))
        assert html_of(again) == html_of(run)


class TestRunDirectory:
    def write(self, directory: Path, run: RunResult, *, end: bool) -> None:
        journal = Journal(directory)
        journal.write(
            "start", spec=run.spec.model_dump(mode="json"), environment=run.environment,
            arms=[json_of(a) for a in run.arms], notes=list(run.notes),
        )  # fmt: skip
        for trial in run.trials:
            journal.write("trial", **json_of(trial))
        if end:
            journal.write("end", stop_reason="interrupted", complete=False, interrupted=True, wall_s=3.0)
        journal.close()

    def test_a_run_that_was_killed_can_be_reported_up_to_its_last_whole_line(self, tmp_path: Path) -> None:
        self.write(tmp_path, run_result(), end=False)
        file = tmp_path / JOURNAL
        file.write_text(file.read_text()[:-40])
        run = load_run(tmp_path)
        assert len(run.trials) == 17
        assert not run.complete
        assert "killed" in run.stop_reason
        write_report(run, tmp_path)

    def test_an_interrupted_run_says_so(self, tmp_path: Path) -> None:
        self.write(tmp_path, run_result(), end=True)
        run = load_run(tmp_path)
        assert (run.interrupted, run.complete, run.stop_reason) == (True, False, "interrupted")

    def test_a_new_run_does_not_leave_the_old_ones_result_beside_it(self, tmp_path: Path) -> None:
        write_run(run_result(), tmp_path)
        self.write(tmp_path, run_result(gain=1.0), end=False)
        assert not (tmp_path / RESULT).exists()

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            ({}, "no_run"),
            ({RESULT: "{"}, "run_damaged"),
            ({RESULT: '{"format": "other/9"}'}, "run_format"),
            ({RESULT: '{"format": "tritonsmith.run/1"}'}, "run_damaged"),
            ({JOURNAL: ""}, "run_damaged"),
            ({JOURNAL: '{"event": "trial"}\n'}, "run_damaged"),
            ({JOURNAL: 'broken\n{"event": "end"}\n'}, "run_damaged"),
        ],
    )
    def test_what_is_no_run_is_one_clear_error(
        self, tmp_path: Path, content: dict[str, str], code: str
    ) -> None:
        for name, text in content.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(TritonsmithError) as error:
            load_run(tmp_path)
        assert error.value.code == code
        assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("format_", "value", "text"),
    [
        (numbers.rate, 12_436.0, "12,400"),
        (numbers.rate, 843.2, "843"),
        (numbers.rate, 9.618, "9.62"),
        (numbers.rate, None, "–"),
        (numbers.milliseconds, 412_345.0, "0.412"),
        (numbers.milliseconds, 3_612_000.0, "3.61"),
        (numbers.milliseconds, 128_400_000.0, "128"),
        (numbers.short_count, 12_000.0, "12k"),
        (numbers.percent, 0.0031, "0.31 %"),
        (numbers.percent, 0.5, "50 %"),
    ],
)
def test_numbers_have_the_digits_that_are_worth_reading(format_: Any, value: float | None, text: str) -> None:
    assert format_(value) == text


@pytest.mark.parametrize("top", [0.003, 0.9, 1.0, 7.3, 99.0, 12_345.0])
def test_an_axis_ends_on_a_round_number_at_or_above_the_highest_mark(top: float) -> None:
    axis = linear_axis("", top, str)
    assert axis.at(top) <= 1.0 + 1e-9
    assert axis.at(axis.ticks[-1][0]) == pytest.approx(1.0)
    assert 3 <= len(axis.ticks) <= 8


def test_a_logarithmic_axis_holds_both_ends() -> None:
    axis = log_axis("", 0.4, 30.0, str)
    assert 0 < axis.at(0.4) < axis.at(30.0) < 1


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({}, 0, ""),
        ({"interrupted": True, "complete": False}, 130, ""),
        ({"complete": False, "stop_reason": "the server is gone"}, 1, "the server is gone"),
        ({"spec": SPEC.model_copy(update={"max_p99_ms": 0.001})}, 4, "the nearest is"),
        ({"trials": "all failed"}, 1, "every trial failed"),
    ],
    ids=["done", "Ctrl-C", "server gone", "nothing fits", "all failed"],
)
def test_the_exit_code_says_how_it_ended_and_json_is_one_document(
    changes: dict[str, Any], code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tritonsmith.perf.commands.sweep.output import emit_result

    run = run_result()
    if changes.get("trials"):
        changes = {"trials": tuple(failed(t.trial, "no answer", 0.1) for t in run.trials)}
    run = replace(run, **changes)
    run = replace(run, verdict=verdict_of(run.spec, run.arms, run.trials))
    files = write_report(run, tmp_path)
    ends: list[int] = []
    for as_json in (True, False):
        try:
            emit_result(run, files, as_json=as_json)
            ends.append(0)
        except typer.Exit as stop:
            ends.append(stop.exit_code)
        except TritonsmithError as error:
            assert not as_json and text in error.message
            ends.append(error.exit_code)
        if as_json:
            told = capsys.readouterr()
            error_told = json.loads(told.out)["error"]
            assert (error_told is None) == (code in (0, 130))
            assert text in (error_told or {"message": ""})["message"] and text in told.err
    assert ends == [code, code]


def test_the_table_of_a_terminal_holds_the_winner_of_many_arms() -> None:
    run = run_result()
    others = tuple(Arm(f"arm{n:02d}", f"arm number {n}", {"x": n}, {}) for n in range(3, 20))
    arms = (*run.arms[:2], *others, run.arms[2])
    text = text_of(replace(run, arms=arms, verdict=verdict_of(run.spec, arms, run.trials)))
    assert "▶ count 2" in text and "… 8 more in the report" in text


def test_a_search_for_the_highest_rate_shows_its_probes_and_the_limit_instead_of_load_points() -> None:
    run = run_result()
    probes = tuple(
        Probe(rate_per_s, "met", True, p99_ms, f"p99 {p99_ms} ms")
        for rate_per_s, p99_ms in ((100.0, 5.0), (200.0, 30.0))
    )
    slo = SloResult(20.0, 100.0, 200.0, "server", probes)
    trials = tuple(replace(t, slo=slo) for t in run.trials)
    spec = run.spec.model_copy(update={"slo_p99_ms": 20.0, "objective": "rate", "concurrency": (1,)})
    trials = tuple(t for t in trials if t.trial.concurrency == 1)
    page = html_of(replace(run, spec=spec, trials=trials, verdict=verdict_of(spec, run.arms, trials)))
    assert Page(page).stack == []
    assert "p99 latency (ms) by request rate" in page and 'class="limit"' in page and "p99 30.0 ms" in page
    assert "<h2>Throughput</h2>" not in page
    assert "3 arms × p99 ≤ 20 ms × 3 rounds" in page


def test_rounds_that_settled_or_confirmed_a_lead_are_counted_apart() -> None:
    run = run_result()
    finals = tuple(
        replace(t, trial=replace(t.trial, round=t.trial.round + 3, settles=t.trial.round < 2, confirms=t.trial.round == 2))
        for t in run.trials
        if t.trial.concurrency == 8
    )  # fmt: skip
    assert "3 arms × 2 load points × 3 rounds + 2 settling + 1 confirming" in html_of(
        replace(run, trials=run.trials + finals)
    )
    assert "× 1 round<" in html_of(run_result(rounds=1))


def test_what_was_at_work_beside_the_model_and_what_got_the_load_is_told() -> None:
    run = run_result()
    spec = run.spec.model_copy(update={"beside": {"noise": 4}, "load_model": "pipe", "batch_size": 2})
    text = Page(html_of(replace(run, spec=spec))).text
    for told in ("noise at concurrency 4", "pipe, of which minilm is a part", "2 inferences each"):
        assert told in text
