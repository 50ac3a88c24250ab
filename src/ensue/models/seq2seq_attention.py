"""Step 6: attention. The decoder looks back at the source, at each word anew.

The encoder keeps what it said at every place, not only at its end. Before each word the decoder
asks them all: how well does this place match what I am about to say? The answers, made to sum to
one, are weights; their mean of the places is what the decoder is told. Nothing has to fit into one
vector, and the weights are an alignment that a person can read.

    h_s = [ahead_s; back_s]                                  a vector for each place of the source
    s_t = cell(E y_{t-1}, s_{t-1})                           the decoder's first layer asks
    e_ts = s_t W h_s                    (dot)
    e_ts = v tanh(W s_t + U h_s)        (additive)
    a_ts = softmax over s of e_ts                            where it looks
    c_t = sum over s of a_ts h_s                             what it is told
    r_t = cell([s_t; c_t], r_{t-1})                          the layers above make of it
    logits_t = tanh(M [r_t; c_t] + b) E^T + b

Reference: Bahdanau et al. 2015, arXiv:1409.0473 (additive); Luong et al. 2015, arXiv:1508.04025
(dot, there "general"; the last layer). Departure: the context enters the layers above the one that
asks, as in Wu et al. 2016, arXiv:1609.08144, and not that one's next step: so all steps of a target
are asked for at once.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ensue.errors import UsageError, nearest
from ensue.models.seq2seq import run_layers
from ensue.nn.attention import Additive, Dot, mean_of_places
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding
from ensue.nn.recurrent import BidirectionalLSTM, LSTMLayer
from ensue.nn.shape import check_even, check_shape
from ensue.nn.state import SOURCE
from ensue.nn.vocabulary import Vocabulary

SCORES = ("dot", "additive")


@dataclass(frozen=True, kw_only=True)
class Seq2SeqAttentionConfig:
    """Shape of an encoder-decoder with attention. A zero (of dropout: -1): chosen with the size."""

    vocab_size: int = 0
    """Entries of the target's vocabulary; 0: the tokenizer's."""
    src_vocab_size: int = 0
    """Entries of the source's vocabulary, where it has its own; 0: one vocabulary for both."""
    d_model: int = 0
    """Width of embeddings, of the source's vectors, and of h and c."""
    num_layers: int = 0
    """Layers of the encoder; the decoder has one more, below the attention."""
    score: str = "dot"
    """How well a place matches: dot (Luong) or additive (Bahdanau)."""
    dropout: float = -1.0
    """Dropped in training from embeddings and from what each layer says."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_even("d_model", self.d_model, "each direction has half of it")
        if self.score not in SCORES:
            raise UsageError(
                f"score: unknown value {self.score!r}{nearest(self.score, SCORES)}",
                f"Known: {', '.join(SCORES)}",
            )


SIZES = {
    "xs": Seq2SeqAttentionConfig(d_model=128, num_layers=1),
    "s": Seq2SeqAttentionConfig(d_model=256, num_layers=1),
    "m": Seq2SeqAttentionConfig(d_model=512, num_layers=1),
    "l": Seq2SeqAttentionConfig(d_model=1024, num_layers=2),
}


@dataclass(frozen=True, slots=True)
class AttentionMemory:
    """What the decoder may look at: one vector for each place of the source."""

    values: Float[Tensor, "B S D"]
    """What the encoder said there."""
    keys: Float[Tensor, "B S D"]
    """The same as the score needs it: W h_s, or U h_s; projected once."""
    mask: Bool[Tensor, "B S"]
    """True where there is a word, and no padding."""

    @property
    def vector(self) -> Float[Tensor, "B D"]:
        """The source in D numbers: the mean of its places."""
        return mean_of_places(self.values, self.mask)


@dataclass(frozen=True, slots=True)
class AttentionState:
    """What the decoder keeps of its own words, and the source."""

    h: Float[Tensor, "B L D"]
    """What each layer says; the asking one first."""
    c: Float[Tensor, "B L D"]
    """What each layer remembers."""
    memory: AttentionMemory = field(metadata=SOURCE)
    """The source."""


class Seq2SeqAttention(nn.Module):
    """LSTMs and attention; an encoder, and a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: Seq2SeqAttentionConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, d, untie=False)
        self.source = empty_embedding(config.src_vocab_size, d) if config.src_vocab_size else None
        self.encoder = BidirectionalLSTM(d, config.num_layers, config.dropout)
        self.asking = LSTMLayer(d, d)
        self.attention = (Dot if config.score == "dot" else Additive)(d)
        self.layers = nn.ModuleList(
            LSTMLayer(d if i else 2 * d, d) for i in range(config.num_layers)
        )
        self.combine = Linear(2 * d, d)
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise words, cells, and the other layers so that they keep the variance."""
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        if self.source is not None:
            nn.init.uniform_(self.source.weight, *self.vocabulary.bounds)
        self.encoder.init_weights()
        self.attention.init_weights()
        for layer in (self.asking, *self.layers):
            layer.init_weights()
        nn.init.xavier_uniform_(self.combine.weight)
        nn.init.zeros_(self.combine.bias)

    def encode(self, tokens: Int[Tensor, "B S"], length: Int[Tensor, " B"]) -> AttentionMemory:
        """Give a vector for each place of each source.

        Args:
            tokens: Sources, padded at their ends with any id.
            length: Tokens of each that count.
        """
        words = self.vocabulary if self.source is None else self.source
        values, _ = self.encoder(self.dropout(words(tokens)), length)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
        return AttentionMemory(values, self.attention.project(values), mask)

    def init_state(self, rows: int, memory: AttentionMemory | None = None) -> AttentionState:
        """Start from zeros: what there is to know of the source is looked up."""
        weight = self.vocabulary.bias
        if memory is None:  # no source: one place that says nothing
            nothing = weight.new_zeros(rows, 1, self.config.d_model)
            everywhere = torch.ones(rows, 1, dtype=torch.bool, device=weight.device)
            memory = AttentionMemory(nothing, nothing, everywhere)
        h = weight.new_zeros(rows, 1 + self.config.num_layers, self.config.d_model)
        return AttentionState(h, h.clone(), memory)

    def forward(
        self, tokens: Int[Tensor, "B T"], state: AttentionState | AttentionMemory | None = None
    ) -> tuple[Float[Tensor, "B T D"], AttentionState]:
        """Write T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        if not isinstance(state, AttentionState):
            state = self.init_state(len(tokens), state)
        memory = state.memory
        s, h0, c0 = self.asking(self.dropout(self.vocabulary(tokens)), state.h[:, 0], state.c[:, 0])
        s = self.dropout(s)
        context = self.attention(s, memory.keys, memory.values, memory.mask)
        r, h, c = run_layers(
            self.layers,
            torch.cat([s, context.to(s.dtype)], dim=-1),
            state.h[:, 1:],
            state.c[:, 1:],
            self.dropout,
        )
        said = torch.tanh(self.combine(torch.cat([r, context.to(r.dtype)], dim=-1)))
        h, c = torch.cat([h0[:, None], h], dim=1), torch.cat([c0[:, None], c], dim=1)
        return self.dropout(said), AttentionState(h, c, memory)

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int, source_steps: int = 0) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        c = self.config
        d2 = c.d_model**2
        encoder = c.num_layers * 6 * d2 + d2  # two directions, and the keys
        decoder = (8 + c.num_layers * 8 + 4 + 2) * d2 + c.vocab_size * c.d_model
        decoder += 0 if c.score == "dot" else d2
        looking = 2 * source_steps * c.d_model  # scores and means, of each step
        return 6 * rows * (source_steps * encoder + steps * (decoder + looking))
