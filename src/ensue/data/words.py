"""Texts as words, and words as hashed n-grams: a vocabulary that no word is missing from.

A word is known by the letters it is made of: its n-grams of characters, and itself, are hashed
into so many buckets, each of which has a vector (Bojanowski et al. 2017, arXiv:1607.04606). What
training never saw, or a slip of the pen, is read by the n-grams that it shares with known words.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"  # scripts without spaces: each sign a word
    r"|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|['\u2019][^\W\d_]+|\d|[^\s\w]|_"
)
LONGEST_WORD = 40
"""Characters of a word that are looked at."""


@dataclass(frozen=True)
class Grams:
    """Which n-grams words are hashed into, and how many buckets there are."""

    shortest: int
    """Characters of the shortest."""
    longest: int
    """Characters of the longest."""
    buckets: int
    """Numbers from 1: 0 stands for none."""

    def of(self, word: str) -> list[int]:
        """Give the buckets of a word: its own, of its shape, then of its n-grams.

        The shape tells capitals, which the others do not: Xx of "Paris", X of "NATO", x of "city".
        """
        shape = re.sub(r"(.)\1+", r"\1", "".join(map(_shape, word[:LONGEST_WORD])))
        word = word.lower()
        marked = f"<{word[:LONGEST_WORD]}>"
        parts = {
            marked[i : i + n]: None
            for n in range(self.shortest, min(self.longest, len(marked) - 1) + 1)
            for i in range(len(marked) - n + 1)
        }
        own = self._bucket(f"word {word}"), self._bucket(f"shape {shape}")
        return [*own, *map(self._bucket, parts)]

    def _bucket(self, gram: str) -> int:
        return zlib.crc32(gram.encode(errors="replace")) % self.buckets + 1


def _shape(letter: str) -> str:
    return "9" if letter.isdigit() else "X" if letter.isupper() else "x"


def words_of(text: str, most: int | None = None) -> list[str]:
    """Split a text into words, single digits and signs; at most so many of them; None: all."""
    return [match.group() for match in islice(_WORD.finditer(text), most)]


@dataclass(frozen=True, eq=False)
class WordRows:
    """Texts as numbers of words, and the buckets of each word."""

    vocabulary: tuple[str, ...]
    """Each word that occurs."""
    ids: NDArray[np.int32]
    """Numbers of words, row after row."""
    starts: NDArray[np.int64]
    """Where each row begins in it; one more: the end."""
    cut: frozenset[int]
    """Rows of which the end was cut."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Words of each row."""
        return np.diff(self.starts)

    def row(self, i: int) -> NDArray[np.int32]:
        """Give the words of a row, by number."""
        return self.ids[self.starts[i] : self.starts[i + 1]]


def read_words(texts: Sequence[str], most: int) -> WordRows:
    """Split texts into words and number those.

    Args:
        texts: Any.
        most: Words of a text that are read.
    """
    numbers: dict[str, int] = {}
    rows, cut = [], set()
    for number, text in enumerate(texts):
        words = words_of(text, most + 1)
        if len(words) > most:
            cut.add(number)
        rows.append(
            np.array([numbers.setdefault(w, len(numbers)) for w in words[:most]], dtype=np.int32)
        )
    lengths = np.array([0, *map(len, rows)], dtype=np.int64)
    ids = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return WordRows(tuple(numbers), ids, np.cumsum(lengths), frozenset(cut))


