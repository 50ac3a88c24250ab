"""The order in which windows of a token stream are visited, as a pure function."""

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
