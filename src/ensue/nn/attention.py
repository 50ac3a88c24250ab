"""Attention: each query looks at all keys it may see and takes the mean of their values.

    attend(q, k, v) = softmax(q k^T / sqrt(K) + m) v        K: numbers in a key
    m_ts = 0 where query t may see key s, else -infinity    (causal: s <= t)

It is computed in two ways. Explicit, as the equation says: when somebody looks at the weights
(`ensue.nn.capture`), and in training on a processor, where torch's fused backward is slow (bf16,
12 rows, 6 heads, 256 steps of 64: 71 ms against 32). Fused, which never forms the T x S weights:
everywhere else; on a processor in fp32 (160 rows, 4 heads, a query and 12 keys: 0.4 ms, in bf16 1).

Reference: Vaswani et al. 2017, eq. 1, arXiv:1706.03762.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ensue.nn.capture import is_captured, tap
from ensue.nn.dropout import dropout
from ensue.nn.linear import Linear, linear
from ensue.nn.state import KVCache

EXPLICIT_STEPS = 1024
"""On a processor, from so many steps on the weights need more memory than they save time."""


def attention_weights(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "*#B #T S"],
) -> Float[Tensor, "B H T S"]:
    """Give the weights as the equation says; True in the mask = may be attended to."""
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    scores = q * (1 / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
    return scores.add_(bias).softmax(dim=-1)


def attend(
    part: nn.Module,
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H S K"],
    v: Float[Tensor, "B H S K"],
    mask: Bool[Tensor, "*#B #T S"] | None,
    dropout_p: float,
    what: str = "weights",
) -> Float[Tensor, "B T D"]:
    """Take the mean of the values, by weights that `part` shows and, in training, drops some of.

    Args:
        part: Whose attention it is.
        q: Queries.
        k: Keys.
        v: Values.
        mask: True = may be attended to; None: causal, queries and keys being one sequence.
        dropout_p: Share of the weights that is dropped in training.
        what: What the weights are shown as: ``weights`` within one sequence, ``alignment`` from a
            target to its source.
    """
    on_cpu = q.device.type == "cpu"
    dtype = torch.float32 if on_cpu and not part.training else q.dtype
    q, k, v = (t.to(dtype) for t in (q, k, v))
    if is_captured(part) or (part.training and on_cpu and q.shape[2] < EXPLICIT_STEPS):
        weights = attention_weights(q, k, _causal_mask(q) if mask is None else mask)
        tap(part, what, weights)
        y = dropout(weights, dropout_p, part.training) @ v
    else:
        p = dropout_p if part.training else 0.0
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=p, is_causal=mask is None
        )
    return y.transpose(1, 2).flatten(2)


Groups = list[tuple[int, int]]
"""Rows that stand end to end: how many there are of which length, one group after another."""

PAIRS = 1 << 25
"""Numbers that additive attention forms at a time, of pairs of a step and a place: 128 MB."""


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
            k, v = cache.k[:, layer, :filled], cache.v[:, layer, :filled]
            slots = torch.arange(filled, device=x.device)
            mask = (slots <= positions[..., None])[:, None]  # (B, 1, T, S)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return self.out(attend(self, q, k, v, mask, self.dropout))


class SelfAttention(nn.Module):
    """Multi-head attention in which each place of a row sees all of its row.

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
        self, x: Float[Tensor, "*n D"], mask: Bool[Tensor, "B S"] | Groups
    ) -> Float[Tensor, "*n D"]:
        """Attend within each row; True in the mask = a word, and no padding.

        Rows may also stand end to end, without padding, in groups of one length. So they do where
        nothing is learnt or shown: 32 rows of 16 to 128 places, padded, take 2 times as long.
        """
        qkv = self.qkv(x)
        if isinstance(mask, Tensor):
            q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)  # (B, S, H, K)
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            return self.out(attend(self, q, k, v, mask[:, None, None], self.dropout))
        parts = qkv.split([rows * steps for rows, steps in mask])
        return self.out(
            torch.cat([self._attended(*pair) for pair in zip(parts, mask, strict=True)])
        )

    def _attended(self, qkv: Float[Tensor, "N E"], group: tuple[int, int]) -> Float[Tensor, "N D"]:
        heads = qkv.view(*group, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads  # (R, H, T, K)
        if q.dtype == torch.float32:
            y = F.scaled_dot_product_attention(q, k, v)
        else:  # fused, it takes 2.6 times as long in bf16 (32 rows, 12 heads, 128 places of 64)
            scores = q * (1 / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
            y = scores.softmax(dim=-1) @ v
        return y.transpose(1, 2).flatten(0, 1).flatten(1)


class CrossAttention(nn.Module):
    """Multi-head attention from a target to a source.

    Args:
        d_model: Width of both, and of the output.
        num_heads: Heads; `d_model` is a multiple of it.
        dropout: Probability that a weight is dropped in training.
    """

    def __init__(self, d_model: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q = Linear(d_model, d_model)
        self.kv = Linear(d_model, 2 * d_model)
        self.out = Linear(d_model, d_model)

    def project(
        self, source: Float[Tensor, "B S D"]
    ) -> tuple[Float[Tensor, "B S H K"], Float[Tensor, "B S H K"]]:
        """Give the keys and values of a source; once, for all steps of a target."""
        k, v = self.kv(source).unflatten(-1, (2, self.num_heads, -1)).unbind(dim=2)
        return k, v

    def forward(
        self,
        x: Float[Tensor, "R T D"],
        k: Float[Tensor, "B S H K"],
        v: Float[Tensor, "B S H K"],
        mask: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "R T D"]:
        """Attend from each place of the target; True in the mask = a word, and no padding.

        Rows that share a source (beams) ask as further places of one row: its keys are read once.
        """
        q = self.q(x).reshape(len(k), -1, *k.shape[2:])  # (B, R/B T, H, K)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = attend(self, q, k, v, mask[:, None, None], self.dropout, "alignment")
        return self.out(y).view(x.shape)


class Dot(nn.Module):
    """One head that scores by a product: e_ts = s_t W h_s. Reference: Luong et al. 2015, "general".

    Args:
        d_model: Width of queries and of the source.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(d_model, d_model))

    def init_weights(self) -> None:
        """Scores are of about unit size at first."""
        nn.init.xavier_uniform_(self.W)

    def project(self, source: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Give W h_s of each place, once for all steps of a target."""
        return linear(source, self.W)

    def forward(
        self,
        s: Float[Tensor, "R T D"],
        keys: Float[Tensor, "B S D"],
        values: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "R T D"]:
        """Give what each step is told: the mean of the values, by its weights."""
        q = s.reshape(len(keys), -1, s.shape[-1])  # rows that share a source: places of one row
        scores = q @ keys.to(s.dtype).transpose(1, 2)  # (B, R/B T, S)
        return _weighted(self, scores, values, mask).view(s.shape)


class Additive(nn.Module):
    """One head that scores by a small network: e_ts = v tanh(W s_t + U h_s).

    Args:
        d_model: Width of queries, of the source, and of the network.

    Reference: Bahdanau et al. 2015, section A.1.2.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(d_model, d_model))
        self.U = nn.Parameter(torch.empty(d_model, d_model))
        self.v = nn.Parameter(torch.empty(d_model))

    def init_weights(self) -> None:
        """Sums are of about unit size at first."""
        nn.init.xavier_uniform_(self.W)
        nn.init.xavier_uniform_(self.U)
        nn.init.normal_(self.v, std=len(self.v) ** -0.5)

    def project(self, source: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Give U h_s of each place, once for all steps of a target."""
        return linear(source, self.U)

    def forward(
        self,
        s: Float[Tensor, "R T D"],
        keys: Float[Tensor, "B S D"],
        values: Float[Tensor, "B S D"],
        mask: Bool[Tensor, "B S"],
    ) -> Float[Tensor, "R T D"]:
        """Give what each step is told: the mean of the values, by its weights."""
        q = linear(s, self.W).reshape(len(keys), -1, s.shape[-1])  # as in `Dot`
        keys = keys.to(q.dtype)
        # Every pair of a step and a place has D numbers: 8 GB for 8,192 steps of 256 places.
        steps = max(1, PAIRS // keys.numel())
        scores = [self._score(some, keys) for some in q.split(steps, dim=1)]
        return _weighted(self, torch.cat(scores, dim=1), values, mask).view(s.shape)

    def _score(
        self, q: Float[Tensor, "B T D"], keys: Float[Tensor, "B S D"]
    ) -> Float[Tensor, "B T S"]:
        return linear(torch.tanh(q[:, :, None] + keys[:, None]), self.v[None])[..., 0]


def mean_of_places(
    values: Float[Tensor, "B S D"], mask: Bool[Tensor, "B S"]
) -> Float[Tensor, "B D"]:
    """Give the mean of what stands at the places that count; True in the mask = no padding."""
    counts = mask[..., None].to(values.dtype)
    return (values * counts).sum(dim=1) / counts.sum(dim=1)


def _weighted(
    part: nn.Module,
    scores: Float[Tensor, "B T S"],
    values: Float[Tensor, "B S D"],
    mask: Bool[Tensor, "B S"],
) -> Float[Tensor, "B T D"]:
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
    tap(part, "alignment", weights[:, None])  # as of one head
    return weights @ values.to(weights.dtype)


def _causal_mask(q: Float[Tensor, "B H T K"]) -> Bool[Tensor, "T T"]:
    steps = q.shape[2]
    return torch.ones(steps, steps, dtype=torch.bool, device=q.device).tril()
