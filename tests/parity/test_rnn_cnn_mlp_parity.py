"""RNN, causal CNN and window MLP equal their equations and torch's own modules, with gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.models.cnn import CNN, CNNConfig
from ensue.models.mlp import MLP, MLPConfig
from ensue.models.rnn import RNN, RNNConfig
from ensue.nn.conv import CausalConv
from ensue.nn.precision import precision
from ensue.nn.recurrent import RNNWeights, rnn_sequence, rnn_step


def random_weights(d_input: int, d_model: int) -> RNNWeights:
    shapes = [(d_model, d_input), (d_model, d_model), (d_model,)]
    return RNNWeights(*[(torch.randn(s) * 0.3).requires_grad_() for s in shapes])


def assert_close(ours: Tensor, theirs: Tensor, rtol: float = 1e-5) -> None:
    atol = rtol * float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize(("rows", "steps", "d_input", "d_model"), [(3, 11, 5, 8), (1, 1, 4, 4)])
def test_the_rnn_over_a_sequence_equals_the_equation(
    rows: int, steps: int, d_input: int, d_model: int
) -> None:
    """Its own backward pass: a gradient that skips a step trains, but forgets sooner."""
    w = random_weights(d_input, d_model)
    x = torch.randn(rows, steps, d_input, requires_grad=True)
    h = torch.randn(rows, d_model, requires_grad=True)
    leaves = [x, h, *w]
    said, last = rnn_sequence(x, h, w)
    expected, h_t = [], h
    for x_t in x.unbind(dim=1):
        h_t = rnn_step(x_t, h_t, w)
        expected.append(h_t)
    y = torch.stack(expected, dim=1)
    assert_close(said, y)
    assert_close(last, h_t)
    weight = torch.randn_like(y)
    fast = torch.autograd.grad((said * weight).sum() + last.sum(), leaves)
    slow = torch.autograd.grad((y * weight).sum() + h_t.sum(), leaves)
    for a, b in zip(fast, slow, strict=True):
        assert_close(a, b)


def test_the_rnn_equals_torchs_own() -> None:
    config = RNNConfig(vocab_size=30, context_length=16, d_model=24, num_layers=2, dropout=0.0)
    ours = RNN(config)
    theirs = torch.nn.RNN(24, 24, num_layers=2, batch_first=True)
    with torch.no_grad():
        for i, layer in enumerate(ours.layers):
            getattr(theirs, f"weight_ih_l{i}").copy_(layer.U)
            getattr(theirs, f"weight_hh_l{i}").copy_(layer.W)
            getattr(theirs, f"bias_ih_l{i}").copy_(layer.b)
            getattr(theirs, f"bias_hh_l{i}").zero_()
    tokens = torch.randint(30, (4, 16))
    hidden, state = ours(tokens)
    expected, h = theirs(ours.vocabulary(tokens))
    assert_close(hidden, expected)
    assert_close(state.h, h.transpose(0, 1))
    weight = torch.randn_like(hidden)
    (hidden * weight).sum().backward()
    (expected * weight).sum().backward()
    for i, layer in enumerate(ours.layers):
        for name, grad in (("W", f"weight_hh_l{i}"), ("U", f"weight_ih_l{i}")):
            theirs_grad = getattr(theirs, grad).grad
            assert_close(getattr(layer, name).grad, theirs_grad, rtol=1e-4)


def test_the_rnns_bf16_path_is_the_same_function_in_coarser_numbers() -> None:
    w = random_weights(16, 32)
    x = torch.randn(4, 9, 16, requires_grad=True)
    h = torch.randn(4, 32, requires_grad=True)
    leaves, results, weight = [x, h, *w], [], torch.randn(4, 9, 32)
    for kind in ("fp32", "bf16"):
        with precision(kind):
            said, last = rnn_sequence(x, h, w)
        total = (said * weight).sum() + last.sum()
        results.append((said.float(), *torch.autograd.grad(total, leaves)))
    for exact, coarse in zip(*results, strict=True):
        assert (coarse - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (2, 4), (3, 5)])
def test_a_causal_convolution_equals_torchs_own_on_a_padded_sequence(
    kernel: int, dilation: int
) -> None:
    """Taps in the wrong order, or a place too far, still train."""
    conv = CausalConv(6, 10, kernel, dilation)
    with torch.no_grad():
        conv.weight.normal_()
        conv.bias.normal_()
    x = torch.randn(3, 13, 6, requires_grad=True)
    filters = conv.weight.detach().unflatten(1, (kernel, 6)).transpose(1, 2).requires_grad_()
    padded = F.pad(x.transpose(1, 2), ((kernel - 1) * dilation, 0))
    expected = F.conv1d(padded, filters, conv.bias, dilation=dilation).transpose(1, 2)
    found, past = conv(x)
    assert_close(found, expected)
    reach = (kernel - 1) * dilation
    assert past.shape == (3, reach, 6)
    padded_x = F.pad(x, (0, 0, reach, 0))
    assert torch.equal(past, padded_x[:, padded_x.shape[1] - reach :])
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weight).sum(), [x, conv.weight])
    theirs = torch.autograd.grad((expected * weight).sum(), [x, filters])
    assert_close(ours[0], theirs[0])
    assert_close(ours[1].unflatten(1, (kernel, 6)).transpose(1, 2), theirs[1])


def test_the_cnns_reach_is_what_its_config_says() -> None:
    """One token further back must change nothing; the last one within reach must."""
    config = CNNConfig(vocab_size=30, context_length=64, d_model=16, num_layers=4, dropout=0.0)
    model, reach = CNN(config).eval(), config.reach
    assert reach == 1 + (1 + 2 + 4 + 8)
    tokens = torch.randint(30, (1, reach + 1))
    for place, seen in ((0, False), (1, True)):
        other = tokens.clone()
        other[0, place] = (other[0, place] + 1) % 30
        with torch.no_grad():
            same = torch.equal(model(tokens)[0][0, -1], model(other)[0][0, -1])
        assert same is not seen


def test_the_window_network_equals_its_equations() -> None:
    config = MLPConfig(vocab_size=30, context_length=16, window=3, d_model=8, num_layers=2)
    model = MLP(MLPConfig(**{**vars(config), "dropout": 0.0})).eval()
    tokens = torch.randint(30, (2, 5))
    hidden, _ = model(tokens)
    e = model.vocabulary.embedding.weight
    for t in range(5):
        window = [e[tokens[:, i]] if i >= 0 else torch.zeros(2, 8) for i in range(t - 2, t + 1)]
        h = torch.cat(window, dim=1)
        for layer in model.layers:
            h = F.gelu(h @ layer.weight.T + layer.bias, approximate="tanh")
        assert_close(hidden[:, t], h @ model.out.weight.T + model.out.bias)
    assert_close(model.head(hidden), hidden @ e.T + model.vocabulary.bias)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_window_networks_state_is_the_last_tokens(steps: int) -> None:
    model = MLP(MLPConfig(vocab_size=30, window=4, d_model=8, num_layers=1, dropout=0.0)).eval()
    tokens = torch.randint(30, (2, steps))
    state = model(tokens, model.init_state(2))[1]
    expected = F.pad(tokens, (3, 0), value=-1)[:, -3:]
    assert torch.equal(state.ids, expected)
