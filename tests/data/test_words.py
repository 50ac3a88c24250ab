"""Words and their n-grams: what is hashed, what a batch holds, what a bag weighs."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.data.order import LengthOrder
from ensue.data.words import (
    Grams,
    GramTable,
    WordRows,
    bag_batch,
    document_frequency,
    read_words,
    spread_bag,
    word_batch,
    words_of,
)

GRAMS = Grams(3, 5, 1000)


def rows_of(*texts: str, most: int = 100) -> tuple[WordRows, GramTable]:
    rows = read_words(texts, most)
    return rows, GramTable(rows.vocabulary, GRAMS)


def test_words_digits_and_signs_stand_apart() -> None:
    text = "Don't pay $1.50, für 東京 a_b"
    words = ["Don't", "pay", "$", "1", ".", "5", "0", ",", "für", "東", "京", "a", "_", "b"]
    assert words_of(text) == words
    assert words_of(text, most=2) == words[:2]
    assert words_of(" \n\t") == []


@given(st.text(max_size=60))
def test_whatever_is_no_space_is_read(text: str) -> None:
    assert "".join(words_of(text)) == re.sub(r"\s", "", text)


def test_a_slip_of_the_pen_shares_most_n_grams() -> None:
    known, slip, other = (set(GRAMS.of(w)[2:]) for w in ("transfer", "tramsfer", "balance"))
    assert len(known & slip) > 0.3 * len(known)
    assert len(known & other) < 0.1 * len(known)
    assert GRAMS.of("transfer")[0] not in known  # the word itself has a bucket of its own
    assert min(known) >= 1
    assert max(known) <= GRAMS.buckets


def test_a_batch_holds_each_word_once_and_nothing_behind_the_ends() -> None:
    rows, table = rows_of("a cat, a hat", "", "cat")
    batch = word_batch(rows, table, np.array([2, 0, 1]))
    assert batch.length.tolist() == [1, 5, 1]
    assert batch.ids.shape == (3, 5)
    assert (batch.ids[0, 1:] == 0).all()
    assert (batch.ids[2] == 0).all()
    assert (batch.ids[1] > 0).all()
    assert batch.ids[1, 1] == batch.ids[0, 0]  # cat
    assert (batch.grams[0] == 0).all()
    for line, word in zip(batch.grams[batch.ids[1]], ["a", "cat", ",", "a", "hat"], strict=True):
        assert [b for b in line.tolist() if b] == GRAMS.of(word)


def test_what_is_longer_is_cut_and_known() -> None:
    rows, _ = rows_of("one two three", "one two", most=2)
    assert rows.lengths.tolist() == [2, 2]
    assert rows.cut == {0}


def test_a_bag_weighs_words_and_characters_to_one_each() -> None:
    rows, table = rows_of("the cat the hat", "cat")
    bag = bag_batch(rows, table, np.array([0, 1]), GRAMS.buckets)
    first = bag.weights[: bag.starts[1]]
    assert (first**2).sum() == pytest.approx(2, rel=1e-6)
    # "the" stands there twice: 1 + ln 2 of it to 1 of the others, before they are brought to one.
    the = GRAMS.of("the")[0]
    own = {i: w for i, w in zip(bag.ids.tolist(), bag.weights.tolist(), strict=True)}
    cat = GRAMS.of("cat")[0]
    weights = dict(zip(bag.ids[: bag.starts[1]].tolist(), first.tolist(), strict=True))
    assert weights[the] / weights[cat] == pytest.approx(1 + math.log(2), rel=1e-6)
    assert len(own) <= len(bag.ids)


def test_a_bag_heeds_idf_and_what_is_dropped() -> None:
    rows, table = rows_of("the cat", "the hat")
    places = np.array([0, 1])
    having = document_frequency(rows, table, GRAMS.buckets)
    assert having[GRAMS.of("the")[0]] == 2
    assert having[GRAMS.of("cat")[0]] == 1
    idf = np.ones(GRAMS.buckets + 1, np.float32)
    idf[GRAMS.of("the")[0]] = 0.5
    plain = bag_batch(rows, table, places, GRAMS.buckets)
    weighed = bag_batch(rows, table, places, GRAMS.buckets, idf)
    at = plain.ids.tolist().index(GRAMS.of("the")[0])
    assert weighed.weights[at] < plain.weights[at]
    dropped = np.array([[True, False], [False, False]])
    left = bag_batch(rows, table, places, GRAMS.buckets, None, dropped)
    assert GRAMS.of("the")[0] not in left.ids[: left.starts[1]]
    assert GRAMS.of("the")[0] in left.ids[left.starts[1] :]


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.integers(0, 5))
def test_what_n_grams_say_is_shared_out_among_their_words(texts: list[str], row: int) -> None:
    """A share that is lost or given twice would make a word louder than it is."""
    rows, table = rows_of("a word", *texts)
    row = row % len(rows)
    bag = bag_batch(rows, table, np.array([row]), GRAMS.buckets)
    values = np.random.default_rng(0).normal(size=len(bag.ids))
    if not rows.lengths[row]:
        return
    spread = spread_bag(rows, table, row, GRAMS.buckets, values)
    assert len(spread) == rows.lengths[row]
    assert spread.sum() == pytest.approx(values.sum(), abs=1e-6)


def test_an_n_gram_speaks_for_the_words_that_have_it() -> None:
    rows, table = rows_of("the cat the hat")
    bag = bag_batch(rows, table, np.array([0]), GRAMS.buckets)

    def shared(bucket: int) -> list[float]:
        return spread_bag(rows, table, 0, GRAMS.buckets, 1.0 * (bag.ids == bucket)).tolist()

    the, cat, hat = (GRAMS.of(word)[0] for word in ("the", "cat", "hat"))
    assert shared(the) == [0.5, 0, 0.5, 0]
    assert shared((cat * 1_000_003 + the) % GRAMS.buckets + 1) == [0, 0.5, 0.5, 0]
    assert shared(the % GRAMS.buckets + 1) == [1, 0, 0, 0]  # what begins a text is no word
    assert shared(hat * 1_000_003 % GRAMS.buckets + 1) == [0, 0, 0, 1]
    both = {*GRAMS.of("cat")[2:]} & {*GRAMS.of("hat")[2:]}  # "at>"
    assert all(shared(bucket) == [0, 0.5, 0, 0.5] for bucket in both)
    assert both


@given(st.lists(st.text(max_size=20), min_size=1, max_size=6))
def test_any_texts_make_batches(texts: list[str]) -> None:
    rows, table = rows_of(*texts)
    places = np.arange(len(texts))
    batch = word_batch(rows, table, places)
    assert batch.ids.max(initial=0) < len(batch.grams)
    bag = bag_batch(rows, table, places, GRAMS.buckets)
    assert np.isfinite(bag.weights).all()
    assert len(bag.starts) == len(texts)
    assert bag.ids.min() >= 1


def test_updates_are_of_like_length_and_an_epoch_has_every_row() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 400)
    order = LengthOrder(lengths, 20, seed=1)
    batches = [order.rows(i) for i in range(20)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(400))
    spread = np.mean([np.ptp(lengths[b]) for b in batches])
    assert spread < 0.2 * np.ptp(lengths)
    means = [lengths[b].mean() for b in batches]
    assert means != sorted(means)
    again = LengthOrder(lengths, 20, seed=1)
    assert (again.rows(7) == batches[7]).all()
    assert (LengthOrder(lengths, 20, seed=2).rows(7) != batches[7]).any()
