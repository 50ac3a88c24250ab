"""Pairs: what is wrong with them is refused or left out, and said; what is right becomes tokens."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data import pairs
from ensue.data.notes import Notes
from ensue.data.pairs import PairCorpus, PairsConfig, choose_columns, is_swapped, prepare_pairs
from ensue.errors import DataError, EnsueError, UsageError
from ensue.tokenizers import load_tokenizer, train_tokenizer

ONE, TWO = "ein zwei drei vier fünf sechs".split(), "one two three four five six".split()


def made(count: int = 200, seed: int = 0) -> tuple[list[str], list[str]]:
    """Numbers in German and in English: no two pairs are alike."""
    chosen = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        words = chosen.choices(range(6), k=chosen.randint(2, 6))
        rows[" ".join(ONE[w] for w in words)] = " ".join(TWO[w] for w in words)
    return list(rows), list(rows.values())


def write(path: Path, lines: list[str], encoding: str = "utf-8", end: str = "\n") -> str:
    path.write_bytes("".join(line + end for line in lines).encode(encoding))
    return str(path)


def prepare(root: Path, **options: Any) -> PairCorpus:
    progress = options.pop("progress", lambda *_: None)
    return prepare_pairs(
        PairsConfig(cache=str(root / "cache"), **options),
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=progress,
    )


def two(root: Path, src: list[str], tgt: list[str], **options: Any) -> PairCorpus:
    names = write(root / "a.de", src), write(root / "a.en", tgt)
    return prepare(root, src=names[:1], tgt=names[1:], **options)


def read(corpus: PairCorpus, split: str = "train") -> list[tuple[str, str]]:
    """Decode the pairs of a split."""
    part = getattr(corpus, split)
    sides = []
    for ids_of, path in (
        (part.src_ids, corpus.src_tokenizer_path),
        (part.tgt_ids, corpus.tgt_tokenizer_path),
    ):
        tokenizer = load_tokenizer(path)
        sides.append([tokenizer.decode(ids_of(row)) for row in range(len(part))])
    return list(zip(*sides, strict=True))


def all_of(corpus: PairCorpus) -> list[tuple[str, str]]:
    return sorted(read(corpus) + read(corpus, "valid"))


def said(corpus: PairCorpus) -> str:
    return "\n".join(corpus.notes)


def test_pair_i_of_one_side_belongs_to_pair_i_of_the_other(tmp_path: Path) -> None:
    src, tgt = made()
    corpus = two(tmp_path, src, tgt)
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    assert len(corpus.valid) == 10
    train = read(corpus)
    assert train == [p for p in zip(src, tgt, strict=True) if p in set(train)]  # in their order
    assert corpus.train.src_lengths.tolist() == [len(a) + 1 for a, _ in train]  # the end too
    assert corpus.train.tgt_lengths.tolist() == [len(b) + 1 for _, b in train]
    assert corpus.src_tokenizer_path == corpus.tgt_tokenizer_path
    assert corpus.train.fingerprint != corpus.valid.fingerprint


def test_files_of_unequal_length_are_refused_with_the_place(tmp_path: Path) -> None:
    """The last line is never the one that is missing."""
    chosen = random.Random(1)
    src = ["x" * chosen.randint(5, 120) for _ in range(300)]
    tgt = [line.upper() + "!" for line in src]
    del tgt[120]
    with pytest.raises(DataError, match=r"300 lines, .*299: they are no pairs") as caught:
        two(tmp_path, src, tgt)
    place = int(caught.value.what.rpartition("about line ")[2])
    assert abs(place - 121) <= 1
    assert caught.value.hint.startswith(f"Look there: paste {tmp_path}/a.de {tmp_path}/a.en | sed")
    with pytest.raises(DataError, match=r"299 lines, .*300"):
        two(tmp_path, tgt, src)


def test_more_files_of_one_side_are_refused() -> None:
    with pytest.raises(UsageError, match="2 files for src, 1 for tgt"):
        PairsConfig(src=("a", "b"), tgt=("c",))
    with pytest.raises(UsageError, match="0 files for valid_src, 1 for valid_tgt"):
        PairsConfig(src=("a",), tgt=("c",), valid_tgt=("d",))


def test_the_same_file_twice_is_refused() -> None:
    """A model that copies would be learnt, with a wonderful score."""
    with pytest.raises(UsageError, match=r"a.de is given as src and as tgt"):
        PairsConfig(src=("a.de",), tgt=("a.de",))
    with pytest.raises(UsageError, match="column 'de' is given as source and as target"):
        PairsConfig(sources=("a.tsv",), src_column="de", tgt_column="de")


def test_the_same_file_by_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`a.de` and `./a.de` are spelt unlike, and one text."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.de", "a.en"):
        write(tmp_path / name, ["same"])
    (tmp_path / "link.de").symlink_to("a.de")
    for other in ("./a.de", str(tmp_path / "a.de"), "link.de"):
        with pytest.raises(UsageError, match=r"^a.de is given as src and as tgt"):
            PairsConfig(src=("x", "a.de"), tgt=(other, "y"))
        with pytest.raises(UsageError, match=r"^a.de is given to learn from and to validate on"):
            PairsConfig(src=("a.de",), tgt=("a.en",), valid_src=("x", other), valid_tgt=("y", "z"))
        with pytest.raises(UsageError, match=r"^a.de is given to learn from and to validate on"):
            PairsConfig(sources=("a.de",), valid=(other,))
    PairsConfig(src=("a.de", "no.de"), tgt=("a.en", "no.en"), valid_src=("no",), valid_tgt=("y",))


def test_a_copy_by_another_name_is_refused(tmp_path: Path) -> None:
    """Copying is learnt at once, with a wonderful score; some pairs may well be equal."""
    src, tgt = made()
    two(tmp_path, src, src[:190] + tgt[190:])
    with pytest.raises(DataError, match="191 of 200 pairs have two equal sides: that is the same"):
        two(tmp_path, src, src[:191] + tgt[191:])
    names = write(tmp_path / "v.de", ["neun", "zehn"]), write(tmp_path / "v.en", ["neun", "zehn"])
    with pytest.raises(DataError, match="2 of 2 pairs of the validation set have two equal sides"):
        two(tmp_path, src, tgt, valid_src=names[:1], valid_tgt=names[1:])


def test_folders_need_as_many_files_on_both_sides(tmp_path: Path) -> None:
    """One name each, but of two files and of one: it ended in an error of Python's."""
    src, tgt = made()
    for side in ("de", "en"):
        (tmp_path / side).mkdir()
    names = [write(tmp_path / "de" / "a.txt", src), write(tmp_path / "en" / "a.txt", tgt)]
    folders = {"src": (str(tmp_path / "de"),), "tgt": (str(tmp_path / "en"),)}
    assert len(prepare(tmp_path, **folders).train) > 100
    write(tmp_path / "de" / "b.txt", src)
    with pytest.raises(DataError, match="2 files of sources, 1 of targets") as caught:
        prepare(tmp_path, **folders)
    assert "b.txt" in caught.value.hint
    with pytest.raises(DataError, match="a set of a hub has no lines"):
        prepare(tmp_path, src=("hub:some",), tgt=(names[1],))


