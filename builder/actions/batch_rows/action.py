"""(a RowsRequest, the artifact that it looks into) → the Action that checks its rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.actions.action import (
    Action,
    Artifact,
    Identity,
    Ran,
    Subject,
    Workplace,
    place_error,
)
from tritonsmith.builder.actions.batch_rows.report import ROWS_REVISION, RowsJson
from tritonsmith.builder.actions.batch_rows.request import RowsRequest
from tritonsmith.builder.actions.batch_rows.run import run_rows
from tritonsmith.builder.actions.record import MORE
from tritonsmith.builder.base.errors import TritonsmithError
from tritonsmith.builder.base.files.digest import digest_of_value
from tritonsmith.builder.base.machine.toolchain import this_toolchain


@with_config(MORE)
class RowsRecord(TypedDict):
    """Of a check of rows."""

    rows: RowsJson


def rows_action(request: RowsRequest, of: Artifact, model: Subject) -> Action:
    """Its record: {rows: a RowsReport as JSON}. Errors of its run name the spec's line."""
    identity = _identity(request, of, model.spec.accuracy.samples)
    return Action("rows", f"rows of {model.name}", identity, partial(_run, request, model))


def _identity(request: RowsRequest, of: Artifact, samples: str | None) -> Identity:
    """Decided by the artifact, the sizes and ONNX Runtime's version; paths of this machine are no part of it."""
    asked = {
        **request.as_dict(),
        "path": Path(request.path).relative_to(of.directory).as_posix(),
        "samples": samples,
        "search_path": None,
    }
    tools = this_toolchain().fingerprint("onnxruntime")
    whole = {"action": "rows", "revision": ROWS_REVISION, "of": of.key, "asked": asked, "tools": tools}
    return Identity(asked, tools, digest_of_value(whole))


def _run(request: RowsRequest, model: Subject, made: Path, place: Workplace) -> Ran:
    with place.workspace() as scratch:
        try:
            report = run_rows(request, scratch, model.log(place, ".rows"))
        except TritonsmithError as error:
            raise place_error(error, model.name, model.repository.where(model.name, "source")) from None
    return Ran({"rows": report.as_dict()})
