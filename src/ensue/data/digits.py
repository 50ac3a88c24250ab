"""Handwritten digits of 8 by 8 pixels: labelled pictures that need no download.

They come with scikit-learn: 1,797 digits of 43 people, the test part of the UCI's "Optical
Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998). Pictures of one person stand together
there, so blocks are held out and not single pictures: most of those who wrote what is scored wrote
nothing of what is learnt from.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ensue.errors import MissingExtraError

VALID, TEST = 180, 360
"""Pictures of these splits; the last ones are test, those before them valid."""
BRIGHTEST = 16
"""Of scikit-learn's numbers."""


def write(folder: Path) -> None:
    """Write ``digits.npz``, with all three splits.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        datasets: Any = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise MissingExtraError("scikit-learn", "floors") from None
    found = datasets.load_digits()
    pixels = np.round(found.images * (255 / BRIGHTEST)).astype(np.uint8)
    labels = found.target.astype(np.uint8)
    first = len(pixels) - VALID - TEST
    arrays: dict[str, Any] = {}
    for split, rows in {
        "train": slice(None, first),
        "valid": slice(first, first + VALID),
        "test": slice(first + VALID, None),
    }.items():
        arrays |= {f"x_{split}": pixels[rows], f"y_{split}": labels[rows]}
    np.savez_compressed(folder / "digits.npz", **arrays)
