"""The tap: look at what a model computes inside, without changing what it computes.

Inside ``with capture(model) as maps:`` the parts that have something to show call `tap`, and
attention takes its explicit path, since the fused one never forms the weights. Outside, `tap` costs
one check of an empty list.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

Maps = dict[str, list[Tensor]]

_maps: ContextVar["tuple[dict[int, str], Maps] | None"] = ContextVar("maps", default=None)


@contextmanager
def capture(model: nn.Module) -> Iterator[Maps]:
    """Collect attention weights, gates and states while the block runs.

    Args:
        model: The model whose parts are looked at; others that run in the block are not.

    Yields:
        A dictionary from the part's name (``blocks.0.attention/weights``) to the tensors of each
        call, detached.
    """
    names = {id(module): name for name, module in model.named_modules()}
    maps: Maps = {}
    token = _maps.set((names, maps))
    try:
        yield maps
    finally:
        _maps.reset(token)


def is_captured(module: nn.Module) -> bool:
    """Whether a surrounding `capture` looks at this module."""
    current = _maps.get()
    return current is not None and id(module) in current[0]


def tap(module: nn.Module, what: str, value: Tensor) -> None:
    """Show one tensor to a surrounding `capture`."""
    current = _maps.get()
    if current is not None and id(module) in current[0]:
        names, maps = current
        maps.setdefault(f"{names[id(module)]}/{what}", []).append(value.detach())
