"""Vectors of a run that fills in, and ``ensue embed --nearest``: which lines mean the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import MASKED

import ensue
from ensue.cli import main
from ensue.embedding import Embedded, Embedder, nearest
from ensue.filler import MaskFiller
from ensue.models.bert import MaskedLM
from ensue.tokenizers import train_tokenizer
from ensue.vectors import vectors_of

TEXT = "the quick brown fox sleeps near one two three lazy dogs and cats\n" * 20
PIECES = train_tokenizer("wordpiece", [TEXT], vocab_size=120)
LINES = [
    "the fox",
    "a much longer line than the others of it",
    "",
    "two",
    "ünï 語",
    "  ",
    *"abcdef",
]


def filler(dropout: float = 0.5) -> MaskFiller:
    torch.manual_seed(0)
    config = replace(MASKED, vocab_size=PIECES.vocab_size, dropout=dropout)
    return MaskFiller(MaskedLM(config), PIECES)


def vectors(made: Embedder, lines: list[str]) -> np.ndarray:
    return np.stack([one.vector for one in made.embed(lines)])


@pytest.mark.parametrize("together", [1, 5, 64])
def test_company_and_order_change_no_vector(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are padded side by side, and dropout is off; each vector has length 1."""
    monkeypatch.setattr("ensue.filler.TOGETHER", together)
    made = filler()
    made.model.train()
    done: list[int] = []
    found = list(made.embed(iter(LINES), done.append))
    assert [one.source for one in found] == LINES
    assert made.model.training
    assert done == sorted(done)
    assert done[-1] == len([line for line in LINES if line.strip()])
    for one in found:
        if one.source.strip():
            assert one.vector == pytest.approx(vectors(made, [one.source])[0], abs=1e-5)
            assert float(np.linalg.norm(one.vector)) == pytest.approx(1.0, abs=1e-6)
        else:
            assert not one.vector.any()
    assert found[0].vector.dtype == np.float32
    assert not vectors(made, ["", ""]).any()
    assert list(made.embed([])) == []


def test_a_vector_is_the_mean_of_its_places() -> None:
    made = filler()
    ids = [2, *PIECES.encode("the quick fox"), 3]
    with torch.no_grad():
        hidden = made.model.eval()(torch.tensor([ids]), torch.tensor([len(ids)]))[0]
    mean = hidden.mean(dim=0)
    expected = np.asarray(mean / mean.norm())
    assert vectors(made, ["the quick fox"])[0] == pytest.approx(expected, abs=1e-5)


def test_of_a_long_line_the_beginning_is_read_and_that_is_said() -> None:
    made = filler()
    room = made.room
    long, short = made.embed(["the " * 500, "the " * room])
    assert long.notices == (f"read up to its piece {room}",)
    assert short.notices == ()
    assert long.vector == pytest.approx(short.vector, abs=1e-5)


def test_a_run_that_fills_in_can_be_looked_at_as_points(masked_run: Path) -> None:
    made = ensue.load_embedder(masked_run)
    assert isinstance(made, Embedder)
    found = vectors_of(made, ["the fox", "a dog", "number seven", "near it"])
    assert len(found.texts) == 4


# -- the nearest -------------------------------------------------------------------------------


def embedded(rows: np.ndarray) -> list[Embedded]:
    return [Embedded(source=f"line {i}", vector=row) for i, row in enumerate(rows, 1)]


