"""Two runs that did not measure the same → a comparison that says so first, tells no change, and passes no gate."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run
from tests.perf.fake_server import fake_server
from tests.perf.report.test_compare import records, slower
from tests.perf.report.test_report import run_result
from tritonsmith.builder.base.errors import GateError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.load.load_test import LoadTest, run_load_test
from tritonsmith.perf.records.record import RequestRecords, save_records
from tritonsmith.perf.records.schedule import Closed
from tritonsmith.perf.report.compare.compare import Comparison, compare_records, compare_runs
from tritonsmith.perf.report.compare.gate import gate_from_text, judge, says_no
from tritonsmith.perf.report.compare.text import comparison_json, gated, headline, markdown_of, text_of
from tritonsmith.perf.sweep.run_record import RESULT, RunResult

OLD = Path(__file__).parents[1] / "records" / "old_files"
OF_LOAD = {
    "tritonsmith": "1.0", "server": "triton 2.51.0", "python": "3.11.2", "platform": "Linux-6.1", "cpu": "A CPU",
    "cpus": 2, "load_average_1min": 0.1, "data": "5af8" * 16,
}  # fmt: skip


def load_test(noise: int = 1, environment: Mapping[str, Any] = OF_LOAD, **header: Any) -> RequestRecords:
    of_test = records(900, 2.0, noise)
    return replace(of_test, header=replace(of_test.header, environment=environment, **header))


def without(environment: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in environment.items() if key not in keys}


def sweep(environment: Mapping[str, Any] | None = None, **spec: Any) -> RunResult:
    run = run_result()
    return replace(
        run,
        spec=run.spec.model_copy(update=spec),
        environment={**run.environment, "data": "5af8" * 16, "protocol": "http", **(environment or {})},
    )


CLOSED = {"kind": "closed", "concurrency": 8}
OPEN = {"kind": "open", "request_rate_per_s": 200.0, "arrival": "poisson", "seed": 1}


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ({"model": "bert"}, "model minilm in A, bert in B"),
        ({"load": {**CLOSED, "concurrency": 16}}, "load concurrency 8 in A, concurrency 16 in B"),
        ({"load": OPEN}, "load concurrency 8 in A, 200 requests/s poisson in B"),
        ({"load": {**CLOSED, "ramp_s": 2.0}}, "load ramp_s 0.0 in A, ramp_s 2.0 in B"),
        ({"batch_sizes": (4,)}, "load concurrency 8 in A, concurrency 8, batch size 4 in B"),
        ({"protocol": "grpc"}, "protocol http in A, grpc in B"),
        ({"url": "http://elsewhere:8000"}, "host x in A, elsewhere in B"),
        (
            {"environment": {**OF_LOAD, "data": "77" * 32}},
            "data (sha256) 5af85af85af8 in A, 777777777777 in B",
        ),
        ({"environment": without(OF_LOAD, "data"), "seed": 3}, "data (seed) 0 in A, 3 in B"),
        (
            {"environment": {**OF_LOAD, "server": "triton 2.52.0"}},
            "server triton 2.51.0 in A, triton 2.52.0 in B",
        ),
        ({"environment": {**OF_LOAD, "cpu": "Another"}}, "processor A CPU in A, Another in B"),
        ({"environment": {**OF_LOAD, "cpus": 64}}, "processor cores 2 in A, 64 in B"),
        (
            {"environment": without(OF_LOAD, "cpu") | {"platform": "Darwin"}},
            "system Linux-6.1 in A, Darwin in B",
        ),
        (
            {"model": "bert", "environment": {**OF_LOAD, "cpus": 64}},
            "model minilm in A, bert in B; processor cores 2 in A, 64 in B",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_load_tests_that_did_not_measure_the_same_say_what_differs(b: dict[str, Any], said: str) -> None:
    comparison = compare_records(load_test(), load_test(2, **b))
    assert headline(comparison) == f"Not comparable: {said}."


def test_a_streamed_load_test_is_not_one_of_single_answers() -> None:
    a = load_test(protocol="grpc")
    zeros = np.zeros(len(a), np.int64)
    b = replace(a, responses=zeros, last_response_ns=zeros, longest_gap_ns=zeros)
    assert headline(compare_records(a, b)) == "Not comparable: protocol grpc in A, grpc streaming in B."


@pytest.mark.parametrize(
    "b",
    [
        {"environment": {**OF_LOAD, "load_average_1min": 7.5}, "started_unix_ns": 1},
        {"environment": {**OF_LOAD, "platform": "Linux-6.2", "tritonsmith": "1.1", "python": "3.12.0"}},
        {"environment": {}},
        {"client_cpu_s": 0.2, "processes": 2, "checked": 10},
    ],
    ids=["busy and later", "our own version", "of an earlier version", "the client"],
)
def test_load_tests_that_differ_in_nothing_measured_are_compared(b: dict[str, Any]) -> None:
    comparison = compare_records(load_test(), load_test(2, **b))
    assert comparison.differences == ()
    assert headline(comparison) == "No difference that these runs can tell."


def test_arrivals_of_another_seed_are_the_same_load() -> None:
    a, b = load_test(load=OPEN), load_test(2, load={**OPEN, "seed": 2})
    assert compare_records(a, b).differences == ()


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ({"model": "a\nNo difference"}, "model minilm in A, a\\nNo difference in B"),
        ({"url": "http://[x"}, "host x in A, http://[x in B"),
        (
            {"environment": {**OF_LOAD, "server": "http://me:secret@host/"}},
            "server triton 2.51.0 in A, http://***@host/ in B",
        ),
        (
            {"environment": {**OF_LOAD, "cpu": "x" * 10_000}},
            f"processor A CPU in A, {'x' * 100}… (10000 characters) in B",
        ),
        ({"environment": {**OF_LOAD, "cpus": [1, {}]}}, "processor cores 2 in A, [1, {}] in B"),
    ],
    ids=["lines", "no address", "secret", "long", "types"],
)
def test_what_others_wrote_stays_one_short_line(b: dict[str, Any], said: str) -> None:
    assert headline(compare_records(load_test(), load_test(2, **b))) == f"Not comparable: {said}."


def test_one_host_has_several_names() -> None:
    a, b = load_test(url="http://127.0.0.1:8000"), load_test(2, url="http://localhost:31234")
    assert compare_records(a, b).differences == ()


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (sweep(model="bert"), "model minilm in A, bert in B"),
        (sweep(load_model="pipe"), "model under load minilm in A, pipe in B"),
        (sweep(concurrency=(64,)), "load concurrency 1, 8 in A, concurrency 64 in B"),
        (sweep(slo_p99_ms=20.0), "load concurrency 1, 8 in A, p99 ≤ 20 ms in B"),
        (sweep(batch_size=4), "batch size 1 in A, 4 in B"),
        (sweep(beside={"other": 2}), "models beside it none in A, other:2 in B"),
        (sweep({"protocol": "grpc"}), "protocol http in A, grpc in B"),
        (sweep({"data": "77" * 32}), "data (sha256) 5af85af85af8 in A, 777777777777 in B"),
        (sweep({"data": None}, seed=3), "data (seed) 0 in A, 3 in B"),
        (sweep({"server": "http://other:8000"}), "server embedded in A, http://other:8000 in B"),
        (sweep({"server_version": "2.52.0"}), "server version 2.51.0 in A, 2.52.0 in B"),
        (sweep({"cpu": "Another CPU"}), "processor A CPU in A, Another CPU in B"),
        (sweep({"cores": 64}), "processor cores 2 in A, 64 in B"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sweeps_that_did_not_measure_the_same_say_what_differs(b: RunResult, said: str) -> None:
    assert headline(compare_runs(sweep(), b)) == f"Not comparable: {said}."


def test_sweeps_that_differ_in_nothing_measured_are_compared() -> None:
    later = sweep(
        {"load_average": 9.0, "started": "2026-12-01", "command": "another", "backend": "tensorrt"}, rounds=5
    )
    comparison = compare_runs(sweep(), slower(later, 0.5))
    assert comparison.differences == () and headline(comparison).startswith("Regression: ")
    assert "backend differs: ? in A, tensorrt in B" in comparison.notes


def unlike() -> Comparison:
    """On half as fast a server of another version: alike, it would be a regression."""
    comparison = compare_runs(sweep(), slower(sweep({"server_version": "2.52.0"}), 0.5))
    assert headline(compare_runs(sweep(), slower(sweep(), 0.5))).startswith("Regression: ")
    return comparison


SENTENCE = "Not comparable: server version 2.51.0 in A, 2.52.0 in B."


def test_every_form_says_it_first_and_none_tells_a_change() -> None:
    comparison = unlike()
    assert comparison.caption() == SENTENCE
    assert comparison.findings == []
    assert {row["finding"] for row in comparison.rows()} == {"not comparable"}
    assert {row["change"] for row in comparison.rows()} == {None}
    assert all(row["a"] is not None and row["b"] is not None for row in comparison.rows())
    text, markdown = text_of(comparison, ()), markdown_of(comparison, ())
    assert text.startswith(SENTENCE) and markdown.startswith(f"**{SENTENCE}**")
    data = comparison_json(comparison, (), False, False)
    assert (data["sentence"], data["comparable"], data["gate"]) == (SENTENCE, False, None)
    assert data["differences"] == [{"name": "server version", "a": "2.51.0", "b": "2.52.0"}]
    for shown in (text, markdown, json.dumps(data)):
        assert "egression" not in shown and "mprovement" not in shown
    assert "%" not in text and re.search(r"throughput +\d+/s +\d+/s +– ", text), (
        "values stand beside each other, no percentage does"
    )


@pytest.mark.parametrize("strict", [False, True])
def test_a_gate_cannot_be_told_and_is_closed(strict: bool) -> None:
    comparison = unlike()
    gates = [gate_from_text("throughput>=-3%"), gate_from_text("p99<=1000%")]
    judgements = judge(comparison, gates)
    assert {j.status for j in judgements} == {"open"} and says_no(judgements, strict)
    assert text_of(comparison, judgements).count("cannot be told") == len(judgements) == 4
    assert comparison_json(comparison, judgements, strict, True)["gate"] == "cannot be told"
    with pytest.raises(GateError, match="Not comparable") as error:
        gated(comparison, gates, strict)
    assert (error.value.code, error.value.exit_code) == ("not_comparable", 4)
    assert gated(comparison, (), strict) == comparison


def test_a_metric_that_was_lost_is_no_violation_by_another_load() -> None:
    nothing = load_test(load={**CLOSED, "concurrency": 16})
    failed = replace(nothing, status=np.ones(len(nothing), np.uint16))
    judgements = judge(compare_records(load_test(), failed), [gate_from_text("throughput>=-3%")])
    assert [j.status for j in judgements] == ["open"]


def test_a_gate_on_sweeps_without_a_common_load_is_closed_too() -> None:
    comparison = compare_runs(sweep(), sweep(concurrency=(64,)))
    judgements = judge(comparison, [gate_from_text("p99<=5%")])
    assert comparison.points == () and len(judgements) == 1 and says_no(judgements, False)
    assert "cannot be told" in text_of(comparison, judgements)


def recorded(directory: Path, **environment: Any) -> str:
    """A run as an earlier version recorded it, on another day or elsewhere."""
    data = json.loads((OLD / RESULT).read_text())
    data["environment"] |= environment
    directory.mkdir()
    (directory / RESULT).write_text(json.dumps(data))
    return directory.name


def test_the_command_tells_recorded_runs_apart(tmp_path: Path, tritonsmith: Run) -> None:
    a, later = recorded(tmp_path / "a"), recorded(tmp_path / "b", started="2026-12-01", load_average=7.0)
    elsewhere = recorded(tmp_path / "c", cpu="Another CPU", cores=64)
    same = tritonsmith("compare", a, later)
    assert same.returncode == 0 and "ot comparable" not in same.stdout + same.stderr
    said = "Not comparable: processor A CPU in A, Another CPU in B; processor cores 2 in A, 64 in B."
    shown = tritonsmith("compare", a, elsewhere)
    assert shown.returncode == 0 and shown.stdout.startswith(said)
    closed = tritonsmith("compare", a, elsewhere, "--gate", "p50<=1000%", "--format", "json")
    assert closed.returncode == 4 and "not comparable" in closed.stderr and "Traceback" not in closed.stderr
    data = json.loads(closed.stdout)
    assert (data["sentence"], data["gate"]) == (said, "cannot be told")


@pytest.mark.nightly
def test_the_command_tells_recorded_load_tests_apart(tmp_path: Path, tritonsmith: Run) -> None:
    shutil.copy(OLD / "load.npz", tmp_path / "old.npz")
    save_records(load_test(), tmp_path / "new.npz")
    shown = tritonsmith("compare", "old.npz", "new.npz")
    assert shown.returncode == 0 and shown.stdout.startswith("Not comparable: "), shown.stderr
    assert tritonsmith("compare", "old.npz", "old.npz", "--gate", "p50<=1%").returncode == 0
    assert tritonsmith("compare", "old.npz", "new.npz", "--gate", "p50<=1%").returncode == 4


def test_a_load_test_keeps_what_it_sent_and_by_which_processor() -> None:
    """Data of another seed are other data; the same seed is the same data on every run."""

    def measured(url: str, seed: int) -> RequestRecords:
        test = LoadTest(model="m", load=Closed(2), requests=40, warmup_s=0.0, data=DataOptions(seed=seed))
        return run_load_test(url, test).records

    with fake_server(delay_s=0.001) as server:
        first, again, other = (measured(server.url, seed) for seed in (0, 0, 1))
    assert first.header.environment["cpu"] and len(first.header.environment["data"]) == 64
    assert compare_records(first, again).differences == ()
    assert [each.name for each in compare_records(first, other).differences] == ["data (sha256)"]