def test_half_a_surrogate_pair_is_no_end_of_the_run(tmp_path: Path) -> None:
    """JSON can spell it, as of an emoji that was cut; UTF-8 cannot."""
    rows = [{"src": f"hallo {i}", "tgt": f"hello {i}"} for i in range(200)]
    rows[7]["src"] += "\ud83d"
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = prepare(tmp_path, sources=(str(table),))
    assert len(corpus.train) + len(corpus.valid) == 200
    assert any("surrogate" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"valid_fraction": 1.0}, "valid_fraction is 1.0"),
        ({"max_ratio": 0.5}, "max_ratio is 0.5"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"tokenizer": "bpee"}, "did you mean 'bpe'"),
        ({"src_tokenizer": "charr"}, "did you mean 'char'"),
        ({"encoding": "utf-9"}, "unknown text encoding"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_read(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(EnsueError, match=words):
        PairsConfig(src=("a",), tgt=("b",), **options)


def test_what_teaches_nothing_is_left_out_counted_and_said(tmp_path: Path) -> None:
    src, tgt = made()
    bad_src = [
        "",
        "drei vier",
        "   ",
        src[7],
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ]
    bad_tgt = ["nothing", "\u00a0\t", "", tgt[7], "z"]
    corpus = two(tmp_path, src + bad_src, tgt + bad_tgt)
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    notes = said(corpus)
    assert "3 pairs left out with an empty side (the first: a.de:201, a.de:202, a.de:203)" in notes
    assert "1 pairs left out seen before (the first: a.de:204)" in notes
    assert "one side is more than 4 times too long (the first: a.de:205)" in notes
    assert str(tmp_path) not in notes, "notes enter cards and reports, which are shared"


def test_a_ratio_is_measured_against_the_usual_one(tmp_path: Path) -> None:
    """Chinese has three times fewer characters than English: that is no fault of a pair."""
    tgt = [f"{line} {line} {line}" for line in made()[1]]
    src = [line[: len(line) // 6] + str(i) for i, line in enumerate(tgt)]
    odd = ("x" * 90, "y" * 90)  # as long as its translation: unusual here
    corpus = two(tmp_path, [*src, odd[0]], [*tgt, odd[1]])
    assert "1 pairs left out of which one side is more than 4 times too long" in said(corpus)
    assert set(zip(src, tgt, strict=True)) == set(all_of(corpus))
    assert odd in all_of(two(tmp_path, [*src, odd[0]], [*tgt, odd[1]], max_ratio=0.0))


def test_what_the_validation_set_holds_is_not_trained_on(tmp_path: Path) -> None:
    src, tgt = made()
    valid = write(tmp_path / "v.de", [src[3].upper(), "neun", "", "neun"])
    other = write(tmp_path / "v.en", ["some other words", "nine", "x", "nine"])
    names = {"valid_src": (valid,), "valid_tgt": (other,)}
    corpus = two(tmp_path, src, tgt, tokenizer="byte", **names)
    assert read(corpus, "valid") == [(src[3].upper(), "some other words"), ("neun", "nine")]
    assert len(corpus.train) == 199
    assert src[3] not in [a for a, _ in read(corpus)]
    assert "1 pairs left out whose source is in the validation set too" in said(corpus)
    assert "1 pairs of the validation set left out with an empty side" in said(corpus)
    assert "1 pairs of the validation set left out seen before" in said(corpus)
    spelt = two(tmp_path, src, tgt, tokenizer="char", **names)
    assert "cannot spell 0 bytes of train and" in said(spelt)


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    """The score would be a division by zero, after the training."""
    src, tgt = made()
    names = write(tmp_path / "v.de", ["", "x"]), write(tmp_path / "v.en", ["y", ""])
    with pytest.raises(DataError, match="no pair is left to validate on"):
        two(tmp_path, src, tgt, valid_src=names[:1], valid_tgt=names[1:])


def test_where_nothing_is_left_it_is_said_why(tmp_path: Path) -> None:
    """What was left out was noted, and died with the error that sends its reader to look for it."""
    src, tgt = made()
    with pytest.raises(DataError) as caught:
        two(tmp_path, ["", "eins", " "], ["a", "", ""])
    assert caught.value.what.splitlines() == [
        "no pair is left to learn from",
        "  3 pairs left out with an empty side (the first: a.de:1, a.de:2, a.de:3)",
    ]
    names = write(tmp_path / "v.de", src), write(tmp_path / "v.en", tgt)
    with pytest.raises(DataError, match="200 pairs left out whose source is in the validation set"):
        two(tmp_path, src, tgt, valid_src=names[:1], valid_tgt=names[1:])
    names = write(tmp_path / "v.de", ["", "x"]), write(tmp_path / "v.en", ["y", ""])
    with pytest.raises(DataError) as caught:
        two(tmp_path, src, tgt, valid_src=names[:1], valid_tgt=names[1:])
    assert caught.value.what.splitlines() == [
        "no pair is left to validate on",
        "  2 pairs of the validation set left out with an empty side (the first: v.de:1, v.de:2)",
    ]
    with pytest.raises(DataError, match="there is none in what was named"):
        prepare(tmp_path, sources=(write(tmp_path / "a.tsv", ["src\ttgt"]),))


def test_equal_sources_stay_together_when_pairs_are_held_out(tmp_path: Path) -> None:
    src, tgt = made(100)
    corpus = two(tmp_path, src * 2, tgt + [f"{line} again" for line in tgt], valid_fraction=0.2)
    assert not {a for a, _ in read(corpus)} & {a for a, _ in read(corpus, "valid")}
    assert len(corpus.valid) == 40
    assert "40 of 200 pairs, chosen by a hash of their source, are valid" in said(corpus)
    with pytest.raises(DataError, match="too few to hold out"):
        two(tmp_path, src[:3], tgt[:3])


def test_a_validation_set_the_other_way_round_is_refused(tmp_path: Path) -> None:
    src, tgt = made()
    valid_src, valid_tgt = made(30, seed=9)
    names = write(tmp_path / "v.de", valid_src), write(tmp_path / "v.en", valid_tgt)
    with pytest.raises(DataError, match="the validation set is the other way round"):
        two(tmp_path, src, tgt, valid_src=names[1:], valid_tgt=names[:1])
    two(tmp_path, src, tgt, valid_src=names[:1], valid_tgt=names[1:])


def test_nothing_is_said_of_languages_without_spaces() -> None:
    one, other = frozenset(["今日は天気がいい"]), frozenset(["it is fine today"])
    assert not is_swapped((one, other), (frozenset(["明日"]), frozenset(["tomorrow"])))


@pytest.mark.parametrize(
    ("encoding", "end", "note"),
    [
        ("utf-8-sig", "\n", "byte-order mark of UTF-8"),
        ("utf-8", "\r\n", "CRLF"),
        ("utf-16", "\r\n", "byte-order mark of UTF-16"),
        ("latin-1", "\n", "guessed cp1252"),
    ],
)
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str, note: str) -> None:
    """A mark left on the first word, or a return on every last one, is learnt as a letter."""
    src, tgt = made()
    src = [line.replace("fünf", "Größe") for line in src]
    de = write(tmp_path / "a.de", src, encoding, end)
    en = write(tmp_path / "a.en", tgt)
    corpus = prepare(tmp_path, src=(de,), tgt=(en,))
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    assert note in said(corpus)


def test_gzipped_files_are_read(tmp_path: Path) -> None:
    src, tgt = made()
    de, en = tmp_path / "a.de.gz", tmp_path / "a.en.gz"
    for path, lines in ((de, src), (en, tgt)):
        path.write_bytes(gzip.compress("\n".join(lines).encode()))  # without a last line feed
    corpus = prepare(tmp_path, src=(str(de),), tgt=(str(en),))
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    de.write_bytes(de.read_bytes()[:-20])
    with pytest.raises(DataError, match="damaged or cut short"):
        prepare(tmp_path, src=(str(de),), tgt=(str(en),))


def test_several_files_are_read_in_turn(tmp_path: Path) -> None:
    src, tgt = made()
    names = [
        write(tmp_path / name, lines)
        for name, lines in (("1.de", src[:90]), ("2.de", src[90:]), ("1.en", tgt[:90]))
    ]
    last = write(tmp_path / "2.en", tgt[90:])
    corpus = prepare(tmp_path, src=tuple(names[:2]), tgt=(names[2], last))
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))


def crossed(root: Path, first: int, second: int) -> dict[str, tuple[str, ...]]:
    """Two pairs of files, the second one's languages exchanged."""
    one, other = made(first), made(second, seed=9)
    return {
        "src": (write(root / "a.de", one[0]), write(root / "b.en", other[1])),
        "tgt": (write(root / "a.en", one[1]), write(root / "b.de", other[0])),
    }


def test_languages_in_another_order_in_a_further_file_are_refused(tmp_path: Path) -> None:
    """Half of the pairs would teach the other direction; nothing else shows it."""
    files = crossed(tmp_path, 150, 200)
    with pytest.raises(
        DataError, match=r"b.en with .*b.de is the other way round than .*a.de"
    ) as e:
        prepare(tmp_path, **files)
    assert e.value.hint == f"Exchange {tmp_path}/b.en and {tmp_path}/b.de."
    src, tgt = made(60)
    valid = {"valid_src": files["src"], "valid_tgt": files["tgt"]}
    with pytest.raises(DataError, match=r"b.de is the other way round than"):
        prepare(
            tmp_path,
            src=(write(tmp_path / "t.de", src),),
            tgt=(write(tmp_path / "t.en", tgt),),
            **valid,
        )


def test_of_few_pairs_the_order_of_languages_is_not_judged(tmp_path: Path) -> None:
    assert len(all_of(prepare(tmp_path, **crossed(tmp_path, 150, 99)))) == 249
    files = crossed(tmp_path, 150, 99)
    others = made(1000, seed=3)
    write(tmp_path / "c.en", others[1])
    write(tmp_path / "c.de", others[0])
    files["src"] += (str(tmp_path / "c.en"),)
    files["tgt"] += (str(tmp_path / "c.de"),)
    with pytest.raises(DataError, match=r"c.de is the other way round than .*a.de"):
        prepare(tmp_path, **files)


def test_a_short_list_is_told_from_a_long_text(tmp_path: Path) -> None:
    """Of the words of the text the list knows few; the text knows all of those of the list."""
    chosen = random.Random(4)
    rows = [[chosen.randrange(60) for _ in range(3)] for _ in range(120)]
    rows += [[chosen.randrange(2000) for _ in range(6)] for _ in range(3000)]
    src, tgt = ([" ".join(f"{side}{w}" for w in row) for row in rows] for side in ("x", "y"))
    names = [
        write(tmp_path / name, lines)
        for name, lines in (("1", src[:120]), ("2", tgt[120:]), ("3", tgt[:120]), ("4", src[120:]))
    ]
    with pytest.raises(DataError, match="is the other way round than"):
        prepare(tmp_path, src=tuple(names[:2]), tgt=tuple(names[2:]))
    prepare(tmp_path, src=(names[0], names[3]), tgt=(names[2], names[1]), tokenizer="byte")


def test_the_order_of_languages_is_told_by_the_first_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of gigabytes are not held; that these run apart would be found at their end."""
    monkeypatch.setattr(pairs, "_WORDS_FROM", 150)
    files = crossed(tmp_path, 160, 1000)
    with open(files["src"][1], "a") as file:
        file.write("one\n")
    with pytest.raises(DataError, match="is the other way round than"):
        prepare(tmp_path, **files)


def test_one_pair_of_files_costs_no_look_at_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(of: object) -> None:
        raise AssertionError("words were gathered")

    monkeypatch.setattr(pairs, "words_of", refuse)
    two(tmp_path, *made())


def test_tables_with_their_columns_the_other_way_round_are_refused(tmp_path: Path) -> None:
    """The columns of each table are sniffed alone: by their order, where no name is known."""
    files = []
    for name, columns, seed in (("a.tsv", ("de", "en"), 0), ("b.tsv", ("en", "de"), 9)):
        sides = dict(zip(("de", "en"), made(seed=seed), strict=True))
        lines = zip(*(sides[c] for c in columns), strict=True)
        rows = [dict(zip(columns, line, strict=True)) for line in lines]
        files.append(table(tmp_path / name, rows))
    with pytest.raises(DataError, match=r"b.tsv is the other way round than .*a.tsv") as caught:
        prepare(tmp_path, sources=tuple(files))
    assert "--src-column A --tgt-column B" in caught.value.hint
    prepare(tmp_path, sources=tuple(files), src_column="de", tgt_column="en")


def table(path: Path, rows: list[dict[str, str]]) -> str:
    """Write rows as the file's name says."""
    if path.suffix == ".jsonl":
        return write(path, [json.dumps(row) for row in rows])
    sep, quote = ("\t", "") if path.suffix == ".tsv" else (",", '"')
    lines = [sep.join(rows[0])]
    lines += [sep.join(f"{quote}{cell}{quote}" for cell in row.values()) for row in rows]
    return write(path, lines)


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
@pytest.mark.parametrize(
    ("names", "options", "sniffed"),
    [
        (("source", "target"), {}, True),
        (("German", "English"), {}, True),
        (("German", "English"), {"src_column": "German", "tgt_column": "English"}, False),
        (("German", "English"), {"tgt_column": "English"}, True),
    ],
)
def test_columns_of_tables_are_named_or_sniffed(
    tmp_path: Path, form: str, names: tuple[str, str], options: dict[str, str], sniffed: bool
) -> None:
    src, tgt = made()
    rows = [dict(zip(names, pair, strict=True)) for pair in zip(src, tgt, strict=True)]
    corpus = prepare(tmp_path, sources=(table(tmp_path / f"a.{form}", rows),), **options)
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    words = f"source taken from column {names[0]!r}, target from {names[1]!r}"
    assert (words in said(corpus)) == sniffed


def test_columns_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    src, tgt = made(40)
    rows = [{"de": a, "en": b, "by": "me"} for a, b in zip(src, tgt, strict=True)]
    file = table(tmp_path / "a.tsv", rows)
    with pytest.raises(DataError, match="cannot be told") as caught:
        prepare(tmp_path, sources=(file,))
    assert "--src-column A --tgt-column B. Its columns: de, en, by" in caught.value.hint
    with pytest.raises(DataError, match="no column 'fr' that holds text"):
        prepare(tmp_path, sources=(file,), src_column="fr")
    corpus = prepare(tmp_path, sources=(file,), src_column="en", tgt_column="de")
    assert all_of(corpus) == sorted(zip(tgt, src, strict=True))


def test_columns_without_names_are_numbered(tmp_path: Path) -> None:
    """Tatoeba's tables have no names: the first pair was taken for them, and numbers refused."""
    src, tgt = made(40)
    lines = [f"{a}\t{b}\tCC-BY {i}" for i, (a, b) in enumerate(zip(src, tgt, strict=True))]
    file = write(tmp_path / "a.tsv", lines)
    corpus = prepare(tmp_path, sources=(file,), src_column="1", tgt_column="2")
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    with pytest.raises(DataError, match="no column '4'"):
        prepare(tmp_path, sources=(file,), src_column="4", tgt_column="2")


def test_names_of_columns_are_known_in_pairs() -> None:
    rows = [{"id": "7", "Answer": "b", "Question": "a", "context": "c"}]
    assert choose_columns(rows, "", "", "a.tsv", Notes()) == ("Question", "Answer")


def test_rows_that_are_no_pairs_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ['"only a text"'] * 20)
    with pytest.raises(DataError, match="single texts, and no pairs"):
        prepare(tmp_path, sources=(file,))
    file = write(tmp_path / "b.jsonl", ['{"src": "a", "tgt": "b"}', '{"src": "a"}'])
    with pytest.raises(DataError, match=r"b.jsonl:2: no key 'tgt'"):
        prepare(tmp_path, sources=(file,))


