"""How good translations are, by the measures that papers print: sacreBLEU's own.

BLEU counts the words and groups of up to four words that a translation shares with its reference,
chrF letters, TER the edits that are needed. Cased scores come first; the lower-cased BLEU stands
beside them, because much that is published is lower-cased. The signature says how each was counted.

Reference: Post 2018, arXiv:1804.08771; the bootstrap: Koehn 2004.
"""

import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ensue.errors import MissingExtraError

BOOTSTRAP = 1000
"""Samples of the sentences, drawn with replacement."""
LENGTHS = (5, 10, 15, 20, 30, 50)
"""Words of a source up to which sentences are scored together."""
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = f"{_HAN}\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts without spaces: Han, kana, Thai, Lao, Burmese, Khmer."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
"""A word; of scripts without spaces a letter."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure over a whole text."""

    name: str
    """BLEU, BLEU lower-cased, chrF or TER."""
    value: float
    """In percent. Of TER, fewer are better."""
    signature: str
    """How it was counted, to be printed beside it."""


@dataclass(frozen=True, kw_only=True)
class LengthScore:
    """The sentences whose sources have so many words."""

    longest: int
    """Words at most; 0: any number."""
    sentences: int
    """How many there are."""
    bleu: float
    """Their BLEU."""


@dataclass(frozen=True, kw_only=True)
class Against:
    """Two systems on the same sentences, by paired bootstrap."""

    bleu: float
    """The other system's BLEU."""
    p_value: float
    """How probable such a difference is where the two are equally good."""
    samples: int
    """Draws of the sentences."""


@dataclass(frozen=True, kw_only=True)
class TranslationScore:
    """A text translated, and what it is worth."""

    measures: tuple[Measure, ...]
    """BLEU first."""
    by_length: tuple[LengthScore, ...]
    """BLEU by the length of the source, the shortest first."""
    sentences: int
    """Scored."""
    against: Against | None = None
    """Beside another system, where one was named."""

    @property
    def bleu(self) -> float:
        """The cased BLEU."""
        return self.measures[0].value


def score_translations(
    sources: Sequence[str],
    translations: Sequence[str],
    references: Sequence[str],
    other: Sequence[str] | None = None,
) -> TranslationScore:
    """Score translations by one reference each.

    Args:
        sources: What was translated.
        translations: What came out.
        references: What a person wrote.
        other: Another system's translations of the same sources.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    measures = [corpus_score(name, translations, references) for name in _metrics(references)]
    return TranslationScore(
        measures=tuple(measures),
        by_length=tuple(_by_length(sources, translations, references)),
        sentences=len(sources),
        against=None if other is None else _against(translations, other, references),
    )


def require() -> None:
    """Raise `MissingExtraError` now, and not when all is translated."""
    _metrics(())


def is_installed() -> bool:
    """Whether there is sacrebleu."""
    return importlib.util.find_spec("sacrebleu") is not None


def corpus_score(name: str, translations: Sequence[str], references: Sequence[str]) -> Measure:
    """Score a text by one measure.

    Args:
        name: BLEU, BLEU lower-cased, chrF or TER.
        translations: What came out.
        references: What a person wrote.

    Raises:
        MissingExtraError: sacrebleu is not installed.
    """
    metric = _metrics(references)[name]
    value = metric.corpus_score(translations, [references]).score
    return Measure(name=name, value=value, signature=str(metric.get_signature()))


def exact_share(translations: Sequence[str], references: Sequence[str]) -> float:
    """Give the lines that are their reference, letter by letter, in percent."""
    same = sum(a == b for a, b in zip(translations, references, strict=True))
    return 100 * same / len(references)


def _metrics(references: Sequence[str]) -> dict[str, Any]:
    try:
        metrics = importlib.import_module("sacrebleu.metrics")
    except ImportError:
        raise MissingExtraError("sacrebleu", "bleu") from None
    words = _splitting(references)
    return {
        "BLEU": metrics.BLEU(tokenize=words),
        "BLEU lower-cased": metrics.BLEU(tokenize=words, lowercase=True),
        "chrF": metrics.CHRF(),
        "TER": metrics.TER(asian_support=words != "13a", normalized=words != "13a"),
    }


def _splitting(references: Sequence[str]) -> str:
    """Choose what BLEU takes for words: 13a, as is usual, would take a Chinese sentence for one.

    Where most letters are of a script without spaces, it is sacreBLEU's ``zh`` for Han alone,
    and ``char`` for any other. The signature says which.
    """
    letters = [c for text in references for c in text if c.isalnum()]
    unspaced = [c for c in letters if re.match(f"[{_UNSPACED}]", c)]
    if 2 * len(unspaced) <= len(letters):
        return "13a"
    han = sum(re.match(f"[{_HAN}]", c) is not None for c in unspaced)
    return "zh" if han > 0.95 * len(unspaced) else "char"


def _by_length(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> list[LengthScore]:
    bleu = _metrics(references)["BLEU"]
    lengths = [len(_WORD.findall(source)) for source in sources]
    found, least = [], -1  # a blank source has no word
    for longest in (*LENGTHS, 0):
        rows = [i for i, n in enumerate(lengths) if least < n and (not longest or n <= longest)]
        least = longest
        if rows:
            texts = [translations[i] for i in rows], [[references[i] for i in rows]]
            value = bleu.corpus_score(*texts).score
            found.append(LengthScore(longest=longest, sentences=len(rows), bleu=value))
    return found


def _against(
    translations: Sequence[str], other: Sequence[str], references: Sequence[str]
) -> Against:
    significance: Any = importlib.import_module("sacrebleu.significance")
    systems = [("other", list(other)), ("this", list(translations))]
    metrics = {"BLEU": _metrics(references)["BLEU"]}
    test = significance.PairedTest(
        systems, metrics, [list(references)], test_type="bs", n_samples=BOOTSTRAP
    )
    first, second = test()[1]["BLEU"]
    # Of two that say the same sacreBLEU's test gives the smallest p there is.
    p_value = 1.0 if list(other) == list(translations) else float(second.p_value)
    return Against(bleu=first.score, p_value=p_value, samples=BOOTSTRAP)
