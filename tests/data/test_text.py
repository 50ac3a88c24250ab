"""Readers meet the files that people really have."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensue.data import Notes, encodings, open_documents, source, tables, text
from ensue.errors import DataError, EnsueError, MissingExtraError
from ensue.tokenizers import train_tokenizer


def read(*names: object, tmp: Path, **options: str) -> tuple[list[str], str]:
    notes = Notes()
    opened = open_documents([str(n) for n in names], notes=notes, scratch=tmp, **options)
    texts = ["".join(document.pieces) for document in opened]
    return texts, "\n".join(notes.lines())


@pytest.mark.parametrize(
    ("codec", "bom", "said"),
    [
        ("utf-8", b"", ""),
        ("utf-8", b"\xef\xbb\xbf", "byte-order mark of UTF-8"),
        ("utf-16-le", b"\xff\xfe", "byte-order mark of UTF-16"),
        ("utf-16-be", b"\xfe\xff", "byte-order mark of UTF-16"),
        ("utf-16-le", b"", "guessed UTF-16-LE"),
        ("utf-16-be", b"", "guessed UTF-16-BE"),
        ("utf-32-le", b"\xff\xfe\0\0", "byte-order mark of UTF-32"),
        ("cp1252", b"", "guessed cp1252"),
        ("latin-1", b"", "guessed"),
    ],
)
def test_encodings_are_found_and_said(codec: str, bom: bytes, said: str, tmp_path: Path) -> None:
    """A byte-order mark must not become a character, nor Latin-1 a crash or mojibake."""
    words = "Le café était fermé. Ça va?\n" * 20
    path = tmp_path / "a.txt"
    path.write_bytes(bom + words.encode(codec))
    texts, notes = read(path, tmp=tmp_path)
    assert texts == [words]
    assert said in notes
    assert bool(notes) == bool(said)


def test_late_accent_in_latin_1_is_still_read(tmp_path: Path) -> None:
    """The first accent of a Latin-1 book may stand beyond the first block that is read."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain words \n" * 200_000 + "café".encode("latin-1"))
    texts, notes = read(path, tmp=tmp_path)
    assert texts[0].endswith("café")
    assert "guessed" in notes


def test_encoding_that_is_named_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("привет мир".encode("koi8-r"))
    with pytest.raises(DataError, match=r"byte 0 is not UTF-8.*above 127"):
        read(path, tmp=tmp_path)
    assert read(path, tmp=tmp_path, encoding="koi8-r")[0] == ["привет мир"]
    for bad in ("utf-9", "zlib", "hex"):
        with pytest.raises(DataError, match="unknown text encoding"):
            read(path, tmp=tmp_path, encoding=bad)
    with pytest.raises(DataError, match="not readable as ascii"):
        read(path, tmp=tmp_path, encoding="ascii")


def test_damaged_utf_8_is_refused_with_its_offset(tmp_path: Path) -> None:
    """Reading it as Latin-1 would turn every accent of the file into two wrong characters."""
    path = tmp_path / "a.txt"
    path.write_bytes("日本語のテキスト".encode() * 10 + b"\xff" + "日本語".encode() * 10)
    with pytest.raises(DataError, match=r"a\.txt: byte 240 is not UTF-8.*damaged"):
        read(path, tmp=tmp_path)


def test_crlf_becomes_lf_even_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 3)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\rc\r\r\nd\r")
    texts, notes = read(path, tmp=tmp_path)
    assert texts == ["a\nb\rc\r\nd\r"]
    assert "CRLF line ends read as LF" in notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"abc\0def" + b"x" * 100, "zero byte at offset 3"),
        (b"x" * (1 << 20) + b"\0", "zero byte at offset 1,048,576"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"PK\x03\x04abc", "a zip archive"),
        (bytes(range(1, 32)) * 10, "control characters"),
    ],
)
def test_what_is_not_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path, tmp=tmp_path)
    assert "book.txt" in str(caught.value)
    assert caught.value.hint


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("a")
    with pytest.raises(DataError, match=r"no such file.*did you mean 'book\.txt'"):
        read(tmp_path / "bok.txt", tmp=tmp_path)
    with pytest.raises(DataError, match="nor a folder"):
        read(tmp_path / "no" / "book.txt", tmp=tmp_path)
    with pytest.raises(DataError, match="no data was named"):
        read(tmp=tmp_path)


