"""Round trips, exactness against the library, and hostile files."""

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers as library
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.errors import DataError, EnsueError, UsageError
from ensue.tokenizers import EOS, LOSSLESS, UNK, Tokenizer, load_tokenizer, train_tokenizer
from ensue.tokenizers import tokenizer as module
from ensue.tokenizers.split import WordSplitter

TEXT = (
    "The quick brown fox doesn't jump; it's 42 years old!\n\n"
    "  Über-naïve café — 日本語のテキスト、と絵文字 👩‍👩‍👧 🎉\n\tdef f(x):\n        return x**2\n"
) * 30
TRICKY = [
    "",
    " ",
    "\n",
    "  \n\n x",
    "a\u0301e",
    "\x1c\x85\u2028",
    "١٢٣ ½ Ⅷ",
    EOS,
    f"a{UNK}b",
    "\x00",
    "'ll'LL",
]


def make(kind: str) -> Tokenizer:
    return train_tokenizer(kind, [TEXT], vocab_size=0 if kind == "byte" else 400)


MADE = {kind: make(kind) for kind in LOSSLESS}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_file_is_read_by_the_library_with_equal_ids(kind: str, tmp_path: Path) -> None:
    """A file that only ensue could read would tie its users to ensue."""
    path = tmp_path / "tokenizer.json"
    MADE[kind].save(path)
    theirs = library.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    for text in [TEXT, *TRICKY]:
        assert theirs.encode(text).ids == MADE[kind].encode(text), text
    assert theirs.get_vocab_size() == MADE[kind].vocab_size
    assert theirs.token_to_id(EOS) == MADE[kind].eos_id


@pytest.mark.parametrize("kind", LOSSLESS)
def test_saved_and_loaded_is_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    MADE[kind].save(path)
    loaded = load_tokenizer(path)
    assert (loaded.kind, loaded.vocab_size, loaded.fingerprint) == (
        kind,
        MADE[kind].vocab_size,
        MADE[kind].fingerprint,
    )
    assert loaded.encode(TEXT) == MADE[kind].encode(TEXT)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_text_survives_byte_level_tokenizers(kind: str, text: str) -> None:
    ids, unspelt = MADE[kind].encode_array(text)
    assert MADE[kind].decode(ids.tolist()) == text
    assert unspelt == 0
    assert ids.dtype == np.uint16


@pytest.mark.parametrize("kind", ["char", "word"])
@given(text=st.text(alphabet=[*sorted(set(TEXT)), "ж", "𝔘", "\u0300"], max_size=200))
@settings(max_examples=50, deadline=None)
def test_unknown_pieces_are_counted_in_bytes(kind: str, text: str) -> None:
    """Bits per byte charges 8 bits for each byte that cannot be spelt, so it must be exact."""
    tokenizer = MADE[kind]
    ids, unspelt = tokenizer.encode_array(text)
    decoded = tokenizer.decode(ids.tolist())
    lost = int((ids == tokenizer.encode("\U0001f9ff")[0]).sum())
    assert len(decoded.replace("\ufffd", "").encode()) + unspelt == len(text.encode())
    assert decoded.count("\ufffd") == lost
    if not unspelt:
        assert decoded == text


@pytest.mark.parametrize("style", ["bpe", "word"])
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=80, deadline=None)
def test_words_are_split_as_the_library_does(style: str, text: str) -> None:
    splitter = WordSplitter(style)
    theirs = [text[a:b] for _, (a, b) in splitter._probe(text)]
    assert splitter(text) == theirs


@pytest.mark.parametrize("kind", LOSSLESS)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_streamed_text_equals_decoded_text(kind: str, data: st.DataObject) -> None:
    """A reader of the stream must never see half a character, nor other text than decode's."""
    tokenizer = MADE[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)


def test_stream_holds_back_an_unfinished_character() -> None:
    stream = MADE["byte"].stream()
    pieces = [stream.push(id_) for id_ in MADE["byte"].encode("é🎉")]
    assert pieces == ["", "é", "", "", "", "🎉"]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_specials_spelt_in_text_are_plain_text(kind: str) -> None:
    """Otherwise a document that quotes the token could end itself."""
    ids = MADE[kind].encode(f"a{EOS}b")
    assert MADE[kind].eos_id not in ids
    assert MADE[kind].decode([MADE[kind].eos_id]) == ""


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lone_surrogate_does_not_crash(kind: str) -> None:
    assert MADE[kind].encode("a\ud800b") == MADE[kind].encode("a\ufffdb")
    train_tokenizer(kind, ["a\ud800b c"])


@pytest.mark.parametrize("kind", LOSSLESS)
def test_token_text_is_printable(kind: str) -> None:
    for id_ in range(MADE[kind].vocab_size):
        shown = MADE[kind].token_text(id_)
        assert shown
        assert shown.isprintable()
    assert MADE[kind].token_text(MADE[kind].eos_id) == EOS


def test_byte_ids_are_the_bytes() -> None:
    assert MADE["byte"].encode("AB") == [65, 66]
    assert (MADE["byte"].vocab_size, MADE["byte"].eos_id) == (257, 256)


def test_rarest_characters_are_dropped() -> None:
    tokenizer = train_tokenizer("char", ["aaabbc"], vocab_size=4)
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode_array("abc")[1] == 1


def test_training_is_deterministic_and_finds_merges() -> None:
    first, second = make("bpe"), make("bpe")
    assert first.fingerprint == second.fingerprint
    assert 300 < first.vocab_size <= 400
    assert len(first.encode(TEXT)) < 0.6 * len(TEXT.encode())


