"""Beam search over each encoder-decoder, against trying every sequence there is."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ensue.decoding.search import Beam, beam_search
from ensue.models.seq2seq import Seq2Seq, Seq2SeqConfig
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig
from ensue.models.transformer import Transformer, TransformerConfig

V, STOP, START = 5, 4, 3
LENGTHS = [6, 1, 4]
Texts = list[tuple[int, ...]]


SHAPE: dict[str, Any] = {"vocab_size": V, "d_model": 16, "num_layers": 1, "dropout": 0.0}


def attention(score: str) -> Seq2SeqAttention:
    return Seq2SeqAttention(Seq2SeqAttentionConfig(**SHAPE, score=score))


def transformer() -> Transformer:
    return Transformer(TransformerConfig(**SHAPE, num_heads=2, context_length=12))


MODELS: dict[str, Callable[[], Any]] = {
    "seq2seq": lambda: Seq2Seq(Seq2SeqConfig(**{**SHAPE, "num_layers": 2})),
    "attention-dot": lambda: attention("dot"),
    "attention-additive": lambda: attention("additive"),
    "transformer": transformer,
}
EVERY = pytest.mark.parametrize("name", list(MODELS))


def sure(name: str) -> Any:
    """Make a model that tells words apart: an untrained one is nearly even."""
    torch.manual_seed(2)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    return model


def sources() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(V, (len(LENGTHS), 6), generator=generator), torch.tensor(LENGTHS)


def logprobs(model: Any, row: int, texts: Texts) -> list[float]:
    """Score texts of one source from scratch: read at once, without a state, as in training."""
    source, length = (t[row : row + 1] for t in sources())
    source = source[:, : LENGTHS[row]].expand(len(texts), -1)
    longest = max(map(len, texts))
    padded = torch.tensor([[*text, *[-1] * (longest - len(text))] for text in texts])
    read = torch.cat([torch.full((len(texts), 1), START), padded[:, :-1].clamp(min=0)], dim=1)
    with torch.inference_mode():
        hidden, _ = model(read, model.encode(source, length.expand(len(texts))))
        each = model.head(hidden).log_softmax(dim=-1).gather(2, padded.clamp(min=0)[..., None])
    return each[..., 0].masked_fill(padded < 0, 0.0).sum(dim=1).tolist()


def everything(most: int) -> Texts:
    """All sequences of at most so many tokens that end with the stop id, or are cut there."""
    words = [t for t in range(V) if t != STOP]
    ended = [(*w, STOP) for n in range(most) for w in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=most))


def search(model: Any, most: list[int], **options: Any) -> list[Any]:
    memory, prompts = model.encode(*sources()), torch.full((len(LENGTHS), 1), START)
    return beam_search(model, prompts, memory, Beam(**options), stop_id=STOP, most=most)


@EVERY
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_that_hold_everything_find_the_best(name: str, length_penalty: float) -> None:
    """Each row, of its own source and with its own limit, against all that it could write."""
    model, most = sure(name), [4, 3, 4]
    options = {"num_beams": 4**4, "n_best": 4, "length_penalty": length_penalty}
    for row, best in enumerate(search(model, most, **options)):
        texts = everything(most[row])
        scored = [
            (p / len(text) ** length_penalty, text)
            for p, text in zip(logprobs(model, row, texts), texts, strict=True)
        ]
        expected = sorted(scored, reverse=True)[:4]
        assert [h.tokens for h in best] == [text for _, text in expected]
        assert [h.score for h in best] == pytest.approx([s for s, _ in expected], abs=1e-4)


@EVERY
@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_every_beam_has_the_score_of_its_tokens(name: str, num_beams: int) -> None:
    """Beams share their source and leave at different steps: each must go on with its own."""
    model, written = sure(name), 0
    found = search(model, [9, 2, 6], num_beams=num_beams, n_best=num_beams)
    for row, best in enumerate(found):
        assert [h.score for h in best] == sorted((h.score for h in best), reverse=True)
        texts = [h.tokens for h in best]
        assert len(set(texts)) == len(texts)
        assert [h.logprob for h in best] == pytest.approx(logprobs(model, row, texts), abs=1e-4)
        for h in best:
            assert h.score == pytest.approx(h.logprob / len(h.tokens))
            assert (h.tokens[-1] == STOP) == (h.reason == "stop")
        written = max(written, *map(len, texts))
    assert written > 2  # else nothing went on from a shared source
