"""What may lie in the place of a job's journal: what others put there, what a bad disk makes of one, what a forger writes."""

from __future__ import annotations

import json
import os
import resource
import socket
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.perf.batch.jobs import ask, job_on, problems_of, records_of, write_rows
from tests.perf.fake_server import FakeServer, fake_server
from tritonsmith.builder.base.errors import TritonsmithError, UsageError
from tritonsmith.perf.batch.job import prepared, run_batch
from tritonsmith.perf.batch.kept.journal import FORM

ROWS = 40


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


def half_done(server: FakeServer, directory: Path, kept: int = 25) -> Path:
    """A job that was killed after so many answers; its journal."""
    with prepared(job_on(server, directory, map(ask, range(ROWS)))) as ready:
        ready.send()
    journal = directory / "out.jsonl.journal"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[: 1 + kept]))
    return journal


def signed(body: bytes) -> bytes:
    """A line with the right checksum, which is no secret."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


STRANGE: dict[str, Callable[[Path, Path], object]] = {
    "notes": lambda path, other: path.write_text("the user's own notes\n"),
    "binary": lambda path, other: path.write_bytes(bytes(range(256)) * 40),
    "image of zeros with something behind": lambda path, other: path.write_bytes(bytes(1 << 17) + b"mine"),
    "link to a file": lambda path, other: path.symlink_to(other),
    "link to nothing": lambda path, other: path.symlink_to(other.with_name("new")),
    "link to a device": lambda path, other: path.symlink_to("/dev/full"),
    "hard link": lambda path, other: path.hardlink_to(other),
    "FIFO": lambda path, other: os.mkfifo(path),
    "directory": lambda path, other: path.mkdir(),
    "socket": lambda path, other: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_journal_is_left_alone(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, restart: bool
) -> None:
    other = tmp_path / "elsewhere" / "empty"
    other.parent.mkdir()
    other.touch()  # an empty file would be written to as a journal
    monkeypatch.chdir(tmp_path)
    STRANGE[kind](Path("out.jsonl.journal"), other)
    before = os.lstat("out.jsonl.journal")
    with pytest.raises(UsageError) as refused:
        run_batch(job_on(server, tmp_path, [ask(0)], restart=restart))
    assert refused.value.code == "journal_place" and "name another output" in str(refused.value.fix)
    after = os.lstat("out.jsonl.journal")
    assert (after.st_mode, after.st_size, after.st_mtime_ns) == (
        before.st_mode,
        before.st_size,
        before.st_mtime_ns,
    )
    assert [p.name for p in other.parent.iterdir()] == ["empty"] and other.stat().st_size == 0
    assert not (tmp_path / "out.jsonl").exists()


def test_a_damaged_line_costs_its_own_row_and_no_other(server: FakeServer, tmp_path: Path) -> None:
    journal = half_done(server, tmp_path)
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:-20] + b"\0" * 19 + b"\n"
    lines[7] = b"x" * 300_000 + b"\n"
    lines[9] = lines[9][: len(lines[9]) // 2]  # and its end is the beginning of the next
    journal.write_bytes(b"".join(lines) + b"torn")
    result = run_batch(job_on(server, tmp_path))
    assert result.before == 25 - 4 and problems_of(tmp_path / "out.jsonl", ROWS) == []


def test_a_journal_whose_first_line_is_damaged_is_not_forgotten_in_silence(
    server: FakeServer, tmp_path: Path
) -> None:
    journal = half_done(server, tmp_path)
    data = journal.read_bytes()
    for damaged in (
        data.replace(b'"asks"', b'"asky"', 1),
        data.replace(FORM.encode(), b"tritonsmith.batch/9", 1),
        data[9:],
    ):
        journal.write_bytes(damaged)
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path))
        assert refused.value.code in ("journal_differs", "journal_place")
        assert journal.read_bytes() == damaged
    other = json.dumps({"form": "tritonsmith.batch/1"}).encode()
    journal.write_bytes(signed(b"0 %016x = %s" % (0, other)) + data)
    with pytest.raises(UsageError, match="of another version") as refused:
        run_batch(job_on(server, tmp_path))
    assert refused.value.code == "journal_differs" and "--restart" in str(refused.value.fix)
    assert run_batch(job_on(server, tmp_path, restart=True)).before == 0


def test_lines_of_rows_that_the_input_does_not_have_and_second_lines_of_a_row_count_nothing(
    server: FakeServer, tmp_path: Path
) -> None:
    """A blank line in the input is none of its rows, though the journal's number and digest of none are 0."""
    rows = [*map(json.dumps, map(ask, range(20))), "", *map(json.dumps, map(ask, range(20, ROWS)))]
    journal = half_done(server, tmp_path)
    write_rows(tmp_path / "in.jsonl", rows)
    journal.unlink()
    with prepared(job_on(server, tmp_path)) as ready:
        ready.send()
    data = journal.read_bytes().splitlines(keepends=True)
    answer = b'{"id":"x","custom_id":"r7","response":null,"error":null}'
    _, number, key, state, _ = data[1].split(b" ", 4)
    forged = [
        signed(b"%d %016x + %s" % (number_, key_, answer))
        for number_, key_ in ((0, 0), (21, 0), (99, 0), (10**17, 7), (3, 7))
    ]
    forged += [signed(b"-1 %s + %s" % (key, answer)), signed(b"%s %s ? %s" % (number, key, answer))]
    forged += [signed(b"%s %s + []" % (number, key)), signed(b"0 %s = {}" % key)]
    journal.write_bytes(
        b"".join([*data[:20], *forged, signed(b"%s %s %s %s" % (number, key, state, answer))])
    )
    result = run_batch(job_on(server, tmp_path))
    assert (result.rows, result.answered, result.before) == (ROWS, ROWS, 19)
    assert problems_of(tmp_path / "out.jsonl", ROWS) == []


