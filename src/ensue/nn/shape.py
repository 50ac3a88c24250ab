"""What the numbers of a model may be, said once for all configs."""

from dataclasses import fields
from typing import Any

from ensue.errors import UsageError


def check_even(name: str, value: int, why: str) -> None:
    """Refuse a width that two cannot share; `why` names them."""
    if value % 2:
        raise UsageError(
            f"{name} is {value}; it must be even: {why}",
            f"For instance: --model.{name.replace('_', '-')} {value + 1}",
        )


def check_span(name: str, shortest: int, longest: int) -> None:
    """Refuse a shortest that is longer than the longest."""
    if shortest > longest:
        raise UsageError(
            f"shortest_{name} is {shortest} and longest_{name} {longest}: nothing lies between",
            f"For instance: --model.shortest-{name} {longest}",
        )


def check_shape(config: Any) -> None:
    """Refuse sizes and dropouts with which no model can be built.

    Args:
        config: A dataclass in which whole numbers are sizes, at least 1, and ``dropout`` is a
            share. Where a default is 0 (of dropout: -1) that is allowed too: chosen later.

    Raises:
        UsageError: Names the field, its value and what it may be.
    """
    for field in fields(config):
        value, default = getattr(config, field.name), field.default
        if field.name == "dropout" and not (0 <= value < 1 or value == default):
            raise UsageError(
                f"dropout is {value}; it must be at least 0 and less than 1",
                "For instance: --model.dropout 0.1 (-1: chosen with the size)",
            )
        if field.type is int and value < 1 and value != default:
            also = ", or 0: chosen with the size" if default == 0 else ""
            raise UsageError(
                f"{field.name} is {value}; it must be at least 1{also}",
                "Leave it out to have the usual value.",
            )
