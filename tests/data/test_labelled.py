"""Labelled texts: where texts and labels stand, what is left out and said, what is refused."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensue.data.labelled import LabelledConfig, are_labelled, labelled_texts, prepare_labelled
from ensue.errors import DataError, UsageError


def quiet(*_: Any) -> None:
    pass


def prepared(*files: Path, **settings: Any) -> Any:
    return prepare_labelled(LabelledConfig(sources=tuple(map(str, files)), **settings), quiet)


def rows(count: int = 40) -> list[tuple[str, str]]:
    return [(f"text number {i} of all", "good" if i % 2 else "bad") for i in range(count)]


def write_csv(path: Path, found: list[tuple[str, str]], head: str = "text,label\n") -> Path:
    path.write_text(head + "".join(f"{t},{c}\n" for t, c in found), encoding="utf-8")
    return path


def test_a_table_names_its_columns(tmp_path: Path) -> None:
    found = prepared(write_csv(tmp_path / "a.csv", rows()))
    assert found.classes == ("bad", "good")
    assert found.columns == ("text",)
    assert (len(found.train), len(found.valid)) == (36, 4)
    assert np.bincount(found.valid.labels).tolist() == [2, 2]
    assert "text taken from 'text', label from 'label'" in " ".join(found.notes)


def forms(folder: Path) -> dict[str, Path]:
    made = {name: folder / f"a.{name}" for name in ("tsv", "jsonl", "label", "txt", "csv")}
    pairs = rows()
    made["tsv"].write_text("".join(f"{t}\t{int(c == 'good')}\n" for t, c in pairs))
    lines = [json.dumps({"id": i, "text": t, "label": i % 2}) for i, (t, _) in enumerate(pairs)]
    made["jsonl"].write_text("\n".join(lines))
    made["label"].write_text("".join(f"{c}:fine {t}\n" for t, c in pairs))
    made["txt"].write_text("".join(f"__label__{c} {t}\n" for t, c in pairs))
    quoted = "".join(f'"{t}, ""so"" it\nsays";{c}\n' for t, c in pairs)
    made["csv"].write_text("review;category\n" + quoted)
    made["gz"] = folder / "b.csv.gz"
    plain = write_csv(folder / "b.csv", pairs)
    made["gz"].write_bytes(gzip.compress(plain.read_bytes()))
    return made


@pytest.mark.parametrize("form", ["tsv", "jsonl", "label", "txt", "csv", "gz"])
def test_every_form_is_known_by_itself_and_read(form: str, tmp_path: Path) -> None:
    file = forms(tmp_path)[form]
    assert are_labelled(str(file))
    found = prepared(file, label_until=":")
    assert len(found.classes) == 2
    assert len(found.train) + len(found.valid) == 40
    assert sum(t.startswith("text number") for t in found.train.texts) == len(found.train)
    if form == "csv":
        assert found.train.texts[0].endswith('"so" it\nsays')


def test_parquet_with_numbers_for_labels(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"text": [t for t, _ in rows()], "label": [i % 3 for i in range(40)]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert are_labelled(str(tmp_path / "a.parquet"))
    assert prepared(tmp_path / "a.parquet").classes == ("0", "1", "2")


def test_texts_without_labels_are_no_labelled_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time\n" * 50)
    (tmp_path / "b.csv").write_text("title,text\n" + "".join(f"t{i},some {i}\n" for i in range(50)))
    (tmp_path / "c.tsv").write_text("".join(f"Guten Tag {i}\tGood day {i}\n" for i in range(50)))
    for name in ("a.txt", "b.csv", "c.tsv", "missing.csv"):
        assert not are_labelled(str(tmp_path / name))


def test_columns_that_are_named_are_taken_and_joined(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    head, body = (
        "id,title,body,stars,label\n",
        "".join(f"{i},title {i},body {i},{i % 5},x{i % 2}\n" for i in range(40)),
    )
    file.write_text(head + body)
    found = prepared(file, text_columns=("title", "body"), label_column="stars")
    assert found.classes == ("0", "1", "2", "3", "4")
    assert found.train.texts[0].startswith("title ")
    assert "body" in found.train.texts[0]
    with pytest.raises(DataError, match="no column 'starz'"):
        prepared(file, label_column="starz")


def test_what_looks_like_a_mistake_is_said(tmp_path: Path) -> None:
    found = [*rows(), ("only once", "rare"), ("shouted", "GOOD"), ("", "good"), ("nothing", "")]
    found += [("text number 1 of all", "bad")]
    notes = " ".join(prepared(write_csv(tmp_path / "a.csv", found)).notes)
    assert "1 rows without a text skipped (the first: a.csv:44)" in notes
    assert "1 rows without a label skipped (the first: a.csv:45)" in notes
    assert "1 texts stand under more than one label" in notes
    assert "differ in case or spaces alone" in notes
    assert "2 classes have one example" in notes
    assert "unbalanced" in notes


def test_a_given_split_is_kept_and_what_stands_in_both_is_said(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", rows())
    valid = write_csv(tmp_path / "dev.csv", [*rows()[:3], ("new", "good"), ("odd", "ugly")])
    found = prepared(train, valid=(str(valid),))
    assert (len(found.train), len(found.valid)) == (40, 5)
    assert found.valid.labels.tolist()[-1] == -1
    notes = " ".join(found.notes)
    assert "3 texts of valid also stand in train: its score flatters" in notes
    assert "1 labels are not among train's" in notes


def test_a_test_part_is_held_out_before_all(tmp_path: Path) -> None:
    found = prepared(write_csv(tmp_path / "a.csv", rows(100)), test_fraction=0.2)
    assert found.test is not None
    assert len(found.test) == 20
    assert len(found.valid) == 10
    assert not {*found.test.texts} & {*found.train.texts}


def test_another_file_is_numbered_by_what_was_learnt(tmp_path: Path) -> None:
    other = write_csv(tmp_path / "test.csv", [("a", "Good"), ("b", "bad"), ("c", "ugly")])
    config = LabelledConfig(sources=("x",))
    split, notes = labelled_texts([str(other)], ["bad", "good"], config, quiet)
    assert split.labels.tolist() == [1, 0, -1]
    assert "count as mistakes: 'ugly'" in " ".join(notes)


WRONG: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "empty": ("a.csv", "", {}, "the file is empty"),
    "one class": ("a.csv", "text,label\na,x\nb,x\n", {}, "1 class, 'x'"),
    "no label column": ("a.csv", "a,b,c\n" + "x,1,some\ny,2,more\n" * 15, {}, "cannot be told"),
    "ragged": ("a.csv", "text,label\na,x\nb\nc,y,z\n", {}, "a.csv:3: 1 fields"),
    "several": ("a.csv", "text,label\na,x\nb,y\nc,x;y\n", {}, "a.csv:4: several labels in one"),
    "list": ("a.jsonl", '{"text": "a", "label": ["x", "y"]}\n', {}, "several labels in a row"),
    "marks": ("a.txt", "__label__x __label__y a\n", {}, "a.txt:1: several labels before"),
    "numbers": (
        "a.csv",
        "text,label\n" + "".join(f"text {i},{i / 7:.3f}\n" for i in range(30)),
        {},
        "30 different labels in 30 rows: numbers",
    ),
    "names": (
        "a.csv",
        "text,label\n" + "".join(f"text {i},name{i}\n" for i in range(30)),
        {},
        "30 different labels in 30 rows: 'name0'",
    ),
    "long": ("a.csv", f"text,label\na,{'x' * 101}\nb,y\n", {}, "a label of 101 characters"),
    "names alone": ("a.csv", "text,label\n", {"label_column": "label"}, "no column besides"),
    "open quote": ("a.csv", 'text,label\na,x\n"b,y\nc,x\n', {}, "a.csv:3: a quote that is opened"),
    "no labels at all": ("a.csv", "text,label\na,\nb,\n", {}, "no row has a text and a label"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_what_cannot_be_learnt_is_refused_in_words(kind: str, tmp_path: Path) -> None:
    name, content, settings, said = WRONG[kind]
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        prepared(tmp_path / name, **settings)


def test_classes_their_balance_and_repeated_texts_are_said(tmp_path: Path) -> None:
    """`ensue train` named neither; `ensue plan` alone did."""
    found = [*rows(), *rows(10)]
    notes = " ".join(prepared(write_csv(tmp_path / "a.csv", found)).notes)
    assert "2 classes: 'bad' (25), 'good' (25)" in notes
    assert "10 texts stand there more than once: on one side each time" in notes


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_first_row_of_data_is_not_lost(order: tuple[int, int], tmp_path: Path) -> None:
    """Without names of columns it was taken for them: a row was lost, and text was learnt."""
    file = tmp_path / "a.csv"
    file.write_text("".join(f"{row[order[0]]},{row[order[1]]}\n" for row in rows()))
    assert are_labelled(str(file))
    found = prepared(file)
    assert found.classes == ("bad", "good")
    assert len(found.train) + len(found.valid) == 40


def test_names_that_stand_in_the_middle_again_are_names(tmp_path: Path) -> None:
    """Two tables that were joined have them twice."""
    file = write_csv(tmp_path / "a.csv", rows(), "comment,mood\n")
    file.write_text(file.read_text() * 2)
    found = prepared(file)
    assert found.columns == ("comment",)


def test_what_is_labelled_with_numbers_or_truth_is_learnt(tmp_path: Path) -> None:
    """A typed table has 1 and true, and no "1"."""
    file = tmp_path / "a.jsonl"
    for kinds, names in (((0, 1), ("0", "1")), ((False, True), ("false", "true"))):
        lines = (json.dumps({"text": f"some {i}", "label": kinds[i % 2]}) for i in range(40))
        file.write_text("\n".join(lines))
        assert prepared(file).classes == names


def test_very_long_texts_are_cut_and_empty_ones_left_out(tmp_path: Path) -> None:
    """Of 100,000 words, of one of 300,000 letters, and of none."""
    found = [*rows(), ("word " * 100_000, "good"), ("x" * 300_000, "bad"), (" ", "good")]
    file = write_csv(tmp_path / "a.csv", found)
    texts = prepared(file)
    assert len(texts.train) + len(texts.valid) == 42
    assert "1 rows without a text skipped" in " ".join(texts.notes)


@pytest.mark.data
def test_trec_is_read_with_its_one_byte_that_is_not_utf_8() -> None:
    """5,452 questions (Li & Roth 2002), none of them lost to the byte 0xF0 in one."""
    file = Path(os.environ["ENSUE_DATA"]) / "trec" / "train_5500.label"
    found = prepared(file, label_until=":")
    assert found.classes == ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    assert len(found.train) + len(found.valid) == 5452
    assert "not UTF-8; guessed cp1252" in " ".join(found.notes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.csv: no such file"):
        prepared(tmp_path / "missing.csv")


@pytest.mark.parametrize(
    "settings",
    [
        {"valid_fraction": 0.0},
        {"test_fraction": 0.95},
        {"max_words": 0},
        {"label_column": "a", "text_columns": ("a",)},
        {"valid": ("x.csv",)},
        {"encoding": "utf-9"},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises((UsageError, DataError)):
        LabelledConfig(sources=("x.csv",), **settings)


def test_other_encodings_are_guessed_and_said(tmp_path: Path) -> None:
    lines = "".join(f"{c} café {t}\n" for t, c in rows())
    (tmp_path / "a.label").write_bytes(lines.encode("cp1252"))
    found = prepared(tmp_path / "a.label")
    assert found.train.texts[0].startswith("café")
    assert "not UTF-8; guessed cp1252" in " ".join(found.notes)
