"""Pairs of sentences: two files whose lines belong together, or two columns of a table.

What is wrong with parallel text is seldom seen and costs much: it is looked for first. Files of
unequal length are refused, with the line from which they run apart; so is a set or a file whose
sides are the other way round, and one text given as both sides; empty sides, doubles, absurd ratios
and what the validation set holds too are left out, counted and said.

Source and target become two token streams, as any text does, each sentence a document: pair i is
document i of both.
"""

import hashlib
import itertools
import os
import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data import cache, encodings, shards, tables
from ensue.data.corpus import (
    KINDS,
    MakeTokenizer,
    check_kind,
    check_tokenizer,
    learn_tokenizer,
)
from ensue.data.notes import Notes, shown
from ensue.data.shards import Tokens
from ensue.data.source import Source, list_sources, open_bytes
from ensue.data.split import masked
from ensue.data.spool import Progress, Spool, View
from ensue.data.text import Document
from ensue.data.worker import Loader, Tok
from ensue.errors import DataError, UsageError

NAMES = (
    ("src", "tgt"),
    ("source", "target"),
    ("input", "output"),
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("utterance", "reply"),
    ("from", "to"),
)
"""Names of columns that say which side they are."""
SHORT = 16
"""Characters: below this, no ratio of lengths is absurd."""
SAME_TEXT = 0.95
"""Share of pairs with two equal sides above which both are one text; texts that are corrected may
be right half of the time."""
SWAPPED_BY = 0.2
"""So much more of a text's words must be known from the other side for it to be the other side."""
MOST_HELD_OUT = 2_000
"""Pairs: more would make each evaluation slow, and its score hardly surer."""
VOCABULARIES = (
    (1_000_000, 2_000),
    (10_000_000, 8_000),
    (100_000_000, 16_000),
    (float("inf"), 32_000),
)
"""Ids of a tokenizer that is learnt, by bytes of text less than which."""
_RATIO_FROM = 1_000
"""Pairs that tell by how much one language is usually longer than the other."""
_WORDS_FROM = 20_000
"""Pairs whose words are remembered to tell the sides apart."""
_WORDS_OF = 100
"""Pairs with two sides: the words of a file with fewer tell too little of its languages."""

