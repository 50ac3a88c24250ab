"""Pictures that come as numbers: IDX files (MNIST), ``.npz``, and tables of pixels."""

import csv
import gzip
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data import encodings
from ensue.data.notes import Notes
from ensue.data.source import Source, form_of, open_bytes
from ensue.data.tables import lines_of
from ensue.errors import DataError, nearest

MOST_BYTES = 8 << 30
"""Of an array, unpacked: a file of some megabytes can claim any size."""
LABEL_COLUMNS = ("label", "class", "category", "target", "y", "digit")
"""Usual names of the column that names the class."""
LEAST_PIXELS = 16
"""Columns of numbers from 0 to 255: so many are pixels."""
_FAKE = "Is this the format that its name says?"


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Pictures and labels of one split."""

    split: str
    """train, valid or test."""
    pixels: NDArray[np.uint8]
    """(N, H, W, C)."""
    labels: list[str]
    """N names."""


# --- IDX ------------------------------------------------------------------------------------------

_IDX = re.compile(r"(images|labels)[-._]idx[13]", re.IGNORECASE)


def is_idx(path: Path) -> bool:
    """Tell IDX by its name, as MNIST and its kin have it: ``train-images-idx3-ubyte.gz``."""
    return bool(_IDX.search(path.name))


def read_idx_folder(folder: Path, notes: Notes) -> list[Arrays]:
    """Read all pictures of a folder of IDX files.

    Raises:
        DataError: As of `read_idx`.
    """
    images = sorted(p for p in folder.iterdir() if is_idx(p) and "images" in p.name.lower())
    if not images:
        raise DataError(
            f"{folder}: no pictures in it", "Give a folder with a folder for each class."
        )
    found: dict[str, Arrays] = {}
    for path in images:
        (part,) = read_idx(path)
        if part.split in found:
            notes.add("skipped, a second file of the same pictures", str(path))
        found.setdefault(part.split, part)
    return list(found.values())


def read_idx(path: Path) -> list[Arrays]:
    """Read a file of pictures, and beside it that of their labels.

    Raises:
        DataError: One is missing or damaged, or they do not fit each other.
    """
    if "labels" in path.name.lower():
        raise DataError(f"{path}: labels without pictures", "Name the file of the pictures.")
    beside = path.name.replace("images", "labels").replace("idx3", "idx1")
    names = [beside, beside.removesuffix(".gz"), f"{beside}.gz"]
    labels_path = next((p for n in names if (p := path.with_name(n)).exists()), None)
    if labels_path is None:
        raise DataError(f"{path}: its labels are missing", f"Put them beside it: {beside}")
    pixels, labels = _idx(path), _idx(labels_path)
    if pixels.ndim not in (3, 4) or labels.ndim != 1:
        raise DataError(
            f"{path}: {pixels.ndim} dimensions, and {labels.ndim} in {labels_path.name}: not"
            " pictures with labels",
            _FAKE,
        )
    if len(pixels) != len(labels):
        raise DataError(
            f"{path}: {len(pixels):,} pictures, and {len(labels):,} labels in {labels_path.name}",
            "Fetch both anew from one place.",
        )
    name = path.name.lower()
    split = "test" if "t10k" in name or "test" in name else "valid" if "val" in name else "train"
    channels = pixels if pixels.ndim == 4 else pixels[..., None]
    return [Arrays(split=split, pixels=channels, labels=[str(i) for i in labels.tolist()])]


def _idx(path: Path) -> NDArray[np.uint8]:
    """Read one array of bytes; its head must say how long it is."""
    try:
        with _unpacked(path) as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != 8 or not 1 <= magic[3] <= 4:
                raise DataError(f"{path}: not an IDX file of bytes", _FAKE)
            head = file.read(4 * magic[3])
            shape = [int.from_bytes(head[i : i + 4], "big") for i in range(0, len(head), 4)]
            size = math.prod(shape)
            if len(shape) < magic[3] or size > MOST_BYTES:
                raise DataError(f"{path}: its head says {shape}: nothing that can be read", _FAKE)
            data = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}", "Fetch it again.") from None
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data):,}"
        raise DataError(
            f"{path}: its head says {size:,} bytes ({' x '.join(map(str, shape))}), and there are"
            f" {more}",
            "Fetch it again: it was cut or changed.",
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _unpacked(path: Path) -> BufferedIOBase:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else path.open("rb")


# --- npz ------------------------------------------------------------------------------------------

_PICTURES = ("x", "images", "image", "data", "pixels")
_LABELS = ("y", "labels", "label", "target", "targets")
_PARTS = {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}


def read_npz(path: Path) -> list[Arrays]:
    """Read arrays by their names: ``x_train``, ``train_images``, or ``x`` and ``y`` alone.

    Raises:
        DataError: It is damaged, holds pickled objects, or no pictures with labels.
    """
    try:
        _check_npz(path)
        with np.load(path, allow_pickle=False) as file:
            named = {name: _role(name) for name in file.files}
            pairs = _npz_pairs(named)
            if not pairs:
                raise DataError(
                    f"{path}: no pictures with labels; it has {', '.join(file.files) or 'nothing'}",
                    "Name them x_train and y_train, or x and y.",
                )
            return [
                Arrays(
                    split=split,
                    pixels=_as_pixels(file[x], f"{path}: {x}"),
                    labels=_as_labels(file[y], f"{path}: {y}", len(file[x])),
                )
                for split, (x, y) in pairs.items()
            ]
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        why = "it holds pickled objects, which could run code" if "pickle" in str(error) else error
        raise DataError(f"{path}: not read: {why}", "Save plain arrays: numpy.savez.") from None


def _check_npz(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MOST_BYTES:
        raise DataError(
            f"{path}: {size:,} bytes when unpacked, more than the {MOST_BYTES:,} that are read",
            "Give the pictures in several files, or smaller.",
        )


def _role(name: str) -> tuple[str, str]:
    """Tell from an array's name whether it holds pictures or labels, and of which split."""
    words = name.lower().split("_")
    split = next((_PARTS[w] for w in words if w in _PARTS), "train")
    rest = [w for w in words if w not in _PARTS]
    if any(w in _PICTURES for w in rest):
        return "x", split
    return ("y", split) if any(w in _LABELS for w in rest) else ("", split)


