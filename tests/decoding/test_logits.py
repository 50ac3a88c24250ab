"""Choosing a token: each rule against a plain reimplementation, and the seed against the batch."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensue.decoding.logits import HEADS, Sampling, _lowest, derive_seed, sample, uniform
from ensue.errors import NonFiniteError, UsageError


def pick(logits, *samplings, step=0, histories=None, banned=None):
    rows = len(samplings)
    histories = histories or [[0]] * rows
    return sample(logits.expand(rows, -1), samplings, histories, [step] * rows, banned)


def plain_nucleus(scores, s):
    """The ids that top-k, top-p and min-p leave, in plain Python."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    order = order[: s.top_k or None]
    weights = [math.exp(scores[i] - scores[order[0]]) for i in order]
    # At 1 nothing is cut, not even a weight that is lost in the sum's last digit.
    limit = s.top_p * sum(weights) if s.top_p < 1 else math.inf
    sofar, kept = 0.0, set()
    for i, weight in zip(order, weights, strict=True):
        if sofar < limit and weight >= s.min_p:
            kept.add(i)
        sofar += weight
    return kept


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 300),
    st.integers(0, 40),
    st.sampled_from([0.05, 0.3, 0.9, 0.999, 1.0]),
    st.sampled_from([0.0, 0.01, 0.5, 1.0]),
    st.sampled_from([0.1, 1.0, 8.0]),
    st.integers(0, 99),
)
@example(30, 0, 1.0, 0.0, 8.0, 0)
def test_what_is_cut_is_what_the_definitions_say(vocab_size, top_k, top_p, min_p, spread, seed):
    """Narrow and flat rows, more and fewer ids than the head that is looked at first."""
    logits = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread
    s = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    scores = logits - logits.amax(dim=-1, keepdim=True)
    kept = set((scores >= _lowest(scores, [s]))[0].nonzero()[:, 0].tolist())
    expected = plain_nucleus(scores[0].double().tolist(), s)
    assert len(kept ^ expected) <= (1 if top_p < 1 else 0)  # rounding at the very edge
    assert int(scores.argmax()) in kept


def test_a_flat_row_is_searched_beyond_the_head():
    """A nucleus wider than the first look must not be cut there."""
    flat = torch.zeros(1, 5 * HEADS[1]) - torch.arange(5 * HEADS[1]) * 1e-6
    kept = flat >= _lowest(flat, [Sampling(top_p=0.9)])
    assert abs(int(kept.sum()) / flat.shape[1] - 0.9) < 0.01


def test_rows_with_different_settings_do_not_mix():
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 3
    samplings = [
        Sampling(temperature=0.0),
        Sampling(seed=3),
        Sampling(seed=3, top_k=2),
        Sampling(seed=3, top_p=0.5),
        Sampling(seed=3, min_p=0.2),
        Sampling(seed=3, temperature=5.0, repetition_penalty=2.0),
    ]
    for step in range(20):
        together = pick(logits, *samplings, step=step)
        alone = [pick(logits, s, step=step) for s in samplings]
        assert together.tokens == [a.tokens[0] for a in alone]
        assert together.logprobs == pytest.approx([a.logprobs[0] for a in alone], abs=1e-5)


def frequencies(p):
    """How often each id is drawn from the distribution p, in 4,000 rows with seeds 0, 1, ..."""
    samplings = [Sampling(temperature=1.0, seed=seed) for seed in range(4000)]
    return (
        torch.bincount(torch.tensor(pick(p.log()[None], *samplings).tokens), minlength=len(p))
        / 4000
    )


def test_frequencies_follow_the_distribution():
    """An inverse CDF that is off by one entry looks random and is wrong."""
    p = torch.tensor([0.5, 0.2, 0.0, 0.2, 0.1])
    counts = frequencies(p)
    assert counts[2] == 0
    assert torch.allclose(counts, p, atol=0.03)


def test_frequencies_follow_the_distribution_across_blocks():
    """The weights are summed by blocks first: none may be missed or counted twice."""
    p = torch.zeros(1000)
    p[[3, 255, 256, 700, 999]] = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    counts = frequencies(p)
    assert torch.allclose(counts, p, atol=0.03)


