"""Odd ONNX models: a build refuses them with the spec's line, or the embedded server answers as ONNX Runtime does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import tritonclient.http as httpclient
import yaml

from tests.conftest import Run
from tests.odd_models import ODD, QUICK, REFUSED
from tritonsmith.perf.server.launch import ServerSpec, launch

pytestmark = pytest.mark.server

WITHOUT_INPUTS = "no_inputs"
"""Served, but KServe's protocol has no request without inputs."""


@pytest.mark.timeout(120)
def test_what_was_once_built_and_then_refused_is_served_or_refused_at_once(
    tmp_path: Path, tritonsmith: Run
) -> None:
    built_and_served(QUICK, tmp_path, tritonsmith)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_every_odd_model_is_served_or_refused_with_its_line(tmp_path: Path, tritonsmith: Run) -> None:
    built_and_served(ODD, tmp_path, tritonsmith)


def built_and_served(names: Iterable[str], tmp_path: Path, tritonsmith: Run) -> None:
    spec: dict[str, Any] = {}
    one = {"instance_group": [{"count": 1, "kind": "KIND_CPU"}]}
    for name in names:
        (tmp_path / f"{name}.onnx").write_bytes(ODD[name].proto.SerializeToString())
        spec[name] = {"source": {"onnx": f"{name}.onnx"}, **one, **ODD[name].spec}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": spec}, sort_keys=False))
    built = tritonsmith("build", timeout=600)
    wrong = {name for name in spec if refusal(name, built.stderr) != REFUSED.get(name)}
    assert not wrong, built.stderr
    repository = tmp_path / "model_repository"
    assert {p.name for p in repository.iterdir() if p.is_dir()} == spec.keys() - REFUSED.keys()
    with launch(ServerSpec(repositories=(repository,), exit_timeout_s=0)) as server:
        assert server.refusals() == {}
        client = httpclient.InferenceServerClient(server.http_url)
        for name in spec.keys() - REFUSED.keys() - {WITHOUT_INPUTS}:
            answers_like_onnxruntime(name, client, repository)


def refusal(name: str, told: str) -> str | None:
    """The code of the error that names the model and a line of the spec."""
    found = re.search(rf"^error\[(\w+)\]: (?=.*models\.yaml:\d+).*\b{name}\b(?: \(|:)", told, re.MULTILINE)
    return None if found is None else found[1]


def answers_like_onnxruntime(name: str, client: Any, repository: Path) -> None:
    config = client.get_model_config(name)
    session = ort.InferenceSession(
        str(repository / name / "1" / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    inputs = {node.name: values(node) for node in session.get_inputs()}
    sent = []
    for tensor in config["input"]:
        # What Triton has as dims [1] may be a scalar; a reshape is undone by what is sent.
        dims = [4 if int(d) < 0 else int(d) for d in tensor["dims"]]
        array = inputs[tensor["name"]]
        shape = [array.shape[0], *dims] if config["max_batch_size"] else list(array.shape or dims)
        wire = httpclient.InferInput(
            tensor["name"], shape, tensor["data_type"][5:].replace("STRING", "BYTES")
        )
        wire.set_data_from_numpy(array.reshape(shape))
        sent.append(wire)
    answer = client.infer(name, sent)
    outputs = [tensor["name"] for tensor in config["output"]]
    for output, expected in zip(outputs, session.run(outputs, inputs), strict=True):
        given = answer.as_numpy(output)
        if given.dtype == object:
            given = np.vectorize(lambda item: item.decode(), otypes=[object])(given)
        assert given.dtype == expected.dtype, name
        np.testing.assert_array_equal(given.reshape(expected.shape), expected, err_msg=name)
        told = next(t for t in config["output"] if t["name"] == output)
        batch = [-1] if config["max_batch_size"] else []
        assert all(int(d) in (-1, s) for d, s in zip([*batch, *told["dims"]], given.shape, strict=True)), name


def values(node: Any) -> Any:
    """Sizes that are open are 4, the first of a batch 2."""
    open_sizes = [2, *[4] * 8]
    shape = [d if isinstance(d, int) else open_sizes[i] for i, d in enumerate(node.shape)]
    drawn = np.random.default_rng(0).integers(0, 9, shape)
    if node.type == "tensor(string)":
        return drawn.astype(str).astype(object)
    kinds = {"float": "float32", "double": "float64"}
    kind = node.type[7:-1]
    return np.asarray(drawn).astype(kinds.get(kind, kind))
