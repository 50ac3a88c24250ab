"""Which process this is, which device it uses, and sums over all processes.

One process without torchrun takes the same lines: its sums are the numbers themselves.
"""

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

_GROUPS = itertools.count()  # a second run in one process must not meet the first one's addresses


@dataclass(frozen=True)
class Env:
    """This process among those that torchrun started."""

    rank: int
    """Our number; 0 writes files and speaks."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Where our tensors live."""

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add each value over all processes."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def share(self, text: str) -> str:
        """Give every process the text of the first."""
        if self.world_size == 1:
            return text
        texts = [text]
        dist.broadcast_object_list(texts, src=0)
        return texts[0]

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group of processes."""
        if self.world_size > 1:
            # gloo's thread takes Python's lock to drop the last sum's tensors. Destroying the group
            # meanwhile either waits for that thread with the lock held, for ever (seen with four
            # processes on two cores), or, where a mesh still holds the group, lets Python end under
            # it: abort in 2 exits of 30. After a pause neither was seen (torch 2.13).
            time.sleep(0.1)
            dist.destroy_process_group()


def start_env(device: str = "") -> Env:
    """Join the processes that torchrun started, or stand alone.

    Args:
        device: cpu, cuda or mps; empty: the fastest that works.
    """
    chosen = torch.device(device or best_device())
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Env(rank=0, world_size=1, device=chosen)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    store, rank, world_size = next(rendezvous("env://"))
    # torchrun's store outlives its processes: addresses of those that died must not be found again.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=PrefixStore(f"ensue-{attempt}-{next(_GROUPS)}", store),
        rank=rank,
        world_size=world_size,
    )
    return Env(rank=dist.get_rank(), world_size=dist.get_world_size(), device=chosen)


def best_device() -> str:
    """Name the fastest device that computes what the processor computes."""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available() and mps_agrees():
        return "mps"
    return "cpu"


def mps_agrees(tolerance: float = 1e-4) -> bool:
    """Whether Apple's GPU gives the processor's numbers, on the operations that models use.

    Some releases of torch computed attention or matrix products wrongly there; a wrong answer must
    not be the price of a fast one.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 17, 16, generator=generator)

    def compute(t: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.scaled_dot_product_attention(t, t, t, is_causal=True)
        return torch.nn.functional.layer_norm(y @ y.mT, (17,)).cumsum(-1)

    try:
        return bool(torch.allclose(compute(x), compute(x.to("mps")).cpu(), atol=tolerance))
    except RuntimeError:  # an operation that this release lacks there
        return False
