"""The floor under every language model: counted n-grams of bytes, in seconds.

Interpolated modified Kneser-Ney counts. Reference: Chen & Goodman 1998, section 3, TR-10-98; the
discounts are their equations 26. One sort of all n-grams gives every order: the n-grams of order
k - 1 that Kneser-Ney counts are the distinct suffixes of those of order k.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data import Tokens
from ensue.errors import DataError
from ensue.tokenizers import Tokenizer

# Sorting 16 MB of 5-grams takes 2 s and 500 MB; more text lowers the floor by little.
MAX_TRAIN_BYTES = 16 << 20
MAX_VALID_BYTES = 4 << 20
_MAX_ORDER = 8  # bytes that fit into one 64-bit key

Keys = NDArray[np.uint64]
Reals = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What counting alone achieves."""

    bits_per_byte: float
    """Mean bits that the counts need for a byte of the valid text."""
    order: int
    """Bytes in the longest n-gram: context and target."""
    train_bytes: int
    """Bytes that were counted."""
    note: str
    """What was left out, or empty."""
    seconds: float
    """What counting and scoring took."""


def floor_of(train: Tokens, text: Tokens, tokenizer: Tokenizer) -> Floor:
    """Score a tokenised text by the n-grams of another: what a model of them must beat.

    Bytes that the tokenizer cannot spell are charged 8 bits each, as they are to networks.
    """
    floor = ngram_floor(
        _spell(train.ids[-MAX_TRAIN_BYTES:], tokenizer),
        _spell(text.ids[:MAX_VALID_BYTES], tokenizer),
    )
    unspelt = text.unspelt_bytes / text.num_bytes
    return replace(floor, bits_per_byte=(1 - unspelt) * floor.bits_per_byte + 8 * unspelt)


def _spell(ids: NDArray[Any], tokenizer: Tokenizer) -> bytes:
    return tokenizer.decode(ids.tolist()).replace("\N{REPLACEMENT CHARACTER}", "").encode()


def ngram_floor(train: bytes, valid: bytes, order: int = 5) -> Floor:
    """Score ``valid`` by the n-grams of ``train``.

    Args:
        train: The text to count, as UTF-8; of more than 16 MB the last 16 MB are.
        valid: The text to score; of more than 4 MB the first 4 MB are.
        order: Bytes in the longest n-gram, 1 to 8.

    Raises:
        DataError: One of the texts is empty.
    """
    assert 1 <= order <= _MAX_ORDER
    begun = time.perf_counter()
    if not train or not valid:
        raise DataError("no text to count n-grams in", "Give a longer text.")
    notes = []
    if len(train) > MAX_TRAIN_BYTES:
        notes.append(f"counted on the last {MAX_TRAIN_BYTES >> 20} MB of train")
    if len(valid) > MAX_VALID_BYTES:
        notes.append(f"scored on the first {MAX_VALID_BYTES >> 20} MB of valid")
    train, valid = train[-MAX_TRAIN_BYTES:], valid[:MAX_VALID_BYTES]
    # The first bytes of valid are predicted from the last of train.
    context = (bytes(order) + train)[-(order - 1) :] if order > 1 else b""
    targets = _grams(context + valid, order)
    tables = _tables(train, order)
    chance = np.full(len(targets), 1 / 256)  # order 0: every byte alike
    for width, (keys, counts) in enumerate(tables, 1):
        chance = _interpolate(keys, counts, targets & _mask(width), chance)
    bits = -float(np.log2(chance).mean())
    return Floor(
        bits_per_byte=bits,
        order=order,
        train_bytes=len(train),
        note="; ".join(notes),
        seconds=time.perf_counter() - begun,
    )


def _mask(width: int) -> np.uint64:
    return np.uint64((1 << (8 * width)) - 1)


def _grams(text: bytes, order: int) -> Keys:
    """Give every n-gram as a number, its last byte lowest."""
    data = np.frombuffer(text, dtype=np.uint8)
    size = max(0, len(data) - order + 1)
    keys = np.zeros(size, dtype=np.uint64)
    for i in range(order):
        keys = (keys << np.uint64(8)) | data[i : i + size]
    return keys


def _tables(train: bytes, order: int) -> list[tuple[Keys, NDArray[np.int64]]]:
    """Give sorted n-grams and counts of each order from 1 up.

    The longest are counted as they occur, the shorter by how many bytes they are seen after.
    """
    # Zeros before the text give its first bytes their n-grams of every order.
    keys, counts = np.unique(_grams(bytes(order - 1) + train, order), return_counts=True)
    tables = [(keys, counts)]
    for width in range(order - 1, 0, -1):
        keys, counts = np.unique(keys & _mask(width), return_counts=True)
        tables.append((keys, counts))
    return tables[::-1]


def _interpolate(keys: Keys, counts: NDArray[np.int64], targets: Keys, lower: Reals) -> Reals:
    """Give P(byte | context) of one order, from its counts and the order below."""
    discounts = _discounts(counts)
    contexts, first = np.unique(keys >> np.uint64(8), return_index=True)
    total = np.add.reduceat(counts, first)
    rest = np.add.reduceat(discounts[np.minimum(counts, 3)], first)
    own, seen = _look_up(keys, targets)
    where, known = _look_up(contexts, targets >> np.uint64(8))
    count = np.where(seen, counts[own], 0)
    kept = count - discounts[np.minimum(count, 3)]
    chance = (kept + rest[where] * lower) / total[where]
    return np.where(known, chance, lower)


def _look_up(table: Keys, wanted: Keys) -> tuple[NDArray[np.intp], NDArray[Any]]:
    """Give the place of each key in a sorted table, and whether it is there."""
    place = np.minimum(np.searchsorted(table, wanted), len(table) - 1)
    return place, table[place] == wanted


def _discounts(counts: NDArray[np.int64]) -> Reals:
    """Give what is taken off n-grams seen 0, 1, 2, and 3 or more times.

    Every discount is kept above 0 and below its count, or a short text could make a chance of 0.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 else 0.5
    ratios = (n2 / n1 if n1 else 0.5, n3 / n2 if n2 else 0.5, n4 / n3 if n3 else 0.5)
    raw = [k - (k + 1) * y * r for k, r in enumerate(ratios, 1)]
    return np.array([0.0, *(min(max(d, 0.05), k - 0.05) for k, d in enumerate(raw, 1))])
