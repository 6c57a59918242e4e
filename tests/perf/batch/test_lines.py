"""Files of rows that are not what they should be: each told as what it is, and no value silently another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.perf.batch.jobs import records_of
from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.batch.job import BatchJob, run_batch
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.rows.asks import Plain
from tritonsmith.perf.batch.rows.lines import lines_of
from tritonsmith.perf.batch.sending.send import SendOptions


def faults_of(path: Path) -> list[str]:
    return [f"{line.fault.place}: {line.fault.what}" for line in lines_of(path) if line.fault]


def plain_job(server: FakeServer, source: Path, output: Path, id_: str = "", **more: object) -> BatchJob:
    question = Question(Plain("m", {"v": "x"}, id_))
    return BatchJob(source, output, server.url, question, send=SendOptions(4, timeout_s=5, wait_s=5), **more)  # type: ignore[arg-type]


def test_a_number_beyond_all_floats_is_not_read_as_infinite(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"v": 1e400}\n{"v": [1, -1E+999]}\n{"v": 1e300}\n{"v": Infinity}\n{"v": "1e400"}\n'
        f'{{"v": {"9" * 5000}}}\n{{"v": {"9" * 320}.0}}\n{{"v": {"9" * 299}e99}}\n{{"v": {"9" * 209}e98}}\n'
    )
    told = faults_of(path)
    assert [line.number for line in lines_of(path) if line.fault] == [1, 2, 6, 7, 8]
    assert (
        "1e400" in told[0]
        and "-1E+999" in told[1]
        and "digits" in told[2]
        and "beyond" in told[3]
        and "beyond" in told[4]
    )


def test_an_unclosed_quote_does_not_take_the_rows_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,v\n1,a\n2,"b\n3,c\n4,d\n')
    with pytest.raises(UsageError, match="not CSV") as caught:
        list(lines_of(path))
    assert "after line 2" in str(caught.value.seen)
    path.write_text(f'id,v\n1,"{"x" * 200_000}"\n2,"two\n""lines"""\n')
    assert [len(line.record["v"]) for line in lines_of(path) if line.record] == [200_000, 11]


def test_a_name_that_comes_twice_in_a_record_is_not_read_as_its_last(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"v": 1, "v": 2}\n{"v": [{"a": 1, "b": 2, "a": 1e999}]}\n{"v": {"v": 1}}\n')
    assert faults_of(path) == [": the name 'v' comes twice", ": holds a value beyond all datatypes, 1e999"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_comes_twice_is_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"in.{form}"
    if form == "csv":
        path.write_text("v,v\na,b\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["v", "v"]), path)
    with pytest.raises(UsageError, match="comes twice"):
        list(lines_of(path))


@pytest.mark.parametrize("kind", ["absent", "directory", "pipe", "other"])
def test_an_input_that_is_no_file_is_one_error_before_a_server_is_asked(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("in.txt" if kind == "other" else "in.parquet")
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "other":
        path.write_text("a")
    job = BatchJob(path, tmp_path / "out.jsonl", "http://127.0.0.1:9", Question(Plain("m")))
    with pytest.raises(UsageError) as caught:
        run_batch(job)
    assert caught.value.code == ("bad_form" if kind == "other" else "no_input") and caught.value.where


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id;v\n1;2\n3;4\n")
    with fake_server() as server, pytest.raises(UsageError) as caught:
        run_batch(plain_job(server, path, tmp_path / "out.jsonl"))
    assert caught.value.details == ("lines 2 to 3: column `v`: is not there; there are `id;v`",)
    path.write_text('v\n"[1,2,3,4]"\n')
    with fake_server() as server, pytest.raises(UsageError, match="column `user`: is not there"):
        run_batch(plain_job(server, path, tmp_path / "out.jsonl", "user"))


def test_ids_come_back_as_what_they_are(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "in.jsonl"
    rows = "".join(f'{{"id": {id_}, "v": [0, 0, 0, 0]}}\n' for id_ in (7, -1, 3))
    path.write_text(rows)
    with fake_server() as server:
        run_batch(plain_job(server, path, tmp_path / "out.jsonl"))
        run_batch(plain_job(server, path, tmp_path / "out.parquet"))
        assert [record["id"] for record in records_of(tmp_path / "out.jsonl")] == [7, -1, 3]
        table = pq.read_table(tmp_path / "out.parquet")
        assert str(table.schema.field("id").type) == "int64" and table["id"].to_pylist() == [7, -1, 3]

        path.write_text(f'{rows}{{"id": "é\\n", "v": [0, 0, 0, 0]}}\n{{"id": {2**70}, "v": [0, 0, 0, 0]}}\n')
        run_batch(plain_job(server, path, tmp_path / "mixed.parquet"))
        assert pq.read_table(tmp_path / "mixed.parquet")["id"].to_pylist() == [
            "7",
            "-1",
            "3",
            "é\n",
            str(2**70),
        ]

        path.write_text('{"id": 1, "v": [0, 0, 0, 0]}\n{"id": "1", "v": [0, 0, 0, 0]}\n')
        with pytest.raises(UsageError, match="that of line 1, too"):
            run_batch(plain_job(server, path, tmp_path / "double.jsonl"))
