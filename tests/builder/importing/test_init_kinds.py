"""`tritonsmith init X && tritonsmith build` for every kind of source, each on a small real model that is made here."""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Run
from tests.onnx_models import affine, save
from tests.tiny_gguf import CONTEXT_LENGTH, tiny_gguf
from tritonsmith.builder.base.sources import source_rows
from tritonsmith.builder.importing.drafts.language_model import language_model

NET = """
import torch
from torch import nn

class Eyes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))

class Mixes(nn.Module):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)

def load():
    torch.manual_seed(0)
    return Eyes().eval(), torch.rand(1, 3, 16, 16)

def mixes():
    return Mixes().eval(), torch.rand(3, 4)

def only_the_module():
    return Eyes()

def fails():
    return {}["weights"]
"""


def torch_net() -> Any:
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


def make_callable(directory: Path) -> str:
    (directory / "net.py").write_text(NET)
    return "net:load"


def make_program(directory: Path) -> str:
    import torch

    open_batch = [{0: torch.export.Dim.DYNAMIC}]
    program = torch.export.export(torch_net(), (torch.rand(2, 4),), dynamic_shapes=open_batch)
    torch.export.save(program, directory / "program.pt2")
    return "program.pt2"


def make_script(directory: Path) -> str:
    import torch

    torch.jit.save(torch.jit.script(torch_net()), directory / "scorer.pt")
    return "scorer.pt"


def make_onnx(directory: Path) -> str:
    save(affine(("batch", 3)), directory / "affine.onnx")
    return "affine.onnx"


def labelled() -> tuple[Any, Any]:
    import numpy as np

    rows = np.random.default_rng(0).random((60, 3))
    return rows, (rows.sum(1) > 1.5).astype(int)


def estimator() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(*labelled())


def make_skops(directory: Path) -> str:
    import skops.io

    skops.io.dump(estimator(), directory / "risk.skops")
    return "risk.skops"


def make_pickle(directory: Path) -> str:
    (directory / "churn.pkl").write_bytes(pickle.dumps(estimator()))
    return "churn.pkl --trust"


def make_xgboost(directory: Path) -> str:
    import xgboost

    settings = {"objective": "binary:logistic", "max_depth": 2}
    xgboost.train(settings, xgboost.DMatrix(*labelled()), 3).save_model(directory / "fraud.ubj")
    return "fraud.ubj"


def make_lightgbm(directory: Path) -> str:
    import lightgbm

    settings = {"objective": "binary", "verbose": -1}
    lightgbm.train(settings, lightgbm.Dataset(*labelled()), 3).save_model(directory / "gain.txt")
    return "gain.txt"


def make_bert(directory: Path) -> str:
    from transformers import BertConfig, BertModel

    small = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    BertModel(small).save_pretrained(directory / "bert")
    return "bert"


def make_program_of_triton(directory: Path) -> str:
    (directory / "upper.py").write_text(
        "class TritonPythonModel:\n"
        "    @staticmethod\n"
        "    def auto_complete_config(config):\n"
        "        config.add_input({'name': 'TEXT', 'data_type': 'TYPE_STRING', 'dims': [1]})\n"
        "        config.add_output({'name': 'UPPER', 'data_type': 'TYPE_STRING', 'dims': [1]})\n"
        "        return config\n"
        "    def execute(self, requests):\n"
        "        return []\n"
    )
    return "upper.py"


def make_gguf(directory: Path) -> str:
    tiny_gguf(directory / "chat.gguf")
    return "chat.gguf"


# kind, what makes it, whether its requests are batched
MAKERS: list[tuple[str, Callable[[Path], str], bool]] = [
    ("torch", make_callable, True),
    ("exported_program", make_program, True),
    ("torchscript", make_script, True),
    ("onnx", make_onnx, True),
    ("sklearn", make_skops, True),
    ("sklearn", make_pickle, True),
    ("xgboost", make_xgboost, True),
    ("lightgbm", make_lightgbm, True),
    ("transformers", make_bert, True),
    ("python", make_program_of_triton, False),
    ("llm", make_gguf, False),
]
QUICK = (make_onnx, make_program_of_triton)


@pytest.mark.parametrize(
    ("kind", "make", "batched"),
    [
        pytest.param(
            *row,
            id=row[1].__name__.removeprefix("make_"),
            marks=[] if row[1] in QUICK else pytest.mark.nightly,
        )
        for row in MAKERS
    ],
)
def test_what_init_writes_builds_as_it_is(
    tmp_path: Path, tritonsmith: Run, kind: str, make: Callable[[Path], str], batched: bool
) -> None:
    for module in source_rows()[kind].imports:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: the {source_rows()[kind].extra} extra")
    made = tritonsmith("init", *make(tmp_path).split(), "--format", "json")
    assert made.returncode == 0, made.stderr
    (model,) = json.loads(made.stdout)["models"]
    assert next(iter(model["source"])) == kind
    built = tritonsmith("build", "--format", "json")
    assert built.returncode == 0, built.stderr
    # What init tried is what the build asks for: nothing is exported twice.
    assert kind in ("python", "llm") or json.loads(built.stdout)["models"][0]["action"] == "from cache", (
        built.stdout
    )
    config = (tmp_path / "model_repository" / model["name"] / "config.pbtxt").read_text()
    assert ("dynamic_batching" in config and "max_batch_size: 4" in config) is batched


