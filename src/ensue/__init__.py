"""ensue: what comes next. Train the models of one lecture on your own text, and run them.

    run = ensue.train("book.txt", budget="3min")
    print(ensue.load(run).generate("Once upon a time")[0].text)

The names below are imported when first used: ``import ensue`` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.api import Completion, Generator, compare, evaluate, load, train
    from ensue.errors import EnsueError
    from ensue.inspection import look
    from ensue.probes import recall
    from ensue.testing import check_laws

__version__ = "0.1.0"

_HOMES = {
    "Completion": "ensue.api",
    "EnsueError": "ensue.errors",
    "Generator": "ensue.api",
    "check_laws": "ensue.testing",
    "compare": "ensue.api",
    "evaluate": "ensue.api",
    "load": "ensue.api",
    "look": "ensue.inspection",
    "recall": "ensue.probes",
    "train": "ensue.api",
}

__all__ = [
    "Completion",
    "EnsueError",
    "Generator",
    "__version__",
    "check_laws",
    "compare",
    "evaluate",
    "load",
    "look",
    "recall",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ensue' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