def test_right_to_left_and_cjk_text_and_control_characters(tmp_path: Path) -> None:
    """Python's `splitlines` would cut at U+2028 or U+0085, and shift all pairs that follow."""
    src, tgt = made(60)
    odd = [
        ("مرحبا بالعالم", "שלום עולם"),
        ("今日は天気がいい。", "今天天气很好。"),
        ("a\u2028b\u0085c\x0bd", "e\x1cf"),
        ("\x1b[31mred\x07", "\u202eder"),
        ("👩‍👩‍👧 é", "e\u0301"),
    ]
    corpus = two(tmp_path, [*src, *(a for a, _ in odd)], [*tgt, *(b for _, b in odd)])
    odd[2] = ("a b c d", "e f")  # white space of any kind is one space
    assert set(odd) <= set(all_of(corpus))
    assert len(all_of(corpus)) == 65


def test_a_very_long_sentence_is_whole(tmp_path: Path) -> None:
    src, tgt = made()
    long = " ".join(ONE[i % 6] for i in range(2000)), " ".join(TWO[i % 6] for i in range(2000))
    corpus = two(tmp_path, [*src, long[0]], [*tgt, long[1]], tokenizer="word")
    assert long in all_of(corpus)


@pytest.mark.parametrize("empty", ["a.de", "a.en", "both"])
def test_empty_files_are_refused(tmp_path: Path, empty: str) -> None:
    src, tgt = made(30)
    with pytest.raises(DataError, match="empty"):
        two(tmp_path, [] if empty != "a.en" else src, [] if empty != "a.de" else tgt)
    with pytest.raises(DataError, match="no pair is left to learn from"):
        two(tmp_path, ["", "", ""], ["", "x", ""])
    with pytest.raises(DataError, match="no pairs were named"):
        prepare(tmp_path)


