"""Step 4: the LSTM, a recurrent network with gates.

A simple recurrent network rewrites its whole memory at every step, and what it learnt about the
distant past vanishes with the gradient. The LSTM keeps a second vector, c, that is only added to
and scaled: gates decide what is written, what is kept and what is said. Memory stays of fixed size,
however long the text.

    x_t = tokens E
    for each layer:  h_t, c_t = cell(x_t, h_{t-1}, c_{t-1});  x_t = h_t
    logits = h_t E^T + b

Reference: Hochreiter & Schmidhuber 1997; as a language model: Zaremba et al. 2014,
arXiv:1409.2329 (dropout between layers only).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear
from ensue.nn.recurrent import BidirectionalLSTM, LSTMLayer
from ensue.nn.shape import check_even, check_shape, check_span
from ensue.nn.vocabulary import Vocabulary
from ensue.nn.words import Words, WordVectors, most_of


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of an LSTM. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Steps through which the gradient flows in training; when decoding there is no limit."""
    d_model: int = 0
    """Width of the embedding and of each layer's h and c."""
    num_layers: int = 0
    """Layers, each reading what the one below says."""
    dropout: float = -1.0
    """Dropped in training from the embedding and from what each layer says."""
    untie_embeddings: bool = False
    """Learn the output layer apart, instead of scoring the vocabulary with the embedding."""

    def __post_init__(self) -> None:
        check_shape(self)


SIZES = {
    "xs": LSTMConfig(context_length=64, d_model=160, num_layers=1),
    "s": LSTMConfig(context_length=128, d_model=512, num_layers=1),
    "m": LSTMConfig(context_length=128, d_model=768, num_layers=2),
    "l": LSTMConfig(context_length=256, d_model=1280, num_layers=4),
}


@dataclass(frozen=True, slots=True)
class LSTMState:
    """All that an LSTM remembers."""

    h: Float[Tensor, "B L D"]
    """What each layer says."""
    c: Float[Tensor, "B L D"]
    """What each layer remembers."""


class LSTM(nn.Module):
    """An LSTM language model; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: LSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, config.d_model, config.untie_embeddings)
        self.layers = nn.ModuleList(
            LSTMLayer(config.d_model, config.d_model) for _ in range(config.num_layers)
        )
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise words and cells."""
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        layer: Any
        for layer in self.layers:
            layer.init_weights()

    def init_state(self, rows: int, memory: Any = None) -> LSTMState:
        """Give the state of rows that have read nothing: zeros."""
        shape = (rows, self.config.num_layers, self.config.d_model)
        weight = self.vocabulary.bias
        return LSTMState(weight.new_zeros(shape), weight.new_zeros(shape))

    def forward(
        self, tokens: Int[Tensor, "B T"], state: LSTMState | None = None
    ) -> tuple[Float[Tensor, "B T D"], LSTMState]:
        """Read T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        state = state or self.init_state(len(tokens))
        x = self.dropout(self.vocabulary(tokens))
        h, c = [], []
        for layer, h0, c0 in zip(
            self.layers, state.h.unbind(dim=1), state.c.unbind(dim=1), strict=True
        ):
            x, h_last, c_last = layer(x, h0, c0)
            x = self.dropout(x)
            h.append(h_last)
            c.append(c_last)
        return x, LSTMState(torch.stack(h, dim=1), torch.stack(c, dim=1))

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        weights = c.num_layers * 8 * c.d_model**2 + c.vocab_size * c.d_model
        return rows * steps * 6 * weights


@dataclass(frozen=True, kw_only=True)
class LSTMClassifierConfig:
    """Shape of a two-way LSTM that names classes. A zero (of dropout: -1): chosen with the size."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    buckets: int = 0
    """N-grams of characters that can be told apart; see `ensue.data.words`."""
    shortest_gram: int = 3
    """Characters of the shortest of them."""
    longest_gram: int = 5
    """Characters of the longest of them."""
    d_model: int = 0
    """Width of a word's vector, and of both directions of a layer together; even."""
    num_layers: int = 0
    """Layers, each reading what the one below says."""
    dropout: float = -1.0
    """Dropped in training from the words' vectors and from what is said of the whole text."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_even("d_model", self.d_model, "half of it for each direction")
        check_span("gram", self.shortest_gram, self.longest_gram)


CLASSIFIER_SIZES = {
    "xs": LSTMClassifierConfig(buckets=1 << 14, d_model=96, num_layers=1, dropout=0.4),
    "s": LSTMClassifierConfig(buckets=1 << 15, d_model=192, num_layers=1, dropout=0.4),
    "m": LSTMClassifierConfig(buckets=1 << 16, d_model=320, num_layers=1, dropout=0.4),
    "l": LSTMClassifierConfig(buckets=1 << 18, d_model=640, num_layers=2, dropout=0.4),
}


class LSTMClassifier(nn.Module):
    """Names the class of a text, read in both directions; see `ensue.tasks.labels`.

    Of each number of h the most that it says anywhere counts:

        logits = V max_t [h_t ahead, h_t back] + c
    """

    def __init__(self, config: LSTMClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        self.classes = c.classes
        self.words = WordVectors(c.buckets, c.d_model)
        self.dropout = Dropout(c.dropout)
        self.encoder = BidirectionalLSTM(c.d_model, c.num_layers, 0.0)
        self.head = Linear(c.d_model, c.classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise words and cells; no class is likelier."""
        if self.head.weight.is_meta:
            return
        self.words.init_weights()
        self.encoder.init_weights()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        length: Int[Tensor, " B"],
        grams: Int[Tensor, "U G"],
        shift: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """Give a logit for each class; the input is `ensue.nn.words.Words`."""
        x = self.dropout(self.words(Words(ids, length, grams), shift))
        said, _ = self.encoder(x, length)
        # After the maximum: before it, a step that is kept would stand in for one that is dropped.
        return self.head(self.dropout(most_of(said, length)))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        cells = 2 * 4 * (c.d_model // 2) * (c.d_model + c.d_model // 2)
        return 6 * rows * (steps * c.num_layers * cells + self.head.weight.numel())
