"""A report as Markdown, CSV and JSON; the report of a single load test; MLflow."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.perf.report.test_compare import records
from tests.perf.report.test_report import Page, run_result
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.text.markdown import cell, fenced
from tritonsmith.perf.load.result import result_from_records
from tritonsmith.perf.records.record import RequestRecords, save_records
from tritonsmith.perf.report import html_of, markdown_of, report_json, text_of, write_report
from tritonsmith.perf.report.charts import row_labels
from tritonsmith.perf.report.load.report import load_html_of, load_markdown_of, load_report
from tritonsmith.perf.report.svg.elements import log_axis
from tritonsmith.perf.stats import summarise
from tritonsmith.perf.sweep.plan import Arm
from tritonsmith.perf.sweep.run_record import verdict_of, write_run

EVIL = "<script>alert(1)</script>|`&\"'\n# x"


class TestMarkdown:
    def test_the_verdict_the_small_table_and_folded_details(self) -> None:
        text = markdown_of(run_result())
        lines = text.splitlines()
        assert lines[0] == "### Winner: Sweep of minilm"
        assert "count 2 gives 1." in lines[2].lower()
        assert re.search(r"\| 🏆 \*\*count 2\*\* \| ▲ 1\.\d\d× better \(1\.\d\d–1\.\d\d\) \|", text)
        assert "| 🏆 **count 2** | winner |" in text
        assert "🏆 **count 2**" in text
        assert text.count("<details>") == text.count("</details>") == 4
        for blank_before in ("| × current config", "| at concurrency", "<details>", "| config"):
            at = next(i for i, line in enumerate(lines) if line.startswith(blank_before))
            assert lines[at - 1] == ""

    def test_hostile_names_stay_text_and_rows_stay_rows(self) -> None:
        text = markdown_of(replace(run_result(labels=EVIL), notes=(EVIL,)))
        assert "<script" not in text
        for table in (part for part in re.split(r"\n{2,}", text) if part.startswith("|")):
            assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a|b", "a\\|b"), ("<b>", "&lt;b&gt;"), ("x\n\ny", "x y"), ("@you", "@\u200byou"), (None, "None")],
    )
    def test_a_cell_is_one_line_of_plain_text(self, text: str, expected: str) -> None:
        assert cell(text) == expected

    def test_a_fence_is_longer_than_any_inside(self) -> None:
        assert fenced("a ```` b", "yaml").splitlines()[0] == "`````yaml"


def test_pareto_points_are_ringed_in_the_chart_and_told_in_the_rows() -> None:
    text = html_of(run_result())
    front = [row for row in report_json(run_result())["points"] if row["pareto"]]
    assert front and len(re.findall('class="ring"', text)) == 2 * len(front)  # a wide and a narrow drawing


def test_a_search_for_the_highest_rate_has_a_limit_where_others_have_load_points() -> None:
    run = run_result()
    spec = run.spec.model_copy(update={"objective": "rate", "slo_p99_ms": 20.0, "concurrency": (1,)})
    trials = tuple(t for t in run.trials if t.trial.concurrency == 1)
    run = replace(run, spec=spec, trials=trials, verdict=verdict_of(spec, run.arms, trials))
    for text in (html_of(run), markdown_of(run), text_of(run)):
        assert "p99 ≤ 20 ms" in text and "concurrency 1" not in text and "in flight" not in text


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        (["count 2, max_queue_delay 500 µs", "count 1"], ["count 2, max_queue_delay 500 µs", "count 1"]),
        (
            ["count 2, max_queue_delay 500 µs, preferred_batch_size 8/16", "count 1"],
            ["count 2, delay 500 µs, size 8/16", "count 1"],
        ),
        (
            ["max_size 1" + " x" * 20, "min_size 1" + " x" * 20],
            ["max_size 1" + " x" * 20, "min_size 1" + " x" * 20],
        ),
    ],
    ids=["short enough", "shortened", "would become the same"],
)
def test_a_rows_label_is_shortened_while_all_stay_apart(labels: list[str], rows: list[str]) -> None:
    arms = [Arm(f"arm{i:02d}", label, {}, {}) for i, label in enumerate(labels)]
    assert list(row_labels(arms).values()) == rows


@pytest.mark.parametrize(("low", "high"), [(3.1, 3.3), (1.0, 1.0), (0.4, 30.0), (2.0, 900.0), (0.001, 9.0)])
def test_a_logarithmic_axis_has_ticks_to_read_by(low: float, high: float) -> None:
    axis = log_axis("", low, high, str)
    assert 2 <= len(axis.ticks) <= 10
    assert all(-1e-9 <= axis.at(value) <= 1 + 1e-9 for value, _ in axis.ticks)


def test_a_reason_stands_on_every_kind_of_report() -> None:
    run = run_result()
    faster = [
        replace(t, server=replace(t.server, mean_compute_infer_us=450.0))
        if t.server and t.trial.arm_id == "arm02"
        else t
        for t in run.trials
    ]
    run = replace(run, trials=tuple(faster))
    said = "an inference costs 0.113 ms"
    assert said in html_of(run) and said in markdown_of(run) and said in text_of(run)
    assert said in report_json(run)["why"]


class TestLoadTest:
    def test_one_whole_page_with_its_verdict_charts_and_intervals(self) -> None:
        of = records(3900, 2.0, 1)  # eight in flight, as its load says
        page = Page(load_html_of(of, summarise(of)))
        assert page.stack == [] and page.fetched == [] and "script" not in page.tags
        assert page.tags.count("svg") == 2 * 3  # a wide and a narrow drawing of each chart
        assert "VALID" in page.text and "95 % interval" in page.text and "concurrency 8" in page.text

    def test_failures_are_told_first_and_by_reason(self) -> None:
        of = records(900, 2.0, 1, failed=30)
        text = Page(load_html_of(of, summarise(of))).text
        assert "30 of 1,800 requests failed; most often: HTTP 503 (30)" in text
        assert "> ⚠️ 30 of 1,800" in load_markdown_of(of, summarise(of))

    @pytest.mark.parametrize("rows", [0, 3])
    def test_a_test_that_hardly_happened_has_a_report_too(self, rows: int) -> None:
        few: RequestRecords = records(900, 2.0, 1).select(slice(0, rows))
        page = Page(load_html_of(few, summarise(few)))
        assert page.stack == [] and "TOO_SHORT" in page.text
        assert load_markdown_of(few, summarise(few)).startswith("### TOO_SHORT")

    def test_the_csv_has_a_row_an_estimate(self) -> None:
        rows = list(csv.DictReader(load_report(result_from_records(records(900, 2.0, 1))).csv().splitlines()))
        p50 = next(r for r in rows if r["metric"] == "latency p50")
        assert float(p50["low"]) < float(p50["value"]) < float(p50["high"]) and p50["unit"] == "ns"


def test_the_command_writes_each_format_and_files_where_they_are_asked_for(
    tmp_path: Path, tritonsmith: Run
) -> None:
    (tmp_path / "run").mkdir()
    write_run(run_result(), tmp_path / "run")
    save_records(records(900, 2.0, 1), tmp_path / "load.npz")
    assert tritonsmith("report", "run", "--format", "md").stdout.startswith("### Winner")
    assert sorted(p.name for p in (tmp_path / "run").glob("report.*")) == [
        "report.csv", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert tritonsmith("report", "load.npz", "--format", "html").stdout.lstrip().startswith("<!doctype html>")
    assert not (tmp_path / "report.html").exists()
    result = tritonsmith("report", "load.npz", "--output", "out", "--format", "json")
    assert len(json.loads(result.stdout)["files"]) == len(list((tmp_path / "out").iterdir())) == 4


class TestMlflow:
    @pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="mlflow is installed")
    def test_without_it_there_is_one_clear_error(self) -> None:
        from tritonsmith.perf.report.mlflow_export import mlflow_module

        with pytest.raises(TritonsmithError, match="mlflow is not installed") as error:
            mlflow_module()
        assert error.value.exit_code == 3

    def test_a_sweep_is_a_run_with_a_nested_one_an_arm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
        from tritonsmith.perf.report.mlflow_export import export_sweep

        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
        monkeypatch.setenv(
            "MLFLOW_ALLOW_FILE_STORE", "true"
        )  # new releases want a database, which skinny lacks
        run_id = export_sweep(run_result(), write_report(run_result(), tmp_path / "report"))
        stored = mlflow.get_run(run_id)
        assert stored.data.tags["outcome"] == "winner" and stored.data.metrics["ratio_low"] > 1
        nested = mlflow.search_runs(
            search_all_experiments=True,
            filter_string=f"tags.`mlflow.parentRunId` = '{run_id}'",
            output_format="list",
        )
        assert len(nested) == 3


class TestWinnersConfig:
    def test_the_winners_config_is_one_that_triton_reads_with_the_evidence_above(
        self, tmp_path: Path
    ) -> None:
        from tritonsmith.builder.model_config.model_config import model_config_from_text

        run = run_result()
        config = {
            "max_batch_size": 8,
            "instance_group": [{"name": "minilm_0", "kind": "KIND_CPU", "count": 2}],
        }
        run = replace(run, arms=(*run.arms[:2], replace(run.arms[2], config=config)), directory=tmp_path)
        files = write_report(run, tmp_path)
        assert files.config is not None and str(files.config) in files.names()
        text = files.config.read_text()
        assert text.startswith("# Winner: count 2 gives 1.")
        message = model_config_from_text(text)
        assert (message.name, message.instance_group[0].count) == ("minilm", 2)
        assert not message.instance_group[0].name

    def test_a_tie_has_none_and_takes_an_earlier_one_away(self, tmp_path: Path) -> None:
        (tmp_path / "config.pbtxt").write_text("# Winner: of yesterday")
        files = write_report(replace(run_result(gain=1.0), directory=tmp_path), tmp_path)
        assert files.config is None and not (tmp_path / "config.pbtxt").exists()
