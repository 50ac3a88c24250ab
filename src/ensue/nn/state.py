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

from ensue.nn.precision import product_dtype

S = TypeVar("S")


SOURCE = {"source": True}
"""Metadata of the fields that hold what an encoder made of the sources: no step changes them.

They have a row for each source, which serves as many rows of the state as there are for each of
them, one behind another: the beams of a sentence."""


def map_state(
    fn: Callable[..., Tensor], *states: S, source_fn: Callable[..., Tensor] | None = None
) -> S:
    """Apply `fn` to each tensor field of a state (or to the same field of several states).

    Args:
        fn: Takes as many tensors as there are states, gives one.
        states: One or more states of one class; nested dataclasses are followed, ints are kept
            from the first.
        source_fn: Applied in place of it to the fields that hold sources.

    Returns:
        A new state of the same class.
    """
    first = cast(Any, states[0])
    changed: dict[str, Any] = {}
    for field in fields(first):
        values = [getattr(state, field.name) for state in states]
        own = source_fn if source_fn and "source" in field.metadata else fn
        if isinstance(values[0], Tensor):
            changed[field.name] = own(*values)
        elif hasattr(values[0], "__dataclass_fields__"):
            changed[field.name] = map_state(own, *values, source_fn=source_fn)
    return cast(S, replace(first, **changed))


def select_rows(
    state: S, rows: Int[Tensor, " R"], sources: Int[Tensor, " N"] | slice | None = None
) -> S:
    """Copy the named rows, in the named order; a row may appear several times (beams).

    Args:
        state: The state of some rows.
        rows: Which of them.
        sources: Which of the sources; None: those of the rows, one for each.
    """
    source_fn = None if sources is None else lambda t: t[sources]
    return map_state(lambda t: t.index_select(0, rows), state, source_fn=source_fn)


def for_rows(source: Float[Tensor, "N *d"], rows: int) -> Float[Tensor, "R *d"]:
    """Repeat what was made of each source for the rows that it serves."""
    return source.repeat_interleave(rows // len(source), dim=0)


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


SLOTS = 64
"""A cache grows by so many slots; below that it doubles: few copies, little waste."""


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
        """Allocate zeros where `like` lies, in the numbers that attention takes there."""
        shape = (rows, layers, slots, heads, d_head)
        length = torch.zeros(rows, dtype=torch.int64, device=like.device)
        dtype = torch.float32 if like.device.type == "cpu" else product_dtype()
        k, v = (like.new_zeros(shape, dtype=dtype) for _ in range(2))
        return cls(k, v, length)

    def grown(self, positions: Int[Tensor, "B T"], most: int) -> "KVCache":
        """Give a cache with slots for these positions: this one, or a larger copy.

        Args:
            positions: Of tokens to come.
            most: Slots that are never exceeded.
        """
        filled = int(positions.max()) + 1
        if self.k.shape[2] >= filled:
            return self
        slots = -(-filled // SLOTS) * SLOTS if filled > SLOTS else 1 << (filled - 1).bit_length()
        slots = min(slots, most)
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
