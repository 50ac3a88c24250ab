"""Texts with their classes: a table with columns of both, or lines that begin with the label.

What is wrong with labels is looked for first: none, several in a cell, numbers to be predicted, a
column of names in the place of classes, one text under two labels, or in two splits.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data import cache, encodings, tables
from ensue.data.corpus import check_tokenizer
from ensue.data.labels import check_shares, numbered, settle_splits, some
from ensue.data.masked import KINDS as PIECE_KINDS
from ensue.data.notes import Notes, shown
from ensue.data.source import Source, form_of, list_sources, open_bytes
from ensue.data.spool import Progress
from ensue.errors import DataError, UsageError

LABELS = (
    *("label", "labels", "class", "category", "intent", "sentiment", "topic"),
    *("coarse_label", "label_text", "label_name", "tag", "stars", "rating", "polarity", "y"),
)
"""Names of columns that hold labels."""
TEXTS = (
    *("text", "sentence", "content", "body", "review", "question", "utterance", "comment"),
    *("tweet", "message", "document", "title", "headline", "query", "x"),
)
"""Names of columns that hold the text."""
MARK = "__label__"
"""Before the label of a line, as fastText writes it."""
LINE_FORMS = (".label", ".labels")
"""Files whose lines begin with a label, by their names."""
_FEW = 0.2
"""A column has so many different values for each row at most, to be taken for labels unasked."""
_LONGEST_LABEL = 100
_SEPARATORS = ";|,/"


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Which texts, and where their labels stand."""

    sources: tuple[str, ...]
    """Tables (.csv, .tsv, .jsonl, .parquet) with a column of texts and one of labels; or files
    whose lines begin with the label."""
    valid: tuple[str, ...] = ()
    """Texts to choose on; empty to hold out the same share of each class."""
    valid_fraction: float = 0.1
    """How much is held out to choose on, above 0 and below 1."""
    test_fraction: float = 0.0
    """How much is held out besides, to be scored at the end: ``ensue evaluate --split test``."""
    text_columns: tuple[str, ...] = ()
    """The columns of tables that hold the text, joined in this order; empty to look for one."""
    label_column: str = ""
    """The column that names the class; empty to look for it."""
    label_until: str = ""
    """Take of each label what stands before this: ":" makes NUM of NUM:date."""
    max_words: int = 256
    """Words of a text that are read; what follows them is cut, and said."""
    tokenizer: str = "auto"
    """Of a model that reads pieces of words (bert): auto or wordpiece (lower-cased),
    wordpiece-cased, or the path of a tokenizer.json that has [MASK]."""
    vocab_size: int = 0
    """Pieces of a tokenizer that is learnt; 0 to choose by the amount of text."""
    encoding: str = ""
    """The encoding of text files; empty to find out."""
    cache: str = ""
    """Folder for what is fetched; empty for ENSUE_CACHE or the system's cache folder."""

    def __post_init__(self) -> None:
        check_shares(self.valid_fraction, self.test_fraction)
        if self.max_words < 1:
            raise UsageError(f"data.max_words is {self.max_words}: a text has at least one")
        if self.label_column and self.label_column in self.text_columns:
            raise UsageError(
                f"column {self.label_column!r} is given as text and as label",
                "The label must not stand in what it is to be told from.",
            )
        check_tokenizer(self.tokenizer, PIECE_KINDS)
        for file in {*self.sources} & {*self.valid}:
            raise UsageError(
                f"{file} is given to learn from and to choose on",
                "Name other texts to choose on, or none: a part of the first is then held out.",
            )
        if self.encoding:
            encodings.check_codec(self.encoding)


class Example(NamedTuple):
    """One text and its class."""

    where: str
    """``file:line``."""
    text: str
    label: str


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSplit:
    """Texts of one split."""

    texts: Sequence[str]
    """In the order read."""
    labels: NDArray[np.int64]
    """Their classes; -1: one that train lacks."""
    fingerprint: str
    """SHA-256 of texts and labels."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledTexts:
    """Texts ready to be learnt from."""

    classes: tuple[str, ...]
    """Their names, in the order of the labels' numbers."""
    train: TextSplit
    """What is learnt from."""
    valid: TextSplit
    """What is chosen on."""
    test: TextSplit | None
    """What is scored at the end; None: there is none."""
    fingerprint: str
    """Changes with texts, labels and split."""
    columns: tuple[str, ...]
    """Columns of the text, where it stood in tables."""
    notes: tuple[str, ...]
    """What was found, left out and chosen."""


