"""The floor under every classifier: the commonest class, and a linear model, in seconds.

Texts become counts of words (1, 2 in a row) and of characters (2 to 5 in a row), each weighed by
how few texts have it (TF-IDF), and a linear support vector machine tells them apart; pictures are
their pixels, told apart by logistic regression. Both are scikit-learn's.

Reference: Wang & Manning 2012, "Baselines and bigrams"; Joachims 1998.
"""

import importlib
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.labelled import TextSplit
from ensue.data.pictures import PictureSplit
from ensue.tasks.labels import even_sample, f1_scores

MAX_TEXTS = 50_000
"""Texts that are learnt from: an even sample of more."""
MAX_PICTURES = 10_000
"""Pictures that are learnt from: an even sample of more."""
COSTS = (0.1, 0.3, 1.0, 3.0)
"""Of a mistake in training, tried by three-fold cross-validation."""
Split = TextSplit | PictureSplit


@dataclass(frozen=True, kw_only=True)
class LinearFloor:
    """What needs no network achieves."""

    name: str
    """What it is."""
    accuracy: float
    """Per cent right."""
    macro_f1: float
    """Of each class F1 in per cent, all classes counting alike."""
    seconds: float
    """What learning and scoring took."""
    note: str
    """What was left out, or empty."""


def is_installed() -> bool:
    """Whether there is scikit-learn."""
    return importlib.util.find_spec("sklearn") is not None


def label_floors(train: Split, other: Split, classes: int) -> list[LinearFloor]:
    """Score a split by the commonest class of train, and by a linear model of it.

    Args:
        train: What is learnt from.
        other: What is scored.
        classes: How many there are.

    Returns:
        The floors; without scikit-learn the first one alone.
    """
    common = np.full(len(other), np.bincount(train.labels, minlength=classes).argmax())
    floors = [_scored("the commonest class", common, other.labels, classes, 0.0, "")]
    if not is_installed():
        return floors
    begun = time.perf_counter()
    if isinstance(train, TextSplit):
        assert isinstance(other, TextSplit)
        name, limit = "TF-IDF and a linear model", MAX_TEXTS
        places = even_sample(len(train), limit)
        said = _of_texts([train.texts[i] for i in places], train.labels[places], other.texts)
    else:
        assert isinstance(other, PictureSplit)
        name, limit = "pixels and a linear model", MAX_PICTURES
        places = even_sample(len(train), limit)
        said = _of_pixels(_flat(train, places), train.labels[places], _flat(other))
    note = f"learnt from an even sample of {limit:,}" if len(train) > limit else ""
    seconds = time.perf_counter() - begun
    return [*floors, _scored(name, said, other.labels, classes, seconds, note)]


def _scored(
    name: str,
    said: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: int,
    seconds: float,
    note: str,
) -> LinearFloor:
    return LinearFloor(
        name=name,
        accuracy=100 * float((said == labels).mean()),
        macro_f1=100 * float(np.nanmean(f1_scores(labels, said, classes))),
        seconds=seconds,
        note=note,
    )


def _of_texts(
    texts: Sequence[str], labels: NDArray[np.int64], others: Sequence[str]
) -> NDArray[np.int64]:
    """Learn from TF-IDF of words and characters; give the classes of other texts."""
    text, svm = _learn("feature_extraction.text"), _learn("svm")
    choice, pipeline = _learn("model_selection"), _learn("pipeline")
    counts: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32}
    features = pipeline.make_union(
        text.TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **counts),
        text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **counts),
    )
    matrix = features.fit_transform(texts)
    folds = min(3, int(np.bincount(labels)[np.unique(labels)].min()))
    model = svm.LinearSVC(C=1.0)
    if folds >= 2:
        model = choice.GridSearchCV(model, {"C": COSTS}, cv=folds)
    model.fit(matrix, labels)
    return np.asarray(model.predict(features.transform(others)), dtype=np.int64)


def _flat(split: PictureSplit, places: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    rows = split.rows if places is None else split.rows[places]
    return split.pixels[rows].reshape(len(rows), -1).astype(np.float32) / np.float32(255)


def _of_pixels(
    pixels: NDArray[np.float32], labels: NDArray[np.int64], others: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Learn from pixels; give the classes of other pictures."""
    linear = _learn("linear_model")
    model = linear.LogisticRegression(C=0.1, max_iter=100)
    mean = pixels.mean(axis=0)
    model.fit(pixels - mean, labels)
    return np.asarray(model.predict(others - mean), dtype=np.int64)


def _learn(module: str) -> Any:
    return importlib.import_module(f"sklearn.{module}")
