"""What a GGUF file, a Hugging Face directory and a name on the hub say of a language model, and what is refused of them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from tests.tiny_gguf import CONTEXT_LENGTH, tiny_gguf
from tritonsmith.builder.base.errors import SpecError
from tritonsmith.builder.llm.gguf import GgufProblem, read_gguf
from tritonsmith.builder.llm.weights import HubName, hub_name, is_pinned, read_weights

COMMIT = "0123456789abcdef" * 2 + "01234567"


def decoder(directory: Path, **config: object) -> Path:
    """A Hugging Face directory whose files only look like one: nothing here loads it."""
    directory.mkdir(parents=True)
    told = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 512,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(told))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def gguf_of(architecture: str, *, version: int = 3, more: bytes = b"", keys: int = 1) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, 0, keys)
    return head + text("general.architecture") + struct.pack("<I", 8) + text(architecture) + more + bytes(64)


def test_a_gguf_says_its_architecture_its_longest_text_and_whether_it_chats(tmp_path: Path) -> None:
    for chat in (True, False):
        weights = read_weights(tiny_gguf(tmp_path / f"{chat}.gguf", chat_template=chat))
        assert (weights.form, weights.architecture, weights.positions) == ("gguf", "llama", CONTEXT_LENGTH)
        assert weights.chat_template is chat
        assert list(weights.files) == [f"{chat}.gguf"]


@pytest.mark.parametrize("kept", [3, 12, 40, 400, 0.5, 0.9999])
def test_a_gguf_that_was_cut_off_is_refused_wherever_it_was(tmp_path: Path, kept: float) -> None:
    whole = tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    size = kept if isinstance(kept, int) else int(len(whole) * kept)
    cut.write_bytes(whole[:size])
    with pytest.raises(GgufProblem):
        read_gguf(cut)


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (b"PK\3\4 something else", "not_gguf", "does not begin with `GGUF`"),
        (b"", "not_gguf", "GGUF"),
        (gguf_of("llama", version=9), "not_gguf", "version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60), "not_gguf", "cut off"),
        (gguf_of("clip"), "unknown_architecture", "clip"),
        (gguf_of("lama"), "unknown_architecture", "did you mean 'llama'?"),
        (
            gguf_of("llama", keys=2, more=text("split.count") + struct.pack("<IH", 2, 3)),
            "split_gguf",
            "--merge",
        ),
    ],
)
def test_a_file_that_no_engine_reads_is_refused_with_what_it_is(
    tmp_path: Path, content: bytes, code: str, told: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_weights(tmp_path / "m.gguf")
    assert caught.value.code == code and told in str(caught.value)


def test_a_directory_gives_the_files_that_engines_read_and_the_weights_once(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m")
    for name in ("pytorch_model.bin", "model.onnx", "README.md", ".gitattributes", "chat_template.jinja"):
        (model / name).write_text("x")
    weights = read_weights(model)
    assert sorted(weights.files) == [
        f"m/{name}" for name in ("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json")
    ]
    assert (weights.weight_bytes, weights.positions, weights.chat_template) == (7, 512, True)


@pytest.mark.parametrize(
    ("lost", "code"),
    [("config.json", "no_model"), ("tokenizer.json", "no_tokenizer"), ("model.safetensors", "no_weights")],
)
def test_a_directory_that_lacks_a_part_is_refused(tmp_path: Path, lost: str, code: str) -> None:
    (decoder(tmp_path / "m") / lost).unlink()
    with pytest.raises(SpecError) as caught:
        read_weights(tmp_path / "m")
    assert caught.value.code == code


def test_a_download_that_was_broken_off_between_two_files_is_refused(tmp_path: Path) -> None:
    model = decoder(tmp_path / "m")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SpecError, match=r"model-2\.safetensors"):
        read_weights(model)


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["BertForSequenceClassification"]},
        {"is_encoder_decoder": True},
        {"architectures": []},
    ],
)
def test_a_model_that_writes_no_text_is_refused(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(SpecError) as caught:
        read_weights(decoder(tmp_path / "m", **config))
    other = "python" if config.get("is_encoder_decoder") else "transformers"
    assert caught.value.code == "unknown_architecture" and other in str(caught.value.fix)


def test_a_link_to_a_file_elsewhere_is_not_published_but_the_hubs_cache_may_have_them(tmp_path: Path) -> None:
    secret = tmp_path / "home" / "key.txt"
    secret.parent.mkdir()
    secret.write_text("secret")
    model = decoder(tmp_path / "work" / "models" / "m")
    (model / "notes.txt").symlink_to(secret)
    with pytest.raises(SpecError, match="outside of the model's directory"):
        read_weights(model)

    cached = decoder(tmp_path / "hub" / "models--a--b" / "snapshots" / COMMIT)
    blob = cached.parents[1] / "blobs" / "1"
    blob.parent.mkdir()
    (cached / "model.safetensors").rename(blob)
    (cached / "model.safetensors").symlink_to(os.path.relpath(blob, cached))
    assert read_weights(cached).weight_bytes == 7


@pytest.mark.parametrize(
    ("reference", "name", "pinned"),
    [
        ("a/b", HubName("a/b", None), False),
        ("a/b@main", HubName("a/b", "main"), False),
        (f"a/b@{COMMIT}", HubName("a/b", COMMIT), True),
        ("./a/b", None, False),
        ("/a/b", None, False),
        ("a/b.gguf", None, False),
        ("a", None, False),
    ],
)
def test_what_may_be_a_name_on_the_hub(reference: str, name: HubName | None, pinned: bool) -> None:
    assert hub_name(reference) == name
    assert name is None or is_pinned(name) is pinned
