"""A vector for each line: the encoder's own, whatever the batch; and `ensue embed` around it."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import PAIR_MODELS

from ensue.api import load_translator
from ensue.cli import main
from ensue.models import step_of
from ensue.tokenizers import train_tokenizer
from ensue.translator import Translator

BYTES = train_tokenizer("byte", [])
EVERY = pytest.mark.parametrize("model", list(PAIR_MODELS))
LINES = ["one", "a much longer line than the others", "", "two", "ünï 語", "  ", *"abcdefgh"]


def translator(model: str, max_tokens: int = 64) -> Translator:
    torch.manual_seed(0)
    config = replace(PAIR_MODELS[model], vocab_size=BYTES.vocab_size, dropout=0.5)
    if model == "transformer":
        config = replace(config, context_length=64)
    return Translator(step_of(config).model(config), BYTES, BYTES, max_tokens)


def vectors(made: Translator, lines: list[str]) -> np.ndarray:
    return np.stack([one.vector for one in made.embed(lines)])


def expected(made: Translator, line: str) -> np.ndarray:
    """What the equations say, of one line alone."""
    with torch.no_grad():
        memory = made.model.eval().encode(
            torch.tensor([[*BYTES.encode(line), BYTES.eos_id]]),
            torch.tensor([len(BYTES.encode(line)) + 1]),
        )
    places = memory.values[0].mean(dim=0) if hasattr(memory, "values") else memory.vector[0]
    return np.asarray(places)


@EVERY
@pytest.mark.parametrize("room", [1, 40, 100_000])
def test_company_and_order_change_no_vector(
    model: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are sorted by length and padded on their way; dropout is off."""
    monkeypatch.setattr("ensue.translator.BATCH_TOKENS", room)
    monkeypatch.setattr("ensue.translator.CHUNK_LINES", 5)
    made = translator(model)
    made.model.train()
    done: list[int] = []
    found = list(made.embed(iter(LINES), done.append))
    assert [one.source for one in found] == LINES
    assert made.model.training
    assert done == sorted(done)
    assert done[-1] == len([line for line in LINES if line.strip()])
    for one in found:
        if one.source.strip():
            assert one.vector == pytest.approx(expected(made, one.source), abs=1e-5)
        else:
            assert not one.vector.any()
    assert found[0].vector.dtype == np.float32
    assert not vectors(made, ["", ""]).any()
    assert list(made.embed([])) == []


@EVERY
def test_other_lines_have_other_vectors(model: str) -> None:
    found = vectors(translator(model), ["one", "two", "one", "eno"])
    assert found[0] == pytest.approx(found[2], abs=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[0] - found[3]).max() > 1e-3


@EVERY
def test_a_line_that_is_cut_has_the_mean_of_its_parts(model: str) -> None:
    made = translator(model, max_tokens=12)
    (one,) = made.embed(["0123456789 abc"])
    parts = [expected(made, part) for part in ("0123456789", "abc")]
    assert one.vector == pytest.approx((11 * parts[0] + 4 * parts[1]) / 15, abs=1e-5)
    assert "was cut" in one.notices[0]


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_bytes("eins 5\r\n\r\nzwei 7 語\r\n".encode())
    return path


def test_a_file_becomes_vectors_in_every_form(
    pair_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read back from each form, the numbers are the same to the last bit."""
    expected = vectors(load_translator(pair_run), ["eins 5", "", "zwei 7 語"])
    folder = text.parent
    for name in ("v.npy", "v.jsonl", "v.TSV"):
        words = ["embed", str(pair_run), "--file", str(text), "--out", str(folder / name)]
        assert main(words) == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        said = " ".join(captured.err.split())
        assert "3 vectors of 16 numbers" in said
        assert "1 line is blank" in said
        assert "line 3: the tokenizer cannot spell 3 bytes" in said
    assert np.array_equal(np.load(folder / "v.npy"), expected)
    rows = [json.loads(line) for line in (folder / "v.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == ["eins 5", "", "zwei 7 語"]
    assert np.array_equal(np.array([r["vector"] for r in rows], dtype=np.float32), expected)
    head, *lines = (folder / "v.TSV").read_text("utf-8").splitlines()
    assert head.split("\t") == ["text", *(f"v{i + 1}" for i in range(16))]
    numbers = [[np.float32(cell) for cell in line.split("\t")[1:]] for line in lines]
    assert np.array_equal(np.array(numbers), expected)


def test_words_and_standard_input_are_embedded(
    pair_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(pair_run)
    capsys.readouterr()
    assert main(["embed", run, "eins\tzwei", "drei"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["eins\tzwei", "drei"]
    stdin = io.TextIOWrapper(io.BytesIO(b"eins\tzwei\ndrei"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main(["embed", run]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_of_many_lines_with_a_notice_the_first_are_named(
    pair_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another script would print a line for each of its lines."""
    (tmp_path / "in.txt").write_text("語\n" * 20, encoding="utf-8")
    words = [str(pair_run), "--file", str(tmp_path / "in.txt"), "--out", str(tmp_path / "v.npy")]
    assert main(["embed", *words]) == 0
    said = capsys.readouterr().err
    assert said.count("cannot spell") == 5
    assert "the like of 15 more lines" in said


def test_mistakes_are_answered_with_what_to_do(
    pair_run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(pair_run), str(text)
    before = text.read_bytes()
    cases: list[tuple[list[Any], int, str]] = [
        ([run, "--file", file, "--out", "v.txt"], 2, "Name a file that ends in .npy"),
        ([run, "text", "--file", file], 2, "give texts or --file, not both"),
        ([run, "--file", file + "x"], 3, "lines.txtx"),
        ([run, "--file", file, "--out", str(text.parent / "no" / "v.npy")], 1, "cannot write"),
        ([str(text.parent), "text"], 4, "is not a run"),
    ]
    for words, code, said in cases:
        assert main(["embed", *words]) == code
        assert said in " ".join(capsys.readouterr().err.split())
    same = text.rename(text.with_suffix(".jsonl"))
    assert main(["embed", run, "--file", str(same), "--out", str(same)]) == 2
    assert "would be written over" in " ".join(capsys.readouterr().err.split())
    assert same.read_bytes() == before
