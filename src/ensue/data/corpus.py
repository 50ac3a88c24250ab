"""From what a user names to two token streams: read, split, choose a tokenizer, tokenise, cache."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

from ensue.data import cache, encodings, shards
from ensue.data.notes import Notes
from ensue.data.reading import ReadConfig, Reading, read_all
from ensue.data.shards import Tokens
from ensue.data.spool import Progress, View
from ensue.data.worker import Loader, Tok
from ensue.errors import DataError, UsageError, nearest

KINDS = ("auto", "byte", "char", "word", "bpe", "unigram")
"""Tokenizers whose ids spell the text as it was."""
# Merges and words learnt from more text than this hardly differ; counting takes 0.1 s a megabyte.
TOKENIZER_SAMPLE_BYTES = 32 << 20

MakeTokenizer = Callable[[str, Iterator[str], int], Tok]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text, and how it becomes tokens."""

    kinds: ClassVar[tuple[str, ...]] = KINDS

    sources: tuple[str, ...]
    """Files, folders, ``-`` for standard input, ``hub:NAME[:split]``."""
    valid: tuple[str, ...] = ()
    """Sources to validate on; empty to hold out a part of the others."""
    valid_fraction: float = 0.1
    """How much is held out, above 0 and below 1."""
    tokenizer: str = "auto"
    """auto, byte, char, word, bpe, unigram, or the path of a tokenizer.json."""
    vocab_size: int = 0
    """Ids in a tokenizer that is learnt; 0 to choose by the amount of text."""
    text_column: str = ""
    """The column of tables that holds the text; empty to look for it."""
    encoding: str = ""
    """The encoding of text files; empty to find out."""
    cache: str = ""
    """Folder for token streams; empty for ENSUE_CACHE or the system's cache folder."""

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction < 1:
            raise UsageError(
                f"data.valid_fraction is {self.valid_fraction}; it must lie between 0 and 1",
                "Give for instance: --valid-fraction 0.1",
            )
        if self.vocab_size < 0:
            raise UsageError(
                f"data.vocab_size is {self.vocab_size}", "Give 0 to have it chosen, or a size."
            )
        check_tokenizer(self.tokenizer, self.kinds)
        if self.encoding:
            encodings.check_codec(self.encoding)

    def chosen(self, num_bytes: int, num_chars_distinct: int) -> tuple[str, int]:
        """Choose a tokenizer where none is asked for; see `choose_tokenizer`."""
        return choose_tokenizer(num_bytes, num_chars_distinct)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text ready to be trained on."""

    tokenizer_path: Path
    """The ``tokenizer.json``."""
    train: Tokens
    """What is learnt from."""
    valid: Tokens
    """What is held out."""
    fingerprint: str
    """Changes with the text, the split and the tokenizer."""
    notes: tuple[str, ...]
    """What was sniffed, guessed, skipped and chosen."""


def choose_tokenizer(num_bytes: int, num_chars_distinct: int) -> tuple[str, int]:
    """Choose a tokenizer's kind and vocabulary for an amount of training text.

    Args:
        num_bytes: Bytes of training text.
        num_chars_distinct: Distinct characters in its first 4 MB.

    Returns:
        The kind, and the vocabulary's size (0: as many as the kind has).
    """
    if num_bytes < 100_000:
        return ("byte" if num_chars_distinct > 300 else "char"), 0
    for limit, vocab_size in ((2_000_000, 1024), (20_000_000, 2048), (200_000_000, 4096)):
        if num_bytes < limit:
            return "bpe", vocab_size
    return "bpe", 8192


def _quiet(stage: str, done: int, total: int) -> None:
    """Take progress and show none."""


def prepare(
    config: DataConfig,
    *,
    make_tokenizer: MakeTokenizer,
    load_tokenizer: Loader,
    on_progress: Progress = _quiet,
    workers: int = 0,
) -> Corpus:
    """Make or find the token streams of a text.

    Args:
        config: What to read.
        make_tokenizer: Called with (kind, texts, vocabulary size) to learn a tokenizer.
        load_tokenizer: Reads a ``tokenizer.json``; a module's function, for worker processes.
        on_progress: Called with (stage, done, total) where stage is "reading", "tokenizer" or
            "tokenising"; a total of 0 is unknown.
        workers: Tokenising processes; 0 for one per core.

    Raises:
        DataError: The data is missing, empty, unreadable or too short.
        DiskFullError: The cache finds no room.
    """
    root = cache.cache_root(config.cache)
    path = Path(config.tokenizer).absolute()
    # A bad tokenizer is said before a long text is read.
    given = None if config.tokenizer in config.kinds else load_tokenizer(path)
    if given is not None:
        check_kind(given, config.tokenizer, config.kinds)
    remarks = Notes()
    with cache.scratch(root, lambda: _need(config.sources + config.valid)) as folder:
        wanted = ReadConfig(
            sources=config.sources,
            valid=config.valid,
            valid_fraction=config.valid_fraction,
            text_column=config.text_column,
            encoding=config.encoding,
        )
        text = Reading(wanted, root, folder, on_progress)
        if given is None:
            path, tokenizer = _learnt(
                config, root, text, make_tokenizer, load_tokenizer, on_progress, remarks
            )
        else:
            tokenizer = given

        def stream(name: str, text_print: str, view: Callable[[], View]) -> Tokens:
            tokens = shards.find(root, text_print, tokenizer)
            if tokens is not None:
                return tokens
            if shards.folder_of(root, text_print, tokenizer).exists():
                remarks.say(f"the cached {name} tokens were damaged; made again")
            source = (path, load_tokenizer)
            return shards.build(
                root, folder, view(), text_print, tokenizer, source, on_progress, workers
            )

        train = stream("train", text.facts.train, lambda: text.views()[0])
        valid = stream("valid", text.facts.valid, lambda: text.views()[1])
    if train.unspelt_bytes or valid.unspelt_bytes:
        remarks.say(
            f"the tokenizer cannot spell {train.unspelt_bytes:,} bytes of train and "
            f"{valid.unspelt_bytes:,} of valid"
            + ("; they score 8 bits each" if config.kinds == KINDS else "")
        )
    return Corpus(
        tokenizer_path=path,
        train=train,
        valid=valid,
        fingerprint=cache.key_of(text.facts.train, text.facts.valid, tokenizer.fingerprint),
        notes=(*text.facts.notes, *remarks.lines()),
    )


def tokenise(
    sources: Sequence[str],
    tokenizer: Tok,
    *,
    text_column: str = "",
    encoding: str = "",
    cache_folder: str = "",
    load_tokenizer: Loader | None = None,
    on_progress: Progress = _quiet,
) -> tuple[Tokens, tuple[str, ...]]:
    """Tokenise all of some sources with a tokenizer that exists, for evaluation.

    Args:
        sources: As `DataConfig.sources`.
        tokenizer: Makes the ids.
        text_column: As `DataConfig.text_column`.
        encoding: As `DataConfig.encoding`.
        cache_folder: As `DataConfig.cache`.
        load_tokenizer: Lets long texts be tokenised in several processes.
        on_progress: As in `prepare`.

    Returns:
        The stream, and the readers' notes.
    """
    root = cache.cache_root(cache_folder)
    notes = Notes()
    with cache.scratch(root, lambda: _need(sources)) as folder:
        view = read_all(sources, folder, notes, text_column, encoding, on_progress).whole()
        text = view.fingerprint()
        tokens = shards.find(root, text, tokenizer)
        if tokens is None:
            path = folder / "tokenizer.json"
            tokenizer.save(path)
            source = (path, load_tokenizer) if load_tokenizer else None
            tokens = shards.build(root, folder, view, text, tokenizer, source, on_progress)
    return tokens, notes.lines()


def _learnt(
    config: DataConfig,
    root: Path,
    text: Reading,
    make_tokenizer: MakeTokenizer,
    load_tokenizer: Loader,
    progress: Progress,
    remarks: Notes,
) -> tuple[Path, Tok]:
    """Give the tokenizer learnt from this text before, or learn it."""
    facts = text.facts
    kind, vocab_size = config.tokenizer, config.vocab_size
    chosen_kind, chosen_size = config.chosen(facts.train_bytes, facts.num_chars_distinct)
    kind = chosen_kind if kind == "auto" else kind
    if not vocab_size and kind not in ("byte", "char", "word"):
        vocab_size = chosen_size or 512
    path, tokenizer = learn_tokenizer(
        (kind, vocab_size),
        facts.train,
        lambda: [text.views()[0]],
        root,
        (make_tokenizer, load_tokenizer),
        progress,
        remarks,
    )
    if config.tokenizer == "auto":
        remarks.say(
            f"tokenizer: {kind}, {tokenizer.vocab_size:,} ids, chosen for "
            f"{facts.train_bytes:,} bytes of text (choose with --tokenizer)"
        )
    return path, tokenizer


def learn_tokenizer(
    asked: tuple[str, int],
    text: str,
    views: Callable[[], Sequence[View]],
    root: Path,
    makers: tuple[MakeTokenizer, Loader],
    progress: Progress,
    remarks: Notes,
) -> tuple[Path, Tok]:
    """Give the tokenizer learnt from a text before, or learn it.

    Args:
        asked: Its kind, and its number of ids (0: as many as the kind has).
        text: Fingerprint of the text.
        views: Gives the text, when it must be read.
        root: The cache folder.
        makers: What learns a tokenizer, and what reads one.
        progress: Called with ("tokenizer", characters read, bytes in all).
        remarks: Takes what should be said.
    """
    kind, vocab_size = asked
    make_tokenizer, load_tokenizer = makers
    limit = 0 if kind in ("byte", "char") else TOKENIZER_SAMPLE_BYTES
    path = root / "tokenizers" / f"{cache.key_of(shards.FORMAT, text, *asked, limit)}.json"
    tokenizer = _load_cached(path, load_tokenizer, remarks)
    if tokenizer is None:
        pieces: Iterator[str] = iter(())
        if kind != "byte":
            every = views()
            total = sum(view.num_bytes for view in every)
            if limit and total > limit:
                remarks.say(f"tokenizer learnt from an even spread of {limit >> 20} MB of the text")
            shares = [limit * view.num_bytes // total for view in every]
            texts = chain.from_iterable(v.texts(n) for v, n in zip(every, shares, strict=True))
            pieces = _counted(texts, min(limit or total, total), progress)
        tokenizer = make_tokenizer(kind, pieces, vocab_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    return path, tokenizer


def _load_cached(path: Path, load_tokenizer: Loader, remarks: Notes) -> Tok | None:
    if not path.exists():
        return None
    try:
        return load_tokenizer(path)
    except DataError:
        remarks.say("the cached tokenizer was damaged; learnt again")
        return None


def _counted(texts: Iterator[str], total: int, progress: Progress) -> Iterator[str]:
    done = said = 0
    for text in texts:
        yield text
        done += len(text)
        if done >= said + (1 << 20):
            said = done
            progress("tokenizer", min(done, total), total)
    progress("tokenizer", total, total)


def check_tokenizer(name: str, kinds: Sequence[str] = KINDS) -> None:
    """Refuse what is neither a kind of tokenizer nor the path of one."""
    if name not in kinds and not _looks_like_path(name):
        raise UsageError(
            f"unknown tokenizer {name!r}{nearest(name, kinds)}",
            f"Choose from {', '.join(kinds)}, or give the path of a tokenizer.json.",
        )


def check_kind(tokenizer: Tok, name: str, kinds: Sequence[str] = KINDS) -> None:
    """Refuse a tokenizer of another kind than a task reads.

    Raises:
        DataError: It is one: text that is written has to be spelt as it was, and what is masked
            needs a token for that.
    """
    if tokenizer.kind not in kinds:
        what = "spells text as it was" if kinds == KINDS else "has a token [MASK]"
        raise DataError(
            f"{name}: a {tokenizer.kind} tokenizer; this task needs one that {what}",
            f"Let one be learnt: --tokenizer {'bpe' if kinds == KINDS else kinds[1]}",
        )


def _looks_like_path(name: str) -> bool:
    return name.endswith(".json") or os.sep in name or "/" in name or Path(name).exists()


def _need(names: Sequence[str]) -> int:
    """About how many bytes the cache needs: a copy of the text, and two bytes a token."""
    total = 0
    for path in map(Path, names):
        if path.is_file():
            total += path.stat().st_size
        elif path.is_dir():
            total += sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return 3 * total
