"""The learning rate over a run, as a share of its peak."""

import math
from collections.abc import Sequence

Fits = Sequence[tuple[int, int]]
"""Times that the end was moved: (updates done, updates in all as planned until then)."""


def lr_share(step: int, max_steps: int, warmup_steps: int, schedule: str, fits: Fits = ()) -> float:
    """Give the share of the peak learning rate at one update.

    Where the end was moved, the rate goes on from where it stood, and falls to the new end.

    Args:
        step: Updates done so far.
        max_steps: Updates in all; of linear and cosine the share reaches zero just after the last.
        warmup_steps: Updates over which it rises.
        schedule: linear, cosine, constant, or inverse_sqrt (Vaswani et al. 2017, eq. 3: it falls as
            1/sqrt(step), and knows no end).
        fits: Earlier ends, oldest first, all after the warm-up.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "inverse_sqrt":
        return math.sqrt((warmup_steps + 1) / (step + 1))
    left, begun = 1.0, warmup_steps
    for until, end in [*fits, (step, max_steps)]:
        until = min(until, step)
        left *= (end - until) / max(1, end - begun)
        begun = until
    return left if schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