# --- what is there --------------------------------------------------------------------------------


def are_labelled(name: str) -> bool:
    """Tell by a file's name and first rows whether it holds texts with their classes."""
    path = Path(name)
    if not path.is_file():
        return False
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() in LINE_FORMS:
        return True
    source = Source(name=name, form=form_of(path), path=path)
    try:
        if source.form == "text":
            with open_bytes(source) as stream:
                return stream.read(len(MARK)) == MARK.encode()
        return _has_labels(_first_rows(source))
    except (DataError, OSError):
        return False  # what is wrong with it is said when it is read


def _first_rows(source: Source) -> tables.Samples:
    """Give the first rows of a table, by the names of their columns."""
    seen: list[Any] = []

    def pick(samples: tables.Samples) -> tuple[str, ...]:
        seen.extend(samples)
        return tuple(islice(chain.from_iterable(samples), 1))

    next(tables.read_columns(source, Notes(), pick, "", (), numbers=True), None)
    return seen


def _has_labels(samples: tables.Samples) -> bool:
    """Whether a column is named as labels are; or of two without names one holds few values."""
    columns = list(dict.fromkeys(chain.from_iterable(samples)))
    named = [c for c in columns if c.strip().lower() in LABELS]
    texts = [c for c in columns if c not in named and _length(samples, c) > 0]
    if named:
        return bool(texts)
    if columns != ["1", "2"] or len(samples) < 20:
        return False
    label, text = sorted(columns, key=lambda c: _length(samples, c))
    return _variety(samples, label) <= _FEW * len(samples) < _variety(samples, text)


def _length(samples: tables.Samples, column: str) -> int:
    return sum(len(row[column]) for row in samples if isinstance(row.get(column), str))


def _variety(samples: tables.Samples, column: str) -> int:
    return len({str(row.get(column)) for row in samples})


def choose_columns(
    samples: tables.Samples, config: LabelledConfig, name: str, notes: Notes
) -> tuple[str, ...]:
    """Choose the columns: of the label, then of the text.

    Raises:
        DataError: One that was asked for is not there; or which they are cannot be told.
    """
    columns = list(dict.fromkeys(chain.from_iterable(samples)))
    for wanted in filter(None, (config.label_column, *config.text_columns)):
        if wanted not in columns:
            raise DataError(
                f"{name}: no column {wanted!r}",
                f"Its columns: {', '.join(map(repr, columns[:20])) or 'none'}",
            )
    label = config.label_column or _label_column(samples, columns, config.text_columns)
    if not label:
        raise DataError(
            f"{name}: which of its columns is the label cannot be told",
            f"Name it: --label-column NAME. Its columns: {', '.join(map(repr, columns[:20]))}",
        )
    several = next((row[label] for row in samples if isinstance(row.get(label), list)), None)
    if several is not None:
        raise DataError(
            f"{name}: column {label!r} holds several labels in a row: {str(several)[:80]}",
            _ONE_LABEL,
        )
    texts = config.text_columns or _text_column(samples, columns, label)
    if not texts:
        raise DataError(
            f"{name}: no column besides {label!r} holds text",
            "Name the columns: --text-columns TEXT --label-column LABEL",
        )
    flags = "(choose with --text-columns, --label-column)"
    notes.add(
        f"text taken from {' and '.join(map(repr, texts))}, label from {label!r} {flags}", name
    )
    return label, *texts


def _label_column(samples: tables.Samples, columns: list[str], texts: Sequence[str]) -> str:
    left = [c for c in columns if c not in texts]
    lower = {c.strip().lower(): c for c in reversed(left)}
    named = [lower[known] for known in LABELS if known in lower]
    if named:
        return named[0]
    short = [c for c in left if 0 < _length(samples, c) <= 40 * len(samples)]
    by_variety = sorted(short, key=lambda c: (_variety(samples, c), _length(samples, c)))
    if not by_variety or (len(columns) > 2 and _variety(samples, by_variety[0]) < 2):
        return ""
    label = by_variety[0]
    rivals = [c for c in by_variety[1:] if _variety(samples, c) <= _FEW * len(samples)]
    return "" if rivals or (len(left) < 2 and not texts) else label