def test_the_nearest_are_numpys() -> None:
    """By the angle, whatever the lengths; equal ones in the order of the file."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(60, 8)).astype(np.float32) * generator.uniform(0.1, 9, (60, 1))
    rows = rows.astype(np.float32)
    rows[7], rows[20] = 0, 3 * rows[3]
    queries = rows[[3, 5, 50]]
    found = nearest(embedded(queries), iter(embedded(rows)), 6)
    with np.errstate(invalid="ignore"):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, near in zip(queries, found, strict=True):
        cosine = np.nan_to_num(unit @ (query / np.linalg.norm(query)), nan=-2)
        order = np.argsort(-cosine, kind="stable")[:6]
        assert [n.similarity for n in near] == pytest.approx(cosine[order].tolist(), abs=1e-5)
        assert {n.line for n in near} == {int(i) + 1 for i in order}
        assert all(n.source == f"line {n.line}" for n in near)
    assert {found[0][0].line, found[0][1].line} == {4, 21}
    assert found[1][0].line == 6
    assert found[1][0].similarity == pytest.approx(1.0)
    few = nearest(embedded(queries), embedded(rows[:3]), 6)
    assert [len(near) for near in few] == [3, 3, 3]
    assert nearest([], embedded(rows), 3) == []


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes("the quick fox\r\n\r\nnumber 7 語\r\nsleeps near dogs\r\n".encode())
    return path


def test_a_file_becomes_vectors_in_every_form(
    masked_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read back from each form, the numbers are the same to the last bit."""
    lines = ["the quick fox", "", "number 7 語", "sleeps near dogs"]
    expected = vectors(ensue.load_filler(masked_run), lines)
    folder = text.parent
    for name in ("v.npy", "v.jsonl", "v.tsv"):
        words = ["embed", str(masked_run), "--file", str(text), "--out", str(folder / name)]
        assert main(words) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        said = " ".join(captured.err.split())
        assert "4 vectors of 16 numbers" in said
        assert "1 line is blank: its vector is zeros" in said
    assert np.array_equal(np.load(folder / "v.npy"), expected)
    rows = [json.loads(line) for line in (folder / "v.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == lines
    assert np.array_equal(np.array([r["vector"] for r in rows], dtype=np.float32), expected)
    head, *table = (folder / "v.tsv").read_text("utf-8").splitlines()
    assert head.split("\t") == ["text", *(f"v{i + 1}" for i in range(16))]
    numbers = [[np.float32(cell) for cell in line.split("\t")[1:]] for line in table]
    assert np.array_equal(np.array(numbers), expected)


def near_of(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[list[str]], str]:
    code = main(["embed", *words])
    found = capsys.readouterr()
    return code, [line.split() for line in found.out.splitlines()], found.err


def test_the_nearest_lines_are_printed_itself_first(
    masked_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["the quick fox", "", "number 7 語", "sleeps near dogs"]
    found = vectors(ensue.load_filler(masked_run), lines)
    words = [str(masked_run), "sleeps near dogs", "number 7 語", "--nearest", str(text)]
    code, rows, _ = near_of(capsys, *words)
    assert code == 0
    numbered = [row for row in rows if row and row[0][:2] in ("1.", "0.", "-0")]
    assert len(numbered) == 6  # of two queries three lines each: the blank one is none
    for query, mine in ((3, numbered[:3]), (2, numbered[3:])):
        assert (mine[0][0], mine[0][1]) == ("1.000", str(query + 1))
        cosine = found @ found[query]
        expected = sorted((0, 2, 3), key=lambda i: -cosine[i])
        assert [int(row[1]) - 1 for row in mine] == expected
        assert [float(row[0]) for row in mine] == pytest.approx(
            [cosine[i] for i in expected], abs=6e-4
        )
    code, rows, _ = near_of(capsys, *words, "--top-k", "1")
    assert len([row for row in rows if row and row[0] == "1.000"]) == 2


def test_queries_may_come_from_a_file(
    masked_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text.parent / "asked.txt").write_text("the quick fox\n\nsleeps near dogs\n")
    asked = ["--file", str(text.parent / "asked.txt"), "--nearest", str(text), "--top-k", "1"]
    code, rows, _ = near_of(capsys, str(masked_run), *asked)
    assert code == 0
    assert [row[1] for row in rows if row and row[0] == "1.000"] == ["1", "4"]


def test_runs_that_translate_have_nearest_lines_too(
    pair_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_text("eins 5\nzwei 7\n")
    code, rows, _ = near_of(
        capsys, str(pair_run), "zwei 7", "--nearest", str(tmp_path / "lines.txt")
    )
    assert code == 0
    assert next(row for row in rows if row and row[0] == "1.000")[1] == "2"


def test_mistakes_are_answered_with_what_to_do(
    masked_run: Path, text_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(masked_run), str(text)
    cases: list[tuple[list[Any], int, str]] = [
        ([run, "a", "--nearest", file, "--out", "v.npy"], 2, "--nearest prints lines, --out"),
        ([run, "a", "--nearest", file + "x"], 3, "lines.txtx"),
        ([run, "a", "--nearest", file, "--top-k", "0"], 2, "at least 1 is given"),
        ([run, "  ", "--nearest", file], 2, "there is nothing to look for"),
        ([str(text_run), "a text"], 2, "and not to write a sequence, given another or to fill in"),
    ]
    for words, code, said in cases:
        assert main(["embed", *words]) == code, words
        assert said in " ".join(capsys.readouterr().err.split())
