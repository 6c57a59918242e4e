"""A directory without models.yaml → the `tritonsmith init` that fits what lies in it; nothing there is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Run
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.spec.nearby import has_python_model, init_command, loaders_in
from tritonsmith.builder.spec.spec import load_spec

PROGRAM = """
import torch
from pathlib import Path
Path("ran").write_text("this file was run")
class Net(torch.nn.Module):
    pass
def train(epochs):
    return 1, 2
def sizes():
    return [1, 2]
def pair():
    return Net(), torch.zeros(1)
def made(width=3):
    net = Net().eval()
    return net
def load_model(*, size=1):
    return Net().eval()
"""

TABLE = [
    ("an ONNX file", {"detector.onnx": "", "net.py": PROGRAM}, "tritonsmith init detector.onnx"),
    ("an exported program", {"scorer.pt2": ""}, "tritonsmith init scorer.pt2"),
    ("a name with a space", {"my net.onnx": ""}, "tritonsmith init 'my net.onnx'"),
    ("a function that returns a module", {"net.py": PROGRAM}, "tritonsmith init net:load_model"),
    (
        "a Python model",
        {"up.py": "class TritonPythonModel:\n def execute(self, r): pass"},
        "tritonsmith init up.py",
    ),
    ("a Hugging Face directory", {"bert/config.json": "{}"}, "tritonsmith init bert"),
    (
        "Python that is none",
        {"net.py": "import torch\ndef f(:"},
        "tritonsmith init detector.onnx (or another",
    ),
    ("no torch", {"net.py": "def load():\n    return 1, 2"}, "tritonsmith init detector.onnx (or another"),
    ("nothing", {}, "tritonsmith init detector.onnx (or another"),
]


@pytest.mark.parametrize(("files", "command"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_missing_spec_names_the_init_that_fits(
    tmp_path: Path, files: dict[str, str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        load_spec(Path("models.yaml"))
    assert caught.value.code == "spec_missing" and str(caught.value.fix).startswith(command)
    assert not (tmp_path / "ran").exists()


def test_a_spec_elsewhere_is_written_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    spec = tmp_path / "other.yaml"
    assert init_command(spec) == f"tritonsmith init {tmp_path}/net.onnx --output {spec}"


def test_functions_that_may_be_sources_are_told_from_others(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(PROGRAM)
    assert loaders_in(file) == ["load_model", "pair", "made"]
    assert not has_python_model(file)


def test_plan_says_it_on_the_command_line(tmp_path: Path, tritonsmith: Run) -> None:
    (tmp_path / "net.py").write_text(PROGRAM)
    told = tritonsmith("plan")
    assert told.returncode == 2 and "tritonsmith init net:load_model" in told.stderr
    assert not (tmp_path / "ran").exists()