def _npz_pairs(named: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    pairs = {}
    for split in ("train", "valid", "test"):
        x = next((n for n, role in named.items() if role == ("x", split)), None)
        y = next((n for n, role in named.items() if role == ("y", split)), None)
        if x and y:
            pairs[split] = (x, y)
    return pairs


def _as_pixels(x: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Bring an array to (N, H, W, C) of bytes."""
    if x.ndim == 2 and (side := math.isqrt(x.shape[1])) ** 2 == x.shape[1]:
        x = x.reshape(len(x), side, side)
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or 0 in x.shape:
        raise DataError(
            f"{where}: its shape {x.shape} is not that of pictures",
            "Pictures are (N, H, W), (N, H, W, C) or (N, C, H, W).",
        )
    if x.shape[1] in (1, 3) and x.shape[3] not in (1, 3, 4):
        x = x.transpose(0, 2, 3, 1)
    if x.shape[3] == 4:
        x = x[..., :3]
    if x.shape[3] not in (1, 3):
        raise DataError(f"{where}: {x.shape[3]} channels; 1 (grey) or 3 (colours) are read", _FAKE)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind not in "fiub" or not np.isfinite(x).all() or x.min() < 0:
        raise DataError(f"{where}: its numbers are not brightness (negative, or none)", _FAKE)
    top = float(x.max())
    most = next((m for m in (1.0, 255.0, 65535.0) if top <= m), top)
    return (x * (255 / most)).astype(np.uint8)


def _as_labels(y: NDArray[Any], where: str, rows: int) -> list[str]:
    if y.ndim == 2 and y.shape[1] > 1 and (np.count_nonzero(y, axis=1) == 1).all():
        y = y.argmax(axis=1)  # one-hot
    y = y.reshape(len(y), -1)
    if y.shape != (rows, 1):
        raise DataError(f"{where}: {y.shape} labels for {rows:,} pictures", "One for each.")
    return [" ".join(str(label).split()) for label in y[:, 0].tolist()]


# --- tables of pixels -----------------------------------------------------------------------------


def is_table(path: Path) -> bool:
    """Tell a table by its name, perhaps gzipped."""
    return form_of(path) in ("csv", "tsv")


def is_pixel_table(path: Path) -> bool:
    """Whether a table has so many columns of whole numbers from 0 to 255 that they are pixels."""
    if not is_table(path):
        return False
    try:
        rows = [row for _, row in islice(_rows_of(path), 3)]
    except (OSError, DataError):
        return False
    numbers = [sum(map(_is_brightness, row)) for row in rows[1:]]
    return bool(numbers) and all(
        n >= max(LEAST_PIXELS, len(row) - 1) and _square(len(row) - 1)
        for n, row in zip(numbers, rows[1:], strict=True)
    )


def _rows_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Give the rows of a table, each with the line it ends in; its delimiter is in the first.

    Raises:
        DataError: It is no text, or damaged.
    """
    source = Source(name=str(path), form=form_of(path), path=path)
    with open_bytes(source) as stream:
        pieces = encodings.decode(stream, "utf-8-sig", source.name, Notes())
        lines = lines_of(pieces, source.name)
        first = next(lines, "")
        ended = (line + "\n" for line in chain([first], lines))
        reader = csv.reader(ended, delimiter=max("\t,;", key=first.count))
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: {error}", "Mend this line.") from None


def _is_brightness(cell: str) -> bool:
    return cell.strip().isdigit() and int(cell) <= 255


def read_pixel_table(path: Path, label_column: str, notes: Notes) -> list[Arrays]:
    """Read a table with a picture in each row: one column names the class, all others are pixels.

    Raises:
        DataError: Rows are ragged or hold other than brightness, or no column is the label.
    """
    rows = _rows_of(path)
    _, header = next(rows, (1, [""]))
    if _is_picture_row(header):  # no names: the label comes first
        header, rows = ["label", *header[1:]], chain([(1, header)], rows)
    place = _label_place(header, label_column, path)
    side, channels = _sides(len(header) - 1, path)
    labels, pixels, faults = [], [], []
    for number, row in rows:
        try:
            if len(row) != len(header):
                raise ValueError(f"{len(row)} fields where the header has {len(header)}")
            values = np.array(row[:place] + row[place + 1 :], dtype=np.float64)
            if values.min() < 0 or values.max() > 255:
                raise ValueError("a pixel is not from 0 to 255")
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
            if len(faults) == 5:
                break
            continue
        labels.append(" ".join(row[place].split()))
        pixels.append(values.astype(np.uint8))
    if faults:
        raise DataError("malformed rows:\n  " + "\n  ".join(faults), "Mend or remove these lines.")
    if not pixels:
        raise DataError(f"{path}: no rows", "Give a table with a picture in each row.")
    notes.add(f"read as pictures of {side} by {side} pixels, one in each row", str(path))
    shape = (len(pixels), side, side, channels)
    return [Arrays(split="train", pixels=np.stack(pixels).reshape(shape), labels=labels)]


def _is_picture_row(row: list[str]) -> bool:
    """Whether a first row is a picture already: names may be numbers too, 0, 1, 2 and so on."""
    if row[0].strip().lower() in LABEL_COLUMNS or not all(map(_is_brightness, row[1:])):
        return False
    return [int(cell) for cell in row[1:]] not in ([*range(len(row) - 1)], [*range(1, len(row))])


def _label_place(header: list[str], wanted: str, path: Path) -> int:
    if wanted:
        if wanted not in header:
            raise DataError(f"{path}: no column {wanted!r}{nearest(wanted, header)}", "Check it.")
        return header.index(wanted)
    names = [name.strip().lower() for name in header]
    place = next((names.index(n) for n in LABEL_COLUMNS if n in names), None)
    if place is None:
        raise DataError(f"{path}: which column names the class?", "Name it: --label-column NAME")
    return place


def _square(count: int) -> tuple[int, int] | None:
    """Give side and channels of square pictures of so many numbers; None: there are no such."""
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            return side, channels
    return None


def _sides(count: int, path: Path) -> tuple[int, int]:
    if found := _square(count):
        return found
    raise DataError(
        f"{path}: {count:,} columns of pixels are no square picture, grey or in colours",
        "Give the pictures as .npz, which keeps their shape.",
    )
