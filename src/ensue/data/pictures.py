"""Pictures with their classes: read, checked, brought to one size, split, kept in the cache.

Four layouts: a folder (or a zip, read in place) with a folder for each class; IDX files, as MNIST
comes; ``.npz``; a table with a column for each pixel. What was made of them lies in the cache under
a name that their bytes give.
"""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BufferedIOBase, BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ensue.data import arrays, cache
from ensue.data.images import fitted, image_size, read_image
from ensue.data.labels import check_shares, numbered, settle_splits
from ensue.data.notes import Notes, shown
from ensue.data.source import missing
from ensue.data.spool import Progress
from ensue.errors import DataError, UsageError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm"),
)
"""Files that are taken for pictures."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folders that name a split and not a class."""
LONGEST_SIDE = 64
"""Of pictures whose size nobody asked for: a CNN of two minutes on a processor reads no more."""
SMALL_SIDE = 8
"""Pictures with a shorter side are worth a remark."""
VERSION = 2
"""Of what lies in the cache."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Which pictures, and how they are shown to the model."""

    sources: tuple[str, ...]
    """Folders or zips with a folder for each class; IDX files, also ``.gz``; ``.npz``; ``.csv``
    with a column for each pixel."""
    valid: tuple[str, ...] = ()
    """Pictures to choose on; empty to hold out the same share of each class."""
    valid_fraction: float = 0.1
    """How much is held out to choose on, above 0 and below 1."""
    test_fraction: float = 0.0
    """How much is held out besides, to be scored at the end: ``ensue evaluate --split test``."""
    image_size: int = 0
    """Pixels of the longer side to which pictures are scaled; 0: their own, at most 64."""
    label_column: str = ""
    """The column of a table that names the class; empty to look for it."""
    shift: float = 0.08
    """While training: moved by up to this share of the side, each time anew."""
    rotate: float = 8.0
    """While training: turned by up to so many degrees."""
    zoom: float = 0.08
    """While training: scaled up or down by up to this share."""
    elastic: float = 0.0
    """While training: bent; how far, as a share of the side (handwriting: 0.04)."""
    cutout: float = 0.0
    """While training: a square of this share of the side is blanked."""
    flip: bool = False
    """While training: mirrored left to right half of the time; not for digits or letters."""
    cache: str = ""
    """Folder for decoded pictures; empty for ENSUE_CACHE or the system's cache folder."""

    def __post_init__(self) -> None:
        check_shares(self.valid_fraction, self.test_fraction)
        for name, most in (("shift", 1), ("zoom", 0.9), ("elastic", 1), ("cutout", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise UsageError(f"data.{name} is {getattr(self, name)}; it lies in [0, {most}]")
        if not 0 <= self.rotate <= 180:
            raise UsageError(f"data.rotate is {self.rotate}; it lies in [0, 180] degrees")
        if not 0 <= self.image_size <= 1024:
            raise UsageError(f"data.image_size is {self.image_size}; it lies in [0, 1024] pixels")


@dataclass(frozen=True, kw_only=True)
class PictureSplit:
    """Pictures of one split."""

    pixels: Pixels
    """All pictures of the set, (N, C, H, W); on the disk."""
    rows: NDArray[np.int64]
    """Which of them are in this split."""
    labels: NDArray[np.int64]
    """Their classes; -1: one that train lacks."""
    fingerprint: str
    """SHA-256 of pixels and labels."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Pictures ready to be learnt from."""

    classes: tuple[str, ...]
    """Their names, in the order of the labels' numbers."""
    shape: tuple[int, int, int]
    """Channels (1: grey, 3: colours), height, width."""
    mean: tuple[float, ...]
    """Of the pixels of train, from 0 to 1, by channel."""
    std: tuple[float, ...]
    """Their standard deviation."""
    train: PictureSplit
    """What is learnt from."""
    valid: PictureSplit
    """What is chosen on."""
    test: PictureSplit | None
    """What is scored at the end; None: there is none."""
    fingerprint: str
    """Changes with pictures, labels and split."""
    notes: tuple[str, ...]
    """What was found, left out and chosen."""


Opener = Callable[[], BufferedIOBase]


@dataclass(kw_only=True)
class _Part:
    """What one source holds of one split: files to decode, or pixels that lie ready."""

    split: str
    labels: list[str]
    files: list[tuple[str, Opener]] = field(default_factory=list)
    pixels: NDArray[np.uint8] | None = None


# --- what is there --------------------------------------------------------------------------------


def are_pictures(name: str) -> bool:
    """Tell by the names of files, and of a table by its first rows, whether pictures are meant."""
    path = Path(name)
    try:
        if path.is_dir():
            return _is_gallery(path) or any(map(arrays.is_idx, path.iterdir()))
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                return any(map(_is_picture, archive.namelist()))
        if not path.is_file():
            return False
        return path.suffix == ".npz" or arrays.is_idx(path) or arrays.is_pixel_table(path)
    except (OSError, zipfile.BadZipFile):
        return False


def _is_gallery(folder: Path) -> bool:
    """Whether most files of a folder are pictures in several folders: a book has some too.

    Where nothing but pictures is, in one folder or in none, they are meant, and refused as such.
    """
    files = [p for p in islice(folder.rglob("*"), LOOKED_THROUGH) if p.is_file()]
    pictures = [p.parent for p in files if _is_picture(p.name)]
    homes = [parent for parent in pictures if parent != folder]
    several = len(set(homes)) > 1 and 2 * len(homes) > len(files)
    return several or 0 < len(pictures) == len(files)


LOOKED_THROUGH = 5_000
"""Files of a folder that are looked at, to tell what is meant."""


def _holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in or below this folder, among the first few thousand files."""
    return any(_is_picture(path.name) for path in islice(folder.rglob("*"), LOOKED_THROUGH))


def _is_picture(name: str) -> bool:
    pure = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in pure.parts)
    return not hidden and pure.suffix.lower() in SUFFIXES


def _found(name: str, label_column: str, split: str, notes: Notes) -> list[_Part]:
    """Find what a source holds, by split; all of it is in `split` where one is given.

    Raises:
        DataError: It is missing, or holds no pictures with classes.
    """
    path = Path(name)
    if path.is_dir() and not _holds_pictures(path):
        found = arrays.read_idx_folder(path, notes)
    elif path.is_dir() or path.suffix.lower() == ".zip":
        return _by_folder(name, _files_in(path), split, notes)
    elif path.suffix == ".npz":
        found = arrays.read_npz(path)
    elif arrays.is_idx(path):
        found = arrays.read_idx(path)
    elif arrays.is_table(path):
        found = arrays.read_pixel_table(path, label_column, notes)
    else:
        _refuse(path)
    return [
        _Part(split=split or part.split, labels=part.labels, pixels=part.pixels) for part in found
    ]


def _refuse(path: Path) -> NoReturn:
    if not path.exists():
        raise missing(path)
    raise DataError(
        f"{path}: not pictures with classes",
        "Give a folder or a zip with a folder for each class, IDX files, .npz, or .csv of pixels.",
    )


def picture_files(path: Path) -> list[tuple[str, Opener]]:
    """Give the pictures in a folder or a zip: name, and what opens it.

    Raises:
        DataError: There is none, or the zip cannot be read.
    """
    found = [(name, opener) for name, opener in _files_in(path) if _is_picture(name)]
    if not found:
        raise DataError(f"{path}: no pictures in it", f"Pictures end in {', '.join(SUFFIXES)}.")
    return found


def _files_in(path: Path) -> list[tuple[str, Opener]]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return [(file.relative_to(path).as_posix(), partial(_open, file)) for file in files]
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        if not path.exists():
            raise missing(path) from None
        raise DataError(f"{path}: not a readable zip: {error}", "Fetch or make it again.") from None
    entries = sorted((e for e in archive.infolist() if not e.is_dir()), key=lambda e: e.filename)
    return [(entry.filename, partial(_unzip, archive, entry)) for entry in entries]


def _open(path: Path) -> BufferedIOBase:
    return path.open("rb")


def _unzip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BufferedIOBase:
    if entry.file_size > MOST_BYTES:
        raise DataError(f"{entry.file_size:,} bytes when unpacked", "No picture needs so many.")
    return BytesIO(archive.read(entry))


MOST_BYTES = 256 << 20
"""Of a packed picture: a zip of some kilobytes can claim any size."""


def _by_folder(name: str, files: list[tuple[str, Opener]], split: str, notes: Notes) -> list[_Part]:
    """Sort pictures by the folders they lie in: train, valid and test, if any; then the class."""
    listed = [(PurePosixPath(f).parts, opener) for f, opener in files if _is_picture(f)]
    others = len(files) - len(listed)
    if others:
        notes.say(f"{shown(name)}: {others:,} files that are no pictures skipped")
    while listed and len({parts[0] for parts, _ in listed}) == 1 and len(listed[0][0]) > 2:
        listed = [(parts[1:], opener) for parts, opener in listed]  # a folder around all of them
    heads = {parts[0].lower() for parts, _ in listed if len(parts) > 2}
    has_splits = bool(heads) and heads <= set(SPLITS) and "train" in {SPLITS[h] for h in heads}
    parts_of: dict[str, _Part] = {}
    outside = 0
    for parts, opener in listed:
        of = SPLITS[parts[0].lower()] if has_splits and len(parts) > 2 else "train"
        inside = parts[1:] if has_splits else parts
        if len(inside) < 2:
            outside += 1
            continue
        part = parts_of.setdefault(of, _Part(split=split or of, labels=[]))
        part.labels.append(" ".join(inside[0].split()))
        part.files.append(("/".join(parts), opener))
    if outside:
        notes.say(f"{shown(name)}: {outside:,} pictures in no class's folder skipped")
    if not parts_of:
        raise DataError(
            f"{name}: no pictures in folders of classes",
            "Put the pictures of each class into a folder of its name: pets/cat/1.jpg",
        )
    return list(parts_of.values())


# --- what is made of it ---------------------------------------------------------------------------


def prepare_pictures(config: PicturesConfig, on_progress: Progress) -> Gallery:
    """Read, check, scale and split pictures, or find what was made of them before.

    Raises:
        DataError: Something is missing, damaged or no pictures; there is one class only.
        MissingExtraError: Files are to be decoded, and Pillow is not installed.
        DiskFullError: The cache finds no room.
    """
    if not config.sources:
        raise DataError("no pictures were named", "Give a folder: ensue train pictures/")
    root = cache.cache_root(config.cache)
    wanted = (config.valid_fraction, config.test_fraction, config.image_size, config.label_column)
    content = [
        [_content(s, on_progress) for s in names] for names in (config.sources, config.valid)
    ]
    home = root / "pictures" / cache.key_of(VERSION, *content, *wanted)
    if cache.read_json(home / GALLERY) is None:
        with cache.scratch(root) as folder:
            made = folder / "made"
            made.mkdir()
            _make(config, made, on_progress)
            cache.publish(made, home)
    return _gallery(home)


def labelled_pictures(
    names: Sequence[str],
    classes: Sequence[str],
    shape: tuple[int, ...],
    label_column: str,
    folder: Path,
    on_progress: Progress,
) -> tuple[PictureSplit, tuple[str, ...]]:
    """Read pictures with their classes, to be scored; of a set with a test part, that alone.

    Args:
        names: As `PicturesConfig.sources`.
        classes: Those that were learnt.
        shape: What the model reads: channels, height, width.
        label_column: As `PicturesConfig.label_column`.
        folder: Takes the decoded pictures.
        on_progress: Called with (stage, done, total).

    Returns:
        The pictures, and what was noticed.

    Raises:
        DataError: As of `prepare_pictures`.
    """
    notes = Notes()
    parts = [part for name in names for part in _found(name, label_column, "", notes)]
    tests = [part for part in parts if part.split == "test"]
    pixels, labels, hashes = _decode(tests or parts, shape, folder, notes, on_progress)
    rows = np.array([i for i, label in enumerate(labels) if label], dtype=np.int64)
    found = numbered([labels[i] for i in rows], classes, "what is scored", notes)
    split = _picture_split(pixels, rows, np.array(found, dtype=np.int64), hashes)
    return split, notes.lines()


GALLERY = "gallery.json"
_NUMBERS = {"train": 0, "valid": 1, "test": 2, "": 3}


def _content(name: str, on_progress: Progress) -> str:
    """Name what a source holds by its bytes; of a folder also by the names in it."""
    path = Path(name)
    if not path.exists():
        _refuse(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if arrays.is_idx(path):  # its labels lie beside it
        files = sorted(p for p in path.parent.iterdir() if arrays.is_idx(p))
    digest = hashlib.sha256(path.name.encode())
    for number, file in enumerate(files):
        on_progress("reading files", number, len(files))
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _make(config: PicturesConfig, folder: Path, on_progress: Progress) -> None:
    """Write pixels, labels and splits into a folder."""
    notes, column = Notes(), config.label_column
    parts = [part for name in config.sources for part in _found(name, column, "", notes)]
    parts += [part for name in config.valid for part in _found(name, column, "valid", notes)]
    shape = _shape(parts, config.image_size, notes)
    pixels, labels, hashes = _decode(parts, shape, folder, notes, on_progress)
    given = [part.split for part in parts for _ in part.labels]
    split = np.array([of if labels[i] else "" for i, of in enumerate(given)])
    shares = {"test": config.test_fraction, "valid": config.valid_fraction}
    names, numbers = settle_splits(split, labels, hashes, shares, "pictures", notes)
    mean, std = _moments(pixels, np.flatnonzero(split == "train"))
    np.save(folder / "labels.npy", numbers)
    np.save(folder / "hashes.npy", hashes)
    np.save(folder / "split.npy", np.array([_NUMBERS[of] for of in split], dtype=np.int8))
    meta = {"classes": names, "shape": shape, "mean": mean, "std": std, "notes": notes.lines()}
    cache.write_json(folder / GALLERY, meta)


def _shape(parts: Sequence[_Part], asked: int, notes: Notes) -> tuple[int, int, int]:
    """Choose channels, height and width: of most pictures where they agree, else a square."""
    sizes: Counter[tuple[int, int, int]] = Counter()
    for part in parts:
        if part.pixels is not None:
            _, height, width, channels = part.pixels.shape
            sizes[height, width, channels] += len(part.labels)
        step = max(1, len(part.files) // LOOKED_AT)
        for _, opener in part.files[::step]:
            try:
                with opener() as stream:
                    sizes[image_size(stream)] += step
            except (DataError, OSError, zipfile.BadZipFile, zlib.error):
                continue  # said when it is read
    if not sizes:
        raise DataError("none of the pictures can be read", "Open one to see what is wrong.")
    channels = max(c for _, _, c in sizes)
    areas: Counter[tuple[int, int]] = Counter()
    for (height, width, _), count in sizes.items():
        areas[height, width] += count
    (height, width), count = areas.most_common(1)[0]
    if count < AGREED * areas.total():
        sides = sorted(s for size, n in areas.items() for s in [max(size)] * n)
        height = width = sides[len(sides) // 2]
    longest = max(height, width)
    goal = asked or min(longest, LONGEST_SIDE)
    scaled = [max(1, round(side * goal / longest)) for side in (height, width)]
    if len(areas) > 1 or goal != longest:
        low, high = min(map(min, areas)), max(map(max, areas))
        range_ = f"sides of {low:,} to {high:,} pixels" if low < high else f"a side of {low:,}"
        notes.say(
            f"pictures with {range_} are brought to {scaled[1]} by {scaled[0]} (--image-size)"
        )
    return channels, scaled[0], scaled[1]


LOOKED_AT = 500
"""Pictures whose size is looked at before a common one is chosen."""
AGREED = 0.8
"""Such a share of one size is the size of all."""


def _decode(
    parts: Sequence[_Part],
    shape: tuple[int, ...],
    folder: Path,
    notes: Notes,
    on_progress: Progress,
) -> tuple[NDArray[np.uint8], list[str], NDArray[np.uint64]]:
    """Decode and scale all pictures into one array on the disk.

    Returns:
        Pixels, labels (empty where a picture cannot be read), and a hash of each picture.
    """
    total = sum(len(part.labels) for part in parts)
    pixels = np.lib.format.open_memmap(
        folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(total, *shape)
    )
    labels = [label for part in parts for label in part.labels]
    row = small = 0
    for part in parts:
        for image in part.pixels if part.pixels is not None else ():
            pixels[row] = fitted(image, shape)
            row += 1
        for name, opener in part.files:
            on_progress("reading pictures", row, total)
            try:
                with opener() as stream:
                    image, done = read_image(stream, max(shape[1:]))
            except (DataError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
                notes.add(f"skipped, {getattr(error, 'what', error)}", name)
                labels[row] = ""
            else:
                pixels[row] = fitted(image, shape)
                small += min(image.shape[:2]) < SMALL_SIDE
                for remark in done:
                    notes.add(remark, name)
            row += 1
    on_progress("reading pictures", total, total)
    if small:
        notes.say(f"{small:,} pictures have a side of less than {SMALL_SIDE} pixels")
    if not any(labels):
        raise DataError(
            "none of the pictures can be read: " + "; ".join(notes.lines())[:500],
            "Open one to see what is wrong.",
        )
    pixels.flush()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return pixels, labels, np.frombuffer(b"".join(digests), dtype=np.uint64)


def _moments(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Give mean and standard deviation of each channel, of brightness from 0 to 1."""
    total = np.zeros((2, pixels.shape[1]))
    for first in range(0, len(rows), 1024):
        some = pixels[rows[first : first + 1024]].astype(np.float64) / 255
        total += [some.sum(axis=(0, 2, 3)), (some**2).sum(axis=(0, 2, 3))]
    mean, square = total / (len(rows) * pixels.shape[2] * pixels.shape[3])
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return [round(float(m), 6) for m in mean], [round(float(s), 6) for s in std]


def _gallery(home: Path) -> Gallery:
    meta = cache.read_json(home / GALLERY)
    assert meta is not None
    pixels = np.load(home / "pixels.npy", mmap_mode="r")
    labels, hashes, split = (np.load(home / f"{n}.npy") for n in ("labels", "hashes", "split"))
    splits = {}
    for of, number in _NUMBERS.items():
        rows = np.flatnonzero(split == number)
        splits[of] = _picture_split(pixels, rows, labels[rows], hashes)
    return Gallery(
        classes=tuple(meta["classes"]),
        shape=tuple(meta["shape"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        train=splits["train"],
        valid=splits["valid"],
        test=splits["test"] if len(splits["test"]) else None,
        fingerprint=home.name,
        notes=tuple(meta["notes"]),
    )


def _picture_split(
    pixels: NDArray[np.uint8],
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    hashes: NDArray[np.uint64],
) -> PictureSplit:
    digest = hashlib.sha256(hashes[rows].tobytes() + labels.tobytes()).hexdigest()
    return PictureSplit(pixels=pixels, rows=rows, labels=labels, fingerprint=digest)
