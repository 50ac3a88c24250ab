"""How fast a shape generates, and what it keeps, by the length of what was read before."""

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
    """Tokens before; of an encoder-decoder: of the source."""
    tokens_per_second: float
    """One row, one token at a time; the median of the rounds."""
    state_bytes: int
    """What the row keeps."""


@torch.inference_mode()
def measure_generation(config: Any, contexts: Sequence[int]) -> list[GenerationSpeed]:
    """Time a model of this shape, with its context made long enough; its weights are random.

    Args:
        config: The model's.
        contexts: Lengths of the text before, or of the source where the model has an encoder; those
            that it cannot hold are left out.
    """
    longest = max(contexts) + NEW_TOKENS * ROUNDS
    room = {"context_length": longest} if hasattr(config, "context_length") else {}
    config = replace(config, dropout=0.0, **room)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one row at a time gives no second thread anything to do
    model: Any = step_of(config).model(config).eval()
    most = model.max_length if model.max_length is not None else longest
    told = {}
    for context in contexts:
        if context + NEW_TOKENS * ROUNDS <= most:
            known = getattr(config, "src_vocab_size", 0) or config.vocab_size
            tokens = torch.randint(known, (1, context))
            told[context] = _told(model, tokens)
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


def _told(model: Any, tokens: Tensor) -> tuple[Tensor, Any]:
    """Let a model read tokens: as a text before, or as a source."""
    if not hasattr(model, "encode"):
        hidden, state = model(tokens, model.init_state(1))
        return hidden, state
    memory = model.encode(tokens, torch.tensor([tokens.shape[1]]))
    hidden, state = model(torch.zeros_like(tokens[:, :1]), model.init_state(1, memory))
    return hidden, state


def _bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if hasattr(state, "__dataclass_fields__"):
        return sum(_bytes(getattr(state, field.name)) for field in fields(state))
    return 0