Words = tuple[frozenset[str], frozenset[str]]
"""Of sources and of targets."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs, and how they become tokens."""

    src: tuple[str, ...] = ()
    """Files of source sentences, one on each line."""
    tgt: tuple[str, ...] = ()
    """Files of their translations, line by line."""
    sources: tuple[str, ...] = ()
    """Tables (.tsv, .csv, .jsonl, .parquet) with both sides, instead of the two."""
    src_column: str = ""
    """The column of tables that holds the source; empty to look for it."""
    tgt_column: str = ""
    """The column that holds the target."""
    valid_src: tuple[str, ...] = ()
    """Source sentences to validate on; empty to hold out a part of the others."""
    valid_tgt: tuple[str, ...] = ()
    """Their translations."""
    valid: tuple[str, ...] = ()
    """Tables to validate on, instead of the two."""
    valid_fraction: float = 0.05
    """How much is held out, above 0 and below 1; at most 2,000 pairs."""
    tokenizer: str = "auto"
    """auto, char, word, bpe, unigram, or the path of a tokenizer.json: of the target, and of the
    source too, unless that has its own."""
    src_tokenizer: str = ""
    """The source's own, by the same names; empty: one for both."""
    vocab_size: int = 0
    """Ids in a tokenizer that is learnt; 0 to choose by the amount of text."""
    max_ratio: float = 4.0
    """Pairs of which one side is so many times longer than usual are left out; 0: none."""
    max_tokens: int = 256
    """Pairs with a longer side are left out of training."""
    encoding: str = ""
    """The encoding of text files; empty to find out."""
    cache: str = ""
    """Folder for token streams; empty for ENSUE_CACHE or the system's cache folder."""

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction < 1:
            raise UsageError(
                f"data.valid_fraction is {self.valid_fraction}; it must lie between 0 and 1",
                "Give for instance: --valid-fraction 0.05",
            )
        self._check_files()
        if self.src_column and self.src_column == self.tgt_column:
            raise UsageError(
                f"column {self.src_column!r} is given as source and as target",
                "Name the column of the other language.",
            )
        self._check_numbers()
        for tokenizer in filter(None, (self.tokenizer, self.src_tokenizer)):
            check_tokenizer(tokenizer)
        if self.encoding:
            encodings.check_codec(self.encoding)

    def _check_files(self) -> None:
        for one, other in (("src", "tgt"), ("valid_src", "valid_tgt")):
            files, others = getattr(self, one), getattr(self, other)
            if len(files) != len(others):
                raise UsageError(
                    f"{len(files)} files for {one}, {len(others)} for {other}: pairs need both",
                    "Name them in the same order: --src a.de b.de --tgt a.en b.en",
                )
            for file in in_both(files, others):
                raise UsageError(
                    f"{file} is given as {one} and as {other}",
                    "Name the file of the other language.",
                )
        for file in (*in_both(self.src, self.valid_src), *in_both(self.sources, self.valid)):
            raise UsageError(
                f"{file} is given to learn from and to validate on",
                "Name other pairs to validate on, or none: a part of the first is then held out.",
            )

    def _check_numbers(self) -> None:
        if self.max_ratio < 0 or 0 < self.max_ratio < 1:
            raise UsageError(f"data.max_ratio is {self.max_ratio}: give 1 or more, or 0 for none")
        if self.max_tokens < 2:
            raise UsageError(f"data.max_tokens is {self.max_tokens}: a word and the end are two")
        if self.vocab_size < 0:
            raise UsageError(
                f"data.vocab_size is {self.vocab_size}", "Give 0 to have it chosen, or a size."
            )


def in_both(files: Sequence[str], others: Sequence[str]) -> list[str]:
    """Give those files that are among the others too, also by another name: a.de is ./a.de."""
    known = {_identity(other) for other in others}
    return [file for file in files if _identity(file) in known]


def _identity(file: str) -> object:
    """Give what all names of a file share, as `os.path.samefile` does; else its name."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):  # not there, or no file: standard input, a set of a hub
        return file
    return found.st_dev, found.st_ino


class Pair(NamedTuple):
    """Two sentences that belong together."""

    where: str
    """``file:line``, of the source."""
    src: str
    tgt: str


@dataclass(frozen=True, eq=False)
class PairTokens:
    """One split: pairs of slices, of two token streams or of one."""

    src: Tokens
    """Sources."""
    tgt: Tokens
    """Targets."""
    src_starts: NDArray[np.int64]
    """Where each source begins."""
    tgt_starts: NDArray[np.int64]
    """Where each target begins."""
    src_lengths: NDArray[np.int64]
    """Tokens of each source, its end too."""
    tgt_lengths: NDArray[np.int64]
    """Tokens of each target, its end too."""
    tgt_bytes: int
    """Bytes of all targets."""
    tgt_unspelt_bytes: int
    """Those of them that the tokenizer could not spell."""

    def __len__(self) -> int:
        return len(self.src_starts)

    def src_ids(self, row: int) -> list[int]:
        """Give the ids of a source, its end too."""
        start = self.src_starts[row]
        ids: list[int] = self.src.ids[start : start + self.src_lengths[row]].tolist()
        return ids

    def tgt_ids(self, row: int) -> list[int]:
        """Give the ids of a target, its end too."""
        start = self.tgt_starts[row]
        ids: list[int] = self.tgt.ids[start : start + self.tgt_lengths[row]].tolist()
        return ids

    @property
    def fingerprint(self) -> str:
        """Changes with either text."""
        return cache.key_of(self.src.fingerprint, self.tgt.fingerprint)


def pair_tokens(src: Tokens, tgt: Tokens, eos_ids: tuple[int, int]) -> PairTokens:
    """Find the sentences of two streams: each ends with its stream's end-of-text id."""
    ends, tgt_ends = (documents_of(t, eos) for t, eos in zip((src, tgt), eos_ids, strict=True))
    assert len(ends) == len(tgt_ends), "the two streams have other numbers of sentences"
    return PairTokens(
        src,
        tgt,
        src_starts=ends[:-1],
        tgt_starts=tgt_ends[:-1],
        src_lengths=np.diff(ends),
        tgt_lengths=np.diff(tgt_ends),
        tgt_bytes=tgt.num_bytes,
        tgt_unspelt_bytes=tgt.unspelt_bytes,
    )


