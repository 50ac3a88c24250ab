"""A person's own decoder, as one more row of the table: a class in a Python file.

    ensue train book.txt --model gru.py:GRU

The class is called with those of ``vocab_size``, ``d_model``, ``context_length`` and ``dropout``
that its ``__init__`` names. Only files that the command itself names are ever run (`allow`): a run
folder or a recipe from elsewhere brings no code with it.
"""

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
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


KNOWN = "vocab_size, context_length, d_model and dropout"
"""What a class may ask for by name."""
ANY_VOCABULARY = 257
"""Bytes and an end: what a class is tried with before the text is known."""


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
        UsageError: The file was not named by the user, has no such class, or cannot be run; the
            class cannot be called so, or is too small for the vocabulary or the window.
    """
    model = _made(_load(config), config)
    vocab_size = getattr(model, "vocab_size", config.vocab_size)
    if isinstance(vocab_size, int) and vocab_size < config.vocab_size:
        raise UsageError(
            f"{config.classname} has a vocabulary of {vocab_size}, the text one of"
            f" {config.vocab_size}",
            "Let its __init__ take vocab_size.",
        )
    limit = getattr(model, "max_length", None)
    if isinstance(limit, int) and limit < config.context_length:
        raise UsageError(
            f"{config.classname} reads at most {limit} tokens (its max_length), and the windows"
            f" have {config.context_length}",
            f"Shorten them (--model.context-length {limit}), or let"
            " its __init__ take context_length.",
        )
    return model


def cut(config: CustomConfig) -> CustomConfig:
    """Shorten the window to what a class with a limit of its own can read."""
    with torch.device("meta"):
        known = replace(config, vocab_size=config.vocab_size or ANY_VOCABULARY)
        limit = getattr(_made(_load(config), known), "max_length", None)
    length = config.context_length
    return replace(config, context_length=min(limit, length) if isinstance(limit, int) else length)


def has_width(config: CustomConfig) -> bool:
    """Whether the class can be made wider: its ``__init__`` names ``d_model``."""
    return "d_model" in inspect.signature(_load(config)).parameters


def _made(model_class: Any, config: CustomConfig) -> nn.Module:
    given = _arguments(model_class, config)
    try:
        model: nn.Module = model_class(**given)
    except Exception as error:
        if torch.get_default_device().type == "meta":  # where no number can be read from a tensor
            with torch.device("cpu"):
                return _made(model_class, config)
        called = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(
            f"{config.classname}({called}) cannot be made: {type(error).__name__}: {error}",
            "--debug after the command shows where in your file.",
        ) from error
    return model


def _arguments(model_class: Any, config: CustomConfig) -> Mapping[str, Any]:
    """Give what the class asks for by name; an argument that stays without a value is refused."""
    signature = inspect.signature(model_class)
    known = {
        "vocab_size": config.vocab_size,
        "context_length": config.context_length,
        "d_model": config.d_model,
        "dropout": max(0.0, config.dropout),  # below zero: chosen later
    }
    takes = signature.parameters
    given = {k: v for k, v in known.items() if k in takes and (v or k != "d_model")}
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [
        name
        for name, p in takes.items()
        if name not in given and p.default is p.empty and p.kind not in optional
    ]
    if missing:
        raise UsageError(
            f"{config.classname}{signature} cannot be called: {', '.join(missing)} has no value",
            f"Its __init__ gets those of {KNOWN} that it names; all others need a default, and so"
            " does d_model, unless --model.d-model gives it.",
        )
    return given


def _load(config: CustomConfig) -> Any:
    path = _allowed_path(config)
    name = f"ensue_custom_{path.stem}"
    if name not in sys.modules or sys.modules[name].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with _neighbours(path):
                spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise UsageError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(sys.modules[name], config.classname, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise UsageError(f"{path} has no model class {config.classname}")
    return found


def _allowed_path(config: CustomConfig) -> Path:
    """Find the file among those that the user has named: by its place, or, moved, by its name."""
    path = Path(config.file)
    if path in _allowed:
        return path
    name = PureWindowsPath(config.file).name  # a run may come from any system
    moved = [allowed for allowed in _allowed if allowed.name == name]
    if len(moved) != 1:
        code = path if path.is_file() else name
        raise UsageError(
            f"this model is code of yours, {path}:{config.classname}, run only when you say so",
            f'Repeat the command with: --code {code} (from Python: code="{code}")',
        )
    return moved[0]


@contextmanager
def _neighbours(path: Path) -> Iterator[None]:
    """Let a file import those beside it, as one that Python itself is given."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
