"""ensue: what comes next. Train the models of one lecture on your own text, and run them.

    run = ensue.train("book.txt", budget="3min")
    print(ensue.load(run).generate("Once upon a time")[0].text)

The names below are imported when first used: ``import ensue`` alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.alignment import measure_alignment
    from ensue.api import (
        Completion,
        Generator,
        compare,
        evaluate,
        load,
        load_chat,
        load_embedder,
        load_filler,
        load_translator,
        train,
    )
    from ensue.chat import Chat, Talk
    from ensue.classification import evaluate_labels, load_classifier
    from ensue.errors import EnsueError
    from ensue.inspection import look
    from ensue.picture_look import look_at_picture
    from ensue.probes import recall
    from ensue.testing import check_laws
    from ensue.text_look import look_at_text
    from ensue.vectors import look_at_vectors

__version__ = "0.1.0"

_HOMES = {
    "Chat": "ensue.chat",
    "Completion": "ensue.api",
    "EnsueError": "ensue.errors",
    "Generator": "ensue.api",
    "Talk": "ensue.chat",
    "check_laws": "ensue.testing",
    "compare": "ensue.api",
    "evaluate": "ensue.api",
    "evaluate_labels": "ensue.classification",
    "load": "ensue.api",
    "load_chat": "ensue.api",
    "load_classifier": "ensue.classification",
    "load_embedder": "ensue.api",
    "load_filler": "ensue.api",
    "load_translator": "ensue.api",
    "look": "ensue.inspection",
    "look_at_picture": "ensue.picture_look",
    "look_at_text": "ensue.text_look",
    "look_at_vectors": "ensue.vectors",
    "measure_alignment": "ensue.alignment",
    "recall": "ensue.probes",
    "train": "ensue.api",
}

__all__ = [
    "Chat",
    "Completion",
    "EnsueError",
    "Generator",
    "Talk",
    "__version__",
    "check_laws",
    "compare",
    "evaluate",
    "evaluate_labels",
    "load",
    "load_chat",
    "load_classifier",
    "load_embedder",
    "load_filler",
    "load_translator",
    "look",
    "look_at_picture",
    "look_at_text",
    "look_at_vectors",
    "measure_alignment",
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
