"""From what a user names to two token streams: read, split, choose a tokenizer, tokenise, cache."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensue.data import cache, encodings, shards
from ensue.data.notes import Notes
from ensue.data.shards import Tokens
from ensue.data.source import Source, list_sources
from ensue.data.split import split
from ensue.data.spool import Progress, Spool, View
from ensue.data.text import read_documents
from ensue.data.worker import Loader, Tok
from ensue.errors import DataError, UsageError, nearest

KINDS = ("auto", "byte", "char", "word", "bpe")
# Merges and words learnt from more text than this hardly differ; counting takes 0.1 s a megabyte.
TOKENIZER_SAMPLE_BYTES = 64 << 20
# A file changed this recently may change again within its time stamp's resolution.
_SETTLED_SECONDS = 2.0

MakeTokenizer = Callable[[str, Iterator[str], int], Tok]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text, and how it becomes tokens."""

    sources: tuple[str, ...]
    """Files, folders, ``-`` for standard input, ``hub:NAME[:split]``."""
    valid: tuple[str, ...] = ()
    """Sources to validate on; empty to hold out a part of the others."""
    valid_fraction: float = 0.1
    """How much is held out, above 0 and below 1."""
    tokenizer: str = "auto"
    """auto, byte, char, word, bpe, or the path of a tokenizer.json."""
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
                "Give for instance: --data.valid-fraction 0.1",
            )
        if self.vocab_size < 0:
            raise UsageError(
                f"data.vocab_size is {self.vocab_size}", "Give 0 to have it chosen, or a size."
            )
        if self.tokenizer not in KINDS and not _looks_like_path(self.tokenizer):
            raise UsageError(
                f"unknown tokenizer {self.tokenizer!r}{nearest(self.tokenizer, KINDS)}",
                f"Choose from {', '.join(KINDS)}, or give the path of a tokenizer.json.",
            )
        if self.encoding:
            encodings.check_codec(self.encoding)


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


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What is known of the text once it has been read; kept so that it need not be read again."""

    train: str  # fingerprints of the texts
    valid: str
    train_bytes: int
    num_chars_distinct: int
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Texts:
    train: View
    valid: View
    facts: _Facts


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
    for limit, vocab_size in ((2_000_000, 512), (10_000_000, 1024), (100_000_000, 4096)):
        if num_bytes < limit:
            return "bpe", vocab_size
    return "bpe", 16384


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
    given = "" if config.tokenizer in KINDS else load_tokenizer(Path(config.tokenizer)).fingerprint
    notes = Notes()
    with cache.scratch(root, _need(config.sources + config.valid)) as folder:
        sources = list_sources(config.sources, notes, folder)
        valid = list_sources(config.valid, notes, folder) if config.valid else []
        key = _index_key(config, sources, valid)
        facts = _recall(root, key)
        texts: _Texts | None = None
        if facts is None:
            texts = _read(config, sources, valid, folder, notes, on_progress)
            facts = texts.facts
            if key and key == _index_key(config, sources, valid):
                cache.write_json(_index_path(root, key), asdict(facts))
        remarks = Notes()

        def text() -> _Texts:
            # Known by its facts, but something made of it is gone: read once more.
            nonlocal texts
            if texts is None:
                texts = _read(config, sources, valid, folder, Notes(), on_progress)
                if (texts.facts.train, texts.facts.valid) != (facts.train, facts.valid):
                    raise DataError("the data changed while it was read", "Run again.")
            return texts

        path, tokenizer = _tokenizer(
            config, root, facts, text, make_tokenizer, load_tokenizer, on_progress, remarks
        )
        streams = []
        for name in ("train", "valid"):
            print_ = getattr(facts, name)
            tokens = shards.find(root, print_, tokenizer)
            if tokens is None:
                if shards.folder_of(root, print_, tokenizer).exists():
                    remarks.say(f"the cached {name} tokens were damaged; made again")
                tokens = shards.build(
                    root,
                    folder,
                    getattr(text(), name),
                    print_,
                    tokenizer,
                    (path, load_tokenizer),
                    on_progress,
                    workers,
                )
            streams.append(tokens)
    train, held_out = streams
    if held_out.unspelt_bytes or train.unspelt_bytes:
        remarks.say(
            f"the tokenizer cannot spell {train.unspelt_bytes:,} bytes of train and "
            f"{held_out.unspelt_bytes:,} of valid; they score 8 bits each"
        )
    return Corpus(
        tokenizer_path=path,
        train=train,
        valid=held_out,
        fingerprint=cache.key_of(facts.train, facts.valid, given or tokenizer.fingerprint),
        notes=(*facts.notes, *remarks.lines()),
    )


def tokenise(
    sources: tuple[str, ...] | list[str],
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
    if encoding:
        encodings.check_codec(encoding)
    with cache.scratch(root, _need(tuple(sources))) as folder:
        listed = list_sources(sources, notes, folder)
        spool = _spool(listed, folder / "text", notes, text_column, encoding, on_progress)
        view = spool.whole()
        text = view.fingerprint()
        tokens = shards.find(root, text, tokenizer)
        if tokens is None:
            path = folder / "tokenizer.json"
            tokenizer.save(path)
            source = (path, load_tokenizer) if load_tokenizer else None
            tokens = shards.build(root, folder, view, text, tokenizer, source, on_progress)
    return tokens, notes.lines()


def _read(
    config: DataConfig,
    sources: list[Source],
    valid: list[Source],
    folder: Path,
    notes: Notes,
    progress: Progress,
) -> _Texts:
    """Read all text into the scratch folder and split it."""
    options = (notes, config.text_column, config.encoding, progress)
    spool = _spool(sources, folder / "train", *options)
    if valid:
        train, held_out = spool.whole(), _spool(valid, folder / "valid", *options).whole()
        notes.say(f"valid is {', '.join(config.valid)}")
    elif spool.num_chars < 2:
        raise DataError(
            f"{', '.join(config.sources)}: only {spool.num_bytes} byte of text: nothing to predict",
            "Give a longer text; a few kilobytes are the least that a model can learn from.",
        )
    else:
        train, held_out, remark = split(spool, config.valid_fraction)
        notes.say(remark)
    if not train.num_bytes or not held_out.num_bytes:
        raise DataError(
            f"{', '.join(config.sources)}: {spool.num_chars} characters are too few to hold out "
            f"{config.valid_fraction:.3g} of them",
            "Give a longer text, or --data.valid with another one.",
        )
    facts = _Facts(
        train=train.fingerprint(),
        valid=held_out.fingerprint(),
        train_bytes=train.num_bytes,
        num_chars_distinct=len(spool.characters),
        notes=list(notes.lines()),
    )
    return _Texts(train, held_out, facts)


def _spool(
    sources: list[Source],
    path: Path,
    notes: Notes,
    text_column: str,
    encoding: str,
    progress: Progress,
) -> Spool:
    spool = Spool(path)
    spool.write(read_documents(sources, notes, text_column, encoding), notes, progress)
    if not spool.num_bytes:
        names = ", ".join(source.name for source in sources[:3])
        raise DataError(f"{names}: there is no text in it", "Give a file that has text in it.")
    return spool


def _tokenizer(
    config: DataConfig,
    root: Path,
    facts: _Facts,
    text: Callable[[], _Texts],
    make_tokenizer: MakeTokenizer,
    load_tokenizer: Loader,
    progress: Progress,
    remarks: Notes,
) -> tuple[Path, Tok]:
    """Load the tokenizer that is named, or the one learnt before, or learn it."""
    if config.tokenizer not in KINDS:
        path = Path(config.tokenizer).absolute()
        return path, load_tokenizer(path)
    kind, vocab_size = config.tokenizer, config.vocab_size
    chosen_kind, chosen_size = choose_tokenizer(facts.train_bytes, facts.num_chars_distinct)
    if kind == "auto":
        kind = chosen_kind
    if not vocab_size and kind == "bpe":
        vocab_size = chosen_size or 512
    path = (
        root / "tokenizers" / f"{cache.key_of(shards.FORMAT, facts.train, kind, vocab_size)}.json"
    )
    limit = 0 if kind in ("byte", "char") else TOKENIZER_SAMPLE_BYTES
    tokenizer = _load_cached(path, load_tokenizer, remarks)
    if tokenizer is None:
        view = text().train
        pieces = _counted(view.texts(limit), min(limit or view.num_bytes, view.num_bytes), progress)
        tokenizer = make_tokenizer(kind, iter(()) if kind == "byte" else pieces, vocab_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    if config.tokenizer == "auto":
        remarks.say(
            f"tokenizer: {kind}, {tokenizer.vocab_size:,} ids, chosen for "
            f"{facts.train_bytes:,} bytes of text (choose with --tokenizer)"
        )
    if limit and facts.train_bytes > limit:
        remarks.say(f"tokenizer learnt from an even spread of {limit >> 20} MB of the text")
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
    done = 0
    for text in texts:
        yield text
        done += len(text)
        progress("tokenizer", min(done, total), total)


def _looks_like_path(name: str) -> bool:
    return name.endswith(".json") or os.sep in name or "/" in name or Path(name).exists()


def _need(names: tuple[str, ...]) -> int:
    """About how many bytes the cache needs: a copy of the text, and two bytes a token."""
    total = 0
    for name in names:
        path = Path(name)
        if path.is_file():
            total += path.stat().st_size
        elif path.is_dir():
            total += sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    return 3 * total


def _index_path(root: Path, key: str) -> Path:
    return root / "index" / f"{key}.json"


def _index_key(config: DataConfig, sources: list[Source], valid: list[Source]) -> str:
    """Name the sources by what the file system says of them; empty when that proves nothing."""
    stats: list[list[Any]] = []
    for source in itertools.chain(sources, valid):
        if source.path is None or source.is_copy:
            return ""
        status = source.path.stat()
        if abs(time.time() - status.st_mtime) < _SETTLED_SECONDS:
            return ""
        path = str(source.path.absolute())
        stats.append([path, source.form, status.st_size, status.st_mtime_ns, status.st_ino])
    fields = [len(valid), config.valid_fraction, config.text_column, config.encoding]
    return cache.key_of(shards.FORMAT, stats, fields)


def _recall(root: Path, key: str) -> _Facts | None:
    known = cache.read_json(_index_path(root, key)) if key else None
    if known is None:
        return None
    types = {"train": str, "valid": str, "train_bytes": int, "num_chars_distinct": int}
    if known.keys() != types.keys() | {"notes"} or not isinstance(known["notes"], list):
        return None
    if any(not isinstance(known[name], kind) for name, kind in types.items()):
        return None
    return _Facts(**known)
