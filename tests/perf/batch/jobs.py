"""Rows for the fake server, whose answer to x is y = 2·x, and what their output has to be."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.perf.fake_server import FakeServer
from tritonsmith.perf.batch.job import BatchJob
from tritonsmith.perf.batch.place import Question
from tritonsmith.perf.batch.sending.send import SendOptions

WIDTH = 4
URL = "/v2/models/m/infer"


def ask(number: int, **changes: Any) -> dict[str, Any]:
    """Row `number`, whose values all are its number."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [float(number)] * WIDTH}
    return {"custom_id": f"r{number}", "method": "POST", "url": URL, "body": {"inputs": [tensor]}} | changes


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file; texts are lines as they are."""
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def job_on(server: FakeServer, directory: Path, rows: Iterable[Any] = (), **changes: Any) -> BatchJob:
    """A job over rows that are written to `directory / in.jsonl`, where there are some."""
    path = directory / "in.jsonl"
    if rows:
        write_rows(path, rows)
    question = changes.pop("question", Question())
    send = changes.pop("send", SendOptions(in_flight=4, timeout_s=5.0, wait_s=10.0))
    given: dict[str, Any] = {"input": path, "output": directory / "out.jsonl", "where": server.url}
    return BatchJob(**{**given, "question": question, "send": send, **changes})


def records_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def problems_of(output: Path, count: int) -> list[str]:
    """What is wrong with the output of rows 0 … count - 1: each has to be there once, in order, with its own answer."""
    records = records_of(output)
    ids = [record["custom_id"] for record in records]
    wanted = [f"r{number}" for number in range(count)]
    problems = (
        [] if ids == wanted else [f"{len(ids)} ids, {len(set(ids))} different, of {count}; or another order"]
    )
    for record in records:
        (tensor,) = record["response"]["body"]["outputs"]
        value = 2.0 * int(record["custom_id"][1:])
        if tensor["data"] != [value] * WIDTH or tensor["shape"] != [1, WIDTH]:
            problems.append(f"{record['custom_id']}: {tensor}")
    return problems[:5]
