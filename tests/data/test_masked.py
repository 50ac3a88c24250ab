"""Rows of a text and what is masked in them: each id once, whole words, one draw for one number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensue.data.masked import (
    KINDS,
    NOT_ASKED,
    PUBLISHED,
    Marks,
    MaskedConfig,
    mask,
    pieces_for,
    rows_of,
)
from ensue.errors import UsageError

V = 200
CONFIG = MaskedConfig(sources=("x",))
END = 3


def marks(first: int = 5, last: int = V) -> Marks:
    """Of 200 ids the first five are marks; every fourth of the others goes on in a word."""
    continues = np.arange(V) % 4 == 3
    continues[:first] = False
    return Marks(2, END, 4, 0, np.arange(first, last), continues)


MARKS = marks()


def rows(count: int = 400, steps: int = 34, seed: int = 0) -> NDArray[np.int64]:
    """Framed rows of several lengths, padded."""
    generator = np.random.default_rng(seed)
    ids = np.zeros((count, steps), np.int64)
    for row in ids:
        size = int(generator.integers(1, steps - 1))
        row[0], row[size + 1] = MARKS.cls, MARKS.sep
        row[1 : size + 1] = generator.integers(5, V, size)
    return ids


def words_of(row: NDArray[np.int64]) -> list[list[int]]:
    """The places of each word of a row."""
    found: list[list[int]] = []
    for i, id_ in enumerate(row.tolist()):
        if id_ < 5:
            continue
        if MARKS.continues[id_] and found and found[-1][-1] == i - 1:
            found[-1].append(i)
        else:
            found.append([i])
    return found


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 15))
@settings(max_examples=80, deadline=None)
def test_rows_cover_every_id_once_and_cross_no_document(sizes: list[int], most: int) -> None:
    """An id in no row is never learnt; a row over an end asks for one text from another."""
    parts = [np.array([END])]
    for i, size in enumerate(sizes):
        parts += [np.full(size, 10 + i), np.array([END])]
    ids = np.concatenate(parts)
    found = rows_of(ids, END, most)
    covered = np.zeros(len(ids), np.int64)
    for start, length in zip(*found, strict=True):
        part = ids[start : start + length]
        assert 1 <= length <= most
        assert len(set(part.tolist())) == 1
        covered[start : start + length] += 1
    assert np.array_equal(covered, (ids != END).astype(np.int64))


def test_rows_of_a_document_are_about_equally_long() -> None:
    """Cut at the most, a document of 41 would leave a row of one word without any company."""
    found = rows_of(np.array([END, *[9] * 41, END]), END, 20)
    assert found.lengths.tolist() == [13, 14, 14]
    assert found.starts.tolist() == [1, 14, 28]
    assert not len(rows_of(np.array([END, END]), END, 20).starts)


@pytest.mark.parametrize("fraction", [0.15, 0.4])
@pytest.mark.parametrize("whole", [True, False])
def test_about_the_asked_share_is_masked_eight_of_ten_as_mask(fraction: float, whole: bool) -> None:
    ids = rows(2000)
    config = replace(CONFIG, mask_fraction=fraction, whole_words=whole)
    shown, targets = mask(ids, config, MARKS, 7, 0)
    asked = targets != NOT_ASKED
    long = (ids >= 5).sum(axis=1) > 20  # of short rows at least one word is more than the share
    share = asked[long].sum() / (ids[long] >= 5).sum()
    assert share == pytest.approx(fraction, abs=0.015)
    assert np.array_equal(targets[asked], ids[asked])
    assert np.array_equal(shown[~asked], ids[~asked])
    masked = (shown[asked] == MARKS.mask).mean()
    same = (shown[asked] == ids[asked]).mean()
    assert masked == pytest.approx(0.8, abs=0.02)
    assert same == pytest.approx(0.1 + 0.1 / (V - 5), abs=0.015)
    swapped = shown[asked & (shown != ids) & (shown != MARKS.mask)]
    assert swapped.min() >= 5
    assert swapped.max() == V - 1
    assert len(np.unique(swapped)) > 100


@pytest.mark.parametrize("whole", [True, False])
def test_each_row_asks_something_and_never_for_a_mark(whole: bool) -> None:
    """A row that asks nothing is computed for nothing; [SEP] asked for would be a free point."""
    ids = rows()
    shown, targets = mask(ids, replace(CONFIG, mask_fraction=0.01, whole_words=whole), MARKS, 1, 0)
    asked = targets != NOT_ASKED
    assert asked.any(axis=1).all()
    assert not asked[ids < 5].any()
    assert np.array_equal(shown[ids < 5], ids[ids < 5])


def test_words_are_asked_for_whole() -> None:
    """Half of a word left standing tells the other half."""
    ids = rows()
    asked = mask(ids, CONFIG, MARKS, 1, 0).targets != NOT_ASKED
    for row, chosen in zip(ids, asked, strict=True):
        for word in words_of(row):
            assert len({bool(chosen[i]) for i in word}) == 1
    apart = mask(ids, replace(CONFIG, whole_words=False), MARKS, 1, 0).targets != NOT_ASKED
    broken = (
        len({bool(c[i]) for i in w}) for r, c in zip(ids, apart, strict=True) for w in words_of(r)
    )
    assert max(broken) == 2


def test_a_word_does_not_reach_over_a_mark() -> None:
    """The second half of a row may begin within a word: it is not the last word of the first."""
    inside = 7
    assert MARKS.continues[inside]
    ids = np.array([[MARKS.cls, 5, MARKS.sep, inside, MARKS.sep]] * 300)
    asked = mask(ids, replace(CONFIG, mask_fraction=0.5), MARKS, 0, 0).targets != NOT_ASKED
    assert {(bool(a), bool(b)) for a, b in asked[:, [1, 3]]} == {
        (True, False),
        (False, True),
        (True, True),
    }


def test_marks_behind_the_text_are_marks_too() -> None:
    """A tokenizer.json may number its marks last: with none above them there was no text."""
    late = Marks(198, 199, 197, 196, np.arange(0, 195), np.zeros(V, np.bool_))
    ids = np.array([[198, *range(30, 60), 199, 196, 196]] * 50)
    shown, targets = mask(ids, CONFIG, late, 0, 0)
    asked = targets != NOT_ASKED
    assert asked.any(axis=1).all()
    assert not asked[:, [0, 31, 32, 33]].any()
    assert set(shown[asked].tolist()) <= {197, *range(195)}


def test_one_number_one_draw_and_another_another() -> None:
    """A resume repeats what was masked; each reading of a row masks other words of it."""
    ids = rows(50)
    one, same = mask(ids, CONFIG, MARKS, 3, 1000), mask(ids, CONFIG, MARKS, 3, 1000)
    assert np.array_equal(one.ids, same.ids)
    assert np.array_equal(one.targets, same.targets)
    for other in (mask(ids, CONFIG, MARKS, 3, 2000), mask(ids, CONFIG, MARKS, 4, 1000)):
        assert not np.array_equal(one.targets, other.targets)


@pytest.mark.parametrize("padding", [0, 1, 17])
def test_a_row_is_masked_alike_in_any_company(padding: int) -> None:
    """Cut into other micro-batches its row has more or less padding: the draw must not see it."""
    ids = rows(40)
    whole = mask(ids, CONFIG, MARKS, 3, 100)
    for first, last in ((0, 7), (7, 8), (8, 40)):
        some = np.pad(ids[first:last], ((0, 0), (0, padding)))
        some = some[:, : int((some != 0).sum(axis=1).max()) + padding]
        part = mask(some, CONFIG, MARKS, 3, 100 + first)
        steps = min(some.shape[1], ids.shape[1])
        assert np.array_equal(part.ids[:, :steps], whole.ids[first:last, :steps])
        assert np.array_equal(part.targets[:, :steps], whole.targets[first:last, :steps])


def test_the_vocabulary_grows_with_the_text_up_to_the_published_size() -> None:
    sizes = [pieces_for(10**power) for power in range(3, 11)]
    assert {kind for kind, _ in sizes} == {"wordpiece"}
    assert sizes[0][1] == 1024
    assert [size for _, size in sizes] == sorted(size for _, size in sizes)
    assert sizes[-1][1] == PUBLISHED
    assert KINDS[0] == "auto"


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_share_that_masks_nothing_or_all_is_refused(fraction: float) -> None:
    with pytest.raises(UsageError, match=r"data\.mask_fraction is"):
        MaskedConfig(sources=("x",), mask_fraction=fraction)


def test_a_third_of_a_long_text_each_lies_in_short_middling_and_whole_rows() -> None:
    """Rows of the whole context alone take three times as long to learn what stands near."""
    found = rows_of(np.array([END, *[9] * 100_000, END, *[9] * 50, END]), END, 64, short=True)
    assert found.lengths.max() == 64
    assert found.lengths.sum() == 100_050
    shares = [found.lengths[found.lengths == size].sum() / 100_000 for size in (16, 32, 64)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.01)
    assert found.lengths[-1] == 50  # a document that fits is not cut
    assert (found.starts[1:] >= found.starts[:-1] + found.lengths[:-1]).all()
