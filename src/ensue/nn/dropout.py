"""Dropout whose mask is cheap on a processor."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_LOWEST = -(2**63)


def dropout(x: Float[Tensor, "*n"], p: float, training: bool) -> Float[Tensor, "*n"]:
    """Zero a share `p` of the elements and scale the others up, in training only.

    On a processor each random number of 64 bits decides on eight elements, where torch draws one
    for each; `p` is rounded to a 256th for it (0.1 to 26/256), and the scale is exact for that.
    What would be rounded to nothing or to all is left to torch.
    """
    if not training or p == 0:
        return x
    dropped = round(p * 256)
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not 0 < dropped < 256:
        return F.dropout(x, p)
    numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(_LOWEST, None)
    kept = numbers.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Module):
    """Dropout as a layer; see `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Apply in training mode."""
        return dropout(x, self.p, self.training)
