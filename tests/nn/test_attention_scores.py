"""The two scores of attention against their equations, a place at a time: values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ensue.nn.attention import Additive, Dot
from ensue.nn.capture import capture

B, T, S, D = 3, 4, 6, 8
LENGTHS = [6, 1, 4]


def dot(part: Dot, s: Tensor, h: Tensor) -> Tensor:
    """Luong et al. 2015, "general"."""
    return s @ part.W @ h


def additive(part: Additive, s: Tensor, h: Tensor) -> Tensor:
    """Bahdanau et al. 2015, section A.1.2."""
    return part.v @ torch.tanh(part.W @ s + part.U @ h)


def told(
    score: Callable[[Tensor, Tensor], Tensor], s: Tensor, h: Tensor
) -> tuple[Tensor, list[list[Tensor]]]:
    """Give what each step is told, and its weights: of the places that count, no others at all."""
    rows, weights = [], []
    for b, length in enumerate(LENGTHS):
        steps = []
        weights.append([torch.empty(0)] * T)
        for t in range(T):
            e = torch.stack([score(s[b, t], h[b, place]) for place in range(length)])
            a = torch.exp(e - e.max()) / torch.exp(e - e.max()).sum()
            steps.append(sum((a[i] * h[b, i] for i in range(length)), torch.zeros(D)))
            weights[b][t] = a
        rows.append(torch.stack(steps))
    return torch.stack(rows), weights


def near(given: Tensor, expected: Tensor) -> None:
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize(("kind", "equation"), [(Dot, dot), (Additive, additive)])
def test_a_score_is_its_equation(
    kind: type[Dot] | type[Additive], equation: Callable[..., Tensor]
) -> None:
    """A transposed W, a lost tanh or a look at the padding trains nearly as well."""
    part = kind(D)
    with torch.no_grad():  # scores that differ by more than at first: weights far from even
        for p in part.parameters():
            p.copy_(torch.randn_like(p))
    s, h = torch.randn(B, T, D, requires_grad=True), torch.randn(B, S, D, requires_grad=True)
    mask = torch.arange(S) < torch.tensor(LENGTHS)[:, None]
    with capture(part) as maps:
        given = part(s, part.project(h), h, mask)
    expected, weights = told(lambda s, h: equation(part, s, h), s, h)
    near(given, expected)
    (shown,) = maps["/alignment"]
    assert shown.shape == (B, 1, T, S)
    assert not shown[~mask[:, None, None].expand_as(shown)].any()
    for b, length in enumerate(LENGTHS):
        for given_t, expected_t in zip(shown[b, 0], weights[b], strict=True):
            near(given_t[:length], expected_t.detach())
    random, leaves = torch.randn_like(expected), [s, h, *part.parameters()]
    mine = torch.autograd.grad((given * random).sum(), leaves)
    wanted = torch.autograd.grad((expected * random).sum(), leaves)
    for slope, expected_slope in zip(mine, wanted, strict=True):
        near(slope, expected_slope)
    assert not mine[1][~mask].any()
