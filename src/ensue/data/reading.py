"""Reading all sources once, splitting them, and remembering what was found.

Files that have not changed, by what the file system says of them, need not be read again: the
facts of their text are kept, and the streams made of it are found by its fingerprints.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensue.data import cache, encodings
from ensue.data.notes import Notes
from ensue.data.source import Source, list_sources
from ensue.data.split import split
from ensue.data.spool import Progress, Spool, View
from ensue.data.text import read_documents
from ensue.errors import DataError

_FORMAT = 1  # of the facts, and of what readers and split make of a file
# A file changed this recently may change again within its time stamp's resolution: a clock tick,
# or two seconds where the file system keeps whole seconds (FAT).
_TICK_SECONDS, _COARSE_SECONDS = 0.05, 2.0


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """The part of a data configuration that decides the text of each split."""

    sources: tuple[str, ...]
    """What to read."""
    valid: tuple[str, ...]
    """What to validate on; empty to hold out a part."""
    valid_fraction: float
    """How much is held out."""
    text_column: str
    """The column of tables that holds the text."""
    encoding: str
    """The encoding of text files."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a text once it has been read."""

    train: str
    """Fingerprint of the train text."""
    valid: str
    """Fingerprint of the valid text."""
    train_bytes: int
    """Bytes of train text."""
    num_chars_distinct: int
    """Distinct characters in the first 4 MB."""
    notes: list[str]
    """What the readers said."""


class Reading:
    """The text of a configuration: its facts now, its views when something must be made of them.

    Args:
        config: What to read.
        root: The cache folder.
        folder: A scratch folder below it.
        progress: Called with ("reading", bytes so far, 0).
    """

    def __init__(self, config: ReadConfig, root: Path, folder: Path, progress: Progress) -> None:
        self._config, self._folder, self._progress = config, folder, progress
        self._views: tuple[View, View] | None = None
        notes = Notes()
        self._sources = list_sources(config.sources, notes, folder)
        self._valid = list_sources(config.valid, notes, folder) if config.valid else []
        key = self._index_key()  # before reading: what changes later changes the time stamp
        path = root / "index" / f"{key}.json"
        facts = _recall(path) if key else None
        if facts is None:
            facts = self._read(notes)
            if key and key == self._index_key():  # nothing changed while it was read
                cache.write_json(path, asdict(facts))
        self.facts: Facts = facts

    def views(self) -> tuple[View, View]:
        """Give train and valid, reading once more what only the facts were known of."""
        if self._views is None:
            again = self._read(Notes())
            if (again.train, again.valid) != (self.facts.train, self.facts.valid):
                raise DataError(
                    f"{', '.join(self._config.sources)}: changed while it was read",
                    "Run the same command again.",
                )
        assert self._views is not None
        return self._views

    def _read(self, notes: Notes) -> Facts:
        config = self._config
        options = (notes, config.text_column, config.encoding, self._progress)
        spool = _spool(self._sources, self._folder / "train", *options)
        names = ", ".join(config.sources)
        if self._valid:
            train = spool.whole()
            valid = _spool(self._valid, self._folder / "valid", *options).whole()
            notes.say(f"valid is {', '.join(config.valid)}")
        elif spool.num_chars < 2:
            raise DataError(
                f"{names}: one character is too little text: there is nothing to predict",
                "Give a longer text; a few kilobytes are the least that a model can learn from.",
            )
        else:
            train, valid, remark = split(spool, config.valid_fraction)
            notes.say(remark)
        if not train.num_bytes or not valid.num_bytes:
            raise DataError(
                f"{names}: {spool.num_chars} characters are too few to hold out "
                f"{100 * config.valid_fraction:.3g} % of them",
                "Give a longer text, or another one to validate on: --valid FILE",
            )
        self._views = (train, valid)
        return Facts(
            train=train.fingerprint(),
            valid=valid.fingerprint(),
            train_bytes=train.num_bytes,
            num_chars_distinct=len(spool.characters),
            notes=list(notes.lines()),
        )

    def _index_key(self) -> str:
        """Name the sources by what the file system says; empty when that proves nothing."""
        stats: list[list[Any]] = []
        for source in itertools.chain(self._sources, self._valid):
            if source.path is None or source.is_copy:
                return ""
            status = source.path.stat()
            fine = status.st_mtime_ns % 1_000_000_000
            settled = _TICK_SECONDS if fine else _COARSE_SECONDS
            if abs(time.time() - status.st_mtime) < settled:
                return ""
            path = str(source.path.absolute())
            stats.append([path, source.form, status.st_size, status.st_mtime_ns, status.st_ino])
        return cache.key_of(_FORMAT, stats, asdict(self._config))


def read_all(
    sources: Sequence[str],
    folder: Path,
    notes: Notes,
    text_column: str,
    encoding: str,
    progress: Progress,
) -> Spool:
    """Read sources into a scratch folder, without a split."""
    if encoding:
        encodings.check_codec(encoding)
    listed = list_sources(sources, notes, folder)
    return _spool(listed, folder / "text", notes, text_column, encoding, progress)


def _spool(
    sources: Sequence[Source],
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


def _recall(path: Path) -> Facts | None:
    known = cache.read_json(path)
    types = {"train": str, "valid": str, "train_bytes": int, "num_chars_distinct": int}
    if known is None or known.keys() != types.keys() | {"notes"}:
        return None
    notes = known["notes"]
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return None
    if any(not isinstance(known[name], kind) for name, kind in types.items()):
        return None
    return Facts(**known)
