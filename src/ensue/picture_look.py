"""Look at a picture classifier while it reads: its filters, their maps, what speaks for an answer.

seen = ensue.look_at_picture("runs/pets", "cat.jpg")
seen.answer.label
seen.save("pictures")       # a page, and each picture as SVG and PNG

In a notebook the last line of a cell shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ensue import __version__
from ensue.classification import load_classifier
from ensue.classifier import Answering, Classified, Classifier, PictureClassifier
from ensue.nn.capture import capture
from ensue.runs import Run
from ensue.views.classes import look_pictures
from ensue.views.looks import look_page, write_pictures
from ensue.views.page import framed
from ensue.views.pictures import Picture
from ensue.views.text import place

TOP = 5
"""Classes that are named."""
COPIES, NOISE = 32, 0.25
"""Copies of the picture over which slopes are averaged, and their noise, in standard deviations of
the training pictures: of one copy the slopes of a CNN look like its strides."""


@dataclass(frozen=True, kw_only=True, repr=False)
class PictureLook:
    """What was seen of a classifier while it read a picture."""

    title: str
    """Which model."""
    answer: Classified
    """What it said."""
    shown: Float[np.ndarray, "H W"]
    """What it was shown, mean over channels; 0: the mean brightness of the training pictures."""
    speaks: Float[np.ndarray, "H W"]
    """What speaks for the answer, at each place: slope of its logit, mean over copies with a little
    noise, times the picture, summed over channels. Reference: Shrikumar et al. 2016,
    arXiv:1605.01713; the noise: Smilkov et al. 2017, arXiv:1706.03825."""
    filters: Float[np.ndarray, "F K L"]
    """Weights of the first layer as small pictures, mean over channels."""
    maps: Mapping[str, Float[np.ndarray, "C I J"]]
    """What each convolution found, by the name of its layer."""

    @cached_property
    def pictures(self) -> list[Picture]:
        """Everything drawn."""
        return look_pictures(self.shown, self.speaks, self.answer.top, self.filters, self.maps)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader should know of the picture."""
        return self.answer.notices

    def to_json(self) -> dict[str, Any]:
        """Give the answer and what speaks for it as plain values."""
        return {
            "title": self.title,
            "source": self.answer.source,
            "top": [{"label": label, "confidence": c} for label, c in self.answer.top],
            "speaks": self.speaks.tolist(),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write look.html, and each picture as SVG and, with matplotlib, as PNG."""
        return write_pictures(Path(folder), "look.html", self._page(), self.pictures)

    def _page(self) -> str:
        answer = self.answer
        found = {
            "picture": answer.source,
            "answer": answer.label,
            "confidence": f"{answer.confidence:.1%}",
        }
        return look_page(self.title, (), self.notices, found, self.pictures, __version__)

    def _repr_html_(self) -> str:
        return framed(self._page(), "ensue inspect")

    def __repr__(self) -> str:
        return f"PictureLook({self.title!r}, {self.answer.source!r}: {self.answer})"


def look_at_picture(run: str | Path | Run | Classifier, picture: str | Path) -> PictureLook:
    """Let a run that names what pictures show read one, and look inside.

    Args:
        run: Its folder, empty: the newest below ``runs/``; or what `ensue.load_classifier` gave.
        picture: The file.

    Raises:
        RunError: The run is missing, unfinished or damaged.
        UsageError: It was trained for another task.
        DataError: The picture cannot be read.
    """
    classifier = run if isinstance(run, Classifier) else load_classifier(run, "pictures")
    assert isinstance(classifier, PictureClassifier)
    model, showing = classifier.model, classifier.showing
    answer = classifier.classify(picture, Answering(top_k=min(TOP, len(showing.classes))))
    x = showing.shown(classifier.pixels(picture)[None])
    with torch.no_grad(), capture(model) as found:
        model(x)
    noise = torch.randn(COPIES, *x.shape[1:], generator=torch.Generator().manual_seed(0))
    copies = (x + NOISE * noise).requires_grad_()
    logits = model(copies)[:, showing.classes.index(answer.top[0][0])]
    (slopes,) = torch.autograd.grad(logits.sum(), copies)
    first = next(model.parameters()).detach()
    channels, height, width = showing.shape
    side = getattr(getattr(model, "first", None), "kernel_size", 0)
    filters = first.unflatten(1, (channels, side, side) if side else (channels, height, width))
    card = classifier.card
    return PictureLook(
        title=f"{card.get('model', 'A model')} ({place(card.get('run', 'in memory'))})",
        answer=answer,
        shown=x[0].mean(dim=0).numpy(),
        speaks=(slopes.mean(dim=0) * x[0]).sum(dim=0).numpy(),
        filters=filters.mean(dim=1).numpy(),
        maps={
            name.partition("/")[0]: values[0][0].float().numpy()
            for name, values in found.items()
            if name.endswith("/maps")
        },
    )
