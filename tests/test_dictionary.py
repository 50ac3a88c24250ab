"""The floor of translation: by hand where hands can count, and bounded where they cannot."""

import pytest

from ensue import dictionary
from ensue.dictionary import count_dictionary
from ensue.errors import DataError

PAIRS = [("das Haus", "the house"), ("das Buch", "the book"), ("ein Buch", "a book")]


def test_words_that_always_meet_are_each_others() -> None:
    """Brown et al.'s own example: "das" is in two pairs, and so is "the"."""
    words = count_dictionary(PAIRS).words
    assert words == {"das": "the", "Haus": "house", "Buch": "book", "ein": "a"}


def test_the_first_counts_are_those_of_a_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round: each word of a target is shared by its source's words and the empty one.

    P(x | a): "a" and the empty word share the x of the first pair, with "b" those of the second;
    counts (a, x) 1/2 + 1/3, (a, y) 1/3. Of b both are 1/3: the first seen.
    """
    monkeypatch.setattr(dictionary, "ROUNDS", 1)
    links = dictionary._Links()
    links.add(["a"], ["x"])
    links.add(["a", "b"], ["x", "y"])
    assert links.count == 2 + 6
    assert links.likeliest() == {"": "x", "a": "x", "b": "x"}
    monkeypatch.setattr(dictionary, "ROUNDS", 5)  # what a has taken is left to b less and less
    assert links.likeliest()["b"] == "y"


def test_order_and_spaces_are_the_sources_and_unknown_words_are_copied() -> None:
    found = count_dictionary([*PAIRS, ("3", "3"), (".", ".")])
    assert found.translate("ein  Haus, das Xylophon.") == "a  house, the Xylophon."


def test_scripts_without_spaces_have_words_too() -> None:
    """Taken as one word, a Chinese sentence would never be seen twice."""
    found = count_dictionary([("大山", "big mountain"), ("大", "big"), ("山", "mountain")])
    assert found.translate("山大3") == "mountainbig3"


def test_many_pairs_are_read_as_far_as_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "MOST_LINKS", 100)
    found = count_dictionary((f"w{i}", f"v{i}") for i in range(1_000_000_000))
    assert found.note == "counted on the first 50 pairs"
    assert found.translate("w49 w50") == "v49 w50"


@pytest.mark.parametrize("pairs", [[], [("", "")], [("a", "")]])
def test_pairs_without_words_are_an_error(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(DataError, match="no words"):
        count_dictionary(pairs)
