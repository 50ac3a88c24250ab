"""Labelled texts: name the class of each.

Words are known by the n-grams of their characters (`ensue.data.words`). A sequence model reads the
words one after another; the fully connected network reads a bag: which n-grams of characters and of
words a text has, each weighed by how few texts have it. BERT reads the pieces of a tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.corpus import check_kind
from ensue.data.labelled import LabelledConfig, LabelledTexts, TextSplit, prepare_labelled
from ensue.data.masked import KINDS as PIECE_KINDS
from ensue.data.masked import pieces_for
from ensue.data.order import LengthOrder, random_shares
from ensue.data.spool import Progress
from ensue.data.words import (
    Grams,
    GramTable,
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
from ensue.nn.words import Bag, Pieces, Words
from ensue.tasks.labels import CLASSES, class_loss, class_score, class_weights, even_sample
from ensue.tasks.measures import ACCURACY, LOSS
from ensue.tasks.task import Loss, RowTask, Score, Shape, refuse_unused
from ensue.tokenizers import (
    CLS,
    MASK,
    PAD_PIECE,
    SEP,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

TOKENIZER = "tokenizer.json"
"""In a run folder: the tokenizer, where texts are rows of pieces."""
IDF = "idf.npy"
"""In a run folder: how much each n-gram weighs, where texts are bags of them."""
ROWS, LEAST_ROWS, UPDATES = 64, 8, 32
"""Texts of an update: at most, at least, and so few that a reading of all has so many updates. 500
questions of TREC-6, read ten times: 69 % right by updates of 62, 72 % by updates of 16."""
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
    """Words, or pieces, of a text that are read."""


Learnt = NDArray[np.float32] | Tokenizer | None
"""What a form of model reads texts by, besides its shape: of bags how much each n-gram weighs, of
pieces the tokenizer, of words nothing."""


@runtime_checkable
class TextRows(Protocol):
    """Texts, ready to be shown to a model."""

    counts: NDArray[np.int64]
    """Words of each, or pieces; 0: there is nothing to read."""
    cut: frozenset[int]
    """Those of which the end is not read."""
    shown: type[Any]
    """What `inputs` are: `Words`, `Bag` or `Pieces`."""
    unit: str
    """What they are counted in."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Places that each takes up in a batch, at least one."""
        ...

    def inputs(
        self, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Give what a model reads of some texts.

        Args:
            places: Which.
            dropped: (B, T): words that it is not shown.
        """
        ...

    def tokens(self, place: int) -> list[str]:
        """Give what stands at each place of a text."""
        ...


class WordTexts:
    """Texts as rows of words; see `TextRows`.

    Args:
        texts: Any.
        reading: How they are read.
        model: The model's config: which n-grams, how many buckets.
    """

    shown: type[Any] = Words
    unit = "word"

    def __init__(self, texts: Sequence[str], reading: Reading, model: Any) -> None:
        self.words = read_words(texts, reading.max_words)
        grams = Grams(model.shortest_gram, model.longest_gram, model.buckets)
        self.table, self.buckets = GramTable(self.words.vocabulary, grams), model.buckets
        self.counts, self.cut = self.words.lengths, self.words.cut

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Words of each, at least one."""
        return np.maximum(self.counts, 1)

    def inputs(
        self, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Give `ensue.nn.words.Words`."""
        batch = word_batch(self.words, self.table, places)
        ids = batch.ids if dropped is None else np.where(dropped, 0, batch.ids)
        return ids, batch.length, batch.grams

    def tokens(self, place: int) -> list[str]:
        """Give the words."""
        return [self.words.vocabulary[word] for word in self.words.row(place).tolist()]


class BagTexts(WordTexts):
    """Texts as bags of n-grams; see `TextRows`.

    Args:
        texts: Any.
        reading: How they are read.
        model: The model's config: which n-grams, how many buckets.
        idf: How much each bucket weighs; None: weighed here, by these texts.
    """

    shown = Bag

    def __init__(
        self,
        texts: Sequence[str],
        reading: Reading,
        model: Any,
        idf: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(texts, reading, model)
        self.idf = self.weighed() if idf is None else idf

    def weighed(self) -> NDArray[np.float32]:
        """Weigh each bucket by how few texts have it: ln((1 + n) / (1 + n_b)) + 1."""
        having = document_frequency(self.words, self.table, self.buckets)
        return (np.log((1 + len(self.words)) / (1 + having)) + 1).astype(np.float32)

    def inputs(
        self, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Give `ensue.nn.words.Bag`."""
        bag = bag_batch(self.words, self.table, places, self.buckets, self.idf, dropped)
        return bag.ids, bag.starts, bag.weights

    def spread(self, place: int, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Share out what is said of each n-gram of a text's bag among its words."""
        return spread_bag(self.words, self.table, place, self.buckets, values)


class PieceTexts:
    """Texts as rows of pieces between [CLS] and [SEP]; see `TextRows`.

    Args:
        texts: Any.
        most: Pieces of a text that are read.
        tokenizer: Word pieces.
    """

    shown: type[Any] = Pieces
    unit = "piece"

    def __init__(self, texts: Sequence[str], most: int, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        rows = [tokenizer.encode_array(text)[0] for text in texts]
        self.cut = frozenset(i for i, row in enumerate(rows) if len(row) > most)
        rows = [row[:most] for row in rows]
        self.counts = np.array([len(row) for row in rows], dtype=np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self.ids = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pieces of each, and the two marks."""
        return self.counts + 2

    def row(self, place: int) -> NDArray[np.int64]:
        """Give the pieces of a text, by number."""
        return self.ids[self.starts[place] : self.starts[place] + self.counts[place]]

    def inputs(
        self, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[Any], ...]:
        """Give `ensue.nn.words.Pieces`; a piece that is dropped is masked."""
        marks, length = self.tokenizer.specials, self.lengths[places]
        ids = np.full((len(places), int(length.max(initial=2))), marks[PAD_PIECE], dtype=np.int64)
        ids[:, 0] = marks[CLS]
        for i, place in enumerate(places.tolist()):
            row = self.row(place)
            if dropped is not None:
                row = np.where(dropped[i, 1 : len(row) + 1], marks[MASK], row)
            ids[i, 1 : len(row) + 1] = row
            ids[i, len(row) + 1] = marks[SEP]
        return ids, length

    def tokens(self, place: int) -> list[str]:
        """Give the pieces, and the marks around them."""
        return [CLS, *map(self.tokenizer.token_text, self.row(place).tolist()), SEP]


def text_rows(texts: Sequence[str], reading: Reading, model: Any, learnt: Learnt) -> TextRows:
    """Make texts ready for a model of a shape.

    Args:
        texts: Any.
        reading: How they are read.
        model: The model's config.
        learnt: By what; see `Learnt`.
    """
    if isinstance(learnt, Tokenizer):
        return PieceTexts(texts, min(reading.max_words, model.context_length - 2), learnt)
    if step_of(model).form.reads == "bag":
        return BagTexts(texts, reading, model, learnt)
    return WordTexts(texts, reading, model)


def shown(
    rows: TextRows, places: NDArray[np.int64], dropped: NDArray[np.bool_] | None = None
) -> Words | Bag | Pieces:
    """Give what a model reads of some texts, as tensors; see `TextRows.inputs`."""
    made: Words | Bag | Pieces = rows.shown(*map(torch.from_numpy, rows.inputs(places, dropped)))
    return made


class TextBatch(NamedTuple):
    """Texts as a model reads them, and their classes."""

    inputs: Words | Bag | Pieces
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
        inputs = shown(texts, places, dropped)
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
    assert not isinstance(batch.inputs, Bag)
    width = model.config.d_model
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
            inputs = shown(texts, places[some])
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
        config: Which tokenizer reads them, where a model reads pieces.
    """

    def __init__(self, labelled: LabelledTexts, reading: Reading, config: LabelledConfig) -> None:
        self.labelled, self.reading, self.config = labelled, reading, config
        self.fingerprint, self.notes = labelled.fingerprint, labelled.notes
        self.valid_text = labelled.valid.fingerprint
        self.train_targets, self.valid_targets = len(labelled.train), len(labelled.valid)
        words = read_words(labelled.train.texts, reading.max_words)
        self.word_counts = words.lengths
        if words.cut:
            count = f"{len(words.cut):,} texts are cut after {reading.max_words:,} words"
            self.notes = (*self.notes, f"{count} (--max-words)")
        self._known: tuple[Any, TextRows | None] = (None, None)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Read the tokenizer that is named, or learn one from the training texts."""
        config, texts = self.config, self.labelled.train.texts
        if config.tokenizer not in PIECE_KINDS:
            tokenizer = load_tokenizer(config.tokenizer)
            check_kind(tokenizer, config.tokenizer, PIECE_KINDS)
            return tokenizer
        kind, size = pieces_for(sum(len(text.encode(errors="replace")) for text in texts))
        kind = kind if config.tokenizer == "auto" else config.tokenizer
        return train_tokenizer(kind, texts, vocab_size=config.vocab_size or size)

    def filled(self, model: Any) -> Any:
        """Give a config the classes, and the vocabulary of the pieces that it reads."""
        wanted = {"classes": len(self.labelled.classes)}
        if step_of(model).form.reads == "pieces":
            wanted["vocab_size"] = self.tokenizer.vocab_size
        for name, count in wanted.items():
            if getattr(model, name) not in (0, count):
                raise UsageError(
                    f"model.{name} is {getattr(model, name)}, and the data have {count}",
                    f"Leave out --model.{name.replace('_', '-')}.",
                )
        return replace(model, **wanted)

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its rows: a multiple of the processes."""
        refuse_unused(train, ("batch_tokens",), "classify")
        rows = train.global_batch_size
        if not rows:
            few = max(LEAST_ROWS, min(ROWS, self.train_targets // UPDATES))
            rows = -(-few // world) * world
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
        rows, lengths = config.train.global_batch_size, self.rows(config.model).lengths
        order = LengthOrder(lengths, rows, 0)
        longest = [int(lengths[order.rows(update)].max()) for update in range(SHAPES)]
        return [Shape(rows, steps) for steps in longest]

    def rows(self, model: Any) -> TextRows:
        """Make the training texts ready for a model of this shape; the last ones are kept."""
        if self._known[0] != model:
            learnt = self.tokenizer if step_of(model).form.reads == "pieces" else None
            made = text_rows(self.labelled.train.texts, self.reading, model, learnt)
            self._known = model, made
        found = self._known[1]
        assert found is not None
        return found

    def learnt(self, model: Any) -> Learnt:
        """Give what other texts are made ready by, for a model of this shape."""
        rows = self.rows(model)
        if isinstance(rows, BagTexts):
            return rows.idf
        return rows.tokenizer if isinstance(rows, PieceTexts) else None

    def task(self, config: Any, device: torch.device) -> TextClasses:
        """Make the task of a run whose shape is known."""
        labelled, model = self.labelled, config.model
        other = text_rows(labelled.valid.texts, self.reading, model, self.learnt(model))
        train, valid = (self.rows(model), labelled.train), (other, labelled.valid)
        return TextClasses(train, valid, labelled.classes, config, device)

    def save(self, folder: Path, model: Any) -> None:
        """Write the names of the classes, and how texts are read, into a run folder."""
        write_json(folder / CLASSES, vars(self.reading))
        learnt = self.learnt(model) if model.classes else None
        if isinstance(learnt, Tokenizer):
            learnt.save(folder / TOKENIZER)
        elif learnt is not None:
            np.save(folder / IDF, learnt)

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        labelled = self.labelled
        counts = np.bincount(labelled.train.labels, minlength=len(labelled.classes))
        shown = [f"{n} ({c:,})" for n, c in zip(labelled.classes, counts, strict=True)]
        more = f" and {len(shown) - 12:,} more" if len(shown) > 12 else ""
        test = f", {len(labelled.test):,} to score at the end" if labelled.test else ""
        middle, most = int(np.median(self.word_counts)), int(self.word_counts.max())
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
    return Texts(labelled, reading, config)


def frozen(config: LabelledConfig, folder: Path) -> LabelledConfig:
    """Give the config of a run that was begun: its tokenizer, if it has one, is in its folder."""
    own = folder / TOKENIZER
    return replace(config, tokenizer=str(own)) if own.exists() else config


def read_learnt(folder: Path) -> Learnt:
    """Give what texts are made ready by, as a run folder says it."""
    if (folder / TOKENIZER).exists():
        return load_tokenizer(folder / TOKENIZER)
    path = folder / IDF
    return np.load(path) if path.exists() else None
