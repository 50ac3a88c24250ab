"""What a run will cost, before anything is spent: parameters, operations, memory, time."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

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


def build_empty(model_class: type[Any], config: Any) -> nn.Module:
    """Build a model without memory for its weights, to count and to read formulas from."""
    with torch.device("meta"):
        model: nn.Module = model_class(config)
    return model


def cost(model: Any, rows: int, steps: int, micro_rows: int = 0) -> Cost:
    """Estimate what one update of a model costs.

    Args:
        model: May be an empty one.
        rows: Rows of an update.
        steps: Tokens of a row.
        micro_rows: Rows computed at a time; 0: all.
    """
    parameters = count_parameters(model)
    width = max(p.shape[-1] for p in model.parameters() if p.ndim == 2)
    depth = max(1, sum(len(m) for m in model.modules() if isinstance(m, nn.ModuleList)))
    tokens = (micro_rows or rows) * steps
    # About 16 vectors of the width for each block and token (GPT-2: 4 d in the MLP twice, q k v,
    # norms, residuals), and the logits with their gradient; fp32.
    activations = 4 * tokens * (16 * width * depth + 2 * int(model.vocab_size))
    return Cost(
        parameters=parameters,
        flops_per_step=int(model.train_flops(rows, steps)),
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
