"""A beam's score is that of its tokens read from scratch: a law for every decoder."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from small import PAIR_MODELS
from torch import Tensor, nn

from ensue.models import step_of
from ensue.models.seq2seq_attention import (
    AttentionMemory,
    Seq2SeqAttention,
    Seq2SeqAttentionConfig,
)
from ensue.testing import LAWS, LawError, check_laws

V = 11


def test_it_is_one_of_the_laws() -> None:
    """The last: what breaks it alone breaks no simpler one."""
    assert [name for name, _, _ in LAWS][-1] == "beam"


@pytest.mark.parametrize("name", list(PAIR_MODELS))
def test_a_model_keeps_it_where_it_is_sure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Untrained models are nearly even: a score that is a little wrong looks right there."""
    monkeypatch.setattr("ensue.testing.LAWS", LAWS[-1:])
    config = PAIR_MODELS[name]
    torch.manual_seed(3)
    model: Any = step_of(config).model(replace(config, vocab_size=V, dropout=0.1))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    check_laws(model, steps=8)


class NeighboursSource(Seq2SeqAttention):
    """Lays sources out as a, b, a, b where beams lie a, a, b, b: right until a source is shared."""

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        shared = getattr(state, "memory", None)
        if shared is None or len(shared.values) == len(tokens):
            return super().forward(tokens, state)
        times = len(tokens) // len(shared.values)
        parts = (shared.values, shared.keys, shared.mask)
        laid = AttentionMemory(*(t.repeat(times, *[1] * (t.dim() - 1)) for t in parts))
        hidden, after = super().forward(tokens, replace(state, memory=laid))
        return hidden, replace(after, memory=shared)


@dataclass(frozen=True)
class Counted:
    h: Tensor
    rows: int = field(default=0)
    """How many there were at first: no tensor, so no copy of rows changes it."""


class KnowsItsRows(nn.Module):
    """Remembers for how many rows it began, and finds the newer ones' words in the older's."""

    vocab_size, max_length = V, None

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, 16)
        self.gru = nn.GRU(16, 16, batch_first=True)
        self.output = nn.Linear(16, V)

    def init_state(self, rows: int, memory: Any = None) -> Counted:
        return Counted(self.output.weight.new_zeros(rows, 16), rows)

    def forward(self, tokens: Tensor, state: Counted | None = None) -> tuple[Tensor, Any]:
        start = state or self.init_state(len(tokens))
        h = start.h
        if len(tokens) > max(3, start.rows):
            h = h[torch.arange(len(tokens)) % start.rows]
        hidden, last = self.gru(self.embedding(tokens), h[None].contiguous())
        return hidden, state and replace(state, h=last[0])

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


def neighbours_source() -> NeighboursSource:
    return NeighboursSource(
        Seq2SeqAttentionConfig(vocab_size=V, d_model=16, num_layers=1, dropout=0.0)
    )


@pytest.mark.parametrize("make", [neighbours_source, KnowsItsRows])
def test_what_is_right_until_rows_are_beams_is_caught(make: Any) -> None:
    """Every other law has a source and a beginning for each row."""
    torch.manual_seed(1)
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    with pytest.raises(LawError, match=r"4 beams go on from the first \d of row \d with") as caught:
        check_laws(model, steps=3)
    assert caught.value.law == "beam"
    assert caught.value.hint
