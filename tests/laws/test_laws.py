"""The laws of every decoder, and that `check_laws` finds each kind of mistake by its name."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.errors import EnsueError, UsageError
from ensue.models.cnn import CNN, CNNConfig
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.models.lstm import LSTM, LSTMConfig
from ensue.models.mlp import MLP, MLPConfig
from ensue.models.rnn import RNN, RNNConfig
from ensue.models.seq2seq import Seq2Seq, Seq2SeqConfig
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig
from ensue.models.transformer import Transformer, TransformerConfig
from ensue.nn.state import KVCache, join_rows
from ensue.testing import LawError, check_laws

V = 11


@dataclass(frozen=True)
class Nothing:
    unused: Tensor


class Uniform:
    """Every token is as likely as any other; no module, no weights."""

    vocab_size = V
    max_length = None

    def init_state(self, rows: int, memory: Any = None) -> Nothing:
        return Nothing(torch.zeros(rows))

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return torch.zeros(*tokens.shape, 1), state

    def head(self, hidden: Tensor) -> Tensor:
        return hidden.expand(*hidden.shape[:-1], V)


@dataclass(frozen=True)
class GRUState:
    h: Tensor


class GRU(nn.Module):
    """The example of the documentation."""

    max_length = None

    def __init__(self, vocab_size: int = V, d_model: int = 16) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.gru = nn.GRU(d_model, d_model, batch_first=True)
        self.output = nn.Linear(d_model, vocab_size)

    def init_state(self, rows: int, memory: Any = None) -> GRUState:
        return GRUState(self.output.weight.new_zeros(rows, self.gru.hidden_size))

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        start = self.init_state(len(tokens)) if state is None else state
        hidden, last = self.gru(self.embedding(tokens), start.h[None])
        return hidden, state and GRUState(last[0])

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


class Attention(nn.Module):
    """One head of causal attention over a K/V cache, with learnt positions."""

    def __init__(self, context_length: int = 16, d_model: int = 8) -> None:
        super().__init__()
        self.vocab_size, self.max_length = V, context_length
        self.embedding = nn.Embedding(V, d_model)
        self.position = nn.Embedding(context_length, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.dropout = nn.Dropout(0.5)  # must be off while the laws are checked
        self.output = nn.Linear(d_model, V)

    def init_state(self, rows: int, memory: Any = None) -> KVCache:
        weight = self.output.weight
        return KVCache.empty(rows, 1, self.max_length, 1, weight.shape[1], weight)

    def places(self, state: KVCache, steps: int) -> Tensor:
        return state.positions(steps)

    def mask(self, places: Tensor) -> Tensor:
        return torch.arange(self.max_length) <= places[..., None]  # (B, T, S)

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        kept = self.init_state(len(tokens)) if state is None else state
        places = self.places(kept, tokens.shape[1])
        x = self.dropout(self.embedding(tokens) + self.position(places))
        q, k, v = self.qkv(x).unsqueeze(2).chunk(3, dim=-1)
        kept.write(0, places, k, v)
        weights = q.squeeze(2) @ kept.k[:, 0, :, 0].mT
        weights = weights.masked_fill(~self.mask(places), -torch.inf).softmax(dim=-1)
        return x + weights @ kept.v[:, 0, :, 0], state and kept.advanced(tokens.shape[1])

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


SMALL: dict[str, Any] = {"vocab_size": V, "context_length": 16, "dropout": 0.1}


PAIRS: dict[str, Any] = {"vocab_size": V, "src_vocab_size": 7, "d_model": 16, "num_layers": 2}


def attention_config(**changed: Any) -> Seq2SeqAttentionConfig:
    return Seq2SeqAttentionConfig(**{**PAIRS, "dropout": 0.1, **changed})


def transformer_config(**changed: Any) -> TransformerConfig:
    return TransformerConfig(
        **{**PAIRS, "dropout": 0.1, "context_length": 80, "num_heads": 2, **changed}
    )


def tiny_gpt2(**changed: Any) -> GPT2:
    config = GPT2Config(**{**SMALL, **changed}, d_model=16, num_layers=2, num_heads=2)
    return GPT2(config)


DECODERS: list[tuple[str, Callable[[], Any]]] = [
    ("uniform", Uniform),
    ("gru", GRU),
    ("attention", Attention),
    ("mlp", lambda: MLP(MLPConfig(window=4, d_model=16, num_layers=2, **SMALL))),
    ("cnn", lambda: CNN(CNNConfig(d_model=16, num_layers=3, **SMALL))),
    ("rnn", lambda: RNN(RNNConfig(d_model=16, num_layers=2, **SMALL))),
    ("lstm", lambda: LSTM(LSTMConfig(d_model=16, num_layers=2, **SMALL))),
    ("gpt2", lambda: tiny_gpt2(context_length=80)),
    ("gpt", lambda: tiny_gpt2(context_length=24, post_norm=True)),
    ("seq2seq", lambda: Seq2Seq(Seq2SeqConfig(dropout=0.1, **PAIRS))),
    ("attention-dot", lambda: Seq2SeqAttention(attention_config())),
    ("attention-additive", lambda: Seq2SeqAttention(attention_config(score="additive"))),
    ("transformer", lambda: Transformer(transformer_config())),
    ("transformer-pre-norm", lambda: Transformer(transformer_config(pre_norm=True))),
    ("transformer-learned", lambda: Transformer(transformer_config(positions="learned"))),
]


@pytest.mark.parametrize("make", [make for _, make in DECODERS], ids=[name for name, _ in DECODERS])
@pytest.mark.parametrize("steps", [3, 12])
def test_every_decoder_keeps_the_laws(make, steps):
    torch.manual_seed(1)
    check_laws(make(), steps=steps)


def test_a_cache_that_grows_keeps_the_laws():
    """GPT-2's cache grows by 64 slots: rows on both sides of the step must still agree."""
    torch.manual_seed(1)
    check_laws(tiny_gpt2(context_length=70), steps=70)


