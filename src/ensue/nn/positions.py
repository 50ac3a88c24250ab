"""Where a token stands, as a vector: attention alone would not know."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoids(positions: Int[Tensor, "*n"], d_model: int) -> Float[Tensor, "*n D"]:
    """Give a vector for each position: sines of falling frequency, then the cosines.

        P[t, i] = sin(t / 10000^(2i / D)),  P[t, D/2 + i] = cos(of the same),  i < D/2

    Reference: Vaswani et al. 2017, section 3.5, where sines and cosines stand by turns; in halves,
    as here, they stand in the authors' own code and in Marian's models.
    """
    falling = torch.arange(0, d_model, 2, device=positions.device) * (-math.log(10000.0) / d_model)
    angles = positions[..., None] * falling.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
