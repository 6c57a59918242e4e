"""The JSON Schema in an editor: what yaml-language-server shows of it on hovering, completes, and marks as wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tests.language_server import LanguageServer
from tritonsmith.builder.importing.guide import SCHEMA_FILE, SCHEMA_LINE
from tritonsmith.builder.spec.json_schema import json_schema

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine: Node.js brings it"),
]

TEXT = f"""{SCHEMA_LINE}
models:
  minilm:
    source: {{torch: "minilm:load"}}
    opset: 19
    dynamic_batching:
      max_queue_delay_microseconds: 500
    instance_group: [{{kind: KIND_CPU, count: 2}}]
    dynamic_dims: {{both: past + new}}
    variants:
      small: {{precision: fp16}}
    accuracy: {{cosine: 0.99}}
    parameters: {{threads: 4}}
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    place = tmp_path_factory.mktemp("node")
    subprocess.run(
        ["npm", "install", "--silent", "--prefix", str(place), "yaml-language-server@1"], check=True
    )
    return [str(place / "node_modules" / ".bin" / "yaml-language-server")]


@pytest.fixture
def editor(command: list[str], tmp_path: Path) -> Iterator[LanguageServer]:
    (tmp_path / SCHEMA_FILE).write_text(json.dumps(json_schema()))
    with LanguageServer(command, tmp_path) as server:
        yield server


def place_of(text: str, word: str) -> tuple[int, int]:
    before = text[: text.index(word)]
    return before.count("\n"), len(before) - before.rfind("\n")


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("minilm:\n", "A model: where it comes from, and any field of Triton's ModelConfig beside that."),
        ("opset", "ONNX opset of an export from torch. Default: 20."),
        ("max_queue", "How long a request may wait for others to fill its batch; 0: run what is there."),
        ("kind", "KIND_CPU, KIND_GPU, KIND_MODEL (the backend decides), or KIND_AUTO: on GPUs where there"),
        ("both", "Each named dynamic dimension: its range, or what it follows from"),
        ("small", "One way to run a model: a backend at a precision."),
        ("precision", "What it computes in; see docs/precision.md. Default: fp32."),
        ("cosine", "Smallest cosine similarity of a row."),
        ("threads", "Name → value that the backend reads"),
    ],
)
def test_hovering_shows_a_sentence_and_the_default_first(
    editor: LanguageServer, tmp_path: Path, word: str, shown: str
) -> None:
    uri = editor.opens(tmp_path / "models.yaml", TEXT)
    said = editor.hover(uri, *place_of(TEXT, word)).replace("\\_", "_")
    assert said.startswith(shown) and "||" not in said


def test_keys_and_values_are_completed(editor: LanguageServer, tmp_path: Path) -> None:
    head = f"{SCHEMA_LINE}\nmodels:\n  m:\n    "
    begun = head + "dynamic_batching:\n      "
    keys = editor.completions(editor.opens(tmp_path / "keys.yaml", begun), 4, 6)
    assert keys["preserve_ordering"] == "Answer in the order of arrival."
    begun = head + "variants: {a: {precision: }}"
    values = editor.completions(editor.opens(tmp_path / "values.yaml", begun), 3, 30)
    assert {"fp16", "int8"} <= values.keys()


def test_what_is_wrong_is_marked_where_it_stands(editor: LanguageServer, tmp_path: Path) -> None:
    wrong = TEXT.replace("max_queue_delay_microseconds", "max_queue_delay").replace("fp16", "fp61")
    said = editor.diagnostics(editor.opens(tmp_path / "models.yaml", wrong + "  other: {opset: 20}\n"))
    assert [re.sub(r"Valid values.*", "…", one) for one in sorted(said)] == [
        "11: Value is not accepted. …",
        '14: Missing property "source".',
        "7: Property max_queue_delay is not allowed.",
    ]


def test_nothing_is_wrong_in_what_init_writes_and_in_the_demos(
    editor: LanguageServer, tmp_path: Path, tritonsmith: Run
) -> None:
    (tmp_path / "mymodel.py").write_text(
        "import torch\n\ndef load():\n    return torch.nn.Linear(4, 2), torch.zeros(1, 4)\n"
    )
    assert tritonsmith("init", "mymodel:load").returncode == 0
    written = (tmp_path / "models.yaml").read_text()
    assert written.startswith(SCHEMA_LINE)
    assert editor.diagnostics(editor.opens(tmp_path / "models.yaml", written)) == []
    demo = SCHEMA_LINE + "\n" + (ROOT / "examples" / "demo" / "models.yaml").read_text()
    assert editor.diagnostics(editor.opens(tmp_path / "demo.yaml", demo)) == []
