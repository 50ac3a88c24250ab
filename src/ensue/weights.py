"""Tensors in the safetensors layout: streamed out, checked on the way in.

An own writer, since the library's does not flush to the disk, has no checksum, and holds all
tensors a second time in memory. What it writes, every safetensors reader reads.

Layout: 8 bytes, the length of the header; the header, JSON; the tensors, one after the other.
`model.safetensors` also carries its own SHA-256 in the header's metadata, so that weights and
checksum cannot part, not even between two renames.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensue.errors import RunError
from ensue.files import Digest, parse_json, replacing, require_free, write_file, writing
from ensue.runs import Run

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 1 << 48  # also bounds the empty shape (0, 2**63), whose strides overflow in torch
CHECKSUM = "ensue.sha256"
_BLANK = "0" * 64


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Where one tensor lies in a file."""

    dtype: torch.dtype
    """Type of one element."""
    shape: tuple[int, ...]
    """Sizes; empty for a single number."""
    start: int
    """First byte, counted from the start of the file."""
    end: int
    """One past the last byte."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says it holds, checked against its length and against itself."""

    raw: bytes
    """The bytes before the first tensor."""
    metadata: dict[str, str]
    """Free text that came with the tensors."""
    tensors: dict[str, Entry]
    """The tensors, in the order in which they lie."""

    @property
    def parameters(self) -> int:
        """Count the elements: to be compared with a config before a module is built."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Count the bytes of the data, without the header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def stream(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Give the content of a file piece by piece; one tensor at a time leaves its device.

    Raises:
        KeyError: A dtype that has no name in this format.
    """
    # The widest first, so that each tensor starts at a multiple of its element size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    yield len(raw).to_bytes(8, "little") + raw
    for name in names:
        yield _view(tensors[name].detach().cpu().contiguous())


def _view(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Digest:
    """Write a file of tensors and flush it to the disk. Not atomic; see `save_weights`.

    Raises:
        OSError: As the system reports it; see `ensue.files.writing`.
    """
    return write_file(path, stream(tensors, metadata))


def save_weights(
    run: Run, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write the finished weights of a run, atomically and with their checksum.

    Args:
        run: The run.
        tensors: One name per tied tensor.
        metadata: Free text; what a reader should know about the tensors.

    Raises:
        DiskFullError: The weights that were there before, if any, are unharmed.
    """
    notes = {"format": "pt", **(metadata or {}), CHECKSUM: _BLANK}
    notes[CHECKSUM] = _digest(stream(tensors, notes))
    needed = tensor_bytes(tensors)
    require_free(run.weights_path, needed)
    with writing(run.weights_path, needed), replacing(run.weights_path) as temporary:
        write_tensors(temporary, tensors, notes)
    run.add_parts(run.weights_path.name)


def _digest(chunks: Iterable[bytes | memoryview]) -> str:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
    return sha256.hexdigest()


def load_weights(run: Run) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the finished weights of a run.

    Returns:
        The tensors, on the CPU, and the metadata they were saved with.

    Raises:
        RunError: There are none yet, or they are not what was written, to the last bit.
    """
    path = run.weights_path
    if not path.exists():
        raise RunError(f"{run.path} has no weights yet", "Train it to its end: ensue train …")
    header = read_header(path)
    metadata = dict(header.metadata)
    checksum = metadata.pop(CHECKSUM, "")
    if not checksum:
        raise _damaged(path, "it carries no checksum, so ensue did not write it")
    tensors = {
        name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in header.tensors.items()
    }
    sha256 = hashlib.sha256(header.raw.replace(checksum.encode(), _BLANK.encode(), 1))
    with open(path, "rb") as file:
        file.seek(len(header.raw))
        for tensor in tensors.values():
            view = _view(tensor)
            _fill(file, view, path)
            sha256.update(view)
    if sha256.hexdigest() != checksum:
        raise RunError(
            f"{path} is damaged: its checksum does not fit",
            "Copy it again from where it was trained, or repeat the same ensue train command:"
            " it takes the last sound checkpoint.",
        )
    metadata.pop("format", None)
    return tensors, metadata


def weights_digest(run: Run) -> str:
    """Give the SHA-256 that the finished weights of a run carry.

    Raises:
        RunError: There are none, or they are damaged.
    """
    load_weights(run)
    return read_header(run.weights_path).metadata[CHECKSUM]


def _fill(file: BufferedReader, view: memoryview, path: Path) -> None:
    try:
        if file.readinto(view) == len(view):
            return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    raise RunError(f"{path} became shorter while it was read")


def read_header(path: Path) -> Header:
    """Read and check what a file holds, before anything is allocated for it.

    Raises:
        RunError: Not in this format, or its parts do not fit its length exactly.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing" if not path.exists() else f"{path} is not a file")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise _damaged(path, "the header is longer than the file")
            raw = file.read(length)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    return _parse_header(prefix + raw, size, path)


def _parse_header(raw: bytes, size: int, path: Path) -> Header:
    fields = parse_json(raw[8:], path)
    if not isinstance(fields, dict):
        raise _damaged(path, "the header is not a table")
    metadata = fields.pop("__metadata__", {})
    if not _is_text(metadata):
        raise _damaged(path, "the metadata is not text")
    entries = {name: _parse_entry(name, field, len(raw), path) for name, field in fields.items()}
    tensors = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    position = len(raw)
    for name, entry in tensors.items():
        if entry.start != position:
            raise _damaged(path, f"{name[:80]!r} does not start where the tensor before it ends")
        position = entry.end
    if position != size:
        raise _damaged(path, f"it is {size:,} bytes long, and its header says {position:,}")
    return Header(raw=raw, metadata=metadata, tensors=tensors)


def _is_text(metadata: Any) -> bool:
    return isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())


def _parse_entry(name: str, field: Any, base: int, path: Path) -> Entry:
    match field:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end]} if (
            dtype in DTYPES
            and len(shape) <= MAX_DIMENSIONS
            and all(type(number) is int and number >= 0 for number in (*shape, start, end))
            and math.prod(size or 1 for size in shape) <= MAX_ELEMENTS
        ):
            # Exact in Python: no product of sizes can wrap around into a plausible length.
            if end - start != math.prod(shape) * DTYPES[dtype].itemsize:
                raise _damaged(path, f"the shape of {name[:80]!r} does not fit its bytes")
            return Entry(
                dtype=DTYPES[dtype], shape=tuple(shape), start=base + start, end=base + end
            )
    raise _damaged(path, f"the entry of {name[:80]!r} is not a dtype, a shape and two offsets")


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path} is damaged: {why}", "Copy it again from where it was written.")
