"""Sentences → token ids: a model of Triton's python backend, laid out as model.py beside tokenizer.json.

TEXT, UTF-8 strings [batch, 1] → input_ids, attention_mask int64 [batch, sequence]. The sentences of one
request are padded to the longest of them. Each request gets tensors of its own length: Triton puts requests
into one batch of the next model only when their shapes are equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Encoding, Tokenizer

MAX_TOKENS = 256


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self.tokenizer.enable_truncation(max_length=MAX_TOKENS)
        self.tokenizer.enable_padding()

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
        try:
            rows = self.tokenizer.encode_batch([text.decode() for text in texts])
        except UnicodeDecodeError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"TEXT is not UTF-8: {error}"))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("input_ids", _matrix(rows, "ids")),
                pb_utils.Tensor("attention_mask", _matrix(rows, "attention_mask")),
            ]
        )


def _matrix(rows: list[Encoding], field: str) -> np.ndarray:
    return np.array([getattr(row, field) for row in rows], dtype=np.int64)
