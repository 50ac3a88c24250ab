"""AdamW is torch's; Muon moves each hidden matrix once, evenly in all directions."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ensue.errors import UsageError
from ensue.models.bert import TextBert, TextBertConfig
from ensue.models.cnn import TextCNN, TextCNNConfig
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.models.lstm import LSTM, LSTMConfig
from ensue.models.mlp import MLPClassifier, MLPClassifierConfig
from ensue.training import optim
from ensue.training.config import TrainConfig
from ensue.training.optim import Optimizer, hidden_matrices, layer_shares, orthogonalise

Make = Callable[..., nn.Module]


def gpt2(vocab_size: int = 13, d_model: int = 16) -> GPT2:
    return GPT2(
        GPT2Config(
            vocab_size=vocab_size,
            context_length=8,
            d_model=d_model,
            num_layers=2,
            num_heads=2,
            dropout=0.0,
        )
    )


def lstm(vocab_size: int = 13, d_model: int = 16, untie_embeddings: bool = False) -> LSTM:
    return LSTM(
        LSTMConfig(
            vocab_size=vocab_size,
            context_length=8,
            d_model=d_model,
            num_layers=2,
            dropout=0.0,
            untie_embeddings=untie_embeddings,
        )
    )


MODELS = pytest.mark.parametrize("make", [gpt2, lstm])


def backward(model: nn.Module, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 13, (3, 8), generator=g)
    hidden, _ = model(tokens)
    loss = nn.functional.cross_entropy(model.head(hidden).flatten(0, 1), tokens.flatten())
    loss.backward()


@MODELS
def test_adamw_is_torchs_on_every_parameter(make: Make) -> None:
    """A parameter left out of the groups would stay as it was drawn, and nobody would notice."""
    model = make()
    twin = copy.deepcopy(model)
    config = TrainConfig(optimizer="adamw", weight_decay=0.1)
    ours = Optimizer(model, config)
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in twin.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for step, lr in enumerate((1e-3, 3e-3, 2e-3)):
        for m in (model, twin):
            m.zero_grad()
            backward(m, step)
        ours.step(lr, lr)
        for group in theirs.param_groups:
            group["lr"] = lr
        theirs.step()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert not torch.equal(p, before[name]), name


@MODELS
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_state_has_every_tensor_before_the_first_step(make: Make, kind: str) -> None:
    """AdamW makes its state at the first step: a checkpoint would find nothing to load into."""
    model = make()
    optimizer = Optimizer(model, TrainConfig(optimizer=kind))
    before = {name: t.data_ptr() for name, t in optimizer.tensors().items()}
    backward(model, 0)
    optimizer.step(1e-3, 1e-3)
    assert before == {name: t.data_ptr() for name, t in optimizer.tensors().items()}
    matrices = dict(hidden_matrices(model)) if kind == "muon" else {}
    named = dict(model.named_parameters())
    expected = {f"{n}.momentum" for n in matrices}
    for key in ("step", "exp_avg", "exp_avg_sq"):
        expected |= {f"{n}.{key}" for n in named.keys() - matrices.keys()}
    assert before.keys() == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((16, 16), (1, 16, 16)),
        ((48, 16), (3, 16, 16)),
        ((16, 64), (4, 16, 16)),
        ((24, 16), (1, 16, 24)),
        ((16, 24), (1, 16, 24)),
        ((1, 5), (5, 1, 1)),
        ((5, 1), (5, 1, 1)),
    ],
)
def test_cutting_into_squares_can_be_undone(
    shape: tuple[int, int], expected: tuple[int, int, int]
) -> None:
    """A block put back in another place trains, a little worse, and nothing fails."""
    m = torch.arange(shape[0] * shape[1]).float().reshape(shape)
    squares = optim._squares(m)
    assert tuple(squares.shape) == expected
    assert torch.equal(optim._unsquares(squares, m.shape), m)


def test_squares_of_stacked_weights_are_the_weights() -> None:
    """Of q, k and v each is a square of its own, not a third of each."""
    q, k, v = torch.randn(3, 8, 8)
    assert torch.equal(optim._squares(torch.cat([q, k, v])), torch.stack([q, k, v]))
    assert torch.equal(optim._squares(torch.cat([q, k], dim=1)), torch.stack([q, k]))


@pytest.mark.parametrize("shape", [(4, 16, 16), (1, 16, 48), (2, 5, 7), (1, 64, 64), (1, 1, 9)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_orthogonalise_brings_all_singular_values_near_one(
    shape: tuple[int, int, int], scale: float
) -> None:
    """Whatever the size of the gradient: the step's length must not depend on it."""
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    # Singular values from 1 to 0.1: the iteration promises nothing for vanishing ones.
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    g = u * torch.linspace(1, 0.1, shape[1]) * scale @ vh
    values = torch.linalg.svdvals(orthogonalise(g).float())
    assert values.min() > 0.6
    assert values.max() < 1.3
    same_way = (orthogonalise(g) * (u @ vh)).sum() / (shape[0] * shape[1])
    assert same_way > 0.6


