"""Runs that name classes, opened and scored."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ensue.classifier import Classifier
from ensue.config import from_dict
from ensue.data.pictures import PictureSplit, labelled_pictures
from ensue.distributed.env import start_env
from ensue.errors import UsageError
from ensue.files import read_json
from ensue.runs import Run
from ensue.tasks.classify import ClassScore, class_score, class_scores, confusion
from ensue.tasks.measures import TEMPERATURE
from ensue.tasks.pictures import CLASSES, Pictures, Showing, picture_logits
from ensue.tasks.task import Score
from ensue.training.plan import Plan
from ensue.training.session import (
    card_of,
    check_same,
    frozen,
    load_network,
    open_run,
    read_data,
)
from ensue.training.tracking import Tracker


def load_classifier(run: str | Path | Run = "") -> Classifier:
    """Open a finished run that names what pictures show.

    Args:
        run: Its folder; empty: the newest below ``runs/``.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, "pictures")
    model, about = load_network(opened)
    showing = from_dict(Showing, read_json(opened.path / CLASSES), CLASSES)
    return Classifier(model, showing, float(about.get(TEMPERATURE.key, 1.0)), card_of(opened, plan))


@dataclass(frozen=True, kw_only=True)
class LabelScore:
    """How often a model names the right class."""

    score: Score
    """In all."""
    by_class: tuple[ClassScore, ...]
    """Of each class."""
    confusion: tuple[tuple[int, ...], ...]
    """How often each class (row) was taken for each (column)."""
    looks: int
    """How often this run has been scored on these data by now."""


def evaluate_labels(
    run: str | Path | Run = "",
    sources: Sequence[str] = (),
    *,
    split: str = "valid",
    tracker: Tracker | None = None,
) -> LabelScore:
    """Score a run that names classes: in all, of each class, and what was taken for what.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        sources: Pictures with classes; of a set with a test part, that is scored. None: the run's
            own.
        split: Which of its own: valid or test.
        tracker: Hears how it goes.

    Raises:
        DataError: The pictures cannot be read, or are not those that the run was validated on; or
            there is no such split.
    """
    opened, plan = open_run(run, "pictures", "evaluate")
    classifier, tracker = load_classifier(opened), tracker or Tracker()
    with tempfile.TemporaryDirectory() as folder:
        if sources:
            pictures, notes = labelled_pictures(
                sources,
                classifier.showing.classes,
                classifier.showing.shape,
                plan.config.data.label_column,
                Path(folder),
                tracker.counted,
            )
            for note in notes:
                tracker.notice(note)
        else:
            pictures = _own_pictures(opened, plan, split)
        every = np.arange(len(pictures))
        device = torch.device("cpu")
        logits = picture_logits(classifier.model, pictures, classifier.showing, every, device)
    score = class_score(
        logits,
        pictures.labels,
        split=", ".join(sources) or split,
        fingerprint=pictures.fingerprint,
        temperature=classifier.temperature,
    )
    said = logits.argmax(dim=1).numpy()
    return LabelScore(
        score=score,
        by_class=class_scores(pictures.labels, said, classifier.showing.classes),
        confusion=confusion(pictures.labels, said, len(classifier.showing.classes)),
        looks=opened.count_look(pictures.fingerprint),
    )


def _own_pictures(run: Run, plan: Plan, split: str) -> PictureSplit:
    material = read_data(frozen(plan.config, run), start_env("cpu"), Tracker())
    assert isinstance(material, Pictures)
    check_same(material.valid_text, plan)
    found = {"valid": material.gallery.valid, "test": material.gallery.test}.get(split)
    if found is None:
        raise UsageError(
            f"the run has no split {split!r} to score",
            "Known: valid, and test where one was given or held out (--test-fraction 0.1).",
        )
    return found
