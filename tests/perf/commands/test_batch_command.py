"""`tritonsmith batch` as it is typed: what it prints, its page, its exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.perf.batch.jobs import ask, problems_of, records_of, write_rows
from tests.perf.fake_server import fake_server


def test_a_job_with_a_failed_row_prints_its_summary_writes_its_page_and_exits_with_1(
    tmp_path: Path, tritonsmith: Run
) -> None:
    write_rows(tmp_path / "in.jsonl", map(ask, range(400)))
    with fake_server(refuse_value=42.0, delay_s=0.002) as server:
        ran = tritonsmith(
            *("batch", "in.jsonl", "-o", "out.jsonl", "--url", server.url, "--report", "job.html"),
            *("--dollars-per-hour", "3.6", "--format", "json"),
        )
    assert ran.returncode == 1, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["rows"], told["answered"], told["failed"]) == (400, 399, 1)
    assert told["failures"] == {"request_refused": 1} and told["errors"] == "out.errors.jsonl"
    assert told["dollars_per_million_rows"] == pytest.approx(3.6 / 3600 / told["rows_per_s"] * 1e6, rel=1e-3)
    assert len(records_of(tmp_path / "out.jsonl")) == 399
    page = (tmp_path / "job.html").read_text()
    assert "<script" not in page and "http://" not in page.replace(server.url, "").replace(
        "http://www.w3.org", ""
    )
    for text in (
        "Batch job of m",
        "Rows done over time",
        "Failures by reason",
        "request_refused",
        "Batch sizes realised",
    ):
        assert text in page, text


def test_plain_rows_by_flags_and_a_second_run_that_is_refused(tmp_path: Path, tritonsmith: Run) -> None:
    (tmp_path / "in.csv").write_text('key,values\na,"[1, 1, 1, 1]"\n')
    with fake_server() as server:
        words = (
            "batch",
            "in.csv",
            "-o",
            "out.jsonl",
            "--url",
            server.url,
            "-m",
            "m",
            "--map",
            "values=x",
            "--id",
            "key",
        )
        ran, again = tritonsmith(*words), tritonsmith(*words)
        unmapped = tritonsmith("batch", "in.csv", "-o", "other.jsonl", "--url", server.url)
    assert ran.returncode == 0 and "1 of 1 rows answered by m" in ran.stdout, ran.stderr
    assert records_of(tmp_path / "out.jsonl") == [{"id": "a", "y": [2, 2, 2, 2]}]
    assert again.returncode == 2 and "error[output_exists]: out.jsonl: it is there already" in again.stderr
    assert unmapped.returncode == 2 and "error[no_model]" in unmapped.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_says_so_and_goes_on(tmp_path: Path, number: int, code: int) -> None:
    write_rows(tmp_path / "in.jsonl", map(ask, range(400)))
    with fake_server(delay_s=0.05) as server:
        command = [
            sys.executable,
            "-m",
            "tritonsmith",
            "batch",
            "in.jsonl",
            "-o",
            "out.jsonl",
            "--url",
            server.url,
        ]
        command += ["--in-flight", "1"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while server.infer_requests < 5:
            time.sleep(0.01)
        process.send_signal(number)
        said, why = process.communicate(timeout=60)
        assert process.returncode == code and said.startswith("interrupted: "), (said, why)
        assert "is kept in out.jsonl.journal: the same command goes on from there" in why
        assert not (tmp_path / "out.jsonl").exists()
        server.behaviour.delay_s = 0.0
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0 and "rows were done by earlier runs" in again.stdout
    assert problems_of(tmp_path / "out.jsonl", 400) == []
