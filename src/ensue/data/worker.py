"""Tokenising in other processes, spoken to through pipes.

Not a `multiprocessing` pool: its spawned workers import the user's script again, which loops
where the script has no ``__main__`` guard, and it pickles. Here a request is a batch of text and
the answer is bytes of ids. A worker ends when its parent does, for then its input ends.
"""

import importlib
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ensue.data.spool import Batch
from ensue.errors import EnsueError

_REQUEST = struct.Struct("<II")  # pieces, bytes of text
_ANSWER = struct.Struct("<BQQ")  # failed, bytes that follow, unspelt bytes
_MAIN = "from ensue.data.worker import main; main()"


@runtime_checkable
class Tok(Protocol):
    """What the data layer needs of a tokenizer."""

    kind: str
    vocab_size: int
    eos_id: int
    fingerprint: str

    def encode_array(self, text: str) -> tuple[NDArray[Any], int]:
        """Give ids, and how many bytes they cannot spell."""

    def save(self, path: Path) -> None:
        """Write the ``tokenizer.json``."""


Loader = Callable[[Path], Tok]
Encoded = tuple[NDArray[Any], int, int]  # ids, unspelt bytes, bytes of text


def encode_batch(tokenizer: Tok, batch: Batch) -> Encoded:
    """Give the ids of a batch, with an end-of-text id after each document."""
    out, unspelt, start = [], 0, 0
    eos = np.array([tokenizer.eos_id], dtype=dtype_of(tokenizer))
    for end, close in zip(batch.ends.tolist(), batch.closes.tolist(), strict=True):
        ids, missed = tokenizer.encode_array(batch.data[start:end].decode())
        out.append(ids)
        if close:
            out.append(eos)
        unspelt += missed
        start = end
    return np.concatenate(out, dtype=eos.dtype), unspelt, len(batch.data)


def dtype_of(tokenizer: Tok) -> Any:
    """Give the smallest of two widths that holds every id."""
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def encode_serially(tokenizer: Tok, batches: Iterable[Batch]) -> Iterator[Encoded]:
    """Encode in this process."""
    for batch in batches:
        yield encode_batch(tokenizer, batch)


def encode_in_parallel(
    loader: Loader, path: Path, dtype: Any, batches: Iterable[Batch], workers: int
) -> Iterator[Encoded]:
    """Encode in worker processes; the answers come in the order of the batches.

    Args:
        loader: A module's function that reads a tokenizer.
        path: The ``tokenizer.json``.
        dtype: The type of the ids.
        batches: Read no further ahead than two batches for each worker.
        workers: How many processes.
    """
    idle: SimpleQueue[_Worker] = SimpleQueue()
    hired = [_Worker(loader, path) for _ in range(workers)]
    for worker in hired:
        idle.put(worker)

    def ask(batch: Batch) -> Encoded:
        worker = idle.get()
        try:
            data, unspelt = worker.ask(batch)
        finally:
            idle.put(worker)
        return np.frombuffer(data, dtype=dtype), unspelt, len(batch.data)

    threads = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[Encoded]] = deque()
        for batch in batches:
            waiting.append(threads.submit(ask, batch))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for worker in hired:
            worker.end()
        threads.shutdown(wait=True, cancel_futures=True)


def importable(loader: Loader) -> bool:
    """Say whether another process can find the function by its name."""
    name = getattr(loader, "__qualname__", "<")
    return "<" not in name and getattr(loader, "__module__", "__main__") != "__main__"


class _Worker:
    def __init__(self, loader: Loader, path: Path) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            # One thread each: the processes are the parallelism.
            "TOKENIZERS_PARALLELISM": "false",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN, loader.__module__, loader.__qualname__, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def ask(self, batch: Batch) -> tuple[bytes, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            out = self._process.stdin
            out.write(_REQUEST.pack(len(batch.ends), len(batch.data)))
            out.write(batch.ends.astype("<u4").tobytes() + batch.closes.tobytes())
            out.write(batch.data)
            out.flush()
            head = _read(self._process.stdout, _ANSWER.size)
            failed, size, unspelt = _ANSWER.unpack(head)
            data = _read(self._process.stdout, size)
        except (OSError, EOFError, ValueError):
            raise EnsueError(
                "a tokenising process ended before its work was done "
                f"(exit code {self._process.poll()})",
                "Was it killed for want of memory? Try again; what was cached is whole.",
            ) from None
        if failed:
            raise EnsueError(
                f"a tokenising process failed: {data.decode(errors='replace')}",
                "Please report this, with the tokenizer.json and the text if they can be shared.",
            )
        return data, unspelt

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # an unsent rest
                pass


def main() -> None:
    """Answer requests on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    module, name, path = sys.argv[1:]
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a stray print must not end up among the answers
    tokenizer: Tok = getattr(importlib.import_module(module), name)(Path(path))
    while True:
        try:
            pieces, size = _REQUEST.unpack(_read(requests, _REQUEST.size))
        except EOFError:
            return
        ends = np.frombuffer(_read(requests, 4 * pieces), dtype="<u4")
        closes = np.frombuffer(_read(requests, pieces), dtype=np.bool_)
        batch = Batch(_read(requests, size), ends, closes)
        try:
            ids, unspelt, _ = encode_batch(tokenizer, batch)
            failed, data = 0, ids.tobytes()
        except Exception as error:
            failed, data, unspelt = 1, f"{type(error).__name__}: {error}".encode()[:1000], 0
        answers.write(_ANSWER.pack(failed, len(data), unspelt))
        answers.write(data)
        answers.flush()


def _read(stream: BinaryIO | Any, size: int) -> bytes:
    data: bytes = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
