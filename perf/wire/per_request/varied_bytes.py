"""A pool of payloads → requests without end, each number's its own bytes: encoded once, a few bytes of an input then changed.

What is changed means the same to a model, or near enough, and costs it the same: the low bits of a few floats, blanks
behind a string, whole numbers within the range that the pool has for their input.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.builder.base.tensors import dtype_from_kserve
from tritonsmith.perf.wire.payload import InferPayload, WireTensor

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]

ENOUGH = 1 << 56
"""Different requests: two that are drawn from so many are not the same one."""
_MANTISSA_BITS = {"FP16": 10, "BF16": 7, "FP32": 23, "FP64": 52}
# So few of the mantissa's bits that a value changes by 2^-8 at most (BF16: 2^-7), where there are floats enough.
_LOW_BITS = {"FP16": 2, "BF16": 1, "FP32": 8, "FP64": 16}
_EXPONENT_BITS = {"FP16": 5, "BF16": 8, "FP32": 8, "FP64": 11}
# What a zero becomes: with low bits set it would be a denormal number, with which some processors are slow.
_SMALL = {"FP16": 0x1400, "BF16": 0x3A80, "FP32": 0x3A800000, "FP64": 0x3F50000000000000}
# JSON's white space: it ends a document, a word and a number alike.
_BLANKS = np.frombuffer(b" \t\n\r", np.uint8)
_BLANKS_APPENDED = 28
_LOOKED_AT = 4096
_WINDOW_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Places:
    """Elements of one input, the same of every payload, and what each may become.

    elements: their places in the flattened input. radix: how many values each has. base: the value of digit 0.
    kind:     "float": the digit stands in the low bits; "whole": it is added to base; "blank": it names a blank.
    """

    name: str
    datatype: str
    kind: str
    elements: tuple[int, ...]
    radix: int
    base: int = 0

    @property
    def distinct(self) -> int:
        """Ways to fill them."""
        return int(self.radix ** len(self.elements))


class VariedRequests:
    """The requests of one client process.

    encode: as Target.encode does it. order: of the payloads, which take turns by number.
    """

    def __init__(
        self,
        encode: Callable[[InferPayload], bytes],
        payloads: Sequence[InferPayload],
        order: Sequence[int],
        first: int = 0,
    ) -> None:
        """first: the number that stands for 0; others are counted on from it, around the end."""
        prepared, self.places = prepared_payloads(payloads)
        self.distinct = distinct_of(self.places)
        self._first = first % max(1, self.distinct)
        self._order = np.asarray(order, np.int64)
        self._heads: list[bytes] = []
        self._tails: list[bytes] = []
        windows = []
        for payload in prepared:
            wire = encode(payload)
            found = _changed_bytes(encode, payload, self.places, wire)
            low, high = (int(found[0]), int(found[-1]) + 1) if len(found) else (0, 0)
            self._heads.append(wire[:low])
            windows.append(np.frombuffer(wire[low:high], np.uint8))
            self._tails.append(wire[high:])
            self._at = found - low
        self._windows = np.stack(windows)
        self._groups = list(self._grouped())

    def _grouped(self) -> Iterator[tuple[Places, npt.NDArray[np.int64], npt.NDArray[np.int64], Any]]:
        """(places, their bytes in the window, the weight of each digit, their bits in each payload)."""
        weight, at = 1, 0
        for places in self.places:
            size = _item_bytes(places)
            offsets = self._at[at : at + size * len(places.elements)].reshape(-1, size)
            at += offsets.size
            # No number reaches ENOUGH: a digit of that weight is 0.
            each = [min(weight * places.radix**j, ENOUGH) for j in range(len(places.elements))]
            weights, weight = np.array(each, np.int64), weight * places.distinct
            bits = np.ascontiguousarray(self._windows[:, offsets]).view(f"<u{size}")[..., 0]
            yield places, offsets, weights, bits

    def requests(self, blocks: Iterator[Ids]) -> Iterator[tuple[int, bytes]]:
        """(which payload, the request) for each number."""
        join, heads, tails = b"".join, self._heads, self._tails
        for ids in blocks:
            which = self._order[ids % len(self._order)]
            patches = self._patches((ids + self._first) % self.distinct, which)
            width = patches.shape[1]
            data, payloads = patches.tobytes(), which.tolist()
            for place, payload in enumerate(payloads):
                at = place * width
                yield payload, join((heads[payload], data[at : at + width], tails[payload]))

    def _patches(self, ids: Ids, which: npt.NDArray[np.int64]) -> Bytes:
        made = self._windows[which]
        for places, offsets, weights, bits in self._groups:
            digits = ids[:, None] // weights % places.radix
            if places.kind == "float":
                size = bits.dtype.itemsize
                mask = bits.dtype.type(~np.uint64(places.radix - 1) & np.uint64(2 ** (8 * size) - 1))
                values = (bits[which] & mask) | digits.astype(bits.dtype)
            elif places.kind == "blank":
                values = _BLANKS[digits]
            else:
                values = (places.base + _scattered(digits, places.radix)).astype(bits.dtype)
            made[:, offsets] = np.ascontiguousarray(values)[..., None].view(np.uint8)
        return made


def _scattered(digits: npt.NDArray[np.int64], radix: int) -> npt.NDArray[np.int64]:
    """Digits → digits, one to one, without the long runs of zeros that small numbers have."""
    step = max(1, round(radix * 0.618))
    while np.gcd(step, radix) != 1:
        step -= 1
    made = np.empty_like(digits)
    sum_ = np.zeros(len(digits), np.int64)
    for place in range(digits.shape[1]):
        # Less than 2^62: radices of more than 31 bits are cut.
        made[:, place] = (digits[:, place] * step + sum_ + place) % radix
        sum_ = (sum_ + made[:, place] * 7919) % radix
    return made


def distinct_of(places: Sequence[Places]) -> int:
    """How many different requests there are."""
    product = 1
    for each in places:
        product *= each.distinct
    return min(product, ENOUGH)


def words_for(places: Sequence[Places]) -> str:
    """`the low bits of 7 values of x`."""
    words = {
        "float": "the low bits of {} values",
        "whole": "{} values",
        "blank": "{} blanks behind the first string",
    }
    return ", ".join(f"{words[p.kind].format(len(p.elements))} of {p.name}" for p in places) or "nothing"


# What can be changed.


def prepared_payloads(payloads: Sequence[InferPayload]) -> tuple[list[InferPayload], tuple[Places, ...]]:
    """(payloads that can be changed in place, where). The second is empty when nothing may be changed.

    Strings have got room behind them, zeros among the floats that are changed became 2^-10. `expected` is gone: the
    answers to other requests are others.
    """
    names = [t.name for t in payloads[0].inputs]
    common = [n for n in names if all(n in {t.name for t in p.inputs} for p in payloads)]
    columns = {name: [_tensor(p, name) for p in payloads] for name in common}
    places = _chosen(columns)
    ready = [
        replace(
            payload,
            expected=None,
            inputs=tuple(
                _prepared(t, next((p for p in places if p.name == t.name), None)) for t in payload.inputs
            ),
        )
        for payload in payloads
    ]
    return ready, places


def _tensor(payload: InferPayload, name: str) -> WireTensor:
    return next(t for t in payload.inputs if t.name == name)


def _chosen(columns: Mapping[str, Sequence[WireTensor]]) -> tuple[Places, ...]:
    """One input where that is enough: floats first, then strings, then whole numbers with the widest range."""
    floats = [_float_places(name, c) for name, c in columns.items() if c[0].datatype in _LOW_BITS]
    whole = [
        _whole_places(name, c)
        for name, c in columns.items()
        if c[0].datatype not in _LOW_BITS and c[0].datatype != "BYTES"
    ]
    found = [p for p in floats if p is not None]
    texts = [
        Places(name, "BYTES", "blank", tuple(range(_BLANKS_APPENDED)), len(_BLANKS))
        for name, c in columns.items()
        if c[0].datatype == "BYTES" and all(t.data for t in c)
    ]
    wide = sorted((p for p in whole if p is not None), key=lambda p: -p.radix)
    enough = next((p for p in (*found, *texts, *wide) if p.distinct >= ENOUGH), None)
    if enough is not None:
        return (enough,)
    several: list[Places] = []
    for places in (*wide, *found):
        if distinct_of(several) < ENOUGH:
            several.append(places)
    # They lie in one window of each request, at the same places.
    shapes = {name: {len(t.data) for t in c} for name, c in columns.items()}
    several = [p for p in several if len(shapes[p.name]) == 1] or several[:1]
    in_order = sorted(several, key=lambda p: list(columns).index(p.name))
    between = (
        list(columns)[list(columns).index(in_order[0].name) : list(columns).index(in_order[-1].name)]
        if in_order
        else []
    )
    if any(len(shapes[n]) > 1 or max(shapes[n]) > _WINDOW_BYTES // 8 for n in between):
        return (max(several, key=lambda p: p.distinct),)
    return tuple(in_order)


def _float_places(name: str, column: Sequence[WireTensor]) -> Places | None:
    """The first elements that are finite in every payload, and as few of their bits as are enough."""
    datatype = column[0].datatype
    size, mantissa = dtype_from_kserve(datatype).itemsize_bytes, _MANTISSA_BITS[datatype]
    count = min(_LOOKED_AT, *(len(t.data) // size for t in column))
    full = ((1 << _EXPONENT_BITS[datatype]) - 1) << mantissa
    finite = np.ones(count, bool)
    for tensor in column:
        finite &= (np.frombuffer(tensor.data, f"<u{size}", count) & full) != full
    usable = np.flatnonzero(finite)
    if not len(usable):
        return None
    elements = usable[: -(-56 // _LOW_BITS[datatype])]
    bits = min(mantissa, max(_LOW_BITS[datatype], -(-56 // len(elements))))
    return Places(name, datatype, "float", tuple(elements[: -(-56 // bits)].tolist()), 1 << bits)


def _whole_places(name: str, column: Sequence[WireTensor]) -> Places | None:
    datatype = column[0].datatype
    dtype: Any = np.dtype(dtype_from_kserve(datatype).numpy).newbyteorder("<")
    arrays = [np.frombuffer(t.data, dtype) for t in column]
    count = min(len(a) for a in arrays)
    if not count:
        return None
    low, high = min(int(a.min()) for a in arrays), max(int(a.max()) for a in arrays)
    radix = min(high - low + 1, 1 << 31)
    if radix < 2 or low >= 1 << 62:
        return None
    needed = 1
    while radix**needed < ENOUGH:
        needed += 1
    return Places(name, datatype, "whole", tuple(range(min(count, needed))), radix, low)


def _prepared(tensor: WireTensor, places: Places | None) -> WireTensor:
    if places is None:
        return tensor
    if places.kind == "blank":
        (length,) = struct.unpack_from("<I", tensor.data)
        end = 4 + length
        room = b" " * _BLANKS_APPENDED
        grown = struct.pack("<I", length + _BLANKS_APPENDED) + tensor.data[4:end] + room + tensor.data[end:]
        return replace(tensor, data=grown)
    if places.kind == "float":
        size = _item_bytes(places)
        bits = np.frombuffer(tensor.data, f"<u{size}").copy()
        exponent = ((1 << _EXPONENT_BITS[tensor.datatype]) - 1) << _MANTISSA_BITS[tensor.datatype]
        at = list(places.elements)
        bits[at] = np.where(
            bits[at] & bits.dtype.type(exponent), bits[at], bits.dtype.type(_SMALL[tensor.datatype])
        )
        return replace(tensor, data=bits.tobytes())
    return tensor


def _item_bytes(places: Places) -> int:
    return 1 if places.kind == "blank" else dtype_from_kserve(places.datatype).itemsize_bytes


def _changed_bytes(
    encode: Callable[[InferPayload], bytes], payload: InferPayload, places: Sequence[Places], wire: bytes
) -> npt.NDArray[np.int64]:
    """Where in the request the bytes of these elements are: it is made again with each of them turned over."""
    marked = []
    count = 0
    for tensor in payload.inputs:
        mine = next((p for p in places if p.name == tensor.name), None)
        if mine is None:
            marked.append(tensor)
            continue
        size = _item_bytes(mine)
        start = 4 + struct.unpack_from("<I", tensor.data)[0] - _BLANKS_APPENDED if mine.kind == "blank" else 0
        data = np.frombuffer(tensor.data, np.uint8).copy()
        at = (start + size * np.asarray(mine.elements)[:, None] + np.arange(size)).reshape(-1)
        data[at] ^= 0xFF
        count += len(at)
        marked.append(replace(tensor, data=data.tobytes()))
    other = np.frombuffer(encode(replace(payload, inputs=tuple(marked))), np.uint8)
    found = np.flatnonzero(other != np.frombuffer(wire, np.uint8))
    if len(found) != count:
        raise AssertionError("the input's bytes are not where they should be")
    return found