def documents_of(tokens: Tokens, eos_id: int) -> NDArray[np.int64]:
    """Give where each document of a stream begins, and, one more, where the last one ends."""
    return np.flatnonzero(tokens.ids == eos_id).astype(np.int64) + 1


# -- reading -----------------------------------------------------------------------------------


def read_lines(src: Source, tgt: Source, notes: Notes, encoding: str) -> Iterator[Pair]:
    """Read two files line by line.

    Raises:
        DataError: They have other numbers of lines; it names the line where they run apart.
    """
    lengths: tuple[list[int], list[int]] = ([], [])
    sides = [source_lines(source, notes, encoding) for source in (src, tgt)]
    for number, (a, b) in enumerate(itertools.zip_longest(*sides), 1):
        for line, seen in zip((a, b), lengths, strict=True):
            if line is not None:
                seen.append(len(line))
        if a is not None and b is not None:
            yield Pair(f"{src.name}:{number}", a, b)
    counts = [len(seen) for seen in lengths]
    if counts[0] != counts[1]:
        place = _runs_apart(*lengths)
        raise DataError(
            f"{src.name} has {counts[0]:,} lines, {tgt.name} {counts[1]:,}: they are no pairs;"
            f" by their lengths they run apart at about line {place + 1:,}",
            f"Look there: paste {shlex.quote(src.name)} {shlex.quote(tgt.name)}"
            f" | sed -n {max(1, place - 1)},{place + 3}p",
        )


def read_pair_files(src: str, tgt: str) -> Iterator[Pair]:
    """Read two files line by line, whatever their encoding.

    Raises:
        DataError: One cannot be read, or they have other numbers of lines.
    """
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        sides = [list_sources([name], notes, Path(folder)) for name in (src, tgt)]
        for name, found in zip((src, tgt), sides, strict=True):
            if len(found) != 1:
                raise DataError(f"{name} is not one file", "Name a file with a sentence a line.")
        yield from read_lines(sides[0][0], sides[1][0], notes, "")


def source_lines(source: Source, notes: Notes, encoding: str = "") -> Iterator[str]:
    """Give the lines of a text file, whatever their ends; its encoding is guessed, or given.

    A file that cannot be read is refused at once, not when its first line is asked for.
    """
    codec = encoding or encodings.detect(lambda: open_bytes(source), source.name, notes)

    def lines() -> Iterator[str]:
        with open_bytes(source) as stream:
            pieces = encodings.decode(stream, codec, source.name, notes)
            for line in tables.lines_of(pieces, source.name):
                yield line.removesuffix("\r")

    return lines()


def _runs_apart(src: Sequence[int], tgt: Sequence[int]) -> int:
    """Give the line (from 0) from which the shorter file is behind by all that it lacks.

    Lines of one meaning are of like length: the place is sought at which a shift by the difference
    makes the lengths agree best.
    """
    a, b = (np.log1p(np.array(side, dtype=np.float64)) for side in (src, tgt))
    if len(a) < len(b):
        a, b = b, a
    behind = len(a) - len(b)
    if not len(b):
        return 0
    usual = float(np.median(a[: len(b)] - b))
    aligned = np.abs(a[: len(b)] - b - usual)
    shifted = np.abs(a[behind:] - b - usual)
    before = np.concatenate([[0.0], np.cumsum(aligned)])
    after = np.concatenate([np.cumsum(shifted[::-1])[::-1], [0.0]])
    return int(np.argmin(before + after))


