"""perf_analyzer's input-data files: what each form becomes, and what is said of a wrong one."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritonsmith.builder.base.errors import UsageError
from tritonsmith.perf.data import (
    DataOptions,
    ModelInterface,
    Pool,
    interface_from_metadata,
    pool_from_options,
)
from tritonsmith.perf.data.distribution import Normal, Span
from tritonsmith.perf.wire.payload import array_from_raw


def interface(
    max_batch_size: int = 8, sequences: bool = False, **inputs: tuple[str, list[int]]
) -> ModelInterface:
    lead = [-1] if max_batch_size else []
    metadata = {
        "name": "m",
        "inputs": [{"name": n, "datatype": d, "shape": lead + s} for n, (d, s) in inputs.items()],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [*lead, 2]}],
    }
    config: dict[str, Any] = {"max_batch_size": max_batch_size}
    return interface_from_metadata(metadata, config | ({"sequence_batching": {}} if sequences else {}))


def pool(tmp_path: Path, document: Any, model: ModelInterface, **options: Any) -> Pool:
    path = tmp_path / "data.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return pool_from_options(model, DataOptions(file=path, **options))


def values(made: Pool, name: str = "x") -> list[Any]:
    return [
        array_from_raw(t.datatype, t.shape, t.data).tolist()
        for p in made.payloads
        for t in p.inputs
        if t.name == name
    ]


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


RAW = np.array([1, 2, 3, 4], "<i4").tobytes()


@pytest.mark.parametrize(
    "tensor",
    [
        [1, 2, 3, 4],
        [[1, 2], [3, 4]],
        {"content": [1, 2, 3, 4]},
        {"content": [1, 2, 3, 4], "shape": [2, 2]},
        b64(RAW),
        {"content": b64(RAW), "shape": [2, 2]},
        {**b64(RAW), "shape": [2, 2]},
    ],
    ids=str,
)
def test_every_form_of_a_tensor_is_read(tmp_path: Path, tensor: Any) -> None:
    made = pool(tmp_path, {"data": [{"x": tensor}]}, interface(x=("INT32", [2, -1])))
    assert values(made) == [[[[1, 2], [3, 4]]]]


@pytest.mark.parametrize(
    ("datatype", "content", "want"),
    [
        ("BYTES", ["ab", "ü"], [b"ab", "ü".encode()]),
        ("BYTES", b64(struct.pack("<I2sI1s", 2, b"ab", 1, b"c")), [b"ab", b"c"]),
        ("BOOL", [True, 0], [True, False]),
        ("FP16", [0.5, 1], [0.5, 1.0]),
        ("BF16", [1.0, 2.0], [0x3F80, 0x4000]),
        ("UINT64", [0, 2**64 - 1], [0, 2**64 - 1]),
    ],
)
def test_dtypes(tmp_path: Path, datatype: str, content: Any, want: list[Any]) -> None:
    if isinstance(content, dict):  # the padding of struct's own alignment is not on the wire
        content = b64(struct.pack("<I", 2) + b"ab" + struct.pack("<I", 1) + b"c")
    assert values(pool(tmp_path, {"data": [{"x": content}]}, interface(x=(datatype, [2])))) == [[want]]


def test_streams_keep_their_steps_and_their_expected_outputs(tmp_path: Path) -> None:
    document = {
        "data": [[{"x": [1]}, {"x": [2]}], [{"x": [3]}]],
        "validation_data": [[{"y": [1, 1]}, {"y": [2, 2]}], [{"y": [3, 3]}]],
    }
    made = pool(tmp_path, document, interface(sequences=True, x=("INT32", [1])))
    assert made.streams == ((0, 1), (2,))
    assert values(made) == [[[1]], [[2]], [[3]]]
    assert [p.expected["y"].tolist() for p in made.payloads if p.expected] == [[[1, 1]], [[2, 2]], [[3, 3]]]


def test_a_batch_takes_steps_together_but_never_out_of_a_stream(tmp_path: Path) -> None:
    steps = {"data": [{"x": [1]}, {"x": [2]}, {"x": [3]}, {"x": [4]}]}
    plain = pool(tmp_path, steps, interface(x=("INT32", [1])), batch_size=2)
    assert values(plain) == [[[1], [2]], [[3], [4]]]
    stream = pool(tmp_path, steps, interface(sequences=True, x=("INT32", [1])), batch_size=2)
    assert values(stream) == [[[1], [1]], [[2], [2]], [[3], [3]], [[4], [4]]]
    assert stream.streams == ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ('{"data": [}', "bad_data", "data.json:1"),
        ([], "bad_data", "`data` is to be a list"),
        ({"data": []}, "bad_data", "holds something"),
        ({"data": [{"x": [1, 2]}], "dta": 1}, "bad_data", "`dta`"),
        ({"data": [{"x": [1, 2, 3]}]}, "bad_data", "3 values do not fill `x`"),
        ({"data": [{"x": [1, 2.5]}]}, "bad_data", "`data[0].x` is to hold values of INT32"),
        ({"data": [{"x": [1, 2**40]}]}, "bad_data", "beyond INT32"),
        ({"data": [[{"x": [1, 2]}], [{"x": "§"}]]}, "bad_data", "`data[1][0].x`"),
        ({"data": [{"x": {"b64": "§"}}]}, "bad_data", "not base64"),
        ({"data": [{"x": {"b64": "AAA="}}]}, "bad_data", "2 bytes are not values of INT32"),
        ({"data": [{"x": {"content": [1, 2], "shape": [1, 2]}}]}, "bad_data", "shape"),
        ({"data": [{"x": {"contents": [1, 2]}}]}, "bad_data", "`contents`|contents"),
        ({"data": [{"X": [1, 2]}]}, "unknown_input", "X"),
        ({"data": [{}]}, "missing_input", "lack input"),
        ({"data": [{"x": [1, 2]}], "validation_data": [{"z": [1, 2]}]}, "unknown_output", "z"),
        ({"data": [{"x": [1, 2]}], "validation_data": [[{"y": [1, 2]}, {"y": [1, 2]}]]}, "bad_data", "steps"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, document: Any, code: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("[", r"\[").replace("(", r"\(")) as error:
        pool(tmp_path, document, interface(x=("INT32", [2])))
    assert error.value.code == code


def test_a_directory_of_binaries_may_hold_expected_outputs_and_takes_shapes_from_flags(
    tmp_path: Path,
) -> None:
    model = interface(x=("INT32", [-1, -1]))
    (tmp_path / "x").write_bytes(RAW)
    (tmp_path / "y").write_bytes(np.array([7, 8], "<f4").tobytes())
    with pytest.raises(UsageError, match="--shape x:"):
        pool_from_options(model, DataOptions(file=tmp_path))
    made = pool_from_options(
        model, DataOptions(file=tmp_path, batch_size=2, shapes={"x": (Span(2, 2), Span(2, 2))})
    )
    assert values(made) == [[[[1, 2], [3, 4]]] * 2]
    assert made.payloads[0].expected is not None
    assert made.payloads[0].expected["y"].tolist() == [[7, 8]] * 2


def test_sizes_follow_their_distribution() -> None:
    sizes = Normal(20, 5)
    model = interface(x=("INT32", [-1]))
    made = pool_from_options(model, DataOptions(pool=400, shapes={"x": (sizes,)}))
    drawn = [p.inputs[0].shape[1] for p in made.payloads]
    assert abs(np.mean(drawn) - 20) < 1.5 and abs(np.std(drawn) - 5) < 1 and min(drawn) >= 1
    rng = np.random.default_rng(0)
    assert min(Normal(1, 50).draw(rng) for _ in range(50)) == 1
