"""Step 8: the Transformer's decoder alone, trained to continue text: GPT-2, and GPT.

The encoder is gone, and with it the source: what came before is the only condition. A stack of
blocks, each attending to the past and then computing per position; positions are learnt vectors;
the output layer is the embedding, transposed.

    x = tokens E + positions P
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))        (GPT-2: pre-norm)
                     x = norm(x + attention(x));  x = norm(x + mlp(x))        (GPT: post-norm)
    logits = norm(x) E^T                                                      (GPT: no last norm)

Reference: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2);
Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training" (GPT).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.errors import UsageError
from ensue.nn.attention import CausalSelfAttention
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding, gelu, linear
from ensue.nn.shape import check_shape
from ensue.nn.state import SLOTS, KVCache


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Shape of a GPT-2. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Positions: the longest text that the model can look at."""
    d_model: int = 0
    """Width of the residual stream."""
    num_layers: int = 0
    """Blocks."""
    num_heads: int = 0
    """Attention heads of each block; divides d_model."""
    dropout: float = -1.0
    """Dropped in training from embeddings, attention weights and residual branches."""
    post_norm: bool = False
    """The GPT of 2018: normalise after each addition, and not again at the end."""

    def __post_init__(self) -> None:
        check_shape(self)
        if self.num_heads and self.d_model % self.num_heads:
            raise UsageError(
                f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}"
            )


def _published(d_model: int, num_layers: int, num_heads: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=50257,
        context_length=1024,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        dropout=0.1,
    )


PUBLISHED = {
    "gpt2": _published(768, 12, 12),  # 117M
    "gpt2-medium": _published(1024, 24, 16),  # 345M
    "gpt2-large": _published(1280, 36, 20),  # 762M
    "gpt2-xl": _published(1600, 48, 25),  # 1542M
}

SIZES = {
    "xs": GPT2Config(context_length=128, d_model=128, num_layers=4, num_heads=2),
    "s": GPT2Config(context_length=256, d_model=256, num_layers=6, num_heads=4),
    "m": GPT2Config(context_length=256, d_model=384, num_layers=6, num_heads=6),
    "l": GPT2Config(context_length=512, d_model=768, num_layers=12, num_heads=12),
}


class MLP(nn.Module):
    """Two layers at each position: four times wider, GELU (its tanh form), and back."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.up = Linear(d_model, 4 * d_model)
        self.down = Linear(4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply to each position alone."""
        return self.down(gelu(self.up(x)))


class Block(nn.Module):
    """Attention, then the MLP, each on a residual branch."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.post_norm = config.post_norm
        self.norm1 = nn.LayerNorm(config.d_model)
        self.attention = CausalSelfAttention(config.d_model, config.num_heads, config.dropout)
        self.norm2 = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: KVCache | None = None,
        layer: int = 0,
        positions: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Add what the past says, then what the position makes of it."""
        if self.post_norm:
            x = self.norm1(x + self.dropout(self.attention(x, cache, layer, positions)))
            return self.norm2(x + self.dropout(self.mlp(x)))
        x = x + self.dropout(self.attention(self.norm1(x), cache, layer, positions))
        return x + self.dropout(self.mlp(self.norm2(x)))


class GPT2(nn.Module):
    """GPT-2 as published, and GPT with `post_norm`; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.context_length
        self.token_embedding = empty_embedding(config.vocab_size, config.d_model)
        self.position_embedding = empty_embedding(config.context_length, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.Identity() if config.post_norm else nn.LayerNorm(config.d_model)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as published: N(0, 0.02), what writes to the residual stream less by sqrt(2L).

        Reference: GPT-2's code (0.02; positions 0.01) and paper, section 2.3 (residual layers).
        """
        if self.token_embedding.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                weight.div_((2 * self.config.num_layers) ** 0.5)

    def init_state(self, rows: int, memory: Any = None) -> KVCache:
        """Give an empty cache for `rows` rows."""
        c = self.config
        slots = min(SLOTS, c.context_length)
        weight = self.token_embedding.weight
        return KVCache.empty(
            rows, c.num_layers, slots, c.num_heads, c.d_model // c.num_heads, weight
        )

    def forward(
        self, tokens: Int[Tensor, "B T"], state: KVCache | None = None
    ) -> tuple[Float[Tensor, "B T D"], KVCache | None]:
        """Read T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        if state is None:
            positions = None
            where = self.position_embedding.weight[: tokens.shape[1]]
        else:
            positions = state.positions(tokens.shape[1])
            state = state.grown(positions, self.config.context_length)
            where = self.position_embedding(positions)
        x = self.dropout(self.token_embedding(tokens) + where)
        for layer, block in enumerate(self.blocks):
            x = block(x, state, layer, positions)
        return self.norm(x), state and state.advanced(tokens.shape[1])

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary with the embedding itself."""
        return linear(hidden, self.token_embedding.weight)

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass of (rows, steps) tokens.

        Matrix products (2 per weight forward, 4 backward) and attention with all of its T x T
        weights, as in the usual 6N + 12 L D T per token; no look-ups, no pointwise work.
        """
        c = self.config
        weights = c.num_layers * 12 * c.d_model**2 + c.vocab_size * c.d_model
        return rows * steps * (6 * weights + 12 * c.num_layers * c.d_model * steps)
