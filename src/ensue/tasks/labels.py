"""Classification: name the class of a picture or of a text.

A classifier gives a logit for each class. How sure it may be is settled at the end: one number, the
temperature, that the logits are divided by, is fitted on the validation split (Guo et al. 2017,
arXiv:1706.04599), so that of what is said with 90 % about 90 % is right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.labels import UNKNOWN
from ensue.tasks.measures import ACCURACY, CALIBRATION, LOSS, MACRO_F1, TEMPERATURE, Measure
from ensue.tasks.task import Loss, Score

CLASSES = "classes.json"
"""In a run folder: the names of the classes, and how what is classified is shown to the model."""
BINS = 15
"""Of the calibration error, with equally many examples each."""


def class_loss(
    logits: Float[Tensor, "B C"],
    labels: Int[Tensor, " B"],
    label_smoothing: float = 0.0,
    weights: Float[Tensor, " C"] | None = None,
) -> Loss:
    """Sum the negative log-likelihood of the labels.

    Args:
        logits: Of each class.
        labels: The right ones.
        label_smoothing: Share of the probability that is spread over all classes.
        weights: How much an example of each class counts; None: all alike.
    """
    total = F.cross_entropy(
        logits.float(), labels, weight=weights, reduction="sum", label_smoothing=label_smoothing
    )
    return Loss(total, len(labels))


def class_weights(labels: NDArray[np.int64], classes: int, power: float) -> Tensor | None:
    """Weigh classes by their counts to the power of ``-power``, 1 on the average example.

    Args:
        labels: Of the training rows.
        classes: How many there are.
        power: 0: all examples count alike; 1: all classes do.
    """
    if not power:
        return None
    counts = np.maximum(np.bincount(labels, minlength=classes), 1)
    weights = counts**-power
    return torch.tensor(weights * len(labels) / (weights * counts).sum(), dtype=torch.float32)


def fitted_temperature(logits: Float[Tensor, "B C"], labels: Int[Tensor, " B"]) -> float:
    """Find what to divide logits by for the labels to be likeliest.

    As if one label in n + 2 were another: were all of them right, the likeliest would be certainty
    (Platt 1999, section 2.2). The loss is convex in the inverse of the temperature: halving an
    interval finds its least.
    """
    logits, classes = logits.double(), logits.shape[1]
    doubt = 1 / (len(labels) + 2)
    right = logits.gather(1, labels[:, None])[:, 0]
    others = (logits.sum(dim=1) - right) / max(1, classes - 1)
    right = (1 - doubt) * right + doubt * others
    low, high = math.log(1 / 20), math.log(20.0)  # of the inverse
    for _ in range(40):
        middle = (low + high) / 2
        share = torch.softmax(logits * math.exp(middle), dim=1)
        slope = float(((share * logits).sum(dim=1) - right).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Give by how much confidence and accuracy differ, in bins of equally many examples.

    Reference: Naeini et al. 2015; equal-mass bins: Nguyen & O'Connor 2015, arXiv:1508.05154.
    """
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(BINS, len(order)))
    gaps = [len(b) * abs(confidence[b].mean() - right[b].mean()) for b in bins]
    return float(sum(gaps) / len(order))


def f1_scores(
    labels: NDArray[np.int64], said: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Give F1 of each class; a class that neither occurs nor is said has none (nan)."""
    hits = np.bincount(said[said == labels], minlength=classes)
    all_of = np.bincount(labels[labels != UNKNOWN], minlength=classes)
    total = all_of + np.bincount(said, minlength=classes)
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = 2 * hits / np.where(total, total, np.nan)
    return scores


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How well one class is told."""

    name: str
    """Which."""
    examples: int
    """How many there are."""
    precision: float
    """Share of what was said to be it that is."""
    recall: float
    """Share of it that was found."""
    f1: float
    """Their harmonic mean; nan where it neither occurs nor was said."""


def class_scores(
    labels: NDArray[np.int64], said: NDArray[np.int64], names: Sequence[str]
) -> tuple[ClassScore, ...]:
    """Score each class apart."""
    matrix, f1 = np.array(confusion(labels, said, len(names))), f1_scores(labels, said, len(names))
    wrongly = np.bincount(said[labels == UNKNOWN], minlength=len(names))
    found = []
    for i, name in enumerate(names):
        of, called = int(matrix[i].sum()), int(matrix[:, i].sum() + wrongly[i])
        found.append(
            ClassScore(
                name=name,
                examples=of,
                precision=float(matrix[i, i] / called) if called else math.nan,
                recall=float(matrix[i, i] / of) if of else math.nan,
                f1=float(f1[i]),
            )
        )
    return tuple(found)


def confusion(
    labels: NDArray[np.int64], said: NDArray[np.int64], classes: int
) -> tuple[tuple[int, ...], ...]:
    """Count how often each class (row) was taken for each (column)."""
    known = labels != UNKNOWN
    pairs = np.bincount(labels[known] * classes + said[known], minlength=classes**2)
    return tuple(map(tuple, pairs.reshape(classes, classes).tolist()))


def class_score(
    logits: Float[Tensor, "B C"],
    labels: NDArray[np.int64],
    *,
    split: str,
    fingerprint: str,
    sampled: bool = False,
    temperature: float = 0.0,
    kept_by: Measure = LOSS,
) -> Score:
    """Score logits by all that is measured of labels.

    Args:
        logits: Of each class.
        labels: The right ones; a label that train lacks counts as a mistake, but has no loss.
        split: Which split, by name.
        fingerprint: Of what is scored.
        sampled: Whether it is only a part.
        temperature: What the logits are divided by; 0: fitted here.
        kept_by: By which measure one score is better than another.
    """
    known = torch.from_numpy(np.flatnonzero(labels != UNKNOWN))
    truth = torch.from_numpy(labels)[known]
    temperature = temperature or fitted_temperature(logits[known], truth)
    loss = float(F.cross_entropy(logits[known].float(), truth)) if len(truth) else math.nan
    shares = torch.softmax(logits.double() / temperature, dim=1).numpy()
    said = shares.argmax(axis=1)
    right = said == labels
    return Score(
        split=split,
        loss=loss,
        measures={
            ACCURACY.key: 100 * float(right.mean()),
            MACRO_F1.key: 100 * float(np.nanmean(f1_scores(labels, said, logits.shape[1]))),
            CALIBRATION.key: 100 * calibration_error(shares.max(axis=1), right),
            TEMPERATURE.key: temperature,
        },
        targets=len(labels),
        fingerprint=fingerprint,
        sampled=sampled,
        kept_by=kept_by,
    )


def even_sample(rows: int, most: int) -> NDArray[np.int64]:
    """Give the places of an evenly spread sample; 0: all."""
    if not 0 < most < rows:
        return np.arange(rows)
    return np.linspace(0, rows - 1, most).astype(np.int64)
