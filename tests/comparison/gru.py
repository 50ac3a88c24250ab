"""A newcomer's model, as the documentation shows it; and three that fail."""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class GRUState:
    h: Tensor


class GRU(nn.Module):
    max_length = None

    def __init__(self, vocab_size: int, d_model: int = 32) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.gru = nn.GRU(d_model, d_model, batch_first=True)
        self.output = nn.Linear(d_model, vocab_size)

    def init_state(self, rows, memory=None):
        return GRUState(self.output.weight.new_zeros(rows, self.gru.hidden_size))

    def forward(self, tokens, state=None):
        start = self.init_state(len(tokens)) if state is None else state
        hidden, last = self.gru(self.embedding(tokens), start.h[None])
        return hidden, state and GRUState(last[0])

    def head(self, hidden):
        return self.output(hidden)


class Diverging(GRU):
    """Keeps every law, can be measured, and is not a number in the runs' own processes."""

    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        if self.training and sys.argv[0].endswith("cli.py"):
            hidden = hidden * torch.nan
        return hidden, state


class NeverANumber(GRU):
    """Diverges as soon as it is trained at all."""

    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        return (hidden * torch.nan if self.training else hidden), state


class Peeking(GRU):
    """Looks at what it shall predict."""

    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        return hidden + hidden.roll(-1, 1), state