def read_table(
    source: Source, notes: Notes, encoding: str, src_column: str, tgt_column: str
) -> Iterator[Pair]:
    """Read two columns of a table."""

    def pick(samples: tables.Samples) -> tuple[str, ...]:
        return choose_columns(samples, src_column, tgt_column, source.name, notes)

    named = tuple(filter(None, (src_column, tgt_column)))
    for where, texts in tables.read_columns(source, notes, pick, encoding, named):
        if len(texts) != 2:
            raise DataError(
                f"{source.name}: its rows are single texts, and no pairs",
                'Give rows with two texts: {"src": "Guten Tag", "tgt": "Good day"}',
            )
        yield Pair(where, *texts)


def choose_columns(
    samples: tables.Samples, src: str, tgt: str, name: str, notes: Notes
) -> tuple[str, str]:
    """Choose the columns of source and target: those wanted, usual names, or the only two texts."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(samples)))
    texts = [c for c in columns if any(isinstance(row.get(c), str) for row in samples)]
    for wanted in filter(None, (src, tgt)):
        if wanted not in texts:
            raise DataError(
                f"{name}: no column {wanted!r} that holds text",
                f"Its columns: {', '.join(map(repr, columns[:20])) or 'none'}",
            )
    if src and tgt:
        return src, tgt
    lower = {c.strip().lower(): c for c in texts}
    known = [(lower[a], lower[b]) for a, b in NAMES if a in lower and b in lower]
    left = [c for c in texts if c not in (src, tgt)]
    if known and not (src or tgt):
        chosen = known[0]
    elif len(left) + bool(src) + bool(tgt) == 2:
        rest = iter(left)
        chosen = src or next(rest), tgt or next(rest)
    else:
        raise DataError(
            f"{name}: which of its columns are source and target cannot be told",
            f"Name them: --src-column A --tgt-column B. Its columns: {', '.join(columns[:20])}",
        )
    notes.add(
        f"source taken from column {chosen[0]!r}, target from {chosen[1]!r}"
        " (choose with --src-column, --tgt-column)",
        name,
    )
    return chosen


# -- cleaning ----------------------------------------------------------------------------------


class Cleaner:
    """Leaves out what teaches nothing, and counts it.

    Args:
        max_ratio: Largest factor between a pair's ratio of lengths and the usual one; 0: any.
        held_out: Sources that training must not see.
        usual: The usual ratio; see `usual_ratio`.
        what: What is cleaned, for the report.
    """

    def __init__(
        self,
        max_ratio: float,
        held_out: frozenset[bytes] = frozenset(),
        usual: float = 1.0,
        what: str = "pairs",
    ) -> None:
        self.max_ratio, self.held_out = max_ratio, held_out
        self.usual, self.what = usual, what
        self.dropped: dict[str, list[str]] = {}
        self.kept = 0
        self.equal = 0  # of those that are kept: pairs with two equal sides
        self._seen: set[int] = set()

    def keeps(self, pair: Pair) -> bool:
        """Whether the pair is worth learning from; why not is remembered."""
        why = self._why_not(pair)
        if why:
            self.dropped.setdefault(why, []).append(pair.where)
            return False
        self.kept += 1
        self.equal += pair.src == pair.tgt
        return True

    def _why_not(self, pair: Pair) -> str:
        if not pair.src or not pair.tgt:
            return "with an empty side"
        if key_of(pair.src) in self.held_out:
            return "whose source is in the validation set too"
        double = hash((pair.src, pair.tgt))
        if double in self._seen:
            return "seen before"
        self._seen.add(double)
        if self.max_ratio and max(len(pair.src), len(pair.tgt)) >= SHORT:
            ratio = (len(pair.src) + 1) / (len(pair.tgt) + 1) / self.usual
            if max(ratio, 1 / ratio) > self.max_ratio:
                return f"of which one side is more than {self.max_ratio:g} times too long"
        return ""

    def lines(self) -> list[str]:
        """Say what was left out."""
        return [
            f"{len(places):,} {self.what} left out {why} ({_first(places)})"
            for why, places in self.dropped.items()
        ]

    def check(self, doing: str) -> None:
        """Refuse pairs of which none is left, or whose two sides are one text.

        Args:
            doing: What they are for, for the message.
        """
        if not self.kept:
            why = self.lines() or ["there is none in what was named"]
            raise DataError(
                "\n  ".join([f"no pair is left to {doing}", *why]),
                "Mend these pairs, or name others.",
            )
        if self.equal > SAME_TEXT * self.kept:
            raise DataError(
                f"{self.equal:,} of {self.kept:,} {self.what} have two equal sides: that is the"
                " same text twice, perhaps a copy by another name",
                "Name the text of the other language.",
            )


def _first(places: Sequence[str]) -> str:
    return f"the first: {', '.join(map(shown, places[:3]))}"


def usual_ratio(pairs: Iterable[Pair]) -> float:
    """Give the median of source's to target's characters; 1 where there are too few to tell."""
    ratios = [(len(p.src) + 1) / (len(p.tgt) + 1) for p in pairs if p.src and p.tgt]
    return float(np.median(ratios)) if len(ratios) >= 100 else 1.0


def key_of(text: str) -> bytes:
    """Give what equal sentences share; JSON can spell half a surrogate pair, which UTF-8 cannot."""
    return " ".join(text.lower().split()).encode(errors="replace")


def words_of(pairs: Iterable[Pair]) -> Words:
    """Give the words of both sides, in lower case."""
    src: set[str] = set()
    tgt: set[str] = set()
    for pair in itertools.islice(pairs, _WORDS_FROM):
        src.update(pair.src.lower().split())
        tgt.update(pair.tgt.lower().split())
    return frozenset(src), frozenset(tgt)


def is_swapped(train: Words, other: Words) -> bool:
    """Whether another set's sides are the other way round: its words are known from the other side.

    Languages without spaces have few words in common with anything: of them nothing is said.
    """

    def known(words: frozenset[str], side: frozenset[str]) -> float:
        return len(words & side) / max(1, len(words))

    return all(
        known(words, train[1 - i]) > known(words, train[i]) + SWAPPED_BY
        for i, words in enumerate(other)
    )


# -- from files to streams ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PairCorpus:
    """Pairs ready to be trained on."""

    src_tokenizer_path: Path
    """The source's ``tokenizer.json``; one with the target's where both share it."""
    tgt_tokenizer_path: Path
    """The target's."""
    train: PairTokens
    """What is learnt from."""
    valid: PairTokens
    """What is held out."""
    fingerprint: str
    """Changes with the text, the split and the tokenizers."""
    notes: tuple[str, ...]
    """What was sniffed, guessed, left out and chosen."""