def _text_column(samples: tables.Samples, columns: list[str], label: str) -> tuple[str, ...]:
    left = [c for c in columns if c != label and _length(samples, c)]
    lower = {c.strip().lower(): c for c in reversed(left)}
    named = [lower[known] for known in TEXTS if known in lower]
    longest = max(left, key=lambda c: _length(samples, c), default="")
    return (named[0],) if named else (longest,) if longest else ()


class Reader:
    """Reads texts with their labels; columns are joined, labels cut where that is asked for.

    Args:
        config: Where texts and labels stand.
        scratch: A folder that may take a copy of a pipe.
        notes: Takes remarks.
        progress: Called with (stage, done, total).
    """

    def __init__(
        self, config: LabelledConfig, scratch: Path, notes: Notes, progress: Progress
    ) -> None:
        self.config, self.scratch, self.notes, self.progress = config, scratch, notes, progress
        self.columns: tuple[str, ...] = ()  # of the text, in the last table

    def read(self, names: Sequence[str]) -> Iterator[Example]:
        """Give what has a text and a label, and say what has not.

        Raises:
            DataError: A file is missing, damaged or has no such columns; nothing is left.
        """
        without: dict[str, list[str]] = defaultdict(list)
        count = 0
        for count, example in enumerate(self._examples(names), 1):
            if count % 10_000 == 0:
                self.progress("reading texts", count, 0)
            lacks = "label" if not example.label else "text" if not example.text else ""
            if lacks:
                without[lacks].append(example.where)
            else:
                yield example
        for what, places in without.items():
            first = ", ".join(map(shown, places[:3]))
            self.notes.say(f"{len(places):,} rows without a {what} skipped (the first: {first})")
        if sum(map(len, without.values())) == count:
            remarks = "; ".join(self.notes.lines())[:500]
            raise DataError(f"{', '.join(names)}: no row has a text and a label", remarks)

    def _examples(self, names: Sequence[str]) -> Iterator[Example]:
        for source in list_sources(names, self.notes, self.scratch):
            rows = self._lines(source) if source.form == "text" else self._table(source)
            for where, label, *texts in rows:
                text = " ".join(filter(None, map(str.strip, texts)))
                yield Example(where, text, " ".join(self._cut(label).split()))

    def _cut(self, label: str) -> str:
        until = self.config.label_until
        return label.split(until)[0] if until else label

    def _lines(self, source: Source) -> Iterator[tuple[str, ...]]:
        """Read lines that begin with a label: ``NUM:date When …`` or ``__label__x …``."""
        notes, name = self.notes, source.name
        codec = self.config.encoding or encodings.detect(lambda: open_bytes(source), name, notes)
        notes.add("the first word of each line is taken for its label", name)
        with open_bytes(source) as stream:
            pieces = encodings.decode(stream, codec, name, notes)
            for number, line in enumerate(tables.lines_of(pieces, name), 1):
                label, _, text = line.strip().partition("\t" if "\t" in line.strip() else " ")
                if text.lstrip().startswith(MARK):
                    raise DataError(f"{name}:{number}: several labels before one text", _ONE_LABEL)
                if label:
                    yield f"{name}:{number}", label.removeprefix(MARK), text

    def _table(self, source: Source) -> Iterator[tuple[str, ...]]:
        config = self.config

        def pick(samples: tables.Samples) -> tuple[str, ...]:
            chosen = choose_columns(samples, config, source.name, self.notes)
            self.columns = chosen[1:]
            return chosen

        named = tuple(filter(None, (config.label_column, *config.text_columns)))
        rows = tables.read_columns(source, self.notes, pick, config.encoding, named, numbers=True)
        for where, texts in rows:
            yield where, *texts


_ONE_LABEL = (
    "Several labels of one text are not offered yet: keep one of each row, or write combinations"
    " that shall be classes with another sign between."
)


# --- what is made of it ---------------------------------------------------------------------------