def test_the_source_may_have_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    src, tgt = made()
    corpus = two(tmp_path, src, tgt, tokenizer="char", src_tokenizer="word")
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))
    one, other = map(load_tokenizer, (corpus.src_tokenizer_path, corpus.tgt_tokenizer_path))
    assert (one.kind, other.kind) == ("word", "char")
    assert "ü" not in other.to_json()  # of the target's text alone
    file = tmp_path / "t.json"
    other.save(file)
    given = two(tmp_path, tgt, src, tokenizer="bpe", vocab_size=300, src_tokenizer=str(file))
    assert given.src_tokenizer_path == file
    assert load_tokenizer(given.tgt_tokenizer_path).vocab_size <= 300


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe", "unigram"])
def test_every_tokenizer_gives_the_text_back(tmp_path: Path, kind: str) -> None:
    src, tgt = made()
    corpus = two(tmp_path, src, tgt, tokenizer=kind, vocab_size=0 if kind == "byte" else 300)
    assert all_of(corpus) == sorted(zip(src, tgt, strict=True))


def test_a_tokenizer_is_chosen_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "VOCABULARIES", ((1_000_000, 400), (float("inf"), 500)))
    few = two(tmp_path, *made(40))
    assert "tokenizer: char" in said(few)
    src, tgt = made(1800)
    many = two(tmp_path, src, [f"{line} and so on and so on" for line in tgt])
    assert "tokenizer: bpe, " in said(many)
    assert "choose with --tokenizer" in said(many)


