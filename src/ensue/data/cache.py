"""The cache folder: what is in it is whole, whatever killed the process that wrote it.

Everything is made in a scratch folder below ``tmp/``, fsynced, and renamed into place. A scratch
folder is locked while its process lives; one that can be locked by another is debris.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ensue.errors import DataError, DiskFullError
from ensue.files import fsync_dir

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_YOUNG_SECONDS = 60  # between making a scratch folder and locking it
_ELSEWHERE = "Name a folder with room: --cache FOLDER, or set ENSUE_CACHE"


def cache_root(configured: str = "") -> Path:
    """Give the cache folder: as configured, as ``ENSUE_CACHE`` says, or the system's own place."""
    named = configured or os.environ.get("ENSUE_CACHE", "")
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ensue"


def key_of(*parts: object) -> str:
    """Give a name for what is made from these parts: 32 hex digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@contextlib.contextmanager
def scratch(root: Path, need_bytes: Callable[[], int] = int) -> Iterator[Path]:
    """Give a folder of one's own below ``root/tmp``, removed at the end; sweep old debris.

    Args:
        root: The cache folder.
        need_bytes: Gives about how much will be written, for the message on a full disk.

    Raises:
        DiskFullError: What is written inside the block finds no room.
        DataError: The cache folder cannot be written.
    """
    parent = root / "tmp"
    folder = parent / secrets.token_hex(8)
    with disk_errors(root, need_bytes):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        folder.mkdir()
        lock = (folder / "lock").open("wb")
        try:
            _lock(lock)
            yield folder
        finally:
            lock.close()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(root: Path, need_bytes: Callable[[], int]) -> Iterator[None]:
    """Turn the system's refusals to write into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskFullError(
                f"the disk is full: the cache {root} needs about {need_bytes():,} bytes, "
                f"{_free(root):,} are free",
                _ELSEWHERE,
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise DataError(
                f"the cache {root} cannot be written: {error.strerror}", _ELSEWHERE
            ) from None
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            sync(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None when it is not there or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def publish(made: Path, target: Path) -> None:
    """Rename a finished folder into place; one that stands there already is moved aside first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fsync_dir(made)
    for _ in range(3):  # another process may publish between the two renames
        try:
            made.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES):
                raise
            with contextlib.suppress(FileNotFoundError):
                target.rename(made.with_name(f"{made.name}-old-{secrets.token_hex(4)}"))
    fsync_dir(target.parent)


def sync(file: IO[Any]) -> None:
    """Bring a file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())


def _free(root: Path) -> int:
    for folder in (root, *root.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0


def _sweep(parent: Path) -> None:
    """Remove scratch folders whose process is gone."""
    for folder in parent.iterdir():
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
                continue
            with (folder / "lock").open("r+b") as file:
                _lock(file)
        except FileNotFoundError:
            pass  # never locked: killed in between
        except OSError:
            continue  # locked: its process lives
        shutil.rmtree(folder, ignore_errors=True)


def _lock(file: IO[bytes]) -> None:
    """Lock a file until it is closed; raise OSError when another process holds it."""
    if sys.platform == "win32":
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
