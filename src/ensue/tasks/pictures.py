"""Pictures: name the class of each.

In training each picture is moved, turned, scaled and bent a little, anew at every reading: what it
shows stays the same, and a network cannot learn it by heart.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.order import RowOrder, random_shares
from ensue.data.pictures import Gallery, PicturesConfig, PictureSplit, prepare_pictures
from ensue.data.spool import Progress
from ensue.decoding.engine import evaluating
from ensue.errors import UsageError
from ensue.files import write_json
from ensue.tasks.labels import CLASSES, class_loss, class_score, class_weights, even_sample
from ensue.tasks.measures import ACCURACY, LOSS
from ensue.tasks.task import Loss, RowTask, Score, Shape, refuse_unused

EVAL_ROWS = 256
"""Pictures in one batch of evaluation."""
TOKENS_PER_ROW = 16
"""An update that would have so many tokens of text has one picture for them."""


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as a model reads them, and their classes."""

    pictures: Float[Tensor, "B C H W"]
    labels: Int[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class Showing:
    """How pictures are shown to a model: what a run folder holds of it."""

    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    shape: tuple[int, ...]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """Brightness of train, by channel."""
    std: tuple[float, ...]
    """Its standard deviation."""

    def shown(self, pixels: NDArray[np.uint8]) -> Float[Tensor, "B C H W"]:
        """Bring brightness to mean 0 and deviation 1 of the training pictures.

        Args:
            pixels: (B, C, H, W).
        """
        mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.mean, self.std))
        return torch.from_numpy((pixels.astype(np.float32) / 255 - mean) / std)