def test_greedy_takes_the_likeliest():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    picked = pick(logits, Sampling(temperature=0.0))
    assert picked.tokens == [1]
    assert picked.logprobs == pytest.approx([float(logits.log_softmax(-1)[0, 1])])


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e-3])
def test_a_tiny_temperature_is_greedy_and_not_a_division_by_zero(temperature):
    assert pick(torch.tensor([[0.0, 3.0, 1.0]]), Sampling(temperature=temperature)).tokens == [1]


def test_the_logprob_is_the_models_own():
    """Scores of texts must compare across temperatures and penalties."""
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(2))
    s = Sampling(temperature=3.0, top_k=5, repetition_penalty=1.5, seed=9)
    picked = pick(logits, s, histories=[list(range(50))])
    expected = float(logits.log_softmax(-1)[0, picked.tokens[0]])
    assert picked.logprobs[0] == pytest.approx(expected, abs=1e-5)


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = torch.tensor([[2.0, 1.5, -1.0, -1.1]])
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert pick(logits, greedy, histories=[[0]]).tokens == [1]
    assert pick(logits[:, 2:], greedy, histories=[[0]]).tokens == [1]


def test_banned_ids_are_never_chosen():
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    banned = torch.tensor([0])
    assert pick(logits, Sampling(temperature=0.0), banned=banned).tokens == [1]
    drawn = {pick(logits, Sampling(seed=n), banned=banned).tokens[0] for n in range(30)}
    assert drawn == {1, 2}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(bad):
    with pytest.raises(NonFiniteError, match="row 1"):
        sample(torch.tensor([[1.0, 2.0], [1.0, bad]]), [Sampling()] * 2, [[0]] * 2, [0, 0])
    with pytest.raises(NonFiniteError):
        pick(torch.full((1, 3), -math.inf), Sampling(temperature=0.0))


def test_half_precision_logits_work():
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert 0 <= pick(logits, Sampling(top_p=0.9)).tokens[0] < 300


def test_uniform_is_pinned():
    """These numbers are part of what a seed means: changing them changes everybody's texts."""
    assert [round(uniform(0, n), 6) for n in range(3)] == [0.652448, 0.166396, 0.509879]
    numbers = [uniform(seed, step) for seed in range(50) for step in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert 0.48 < sum(numbers) / len(numbers) < 0.52
    assert all(0 <= number < 1 for number in numbers)
    assert 0 <= uniform(-5, 0) < 1


def test_the_first_sample_keeps_the_seed_and_the_others_differ():
    assert derive_seed(7, 0) == 7
    assert len({derive_seed(seed, n) for seed in range(20) for n in range(20)}) == 400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_range(field, value):
    with pytest.raises(UsageError, match=f"{field} is {value}; it must be"):
        Sampling(**{field: value})


def test_no_penalty_applies_to_what_ends_a_text():
    """A prompt begins where another text ended: by a penalty on that id no reply came to an end."""
    logits = torch.tensor([[2.0, 1.5, 0.0]])
    greedy = Sampling(temperature=0.0, repetition_penalty=2.0)
    assert sample(logits, [greedy], [[0]], [1]).tokens == [1]
    assert sample(logits, [greedy], [[0]], [1], ends=frozenset([0])).tokens == [0]


@pytest.mark.parametrize(
    ("written", "width", "taken"),
    [
        ([1, 2, 3, 1, 2], 3, {3}),
        ([1, 2, 3, 1, 2, 4, 1, 2], 3, {3, 4}),
        ([1, 2], 3, set()),
        ([1, 1], 2, {1}),
        ([1, 2, 1], 1, {1, 2}),
        ([1, 2, 3, 1, 2], 0, set()),
    ],
)
def test_no_passage_is_written_twice(written, width, taken):
    """What stands in the prompt may be said once more: a reply may take a word up."""
    s = Sampling(temperature=0.0, no_repeat=width)
    for token in range(5):
        logits = torch.zeros(1, 5)
        logits[0, token] = 9.0
        told = [9, *range(5), *written]
        (picked,) = sample(logits, [s], [told], [len(written)]).tokens
        assert (picked != token) == (token in taken)


def test_rows_with_other_rules_are_left_alone():
    logits = torch.tensor([[9.0, 0.0], [9.0, 0.0]])
    rows = [Sampling(temperature=0.0, no_repeat=1), Sampling(temperature=0.0)]
    assert sample(logits, rows, [[0], [0]], [1, 1]).tokens == [1, 0]
    assert logits.tolist() == [[9.0, 0.0], [9.0, 0.0]]