def test_a_gradient_of_zero_moves_nothing() -> None:
    """0/0 would make every weight NaN at the first row that a model does not use."""
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


def test_hidden_matrices_of_gpt2() -> None:
    names = [n for n, _ in hidden_matrices(gpt2())]
    parts = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    assert sorted(names) == sorted(f"blocks.{i}.{p}.weight" for i in range(2) for p in parts)


@pytest.mark.parametrize("untie", [False, True])
def test_hidden_matrices_of_the_lstm(untie: bool) -> None:
    """The output layer's rows are words, not directions: Muon would move rare words too far."""
    names = [n for n, _ in hidden_matrices(lstm(untie_embeddings=untie))]
    assert sorted(names) == ["layers.0.U", "layers.0.W", "layers.1.U", "layers.1.W"]


@pytest.mark.parametrize("side", [16, 48, 64])
@MODELS
def test_a_vocabulary_as_long_as_a_side_of_a_block_changes_nothing(make: Make, side: int) -> None:
    """512 ids and a width of 512 or 128 are our own defaults: they would lose Muon silently."""
    model, usual = make(vocab_size=side), make(vocab_size=13)
    assert [n for n, _ in hidden_matrices(model)] == [n for n, _ in hidden_matrices(usual)]


class Tied(nn.Module):
    """One matrix under two names, inside; tied embedding and head, outside."""

    vocab_size = 7

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
        self.layers[1].weight = self.layers[0].weight
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.token_embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens)
        for layer in self.layers:
            x = layer(x).tanh()
        return self.out(x)


def test_tied_parameters_are_moved_once() -> None:
    """Moved under both names a shared weight would take two steps."""
    model = Tied()
    assert [n for n, _ in hidden_matrices(model)] == ["layers.0.weight"]
    optimizer = Optimizer(model, TrainConfig(optimizer="muon", weight_decay=0.0))
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    before = model.layers[0].weight.detach().clone()
    embedding = model.token_embedding.weight.detach().clone()
    grad = model.layers[0].weight.grad
    assert grad is not None
    optimizer.step(0.1, 0.1)
    expected = before - 0.1 * orthogonalise((grad * (1 - 0.95**2))[None])[0]
    moved_to = model.layers[0].weight.detach()
    torch.testing.assert_close(moved_to, expected, rtol=0.02, atol=1e-3)
    moved = float((model.token_embedding.weight.detach() - embedding).abs().max())
    assert moved == pytest.approx(0.1, rel=1e-3)  # AdamW's first step is lr, once


