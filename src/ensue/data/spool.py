"""The text of all sources as one UTF-8 file, and views of it that are the splits.

A plain file could be read twice without a copy; a pipe, a gzip or a table could not. One copy
makes them alike: seekable, clean, and the same for every later pass and every worker.
"""

import contextlib
import hashlib
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensue.data.notes import Notes
from ensue.data.text import Document

# Text per request to a worker: long enough to hide the pipe, short enough to hold many.
BATCH_BYTES = 2 << 20
# Distinct characters are counted in the first 4 MB: only small texts ask for the number.
_COUNTED_BYTES = 4 << 20
_SAY_BYTES = 1 << 20
_SURROGATES = re.compile("[\ud800-\udfff]")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Batch:
    """Consecutive pieces of text."""

    data: bytes
    """UTF-8."""
    ends: NDArray[np.uint32]
    """Where each piece ends in `data`."""
    closes: NDArray[np.bool_]
    """Whether a document ends with that piece."""


@dataclass(frozen=True, eq=False)
class View:
    """Some pieces of a spool, in order."""

    path: Path
    """The spool's file."""
    starts: NDArray[np.int64]
    """Byte offset of each piece."""
    ends: NDArray[np.int64]
    """Byte offset after each piece."""
    closes: NDArray[np.bool_]
    """Whether a document ends with that piece."""

    @property
    def num_bytes(self) -> int:
        """Bytes of text."""
        return int((self.ends - self.starts).sum())

    def batches(self, size: int = BATCH_BYTES) -> Iterator[Batch]:
        """Give all pieces in batches of about ``size`` bytes."""
        lengths = np.cumsum(self.ends - self.starts)
        first = 0
        with self.path.open("rb") as file:
            while first < len(lengths):
                done = int(lengths[first - 1]) if first else 0
                last = max(first + 1, int(np.searchsorted(lengths, done + size, "right")))
                yield Batch(
                    b"".join(self._read(file, first, last)),
                    (lengths[first:last] - done).astype(np.uint32),
                    self.closes[first:last],
                )
                first = last

    def _read(self, file: object, first: int, last: int) -> Iterator[bytes]:
        """Read pieces, neighbours in one go."""
        starts, ends = self.starts[first:last], self.ends[first:last]
        breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
        for a, b in zip([0, *breaks], [*breaks, len(starts)], strict=True):
            file.seek(int(starts[a]))  # type: ignore[attr-defined]
            yield file.read(int(ends[b - 1] - starts[a]))  # type: ignore[attr-defined]

    def texts(self, limit: int = 0) -> Iterator[str]:
        """Give the pieces; above ``limit`` bytes, an even spread of about so many."""
        share = min(1.0, limit / max(1, self.num_bytes)) if limit else 1.0
        seen = taken = 0
        with self.path.open("rb") as file:
            for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True):
                seen += end - start
                if taken < share * seen:
                    file.seek(start)
                    yield file.read(end - start).decode()
                    taken += end - start

    def fingerprint(self) -> str:
        """Give the SHA-256 of the text, a zero byte between documents."""
        digest = hashlib.sha256()
        pending = False
        for batch in self.batches():
            start = 0
            for i in np.flatnonzero(batch.closes):
                digest.update(b"\0" if pending else b"")
                digest.update(batch.data[start : batch.ends[i]])
                start, pending = int(batch.ends[i]), True
            if start < len(batch.data):
                digest.update(b"\0" if pending else b"")
                digest.update(batch.data[start:])
                pending = False
        return digest.hexdigest()


class Spool:
    """Writes documents to one file, remembering where pieces and documents end.

    Args:
        path: The file to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        self.num_chars = 0
        self.num_documents = 0
        self.characters: set[str] = set()
        self._piece_ends = array("q")
        self._piece_chars = array("q")
        self._closes = array("b")
        self._hashes = array("Q")

    def write(self, documents: Iterable[Document], notes: Notes, progress: Progress) -> None:
        """Write all documents; those without a character leave no trace."""
        with self.writing(notes, progress) as add:
            for document in documents:
                add(document)

    @contextlib.contextmanager
    def writing(self, notes: Notes, progress: Progress) -> Iterator[Callable[[Document], None]]:
        """Give what writes one document after another."""
        said = 0
        with self.path.open("wb") as file:

            def add(document: Document) -> None:
                nonlocal said
                digest = hashlib.blake2b(digest_size=8)
                begun = len(self._piece_ends)
                for piece in document.pieces:
                    data = _encode(piece, document.name, notes)
                    file.write(data)
                    digest.update(data)
                    self._note(piece, len(data))
                    if self.num_bytes >= said + _SAY_BYTES:  # rows are short: not for each
                        said = self.num_bytes
                        progress("reading", said, 0)
                if len(self._piece_ends) > begun:
                    self._closes[-1] = 1
                    self._hashes.append(int.from_bytes(digest.digest(), "little"))
                    self.num_documents += 1

            yield add
        progress("reading", self.num_bytes, 0)

    def _note(self, piece: str, num_bytes: int) -> None:
        if self.num_bytes < _COUNTED_BYTES:
            self.characters.update(piece)
        self.num_bytes += num_bytes
        self.num_chars += len(piece)
        self._piece_ends.append(self.num_bytes)
        self._piece_chars.append(len(piece))
        self._closes.append(0)

    @property
    def piece_chars(self) -> NDArray[np.int64]:
        """Characters of each piece."""
        return np.array(self._piece_chars, dtype=np.int64)

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """A hash of each document's content."""
        return np.array(self._hashes, dtype=np.uint64)

    def whole(self) -> View:
        """Give all of the text."""
        ends = np.array(self._piece_ends, dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        return View(self.path, starts, ends, np.array(self._closes, dtype=np.bool_))


def _encode(piece: str, name: str, notes: Notes) -> bytes:
    """Give UTF-8; JSON can spell half a surrogate pair, which UTF-8 cannot."""
    try:
        return piece.encode()
    except UnicodeEncodeError:
        notes.add("halves of surrogate pairs read as U+FFFD", name)
        return _SURROGATES.sub("\ufffd", piece).encode()
