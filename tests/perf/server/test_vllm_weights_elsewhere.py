"""A model.json that names its weights as a server in a container sees them → the same files, where this server has them;
a damaged file → the words for it."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tritonsmith.perf.server
from tests.tiny_gguf import tiny_gguf


def loaded() -> ModuleType:
    file = Path(tritonsmith.perf.server.__file__).with_name("backends") / "vllm" / "vllm_weights.py"
    spec = importlib.util.spec_from_file_location("vllm_weights_elsewhere", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_path_of_the_container_is_the_file_beside_model_json(tmp_path: Path) -> None:
    weights, version = loaded(), tmp_path / "chat__arm" / "1"
    version.mkdir(parents=True)
    tiny_gguf(version / "m.gguf")
    for model in ("m.gguf", "/no/such/place/chat/1/m.gguf", str(version / "m.gguf")):
        assert weights.find(model, version).path == version / "m.gguf"
    other = tiny_gguf(tmp_path / "other.gguf")
    assert weights.find(str(other), version).path == other  # what is there is meant


@pytest.mark.parametrize(
    "model", ["/no/such/chat/1/n.gguf", "/no/such/chat/1", "/no/such/chat/2/m.gguf", "/no/m.gguf"]
)
def test_a_path_that_is_nowhere_is_told_as_it_is_written(tmp_path: Path, model: str) -> None:
    weights, version = loaded(), tmp_path / "chat" / "1"
    version.mkdir(parents=True)
    tiny_gguf(version / "m.gguf")
    with pytest.raises(weights.WeightsRefused, match=model):
        weights.find(model, version)


def test_a_name_beyond_ascii_is_found_where_the_interpreter_knows_ascii_alone(tmp_path: Path) -> None:
    """As Triton's stub does, whatever the server's locale."""
    version = tmp_path / "1"
    version.mkdir()
    tiny_gguf(version / "größe.gguf")
    program = (
        "import json, sys, vllm_weights\n"
        "assert sys.getfilesystemencoding() == 'ascii', sys.getfilesystemencoding()\n"
        "found = vllm_weights.find(json.loads(sys.argv[1]), sys.argv[2])\n"
        "sys.stdout.buffer.write(vllm_weights.shown(found.path).encode())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, r'"gr\u00f6\u00dfe.gguf"', str(version)],
        cwd=Path(tritonsmith.perf.server.__file__).parent / "backends" / "vllm",
        env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    assert ran.stdout.decode() == str(version / "größe.gguf"), ran.stderr.decode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"general.alignment", struct.pack("<II", 4, 0)),
        (b"general.alignment", struct.pack("<IQ2s", 8, 2, b"32")),
        (b"list", struct.pack("<IIQ", 9, 10, 1 << 62)),
        (b"lists", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000),
        (b"number", struct.pack("<I", 99)),
    ],
    ids=["no alignment", "alignment a text", "endless list", "lists of lists", "unknown type"],
)
def test_metadata_that_makes_no_sense_is_a_damaged_file(tmp_path: Path, key: bytes, value: bytes) -> None:
    def text(words: bytes) -> bytes:
        return struct.pack("<Q", len(words)) + words

    pairs = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama") + text(key) + value
    tensor = text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 0)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 2) + pairs + tensor + bytes(64))
    weights = loaded()
    with pytest.raises(weights.WeightsRefused, match="damaged"):
        weights.find("m.gguf", tmp_path)
