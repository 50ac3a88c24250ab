"""The floor must be a true probability model, and as good as its reference."""

from pathlib import Path

import numpy as np
import pytest

from ensue import floors
from ensue.errors import DataError
from ensue.floors import ngram_floor

TRAIN = b"the cat sat on the mat. the dog sat on the log. " * 40


@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_chances_of_all_bytes_sum_to_one(order: int) -> None:
    """Otherwise the floor could be lower than any honest model's score."""
    for context in (b"the c", b"xyzzy", b"sat o", b"\xff\x00\xff\x00"):
        n = len(context)
        before = 2 ** -(ngram_floor(TRAIN, context, order).bits_per_byte * n)
        after = [
            2 ** -(ngram_floor(TRAIN, context + bytes([b]), order).bits_per_byte * (n + 1))
            for b in range(256)
        ]
        assert sum(after) == pytest.approx(before, rel=1e-9)


def test_seen_text_is_cheap_and_unseen_is_finite() -> None:
    assert ngram_floor(TRAIN, TRAIN).bits_per_byte < 0.3
    assert 8 < ngram_floor(TRAIN, bytes(range(128, 256))).bits_per_byte < 30


def test_longer_contexts_help_on_text() -> None:
    scores = [ngram_floor(TRAIN, b"the dog sat on the mat.", n).bits_per_byte for n in (1, 2, 3, 5)]
    assert scores == sorted(scores, reverse=True)


def test_short_and_repetitive_texts_work() -> None:
    for train, valid in (
        (b"a", b"b"),
        (b"ab", b"ab" * 50),
        (b"\0" * 9, b"\0\1"),
        (b"a" * 999, b"a"),
    ):
        assert np.isfinite(ngram_floor(train, valid).bits_per_byte)
    with pytest.raises(DataError, match="no text"):
        ngram_floor(b"", b"a")


def test_large_texts_are_sampled_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "MAX_TRAIN_BYTES", 1 << 20)
    monkeypatch.setattr(floors, "MAX_VALID_BYTES", 1 << 20)
    big = bytes(range(97, 122)) * 50_000
    floor = ngram_floor(big, big)
    assert floor.train_bytes == 1 << 20
    assert floor.note == "counted on the last 1 MB of train; scored on the first 1 MB of valid"


@pytest.mark.data
def test_tiny_shakespeare_beats_plain_counts(public_data: Path) -> None:
    """Plain 5-gram character counts reach 2.41 bits per byte."""
    text = (public_data / "tiny_shakespeare" / "input.txt").read_bytes()
    cut = int(0.9 * len(text))
    assert ngram_floor(text[:cut], text[cut:]).bits_per_byte == pytest.approx(2.2531, abs=1e-3)
