"""Convolution: along a sequence, looking to the left only; and over a picture."""

import torch
import torch.nn.functional as F
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


class PictureConv(nn.Module):
    """Filters of k by k taps, the same at every place of a picture.

        y_ij = sum_ab F_ab x_(si+a)(sj+b) + c        (a, b around the place; s: the stride)

    Args:
        d_input: Channels read.
        d_output: Filters.
        kernel_size: Taps k on a side.
        stride: Places s from one to the next that is looked at.
        padding: Zeros that are thought beyond each edge: with k // 2 and a stride of 1 the picture
            keeps its size.
    """

    def __init__(
        self, d_input: int, d_output: int, kernel_size: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        # A matrix, so that Muon takes it as one: a row for each filter.
        self.weight = nn.Parameter(torch.empty(d_output, d_input * kernel_size**2))
        self.bias = nn.Parameter(torch.empty(d_output))

    @property
    def filters(self) -> Float[Tensor, "F C K K"]:
        """Give the filters as small pictures."""
        return self.weight.unflatten(1, (-1, self.kernel_size, self.kernel_size))

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise filters so that they keep the variance of what they read."""
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F I J"]:
        """Filter a picture; channels lie last in memory, as the processor's kernels want them."""
        dtype = product_dtype()
        filters = self.filters.to(dtype, memory_format=torch.channels_last)
        x = x.to(dtype, memory_format=torch.channels_last)
        return F.conv2d(x, filters, self.bias.to(dtype), self.stride, self.padding)
