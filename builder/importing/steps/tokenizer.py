"""Texts → token ids: a model of Triton's python backend, laid out as model.py beside a Hugging Face tokenizer.json.

TEXT, UTF-8 strings [batch, 1] → those of input_ids, attention_mask and token_type_ids that the config names, int64
[batch, sequence]. The texts of one request are padded to the longest of them and cut to the parameter `max_tokens`. Each
request gets tensors of its own length: Triton puts requests into one batch of the next model only when their shapes agree.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class TritonPythonModel:
    """Triton's interface."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads tokenizer.json and the parameters max_tokens, pad_id and pad_token."""
        config = json.loads(args["model_config"])
        stated = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.outputs = [output["name"] for output in config["output"]]
        self.tokenizer = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
        self.tokenizer.enable_truncation(max_length=int(stated["max_tokens"]))
        self.tokenizer.enable_padding(pad_id=int(stated["pad_id"]), pad_token=stated["pad_token"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)
        try:
            rows = self.tokenizer.encode_batch([text.decode() for text in texts])
        except UnicodeDecodeError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"TEXT is not UTF-8: {error}"))
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(name, np.array([getattr(row, FIELDS[name]) for row in rows], dtype=np.int64))
                for name in self.outputs
            ]
        )
