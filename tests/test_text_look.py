"""A look at a text classifier: what speaks for its answer, and its insides along the text."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pages import PAYLOAD, Page, assert_harmless
from small import TEXT_MODELS
from torch import Tensor, nn

import ensue
from ensue.classifier import TextClassifier
from ensue.cli import main
from ensue.errors import DataError, UsageError
from ensue.models import step_of
from ensue.models.bert import TextBert, TextBertConfig
from ensue.models.mlp import NgramMLP, NgramMLPConfig
from ensue.nn.capture import capture
from ensue.tasks.classify import BagTexts, Reading, shown, text_rows
from ensue.text_look import TextLook, look_at_text
from ensue.tokenizers import train_tokenizer
from ensue.views.looks import SHOWN

CLASSES = ("bad", "good")
FILLERS = "the film was shown in our town on a cold and rainy evening with many people".split()
EVERY = pytest.mark.parametrize("name", [name for name in TEXT_MODELS if name != "bert"])
"""Those that read words; BERT, which reads pieces, has its own test."""


def texts_of(count: int) -> tuple[list[str], Tensor]:
    """Texts of fillers in which one word alone decides the class."""
    random, texts = np.random.default_rng(0), []
    for i in range(count):
        words = random.choice(FILLERS, size=random.integers(3, 9)).tolist()
        words.insert(int(random.integers(len(words) + 1)), "superb" if i % 2 else "dreadful")
        texts.append(" ".join(words))
    return texts, torch.arange(count) % 2


_LEARNT: dict[str, TextClassifier] = {}


def learnt(name: str) -> TextClassifier:
    """A classifier of `texts_of`, trained for some seconds."""
    if name not in _LEARNT:
        torch.manual_seed(0)
        texts, labels = texts_of(64)
        reading = Reading(classes=CLASSES)
        config = replace(TEXT_MODELS[name], classes=2)
        model = step_of(config).model(config)
        rows = text_rows(texts, reading, config, None)
        idf = rows.idf if isinstance(rows, BagTexts) else None
        inputs = shown(rows, np.arange(len(texts)))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(*inputs), labels).backward()
            optimizer.step()
        _LEARNT[name] = TextClassifier(model.eval(), reading, idf)
    return _LEARNT[name]


def lead_of(logits: Tensor, answer: int) -> Tensor:
    return logits[:, answer] - logits.mean(dim=1)


def test_of_a_linear_bag_the_words_add_up_to_the_logit_less_the_bias() -> None:
    """A share that is lost, or counted twice, would pass for knowledge of the model."""
    config = NgramMLPConfig(classes=3, buckets=512)
    model = NgramMLP(config).eval()
    with torch.no_grad():
        model.buckets.weight.normal_()
        model.bias.normal_()
    reading = Reading(classes=("a", "b", "c"))
    text = "the cat and the hat and the cat"
    idf = BagTexts([text, "the dog"], reading, config).idf
    seen = look_at_text(TextClassifier(model, reading, idf), text)
    answer = reading.classes.index(seen.answer.label)
    logits = model(*shown(text_rows([text], reading, config, idf), np.arange(1))).detach()
    own, bias = (float(lead_of(some, answer)) for some in (logits, model.bias.detach()[None]))
    assert seen.speaks.sum() == pytest.approx(own - bias, abs=1e-5)
    assert (seen.lead, seen.silent) == pytest.approx((own, bias), abs=1e-5)
    assert len(seen.speaks) == 8
    # Of two words alike each has a part of what they say together.
    one = look_at_text(TextClassifier(model, reading, idf), "cat")
    assert one.speaks.tolist() == pytest.approx([one.lead - one.silent], abs=1e-5)


@EVERY
@pytest.mark.parametrize(("word", "label"), [("superb", "good"), ("dreadful", "bad")])
def test_the_word_that_decides_speaks_the_most(name: str, word: str, label: str) -> None:
    """Whatever reads the words, in whichever order: an index off by one names a filler."""
    for text in (f"a cold and {word} evening in our town", f"{word} film", f"the film was {word}"):
        seen = look_at_text(learnt(name), text)
        assert seen.answer.label == label
        assert seen.tokens[int(seen.speaks.argmax())] == word
        assert seen.rows[0][0] == word
        whole = seen.lead - seen.silent
        assert seen.speaks.sum() == pytest.approx(whole, abs=0.05 * abs(whole) + 1e-3)


@EVERY
def test_a_look_changes_no_answer_and_no_model(name: str) -> None:
    classifier, text = learnt(name), "a superb film"
    before = classifier.classify(text)
    weights = {n: w.clone() for n, w in classifier.model.state_dict().items()}
    classifier.model.zero_grad(set_to_none=True)
    seen = look_at_text(classifier, text)
    assert (seen.answer.label, seen.answer.confidence) == (before.label, before.confidence)
    assert all(torch.equal(w, weights[n]) for n, w in classifier.model.state_dict().items())
    assert all(parameter.grad is None for parameter in classifier.model.parameters())
    inputs = shown(classifier.rows([text]), np.arange(1))
    with torch.no_grad():
        plain = classifier.model(*inputs)
        with capture(classifier.model):
            torch.testing.assert_close(classifier.model(*inputs), plain)


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mlp": {},
    "cnn": {
        "filters of 3 words, -1 to +1/maps": (4, 8),
        "filters of 4 words, -1 to +2/maps": (4, 8),
        "filters of 5 words, -2 to +2/maps": (4, 8),
    },
    "rnn": {"ahead.0/h": (4, 16), "back.0/h": (4, 16)},
    "lstm": {
        f"encoder.{way}.0/{what}": (4, *shape)
        for way in ("ahead", "back")
        for what, shape in (("gates", (3, 8)), ("c", (8,)))
    },
}


@EVERY
def test_insides_are_shown_along_the_text(name: str) -> None:
    seen = look_at_text(learnt(name), "a superb film !")
    assert {n: shown.shape for n, shown in seen.maps.items()} == SHAPES[name]
    drawn = {"mlp": [], "cnn": ["feature-maps"], "rnn": ["states-h"], "lstm": ["gates", "memory-c"]}
    assert [picture.name for picture in seen.pictures] == ["answer", *drawn[name]]
    titles = [panel.title for picture in seen.pictures[1:] for panel in picture.panels]
    if name in ("rnn", "lstm"):
        assert {" ".join(t.split(":")[0].split(",")[:2]) for t in titles} == {
            "layer 1  ahead",
            "layer 1  back",
        }


@pytest.mark.parametrize(
    ("name", "what"),
    [("rnn", "{}.0/h"), ("lstm", "encoder.{}.0/gates"), ("lstm", "encoder.{}.0/c")],
)
def test_what_is_read_from_the_end_stands_in_the_order_of_the_text(name: str, what: str) -> None:
    """Drawn as it is read, the states of the last word would stand under the first."""
    classifier = learnt(name)
    seen = look_at_text(classifier, "a superb film").maps
    first, last = (look_at_text(classifier, word).maps for word in ("a", "film"))
    ahead, back = what.format("ahead"), what.format("back")
    assert seen[ahead][0] == pytest.approx(first[ahead][0], abs=1e-5)
    assert seen[back][-1] == pytest.approx(last[back][0], abs=1e-5)
    assert seen[back][0] != pytest.approx(first[back][0], abs=1e-3)


def test_filters_fire_where_their_words_stand() -> None:
    maps = look_at_text(learnt("cnn"), "in our town a cold and superb evening on a cold and").maps
    widest = maps["filters of 5 words, -2 to +2/maps"]
    alone = look_at_text(learnt("cnn"), "a cold and superb evening").maps
    assert widest[5] == pytest.approx(alone["filters of 5 words, -2 to +2/maps"][2], abs=1e-5)


# -- a model of pieces, such as BERT ---------------------------------------------------------------


def reader_of_pieces() -> TextClassifier:
    """BERT, of random weights large enough to say something."""
    tokenizer = train_tokenizer("wordpiece", [" ".join(FILLERS), "a fine film"], vocab_size=200)
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": 128, "d_model": 16}
    config = TextBertConfig(classes=2, num_layers=2, num_heads=2, dropout=0.0, **shape)
    model = TextBert(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return TextClassifier(model.eval(), Reading(classes=CLASSES), tokenizer)


def test_attention_is_drawn_for_each_layer_and_head(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # PNGs take seconds
    classifier = reader_of_pieces()
    seen = look_at_text(classifier, "a fine film")
    assert (seen.tokens[0], seen.tokens[1], seen.tokens[-1]) == ("[CLS]", "a", "[SEP]")
    count = len(seen.tokens)
    names = [f"bert.layers.{i}.attention/weights" for i in range(2)]
    shapes = {name: seen.maps[name].shape for name in names}
    assert shapes == dict.fromkeys(names, (2, count, count))
    assert seen.maps[names[0]].sum(axis=2) == pytest.approx(1)
    assert [p.name for p in seen.pictures] == ["answer", "attention-layer-1", "attention-layer-2"]
    assert [panel.title for panel in seen.pictures[1].panels] == [
        "layer 1, head 1",
        "layer 1, head 2",
    ]
    whole = seen.lead - seen.silent
    assert seen.speaks.sum() == pytest.approx(whole, abs=0.05 * abs(whole) + 1e-3)
    assert "left out" not in seen.pictures[1].caption
    seen.save(tmp_path)
    long = " ".join(FILLERS * 6)
    seen = look_at_text(classifier, long)
    assert seen.pictures[1].panels[0].values.shape == (SHOWN, SHOWN)
    assert "give to others is left out" in seen.pictures[1].caption


# -- texts of any kind -----------------------------------------------------------------------------


@EVERY
def test_of_a_long_text_the_words_that_speak_are_drawn(name: str) -> None:
    """2,000 labels cannot be read; the last 64 may say nothing."""
    learned = learnt(name)
    count = 300 if name == "lstm" else 2000  # which takes 15 s of an LSTM
    reading = Reading(classes=CLASSES, max_words=count - 100)
    classifier = TextClassifier(learned.model, reading, learned.learnt)
    words = [FILLERS[i % len(FILLERS)] for i in range(count)]
    words[count // 2 : count // 2 + 3] = ["superb"] * 3
    seen = look_at_text(classifier, " ".join(words))
    assert len(seen.tokens) == len(seen.speaks) == count - 100
    assert seen.drawn.stop - seen.drawn.start == SHOWN
    shown = seen.tokens[seen.drawn]
    assert name != "cnn" or "superb" in shown
    assert seen.notices[0] == f"read up to its word {count - 100:,}"
    assert f"of {count - 100:,}: the 64 in a row that speak the most" in seen.notices[1]
    bars = seen.pictures[0].panels[0]
    assert list(bars.labels) == list(shown)
    for picture in seen.pictures[1:]:
        for panel in picture.panels:
            assert list(panel.columns) == list(shown)
    ElementTree.fromstring(seen.pictures[0].svg())
    assert len(seen.rows) <= 8
    assert any("times)" in cell for row in seen.rows for cell in row)


@EVERY
def test_every_script_and_no_control_character(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A page that somebody sends on must run nothing that its text says."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    text = f"{PAYLOAD} 東京の映画 فيلم جميل \ud800 $x$ {'a' * 300}"
    seen = look_at_text(learnt(name), text)
    assert {"東", "京", "فيلم", "\\x1b", "\\u202e", "\\ud800"} <= {*seen.tokens}
    assert any("order of reading" in notice for notice in seen.notices)
    for path in seen.save(tmp_path):
        if path.suffix == ".html":
            page = path.read_text(encoding="utf-8")
            assert_harmless(page, Page(page))
        else:
            ElementTree.parse(path)
    dumped = json.dumps(seen.to_json(), ensure_ascii=False)
    assert not {*dumped} & {"\x1b", "\u202e", "\ud800"}


@EVERY
def test_one_word_is_a_text(name: str) -> None:
    seen = look_at_text(learnt(name), "superb")
    assert seen.tokens == ("superb",)
    assert seen.speaks.sum() == pytest.approx(seen.lead - seen.silent, rel=0.05, abs=1e-3)
    assert not seen.notices
    assert len(seen.maps) == len(SHAPES[name])


def test_texts_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(UsageError, match="the text is empty"):
        look_at_text(learnt("cnn"), "")
    with pytest.raises(DataError, match="there is no word in it"):
        look_at_text(learnt("cnn"), " \n\t ")


# -- runs and the command line ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    texts, labels = texts_of(64)
    lines = [f"{text},{CLASSES[label]}" for text, label in zip(texts, labels, strict=True)]
    (folder / "reviews.csv").write_text("\n".join(["text,label", *lines]))
    words = ["--model", "lstm", "--steps", "40", "--size", "xs", "--model.d-model", "16"]
    words += ["--train.threads", "1", "--train.precision", "fp32", "--train.lr", "0.01"]
    words += ["--train.compile", "no", "--max-words", "20"]
    out = folder / "run"
    assert main(["train", str(folder / "reviews.csv"), *words, "--out", str(out)]) == 0
    return out


def test_a_run_is_looked_at_by_command(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run), "a superb film"]) == 0
    said = capsys.readouterr().out
    assert "for good" in said
    assert "against it" in said
    assert str(run / "inspect" / "look.html") in said.replace("\n", "")
    names = {path.name for path in (run / "inspect").iterdir()}
    assert {"look.html", "answer.svg", "gates.svg", "memory-c.svg"} <= names
    page = (run / "inspect" / "look.html").read_text(encoding="utf-8")
    assert "for and against good" in page
    assert ["superb"] == [row[0] for row in Page(page).rows if row[:1] == ["superb"]][:1]


def test_json_holds_the_numbers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts read one object; what was cut is said on the other stream."""
    text = "a superb film " * 10
    assert main(["inspect", str(run), text, "--json", "--out", str(tmp_path)]) == 0
    caught = capsys.readouterr()
    values = json.loads(caught.out)
    assert values["top"][0]["label"] == "good"
    assert len(values["tokens"]) == len(values["speaks"]) == 20
    assert values["files"][0] == str(tmp_path / "look.html")
    assert values["notices"] == ["read up to its word 20"]
    assert values["text"] == " ".join(text.split()[:20]) + " …"
    assert "read up to its word 20" in caught.err


def test_a_run_can_be_looked_at_from_python(run: Path) -> None:
    seen = ensue.look_at_text(run, "a superb film")
    assert isinstance(seen, TextLook)
    assert seen.title == "lstm (run)"
    again = ensue.look_at_text(ensue.load_classifier(run), "a superb film")
    assert again.to_json() == seen.to_json()


def test_mistakes_are_answered_with_what_to_do(
    run: Path, text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args, code, said in (
        ([str(run), ""], 2, "the text is empty"),
        ([str(run), "  "], DataError.exit_code, "there is no word in it"),
        ([str(run), "a film", "--target", "ein Film"], 2, "--target is of a run that translates"),
        ([str(run)], 2, "there is no text to look at it with"),
    ):
        assert main(["inspect", *args]) == code
        assert said in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="was trained to continue a text"):
        look_at_text(text_run, "a film")
