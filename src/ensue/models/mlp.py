"""Step 1: the fully connected network.

A fully connected network takes a vector of fixed length: layers y = f(W x + b). A picture is such a
vector, its pixels laid side by side (`MLPClassifier`):

    h = f(W_1 x + b_1);  h = f(W h + b) for each further layer
    logits = V h + c

To predict text it is shown a window, the embeddings of the last N tokens laid side by side (`MLP`).
Each place in the window, as each pixel, has its own weights, so nothing learnt at one place helps
at another; and what lies outside the window does not exist.

    x_t = [E w_{t-N+1}, …, E w_t]
    h = f(H x_t + d);  h = f(W h + b) for each further layer
    logits = E (U h + a) + c

Reference: Rosenblatt 1958; Rumelhart et al. 1986. Of text: Bengio et al. 2003, "A Neural
Probabilistic Language Model". Departures: GELU in place of tanh, the output layer is the embedding,
no direct connections from x to the output.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.capture import tap
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding, gelu
from ensue.nn.precision import product_dtype
from ensue.nn.shape import check_shape, check_span
from ensue.nn.vocabulary import Vocabulary

NOTHING = -1
"""In a window: before the beginning of the text. Its vector is zero."""


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape of a window network. A zero (of dropout: -1) means: chosen with the size."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Tokens of a training row, each predicted from its window; no limit when decoding."""
    window: int = 4
    """Tokens that a prediction looks at."""
    d_model: int = 0
    """Width of the embedding; hidden layers are four times as wide."""
    num_layers: int = 0
    """Hidden layers."""
    dropout: float = -1.0
    """Dropped in training from the embedding and from each hidden layer."""
    untie_embeddings: bool = False
    """Learn the output layer apart, instead of scoring the vocabulary with the embedding."""

    def __post_init__(self) -> None:
        check_shape(self)


SIZES = {
    "xs": MLPConfig(context_length=128, d_model=128, num_layers=2),
    "s": MLPConfig(context_length=256, d_model=320, num_layers=2),
    "m": MLPConfig(context_length=256, d_model=480, num_layers=2),
    "l": MLPConfig(context_length=512, d_model=1280, num_layers=3),
}


@dataclass(frozen=True, slots=True)
class MLPState:
    """All that a window network remembers."""

    ids: Int[Tensor, "B P"]
    """The last N-1 tokens; -1 before the beginning."""


class MLP(nn.Module):
    """A window language model; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, config.d_model, config.untie_embeddings)
        self.dropout = Dropout(config.dropout)
        d_ff = 4 * config.d_model
        widths = [config.window * config.d_model] + [d_ff] * config.num_layers
        self.layers = nn.ModuleList(
            Linear(d_input, d_output) for d_input, d_output in pairwise(widths)
        )
        self.out = Linear(d_ff, config.d_model)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise layers so that they keep the variance of what they read."""
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        for layer in (*self.layers, self.out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)

    def init_state(self, rows: int, memory: Any = None) -> MLPState:
        """Give the state of rows that have read nothing."""
        shape = (rows, self.config.window - 1)
        device = self.vocabulary.bias.device
        return MLPState(torch.full(shape, NOTHING, dtype=torch.int64, device=device))

    def forward(
        self, tokens: Int[Tensor, "B T"], state: MLPState | None = None
    ) -> tuple[Float[Tensor, "B T D"], MLPState]:
        """Read T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        state = state or self.init_state(len(tokens))
        steps = tokens.shape[1]
        ids = torch.cat([state.ids, tokens], dim=1)  # (B, N-1+T)
        vectors = self.vocabulary(ids.clamp(min=0)) * (ids >= 0)[..., None]
        vectors = self.dropout(vectors).to(product_dtype())
        x = torch.cat([vectors[:, i : i + steps] for i in range(self.config.window)], dim=2)
        for layer in self.layers:
            x = gelu(layer(x))
            tap(layer, "h", x)
            x = self.dropout(x)
        return self.out(x), MLPState(ids[:, steps:])

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        layers = sum(layer.weight.numel() for layer in (*self.layers, self.out))
        return rows * steps * 6 * (layers + c.vocab_size * c.d_model)


@dataclass(frozen=True, kw_only=True)
class MLPClassifierConfig:
    """Shape of a classifier. A zero (of dropout: -1) means: chosen with the size."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    channels: int = 0
    """Of a picture, 1 (grey) or 3; 0: the data's."""
    height: int = 0
    """Pixels; 0: the data's."""
    width: int = 0
    """Pixels; 0: the data's."""
    d_model: int = 0
    """Width of the hidden layers."""
    num_layers: int = 0
    """Hidden layers."""
    dropout: float = -1.0
    """Dropped in training from each hidden layer."""

    def __post_init__(self) -> None:
        check_shape(self)


