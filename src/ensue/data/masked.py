"""Rows of a text of which some words are masked: what BERT learns from.

A row is a piece of one document, no longer than the model's context, between [CLS] and [SEP]. What
is masked in it is drawn anew each time that it is read, by whole words: a pure function of a seed
and of how many rows were read before. Of the pieces chosen, 80 % become [MASK], 10 % any other
piece, and 10 % stay as they are: so every place has to be understood, masked or not.

Reference: Devlin et al. 2019, section 3.1; whole words: the same authors' repository, 2019; anew
each time: Liu et al. 2019, arXiv:1907.11692, section 4.1.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data.corpus import DataConfig
from ensue.data.order import random_shares
from ensue.errors import UsageError

KINDS = ("auto", "wordpiece", "wordpiece-cased")
VOCABULARIES = (
    (300_000, 1024),
    (3_000_000, 4096),
    (30_000_000, 8192),
    (300_000_000, 16_384),
)
"""Below so many bytes of text, so many pieces; above, as many as the published models have."""
PUBLISHED = 30_522
KEPT, SWAPPED = 0.1, 0.1
"""Of what is chosen, the share that stays, and the share that becomes another piece."""
NOT_ASKED = -1
"""Stands in the place of a target where nothing is asked."""


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(DataConfig):
    """Which text, how it becomes pieces, and what is masked."""

    kinds: ClassVar[tuple[str, ...]] = KINDS

    tokenizer: str = "auto"
    """auto or wordpiece (lower-cased, without accents), wordpiece-cased, or the path of a
    tokenizer.json that has [MASK] (BERT's)."""
    mask_fraction: float = 0.15
    """Share of the pieces that are asked for; above 0 and below 1."""
    whole_words: bool = True
    """Mask all pieces of a word, or each by itself."""
    short_rows: bool = True
    """Cut two thirds of the text into rows of a quarter and of a half of the context: what stands
    near is learnt from them in a third of the time, and rows of all of it are slow."""
    next_sentence: bool = False
    """Ask too whether the second half of a row followed the first, or stands elsewhere."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_fraction < 1:
            raise UsageError(
                f"data.mask_fraction is {self.mask_fraction}; it must lie between 0 and 1",
                "As published: --mask-fraction 0.15",
            )

    def chosen(self, num_bytes: int, num_chars_distinct: int) -> tuple[str, int]:
        """Choose by the amount of text."""
        return pieces_for(num_bytes)


def pieces_for(num_bytes: int) -> tuple[str, int]:
    """Choose a kind of tokenizer, and how many pieces it has, for so much text."""
    sizes = (size for limit, size in VOCABULARIES if num_bytes < limit)
    return KINDS[1], next(sizes, PUBLISHED)


@dataclass(frozen=True)
class Marks:
    """Ids that are no text, and which ids go on within a word."""

    cls: int
    sep: int
    mask: int
    pad: int
    text: NDArray[np.int64]
    """Those that are text, in order."""
    continues: NDArray[np.bool_]
    """Of each id."""

    @cached_property
    def is_text(self) -> NDArray[np.bool_]:
        """Tell of each id whether it is text."""
        table = np.zeros(len(self.continues), dtype=np.bool_)
        table[self.text] = True
        return table


class Pieces(NamedTuple):
    """Where the rows of a stream begin, and how many ids of it each has."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def rows_of(ids: NDArray[Any], end: int, most: int, short: bool = False) -> Pieces:
    """Cut the documents of a stream into rows.

    Args:
        ids: Documents, each between two ends.
        end: The id that stands there.
        most: Ids of a row.
        short: Whether of longer documents a third is cut into rows of a half of that, and a third
            into rows of a quarter.

    Returns:
        Rows of at most so many ids, one after another; a document that fits is one row, and a
        longer one has no row that is much shorter than it might be.
    """
    ends = np.flatnonzero(ids == end)
    starts, sizes = ends[:-1] + 1, np.diff(ends) - 1
    starts, sizes = starts[sizes > 0], sizes[sizes > 0]
    cycle = [most // 4] * 4 + [most // 2] * 2 + [most] if short and most >= 32 else [most]
    edges = [starts[sizes <= most]]
    for start, size in zip(starts[sizes > most], sizes[sizes > most], strict=True):
        reach = np.cumsum(np.tile(cycle, size // sum(cycle) + 1))
        reach = np.insert(reach[: np.searchsorted(reach, size) + 1], 0, 0)
        edges.append(start + reach[:-1] * size // reach[-1])
    first = np.sort(np.concatenate(edges))
    # A row ends where the next begins, or before the end of its document.
    after = ends[np.searchsorted(ends, first)]
    return Pieces(first, np.minimum(after, np.append(first[1:], len(ids))) - first)


class Masked(NamedTuple):
    """Rows as a model is shown them, and what it is asked."""

    ids: NDArray[np.int64]
    """(B, T)."""
    targets: NDArray[np.int64]
    """(B, T): what stood there; `NOT_ASKED` elsewhere."""


def mask(
    ids: NDArray[np.int64], config: MaskedConfig, marks: Marks, seed: int, first: int
) -> Masked:
    """Mask some of the words of rows: of each at least one.

    Args:
        ids: (B, T), [CLS] first, padded.
        config: How many, and whether as whole words.
        marks: Of the tokenizer.
        seed: Another seed masks other words.
        first: Rows that were masked before these: numbers the draws.
    """
    rows, steps = ids.shape
    inside = marks.is_text[ids]
    begins = inside & ~marks.continues[ids] if config.whole_words else inside
    # Behind a mark a word begins, though its first pieces may stand in another row.
    begins[:, 1:] |= inside[:, 1:] & ~inside[:, :-1]
    word = np.cumsum(begins, axis=1)
    # Three numbers for each place, side by side: what is drawn for one must not change with how
    # much padding its row has, which is another in another batch.
    which, how, other = np.moveaxis(
        random_shares(seed, first, rows, 3 * steps).reshape(rows, steps, 3), 2, 0
    )
    drawn = np.take_along_axis(which, np.minimum(word, steps - 1), axis=1)
    drawn = np.where(inside, drawn, np.float32(2))
    least = np.maximum(np.float32(config.mask_fraction), drawn.min(axis=1))
    chosen = inside & (drawn <= least[:, None])
    # In fp64: the largest share times a length may round up to it in fp32.
    swapped = marks.text[(other.astype(np.float64) * len(marks.text)).astype(np.int64)]
    shown = np.where(how < 1 - KEPT - SWAPPED, marks.mask, np.where(how < 1 - KEPT, swapped, ids))
    return Masked(np.where(chosen, shown, ids), np.where(chosen, ids, NOT_ASKED))
