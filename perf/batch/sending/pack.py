"""Rows in order → requests full of rows that are alike, from a window that is sorted by length."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tritonsmith.perf.batch.rows.reader import Group, Row

WINDOW_ROWS = 4096
WINDOW_BYTES = 64 << 20


@dataclass(slots=True)
class Packed:
    """Rows that go in one request. attempts: how often it was sent; broken: how often the connection broke with it."""

    rows: list[Row]
    attempts: int = 0
    broken: int = 0

    @property
    def count(self) -> int:
        """Rows of the model's batch, of which a line may have several."""
        return sum(row.count for row in self.rows)

    def halves(self) -> list[Packed]:
        """To find the row that is at fault."""
        middle = len(self.rows) // 2
        return [Packed(self.rows[:middle]), Packed(self.rows[middle:])]


@dataclass(slots=True)
class Padding:
    """What requests cost that are made one way. requests: how many; lengths: what their rows hold; padded: as much as the
    longest row of a request, for each of its rows."""

    requests: int = 0
    lengths: int = 0
    padded: int = 0

    def add(self, rows: int, length: int, longest: int) -> None:
        """One request's."""
        self.requests += 1
        self.lengths += length
        self.padded += rows * longest

    def join(self, other: Padding) -> None:
        """Another's, too."""
        self.requests += other.requests
        self.lengths += other.lengths
        self.padded += other.padded


@dataclass(slots=True)
class _Arrival:
    """The requests that the rows would make as they come, counted and not sent."""

    most: int
    seen: Padding = field(default_factory=Padding)
    group: Group | None = None
    rows: int = 0
    length: int = 0
    longest: int = 0

    def add(self, row: Row) -> None:
        if self.rows and (row.group != self.group or self.rows + row.count > self.most):
            self.end()
        self.group = row.group
        self.rows += row.count
        self.length += row.length * row.count
        self.longest = max(self.longest, row.length)

    def end(self) -> None:
        if self.rows:
            self.seen.add(self.rows, self.length, self.longest)
        self.rows = self.length = self.longest = 0


class Packer:
    """Gives requests one after another, and reads on as they are taken, a request's rows at a time.

    most:     rows of one request. by_length: False takes rows as they come.
    carries:  rows that fill no request may wait for like ones of the windows behind, however long these are in coming.
    Requests of a window come in a random order with a fixed seed, so that how fast they are done does not follow from
    their lengths.
    """

    def __init__(
        self,
        rows: Iterator[Row],
        most: int,
        *,
        by_length: bool = True,
        carries: bool = True,
        window_rows: int = WINDOW_ROWS,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self._rows = rows
        self._most = max(1, most)
        self._by_length, self._carries = by_length, carries
        self._window_rows = max(window_rows, self._most)
        self._window_bytes = window_bytes
        self._filling: list[Row] = []
        self._filling_bytes = 0
        self._ready: list[Packed] = []
        self._rest: list[Row] = []
        self._random = random.Random(0)
        self._is_over = False
        self.sizes: Counter[int] = Counter()
        self.sent = Padding()
        self._arrival = _Arrival(self._most)

    @property
    def arrival(self) -> Padding:
        """What the rows so far would have cost in the order that they came in."""
        self._arrival.end()
        return self._arrival.seen

    def next(self) -> Packed | None:
        """The next request; None when there are no more rows."""
        if self._ready:
            self._fill(2 * self._most)
        while not self._ready:
            self._fill(self._window_rows)
            if not self._filling and not self._rest:
                return None
            self._cut()
        packed = self._ready.pop()
        self.sizes[packed.count] += 1
        lengths = [row.length for row in packed.rows]
        self.sent.add(packed.count, sum(r.length * r.count for r in packed.rows), max(lengths))
        return packed

    def _fill(self, most: int) -> None:
        while (
            most > 0 and len(self._filling) < self._window_rows and self._filling_bytes < self._window_bytes
        ):
            row = None if self._is_over else next(self._rows, None)
            if row is None:
                self._is_over = True
                return
            self._filling.append(row)
            self._filling_bytes += row.size_bytes
            self._arrival.add(row)
            most -= row.count

    def _cut(self) -> None:
        """The window into requests; what fills none waits for the next window, unless there is none or it is most of this."""
        window = self._rest + self._filling
        if self._by_length:
            window.sort(key=lambda row: (row.group, row.length))
        self._filling, self._filling_bytes, self._rest = [], 0, []
        requests: list[Packed] = []
        group, count = None, 0
        for row in window:
            if requests and group == row.group and count + row.count <= self._most:
                requests[-1].rows.append(row)
                count += row.count
            else:
                requests.append(Packed([row]))
                group, count = row.group, row.count
        if self._by_length:
            if self._carries and not self._is_over:
                full = [request for request in requests if request.count == self._most]
                part = [request for request in requests if request.count < self._most]
                if full and sum(len(request.rows) for request in part) < self._window_rows // 2:
                    self._rest = [row for request in part for row in request.rows]
                    requests = full
            self._random.shuffle(requests)
        else:
            requests.reverse()
        self._ready = requests
