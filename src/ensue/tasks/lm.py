"""Language modelling: predict each token from those before it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ensue.data import Tokens, WindowOrder
from ensue.decoding.engine import evaluating
from ensue.nn.loss import cross_entropy_sum
from ensue.tasks.task import Loss, Score
from ensue.tokenizers import Tokenizer

EVAL_TOKENS = 8192
"""Tokens in one batch of evaluation: enough to fill the cores, little memory."""


@dataclass(frozen=True)
class Batch:
    """Windows of text; each target is the token after its input."""

    inputs: Int[Tensor, "B T"]
    targets: Int[Tensor, "B T"]


class LanguageModelling:
    """Windows of a token stream in a seeded order, and bits per byte.

    Args:
        train: The training split.
        valid: The validation split.
        tokenizer: What made their ids.
        context_length: Tokens in a window.
        seed: Of the order.
        device: Where batches go.
    """

    def __init__(
        self,
        train: Tokens,
        valid: Tokens,
        tokenizer: Tokenizer,
        context_length: int,
        seed: int,
        device: torch.device,
    ) -> None:
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

    def describe(self, first: int, rows: int) -> list[str]:
        """Decode the rows."""
        targets = self.batch(first, rows).targets
        return [self.tokenizer.decode(row.tolist()) for row in targets]


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
        bits_per_byte=bits / (text.num_bytes * share),
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
