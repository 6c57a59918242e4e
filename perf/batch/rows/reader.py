"""(what a model takes, what is asked of it) → lines as rows that can be sent, several in one request where they are alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritonsmith.builder.base.errors import UsageError, did_you_mean
from tritonsmith.builder.base.tensors import TensorSpec, fits
from tritonsmith.perf.batch.rows.asks import Address, Ask, Plain, ask_of, not_there
from tritonsmith.perf.batch.rows.chat import ChatTemplate, chat_body
from tritonsmith.perf.batch.rows.lines import BadLineError, Line
from tritonsmith.perf.batch.rows.tensors import array_of, cell_value, encoded, placed
from tritonsmith.perf.data.interface import Array, ModelInterface
from tritonsmith.perf.wire.payload import Parameter

Group = tuple[Any, ...]


class OtherAddressError(BadLineError):
    """A line that asks another url or model than the first."""

    def __init__(self, what: str, place: str, address: Address) -> None:
        super().__init__(what, place)
        self.address = address


@dataclass(frozen=True, slots=True)
class Row:
    """A line as it is sent.

    arrays: of infer, with the batch dimension where the model batches; count: rows in it. body: of generate, as JSON.
    group:  only rows of one group go into one request. length: what a request pads to its longest row.
    wanted: the outputs that are asked for; all when empty. parameters: of the request.
    options: what its answer's form depends on.
    """

    number: int
    key: int
    id: str | int
    arrays: Mapping[str, Array]
    count: int
    group: Group
    length: int
    body: bytes = b""
    wanted: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of its values, about."""
        return len(self.body) + self.length + sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the lines of one job.

    most_rows: that one request takes, 0 where the model does not batch. instead: see ask_of.
    """

    model: ModelInterface
    address: Address
    plain: Plain | None
    most_rows: int
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    template: ChatTemplate | None = None
    instead: str = ""

    def ask(self, line: Line) -> Ask:
        """What a line with a record asks; BadLineError for one that asks nothing."""
        assert line.record is not None
        return ask_of(line.record, line.number, self.plain, self.instead)

    def row(self, line: Line) -> Row:
        """BadLineError for a line that cannot be sent."""
        if line.fault is not None:
            raise line.fault
        ask = self.ask(line)
        if ask.address is not None and ask.address != self.address:
            raise OtherAddressError(
                f"asks {ask.address}, and the first line {self.address}", "url", ask.address
            )
        if self.address.kind == "infer":
            return self._infer(line, ask)
        if self.address.kind == "embeddings":
            return self._embeddings(line, ask)
        return self._generate(line, ask)

    # infer: tensors, packed.

    def _infer(self, line: Line, ask: Ask) -> Row:
        if self.plain is not None:
            return self._packed(line, ask, self._columns(ask.body), {}, ())
        inputs = ask.body.get("inputs")
        if not isinstance(inputs, list) or not inputs:
            raise BadLineError("lacks the list `inputs`", "body.inputs")
        known = {spec.name: spec for spec in self.model.inputs}
        arrays: dict[str, Array] = {}
        for place, given in ((f"body.inputs[{i}]", given) for i, given in enumerate(inputs)):
            if not isinstance(given, Mapping):
                raise BadLineError("is to be an object", place)
            name = given.get("name")
            if not isinstance(name, str) or name not in known:
                raise _unknown(self.model, name, known, f"{place}.name")
            if name in arrays:
                raise BadLineError(f"input `{name}` comes twice", place)
            arrays[name] = self._kserve(known[name], given, place)
        wanted = _wanted(self.model, ask.body.get("outputs"))
        return self._packed(line, ask, arrays, _parameters(ask.body), wanted)

    def _kserve(self, spec: TensorSpec, given: Mapping[str, Any], place: str) -> Array:
        """One tensor of a KServe v2 body: data in row-major order, flat or nested, and their shape."""
        if given.get("datatype") != spec.dtype.kserve:
            seen = given.get("datatype")
            raise BadLineError(
                f"input `{spec.name}` is {spec.dtype.kserve}, and not {seen}", f"{place}.datatype"
            )
        shape = given.get("shape")
        if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
            raise BadLineError(f"is to be a list of sizes, and is {shape!r}"[:120], f"{place}.shape")
        want = (-1, *spec.wire_shape) if self.model.max_batch_size else spec.wire_shape
        if not fits(tuple(shape), want):
            told = f"is {shape}, and input `{spec.name}` takes {list(want)}"
            raise BadLineError(told, f"{place}.shape")
        array = array_of(spec, given.get("data"), f"{place}.data")
        if array.size != math.prod(shape):
            raise BadLineError(f"has {array.size} values for the shape {shape}", f"{place}.data")
        return array.reshape(shape)

    def _columns(self, record: Mapping[str, Any]) -> dict[str, Array]:
        assert self.plain is not None
        names = {spec.name for spec in self.model.inputs}
        columns = self.plain.columns or {name: name for name in names if name in record}
        known = {spec.name: spec for spec in self.model.inputs}
        arrays = {}
        for column, name in columns.items():
            place = f"column `{column}`"
            if column not in record:
                raise BadLineError(not_there(record), place)
            if record[column] is None and name in self.model.optional:
                continue
            array = array_of(known[name], cell_value(known[name], record[column], place), place)
            array = placed(known[name], array, place)
            arrays[name] = array[np.newaxis] if self.model.max_batch_size else array
        return arrays

    def _packed(
        self,
        line: Line,
        ask: Ask,
        arrays: dict[str, Array],
        parameters: Mapping[str, Parameter],
        wanted: tuple[str, ...],
    ) -> Row:
        missing = [
            s.name for s in self.model.inputs if s.name not in arrays and s.name not in self.model.optional
        ]
        if missing:
            raise BadLineError(self._lacks(missing[0], ask))
        count = 1
        if self.model.max_batch_size:
            counts = {name: array.shape[0] for name, array in arrays.items()}
            count = next(iter(counts.values()))
            if len(set(counts.values())) > 1 or count < 1:
                told = ", ".join(f"{name} {n}" for name, n in counts.items())
                raise BadLineError(f"its inputs are to have the same number of rows, at least one: {told}")
            if count > self.most_rows:
                raise BadLineError(
                    f"has {count} rows, and `{self.model.name}` takes {self.most_rows} at once"
                )
        parameters = {**self.parameters, **parameters}
        shapes = tuple((name, arrays[name].shape[1:]) for name in sorted(arrays))
        group = (shapes, json.dumps(parameters, sort_keys=True) if parameters else "", wanted)
        length = sum(_length(array) for array in arrays.values()) // count
        options = {"id": ask.body["id"]} if self.plain is None and "id" in ask.body else {}
        return Row(
            line.number, line.key, ask.id, arrays, count, group, length,
            wanted=wanted, parameters=parameters, options=options,
        )  # fmt: skip

    def _lacks(self, name: str, ask: Ask) -> str:
        lacks = f"lacks input `{name}` of `{self.model.name}`"
        if self.plain is None or name in self.plain.columns.values():
            return lacks
        return f"{lacks}: column `{name}` {not_there(ask.body)}; --map COLUMN={name} takes another"

    # embeddings: texts, packed.

    def _embeddings(self, line: Line, ask: Ask) -> Row:
        given = ask.body.get("input")
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise BadLineError("is to be a text or a list of texts", "body.input")
        form = ask.body.get("encoding_format") or "float"
        if form not in ("float", "base64"):
            raise BadLineError(f"is to be float or base64, and is {form!r}"[:100], "body.encoding_format")
        if ask.body.get("dimensions") is not None:
            raise BadLineError("cannot be chosen: the model gives as many as it gives", "body.dimensions")
        text_input, output = embedding_tensors(self.model)
        array = np.empty(len(texts), object)
        array[:] = [encoded(text, "body.input") for text in texts]
        tensors = {text_input.name: array.reshape(len(texts), *(1 for _ in text_input.wire_shape))}
        if not self.model.max_batch_size:
            tensors = {text_input.name: array.reshape(tuple(1 for _ in text_input.wire_shape) or (1,))}
        row = self._packed(line, ask, tensors, {}, (output.name,))
        return Row(
            row.number, row.key, row.id, row.arrays, row.count, row.group, row.length,
            wanted=row.wanted, parameters=row.parameters, options={"encoding_format": form},
        )  # fmt: skip

    # generate: JSON, one row a request; the server batches what is in flight.

    def _generate(self, line: Line, ask: Ask) -> Row:
        options: Mapping[str, Any] = {}
        if self.address.kind == "chat":
            assert self.template is not None
            body = chat_body(self.model, ask.body, self.template)
        elif self.plain is not None:
            body = self._generate_columns(ask.body)
        else:
            body = dict(ask.body)
            if body.get("stream") is True or body.get("parameters", {}).get("stream") is True:
                raise BadLineError("a batch has no streams: leave it out", "body.stream")
        missing = [
            s.name for s in self.model.inputs if s.name not in body and s.name not in self.model.optional
        ]
        if missing:
            raise BadLineError(self._lacks(missing[0], ask), "" if self.plain else f"body.{missing[0]}")
        text = json.dumps(body, separators=(",", ":")).encode()
        return Row(line.number, line.key, ask.id, {}, 1, ("generate",), len(text), text, options=options)

    def _generate_columns(self, record: Mapping[str, Any]) -> dict[str, Any]:
        assert self.plain is not None
        known = {spec.name: spec for spec in self.model.inputs}
        columns = self.plain.columns or {name: name for name in known if name in record}
        body: dict[str, Any] = {}
        for column, name in columns.items():
            place = f"column `{column}`"
            if column not in record:
                raise BadLineError(not_there(record), place)
            value = cell_value(known[name], record[column], place)
            body[name] = value
            placed(known[name], array_of(known[name], value, place), place)
        return body | ({"parameters": dict(self.parameters)} if self.parameters else {})


def embedding_tensors(model: ModelInterface) -> tuple[TensorSpec, TensorSpec]:
    """(the input that takes a text, the output that is its embedding); UsageError for a model that embeds no texts."""
    texts = [s for s in model.inputs if s.dtype.kserve == "BYTES" and s.name not in model.optional]
    others = [s for s in model.inputs if s.dtype.kserve != "BYTES" and s.name not in model.optional]
    outputs = [
        s
        for s in model.outputs
        if s.dtype.kserve in ("FP32", "FP16", "FP64", "BF16") and len(s.wire_shape) == 1
    ]
    if len(texts) != 1 or others or not outputs:
        raise UsageError(
            f"`{model.name}` does not embed texts",
            code="no_embeddings",
            seen=f"inputs {', '.join(s.name for s in model.inputs)}; outputs {', '.join(s.name for s in model.outputs)}",
            valid=["one input of texts, and an output of one dimension with floating-point values"],
        )
    return texts[0], outputs[0]


def _length(array: Array) -> int:
    return sum(len(value) for value in array.ravel().tolist()) if array.dtype == object else array.size


def _wanted(model: ModelInterface, outputs: Any) -> tuple[str, ...]:
    if outputs is None:
        return ()
    if not isinstance(outputs, list):
        raise BadLineError("is to be a list", "body.outputs")
    known = [spec.name for spec in model.outputs]
    names = []
    for i, one in enumerate(outputs):
        name = one.get("name") if isinstance(one, Mapping) else one
        if not isinstance(name, str) or name not in known:
            told = f"`{model.name}` has no output {name!r}; it has {', '.join(known)}"
            raise BadLineError(told[:300], f"body.outputs[{i}]")
        names.append(name)
    return tuple(names)


def _parameters(body: Mapping[str, Any]) -> dict[str, Parameter]:
    given = body.get("parameters", {})
    if not isinstance(given, Mapping) or not all(
        isinstance(v, bool | int | float | str) for v in given.values()
    ):
        raise BadLineError("is to be an object of numbers, texts, true and false", "body.parameters")
    kept = {str(name): value for name, value in given.items() if name != "binary_data_output"}
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if name in kept:
            raise BadLineError(
                "requests of a batch come in no order: a sequence has to", f"body.parameters.{name}"
            )
    return kept


def _unknown(model: ModelInterface, name: object, known: Mapping[str, Any], place: str) -> BadLineError:
    hint = did_you_mean(str(name), known)
    told = f"`{model.name}` has no input {name!r}{f' ({hint})' if hint else ''}; it has {', '.join(known)}"
    return BadLineError(told[:300], place)
