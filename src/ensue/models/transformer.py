"""Step 7: the Transformer. Attention is all that is left.

A recurrent network reads word by word, and each step waits for the one before. Here every place of
the source looks at every other at once, layer by layer; the target's places look at those before
them and at the source. Nothing is carried along, so where a word stands has to be said: a vector of
sines is added to it.

    x = E tokens sqrt(D) + P
    encoder:  x = norm(x + attention(x, x)); x = norm(x + mlp(x))
    decoder:  y = norm(y + attention(y, y)), seeing itself and what came before;
              y = norm(y + attention(y, x)); y = norm(y + mlp(y))
    logits = y E^T + b

With `pre_norm` the norm stands before each part instead, and once at the end: it trains without a
warm-up (Xiong et al. 2020, arXiv:2002.04745).

Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762. The shape of Marian's
published models (Junczys-Dowmunt et al. 2018) is this one with `activation` swish.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ensue.errors import UsageError, nearest
from ensue.nn.attention import (
    CausalSelfAttention,
    CrossAttention,
    SelfAttention,
    mean_of_places,
)
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding, gelu
from ensue.nn.positions import sinusoids
from ensue.nn.shape import check_even, check_shape
from ensue.nn.state import SOURCE, KVCache
from ensue.nn.vocabulary import Vocabulary

ACTIVATIONS: dict[str, Any] = {"relu": F.relu, "gelu": gelu, "swish": F.silu}
POSITIONS = ("sinusoidal", "learned")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a Transformer. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the target's vocabulary; 0: the tokenizer's."""
    src_vocab_size: int = 0
    """Entries of the source's vocabulary, where it has its own; 0: one vocabulary for both."""
    context_length: int = 0
    """Positions: the longest source, and the longest target."""
    d_model: int = 0
    """Width of the residual stream."""
    num_layers: int = 0
    """Layers of the encoder, and as many of the decoder."""
    num_heads: int = 0
    """Attention heads of each layer; divides d_model."""
    d_ff: int = 0
    """Width between the two layers of the MLP; 0: four times d_model."""
    dropout: float = -1.0
    """Dropped in training from embeddings, attention weights and residual branches."""
    pre_norm: bool = False
    """Normalise before each part, and once at the end, instead of after each addition."""
    activation: str = "relu"
    """Between the two layers of the MLP: relu, gelu or swish."""
    positions: str = "sinusoidal"
    """Positions as fixed sines (sinusoidal) or as vectors that are learnt (learned)."""

    def __post_init__(self) -> None:
        check_shape(self)
        if self.positions == "sinusoidal":
            check_even("d_model", self.d_model, "half of a position are sines, half cosines")
        if self.num_heads and self.d_model % self.num_heads:
            raise UsageError(
                f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}"
            )
        for name, known in (("activation", tuple(ACTIVATIONS)), ("positions", POSITIONS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(
                    f"{name}: unknown value {value!r}{nearest(value, known)}",
                    f"Known: {', '.join(known)}",
                )


def _size(d_model: int, num_layers: int, num_heads: int) -> TransformerConfig:
    return TransformerConfig(
        context_length=512, d_model=d_model, num_layers=num_layers, num_heads=num_heads
    )


SIZES = {
    "xs": _size(128, 2, 4),
    "s": _size(256, 3, 4),
    "m": _size(384, 4, 6),
    "l": _size(512, 6, 8),
}


@dataclass(frozen=True, slots=True)
class TransformerMemory:
    """What the decoder may look at: one vector for each place of the source."""

    values: Float[Tensor, "B S D"]
    """What the encoder made of it."""
    mask: Bool[Tensor, "B S"]
    """True where there is a word, and no padding."""

    @property
    def vector(self) -> Float[Tensor, "B D"]:
        """The source in D numbers: the mean of its places."""
        return mean_of_places(self.values, self.mask)


@dataclass(frozen=True, slots=True)
class TransformerState:
    """Keys and values of the target so far, and of the source."""

    cache: KVCache
    """Of the target; grows."""
    k: Float[Tensor, "B L S H K"] = field(metadata=SOURCE)
    """Keys of the source, for each decoder layer."""
    v: Float[Tensor, "B L S H K"] = field(metadata=SOURCE)
    """Values of the source."""
    mask: Bool[Tensor, "B S"] = field(metadata=SOURCE)
    """True where the source has a word."""


class MLP(nn.Module):
    """Two layers at each place, wider between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_ff = config.d_ff or 4 * config.d_model
        self.up = Linear(config.d_model, d_ff)
        self.down = Linear(d_ff, config.d_model)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each place alone."""
        return self.down(self.activation(self.up(x)))


class Residual(nn.Module):
    """What a part says is added to what it was told, and normalised: after it, or before."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.pre_norm = config.pre_norm

    def forward(self, x: Float[Tensor, "B T D"], part: Any) -> Float[Tensor, "B T D"]:
        """Add `part` of x to x."""
        if self.pre_norm:
            return x + self.dropout(part(self.norm(x)))
        y: Tensor = self.norm(x + self.dropout(part(x)))
        return y


class EncoderLayer(nn.Module):
    """Look at the whole source, then compute at each place."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.d_model, config.num_heads, config.dropout)
        self.mlp = MLP(config)
        self.residual1, self.residual2 = Residual(config), Residual(config)

    def forward(
        self, x: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"]
    ) -> Float[Tensor, "B S D"]:
        """Apply to rows of which the places in the mask count."""
        x = self.residual1(x, lambda x: self.attention(x, mask))
        return self.residual2(x, self.mlp)


class DecoderLayer(nn.Module):
    """Look at the target so far, then at the source, then compute at each place."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        shape = (config.d_model, config.num_heads, config.dropout)
        self.attention = CausalSelfAttention(*shape)
        self.cross = CrossAttention(*shape)
        self.mlp = MLP(config)
        self.residual1, self.residual2 = Residual(config), Residual(config)
        self.residual3 = Residual(config)

    def forward(
        self,
        x: Float[Tensor, "R T D"],
        k: Float[Tensor, "B S H K"],
        v: Float[Tensor, "B S H K"],
        mask: Bool[Tensor, "B S"],
        cache: KVCache | None = None,
        layer: int = 0,
        positions: Int[Tensor, "R T"] | None = None,
    ) -> Float[Tensor, "R T D"]:
        """Apply to the next places of a target; keys, values and mask are the source's."""
        x = self.residual1(x, lambda x: self.attention(x, cache, layer, positions))
        x = self.residual2(x, lambda x: self.cross(x, k, v, mask))
        return self.residual3(x, self.mlp)


class Transformer(nn.Module):
    """Encoder and decoder; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.context_length
        self.vocabulary = Vocabulary(config.vocab_size, d, untie=False)
        self.source = empty_embedding(config.src_vocab_size, d) if config.src_vocab_size else None
        learned = config.positions == "learned"
        self.positions = empty_embedding(config.context_length, d) if learned else None
        self.encoder: Any = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.decoder: Any = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        last = nn.LayerNorm if config.pre_norm else nn.Identity
        self.encoder_norm, self.decoder_norm = last(d), last(d)
        self.dropout = Dropout(config.dropout)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise matrices after Glorot, words so that times sqrt(D) they have unit variance."""
        if self.vocabulary.bias.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        std = self.config.d_model**-0.5
        for words in (self.vocabulary.embedding, self.source, self.positions):
            if words is not None:
                nn.init.normal_(words.weight, std=std)
        nn.init.zeros_(self.vocabulary.bias)

    def _embedded(
        self, words: nn.Module, tokens: Int[Tensor, "B T"], positions: Int[Tensor, "*#B T"]
    ) -> Float[Tensor, "B T D"]:
        if self.positions is None:
            where = sinusoids(positions, self.config.d_model)
        else:
            where = self.positions(positions)
        y: Tensor = self.dropout(words(tokens) * math.sqrt(self.config.d_model) + where)
        return y

    def encode(self, tokens: Int[Tensor, "B S"], length: Int[Tensor, " B"]) -> TransformerMemory:
        """Let every place of each source look at all of it.

        Args:
            tokens: Sources, padded at their ends with any id.
            length: Tokens of each that count.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        mask = places < length[:, None]
        x = self._embedded(self.vocabulary if self.source is None else self.source, tokens, places)
        for layer in self.encoder:
            x = layer(x, mask)
        return TransformerMemory(self.encoder_norm(x), mask)

    def init_state(self, rows: int, memory: TransformerMemory | None = None) -> TransformerState:
        """Give an empty cache, and the keys and values of the source for every layer."""
        c = self.config
        memory = memory or self._nothing(rows)
        pairs = [layer.cross.project(memory.values) for layer in self.decoder]
        k, v = (torch.stack(tensors, dim=1) for tensors in zip(*pairs, strict=True))
        heads = (c.num_heads, c.d_model // c.num_heads)
        cache = KVCache.empty(rows, c.num_layers, 1, *heads, self.vocabulary.bias)
        return TransformerState(cache, k.to(cache.k), v.to(cache.k), memory.mask)

    def _nothing(self, rows: int) -> TransformerMemory:
        """Stand in for a source: one place that says nothing."""
        bias = self.vocabulary.bias
        everywhere = torch.ones(rows, 1, dtype=torch.bool, device=bias.device)
        return TransformerMemory(bias.new_zeros(rows, 1, self.config.d_model), everywhere)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        state: TransformerState | TransformerMemory | None = None,
    ) -> tuple[Float[Tensor, "B T D"], TransformerState | None]:
        """Write T more tokens of each row; see `ensue.decoding.decoder.Decoder`.

        Given a memory, not a state, it starts fresh and keeps nothing for later (training).
        """
        if isinstance(state, TransformerState):
            positions = state.cache.positions(tokens.shape[1])
            cache = state.cache.grown(positions, self.config.context_length)
            y = self._embedded(self.vocabulary, tokens, positions)
            for i, layer in enumerate(self.decoder):
                y = layer(y, state.k[:, i], state.v[:, i], state.mask, cache, i, positions)
            after = replace(state, cache=cache.advanced(tokens.shape[1]))
            return self.decoder_norm(y), after
        memory = state or self._nothing(len(tokens))
        y = self._embedded(
            self.vocabulary, tokens, torch.arange(tokens.shape[1], device=tokens.device)
        )
        for layer in self.decoder:
            y = layer(y, *layer.cross.project(memory.values), memory.mask)
        return self.decoder_norm(y), None

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary with the embedding itself."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int, source_steps: int = 0) -> int:
        """Floating-point operations of one forward and backward pass.

        Matrix products (2 per weight forward, 4 backward) and attention with all of its weights.
        """
        c = self.config
        d, d_ff = c.d_model, c.d_ff or 4 * c.d_model
        mlp = 2 * d * d_ff
        encoder = c.num_layers * (4 * d * d + mlp + 2 * d * source_steps + 2 * d * d)  # its K, V
        decoder = c.num_layers * (6 * d * d + mlp + 2 * d * (steps + source_steps))
        decoder += c.vocab_size * d
        return 6 * rows * (source_steps * encoder + steps * decoder)
