"""Costs before anything runs: the claims that a comparison rests on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import MODELS, PAIR_MODELS
from torch.utils.flop_counter import FlopCounterMode

from ensue.models import LINEAGE, step_of
from ensue.nn.loss import cross_entropy_sum
from ensue.nn.precision import precision
from ensue.planning import build_empty, count_parameters, fitted, train_flops

VOCAB = 1024
NAMES = [step.name for step in LINEAGE]  # of bert, which is no decoder, what fills in


def sized(name: str, size: str) -> Any:
    step = next(s for s in LINEAGE if s.name == name)
    return replace(step.sizes[size], vocab_size=VOCAB, dropout=0.0)


def parameters(config: Any) -> int:
    return count_parameters(build_empty(step_of(config).model, config))


@pytest.mark.parametrize("size", ["xs", "s", "m", "l"])
@pytest.mark.parametrize("name", NAMES)
def test_every_model_can_be_given_the_weights_of_another(name: str, size: str) -> None:
    """Equal parameters within 2 %: what the first column of every comparison claims."""
    goal = parameters(sized("gpt2", size))
    config = fitted(sized(name, size), goal)
    assert parameters(config) == pytest.approx(goal, rel=0.02)
    assert config == replace(sized(name, size), d_model=config.d_model)


def test_a_width_that_fits_is_as_round_as_it_can_be() -> None:
    config = sized("gpt2", "xs")
    assert fitted(config, parameters(config)) == config


VARIANTS: dict[str, Any] = {
    **MODELS,
    **PAIR_MODELS,
    "additive": replace(PAIR_MODELS["seq2seq_attention"], score="additive"),
    "deep": replace(PAIR_MODELS["seq2seq"], num_layers=3),
    "deep attention": replace(PAIR_MODELS["seq2seq_attention"], num_layers=3),
    "narrow": replace(PAIR_MODELS["transformer"], num_layers=2, d_ff=96, src_vocab_size=30),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_formula_counts_the_matrix_products_that_are_made(name: str) -> None:
    """By a counter of products in a real update: a forgotten layer would be a cheaper model."""
    config = replace(VARIANTS[name], vocab_size=40, dropout=0.0, d_model=64)
    if hasattr(config, "context_length"):
        config = replace(config, context_length=32)
    model = step_of(config).model(config).train()
    reads = 20 if hasattr(model, "encode") else 0
    tokens, source = torch.randint(40, (4, 33)), torch.randint(30, (4, reads))

    def products(x: Any, w: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * x[0] * x[1] * w[0]

    mapping = {torch.ops.mkldnn._linear_pointwise: products}
    # bf16: the LSTM's own sequence; torch's fused one hides its products from the counter.
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter, precision("bf16"):
        memory = model.encode(source, torch.full((4,), reads)) if reads else None
        hidden, _ = model(tokens[:, :-1], memory)
        cross_entropy_sum(model.head, hidden, tokens[:, 1:], 40).backward()
    assert counter.get_total_flops() == pytest.approx(train_flops(model, 4, 32, reads), rel=0.02)


def test_a_model_without_a_formula_is_counted_by_its_weights() -> None:
    embedding, layer = torch.nn.Embedding(10, 8), torch.nn.Linear(8, 10, bias=False)
    assert train_flops(torch.nn.Sequential(embedding, layer), 3, 5) == 6 * 80 * 15
