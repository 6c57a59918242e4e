"""An answer to a request → each of its rows' answer as one line of JSON, in OpenAI's batch form or plain."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tritonsmith.builder.base.files.http_ask import json_from
from tritonsmith.perf.batch.rows.asks import Address
from tritonsmith.perf.batch.rows.reader import Row, embedding_tensors
from tritonsmith.perf.batch.rows.tensors import json_of_array
from tritonsmith.perf.data.interface import Array, ModelInterface
from tritonsmith.perf.wire.payload import Answer

_TELLS = ("model_name", "model_version")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row has no answer. status: of HTTP, 0 where there was none."""

    code: str
    message: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the lines of the output. plain: records of the row's id and outputs; else OpenAI's form."""

    model: ModelInterface
    address: Address
    plain: bool
    tokens: Counter[str] = field(default_factory=Counter)  # of what was answered, where the model tells

    def rows_of(self, rows: Sequence[Row], answer: Answer) -> list[dict[str, Array]]:
        """The outputs of each row; ValueError for an answer that has not as many rows as were asked."""
        if not self.model.max_batch_size:
            return [dict(answer.outputs)]
        count = sum(row.count for row in rows)
        for name, array in answer.outputs.items():
            if not array.ndim or array.shape[0] != count:
                raise ValueError(f"output `{name}` has the shape {list(array.shape)} for {count} rows")
        parts, at = [], 0
        for row in rows:
            parts.append({name: array[at : at + row.count] for name, array in answer.outputs.items()})
            at += row.count
        return parts

    def infer_line(self, row: Row, outputs: Mapping[str, Array], version: str) -> str:
        """The answer of an infer or embeddings row."""
        if self.plain:
            parts = {
                name: array[0] if self.model.max_batch_size else array for name, array in outputs.items()
            }
            values = [f"{json.dumps(n)}:{json_of_array(a, self._datatype(n, a))}" for n, a in parts.items()]
            return f'{{"{self.id_name}":{json.dumps(row.id)},{",".join(values)}}}'
        if self.address.kind == "embeddings":
            return self._line(row, self._embeddings(row, outputs))
        tensors = ",".join(
            f'{{"name":{json.dumps(name)},"datatype":"{self._datatype(name, array)}","shape":{json.dumps(list(array.shape))},'
            f'"data":{json_of_array(array.reshape(-1), self._datatype(name, array))}}}'
            for name, array in outputs.items()
        )
        given = f'"id":{json.dumps(row.options["id"])},' if "id" in row.options else ""
        told = f'"model_name":{json.dumps(self.model.name)},"model_version":{json.dumps(version)}'
        return self._line(row, f'{{{given}{told},"outputs":[{tensors}]}}')

    def generate_line(self, row: Row, body: bytes) -> str:
        """The answer of a generate or chat row; ValueError for one that is not what generate answers."""
        said = json_from(body, most_values=len(body))
        if not isinstance(said, dict) or "error" in said:
            raise ValueError(f"not what generate answers: {str(said)[:200]}")
        if self.address.kind == "chat":
            return self._line(row, json.dumps(self._chat(row, said), separators=(",", ":")))
        if self.plain:
            outputs = {name: value for name, value in said.items() if name not in _TELLS}
            return json.dumps({self.id_name: row.id, **outputs}, separators=(",", ":"))
        return self._line(row, json.dumps(said, separators=(",", ":")))

    def failed_line(self, id_: str | int | None, key: int, number: int, failure: Failure) -> str:
        """A line of the file of errors."""
        error = {"code": failure.code, "message": failure.message, "line": number}
        if self.plain:
            return json.dumps({self.id_name: id_, "error": error})
        response = None
        if failure.status:
            # As vLLM's run_batch, whose reader takes no body but an answer; the message is in `error`.
            response = {"status_code": failure.status, "request_id": f"req_{key:016x}", "body": None}
        return json.dumps(
            {"id": f"batch_req_{key:016x}", "custom_id": id_ or "", "response": response, "error": error}
        )

    @property
    def id_name(self) -> str:
        """Of a plain record's id."""
        return "custom_id" if any(spec.name == "id" for spec in self.model.outputs) else "id"

    def _line(self, row: Row, body: str) -> str:
        response = f'{{"status_code":200,"request_id":"req_{row.key:016x}","body":{body}}}'
        return f'{{"id":"batch_req_{row.key:016x}","custom_id":{json.dumps(row.id)},"response":{response},"error":null}}'

    def _datatype(self, name: str, array: Array) -> str:
        known = next((spec.dtype.kserve for spec in self.model.outputs if spec.name == name), None)
        return known or ("BYTES" if array.dtype == object else array.dtype.name)

    def _embeddings(self, row: Row, outputs: Mapping[str, Array]) -> str:
        name = embedding_tensors(self.model)[1].name
        array = outputs[name]
        vectors = array.reshape(row.count, -1)
        if row.options.get("encoding_format") == "base64":
            made = [json.dumps(base64.b64encode(v.astype("<f4").tobytes()).decode()) for v in vectors]
        else:
            made = [json_of_array(v, self._datatype(name, v)) for v in vectors]
        data = ",".join(
            f'{{"object":"embedding","index":{i},"embedding":{vector}}}' for i, vector in enumerate(made)
        )
        # The form asks for numbers of tokens; the model tells none.
        usage = '{"prompt_tokens":0,"total_tokens":0}'
        return f'{{"object":"list","data":[{data}],"model":{json.dumps(self.model.name)},"usage":{usage}}}'

    def _chat(self, row: Row, said: Mapping[str, Any]) -> dict[str, Any]:
        text = _one(said.get("text_output"))
        if not isinstance(text, str):
            raise ValueError("the answer has no text_output")
        reason = _one(said.get("finish_reason"))
        asked, made = _one(said.get("num_input_tokens")), _one(said.get("num_output_tokens"))
        if isinstance(asked, int) and isinstance(made, int):
            self.tokens.update(input=asked, output=made)
        counts = (asked, made) if isinstance(asked, int) and isinstance(made, int) else (0, 0)
        return {
            "id": f"chatcmpl-{row.key:016x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model.name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": reason if isinstance(reason, str) and reason != "None" else None,
                }
            ],
            "usage": {
                "prompt_tokens": counts[0],
                "completion_tokens": counts[1],
                "total_tokens": sum(counts),
            },
        }


def _one(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def joined(rows: Sequence[Row], name: str) -> Array:
    """An input's values of several rows, as the request has them."""
    arrays = [row.arrays[name] for row in rows]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
