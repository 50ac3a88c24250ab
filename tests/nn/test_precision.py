"""The numbers that products are computed in."""

import torch
from torch import nn

from ensue.nn.linear import Linear
from ensue.nn.precision import lowered, precision


def test_a_weight_is_cast_once_in_a_block_without_gradients() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    with torch.no_grad(), precision("bf16"):
        first = lowered(weight)
        assert first.dtype == torch.bfloat16
        assert lowered(weight) is first
        assert lowered(weight.T) is not lowered(weight.T)  # a view is nobody's for long


def test_the_next_block_and_a_training_step_see_what_a_weight_is_now() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    with torch.no_grad(), precision("bf16"):
        lowered(weight)
        with precision("fp32"):
            assert lowered(weight) is weight
    with torch.no_grad():
        weight.fill_(2)
    with precision("bf16"):
        assert lowered(weight)[0, 0] == 2
        with torch.no_grad():
            lowered(weight)
            weight.fill_(3)
        assert lowered(weight)[0, 0] == 3


def test_a_weight_that_is_laid_out_anew_gives_the_same_product() -> None:
    """Of any shape, for any number of rows: blocks of a layout are filled up behind the ends."""
    for rows, d_input, d_output in ((1, 5, 7), (3, 64, 61), (130, 33, 100)):
        layer = Linear(d_input, d_output)
        x = torch.randn(rows, d_input)
        with torch.no_grad(), precision("bf16"):
            once = layer(x)
            expected = nn.functional.linear(
                x.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()
            )
            torch.testing.assert_close(once, expected)
            torch.testing.assert_close(layer(x), once, rtol=0, atol=0)
