"""A live Triton batches strangers' requests: each gets its own answer from models that were verified, and not from others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tests import onnx_models
from tests.builder.actions.batch_rows.models import KINDS
from tests.perf.conftest import LiveTriton
from tritonsmith.builder.actions.batch_rows import RowsRequest
from tritonsmith.builder.actions.batch_rows.worker import report_of

pytestmark = pytest.mark.server
VERIFIED = ("layers", "convolution", "lstm", "embedding", "cut_to_the_longest")
# Requests wait for each other, so that nearly all are batched with strangers.
BATCHED = (
    'backend: "onnxruntime"\nmax_batch_size: 8\ndynamic_batching { max_queue_delay_microseconds: 20000 }\n'
)
REQUESTS, AT_ONCE = 48, 8


def drawn(shapes: list[tuple[str, str, list[Any]]], rng: np.random.Generator) -> dict[str, Any]:
    """One row for each input (name, ONNX Runtime's type, shape); a dynamic dimension is 5."""
    row = {}
    for name, kind, shape in shapes:
        sizes = [1, *(dim if isinstance(dim, int) else 5 for dim in shape[1:])]
        whole = kind == "tensor(int64)"
        row[name] = rng.integers(1, 9, sizes) if whole else rng.normal(0, 1, sizes).astype(np.float32)
    return row


def asked(url: str, name: str, row: dict[str, Any]) -> Any:
    import tritonclient.http as http

    with http.InferenceServerClient(url.removeprefix("http://")) as client:
        tensors = []
        for key, value in row.items():
            tensors.append(
                http.InferInput(key, list(value.shape), "INT64" if value.dtype == np.int64 else "FP32")
            )
            tensors[-1].set_data_from_numpy(value)
        return client.infer(name, tensors).as_numpy("y")


def wrong_answers(triton: LiveTriton, name: str, tmp_path: Path) -> tuple[int, int]:
    """(answers that are not the row's own, batches of more than one row that the server made)"""
    proto = KINDS[name].make()
    path = onnx_models.save(proto, tmp_path / f"{name}.onnx")
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(3)
    rows = [drawn([(i.name, i.type, i.shape) for i in session.get_inputs()], rng) for _ in range(REQUESTS)]
    own = [session.run(["y"], row)[0] for row in rows]
    triton.load(f"batched_{name}", proto, BATCHED)
    with ThreadPoolExecutor(AT_ONCE) as clients:
        answers = list(clients.map(lambda row: asked(triton.http_url, f"batched_{name}", row), rows))
    wrong = sum(not np.allclose(a, o, rtol=1e-4, atol=1e-5) for a, o in zip(answers, own, strict=True))
    return wrong, sum(count for size, count in executions(triton, f"batched_{name}") if size > 1)


def executions(triton: LiveTriton, name: str) -> Iterator[tuple[int, int]]:
    import tritonclient.http as http

    with http.InferenceServerClient(triton.http_url.removeprefix("http://")) as client:
        stats = client.get_inference_statistics(name)["model_stats"][0]
    for batch in stats["batch_stats"]:
        yield int(batch["batch_size"]), int(batch["compute_infer"]["count"])


@pytest.mark.parametrize("name", VERIFIED)
def test_verified_models_answer_strangers_rightly(name: str, triton: LiveTriton, tmp_path: Path) -> None:
    path = onnx_models.save(KINDS[name].make(), tmp_path / "verified.onnx")
    assert (
        report_of(RowsRequest(name, str(path), (1, 2, 3, 8)), tmp_path / "scratch").verdict
        == KINDS[name].verdict
    )
    wrong, batches = wrong_answers(triton, name, tmp_path)
    assert wrong == 0 and batches > 0


def test_what_is_refused_does_mix_on_a_server(triton: LiveTriton, tmp_path: Path) -> None:
    """The fault that the check is for: an answer of a wrong model is wrong, with status 200."""
    wrong, batches = wrong_answers(triton, "lstm_time_major", tmp_path)
    assert wrong > 0 and batches > 0
