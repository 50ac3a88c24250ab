"""The scores are sacreBLEU's own; bins and bootstrap say what they claim."""

import sys
from typing import Any

import pytest

from ensue import bleu
from ensue.bleu import LENGTHS, corpus_score, exact_share, score_translations
from ensue.errors import MissingExtraError

SOURCES = ["a b", "", "c d e f g h", "w " * 11, "w " * 16, "w " * 25, "w " * 40, "w " * 90]
REFERENCES = [
    "The cat sat on the mat.",
    "Nothing",
    "A dog, barking loudly, ran off!",
    "Two men are standing in front of a large house.",
    "It rains.",
    "A girl plays the violin in the street.",
    "The sun shines upon the sea and the hills behind it.",
    "Who goes there at this time of the night?",
]
SAID = [
    "the cat sat on the mat.",
    "Nothing",
    "A dog barks and runs off!",
    "Two men stand in front of a house.",
    "It is raining.",
    "A girl is playing violin in the street.",
    "The sun shines on the sea and the hills behind it.",
    "Who goes there at night?",
]


def test_scores_equal_sacrebleus_own_call() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    score = score_translations(SOURCES, SAID, REFERENCES)
    expected = [
        sacrebleu.corpus_bleu(SAID, [REFERENCES]),
        sacrebleu.corpus_bleu(SAID, [REFERENCES], lowercase=True),
        sacrebleu.corpus_chrf(SAID, [REFERENCES]),
        sacrebleu.corpus_ter(SAID, [REFERENCES]),
    ]
    assert [m.value for m in score.measures] == [e.score for e in expected]
    assert [m.name for m in score.measures] == ["BLEU", "BLEU lower-cased", "chrF", "TER"]
    cased, lower = (m.signature for m in score.measures[:2])
    assert "case:mixed" in cased
    assert "tok:13a" in cased
    assert "case:lc" in lower
    assert score.bleu == score.measures[0].value < score.measures[1].value
    assert (score.sentences, score.against) == (8, None)


def test_bins_by_length_hold_every_sentence_once() -> None:
    """A blank source has no word, and was in no bin."""
    sacrebleu = pytest.importorskip("sacrebleu")
    score = score_translations(SOURCES, SAID, REFERENCES)
    assert [b.longest for b in score.by_length] == [*LENGTHS[:1], *LENGTHS[1:], 0]
    assert [b.sentences for b in score.by_length] == [2, 1, 1, 1, 1, 1, 1]
    first = sacrebleu.corpus_bleu(SAID[:2], [REFERENCES[:2]])
    assert score.by_length[0].bleu == first.score
    short = score_translations(SOURCES[:1], SAID[:1], REFERENCES[:1])
    assert [(b.longest, b.sentences) for b in short.by_length] == [(5, 1)]


@pytest.mark.parametrize(
    ("reference", "said", "words"),
    [
        ("一只狗在草地上奔跑，旁边有一个男孩。", "一只狗在草地上奔跑，旁边有一个女孩。", "zh"),
        ("犬が草原を走っている。", "犬が草原を走っています。", "char"),
        ("สุนัขวิ่งบนสนามหญ้า", "สุนัขวิ่งบนสนาม", "char"),
        ("A dog runs in 上海 today.", "A dog ran in 上海 today.", "13a"),
    ],
)
def test_what_is_a_word_is_chosen_by_the_script(reference: str, said: str, words: str) -> None:
    """By 13a a Chinese sentence is one word, and one wrong letter makes its BLEU zero."""
    pytest.importorskip("sacrebleu")
    score = score_translations([reference], [said], [reference])
    assert f"tok:{words}" in score.measures[0].signature
    assert f"tok:{words}" in score.measures[1].signature
    assert words == "13a" or 0 < score.bleu < 100


def test_sources_without_spaces_are_as_long_as_their_letters() -> None:
    pytest.importorskip("sacrebleu")
    sources = ["狗", "一只狗在草地上奔跑", "犬が草原を走っている、少年の隣で走っている"]
    score = score_translations(sources, ["a"] * 3, ["a"] * 3)
    assert [(b.longest, b.sentences) for b in score.by_length] == [(5, 1), (10, 1), (30, 1)]


def test_the_bootstrap_tells_systems_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that say the same sacreBLEU itself gives the smallest p there is."""
    pytest.importorskip("sacrebleu")
    monkeypatch.setattr(bleu, "BOOTSTRAP", 100)
    same = score_translations(SOURCES, SAID, REFERENCES, other=list(SAID)).against
    assert same is not None
    assert (same.p_value, same.samples) == (1.0, 100)
    sources, said, references = SOURCES * 10, SAID * 10, REFERENCES * 10
    score = score_translations(sources, references, references, other=said)
    assert score.against is not None
    assert score.against.p_value < 0.05
    assert score.against.bleu == pytest.approx(score_translations(sources, said, references).bleu)
    assert score.bleu == pytest.approx(100.0)


def test_the_missing_extra_is_named_before_anything_is_translated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ensue import api

    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match=r"ensue\[bleu\]"):
        score_translations(SOURCES, SAID, REFERENCES)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it began to work")

    monkeypatch.setattr(api, "load_translator", never)
    with pytest.raises(MissingExtraError, match="sacrebleu"):
        api.evaluate_translations("a", "b")


def test_exact_matches_are_counted_letter_by_letter() -> None:
    assert exact_share(["a b", "A b", "", "c "], ["a b", "a b", "", "c"]) == 50.0


def test_one_measure_is_that_of_the_whole_score() -> None:
    pytest.importorskip("sacrebleu")
    whole = score_translations(SOURCES, SAID, REFERENCES).measures
    assert [corpus_score(m.name, SAID, REFERENCES) for m in whole] == list(whole)
