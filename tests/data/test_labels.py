"""Labels: order, what looks like a mistake, and a split that keeps the shares of the classes."""

import numpy as np
import pytest

from ensue.data.labels import UNKNOWN, check_classes, class_names, held_out, numbered, repeated
from ensue.data.notes import Notes
from ensue.errors import DataError


def test_numbers_in_names_are_numbers() -> None:
    assert class_names(["10", "9", "b2", "b10", "a", "9"]) == ["9", "10", "a", "b2", "b10"]


def test_one_class_is_nothing_to_learn() -> None:
    for counts in ({}, {"cat": 9}):
        with pytest.raises(DataError, match="nothing to tell apart"):
            check_classes(counts, Notes())


def test_what_looks_like_a_mistake_is_said() -> None:
    notes = Notes()
    check_classes({"Cat": 30, "cat ": 2, "dog": 1}, notes)
    said = " ".join(notes.lines())
    assert "'Cat' (30) and 'cat ' (2)" in said
    assert "1 classes have one example" in said
    assert "unbalanced: 'Cat' has 30 examples, 'dog' 1" in said
    quiet = Notes()
    check_classes({"cat": 30, "dog": 29}, quiet)
    assert quiet.lines() == ("2 classes: 'cat' (30), 'dog' (29)",)


def test_of_many_classes_the_commonest_and_the_rarest_are_named() -> None:
    """`ensue train` said nothing of classes and balance; with 77 of them a list is no answer."""
    notes = Notes()
    check_classes({f"c{i}": 30 + i for i in range(13)}, notes)
    assert notes.lines() == ("13 classes, from 'c12' (42) to 'c0' (30)",)


def test_labels_of_another_set_are_matched_or_named() -> None:
    notes = Notes()
    assert numbered(["b", "A ", "c"], ["a", "b"], "test", notes) == [1, 0, UNKNOWN]
    said = " ".join(notes.lines())
    assert "test: 1 labels differ from train's in case or spaces" in said
    assert "test: 1 labels are not among train's, and count as mistakes: 'c'" in said


def test_another_case_that_could_mean_two_classes_means_none() -> None:
    assert numbered(["A"], ["a", "A"], "test", Notes()) == [1]
    assert numbered([" a"], ["a", "A"], "test", Notes()) == [UNKNOWN]


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_each_class_keeps_its_share(fraction: float) -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [1000, 200, 10])
    hashes = generator.integers(0, 2**63, len(labels)).astype(np.uint64)
    mask = held_out(labels, hashes, fraction)
    for label, count in enumerate([1000, 200, 10]):
        assert int(mask[labels == label].sum()) == max(1, round(fraction * count + 1e-9))


def test_what_is_there_twice_lands_on_one_side() -> None:
    labels = np.zeros(40, dtype=np.int64)
    hashes = np.repeat(np.arange(20, dtype=np.uint64), 2)
    mask = held_out(labels, hashes, 0.3)
    assert mask.any()
    assert (mask[::2] == mask[1::2]).all()
    assert repeated(hashes[mask], hashes[~mask]) == 0
    assert repeated(hashes[:4], hashes[2:8]) == 2


def test_a_class_keeps_at_least_one_example() -> None:
    labels = np.array([0, 1, 1, 2, 2])
    hashes = np.array([1, 2, 3, 4, 4], dtype=np.uint64)
    mask = held_out(labels, hashes, 0.9)
    assert mask.tolist() == [False, True, False, False, False]


def test_a_new_example_moves_few_others() -> None:
    generator = np.random.default_rng(1)
    labels = np.zeros(500, dtype=np.int64)
    hashes = generator.integers(0, 2**63, 501).astype(np.uint64)
    before = held_out(labels, hashes[:500], 0.1)
    after = held_out(np.zeros(501, dtype=np.int64), hashes, 0.1)
    assert int((before != after[:500]).sum()) <= 2
