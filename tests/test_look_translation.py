"""Looking at a model that translates: what it writes, and where in the source it looks."""

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
from small import PAIR_MODELS

from ensue.cli import main
from ensue.errors import UsageError
from ensue.inspection import Look, look, look_at_translation
from ensue.models import step_of
from ensue.nn.capture import capture
from ensue.tokenizers import train_tokenizer
from ensue.translator import Search, Translator

BYTES = train_tokenizer("byte", [])
EVERY = pytest.mark.parametrize("model", list(PAIR_MODELS))
LOOKING = pytest.mark.parametrize("model", ["seq2seq_attention", "transformer", "additive"])
"""Those that look at places of the source."""
SOURCE, TARGET = "ein Hund", "a dog"


def translator(model: str, max_tokens: int = 64, **changes: Any) -> Translator:
    torch.manual_seed(0)
    config = PAIR_MODELS["seq2seq_attention" if model == "additive" else model]
    if model == "additive":
        changes["score"] = "additive"
    if model == "transformer":
        changes = {"context_length": 64, "num_layers": 2, **changes}
    config = replace(config, vocab_size=BYTES.vocab_size, dropout=0.0, **changes)
    net = step_of(config).model(config)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0)  # sharper than at first, so that weights differ
    return Translator(net, BYTES, BYTES, max_tokens)


def seen(model: str, text: str = SOURCE, target: str = TARGET, **changes: Any) -> Look:
    return look_at_translation(translator(model, **changes), text, target)


def alignments(look: Look) -> list[np.ndarray]:
    return [values for name, values in look.maps.items() if name.endswith("/alignment")]


@LOOKING
def test_each_written_token_shares_one_look_among_the_source(model: str) -> None:
    """A row for each token that is written and for the end, a column for each of the source's."""
    shown = seen(model)
    layers = alignments(shown)
    assert len(layers) == (2 if model == "transformer" else 1)
    for weights in layers:
        heads = 2 if model == "transformer" else 1
        assert weights.shape == (heads, len(TARGET) + 1, len(SOURCE) + 1)
        assert weights.sum(axis=2) == pytest.approx(np.ones(weights.shape[:2]), abs=1e-5)
        assert (weights >= 0).all()
    assert [p.token for p in shown.positions] == [*"a·dog", "(end)"]
    assert shown.tokens == ("(start)", *"a·dog")
    assert shown.source is not None
    assert shown.source.tokens == (*"ein·Hund", "(end)")
    assert shown.alignment == pytest.approx(np.concatenate(layers).mean(axis=0))


@LOOKING
def test_who_looks_does_not_know_yet_what_it_will_write(model: str) -> None:
    """A picture that is off by one names for each word the place of the next one."""
    for place in range(len(TARGET)):
        changed = TARGET[:place] + "#" + TARGET[place + 1 :]
        for before, after in zip(
            alignments(seen(model)), alignments(seen(model, target=changed)), strict=True
        ):
            assert after[:, : place + 1] == pytest.approx(before[:, : place + 1], abs=1e-6)
            assert np.abs(after[:, place + 1 :] - before[:, place + 1 :]).max() > 1e-4


@LOOKING
def test_padding_is_never_looked_at(model: str) -> None:
    """In a batch the shorter source ends earlier: behind its end there is nothing to see."""
    made = translator(model)
    short, long = BYTES.encode("ein"), BYTES.encode("ein langer Satz")
    tokens = torch.tensor([[BYTES.eos_id, *BYTES.encode("a")]])
    with torch.no_grad():
        with capture(made.model) as both:
            made.model(tokens.expand(2, -1), made.encode([short, long]))
        with capture(made.model) as alone:
            made.model(tokens, made.encode([short]))
    names = [name for name in both if name.endswith("/alignment") or "encoder" in name]
    assert names
    for name in names:
        (weights,), (own,) = both[name], alone[name]
        assert not weights[0, ..., len(short) + 1 :].any()
        rows = own.shape[2]
        assert torch.allclose(weights[0, :, :rows, : len(short) + 1], own[0], atol=1e-6)


