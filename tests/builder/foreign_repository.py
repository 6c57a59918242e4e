"""A repository as another tool or a person wrote it: minimal and full configs, Python, an ensemble, labels, two versions."""

from __future__ import annotations

from pathlib import Path

from tests.onnx_models import add_model, affine

LABELLED = """\
# our detector
name: "labelled"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]  # pixels
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
dynamic_batching { max_queue_delay_microseconds: 100 }
"""
PYTHON = """\
backend: "python"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""
ENSEMBLE = """\
platform: "ensemble"
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling { step [
  { model_name: "labelled" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "mid" } },
  { model_name: "tenfold" model_version: -1 input_map { key: "x" value: "mid" } output_map { key: "y" value: "y" } }
] }
"""
MODEL_PY = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", 10 * x)]) for x in inputs]
"""


def write_foreign_repository(path: Path) -> Path:
    """labelled: y = 2x + 1; tenfold: y = 10x; pipeline: both; minimal: no config at all; two: versions 1 and 2."""
    add_model(path, "minimal", affine(("batch", 3)))
    add_model(path, "labelled", affine(("batch", 3)), LABELLED)
    (path / "labelled" / "labels.txt").write_text("a\nb\nc\n")
    add_model(path, "two", affine(("batch", 3)), 'backend: "onnxruntime"\nmax_batch_size: 4\n')
    add_model(path, "two", affine(("batch", 3), scale=5.0), version=2)
    (path / "tenfold" / "1").mkdir(parents=True)
    (path / "tenfold" / "1" / "model.py").write_text(MODEL_PY)
    (path / "tenfold" / "config.pbtxt").write_text(PYTHON)
    (path / "pipeline" / "1").mkdir(parents=True)
    (path / "pipeline" / "config.pbtxt").write_text(ENSEMBLE)
    return path
