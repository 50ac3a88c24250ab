"""Runs that name classes, opened and scored."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue.classifier import Classifier, PictureClassifier, TextClassifier
from ensue.config import from_dict
from ensue.data.labelled import LabelledTexts, TextSplit, labelled_texts
from ensue.data.pictures import Gallery, PictureSplit, labelled_pictures
from ensue.distributed.env import start_env
from ensue.errors import UsageError
from ensue.files import read_json
from ensue.linear import LinearFloor, label_floors
from ensue.runs import Run
from ensue.tasks.classify import Reading, Texts, read_learnt
from ensue.tasks.labels import CLASSES, ClassScore, class_score, class_scores, confusion
from ensue.tasks.measures import TEMPERATURE
from ensue.tasks.pictures import Pictures, Showing
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

LABELLED = ("classify", "pictures")
"""Tasks whose runs name classes."""


def load_classifier(
    run: str | Path | Run = "", task: str | tuple[str, ...] = LABELLED
) -> Classifier:
    """Open a finished run that names classes: a `TextClassifier` or a `PictureClassifier`.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        task: The one or those that will do: ``classify`` (texts), ``pictures``.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, task)
    model, about = load_network(opened)
    rest = float(about.get(TEMPERATURE.key, 1.0)), card_of(opened, plan)
    found = read_json(opened.path / CLASSES)
    if plan.config.task == "pictures":
        return PictureClassifier(model, from_dict(Showing, found, CLASSES), *rest)
    reading = from_dict(Reading, found, CLASSES)
    return TextClassifier(model, reading, read_learnt(opened.path), *rest)


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
    floors: tuple[LinearFloor, ...] = ()
    """What needs no network achieves on the same data."""


def evaluate_labels(
    run: str | Path | Run = "",
    sources: Sequence[str] = (),
    *,
    split: str = "valid",
    floor: bool = False,
    tracker: Tracker | None = None,
) -> LabelScore:
    """Score a run that names classes: in all, of each class, and what was taken for what.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        sources: Texts or pictures with classes; of a set of pictures with a test part, that is
            scored. None: the run's own.
        split: Which of its own: train, valid or test.
        floor: Score the commonest class and a linear model too, learnt from the same data.
        tracker: Hears how it goes.

    Raises:
        DataError: They cannot be read, or are not those that the run was validated on.
        UsageError: There is no such split.
    """
    opened, plan = open_run(run, LABELLED, "evaluate")
    classifier, tracker = load_classifier(opened), tracker or Tracker()
    config = plan.config.data
    with tempfile.TemporaryDirectory() as folder:
        labelled: TextSplit | PictureSplit
        notes: tuple[str, ...] = ()
        if not sources:
            labelled = own_split(opened, plan, split)
        elif isinstance(classifier, TextClassifier):
            labelled, notes = labelled_texts(sources, classifier.classes, config, tracker.counted)
        else:
            assert isinstance(classifier, PictureClassifier)
            labelled, notes = labelled_pictures(
                sources,
                classifier.classes,
                classifier.showing.shape,
                config.label_column,
                Path(folder),
                tracker.counted,
            )
        for note in notes:
            tracker.notice(note)
        logits = classifier.logits(labelled)
        count = len(classifier.classes)
        floors = label_floors(own_split(opened, plan, "train"), labelled, count) if floor else []
    score = class_score(
        logits,
        labelled.labels,
        split=", ".join(sources) or split,
        fingerprint=labelled.fingerprint,
        temperature=classifier.temperature,
    )
    said = logits.argmax(dim=1).numpy()
    return LabelScore(
        score=score,
        by_class=class_scores(labelled.labels, said, classifier.classes),
        confusion=confusion(labelled.labels, said, len(classifier.classes)),
        looks=opened.count_look(labelled.fingerprint),
        floors=tuple(floors),
    )


def own_split(run: Run, plan: Plan, split: str) -> TextSplit | PictureSplit:
    """Read a split of a run's own data again.

    Raises:
        DataError: They are not what it was validated on.
        UsageError: There is no such split.
    """
    material = read_data(frozen(plan.config, run), start_env("cpu"), Tracker())
    check_same(material.valid_text, plan)
    data = splits_of(material)
    known = {"train": data.train, "valid": data.valid, "test": data.test}
    found = known.get(split)
    if found is None:
        raise UsageError(
            f"the run has no split {split!r} to score",
            "Known: valid, and test where one was given or held out (--test-fraction 0.1).",
        )
    return found


def splits_of(material: Any) -> LabelledTexts | Gallery:
    """Give the splits of labelled texts or pictures."""
    if isinstance(material, Texts):
        return material.labelled
    assert isinstance(material, Pictures)
    return material.gallery
