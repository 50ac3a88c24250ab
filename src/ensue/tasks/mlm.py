"""Masked language modelling: say what stood where words were masked.

It is what BERT is trained by before it is put to a task of few labels. Nothing is written, so there
are no bits per byte: the score is the loss of a masked piece, in nats, and how many are told right.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.data import Corpus, Tokens
from ensue.data.masked import NOT_ASKED, Marks, MaskedConfig, Pieces, mask, rows_of
from ensue.data.order import BucketOrder, random_shares
from ensue.data.spool import Progress
from ensue.decoding.engine import evaluating
from ensue.errors import DataError, UsageError
from ensue.nn.loss import cross_entropy_sum
from ensue.tasks.lm import Text, tokenised, vocabulary_of
from ensue.tasks.lm import frozen as frozen  # its tokenizer is in its folder, as of any text
from ensue.tasks.measures import ACCURACY, FOLLOWING, LOSS
from ensue.tasks.task import Loss, Score, Shape, refuse_unused
from ensue.tokenizers import CLS, MASK, PAD_PIECE, SEP, Tokenizer

EVAL_TOKENS, EVAL_ROWS = 8192, 512
"""Tokens in one batch of evaluation, and rows at most."""
EVAL_SEED = 0x5EED
"""What is masked in validation is the same for all runs."""
ROUNDS = 1 << 20
"""More rows than an update has: numbers its draws."""
SHAPES = 32
"""Updates whose shapes stand for all."""


@dataclass(frozen=True)
class MaskedBatch:
    """Rows of text, and what is asked of them."""

    tokens: Int[Tensor, "B T"]
    length: Int[Tensor, " B"]
    segments: Int[Tensor, "B T"]
    """0; of the second half 1, where it is asked whether it followed."""
    targets: Int[Tensor, "B T"]
    strange: Int[Tensor, " B"]
    """1 where the second half stands elsewhere."""


def marks_of(tokenizer: Tokenizer) -> Marks:
    """Give the ids that frame and mask a text."""
    ids = tokenizer.specials
    text = np.setdiff1d(np.arange(tokenizer.vocab_size), [*ids.values()])
    return Marks(ids[CLS], ids[SEP], ids[MASK], ids[PAD_PIECE], text, tokenizer.continues)


class MaskedRows:
    """The rows of a split, framed and masked as they are asked for.

    Args:
        tokens: The split.
        tokenizer: What made its ids.
        masking: How much is masked, and whether halves are exchanged.
        context_length: Places of the model.
    """

    def __init__(
        self, tokens: Tokens, tokenizer: Tokenizer, masking: MaskedConfig, context_length: int
    ) -> None:
        self.tokens, self.tokenizer, self.masking = tokens, tokenizer, masking
        self.marks = marks_of(tokenizer)
        most = context_length - 2 - masking.next_sentence
        ids = np.asarray(tokens.ids)
        found = rows_of(ids, tokenizer.eos_id, most, masking.short_rows)
        if not len(found.starts):
            raise DataError("there is no text in it", "Give a longer text.")
        known = self.marks.is_text[ids]
        asked = np.logical_or.reduceat(known, found.starts)  # of the others all is unknown
        if not asked.any():
            raise DataError(
                "its tokenizer knows no word of it",
                "Give more text like that which the tokenizer was learnt from, or another"
                " tokenizer.",
            )
        self.pieces = Pieces(found.starts[asked], found.lengths[asked])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Pieces of each row."""
        return self.pieces.lengths

    def batch(
        self, rows: NDArray[np.int64], seed: int, first: int, device: torch.device
    ) -> MaskedBatch:
        """Frame rows and mask words of them; `first` numbers the draws."""
        marks, asks = self.marks, self.masking.next_sentence
        strange = np.zeros(len(rows), dtype=np.int64)
        halves = [self._cut(row) for row in rows.tolist()]
        if asks:
            drawn = random_shares(seed ^ FOLLOWS, first, len(rows), 2)
            strange = (drawn[:, 0] < 0.5).astype(np.int64)
            others = (drawn[:, 1].astype(np.float64) * len(self.lengths)).astype(np.int64)
            for i in np.flatnonzero(strange).tolist():
                other = self._cut(int(others[i]))[1]
                halves[i] = halves[i][0], other[: max(1, len(halves[i][1]))]
        between = [marks.sep] if asks else []
        framed = [[marks.cls, *a, *between, *b, marks.sep] for a, b in halves]
        length = np.array([len(row) for row in framed], dtype=np.int64)
        tokens = np.full((len(rows), int(length.max())), marks.pad, dtype=np.int64)
        segments = np.zeros_like(tokens)
        for line, segment, row, (a, _) in zip(tokens, segments, framed, halves, strict=True):
            line[: len(row)] = row
            segment[len(a) + 2 : len(row)] = asks
        masked = mask(tokens, self.masking, marks, seed, first)
        made = (masked.ids, length, segments, masked.targets, strange)
        return MaskedBatch(*(torch.from_numpy(t).to(device) for t in made))

    def _cut(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the two halves of a row."""
        start, size = int(self.pieces.starts[row]), int(self.lengths[row])
        ids = np.asarray(self.tokens.ids[start : start + size]).astype(np.int64)
        return ids[: size - size // 2], ids[size - size // 2 :]


FOLLOWS = 0xF0110
"""Apart from the draws of what is masked: those of halves that are exchanged."""


class MaskedLanguageModelling:
    """Rows of like length in a seeded order, with other words masked each time.

    Args:
        train: What is learnt from.
        valid: What is chosen on.
        config: Of the run.
        device: Where batches go.
    """

    def __init__(
        self, train: MaskedRows, valid: MaskedRows, config: Any, device: torch.device
    ) -> None:
        self.train, self.valid = train, valid
        self.seed, self.device = config.seed, device
        self.micro_rows = config.train.micro_batch_size
        self.order = BucketOrder([train.lengths], config.train.batch_tokens, config.seed)

    def batches(self, update: int, rank: int = 0, world: int = 1) -> list[MaskedBatch]:
        """Give the micro-batches of an update that are this process's."""
        rows = self.order.rows(update)
        mine = np.array_split(np.arange(len(rows)), world)[rank]
        if not len(mine):  # more processes than rows: something must be computed, and not scored
            empty = self._batch(rows[:1], update, 0)
            return [replace(empty, targets=torch.full_like(empty.targets, NOT_ASKED))]
        micro = self.micro_rows or len(mine)
        parts = [mine[i : i + micro] for i in range(0, len(mine), micro)]
        return [self._batch(rows[part], update, int(part[0])) for part in parts]

    def _batch(self, rows: NDArray[np.int64], update: int, place: int) -> MaskedBatch:
        return self.train.batch(rows, self.seed, update * ROUNDS + place, self.device)

    def ids(self, update: int) -> list[int]:
        """Number the rows of an update, from 0."""
        return [int(row) for row in self.order.rows(update)]

    def count(self, batch: MaskedBatch) -> int:
        """Count what is asked."""
        return int((batch.targets != NOT_ASKED).sum())

    def loss(self, model: Any, batch: MaskedBatch) -> Loss:
        """Sum the negative log-likelihood of what is masked.

        Where it is asked whether halves followed, the loss of that is added: of a row as often as
        pieces are asked for in it, so that an update is the same however it is cut.
        """
        hidden = model(batch.tokens, batch.length, batch.segments)
        total = cross_entropy_sum(model.head, hidden, batch.targets, model.vocab_size)
        count = self.count(batch)
        if self.train.masking.next_sentence:
            said = model.follows(hidden).float()
            follows = F.cross_entropy(said, batch.strange, reduction="none")
            total = total + ((batch.targets != NOT_ASKED).sum(dim=1) * follows).sum()
        return Loss(total, count)

    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the validation split, or an even sample of its rows; see `score`."""
        return score(model, self.valid, "valid", self.device, max_targets)

    def describe(self, update: int) -> list[str]:
        """Show the first rows of an update as the model is shown them, and what is asked."""
        batch = self._batch(self.order.rows(update)[:4], update, 0)
        lines = []
        for ids, length, targets in zip(batch.tokens, batch.length, batch.targets, strict=True):
            shown = self._words(ids[: int(length)].tolist())
            asked = self._words(targets[targets != NOT_ASKED].tolist())
            lines.append(f"{shown}   (asked: {asked})")
        return lines

    def _words(self, ids: list[int]) -> str:
        return " ".join(map(self.train.tokenizer.token_text, ids)).replace(" ##", "")


@torch.inference_mode()
def score(
    model: Any, rows: MaskedRows, split: str, device: torch.device, max_targets: int = 0
) -> Score:
    """Score a split, always masked alike: the loss of what is masked, and how many are told right.

    Args:
        model: Put into evaluation mode meanwhile.
        rows: The split.
        split: Its name, for the record.
        device: Where the model is.
        max_targets: Score an even sample of rows with about so many targets; 0: all.
    """
    lengths = rows.lengths
    some = np.arange(len(lengths))
    expected = rows.masking.mask_fraction * int(lengths.sum())
    if 0 < max_targets < expected:
        keep = max(1, int(len(some) * max_targets / expected))
        some = some[np.linspace(0, len(some) - 1, keep).astype(np.int64)]
    order = some[np.argsort(lengths[some], kind="stable")]
    total, count, right, following, done = 0.0, 0, 0, 0, 0
    with evaluating(model):
        while done < len(order):
            few = order[done : done + EVAL_ROWS]
            few = few[: max(1, EVAL_TOKENS // int(lengths[few].max()))]
            batch = rows.batch(few, EVAL_SEED, done, device)
            done += len(few)
            hidden = model(batch.tokens, batch.length, batch.segments)
            asked = batch.targets != NOT_ASKED
            logits, targets = model.head(hidden[asked]).float(), batch.targets[asked]
            total += float(F.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(dim=1) == targets).sum())
            count += len(targets)
            if rows.masking.next_sentence:
                said = model.follows(hidden).argmax(dim=1)
                following += int((said == batch.strange).sum())
    count = max(1, count)  # of few rows, with halves exchanged, nothing may be asked
    measures = {ACCURACY.key: 100 * right / count}
    if rows.masking.next_sentence:
        measures[FOLLOWING.key] = 100 * following / len(order)
    return Score(
        split=split,
        loss=total / count,
        measures=measures,
        targets=count,
        fingerprint=rows.tokens.fingerprint,
        sampled=len(order) < len(lengths),
        kept_by=LOSS,
    )


class MaskedText(Text):
    """A tokenised text whose words are masked; see `ensue.tasks.task.Material`.

    Args:
        corpus: The text.
        tokenizer: What made its ids.
        config: What is masked.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, config: MaskedConfig) -> None:
        super().__init__(corpus, tokenizer)
        self.config = config
        self.train_targets = max(1, round(config.mask_fraction * self.train_targets))
        self.valid_targets = max(1, round(config.mask_fraction * self.valid_targets))
        self._known: dict[tuple[str, int], MaskedRows] = {}

    def filled(self, model: Any) -> Any:
        """Give a config the vocabulary."""
        model = replace(model, vocab_size=vocabulary_of(model, self.tokenizer))
        if model.context_length < 8:
            raise UsageError(
                f"model.context_length {model.context_length} is too short for a text with marks",
                "Give at least 8.",
            )
        return replace(model, next_sentence=self.config.next_sentence)

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its tokens; rows are shared among the processes as they come."""
        unused = ("global_batch_size", "label_smoothing", "word_dropout", "class_weights")
        refuse_unused(train, unused, "mlm")
        return replace(train, batch_tokens=train.batch_tokens or tokens)

    def rows(self, split: Tokens, model: Any) -> MaskedRows:
        """Cut a split into rows that a model of this shape reads."""
        key = split.fingerprint, model.context_length
        if key not in self._known:
            self._known[key] = MaskedRows(split, self.tokenizer, self.config, key[1])
        return self._known[key]

    def _order(self, config: Any) -> BucketOrder:
        lengths = self.rows(self.corpus.train, config.model).lengths
        return BucketOrder([lengths], config.train.batch_tokens, 0)

    def targets_per_update(self, config: Any) -> float:
        """Give the mean over an epoch."""
        return self.train_targets / self._order(config).updates_per_epoch

    def shapes(self, config: Any) -> list[Shape]:
        """Give the shapes of updates spread over an epoch."""
        order, lengths = self._order(config), self.rows(self.corpus.train, config.model).lengths
        updates = order.updates_per_epoch
        some = np.unique(np.linspace(0, updates - 1, min(updates, SHAPES)).astype(np.int64))
        rows = [order.rows(update) for update in some.tolist()]
        return [Shape(len(mine), int(lengths[mine].max()) + 2) for mine in rows]

    def task(self, config: Any, device: torch.device) -> MaskedLanguageModelling:
        """Make the task of a run whose shape is known."""
        train, valid = (
            self.rows(split, config.model) for split in (self.corpus.train, self.corpus.valid)
        )
        return MaskedLanguageModelling(train, valid, config, device)

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        return [*super().facts(), ("masked", f"{self.config.mask_fraction:.0%} of the pieces")]


def prepare(config: MaskedConfig, on_progress: Progress) -> MaskedText:
    """Read and tokenise a text, or find what was made of it before.

    Raises:
        DataError: As of `ensue.data.corpus.prepare`.
    """
    return MaskedText(*tokenised(config, on_progress), config)