def test_folder_is_read_in_order_and_says_what_it_skips(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "folder", tmp_path / "scratch"
    (folder / "b").mkdir(parents=True)
    scratch.mkdir()
    (folder / "b" / "2.md").write_text("two")
    (folder / "a.txt").write_text("one")
    (folder / "c.py").write_bytes("café".encode("latin-1"))
    (folder / ".hidden").write_text("no")
    (folder / "empty.txt").write_text("")
    (folder / "x.bin").write_bytes(b"\1\0\2")
    (folder / "late.bin").write_bytes(b"x" * 5000 + b"\0")
    (folder / "t.csv").write_text("text\nhello\n")
    (folder / "d.json").write_text("{}")
    texts, notes = read(folder, tmp=scratch)
    assert texts == ["one", "café", "two"]
    for said in (
        "hidden: .hidden",
        "empty: empty.txt",
        "binary: x.bin",
        "table among text files",
        "one JSON document",
        "4 files to read",
        "guessed cp1252",
        "skipped, a zero byte at offset 5,000",
    ):
        assert said in notes, notes


def test_folder_of_tables_is_read_as_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n')
    (tmp_path / "b.csv").write_text("text\nz\n")
    assert read(tmp_path, tmp=tmp_path)[0] == ["x", "y", "z"]


def test_folder_without_text_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\1\0\2")
    with pytest.raises(DataError, match=r"no readable text.*binary: x\.bin"):
        read(tmp_path, tmp=tmp_path)


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("zipped é".encode()))
    assert read(path, tmp=tmp_path)[0] == ["zipped é"]
    path.write_bytes(b"not zipped at all")
    assert read(path, tmp=tmp_path)[0] == ["not zipped at all"]


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    whole = gzip.compress(bytes(range(65, 90)) * 1000)
    for content in (whole[:-10], whole[:20], whole[:-8] + b"\0" * 8, whole[:15] + b"\xff" * 9):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged or cut short"):
            read(path, tmp=tmp_path)


def test_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_BOMB_BYTES", 1 << 20)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"a" * (8 << 20)))
    with pytest.raises(DataError, match="unzip to more than"):
        read(path, tmp=tmp_path)


def test_standard_input_is_read_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO("café".encode("latin-1"))

    monkeypatch.setattr(sys, "stdin", Stdin)
    texts, notes = read("-", tmp=tmp_path)
    assert texts == ["café"]
    assert "standard input" in notes


def test_usual_column_is_taken_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"id": "x" * 99, "text": f"row {i}"} for i in range(150)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    texts, notes = read(path, tmp=tmp_path)
    assert texts == [f"row {i}" for i in range(150)]
    assert "column 'text'" in notes
    assert read(path, tmp=tmp_path, text_column="id")[0][0] == "x" * 99
    with pytest.raises(DataError, match=r"no column 'txt'; did you mean 'text'"):
        read(path, tmp=tmp_path, text_column="txt")


def test_longest_column_is_taken_where_no_name_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('label,review\npos,"long, long\nwords"\nneg,others\n')
    texts, notes = read(path, tmp=tmp_path)
    assert texts == ["long, long\nwords", "others"]
    assert "column 'review'" in notes


def test_table_without_column_names_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(
        'a "stirring" film of more than sixty-four characters, all in one cell\t1\nbad\t0\n'
    )
    texts, notes = read(path, tmp=tmp_path)
    assert [len(t) for t in texts] == [69, 3]
    assert "no column names" in notes


def test_semicolons_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text;n\na, b;1\n")
    assert read(path, tmp=tmp_path)[0] == ["a, b"]


def test_malformed_json_lines_are_listed_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n[1]\n{"other": 1}\n{"text": 5}\n' + "[" * 100_000)
    with pytest.raises(DataError) as caught:
        read(path, tmp=tmp_path)
    message = caught.value.what
    for number, why in ((2, "not JSON"), (3, "list"), (4, "no key"), (5, "int"), (6, "usable")):
        assert f"a.jsonl:{number}: " in message
        assert why in message


def test_ragged_rows_are_listed_with_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,n\na,1\nb\n"c\nd",3\ne,4,5\n')
    with pytest.raises(DataError) as caught:
        read(path, tmp=tmp_path)
    assert "a.csv:3: 1 fields where the header has 2" in caught.value.what
    assert "a.csv:6: 3 fields" in caught.value.what


def test_open_quote_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,n\n"a,1\nb,2\n')
    with pytest.raises(DataError, match="malformed rows"):
        read(path, tmp=tmp_path)


def test_rows_without_text_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n')
    texts, notes = read(path, tmp=tmp_path)
    assert texts == ["a"]
    assert "2 rows without text skipped" in notes