class Peeks(Attention):
    """Looks one position ahead."""

    def mask(self, places):
        return torch.arange(self.max_length) <= places[..., None] + 1


class PeeksInTraining(GRU):
    """Reads backwards, but only without a state: training looks wonderful."""

    def forward(self, tokens, state=None):
        hidden, after = super().forward(tokens, state)
        return (hidden if state else hidden.flip(1)), after


class LeaksRows(GRU):
    """Normalises over the batch."""

    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        return hidden - hidden.mean(dim=0), state


class IgnoresState(GRU):
    """Starts from zeros at every call."""

    def forward(self, tokens, state=None):
        return super().forward(tokens, state and self.init_state(len(tokens)))


class RestartsPositions(Attention):
    """Counts positions from 0 at every call."""

    def places(self, state, steps):
        return torch.arange(steps).expand(len(state.length), steps)


class OnePositionForAll(Attention):
    """Takes the position of the longest row for all of them: right until rows are ragged."""

    def places(self, state, steps):
        return replace(state, length=state.length.max().expand_as(state.length)).positions(steps)


class KeepsOnModule(GRU):
    """Remembers on the module instead of in the state."""

    h: Any = None

    def forward(self, tokens, state=None):
        if state is not None and self.h is not None and len(self.h) == len(tokens):
            state = GRUState(self.h)
        hidden, after = super().forward(tokens, state)
        self.h = after and after.h
        return hidden, after


@dataclass(frozen=True)
class BoxedState:
    rows: Tensor
    box: list[Tensor]


class HidesFromCopies(GRU):
    """Keeps its memory where select_rows cannot see it."""

    def init_state(self, rows, memory=None):
        return BoxedState(torch.zeros(rows), [super().init_state(rows).h])

    def forward(self, tokens, state=None):
        kept = state if state is not None else self.init_state(len(tokens))
        hidden, last = self.gru(self.embedding(tokens), kept.box[0][None])
        kept.box[0] = last[0]
        return hidden, state


