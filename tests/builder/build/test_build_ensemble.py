"""Python sources and ensembles through `tritonsmith build`: what is laid out, what goes stale, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import onnx_models
from tests.conftest import Run
from tritonsmith.builder.model_config.model_config import model_config_from_text

STEP = """\
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            text = pb.get_input_tensor_by_name(request, "TEXT").as_numpy()
            import numpy as np

            lengths = np.array([[len(row[0])] * 3 for row in text], np.float32)
            answers.append(pb.InferenceResponse([pb.Tensor("lengths", lengths)]))
        return answers
"""
SPEC = """\
defaults: {max_batch_size: 8, dynamic_batching: {}}
models:
  search:
    source:
      steps:
        - {model: double, from: {x: lengths}, to: {y: doubled}}
        - {model: length, from: {TEXT: TEXT}, to: {lengths: lengths}}
  length:
    source: {python: step.py, files: [words.txt], requirements: [numpy]}
    input: [{name: TEXT, data_type: TYPE_STRING, dims: [1]}]
    output: [{name: lengths, data_type: TYPE_FP32, dims: [3]}]
  double:
    source: {onnx: double.onnx}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    onnx_models.save(onnx_models.affine(("batch", 3), scale=2.0, offset=0.0), tmp_path / "double.onnx")
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "words.txt").write_text("a\nb\n")
    (tmp_path / "models.yaml").write_text(SPEC)
    return tmp_path


def reasons(tritonsmith: Run) -> dict[str, set[str]]:
    actions = json.loads(tritonsmith("plan", "--format", "json").stdout)["actions"]
    return {
        m: {a["reason"] for a in actions if a["model"] == m and a["reason"]}
        for m in ("search", "length", "double")
    }


def test_steps_are_built_before_their_ensemble_and_only_what_changed_again(
    project: Path, tritonsmith: Run
) -> None:
    result = tritonsmith("build")
    assert result.returncode == 0, result.stderr
    repository = project / "model_repository"
    assert sorted(p.name for p in (repository / "length" / "1").iterdir()) == [
        "model.py",
        "requirements.txt",
        "words.txt",
    ]
    ensemble = model_config_from_text((repository / "search" / "config.pbtxt").read_text())
    assert (ensemble.platform, ensemble.max_batch_size, ensemble.output[0].name) == ("ensemble", 8, "doubled")
    assert (repository / "search" / "1").is_dir()
    assert model_config_from_text((repository / "length" / "config.pbtxt").read_text()).backend == "python"
    assert "nothing to do" in tritonsmith("build").stdout

    (project / "words.txt").write_text("c\n")
    assert reasons(tritonsmith) == {
        "search": set(),
        "length": {"source_changed", "export_changed"},
        "double": set(),
    }
    again = json.loads(tritonsmith("build", "--format", "json").stdout)
    assert [m["action"] for m in again["models"]] == ["up-to-date", "taken over", "up-to-date"]


def test_new_tensors_of_a_step_reach_the_ensemble_in_the_same_build(project: Path, tritonsmith: Run) -> None:
    assert tritonsmith("build").returncode == 0
    onnx_models.save(onnx_models.affine(("batch", "width"), scale=2.0, offset=0.0), project / "double.onnx")
    assert tritonsmith("build").returncode == 0
    ensemble = model_config_from_text((project / "model_repository" / "search" / "config.pbtxt").read_text())
    assert list(ensemble.output[0].dims) == [-1]
    assert "nothing to do" in tritonsmith("build").stdout


def test_a_model_that_comes_out_the_same_is_left_alone(project: Path, tritonsmith: Run) -> None:
    assert tritonsmith("build").returncode == 0
    config = project / "model_repository" / "double" / "config.pbtxt"
    before = config.stat().st_ino
    spec = SPEC.replace(
        "    source: {onnx: double.onnx}\n",
        "    source: {onnx: double.onnx}\n    accuracy: {relative_l2: 0.5}\n",
    )
    (project / "models.yaml").write_text(spec.replace("  search:\n", "  search:\n    parameters: {a: 1}\n"))
    again = json.loads(tritonsmith("build", "--format", "json").stdout)
    assert [m["action"] for m in again["models"]] == ["laid out", "up-to-date", "unchanged"]
    assert config.stat().st_ino == before


BAD = [
    ("an unknown step model", "model: double", "model: duble", 2, "did you mean 'double'"),
    ("an unknown input", "from: {x: lengths}", "from: {z: lengths}", 2, "has no input 'z'"),
    (
        "tensors left out",
        "    output: [{name: lengths, data_type: TYPE_FP32, dims: [3]}]\n",
        "",
        2,
        "states every output",
    ),
    ("shapes that differ", "TYPE_FP32, dims: [3]", "TYPE_FP32, dims: [4]", 2, "[-1, 4]"),
    ("a missing file beside model.py", "words.txt", "word.txt", 2, "words.txt"),
]


@pytest.mark.parametrize(("old", "new", "code", "word"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_wiring_is_one_error_with_its_line(
    project: Path, tritonsmith: Run, old: str, new: str, code: int, word: str
) -> None:
    assert old in SPEC
    (project / "models.yaml").write_text(SPEC.replace(old, new))
    result = tritonsmith("build")
    assert result.returncode == code, result.stderr
    assert word in result.stderr and "models.yaml:" in result.stderr and "Traceback" not in result.stderr
    assert not (project / "model_repository" / "search").exists()


def test_a_file_that_is_no_python_model_is_refused(project: Path, tritonsmith: Run) -> None:
    (project / "step.py").write_text("class Model:\n    pass\n")
    result = tritonsmith("build")
    assert result.returncode == 1 and "TritonPythonModel" in result.stderr and "step.py" in result.stderr


@pytest.mark.server
def test_the_ensemble_answers_live(project: Path, tritonsmith: Run) -> None:
    import numpy as np
    import tritonclient.http as http

    from tritonsmith.perf.server.launch import ServerSpec, launch

    assert tritonsmith("build").returncode == 0
    with launch(ServerSpec(repositories=(project / "model_repository",))) as server:
        assert server.refusals() == {}
        text = http.InferInput("TEXT", [2, 1], "BYTES")
        text.set_data_from_numpy(np.array([[b"four"], [b"seven77"]], dtype=object))
        client = http.InferenceServerClient(server.http_url)
        answer = client.infer("search", [text]).as_numpy("doubled")
        client.close()
    assert answer.tolist() == [[8.0] * 3, [14.0] * 3]
