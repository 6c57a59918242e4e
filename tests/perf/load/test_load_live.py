"""The load test against a real tritonserver: every answer compared, over both protocols."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.bench.tiny_server import COLUMNS, MODEL, ROWS, tiny_server, write_model
from tritonsmith.builder.actions.accuracy.samples import Sample, SampleSet, save_samples
from tritonsmith.builder.base.errors import ServerError
from tritonsmith.perf.data import DataOptions
from tritonsmith.perf.load.load_test import LoadTest, ServedAt, run_load_test
from tritonsmith.perf.records.schedule import Closed, Load, Open
from tritonsmith.perf.server.launch import ServerSpec, launch

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


def test_a_real_tritons_tls_is_taken_with_a_trusted_certificate_only(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the test's certificate")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    repository = tmp_path / "model_repository"
    write_model(repository)
    tls = ("--grpc-use-ssl=true", f"--grpc-server-key={key}", f"--grpc-server-cert={cert}")
    with launch(ServerSpec(repositories=(repository,), extra_args=tls, exit_timeout_s=0)) as server:
        test = LoadTest("", Closed(4), duration_s=None, requests=100, warmup_s=0, protocol="grpc")
        trusted = replace(test, ca_file=str(cert))
        result = run_load_test(f"grpcs://{server.grpc_url}", trusted)
        beside = replace(trusted, grpc_url=f"grpcs://{server.grpc_url}")
        assert run_load_test(f"http://{server.http_url}", beside).records.ok.all()
        for url, fix in (("grpcs", "--ca-file"), ("grpc", "grpcs://")):
            with pytest.raises(ServerError) as error:
                run_load_test(f"{url}://{server.grpc_url}", test)
            assert fix in str(error.value.fix)
    assert result.records.ok.all() and len(result.records) == 100
    assert result.server is not None, "statistics came over TLS, too"