class Split(NamedTuple):
    """One split as text: sentence i of one view belongs to sentence i of the other."""

    src: View
    tgt: View

    def texts(self) -> Iterator[tuple[str, str]]:
        """Give sources with their targets."""
        return zip(self.src.texts(), self.tgt.texts(), strict=True)


def prepare_pairs(
    config: PairsConfig,
    *,
    make_tokenizer: MakeTokenizer,
    load_tokenizer: Loader,
    on_progress: Progress,
    workers: int = 0,
) -> PairCorpus:
    """Make or find the token streams of pairs; arguments and errors as of `corpus.prepare`."""
    root = cache.cache_root(config.cache)
    notes = Notes()
    with cache.scratch(root) as folder:
        train, valid = _read(config, folder, notes, on_progress)
        rest = (root, (make_tokenizer, load_tokenizer), on_progress, notes)
        joint = not config.src_tokenizer
        views = [train.src, train.tgt] if joint else [train.tgt]
        size = config.vocab_size
        tgt_path, tgt = choose_tokenizer(config.tokenizer, size, views, *rest)
        src_path, src = tgt_path, tgt
        if not joint:
            src_path, src = choose_tokenizer(config.src_tokenizer, size, [train.src], *rest)

        def stream(view: View, path: Path, tokenizer: Tok) -> Tokens:
            text = view.fingerprint()
            found = shards.find(root, text, tokenizer)
            if found is None:
                source = (path, load_tokenizer)
                found = shards.build(
                    root, folder, view, text, tokenizer, source, on_progress, workers
                )
            return found

        splits = [
            pair_tokens(
                stream(part.src, src_path, src),
                stream(part.tgt, tgt_path, tgt),
                (src.eos_id, tgt.eos_id),
            )
            for part in (train, valid)
        ]
    unspelt = [s.src.unspelt_bytes + s.tgt.unspelt_bytes for s in splits]
    if any(unspelt):
        notes.say(
            f"the tokenizers cannot spell {unspelt[0]:,} bytes of train and {unspelt[1]:,} of valid"
        )
    return PairCorpus(
        src_tokenizer_path=src_path,
        tgt_tokenizer_path=tgt_path,
        train=splits[0],
        valid=splits[1],
        fingerprint=cache.key_of(
            *(s.fingerprint for s in splits), src.fingerprint, tgt.fingerprint
        ),
        notes=notes.lines(),
    )


