"""Files that are whole or absent: atomic writes, checksums, and JSON that is checked while read.

A process may be killed, and a disk may fill, between any two system calls. So a file is written
under a temporary name beside its own, flushed to the disk, and only then renamed over the old one.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.errors import DiskFullError, EnsueError, RunError

TEMPORARY = ".tmp-"
"""Prefix of every unfinished file and folder: whatever carries it may be deleted at a start."""

MAX_JSON_BYTES = 64 << 20
CHUNK_BYTES = 8 << 20  # per system call: large enough to cost nothing, small enough for the cache

# EFBIG is a limit on file size (ulimit -f), EDQUOT a quota: to the user both are a full disk.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, kw_only=True)
class Digest:
    """What a file must be, to the last bit."""

    size: int
    """Length in bytes."""
    sha256: str
    """SHA-256 of the content, 64 hexadecimal digits."""


def free_bytes(path: Path) -> int:
    """Count the bytes a user may still write where `path` lies, or will lie."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def require_free(path: Path, needed: int) -> None:
    """Refuse, before anything is written, what the disk cannot hold.

    Args:
        path: Where it is to be written.
        needed: Bytes.

    Raises:
        DiskFullError: Fewer bytes are free.
    """
    if free_bytes(path) < needed:
        raise _disk_full(path, needed)


@contextlib.contextmanager
def writing(path: Path, needed: int) -> Iterator[None]:
    """Turn the system's errors inside the block into ours, which say what to do.

    Args:
        path: What is being written; named in the message.
        needed: Bytes that it takes in all.

    Raises:
        DiskFullError: The disk, a quota or a limit on file size is exhausted.
        EnsueError: The system refused to write for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(path, needed) from error
        raise EnsueError(
            f"cannot write {path}: {error.strerror or error}",
            "Check that the folder exists, may be written, and that its disk is sound.",
        ) from error


def _disk_full(path: Path, needed: int) -> DiskFullError:
    return DiskFullError(
        f"the disk is full: {path} needs {needed:,} bytes and {free_bytes(path):,} are free",
        "Free some space, then run the same command again. Nothing that was there is harmed.",
    )


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> Digest:
    """Write a file and flush it to the disk; the hash is of what was meant, not of what is there.

    Not atomic: for files inside a folder that is itself renamed when it is complete.

    Raises:
        OSError: As the system reports it; see `writing`.
    """
    size, sha256 = 0, hashlib.sha256()
    fd = os.open(path, _CREATE, 0o666)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), CHUNK_BYTES):
                piece = view[start : start + CHUNK_BYTES]
                sha256.update(piece)
                _write_all(fd, piece)
            size += len(view)
        os.fsync(fd)
    finally:
        os.close(fd)
    return Digest(size=size, sha256=sha256.hexdigest())


def _write_all(fd: int, piece: memoryview) -> None:
    while len(piece):  # a nearly full disk writes a part first, and fails on the rest
        written = os.write(fd, piece)
        if written == 0:
            raise OSError(errno.EIO, "nothing was written")
        piece = piece[written:]


def write_atomic(path: Path, data: bytes | str) -> Digest:
    """Write `path` so that a reader sees the old content or the new, and nothing between.

    Args:
        path: The file; its folder exists.
        data: Text is written as UTF-8.

    Raises:
        DiskFullError: Nothing was changed.
        EnsueError: The system refused to write.
    """
    raw = data.encode() if isinstance(data, str) else data
    with writing(path, len(raw)), replacing(path) as temporary:
        return write_file(temporary, [raw])


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success it takes the place of `path` for good."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_dir(path.parent)


def make_folder(path: Path) -> Path:
    """Make a folder where it is missing, and give it."""
    with writing(path, 0):
        path.mkdir(parents=True, exist_ok=True)
        fsync_dir(path)
    return path


def fsync_dir(path: Path) -> None:
    """Flush a folder's own entries, so that a rename in it outlives a power cut."""
    if os.name == "nt":  # a folder cannot be opened there, and NTFS journals its entries itself
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256_file(path: Path) -> str:
    """Hash a file's content: about 0.75 GB/s on one core."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed process left unfinished in `folder`; the caller holds the run's lock."""
    for entry in folder.glob(f"{TEMPORARY}*"):
        if entry.is_dir() and not entry.is_symlink():
            remove_tree(entry)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry)


def remove_tree(folder: Path) -> None:
    """Delete a folder as far as the system lets us: what stays costs space, and nothing else."""
    with contextlib.suppress(OSError):  # rmtree(ignore_errors=True) still raises from its close
        shutil.rmtree(folder, ignore_errors=True)


def dump_json(value: Any) -> bytes:
    """Render the same value as the same bytes; every float comes back to the last bit.

    Raises:
        ValueError: NaN or infinity, which are not JSON.
    """
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> Digest:
    """Write a value as JSON, atomically."""
    return write_atomic(path, dump_json(value))


def read_json(
    path: Path, max_bytes: int = MAX_JSON_BYTES, error: type[EnsueError] = RunError
) -> Any:
    """Read a JSON file that may come from anywhere.

    Args:
        path: The file.
        max_bytes: Longer files are refused unread.
        error: What to raise.

    Raises:
        EnsueError: Of the class `error`: missing, too long, or not JSON in UTF-8.
    """
    return parse_json(read_bytes(path, max_bytes, error), path, error)


def read_bytes(
    path: Path, max_bytes: int = MAX_JSON_BYTES, error: type[EnsueError] = RunError
) -> bytes:
    """Read a whole file of at most `max_bytes`, and never wait on a pipe or a device."""
    if not path.is_file():
        raise error(f"{path} is missing" if not path.exists() else f"{path} is not a file")
    try:
        with open(path, "rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as failure:
        raise error(f"cannot read {path}: {failure.strerror or failure}") from failure
    if len(raw) > max_bytes:
        raise error(f"{path} is longer than {max_bytes:,} bytes")
    return raw


def parse_json(raw: bytes, path: Path, error: type[EnsueError] = RunError) -> Any:
    """Parse JSON in UTF-8 without NaN; `path` is for the message."""
    try:
        return json.loads(raw.decode(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as failure:  # Python's parser recurses on "[[[[..."
        raise error(f"{path} is damaged: {failure}") from failure


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # NaN is not JSON; 1e999 is, and Python reads it as infinity
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def seal(value: dict[str, Any]) -> bytes:
    """Render JSON that carries its own checksum, so that one flipped bit anywhere is found."""
    body = {key: item for key, item in value.items() if key != "sha256"}
    return dump_json(body | {"sha256": hashlib.sha256(dump_json(body)).hexdigest()})


def read_sealed(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read what `seal` rendered.

    Raises:
        RunError: Missing, or not what was written, to the last byte.
    """
    raw = read_bytes(path, max_bytes)
    value = parse_json(raw, path)
    with contextlib.suppress(RecursionError):  # rendering nests a little deeper than parsing
        if isinstance(value, dict) and seal(value) == raw:
            del value["sha256"]
            return value
    raise RunError(f"{path} was changed after it was written: its checksum does not fit")
