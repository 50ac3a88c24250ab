"""A decoder's state as a value: frozen dataclasses of batch-first tensors.

Every tensor in a state has the row (batch) as its first dimension, so that one function serves all
models when beams reorder, finished rows leave, or new rows join. A call of a decoder *consumes* the
state it is given (the K/V cache is written in place): whoever branches copies first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

S = TypeVar("S")


def map_state(fn: Callable[..., Tensor], *states: S) -> S:
    """Apply `fn` to each tensor field of a state (or to the same field of several states).

    Args:
        fn: Takes as many tensors as there are states, gives one.
        states: One or more states of one class; nested dataclasses are followed, ints are kept
            from the first.

    Returns:
        A new state of the same class.
    """
    first = cast(Any, states[0])
    changed: dict[str, Any] = {}
    for field in fields(first):
        values = [getattr(state, field.name) for state in states]
        if isinstance(values[0], Tensor):
            changed[field.name] = fn(*values)
        elif hasattr(values[0], "__dataclass_fields__"):
            changed[field.name] = map_state(fn, *values)
    return cast(S, replace(first, **changed))


def select_rows(state: S, rows: Int[Tensor, " R"]) -> S:
    """Copy the named rows, in the named order; a row may appear several times (beams)."""
    return map_state(lambda t: t.index_select(0, rows), state)


def join_rows(states: Sequence[S]) -> S:
    """Put the rows of several states into one batch.

    Caches with different numbers of slots are padded with zeros to the longest; the slots beyond a
    row's length are never attended to.
    """
    return map_state(_concatenate, *states)


def _concatenate(*tensors: Tensor) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
    return torch.cat([_pad_to(t, shape) for t in tensors])


def _pad_to(t: Tensor, shape: list[int]) -> Tensor:
    if list(t.shape[1:]) == shape:
        return t
    padded = t.new_zeros(t.shape[0], *shape)
    padded[tuple(slice(n) for n in t.shape)] = t
    return padded


@dataclass(frozen=True, slots=True)
class KVCache:
    """Keys and values of all layers, in slots; `length` counts the filled slots of each row.

    Rows may stand at different lengths, so that a server can let rows join a running batch.
    """

    k: Float[Tensor, "B L S H K"]
    v: Float[Tensor, "B L S H K"]
    length: Int[Tensor, " B"]

    @classmethod
    def empty(
        cls,
        rows: int,
        layers: int,
        slots: int,
        heads: int,
        d_head: int,
        like: Tensor,
    ) -> "KVCache":
        """Allocate zeros with the dtype and device of `like`."""
        shape = (rows, layers, slots, heads, d_head)
        length = torch.zeros(rows, dtype=torch.int64, device=like.device)
        return cls(like.new_zeros(shape), like.new_zeros(shape), length)

    def grown(self, slots: int) -> "KVCache":
        """Give a cache with at least `slots` slots: this one, or a larger copy."""
        have = self.k.shape[2]
        if have >= slots:
            return self
        shape = [self.k.shape[1], slots, *self.k.shape[3:]]
        return replace(self, k=_pad_to(self.k, shape), v=_pad_to(self.v, shape))

    def positions(self, steps: int) -> Int[Tensor, "B T"]:
        """The positions of the next `steps` tokens of each row."""
        return self.length[:, None] + torch.arange(steps, device=self.length.device)

    def write(
        self,
        layer: int,
        positions: Int[Tensor, "B T"],
        k: Float[Tensor, "B T H K"],
        v: Float[Tensor, "B T H K"],
    ) -> None:
        """Put one layer's new keys and values into their slots, in place."""
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        self.k[:, layer][rows, positions] = k.to(self.k.dtype)
        self.v[:, layer][rows, positions] = v.to(self.v.dtype)

    def advanced(self, steps: int) -> "KVCache":
        """Count `steps` more slots of each row as filled."""
        return replace(self, length=self.length + steps)
