"""Beam search against trying every sequence there is, and against scoring from scratch."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small import MODELS

from ensue.decoding.engine import Engine, events
from ensue.decoding.logits import Sampling
from ensue.decoding.search import Beam, beam_search
from ensue.errors import NonFiniteError, UsageError
from ensue.models import step_of
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig
from ensue.models.transformer import Transformer, TransformerConfig

V, STOP, START = 5, 4, 3


def transformer() -> Transformer:
    torch.manual_seed(2)
    config = TransformerConfig(
        vocab_size=V, d_model=16, num_layers=2, num_heads=2, context_length=12, dropout=0.0
    )
    model = Transformer(config).eval()
    with torch.no_grad():  # untrained models are nearly even: nothing would be told apart
        for p in model.parameters():
            p.mul_(3.0)
    return model


def attention() -> Seq2SeqAttention:
    torch.manual_seed(2)
    config = Seq2SeqAttentionConfig(vocab_size=V, d_model=16, num_layers=1, dropout=0.0)
    model = Seq2SeqAttention(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3.0)
    return model


def sources(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(V, (rows, 6), generator=generator), torch.tensor([6, 2, 4, 1, 3][:rows])


def search(model, rows: int = 3, most: int = 5, **options):
    memory = model.encode(*sources(rows))
    prompts = torch.full((rows, 1), START)
    return beam_search(model, prompts, memory, Beam(**options), stop_id=STOP, most=[most] * rows)


def logprob(model, row: int, tokens: tuple[int, ...]) -> float:
    """Score tokens from scratch, in one call without a state."""
    source, length = sources(5)
    memory = model.encode(source[row : row + 1, : length[row]], length[row : row + 1])
    read = torch.tensor([[START, *tokens[:-1]]])
    with torch.inference_mode():
        logits = model.head(model(read, memory)[0])[0].log_softmax(dim=-1)
    return float(logits[torch.arange(len(tokens)), torch.tensor(tokens)].sum())


def everything(most: int) -> list[tuple[int, ...]]:
    """All sequences of at most so many tokens that end with the stop id, or are cut there."""
    words = [t for t in range(V) if t != STOP]
    ended = [(*w, STOP) for n in range(most) for w in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=most))


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_wide_enough_finds_the_best_there_is(length_penalty: float) -> None:
    """Against every sequence of up to four tokens, 340 of them."""
    model, most = transformer(), 4
    found = search(
        model, rows=2, most=most, num_beams=4**4, n_best=3, length_penalty=length_penalty
    )
    for row, best in enumerate(found):
        scored = [(logprob(model, row, t) / len(t) ** length_penalty, t) for t in everything(most)]
        expected = sorted(scored, reverse=True)[:3]
        assert [h.tokens for h in best] == [tokens for _, tokens in expected]
        assert [h.score for h in best] == pytest.approx([s for s, _ in expected], abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_scores_equal_scoring_from_scratch_and_rows_do_not_see_each_other(num_beams: int) -> None:
    model = transformer()
    together = search(model, rows=5, num_beams=num_beams, n_best=num_beams)
    for row, best in enumerate(together):
        assert best == sorted(best, key=lambda h: -h.score)
        for h in best:
            assert h.logprob == pytest.approx(logprob(model, row, h.tokens), abs=1e-4)
            assert h.score == pytest.approx(h.logprob / len(h.tokens))
            assert (h.tokens[-1] == STOP) == (h.reason == "stop")
    source, length = sources(5)
    for row in range(5):
        memory = model.encode(source[row : row + 1, : length[row]], length[row : row + 1])
        beam = Beam(num_beams=num_beams, n_best=num_beams)
        (alone,) = beam_search(model, torch.tensor([[START]]), memory, beam, stop_id=STOP, most=[5])
        assert [h.tokens for h in alone] == [h.tokens for h in together[row]]


def test_one_beam_is_greedy() -> None:
    model = transformer()
    for row, (one,) in enumerate(search(model, rows=5, num_beams=1)):
        source, length = sources(5)
        memory = model.encode(source[row : row + 1, : length[row]], length[row : row + 1])
        tokens = [START]
        while len(tokens) <= 5 and tokens[-1] != STOP:
            with torch.inference_mode():
                tokens.append(
                    int(model.head(model(torch.tensor([tokens]), memory)[0][0, -1]).argmax())
                )
        assert one.tokens == tuple(tokens[1:])


@dataclass(frozen=True)
class Steps:
    done: torch.Tensor


class Tempting:
    """Half of it ends at once; what it would write else is so sure that its mean is better."""

    max_length: int | None = None
    vocab_size = V

    def init_state(self, rows: int, memory: Any = None) -> Steps:
        return Steps(torch.zeros(rows, 1))

    def __call__(self, tokens: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        done = state.done + 1
        return done[:, None], Steps(done)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        odds = torch.full((*hidden.shape[:-1], V), 0.01)
        first, last = hidden[..., 0] == 1, hidden[..., 0] == 4
        odds[..., STOP] = torch.where(first, 0.5, torch.where(last, 0.97, 0.01))
        odds[..., 1] = torch.where(first, 0.4, torch.where(last, 0.01, 0.97))
        return odds.log()


@pytest.mark.parametrize(("num_beams", "tokens"), [(1, (STOP,)), (2, (1, 1, 1, STOP))])
def test_greedy_ends_at_the_first_end(num_beams: int, tokens: tuple[int, ...]) -> None:
    """It went on with the second likeliest, since that could become better, and is no beam."""
    beam = Beam(num_beams=num_beams)
    (best,) = beam_search(Tempting(), torch.tensor([[START]]), None, beam, stop_id=STOP, most=[9])
    assert best[0].tokens == tokens


def test_each_row_has_its_own_limit_and_the_decoder_has_one_too() -> None:
    model = transformer()
    with torch.no_grad():
        model.vocabulary.bias[STOP] = -50.0  # never of its own accord
    memory = model.encode(*sources(3))
    found = beam_search(
        model, torch.full((3, 1), START), memory, Beam(), stop_id=STOP, most=[2, 5, 99]
    )
    assert [len(best[0].tokens) for best in found] == [2, 5, 12]
    assert {best[0].reason for best in found} == {"length"}


def test_banned_ids_are_never_chosen() -> None:
    model = transformer()
    memory = model.encode(*sources(3))
    found = beam_search(
        model,
        torch.full((3, 1), START),
        memory,
        Beam(n_best=5),
        stop_id=STOP,
        most=[5] * 3,
        banned_ids=[0, START],
    )
    assert not {0, START} & {t for best in found for h in best for t in h.tokens}


def test_a_longer_beam_penalty_prefers_longer_texts() -> None:
    model = transformer()
    lengths = [
        sum(len(best[0].tokens) for best in search(model, rows=5, length_penalty=a, most=9))
        for a in (0.0, 1.0, 3.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_a_decoder_without_a_source_can_be_searched_too() -> None:
    torch.manual_seed(0)
    for config in MODELS.values():
        model = step_of(config).model(replace(config, vocab_size=V, dropout=0.0)).eval()
        (best,) = beam_search(
            model, torch.tensor([[START, 1]]), None, Beam(), stop_id=STOP, most=[6]
        )
        read = torch.tensor([[START, 1, *best[0].tokens[:-1]]])
        with torch.inference_mode():
            logits = model.head(model(read)[0])[0, 1:].log_softmax(dim=-1)
        chosen = logits[torch.arange(len(best[0].tokens)), torch.tensor(best[0].tokens)]
        assert best[0].logprob == pytest.approx(float(chosen.sum()), abs=1e-4)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_no_group_of_tokens_is_written_twice(width: int, num_beams: int) -> None:
    """Scores stay those of the model itself; where all would repeat, what there is is given."""
    model = transformer()
    with torch.no_grad():
        model.vocabulary.bias[STOP] = -9.0
        model.vocabulary.bias[1] = 9.0  # it would write this for ever
    memory = model.encode(*sources(5))
    found = beam_search(
        model,
        torch.full((5, 1), START),
        memory,
        Beam(num_beams=num_beams),
        stop_id=STOP,
        most=[11] * 5,
        no_repeat=width,
    )
    for row, (best,) in enumerate(found):
        groups = [best.tokens[i : i + width] for i in range(len(best.tokens) - width + 1)]
        assert len(set(groups)) == len(groups)
        assert best.logprob == pytest.approx(logprob(model, row, best.tokens), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 3, "n_best": 4}, "num_beams, 3"),
        ({"n_best": 0}, "n_best is 0"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
    ],
)
def test_a_beam_that_cannot_be_is_refused(options, words) -> None:
    with pytest.raises(UsageError, match=words):
        Beam(**options)


def test_a_model_that_gives_nan_is_named() -> None:
    config = Seq2SeqAttentionConfig(vocab_size=V, d_model=8, num_layers=1, dropout=0.0)
    model = Seq2SeqAttention(config).eval()
    with torch.no_grad():
        model.combine.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError):
        search(model)


@pytest.mark.parametrize("rows", [1, 5])
def test_the_engine_keeps_each_rows_own_source(rows: int) -> None:
    """A beam of one is greedy: rows told sources of uneven length must write the same, together."""
    for model in (transformer(), attention()):
        source, length = sources(rows)
        expected = search(model, rows, most=8, num_beams=1)
        engine = Engine(model, stop_ids=frozenset([STOP]), max_rows=3)
        written: dict[int, list[int]] = {}
        for row in range(rows):
            memory = model.encode(source[row : row + 1, : length[row]], length[row : row + 1])
            engine.add([START], Sampling(temperature=0.0, max_new_tokens=8), memory)
        for event in events(engine):
            written.setdefault(event.row, []).append(event.token)
        assert written == {row: list(best.tokens) for row, (best,) in enumerate(expected)}


def test_rows_with_and_without_a_source_are_no_company() -> None:
    """A row without one was told its neighbour's."""
    model = transformer()
    source, length = sources(1)
    told = model.encode(source, length)
    alone = {}
    for order in ([told], [None], [told, None], [None, told]):
        engine = Engine(model)
        for memory in order:
            engine.add([START], Sampling(temperature=0.0, max_new_tokens=6), memory)
        written: dict[int, list[int]] = {}
        for event in events(engine):
            written.setdefault(event.row, []).append(event.token)
        for row, memory in enumerate(order):
            assert alone.setdefault(memory is None, written[row]) == written[row]
    assert alone[True] != alone[False]
