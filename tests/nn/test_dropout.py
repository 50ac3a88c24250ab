"""Dropout's cheap mask is still dropout."""

import pytest
import torch

from ensue.nn.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_share_and_scale(p: float) -> None:
    """Every byte of the drawn numbers must be uniform: a sign bit that is never set would show."""
    x = torch.ones(8, 125_000)
    y = dropout(x, p, training=True)
    dropped = round(p * 256) / 256
    for part in (*y, *y.flatten().view(-1, 8).T):
        share = float((part == 0).float().mean())
        assert abs(share - dropped) < 0.01
    assert torch.all((y == 0) | (y == 1 / (1 - dropped)))
    assert abs(float(y.mean()) - 1) < 0.01


def test_the_gradient_passes_where_the_value_does() -> None:
    x = torch.randn(33, 7, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)


def test_evaluation_changes_nothing() -> None:
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x


@pytest.mark.parametrize("p", [0.001, 0.999])
def test_a_share_that_a_byte_cannot_say_is_dropped_all_the_same(p: float) -> None:
    """Rounded to nothing it was silently off; rounded to all it divided by zero."""
    y = dropout(torch.ones(200_000), p, training=True)
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=5e-4)
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)))