class PictureClasses(RowTask):
    """Pictures in a seeded order, each changed a little; and how many are told right.

    Args:
        train: What is learnt from.
        valid: What is chosen on.
        showing: How they are shown.
        config: Of the run: the changes, smoothing, weights, batch.
        device: Where batches go.
    """

    def __init__(
        self,
        train: PictureSplit,
        valid: PictureSplit,
        showing: Showing,
        config: Any,
        device: torch.device,
    ) -> None:
        super().__init__(config.train.global_batch_size, config.train.micro_batch_size)
        self.train, self.valid, self.showing = train, valid, showing
        self.changes: PicturesConfig = config.data
        self.seed, self.device = config.seed, device
        self.order = RowOrder(len(train), config.seed)
        self.label_smoothing = config.train.label_smoothing
        weights = class_weights(train.labels, len(showing.classes), config.train.class_weights)
        self.weights = None if weights is None else weights.to(device)
        self.kept_by = ACCURACY if config.train.keep_by == "accuracy" else LOSS

    def batch(self, first: int, rows: int) -> PictureBatch:
        """Give rows `first` to `first + rows` of the endless order."""
        places = self.order.rows(first, rows)
        pixels = self.train.pixels[self.train.rows[places]]
        pictures = changed(self.showing.shown(pixels), self.changes, self.seed, first)
        labels = torch.from_numpy(self.train.labels[places])
        return PictureBatch(pictures.to(self.device), labels.to(self.device))

    def count(self, batch: PictureBatch) -> int:
        """One class for each picture."""
        return len(batch.labels)

    def loss(self, model: Any, batch: PictureBatch) -> Loss:
        """Sum the negative log-likelihood of the classes."""
        logits = model(batch.pictures)
        return class_loss(logits, batch.labels, self.label_smoothing, self.weights)

    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the validation split, or an even sample of it, as it is: nothing is changed."""
        places = even_sample(len(self.valid), max_targets)
        return class_score(
            picture_logits(model, self.valid, self.showing, places, self.device),
            self.valid.labels[places],
            split="valid",
            fingerprint=self.valid.fingerprint,
            sampled=len(places) < len(self.valid),
            kept_by=self.kept_by,
        )

    def describe(self, update: int) -> list[str]:
        """Name the classes of the pictures of an update, and draw each in characters."""
        batch = self.batch(update * self.rows, min(self.rows, 4))
        names = [self.showing.classes[label] for label in batch.labels.tolist()]
        return [f"{n}\n{_drawn(p)}" for n, p in zip(names, batch.pictures, strict=True)]


SHADES = " .:-=+*#%@"


def _drawn(picture: Float[Tensor, "C H W"]) -> str:
    """Draw a picture in characters, 28 to a line at most."""
    grey = picture.mean(dim=0)[None, None]
    height, width = grey.shape[2:]
    scale = min(1.0, 28 / width)
    size = (max(1, round(height * scale / 2)), max(1, round(width * scale)))
    small = F.interpolate(grey, size=size, mode="area")[0, 0]
    low, high = float(small.min()), float(small.max())
    steps = ((small - low) / max(high - low, 1e-6) * (len(SHADES) - 1)).round().int().tolist()
    return "\n".join("".join(SHADES[s] for s in row).rstrip() for row in steps)


@torch.inference_mode()
def picture_logits(
    model: Any,
    split: PictureSplit,
    showing: Showing,
    places: NDArray[np.int64],
    device: torch.device,
) -> Float[Tensor, "B C"]:
    """Let a model read the pictures of a split at these places."""
    found = []
    with evaluating(model):
        for first in range(0, len(places), EVAL_ROWS):
            pixels = split.pixels[split.rows[places[first : first + EVAL_ROWS]]]
            found.append(model(showing.shown(pixels).to(device)).float().cpu())
    return torch.cat(found)


def changed(
    pictures: Float[Tensor, "B C H W"], how: PicturesConfig, seed: int, first: int
) -> Float[Tensor, "B C H W"]:
    """Move, turn, scale, bend, mirror and blank pictures, each by random numbers of its own.

    The numbers are a pure function of the seed and of the picture's place in the endless order: a
    resumed run draws the same, and so does any cut into micro-batches.

    Args:
        pictures: As the model reads them; grey of value 0 is their mean brightness.
        how: How much of each change.
        seed: Of the run.
        first: Place of the first picture in the endless order.

    Reference: bending: Simard et al. 2003, "Best practices for convolutional neural networks";
    blanking: DeVries & Taylor 2017, arXiv:1708.04552.
    """
    rows, _, height, width = pictures.shape
    drawn = torch.from_numpy(random_shares(seed, first, rows, 8 + 2 * BENDS**2))
    signed = drawn * 2 - 1
    if how.shift or how.rotate or how.zoom or how.elastic or how.flip:
        angle = signed[:, 0] * math.radians(how.rotate)
        scale = (1 + signed[:, 1] * how.zoom).reciprocal()
        cos, sin = angle.cos() * scale, angle.sin() * scale
        move = signed[:, 2:4] * (2 * how.shift)
        mirror = torch.where(drawn[:, 4] < 0.5, -1.0, 1.0) if how.flip else torch.ones(rows)
        ratio = height / width
        theta = torch.stack(
            [
                torch.stack([mirror * cos, -sin * ratio, move[:, 0]], dim=1),
                torch.stack([mirror * sin / ratio, cos, move[:, 1]], dim=1),
            ],
            dim=1,
        )
        grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
        if how.elastic:
            coarse = signed[:, 8:].view(rows, 2, BENDS, BENDS) * (2 * how.elastic)
            bent = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
            grid = grid + bent.permute(0, 2, 3, 1)
        pictures = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
    if how.cutout:
        pictures = _blanked(pictures, drawn[:, 5:7], how.cutout)
    return pictures


BENDS = 5
"""Bending is drawn on a grid of so many points a side, and smooth between them."""


def _blanked(
    pictures: Float[Tensor, "B C H W"], places: Float[Tensor, "B 2"], share: float
) -> Float[Tensor, "B C H W"]:
    """Put the mean brightness into a square, its middle anywhere."""
    height, width = pictures.shape[2:]
    half = share * min(height, width) / 2
    y = (torch.arange(height) - places[:, :1] * height).abs() < half
    x = (torch.arange(width) - places[:, 1:] * width).abs() < half
    return pictures.masked_fill((y[:, :, None] & x[:, None, :])[:, None], 0.0)


class Pictures:
    """Decoded pictures: what picture classifiers are trained on; see `ensue.tasks.task.Material`.

    Args:
        gallery: The pictures.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.fingerprint, self.notes = gallery.fingerprint, gallery.notes
        self.valid_text = gallery.valid.fingerprint
        self.train_targets, self.valid_targets = len(gallery.train), len(gallery.valid)
        self.showing = Showing(
            classes=gallery.classes, shape=gallery.shape, mean=gallery.mean, std=gallery.std
        )

    def filled(self, model: Any) -> Any:
        """Give a config the classes and the shape of a picture."""
        channels, height, width = self.gallery.shape
        found = {"classes": len(self.gallery.classes)}
        found |= {"channels": channels, "height": height, "width": width}
        for name, value in found.items():
            asked = getattr(model, name)
            if asked not in (0, value):
                raise UsageError(
                    f"model.{name} is {asked}, and the data have {value}",
                    f"Leave out --model.{name}.",
                )
        return replace(model, **found)

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its rows: a multiple of the processes."""
        refuse_unused(train, ("batch_tokens", "word_dropout"), "pictures")
        rows = train.global_batch_size
        if not rows:
            rows = min(tokens // TOKENS_PER_ROW, max(8, self.train_targets // 8))
            rows = -(-rows // world) * world
        if rows % world:
            raise UsageError(
                f"train.global_batch_size {rows} is not a multiple of the {world} processes"
            )
        micro = min(train.micro_batch_size or rows // world, rows // world)
        return replace(train, global_batch_size=rows, micro_batch_size=micro)

    def targets_per_update(self, config: Any) -> float:
        """One class for each picture."""
        return float(config.train.global_batch_size)

    def shapes(self, config: Any) -> list[Shape]:
        """All updates are alike."""
        return [Shape(config.train.global_batch_size, 1)]

    def task(self, config: Any, device: torch.device) -> PictureClasses:
        """Make the task of a run whose shape is known."""
        gallery = self.gallery
        return PictureClasses(gallery.train, gallery.valid, self.showing, config, device)

    def save(self, folder: Path, model: Any) -> None:
        """Write the names of the classes, and how pictures are shown, into a run folder."""
        write_json(folder / CLASSES, vars(self.showing))

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        gallery = self.gallery
        channels, height, width = gallery.shape
        counts = np.bincount(gallery.train.labels, minlength=len(gallery.classes))
        shown = [f"{n} ({c:,})" for n, c in zip(gallery.classes, counts, strict=True)]
        more = f" and {len(shown) - 12:,} more" if len(shown) > 12 else ""
        test = f", {len(gallery.test):,} to score at the end" if gallery.test else ""
        return [
            (
                "pictures",
                f"{len(gallery.train):,} to learn from, {len(gallery.valid):,} held out{test};"
                f" {width} by {height} pixels, {'grey' if channels == 1 else 'in colours'}",
            ),
            ("classes", ", ".join(shown[:12]) + more),
        ]


def prepare(config: PicturesConfig, on_progress: Progress) -> Pictures:
    """Read and decode pictures, or find what was made of them before.

    Raises:
        DataError: As of `ensue.data.pictures.prepare_pictures`.
    """
    return Pictures(prepare_pictures(config, on_progress))


def frozen(config: PicturesConfig, folder: Path) -> PicturesConfig:
    """Give the config of a run that was begun: nothing was learnt from the data beforehand."""
    return config
