"""A request's rows → its bytes; an answer's bytes → outputs: what the two ways of asking, infer and generate, differ in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tritonsmith.perf.batch.answers import Writer, joined
from tritonsmith.perf.batch.rows.reader import Row
from tritonsmith.perf.data.interface import ModelInterface
from tritonsmith.perf.wire.http import HttpTarget
from tritonsmith.perf.wire.paths import model_path
from tritonsmith.perf.wire.payload import Answer, InferPayload, http_message, tensor_from_array
from tritonsmith.perf.wire.target import Target


@dataclass(frozen=True, slots=True)
class InferAsking:
    """Tensors, several rows a request, over either protocol."""

    target: Target
    model: ModelInterface
    first_in_flight: ClassVar[int] = 1

    def request(self, rows: Sequence[Row]) -> bytes:
        """As it goes over the wire."""
        first = rows[0]
        datatypes = {spec.name: spec.dtype.kserve for spec in self.model.inputs}
        payload = InferPayload(
            self.model.name,
            tuple(tensor_from_array(n, joined(rows, n), datatypes[n]) for n in first.arrays),
            version=self.model.version,
            outputs=first.wanted,
            parameters=first.parameters,
            batch_size=sum(row.count for row in rows),
        )
        return self.target.encode(payload)

    def answer(self, raw: bytes) -> Answer:
        """ValueError for what is none."""
        answer = self.target.decode(raw)
        if answer.error is not None:
            raise ValueError(answer.error)
        return answer

    def lines(self, writer: Writer, rows: Sequence[Row], raw: bytes) -> list[str]:
        """A line of the output for each row; ValueError for an answer that is none."""
        answer = self.answer(raw)
        parts = writer.rows_of(rows, answer)
        version = answer.model_version
        return [writer.infer_line(row, part, version) for row, part in zip(rows, parts, strict=True)]

    def outputs(self, writer: Writer, rows: Sequence[Row], raw: bytes) -> list[dict[str, Any]]:
        """The arrays of each row, which is one of the batch."""
        parts = writer.rows_of(rows, self.answer(raw))
        return [{n: a[0] for n, a in part.items()} if self.model.max_batch_size else part for part in parts]


@dataclass(frozen=True, slots=True)
class GenerateAsking:
    """Triton's generate: JSON, a row a request."""

    target: HttpTarget
    model: ModelInterface
    first_in_flight: ClassVar[int] = 8  # the server batches them

    def request(self, rows: Sequence[Row]) -> bytes:
        """As it goes over the wire."""
        at = self.target.address()
        path = f"{at.path}{model_path(self.model.name, self.model.version)}/generate"
        fields = {"Content-Type": "application/json"}
        return http_message(path, at.authority, fields, self.target.headers, rows[0].body)

    def lines(self, writer: Writer, rows: Sequence[Row], raw: bytes) -> list[str]:
        """See InferAsking."""
        return [writer.generate_line(rows[0], raw.partition(b"\r\n\r\n")[2])]

    def outputs(self, writer: Writer, rows: Sequence[Row], raw: bytes) -> list[dict[str, Any]]:
        """The answer's values."""
        said = json.loads(self.lines(writer, rows, raw)[0])
        return [{name: value for name, value in said.items() if name != writer.id_name}]


Asking = InferAsking | GenerateAsking
