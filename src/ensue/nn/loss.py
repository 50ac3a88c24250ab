"""Cross entropy over a vocabulary, as a sum, without ever holding all of a large batch's logits."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ensue.nn.precision import kept

CHUNK = 2**25
"""Logits formed at a time: 128 MB in fp32. 4,096 tokens of a 50,257-word vocabulary have 823 MB."""
SLICE = 2**19
"""Logits turned into a loss and its slopes at a time on a processor: 2 MB in fp32, in its cache.

What is no more than that is left to torch, which needs fewer calls."""

ROUND = 128
"""Rows are filled up to a multiple: memory of many sizes, each used once, is not given back."""


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
        targets: Ids; where -1 stands nothing is scored, and no logits are formed.
        vocab_size: Logits of one target.
        label_smoothing: Share of the target's probability that is spread evenly over all entries.
            Reference: Szegedy et al. 2016, section 7.
    """
    x, y = hidden.flatten(0, 1), targets.flatten()
    scored = (y >= 0).nonzero()[:, 0]
    if len(scored) < len(y):  # padding, or what a dialogue's other side said
        more = -len(scored) % ROUND
        x = x[F.pad(scored, (0, more))]
        y = F.pad(y[scored], (0, more), value=-1)
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
    logits = head(x)
    if logits.device.type != "cpu" or logits.numel() <= SLICE or torch.compiler.is_compiling():
        return F.cross_entropy(
            logits.float(), y, reduction="sum", ignore_index=-1, label_smoothing=smoothing
        )
    total: Tensor = _CrossEntropy.apply(logits, y, smoothing)  # type: ignore[no-untyped-call]
    return total


class _CrossEntropy(torch.autograd.Function):
    """The sum in fp32, and at once its slopes, in the dtype of the logits: all that is kept.

    torch's own takes the same steps one after another, each over all logits, in fp32: of 2,560 rows
    of 8,000 logits in bf16 forward and backward take 220 ms, these 80 (Zen 4, one core).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        slopes = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        vocab_size = logits.shape[1]
        rows = max(1, SLICE // vocab_size)
        scored = int((targets >= 0).sum())  # what fills up stands behind
        for first in range(0, scored, rows):
            part = slice(first, min(first + rows, scored))
            y = targets[part, None]
            logp = logits[part].log_softmax(dim=-1, dtype=torch.float32)
            total -= (1 - smoothing) * logp.gather(1, y).sum()
            if smoothing:
                total -= smoothing * logp.sum() / vocab_size
            if slopes is not None:
                slope = logp.exp_()
                if smoothing:
                    slope -= smoothing / vocab_size
                slope.scatter_add_(1, y, slope.new_full(y.shape, smoothing - 1))
                slopes[part] = slope
        if slopes is not None:
            slopes[scored:] = 0
            ctx.save_for_backward(slopes)
        return total.float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return slopes.mul_(grad), None, None  # in place: a second pass is refused by torch
