"""An export leaves its session to the check of rows of the same file, wherever that lies by then, and of no other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import onnx_models
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.actions.batch_rows.worker import report_of
from tritonsmith.builder.actions.export.checks.verify import stated_samples, verify
from tritonsmith.builder.actions.export.kept_session import keep_session, take_session
from tritonsmith.builder.actions.export.onnx_graph import open_session
from tritonsmith.builder.actions.export.request import ExportRequest
from tritonsmith.builder.actions.export.sources.onnx import take_over
from tritonsmith.builder.base.processes import child_worker
from tritonsmith.builder.base.processes.child_worker import Task, left
from tritonsmith.builder.base.processes.own_state import OwnState


@pytest.fixture(name="file")
def _file(tmp_path: Path) -> Iterator[Path]:
    """Within a task of a process that takes several."""
    path = tmp_path / "m.onnx"
    onnx_models.save(onnx_models.affine(("batch", 3)), path)
    child_worker.running[:] = [Task({}, tmp_path, -1, OwnState())]
    yield path
    child_worker.running.clear()


def test_a_check_of_rows_takes_the_session_of_the_export_before_it(file: Path, tmp_path: Path) -> None:
    request = ExportRequest("m", "onnx", str(file), str(tmp_path), max_batch_size=4)
    made = tmp_path / "made"
    made.mkdir()
    verify(request, take_over(request, made), stated_samples(request), made)
    assert left()
    cached = made.rename(tmp_path / "cached")
    report = report_of(
        RowsRequest("m", str(cached / "model.onnx"), (1, 2, 4), exported=True), tmp_path / "scratch"
    )
    assert report.verdict == "independent" and not left()


def test_it_is_taken_once(file: Path) -> None:
    session = open_session(file, optimised=True)
    keep_session(file, 0, session)
    assert take_session(file.rename(file.with_name("moved.onnx")), 0) is session
    assert take_session(file.with_name("moved.onnx"), 0) is None


def test_another_content_level_or_file_is_another_session(file: Path) -> None:
    session = open_session(file, optimised=True)
    keep_session(file, 1, session)
    assert take_session(file, 0) is None
    keep_session(file, 0, session)
    copy = file.with_name("copy.onnx")
    copy.write_bytes(file.read_bytes())
    assert take_session(copy, 0) is None
    keep_session(file, 0, session)
    content = file.read_bytes()
    file.write_bytes(content)
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    assert take_session(file, 0) is None


def test_what_cannot_be_batched_is_not_kept(file: Path) -> None:
    onnx_models.save(onnx_models.affine((1, 3)), file)
    keep_session(file, 0, open_session(file, optimised=True))
    assert not left()