def prepare_labelled(config: LabelledConfig, on_progress: Progress) -> LabelledTexts:
    """Read, check and split texts with their classes.

    Raises:
        DataError: Something is missing or damaged; labels are none; there is one class only.
    """
    if not config.sources:
        raise DataError("no labelled texts were named", "Give a table: ensue train reviews.csv")
    notes = Notes()
    with cache.scratch(cache.cache_root(config.cache)) as scratch:
        reader = Reader(config, scratch, notes, on_progress)
        learnt = list(reader.read(config.sources))
        columns = reader.columns
        chosen_on = list(reader.read(config.valid)) if config.valid else []
    rows = learnt + chosen_on
    _check_labels(learnt)
    hashes = _hashes(rows)
    _say_contradictions(rows, hashes, notes)
    split = np.array(["train"] * len(learnt) + ["valid"] * len(chosen_on))
    shares = {"test": config.test_fraction, "valid": config.valid_fraction}
    names, numbers = settle_splits(split, [r.label for r in rows], hashes, shares, "texts", notes)
    splits = {of: _text_split(rows, numbers, np.flatnonzero(split == of)) for of in shares}
    train = _text_split(rows, numbers, np.flatnonzero(split == "train"))
    return LabelledTexts(
        classes=tuple(names),
        train=train,
        valid=splits["valid"],
        test=splits["test"] if len(splits["test"]) else None,
        fingerprint=cache.key_of(names, train.fingerprint, splits["valid"].fingerprint),
        columns=columns,
        notes=notes.lines(),
    )


def labelled_texts(
    names: Sequence[str], classes: Sequence[str], config: LabelledConfig, on_progress: Progress
) -> tuple[TextSplit, tuple[str, ...]]:
    """Read texts with their classes, to be scored.

    Args:
        names: As `LabelledConfig.sources`.
        classes: Those that were learnt.
        config: Where texts and labels stand.
        on_progress: Called with (stage, done, total).

    Returns:
        The texts, and what was noticed.

    Raises:
        DataError: As of `prepare_labelled`.
    """
    notes = Notes()
    with cache.scratch(cache.cache_root(config.cache)) as scratch:
        rows = list(Reader(config, scratch, notes, on_progress).read(names))
    numbers = numbered([row.label for row in rows], classes, "what is scored", notes)
    every = np.arange(len(rows))
    return _text_split(rows, np.array(numbers, dtype=np.int64), every), notes.lines()


def _check_labels(rows: Sequence[Example]) -> None:
    """Refuse what stands in the place of labels and is none."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.label, row.where)
    for label, where in first.items():
        if len(label) > _LONGEST_LABEL:
            raise DataError(
                f"{where}: a label of {len(label):,} characters: {label[:60]!r}…",
                "Is it the column of the text? Name them: --label-column, --text-columns",
            )
        for separator in _SEPARATORS:
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and all(part in first for part in parts):
                raise DataError(
                    f"{where}: several labels in one cell: {label!r}",
                    _ONE_LABEL,
                )
    if len(rows) >= 20 and len(first) > len(rows) / 2:
        numbers = all(map(_is_number, first))
        raise DataError(
            f"{len(first):,} different labels in {len(rows):,} rows: "
            + ("numbers, as it seems" if numbers else some(list(first))),
            "Predicting numbers is not offered; name classes."
            if numbers
            else "Is it the column of the labels? Name it: --label-column NAME",
        )


def _is_number(label: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[0-9]*[.,]?[0-9]+(e[-+]?[0-9]+)?", label, re.IGNORECASE))


def _hashes(rows: Sequence[Example]) -> NDArray[np.uint64]:
    """Hash texts, whatever their case and spaces."""
    digests = (
        hashlib.blake2b(" ".join(r.text.lower().split()).encode(errors="replace"), digest_size=8)
        for r in rows
    )
    return np.frombuffer(b"".join(d.digest() for d in digests), dtype=np.uint64)


def _say_contradictions(rows: Sequence[Example], hashes: NDArray[np.uint64], notes: Notes) -> None:
    """Say which texts stand there under several labels."""
    labels: dict[int, str] = {}
    clash: dict[int, str] = {}
    for row, key in zip(rows, hashes.tolist(), strict=True):
        if labels.setdefault(key, row.label) != row.label:
            clash.setdefault(key, row.where)
    if clash:
        first = ", ".join(map(shown, islice(clash.values(), 3)))
        notes.say(f"{len(clash):,} texts stand under more than one label (for instance {first})")


def _text_split(
    rows: Sequence[Example], numbers: NDArray[np.int64], places: NDArray[np.int64]
) -> TextSplit:
    texts, labels = [rows[i].text for i in places.tolist()], numbers[places]
    digest = hashlib.sha256("\0".join(texts).encode(errors="replace"))
    digest.update(labels.tobytes())
    return TextSplit(texts=texts, labels=labels, fingerprint=digest.hexdigest())
