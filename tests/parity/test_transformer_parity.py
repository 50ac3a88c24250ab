"""The Transformer equals torch's own module and Marian's: values and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from ensue.models.transformer import Transformer, TransformerConfig

V, D, H, F, L = 61, 32, 4, 48, 2
Match = tuple[Tensor, Tensor]


def ours(**changed: Any) -> Transformer:
    shape = {"context_length": 24, "d_model": D, "num_layers": L, "num_heads": H, "d_ff": F}
    return Transformer(TransformerConfig(vocab_size=V, dropout=0.0, **shape, **changed))


def randomise(model: nn.Module) -> None:
    """Biases and gains at their initial 0 and 1 hide mistakes."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn_like(p) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight += 1.0  # around 0 they would make the gradients below them vanish


def batch(entries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of different lengths, and targets."""
    return torch.randint(entries, (3, 9)), torch.tensor([9, 4, 1]), torch.randint(entries, (3, 7))


def ends(theirs: Any, mine: Any) -> list[Match]:
    """Match the weights and biases of two layers."""
    return [(theirs.weight, mine.weight), (theirs.bias, mine.bias)]


def copy(matched: list[Match]) -> None:
    with torch.no_grad():
        for theirs, mine in matched:
            mine.copy_(theirs)


def assert_gradients(expected: Tensor, given: Tensor, matched: list[Match]) -> None:
    """Compare values, then the gradients of a random sum of them."""
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5 * largest)
    weights = torch.randn_like(expected)
    theirs = torch.autograd.grad((expected * weights).sum(), [a for a, _ in matched])
    mine = torch.autograd.grad((given * weights).sum(), [b for _, b in matched])
    for a, b in zip(theirs, mine, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def torch_layers(theirs: nn.Transformer, mine: Transformer) -> list[Match]:
    """Match all but the first half of attention, which torch keeps in one matrix."""
    found: list[Match] = []
    stacks = [(theirs.encoder, mine.encoder), (theirs.decoder, mine.decoder)]
    for a, b in [pair for ours_, mine_ in stacks for pair in zip(ours_.layers, mine_, strict=True)]:
        found += ends(a.self_attn.out_proj, b.attention.out)
        found += ends(a.linear1, b.mlp.up) + ends(a.linear2, b.mlp.down)
        found += ends(a.norm1, b.residual1.norm) + ends(a.norm2, b.residual2.norm)
        qkv = a.self_attn
        found += [(qkv.in_proj_weight, b.attention.qkv.weight)]
        found += [(qkv.in_proj_bias, b.attention.qkv.bias)]
        if hasattr(a, "multihead_attn"):
            found += ends(a.multihead_attn.out_proj, b.cross.out) + ends(a.norm3, b.residual3.norm)
    return found


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])
def test_the_stacks_equal_torchs_own_module(pre_norm: bool) -> None:
    torch.manual_seed(0)
    mine = ours(pre_norm=pre_norm)
    theirs = nn.Transformer(D, H, L, L, F, dropout=0.0, batch_first=True, norm_first=pre_norm)
    randomise(theirs)
    matched = torch_layers(theirs, mine)
    if pre_norm:
        matched += ends(theirs.encoder.norm, mine.encoder_norm)
        matched += ends(theirs.decoder.norm, mine.decoder_norm)
    else:  # torch normalises once more at the end, the paper does not
        theirs.encoder.norm = theirs.decoder.norm = None
    copy(matched)
    for a, b in zip(theirs.decoder.layers, mine.decoder, strict=True):
        whole = a.multihead_attn
        parts = [
            (whole.in_proj_weight[:D], b.cross.q.weight),
            (whole.in_proj_bias[:D], b.cross.q.bias),
        ]
        parts += [(whole.in_proj_weight[D:], b.cross.kv.weight)]
        parts += [(whole.in_proj_bias[D:], b.cross.kv.bias)]
        copy(parts)
    source, length, target = batch(V)
    given, _ = mine(target, mine.encode(source, length))
    places = torch.arange(source.shape[1])
    words = mine.vocabulary
    x = mine._embedded(words, source, places).detach()
    y = mine._embedded(words, target, torch.arange(target.shape[1])).detach()
    padding = places >= length[:, None]
    causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
    masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
    expected = theirs(x, y, tgt_mask=causal, tgt_is_causal=True, **masks)
    assert_gradients(expected, given, matched)


def test_logits_and_gradients_equal_marians() -> None:
    """Its published shape: post-norm, swish, sines in halves, one embedding, times sqrt(D)."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": L, "decoder_layers": L, "encoder_ffn_dim": F, "decoder_ffn_dim": F}
    heads = {"encoder_attention_heads": H, "decoder_attention_heads": H}
    config = MarianConfig(
        vocab_size=V,
        d_model=D,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=24,
        pad_token_id=V - 1,
        decoder_start_token_id=V - 1,
        dropout=0.0,
        **sizes,
        **heads,
    )
    config._attn_implementation = "eager"
    theirs = MarianMTModel(config).eval()
    mine = ours(activation="swish").eval()
    randomise(theirs)
    theirs.final_logits_bias.copy_(torch.randn(1, V))
    matched = [(theirs.model.shared.weight, mine.vocabulary.embedding.weight)]
    joined: list[tuple[list[Any], Any]] = []
    stacks = [(theirs.model.encoder, mine.encoder), (theirs.model.decoder, mine.decoder)]
    for a, b in [pair for them, us in stacks for pair in zip(them.layers, us, strict=True)]:
        q, k, v = a.self_attn.q_proj, a.self_attn.k_proj, a.self_attn.v_proj
        joined.append(([q, k, v], b.attention.qkv))
        matched += ends(a.self_attn.out_proj, b.attention.out)
        matched += ends(a.fc1, b.mlp.up) + ends(a.fc2, b.mlp.down)
        matched += ends(a.self_attn_layer_norm, b.residual1.norm)
        if hasattr(a, "encoder_attn"):
            joined.append(([a.encoder_attn.k_proj, a.encoder_attn.v_proj], b.cross.kv))
            matched += ends(a.encoder_attn.q_proj, b.cross.q)
            matched += ends(a.encoder_attn.out_proj, b.cross.out)
            matched += ends(a.encoder_attn_layer_norm, b.residual2.norm)
            matched += ends(a.final_layer_norm, b.residual3.norm)
        else:
            matched += ends(a.final_layer_norm, b.residual2.norm)
    copy([*matched, (theirs.final_logits_bias[0], mine.vocabulary.bias)])
    for parts, b in joined:
        weight, bias = (torch.cat([getattr(p, e) for p in parts]) for e in ("weight", "bias"))
        copy([(weight, b.weight), (bias, b.bias)])
    source, length, target = batch(V - 1)  # the last id is padding, and no word
    mask = (torch.arange(source.shape[1]) < length[:, None]).long()
    expected = theirs(
        input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False
    ).logits
    hidden, _ = mine(target, mine.encode(source, length))
    assert_gradients(expected, mine.head(hidden), matched)
