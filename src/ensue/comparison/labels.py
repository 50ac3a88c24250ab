"""Comparing classifiers: how many are told right, beside the commonest class and a linear model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ensue.classification import load_classifier, splits_of
from ensue.comparison.request import CompareConfig
from ensue.data.labelled import LabelledConfig, TextSplit, labelled_texts
from ensue.linear import is_installed, label_floors
from ensue.runs import Run
from ensue.tasks.classify import Texts
from ensue.tasks.labels import class_score
from ensue.tasks.measures import ACCURACY, LOSS, MACRO_F1
from ensue.training.choose import THREADS
from ensue.training.tracking import Tracker


class LabelsJudge:
    """See `ensue.comparison.judge.Judge`.

    Args:
        request: What is compared.
        material: The labelled texts.
        tracker: Hears how it goes.
        measure: Is always the share that is right.

    Raises:
        DataError: The test texts cannot be read.
    """

    measures = (ACCURACY, MACRO_F1, LOSS)

    def __init__(
        self, request: CompareConfig, material: Texts, tracker: Tracker, measure: str = ""
    ) -> None:
        assert isinstance(request.data, LabelledConfig)
        self.request, self.material, self.tracker = request, material, tracker
        self._splits = splits_of(material)
        self._test = self._splits.test
        if request.test:  # now, not after hours of training: its name may be misspelt
            classes = self._splits.classes
            self._test, notes = labelled_texts(request.test, classes, request.data, tracker.counted)
            for note in notes:
                tracker.notice(note)
        self.test = self._test.fingerprint if self._test else ""

    def lengths(self) -> list[dict[str, Any]]:
        """Give none: nothing is scored by its length."""
        return []

    def facts(self) -> dict[str, Any]:
        """Give names and sizes of the splits."""
        data = self.request.data
        return {
            "sources": list(data.sources),
            "valid": list(data.valid),
            "test": list(self.request.test),
            "tokenizer": f"{len(self._splits.classes)} classes",
            "train_texts": len(self._splits.train),
            "valid_texts": len(self._splits.valid),
            "test_texts": len(self._test) if self._test else 0,
        }

    def shared(self, leading: Any) -> dict[str, Any]:
        """Give nothing: how much of a text is read is the data's affair, the same for all."""
        return {}

    def score(self, run: Run, split: str) -> dict[str, Any]:
        """Let a run name the classes of a split."""
        torch.set_num_threads(THREADS)
        classifier = load_classifier(run)
        texts = self._split(split)
        score = class_score(
            classifier.logits(texts),
            texts.labels,
            split=split,
            fingerprint=texts.fingerprint,
            temperature=classifier.temperature,
        )
        return {measure.key: score[measure] for measure in self.measures}

    def floors(self, split: str) -> list[dict[str, Any]]:
        """Name the commonest class; let a linear model name classes, where it is installed."""
        train, classes = self._splits.train, len(self._splits.classes)
        self.tracker.progress("a linear model", 0, 0)
        floors = label_floors(train, self._split(split), classes)
        return [
            {
                "name": floor.name,
                "doing": floor.name if floor.seconds else f"naming {floor.name}",
                "seconds": floor.seconds,
                "note": floor.note,
                ACCURACY.key: floor.accuracy,
                MACRO_F1.key: floor.macro_f1,
            }
            for floor in floors
        ]

    def _split(self, name: str) -> TextSplit:
        split = self._splits.valid if name == "valid" else self._test
        assert isinstance(split, TextSplit)
        return split

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Give none: a text is a row of the data."""
        return []

    def updates(self, configs: Sequence[dict[str, Any]]) -> str:
        """Say how many texts an update has."""
        rows = {c["train"]["global_batch_size"] for c in configs}
        size = f"of {rows.pop():,} texts " if len(rows) == 1 else ""
        return f"Updates {size}of like length, the same for all, "

    def scoring(self, outcomes: Sequence[Any]) -> list[str]:
        """Say what is right, and by what runs were chosen."""
        valid = len(self._splits.valid)
        spread = 100 * float(np.sqrt(0.25 / valid))
        lines = [
            f"Right: the likeliest class is the label; all {valid:,} texts of valid, whose chance"
            f" alone is worth up to {spread:.1f} points (a standard error). The winner was chosen"
            " on valid. Learning rates were chosen by the loss, nats of the right class.",
        ]
        if not is_installed():
            lines.append(
                "The linear model was left out: scikit-learn is not installed"
                ' (pip install "ensue[floors]").'
            )
        return lines