def test_answers_that_do_not_fit_columns_keep_the_journal_and_name_the_way_out(
    server: FakeServer, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    output = tmp_path / "out.parquet"
    with prepared(job_on(server, tmp_path, map(ask, range(ROWS)), output=output)) as ready:
        ready.send()
    journal = tmp_path / "out.parquet.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[5] = signed(b" ".join(lines[5].split(b" ", 4)[1:4]) + b' {"id": 7}')
    journal.write_bytes(b"".join(lines))
    asked = server.infer_requests
    with pytest.raises(TritonsmithError) as refused:
        run_batch(job_on(server, tmp_path, output=output))
    assert refused.value.code == "bad_columns" and not output.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == ["out.parquet.journal"]
    journal.rename(tmp_path / "out.parquet.jsonl.journal")
    run_batch(job_on(server, tmp_path, output=tmp_path / "out.parquet.jsonl"))
    assert server.infer_requests == asked and len(records_of(tmp_path / "out.parquet.jsonl")) == ROWS


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """As `ulimit`: of RLIMIT_FSIZE, Python meets it as an OSError."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


@pytest.mark.parametrize("size", [0, 2_000, 9_500])
def test_a_full_disk_is_said_with_what_to_do_and_the_next_run_goes_on(
    server: FakeServer, tmp_path: Path, size: int
) -> None:
    """Before the first answer, among the answers, and (the journal being 9 kB) when the output is written."""
    job = job_on(server, tmp_path, map(ask, range(ROWS)))
    with limited(resource.RLIMIT_FSIZE, size), pytest.raises(TritonsmithError) as full:
        run_batch(job)
    assert full.value.code == "disk" and "run the same command again" in str(full.value.fix)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl.journal"]
    result = run_batch(job)
    assert problems_of(tmp_path / "out.jsonl", ROWS) == [] and (result.before > 0) == (size > 0)


@pytest.mark.parametrize("what", ["directory", "journal"])
def test_where_nothing_may_be_written_is_said(server: FakeServer, tmp_path: Path, what: str) -> None:
    """As a user who is not root, for whom there are no such places."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere; the bench runs it as another user")
    journal = half_done(server, tmp_path)
    place = tmp_path if what == "directory" else journal
    place.chmod(0o500 if what == "directory" else 0)
    try:
        with pytest.raises(UsageError) as refused:
            run_batch(job_on(server, tmp_path))
        assert refused.value.code == ("bad_output" if what == "directory" else "journal_place")
    finally:
        place.chmod(0o700)


@pytest.mark.nightly
def test_a_sparse_file_is_not_read_into_memory(server: FakeServer, tmp_path: Path) -> None:
    journal = half_done(server, tmp_path)
    size = journal.stat().st_size
    with journal.open("ab") as file:
        file.truncate(400 << 20)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with (
        limited(resource.RLIMIT_AS, in_use + (300 << 20)),
        prepared(job_on(server, tmp_path)) as ready,
    ):
        assert ready.before == 25 and journal.stat().st_size == size
