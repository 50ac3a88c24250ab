"""The lecture's convolution, and both picture classifiers beside torch's own modules."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.models.cnn import PictureCNN, PictureCNNConfig
from ensue.models.mlp import MLPClassifier, MLPClassifierConfig
from ensue.nn.conv import PictureConv
from ensue.nn.precision import precision

Rows = list[list[list[int]]]
PICTURE = [
    [1, 0, 0, 0, 0, 1],
    [0, 1, 0, 0, 1, 0],
    [0, 0, 1, 1, 0, 0],
    [1, 0, 0, 0, 1, 0],
    [0, 1, 0, 0, 1, 0],
    [0, 0, 1, 0, 1, 0],
]
FILTER = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
STRIDE_1 = [[3, -1, -3, -1], [-3, 1, 0, -3], [-3, -3, 0, 1], [3, -2, -2, -1]]
STRIDE_3 = [[3, -1], [3, -1]]
FILTER_2 = [[-1, 1, -1], [-1, 1, -1], [-1, 1, -1]]
MAP_2 = [[-1, -1, -1, -1], [-1, -1, -2, 1], [-1, -1, -2, 1], [-1, 0, -4, 3]]


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-5) -> None:
    atol = rtol * float(theirs.detach().abs().max())
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("filters", "stride", "maps"),
    [
        ([FILTER], 1, [STRIDE_1]),
        ([FILTER], 3, [STRIDE_3]),
        ([FILTER, FILTER_2], 1, [STRIDE_1, MAP_2]),
    ],
)
def test_the_picture_of_the_lecture(filters: Rows, stride: int, maps: Rows) -> None:
    """A filter that is mirrored, or whose taps are laid out by column, gives other numbers."""
    conv = PictureConv(1, len(filters), 3, stride, padding=0)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor(filters).flatten(1))
        conv.bias.zero_()
    assert conv(torch.tensor(PICTURE).float()[None, None])[0].tolist() == maps


def test_the_convolution_page_shows_the_numbers_of_this_test() -> None:
    """The page's example is what a class copies from the board."""
    page = Path(__file__).parents[2] / "docs" / "lineage" / "cnn.md"
    lines = [" ".join(line.split()) for line in page.read_text(encoding="utf-8").splitlines()]
    for rows in (PICTURE, FILTER, STRIDE_1, STRIDE_3, FILTER_2, MAP_2):
        for row in rows:
            assert any(f" {' '.join(map(str, row))} " in f" {line} " for line in lines), row


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_filters_equal_torchs_own(stride: int, kernel_size: int) -> None:
    ours = PictureConv(3, 8, kernel_size, stride, kernel_size // 2)
    ours.init_weights()
    theirs = nn.Conv2d(3, 8, kernel_size, stride, kernel_size // 2)
    with torch.no_grad():
        theirs.weight.copy_(ours.filters)
        theirs.bias.copy_(ours.bias.normal_())
    x = torch.randn(2, 3, 9, 11)
    close(ours(x), theirs(x))
    weight = torch.randn_like(theirs(x))
    ours_grad = torch.autograd.grad((ours(x) * weight).sum(), [ours.weight, ours.bias])
    theirs_grad = torch.autograd.grad((theirs(x) * weight).sum(), [theirs.weight, theirs.bias])
    close(ours_grad[0], theirs_grad[0].flatten(1))
    close(ours_grad[1], theirs_grad[1])


def test_the_fully_connected_network_equals_its_equation() -> None:
    config = MLPClassifierConfig(
        classes=5, channels=3, height=4, width=6, d_model=16, num_layers=2, dropout=0.0
    )
    ours = MLPClassifier(config)
    with torch.no_grad():
        ours.head.weight.normal_()
    x = torch.randn(7, 3, 4, 6)
    h = x.flatten(1)
    for layer in ours.layers:
        h = F.gelu(h @ layer.weight.T + layer.bias, approximate="tanh")
    close(ours(x), h @ ours.head.weight.T + ours.head.bias)
    linear = MLPClassifier(MLPClassifierConfig(classes=2, channels=1, height=2, width=2))
    assert sum(p.numel() for p in linear.parameters()) == 2 * 4 + 2  # no hidden layer


def test_the_cnn_equals_its_equation_with_gradients() -> None:
    config = PictureCNNConfig(
        classes=4,
        channels=3,
        height=9,
        width=12,
        d_model=8,
        num_stages=2,
        num_layers=1,
        dropout=0.0,
    )
    ours = PictureCNN(config)
    with torch.no_grad():
        ours.head.weight.normal_()
    x = torch.randn(3, 3, 9, 12)

    def conv(y: Tensor, c: PictureConv) -> Tensor:
        found = F.conv2d(y, c.filters, c.bias, c.stride, c.kernel_size // 2)
        return F.gelu(found, approximate="tanh")

    def norm(y: Tensor, n: nn.LayerNorm) -> Tensor:
        return F.layer_norm(y.movedim(1, -1), n.weight.shape, n.weight, n.bias).movedim(-1, 1)

    y = conv(x, ours.first)
    for block, adds in zip(ours.blocks, [True, False, True], strict=True):
        found = conv(norm(y, block.norm), block.conv)
        y = y + found if adds else found
    assert y.shape == (3, 16, 3, 3)
    whole = F.layer_norm(y.mean(dim=(2, 3)), (16,), ours.norm.weight, ours.norm.bias)
    expected = whole @ ours.head.weight.T + ours.head.bias
    close(ours(x), expected)
    weight = torch.randn_like(expected)
    parameters = list(ours.parameters())
    fast = torch.autograd.grad((ours(x) * weight).sum(), parameters)
    slow = torch.autograd.grad((expected * weight).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        close(a, b, 1e-4)


@pytest.mark.parametrize("model", [PictureCNN, MLPClassifier])
def test_bf16_says_nearly_the_same(model: type[nn.Module]) -> None:
    shape = {"classes": 4, "channels": 1, "height": 12, "width": 12, "dropout": 0.0}
    config = (
        PictureCNNConfig(**shape, d_model=16, num_stages=2, num_layers=1)
        if model is PictureCNN
        else MLPClassifierConfig(**shape, d_model=32, num_layers=2)
    )
    network = model(config).eval()
    with torch.no_grad():
        network.head.weight.normal_()
    x = torch.randn(5, 1, 12, 12)
    with torch.no_grad():
        exact = network(x)
        with precision("bf16"):
            rough = network(x).float()
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05 * float(exact.abs().max()))


def test_operations_are_counted_by_formula() -> None:
    config = PictureCNNConfig(
        classes=10, channels=1, height=28, width=28, d_model=64, num_stages=2, num_layers=1
    )
    with torch.device("meta"):
        network = PictureCNN(config)
    forward = 14 * 14 * (25 * 64 + 576 * 64) + 7 * 7 * (576 * 128 + 1152 * 128) + 128 * 10
    assert network.train_flops(2) == 6 * 2 * forward
