"""A job against a server on a real socket: answers, bad lines, failures, resumption."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.perf.batch.jobs import WIDTH, ask, job_on, problems_of, records_of, write_rows
from tests.perf.fake_server import fake_server
from tritonsmith.builder.base.errors import TrialError, TritonsmithError, UsageError
from tritonsmith.perf.batch.job import run_batch
from tritonsmith.perf.batch.place import Question, model_digest
from tritonsmith.perf.batch.rows.asks import Plain
from tritonsmith.perf.batch.sending.send import SendOptions
from tritonsmith.perf.load.load_test import LoadTest, server_of
from tritonsmith.perf.load.served_model import interface_of
from tritonsmith.perf.records.schedule import Closed


def test_every_row_is_answered_in_the_order_of_the_input_in_full_batches(tmp_path: Path) -> None:
    with fake_server() as server:
        result = run_batch(job_on(server, tmp_path, map(ask, range(100))))
    assert problems_of(tmp_path / "out.jsonl", 100) == []
    assert (result.answered, result.failed, result.requests) == (100, 0, 13) and result.sizes == {8: 12, 4: 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    first = records_of(tmp_path / "out.jsonl")[0]
    assert set(first) == {"id", "custom_id", "response", "error"} and first["error"] is None
    assert (
        set(first["response"]) == {"status_code", "request_id", "body"}
        and first["response"]["status_code"] == 200
    )


def test_lines_with_several_rows_keep_them_together(tmp_path: Path) -> None:
    def several(number: int, count: int) -> dict[str, Any]:
        data = [[float(number + i)] * WIDTH for i in range(count)]
        tensor = {"name": "x", "datatype": "FP32", "shape": [count, WIDTH], "data": data}
        return ask(number, body={"inputs": [tensor]})

    with fake_server() as server:
        result = run_batch(
            job_on(server, tmp_path, [several(0, 3), several(10, 4), several(20, 5), several(30, 8)])
        )
    shapes = [r["response"]["body"]["outputs"][0]["shape"] for r in records_of(tmp_path / "out.jsonl")]
    assert shapes == [[3, WIDTH], [4, WIDTH], [5, WIDTH], [8, WIDTH]] and sum(result.sizes.values()) == 3
    assert records_of(tmp_path / "out.jsonl")[1]["response"]["body"]["outputs"][0]["data"][::WIDTH] == [
        20,
        22,
        24,
        26,
    ]


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [1.0] * WIDTH} | changes


BAD = [
    ('{"custom_id": a}', "column 15: not JSON"),
    ('["no", "object"]', "not a JSON object"),
    (ask(1, custom_id=7), "custom_id: is to be a text, and is 7"),
    ({k: v for k, v in ask(1).items() if k != "url"}, "url: lacks `url`"),
    (ask(1, url="/v2/models/m/infr"), "url: an unknown url, '/v2/models/m/infr'"),
    (ask(1, method="GET"), "method: is to be POST, and is 'GET'"),
    (ask(1, body=[]), "body: is to be an object"),
    (ask(1, body={"inputs": [tensor(name="z")]}), "body.inputs[0].name: `m` has no input 'z'"),
    (
        ask(1, body={"inputs": [tensor(datatype="FP64")]}),
        "body.inputs[0].datatype: input `x` is FP32, and not FP64",
    ),
    (
        ask(1, body={"inputs": [tensor(shape=[1, 5])]}),
        "body.inputs[0].shape: is [1, 5], and input `x` takes [-1, 4]",
    ),
    (ask(1, body={"inputs": [tensor(data=[1.0])]}), "body.inputs[0].data: has 1 values for the shape [1, 4]"),
    (ask(1, body={"inputs": [tensor(data=["1"] * 4)]}), "is to hold values of FP32, not '1'"),
    (ask(1, body={"inputs": [tensor(data=[1e39] * 4)]}), "holds a value beyond FP32"),
    (ask(1, body={"inputs": [tensor(shape=[9, 4], data=[0.0] * 36)]}), "has 9 rows, and `m` takes 8 at once"),
    (ask(1, body={"inputs": []}), "body.inputs: lacks the list `inputs`"),
    (ask(0), "the id 'r0' is that of line 1, too"),
]


@pytest.mark.parametrize(("line", "told"), BAD)
def test_a_bad_line_is_told_with_its_number_its_place_and_what_it_is(
    tmp_path: Path, line: Any, told: str
) -> None:
    with fake_server() as server, pytest.raises(UsageError) as refused:
        run_batch(job_on(server, tmp_path, [ask(0), line, ask(2)]))
    assert told in refused.value.message and refused.value.where is not None and refused.value.where.line == 2
    assert refused.value.code == ("duplicate_id" if "the id" in told else "bad_lines")
    assert server.infer_requests == 0 and [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_all_bad_lines_are_told_at_once_and_left_out_when_asked(tmp_path: Path) -> None:
    lines = [ask(0), *(line for line, _ in BAD), ask(2)]
    with fake_server() as server:
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path, lines))
        assert len(refused.value.details) == len(BAD) and refused.value.details[0].startswith(
            "line 2: column 15"
        )
        result = run_batch(job_on(server, tmp_path, skip_bad=True))
    assert [r["custom_id"] for r in records_of(tmp_path / "out.jsonl")] == ["r0", "r2"]
    failed = records_of(tmp_path / "out.errors.jsonl")
    assert [r["error"]["line"] for r in failed] == [
        *range(2, 2 + len(BAD))
    ] and result.bad == result.failed == len(BAD)
    assert all(told in r["error"]["message"] for (_, told), r in zip(BAD, failed, strict=True))


def test_mixed_urls_are_one_error(tmp_path: Path) -> None:
    with fake_server() as server, pytest.raises(UsageError) as refused:
        run_batch(job_on(server, tmp_path, [ask(0), ask(1, url="/v2/models/other/infer")], skip_bad=True))
    assert (
        refused.value.code == "mixed_urls"
        and refused.value.where is not None
        and refused.value.where.line == 2
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"input": Path("nothing.jsonl")}, "no_input"),
        ({"output": Path("out.csv")}, "bad_form"),
        ({"output": Path("in.jsonl")}, "output_exists"),
        ({"question": Question(Plain("missing"))}, "unknown_model"),
        ({"question": Question(Plain("m", {"a": "z"}))}, "unknown_input"),
        ({"question": Question(batch_size=9)}, "bad_batch_size"),
    ],
)
def test_what_cannot_be_is_one_error(tmp_path: Path, change: dict[str, Any], code: str) -> None:
    change = {k: tmp_path / v if isinstance(v, Path) else v for k, v in change.items()}
    with fake_server() as server, pytest.raises(TritonsmithError) as refused:
        run_batch(job_on(server, tmp_path, [ask(0)], **change))
    assert refused.value.code == code


def test_an_output_that_is_there_is_refused_and_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("the user's\n")
    with fake_server() as server:
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path, [ask(0)]))
        assert (
            refused.value.code == "output_exists" and (tmp_path / "out.jsonl").read_text() == "the user's\n"
        )
        run_batch(job_on(server, tmp_path, restart=True))
    assert problems_of(tmp_path / "out.jsonl", 1) == []


# Failures.


@pytest.mark.parametrize(
    "behaviour",
    [{"error_every": 5}, {"drop_every": 7}, {"drop_every": 4, "drop_inside": True}, {"close_every": 3}],
)
def test_what_may_pass_is_asked_again(tmp_path: Path, behaviour: dict[str, int]) -> None:
    with fake_server(**behaviour) as server:
        result = run_batch(job_on(server, tmp_path, map(ask, range(200))))
    assert problems_of(tmp_path / "out.jsonl", 200) == [] and result.failed == 0
    assert bool(result.retries) == ("close_every" not in behaviour)


def test_a_refused_row_is_found_in_its_batch_and_is_the_only_one_that_fails(tmp_path: Path) -> None:
    with fake_server(refuse_value=42.0) as server:
        result = run_batch(job_on(server, tmp_path, map(ask, range(100))))
    assert (result.answered, result.failed) == (99, 1) and result.failures == {"request_refused": 1}
    (failed,) = records_of(tmp_path / "out.errors.jsonl")
    assert failed["custom_id"] == "r42" and failed["response"]["status_code"] == 400
    assert failed["error"] == {"code": "request_refused", "message": "that value is refused", "line": 43}
    assert "r42" not in [r["custom_id"] for r in records_of(tmp_path / "out.jsonl")]


def test_a_server_that_wants_to_know_who_asks_ends_the_job(tmp_path: Path) -> None:
    with fake_server(infer_status=403) as server, pytest.raises(TrialError) as refused:
        run_batch(job_on(server, tmp_path, map(ask, range(20))))
    assert refused.value.code == "not_allowed"


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    with fake_server(delay_s=0.01) as server:

        def away() -> None:
            while server.infer_requests < 10:
                time.sleep(0.005)
            server.stop_listening()
            time.sleep(0.5)
            server.listen()

        threading.Thread(target=away, daemon=True).start()
        result = run_batch(job_on(server, tmp_path, map(ask, range(400))))
    assert problems_of(tmp_path / "out.jsonl", 400) == [] and result.run_s > 0.5


def test_a_server_that_stays_away_ends_the_job_and_the_next_run_goes_on(tmp_path: Path) -> None:
    rows = 160
    with fake_server(delay_s=0.01) as server:
        wait = SendOptions(in_flight=2, timeout_s=5.0, wait_s=0.3)
        threading.Thread(target=_stop_after, args=(server, 5), daemon=True).start()
        with pytest.raises(TritonsmithError) as gone:
            run_batch(job_on(server, tmp_path, map(ask, range(rows)), send=wait))
        assert gone.value.code == "server_gone" and "run the same command again" in str(gone.value.fix)
        assert (tmp_path / "out.jsonl.journal").stat().st_size > 0 and not (tmp_path / "out.jsonl").exists()
        server.listen()
        result = run_batch(job_on(server, tmp_path))
    assert 0 < result.before < rows and result.answered == rows
    assert problems_of(tmp_path / "out.jsonl", rows) == []


def _stop_after(server: Any, requests: int) -> None:
    while server.infer_requests < requests:
        time.sleep(0.002)
    server.stop_listening()


# Resumption.


def _left(tmp_path: Path, server: Any, rows: int) -> Path:
    """A job that was ended in the middle; its journal."""
    wait = SendOptions(in_flight=2, timeout_s=5.0, wait_s=0.0)
    threading.Thread(target=_stop_after, args=(server, 5), daemon=True).start()
    with pytest.raises(TritonsmithError):
        run_batch(job_on(server, tmp_path, map(ask, range(rows)), send=wait))
    server.listen()
    return tmp_path / "out.jsonl.journal"


def test_a_changed_input_or_reading_is_refused_until_the_job_begins_anew(tmp_path: Path) -> None:
    with fake_server(delay_s=0.005) as server:
        _left(tmp_path, server, 100)
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path, skip_bad=True))
        assert refused.value.code == "journal_differs" and "how it is read" in refused.value.message
        write_rows(tmp_path / "in.jsonl", map(ask, range(1, 101)))
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path))
        assert refused.value.code == "journal_differs" and "--restart" in str(refused.value.fix)
        assert "the input's content" in refused.value.message
        result = run_batch(job_on(server, tmp_path, restart=True))
    assert result.before == 0 and records_of(tmp_path / "out.jsonl")[0]["custom_id"] == "r1"


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    with fake_server(delay_s=0.005) as server:
        _left(tmp_path, server, 100)
        server.max_batch_size = 16
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path))
    assert refused.value.code == "journal_differs" and "the model" in refused.value.message


@pytest.mark.parametrize("damage", ["torn", "zeros", "flipped", "head"])
def test_what_is_not_whole_in_a_journal_is_asked_anew(tmp_path: Path, damage: str) -> None:
    with fake_server(delay_s=0.005) as server:
        journal = _left(tmp_path, server, 100)
        data = journal.read_bytes()
        middle = len(data) // 2
        changed = {
            "torn": data[:-7],
            "zeros": data + bytes(512),
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "head": data[:20],
        }[damage]
        journal.write_bytes(changed)
        result = run_batch(job_on(server, tmp_path))
    assert problems_of(tmp_path / "out.jsonl", 100) == []
    assert result.before == 0 if damage == "head" else 0 < result.before < 100


def test_a_kill_between_the_journals_last_line_and_the_output_is_only_finished(tmp_path: Path) -> None:
    with fake_server(refuse_value=3.0) as server:
        job = job_on(server, tmp_path, map(ask, range(20)))
        from tritonsmith.perf.batch import job as module

        with module.prepared(job) as ready:
            ready.send()
            journal = (tmp_path / "out.jsonl.journal").read_bytes()
            ready.finish()
            whole = (tmp_path / "out.jsonl").read_bytes()
        asked = server.infer_requests
        (tmp_path / "out.jsonl.journal").write_bytes(journal)  # as it was before the rename
        (tmp_path / "out.jsonl").unlink()
        (tmp_path / "out.errors.jsonl").unlink()
        result = run_batch(job)
        assert server.infer_requests == asked and (tmp_path / "out.jsonl").read_bytes() == whole
        assert (result.answered, result.failed) == (19, 1)


def test_two_runs_of_a_job_at_once_are_refused(tmp_path: Path) -> None:
    from tritonsmith.perf.batch import job as module

    with fake_server() as server:
        job = job_on(server, tmp_path, map(ask, range(20)))
        with module.prepared(job), pytest.raises(UsageError) as refused:
            run_batch(job)
    assert refused.value.code == "job_runs"


# Other forms.


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_plain_records_of_any_form_give_plain_answers(tmp_path: Path, form: str) -> None:
    source, question = tmp_path / f"rows.{form}", Question(Plain("m", {"values": "x"}, "key"))
    rows = [{"key": f"k{i}", "values": [float(i)] * WIDTH, "other": "…"} for i in range(20)]
    if form == "jsonl":
        write_rows(source, rows)
    elif form == "csv":
        cells = (f'{row["key"]},"{row["values"]}",…\n' for row in rows)
        source.write_text("key,values,other\n" + "".join(cells))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.Table.from_pylist(rows), source)
    with fake_server() as server:
        run_batch(job_on(server, tmp_path, question=question, input=source))
    assert records_of(tmp_path / "out.jsonl") == [{"id": f"k{i}", "y": [2.0 * i] * WIDTH} for i in range(20)]


def test_answers_are_written_as_parquet(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    with fake_server() as server:
        rows = [{"id": i, "x": [float(i)] * WIDTH} for i in range(20)]
        run_batch(
            job_on(server, tmp_path, rows, question=Question(Plain("m")), output=tmp_path / "out.parquet")
        )
        assert pq.read_table(tmp_path / "out.parquet").to_pylist()[3] == {"id": 3, "y": [6.0] * WIDTH}
        run_batch(job_on(server, tmp_path, map(ask, range(20)), output=tmp_path / "form.parquet"))
    row = pq.read_table(tmp_path / "form.parquet").to_pylist()[3]
    assert row["custom_id"] == "r3" and json.loads(row["body"])["outputs"][0]["data"] == [6.0] * WIDTH


def test_a_row_without_an_id_has_its_lines_number(tmp_path: Path) -> None:
    with fake_server() as server:
        run_batch(
            job_on(
                server, tmp_path, [{"x": [1.0] * WIDTH}, {"x": [2.0] * WIDTH}], question=Question(Plain("m"))
            )
        )
    assert [record["id"] for record in records_of(tmp_path / "out.jsonl")] == ["1", "2"]


def test_a_model_that_was_put_back_is_the_same_to_a_job_that_goes_on(tmp_path: Path) -> None:
    source, compiled = tmp_path / "m/1/model.py", tmp_path / "m/1/__pycache__/model.cpython-311.pyc"
    compiled.parent.mkdir(parents=True)
    source.write_text("a")
    with fake_server() as server:
        api, _ = server_of(server.url, LoadTest("m", Closed(1)))
        model = interface_of(api, "m", "")
        before = model_digest(api, model, (), tmp_path)
        compiled.write_text("compiled at another time")
        assert model_digest(api, model, (), tmp_path) == before
        source.write_text("b")
        assert model_digest(api, model, (), tmp_path) != before