@contextmanager
def read_splits(config: PairsConfig, progress: Progress) -> Iterator[tuple[Split, Split]]:
    """Read again the text of train and valid, as they were cleaned and split for the tokens."""
    with cache.scratch(cache.cache_root(config.cache)) as folder:
        yield _read(config, folder, Notes(), progress)


def read_whole(config: PairsConfig, notes: Notes) -> list[Pair]:
    """Read all that a config names to learn from, and leave nothing out: for a test set."""
    with cache.scratch(cache.cache_root(config.cache)) as folder:
        return list(_pairs(config, "train", folder, notes))


def check_test(test: Sequence[Pair], train: Split, valid: Split) -> tuple[str, ...]:
    """Say what makes the score of a test set doubtful; a published one stays whole all the same.

    Args:
        test: All of its pairs.
        train: What is learnt from.
        valid: What is held out.

    Returns:
        How many sides are empty, and how many sources stand in train and in valid too.

    Raises:
        DataError: Its sides are the other way round.
    """
    if is_swapped(words_of(Pair("", *texts) for texts in train.texts()), words_of(test)):
        raise DataError(
            "the test set is the other way round: its sources look like training targets",
            "Exchange its two sides: --test-src and --test-tgt, or the columns of its table",
        )
    found = {"have an empty side": [pair.where for pair in test if not (pair.src and pair.tgt)]}
    keys = [key_of(pair.src) for pair in test]
    for name, split in (("train", train), ("valid", valid)):
        known = frozenset(keys).intersection(map(key_of, split.src.texts()))
        found[f"have a source that also stands in {name}"] = [
            pair.where for pair, key in zip(test, keys, strict=True) if key in known
        ]
    return tuple(
        f"{len(places):,} of {len(test):,} test pairs {what} ({_first(places)}); they are scored"
        " all the same"
        for what, places in found.items()
        if places
    )


