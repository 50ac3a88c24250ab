"""Attention: each query looks at all keys it may see and takes the mean of their values.

    attend(q, k, v) = softmax(q k^T / sqrt(K) + m) v        K: numbers in a key
    m_ts = 0 where query t may see key s, else -infinity    (causal: s <= t)

It is computed in two ways. Explicit, as the equation says: when somebody looks at the weights
(`ensue.nn.capture`), and in training on a processor, where torch's fused backward is slow (bf16,
12 rows, 6 heads, 256 steps of 64: 71 ms against 32). Fused, which never forms the T x S weights:
everywhere else.

Reference: Vaswani et al. 2017, eq. 1, arXiv:1706.03762.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ensue.nn.capture import is_captured, tap
from ensue.nn.dropout import dropout
from ensue.nn.linear import Linear
from ensue.nn.state import KVCache

EXPLICIT_STEPS = 1024
"""On a processor, from so many steps on the weights need more memory than they save time."""


def attention_weights(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "*#B T S"],
) -> Float[Tensor, "B H T S"]:
    """Give the weights as the equation says; True in the mask = may be attended to."""
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    scores = q * (1 / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    return scores.add_(bias).softmax(dim=-1)


class CausalSelfAttention(nn.Module):
    """Multi-head attention in which each position sees itself and what came before.

    Args:
        d_model: Width of the input and of the output.
        num_heads: Heads; `d_model` is a multiple of it.
        dropout: Probability that a weight is dropped in training.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = Linear(d_model, 3 * d_model)
        self.out = Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: KVCache | None = None,
        layer: int = 0,
        positions: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attend within `x`, and to the cache where there is one.

        Args:
            x: The layer's input.
            cache: Keys and values of earlier tokens; those of `x` are written into it.
            layer: Which layer of the cache is ours.
            positions: Each token's position, with a cache.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)  # (B, T, H, K)
        mask = None
        if cache is not None and positions is not None:
            cache.write(layer, positions, k, v)
            filled = int(positions.max()) + 1
            k, v = cache.k[:, layer, :filled].to(q.dtype), cache.v[:, layer, :filled].to(q.dtype)
            slots = torch.arange(filled, device=x.device)
            mask = (slots <= positions[..., None])[:, None]  # (B, 1, T, S)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if is_captured(self) or (self.training and _explicit_is_faster(x)):
            weights = attention_weights(q, k, _causal_mask(x) if mask is None else mask)
            tap(self, "weights", weights)
            y = dropout(weights, self.dropout, self.training) @ v
        else:
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=p, is_causal=mask is None
            )
        return self.out(y.transpose(1, 2).flatten(2))


def _explicit_is_faster(x: Float[Tensor, "B T D"]) -> bool:
    return x.device.type == "cpu" and x.shape[1] < EXPLICIT_STEPS


def _causal_mask(x: Float[Tensor, "B T D"]) -> Bool[Tensor, "T T"]:
    steps = x.shape[1]
    return torch.ones(steps, steps, dtype=torch.bool, device=x.device).tril()
