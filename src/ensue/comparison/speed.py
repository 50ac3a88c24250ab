"""How fast a shape generates, and what it keeps, by the length of the text before."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ensue.models import step_of

NEW_TOKENS, ROUNDS = 16, 11
"""Tokens of a round; the contexts take turns, so that a hiccup of the machine hits no curve."""


@dataclass(frozen=True, kw_only=True)
class GenerationSpeed:
    """One point of the curve."""

    context: int
    """Tokens before."""
    tokens_per_second: float
    """One row, one token at a time; the median of the rounds."""
    state_bytes: int
    """What the row keeps."""


@torch.inference_mode()
def measure_generation(config: Any, contexts: Sequence[int]) -> list[GenerationSpeed]:
    """Time a model of this shape, with its context made long enough; its weights are random.

    Args:
        config: The model's.
        contexts: Lengths of the text before; those that the model cannot hold are left out.
    """
    longest = max(contexts) + NEW_TOKENS * ROUNDS
    config = replace(config, dropout=0.0, context_length=longest)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one row at a time gives no second thread anything to do
    model: Any = step_of(config).model(config).eval()
    room = model.max_length if model.max_length is not None else longest
    told = {}
    for context in contexts:
        if context + NEW_TOKENS * ROUNDS <= room:
            tokens = torch.randint(config.vocab_size, (1, context))
            told[context] = model(tokens, model.init_state(1))
    kept = {context: _bytes(state) for context, (_, state) in told.items()}
    speeds: dict[int, list[float]] = {context: [] for context in told}
    for _ in range(ROUNDS):
        for context, (hidden, state) in told.items():
            begun = time.perf_counter()
            for _ in range(NEW_TOKENS):
                token = model.head(hidden[:, -1]).argmax(dim=-1)[:, None]
                hidden, state = model(token, state)
            speeds[context].append(NEW_TOKENS / (time.perf_counter() - begun))
            told[context] = hidden, state
    return [
        GenerationSpeed(
            context=context,
            tokens_per_second=statistics.median(speeds[context]),
            state_bytes=kept[context],
        )
        for context in told
    ]


def _bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if hasattr(state, "__dataclass_fields__"):
        return sum(_bytes(getattr(state, field.name)) for field in fields(state))
    return 0
