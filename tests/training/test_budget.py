"""Budgets as people write them."""

import math

import pytest

from ensue.errors import UsageError
from ensue.training.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90.0),
        ("3min", 180.0),
        ("3m", 180.0),
        (" 3 min ", 180.0),
        ("3MIN", 180.0),
        ("1h", 3600.0),
        ("1h30min", 5400.0),
        ("1h 30min", 5400.0),
        ("1h30m15s", 5415.0),
        ("1.5h", 5400.0),
        ("0.5s", 0.5),
        ("0h5s", 5.0),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    """``m`` is a minute here, and parts add up: 1h30min is not 1 h."""
    assert parse_budget(text) == Budget(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "flops"),
    [
        ("2e15flop", 2e15),
        ("2E15 FLOPs", 2e15),
        ("2e+15flop", 2e15),
        ("1.5e9flops", 1.5e9),
        ("1000flop", 1000.0),
    ],
)
def test_work_is_read(text: str, flops: float) -> None:
    assert parse_budget(text) == Budget(flops=flops)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "3",
        "min",
        "-3min",
        "0s",
        "0h0min",
        "0flop",
        "1e-3flop",
        "3 minutes",
        "3min or so",
        "1h30",
        "1e3s",
        "three min",
        "1,5h",
        "nan",
        "infs",
        "inf flop",
        "2e15",
        "2e15flop3min",
        "3min;rm",
        "9" * 400 + "s",
        "1e999flop",
    ],
)
def test_what_is_no_budget_is_refused_with_examples(text: str) -> None:
    """A number without a unit would be taken for seconds; infinity has no number of steps."""
    with pytest.raises(UsageError, match="cannot read") as caught:
        parse_budget(text)
    assert "3min" in caught.value.hint


def test_large_budgets_stay_finite() -> None:
    assert math.isfinite(parse_budget("99999h").seconds)
