"""Words as vectors on the way in, vectors as scores of words on the way out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.nn.linear import empty_embedding, linear


class Vocabulary(nn.Module):
    """The embedding E of a model, and its output layer: E again, unless untied, and a bias.

    Args:
        vocab_size: Entries.
        d_model: Width of a vector.
        untie: Learn the output layer apart from the embedding.

    Reference: Press & Wolf 2017, arXiv:1608.05859 (one matrix for both).
    """

    def __init__(self, vocab_size: int, d_model: int, untie: bool) -> None:
        super().__init__()
        self.embedding = empty_embedding(vocab_size, d_model)
        self.output = nn.Parameter(torch.empty(vocab_size, d_model)) if untie else None
        self.bias = nn.Parameter(torch.empty(vocab_size))

    @property
    def bounds(self) -> tuple[float, float]:
        """Between these a vector's numbers are drawn, for it to have about unit length."""
        bound = (3 / self.embedding.embedding_dim) ** 0.5
        return -bound, bound

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw vectors of about unit length; no word is likelier at first."""
        for weight in (self.embedding.weight, self.output):
            if weight is not None:
                nn.init.uniform_(weight, *self.bounds)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Int[Tensor, "*n"]) -> Float[Tensor, "*n D"]:
        """Look vectors up."""
        return self.embedding(tokens)

    def score(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Give the logits of every entry."""
        weight = self.embedding.weight if self.output is None else self.output
        return linear(hidden, weight, self.bias)
