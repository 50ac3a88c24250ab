"""Many sentences as vectors, seen in two dimensions.

    seen = ensue.look_at_vectors("runs/dates", texts, groups=languages)
    seen.save("pictures")

The two directions are those along which the vectors differ most: the principal components. Of what
lies in the other directions the picture shows nothing; so two numbers are given beside it: the
share of the variance that it shows, and how often a sentence's nearest neighbour, in all
dimensions, is of its own group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ensue import __version__
from ensue.api import load_embedder
from ensue.embedding import Embedder
from ensue.errors import UsageError
from ensue.runs import Run
from ensue.views.vectors import write_vectors

MOST = 1_000
"""Sentences in a picture: more would cover each other."""
LEAST = 3
"""Two points always lie on a line."""


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """Sentences in two dimensions."""

    title: str
    """Which run."""
    texts: tuple[str, ...]
    """The sentences."""
    groups: tuple[str, ...]
    """What each is coloured by; empty: all alike."""
    grouped_by: str
    """What the groups are, in words."""
    dimensions: int
    """Numbers of a vector."""
    points: Float[np.ndarray, "N 2"]
    """Where each sentence stands."""
    shares: tuple[float, float]
    """Share of the variance in each of the two directions."""
    neighbours: float
    """Share of sentences whose nearest neighbour, in all dimensions, is of the same group."""
    drawn_neighbours: float
    """The same in the picture."""
    chance: float
    """The same of a neighbour that is drawn by lot."""
    notices: tuple[str, ...]
    """What a reader should know."""

    def to_json(self) -> dict[str, Any]:
        """Give all numbers as plain values."""
        return {
            "title": self.title,
            "grouped_by": self.grouped_by,
            "dimensions": self.dimensions,
            "shares": list(self.shares),
            "neighbours": self.neighbours,
            "drawn_neighbours": self.drawn_neighbours,
            "chance": self.chance,
            "notices": list(self.notices),
            "texts": list(self.texts),
            "groups": list(self.groups),
            "points": self.points.tolist(),
        }

    def save(self, folder: Path | str) -> list[Path]:
        """Write vectors.html, .csv, and each picture as SVG and, with matplotlib, as PNG."""
        return write_vectors(Path(folder), self.to_json(), __version__)


def look_at_vectors(
    run: str | Path | Run,
    texts: Sequence[str],
    groups: Sequence[str] = (),
    grouped_by: str = "group",
) -> Vectors:
    """Show what a run's encoder makes of sentences in two dimensions.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        texts: The sentences; blank ones and doubles are left out, and of many an even choice is
            taken.
        groups: What each is coloured by; empty: all alike.
        grouped_by: What the groups are, in words.

    Raises:
        UsageError: Fewer than three sentences, or groups of another number.
    """
    embedder = load_embedder(run)
    name = Path(str(embedder.card["run"])).resolve().name
    return vectors_of(embedder, texts, groups, grouped_by, name)


def vectors_of(
    embedder: Embedder,
    texts: Sequence[str],
    groups: Sequence[str] = (),
    grouped_by: str = "group",
    name: str = "",
) -> Vectors:
    """Show what any encoder makes of sentences; see `look_at_vectors`."""
    if groups and len(groups) != len(texts):
        raise UsageError(f"{len(texts):,} sentences have {len(groups):,} groups")
    kept: dict[str, str] = {}
    for i, text in enumerate(texts):
        if text.strip():
            kept.setdefault(text, groups[i] if groups else "")
    notices = []
    if len(kept) < len(texts):
        notices.append(f"{len(texts) - len(kept):,} blank lines and doubles are left out.")
    if len(kept) < LEAST:
        raise UsageError(
            f"{len(kept)} different sentences are too few for a picture; {LEAST} are the least",
            "Give a file with more of them, one on each line.",
        )
    chosen = list(kept)
    if len(chosen) > MOST:
        notices.append(f"Of {len(chosen):,} sentences {MOST:,}, evenly spread, are shown.")
        chosen = [chosen[i * len(chosen) // MOST] for i in range(MOST)]
    vectors = torch.from_numpy(np.stack([one.vector for one in embedder.embed(chosen)]))
    points, shares = principal(vectors.double(), 2)
    named = [kept[text] for text in chosen] if groups else []
    return Vectors(
        title=f"{name} ({type(embedder.model).__name__})"
        if name
        else type(embedder.model).__name__,
        texts=tuple(chosen),
        groups=tuple(named),
        grouped_by=grouped_by,
        dimensions=vectors.shape[1],
        points=points.numpy(),
        shares=(shares[0], shares[1]),
        neighbours=_neighbours(vectors.double(), named),
        drawn_neighbours=_neighbours(points, named),
        chance=_chance(named),
        notices=tuple(notices),
    )


def principal(
    vectors: Float[Tensor, "N D"], count: int
) -> tuple[Float[Tensor, "N C"], list[float]]:
    """Turn vectors so that the first numbers of each say the most of their variance.

    Args:
        vectors: At least one, of at least `count` numbers.
        count: How many are kept.

    Returns:
        The vectors in these directions, and the share of the variance in each. A direction points
        to where its largest weight is positive: else nobody could tell which.

    Reference: Pearson 1901, doi:10.1080/14786440109462720.
    """
    u, s, v = torch.linalg.svd(vectors - vectors.mean(dim=0), full_matrices=False)
    v = v[:count]
    signs = v.gather(1, v.abs().argmax(dim=1, keepdim=True))[:, 0].sign()
    variance = s**2 / (s**2).sum().clamp(min=1e-30)
    return u[:, :count] * s[:count] * signs, variance[:count].tolist()


def _neighbours(vectors: Float[Tensor, "N D"], groups: Sequence[str]) -> float:
    """Give the share of vectors whose nearest neighbour is of the same group."""
    if not groups:
        return 0.0
    distances = torch.cdist(vectors, vectors).fill_diagonal_(float("inf"))
    nearest = distances.argmin(dim=1).tolist()
    return sum(groups[i] == groups[j] for i, j in enumerate(nearest)) / len(groups)


def _chance(groups: Sequence[str]) -> float:
    """Give the share of pairs of different sentences that are of one group."""
    if not groups:
        return 0.0
    counts = [groups.count(name) for name in dict.fromkeys(groups)]
    return sum(n * (n - 1) for n in counts) / (len(groups) * (len(groups) - 1))
