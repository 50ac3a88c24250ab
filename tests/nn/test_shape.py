"""Numbers with which no model can be built are refused by name, before anything is built."""

from typing import Any

import pytest
from small import EVERY, MODELS

from ensue.errors import UsageError
from ensue.models import find_step


@EVERY
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"d_model": -8}, "d_model is -8; it must be at least 1, or 0: chosen with the size"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"context_length": -1}, "context_length is -1"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(model: str, given: dict[str, Any], said: str) -> None:
    """They ended in torch, in a division by zero, or in a plan that made no sense."""
    with pytest.raises(UsageError, match=said):
        find_step(model).config(**given)


@pytest.mark.parametrize(
    ("model", "field"),
    [("mlp", "window"), ("cnn", "kernel_size"), ("cnn", "dilation_cycle")],
)
def test_a_zero_is_refused_where_it_does_not_mean_chosen(model: str, field: str) -> None:
    with pytest.raises(UsageError, match=f"{field} is 0; it must be at least 1\n") as caught:
        find_step(model).config(**{field: 0})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("seq2seq", "each direction has half of it"),
        ("seq2seq_attention", "each direction has half of it"),
        ("transformer", "half of a position are sines, half cosines"),
    ],
)
def test_an_odd_width_is_refused_with_the_reason(model: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"d_model is 15; it must be even: {why}"):
        find_step(model).config(d_model=15)
    assert find_step("transformer").config(d_model=15, positions="learned").d_model == 15


def test_heads_are_counted_too() -> None:
    with pytest.raises(UsageError, match="num_heads is -2"):
        find_step("gpt2").config(num_heads=-2)


@EVERY
def test_what_is_left_open_passes(model: str) -> None:
    """Zeros, and a dropout of -1, are chosen with the size."""
    config = find_step(model).default
    assert (config.d_model, config.dropout) == (0, -1.0)
    assert MODELS[model].dropout == -1.0
