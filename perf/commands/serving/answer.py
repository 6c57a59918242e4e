"""A request and what came of it → the table that people read, JSON with every value, an .npz."""

from __future__ import annotations

import base64
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import TrialError, Where
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.tensors import dtype_from_numpy
from tritonsmith.builder.base.text.shown import one_line
from tritonsmith.builder.base.text.text_layout import cells, table, wrapped
from tritonsmith.perf.commands.serving.values import array_of_tensor, meant
from tritonsmith.perf.data import ModelInterface
from tritonsmith.perf.load.once import Asked
from tritonsmith.perf.wire.payload import Array, InferPayload
from tritonsmith.perf.wire.target import Target

_MOST_SHOWN = 64
_WITHOUT_TERMINAL, _LEAST_COLUMNS = 60, 16
_MOST_TEXT = 400
_MOST_WHOLE = 20_000
"""Characters of an answer that is one text."""
_PIECES = "text_output"
"""Triton's vllm and TensorRT-LLM backends stream a text's pieces under this name."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output: BF16 as float32, BYTES as bytes."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """A request, what came of it, and what is to be known of its values."""

    model: ModelInterface
    target: Target
    payload: InferPayload
    asked: Asked
    notes: tuple[str, ...]

    @property
    def responses(self) -> list[list[Output]]:
        """The outputs of each response that is no error; one, but of streams."""
        known = {spec.name: spec.dtype.kserve for spec in self.model.outputs}
        return [
            [_output(name, known.get(name), array) for name, array in answer.outputs.items()]
            for answer in self.asked.answers
            if answer.error is None
        ]

    @property
    def version(self) -> str:
        """The version that answered; "" where it is not told."""
        return next((answer.model_version for answer in self.asked.answers if answer.model_version), "")

    def as_json(self) -> dict[str, Any]:
        """Whole values: NaN and Infinity as such strings, BYTES as text, or as {"b64": …} where they are none."""
        return {
            "model": self.model.name,
            "version": self.version or None,
            "url": self.target.url,
            "protocol": self.target.protocol,
            "latency_ms": self.asked.took_ns / 1e6,
            **({"first_response_ms": self.asked.first_ns / 1e6} if self.target.streaming else {}),
            "inputs": [
                {"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in self.payload.inputs
            ],
            "notes": list(self.notes),
            "responses": [
                {
                    "outputs": [
                        {
                            "name": output.name,
                            "datatype": output.datatype,
                            "shape": list(output.array.shape),
                            "data": _jsonable(output.array.tolist()),
                        }
                        for output in outputs
                    ]
                }
                for outputs in self.responses
            ],
        }

    def text(self, width: int | None) -> str:
        """width: of the terminal; None where there is none."""
        responses = self.responses
        version = f" version {self.version}" if self.version else ""
        took = f"{self.asked.took_ns / 1e6:.1f} ms"
        if self.target.streaming:
            count = f"{len(responses)} response{'s' * (len(responses) != 1)}"
            first = f"the first after {self.asked.first_ns / 1e6:.1f} ms, " if responses else ""
            took = f"{count}, {first}all after {took}"
        head = f"{self.model.name}{version}, {'gRPC' if self.target.protocol == 'grpc' else 'HTTP'}, {took}"
        rows = _rows(responses, self.target.streaming, width)
        whole = [] if (text := _whole_text(responses)) is None else _text_lines(text, width)
        shown = bool(whole) and (len(responses) > 1 or _is_cut(rows))
        return "\n".join([head, "", *rows, *(["", *whole] if shown else [])]).rstrip()


def _output(name: str, datatype: str | None, array: Array) -> Output:
    if datatype is None:  # one that the model's metadata do not tell
        datatype = "BYTES" if array.dtype == object else dtype_from_numpy(array.dtype.name).kserve
    return Output(name, datatype, meant(datatype, array))


def _rows(responses: Sequence[Sequence[Output]], numbered: bool, width: int | None) -> list[str]:
    """A line an output; its first values take what the other columns leave."""
    found = [(f"{n}" if numbered else "", o) for n, outputs in enumerate(responses, 1) for o in outputs]
    if not found:
        return []
    has_floats = any(output.array.dtype.kind == "f" for _, output in found)
    rows = [("RESPONSE" if numbered else "", "OUTPUT", "DATATYPE", "SHAPE", "MIN", "MAX", "MEAN")]
    for number, output in found:
        shape = f"[{', '.join(map(str, output.array.shape))}]"
        rows.append((number, one_line(output.name), output.datatype, shape, *_statistics(output.array)))
    kept = [0] * numbered + [1, 2, 3] + [4, 5, 6] * has_floats
    statistics = range(len(kept) - 3, len(kept)) if has_floats else ()
    lines = table(
        [[row[column] for column in kept] for row in rows],
        None if width is None else max(width - _LEAST_COLUMNS - 2, 1),
        right=statistics,
        names=(kept.index(1),),
        drop=statistics,
    )
    begin = max(map(cells, lines)) + 2
    room = _WITHOUT_TERMINAL if width is None else max(width - begin, _LEAST_COLUMNS)
    values = ["VALUES", *(_first_values(output.array, room) for _, output in found)]
    return [line + " " * (begin - cells(line)) + value for line, value in zip(lines, values, strict=True)]


def _whole_text(responses: Sequence[Sequence[Output]]) -> str | None:
    """Where one text is all that came: all of it, of a language model's stream the pieces joined; else None."""
    outputs = [output for outputs in responses for output in outputs]
    if not outputs or (len(outputs) > 1 and {output.name for output in outputs} != {_PIECES}):
        return None
    if any(output.datatype != "BYTES" or output.array.size != 1 for output in outputs):
        return None
    values = [output.array.reshape(-1)[0] for output in outputs]
    pieces = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError:
        return None