class DropsInEvaluation(GRU):
    """Applies dropout whatever the mode."""

    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        return F.dropout(hidden, 0.5, training=True), state


class TupleState(GRU):
    def init_state(self, rows, memory=None):
        return (super().init_state(rows).h,)


class LogitsOfTheLast(GRU):
    def head(self, hidden):
        return super().head(hidden[:, -1])


class NoHead:
    vocab_size = V
    max_length = None

    def init_state(self, rows, memory=None):
        return Nothing(torch.zeros(rows))

    def __call__(self, tokens, state=None):
        return torch.zeros(*tokens.shape, 1), state


BROKEN = [
    (Peeks, "causal"),
    (PeeksInTraining, "causal"),
    (LeaksRows, "rows"),
    (IgnoresState, "split"),
    (RestartsPositions, "split"),
    (OnePositionForAll, "ragged"),
    (KeepsOnModule, "state"),
    (HidesFromCopies, "contract"),
    (DropsInEvaluation, "state"),
    (TupleState, "contract"),
    (LogitsOfTheLast, "contract"),
    (NoHead, "contract"),
]


@pytest.mark.parametrize(("broken", "law"), BROKEN, ids=[b.__name__ for b, _ in BROKEN])
def test_a_broken_decoder_is_caught_by_the_law_it_breaks(broken, law):
    torch.manual_seed(1)
    with pytest.raises(LawError) as caught:
        check_laws(broken())
    assert caught.value.law == law, str(caught.value)


class LogitsOnly(GRU):
    """As most models are written that know no state."""

    def forward(self, tokens, state=None):
        return self.head(super().forward(tokens, state)[0])


class NoState(GRU):
    def forward(self, tokens):
        return super().forward(tokens)


class LayersFirst(GRU):
    """The layout of nn.GRU itself."""

    def init_state(self, rows, memory=None):
        return GRUState(torch.zeros(2, rows, 4))


class ThreeDimensions(GRU):
    def head(self, hidden):
        rows, steps, _ = hidden.shape
        return super().head(hidden).view(rows, steps, V)


class Stumbles(GRU):
    """Cannot go on from a state after the first token."""

    def forward(self, tokens, state=None):
        if state is not None and tokens.shape[1] == 2:
            raise IndexError("index 2 is out of range")
        return super().forward(tokens, state)


EXPLAINED = [
    (
        LogitsOnly,
        r"model\(tokens\) with tokens of shape \(3, 1\) gave a Tensor of shape \(3, 1, 11\)",
    ),
    (NoState, r"model\(tokens, state\) with tokens of shape \(3, 1\): TypeError"),
    (HidesFromCopies, r"init_state\(3\) gave BoxedState.box, a list"),
    (LayersFirst, r"GRUState.h of shape \(2, 3, 4\): the first of it is not the 3 rows"),
    (ThreeDimensions, r"head\(hidden\) with hidden of shape \(3, 16\): ValueError"),
    (Stumbles, "2 tokens: IndexError: index 2"),
]


@pytest.mark.parametrize(("broken", "words"), EXPLAINED, ids=[b.__name__ for b, _ in EXPLAINED])
def test_the_commonest_mistakes_are_answered_in_words(broken, words):
    """Each was a traceback of our own lines, or passed until the run was over."""
    with pytest.raises(LawError, match=words) as caught:
        check_laws(broken())
    assert caught.value.hint


class LayerAsHead(nn.Module):
    """Its head is an nn.Linear, which nn.Module keeps in a dictionary of its own."""

    vocab_size, max_length = V, None

    def __init__(self):
        super().__init__()
        self.inner = GRU()
        self.head = nn.Linear(16, V)

    def init_state(self, rows, memory=None):
        return self.inner.init_state(rows)

    def forward(self, tokens, state=None):
        return self.inner(tokens, state)


def test_a_head_that_is_a_layer_is_a_head():
    """From Python 3.12 isinstance with a protocol misses it, and the message named nothing."""
    check_laws(LayerAsHead())


