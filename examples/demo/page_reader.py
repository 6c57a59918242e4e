"""Image bytes → the text detector's input: a model of Triton's python backend, beside page_image.py.

IMAGE, one PNG or JPEG as a string [1] → x float32 [1, 3, height, width], SIZE int64 [2], the image's own
height and width. One image a request: two of different size fit into no common tensor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from page_image import detector_input


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    data = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy().item()
    try:
        x, size = detector_input(data)
    except ValueError as error:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor("x", x), pb_utils.Tensor("SIZE", np.array(size, dtype=np.int64))]
    )
