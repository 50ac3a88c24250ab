"""Language modelling: predict each token from those before it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ensue import data
from ensue.data import Corpus, DataConfig, Tokens, WindowOrder, max_window
from ensue.data.spool import Progress
from ensue.decoding.engine import evaluating
from ensue.errors import UsageError
from ensue.nn.loss import cross_entropy_sum
from ensue.tasks.measures import BITS
from ensue.tasks.task import Loss, RowTask, Score, Shape, Task, refuse_unused
from ensue.tokenizers import Tokenizer, load_tokenizer, train_tokenizer

EVAL_TOKENS = 8192
"""Tokens in one batch of evaluation: enough to fill the cores, little memory."""


@dataclass(frozen=True)
class Batch:
    """Windows of text; each target is the token after its input."""

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


class LanguageModelling(RowTask):
    """Windows of a token stream in a seeded order, and bits per byte.

    Args:
        train: The training split.
        valid: The validation split.
        tokenizer: What made their ids.
        context_length: Tokens in a window.
        seed: Of the order.
        device: Where batches go.
        rows: As of `RowTask`.
        micro_rows: As of `RowTask`.
    """

    def __init__(
        self,
        train: Tokens,
        valid: Tokens,
        tokenizer: Tokenizer,
        context_length: int,
        seed: int,
        device: torch.device,
        rows: int,
        micro_rows: int = 0,
    ) -> None:
        super().__init__(rows, micro_rows)
        self.train = train
        self.valid = valid
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.order = WindowOrder(len(train.ids), context_length, seed)
        self.device = device

    def batch(self, first: int, rows: int) -> Batch:
        """Give rows `first` to `first + rows` of the endless order."""
        starts = self.order.starts(first, rows)
        index = starts[:, None] + np.arange(self.context_length + 1)
        window = torch.from_numpy(self.train.ids[index].astype(np.int64))
        if self.device.type == "cuda":
            window = window.pin_memory().to(self.device, non_blocking=True)
        return Batch(window[:, :-1], window[:, 1:])

    def count(self, batch: Batch) -> int:
        """Every position is a target."""
        return batch.targets.numel()

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Sum the negative log-likelihood of each next token."""
        hidden, _ = model(batch.inputs)
        total = cross_entropy_sum(model.head, hidden, batch.targets, model.vocab_size)
        return Loss(total, batch.targets.numel())

    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the validation split; see `score`."""
        return score(model, self.valid, self.context_length, "valid", self.device, max_targets)

    def describe(self, update: int) -> list[str]:
        """Decode the rows of an update."""
        targets = self.batch(update * self.rows, self.rows).targets
        return [self.tokenizer.decode(row.tolist()) for row in targets]


class Text:
    """A tokenised text: what language models are trained on; see `ensue.tasks.task.Material`.

    Args:
        corpus: The text.
        tokenizer: What made its ids.
    """

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer) -> None:
        self.corpus, self.tokenizer = corpus, tokenizer
        self.fingerprint, self.notes = corpus.fingerprint, corpus.notes
        self.valid_text = corpus.valid.fingerprint
        self.train_targets, self.valid_targets = len(corpus.train.ids), len(corpus.valid.ids)

    def filled(self, model: Any) -> Any:
        """Give a config the vocabulary, and a context that both splits hold."""
        model = replace(model, vocab_size=vocabulary_of(model, self.tokenizer))
        longest = max_window(min(self.train_targets, self.valid_targets))
        return replace(model, context_length=min(model.context_length, longest))

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its rows: a multiple of the processes."""
        refuse_unused(
            train, ("batch_tokens", "label_smoothing", "word_dropout", "class_weights"), "lm"
        )
        rows = train.global_batch_size
        if not rows:
            rows = -(-max(1, tokens // model.context_length) // world) * world
        if rows % world:
            raise UsageError(
                f"train.global_batch_size {rows} is not a multiple of the {world} processes"
            )
        micro = min(train.micro_batch_size or rows // world, rows // world)
        return replace(train, global_batch_size=rows, micro_batch_size=micro)

    def targets_per_update(self, config: Any) -> float:
        """Every token of every row is a target."""
        return float(config.train.global_batch_size * config.model.context_length)

    def shapes(self, config: Any) -> list[Shape]:
        """All updates are alike."""
        return [Shape(config.train.global_batch_size, config.model.context_length)]

    def task(self, config: Any, device: torch.device) -> Task:
        """Make the task of a run whose shape is known."""
        return LanguageModelling(
            self.corpus.train,
            self.corpus.valid,
            self.tokenizer,
            config.model.context_length,
            config.seed,
            device,
            config.train.global_batch_size,
            config.train.micro_batch_size,
        )

    def save(self, folder: Path, model: Any) -> None:
        """Write the tokenizer into a run folder."""
        self.tokenizer.save(folder / "tokenizer.json")

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        train, valid, tokenizer = self.corpus.train, self.corpus.valid, self.tokenizer
        rows = [
            ("text", f"{train.num_bytes:,} bytes to learn from, {valid.num_bytes:,} held out"),
            (
                "tokens",
                f"{len(train.ids):,} of a {tokenizer.kind} tokenizer with"
                f" {tokenizer.vocab_size:,} ids",
            ),
        ]
        unspelt = train.unspelt_bytes + valid.unspelt_bytes
        if unspelt:
            rows.append(("problem", f"the tokenizer cannot spell {unspelt:,} bytes"))
        return rows


def prepare(config: DataConfig, on_progress: Progress) -> Text:
    """Read and tokenise a text, or find what was made of it before.

    Raises:
        DataError: As of `ensue.data.corpus.prepare`.
    """
    return Text(*tokenised(config, on_progress))


def tokenised(config: DataConfig, on_progress: Progress) -> tuple[Corpus, Tokenizer]:
    """Give the tokens of a text, and what made them; see `prepare`."""
    corpus = data.prepare(
        config,
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=on_progress,
    )
    return corpus, load_tokenizer(corpus.tokenizer_path)


def vocabulary_of(model: Any, tokenizer: Tokenizer) -> int:
    """Give the entries of a model's vocabulary: the tokenizer's, unless it asks for more.

    Raises:
        UsageError: It asks for fewer.
    """
    entries: int = model.vocab_size or tokenizer.vocab_size
    if entries < tokenizer.vocab_size:
        raise UsageError(
            f"model.vocab_size {entries} is smaller than the tokenizer's {tokenizer.vocab_size}"
        )
    return entries


def frozen(config: DataConfig, folder: Path) -> DataConfig:
    """Give the config of a run that was begun: its tokenizer is the one in its folder."""
    return replace(config, tokenizer=str(folder / "tokenizer.json"))


@torch.inference_mode()
def score(
    model: Any,
    text: Tokens,
    context_length: int,
    split: str,
    device: torch.device,
    max_targets: int = 0,
) -> Score:
    """Measure bits per byte by the one protocol that makes tokenizers and models comparable.

    Non-overlapping windows of the context length; each token is predicted once, the first of the
    text from the document mark before it; what the tokenizer cannot spell is charged 8 bits a byte.

    Args:
        model: A decoder; put into evaluation mode meanwhile.
        text: The split.
        context_length: Tokens in a window.
        split: Its name, for the record.
        device: Where the model is.
        max_targets: Score an evenly spread sample of about so many targets; 0: all.
    """
    targets = len(text.ids) - 1
    starts = np.arange(0, targets, context_length)
    if 0 < max_targets < targets:
        keep = max(1, max_targets // context_length)
        starts = starts[np.linspace(0, len(starts) - 1, keep).astype(np.int64)]
    rows = max(1, EVAL_TOKENS // context_length)
    total, count = 0.0, 0
    with evaluating(model):
        for batch in _batches(starts, rows, context_length, targets):
            stop = min(context_length, targets - int(batch[0]))
            index = batch[:, None] + np.arange(stop + 1)
            window = torch.from_numpy(text.ids[index].astype(np.int64)).to(device)
            hidden, _ = model(window[:, :-1])
            total += float(cross_entropy_sum(model.head, hidden, window[:, 1:], model.vocab_size))
            count += window[:, 1:].numel()
    share = count / targets
    bits = total / math.log(2) + 8 * text.unspelt_bytes * share
    return Score(
        split=split,
        loss=total / count,
        measures={BITS.key: bits / (text.num_bytes * share)},
        targets=count,
        bytes=round(text.num_bytes * share),
        fingerprint=text.fingerprint,
        sampled=share < 1,
    )


def _batches(starts: Any, rows: int, context_length: int, targets: int) -> list[Any]:
    """Group windows; the text's last, shorter one stands alone."""
    whole = starts[starts + context_length <= targets]
    batches = [whole[i : i + rows] for i in range(0, len(whole), rows)]
    return batches + [starts[i : i + 1] for i in range(len(whole), len(starts))]
