"""The loss over a vocabulary, in parts and at once."""

import pytest
import torch

from ensue.nn import loss
from ensue.nn.linear import Linear
from ensue.nn.precision import precision


@pytest.mark.parametrize("numbers", ["fp32", "bf16"])
def test_in_parts_it_is_the_same_with_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, numbers: str
) -> None:
    torch.manual_seed(0)
    head = Linear(8, 20)
    hidden = torch.randn(3, 7, 8)
    targets = torch.randint(-1, 20, (3, 7))

    def results() -> list[torch.Tensor]:
        head.zero_grad()
        x = hidden.clone().requires_grad_()
        with precision(numbers):
            total = loss.cross_entropy_sum(head, x, targets, 20)
        total.backward()  # outside of the block, as in training
        assert x.grad is not None
        assert head.weight.grad is not None
        return [total.detach(), x.grad, head.weight.grad]

    whole = results()
    monkeypatch.setattr(loss, "CHUNK", 5 * 20)  # parts of five targets
    for mine, theirs in zip(results(), whole, strict=True):
        # Sums of bf16 products are rounded to bf16 in each part, and once in the whole.
        torch.testing.assert_close(
            mine,
            theirs,
            rtol=0.02 if numbers == "bf16" else 1e-5,
            atol=5e-3 if numbers == "bf16" else 1e-6,
        )
