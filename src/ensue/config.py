"""Frozen dataclasses to and from TOML and plain dictionaries: the only schema there is.

An unknown key is an error that names the nearest known one; a value of the wrong type names its
key, the value and the type that belongs there. Nothing is ignored.
"""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from ensue.errors import UsageError, nearest

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config into nested dictionaries of plain values (tuples become lists)."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "config") -> C:
    """Build a config from nested dictionaries.

    Args:
        cls: A dataclass whose fields are str, int, float, bool, tuples of these, or dataclasses.
        values: The keys to set; missing keys take the field's default.
        where: Name of the source, for messages.

    Raises:
        UsageError: On an unknown key, a missing required key, or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cast(Any, cls))}
    for key in values:
        if key not in known:
            raise UsageError(
                f"{where}: unknown key {key!r}{nearest(key, known)}",
                f"Known keys: {', '.join(known)}",
            )
    for name, field in known.items():  # after the unknown ones: a misspelt key is also missing
        required = field.default is MISSING and field.default_factory is MISSING
        if required and name not in values:
            raise UsageError(f"{where}: the key {name!r} is missing")
    checked = {k: _value(hints[k], v, f"{where}.{k}") for k, v in values.items()}
    return cls(**checked)


def _value(kind: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation; ints pass as floats, lists as tuples."""
    if kind is Any or isinstance(kind, TypeVar):  # its class is the caller's, who has built it
        return value
    if is_dataclass(kind) and isinstance(value, Mapping):
        return from_dict(cast(type[Any], kind), value, where)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(kind)[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong_bool = isinstance(value, bool) and kind is not bool  # to Python, True is an int
    if isinstance(kind, type) and isinstance(value, kind) and not wrong_bool:
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{where}: {value} is not a finite number")
        return value
    name = getattr(kind, "__name__", str(kind))
    raise UsageError(f"{where}: expected {name}, got {value!r}")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; a missing or malformed one is a UsageError with the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def to_toml(values: Mapping[str, Any]) -> str:
    """Write nested dictionaries as TOML: plain values first, then one table for each dictionary."""
    return "\n".join(_toml_lines(values, ())).lstrip("\n") + "\n"


def _toml_lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    lines = [f"{k} = {_toml_value(v)}" for k, v in plain.items()]
    for key, value in values.items():
        if isinstance(value, Mapping):
            table = (*path, key)
            lines += ["", f"[{'.'.join(table)}]", *_toml_lines(value, table)]
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # JSON strings are TOML basic strings, but for DEL, which JSON leaves bare and TOML forbids.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the keys whose values differ, as ``train.lr: 0.001 -> 0.002``."""
    lines: list[str] = []
    for key in [*old, *(k for k in new if k not in old)]:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