def _is_cut(rows: Sequence[str]) -> bool:
    return any(row.endswith("…") for row in rows)


def _text_lines(text: str, width: int | None) -> list[str]:
    """Broken between words where it is wider than the terminal."""
    kept = text[:_MOST_WHOLE]
    lines = [wrapped(one_line(line), width, hang=0) for line in kept.expandtabs().split("\n")]
    more = len(text) - len(kept)
    return [*lines, *([f"… {more:,} characters more: --format json"] if more else [])]


def _statistics(array: Array) -> tuple[str, str, str]:
    if array.dtype.kind != "f" or not array.size:
        return "", "", ""
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        return _number(wide.min()), _number(wide.max()), _number(wide.mean())


def _number(value: float) -> str:
    return f"{value:.5g}"


def _first_values(array: Array, room: int) -> str:
    """As many as fit in so many columns, and one at least, cut where it is longer."""
    shown = ""
    flat = array.reshape(-1)[: _MOST_SHOWN + 1]
    for place, value in enumerate(flat):
        more = (", " if shown else "") + _shown(value)
        is_last = place + 1 == array.size
        if place == _MOST_SHOWN or cells(shown + more) > room - (0 if is_last else 3):
            return f"{shown}, …" if shown else f"{more[: max(room - 1, 1)]}…"
        shown += more
    return shown


def _shown(value: Any) -> str:
    if isinstance(value, bytes | str):
        cut = value[:_MOST_TEXT]
        text = cut.decode("utf-8", "backslashreplace") if isinstance(cut, bytes) else cut
        return one_line(json.dumps(text, ensure_ascii=False))
    return _number(float(value)) if isinstance(value, np.floating) else str(value).lower()


def _jsonable(value: Any) -> Any:
    if isinstance(value, list):
        return [_jsonable(part) for part in value]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def keep(path: Path, payload: InferPayload, responses: Sequence[Sequence[Output]] | None) -> None:
    """The tensors as an .npz that numpy, and --data of `load` and `infer`, read.

    Of one response inputs and outputs by their names (the outputs alone where one is named like an input), of several
    `0/NAME`, `1/NAME` …; responses: None keeps the inputs alone. Strings are of dtype S.
    """
    inputs = {tensor.name: array_of_tensor(tensor) for tensor in payload.inputs}
    named = [{output.name: output.array for output in outputs} for outputs in responses or ()]
    if responses is None:
        members = inputs
    elif len(named) == 1:
        members = named[0] if inputs.keys() & named[0].keys() else inputs | named[0]
    else:
        members = {f"{place}/{name}": a for place, arrays in enumerate(named) for name, a in arrays.items()}
    _write(path, members)


def _write(path: Path, members: Mapping[str, Array]) -> None:
    try:
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, array in members.items():  # numpy.savez takes no array that is named `file`
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _without_objects(array, path), allow_pickle=False)
    except OSError as error:
        raise TrialError(
            f"the tensors could not be kept: {error.strerror or error}", code="bad_output", where=Where(path)
        ) from error


def _without_objects(array: Array, path: Path) -> Array:
    if array.dtype != object:
        return array
    flat = [value.encode() if isinstance(value, str) else bytes(value) for value in array.ravel()]
    if any(value.endswith(b"\0") for value in flat):
        raise TrialError(
            "texts that end in a NUL byte would lose it in an .npz", code="bad_output", where=Where(path),
            fix="--format json has them whole",
        )  # fmt: skip
    return np.array(flat, "S" if any(flat) else "S1").reshape(array.shape)
