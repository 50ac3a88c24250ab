"""Dates as people write them in many languages, and in ISO 8601: pairs that need no download.

    Donnerstag, 5. März 1998        1998-03-05
    1998年3月5日                     1998-03-05

Names, order and punctuation are those of the Unicode CLDR, through Babel. The task is small enough
for two minutes of a laptop, and a real one: month names are looked up, parts change places, and the
length of the source varies. Which part of the source each part of the target comes from is known,
so that an alignment can be checked (`DatePair.spans`).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

from babel import dates

LOCALES = (
    *("en_US", "en_GB", "de", "fr", "es", "it", "pt_BR", "nl", "sv", "da", "nb", "fi", "pl", "cs"),
    *("hu", "ro", "tr", "ru", "uk", "bg", "el", "lt", "lv", "et", "ja", "zh", "ko", "vi", "id"),
    *("ar", "he", "hi", "th"),
)
"""Languages, as CLDR names them."""
STYLES: tuple[Literal["short", "medium", "long", "full"], ...] = ("short", "medium", "long", "full")
"""CLDR's own lengths of a date; years are always written in full."""
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)
SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = 30_000, 1_000, 1_000
"""Pairs of each split; no day is in two of them."""

PARTS = {"y": "year", "M": "month", "L": "month", "d": "day"}
"""CLDR's letters in a pattern."""
COLUMNS = ("src", "tgt", "language", "month")
"""Of the files."""
TARGET_SPANS = {"year": (0, 4), "month": (5, 7), "day": (8, 10)}
"""Where each part stands in ``1998-03-05``."""


@dataclass(frozen=True)
class DatePair:
    """A date in words, and in ISO 8601."""

    src: str
    """As people write it."""
    tgt: str
    """``1998-03-05``."""
    language: str
    """As CLDR names it: ``de``, ``pt_BR``."""
    spans: dict[str, tuple[int, int]]
    """Where year, month and day stand in `src`: (first character, one behind the last)."""


def date_pairs(split: str) -> Iterator[DatePair]:
    """Give the pairs of a split, always the same ones.

    Args:
        split: train, valid or test.
    """
    days = [FIRST + timedelta(days=i) for i in range((LAST - FIRST).days + 1)]
    rng = random.Random(1998)
    rng.shuffle(days)
    held = {"valid": days[:VALID], "test": days[VALID : VALID + TEST]}
    rng = random.Random(f"dates/{split}")
    rest = days[VALID + TEST :]
    chosen = held[split] if split in held else [rng.choice(rest) for _ in range(TRAIN)]
    patterns = {
        (name, style): dates.tokenize_pattern(dates.get_date_format(style, name).pattern)
        for name in LOCALES
        for style in STYLES
    }
    patterns = {key: tokens for key, tokens in patterns.items() if not _is_ambiguous(tokens)}
    ways = list(patterns)
    for day in chosen:
        way = rng.choice(ways)
        yield _written(day, way[0], patterns[way])


def write(folder: Path) -> None:
    """Write the splits as ``train.tsv``, ``valid.tsv`` and ``test.tsv``.

    Language and month are there to be looked at: what is learnt from are source and target.
    """
    for split in SPLITS:
        rows = [COLUMNS]
        for pair in date_pairs(split):
            month = pair.tgt[slice(*TARGET_SPANS["month"])]
            rows.append((pair.src, pair.tgt, pair.language, month))
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"{split}.tsv").write_text(text, encoding="utf-8", newline="\n")


def _is_ambiguous(tokens: list[tuple[str, Any]]) -> bool:
    """Whether numbers alone tell the month, and it comes first: nobody can tell 1/5 from 5/1."""
    fields = [value for kind, value in tokens if kind == "field" and value[0] in PARTS]
    numeric = all(count <= 2 for letter, count in fields if PARTS[letter] == "month")
    return numeric and [PARTS[letter] for letter, _ in fields][:2] == ["month", "day"]


def _written(day: date, locale: str, tokens: list[tuple[str, Any]]) -> DatePair:
    """Write a date by its pattern, and note where its parts come to stand."""
    form = dates.DateTimeFormat(day, locale)
    text, spans = "", {}
    for kind, value in tokens:
        if kind == "chars":
            text += value
            continue
        letter, count = value
        words = form[letter * (1 if letter == "y" else count)]
        if letter in PARTS:
            spans[PARTS[letter]] = (len(text), len(text) + len(words))
        text += words
    return DatePair(text, day.isoformat(), locale, spans)
