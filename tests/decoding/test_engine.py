"""The loop: who runs, what is read, why a row ends, and what happens at the edge of the context."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue.decoding.engine import Engine, evaluating, events, generate
from ensue.decoding.logits import Sampling
from ensue.errors import DataError, NonFiniteError, UsageError
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.models.lstm import LSTM, LSTMConfig

V = 20


@dataclass(frozen=True)
class Read:
    count: Tensor


class Counter:
    """Says "one more than the newest token"; refuses to hold more than it can; notes its calls."""

    vocab_size = V

    def __init__(self, max_length: int | None = None) -> None:
        self.max_length = max_length
        self.calls: list[tuple[int, int]] = []

    def init_state(self, rows: int, memory: Any = None) -> Read:
        return Read(torch.zeros(rows, dtype=torch.int64))

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        self.calls.append(tuple(tokens.shape))
        count = state.count + tokens.shape[1]
        assert self.max_length is None or int(count.max()) <= self.max_length, "it overflows"
        return tokens[..., None].float(), Read(count)

    def head(self, hidden: Tensor) -> Tensor:
        self.heads = hidden.shape
        return 30.0 * F.one_hot((hidden[..., 0].long() + 1) % V, V).float()


def greedy(n: int) -> Sampling:
    return Sampling(temperature=0.0, max_new_tokens=n)


def run(engine: Engine) -> dict[int, list]:
    given: dict[int, list] = {}
    for event in events(engine):
        given.setdefault(event.row, []).append(event)
    return given


def tokens(given: dict[int, list]) -> dict[int, list[int]]:
    return {row: [event.token for event in ones] for row, ones in given.items()}


def test_rows_of_any_length_run_together_and_end_each_for_its_own_reason():
    engine = Engine(Counter(max_length=8), stop_ids=frozenset([13]))
    for prompt, n in (([1], 3), ([9, 10], 9), ([0, 1, 2, 3, 4, 5], 9)):
        engine.add(prompt, greedy(n))
    given = run(engine)
    assert tokens(given) == {0: [2, 3, 4], 1: [11, 12, 13], 2: [6, 7, 8]}
    assert [given[i][-1].reason for i in range(3)] == ["length", "stop", "context_full"]
    assert all(e.reason == "" for ones in given.values() for e in ones[:-1])
    assert all(e.logprob == pytest.approx(0, abs=1e-6) for ones in given.values() for e in ones)
    assert engine.live == 0


def test_a_full_context_gives_its_last_token():
    """A prompt that fills the context exactly is no error: there is one token to be said."""
    given = run_one(Counter(max_length=4), [1, 2, 3, 4], greedy(9))
    assert [(e.token, e.reason) for e in given] == [(5, "context_full")]


def run_one(decoder, prompt, sampling, **options):
    return list(generate(decoder, [prompt], [sampling], **options))


def test_stop_comes_before_length_and_length_before_context_full():
    """The reason that a person can act on."""
    full = Counter(max_length=4)
    assert run_one(full, [1, 2, 3], greedy(2))[-1].reason == "length"
    assert run_one(full, [1, 2, 3], greedy(2), stop_ids=frozenset([5]))[-1].reason == "stop"


def test_a_row_may_join_while_others_run_and_leave_by_drop():
    engine = Engine(Counter())
    first = engine.add([1], greedy(5))
    assert [e.token for e in engine.step()] == [2]
    second = engine.add([10, 11], greedy(5))
    assert {e.row: e.token for e in engine.step()} == {first: 3, second: 12}
    third = engine.add([15], greedy(5))
    engine.drop(first)
    engine.drop(first)  # twice is once
    assert engine.live == 2
    assert {e.row: e.token for e in engine.step()} == {second: 13, third: 16}
    engine.drop(second)
    engine.drop(third)
    assert engine.live == 0
    assert engine.step() == []
    assert engine._state is None  # no memory is held while there is nothing to do


def test_a_row_dropped_before_its_turn_never_runs():
    decoder = Counter()
    engine = Engine(decoder)
    engine.drop(engine.add([1], greedy(5)))
    assert engine.step() == []
    assert decoder.calls == []


def test_rows_beyond_max_rows_wait_their_turn():
    engine = Engine(Counter(), max_rows=2)
    for start in (1, 5, 9):
        engine.add([start], greedy(2))
    assert [sorted(e.row for e in engine.step()) for _ in range(4)] == [[0, 1], [0, 1], [2], [2]]


def test_prompts_of_equal_length_are_read_together_in_chunks_and_the_head_sees_one_position():
    """Logits of a long prompt would fill the memory, and nobody reads them."""
    decoder = Counter()
    engine = Engine(decoder, prefill_chunk=4)
    engine.add([1] * 10, greedy(1))
    engine.add([2] * 10, greedy(1))
    engine.step()
    assert decoder.calls == [(2, 4), (2, 4), (2, 2)]
    assert decoder.heads == (2, 1)


def test_a_finished_row_is_not_read_again():
    decoder = Counter()
    run_one(decoder, [1, 2], greedy(3))
    assert decoder.calls == [(1, 2), (1, 1), (1, 1)]


def test_a_prompt_beyond_the_context_is_refused_with_both_lengths_and_a_way_out():
    with pytest.raises(DataError, match="5 tokens; the model's context holds 4") as caught:
        generate(Counter(max_length=4), [[1, 2, 3, 4, 5]], [greedy(1)])
    assert "slide" in caught.value.hint


def test_a_prompt_beyond_the_context_may_slide_and_says_so():
    decoder = Counter(max_length=4)
    given = run_one(decoder, [1, 2, 3, 4, 5], greedy(2), past_context="slide")
    assert [e.token for e in given] == [6, 7]
    assert "goes on from the last 2" in given[0].notice
    assert given[1].notice == ""
    assert decoder.calls[0] == (1, 2)


def test_sliding_recomputes_the_last_half_window_and_says_so_once():
    decoder = Counter(max_length=6)
    given = run_one(decoder, [1, 2, 3, 4], greedy(12), past_context="slide")
    assert [e.token for e in given] == list(range(5, 17))
    assert [e.reason for e in given] == [""] * 11 + ["length"]
    assert decoder.calls == [(1, 4), (1, 1), (1, 1)] + [(1, 3), (1, 1), (1, 1), (1, 1)] * 2 + [
        (1, 3)
    ]
    assert [bool(e.notice) for e in given].count(True) == 1


def test_a_context_of_one_token_can_slide():
    given = run_one(Counter(max_length=1), [1], greedy(4), past_context="slide")
    assert [e.token for e in given] == [2, 3, 4, 5]


def small(name: str) -> Any:
    if name == "lstm":
        return LSTM(
            LSTMConfig(vocab_size=V, context_length=8, d_model=8, num_layers=1, dropout=0.0)
        )
    shape = {"context_length": 12, "d_model": 8, "num_layers": 2, "num_heads": 2, "dropout": 0.5}
    return GPT2(GPT2Config(vocab_size=V, **shape))


@pytest.mark.parametrize("name", ["lstm", "gpt2"])
@pytest.mark.parametrize("past_context", ["stop", "slide"])
@pytest.mark.parametrize("max_rows", [2, 64])
def test_a_row_gets_the_same_in_any_company(name, past_context, max_rows):
    """Uneven prompts, uneven settings, rows that wait, slide, end early: no row may notice."""
    model = small(name)
    settings = [
        Sampling(temperature=0.0, max_new_tokens=20),
        Sampling(seed=1, max_new_tokens=7, top_k=5),
        Sampling(seed=2, max_new_tokens=20, top_p=0.8),
        Sampling(seed=3, max_new_tokens=3, temperature=2.0),
        Sampling(seed=4, max_new_tokens=20, repetition_penalty=1.5),
    ]
    prompts = [[1], [2, 3, 4], [5] * 12, [7, 8, 9], [3, 1]]
    options = {"past_context": past_context, "stop_ids": frozenset([0])}
    engine = Engine(model, max_rows=max_rows, **options)
    for prompt, sampling in zip(prompts, settings, strict=True):
        engine.add(prompt, sampling)
    together = run(engine)
    for i, (prompt, sampling) in enumerate(zip(prompts, settings, strict=True)):
        alone = run_one(model, prompt, sampling, **options)
        assert [e.token for e in together[i]] == [e.token for e in alone]
        assert [e.reason for e in together[i]] == [e.reason for e in alone]


@torch.no_grad()
def test_generation_with_state_equals_recomputing_the_prefix():
    model = small("gpt2").eval()
    given = run_one(model, [1, 2], greedy(9))
    text = [1, 2]
    for event in given:
        logits = model.head(model(torch.tensor([text]))[0])[0, -1]
        top = logits.topk(2).values
        assert event.token == int(logits.argmax()) or float(top[0] - top[1]) < 1e-4
        expected = float(logits.log_softmax(-1)[event.token])
        assert event.logprob == pytest.approx(expected, abs=1e-4)
        text.append(event.token)


def test_dropout_is_off_and_the_mode_comes_back():
    """Samples drawn in the middle of training must not switch its dropout off."""
    model = small("gpt2").train()
    model.blocks[0].eval()
    a, b = (run_one(model, [1], greedy(8)) for _ in range(2))
    assert a == b
    assert model.training
    assert not model.blocks[0].training
    assert model.blocks[1].training


def test_the_mode_comes_back_after_an_error():
    model = small("gpt2").train()

    def fail():
        with evaluating(model):
            raise RuntimeError(f"training: {model.training}")

    with pytest.raises(RuntimeError, match="training: False"):
        fail()
    assert model.training


def test_events_carry_no_gradients():
    model = small("lstm")
    run_one(model, [1], greedy(2))
    assert all(weight.grad is None for weight in model.parameters())
    loss = model.head(model(torch.tensor([[1, 2]]))[0]).sum()
    loss.backward()  # nothing that the engine did stands in the way of training on


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no tokens"), ([1, V], f"token 1 of the prompt is {V}"), ([-1], "is -1")],
)
def test_a_prompt_that_no_model_can_read_is_refused_on_the_host(prompt, message):
    """An index outside the embedding is a crash on a GPU, long after its cause."""
    with pytest.raises(DataError, match=message):
        Engine(Counter()).add(prompt, greedy(1))


@pytest.mark.parametrize(
    "options",
    [
        {"stop_ids": frozenset([V])},
        {"banned_ids": frozenset([-1])},
        {"banned_ids": frozenset(range(V))},
        {"max_rows": 0},
        {"prefill_chunk": 0},
    ],
)
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(UsageError):
        Engine(Counter(), **options)


def test_as_many_settings_as_prompts():
    with pytest.raises(ValueError, match="zip"):
        generate(Counter(), [[1], [2]], [greedy(1)])


def test_broken_weights_end_with_the_error_that_says_so():
    model = small("lstm")
    with torch.no_grad():
        model.vocabulary.embedding.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteError):
        run_one(model, [1], greedy(1))


def test_banned_ids_are_not_chosen():
    """Counting would say 5; it is forbidden."""
    given = run_one(Counter(), [4], greedy(3), banned_ids=frozenset([5]))
    assert 5 not in [e.token for e in given]