def test_the_smallest_example_is_shown():
    """A message about 12 tokens is no help where 2 show the mistake."""
    torch.manual_seed(1)
    with pytest.raises(
        LawError, match="2 tokens, without a state; others after the first 1 change these"
    ):
        check_laws(Peeks())
    with pytest.raises(LawError, match=r"2 tokens read at once, and in pieces of \[1, 1\]"):
        check_laws(IgnoresState())


class DrawsFromTheBatch(GRU):
    """Depends on how many rows there are, in the third token of a row only."""

    def forward(self, tokens, state=None):
        hidden, after = super().forward(tokens, state)
        return hidden + (0.01 * len(tokens) if tokens.shape[1] == 1 else 0.0), after


def test_a_leak_in_single_steps_alone_is_caught():
    torch.manual_seed(1)
    with pytest.raises(LawError) as caught:
        check_laws(DrawsFromTheBatch())
    assert caught.value.law in ("rows", "split", "ragged")


def test_a_law_error_is_an_assertion_and_one_of_ours():
    """So that pytest shows it as a failure, and the command line without a traceback."""
    assert issubclass(LawError, AssertionError)
    assert issubclass(LawError, EnsueError)


def test_the_mode_is_left_as_it_was():
    """A check in the middle of training must not switch dropout off for the rest of it."""
    model = Attention().train()
    model.output.eval()
    check_laws(model)
    assert model.training
    assert model.dropout.training
    assert not model.output.training


@pytest.mark.parametrize("given", [{"steps": 2}, {"tolerance": 0.0}, {"tolerance": float("nan")}])
def test_a_check_that_checks_nothing_is_refused(given):
    with pytest.raises(UsageError):
        check_laws(Uniform(), **given)


def test_a_class_in_place_of_a_model_is_explained():
    with pytest.raises(UsageError, match="GRU is a class"):
        check_laws(GRU)


TELLERS: list[tuple[str, Callable[[], Any]]] = [(n, m) for n, m in DECODERS[-6:]]


@pytest.mark.parametrize("make", [make for _, make in TELLERS], ids=[name for name, _ in TELLERS])
def test_a_source_is_read_as_if_it_were_alone(make):
    """Padding and the sources beside it change nothing; rows of different sources can be joined."""
    torch.manual_seed(1)
    model = make().eval()
    length = torch.tensor([5, 2, 7, 1])
    sources = torch.randint(7, (4, 7))
    targets = torch.randint(V, (4, 6))
    with torch.inference_mode():
        together = model.encode(sources, length)
        hidden, state = model(targets, model.init_state(4, together))
        told = model.head(hidden)
        padded = torch.where(torch.arange(7) < length[:, None], sources, (sources + 3) % 7)
        again, _ = model(targets, model.encode(padded, length))
        torch.testing.assert_close(model.head(again), told, rtol=1e-5, atol=1e-5)
        states = []
        for i, n in enumerate(length.tolist()):
            alone = model.encode(sources[i : i + 1, :n], length[i : i + 1])
            mine, after = model(targets[i : i + 1], model.init_state(1, alone))
            torch.testing.assert_close(model.head(mine), told[i : i + 1], rtol=1e-5, atol=1e-5)
            states.append(after)
        joined, _ = model(targets[:, :1], join_rows(states))
        expected, _ = model(targets[:, :1], state)
        torch.testing.assert_close(model.head(joined), model.head(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [make for _, make in TELLERS], ids=[name for name, _ in TELLERS])
def test_the_source_matters(make):
    """A decoder that never looks at its memory keeps every other law."""
    torch.manual_seed(1)
    model = make().eval()
    targets, length = torch.randint(V, (1, 4)), torch.tensor([5])
    with torch.inference_mode():
        one, other = (
            model.head(model(targets, model.encode(s, length))[0])
            for s in (torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 6, 4, 5]]))
        )
    assert float((one - other).abs().max()) > 1e-3