def test_bare_strings_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"a"\n"b"\n')
    assert read(path, tmp=tmp_path)[0] == ["a", "b"]


def test_huge_row_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MAX_ROW_CHARS", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "x" * 3_000_000 + '"}')
    with pytest.raises(DataError, match="a line of more than 1,000"):
        read(path, tmp=tmp_path)


def test_plain_json_says_how_to_convert(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="JSON lines"):
        read(path, tmp=tmp_path)


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = arrow.table({"id": [1, 2, 3], "content": ["a", None, "c"], "z": ["x", "y", "z"]})
    parquet.write_table(table, path)
    texts, notes = read(path, tmp=tmp_path)
    assert texts == ["a", "c"]
    assert "column 'content'" in notes
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"PAR1nonsensePAR1", b"", whole[:-20] + b"\xff" * 20):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="not a readable Parquet"):
            read(path, tmp=tmp_path)
    parquet.write_table(arrow.table({"id": [1]}), path)
    with pytest.raises(DataError, match="no column holds text"):
        read(path, tmp=tmp_path)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"ensue\[hub\]"):
        read("hub:some/name", tmp=tmp_path)


def test_hub_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        config = SimpleNamespace()

        @staticmethod
        def load_dataset(name: str, split: str, streaming: bool) -> list[dict[str, object]]:
            if name != "me/mine":
                raise ConnectionError("offline")
            return [{"n": i, "text": f"{split} {i}"} for i in range(200)]

    monkeypatch.setitem(sys.modules, "datasets", Fake)
    assert read("hub:me/mine:test", tmp=tmp_path)[0][199] == "test 199"
    with pytest.raises(DataError, match=r"hub:other.*offline"):
        read("hub:other", tmp=tmp_path)


@given(
    st.lists(st.sampled_from(["word", " ", "\n", "  ", "\t", "'s", "x", "é", "12", "\u2028"])),
    st.integers(1, 9),
)
@settings(max_examples=60, deadline=None)
def test_pieces_join_to_the_text(words: list[str], size: int) -> None:
    texts = ["".join(words[i : i + 7]) for i in range(0, len(words), 7)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_REACH", 8)
        pieces = list(text.cut(texts, size))
    assert "".join(pieces) == "".join(texts)
    assert all(len(piece) <= size + 8 for piece in pieces)


@given(
    st.lists(
        st.sampled_from(["word", " ", "\n", "  ", "'s", "é", "12", "!", "\u3000"]), max_size=80
    )
)
@settings(max_examples=40, deadline=None)
def test_pieces_encode_as_the_whole(words: list[str]) -> None:
    """Tokens must not depend on where the reader happened to cut."""
    whole = "".join(words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "_REACH", 1000)
        for size in (1, 5, 20):
            pieces = list(text.cut([whole], 1)) if size == 1 else list(text.cut([whole], size))
    for match in (m for pattern in text._CUTS for m in pattern.finditer(whole)):
        a, b = whole[: match.end()], whole[match.end() :]
        assert BPE.encode(a) + BPE.encode(b) == BPE.encode(whole)
    assert "".join(pieces) == whole


BPE = train_tokenizer("bpe", ["word's é 12 words\n word é\n\n12!! é's " * 50], vocab_size=300)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_text_or_our_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a file holds, a user sees one of our messages, never a traceback."""
    suffix = data.draw(st.sampled_from([".txt", ".jsonl", ".csv", ".tsv", ".gz", ".parquet"]))
    seeds = [b'{"text": "a"}\n', b'text,n\n"a",1\n', b"a\tb\n", b"\x1f\x8b\x08\0", b"\xff\xfe", b""]
    content = data.draw(st.sampled_from(seeds)) + data.draw(st.binary(max_size=80))
    path = tmp_path_factory.mktemp("fuzz") / f"a{suffix}"
    path.write_bytes(content)
    try:
        read(path, tmp=path.parent)
        message = str(path)
    except EnsueError as error:
        message = str(error)
    assert str(path) in message


@pytest.mark.slow
def test_single_line_of_200_mb_is_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"x" * (1 << 20))
    opened = open_documents([str(path)], notes=Notes(), scratch=tmp_path)
    pieces = [len(piece) for document in opened for piece in document.pieces]
    assert sum(pieces) == 200 << 20
    assert max(pieces) < 3 << 20


def test_csv_limit_allows_a_document_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], ["word " * 100_000]])
    assert len(read(path, tmp=tmp_path)[0][0]) == 500_000
