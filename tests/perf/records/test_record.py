from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.records.record import (
    RecordHeader,
    RequestRecords,
    load_records,
    merge,
    records_from_columns,
    save_records,
)

HEADER = RecordHeader(
    model="m",
    url="http://127.0.0.1:1",
    protocol="http",
    load={"kind": "closed", "concurrency": 2},
    reasons=("ok", "HTTP 503: busy", "connection: reset"),
    batch_sizes=(1, 4),
    start_ns=5,
    measure_start_ns=20,
    environment={"server": "fake", "cpus": 2},
)


def records(n: int = 6, header: RecordHeader = HEADER) -> RequestRecords:
    scheduled = np.arange(n) * 10
    return records_from_columns(
        header,
        {
            "scheduled_ns": scheduled,
            "sent_ns": scheduled + 1,
            "first_byte_ns": scheduled + 3,
            "end_ns": scheduled + 4,
            "status": np.arange(n) % 3,
            "payload_index": np.arange(n) % 2,
        },
    )


def test_rows_are_sorted_by_the_time_they_were_due() -> None:
    shuffled = records().select(np.array([3, 0, 5, 1, 4, 2]))
    columns = {name: getattr(shuffled, name) for name in RequestRecords.__slots__ if name != "header"}
    assert records_from_columns(HEADER, columns) == records()


def test_what_is_derived_from_the_columns() -> None:
    rows = records()
    assert len(rows) == 6
    assert rows.latency_ns.tolist() == [4] * 6
    assert rows.ok.tolist() == [True, False, False] * 2
    assert rows.inferences.tolist() == [1, 4] * 3
    assert rows.failures() == {"HTTP 503: busy": 2, "connection: reset": 2}
    assert rows.measured().scheduled_ns.tolist() == [20, 30, 40, 50]


def test_failures_that_differ_in_numbers_alone_are_one_kind() -> None:
    reasons = ("ok", *(f"HTTP 400: prompt ({n} tokens) is longer than 512" for n in (600, 601, 602)))
    reasons = (*reasons, "HTTP 503: prompt (600 tokens) is longer than 512", "HTTP 400: no room")
    rows = records(6)
    rows = replace(rows, header=replace(HEADER, reasons=reasons), status=np.arange(6, dtype=np.uint16))
    assert rows.failures() == {
        "HTTP 400: prompt (… tokens) is longer than 512": 3,
        "HTTP 503: prompt (600 tokens) is longer than 512": 1,
        "HTTP 400: no room": 1,
    }


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**62),
            st.integers(0, 2**62),
            st.integers(0, 2**62),
            st.integers(0, 2**62),
            st.integers(0, 2),
            st.integers(0, 1),
        ),
        max_size=50,
    ),
    st.text(max_size=20),
)
def test_the_file_gives_back_exactly_what_was_saved(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]], text: str
) -> None:
    table = np.array(rows, np.int64).reshape(-1, 6)
    names = ("scheduled_ns", "sent_ns", "first_byte_ns", "end_ns", "status", "payload_index")
    header = replace(HEADER, model=text, reasons=("ok", text, "x"), interrupted=True, client_cpu_s=0.1 + 0.2)
    written = records_from_columns(header, {name: table[:, i] for i, name in enumerate(names)})
    path = tmp_path_factory.mktemp("records") / "run.npz"
    save_records(written, path)
    assert load_records(path) == written
    assert [p.name for p in path.parent.iterdir()] == ["run.npz"]


def test_parts_of_one_test_merge_and_their_reasons_stay_right() -> None:
    one = records(3, replace(HEADER, client_cpu_s=1.0, client_wall_s=2.0, checked=1))
    other = records(3, replace(HEADER, reasons=("ok", "connection: reset", "timeout"), client_cpu_s=0.5))
    both = merge([one, other])
    assert both.failures() == {"connection: reset": 2, "HTTP 503: busy": 1, "timeout": 1}
    assert both.header.processes == 2
    assert both.header.client_cpu_s == 1.5
    assert both.header.client_wall_s == 2.0
    assert both.scheduled_ns.tolist() == [0, 0, 10, 10, 20, 20]


def streamed(n: int = 6) -> RequestRecords:
    plain = records(n)
    more = {"responses": range(n), "last_response_ns": plain.end_ns, "longest_gap_ns": np.arange(n) * 2}
    return records_from_columns(HEADER, plain.columns() | more)


def test_columns_of_streamed_requests_are_kept_and_files_without_them_read_as_before(tmp_path: Path) -> None:
    rows = streamed()
    save_records(rows, tmp_path / "run.npz")
    assert load_records(tmp_path / "run.npz") == rows
    some = rows.select(slice(2, 4))
    assert some.responses is not None and some.responses.tolist() == [2, 3]
    both = merge([streamed(2), streamed(2)])
    assert both.responses is not None and both.responses.tolist() == [0, 0, 1, 1]
    save_records(records(), tmp_path / "plain.npz")
    assert load_records(tmp_path / "plain.npz").responses is None
    assert records() != rows
    with pytest.raises(ValueError, match="responses"):
        replace(records(), responses=np.arange(6))


def test_a_file_that_holds_no_records_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(UsageError, match=r"x\.npz"):
        load_records(path)
    path.write_bytes(b"not a zip")
    with pytest.raises(UsageError, match=r"x\.npz"):
        load_records(path)
    np.savez(path, a=np.arange(3))
    with pytest.raises(UsageError, match=r"x\.npz"):
        load_records(path)


def test_a_pickle_in_the_file_is_never_loaded(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "run.npz"
    save_records(records(), path)
    evil = tmp_path / "evil.npz"
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(evil, "w") as copy:
        for name in source.namelist():
            data = (tmp_path / "o.npy").read_bytes() if name == "sent_ns.npy" else source.read(name)
            copy.writestr(name, data)
    with pytest.raises(UsageError, match="pickle"):
        load_records(evil)


def test_columns_of_another_type_are_a_bug() -> None:
    rows = records()
    with pytest.raises(ValueError, match="status"):
        replace(rows, status=rows.status.astype(np.int64))
