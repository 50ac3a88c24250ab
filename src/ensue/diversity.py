"""How varied a set of replies is: the disease of answering everything with one and the same.

distinct-n is the number of different n-grams of words over that of all n-grams (Li et al. 2016,
arXiv:1510.03055, section 5). It falls as a set grows: compare sets of one size.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """What a set of replies looks like."""

    replies: int
    """How many they are."""
    distinct_1: float
    """Share of words that are different ones."""
    distinct_2: float
    """Share of pairs of neighbouring words that are different ones."""
    commonest: str
    """The reply that is given most often; case and punctuation do not count."""
    commonest_share: float
    """How often: its share of all replies."""
    words: float
    """Words of a reply, on average."""
    overlap: float
    """F1 of a reply's words against those of the person who answered there, on average."""


def diversity(replies: Sequence[str], people: Sequence[str]) -> Diversity:
    """Measure a set of replies.

    Args:
        replies: One for each context; at least one.
        people: What a person replied there.
    """
    words = [words_of(reply) for reply in replies]
    alike = [tuple(word for word in one if word[0].isalnum()) for one in words]
    (most, count), *_ = Counter(alike).most_common(1)
    theirs = map(words_of, people)
    return Diversity(
        replies=len(replies),
        distinct_1=distinct(words, 1),
        distinct_2=distinct(words, 2),
        commonest=replies[alike.index(most)],
        commonest_share=count / len(replies),
        words=sum(map(len, words)) / len(words),
        overlap=sum(f1(a, b) for a, b in zip(words, theirs, strict=True)) / len(words),
    )


def words_of(text: str) -> list[str]:
    """Give the words and marks of a text, in small letters."""
    return _WORDS.findall(text.lower())


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Give the share of n-grams that are different; 0 where there are none."""
    grams = [tuple(text[i : i + n]) for text in texts for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def f1(words: Sequence[str], others: Sequence[str]) -> float:
    """Give the harmonic mean of precision and recall of words, each counted as often as it is."""
    common = (Counter(words) & Counter(others)).total()
    return 2 * common / (len(words) + len(others)) if common else 0.0
