"""One picture: decoded, whatever its mode, and brought to a size. Pillow reads the files."""

import importlib
import math
import warnings
from collections.abc import Sequence
from io import BufferedIOBase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.errors import DataError, MissingExtraError

MOST_PIXELS = 100_000_000
"""Of one picture: 20,000 by 20,000 would take 1.2 GB before anybody could look at it."""

LARGE = 16_000_000
"""Pixels of a picture that is made smaller before anything else is done to it: each step would
take a copy of it, and of 100 million pixels 1.5 to 1.9 GB."""

Image = NDArray[np.uint8]
"""(H, W, C): grey (C = 1) or red, green, blue, from 0 to 255."""


def image_size(stream: BufferedIOBase) -> tuple[int, int, int]:
    """Read height, width and channels off the head of a file.

    Raises:
        DataError: It is no picture, or has too many pixels.
        MissingExtraError: Pillow is not installed.
    """
    with _opened(stream) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side
            width, height = height, width
        return height, width, 1 if _is_grey(image) else 3


def read_image(stream: BufferedIOBase, longest: int = 0) -> tuple[Image, list[str]]:
    """Decode a picture.

    Args:
        stream: The file.
        longest: Pixels that are needed of a side: a JPEG is decoded no larger than twice that, and
            a large picture is made smaller, to no less than that.

    Returns:
        The picture, and what had to be done to it.

    Raises:
        DataError: It is damaged, no picture, or has too many pixels.
        MissingExtraError: Pillow is not installed.
    """
    done: list[str] = []
    with _opened(stream) as image:
        if longest:
            image.draft(None, (2 * longest, 2 * longest))
        if getattr(image, "n_frames", 1) > 1:
            done.append("the first of several frames taken")
        plain = _plain(_smaller(image, longest), done)
        pixels = np.asarray(plain, dtype=np.uint8)
    return (pixels[..., None] if pixels.ndim == 2 else pixels), done


class _Opened:
    """Pillow's picture, whose plug-ins raise almost anything at damaged files: one error here."""

    def __init__(self, stream: BufferedIOBase) -> None:
        self.stream, self.quiet = stream, warnings.catch_warnings()

    def __enter__(self) -> Any:
        pillow = _pillow("PIL.Image")
        self.quiet.__enter__()
        warnings.simplefilter("ignore")  # of Pillow, about what is looked at here
        try:
            self.image = pillow.open(self.stream)
            if math.prod(self.image.size) > MOST_PIXELS:
                width, height = self.image.size
                raise _too_large(f": {width:,} by {height:,}")
        except BaseException as error:
            self.__exit__(type(error), error)
            raise
        return self.image

    def __exit__(self, kind: Any, error: BaseException | None, *_: object) -> None:
        self.quiet.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, DataError):
            said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
            if type(error).__name__ == "DecompressionBombError":  # Pillow's own limit, 179 million
                raise _too_large("") from None
            known = type(error).__name__ != "UnidentifiedImageError"
            why = said if known else "of no known format"
            raise DataError(f"not a readable picture: {why}", "Fetch or make it again.") from None


def _too_large(how: str) -> DataError:
    return DataError(
        f"more than the {MOST_PIXELS:,} pixels that are read{how}", "Make it smaller first."
    )


_opened = _Opened
_ORIENTATION = 0x0112  # of EXIF
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


_UNMIXED = {"1": "L", "P": "RGB", "PA": "RGBA"}  # their neighbours have no mean


def _is_grey(image: Any) -> bool:
    return image.mode in ("1", "L", "LA", "La", *_DEEP)


def _smaller(image: Any, longest: int) -> Any:
    """Bring a large picture to twice the pixels that are needed of a side, by whole steps."""
    step = max(image.size) // (2 * longest) if longest else 0
    if math.prod(image.size) <= LARGE or step < 2:
        return image
    if image.mode.startswith("I;16"):
        image = image.convert("I")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in _UNMIXED:
        image = image.convert(_UNMIXED[image.mode])
    return image.reduce(step)


def _plain(image: Any, done: list[str]) -> Any:
    """Give a picture upright, opaque, in 8 bits, grey or in colours."""
    pillow, operations = _pillow("PIL.Image"), _pillow("PIL.ImageOps")
    if image.mode in _DEEP:
        done.append("16 bits a pixel or more brought to 8")
        return pillow.fromarray(_in_8_bits(np.asarray(image)))
    image = operations.exif_transpose(image)
    grey = _is_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        done.append("transparent pixels shown on white")
        above = image.convert("RGBA")
        image = pillow.new("RGBA", above.size, "white")
        image.alpha_composite(above)
    elif image.mode == "CMYK":
        done.append("CMYK turned into red, green, blue")
    return image.convert("L" if grey else "RGB")


def _in_8_bits(deep: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale by what the numbers seem to be: shares of 1, 8 bits, 16 bits, or their own largest."""
    top = float(deep.max(initial=0))
    most = next((m for m in (1.0, 255.0, 65535.0) if top <= m), top)
    if deep.dtype.kind != "f" and most == 1.0:
        most = 255.0
    return np.clip(np.asarray(deep, dtype=np.float64) * (255 / most), 0, 255).astype(np.uint8)


def fitted(image: Image, shape: Sequence[int]) -> NDArray[np.uint8]:
    """Bring a picture to a shape: scaled to fit in whole, its edges continued to fill what is left.

    Args:
        image: The picture.
        shape: Channels, height, width.

    Returns:
        (C, H, W).
    """
    channels, height, width = shape
    if image.shape[2] == 3 and channels == 1:
        image = (image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]  # BT.601
    elif image.shape[2] == 1 and channels == 3:
        image = np.repeat(image, 3, axis=2)
    if image.shape[:2] != (height, width):
        scale = min(height / image.shape[0], width / image.shape[1])
        inside = [max(1, round(side * scale)) for side in image.shape[:2]]
        image = _scaled(image, min(inside[0], height), min(inside[1], width))
        spare = height - image.shape[0], width - image.shape[1]
        room = [(side // 2, side - side // 2) for side in spare]
        image = np.pad(image, (*room, (0, 0)), mode="edge")
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _scaled(image: Image, height: int, width: int) -> Image:
    pillow = _pillow("PIL.Image")
    flat = image[..., 0] if image.shape[2] == 1 else image
    scaled = pillow.fromarray(flat).resize((width, height), pillow.Resampling.BILINEAR)
    pixels = np.asarray(scaled, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pillow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError("pillow", "pictures") from None
