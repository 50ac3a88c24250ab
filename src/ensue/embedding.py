"""Sentences as vectors: what any encoder gives, and which of them are near each other."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """One line, as the encoder says it."""

    source: str
    """The line."""
    vector: Float[np.ndarray, " D"]
    """What the encoder makes of it; of a blank line zeros."""
    notices: tuple[str, ...] = ()
    """What a reader should know."""


@runtime_checkable
class Embedder(Protocol):
    """What turns lines into vectors: a `Translator`, a `MaskFiller`."""

    model: Any
    card: dict[str, Any]

    def embed(
        self, lines: Iterable[str], on_progress: Callable[[int], None] | None = None
    ) -> Iterator[Embedded]:
        """Give the vector of each line, in their order."""
        ...


class Near(NamedTuple):
    """A line that is near a query."""

    line: int
    """Its number, from 1."""
    source: str
    similarity: float
    """Cosine of the angle between the two vectors: 1 where they point the same way."""


def nearest(
    queries: Sequence[Embedded], lines: Iterable[Embedded], count: int
) -> list[tuple[Near, ...]]:
    """Find the lines that are nearest to each query, the nearest first; blank lines are none.

    Args:
        queries: What is looked for.
        lines: Where; read as they come, and the best so far are all that is kept.
        count: How many are given.
    """
    asked = [_unit(query.vector) for query in queries]
    best: list[list[Near]] = [[] for _ in queries]
    for number, one in enumerate(lines, 1):
        vector = _unit(one.vector)
        if not vector.any():
            continue
        for query, found in zip(asked, best, strict=True):
            similarity = float(query @ vector)
            if len(found) < count or similarity > found[-1].similarity:
                found.append(Near(number, one.source, similarity))
                found.sort(key=lambda near: (-near.similarity, near.line))
                del found[count:]
    return [tuple(found) for found in best]


def _unit(vector: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
