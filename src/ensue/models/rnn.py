"""Step 3: the simple recurrent network, which carries one vector along the text.

A window forgets what lies outside it. A recurrent network reads one token at a time and keeps a
vector h of what it has read; the same three matrices, U, W and V, serve every step. Its memory is
of fixed size, however long the text, and is rewritten at each step: what was read long ago has
passed through W again and again, and so has its gradient.

    h_t = tanh(U x_t + W h_{t-1} + b)        x_t: the token's embedding, or the layer below
    logits = V h_t + c                       V is the embedding itself, unless untied

Reference: Elman 1990, "Finding structure in time"; as a language model: Mikolov et al. 2010.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.capture import tap
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear
from ensue.nn.recurrent import RNNWeights, reversed_rows, rnn_sequence
from ensue.nn.shape import check_shape, check_span
from ensue.nn.vocabulary import Vocabulary
from ensue.nn.words import Words, WordVectors, most_of


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """Shape of an RNN. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Steps through which the gradient flows in training; when decoding there is no limit."""
    d_model: int = 0
    """Width of the embedding and of each layer's h."""
    num_layers: int = 0
    """Layers, each reading what the one below says."""
    dropout: float = -1.0
    """Dropped in training from the embedding and from what each layer says."""
    untie_embeddings: bool = False
    """Learn V apart, instead of scoring the vocabulary with the embedding."""

    def __post_init__(self) -> None:
        check_shape(self)


SIZES = {
    "xs": RNNConfig(context_length=64, d_model=480, num_layers=1),
    "s": RNNConfig(context_length=128, d_model=1344, num_layers=1),
    "m": RNNConfig(context_length=128, d_model=1440, num_layers=2),
    "l": RNNConfig(context_length=256, d_model=3072, num_layers=4),
}


@dataclass(frozen=True, slots=True)
class RNNState:
    """All that an RNN remembers."""

    h: Float[Tensor, "B L D"]
    """What each layer said last."""


class RNNLayer(nn.Module):
    """The cell's weights, and the cell over a sequence."""

    def __init__(self, d_input: int, d_model: int) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(d_model, d_input))
        self.W = nn.Parameter(torch.empty(d_model, d_model))
        self.b = nn.Parameter(torch.empty(d_model))

    def forward(
        self, x: Float[Tensor, "B T X"], h: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B D"]]:
        """Read T steps."""
        said, h = rnn_sequence(x, h, RNNWeights(self.U, self.W, self.b))
        tap(self, "h", said)
        return said, h


def init_layers(layers: nn.ModuleList, d_model: int) -> None:
    """Initialise each W as a rotation, the rest uniformly within 1/sqrt(D)."""
    bound = d_model**-0.5
    for name, weight in layers.named_parameters():
        if name.endswith("W"):
            nn.init.orthogonal_(weight)
        else:
            nn.init.uniform_(weight, -bound, bound)


class RNN(nn.Module):
    """A simple recurrent language model; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, config.d_model, config.untie_embeddings)
        self.layers = nn.ModuleList(
            RNNLayer(config.d_model, config.d_model) for _ in range(config.num_layers)
        )
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise W as a rotation, which neither forgets nor explodes, the rest uniformly.

        Reference: Saxe et al. 2014, arXiv:1312.6120 (orthogonal weights).
        """
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        init_layers(self.layers, self.config.d_model)

    def init_state(self, rows: int, memory: Any = None) -> RNNState:
        """Give the state of rows that have read nothing: zeros."""
        c = self.config
        return RNNState(self.vocabulary.bias.new_zeros(rows, c.num_layers, c.d_model))

    def forward(
        self, tokens: Int[Tensor, "B T"], state: RNNState | None = None
    ) -> tuple[Float[Tensor, "B T D"], RNNState]:
        """Read T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        state = state or self.init_state(len(tokens))
        x = self.dropout(self.vocabulary(tokens))
        last = []
        for layer, h in zip(self.layers, state.h.unbind(dim=1), strict=True):
            x, h = layer(x, h)
            x = self.dropout(x)
            last.append(h)
        return x, RNNState(torch.stack(last, dim=1))

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        weights = c.num_layers * 2 * c.d_model**2 + c.vocab_size * c.d_model
        return rows * steps * 6 * weights


@dataclass(frozen=True, kw_only=True)
class RNNClassifierConfig:
    """Shape of an RNN that names classes. A zero (of dropout: -1): chosen with the size."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    buckets: int = 0
    """N-grams of characters that can be told apart; see `ensue.data.words`."""
    shortest_gram: int = 3
    """Characters of the shortest of them."""
    longest_gram: int = 5
    """Characters of the longest of them."""
    d_model: int = 0
    """Width of a word's vector, and of each layer's h in each direction."""
    num_layers: int = 0
    """Layers, each reading what the one below says."""
    dropout: float = -1.0
    """Dropped in training from the words' vectors and from what is said of the whole text."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_span("gram", self.shortest_gram, self.longest_gram)


CLASSIFIER_SIZES = {
    "xs": RNNClassifierConfig(buckets=1 << 14, d_model=64, num_layers=1, dropout=0.4),
    "s": RNNClassifierConfig(buckets=1 << 15, d_model=128, num_layers=1, dropout=0.4),
    "m": RNNClassifierConfig(buckets=1 << 16, d_model=192, num_layers=1, dropout=0.4),
    "l": RNNClassifierConfig(buckets=1 << 18, d_model=320, num_layers=2, dropout=0.4),
}


class RNNClassifier(nn.Module):
    """Names the class of a text, read in both directions; see `ensue.tasks.labels`.

    Of each number of h the most that it says anywhere counts:

        h_t = tanh(U x_t + W h_{t-1} + b),  and with weights of its own from the text's end
        logits = V max_t [h_t ahead, h_t back] + c
    """

    def __init__(self, config: RNNClassifierConfig) -> None:
        super().__init__()
        self.config = c = config
        self.classes = c.classes
        self.words = WordVectors(c.buckets, c.d_model)
        widths = [c.d_model] + [2 * c.d_model] * (c.num_layers - 1)
        self.ahead = nn.ModuleList(RNNLayer(width, c.d_model) for width in widths)
        self.back = nn.ModuleList(RNNLayer(width, c.d_model) for width in widths)
        self.dropout = Dropout(c.dropout)
        self.head = Linear(2 * c.d_model, c.classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise W as a rotation, as of the language model."""
        if self.head.weight.is_meta:
            return
        self.words.init_weights()
        init_layers(self.ahead, self.config.d_model)
        init_layers(self.back, self.config.d_model)
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
        zeros = x.new_zeros(len(x), self.config.d_model)
        for ahead, back in zip(self.ahead, self.back, strict=True):
            there, _ = ahead(x, zeros)
            again, _ = back(reversed_rows(x, length), zeros)
            x = torch.cat([there, reversed_rows(again, length)], dim=-1)
        # After the maximum: before it, a step that is kept would stand in for one that is dropped.
        return self.head(self.dropout(most_of(x, length)))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        cells = 2 * c.d_model**2 * (2 * c.num_layers + c.num_layers - 1)
        return 6 * rows * (steps * cells + self.head.weight.numel())
