"""The learning rate over a run, as a share of its peak."""

import math


def lr_share(step: int, max_steps: int, warmup_steps: int, schedule: str) -> float:
    """Give the share of the peak learning rate at one update.

    Args:
        step: Updates done so far.
        max_steps: Updates in all; the share reaches zero just after the last.
        warmup_steps: Updates over which it rises.
        schedule: linear, cosine or constant.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    left = (max_steps - step) / max(1, max_steps - warmup_steps)
    return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
