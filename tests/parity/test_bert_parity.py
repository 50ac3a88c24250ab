"""BERT equals the public implementation, holds its weights whole, and leaves padding out."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig as TheirConfig
from transformers import BertForPreTraining, BertForSequenceClassification

from ensue.models import bert
from ensue.models.bert import (
    PUBLISHED,
    Bert,
    BertConfig,
    MaskedLM,
    MaskedLMConfig,
    TextBert,
    TextBertConfig,
    end_to_end,
)
from ensue.nn.capture import capture
from ensue.nn.precision import precision
from ensue.planning import build_empty, count_parameters

V, CLASSES = 61, 5
SHAPES = [  # layers, width, heads, between, segments
    (2, 48, 4, 192, 2),
    (1, 32, 1, 50, 3),
]
Shape = tuple[int, int, int, int, int]

RULES = [
    (r"bert\.embeddings\.word_embeddings", "bert.token_embedding"),
    (r"bert\.embeddings\.position_embeddings", "bert.position_embedding"),
    (r"bert\.embeddings\.token_type_embeddings", "bert.segment_embedding"),
    (r"bert\.embeddings\.LayerNorm", "bert.norm"),
    (r"bert\.encoder\.layer\.", "bert.layers."),
    (r"attention\.output\.dense", "attention.out"),
    (r"attention\.output\.LayerNorm", "norm1"),
    (r"intermediate\.dense", "mlp.up"),
    (r"(\d+)\.output\.dense", r"\1.mlp.down"),
    (r"(\d+)\.output\.LayerNorm", r"\1.norm2"),
    (r"bert\.pooler\.dense", "bert.pooler"),
    (r"cls\.predictions\.transform\.dense", "dense"),
    (r"cls\.predictions\.transform\.LayerNorm", "norm"),
    (r"cls\.predictions\.decoder\.weight", "bert.token_embedding.weight"),  # tied
    (r"cls\.predictions\.(decoder\.)?bias", "bias"),
    (r"cls\.seq_relationship", "next_sentence"),
    (r"classifier", "head"),
]


def sizes(shape: Shape) -> dict[str, Any]:
    layers, width, heads, between, segments = shape
    return {
        "vocab_size": V,
        "context_length": 24,
        "d_model": width,
        "num_layers": layers,
        "num_heads": heads,
        "d_ff": between,
        "type_vocab_size": segments,
        "dropout": 0.0,
    }


def theirs(shape: Shape, model_class: Any) -> Any:
    """Make their model; biases and gains at their initial 0 and 1 would hide mistakes."""
    layers, width, heads, between, segments = shape
    config = TheirConfig(
        vocab_size=V,
        max_position_embeddings=24,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=between,
        type_vocab_size=segments,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )
    model = model_class(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight += 1.0
    return model


def ours_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename their weights as ours; queries, keys and values become one matrix."""
    found: dict[str, Tensor] = {}
    apart: dict[str, list[Tensor]] = {}
    for name, value in state.items():
        for pattern, ours in RULES:
            name = re.sub(pattern, ours, name)
        if match := re.match(r"(.*attention\.)self\.(?:query|key|value)(\..*)", name):
            apart.setdefault(f"{match[1]}qkv{match[2]}", []).append(value)
        else:
            assert name not in found or torch.equal(found[name], value)
            found[name] = value
    return found | {name: torch.cat(values) for name, values in apart.items()}


def their_part(name: str, given: dict[str, Tensor]) -> Tensor:
    """Find the weights of ours that stand under one of their names."""
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    for i, part in enumerate(("query", "key", "value")):
        if f"self.{part}" in name:
            return given[name.replace(f"self.{part}", "qkv")].chunk(3)[i]
    return given[name]