def test_learnt_merges_equal_the_librarys_own() -> None:
    """The digest of word counts must teach what the text itself would."""
    theirs = library.Tokenizer(library.models.BPE())
    theirs.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=399,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    theirs.train_from_iterator([TEXT], trainer)
    merges = json.loads(theirs.to_str())["model"]["merges"]
    assert json.loads(MADE["bpe"].to_json())["model"]["merges"] == merges


def test_a_script_without_spaces_teaches_merges() -> None:
    """A limit on the length of words must not leave out whole languages."""
    tokenizer = train_tokenizer("bpe", ["ありがとうございます" * 500], vocab_size=300)
    assert tokenizer.vocab_size > 270


def test_word_cache_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = MADE["bpe"].encode(TEXT)
    monkeypatch.setattr(module, "_CACHED_WORDS", 10)
    fresh = make("bpe")
    assert fresh.encode(TEXT) == expected
    assert fresh.encode("x" * 1000 + " quick") == MADE["bpe"].encode("x" * 1000 + " quick")
    assert len(fresh._words) <= 10


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'char'"):
        train_tokenizer("chars", ["a"])
    with pytest.raises(UsageError, match="vocabulary of 12"):
        train_tokenizer("bpe", ["a"], vocab_size=12)
    with pytest.raises(DataError, match="no text"):
        train_tokenizer("bpe", [])


def change(kind: str, **changes: object) -> str:
    document = json.loads(MADE[kind].to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
    return json.dumps(document)


HOSTILE = {
    "empty": "",
    "not json": "{",
    "deep": "[" * 100_000,
    "nan": '{"model": NaN}',
    "a list": "[]",
    "no model": "{}",
    "merge outside": change("bpe", model__merges=[["a", "zz"]]),
    "merge of three": change("bpe", model__merges=["a b c"]),
    "negative id": change("char", model__vocab={"a": -1, UNK: 0}),
    "huge id": change("char", model__vocab={"a": 1 << 70, UNK: 0}),
    "gap": change("char", model__vocab={"a": 5, UNK: 0}),
    "id is text": change("char", model__vocab={"a": "0", UNK: 1}),
    "bool id": change("char", model__vocab={"a": True, UNK: 0}),
    "lone surrogate": change("char", model__vocab={"\ud800": 0}),
    "long char": change("char", model__vocab={"ab": 0, UNK: 1, EOS: 2}),
    "bytes missing": change("byte", model__vocab={"a": 0}),
    "normalizer": change("bpe", normalizer={"type": "Lowercase"}),
    "prefix space": change("bpe", pre_tokenizer__add_prefix_space=True),
    "dropout": change("bpe", model__dropout=0.5),
    "no eos": change("bpe", added_tokens=[]),
    "foreign": change("bpe", model__type="WordPiece"),
    "pieces are no list": change("unigram", model__vocab={"a": 0}),
    "piece without a score": change("unigram", model__vocab=["a"]),
    "score above zero": change("unigram", model__vocab=[["a", 1.5]]),
    "score not a number": change("unigram", model__vocab=[["a", "b"]]),
    "pieces lack bytes": change("unigram", model__vocab=[["a", -1.0]]),
    "unigram of characters": change("unigram", pre_tokenizer__add_prefix_space=True),
    "added is no list": change("bpe", added_tokens={"a": 1}),
    "other pattern": change("word", pre_tokenizer__pattern={"Regex": "(a+)+$"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(HOSTILE[name], encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        load_tokenizer(path)


def test_missing_and_oversized_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.json")
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 10)
    MADE["bpe"].save(tmp_path / "t.json")
    with pytest.raises(DataError, match="too large"):
        load_tokenizer(tmp_path / "t.json")


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_mutated_files_raise_only_our_errors(data: st.DataObject) -> None:
    """A crafted file makes the library panic with a BaseException; no such thing may escape."""
    raw = bytearray(MADE[data.draw(st.sampled_from(["char", "bpe", "unigram"]))].to_json().encode())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        spec = module.parse(bytes(raw), "t.json")
        tokenizer = Tokenizer(spec, bytes(raw).decode())
        tokenizer.decode(tokenizer.encode("hello wörld"))
    except EnsueError:
        pass


def test_a_panic_of_the_library_becomes_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_args: object, **_kwargs: object) -> None:
        raise PanicException("index out of bounds")

    MADE["bpe"].save(tmp_path / "t.json")
    monkeypatch.setattr(module.models, "BPE", panic)
    with pytest.raises(DataError, match="index out of bounds"):
        load_tokenizer(tmp_path / "t.json")

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.models, "BPE", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(tmp_path / "t.json")


@pytest.mark.data
def test_gpt2_ids_equal_the_published_vectors(public_data: Path, tmp_path: Path) -> None:
    folder = public_data / "tokenizers" / "gpt2"
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    document = json.loads(MADE["bpe"].to_json())
    document["model"] |= {"vocab": vocab, "merges": lines}
    document["added_tokens"][0]["id"] = vocab[EOS]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    tokenizer = load_tokenizer(path)
    assert tokenizer.vocab_size == 50257
    vectors = (public_data / "tokenizers" / "gpt2_vectors.jsonl").read_text(encoding="utf-8")
    for line in vectors.splitlines():
        vector = json.loads(line)
        assert tokenizer.encode(vector["text"]) == vector["ids"]
