"""From what a user names (files, folders, ``-``, ``hub:...``) to the files that will be read."""

import gzip
import os
import shutil
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ensue.data import encodings
from ensue.data.notes import Notes
from ensue.errors import DataError, nearest

FORMS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
# Text compresses 2 to 10 times; zeros up to 1,032 times.
_BOMB_RATIO = 200
_BOMB_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """One thing to read."""

    name: str
    """As shown in messages."""
    form: str
    """``text``, ``jsonl``, ``csv``, ``tsv``, ``parquet``, ``hub``, or ``json``: one document."""
    path: Path | None
    """The file; none for a hub data set."""
    from_folder: bool = False
    """Found in a folder: what cannot be read is skipped and said, not refused."""
    is_copy: bool = False
    """A copy of standard input or of a pipe: its path says nothing about its content."""


def list_sources(
    names: Sequence[str], notes: Notes, scratch: Path, *, documents: bool = False
) -> list[Source]:
    """Find the files behind the names; folders are listed recursively, in sorted order.

    Args:
        names: Paths, ``-`` for standard input, or ``hub:NAME[:split]``.
        notes: Takes what is skipped.
        scratch: A folder that may take a copy of standard input or of a pipe.
        documents: A named file may be one JSON document.

    Raises:
        DataError: Something is missing or holds nothing that can be read.
    """
    if not names:
        raise DataError("no data was named", "Give a file or a folder: ensue train book.txt")
    found: list[Source] = []
    for name in names:
        if name == "-":
            found.append(_copy(name, "standard input", scratch))
        elif name.startswith("hub:"):
            found.append(Source(name=name, form="hub", path=None))
        elif "\0" in name:
            raise DataError("a file name holds a zero byte", "Check how the name was made.")
        elif Path(name).is_dir():
            found.extend(_list_folder(Path(name), notes))
        else:
            found.append(_one_file(name, scratch, documents))
    return found


@contextmanager
def open_bytes(source: Source) -> Iterator[encodings.Readable]:
    """Open a source's file as bytes, unzipped where it is gzip by its first bytes.

    Raises:
        DataError: It cannot be read, is cut short, or unzips beyond all reason.
    """
    assert source.path is not None
    try:
        with source.path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                yield file
                return
            size = os.fstat(file.fileno()).st_size
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield _Bounded(unzipped, size, source.name)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{source.name}: the gzip file is damaged or cut short: {error}",
            "Fetch or make it again; gzip -t FILE checks it.",
        ) from None
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise _unreadable(source.name, error) from None


class _Bounded:
    """A gzip stream that refuses to be a bomb."""

    def __init__(self, stream: gzip.GzipFile, zipped_bytes: int, name: str) -> None:
        self._stream, self._zipped, self._name, self._done = stream, zipped_bytes, name, 0

    def read(self, size: int, /) -> bytes:
        """Give up to ``size`` unzipped bytes."""
        data = self._stream.read(size)
        self._done += len(data)
        if self._done > max(_BOMB_BYTES, _BOMB_RATIO * self._zipped):
            raise DataError(
                f"{self._name}: {self._zipped:,} bytes unzip to more than {self._done:,}",
                "Unzip it yourself and give the text, if this is what it should be.",
            )
        return data


def form_of(path: Path) -> str:
    """Give how a file is read, by its name without ``.gz``."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return FORMS.get(suffixes[-1], "text") if suffixes else "text"


def _is_json(path: Path) -> bool:
    return path.name.lower().endswith((".json", ".json.gz"))


def _one_file(name: str, scratch: Path, documents: bool) -> Source:
    path = Path(name)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise missing(path) from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if _is_json(path) and documents:
        return Source(name=name, form="json", path=path)
    if _is_json(path):
        raise DataError(
            f"{name}: ensue reads JSON lines (one object per line), not one JSON document",
            "Convert it, for instance: jq -c '.[]' data.json > data.jsonl",
        )
    if stat.S_ISREG(mode):
        return Source(name=name, form=form_of(path), path=path)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return _copy(name, name, scratch)
    raise DataError(f"{name}: not a file or a folder", "Give a file of text.")


def _copy(name: str, shown: str, scratch: Path) -> Source:
    """Copy what can be read only once, so that it can be looked at before it is used."""
    target = scratch / f"input-{len(list(scratch.glob('input-*')))}"
    with target.open("wb") as out:
        if name == "-":
            stream = sys.stdin.buffer
            if stream.isatty():
                raise DataError(
                    "standard input is a terminal", "Pipe text in: cat *.txt | ensue train -"
                )
            shutil.copyfileobj(stream, out, 1 << 20)
        else:
            with open(name, "rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
    return Source(name=shown, form="text", path=target, is_copy=True)


def _list_folder(folder: Path, notes: Notes) -> list[Source]:
    """List what can be read; tables count only in a folder without other text."""
    texts: list[Source] = []
    tables: list[Source] = []
    for path in _walk(folder, notes):
        shown = path.relative_to(folder).as_posix()
        if _is_json(path):
            notes.add("skipped, one JSON document is not text", shown)
            continue
        form = form_of(path)
        source = Source(name=str(path), form=form, path=path, from_folder=True)
        (texts if form == "text" else tables).append(source)
    texts = [source for source in texts if _looks_like_text(source, folder, notes)]
    if texts:
        for source in tables:
            assert source.path is not None
            notes.add(
                "skipped, a table among text files (name it to have it read)",
                source.path.relative_to(folder).as_posix(),
            )
    chosen = texts or tables
    if not chosen:
        raise DataError(
            f"{folder}: no readable text in this folder. " + " ".join(notes.lines()),
            "Give a folder with .txt, .md, .jsonl, .csv or similar files.",
        )
    notes.say(f"{folder}: {len(chosen):,} files to read")
    return chosen


def _walk(folder: Path, notes: Notes) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        notes.add("skipped, folder not readable", str(error.filename))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith("."):
                notes.add("skipped, hidden", name)
            else:
                yield Path(parent) / name


def _looks_like_text(source: Source, folder: Path, notes: Notes) -> bool:
    """Judge by the first 4 KB; the whole file is checked when it is read."""
    assert source.path is not None
    shown = source.path.relative_to(folder).as_posix()
    try:
        if not stat.S_ISREG(source.path.stat().st_mode):
            notes.add("skipped, not a file", shown)
            return False
        with open_bytes(source) as stream:
            head = stream.read(4096)
    except (OSError, DataError):
        notes.add("skipped, not readable", shown)
        return False
    if not head:
        notes.add("skipped, empty", shown)
        return False
    if encodings.is_binary(head):
        notes.add("skipped, binary", shown)
        return False
    return True


def missing(path: Path) -> DataError:
    """Say that nothing is there, and what has nearly that name."""
    folder = path.parent
    try:
        siblings = sorted(entry.name for entry in folder.iterdir())[:10_000]
    except OSError:
        return DataError(f"{path}: no such file, nor a folder {folder}", "Check the path.")
    return DataError(
        f"{path}: no such file or folder{nearest(path.name, siblings)}",
        "Check the path; public sets are fetched with: ensue data get shakespeare",
    )


def _unreadable(name: str, error: Exception) -> DataError:
    why = getattr(error, "strerror", None) or str(error)
    return DataError(f"{name}: cannot be read: {why}", "Check the path and its permissions.")
