"""Recall: name the symbol that was seen k tokens ago. What a model keeps, and for how long.

    filler … filler   SYMBOL   filler … filler   QUERY   ->   SYMBOL
    (a lead of 0-7)            (k - 1)

Thirty-two symbols, eight fillers and the query are the whole vocabulary; fillers are drawn evenly
and mean nothing. What follows the query is the only target. In training k is drawn log-uniformly
from 1 … K: short lags, which are learnt first, lead to the long ones. The lead is there so that the
symbol is not always the first token, which a model that numbers its positions could find unread;
test rows have every lead equally often.

Rows are a pure function of (seed, index). They are drawn in groups that share k and lead, and so
have one length. A model that can look at `max_length` tokens is given the last so many of a row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.decoding.engine import evaluating
from ensue.nn.loss import cross_entropy_sum
from ensue.tasks.measures import BITS
from ensue.tasks.task import Loss, RowTask, Score

SYMBOLS, FILLERS = 32, 8
"""Of 8 symbols, 3 bits, a simple RNN of 50,000 weights that begins as a rotation keeps nearly all
as long as an LSTM does; of 32 it does not: docs/experiments.md."""
QUERY = SYMBOLS + FILLERS
VOCAB_SIZE = QUERY + 1
CHANCE = 1 / SYMBOLS
"""What a model recalls that has kept nothing."""
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Where recall is measured, up to the longest lag of a task."""
GROUP = 8
"""Training rows that are drawn together."""
LEAD = 8
"""Leads are shorter than this."""
TRAIN, VALID, TEST = range(3)
"""Three streams of rows: learnt from, chosen by, reported."""
VALID_ROWS, TEST_ROWS = 32, 256
"""Rows of each lag; 256, 32 with each lead, give a standard error of at most 0.031."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345abcdefgh?"
"""How symbols, fillers and the query are shown."""


@dataclass(frozen=True)
class Rows:
    """Rows of one length."""

    tokens: Int[Tensor, "B T"]
    """The query is the last."""
    targets: Int[Tensor, " B"]
    """The symbol of each."""


class Recall(RowTask):
    """The task, for the training loop.

    Args:
        longest: The largest lag K of the training rows.
        seed: Of the training rows; the validation rows are the same for all.
        rows: As of `RowTask`.
    """

    def __init__(self, longest: int, seed: int, rows: int = GROUP) -> None:
        super().__init__(rows)
        self.longest = longest
        self.seed = seed
        lags = [lag for lag in LAGS if lag <= longest]
        self.valid = [rows for lag in lags for rows in fixed_rows(VALID, lag, VALID_ROWS)]

    def batch(self, first: int, rows: int) -> list[Rows]:
        """Give rows `first` to `first + rows`: one member for each group that they lie in."""
        batch = []
        for group in range(first // GROUP, -(-(first + rows) // GROUP)):
            start = group * GROUP
            part = slice(max(first - start, 0), min(first + rows - start, GROUP))
            drawn = self._group(group)
            batch.append(Rows(drawn.tokens[part], drawn.targets[part]))
        return batch

    def _group(self, group: int) -> Rows:
        chosen = _generator(self.seed, TRAIN, group)
        lag = int((self.longest + 1) ** chosen.random())  # 1 … K, evenly in its logarithm
        symbols = chosen.integers(SYMBOLS, size=GROUP)
        return _draw(chosen, int(chosen.integers(LEAD)), lag, symbols)

    def count(self, batch: list[Rows]) -> int:
        """One target in each row."""
        return sum(len(rows.targets) for rows in batch)

    def loss(self, model: Any, batch: list[Rows]) -> Loss:
        """Sum the negative log-likelihood of the symbols."""
        losses = [
            cross_entropy_sum(
                model.head, _after_query(model, rows), rows.targets[:, None], VOCAB_SIZE
            )
            for rows in batch
        ]
        return Loss(torch.stack(losses).sum(), self.count(batch))

    @torch.inference_mode()
    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score all of the validation rows; there are no bytes, so bits are per target."""
        with evaluating(model):
            loss = self.loss(model, self.valid)
        mean = float(loss.total) / loss.count
        return Score(
            split="valid",
            loss=mean,
            measures={BITS.key: mean / math.log(2)},
            targets=loss.count,
            fingerprint="",
        )

    def describe(self, update: int) -> list[str]:
        """Write symbols as capitals and digits, fillers as a-h, the query as a question mark."""
        return [
            f"{''.join(LETTERS[t] for t in row)} {LETTERS[target]}"
            for part in self.batch(update * self.rows, self.rows)
            for row, target in zip(part.tokens.tolist(), part.targets.tolist(), strict=True)
        ]


@torch.inference_mode()
def recall_by_lag(model: Any, lags: Sequence[int]) -> tuple[float, ...]:
    """Give the share of symbols that a model names rightly at each lag.

    The rows are the same for every model and seed, and in none of the training streams. Each symbol
    is the target of equally many, and only symbols compete, so that to say always the same is
    `CHANCE` exactly.
    """
    with evaluating(model):
        return tuple(
            sum(_right(model, rows) for rows in fixed_rows(TEST, lag, TEST_ROWS)) / TEST_ROWS
            for lag in lags
        )


def _right(model: Any, rows: Rows) -> int:
    """Count the symbols that are named rightly."""
    said = model.head(_after_query(model, rows))[:, 0, :SYMBOLS].argmax(dim=-1)
    return int((said == rows.targets).sum())


def fixed_rows(stream: int, lag: int, rows: int) -> list[Rows]:
    """Give the rows of one lag that all seeds share, for validation or test.

    They are in groups of different leads. With one lead for all, a model that numbers its positions
    would be asked about a single pair of them.

    Args:
        stream: `VALID` or `TEST`.
        lag: Tokens from the symbol to the query.
        rows: A multiple of `SYMBOLS`. From `LEAD` times as many on every lead is there; fewer rows
            have fewer leads, each with all symbols.
    """
    chosen = _generator(0, stream, lag)
    groups = min(LEAD, rows // SYMBOLS)
    first = int(chosen.integers(LEAD))
    symbols = np.arange(rows // groups) % SYMBOLS
    return [_draw(chosen, (first + i * LEAD // groups) % LEAD, lag, symbols) for i in range(groups)]


def _generator(seed: int, stream: int, index: int) -> np.random.Generator:
    # The index is the counter's highest word: no generator ever runs into its neighbour's numbers.
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _draw(chosen: np.random.Generator, lead: int, lag: int, symbols: NDArray[np.int64]) -> Rows:
    tokens = chosen.integers(SYMBOLS, QUERY, size=(len(symbols), lead + lag + 1))
    tokens[:, lead] = symbols
    tokens[:, -1] = QUERY
    return Rows(torch.from_numpy(tokens), torch.from_numpy(symbols))


def _after_query(model: Any, rows: Rows) -> Float[Tensor, "B 1 D"]:
    """Read rows, as much of them as the model can look at, and give what it makes of the query."""
    tokens = rows.tokens if model.max_length is None else rows.tokens[:, -model.max_length :]
    hidden, _ = model(tokens)
    return hidden[:, -1:]
