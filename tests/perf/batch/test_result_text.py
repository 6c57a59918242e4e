"""What a job's end says is of this job: nothing is compared that is not of the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.perf.batch.jobs import ask, job_on
from tests.perf.fake_server import fake_server
from tritonsmith.perf.batch.job import prepared, run_batch
from tritonsmith.perf.batch.page import batch_html
from tritonsmith.perf.batch.sending.pack import Padding
from tritonsmith.perf.batch.text import text_of_batch


def test_only_rows_that_were_sent_are_compared_and_failures_of_before_are_counted(tmp_path: Path) -> None:
    with fake_server(refuse_value=3.0) as server:
        result = run_batch(job_on(server, tmp_path, [ask(n) for n in range(20)]))
    sorted_better = replace(result, sent=Padding(3, 60, 70), arrival=Padding(20, 60, 90))
    assert "3 requests instead of 20" in text_of_batch(sorted_better)
    assert (
        "answered by m in " in text_of_batch(result) and "server" not in text_of_batch(result).split("\n")[0]
    )

    stopped = replace(
        sorted_better, interrupted=True, answered=2, failed=0, failures={}, sent=Padding(2, 6, 7), in_flight=1
    )
    assert "instead of" not in text_of_batch(stopped) and "instead of" not in batch_html(stopped)
    assert stopped.as_dict()["requests_in_arrival_order"] is None
    assert ", 1 request in flight" in text_of_batch(stopped)
    nothing = replace(stopped, answered=0)
    assert text_of_batch(nothing) == "interrupted: 0 of 20 rows answered by m"

    bad = replace(result, rows=40, failed=21, failures={"bad_line": 20, "refused": 1})
    assert bad.rows_per_s == result.rows_per_s, "lines that were never sent cost nothing"

    later = replace(result, answered=13, failed=7, failures={"bad_answer": 2}, before=10)
    told = text_of_batch(later)
    assert "failed     7 rows: by earlier runs 5, bad_answer 2; in " in told
    assert "by earlier runs" in batch_html(later) and later.as_dict()["failed_before"] == 5


def test_progress_tells_the_time_that_is_left(tmp_path: Path) -> None:
    with fake_server() as server, prepared(job_on(server, tmp_path, [ask(n) for n in range(20)])) as ready:
        assert ready.told(10.0, 5) == "0 rows/s, 30 s left"
        assert ready.told(0.1, 1) == "sending" and ready.told(10.0, 20) == "2 rows/s"
