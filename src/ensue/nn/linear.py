"""Matrix products and GELU as fast as plain torch allows; `ensue.nn.precision` chooses the numbers.

Why not nn.Linear under autocast: autocast casts each weight anew for the backward pass and adds a
bf16 bias in a pass of its own; and torch's tanh GELU has no oneDNN kernel. Measured in
docs/experiments.md; reproduced by ``python bench/train_step.py``.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ensue.nn.precision import lowered, product_dtype

_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
_A = math.sqrt(8 / math.pi)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x weight^T + bias`` for matrices, through oneDNN where there is a choice.

    torch sends fp32 to MKL, which takes a slow path on AMD (Zen 5: 180 against 410 GFLOP/s).
    """
    if _ONEDNN and x.device.type == "cpu":
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """A product that keeps its operands in the dtype of the product, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        rows, w = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)
        ctx.save_for_backward(rows, w)
        ctx.x, ctx.weight = (x.dtype, x.shape), weight.dtype
        y = product(rows, w, None if bias is None else bias.to(dtype))
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, w = ctx.saved_tensors
        g = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
        dx = (g @ w).to(ctx.x[0]).view(ctx.x[1]) if ctx.needs_input_grad[0] else None
        # Not through `product`: it repacks its second argument, here the larger one (2.4 against
        # 1.2 ms for 2,048 x 128 by 512).
        dw = (g.t() @ rows).to(ctx.weight) if ctx.needs_input_grad[1] else None
        db = g.sum(0).to(ctx.weight) if ctx.needs_input_grad[2] else None
        return dx, dw, db, None


def linear(
    x: Float[Tensor, "*n X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, " Y"] | None = None
) -> Float[Tensor, "*n Y"]:
    """Compute ``x weight^T + bias`` in the numbers of `ensue.nn.precision`, and give those."""
    if torch.compiler.is_compiling():  # plain operations, which the compiler fuses itself
        dtype = product_dtype()
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    if not torch.is_grad_enabled():
        return product(
            x.to(product_dtype()), lowered(weight), None if bias is None else lowered(bias)
        )
    y: Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, product_dtype()
    )
    return y


class Linear(nn.Linear):
    """A layer of weights and biases; torch's module with the product above."""

    def forward(self, x: Float[Tensor, "*n X"]) -> Float[Tensor, "*n Y"]:
        """Apply to the last dimension."""
        return linear(x, self.weight, self.bias)


class SideBySide(nn.ModuleList):
    """Layers that all read the same input, where those of another list read one another."""


def empty_embedding(entries: int, d_model: int) -> nn.Embedding:
    """Make an embedding whose weights the model will draw.

    nn.Embedding draws them at once, which for a model built to be counted, on the meta device,
    imports the whole of torch's compiler: 1.3 s.
    """
    return nn.Embedding.from_pretrained(torch.empty(entries, d_model), freeze=False)


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        z = torch.addcmul(x.new_tensor(_A), x, x, value=0.044715 * _A).mul_(x)
        s = torch.sigmoid(z)
        y = x * s
        if ctx.needs_input_grad[0]:
            dz_x = z.mul_(3).sub_(x, alpha=2 * _A)  # x dz/dx = 3 z - 2 A x
            # In place: each new tensor of this size costs more in page faults than its arithmetic.
            torch.ops.aten.sigmoid_backward.grad_input(dz_x, s, grad_input=dz_x)
            ctx.save_for_backward(dz_x.add_(s))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        slope: Tensor = ctx.saved_tensors[0]
        return grad * slope


def gelu(x: Float[Tensor, "*n F"]) -> Float[Tensor, "*n F"]:
    """GPT-2's tanh GELU, as ``x sigmoid(sqrt(8/pi) (x + 0.044715 x^3))``: the same function.

    The slope is saved in place of x, so that the backward pass is one product: forward and backward
    of 3,072 x 1,536 in bf16 take 9 ms, torch's tanh form 18.7 (Zen 4, one core).
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    y: Tensor = _GELU.apply(x)  # type: ignore[no-untyped-call]
    return y
