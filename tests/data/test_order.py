"""The order is a pure function of the index; every window of an epoch comes once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data import WindowOrder, max_window
from ensue.data.order import BucketOrder
from ensue.errors import DataError


@given(st.integers(2, 3000), st.integers(1, 100), st.integers(-(2**63), 2**63), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_each_epoch_visits_disjoint_windows_once(
    num_tokens: int, length: int, seed: int, epoch: int
) -> None:
    length = min(length, max_window(num_tokens))
    order = WindowOrder(num_tokens, length, seed)
    n = order.windows_per_epoch
    starts = np.sort(order.starts(epoch * n, n))
    assert (np.diff(starts) == length).all()
    assert starts[0] >= 0
    assert starts[-1] + length + 1 <= num_tokens
    assert n * length > num_tokens - 1 - 2 * length  # at most two windows' worth is left out


def test_a_sample_does_not_depend_on_how_it_is_asked_for() -> None:
    order = WindowOrder(10_000, 64, 7)
    together = order.starts(0, 1000)
    assert [order.start(i) for i in range(1000)] == together.tolist()
    assert np.array_equal(order.starts(300, 77), together[300:377])
    assert np.array_equal(WindowOrder(10_000, 64, 7).starts(0, 1000), together)


def test_epochs_and_seeds_differ() -> None:
    order = WindowOrder(100_000, 64, 1)
    n = order.windows_per_epoch
    first, second = order.starts(0, n), order.starts(n, n)
    assert not np.array_equal(first, second)
    assert {int(s) % 64 for s in first} != {int(s) % 64 for s in second}
    assert not np.array_equal(first, WindowOrder(100_000, 64, 2).starts(0, n))
    # Neighbours in order are not neighbours in the text.
    assert (np.abs(np.diff(first)) > 64).mean() > 0.99


def test_order_is_even() -> None:
    """A poor permutation would favour some part of the text early in an epoch."""
    order = WindowOrder(1_000_001, 10, 3)
    early = order.starts(0, 10_000)
    counts = np.histogram(early, bins=10, range=(0, 1_000_000))[0]
    assert counts.min() > 850
    assert counts.max() < 1150


def test_frozen_values() -> None:
    """A change here would make every saved run resume on other data."""
    assert WindowOrder(1000, 16, 42).starts(0, 5).tolist() == FROZEN


FROZEN = [508, 524, 796, 28, 700]


def test_text_shorter_than_a_window_says_the_longest() -> None:
    with pytest.raises(DataError, match=r"context of at most 9"):
        WindowOrder(10, 10, 0)
    assert WindowOrder(10, max_window(10), 0).starts(0, 3).tolist() == [0, 0, 0]
    assert max_window(0) == 0


def test_a_billion_tokens_cost_nothing() -> None:
    order = WindowOrder(10**12, 1024, 0)
    starts = order.starts(10**9, 100)
    assert len(set(starts.tolist())) == 100


LENGTHS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=120)


def bucketed(lengths: list[tuple[int, int]], tokens: int, seed: int) -> BucketOrder:
    return BucketOrder([np.array(side) for side in zip(*lengths, strict=True)], tokens, seed)


@given(LENGTHS, st.integers(1, 300), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_each_row_is_seen_once_an_epoch_and_batches_fit(
    lengths: list[tuple[int, int]], tokens: int, seed: int
) -> None:
    order = bucketed(lengths, tokens, seed)
    update = 0
    for _ in range(3):
        seen: list[int] = []
        while len(seen) < len(lengths):
            rows = order.rows(update).tolist()
            assert len(rows) == 1 or len(rows) * max(max(lengths[r]) for r in rows) <= tokens
            seen += rows
            update += 1
        assert sorted(seen) == list(range(len(lengths)))


def test_an_update_does_not_depend_on_what_was_asked_before() -> None:
    """A resume asks for update 61 first; whoever is not stopped has asked for all before."""
    lengths = [(i % 40 + 1, i % 33 + 1) for i in range(500)]
    order = bucketed(lengths, 200, 7)
    together = [order.rows(u).tolist() for u in range(200)]
    assert 200 > 2 * order.updates_per_epoch
    for update in (61, 199, 0, 150):
        assert bucketed(lengths, 200, 7).rows(update).tolist() == together[update]
        assert order.rows(update).tolist() == together[update]
    first = [set(rows) for rows in together[: order.updates_per_epoch]]
    assert first != [set(bucketed(lengths, 200, 8).rows(u).tolist()) for u in range(len(first))]
    second = [set(rows) for rows in together[len(first) : 2 * len(first)]]
    assert sum(rows in first for rows in second) < len(first) / 10  # other company, each epoch


def test_batches_are_nearly_full_and_lengths_are_mixed_over_an_epoch() -> None:
    """Half-empty batches waste time; sorted ones teach short sentences first."""
    chosen = np.random.default_rng(0)
    lengths = [(int(n), int(n)) for n in chosen.integers(3, 60, size=4000)]
    order = bucketed(lengths, 1000, 0)
    batches = [order.rows(u) for u in range(order.updates_per_epoch)]
    longest = np.array([max(lengths[r][0] for r in rows) for rows in batches])
    sizes = np.array([sum(lengths[r][0] for r in rows) for rows in batches])
    assert np.median(sizes) > 900  # of 1,000: hardly any padding
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2


def test_frozen_batches() -> None:
    """A change here would make every saved run of pairs resume on other data."""
    order = bucketed([(i % 7 + 2, i % 5 + 1) for i in range(12)], 20, 42)
    assert [order.rows(u).tolist() for u in range(3)] == FROZEN_BATCHES


FROZEN_BATCHES = [[0, 7], [2, 9], [6]]