@EVERY
def test_a_forced_target_is_the_models_own_where_both_are_the_same(model: str) -> None:
    made = translator(model)
    with torch.no_grad():
        made.model.vocabulary.bias[:] = -50.0
        for i, letter in enumerate("abc"):
            made.model.vocabulary.bias[ord(letter)] = 0.1 * i
        made.model.vocabulary.bias[BYTES.eos_id] = -0.5
    own = look_at_translation(made, SOURCE)
    ids = made.search([BYTES.encode(SOURCE)], Search())[0][0].tokens
    assert own.text == BYTES.decode(list(ids))
    assert own.text
    forced = look_at_translation(made, SOURCE, own.text)
    assert forced.to_json() | {"notices": []} == own.to_json() | {"notices": []}
    for name, values in own.maps.items():
        assert forced.maps[name] == pytest.approx(values)


@EVERY
def test_probabilities_are_those_of_the_model(model: str) -> None:
    """Of another step, or of a source that was cut, they would be of another token."""
    made = translator(model)
    shown = look_at_translation(made, SOURCE, TARGET)
    read = torch.tensor([[BYTES.eos_id, *BYTES.encode(TARGET)]])
    with torch.no_grad():
        hidden, _ = made.model(read, made.encode([BYTES.encode(SOURCE)]))
        shares = made.model.head(hidden)[0].softmax(dim=-1)
    comes = [*BYTES.encode(TARGET), BYTES.eos_id]
    expected = [float(shares[i, token]) for i, token in enumerate(comes)]
    assert [p.probability for p in shown.positions] == pytest.approx(expected, rel=1e-4)


def test_without_attention_the_vector_is_shown_and_that_is_said() -> None:
    shown = seen("seq2seq")
    assert not alignments(shown)
    assert shown.alignment is None
    assert "nothing to align" in shown.notices[0]
    assert "vector of 16 numbers" in shown.notices[0]
    picture = shown.pictures[0]
    assert picture.name == "vector"
    (heat,) = picture.panels
    assert shown.source is not None
    assert heat.values.flatten() == pytest.approx(shown.source.vector)
    names = [p.name for p in seen("seq2seq_attention").pictures]
    assert names == [
        *("alignment", "surprise", "gates", "memory-c"),
        *("source-gates", "source-memory-c"),
    ]


def test_every_layer_of_the_transformer_has_its_picture() -> None:
    """Decoder, encoder and what is between them each have a first layer."""
    shown = seen("transformer")
    stems = [
        f"{kind}-layer-{i}"
        for kind in ("alignment", "attention", "source-attention")
        for i in (1, 2)
    ]
    names = [p.name for p in shown.pictures]
    assert names == [*stems[:2], "surprise", *stems[2:]]
    heat = shown.pictures[0].panels[1]
    assert heat.title == "layer 1, head 2"
    assert list(heat.rows) == [*"a·dog", "(end)"]
    assert list(heat.columns) == [*"ein·Hund", "(end)"]
    inner = shown.pictures[-1].panels[0]
    assert list(inner.rows) == list(inner.columns) == [*"ein·Hund", "(end)"]
    assert shown.pictures[-1].title == "Attention, layer 2, within the source"


def test_a_source_as_long_as_its_target_is_still_not_taken_for_it() -> None:
    """Told by shape alone, weights of the target to itself would be drawn over the source."""
    shown = seen("transformer", "abcde", "vwxyz")
    columns = {p.name: list(p.panels[0].columns) for p in shown.pictures if "a" in p.name}
    assert columns["alignment-layer-1"] == [*"abcde", "(end)"]
    assert columns["attention-layer-1"] == ["(start)", *"vwxyz"]
    assert columns["source-attention-layer-1"] == [*"abcde", "(end)"]


