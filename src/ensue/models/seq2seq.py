"""Step 5: two recurrent networks, with one vector between them.

So far a text was continued. To turn one sequence into another, one network reads the whole source
and says it in a single vector; a second one, started by that vector, writes the target word by word
until it writes the end. Lengths, order and language may differ. But all that the source says has to
fit into one vector, however long it is: the bottleneck that attention removes (step 6).

    h_s = cell(x_s, h_{s-1}), and h'_s the same from the other end      the encoder
    v = tanh(W [h_S; h'_1] + b)                                         the vector
    s_t = cell([E y_{t-1}; v], s_{t-1}),  s_0 = v                       the decoder
    logits_t = s_t E^T + b

Reference: Sutskever et al. 2014, arXiv:1409.3215; the vector at every step: Cho et al. 2014,
arXiv:1406.1078. Departures: the source is read in both directions, not reversed; the output layer
is the embedding.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding
from ensue.nn.recurrent import BidirectionalLSTM, LSTMLayer
from ensue.nn.shape import check_even, check_shape
from ensue.nn.state import SOURCE, for_rows
from ensue.nn.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Shape of an encoder-decoder. A zero (of dropout: -1) means: chosen with the size."""

    vocab_size: int = 0
    """Entries of the target's vocabulary; 0: the tokenizer's."""
    src_vocab_size: int = 0
    """Entries of the source's vocabulary, where it has its own; 0: one vocabulary for both."""
    d_model: int = 0
    """Width of embeddings, of the vector, and of h and c."""
    num_layers: int = 0
    """Layers of the encoder, and as many of the decoder."""
    dropout: float = -1.0
    """Dropped in training from embeddings and from what each layer says."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_even("d_model", self.d_model, "each direction has half of it")


SIZES = {
    "xs": Seq2SeqConfig(d_model=128, num_layers=1),
    "s": Seq2SeqConfig(d_model=256, num_layers=1),
    "m": Seq2SeqConfig(d_model=512, num_layers=2),
    "l": Seq2SeqConfig(d_model=1024, num_layers=2),
}


@dataclass(frozen=True, slots=True)
class Seq2SeqMemory:
    """All that the decoder learns of a source."""

    vector: Float[Tensor, "B D"]
    """The source, said in D numbers."""


@dataclass(frozen=True, slots=True)
class Seq2SeqState:
    """What the decoder keeps of the source and of its own words."""

    h: Float[Tensor, "B L D"]
    """What each layer says."""
    c: Float[Tensor, "B L D"]
    """What each layer remembers."""
    memory: Seq2SeqMemory = field(metadata=SOURCE)
    """The source."""


class Seq2Seq(nn.Module):
    """Two LSTMs and a vector; an encoder, and a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, d, untie=False)
        self.source = empty_embedding(config.src_vocab_size, d) if config.src_vocab_size else None
        self.encoder = BidirectionalLSTM(d, config.num_layers, config.dropout)
        self.bridge = Linear(d, d)
        self.layers = nn.ModuleList(
            LSTMLayer(d if i else 2 * d, d) for i in range(config.num_layers)
        )
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise words, cells, and the vector's layer so that it keeps the variance."""
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        if self.source is not None:
            nn.init.uniform_(self.source.weight, *self.vocabulary.bounds)
        self.encoder.init_weights()
        layer: Any
        for layer in self.layers:
            layer.init_weights()
        nn.init.xavier_uniform_(self.bridge.weight)
        nn.init.zeros_(self.bridge.bias)

    def encode(self, tokens: Int[Tensor, "B S"], length: Int[Tensor, " B"]) -> Seq2SeqMemory:
        """Say each source in one vector.

        Args:
            tokens: Sources, padded at their ends with any id.
            length: Tokens of each that count.
        """
        words = self.vocabulary if self.source is None else self.source
        _, ends = self.encoder(self.dropout(words(tokens)), length)
        return Seq2SeqMemory(torch.tanh(self.bridge(ends).float()))

    def init_state(self, rows: int, memory: Seq2SeqMemory | None = None) -> Seq2SeqState:
        """Start every layer from the vector; without a source: from zeros."""
        if memory is None:
            memory = Seq2SeqMemory(self.vocabulary.bias.new_zeros(rows, self.config.d_model))
        h = memory.vector[:, None].expand(-1, self.config.num_layers, -1).contiguous()
        return Seq2SeqState(h, torch.zeros_like(h), memory)

    def forward(
        self, tokens: Int[Tensor, "B T"], state: Seq2SeqState | Seq2SeqMemory | None = None
    ) -> tuple[Float[Tensor, "B T D"], Seq2SeqState]:
        """Write T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        if not isinstance(state, Seq2SeqState):
            state = self.init_state(len(tokens), state)
        told = for_rows(state.memory.vector, len(tokens))[:, None].expand(-1, tokens.shape[1], -1)
        x = torch.cat([self.dropout(self.vocabulary(tokens)), told], dim=-1)
        x, h, c = run_layers(self.layers, x, state.h, state.c, self.dropout)
        return x, Seq2SeqState(h, c, state.memory)

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int, source_steps: int = 0) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        d2 = c.d_model**2
        encoder = c.num_layers * 6 * d2  # two directions of 4 (D/2 D + D/2 D/2)
        decoder = (c.num_layers * 8 + 4) * d2 + c.vocab_size * c.d_model
        return 6 * rows * (source_steps * encoder + steps * decoder + d2)


def run_layers(
    layers: Any,
    x: Float[Tensor, "B T X"],
    h: Float[Tensor, "B L D"],
    c: Float[Tensor, "B L D"],
    dropout: nn.Module,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B L D"], Float[Tensor, "B L D"]]:
    """Run LSTM layers one on another, over all steps each."""
    said, kept = [], []
    for layer, h0, c0 in zip(layers, h.unbind(dim=1), c.unbind(dim=1), strict=True):
        x, h_last, c_last = layer(x, h0, c0)
        x = dropout(x)
        said.append(h_last)
        kept.append(c_last)
    return x, torch.stack(said, dim=1), torch.stack(kept, dim=1)