def batch(segments: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts of different lengths: ids, lengths, segments, and their mask."""
    length = torch.tensor([17, 4, 1, 24, 9, 3])
    ids = torch.randint(1, V, (6, 24))  # 0 is their padding: its vector has no gradient there
    places = torch.arange(24)
    which = torch.randint(segments, (6, 24)).sort(dim=1).values
    return ids, length, which, places < length[:, None]


def assert_near(given: Tensor, expected: Tensor) -> None:
    largest = float(expected.detach().abs().max())
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5 * largest)


def assert_gradients(a: nn.Module, b: nn.Module, loss_a: Tensor, loss_b: Tensor) -> None:
    """Compare them by our names: of a key's bias alone the gradient is 0, and noise."""
    loss_a.backward()
    loss_b.backward()
    expected = ours_of({n: p.grad for n, p in a.named_parameters() if p.grad is not None})
    given = {n: p.grad for n, p in b.named_parameters() if p.grad is not None}
    assert given.keys() == expected.keys()
    for name, grad in expected.items():
        error = float((given[name] - grad).abs().max())
        assert error <= 1e-5 * float(grad.abs().max()), name


@pytest.mark.parametrize("train", [False, True], ids=["fused", "explicit"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_pre_trained_equals_the_public_implementation(shape: Shape, train: bool) -> None:
    """A tanh GELU, an epsilon of 1e-5 or a pre-norm change these numbers by far more than 1e-5."""
    a = theirs(shape, BertForPreTraining)
    b = MaskedLM(MaskedLMConfig(next_sentence=True, **sizes(shape))).train(train)
    b.load_state_dict(ours_of(a.state_dict()))
    ids, length, segments, mask = batch(shape[-1])
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": segments}
    expected = a.bert(**inputs)
    with torch.no_grad():  # words end to end, unless in training
        assert_near(b(ids, length, segments)[mask], expected.last_hidden_state[mask])
    hidden = b(ids, length, segments)
    assert_near(hidden[mask], expected.last_hidden_state[mask])
    assert_near(b.bert.pooled(hidden), expected.pooler_output)
    expected = a(**inputs)
    logits, follows = b.head(hidden), b.follows(hidden)
    assert_near(logits[mask], expected.prediction_logits[mask])
    assert_near(follows, expected.seq_relationship_logits)
    assert_near(b.head(hidden[mask]), logits[mask])
    weights, more = torch.randn_like(logits[mask]), torch.randn_like(follows)
    loss_a = (expected.prediction_logits[mask] * weights).sum()
    loss_a = loss_a + (expected.seq_relationship_logits * more).sum()
    loss_b = (b.head(hidden[mask]) * weights).sum() + (follows * more).sum()
    assert_gradients(a, b, loss_a, loss_b)


def test_a_classifier_equals_the_public_implementation() -> None:
    a = theirs(SHAPES[0], BertForSequenceClassification)
    b = TextBert(TextBertConfig(classes=CLASSES, **sizes(SHAPES[0])))
    b.load_state_dict(ours_of(a.state_dict()))
    ids, length, segments, mask = batch(2)
    expected = a(input_ids=ids, attention_mask=mask.long(), token_type_ids=segments).logits
    given = b(ids, length, segments=segments)
    assert_near(given, expected)
    weights = torch.randn_like(expected)
    assert_gradients(a, b, (expected * weights).sum(), (given * weights).sum())
    plain = a(input_ids=ids, attention_mask=mask.long()).logits
    assert_near(b(ids, length), plain)


def test_weights_go_there_and_back_and_nothing_is_left_over() -> None:
    """A tied or fused weight that is mapped one way only is lost at the first export."""
    a = theirs(SHAPES[0], BertForPreTraining)
    b = MaskedLM(MaskedLMConfig(next_sentence=True, **sizes(SHAPES[0])))
    b.load_state_dict(ours_of(a.state_dict()))  # strict: all of ours are given, and no others
    given = b.state_dict()
    again = {name: their_part(name, given) for name in a.state_dict()}
    for name, value in a.state_dict().items():
        assert torch.equal(again[name], value), name
    assert ours_of(again).keys() == given.keys()


def test_a_classifier_starts_with_what_was_pre_trained() -> None:
    """The encoder must have one name in both, for its weights to be loaded."""
    first = MaskedLM(MaskedLMConfig(next_sentence=True, **sizes(SHAPES[0])))
    model = TextBert(TextBertConfig(classes=CLASSES, **sizes(SHAPES[0])))
    kept = {n: p for n, p in first.state_dict().items() if n.startswith("bert.")}
    left = model.load_state_dict(kept, strict=False)
    assert not left.unexpected_keys
    assert left.missing_keys == ["head.weight", "head.bias"]


@pytest.mark.parametrize("grad", [False, True])
def test_padding_changes_nothing_before_it(grad: bool) -> None:
    """Neither how much of it there is nor which ids stand in it, in any batch."""
    model = Bert(BertConfig(**sizes(SHAPES[0])))
    ids, length, segments, mask = batch(2)
    with torch.set_grad_enabled(grad):
        hidden = model(ids, length, segments)
        other = torch.where(mask, ids, (ids + 1) % V)
        torch.testing.assert_close(model(other, length, segments)[mask], hidden[mask])
        for row, n in enumerate(length.tolist()):
            alone = model(ids[row : row + 1, :n], None, segments[row : row + 1, :n])
            torch.testing.assert_close(hidden[row, :n], alone[0], rtol=1e-5, atol=1e-5)


def test_words_stand_end_to_end_in_groups_of_one_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one length attend together; so many rows as have the words that fill the cache."""
    length = torch.tensor([2, 3, 2, 1, 2])
    ((places, groups),) = end_to_end(length, 4)
    assert places.tolist() == [12, 0, 1, 8, 9, 16, 17, 4, 5, 6]
    assert groups == [(1, 1), (3, 2), (1, 3)]
    monkeypatch.setattr(bert, "WORDS", 4)
    assert [groups for _, groups in end_to_end(length, 4)] == [[(1, 1), (1, 2)], [(2, 2)], [(1, 3)]]


def test_bf16_without_padding_is_near_to_the_plain_way() -> None:
    """Both round; where they did not compute the same, they would differ by far more."""
    model = Bert(BertConfig(**sizes((2, 64, 4, 256, 2)))).eval()
    ids, length, segments, mask = batch(2)
    with torch.no_grad():
        exact = model(ids, length, segments)[mask]
        with precision("bf16"):
            packed = model(ids, length, segments)[mask]
            with capture(model):
                plain = model(ids, length, segments)[mask]
    assert float((packed - exact).abs().max()) < 0.05
    assert float((packed - exact).abs().mean()) < 1.2 * float((plain - exact).abs().mean())


def test_attention_is_seen_on_words_alone() -> None:
    model = TextBert(TextBertConfig(classes=CLASSES, **sizes(SHAPES[0]))).eval()
    ids, length, _, mask = batch(2)
    with torch.no_grad(), capture(model) as maps:
        seen = model(ids, length)
    torch.testing.assert_close(seen, model(ids, length))
    for layer in range(2):
        (weights,) = maps[f"bert.layers.{layer}.attention/weights"]
        assert weights.shape == (6, 4, 24, 24)
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(6, 4, 24))
        assert not weights.masked_select(~mask[:, None, None]).any()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bert-base", 109_482_240), ("bert-large", 335_141_888), ("bert-tiny", 4_385_920)],
)
def test_the_published_sizes_have_the_published_counts(name: str, parameters: int) -> None:
    assert count_parameters(build_empty(Bert, PUBLISHED[name])) == parameters


@pytest.mark.parametrize("make", [MaskedLM, TextBert])
def test_first_weights_are_those_of_the_paper(make: Callable[[Any], Any]) -> None:
    """Cut at two deviations: 0.88 of 0.02 is what is left of the deviation."""
    config: Any = MaskedLMConfig if make is MaskedLM else TextBertConfig
    more = {} if make is MaskedLM else {"classes": CLASSES}
    model = make(config(**sizes((2, 128, 4, 512, 2)), **more))
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert float(p.detach().abs().max()) <= 0.04, name
        else:
            assert bool((p == ("norm" in name and name.endswith("weight"))).all()), name
    spread = float(model.bert.layers[0].mlp.up.weight.detach().std())
    assert spread == pytest.approx(0.0176, rel=0.02)
