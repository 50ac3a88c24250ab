"""Cross entropy over a vocabulary, as a sum, without ever holding all of a large batch's logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ensue.nn.precision import kept

CHUNK = 2**24
"""Logits formed at a time: 64 MB in fp32. 4,096 tokens of a 50,257-word vocabulary have 823 MB."""


def cross_entropy_sum(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "B T D"],
    targets: Int[Tensor, "B T"],
    vocab_size: int,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Sum the negative log-likelihood of the targets, in nats.

    Args:
        head: Turns hidden states into logits.
        hidden: Hidden states.
        targets: Ids; where -1 stands nothing is scored.
        vocab_size: Logits of one target.
        label_smoothing: Share of the target's probability that is spread evenly over all entries.
            Reference: Szegedy et al. 2016, section 7.
    """
    x, y = hidden.flatten(0, 1), targets.flatten()
    size = max(1, CHUNK // vocab_size)
    if len(x) <= size:
        return _sum(head, x, y, label_smoothing)
    total = hidden.new_zeros((), dtype=torch.float32)
    part = kept(_sum)
    for a, b in zip(x.split(size), y.split(size), strict=True):
        # Recomputed in the backward pass: the chunk's logits live only while it is at work.
        total = total + checkpoint(part, head, a, b, label_smoothing, use_reentrant=False)
    return total


def _sum(head: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(
        head(x).float(), y, reduction="sum", ignore_index=-1, label_smoothing=smoothing
    )