CLASSIFIER_SIZES = {
    "xs": MLPClassifierConfig(d_model=256, num_layers=1),
    "s": MLPClassifierConfig(d_model=512, num_layers=2),
    "m": MLPClassifierConfig(d_model=1024, num_layers=2),
    "l": MLPClassifierConfig(d_model=2048, num_layers=3),
}


class MLPClassifier(nn.Module):
    """Names the class of a picture; see `ensue.tasks.labels`."""

    def __init__(self, config: MLPClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.classes = config.classes
        pixels = config.channels * config.height * config.width
        widths = [pixels] + [config.d_model] * config.num_layers
        self.layers = nn.ModuleList(Linear(*pair) for pair in pairwise(widths))
        self.head = Linear(widths[-1], config.classes)
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise layers so that they keep the variance of what they read; no class is likelier.

        The variance of a GELU's output is about 0.42 of its input's: hence the 1.5.
        """
        if self.head.weight.is_meta:
            return
        layer: Any
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1.5 * layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Give a logit for each class."""
        x = pictures.flatten(1).to(product_dtype())
        for layer in self.layers:
            x = gelu(layer(x))
            tap(layer, "h", x)
            x = self.dropout(x)
        return self.head(x)

    def train_flops(self, rows: int, steps: int = 1) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        return 6 * rows * sum(m.weight.numel() for m in (*self.layers, self.head))


@dataclass(frozen=True, kw_only=True)
class NgramMLPConfig:
    """Shape of a network that reads bags of n-grams. A zero (of dropout: -1): see `MLPConfig`."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    buckets: int = 0
    """N-grams, of characters and of words, that can be told apart; see `ensue.data.words`."""
    shortest_gram: int = 2
    """Characters of the shortest n-gram."""
    longest_gram: int = 5
    """Characters of the longest n-gram."""
    hidden: bool = False
    """A hidden layer between n-grams and classes; without it the model is linear."""
    d_model: int = 0
    """Width of the hidden layer."""
    dropout: float = -1.0
    """Dropped in training from the hidden layer."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_span("gram", self.shortest_gram, self.longest_gram)


NGRAM_SIZES = {
    "xs": NgramMLPConfig(buckets=1 << 15, d_model=64),
    "s": NgramMLPConfig(buckets=1 << 17, d_model=128),
    "m": NgramMLPConfig(buckets=1 << 18, d_model=256),
    "l": NgramMLPConfig(buckets=1 << 20, d_model=256),
}


class NgramMLP(nn.Module):
    """Names the class of a text by the n-grams that it has; see `ensue.tasks.labels`.

    A text is a vector too, w, of how much it has of each n-gram; most of it is zero:

        h = f(U w + b);  logits = V h + c

    Reference: Joulin et al. 2017, arXiv:1607.01759 (without a hidden layer).
    """

    def __init__(self, config: NgramMLPConfig) -> None:
        super().__init__()
        self.config = c = config
        self.classes = c.classes
        width = c.d_model if c.hidden else c.classes
        self.buckets = empty_embedding(c.buckets + 1, width)
        self.bias = nn.Parameter(torch.empty(width))
        self.head = Linear(width, c.classes) if c.hidden else None
        self.dropout = Dropout(c.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise n-grams so that what is said of a text has a deviation near 1."""
        if self.bias.is_meta:
            return
        nn.init.zeros_(self.bias)
        if self.head is None:
            nn.init.zeros_(self.buckets.weight)
            return
        nn.init.normal_(self.buckets.weight)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self, ids: Int[Tensor, " N"], starts: Int[Tensor, " B"], weights: Float[Tensor, " N"]
    ) -> Float[Tensor, "B K"]:
        """Give a logit for each class; the input is `ensue.nn.words.Bag`."""
        table = self.buckets.weight
        x = F.embedding_bag(ids, table, starts, mode="sum", per_sample_weights=weights) + self.bias
        if self.head is None:
            return x
        x = gelu(x)
        tap(self, "h", x)
        return self.head(self.dropout(x))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass, by words of a text.

        A word brings about 25 n-grams; each is a row of the table that is added.
        """
        head = 0 if self.head is None else self.head.weight.numel()
        return rows * (6 * head + steps * 25 * 4 * self.buckets.weight.shape[1])
