"""Payloads → requests of a sequence: encoded once with a stand-in for the correlation id, which is then replaced.

Every id has ten digits and lies below 2^31, so that it takes ten bytes in JSON (and as a string anywhere) and
five as a varint of protobuf, and fits each type that Triton allows for CONTROL_SEQUENCE_CORRID.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tritonsmith.perf.wire.payload import InferPayload, request_parameters
from tritonsmith.perf.wire.target import Target

LOWEST_ID, HIGHEST_ID = 1_000_000_000, 2_147_483_647
# Two ids without a common digit and without a common byte of their varints.
_ONE, _OTHER = 1_111_111_111, 2_022_222_222

Template = tuple[bytes, Callable[[int], bytes], bytes]


class SequenceRequests:
    """The requests of all sequences, made when they are first needed."""

    def __init__(self, target: Target, payloads: Sequence[InferPayload], text_ids: bool) -> None:
        self._target = target
        self._payloads = payloads
        self._text_ids = text_ids
        self._templates: dict[tuple[int, bool, bool, int | None], Template] = {}

    def request(self, payload_index: int, sequence_id: int, start: bool, end: bool, slot: int = 0) -> bytes:
        """The bytes of the request that this slot sends; sequence_id between LOWEST_ID and HIGHEST_ID."""
        key = (payload_index, start, end, slot if self._target.differs_by_slot else None)
        template = self._templates.get(key)
        if template is None:
            template = self._templates[key] = self._template(*key)
        head, id_bytes, tail = template
        return b"".join((head, id_bytes(sequence_id), tail))

    def _template(self, payload_index: int, start: bool, end: bool, slot: int | None) -> Template:
        payload = self._payloads[payload_index]

        def encoded(number: int) -> bytes:
            parameters = request_parameters(
                sequence_id=str(number) if self._text_ids else number,
                sequence_start=start,
                sequence_end=end,
                other=payload.parameters,
            )
            return self._target.encode(replace(payload, parameters=parameters), slot or 0)

        one, other = encoded(_ONE), encoded(_OTHER)
        at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        for id_bytes in (_digits, _varint):
            width = len(id_bytes(_ONE))
            end_at = at + width
            if one[at:end_at] == id_bytes(_ONE) and one[end_at:] == other[end_at:]:
                return one[:at], id_bytes, one[end_at:]
        raise AssertionError("the sequence id is not where it should be")


def _digits(number: int) -> bytes:
    return str(number).encode()


def _varint(number: int) -> bytes:
    """Protocol buffers' base-128 varint (Encoding guide)."""
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
