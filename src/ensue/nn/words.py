"""Words as vectors that are made of the vectors of their n-grams; and what a row of them says most.

A reader of texts gets `Words`, the rows of a batch side by side, and perhaps a shift of their
vectors: by it a task asks what in the input speaks for an answer, or trains against the worst case.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.capture import tap
from ensue.nn.linear import empty_embedding


class Words(NamedTuple):
    """Rows of words, side by side."""

    ids: Int[Tensor, "B T"]
    """Which line of `grams` each word is; 0 behind a row's end."""
    length: Int[Tensor, " B"]
    """Words of each row, at least 1."""
    grams: Int[Tensor, "U G"]
    """Buckets of each different word: its own, of its shape, then of its n-grams; 0: none."""


class Bag(NamedTuple):
    """Rows as bags of n-grams."""

    ids: Int[Tensor, " N"]
    """Buckets, row after row."""
    starts: Int[Tensor, " B"]
    """Where each row begins."""
    weights: Float[Tensor, " N"]
    """How much the row has of each."""


class Pieces(NamedTuple):
    """Rows of a tokenizer's pieces, side by side."""

    ids: Int[Tensor, "B T"]
    """Padded at their ends."""
    length: Int[Tensor, " B"]
    """Pieces of each row, at least 1."""


class WordVectors(nn.Module):
    """A vector for each word: its own, its shape's and the mean of its n-grams', normalised.

    Args:
        buckets: How many n-grams can be told apart; see `ensue.data.words`.
        d_model: Width.

    Reference: Bojanowski et al. 2017, arXiv:1607.04606.
    """

    def __init__(self, buckets: int, d_model: int) -> None:
        super().__init__()
        self.own = empty_embedding(buckets + 1, d_model)
        self.grams = empty_embedding(buckets + 1, d_model)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise n-grams; what a word is beside them is nothing until it is seen."""
        nn.init.zeros_(self.own.weight)
        nn.init.normal_(self.grams.weight, std=0.2)

    def forward(
        self, words: Words, shift: Float[Tensor, "B T D"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Give the vectors of rows, zeros behind their ends.

        Args:
            words: The rows.
            shift: Added to the vectors.
        """
        own, grams = words.grams.tensor_split([2], dim=1)
        vectors = F.embedding_bag(grams, self.grams.weight, mode="mean", padding_idx=0)
        vectors = vectors + F.embedding_bag(own, self.own.weight, mode="sum", padding_idx=0)
        vectors = F.layer_norm(vectors, vectors.shape[-1:]) * (own[:, :1] > 0)
        x = F.embedding(words.ids, vectors)
        tap(self, "vectors", x)
        return x if shift is None else x + shift


def most_of(x: Float[Tensor, "B T D"], length: Int[Tensor, " B"]) -> Float[Tensor, "B D"]:
    """Give of each channel the most that it says in a row (max over time)."""
    steps = torch.arange(x.shape[1], device=x.device)
    behind = steps >= length[:, None]
    return x.float().masked_fill(behind[..., None], -torch.inf).amax(dim=1)
