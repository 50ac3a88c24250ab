"""Word pieces: the library's ids on any text, the same file each time, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.cli import main
from ensue.errors import DataError, UsageError
from ensue.tokenizers import CLS, MASK, PAD_PIECE, SEP, Tokenizer, load_tokenizer, train_tokenizer
from ensue.tokenizers.split import BertSplitter

TEXT = (
    "The quick brown fox doesn't jump; it's 42 years old!\n\n"
    "  Über-naïve café — 日本語のテキスト、と絵文字 🎉\n\tdef f(x):\n        return x**2\n"
    "Ärger in São Paulo, ÉTÉ à Łódź: playing, played, plays; unplayable\n"
) * 30
TRICKY = [
    "",
    " ",
    "\n\t\r",
    "CAFÉ cafe\u0301 É",
    "ÄÖÜß straße STRASSE İstanbul",
    "日本語 漢字kanji漢 한국어",
    "a\x00b\ufffdc\x01d\x7fe",
    "a\x1cb\x1d c\x1fd",
    "a\x85b\u2028c\u2029d",
    "a\u3000b\xa0c\u200bd\u00ade",
    "x" * 100,
    "x" * 101 + " y",
    "quick" * 30,
    "👩‍👩‍👧 🎉🎉 ☺️",
    "don't can't 'll'LL --- ... $5.00 50% a_b c/d <e>",
    f"{CLS} a {SEP} b{MASK}c {PAD_PIECE} [UNK]",
    "##ing # ## ing",
    "١٢٣ ½ Ⅷ ﬁ",
]
KINDS = ("wordpiece", "wordpiece-cased")
EVERY = pytest.mark.parametrize("kind", KINDS)
MADE = {kind: train_tokenizer(kind, [TEXT], vocab_size=300) for kind in KINDS}


def theirs(made: Tokenizer) -> library.Tokenizer:
    """The library's own reading of our file; marks that are spelt in a text are text to it too."""
    found = library.Tokenizer.from_str(made.to_json())
    found.encode_special_tokens = True
    return found


@EVERY
def test_ids_are_the_librarys_on_tricky_text(kind: str) -> None:
    """A fast path that cleans or splits otherwise gives a published model words it never saw."""
    other = theirs(MADE[kind])
    for text in [TEXT, *TRICKY, " ".join(TRICKY)]:
        expected = other.encode(text, add_special_tokens=False).ids
        assert MADE[kind].encode(text) == expected, repr(text)


@EVERY
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
@settings(max_examples=60, deadline=None)
def test_ids_are_the_librarys_on_any_text(kind: str, text: str) -> None:
    assert MADE[kind].encode(text) == theirs(MADE[kind]).encode(text, add_special_tokens=False).ids


