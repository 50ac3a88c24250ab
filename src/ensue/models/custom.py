"""A person's own decoder, as one more row of the table: a class in a Python file.

    ensue train book.txt --model gru.py:GRU

The class is called with those of ``vocab_size``, ``d_model``, ``context_length`` and ``dropout``
that its ``__init__`` names. Only files that the command itself names are ever run (`allow`): a run
folder or a recipe from elsewhere brings no code with it.
"""

import importlib.util
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ensue.errors import UsageError

_allowed: set[Path] = set()


@dataclass(frozen=True, kw_only=True)
class CustomConfig:
    """Where the class is, and what it is called with. A zero (of dropout: -1) means: chosen."""

    file: str = ""
    """The Python file."""
    classname: str = ""
    """The class in it."""
    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Tokens of a training row."""
    d_model: int = 0
    """Width; 0: as the class has it."""
    dropout: float = -1.0
    """Dropped in training, where the class knows of it."""


SIZES = {
    "xs": CustomConfig(context_length=128),
    "s": CustomConfig(context_length=256),
    "m": CustomConfig(context_length=256),
    "l": CustomConfig(context_length=512),
}


def allow(file: str | Path) -> str:
    """Let the classes of a Python file be used; call it only with what the user has named.

    Returns:
        The absolute path, by which runs find it again.

    Raises:
        UsageError: There is no such file.
    """
    path = Path(file).resolve()
    if not path.is_file():
        raise UsageError(f"there is no file {file}", "Name a model as FILE.py:CLASS.")
    _allowed.add(path)
    return str(path)


def build(config: CustomConfig) -> nn.Module:
    """Make the model.

    Raises:
        UsageError: The file was not named by the user, has no such class, or cannot be run.
    """
    model_class = _load(config)
    takes = inspect.signature(model_class).parameters
    given = {
        name: getattr(config, name)
        for name in ("vocab_size", "context_length", "d_model", "dropout")
        if name in takes and (name != "d_model" or config.d_model)
    }
    model: nn.Module = model_class(**given)
    return model


def has_width(config: CustomConfig) -> bool:
    """Whether the class can be made wider: its ``__init__`` names ``d_model``."""
    return "d_model" in inspect.signature(_load(config)).parameters


def _load(config: CustomConfig) -> Any:
    path = Path(config.file)
    if path not in _allowed:
        raise UsageError(
            f"this model is code of yours, {path}:{config.classname}, run only when you say so",
            f"Repeat the command with: --code {path}",
        )
    name = f"ensue_custom_{path.stem}"
    if name not in sys.modules or sys.modules[name].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(sys.modules[name], config.classname, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise UsageError(f"{path} has no model class {config.classname}")
    return found