class GramTable:
    """The buckets of each word of a vocabulary.

    Args:
        vocabulary: The words.
        grams: Which n-grams.
    """

    def __init__(self, vocabulary: Sequence[str], grams: Grams) -> None:
        of = [np.array(grams.of(word), dtype=np.int64) for word in vocabulary]
        self.sizes = np.array([len(buckets) for buckets in of], dtype=np.int64)
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.flat = np.concatenate(of) if of else np.zeros(0, np.int64)

    def padded(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the buckets of words, (words, most of one), zeros behind them."""
        grams, _ = self.ragged(words)
        steps = np.arange(self.sizes[words].max(initial=3))  # own, shape, one at least
        lines = np.zeros((len(words), len(steps)), dtype=np.int64)
        lines[steps < self.sizes[words][:, None]] = grams
        return lines

    def ragged(self, words: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the buckets of words one after another, and of each the place of its word."""
        sizes = self.sizes[words]
        place = np.repeat(np.arange(len(words)), sizes)
        within = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.flat[self.starts[words][place] + within], place


@dataclass(frozen=True)
class WordBatch:
    """Rows of words, side by side."""

    ids: NDArray[np.int64]
    """(B, T): which line of `grams` each word is; what follows a row's end is 0."""
    length: NDArray[np.int64]
    """(B,): words of each row, at least 1."""
    grams: NDArray[np.int64]
    """(U, G): the buckets of each different word; line 0 is no word."""


def word_batch(rows: WordRows, table: GramTable, places: NDArray[np.int64]) -> WordBatch:
    """Put rows side by side; one without a word has a word of no bucket."""
    lengths = rows.lengths[places]
    ids = np.full((len(places), max(1, int(lengths.max(initial=0)))), NO_WORD, dtype=np.int64)
    for line, place in zip(ids, places.tolist(), strict=True):
        words = rows.row(place)
        line[: len(words)] = words
    # Line 0 is no word, though every row be full.
    distinct, local = np.unique(np.append(ids.ravel(), NO_WORD), return_inverse=True)
    grams = table.padded(distinct[1:])
    return WordBatch(
        ids=local[:-1].reshape(ids.shape),
        length=np.maximum(lengths, 1),
        grams=np.concatenate([np.zeros((1, grams.shape[1]), np.int64), grams]),
    )


NO_WORD = -1
"""What stands behind a row's end; less than every word's number."""


@dataclass(frozen=True)
class BagBatch:
    """Rows as bags of hashed n-grams of words and of characters."""

    ids: NDArray[np.int64]
    """Buckets, row after row."""
    starts: NDArray[np.int64]
    """(B,): where each row begins."""
    weights: NDArray[np.float32]
    """How much the row has of each: those of words have a length of 1, those of characters too."""


def bag_batch(
    rows: WordRows,
    table: GramTable,
    places: NDArray[np.int64],
    buckets: int,
    idf: NDArray[np.float32] | None = None,
    dropped: NDArray[np.bool_] | None = None,
) -> BagBatch:
    """Count the n-grams of rows: one and two words in a row, and what words are made of.

    A weight is 1 + ln(count), times what a bucket weighs (TF-IDF).

    Args:
        rows: The texts.
        table: The buckets of their words.
        places: Which rows.
        buckets: How many there are.
        idf: What each weighs, (buckets + 1,); None: all alike.
        dropped: (B, T): words that are left out.
    """
    key, counts = np.unique(_bag_keys(rows, table, places, buckets, dropped)[0], return_counts=True)
    block, ids = np.divmod(key, buckets + 1)
    weights = 1 + np.log(counts)
    if idf is not None:
        weights = weights * idf[ids]
    square = np.bincount(block, weights**2, minlength=2 * len(places))
    weights = weights / np.sqrt(square[block])
    starts = np.searchsorted(block, 2 * np.arange(len(places)))
    return BagBatch(ids=ids, starts=starts, weights=weights.astype(np.float32))


def _bag_keys(
    rows: WordRows,
    table: GramTable,
    places: NDArray[np.int64],
    buckets: int,
    dropped: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the n-grams of rows: first all of one word, then of two, then of characters.

    Returns:
        Of each occurrence its row, kind and bucket as one number; and of those of characters the
        place of their word.
    """
    parts = [rows.row(place).astype(np.int64) for place in places.tolist()]
    if dropped is not None:
        parts = [part[~out[: len(part)]] for part, out in zip(parts, dropped, strict=True)]
    lengths = np.array([len(part) for part in parts], dtype=np.int64)
    owner = np.repeat(np.arange(len(parts)), lengths)
    words = np.concatenate([np.zeros(0, np.int64), *parts])
    grams, place = table.ragged(words)
    first = np.diff(place, prepend=-1) > 0  # a word's own bucket
    shape = np.roll(first, 1)  # the next one, which says nothing of a bag
    shape[:1] = False
    rest = ~(first | shape)
    own, grams, place = grams[first], grams[rest], place[rest]
    edges = np.cumsum(lengths)
    before, after = np.insert(own, edges - lengths, 0), np.insert(own, edges, 0)
    pairs = (before * 1_000_003 + after) % buckets + 1
    of_pairs = np.repeat(np.arange(len(parts)), lengths + 1)
    # Of each row first what is of words, then what is of characters.
    block = 2 * np.concatenate([owner, of_pairs, owner[place]])
    block[len(own) + len(pairs) :] += 1
    return block * (buckets + 1) + np.concatenate([own, pairs, grams]), place


def spread_bag(
    rows: WordRows,
    table: GramTable,
    row: int,
    buckets: int,
    values: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share out what is said of each n-gram of a row's bag among the words that it lies in.

    An n-gram gives its occurrences equal parts, and one of two words gives half to each; what
    begins or ends a text is no word, and its half is the other's.

    Args:
        rows: The texts.
        table: The buckets of their words.
        row: Which row, with at least one word.
        buckets: How many there are.
        values: Of each n-gram, in the order of `bag_batch`.

    Returns:
        A number for each word, which add up to the sum of the values.
    """
    key, place = _bag_keys(rows, table, np.array([row]), buckets)
    _, which, counts = np.unique(key, return_inverse=True, return_counts=True)
    shares = values[which] / (2 * counts[which])
    count = int(rows.lengths[row])
    alone, between = np.arange(count), np.arange(count + 1)
    first = np.concatenate([alone, np.maximum(between - 1, 0), place])
    last = np.concatenate([alone, np.minimum(between, count - 1), place])
    spread = np.zeros(count)
    np.add.at(spread, first, shares)
    np.add.at(spread, last, shares)
    return spread


def document_frequency(
    rows: WordRows, table: GramTable, buckets: int, at_once: int = 1024
) -> NDArray[np.int64]:
    """Count the rows that have each bucket, (buckets + 1,)."""
    total = np.zeros(buckets + 1, dtype=np.int64)
    for first in range(0, len(rows), at_once):
        places = np.arange(first, min(first + at_once, len(rows)))
        total += np.bincount(bag_batch(rows, table, places, buckets).ids, minlength=buckets + 1)
    return total
