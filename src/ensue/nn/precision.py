"""In which numbers matrix products are computed."""

import contextlib

import torch


def precision(kind: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Give the context in which a forward pass runs.

    Args:
        kind: fp32, or bf16: products in bf16 with fp32 sums; weights and their updates stay fp32.
        device: Where it runs.
    """
    if kind == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
