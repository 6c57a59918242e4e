"""Arrays by tensor name ↔ a SampleSet in one .npz file without pickle; and an example → inputs like it."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.config import with_config
from typing_extensions import TypedDict

from tritonsmith.builder.base.errors import BuildError, Where, unknown
from tritonsmith.builder.base.files.disk import replacing
from tritonsmith.builder.base.files.npz import read_npz
from tritonsmith.builder.base.files.untrusted import STRICT, parsed
from tritonsmith.builder.base.tensors import dtype_from_numpy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tritonsmith.builder.base.tensors import TensorSpec

    Array = NDArray[Any]

FORMAT = "tritonsmith-samples-1"
_HEADER = "__header__"

MADE_UP = "generated"
MADE_UP_SAMPLES = 3
"""Requests that are drawn where nobody stated any, and the batch size does not set their number."""
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error)


@dataclass(frozen=True, slots=True)
class Sample:
    """One request's worth of tensors.

    inputs, outputs: name → array with the whole shape, batch dimension included. outputs are the source
    model's own answers; empty until they were computed. BYTES tensors are object arrays of `bytes`.
    label: says where the sample comes from, in reports.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    label: str = ""


@dataclass(frozen=True, slots=True)
class SampleSet:
    """Samples of one model.

    origin: `generated, seed 0`, or the callable or file they came from.
    """

    samples: tuple[Sample, ...]
    origin: str = ""

    @property
    def is_made_up(self) -> bool:
        """Whether the inputs were drawn, since nobody stated any."""
        return self.origin.startswith(MADE_UP)


def runs_no_code(reference: str | None) -> bool:
    """Whether samples as the spec states them come from a file, or from nowhere, and not from a callable of the user's."""
    return reference is None or reference.endswith(".npz")


def other_names(given: Collection[str], wanted: Collection[str]) -> tuple[str, dict[str, Any]] | None:
    """How a sample's names differ from the inputs, with the error's `seen`, `valid` and `fix`; None when they do not."""
    for name in sorted({*given} ^ {*wanted}):
        if name in given:
            return f"has an unknown input {name}", unknown(name, wanted)
        return f"lacks input {name}", {"seen": sorted(given), "valid": list(wanted)}
    return None


def misfit(array: Array, tensor: TensorSpec) -> dict[str, Any] | None:
    """`seen`, `valid` and `fix` of an array that an input does not take: another type or shape, or empty; None when it fits."""
    try:
        same_dtype = dtype_from_numpy(array.dtype.name) == tensor.dtype
    except KeyError:
        same_dtype = False
    fits = len(array.shape) == len(tensor.shape) and all(
        not isinstance(dim, int) or dim < 0 or dim == size
        for dim, size in zip(tensor.shape, array.shape, strict=True)
    )
    if same_dtype and fits and array.size:
        return None
    return {
        "seen": f"{array.dtype.name} {list(array.shape)}",
        "valid": [f"{tensor.dtype.numpy} {list(tensor.shape)}"],
        "fix": None if same_dtype else f"convert it: array.astype({tensor.dtype.numpy!r})",
    }


def array_of(value: Any) -> Array:
    """What a samples callable returns as one value, a torch tensor too → its array."""
    import numpy as np

    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def save_samples(samples: SampleSet, path: Path) -> None:
    """Writes the set as an .npz, under a temporary name first.

    Layout: member `__header__` is UTF-8 JSON {format, origin, samples: [{label, inputs, outputs}]}, each
    tensor there {name, dtype, shape, key}; `key` names the member that holds its values. Tensor names stay
    out of member names, since ONNX allows `/` and `:` in them. A BYTES tensor is a uint8 member: each
    element's length as 4 bytes little endian, then its bytes, as the KServe v2 binary extension writes it.
    """
    import numpy as np

    members: dict[str, Any] = {}

    def entry(name: str, array: Array) -> dict[str, object]:
        key = f"t{len(members)}"
        is_bytes = array.dtype == object
        members[key] = _packed_bytes(array) if is_bytes else np.asarray(array, order="C")
        return {
            "name": name,
            "dtype": "bytes" if is_bytes else array.dtype.name,
            "shape": list(array.shape),
            "key": key,
        }

    header = {
        "format": FORMAT,
        "origin": samples.origin,
        "samples": [
            {
                "label": sample.label,
                "inputs": [entry(name, array) for name, array in sample.inputs.items()],
                "outputs": [entry(name, array) for name, array in sample.outputs.items()],
            }
            for sample in samples.samples
        ],
    }
    members[_HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **members)


def load_samples(path: Path, limit_bytes: int | None = None) -> SampleSet:
    """Reads what save_samples wrote, or a plain .npz made by hand.

    limit_bytes: of all arrays together, of a file that a stranger may have made: a zip of a few bytes holds any number.

    A plain file holds either one array for each input (`input_ids`, …), together one sample, or several
    samples as `0/input_ids`, `1/input_ids`, …. Pickled members are refused: BuildError, code
    `samples_unreadable`, as for anything that is no .npz.
    """
    try:
        members = read_npz(path, limit_bytes)
        alien = next((name for name, array in members.items() if isinstance(array, bytes)), None)
        if alien is not None:
            raise ValueError(f"{alien!r:.80} in it is no array")
        if _HEADER in members:
            return _set_from_header(members)
        return _set_from_plain(members, path)
    except FileNotFoundError:
        raise BuildError(
            "the samples file does not exist", code="samples_missing", where=Where(path), fix="check the path"
        ) from None
    except _UNREADABLE as error:
        raise BuildError(
            f"the samples file cannot be read: {error!s:.300}",
            code="samples_unreadable",
            where=Where(path),
            fix="write it with numpy.savez(file, **{input name: array}); strings as dtype S or U",
        ) from error


