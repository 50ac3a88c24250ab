"""GPT-2 and GPT equal the public implementation: logits, gradients, with and without a cache."""

import pytest
import torch
from transformers import GPT2Config as TheirConfig
from transformers import GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel

from ensue.models.gpt2 import GPT2, PUBLISHED, GPT2Config
from ensue.planning import build_empty, count_parameters

SHAPES = [(2, 48, 4, 61, 32), (1, 32, 1, 257, 16), (3, 24, 3, 50, 64)]


def their_gpt2(layers: int, width: int, heads: int, vocab: int, context: int) -> torch.nn.Module:
    config = TheirConfig(
        vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=heads
    )
    config._attn_implementation = "eager"
    return GPT2LMHeadModel(config)


def their_gpt(layers: int, width: int, heads: int, vocab: int, context: int) -> torch.nn.Module:
    config = OpenAIGPTConfig(
        vocab_size=vocab, n_positions=context, n_embd=width, n_layer=layers, n_head=heads
    )
    return OpenAIGPTLMHeadModel(config)


def pairs(
    theirs: torch.nn.Module, ours: GPT2
) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter, bool]]:
    """Match parameters by their published names, and say whether theirs is stored (in, out)."""
    given = {n.removeprefix("transformer."): p for n, p in theirs.named_parameters()}
    names = {"wte.weight": "token_embedding.weight", "wpe.weight": "position_embedding.weight"}
    names |= {"tokens_embed.weight": "token_embedding.weight"}
    names |= {"positions_embed.weight": "position_embedding.weight"}
    names |= {"ln_f.weight": "norm.weight", "ln_f.bias": "norm.bias"}
    parts = {"ln_1": "norm1", "attn.c_attn": "attention.qkv", "attn.c_proj": "attention.out"}
    parts |= {"ln_2": "norm2", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
    for i in range(len(ours.blocks)):
        for a, b in parts.items():
            for end in ("weight", "bias"):
                names[f"h.{i}.{a}.{end}"] = f"blocks.{i}.{b}.{end}"
    mine = dict(ours.named_parameters())
    matched = [(p, mine.pop(names[n]), "c_" in n and p.ndim == 2) for n, p in given.items()]
    assert not mine, f"unmatched: {list(mine)}"
    return matched


@pytest.mark.parametrize("post_norm", [False, True], ids=["gpt2", "gpt"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_gradients_equal_the_public_implementation(
    shape: tuple[int, int, int, int, int], post_norm: bool
) -> None:
    """A wrong GELU, norm order, scale or transpose changes these numbers by far more than 1e-5."""
    layers, width, heads, vocab, context = shape
    theirs = (their_gpt if post_norm else their_gpt2)(*shape).eval()
    ours = GPT2(
        GPT2Config(
            vocab_size=vocab,
            context_length=context,
            d_model=width,
            num_layers=layers,
            num_heads=heads,
            dropout=0.0,
            post_norm=post_norm,
        )
    )
    with torch.no_grad():
        for p in theirs.parameters():  # biases and gains at their initial 0 and 1 hide mistakes
            p.copy_(torch.randn_like(p) * 0.2)
        for p, q, turned in pairs(theirs, ours):
            q.copy_(p.T if turned else p)
    tokens = torch.randint(vocab, (3, context))
    expected = theirs(tokens).logits
    hidden, _ = ours(tokens)
    logits = ours.head(hidden)
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * largest)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    for p, q, turned in pairs(theirs, ours):
        assert p.grad is not None
        grad = p.grad.T if turned else p.grad
        torch.testing.assert_close(q.grad, grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()))


def test_a_cache_in_uneven_pieces_gives_the_same_logits() -> None:
    """The cache must grow past its first slots without losing what it holds."""
    config = GPT2Config(
        vocab_size=40, context_length=150, d_model=32, num_layers=2, num_heads=2, dropout=0.0
    )
    model = GPT2(config).eval()
    tokens = torch.randint(40, (2, 150))
    with torch.no_grad():
        whole, _ = model(tokens)
        state = model.init_state(2)
        pieces = []
        for piece in tokens.split([1, 63, 1, 70, 15], dim=1):
            hidden, state = model(piece, state)
            pieces.append(hidden)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
    ],
)
def test_the_published_sizes_have_the_published_counts(name: str, parameters: int) -> None:
    assert count_parameters(build_empty(GPT2, PUBLISHED[name])) == parameters
