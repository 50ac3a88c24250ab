"""Pictures: every layout gives the same, and whatever a file claims, the answer is a sentence."""

import csv
import gzip
import io
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data import images
from ensue.data.images import MOST_PIXELS, fitted, image_size, read_image
from ensue.data.pictures import (
    PicturesConfig,
    are_pictures,
    labelled_pictures,
    prepare_pictures,
)
from ensue.errors import DataError, MissingExtraError, UsageError

Image = pytest.importorskip("PIL.Image")

GREY = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8)
LABELS = [str(i % 2) for i in range(40)]


def prepared(*sources: Path, **settings: Any) -> Any:
    config = PicturesConfig(sources=tuple(map(str, sources)), **settings)
    return prepare_pictures(config, lambda *_: None)


def write_folder(folder: Path, pictures: np.ndarray = GREY, labels: list[str] = LABELS) -> Path:
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / label / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


def write_zip(path: Path, around: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i, (picture, label) in enumerate(zip(GREY, LABELS, strict=True)):
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "PNG")
            archive.writestr(f"{around}{label}/{i:03}.png", stream.getvalue())
        archive.writestr(f"__MACOSX/{around}0/._000.png", b"not a picture")
        archive.writestr(f"{around}README.txt", b"hello")
    return path


def write_idx(folder: Path, split: str = "train", packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    kinds = {
        "images-idx3": struct.pack(">BBBBIII", 0, 0, 8, 3, 40, 8, 8) + GREY.tobytes(),
        "labels-idx1": struct.pack(">BBBBI", 0, 0, 8, 1, 40) + bytes(map(int, LABELS)),
    }
    for kind, data in kinds.items():
        name = f"{split}-{kind}-ubyte{'.gz' if packed else ''}"
        (folder / name).write_bytes(gzip.compress(data) if packed else data)
    return folder


def packed(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    return target


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **(arrays or {"x": GREY, "y": np.array(LABELS)}))
    return path


def write_table(path: Path, names: Any = "pixel{}", first: str = "label") -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if names:
            writer.writerow([first, *(names.format(i) for i in range(64))])
        for picture, label in zip(GREY, LABELS, strict=True):
            writer.writerow([label, *picture.ravel().tolist()])
    return path


LAYOUTS = {
    "folder": lambda p: write_folder(p / "set"),
    "zip": lambda p: write_zip(p / "set.zip"),
    "zip with a folder around": lambda p: write_zip(p / "set.zip", "digits/all/"),
    "idx": lambda p: write_idx(p / "set") / "train-images-idx3-ubyte",
    "idx.gz in a folder": lambda p: write_idx(p / "set", packed=True),
    "npz": lambda p: write_npz(p / "set.npz"),
    "npz of colours": lambda p: write_npz(
        p / "set.npz", images=np.repeat(GREY[:, None], 3, axis=1), labels=np.array(LABELS)[:, None]
    ),
    "npz of shares": lambda p: write_npz(p / "set.npz", x_train=GREY / 255, y_train=LABELS),
    "table": lambda p: write_table(p / "set.csv"),
    "table without names": lambda p: write_table(p / "set.csv", names=""),
    "table with numbers for names": lambda p: write_table(p / "set.csv", names="{}"),
    "table.gz": lambda p: packed(write_table(p / "set.csv")),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_layout_gives_the_same(tmp_path: Path, layout: str) -> None:
    source = LAYOUTS[layout](tmp_path)
    assert are_pictures(str(source))
    gallery = prepared(source)
    assert gallery.classes == ("0", "1")
    channels = 3 if "colours" in layout else 1
    assert gallery.shape == (channels, 8, 8)
    assert (len(gallery.train), len(gallery.valid)) == (36, 4)
    assert np.bincount(gallery.valid.labels).tolist() == [2, 2]
    everything = np.concatenate([gallery.train.rows, gallery.valid.rows])
    assert sorted(everything.tolist()) == list(range(40))
    found = {
        (gallery.classes[label], gallery.train.pixels[row, 0].tobytes())
        for split in (gallery.train, gallery.valid)
        for row, label in zip(split.rows, split.labels, strict=True)
    }
    wanted = GREY if "shares" not in layout else (GREY / 255 * 255).astype(np.uint8)
    assert found == {(n, p.tobytes()) for n, p in zip(LABELS, wanted, strict=True)}
    assert gallery.mean[0] == pytest.approx(0.5, abs=0.05)


def test_what_was_made_is_found_again_and_a_change_is_noticed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    first = prepared(folder)
    assert prepared(folder).fingerprint == first.fingerprint
    (folder / "0" / "000.png").unlink()
    assert prepared(folder).fingerprint != first.fingerprint


def test_given_splits_are_kept_and_repeats_are_said(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write_folder(tmp_path / "set" / split)
    gallery = prepared(tmp_path / "set")
    assert [len(s) for s in (gallery.train, gallery.valid, gallery.test)] == [40, 40, 40]
    assert "40 pictures of valid also stand in train: its score flatters" in gallery.notes
    with pytest.raises(UsageError, match="there is a test part already"):
        prepared(tmp_path / "set", test_fraction=0.1)


def test_brightness_is_measured_on_train_alone(tmp_path: Path) -> None:
    """What is scored would have a say in how it is shown."""
    write_folder(tmp_path / "set" / "train", GREY // 4)
    write_folder(tmp_path / "set" / "valid", 255 - GREY // 4)
    gallery = prepared(tmp_path / "set")
    shares = GREY // 4 / 255
    assert gallery.mean[0] == pytest.approx(shares.mean(), abs=1e-4)
    assert gallery.std[0] == pytest.approx(shares.std(), abs=1e-4)


def test_mnists_folder_has_its_test_part_apart(tmp_path: Path) -> None:
    write_idx(tmp_path / "set")
    write_idx(tmp_path / "set", "t10k")
    gallery = prepared(tmp_path / "set")
    assert len(gallery.test) == 40
    scored, _ = labelled_pictures(
        [str(tmp_path / "set")], ("0", "1"), (1, 8, 8), "", tmp_path, lambda *_: None
    )
    assert len(scored) == 40  # not the 80 that are there
    with pytest.raises(DataError, match="nothing to learn from, test alone"):
        prepared(tmp_path / "set" / "t10k-images-idx3-ubyte")


def test_a_test_part_is_held_out_when_asked(tmp_path: Path) -> None:
    gallery = prepared(write_folder(tmp_path / "set"), test_fraction=0.2, valid_fraction=0.1)
    assert [len(s) for s in (gallery.train, gallery.valid, gallery.test)] == [28, 4, 8]
    assert np.bincount(gallery.test.labels).tolist() == [4, 4]


def saved(image: Any, form: str = "PNG", **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    stream.seek(0)
    return stream


def flat(mode: str, colour: Any, side: int = 8) -> Any:
    return Image.new(mode, (side, side), colour)


ODD = {
    "16 bits": (
        lambda: saved(Image.fromarray(np.full((8, 8), 32896, np.uint16))),
        1,
        128,
        "16 bits",
    ),
    "CMYK": (lambda: saved(flat("CMYK", (0, 0, 0, 0)), "JPEG"), 3, 255, "CMYK"),
    "animated": (
        lambda: saved(
            flat("L", 7), "GIF", save_all=True, append_images=[flat("L", 200), flat("L", 9)]
        ),
        3,
        7,
        "first of several frames",
    ),
    "transparent": (lambda: saved(flat("RGBA", (0, 0, 0, 0))), 3, 255, "on white"),
    "transparent grey": (lambda: saved(flat("LA", (0, 0))), 1, 255, "on white"),
    "black and white": (lambda: saved(flat("1", 1)), 1, 255, ""),
    "palette": (lambda: saved(flat("RGB", (9, 9, 9)).quantize(4)), 3, 9, ""),
    "one pixel": (lambda: saved(flat("L", 40, 1)), 1, 40, ""),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_odd_pictures_are_read_and_what_was_done_is_said(kind: str) -> None:
    make, channels, value, remark = ODD[kind]
    image, done = read_image(make())
    assert image.shape[2] == channels
    assert abs(int(image[0, 0, 0]) - value) <= 1
    assert remark in " ".join(done)
    assert image_size(make()) == image.shape
    assert fitted(image, (3, 5, 7)).shape == (3, 5, 7)


def test_a_photograph_that_lies_on_its_side_is_stood_up() -> None:
    picture = Image.fromarray(np.arange(2 * 4, dtype=np.uint8).reshape(2, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(picture, "PNG", exif=exif)
    assert read_image(turned)[0].shape == (4, 2, 1)
    turned.seek(0)
    assert image_size(turned) == (4, 2, 1)


def test_a_bomb_is_refused_by_its_head() -> None:
    """Of 400 million pixels not one is decoded: the file has a few hundred bytes."""
    head = saved(flat("L", 0)).getvalue()
    bomb = head[:16] + struct.pack(">II", 20_000, 20_000) + head[24:]
    bomb = bomb[:29] + struct.pack(">I", zlib.crc32(bomb[12:29])) + bomb[33:]
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=f"more than the {MOST_PIXELS:,} pixels"):
            read(io.BytesIO(bomb))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "key"])
def test_a_large_picture_is_made_smaller_before_all(mode: str, monkeypatch: Any) -> None:
    """Of 100 million pixels, 300 KB of PNG, each step took a copy: 1.9 GB at the peak."""
    made = Image.new("L" if mode == "I;16" else "RGB" if mode == "key" else mode, (90, 60), 1)
    if mode == "I;16":
        made = Image.fromarray(np.full((60, 90), 40_000, np.uint16))
    options = {"transparency": (1, 0, 0)} if mode == "key" else {}
    stream = saved(made, "TIFF" if mode == "CMYK" else "PNG", **options)
    whole, said = read_image(stream)
    monkeypatch.setattr(images, "LARGE", 1000)
    stream.seek(0)
    small, also = read_image(stream, 15)
    assert (whole.shape[:2], small.shape[:2]) == ((60, 90), (20, 30))
    assert said == also
    assert abs(int(whole[0, 0, 0]) - int(small[0, 0, 0])) <= 1
    stream.seek(0)
    assert read_image(stream, 64)[0].shape == whole.shape  # it is not larger than is needed


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"hello", saved(flat("L", 1)).getvalue()[:50]]
)
def test_damaged_pictures_are_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(DataError, match="not a readable picture"):
        read_image(io.BytesIO(data))


def test_unreadable_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set")
    (folder / "0" / "broken.png").write_bytes(b"\x89PNG")
    (folder / "lost.png").write_bytes((folder / "0" / "000.png").read_bytes())
    (folder / "0" / "notes.txt").write_text("hello")
    gallery = prepared(folder)
    assert len(gallery.train) + len(gallery.valid) == 40
    said = "\n".join(gallery.notes)
    assert "2 classes: '0' (20), '1' (20)" in said
    assert "skipped, not a readable picture" in said
    assert "0/broken.png" in said
    assert "1 pictures in no class's folder skipped" in said
    assert "1 files that are no pictures skipped" in said


def test_pictures_of_many_sizes_come_to_one(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(30):
        size = (200, 200) if i else (300, 20)
        picture = generator.integers(0, 256, (*size, 3)).astype(np.uint8)
        path = tmp_path / "set" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    gallery = prepared(tmp_path / "set")
    assert gallery.shape == (3, 64, 64)
    assert "sides of 20 to 300 pixels are brought to 64 by 64" in " ".join(gallery.notes)
    assert prepared(tmp_path / "set", image_size=20).shape == (3, 20, 20)


def no_labels(p: Path) -> Path:
    (write_idx(p / "set") / "train-labels-idx1-ubyte").unlink()
    return p / "set"


def false_count(p: Path) -> Path:
    path = write_idx(p / "set") / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    return path


def fewer_labels(p: Path) -> Path:
    path = write_idx(p / "set") / "train-labels-idx1-ubyte"
    path.write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 39) + bytes(39))
    return p / "set"


def cut_gzip(p: Path) -> Path:
    path = write_idx(p / "set", packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-300])
    return path


def not_idx(p: Path) -> Path:
    path = write_idx(p / "set") / "train-images-idx3-ubyte"
    path.write_bytes(b"hello, this is text")
    return path


def huge_idx(p: Path) -> Path:
    path = write_idx(p / "set") / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**15, 2**15))
    return path


