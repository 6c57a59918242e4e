"""(kept answers, expected outputs) → the rows whose answer is wrong, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.perf.wire.payload import Answer

_PENDING_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Validation:
    """How answers are checked under load.

    every:      one answer in so many is compared; the first answer to each payload always is.
    rtol, atol: |answer - expected| ≤ atol + rtol · |expected| for floats; all else must be equal.
    """

    every: int = 100
    rtol: float = 1e-3
    atol: float = 1e-5


class AnswerChecks:
    """Collects kept answers during a run and compares them after it, so that latency is not disturbed."""

    def __init__(
        self,
        decode: Callable[[bytes], Answer],
        expected: Sequence[Mapping[str, npt.NDArray[Any]] | None],
        validation: Validation,
    ) -> None:
        self._decode = decode
        self._expected = expected
        self._validation = validation
        self._right: dict[int, bytes] = {}
        self._pending: list[tuple[int, int, bytes]] = []
        self._pending_bytes = 0
        self._wrong: list[tuple[int, str]] = []
        self.checked = 0

    def add(self, row: int, payload_index: int, answer: bytes) -> None:
        """Take one answer; byte-equal to one already found right costs a comparison and no memory."""
        if self._expected[payload_index] is None:
            return
        self.checked += 1
        if self._right.get(payload_index) == answer:
            return
        self._pending.append((row, payload_index, answer))
        self._pending_bytes += len(answer)
        if self._pending_bytes > _PENDING_LIMIT_BYTES or payload_index not in self._right:
            self._compare_pending()

    def wrong_rows(self) -> list[tuple[int, str]]:
        """(row, reason) of every wrong answer so far."""
        self._compare_pending()
        return self._wrong

    def _compare_pending(self) -> None:
        for row, payload_index, answer in self._pending:
            expected = self._expected[payload_index]
            assert expected is not None
            try:
                decoded = self._decode(answer)
            except ValueError as error:
                reason: str | None = str(error)
            else:
                if decoded.is_flat:
                    expected = {name: np.ravel(want) for name, want in expected.items()}
                reason = decoded.error or difference(decoded.outputs, expected, self._validation)
            if reason is None:
                self._right[payload_index] = answer
            else:
                self._wrong.append((row, f"wrong answer: {reason}"))
        self._pending.clear()
        self._pending_bytes = 0


def difference(
    outputs: Mapping[str, npt.NDArray[Any]],
    expected: Mapping[str, npt.NDArray[Any]],
    validation: Validation,
) -> str | None:
    """The first output that is not the expected one, as a reason; None when all are right.

    Only the outputs in `expected` are compared. BF16 outputs arrive as uint16 bits and are compared exactly.
    """
    for name, want in expected.items():
        got = outputs.get(name)
        if got is None:
            return f"output `{name}` is missing"
        if got.shape != want.shape:
            return f"output `{name}` has shape {list(got.shape)}, expected {list(want.shape)}"
        if want.dtype.kind in "OSU":
            same = [_as_bytes(e) for e in want.ravel().tolist()] == got.ravel().tolist()
        elif want.dtype.kind == "f" and got.dtype.kind == "f":
            same = np.allclose(got, want, rtol=validation.rtol, atol=validation.atol, equal_nan=True)
        else:
            same = np.array_equal(got, want)
        if not same:
            return f"output `{name}` differs from the expected values"
    return None


def _as_bytes(element: Any) -> Any:
    return element.encode() if isinstance(element, str) else element
