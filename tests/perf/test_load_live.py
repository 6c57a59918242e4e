"""The load test against a real tritonserver: every answer compared, over both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from builder.samples import Sample, SampleSet, save_samples
from perf.bench.tiny_server import COLUMNS, MODEL, ROWS, tiny_server
from perf.data import DataOptions
from perf.load import LoadTest, ServedAt, run_load_test
from perf.schedule import Closed, Load, Open

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def served() -> Iterator[ServedAt]:
    with tiny_server(None) as server:
        yield server


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    weights = rng.random((ROWS, COLUMNS), dtype=np.float32)
    made = []
    for rows in (1, 3, 8, 32):
        x = rng.random((rows, ROWS), dtype=np.float32)
        made.append(Sample({"x": x}, {"y": x @ weights}))
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    save_samples(SampleSet(tuple(made)), path)
    return path


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("load", [Closed(8), Open(200, "poisson")], ids=["closed", "open"])
def test_every_answer_of_a_real_triton_is_right(
    served: ServedAt, samples: Path, protocol: Literal["http", "grpc"], load: Load
) -> None:
    test = LoadTest(
        "",
        load,
        duration_s=1.0,
        warmup_s=0.3,
        data=DataOptions(file=samples),
        protocol=protocol,
        grpc_url=served.grpc_url,
        validate_every=1,
    )
    result = run_load_test(served.http_url, test)
    header = result.records.header
    assert result.records.failures() == {}
    assert header.model == MODEL
    assert header.checked == len(result.records) > 100
    assert result.server is not None
    # The server's counters are read a moment before and after: on a busy machine that is some more requests.
    requests, inferences = len(result.records.measured()), int(result.records.measured().inferences.sum())
    assert abs(result.server.requests - requests) <= 16 + requests // 4
    assert abs(result.server.inferences - inferences) <= 16 * 32 + inferences // 4


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_wrong_expected_output_is_found(
    served: ServedAt, tmp_path: Path, protocol: Literal["http", "grpc"]
) -> None:
    x = np.ones((1, ROWS), np.float32)
    save_samples(
        SampleSet((Sample({"x": x}, {"y": np.zeros((1, COLUMNS), np.float32)}),)), tmp_path / "s.npz"
    )
    test = LoadTest(
        MODEL,
        Closed(2),
        duration_s=None,
        requests=20,
        data=DataOptions(file=tmp_path / "s.npz"),
        protocol=protocol,
        grpc_url=served.grpc_url,
        validate_every=1,
    )
    result = run_load_test(served.http_url, test)
    assert set(result.records.failures()) == {"wrong answer: output `y` differs from the expected values"}
    assert not result.records.ok.any()
