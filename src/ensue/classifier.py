"""Texts or pictures in, names of classes out, with how sure the model may be."""

import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.images import fitted, read_image
from ensue.data.labelled import TextSplit
from ensue.data.pictures import PictureSplit, picture_files
from ensue.data.source import missing
from ensue.decoding.engine import evaluating
from ensue.errors import DataError, UsageError
from ensue.tasks.classify import Learnt, Reading, TextRows, text_logits, text_rows
from ensue.tasks.pictures import EVAL_ROWS, Showing, picture_logits


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How answers are given."""

    top_k: int = 1
    """Classes that are named, the likeliest first."""
    unsure_below: float = 0.0
    """A likeliest class with less confidence than this is not named."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; 1 is the least")
        if not 0 <= self.unsure_below <= 1:
            raise UsageError(f"unsure_below is {self.unsure_below}; it is a share, from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What a model says of one text or picture."""

    source: str
    """The text, or the name of the picture."""
    label: str
    """The likeliest class; empty where the model is not sure enough, or there is an error."""
    confidence: float
    """Of the likeliest class: of answers with 0.9 about nine in ten are right."""
    top: tuple[tuple[str, float], ...]
    """The likeliest classes with their confidence."""
    notices: tuple[str, ...] = ()
    """What a reader should know of it."""
    error: str = ""
    """Why there is no answer."""

    def __str__(self) -> str:
        return f"{self.label or 'unsure'} ({self.confidence:.1%})"

    def to_json(self) -> str:
        """Give all of it as one line; a class that is not named is null."""
        values = asdict(self) | {"label": self.label or None}
        values["top"] = [{"label": label, "confidence": c} for label, c in self.top]
        return json.dumps(values, ensure_ascii=False)


class Classifier:
    """A model that names classes.

    Args:
        model: Its weights loaded.
        classes: Their names, in the order of its logits.
        temperature: What its logits are divided by, for its confidence to be what it is worth.
        card: Facts to show with it.
    """

    def __init__(
        self, model: Any, classes: Sequence[str], temperature: float = 1.0, card: Any = None
    ) -> None:
        self.model, self.classes, self.temperature = model, tuple(classes), temperature
        self.card: dict[str, Any] = card or {}

    def logits(self, split: Any) -> Float[Tensor, "B C"]:
        """Read a labelled split; each kind of classifier reads its own."""
        raise NotImplementedError

    def _answers(
        self,
        sources: Sequence[str],
        logits: Float[Tensor, "B C"],
        said: Sequence[tuple[tuple[str, ...], str]],
        how: Answering,
    ) -> Iterator[Classified]:
        """Name the likeliest classes.

        Args:
            sources: What was classified.
            logits: Of each class.
            said: Of each source, notices, and why there is no answer.
            how: How answers are given.
        """
        shares = torch.softmax(logits.double() / self.temperature, dim=1)
        best, order = shares.topk(min(how.top_k, shares.shape[1]), dim=1)
        for source, (notices, failed), confidence, classes in zip(
            sources, said, best.tolist(), order.tolist(), strict=True
        ):
            if failed:
                yield Classified(source=source, label="", confidence=0.0, top=(), error=failed)
                continue
            named = [self.classes[i] for i in classes]
            yield Classified(
                source=source,
                label=named[0] if confidence[0] >= how.unsure_below else "",
                confidence=confidence[0],
                top=tuple(zip(named, confidence, strict=True)),
                notices=notices,
            )


class TextClassifier(Classifier):
    """A model that names the classes of texts.

    Args:
        model: Its weights loaded.
        reading: How texts are shown to it.
        learnt: By what texts are made ready for it.
        temperature: What its logits are divided by, for its confidence to be what it is worth.
        card: Facts to show with it.
    """

    def __init__(
        self,
        model: Any,
        reading: Reading,
        learnt: Learnt,
        temperature: float = 1.0,
        card: Any = None,
    ) -> None:
        super().__init__(model, reading.classes, temperature, card)
        self.reading, self.learnt = reading, learnt

    def classify(self, text: str, answering: Answering | None = None) -> Classified:
        """Name the class of one text.

        Args:
            text: Of any length: what follows `max_words` words is not read.
            answering: How many classes are named, and how sure it must be.

        Raises:
            DataError: There is no word in it.
        """
        (one,) = self.stream([text], answering)
        if one.error:
            raise DataError(f"{text[:60]!r}: {one.error}", "Give a text with at least one word.")
        return one

    def stream(
        self, texts: Iterable[str], answering: Answering | None = None
    ) -> Iterator[Classified]:
        """Name the classes of texts, in their order; one without a word has an error.

        Args:
            texts: Read as they are needed: a file may be longer than memory.
            answering: How many classes are named, and how sure it must be.
        """
        texts, together = iter(texts), FIRST_TEXTS
        while chunk := list(islice(texts, together)):
            together = min(2 * together, CHUNK_TEXTS)
            rows = self.rows(chunk)
            said = [
                (
                    (f"read up to its {rows.unit} {count:,}",) if i in rows.cut else (),
                    "" if count else "there is no word in it",
                )
                for i, count in enumerate(rows.counts.tolist())
            ]
            logits = text_logits(self.model, rows, np.arange(len(chunk)), torch.device("cpu"))
            yield from self._answers(chunk, logits, said, answering or Answering())

    def logits(self, split: TextSplit) -> Float[Tensor, "B C"]:
        """Read a labelled split."""
        every = np.arange(len(split))
        return text_logits(self.model, self.rows(split.texts), every, torch.device("cpu"))

    def rows(self, texts: Sequence[str]) -> TextRows:
        """Make texts ready for the model."""
        return text_rows(texts, self.reading, self.model.config, self.learnt)


FIRST_TEXTS, CHUNK_TEXTS = 64, 4096
"""Texts that are sorted by length together: few at first, so that the first answers come soon."""


class PictureClassifier(Classifier):
    """A model that names what pictures show.

    Args:
        model: Its weights loaded.
        showing: How pictures are shown to it.
        temperature: What its logits are divided by, for its confidence to be what it is worth.
        card: Facts to show with it.
    """

    def __init__(
        self, model: Any, showing: Showing, temperature: float = 1.0, card: Any = None
    ) -> None:
        super().__init__(model, showing.classes, temperature, card)
        self.showing = showing

    def classify(self, picture: str | Path, answering: Answering | None = None) -> Classified:
        """Name the class of one picture.

        Args:
            picture: The file.
            answering: How many classes are named, and how sure it must be.

        Raises:
            DataError: It cannot be read.
        """
        (one,) = self.stream([str(picture)], answering)
        if one.error:
            raise DataError(f"{one.source}: {one.error}", "Open it to see what is wrong.")
        return one

    def stream(
        self, names: Iterable[str], answering: Answering | None = None
    ) -> Iterator[Classified]:
        """Name the classes of pictures, in their order; one that cannot be read has an error.

        Args:
            names: Files; of a folder or a zip all pictures in it.
            answering: How many classes are named, and how sure it must be.
        """
        files = ((shown, opener) for name in names for shown, opener in _opened(name))
        while batch := list(islice(files, EVAL_ROWS)):
            yield from self._read(batch, answering or Answering())

    def pixels(self, picture: str | Path) -> NDArray[np.uint8]:
        """Give a picture as it is shown to the model, (C, H, W), before it is normalised.

        Raises:
            DataError: It cannot be read.
        """
        with _bytes(Path(picture)) as stream:
            image, _ = read_image(stream, max(self.showing.shape[1:]))
        return fitted(image, self.showing.shape)

    def logits(self, split: PictureSplit) -> Float[Tensor, "B C"]:
        """Read a labelled split."""
        every = np.arange(len(split))
        return picture_logits(self.model, split, self.showing, every, torch.device("cpu"))

    def _read(self, batch: Sequence[tuple[str, Any]], how: Answering) -> Iterator[Classified]:
        shape = self.showing.shape
        pixels = np.zeros((len(batch), *shape), dtype=np.uint8)
        said: list[tuple[tuple[str, ...], str]] = []  # notices, and why there is no answer
        for place, (_, opener) in enumerate(batch):
            try:
                with opener() as stream:
                    image, done = read_image(stream, max(shape[1:]))
            except (DataError, OSError, zipfile.BadZipFile, RuntimeError) as error:
                said.append(((), str(getattr(error, "what", error))))
            else:
                pixels[place] = fitted(image, shape)
                said.append((tuple(done), ""))
        with torch.inference_mode(), evaluating(self.model):
            logits = self.model(self.showing.shown(pixels))
        yield from self._answers([name for name, _ in batch], logits, said, how)


def opened(name: str) -> list[tuple[str, Any]]:
    """Give the pictures of a file, of a folder or of a zip, by name, each with what opens it.

    Raises:
        DataError: There is none.
    """
    path = Path(name)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return [(f"{name}/{inside}", opener) for inside, opener in picture_files(path)]
    if not path.is_file():
        raise missing(path)
    return [(name, partial(_bytes, path))]


def _opened(name: str) -> list[tuple[str, Any]]:
    """Give the pictures behind a name; where there is none, what says so when it is opened."""
    try:
        return opened(name)
    except DataError as error:
        why = error.what.removeprefix(f"{name}: ")
        return [(name, partial(_refuse, DataError(why, error.hint)))]


def _refuse(error: DataError) -> BufferedIOBase:
    raise error


def _bytes(path: Path) -> BufferedIOBase:
    return path.open("rb")
