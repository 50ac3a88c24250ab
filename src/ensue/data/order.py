"""The order in which windows of a stream, and rows of a table, are visited, as pure functions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.errors import DataError

_U64 = np.uint64
_ROUNDS = 6


def max_window(num_tokens: int) -> int:
    """Give the longest window that a stream of so many tokens holds, its last target included."""
    return max(0, num_tokens - 1)


class WindowOrder:
    """Where sample ``i`` starts, for any ``i``, in constant memory.

    An epoch lays a grid of windows over the stream, shifted by an offset of its own, and visits
    them in a pseudo-random order of its own: a Feistel network keyed by (seed, epoch), so that
    nothing is stored and the whole resume state is the number of samples taken. A window takes
    ``length + 1`` tokens: inputs, and the same shifted by one as targets. The shift costs at
    most ``2 * length`` targets an epoch at the two ends of the stream.

    Args:
        num_tokens: Tokens in the stream.
        length: Inputs in a window.
        seed: Another seed gives another order.

    Raises:
        DataError: The stream is shorter than one window.
    """

    def __init__(self, num_tokens: int, length: int, seed: int) -> None:
        if length < 1 or length > max_window(num_tokens):
            raise DataError(
                f"{num_tokens:,} tokens hold no window of {length:,} inputs and a target",
                f"Give more text, or a context of at most {max_window(num_tokens):,}.",
            )
        self.length = length
        self.seed = seed
        targets = num_tokens - 1
        # A constant number of windows whatever the shift, so that sample i has one epoch.
        self.windows_per_epoch = max(1, (targets - length + 1) // length)
        self._shifts = targets - self.windows_per_epoch * length + 1

    def start(self, i: int) -> int:
        """Give the position of the first input of sample ``i``."""
        return int(self.starts(i, 1)[0])

    def starts(self, i: int, n: int) -> NDArray[np.int64]:
        """Give the positions of samples ``i`` to ``i + n - 1``."""
        index = np.arange(i, i + n, dtype=np.int64)
        epoch, place = np.divmod(index, self.windows_per_epoch)
        out = np.empty(n, dtype=np.int64)
        for e in np.unique(epoch):
            key = _mix(_mix(np.array([self.seed & (2**64 - 1)], _U64)) ^ _U64(int(e)))
            shift = int(_mix(key ^ _U64(0x5DEECE66D))[0]) % self._shifts
            here = epoch == e
            out[here] = shift + self.length * _permute(place[here], self.windows_per_epoch, key)
        return out


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits. Reference: splitmix64, Steele et al. 2014, doi:10.1145/2660193.2660195."""
    x = x + _U64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> _U64(31))
    return mixed


