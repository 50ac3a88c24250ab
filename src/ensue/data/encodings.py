"""Which encoding a stream of bytes is in, and its text in bounded memory.

A whole file is looked at before any of its text is used, since a Latin-1 book may show its first
accent after a megabyte. That costs about a second per gigabyte, and only when nothing is cached.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NoReturn, Protocol, runtime_checkable

from ensue.data.notes import Notes
from ensue.errors import DataError

CHUNK = 1 << 20

_BOMS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_MAGIC = {
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a zip archive or office document",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x7fELF": "a program",
    b"{\\rtf": "an RTF document",
    b"\xfd7zXZ\x00": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"(\xb5/\xfd": "a zstd archive",
    b"PAR1": "a Parquet table",
}
_CONTROLS = bytes({*range(32)} - {*b"\t\n\v\f\r\x08\x1a\x1b"})
_CP1252_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_HIGH = bytes(range(128, 256))
_CONVERT = "Save it as UTF-8 text, or leave it out."


@runtime_checkable
class Readable(Protocol):
    """A stream of bytes, for which reading is all that is asked."""

    def read(self, size: int, /) -> bytes:
        """Give up to ``size`` bytes; none at the end."""


Opener = Callable[[], AbstractContextManager[Readable]]


def detect(opener: Opener, name: str, notes: Notes) -> str:
    """Give the name of the codec that reads the whole stream, and note whatever was guessed.

    Args:
        opener: Opens the stream from its start.
        name: The file's name, for messages.
        notes: Takes the remark on a guess.

    Raises:
        DataError: Nothing is in it, it is binary, or no encoding fits.
    """
    with opener() as stream:
        head = stream.read(CHUNK)
        if not head:
            raise DataError(f"{name}: the file is empty", "Give a file that has text in it.")
        codec = _by_mark(head, name, notes)
        if codec:
            _check(stream, head, codec, name)
            return codec
        return _scan(stream, head, name, notes)


def is_binary(head: bytes) -> bool:
    """Judge by the first few kilobytes; `detect` looks at all."""
    try:
        marked = _by_mark(head, "", Notes())
    except DataError:
        return True
    return not marked and b"\0" in head


def check_codec(encoding: str) -> str:
    """Give the codec's name when it exists and makes text.

    Raises:
        DataError: It does not.
    """
    try:
        made = codecs.getincrementaldecoder(encoding)().decode(b"", True)
    except (LookupError, UnicodeError, TypeError, ValueError):
        made = None
    except Exception:  # the bytes-to-bytes codecs (zlib, bz2) have errors of their own
        made = None
    if not isinstance(made, str):
        raise DataError(
            f"unknown text encoding {encoding[:40]!r}",
            "Common ones: utf-8, utf-16, cp1252, latin-1, gb18030, shift_jis, koi8-r",
        )
    return encoding


def decode(stream: Readable, codec: str, name: str, notes: Notes) -> Iterator[str]:
    """Give the text of a stream, a megabyte of bytes at a time, with CRLF read as LF.

    Raises:
        DataError: Bytes that the codec cannot read, with their offset.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    offset, crlf, held = 0, False, ""
    while True:
        data = stream.read(CHUNK)
        text = held + _decode(decoder, data, codec, offset, name)
        offset += len(data)
        # A carriage return at the end may be half of a CRLF.
        held = "\r" if data and text.endswith("\r") else ""
        text = text[: len(text) - len(held)]
        if "\r\n" in text:
            crlf = True
            text = text.replace("\r\n", "\n")
        if text:
            yield text
        if not data:
            break
    if crlf:
        notes.add("CRLF line ends read as LF", name)


def _decode(
    decoder: codecs.IncrementalDecoder, data: bytes, codec: str, offset: int, name: str
) -> str:
    try:
        return decoder.decode(data, final=not data)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise DataError(
            f"{name}: not readable as {codec} at or after byte {offset + start:,}",
            "Name another encoding, for instance: --encoding cp1252",
        ) from None


def _check(stream: Readable, head: bytes, codec: str, name: str) -> None:
    """Refuse a stream that does not keep what its mark promises."""
    decoder = codecs.getincrementaldecoder(codec)()
    offset, chunk = 0, head
    while True:
        _decode(decoder, chunk, codec, offset, name)
        if not chunk:
            break
        offset += len(chunk)
        chunk = stream.read(CHUNK)


def _by_mark(head: bytes, name: str, notes: Notes) -> str:
    """Recognise an encoding by its first bytes, or refuse a well-known binary format."""
    for mark, codec in _BOMS:
        if head.startswith(mark):
            notes.add(f"byte-order mark of {codec.removesuffix('-sig').upper()} found", name)
            return codec
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{name}: this is {what}, not text", _CONVERT)
    sample = head[:4096]
    sample = sample[: len(sample) // 2 * 2]
    if sample:
        # Mostly Latin text in UTF-16 has a zero in every second byte.
        even, odd = sample[0::2].count(0), sample[1::2].count(0)
        half = len(sample) // 2
        for codec, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
            text = sample.decode(codec, errors="replace").encode()
            controls = len(text) - len(text.translate(None, _CONTROLS))
            if zeros > 0.6 * half and others < 0.05 * half and not controls:
                notes.add(f"no byte-order mark; guessed {codec.upper()}", name)
                return codec
    return ""


def _scan(stream: Readable, head: bytes, name: str, notes: Notes) -> str:
    """Read on as UTF-8; at the first byte that is not, decide what else it may be."""
    if len(head.translate(None, _CONTROLS)) < 0.98 * len(head) and b"\0" not in head:
        raise DataError(f"{name}: too many control characters: it looks binary", _CONVERT)
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk, offset, codec, undefined = head, 0, "utf-8", False
    while True:
        zero = chunk.find(b"\0")
        if zero >= 0:
            raise DataError(
                f"{name}: a zero byte at offset {offset + zero:,}: it looks binary",
                "Save it as UTF-8 text; or, if it is text: --encoding utf-16",
            )
        if codec == "utf-8":
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                codec = "cp1252"
                _judge(chunk, offset - pending + error.start, name)
        if codec == "cp1252":
            undefined = undefined or _CP1252_UNDEFINED.search(chunk) is not None
        if not chunk:
            break
        offset += len(chunk)
        chunk = stream.read(CHUNK)
    if codec == "utf-8":
        return codec
    codec = "latin-1" if undefined else codec
    notes.add(f"not UTF-8; guessed {codec} (say otherwise with --encoding)", name)
    return codec


def _judge(chunk: bytes, offset: int, name: str) -> None:
    """Refuse what is neither UTF-8 nor likely to be a western 8-bit encoding."""
    text = chunk.decode("utf-8", errors="replace")
    invalid = text.count("\ufffd")
    valid = sum(map(len, re.findall(r"[^\x00-\x7f\ufffd]+", text)))
    where = f"{name}: byte {offset:,} is not UTF-8"
    if valid > 4 * invalid:
        _refuse(f"{where}, though the rest is: the file is damaged there")
    high = len(chunk) - len(chunk.translate(None, _HIGH))
    # A page of French has 4 % of such bytes, of Russian in KOI8-R or Chinese in GBK over 60 %.
    if high > 0.3 * len(chunk):
        _refuse(f"{where}, and too many bytes are above 127 for Latin-1")


def _refuse(what: str) -> NoReturn:
    raise DataError(
        what, "Name its encoding: --encoding cp1252 (or gb18030, shift_jis, koi8-r, ...)"
    )
