"""Token streams on disk: built once for a text and a tokenizer, then memory-mapped."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data import cache, worker
from ensue.data.spool import Progress, View
from ensue.data.worker import Encoded, Loader, Tok

FORMAT = 1
# Below this, starting processes (0.3 s each) costs more than it saves.
PARALLEL_BYTES = 20 << 20
_MAX_WORKERS = 16
_PROBES, _PROBE_BYTES = 64, 1 << 16


@dataclass(frozen=True, eq=False)
class Tokens:
    """One split as a stream: end-of-text, document, end-of-text, ..., end-of-text."""

    ids: NDArray[Any]
    """Token ids, memory-mapped and read-only, uint16 or uint32."""
    num_bytes: int
    """Bytes of text behind them."""
    unspelt_bytes: int
    """Bytes that the tokenizer could not spell."""
    fingerprint: str
    """SHA-256 of the text."""

    def __len__(self) -> int:
        return len(self.ids)


def find(root: Path, text: str, tokenizer: Tok) -> Tokens | None:
    """Give a cached stream when it is there and whole.

    Sizes, manifest and 64 evenly spaced blocks are compared, so that a stream of any size opens
    in milliseconds.

    Args:
        root: The cache folder.
        text: Fingerprint of the text.
        tokenizer: Made the ids.
    """
    folder = folder_of(root, text, tokenizer)
    manifest = cache.read_json(folder / "manifest.json")
    if manifest is None:
        return None
    try:
        expected = {"format": FORMAT, "text": text, "tokenizer": tokenizer.fingerprint}
        if any(manifest[key] != value for key, value in expected.items()):
            return None
        ids_path = folder / "ids.bin"
        dtype = np.dtype(manifest["dtype"])
        if ids_path.stat().st_size != manifest["num_tokens"] * dtype.itemsize:
            return None
        if _probe(ids_path) != manifest["probe"]:
            return None
        ids = np.memmap(ids_path, dtype=dtype, mode="r")
        return Tokens(ids, manifest["num_bytes"], manifest["unspelt_bytes"], text)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def folder_of(root: Path, text: str, tokenizer: Tok) -> Path:
    """Give where a stream lies, or would."""
    return root / "streams" / cache.key_of(FORMAT, text, tokenizer.fingerprint)


def build(
    root: Path,
    scratch: Path,
    view: View,
    text: str,
    tokenizer: Tok,
    source: tuple[Path, Loader] | None,
    progress: Progress,
    workers: int = 0,
) -> Tokens:
    """Tokenise a view, in several processes when it is long, and publish the stream.

    Args:
        root: The cache folder.
        scratch: A scratch folder below it.
        view: The text.
        text: Its fingerprint.
        tokenizer: Makes the ids.
        source: The tokenizer's file and what reads it, for worker processes; None for no workers.
        progress: Called with ("tokenising", bytes done, bytes in all).
        workers: Processes; 0 for one per core, 1 for this process alone.
    """
    folder = scratch / f"stream-{text[:16]}"
    folder.mkdir()
    count = workers or min(_MAX_WORKERS, _num_cores())
    dtype = worker.dtype_of(tokenizer)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "text": text,
        "tokenizer": tokenizer.fingerprint,
        "dtype": dtype.name,
        "num_bytes": view.num_bytes,
    }
    parallel = count > 1 and view.num_bytes >= PARALLEL_BYTES
    encoded: Iterator[Encoded]
    if parallel and source is not None and worker.importable(source[1]):
        path, loader = source
        encoded = worker.encode_in_parallel(loader, path, dtype, view.batches(), count)
    else:
        encoded = worker.encode_serially(tokenizer, view.batches())
    num_tokens, unspelt = 1, 0
    done, total = 0, view.num_bytes
    with (folder / "ids.bin").open("wb") as file:
        file.write(np.array([tokenizer.eos_id], dtype=dtype).tobytes())
        for ids, missed, size in encoded:
            assert not len(ids) or int(ids.max()) < tokenizer.vocab_size
            file.write(ids.tobytes())
            num_tokens += len(ids)
            unspelt += missed
            done += size
            progress("tokenising", done, total)
        cache.sync(file)
    manifest |= {"num_tokens": num_tokens, "unspelt_bytes": unspelt}
    manifest["probe"] = _probe(folder / "ids.bin")
    cache.write_json(folder / "manifest.json", manifest)
    tokens = find(root, text, tokenizer)  # another process may have been faster
    if tokens is None:
        cache.publish(folder, folder_of(root, text, tokenizer))
        tokens = find(root, text, tokenizer)
    assert tokens is not None
    return tokens


def _probe(path: Path) -> str:
    """Hash the size and evenly spaced blocks: all of a file up to 4 MB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode())
        step = max(_PROBE_BYTES, (size - _PROBE_BYTES) / (_PROBES - 1))
        for i in range(_PROBES):
            offset = round(i * step)
            if offset >= size:
                break
            file.seek(offset)
            digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
