"""Budgets as people write them: time or floating-point operations."""

import math
import re
from dataclasses import dataclass

from ensue.errors import UsageError

_UNITS = {"h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)\s*")


@dataclass(frozen=True)
class Budget:
    """How much a run may cost; one of the two is zero."""

    seconds: float = 0.0
    """Wall clock from the command's start to the finished run."""
    flops: float = 0.0
    """Training operations by the model's formula."""


def parse_budget(text: str) -> Budget:
    """Read ``90s``, ``3min``, ``1h30min`` or ``2e15flop``.

    Raises:
        UsageError: When the text is none of these, or nothing at all.
    """
    clean = text.strip().lower()
    work = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\+?\d+)?)\s*flops?", clean)
    if work and 0 < float(work[1]) < math.inf:
        return Budget(flops=float(work[1]))
    parts = _TIME.findall(clean)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or _TIME.sub("", clean) or not 0 < seconds < math.inf:
        raise UsageError(
            f"budget: cannot read {text!r}", "Write a time (90s, 3min, 1h30min) or work (2e15flop)."
        )
    return Budget(seconds=seconds)
