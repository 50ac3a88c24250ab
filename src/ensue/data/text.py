"""Readers: any source becomes documents, and a document pieces of text in bounded memory."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensue.data import encodings, tables
from ensue.data.notes import Notes
from ensue.data.source import Source, list_sources, open_bytes
from ensue.errors import DataError

PIECE_CHARS = 1 << 20
# How far behind a full piece a good place to cut is looked for.
_REACH = 1 << 16
# Byte-level BPE never joins across these two places: between a line end and what follows it
# when neither neighbour is white space, and before a single space between two words.
_CUTS = (re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)"))


@dataclass(frozen=True)
class Document:
    """A text whose end the model should learn: a file, or a row of a table."""

    name: str
    """Where it comes from, for messages."""
    pieces: Iterator[str]
    """Its text; read once, before the next document is asked for."""


def open_documents(
    sources: Sequence[str],
    *,
    notes: Notes,
    scratch: Path,
    text_column: str = "",
    encoding: str = "",
) -> Iterator[Document]:
    """Read sources of any kind as documents.

    Args:
        sources: Files, folders, ``-`` for standard input, ``hub:NAME[:split]``.
        notes: Takes whatever is sniffed, guessed or skipped.
        scratch: A folder for a copy of standard input.
        text_column: The column of tables that holds the text; empty to look for it.
        encoding: The encoding of text files; empty to find out.

    Raises:
        DataError: Something is missing, empty, binary or malformed.
    """
    if encoding:
        encodings.check_codec(encoding)
    return read_documents(list_sources(sources, notes, scratch), notes, text_column, encoding)


def read_documents(
    sources: Sequence[Source], notes: Notes, text_column: str, encoding: str
) -> Iterator[Document]:
    """Read listed sources, one after the other."""
    for source in sources:
        if source.form == "text":
            yield from _read_file(source, notes, encoding)
        else:
            for name, text in tables.read_rows(source, notes, text_column, encoding):
                yield Document(name, cut([text]))


def _read_file(source: Source, notes: Notes, encoding: str) -> Iterator[Document]:
    try:
        codec = encoding or encodings.detect(lambda: open_bytes(source), source.name, notes)
    except DataError as error:
        if not source.from_folder:
            raise
        notes.add(f"skipped, {error.what.removeprefix(source.name + ': ')}", source.name)
        return
    with open_bytes(source) as stream:
        yield Document(source.name, cut(encodings.decode(stream, codec, source.name, notes)))


def cut(texts: Iterable[str], size: int = PIECE_CHARS) -> Iterator[str]:
    """Cut text into pieces of about ``size`` characters that encode as the whole would.

    A text without line ends and spaces (one 200 MB word) is cut hard, at a character.
    """
    held: list[str] = []
    length = 0
    for text in texts:
        held.append(text)
        length += len(text)
        if length <= size + _REACH:
            continue
        whole, start = "".join(held), 0
        while len(whole) - start > size + _REACH:
            end = _place(whole, start + size)
            yield whole[start:end]
            start = end
        held = [whole[start:]]
        length = len(whole) - start
    if length:
        yield "".join(held)


def _place(text: str, at: int) -> int:
    """Give the first good place to cut in reach of ``at``, else ``at`` itself."""
    for pattern in _CUTS:
        # One more character is in view, for the look-ahead.
        match = pattern.search(text, at, at + _REACH)
        if match:
            return match.end()
    return at
