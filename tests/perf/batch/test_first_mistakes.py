"""What goes wrong on the first day with `batch`: files of other forms, places that will not do, two jobs with one output."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.perf.batch.jobs import WIDTH, ask, job_on, problems_of, records_of, write_rows
from tests.perf.fake_server import FakeServer, fake_server, running
from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.perf.batch.job import prepared, run_batch
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.rows.asks import Plain

ROWS = 5
TEXT = "".join(f"{json.dumps(ask(number))}\n" for number in range(ROWS))


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", "\ufeff" + TEXT),
        ("in.jsonl", TEXT.replace("\n", "\r\n")),
        ("in.jsonl", "\n\n" + TEXT.replace("\n", "\n \n")),
        ("in.jsonl", TEXT.rstrip("\n")),
        ("Fragen für 日本 $(x) 'y'.ndjson", TEXT),
    ],
)
def test_what_editors_and_other_systems_make_of_a_text_is_read(
    server: FakeServer, tmp_path: Path, name: str, content: str
) -> None:
    place = tmp_path / "ein Ordner ü"
    place.mkdir()
    (place / name).write_bytes(content.encode())
    run_batch(job_on(server, place, input=place / name))
    assert problems_of(place / "out.jsonl", ROWS) == []


def test_a_csv_of_a_spreadsheet_is_read(server: FakeServer, tmp_path: Path) -> None:
    cells = ",".join(["1"] * WIDTH)
    (tmp_path / "in.csv").write_bytes(f'\ufeffid,x\r\na,"[{cells}]"\r\n'.encode())
    run_batch(job_on(server, tmp_path, input=tmp_path / "in.csv", question=Question(Plain("m"))))
    assert records_of(tmp_path / "out.jsonl") == [{"id": "a", "y": [2.0] * WIDTH}]


ARRAY = json.dumps([json.loads(line) for line in TEXT.splitlines()], indent=1).encode()
OTHERS: list[tuple[str, bytes, str]] = [
    ("in.jsonl.gz", gzip.compress(TEXT.encode()), "compressed"),
    ("in.jsonl.xz", lzma.compress(TEXT.encode()), "compressed"),
    ("in.jsonl", gzip.compress(TEXT.encode()), "by gzip"),
    ("in.jsonl", bz2.compress(TEXT.encode()), "by bzip2"),
    ("in.jsonl", TEXT.encode("utf-16"), "UTF-16"),
    ("in.jsonl", ARRAY, "an array of JSON objects"),
    ("my rows.json", b"\xef\xbb\xbf" + ARRAY.replace(b"\n", b""), "an array of JSON objects"),
]


@pytest.mark.parametrize(("name", "content", "told"), OTHERS)
def test_a_file_of_another_form_is_told_with_a_command_that_works(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(UsageError, match=told) as refused:
        run_batch(job_on(server, tmp_path, input=Path(name)))
    command = str(refused.value.fix)
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} on this machine")
    subprocess.run(command, shell=True, check=True)
    (made,) = [path for path in Path().iterdir() if path.name != name]
    run_batch(job_on(server, tmp_path, input=made))
    assert problems_of(tmp_path / "out.jsonl", ROWS) == []


PLACES: list[tuple[Callable[[Path], dict[str, Any]], str, str]] = [
    (lambda d: {"input": d / "empty.jsonl"}, "no_rows", "no rows"),
    (lambda d: {"input": d / "blank.jsonl"}, "no_rows", "no rows"),
    (lambda d: {"input": d / "directory.jsonl"}, "no_input", "a directory"),
    (lambda d: {"input": d / "fifo.jsonl"}, "no_input", "not a file that can be read twice"),
    (lambda d: {"output": d / "directory.jsonl"}, "bad_output", "a directory"),
    (lambda d: {"output": d / "directory.jsonl", "restart": True}, "bad_output", "a directory"),
    (lambda d: {"errors": d / "directory.jsonl"}, "bad_output", "a directory"),
    (lambda d: {"output": d / "none" / "out.jsonl"}, "bad_output", "nothing can be written"),
    (lambda d: {"output": d / "out.jsonl.gz"}, "compressed", "neither read nor written"),
    (lambda d: {"question": Question(model="unloaded")}, "model_not_ready", "not ready"),
    (lambda d: {"question": Question(model="missing")}, "unknown_model", "no model"),
]


@pytest.mark.parametrize(("change", "code", "told"), PLACES)
def test_places_and_models_that_will_not_do_are_one_error_and_nothing_is_sent(
    server: FakeServer, tmp_path: Path, change: Callable[[Path], dict[str, Any]], code: str, told: str
) -> None:
    write_rows(tmp_path / "in.jsonl", map(ask, range(ROWS)))
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n \r\n\n")
    (tmp_path / "directory.jsonl").mkdir()
    os.mkfifo(tmp_path / "fifo.jsonl")
    before, asked = sorted(tmp_path.iterdir()), server.infer_requests
    with pytest.raises(TritonsmithError, match=told) as refused:
        run_batch(job_on(server, tmp_path, **change(tmp_path)))
    assert refused.value.code == code
    assert sorted(tmp_path.iterdir()) == before and server.infer_requests == asked


class Empty(FakeServer):
    """Serves no model."""

    def _describe(self, method: str, path: str) -> tuple[int, Any]:
        if path == "/v2/repository/index":
            return 200, []
        if path.startswith("/v2/models/"):
            return 404, {"error": "Request for unknown model: 'm' is not found"}
        return super()._describe(method, path)


def test_an_empty_repository_is_told_as_one(tmp_path: Path) -> None:
    with running(Empty()) as empty, pytest.raises(UsageError) as refused:
        run_batch(job_on(empty, tmp_path, [ask(0)]))
    assert refused.value.code == "unknown_model" and refused.value.seen == "an empty repository"


# Two jobs.


def test_two_jobs_with_one_output_do_not_run_at_once_whatever_they_read(
    server: FakeServer, tmp_path: Path
) -> None:
    write_rows(tmp_path / "other.jsonl", map(ask, range(ROWS)))
    with prepared(job_on(server, tmp_path, map(ask, range(20)))) as first:
        for restart in (False, True):
            with pytest.raises(UsageError) as refused:
                run_batch(job_on(server, tmp_path, input=tmp_path / "other.jsonl", restart=restart))
            assert refused.value.code == "job_runs"
        first.send()
        first.finish()
    assert problems_of(tmp_path / "out.jsonl", 20) == []


def test_a_job_does_not_replace_what_another_wrote_meanwhile(tmp_path: Path) -> None:
    """Two jobs with one file of errors."""
    with fake_server(refuse_value=3.0) as server:
        job = job_on(server, tmp_path, map(ask, range(ROWS)), errors=tmp_path / "errors.jsonl")
        with prepared(job) as ready:
            ready.send()
            (tmp_path / "errors.jsonl").write_text("of the other job\n")
            with pytest.raises(UsageError) as refused:
                ready.finish()
        assert refused.value.code == "output_exists" and "move it away" in str(refused.value.fix)
        assert (tmp_path / "errors.jsonl").read_text() == "of the other job\n"
        assert not (tmp_path / "out.jsonl").exists()
        (tmp_path / "errors.jsonl").rename(tmp_path / "others.jsonl")
        asked = server.infer_requests
        assert run_batch(job).failed == 1 and server.infer_requests == asked
        assert [one["custom_id"] for one in records_of(tmp_path / "errors.jsonl")] == ["r3"]


def test_a_file_of_the_users_in_the_place_of_errors_outlives_a_job_that_begins_anew(
    server: FakeServer, tmp_path: Path
) -> None:
    errors = tmp_path / "notes.txt"
    for content in ("my notes\n", "", '{"error": 5}\n', '[{"error": {"code": "x"}}]\n'):
        errors.write_text(content)
        with pytest.raises(UsageError, match="no job wrote") as refused:
            run_batch(job_on(server, tmp_path, map(ask, range(ROWS)), errors=errors, restart=True))
        assert refused.value.code == "output_exists" and errors.read_text() == content
    errors.write_text('{"id": "1", "error": {"code": "timeout", "message": "m", "line": 1}}\n')
    run_batch(job_on(server, tmp_path, map(ask, range(ROWS)), errors=errors, restart=True))
    assert not errors.exists(), "of a job before"
