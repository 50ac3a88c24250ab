"""The floor under every translation model: a dictionary of words, counted from the pairs.

Which word is the translation of which, nobody says: only that two sentences mean the same. Begin
with every word of a target coming as likely from each word of its source; count; let the counts
say what comes from what; count again.

    P(e | f) = count(e, f) / sum over e' of count(e', f)
    count(e, f) = sum over pairs of  P(e | f) / sum over the source's f' of P(e | f')

Reference: Brown et al. 1993, "The Mathematics of Statistical Machine Translation", model 1, with
its empty word, which takes the words that come from nowhere. A source is translated word by word,
each by its likeliest, in the order and with the spaces of the source; unknown words are copied.
Departure: each word counts once in a sentence.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensue.errors import DataError

# Six million links, 34,000 captions, take 4 s and 360 MB; more pairs change few likeliest words.
MOST_LINKS = 6_000_000
ROUNDS = 5
"""Of counting: what is likeliest hardly changes after."""
NOWHERE = ""
"""The empty word, which every source has."""

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+|[^\w\s]")
"""Letters and digits in a row; of scripts without spaces each sign; each punctuation mark."""


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """The likeliest translation of each word."""

    words: dict[str, str]
    """By word of the source."""
    note: str
    """What was left out, or empty."""
    seconds: float
    """What counting took."""

    def translate(self, source: str) -> str:
        """Put each word's translation in its place."""
        return _WORD.sub(lambda found: self.words.get(found[0], found[0]), source)


def count_dictionary(pairs: Iterable[tuple[str, str]]) -> Dictionary:
    """Learn a dictionary from sentences and their translations.

    Args:
        pairs: Sources and targets; read as far as memory is bounded.

    Raises:
        DataError: There is no word in them.
    """
    begun = time.perf_counter()
    links = _Links()
    read, whole = 0, True
    for src, tgt in pairs:
        if links.count >= MOST_LINKS:
            whole = False
            break
        links.add(_WORD.findall(src), _WORD.findall(tgt))
        read += 1
    if not links.count:
        raise DataError("no words to count in the pairs", "Give pairs of sentences.")
    likeliest = links.likeliest()
    return Dictionary(
        words={f: e for f, e in likeliest.items() if f != NOWHERE},
        note="" if whole else f"counted on the first {read:,} pairs",
        seconds=time.perf_counter() - begun,
    )


class _Links:
    """Every word of a target with every word of its source."""

    def __init__(self) -> None:
        self.count = 0
        self.src_ids: dict[str, int] = {NOWHERE: 0}
        self.tgt_ids: dict[str, int] = {}
        self._src: list[NDArray[np.int32]] = []
        self._tgt: list[NDArray[np.int32]] = []
        self._sizes: list[int] = []  # of the source of each word of a target

    def add(self, src: list[str], tgt: list[str]) -> None:
        sources = [0, *(self.src_ids.setdefault(w, len(self.src_ids)) for w in dict.fromkeys(src))]
        targets = [self.tgt_ids.setdefault(w, len(self.tgt_ids)) for w in dict.fromkeys(tgt)]
        self._src.append(np.tile(np.array(sources, dtype=np.int32), len(targets)))
        self._tgt.append(np.repeat(np.array(targets, dtype=np.int32), len(sources)))
        self._sizes += [len(sources)] * len(targets)
        self.count += len(sources) * len(targets)

    def likeliest(self) -> dict[str, str]:
        """Give the word e of the greatest P(e | f), of each f; of equal ones the first seen."""
        keys = np.concatenate(self._src).astype(np.int64) * len(self.tgt_ids)
        keys += np.concatenate(self._tgt)
        pairs, of_link = np.unique(keys, return_inverse=True)  # the words that ever met
        src = pairs // len(self.tgt_ids)
        word = np.repeat(np.arange(len(self._sizes)), self._sizes)  # of a target, by link
        chance: NDArray[np.float64] = np.ones(len(pairs))
        for _ in range(ROUNDS):
            share = chance[of_link]
            share /= np.bincount(word, share)[word]
            counts = np.bincount(of_link, share)
            chance = counts / np.bincount(src, counts)[src]
        order = np.lexsort((pairs, -chance, src))
        best = order[np.unique(src[order], return_index=True)[1]]
        sources, targets = list(self.src_ids), list(self.tgt_ids)
        found = zip(src[best].tolist(), (pairs[best] % len(targets)).tolist(), strict=True)
        return {sources[f]: targets[e] for f, e in found}