def _set_from_header(members: Mapping[str, Array]) -> SampleSet:
    header = parsed(_Header, members[_HEADER].tobytes())

    def tensors(entries: Sequence[_Entry]) -> dict[str, Array]:
        return {entry["name"]: _array(entry, members[entry["key"]]) for entry in entries}

    samples = tuple(
        Sample(tensors(item["inputs"]), tensors(item["outputs"]), item["label"]) for item in header["samples"]
    )
    return SampleSet(samples, header["origin"])


@with_config(STRICT)
class _Entry(TypedDict):
    name: str
    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]
    key: str


@with_config(STRICT)
class _Sample(TypedDict):
    label: str
    inputs: list[_Entry]
    outputs: list[_Entry]


@with_config(STRICT)
class _Header(TypedDict):
    format: Literal["tritonsmith-samples-1"]
    origin: str
    samples: list[_Sample]


def _array(entry: _Entry, member: Array) -> Array:
    if entry["dtype"] == "bytes" and member.dtype.name == "uint8":
        return _unpacked_bytes(member, entry["shape"])
    if member.dtype.name != entry["dtype"] or list(member.shape) != entry["shape"]:
        raise ValueError(
            f"{entry['name']!r:.80} is {member.dtype.name} {list(member.shape)}, and not as stated"
        )
    return member


def _set_from_plain(members: Mapping[str, Array], path: Path) -> SampleSet:
    if not members:
        raise ValueError("it holds no arrays")
    arrays = {key: bytes_as_object(array) for key, array in members.items()}
    if all(key.partition("/")[0].isdigit() and "/" in key for key in arrays):
        grouped: dict[int, dict[str, Array]] = {}
        for key, array in arrays.items():
            index, _, name = key.partition("/")
            grouped.setdefault(int(index), {})[name] = array
        samples = [Sample(grouped[index], {}, f"{path.name}[{index}]") for index in sorted(grouped)]
    else:
        samples = [Sample(arrays, {}, path.name)]
    return SampleSet(tuple(samples), str(path))


def bytes_as_object(array: Array) -> Array:
    """A NumPy `S` or `U` array → an object array of bytes, as BYTES tensors are held; others unchanged."""
    import numpy as np

    if array.dtype.kind not in "SUO":
        return array
    flat = [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(array.shape)


def _packed_bytes(array: Array) -> Array:
    import numpy as np

    parts = bytearray()
    for item in bytes_as_object(array).reshape(-1).tolist():
        parts += struct.pack("<I", len(item)) + item
    return np.frombuffer(bytes(parts), dtype=np.uint8)


def _unpacked_bytes(packed: Array, shape: Sequence[int]) -> Array:
    import numpy as np

    data, items, at = packed.tobytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            raise ValueError("a string is longer than its member")
        items.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out.reshape(tuple(shape))


def batches_from_samples(
    samples: Sequence[Mapping[str, Array]], batch_sizes: Sequence[int], max_batch_size: int
) -> list[dict[str, Array]]:
    """Stated samples → the same rows in requests a batching model takes.

    A sample of more than max_batch_size rows is cut. Then, for each size in batch_sizes that no sample has,
    one request of that many rows is made from the samples whose other dimensions agree with the first
    one's; rows repeat only when there are fewer than asked.
    """
    import numpy as np

    cut: list[dict[str, Array]] = []
    for sample in samples:
        rows = next(iter(sample.values())).shape[0]
        cut += [
            {name: array[start : start + max_batch_size] for name, array in sample.items()}
            for start in range(0, rows, max_batch_size)
        ]
    if not cut:
        return []
    trailing = [{name: array.shape[1:] for name, array in sample.items()} for sample in cut]
    alike = [sample for sample, shapes in zip(cut, trailing, strict=True) if shapes == trailing[0]]
    pool = {name: np.concatenate([sample[name] for sample in alike]) for name in cut[0]}
    rows = next(iter(pool.values())).shape[0]
    have = {next(iter(sample.values())).shape[0] for sample in cut}
    for size in batch_sizes:
        if size not in have:
            have.add(size)
            cut.append({name: array[np.arange(size) % rows] for name, array in pool.items()})
    return cut


def values_like(example: Array, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Values of `shape` drawn to resemble `example`, never copied from it.

    Floats: normal with the example's finite mean and standard deviation, clipped to its range when all its
    values have one sign (a square root or a logarithm stays defined). A constant example gives 10 % of its
    magnitude as deviation, or 1 when it is zero. Integers: uniform over the example's minimum..maximum.
    Booleans: even odds. BYTES: drawn from the example's elements.
    """
    import numpy as np

    size = tuple(shape)
    if example.dtype == object:
        pool = np.empty(max(example.size, 1), dtype=object)
        pool[:] = example.reshape(-1).tolist() or [b"sample"]
        chosen: Array = pool[rng.integers(0, len(pool), size)]
        return chosen
    if example.dtype == np.bool_:
        return rng.integers(0, 2, size).astype(np.bool_)
    if example.dtype.kind in "iu":
        low, high = (int(example.min()), int(example.max())) if example.size else (0, 1)
        drawn: Array = rng.integers(low, high, size, dtype=example.dtype, endpoint=True)
        return drawn
    finite = example[np.isfinite(example)].astype(np.float64)
    mean, deviation = (float(finite.mean()), float(finite.std())) if finite.size else (0.0, 1.0)
    if deviation == 0:
        deviation = abs(mean) * 0.1 or 1.0
        one_sided = False
    else:
        one_sided = bool((finite >= 0).all() or (finite <= 0).all())
    values = rng.normal(mean, deviation, size)
    if one_sided:
        values = values.clip(float(finite.min()), float(finite.max()))
    out: Array = values.astype(example.dtype)
    return out
