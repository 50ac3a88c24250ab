"""The LSTM equals its own equations and torch's module: values and gradients."""

import pytest
import torch

from ensue.models.lstm import LSTM, LSTMConfig
from ensue.nn.capture import capture
from ensue.nn.precision import precision
from ensue.nn.recurrent import LSTMWeights, lstm_sequence, lstm_step


def random_layer(d_input: int, d_model: int) -> LSTMWeights:
    shapes = [(4 * d_model, d_input), (4 * d_model, d_model), (4 * d_model,)]
    return LSTMWeights(*[(torch.randn(s) * 0.3).requires_grad_() for s in shapes])


@pytest.mark.parametrize(("rows", "steps", "d_input", "d_model"), [(3, 11, 5, 8), (1, 1, 4, 4)])
def test_the_fast_path_equals_the_equations(
    rows: int, steps: int, d_input: int, d_model: int
) -> None:
    """Gate order, bias and carried state, forward and backward."""
    w = random_layer(d_input, d_model)
    x = torch.randn(rows, steps, d_input, requires_grad=True)
    h = torch.randn(rows, d_model, requires_grad=True)
    c = torch.randn(rows, d_model, requires_grad=True)
    leaves = [x, h, c, *w]
    y_fast, h_fast, c_fast = lstm_sequence(x, h, c, w)
    said, h_t, c_t = [], h, c
    for x_t in x.unbind(dim=1):
        h_t, c_t = lstm_step(x_t, h_t, c_t, w)
        said.append(h_t)
    y = torch.stack(said, dim=1)
    torch.testing.assert_close(y_fast, y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((h_fast, c_fast), (h_t, c_t), rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(y)
    fast = torch.autograd.grad((y_fast * weight).sum() + c_fast.sum() + h_fast.sum(), leaves)
    slow = torch.autograd.grad((y * weight).sum() + c_t.sum() + h_t.sum(), leaves)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_the_model_equals_torchs_own_lstm() -> None:
    """Two layers with their embedding and output, against nn.LSTM with the same weights."""
    config = LSTMConfig(vocab_size=30, context_length=16, d_model=24, num_layers=2, dropout=0.0)
    ours = LSTM(config)
    theirs = torch.nn.LSTM(24, 24, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate(ours.layers):
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.U)
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.W)
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.b)
            getattr(theirs, f"bias_hh_l{i}").zero_()
    tokens = torch.randint(30, (4, 16))
    hidden, state = ours(tokens)
    expected, (h, c) = theirs(ours.vocabulary(tokens))
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((state.h, state.c), (h.transpose(0, 1), c.transpose(0, 1)))
    weight = torch.randn_like(hidden)
    ours.zero_grad()
    (hidden * weight).sum().backward()
    (expected * weight).sum().backward()
    grad = theirs.weight_hh_l1.grad
    assert grad is not None
    torch.testing.assert_close(ours.layers[1].W.grad, grad, rtol=1e-4, atol=1e-5)


def test_the_bf16_path_is_the_same_function_in_coarser_numbers() -> None:
    """Its own backward pass: a wrong gate order or a lost term is far beyond bf16's 3 digits."""
    w = random_layer(16, 32)
    x = torch.randn(4, 9, 16, requires_grad=True)
    h, c = torch.randn(4, 32, requires_grad=True), torch.randn(4, 32, requires_grad=True)
    leaves, results = [x, h, c, *w], []
    weight = torch.randn(4, 9, 32)
    for kind in ("fp32", "bf16"):
        with precision(kind):
            y, h_last, c_last = lstm_sequence(x, h, c, w)
        total = (y * weight).sum() + h_last.sum() + c_last.sum()
        results.append((y.float(), *torch.autograd.grad(total, leaves)))
    for exact, coarse in zip(*results, strict=True):
        error = (coarse - exact).norm() / exact.norm()
        assert error < 0.02


def test_looking_at_the_gates_changes_no_number() -> None:
    """The tap takes the equations' path; what it shows must be what the fast path computes."""
    config = LSTMConfig(vocab_size=30, context_length=16, d_model=24, num_layers=2, dropout=0.0)
    model = LSTM(config).eval()
    tokens = torch.randint(30, (2, 9))
    with torch.no_grad():
        plain, _ = model(tokens)
        with capture(model) as maps:
            looked, _ = model(tokens)
    torch.testing.assert_close(looked, plain, rtol=1e-5, atol=1e-6)
    assert [shown.shape for shown in maps["layers.1/gates"]] == [(2, 9, 3, 24)]