def test_muon_moves_matrices_and_adamw_the_rest() -> None:
    model = gpt2()
    optimizer = Optimizer(model, TrainConfig(optimizer="muon"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    backward(model, 0)
    optimizer.step(1e-3, 1e-3)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


@MODELS
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_both_learn(make: Make, kind: str) -> None:
    """A wrong sign or scale passes every test of shapes."""
    model = make()
    optimizer = Optimizer(model, TrainConfig(optimizer=kind, weight_decay=0.0))
    tokens = torch.randint(0, 13, (4, 8))
    losses = []
    for _ in range(60):
        model.zero_grad()
        hidden, _ = model(tokens[:, :-1])
        logits = model.head(hidden).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step(1e-2, 1e-2)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0]


def bert() -> TextBert:
    return TextBert(
        TextBertConfig(
            vocab_size=13,
            context_length=8,
            d_model=16,
            num_layers=3,
            num_heads=2,
            dropout=0.0,
            classes=2,
        )
    )


def test_each_layer_of_bert_learns_at_a_share_of_the_one_above() -> None:
    """Embeddings as those of a head would forget first what was learnt before."""
    shares = layer_shares(bert(), 0.5)
    below = {n: s for n, s in shares.items() if n.startswith("bert.") and "layers" not in n}
    assert below.pop("bert.pooler.weight") == below.pop("bert.pooler.bias") == 1.0
    assert len(below) == 5
    assert {*below.values()} == {0.5**4}
    for layer in range(3):
        mine = [s for n, s in shares.items() if n.startswith(f"bert.layers.{layer}.")]
        assert len(mine) == 12
        assert {*mine} == {0.5 ** (3 - layer)}
    assert shares["head.weight"] == shares["head.bias"] == 1.0


def test_shares_of_decoders_fall_from_the_last_layer_to_the_embeddings() -> None:
    shares = layer_shares(gpt2(), 0.5)
    assert shares["token_embedding.weight"] == shares["position_embedding.weight"] == 0.125
    assert shares["blocks.0.attention.qkv.weight"] == 0.25
    assert shares["blocks.1.mlp.down.bias"] == 0.5
    assert shares["norm.weight"] == 1.0
    shares = layer_shares(lstm(untie_embeddings=True), 0.5)
    assert {n: s for n, s in shares.items() if n.startswith("layers.")} == {
        f"layers.{i}.{part}": 0.5 ** (2 - i) for i in range(2) for part in "UWb"
    }
    assert shares["vocabulary.embedding.weight"] == 0.125
    assert {*layer_shares(lstm(), 1.0).values()} == {1.0}


def test_filters_that_stand_beside_each_other_share_a_rate() -> None:
    """Those of four words lie no higher than those of three, though their widths would fit."""
    wide = {"shortest_filter": 3, "longest_filter": 4, "d_model": 2, "d_filters": 8}
    config = TextCNNConfig(buckets=64, classes=2, dropout=0.0, **wide)
    shares = layer_shares(TextCNN(config), 0.5)
    assert {s for n, s in shares.items() if n.startswith("layers.")} == {0.5}
    assert {s for n, s in shares.items() if n.startswith("words.")} == {0.25}
    assert shares["head.weight"] == 1.0
    pixels = {"channels": 1, "height": 2, "width": 3}
    deep = MLPClassifierConfig(classes=2, d_model=4, num_layers=2, dropout=0.0, **pixels)
    stack = layer_shares(MLPClassifier(deep), 0.5)
    assert (stack["layers.0.weight"], stack["layers.1.weight"]) == (0.25, 0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
@MODELS
def test_an_update_is_the_share_of_what_it_was(make: Make, optimizer: str) -> None:
    """At 1.0 the same to the last bit: all runs made before repeat. Else each by its own share."""
    found = {}
    for decay in (1.0, 0.5):
        torch.manual_seed(0)
        model = make()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        made = Optimizer(
            model, TrainConfig(optimizer=optimizer, layer_decay=decay, weight_decay=0.0)
        )
        backward(model, 0)
        made.step(1e-3, 1e-2)
        found[decay] = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    for name, share in layer_shares(make(), 0.5).items():
        torch.testing.assert_close(
            found[0.5][name], share * found[1.0][name], rtol=2e-2, atol=2e-6, msg=name
        )


@MODELS
def test_without_decay_groups_are_what_they_were(make: Make) -> None:
    """Two groups, of matrices and of others: what a checkpoint of before knew."""
    made = Optimizer(make(), TrainConfig(optimizer="adamw", weight_decay=0.1))
    assert [group["share"] for group in made.adamw.param_groups] == [1.0, 1.0]
    assert {group["weight_decay"] for group in made.adamw.param_groups} == {0.1, 0.0}


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(UsageError, match=r"train\.layer_decay is .*: it lies in \(0, 1\]"):
        TrainConfig(layer_decay=decay)