@EVERY
def test_words_met_twice_are_split_as_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands between spaces is remembered: a full memory must change nothing."""
    fresh = BertSplitter(lowercase=kind == "wordpiece")
    once = fresh(TEXT)
    assert fresh(TEXT) == once
    monkeypatch.setattr("ensue.tokenizers.split._KNOWN", 3)
    assert fresh(TEXT) == once
    assert fresh("a b c") == ["a", "b", "c"]
    assert len(fresh._known) <= 4


@EVERY
def test_the_library_frames_texts_as_a_model_reads_them(kind: str) -> None:
    """Other programs take the frame from the file: without it, a model would see no [CLS]."""
    made, other = MADE[kind], theirs(MADE[kind])
    ids = made.specials
    expected = [ids[CLS], *made.encode("the fox"), ids[SEP]]
    assert other.encode("the fox").ids == expected
    pair = other.encode("the fox", "a café")
    assert pair.ids == [*expected, *made.encode("a café"), ids[SEP]]
    assert pair.type_ids == [0] * len(expected) + [1] * (len(pair.ids) - len(expected))
    assert other.get_vocab_size() == made.vocab_size


@EVERY
def test_two_trainings_give_the_same_file(kind: str) -> None:
    """The library alone numbers letters differently each time: every id would be another's."""
    again = [train_tokenizer(kind, [TEXT], vocab_size=300) for _ in range(3)]
    halves = train_tokenizer(kind, [TEXT[: len(TEXT) // 2], TEXT[len(TEXT) // 2 :]], vocab_size=300)
    assert {made.to_json() for made in (*again, halves)} == {MADE[kind].to_json()}


def test_case_and_accents_are_kept_only_where_asked() -> None:
    lower, cased = MADE["wordpiece"], MADE["wordpiece-cased"]
    assert lower.encode("THE Café") == lower.encode("the cafe")
    assert cased.encode("The") != cased.encode("the")
    assert cased.encode("café") != cased.encode("cafe")
    shown = [cased.token_text(i) for i in cased.encode("The Ärger")]
    assert "".join(shown).replace("##", "") == "TheÄrger"


@EVERY
def test_saved_and_loaded_is_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    MADE[kind].save(path)
    loaded = load_tokenizer(path)
    assert loaded.kind == "wordpiece"
    assert (loaded.vocab_size, loaded.fingerprint) == (
        MADE[kind].vocab_size,
        MADE[kind].fingerprint,
    )
    assert loaded.encode(TEXT) == MADE[kind].encode(TEXT)
    assert loaded.eos_id == loaded.specials[SEP]
    assert np.array_equal(loaded.continues, MADE[kind].continues)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert library.Tokenizer.from_file(str(path)).get_vocab_size() == loaded.vocab_size


@EVERY
def test_pieces_join_to_words_and_stream_alike(kind: str) -> None:
    made = MADE[kind]
    ids = made.encode("unplayable fox")
    assert made.decode(ids) == " unplayable fox"
    stream = made.stream()
    assert "".join(map(stream.push, ids)) + stream.flush() == made.decode(ids)
    begins = [made.token_text(i) for i in ids if not made.continues[i]]
    assert len(begins) == 2
    assert not any(piece.startswith("##") for piece in begins)


@EVERY
def test_what_is_unknown_is_counted_in_bytes(kind: str) -> None:
    """A word with one unknown letter is unknown as a whole."""
    ids, unspelt = MADE[kind].encode_array("fox ж foxж")
    assert ids.tolist().count(MADE[kind].unk_id) == 2
    assert unspelt == 2 + 5
    assert MADE[kind].encode("a\ud800b") == MADE[kind].encode("a\ufffdb")


def test_the_commonest_letters_are_all_there() -> None:
    """A vocabulary too small for its letters would make common words unknown."""
    made = train_tokenizer("wordpiece", ["abcdefghijklmnopqrstuvwxyz" * 3] * 2, vocab_size=64)
    assert made.unk_id not in made.encode("zebra quiz")
    assert made.token_text(0) == PAD_PIECE


def test_a_vocabulary_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="vocabulary of 12"):
        train_tokenizer("wordpiece", ["a"], vocab_size=12)
    with pytest.raises(DataError, match="no text"):
        train_tokenizer("wordpiece", [" \n"])


def change(**changes: object) -> str:
    document = json.loads(MADE["wordpiece"].to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
    return json.dumps(document)


def without(mark: str) -> str:
    document = json.loads(MADE["wordpiece"].to_json())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != mark]
    vocab = document["model"]["vocab"]
    gone = vocab.pop(mark)
    document["model"]["vocab"] = {t: i - (i > gone) for t, i in vocab.items()}
    for token in document["added_tokens"]:
        token["id"] -= token["id"] > gone
    return json.dumps(document)


REFUSED = {
    "other normalizer": (change(normalizer={"type": "Lowercase"}), "normalizer is not BERT's"),
    "no normalizer": (change(normalizer=None), "normalizer is not a JSON object"),
    "accents against case": (change(normalizer__strip_accents=False), "normalizer is not BERT's"),
    "no clean text": (change(normalizer__clean_text=False), "normalizer is not BERT's"),
    "other prefix": (change(model__continuing_subword_prefix="@@"), "does not begin with '##'"),
    "other unknown": (change(model__unk_token="<unk>"), "unknown token is not"),
    "longer words": (change(model__max_input_chars_per_word=200), "longest word"),
    "other words": (change(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is not BERT's"),
    "no [MASK]": (without(MASK), r"no special token '\[MASK\]'"),
    "no [PAD]": (without(PAD_PIECE), r"no special token '\[PAD\]'"),
    "gap": (change(model__vocab={"a": 9, "[UNK]": 1}), "no special token|without gaps|two ids"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_reads_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    """Read in our way, its model would see other words than it was trained on, and nobody know."""
    document, why = REFUSED[name]
    (tmp_path / "tokenizer.json").write_text(document, encoding="utf-8")
    with pytest.raises(DataError, match=rf"tokenizer\.json: not a tokenizer .*({why})"):
        load_tokenizer(tmp_path / "tokenizer.json")


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_mutated_files_raise_only_our_errors(data: st.DataObject) -> None:
    """A crafted file makes the library panic with a BaseException; no such thing may escape."""
    from ensue.errors import EnsueError
    from ensue.tokenizers.spec import parse

    raw = bytearray(MADE["wordpiece"].to_json().encode())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        tokenizer = Tokenizer(parse(bytes(raw), "t.json"), bytes(raw).decode())
        tokenizer.decode(tokenizer.encode("hello wörld"))
    except EnsueError:
        pass


TRAINED = ["--steps", "2", "--size", "xs", "--train.threads", "1"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A text, pairs, and tokenizers of both sorts."""
    (tmp_path / "book.txt").write_text("The quick brown fox sleeps.\n" * 50)
    pairs = "".join(f"eins {i}\tone {i}\n" for i in range(90))
    (tmp_path / "a.tsv").write_text(f"src\ttgt\n{pairs}")
    MADE["wordpiece"].save(tmp_path / "pieces.json")
    train_tokenizer("bpe", [TEXT], vocab_size=300).save(tmp_path / "bpe.json")
    return {file.stem: str(file) for file in tmp_path.iterdir()}


@pytest.mark.parametrize("task", ["lm", "translate"])
def test_text_that_is_written_needs_a_tokenizer_that_spells_it(
    files: dict[str, str], task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word pieces lose case and spaces: what a model wrote could not be what it had read."""
    data = files["book" if task == "lm" else "a"]
    words = [data, "--task", task, "--tokenizer", files["pieces"], "--out", str(tmp_path / "r")]
    assert main(["train", *words, *TRAINED]) == 3
    said = capsys.readouterr().err
    assert "this task needs one that spells text as it was" in " ".join(said.split())
    assert not (tmp_path / "r" / "plan.json").exists()


def test_masking_needs_a_tokenizer_with_a_mask(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [files["book"], "--task", "mlm", "--tokenizer", files["bpe"]]
    assert main(["train", *words, *TRAINED, "--out", str(tmp_path / "r")]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "a bpe tokenizer; this task needs one that has a token [MASK]" in said
    assert "--tokenizer wordpiece" in said
    kind = [files["book"], "--task", "mlm", "--tokenizer", "bpe"]
    assert main(["train", *kind, *TRAINED, "--out", str(tmp_path / "r")]) == 2
    assert "unknown tokenizer 'bpe'" in capsys.readouterr().err


@pytest.mark.data
def test_ids_equal_the_published_vectors(public_data: Path, tmp_path: Path) -> None:
    """One row spells marks in its text: to the published code they are marks, to ensue text."""
    folder = public_data / "tokenizers"
    words = (folder / "bert-base-uncased" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    document = json.loads(MADE["wordpiece"].to_json())
    document["model"]["vocab"] = vocab = {word: i for i, word in enumerate(words)}
    for token in document["added_tokens"]:
        token["id"] = vocab[token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.vocab_size == 30522
    lines = (folder / "bert_vectors.jsonl").read_text(encoding="utf-8").split("\n")
    vectors = [json.loads(line) for line in lines if line]
    assert len(vectors) == 405
    other = []
    for vector in vectors:
        if tokenizer.encode(vector["text"]) != vector["ids"][1:-1]:
            other.append(vector["text"])
    (spelt,) = other
    assert MASK in spelt
    assert tokenizer.specials[MASK] not in tokenizer.encode(spelt)
