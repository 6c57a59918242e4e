"""What a journal has → Parquet: one type a column, whatever the rows hold, and nothing of them lost."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tritonsmith.builder.base.tensors import TensorSpec, dtype_from_kserve
from tritonsmith.perf.batch.kept.journal import DONE, Journal
from tritonsmith.perf.batch.kept.output import Form, write_output
from tritonsmith.perf.data.interface import ModelInterface


def model(decoupled: bool, **outputs: tuple[str, tuple[int, ...]]) -> ModelInterface:
    made = [TensorSpec(name, dtype_from_kserve(word), dims) for name, (word, dims) in outputs.items()]
    return ModelInterface("m", (), tuple(made), 4, decoupled=decoupled)


def table_of(tmp_path: Path, form: Form, rows: Sequence[dict[str, Any]]) -> Any:
    pq = pytest.importorskip("pyarrow.parquet")
    output = tmp_path / "out.parquet"
    journal = Journal(tmp_path / "out.parquet.journal", {}, array("Q", range(len(rows) + 1)))
    journal.add((n, DONE, json.dumps(row)) for n, row in enumerate(rows, 1))
    write_output(journal, output, tmp_path / "errors.jsonl", form)
    return pq.read_table(output)


def test_what_generate_answers_is_a_list_in_every_row_where_it_is_in_one(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    form = Form(model(True, y=("FP32", (-1,)), t=("BYTES", (1,)), late=("INT64", (-1,))), plain=True)
    rows = [{"id": "a", "y": 1.5, "t": "x"}] * 1100 + [{"id": "b", "y": [], "t": "y", "late": [1, 2]}]
    found = table_of(tmp_path, form, rows).to_pylist()
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1
    assert found[0] == {"id": "a", "y": [1.5], "t": "x", "late": None}
    assert found[-1] == {"id": "b", "y": [], "t": "y", "late": [1, 2]}


def test_an_empty_first_row_does_not_hide_how_deep_the_lists_are(tmp_path: Path) -> None:
    form = Form(model(False, y=("FP32", (-1, 2))), plain=True, ids_are_int64=True)
    rows = [{"id": 1, "y": []}, {"id": 2, "y": [["NaN", -0.0], [1, 2]]}]
    table = table_of(tmp_path, form, rows)
    assert [str(field.type) for field in table.schema] == ["int64", "list<element: list<element: float>>"]
    assert str(table["y"].to_pylist()) == "[[], [[nan, -0.0], [1.0, 2.0]]]"


def test_bytes_that_are_no_utf8_make_the_column_binary(tmp_path: Path) -> None:
    form = Form(model(False, y=("BYTES", (1,))), plain=True)
    assert table_of(tmp_path, form, [{"id": "1", "y": ["é"]}])["y"].to_pylist() == [["é"]]
    (tmp_path / "out.parquet").unlink()
    rows = [{"id": "1", "y": ["é"]}, {"id": "2", "y": ["\udcff\x00"]}]
    assert table_of(tmp_path, form, rows)["y"].to_pylist() == [["é".encode()], [b"\xff\x00"]]
