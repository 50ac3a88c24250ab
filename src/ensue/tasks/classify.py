"""Labelled texts: name the class of each.

Words are known by the n-grams of their characters (`ensue.data.words`). A sequence model reads the
words one after another; the fully connected network reads a bag: which n-grams of characters and of
words a text has, each weighed by how few texts have it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.labelled import LabelledConfig, LabelledTexts, TextSplit, prepare_labelled
from ensue.data.order import LengthOrder, random_shares
from ensue.data.spool import Progress
from ensue.data.words import (
    Grams,
    GramTable,
    WordRows,
    bag_batch,
    document_frequency,
    read_words,
    spread_bag,
    word_batch,
)
from ensue.decoding.engine import evaluating
from ensue.errors import UsageError
from ensue.files import write_json
from ensue.models import step_of
from ensue.nn.words import Bag, Words
from ensue.tasks.labels import CLASSES, class_loss, class_score, class_weights, even_sample
from ensue.tasks.measures import ACCURACY, LOSS
from ensue.tasks.task import Loss, RowTask, Score, Shape, refuse_unused

IDF = "idf.npy"
"""In a run folder: how much each n-gram weighs, where texts are bags of them."""
ROWS = 64
"""Texts of an update."""
EVAL_WORDS = 16_384
"""Words of a batch of evaluation, on whatever lies behind the ends of shorter texts too."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How texts are shown to a model: what a run folder holds of it."""

    classes: tuple[str, ...]
    """Names, in the order of the logits."""
    columns: tuple[str, ...] = ()
    """Columns of a table that hold the text, as they were called in training; empty: lines."""
    max_words: int = 256
    """Words of a text that are read."""


class TextRows:
    """Texts, ready to be shown to a model.

    Args:
        texts: Any.
        reading: How they are read.
        model: The model's config: which n-grams, how many buckets.
        idf: How much each bucket weighs, for a model that reads bags; None: it reads words.
    """

    def __init__(
        self,
        texts: Sequence[str],
        reading: Reading,
        model: Any,
        idf: NDArray[np.float32] | None,
    ) -> None:
        self.words = read_words(texts, reading.max_words)
        self.table = table_of(self.words, model)
        self.buckets, self.idf = model.buckets, idf

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of each, at least one."""
        return np.maximum(self.words.lengths, 1)

    def inputs(
        self, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
    ) -> Words | Bag:
        """Give what a model reads of some texts.

        Args:
            places: Which.
            dropped: (B, T): words that it is not shown.
        """
        if self.idf is not None:
            bag = bag_batch(self.words, self.table, places, self.buckets, self.idf, dropped)
            return Bag(*map(torch.from_numpy, (bag.ids, bag.starts, bag.weights)))
        batch = word_batch(self.words, self.table, places)
        ids = batch.ids if dropped is None else np.where(dropped, 0, batch.ids)
        return Words(*map(torch.from_numpy, (ids, batch.length, batch.grams)))

    def tokens(self, row: int) -> list[str]:
        """Give what a model reads of a text one by one: its words."""
        return [self.words.vocabulary[word] for word in self.words.row(row)]

    def spread(self, row: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share out what is said of each n-gram of a text's bag among its words."""
        return spread_bag(self.words, self.table, row, self.buckets, values)


def table_of(words: WordRows, model: Any) -> GramTable:
    """Give the buckets of all words, by a model's config."""
    grams = Grams(model.shortest_gram, model.longest_gram, model.buckets)
    return GramTable(words.vocabulary, grams)


def idf_of(texts: Sequence[str], reading: Reading, model: Any) -> NDArray[np.float32]:
    """Weigh each bucket by how few texts have it: ln((1 + n) / (1 + n_b)) + 1."""
    words = read_words(texts, reading.max_words)
    having = document_frequency(words, table_of(words, model), model.buckets)
    return (np.log((1 + len(texts)) / (1 + having)) + 1).astype(np.float32)


class TextBatch(NamedTuple):
    """Texts as a model reads them, and their classes."""

    inputs: Words | Bag
    labels: Int[Tensor, " B"]