def test_every_kind_that_a_file_can_be_is_tried_above() -> None:
    assert {kind for kind, _, _ in MAKERS} == set(source_rows()) - {"directory", "steps"}


@pytest.mark.nightly
def test_a_torch_callable_is_batched_with_the_presets_sizes(tmp_path: Path, tritonsmith: Run) -> None:
    torch_net()
    make_callable(tmp_path)
    made = tritonsmith("init", "net.py:load", "--preset", "image", "--schema", "--name", "eyes")
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "models.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=models.schema.json\n")
    assert json.loads((tmp_path / "models.schema.json").read_text())["title"] == "tritonsmith models.yaml"
    # The exact command: a load test of inputs that vary has to be told a shape.
    sweep = "tritonsmith sweep model_repository/ -m eyes --set max_batch_size=4,8,16,32 --set instance_group.count=1,2"
    assert f"{sweep} --shape image:3,16,16" in text
    assert "requests of different sizes share no batch" in text
    assert yaml.safe_load(text)["models"]["eyes"] == {
        "source": {"torch": "net:load"},
        "max_batch_size": 8,
        "dynamic_batching": {},
        "input": [{"name": "image", "data_type": "TYPE_FP32", "dims": [3, "height", "width"]}],
        "dynamic_dims": {
            "height": {"min": 8, "opt": 16, "max": 32},
            "width": {"min": 8, "opt": 16, "max": 32},
        },
    }
    built = tritonsmith("build")
    assert built.returncode == 0, built.stderr


@pytest.mark.nightly
def test_a_module_that_mixes_its_rows_is_not_batched(tmp_path: Path, tritonsmith: Run) -> None:
    torch_net()
    make_callable(tmp_path)
    assert tritonsmith("init", "net:mixes").returncode == 0
    text = (tmp_path / "models.yaml").read_text()
    assert yaml.safe_load(text)["models"]["mixes"]["max_batch_size"] == 0
    assert "# not batched: row" in text
    assert tritonsmith("build").returncode == 0


BAD = [
    ("no module", "nte:load", "module_not_found", ("did you mean 'net'?", "PYTHONPATH")),
    ("no callable", "net:laod", "attribute_not_found", ("did you mean 'load'?",)),
    (
        "not a pair",
        "net:only_the_module",
        "source_returned",
        ("return module, (torch.zeros(1, …),)", "image"),
    ),
    ("a callable that raises", "net:fails", "callable_failed", ("net.py:28", "KeyError")),
    ("a module that cannot be imported", "broken:load", "import_failed", ("broken.py:2", "no_such_package")),
]


@pytest.mark.parametrize(
    ("origin", "code", "words"),
    [
        pytest.param(*row[1:], id=row[0], marks=[] if row[2] == "import_failed" else pytest.mark.nightly)
        for row in BAD
    ],
)
def test_a_bad_callable_is_one_clear_error(
    tmp_path: Path, tritonsmith: Run, origin: str, code: str, words: tuple[str, ...]
) -> None:
    torch_net()
    make_callable(tmp_path)
    (tmp_path / "broken.py").write_text("import os\nimport no_such_package\ndef load(): ...\n")
    told = tritonsmith("init", origin)
    assert told.returncode == 1 and f"error[{code}]" in told.stderr, told.stderr
    assert all(word in told.stderr for word in words), told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "models.yaml").exists()


def test_another_schema_is_not_replaced_unasked(tmp_path: Path, tritonsmith: Run) -> None:
    make_program_of_triton(tmp_path)
    (tmp_path / "models.schema.json").write_text("mine")
    refused = tritonsmith("init", "upper.py", "--schema")
    assert refused.returncode == 2 and "schema_exists" in refused.stderr
    assert (tmp_path / "models.schema.json").read_text() == "mine"
    assert not (tmp_path / "models.yaml").exists()
    assert tritonsmith("init", "upper.py").returncode == 0
    assert (tmp_path / "models.schema.json").read_text() == "mine"


def test_what_init_advises_for_a_language_model_is_within_its_context(tmp_path: Path) -> None:
    drafted = language_model("chat", "chat.gguf", tiny_gguf(tmp_path / "chat.gguf"))
    assert f"max_model_len: {CONTEXT_LENGTH}," in drafted.remarks[1]