def test_a_second_time_nothing_is_tokenised(tmp_path: Path) -> None:
    src, tgt = made()
    first = two(tmp_path, src, tgt, src_tokenizer="word")
    calls: list[str] = []
    second = two(
        tmp_path, src, tgt, src_tokenizer="word", progress=lambda stage, *_: calls.append(stage)
    )
    assert set(calls) == {"reading"}
    assert second.fingerprint == first.fingerprint
    assert second.notes == first.notes
    assert isinstance(second.train.src.ids, np.memmap)
    assert not list((tmp_path / "cache" / "tmp").iterdir())


def test_other_data_has_another_fingerprint(tmp_path: Path) -> None:
    src, tgt = made()
    first = two(tmp_path, src, tgt)
    seen = {first.fingerprint}
    seen.add(two(tmp_path, src, [*tgt[:-1], "six six"]).fingerprint)
    seen.add(two(tmp_path, [*src[:-1], "sechs sechs"], tgt).fingerprint)
    seen.add(two(tmp_path, src, tgt, valid_fraction=0.1).fingerprint)
    seen.add(two(tmp_path, src, tgt, tokenizer="byte").fingerprint)
    seen.add(two(tmp_path, src, tgt, src_tokenizer="byte").fingerprint)
    seen.add(two(tmp_path, src[::-1], tgt[::-1]).fingerprint)  # their order is that of training
    assert len(seen) == 7
    assert two(tmp_path, src, tgt).fingerprint == first.fingerprint
