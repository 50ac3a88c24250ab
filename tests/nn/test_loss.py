"""The loss over a vocabulary, in parts and at once."""

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_torchs_with_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    monkeypatch.setattr(loss, "SLICE", 5 * 20)  # five rows at a time, and a rest
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 9, 20)).requires_grad_()
    targets = torch.randint(-1, 20, (2, 9))
    mine = loss.cross_entropy_sum(lambda x: x, logits, targets, 20, smoothing)
    theirs = F.cross_entropy(
        logits.flatten(0, 1),
        targets.flatten(),
        reduction="sum",
        ignore_index=-1,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)
    (slope,), (expected,) = (torch.autograd.grad(x / 7, logits) for x in (mine, theirs))
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("numbers", ["fp32", "bf16"])
def test_where_nothing_is_scored_there_is_no_loss_and_no_slope(numbers: str) -> None:
    """A process without rows of its own takes part all the same."""
    head, hidden = Linear(8, 20), torch.randn(3, 7, 8)
    with precision(numbers):
        total = loss.cross_entropy_sum(head, hidden, torch.full((3, 7), -1), 20, 0.1)
    total.backward()
    assert total == 0
    assert head.weight.grad is not None
    assert not head.weight.grad.any()
