"""Convolution along a sequence, looking to the left only."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ensue.nn.linear import linear
from ensue.nn.precision import product_dtype


class CausalConv(nn.Module):
    """Filters of k taps, `dilation` places apart, the last of them on the place itself.

        y_t = sum_j F_j x_{t - (k-1-j) dilation} + b

    The taps' inputs are laid side by side, and all filters are then one matrix product: that runs
    at the speed of `ensue.nn.linear` in its numbers (docs/experiments.md has it beside nn.Conv1d).

    Args:
        d_input: Channels read.
        d_output: Filters.
        kernel_size: Taps k.
        dilation: Distance between taps.
    """

    def __init__(self, d_input: int, d_output: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.kernel_size, self.dilation = kernel_size, dilation
        self.reach = (kernel_size - 1) * dilation
        self.weight = nn.Parameter(torch.empty(d_output, kernel_size * d_input))
        self.bias = nn.Parameter(torch.empty(d_output))

    def forward(
        self, x: Float[Tensor, "B T C"], past: Float[Tensor, "B P C"] | None = None
    ) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B P C"]]:
        """Filter T places.

        Args:
            x: Their inputs.
            past: The `reach` inputs before them; None: zeros.

        Returns:
            Their outputs, and the last `reach` inputs.
        """
        steps = x.shape[1]
        if past is None:
            past = x.new_zeros(len(x), self.reach, x.shape[2])
        seen = torch.cat([past.to(x.dtype), x], dim=1)
        taps = seen.to(product_dtype())
        taps = torch.cat(
            [taps[:, j * self.dilation :][:, :steps] for j in range(self.kernel_size)], dim=2
        )
        return linear(taps, self.weight, self.bias), seen[:, steps:]