def _read(
    config: PairsConfig, folder: Path, notes: Notes, progress: Progress
) -> tuple[Split, Split]:
    """Read, check and split."""
    given = list(_pairs(config, "valid", folder, notes)) if _has_valid(config) else []
    held_out = frozenset(key_of(pair.src) for pair in given)
    pairs = _pairs(config, "train", folder, notes)
    head = list(itertools.islice(pairs, _RATIO_FROM))
    cleaner = Cleaner(config.max_ratio, held_out, usual_ratio(head))
    first: list[Pair] = []

    def kept() -> Iterator[Pair]:
        for pair in itertools.chain(head, pairs):
            if cleaner.keeps(pair):
                if len(first) < _WORDS_FROM:
                    first.append(pair)
                yield pair

    train = _spooled(kept(), folder, "train", notes, progress)
    cleaner.check("learn from")
    for line in cleaner.lines():
        notes.say(line)
    if not given:
        return _held_out(train, config.valid_fraction, notes)
    if is_swapped(words_of(first), words_of(given)):
        raise DataError(
            "the validation set is the other way round: its sources look like training targets",
            "Exchange its two sides: --valid-src and --valid-tgt",
        )
    whole = Cleaner(0.0, what="pairs of the validation set")
    valid = _spooled(filter(whole.keeps, given), folder, "valid", notes, progress)
    whole.check("validate on")
    for line in whole.lines():
        notes.say(line)
    return train, valid


def _has_valid(config: PairsConfig) -> bool:
    return bool(config.valid_src or config.valid)


def _pairs(config: PairsConfig, split: str, folder: Path, notes: Notes) -> Iterator[Pair]:
    """Read all pairs of a split."""
    if split == "train":
        src, tgt, sources = config.src, config.tgt, config.sources
    else:
        src, tgt, sources = config.valid_src, config.valid_tgt, config.valid
    if not (src or sources):
        raise DataError(
            "no pairs were named", "Give two files (--src A --tgt B), or a table with both."
        )
    parts = [
        _Part(
            f"{a.name} with {b.name}",
            f"Exchange {a.name} and {b.name}.",
            map(_stripped, read_lines(a, b, notes, config.encoding)),
        )
        for a, b in _couples(_listed(src, notes, folder), _listed(tgt, notes, folder))
    ]
    columns = (config.src_column, config.tgt_column)
    parts += [
        _Part(
            source.name,
            f"Exchange the columns of {source.name}, or name those of all tables:"
            " --src-column A --tgt-column B",
            map(_stripped, read_table(source, notes, config.encoding, *columns)),
        )
        for source in _listed(sources, notes, folder)
    ]
    yield from _in_one_order(parts)


class _Part(NamedTuple):
    """Two files, or a table."""

    name: str
    """As shown in messages."""
    mend: str
    """What to do where its sides are the other way round."""
    pairs: Iterator[Pair]
    """What is in it; read once."""


def _in_one_order(parts: Sequence[_Part]) -> Iterator[Pair]:
    """Read parts in turn; one whose sides are the other way round than the first one's is refused.

    Held are 20,000 pairs of one part, and the words of so many of two; a single part is not looked
    at. Each is asked for the other's words: of a book's a glossary knows few.

    Raises:
        DataError: It names the part, and what to exchange.
    """
    first: tuple[_Part, Words] | None = None
    for part in parts:
        head = list(itertools.islice(part.pairs, _WORDS_FROM)) if len(parts) > 1 else []
        if sum(bool(pair.src and pair.tgt) for pair in head) >= _WORDS_OF:
            words = words_of(head)
            first = first or (part, words)
            if is_swapped(first[1], words) or is_swapped(words, first[1]):
                raise DataError(
                    f"{part.name} is the other way round than {first[0].name}: its sources look"
                    " like targets there",
                    part.mend,
                )
        yield from itertools.chain(head, part.pairs)


def _listed(names: Sequence[str], notes: Notes, folder: Path) -> list[Source]:
    return list_sources(names, notes, folder) if names else []


def _couples(src: Sequence[Source], tgt: Sequence[Source]) -> Iterator[tuple[Source, Source]]:
    """Give the files that belong together, in their order; a folder holds any number of them."""
    for source in (*src, *tgt):
        if source.path is None:
            raise DataError(
                f"{source.name}: a set of a hub has no lines",
                f"It is a table: ensue train {source.name} --task translate",
            )
    if len(src) != len(tgt):
        raise DataError(
            f"{len(src)} files of sources, {len(tgt)} of targets: pairs need both",
            f"Sources: {_names(src)}. Targets: {_names(tgt)}.",
        )
    return zip(src, tgt, strict=True)