class TextClasses(RowTask):
    """Texts in a seeded order, those of an update of like length; and how many are told right.

    Args:
        train: What is learnt from, and its labels.
        valid: What is chosen on, and its labels.
        classes: Names of the classes.
        fingerprint: Of the validation split.
        config: Of the run.
        device: Where batches go.
    """

    def __init__(
        self,
        train: tuple[TextRows, TextSplit],
        valid: tuple[TextRows, TextSplit],
        classes: Sequence[str],
        config: Any,
        device: torch.device,
    ) -> None:
        super().__init__(config.train.global_batch_size, config.train.micro_batch_size)
        self.train, self.valid, self.classes = train, valid, classes
        self.config, self.device = config.train, device
        self.seed = config.seed
        self.order = LengthOrder(train[0].lengths, self.rows, config.seed)
        weights = class_weights(train[1].labels, len(classes), config.train.class_weights)
        self.weights = None if weights is None else weights.to(device)
        self.kept_by = ACCURACY if config.train.keep_by == "accuracy" else LOSS

    def batch(self, first: int, rows: int) -> TextBatch:
        """Give rows `first` to `first + rows` of the endless order."""
        update, within = divmod(first, self.rows)
        texts, split = self.train
        places = self.order.rows(update)[within : within + rows]
        dropped = None
        if self.config.word_dropout:
            steps = int(texts.lengths[places].max())
            dropped = random_shares(self.seed, first, rows, steps) < self.config.word_dropout
        inputs = texts.inputs(places, dropped)
        return TextBatch(
            type(inputs)(*(t.to(self.device) for t in inputs)),
            torch.from_numpy(split.labels[places]).to(self.device),
        )

    def count(self, batch: TextBatch) -> int:
        """One class for each text."""
        return len(batch.labels)

    def loss(self, model: Any, batch: TextBatch) -> Loss:
        """Sum the negative log-likelihood of the classes; against the worst shift of words, too."""
        how = self.config.label_smoothing, self.weights
        if self.config.adversarial <= 0 or isinstance(batch.inputs, Bag):
            return class_loss(model(*batch.inputs), batch.labels, *how)
        return adversarial_loss(model, batch, self.config.adversarial, how)

    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the validation split, or an even sample of it."""
        texts, split = self.valid
        places = even_sample(len(split), max_targets)
        return class_score(
            text_logits(model, texts, places, self.device),
            split.labels[places],
            split="valid",
            fingerprint=split.fingerprint,
            sampled=len(places) < len(split),
            kept_by=self.kept_by,
        )

    def describe(self, update: int) -> list[str]:
        """Show the first texts of an update, with their classes."""
        places = self.order.rows(update)[:4].tolist()
        split = self.train[1]
        return [f"{self.classes[split.labels[i]]}: {split.texts[i][:200]}" for i in places]


def adversarial_loss(
    model: Any, batch: TextBatch, size: float, how: tuple[float, Tensor | None]
) -> Loss:
    """Sum the loss as it is, and as it is when all words move where that harms most; the mean.

    Args:
        model: Takes a shift of its words' vectors.
        batch: Texts and classes.
        size: Length of a row's shift, in lengths of one word's vector.
        how: Smoothing, and weights of the classes.

    Reference: Miyato et al. 2017, arXiv:1605.07725, equation 3.
    """
    assert isinstance(batch.inputs, Words)
    width = model.words.own.weight.shape[1]
    shape = (*batch.inputs.ids.shape, width)
    shift = torch.zeros(shape, device=batch.labels.device, requires_grad=True)
    plain = class_loss(model(*batch.inputs, shift), batch.labels, *how)
    if not torch.is_grad_enabled():
        return plain
    (slope,) = torch.autograd.grad(plain.total, shift, retain_graph=True)
    length = slope.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    worst = slope * (size * math.sqrt(width) / length)
    harmed = class_loss(model(*batch.inputs, worst.detach()), batch.labels, *how)
    return Loss((plain.total + harmed.total) / 2, plain.count)


@torch.inference_mode()
def text_logits(
    model: Any, texts: TextRows, places: NDArray[np.int64], device: torch.device
) -> Float[Tensor, "B C"]:
    """Let a model read some texts, those of like length together."""
    lengths = texts.lengths[places]
    order = np.argsort(lengths, kind="stable")
    found = torch.zeros(0)
    with evaluating(model):
        first = 0
        while first < len(order):
            rows = max(1, EVAL_WORDS // int(lengths[order[min(first + 255, len(order) - 1)]]))
            some = order[first : first + min(rows, 256)]
            inputs = texts.inputs(places[some])
            logits = model(*(t.to(device) for t in inputs)).float().cpu()
            if not first:
                found = logits.new_zeros(len(places), logits.shape[1])
            found[torch.from_numpy(some)] = logits
            first += len(some)
    return found


class Texts:
    """Labelled texts: what text classifiers are trained on; see `ensue.tasks.task.Material`.

    Args:
        labelled: The texts.
        reading: How they are read.
    """

    def __init__(self, labelled: LabelledTexts, reading: Reading) -> None:
        self.labelled, self.reading = labelled, reading
        self.fingerprint, self.notes = labelled.fingerprint, labelled.notes
        self.valid_text = labelled.valid.fingerprint
        self.train_targets, self.valid_targets = len(labelled.train), len(labelled.valid)
        lengths = read_words(labelled.train.texts, reading.max_words)
        self.lengths = np.maximum(lengths.lengths, 1)
        if lengths.cut:
            count = f"{len(lengths.cut):,} texts are cut after {reading.max_words:,} words"
            self.notes = (*self.notes, f"{count} (--max-words)")
        self._idf: tuple[Any, NDArray[np.float32] | None] = (None, None)

    def filled(self, model: Any) -> Any:
        """Give a config the classes."""
        count = len(self.labelled.classes)
        if model.classes not in (0, count):
            raise UsageError(
                f"model.classes is {model.classes}, and the data have {count}",
                "Leave out --model.classes.",
            )
        return replace(model, classes=count)

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its rows: a multiple of the processes."""
        refuse_unused(train, ("batch_tokens",), "classify")
        rows = train.global_batch_size
        if not rows:
            rows = -(-max(8, min(ROWS, self.train_targets // 8)) // world) * world
        if rows % world:
            raise UsageError(
                f"train.global_batch_size {rows} is not a multiple of the {world} processes"
            )
        micro = min(train.micro_batch_size or rows // world, rows // world)
        return replace(train, global_batch_size=rows, micro_batch_size=micro)

    def targets_per_update(self, config: Any) -> float:
        """One class for each text."""
        return float(config.train.global_batch_size)

    def shapes(self, config: Any) -> list[Shape]:
        """Give the shapes of the first updates, which stand for all."""
        rows = config.train.global_batch_size
        order = LengthOrder(self.lengths, rows, 0)
        longest = [int(self.lengths[order.rows(update)].max()) for update in range(SHAPES)]
        return [Shape(rows, steps) for steps in longest]

    def idf(self, model: Any) -> NDArray[np.float32] | None:
        """Weigh n-grams for a model that reads bags; None: it reads words."""
        if step_of(model).form.reads != "bag":
            return None
        if self._idf[0] != model:
            self._idf = (model, idf_of(self.labelled.train.texts, self.reading, model))
        return self._idf[1]

    def task(self, config: Any, device: torch.device) -> TextClasses:
        """Make the task of a run whose shape is known."""
        labelled, model = self.labelled, config.model
        idf = self.idf(model)
        train, valid = (
            (TextRows(split.texts, self.reading, model, idf), split)
            for split in (labelled.train, labelled.valid)
        )
        return TextClasses(train, valid, labelled.classes, config, device)

    def save(self, folder: Path, model: Any) -> None:
        """Write the names of the classes, and how texts are read, into a run folder."""
        write_json(folder / CLASSES, vars(self.reading))
        idf = self.idf(model) if model.classes else None
        if idf is not None:
            np.save(folder / IDF, idf)

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        labelled = self.labelled
        counts = np.bincount(labelled.train.labels, minlength=len(labelled.classes))
        shown = [f"{n} ({c:,})" for n, c in zip(labelled.classes, counts, strict=True)]
        more = f" and {len(shown) - 12:,} more" if len(shown) > 12 else ""
        test = f", {len(labelled.test):,} to score at the end" if labelled.test else ""
        middle, most = int(np.median(self.lengths)), int(self.lengths.max())
        return [
            (
                "texts",
                f"{len(labelled.train):,} to learn from, {len(labelled.valid):,} held out{test};"
                f" {middle:,} words in the middle, {most:,} at most",
            ),
            ("classes", ", ".join(shown[:12]) + more),
        ]


SHAPES = 32
"""Updates whose shapes stand for all."""


def prepare(config: LabelledConfig, on_progress: Progress) -> Texts:
    """Read and check labelled texts.

    Raises:
        DataError: As of `ensue.data.labelled.prepare_labelled`.
    """
    labelled = prepare_labelled(config, on_progress)
    reading = Reading(
        classes=labelled.classes,
        columns=labelled.columns,
        max_words=config.max_words,
    )
    return Texts(labelled, reading)


def frozen(config: LabelledConfig, folder: Path) -> LabelledConfig:
    """Give the config of a run that was begun: nothing was learnt from the data beforehand."""
    return config


def read_idf(folder: Path) -> NDArray[np.float32] | None:
    """Give how much n-grams weigh, where a run folder says it."""
    path = folder / IDF
    return np.load(path) if path.exists() else None
