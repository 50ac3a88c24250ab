"""The two encoder-decoders of LSTMs equal the equations on their pages of docs/lineage.

Those are written out here once more, a step at a time and a source by itself, with
torch.nn.functional alone, in double numbers: values and gradients.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensue.models.seq2seq import Seq2Seq, Seq2SeqConfig
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig

V, D = 13, 8
LENGTHS = [5, 1, 3]
STEPS = 4
OWN_WORDS = pytest.mark.parametrize("src_vocab_size", [0, 11], ids=["one-vocabulary", "two"])
LAYERS = pytest.mark.parametrize("num_layers", [1, 2])


def randomise(model: nn.Module) -> None:
    """Biases at their initial 0 and 1 hide mistakes.

    Words and scores are larger, so that places differ: gradients of nearly even weights cancel, and
    what is left of them in fp32 has four digits.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            large = name.startswith(("vocabulary.embedding", "source", "attention"))
            p.copy_(torch.randn_like(p) * (1.0 if large else 0.6))


def cell(x: Tensor, h: Tensor, c: Tensor, w: Any) -> tuple[Tensor, Tensor]:
    """One step of an LSTM."""
    i, f, g, o = (F.linear(x, w.U, w.b) + F.linear(h, w.W)).chunk(4)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    return F.sigmoid(o) * F.tanh(c), c


def run(xs: Sequence[Tensor], w: Any) -> list[Tensor]:
    """Say h_s at each place: h_s = cell(x_s, h_{s-1}), from zeros."""
    h = c = w.b.new_zeros(w.W.shape[1])
    said = []
    for x in xs:
        h, c = cell(x, h, c, w)
        said.append(h)
    return said


def both_ways(model: Any, source: Tensor) -> tuple[list[Tensor], Tensor]:
    """Give [ahead_s; back_s] of the last layer, and [h_S; h'_1]."""
    words = model.source or model.vocabulary.embedding
    xs = list(F.embedding(source, words.weight))
    end = torch.empty(0)
    for ahead, back in zip(model.encoder.ahead, model.encoder.back, strict=True):
        there, again = run(xs, ahead), run(xs[::-1], back)
        end = torch.cat([there[-1], again[-1]])
        xs = [torch.cat([a, b]) for a, b in zip(there, again[::-1], strict=True)]
    return xs, end


def seq2seq(model: Any, source: Tensor, target: Tensor) -> Tensor:
    """docs/lineage/seq2seq.md."""
    E = model.vocabulary.embedding.weight
    _, end = both_ways(model, source)
    v = F.tanh(F.linear(end, model.bridge.weight, model.bridge.bias))
    hs, cs = [v] * len(model.layers), [v.new_zeros(D)] * len(model.layers)
    logits = []
    for y in target:
        x = torch.cat([F.embedding(y, E), v])
        for i, layer in enumerate(model.layers):
            x, cs[i] = cell(x, hs[i], cs[i], layer)
            hs[i] = x
        logits.append(F.linear(x, E, model.vocabulary.bias))
    return torch.stack(logits)


def looking_back(model: Any, source: Tensor, target: Tensor) -> Tensor:
    """docs/lineage/seq2seq_attention.md."""
    E, attention = model.vocabulary.embedding.weight, model.attention
    places, _ = both_ways(model, source)
    s = c_s = E.new_zeros(D)
    hs, cs = ([s] * len(model.layers) for _ in range(2))
    logits = []
    for y in target:
        s, c_s = cell(F.embedding(y, E), s, c_s, model.asking)
        if model.config.score == "dot":
            e = [s @ F.linear(h, attention.W) for h in places]
        else:
            asked = F.linear(s, attention.W)
            e = [attention.v @ F.tanh(asked + F.linear(h, attention.U)) for h in places]
        a = F.softmax(torch.stack(e), dim=0)
        c = a @ torch.stack(places)
        r = torch.cat([s, c])
        for i, layer in enumerate(model.layers):
            r, cs[i] = cell(r, hs[i], cs[i], layer)
            hs[i] = r
        M = model.combine
        said = F.tanh(F.linear(torch.cat([r, c]), M.weight, M.bias))
        logits.append(F.linear(said, E, model.vocabulary.bias))
    return torch.stack(logits)


def near(given: Tensor, expected: Tensor) -> None:
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5 * largest)


def assert_equations(model: Any, equations: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
    """Compare the logits of a padded batch with those of single rows, and all gradients."""
    randomise(model)
    sources = torch.randint(model.config.src_vocab_size or V, (len(LENGTHS), max(LENGTHS)))
    targets = torch.randint(V, (len(LENGTHS), STEPS))
    hidden, _ = model(targets, model.encode(sources, torch.tensor(LENGTHS)))
    given = model.head(hidden)
    exact, rows = deepcopy(model).double(), zip(sources, LENGTHS, targets, strict=True)
    expected = torch.stack([equations(exact, src[:n], tgt) for src, n, tgt in rows])
    near(given, expected)
    random = torch.randn_like(given)
    mine = torch.autograd.grad((given * random).sum(), list(model.parameters()))
    wanted = torch.autograd.grad((expected * random).sum(), list(exact.parameters()))
    for a, b in zip(mine, wanted, strict=True):
        assert b.any()  # every weight has a part in it
        near(a, b)


@OWN_WORDS
@LAYERS
def test_one_vector_between_two_networks(num_layers: int, src_vocab_size: int) -> None:
    """The vector starts every layer and is told at every step: without either it learns as well."""
    shape: dict[str, Any] = {"d_model": D, "num_layers": num_layers, "dropout": 0.0}
    shape["src_vocab_size"] = src_vocab_size
    assert_equations(Seq2Seq(Seq2SeqConfig(vocab_size=V, **shape)), seq2seq)


@OWN_WORDS
@LAYERS
@pytest.mark.parametrize("score", ["dot", "additive"])
def test_the_decoder_looks_back(score: str, num_layers: int, src_vocab_size: int) -> None:
    """What is told enters the layers above and the last one, not the layer that asks."""
    shape: dict[str, Any] = {"d_model": D, "num_layers": num_layers, "dropout": 0.0}
    shape |= {"src_vocab_size": src_vocab_size, "score": score}
    config = Seq2SeqAttentionConfig(vocab_size=V, **shape)
    assert_equations(Seq2SeqAttention(config), looking_back)