@EVERY
def test_a_hostile_text_stays_text(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that somebody sends on must run nothing that its texts say."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # PNGs take seconds
    shown = seen(model, f"{PAYLOAD} مارس 語", PAYLOAD, max_tokens=200)
    for path in shown.save(tmp_path):
        if path.suffix == ".html":
            page = path.read_text(encoding="utf-8")
            assert_harmless(page, Page(page))
            assert Page(page).text.count("alert(1)") >= 1
        else:
            ElementTree.parse(path)


def test_pictures_are_files_that_can_be_opened(tmp_path: Path) -> None:
    paths = seen("seq2seq_attention").save(tmp_path)
    names = [path.name for path in paths]
    assert names[:3] == ["inspect.html", "alignment.svg", "alignment.png"]
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")
    assert "columns stand in the order of reading" not in paths[0].read_text("utf-8")
    words = train_tokenizer("char", ["مارس", SOURCE, TARGET])
    made = translator("seq2seq_attention")
    arabic = look_at_translation(Translator(made.model, words, words, 64), "مارس", TARGET)
    assert "columns stand in the order of reading" in arabic.pictures[0].caption


def test_of_long_texts_a_part_is_read_and_that_is_said() -> None:
    shown = seen("transformer", "x" * 100, "y" * 70)
    assert shown.source is not None
    assert (len(shown.source.tokens), len(shown.tokens)) == (64, 64)
    assert shown.notices == (
        "Of 100 tokens of the source the first 63 are read.",
        "Of 70 tokens of the target the first 63 are read.",
    )
    shown = seen("seq2seq_attention", "x" * 300, "y" * 300, max_tokens=1000)
    assert shown.notices[-1] == "Pictures show the last 64 tokens."
    (heat,) = shown.pictures[0].panels
    assert heat.values.shape == (64, 64)
    assert heat.rows[-1] == heat.columns[-1] == "(end)"
    ((weights,),) = [values for values in alignments(shown)]
    assert np.square(heat.values) == pytest.approx(weights[-64:, -64:], abs=1e-6)


def test_a_text_that_says_nothing_is_refused() -> None:
    for text in ("", "  \n"):
        with pytest.raises(UsageError, match="the text is empty"):
            seen("transformer", text)


def test_bytes_that_a_tokenizer_cannot_spell_are_counted() -> None:
    words = train_tokenizer("char", [SOURCE])
    made = translator("seq2seq")
    shown = look_at_translation(Translator(made.model, words, words, 64), "ein 語", "dé")
    assert "cannot spell 3 bytes of the source" in shown.notices[0]
    assert "cannot spell 2 bytes of the target" in shown.notices[1]


def test_a_look_leaves_the_model_as_it_was() -> None:
    made = translator("transformer")
    made.model.train()
    look_at_translation(made, SOURCE, TARGET)
    assert made.model.training
    assert all(p.grad is None for p in made.model.parameters())


# -- the command -----------------------------------------------------------------------------------


def test_a_run_is_looked_at_by_command(
    pair_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table on the terminal, a page beside the run, and the same from Python."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    capsys.readouterr()
    words = [str(pair_run), "eins 5", "--out", str(tmp_path)]
    assert main(["inspect", *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith("eins 5\n")
    assert "looks most at" in said
    assert (tmp_path / "alignment.svg").exists()
    assert main(["inspect", *words, "--target", "eins 5!", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["source"]["text"], values["text"]) == ("eins 5", "eins 5!")
    assert np.sum(values["alignment"], axis=1) == pytest.approx(1.0, abs=1e-5)
    shown = look(pair_run, "eins 5", target="eins 5!")
    assert json.loads(json.dumps(shown.to_json())).items() <= values.items()
    assert "Seq2SeqAttention" in shown.title


def test_a_target_belongs_to_a_translation(
    text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(text_run), "The dog", "--target", "Der Hund"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "does not translate: there is no target" in said
    assert "ensue inspect" in said
