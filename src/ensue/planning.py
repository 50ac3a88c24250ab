"""What a run will cost, before anything is spent: parameters, operations, memory, time."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ensue.errors import UsageError
from ensue.models import step_of

BYTES_PER_PARAMETER = {"muon": 4 * 5, "adamw": 4 * 5}
"""fp32 weight, gradient, best weights, and one (Muon) or two (AdamW) moments, rounded up to two."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training a model costs."""

    parameters: int
    """Weights, a tied one counted once."""
    flops_per_step: int
    """Operations of one update, by the model's formula."""
    tokens_per_step: int
    """Targets of one update."""
    state_bytes: int
    """Weights, gradients, moments and the best weights so far."""
    activation_bytes: int
    """What the forward pass of one micro-batch keeps for the backward pass, estimated."""
    checkpoint_bytes: int
    """One checkpoint on the disk."""


def count_parameters(model: nn.Module) -> int:
    """Count the weights; a tied one counts once."""
    return sum(p.numel() for p in model.parameters())


def build_empty(model_class: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    """Build a model without memory for its weights, to count and to read formulas from."""
    with torch.device("meta"):
        return model_class(config)


def train_flops(model: Any, rows: int, steps: int, source_steps: int = 0) -> int:
    """Give the operations of one forward and backward pass, by the model's formula.

    A person's own model may have none: then 6 for each weight and token, but for embeddings, which
    are looked up.
    """
    if hasattr(model, "train_flops"):
        sides = (steps, source_steps) if source_steps else (steps,)
        return int(model.train_flops(rows, *sides))
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    weights = sum(p.numel() for p in model.parameters() if id(p) not in looked_up)
    return 6 * weights * rows * (steps + source_steps)


def fitted(config: Any, parameters: int) -> Any:
    """Change a model's width until it has as many parameters as asked for.

    Round widths are taken where they are within 1 %: products of odd ones are slower.

    Args:
        config: Complete, with a vocabulary; ``d_model`` is what is changed.
        parameters: How many; the nearest that can be had is taken.

    Raises:
        UsageError: The width changes nothing.
    """

    def miss(width: int) -> int:
        model = build_empty(step_of(config).model, replace(config, d_model=width))
        return count_parameters(model) - parameters

    best = config
    for grain in (32, 16, 8, 4, 2, 1):
        try:
            width = _nearest(miss, math.lcm(grain, getattr(config, "num_heads", 1)))
        except UsageError:  # a class of the user's own whose heads want rounder widths
            break
        if not width:
            raise UsageError(
                f"{step_of(config).title} has no more weights when d_model is larger",
                "Let its __init__ use d_model as the width, or not take it.",
            )
        best = replace(config, d_model=width)
        if abs(miss(width)) <= 0.01 * parameters:
            break
    return best


def _nearest(miss: Callable[[int], int], unit: int) -> int:
    """Find the multiple of a unit where a growing function is nearest to zero; 0: it grows not."""
    low, high = 1, 2
    while (below := miss(high * unit)) <= 0:
        if below <= miss(low * unit):
            return 0
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if miss(middle * unit) <= 0 else (low, middle)
    return min((low * unit, high * unit), key=lambda width: abs(miss(width)))


def cost(model: Any, rows: int, steps: int, source_steps: int = 0, micro_rows: int = 0) -> Cost:
    """Estimate what one update of a model costs.

    Args:
        model: May be an empty one.
        rows: Rows of an update.
        steps: Tokens of a row.
        source_steps: Tokens of a row that an encoder reads first.
        micro_rows: Rows computed at a time; 0: all.
    """
    parameters = count_parameters(model)
    width = max(p.shape[-1] for p in model.parameters() if p.ndim == 2)
    depth = max(1, sum(len(m) for m in model.modules() if isinstance(m, nn.ModuleList)))
    tokens = (micro_rows or rows) * (steps + source_steps)
    # About 16 vectors of the width for each block and token (GPT-2: 4 d in the MLP twice, q k v,
    # norms, residuals), and the logits with their gradient; fp32.
    activations = 4 * tokens * (16 * width * depth + 2 * int(getattr(model, "vocab_size", 0)))
    return Cost(
        parameters=parameters,
        flops_per_step=train_flops(model, rows, steps, source_steps),
        tokens_per_step=rows * steps,
        state_bytes=parameters * BYTES_PER_PARAMETER["adamw"],
        activation_bytes=activations,
        checkpoint_bytes=parameters * 16,
    )


def peak_flops(device: torch.device) -> float:
    """Measure the fastest bf16 matrix product for a tenth of a second, in FLOP/s."""
    side = 1024 if device.type == "cpu" else 8192
    a = torch.randn(side, side, device=device).bfloat16()
    best, stop = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < stop or best == float("inf"):
        begun = time.perf_counter()
        (a @ a)[0, 0].item()  # waits until it is done, also on a GPU
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def memory_bytes() -> int:
    """Give this machine's memory, or 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
