"""The text detector's map → boxes around words: a model of Triton's python backend, beside boxes.py.

likely float32 [1, 1, rows, columns], SIZE int64 [2], height and width of the image → BOXES float32
[boxes, 4, 2], corners x, y in the image's pixels, SCORES float32 [boxes]. Their number differs from image to
image, therefore the model does not batch.
"""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from boxes import find_boxes


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    likely = pb_utils.get_input_tensor_by_name(request, "likely").as_numpy()
    height, width = pb_utils.get_input_tensor_by_name(request, "SIZE").as_numpy().tolist()
    boxes, scores = find_boxes(likely[0, 0], (height, width))
    return pb_utils.InferenceResponse([pb_utils.Tensor("BOXES", boxes), pb_utils.Tensor("SCORES", scores)])
