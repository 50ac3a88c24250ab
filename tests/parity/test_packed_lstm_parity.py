"""Rows of uneven length are read as torch's packed sequences are: values and gradients."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ensue.nn.recurrent import BidirectionalLSTM, LSTMWeights, lstm_sequence

ROWS, STEPS, X, D = 5, 9, 6, 8
LENGTHS = {"ragged": [7, 1, 4, 7, 2], "one-is-full": [3, 9, 1, 5, 8], "all-full": [9] * ROWS}
RAGGED = pytest.mark.parametrize("lengths", list(LENGTHS.values()), ids=list(LENGTHS))
Match = tuple[Tensor, Tensor]


def random_layer() -> LSTMWeights:
    shapes = [(4 * D, X), (4 * D, D), (4 * D,)]
    return LSTMWeights(*[(torch.randn(s) * 0.3).requires_grad_() for s in shapes])


def copy(theirs: nn.LSTM, suffix: str, mine: Any) -> list[Match]:
    """Give torch's module our weights, and match them; it keeps two biases, the cell needs one."""
    named = (("weight_ih", mine.U), ("weight_hh", mine.W), ("bias_ih", mine.b))
    matched: list[Match] = [(getattr(theirs, f"{name}_{suffix}"), w) for name, w in named]
    with torch.no_grad():
        for other, own in matched:
            other.copy_(own)
        getattr(theirs, f"bias_hh_{suffix}").zero_()
    return matched


def packed(theirs: nn.LSTM, x: Tensor, length: Tensor, *start: Any) -> tuple[Tensor, Any]:
    """Read rows through torch's module; it gives zeros after the end of each, as we do."""
    rows = pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
    said, last = theirs(rows, *start)
    return pad_packed_sequence(said, batch_first=True, total_length=x.shape[1])[0], last


def near(given: Tensor, expected: Tensor) -> None:
    """1e-5 of the number, or of the largest: sums that cancel have no more digits."""
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5 * largest)


def assert_same(expected: Sequence[Tensor], given: Sequence[Tensor], leaves: list[Match]) -> None:
    """Compare values, then the gradients of a random sum of all of them."""
    assert len(expected) == len(given)
    sums = [torch.zeros(()), torch.zeros(())]
    for theirs, mine in zip(expected, given, strict=True):
        near(mine, theirs)
        weight = torch.randn_like(theirs)
        sums = [sums[0] + (theirs * weight).sum(), sums[1] + (mine * weight).sum()]
    wanted = torch.autograd.grad(sums[0], [theirs for theirs, _ in leaves])
    found = torch.autograd.grad(sums[1], [mine for _, mine in leaves])
    for a, b in zip(wanted, found, strict=True):
        near(b, a)


@RAGGED
def test_a_layer_stops_where_each_row_ends(lengths: list[int]) -> None:
    """A step after the end that moved h or c, or sent a gradient back, is another model."""
    w, theirs = random_layer(), nn.LSTM(X, D, batch_first=True)
    matched = copy(theirs, "l0", w)
    x, length = torch.randn(ROWS, STEPS, X, requires_grad=True), torch.tensor(lengths)
    h, c = (torch.randn(ROWS, D, requires_grad=True) for _ in range(2))
    given = lstm_sequence(x, h, c, w, length)
    said, (h_last, c_last) = packed(theirs, x, length, (h[None], c[None]))
    leaves = [(x, x), (h, h), (c, c), *matched]
    assert_same([said, h_last[0], c_last[0]], given, leaves)


@RAGGED
@pytest.mark.parametrize("num_layers", [1, 2])
def test_both_directions_equal_torchs_own_module(num_layers: int, lengths: list[int]) -> None:
    """The way back begins at each row's own end: begun in the padding, it says other things."""
    mine = BidirectionalLSTM(2 * D, num_layers, 0.0)
    theirs = nn.LSTM(2 * D, D, num_layers, batch_first=True, bidirectional=True)
    with torch.no_grad():  # biases of 0 and 1 hide mistakes
        for p in mine.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    matched: list[Match] = []
    for i in range(num_layers):
        matched += copy(theirs, f"l{i}", mine.ahead[i])
        matched += copy(theirs, f"l{i}_reverse", mine.back[i])
    x, length = torch.randn(ROWS, STEPS, 2 * D, requires_grad=True), torch.tensor(lengths)
    given = mine(x, length)
    said, (h_last, _) = packed(theirs, x, length)
    ends = torch.cat([h_last[-2], h_last[-1]], dim=-1)
    assert_same([said, ends], given, [(x, x), *matched])


def test_what_stands_in_the_padding_is_never_read() -> None:
    """A source's company decides its padding: a row must not be read otherwise for it."""
    mine = BidirectionalLSTM(2 * D, 2, 0.0)
    mine.init_weights()
    x, length = torch.randn(ROWS, STEPS, 2 * D, requires_grad=True), torch.tensor([7, 1, 4, 9, 2])
    padding = torch.arange(STEPS) >= length[:, None]
    said, ends = mine(x, length)
    assert not said[padding].any()
    (slope,) = torch.autograd.grad(said.square().sum() + ends.square().sum(), [x])
    assert not slope[padding].any()
    assert slope[~padding].all()
    with torch.no_grad():
        x[padding] = 1e3
    for a, b in zip(mine(x, length), (said, ends), strict=True):
        assert torch.equal(a, b)
