"""torch modules through the whole build: which exporter wrote a model is told and kept, and a refusal says all it knows."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tritonsmith.builder.build.build import BuildOptions, build
from tritonsmith.builder.cache.cache import Cache

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

SOURCE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(4, 3, batch_first=True)
        self.large = torch.nn.Linear(4, 500)

    def forward(self, x):
        return {"steps": self.rnn(x)[0], "large": self.large(x), "kind": "cat"}


class Choosing(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x


def load():
    return Net(), torch.randn(2, 5, 4)


def choosing():
    return Choosing(), torch.randn(2, 5, 4)
"""
SPEC = """\
models:
  over_time:
    source: {torch: "source:load"}
    max_batch_size: 4
    input: [{name: x, data_type: TYPE_FP32, dims: [time, 4]}]
    output: [{name: steps}]
    dynamic_dims: {half: {min: 1, max: 20}, time: 2*half + 1}
  choosing:
    source: {torch: "source:choosing"}
    max_batch_size: 4
"""


@pytest.mark.nightly
def test_the_second_exporter_is_told_and_kept_and_the_first_ones_words_are_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "models.yaml").write_text(SPEC)
    cache = Cache(tmp_path / "cache")
    result = build(BuildOptions(tmp_path / "models.yaml", tmp_path / "repository", cache))
    told = capsys.readouterr().err
    assert (
        "over_time: exported by TorchScript tracing, and held against the module: torch.export cannot" in told
    )
    assert "over_time: Net was in training mode" in told
    lock = json.loads((tmp_path / "models.lock.json").read_text())["models"]
    assert list(lock) == ["over_time"]
    assert lock["over_time"]["exporter"] == "torchscript"

    model = onnx.load(str(tmp_path / "repository" / "over_time" / "1" / "model.onnx"))
    assert [output.name for output in model.graph.output] == ["steps"]
    assert model.ByteSize() < 4 * 4 * 500, "the output that nobody listed costs nothing"
    config = (tmp_path / "repository" / "over_time" / "config.pbtxt").read_text()
    assert "steps" in config and "large" not in config

    (error,) = result.errors
    assert error.code == "not_exportable"
    assert (
        error.where is not None
        and error.where.line == SOURCE.splitlines().index("        if x.sum() > 0:") + 1
    )
    details = "\n".join(error.details)
    assert "torch.export refused; TorchScript tracing was tried, too" in details
    log = details.partition("all that torch said: ")[2].strip()
    assert "GuardOnDataDependentSymNode" in Path(log).read_text()

    # Nothing changed: nothing is made again.
    again = build(
        BuildOptions(tmp_path / "models.yaml", tmp_path / "repository", cache, models=("over_time",))
    )
    assert [outcome.action for outcome in again.outcomes] == ["up-to-date"]