def ragged(p: Path) -> Path:
    path = write_table(p / "set.csv")
    path.write_text(path.read_text() + "0,1,2\n")
    return path


def no_square(p: Path) -> Path:
    path = p / "set.csv"
    path.write_text("label," + ",".join(f"p{i}" for i in range(20)) + "\n" + "1," + "0," * 19 + "0")
    return path


def pickled(p: Path) -> Path:
    return write_npz(p / "set.npz", x=np.array([{"a": 1}], dtype=object), y=np.array([1]))


def text_as_zip(p: Path) -> Path:
    (p / "set.zip").write_text("hello")
    return p / "set.zip"


def one_class(p: Path) -> Path:
    return write_folder(p / "set", GREY, ["0"] * 40)


def empty(p: Path) -> Path:
    (p / "set").mkdir()
    return p / "set"


WRONG = {
    "missing": (lambda p: p / "sett", "no such file or folder"),
    "empty folder": (empty, "no pictures in it"),
    "text": (lambda p: (p / "a.txt").write_text("x") and p / "a.txt", "not pictures with classes"),
    "no labels": (no_labels, "its labels are missing"),
    "labels alone": (
        lambda p: write_idx(p / "set") / "train-labels-idx1-ubyte",
        "labels without pictures",
    ),
    "false count": (false_count, "its head says 2,560 bytes (40 x 8 x 8), and there are 2,555"),
    "fewer labels": (fewer_labels, "40 pictures, and 39 labels"),
    "cut gzip": (cut_gzip, "cannot be read"),
    "not idx": (not_idx, "not an IDX file of bytes"),
    "huge idx": (huge_idx, "nothing that can be read"),
    "ragged": (ragged, "set.csv:42: 3 fields where the header has 65"),
    "no square": (no_square, "20 columns of pixels are no square picture"),
    "pickled": (pickled, "pickled objects, which could run code"),
    "no arrays": (lambda p: write_npz(p / "set.npz", a=GREY), "no pictures with labels; it has a"),
    "counts": (lambda p: write_npz(p / "set.npz", x=GREY, y=LABELS[:-1]), "for 40 pictures"),
    "flat": (
        lambda p: write_npz(p / "set.npz", x=GREY[:, 0, :7], y=LABELS),
        "not that of pictures",
    ),
    "zip": (text_as_zip, "not a readable zip"),
    "one class": (one_class, "nothing to tell apart: 1 class, '0'"),
    "no class": (lambda p: one_class(p) / "0", "no pictures in folders of classes"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_wrong_sources_are_refused_in_words(tmp_path: Path, kind: str) -> None:
    make, words = WRONG[kind]
    source = make(tmp_path)
    with pytest.raises(DataError) as caught:
        prepared(source)
    assert words in str(caught.value.what)
    assert caught.value.hint


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    folder = write_folder(tmp_path / "set", GREY[::-1])  # not in the cache yet
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError) as caught:
        prepared(folder)
    assert "ensue[pictures]" in caught.value.hint
    assert prepared(write_npz(tmp_path / "set.npz")).shape == (1, 8, 8)  # needs no Pillow


@pytest.mark.parametrize(
    ("name", "value"),
    [("valid_fraction", 1.0), ("test_fraction", 0.95), ("rotate", 200.0), ("image_size", -1)],
)
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        PicturesConfig(sources=("a",), **{name: value})


def test_text_is_not_taken_for_pictures(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("text,label\nfine,1\nbad,0\n")
    (tmp_path / "book.txt").write_text("hello")
    for name in ("reviews.csv", "book.txt", "nothing"):
        assert not are_pictures(str(tmp_path / name))
    assert not are_pictures(str(tmp_path))


def test_a_folder_of_nothing_but_pictures_is_one_of_pictures(tmp_path: Path) -> None:
    """With one class, or none, "no readable text" was the answer."""
    folder = write_folder(tmp_path / "set", GREY, ["0"] * 40)
    assert are_pictures(str(folder))
    assert are_pictures(str(folder / "0"))
    (folder / "0" / "a.txt").write_text("hello")
    assert not are_pictures(str(folder))


def test_a_book_with_pictures_is_no_gallery(tmp_path: Path) -> None:
    write_folder(tmp_path / "book" / "figures", GREY[:4], LABELS[:4])
    for i in range(9):
        (tmp_path / "book" / f"chapter{i}.txt").write_text("hello")
    assert not are_pictures(str(tmp_path / "book"))
    assert are_pictures(str(tmp_path / "book" / "figures"))


def test_a_table_of_other_numbers_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "measured.csv"
    path.write_text(
        "label," + ",".join("abcdefghijklmnopqr") + "\n" + ("1," + "7," * 17 + "7\n") * 3
    )
    assert not are_pictures(str(path))