def _permute(place: NDArray[np.int64], size: int, key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Map 0 .. size-1 onto itself: a Feistel network on the next even power of two.

    What falls outside is sent through again (cycle walking), at most about four times on average.
    """
    half = _U64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (_U64(1) << half) - _U64(1)
    keys = [_mix(key + _U64(r)) for r in range(_ROUNDS)]
    x = place.astype(_U64)
    todo: NDArray[Any] = np.ones(len(x), dtype=np.bool_)
    while todo.any():
        left, right = x[todo] >> half, x[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        x[todo] = (left << half) | right
        todo = x >= _U64(size)
    return x.astype(np.int64)


class RowOrder:
    """Which row is the i-th, for any ``i``: all rows once an epoch, each epoch in another order.

    Args:
        num_rows: Rows of the table.
        seed: Another seed gives another order.
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed

    def rows(self, i: int, n: int) -> NDArray[np.int64]:
        """Give rows ``i`` to ``i + n - 1`` of the endless order."""
        index = np.arange(i, i + n, dtype=np.int64)
        epoch, place = np.divmod(index, self.num_rows)
        out = np.empty(n, dtype=np.int64)
        for e in np.unique(epoch):
            key = _mix(_mix(np.array([self.seed & (2**64 - 1)], _U64)) ^ _U64(int(e)))
            here = epoch == e
            out[here] = _permute(place[here], self.num_rows, key)
        return out


def random_shares(seed: int, first: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Draw numbers in [0, 1) as a pure function of seed, row and column, (rows, columns).

    Args:
        seed: Another seed gives other numbers.
        first: Number of the first row.
        rows: How many rows.
        columns: Numbers of each.
    """
    key = _mix(_mix(np.array([seed & (2**64 - 1)], _U64)) ^ _U64(0xA5A5A5A5))
    row = _mix(np.arange(first, first + rows, dtype=_U64)[:, None] ^ key)
    drawn = _mix(row ^ _mix(np.arange(columns, dtype=_U64)))
    return ((drawn >> _U64(40)).astype(np.float32) / np.float32(1 << 24)).astype(np.float32)


class LengthOrder:
    """Which rows make update ``i``, for any ``i``: a fixed number of them, of like length.

    Of the endless order of `RowOrder` so many updates at a time are sorted by length, cut, and
    visited at random.

    Args:
        lengths: Of each row.
        rows: Rows of an update.
        seed: Another seed gives another order.
    """

    def __init__(self, lengths: NDArray[np.int64], rows: int, seed: int) -> None:
        self.lengths, self.num_rows, self.seed = lengths, rows, seed
        self._order = RowOrder(len(lengths), seed)
        self._kept: tuple[int, NDArray[np.int64]] = (-1, np.zeros((0, 0), np.int64))

    def rows(self, update: int) -> NDArray[np.int64]:
        """Give the rows of an update."""
        pool, place = divmod(update, POOL)
        if self._kept[0] != pool:
            size = POOL * self.num_rows
            found = self._order.rows(pool * size, size)
            found = found[np.argsort(self.lengths[found], kind="stable")]
            drawn = random_shares(self.seed, pool, 1, POOL)[0]
            self._kept = (pool, found.reshape(POOL, self.num_rows)[np.argsort(drawn)])
        return self._kept[1][place]


POOL = 20
"""Updates whose rows are sorted by length together."""


class BucketOrder:
    """Which rows make update ``i``, for any ``i``: rows of about one length, little padding.

    An epoch sorts all rows by length, equal ones and near ones at random, cuts that into batches of
    so many tokens, and visits the batches at random; all of it by a hash of (seed, epoch, row). So
    the whole resume state is the number of updates.

    Args:
        lengths: Of each row, the tokens of its sides (source and target), at least 1.
        tokens: What a batch holds at most on any side, padding included; a longer row stands alone.
        seed: Another seed gives another order.
    """

    def __init__(self, lengths: Sequence[NDArray[np.int64]], tokens: int, seed: int) -> None:
        self.longest = np.maximum.reduce(list(lengths))
        self.tokens, self.seed = tokens, seed
        self._counts: list[int] = []
        self._kept: tuple[int, list[NDArray[np.int64]]] = (-1, [])

    @property
    def updates_per_epoch(self) -> int:
        """Updates in the first epoch; later ones have about as many."""
        return len(self._epoch(0))

    def rows(self, update: int) -> NDArray[np.int64]:
        """Give the rows of an update."""
        epoch, place = 0, update
        while place >= self._count(epoch):
            place -= self._count(epoch)
            epoch += 1
        return self._epoch(epoch)[place]

    def _count(self, epoch: int) -> int:
        while len(self._counts) <= epoch:
            self._counts.append(len(self._epoch(len(self._counts))))
        return self._counts[epoch]

    def _epoch(self, epoch: int) -> list[NDArray[np.int64]]:
        """Give the batches of an epoch, in order; the last one asked for is kept."""
        if self._kept[0] != epoch:
            key = _mix(_mix(np.array([self.seed & (2**64 - 1)], _U64)) ^ _U64(epoch))
            noise = _mix(np.arange(len(self.longest), dtype=_U64) ^ key)
            # Up to one and a half tokens of noise: batches of an epoch differ from another's.
            jitter = (noise >> _U64(11)).astype(np.float64) * (1.5 / 2**53)
            order = np.argsort(self.longest + jitter, kind="stable")
            batches = self._cut(order)
            visits = np.argsort(_mix(np.arange(len(batches), dtype=_U64) ^ ~key), kind="stable")
            self._kept = (epoch, [batches[i] for i in visits])
        return self._kept[1]

    def _cut(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut sorted rows so that the longest of a batch, times its rows, fits."""
        sizes = self.longest[order]
        batches, first = [], 0
        while first < len(order):
            count = max(1, self.tokens // int(sizes[first]))
            while count > 1 and count * int(sizes[first : first + count].max()) > self.tokens:
                count = max(1, self.tokens // int(sizes[first : first + count].max()))
            batches.append(order[first : first + count])
            first += count
        return batches
