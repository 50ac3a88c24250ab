"""In which numbers matrix products are computed: a context, so that no model carries a dtype.

Weights, their gradients and updates, the residual stream, norms and losses stay fp32. In bf16 the
products and what is saved for their gradients are bf16, with fp32 sums: on a processor with bf16
dot products half the time of fp32 (Zen 4, one core: 215 against 109 GFLOP/s).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

PACKED_FOR = 1024
"""Rows that weights are laid out for; other numbers of them are no slower than with their own."""
_PACKS = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and bool(
    torch.ops.mkldnn._is_mkldnn_bf16_supported()
)

_dtype: ContextVar[torch.dtype] = ContextVar("dtype", default=torch.float32)
_weights: ContextVar[dict[int, tuple[Tensor, Tensor]] | None] = ContextVar("weights", default=None)


def product_dtype() -> torch.dtype:
    """Give the dtype in which products are computed here."""
    return _dtype.get()


@contextmanager
def precision(kind: str) -> Iterator[None]:
    """Compute matrix products inside the block in ``fp32`` or ``bf16``."""
    dtype = _dtype.set(torch.bfloat16 if kind == "bf16" else torch.float32)
    weights = _weights.set({})
    try:
        yield
    finally:
        _dtype.reset(dtype)
        _weights.reset(weights)


def lowered(weight: Tensor) -> Tensor:
    """Give a weight in the dtype of products.

    Where no gradients are taken it is cast once in a block of `precision`, in which it does not
    change: writing a sentence uses it at every step (a tenth of the time of a beam search). On a
    processor it is then laid out as oneDNN wants it, which would else be done in each product, and
    serves `ensue.nn.linear.product` alone (Zen 4, one core, 768 by 3,072: a row 2 times as fast, 8
    rows 1.9, 32 rows 1.2, 2,304 rows 1.07).
    """
    dtype, weights = _dtype.get(), _weights.get()
    if weight.dtype == dtype:
        return weight
    if weights is None or torch.is_grad_enabled() or not isinstance(weight, nn.Parameter):
        return weight.to(dtype)
    if id(weight) not in weights:
        weights[id(weight)] = weight, _packed(weight.to(dtype))  # beside it: the id stays its own
    return weights[id(weight)][1]


def _packed(weight: Tensor) -> Tensor:
    if weight.ndim != 2 or weight.device.type != "cpu" or not _PACKS:
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR)
    return packed


def kept(work: Callable[..., T]) -> Callable[..., T]:
    """Bind the numbers of now to a function that the backward pass, which knows none, runs anew."""
    dtype = product_dtype()

    def run(*args: object) -> T:
        token = _dtype.set(dtype)
        try:
            return work(*args)
        finally:
            _dtype.reset(token)

    return run
