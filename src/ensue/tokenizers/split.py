r"""Splitting text into words exactly as the ``tokenizers`` library does, ten times faster.

Python's ``re`` has no ``\p{L}``, and its Unicode tables differ from the library's. So the class of
a character is asked of the library itself, 256 code points at a time, as text shows them; a text
is split where its shadow of classes, which is ASCII, is split. Measured on Tiny Shakespeare: 0.05 s
where the library takes 0.9 s with two threads.
"""

import re
from collections.abc import Callable
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, normalizers, pre_tokenizers

from ensue.tokenizers.spec import WORD_PATTERN

_BLOCK = 256
# The patterns over ASCII; elsewhere a letter, number, white space or other character is shown
# by one that no pattern names alone.
_ASCII_PATTERNS = {
    "bpe": (
        r"'(?:[stmd]|re|ve|ll)| ?[a-zA-Z]+| ?[0-9]+| ?[^\t-\r a-zA-Z0-9]+"
        r"|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
    ),
    "word": r" ?[a-zA-Z0-9_]+| ?[^\t-\r a-zA-Z0-9_]+|[\t-\r ]",
}
_SHADOWS = {"a": ord("a"), "1": ord("1"), "!": ord("!"), "": ord("\t")}

Probe = Callable[[str], list[tuple[str, tuple[int, int]]]]


class WordSplitter:
    """A callable that splits text into words, losing nothing.

    Args:
        style: ``"bpe"`` for GPT-2's pattern, ``"word"`` for words with their leading space.
    """

    def __init__(self, style: str) -> None:
        pattern = _ASCII_PATTERNS[style]
        self._find_words = re.compile(pattern).findall
        self._find_shadows = re.compile(pattern.encode()).findall
        self._probe: Probe = (
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str
            if style == "bpe"
            else pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated").pre_tokenize_str
        )
        self._shadow = np.zeros(0x110000, dtype=np.uint8)  # 0 where not asked yet, or NUL itself
        self._shadow[:128] = np.arange(128)
        self._known: set[int] = set()

    def __call__(self, text: str) -> list[str]:
        """Split ``text``, which has no surrogates; joining the pieces gives it back."""
        if text.isascii():
            words: list[str] = self._find_words(text)
            return words
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        shadow = self._shadow[points]
        unknown = set((points[shadow == 0] // _BLOCK).tolist()) - self._known
        if unknown:
            for block in sorted(unknown):
                self._ask(block)
            shadow = self._shadow[points]
        lengths = map(len, self._find_shadows(shadow.tobytes()))
        return [text[a:b] for a, b in pairwise(accumulate(lengths, initial=0))]

    def _ask(self, block: int) -> None:
        """Learn the classes of 256 code points: a character is of the class it is glued to."""
        points = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
        points = points[(points < 0xD800) | (points > 0xDFFF)]
        shadow: NDArray[np.uint8] = np.full(len(points), _SHADOWS[""], dtype=np.uint8)
        for anchor in "a1!":
            pieces = self._probe("".join([anchor + chr(p) for p in points]))
            starts = {start for _, (start, _) in pieces}
            glued = [2 * i + 1 not in starts for i in range(len(points))]
            shadow[glued] = _SHADOWS[anchor]
        if block == 0:
            shadow[:128] = np.arange(128)
        self._shadow[points] = shadow
        self._known.add(block)


class BertSplitter:
    """A callable that splits text into words and signs as BERT's tokenizers do; spaces are lost.

    What stands between spaces is asked of the library once: 2 million words in 1 s, not in 15.

    Args:
        lowercase: Whether letters are lower-cased, and lose their accents.
    """

    def __init__(self, lowercase: bool) -> None:
        self._normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        self._splitter = pre_tokenizers.BertPreTokenizer()
        self._known: dict[str, list[str]] = {}

    def __call__(self, text: str) -> list[str]:
        """Split ``text``, which has no surrogates."""
        words: list[str] = []
        if len(self._known) > _KNOWN:
            self._known.clear()
        for between in _BETWEEN_SPACES(text):
            found = self._known.get(between)
            if found is None:
                clean = self._normalizer.normalize_str(between)
                found = [word for word, _ in self._splitter.pre_tokenize_str(clean)]
                if len(between) <= _KNOWN_LENGTH:
                    self._known[between] = found
            words += found
        return words


_BETWEEN_SPACES = re.compile(r"[^ \t\n\r]+").findall
_KNOWN, _KNOWN_LENGTH = 300_000, 64