def _names(sources: Sequence[Source]) -> str:
    more = ", …" if len(sources) > 5 else ""
    return ", ".join(shown(source.name) for source in sources[:5]) + more


def _stripped(pair: Pair) -> Pair:
    """Make white space of any kind one space: a sentence is one line."""
    return pair._replace(src=" ".join(pair.src.split()), tgt=" ".join(pair.tgt.split()))


def _spooled(
    pairs: Iterable[Pair], folder: Path, name: str, notes: Notes, progress: Progress
) -> Split:
    src, tgt = Spool(folder / f"{name}.src"), Spool(folder / f"{name}.tgt")
    with ExitStack() as stack:
        adders: list[Callable[[Document], None]] = [
            stack.enter_context(spool.writing(notes, progress)) for spool in (src, tgt)
        ]
        for pair in pairs:
            for add, text in zip(adders, (pair.src, pair.tgt), strict=True):
                add(Document(pair.where, iter([text])))
    return Split(src.whole(), tgt.whole())


def _held_out(whole: Split, fraction: float, notes: Notes) -> tuple[Split, Split]:
    """Hold out pairs by a hash of their source, so that equal sources stay together."""
    digests = (hashlib.blake2b(key_of(t), digest_size=8).digest() for t in whole.src.texts())
    hashes = np.array([int.from_bytes(d, "little") for d in digests], dtype=np.uint64)
    distinct = np.unique(hashes)
    count = min(MOST_HELD_OUT, int(fraction * len(distinct)))
    if not count or count == len(distinct):
        raise DataError(
            f"{len(hashes):,} pairs are too few to hold out {100 * fraction:.3g} % of them",
            "Give more, or others to validate on: --valid-src A --valid-tgt B",
        )
    mask = np.isin(hashes, distinct[:count])
    notes.say(
        f"{int(mask.sum()):,} of {len(mask):,} pairs, chosen by a hash of their source, are valid"
    )
    train, valid = (Split(*(masked(v, m) for v in whole)) for m in (~mask, mask))
    return train, valid


def choose_tokenizer(
    kind: str,
    size: int,
    views: Sequence[View],
    root: Path,
    makers: tuple[MakeTokenizer, Loader],
    progress: Progress,
    notes: Notes,
    small: str = "char",
) -> tuple[Path, Tok]:
    """Give a tokenizer: from the file that is named, or learnt from the views.

    Args:
        kind: As in a config.
        size: Its number of ids; 0: chosen by the amount of text.
        views: The text.
        root: The cache folder.
        makers: What learns a tokenizer, and what reads one.
        progress: As of `learn_tokenizer`.
        notes: Takes what was chosen.
        small: What is learnt from less than 100,000 bytes, where the kind is open.
    """
    if kind not in KINDS:
        path = Path(kind).absolute()
        tokenizer = makers[1](path)
        check_kind(tokenizer, kind)
        return path, tokenizer
    num_bytes = sum(view.num_bytes for view in views)
    chosen = kind
    if kind == "auto":
        chosen = "bpe" if num_bytes >= 100_000 else small
    if chosen in ("bpe", "unigram") and not size:
        size = next(entries for limit, entries in VOCABULARIES if num_bytes < limit)
    text = cache.key_of(*(view.fingerprint() for view in views))
    path, tokenizer = learn_tokenizer(
        (chosen, size), text, lambda: views, root, makers, progress, notes
    )
    if kind == "auto":
        notes.say(
            f"tokenizer: {chosen}, {tokenizer.vocab_size:,} ids, chosen for {num_bytes:,} bytes of"
            " text (choose with --tokenizer)"
        )
    return path, tokenizer
