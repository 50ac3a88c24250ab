"""Attention is one function, however it is computed; beams that share a source ask as one row."""

import pytest
import torch

from ensue.nn.attention import Additive, CrossAttention, Dot, attend, attention_weights


class Part(torch.nn.Module):
    """Nobody looks at it."""


def test_a_single_query_in_bf16_is_attended_to_as_the_equation_says() -> None:
    torch.manual_seed(0)
    q = torch.randn(5, 2, 1, 8)
    k, v = torch.randn(5, 7, 2, 8).transpose(1, 2), torch.randn(5, 7, 2, 8).transpose(1, 2)
    mask = (torch.arange(7) <= torch.tensor([0, 3, 6, 2, 5])[:, None])[:, None, None]
    q, k, v = (t.to(torch.bfloat16) for t in (q, k, v))
    expected = attention_weights(q.float(), k.float(), mask) @ v.float()
    given = attend(Part().eval(), q, k, v, mask, 0.0)
    torch.testing.assert_close(
        given.float(), expected.transpose(1, 2).flatten(2), rtol=0, atol=0.02
    )


@pytest.mark.parametrize("kind", ["dot", "additive", "heads"])
def test_rows_that_share_a_source_are_told_what_they_are_told_alone(kind: str) -> None:
    torch.manual_seed(0)
    values, length = torch.randn(3, 6, 8), torch.tensor([6, 2, 4])
    mask = torch.arange(6) < length[:, None]
    asked = torch.randn(12, 2, 8)  # four rows of each source, two places each
    repeated = [t.repeat_interleave(4, dim=0) for t in (values, mask)]
    with torch.inference_mode():
        if kind == "heads":
            cross = CrossAttention(8, 2).eval()
            together = cross(asked, *cross.project(values), mask)
            alone = cross(asked, *cross.project(repeated[0]), repeated[1])
        else:
            part = (Dot if kind == "dot" else Additive)(8)
            part.init_weights()
            together = part(asked, part.project(values), values, mask)
            alone = part(asked, part.project(repeated[0]), *repeated)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_additive_scores_are_the_same_a_few_steps_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all pairs at once, 8,192 steps of 256 places were 4 GB, twice."""
    torch.manual_seed(0)
    part = Additive(8)
    part.init_weights()
    s, source = torch.randn(3, 7, 8), torch.randn(3, 5, 8)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    whole = part(s, part.project(source), source, mask)
    for pairs in (1, 3 * 5 * 8 * 2, 10**9):
        monkeypatch.setattr("ensue.nn.attention.PAIRS", pairs)
        assert torch.equal(part(s, part.project(source), source, mask), whole)
