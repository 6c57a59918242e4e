"""Damaged configs and ONNX files: a finding or a clean pass, never a traceback, never more than a second."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.builder.lint.fixtures import fixtures, onnx_bytes
from tritonsmith.builder.lint.check import check

SEED = 20260821
TOKENS = ["{", "}", "[", "]", "<", ">", ":", ",", ";", '"', "'", "#", "\\", "-", "-1", "0", "1e400", "nan", "inf",
          "99999999999999999999", "true", "\n", "\x00", "\x1b", "é", "�", "input", "name", "key", "value", "dims",
          "KIND_GPU", "TYPE_FP32", "ensemble_scheduling", "dynamic_batching", "/*", "0x7fffffff", "'\"'", '"\\x']  # fmt: skip


def mutated_text(text: str, rng: random.Random) -> bytes:
    data = text
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        match rng.randint(0, 5):
            case 0:
                data = data[:at] + rng.choice(TOKENS) + data[at:]
            case 1:
                data = data[:at] + data[at + rng.randint(1, 20) :]
            case 2:
                data = data[:at] + data[max(0, at - 40) : at] * rng.randint(1, 30) + data[at:]
            case 3:
                data = data[:at] + chr(rng.randint(0, 0x24F)) + data[at + 1 :]
            case 4:
                words = data.split(" ")
                rng.shuffle(words)
                data = " ".join(words)
            case _:
                data = data[:at] + rng.choice("{[<(\"'") * rng.randint(1, 2000) + data[at:]
    raw = bytearray(data.encode("utf-8", "surrogatepass"))
    if raw and rng.random() < 0.2:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(raw))
        match rng.randint(0, 3):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 30)]
            case 2:
                raw[at:at] = rng.randbytes(rng.randint(1, 12))
            case _:
                raw[at] |= 0x80
        if not raw:
            return b""
    return bytes(raw)


def run(count: int, seed: int, root: Path) -> None:
    rng = random.Random(seed)
    texts = [
        (content if isinstance(content, str) else content.decode())
        for pair in fixtures().values()
        for tree in (pair.bad, pair.good)
        for name, content in tree.files.items()
        if name.endswith("config.pbtxt")
    ]
    whole = onnx_bytes(
        {"x": ("FLOAT", ("batch", 4)), "i": ("INT64", (3,))}, {"y": ("FLOAT", ("batch", 4))}, external="w"
    )
    config, graph = root / "m" / "config.pbtxt", root / "m" / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    for number in range(count):
        text = mutated_text(rng.choice(texts), rng)
        data = mutated_bytes(whole, rng)
        if number % 2:
            text = b'backend: "onnxruntime"\n' + (text if number % 4 == 1 else b"")
        config.write_bytes(text)
        graph.write_bytes(data)
        started = time.process_time()
        try:
            check([root])
        except Exception as error:
            raise AssertionError(f"seed {seed}, number {number}: {text!r} {data!r}") from error
        assert time.process_time() - started < 1.0, f"seed {seed}, number {number} took too long"


def test_two_thousand_mutations(tmp_path: Path) -> None:
    run(2_000, SEED, tmp_path)


@pytest.mark.slow
@pytest.mark.nightly
def test_ten_thousand_mutations(tmp_path: Path) -> None:
    run(10_000, SEED + 1, tmp_path)
