"""Spread a model over processes: DDP for what fits, FSDP2 for what does not; compile its blocks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ensue.distributed.env import Env


def blocks(model: nn.Module) -> list[nn.Module]:
    """Give the model's repeated parts: the members of its module lists."""
    return [m for parts in model.modules() if isinstance(parts, nn.ModuleList) for m in parts]


def compile_blocks(model: nn.Module) -> None:
    """Compile each block in place.

    Blocks rather than the whole: one block's code serves all of them, parameter names stay as they
    are, and two runs of one plan stay bit-equal, which a whole-model compile was not (torch 2.13).
    """
    for block in blocks(model):
        block.compile(dynamic=False)


def shard(model: nn.Module, env: Env, kind: str) -> None:
    """Give each process a part of every block's weights (kind ``fsdp``); else do nothing.

    The model must be initialised before: weights drawn after sharding would differ from those of
    one process.
    """
    if env.world_size > 1 and kind == "fsdp":
        mesh = dist.device_mesh.init_device_mesh(env.device.type, (env.world_size,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)


def replicate(step: nn.Module, env: Env, kind: str) -> nn.Module:
    """Wrap the loss so that gradients are averaged over processes (kind ``ddp``)."""
    if env.world_size > 1 and kind == "ddp":
        ids = [env.device.index] if env.device.type == "cuda" else None
        return DistributedDataParallel(step, device_ids=ids)
    return step


def last_micro_batch(step: nn.Module, model: nn.Module, is_last: bool) -> None:
    """Let gradients travel only with the last micro-batch of an update."""
    if isinstance(step, DistributedDataParallel):
        step.require_backward_grad_sync = is_last
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_last)


def settle(model: nn.Module) -> None:
    """Give weights gathered for a forward pass without a backward one (evaluation) back."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that is spread over processes; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: list[nn.Parameter], largest: float) -> float:
    """Scale the gradients so that their common norm is at most `largest` (0: only measure).

    Returns:
        The norm before.
    """
    grads: list[Any] = [p.grad for p in parameters if p.grad is not None]
    norm = float(whole(torch.nn.utils.get_total_norm(grads)))
    if 0 < largest < norm:
        torch._foreach_mul_(grads, largest / (norm + 1e-6))
    return norm
