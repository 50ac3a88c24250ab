"""Sentences in two dimensions: the right directions, the right colours, and words that are true."""

import csv
import io
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

from ensue import vectors
from ensue.cli import main
from ensue.errors import UsageError
from ensue.models import step_of
from ensue.tokenizers import train_tokenizer
from ensue.translator import Translator
from ensue.vectors import principal, vectors_of
from ensue.views.scatter import NAMED, Scatter
from ensue.views.vectors import vector_pictures

BYTES = train_tokenizer("byte", [])


def translator() -> Translator:
    config = replace(PAIR_MODELS["seq2seq"], vocab_size=BYTES.vocab_size, dropout=0.0)
    return Translator(step_of(config).model(config), BYTES, BYTES, 64)


def seen(groups: list[str], texts: list[str] | None = None) -> dict[str, Any]:
    texts = texts or [f"sentence {i * i}" for i in range(len(groups))]
    return vectors_of(translator(), texts, groups, "kind").to_json()


def test_the_directions_are_those_of_the_largest_variance() -> None:
    """Against the eigenvectors of the covariance, computed otherwise."""
    torch.manual_seed(1)
    cloud = torch.randn(200, 6, dtype=torch.float64) @ torch.diag(
        torch.tensor([1.0, 5.0, 0.5, 3.0, 0.1, 2.0], dtype=torch.float64)
    )
    turn, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    cloud = cloud @ turn + 7.0
    points, shares = principal(cloud, 2)
    values, directions = torch.linalg.eigh(cloud.T.cov())
    assert shares == pytest.approx((values / values.sum()).flip(0)[:2].tolist())
    expected = (cloud - cloud.mean(dim=0)) @ directions.flip(1)[:, :2]
    for i in range(2):
        sign = torch.sign((points[:, i] * expected[:, i]).sum())
        assert torch.allclose(points[:, i], sign * expected[:, i], atol=1e-8)
    again, _ = principal(cloud, 2)
    assert torch.equal(points, again)
    mirrored, _ = principal(-(cloud - cloud.mean(dim=0)), 2)
    assert torch.allclose(mirrored, -points, atol=1e-8)


def test_vectors_that_are_all_alike_are_one_point() -> None:
    points, shares = principal(torch.ones(4, 3), 2)
    assert not points.any()
    assert shares == [0.0, 0.0]


def test_neighbours_are_counted_in_all_dimensions() -> None:
    """Two groups that differ only in the third direction: the picture cannot tell them apart."""
    torch.manual_seed(0)
    wide = torch.randn(60, 2, dtype=torch.float64) * 10
    groups = ["a", "b"] * 30
    third = torch.tensor([[0.0], [100.0]], dtype=torch.float64).repeat(30, 1)
    assert vectors._neighbours(torch.cat([wide, third], dim=1), groups) == 1.0
    assert 0.2 < vectors._neighbours(wide, groups) < 0.8
    assert vectors._chance(groups) == pytest.approx(29 / 59)
    assert vectors._chance(["a", "b", "c"]) == 0.0


def test_blank_lines_and_doubles_are_left_out_and_many_are_chosen_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vectors, "MOST", 10)
    texts = [f"line {i}" for i in range(40)] + ["", " ", "line 3"]
    found = vectors_of(translator(), texts, [str(i % 3) for i in range(43)])
    assert found.texts == tuple(f"line {i}" for i in range(0, 40, 4))
    assert found.groups == tuple(str(i % 3) for i in range(0, 40, 4))
    assert found.notices == (
        "3 blank lines and doubles are left out.",
        "Of 40 sentences 10, evenly spread, are shown.",
    )


def clouds(values: dict[str, Any]) -> dict[str, Any]:
    (panel,) = vector_pictures(values)[0].panels
    assert isinstance(panel, Scatter)
    return {cloud.name: cloud for cloud in panel.clouds}


def test_each_sentence_has_the_colour_of_its_group() -> None:
    groups = ["b", "a", "10", "9", "b", "a"]
    values = seen(groups)
    found = clouds(values)
    assert list(found) == ["9", "10", "a", "b"]  # numbers by their size
    points = np.array(values["points"])
    for name, cloud in found.items():
        own = [i for i, group in enumerate(groups) if group == name]
        assert cloud.points == pytest.approx(points[own])
        assert list(cloud.texts) == [values["texts"][i] for i in own]
    assert len({(cloud.look, cloud.square) for cloud in found.values()}) == 4
    alone = vector_pictures(values)[1]
    assert [panel.title for panel in alone.panels] == ["9 (1)", "10 (1)", "a (2)", "b (2)"]
    for panel in alone.panels:
        others, own = panel.clouds
        assert len(others.points) + len(own.points) == len(groups)


def test_of_many_groups_the_commonest_have_a_look_of_their_own() -> None:
    names = [*(f"g{i}" for i in range(NAMED + 3)), ""]
    groups = names + names[4:]  # the first four are rare, and some have none
    found = clouds(seen(groups))
    assert len(found) == NAMED + 1
    assert set(names[:4]).isdisjoint(found)
    assert (len(found["4 others"].points), len(found["(none)"].points)) == (4, 2)
    assert next(iter(found)) == "4 others"  # below all others
    looks = {(c.look, c.square) for c in found.values()}
    assert len(looks) == NAMED + 1


def test_many_numbers_are_coloured_by_their_range() -> None:
    groups = [str(1900 + 3 * i) for i in range(30)]
    found = clouds(seen(groups))
    assert next(iter(found)) == "1900 to 1912"
    assert [cloud.look for cloud in found.values()] == [f"r{i}" for i in range(6)]
    assert sum(len(cloud.points) for cloud in found.values()) == 30
    few = clouds(seen([str(i % 4) for i in range(12)]))
    assert list(few) == ["0", "1", "2", "3"]


def test_points_stand_where_they_belong() -> None:
    """A flipped axis looks as good as a right one."""
    corner = np.array([0.0, 0.0]), np.array([2.0, 1.0])
    panel = Scatter("", [], "across", "up", *corner, side=100)
    places = panel._places(np.array([[0.0, 0.0], [2.0, 1.0], [1.0, 0.5]]))
    assert places.tolist() == [[1.0, 51.0], [101.0, 1.0], [51.0, 26.0]]


def test_words_say_what_is_not_shown() -> None:
    values = seen(["a", "b"] * 6)
    title = vector_pictures(values)[0].title
    assert title == "12 sentences, coloured by kind"
    assert 0 < sum(values["shares"]) <= 1
    assert values["chance"] == pytest.approx(5 / 11)
    plain = vectors_of(translator(), ["one", "two", "three"]).to_json()
    (picture,) = vector_pictures(plain)
    assert picture.title == "3 sentences"


def test_files_are_well_formed_and_harmless(tmp_path: Path) -> None:
    texts = [f"{PAYLOAD} {i}" for i in range(8)]
    found = vectors_of(translator(), texts, [PAYLOAD, "$x$", "語", "_a"] * 2, PAYLOAD, PAYLOAD)
    paths = found.save(tmp_path)
    assert [path.name for path in paths] == [
        *("vectors.html", "vectors.svg", "vectors.png"),
        *("vectors-each.svg", "vectors-each.png", "vectors.csv"),
    ]
    page = paths[0].read_text("utf-8")
    assert_harmless(page, Page(page))
    for path in paths:
        if path.suffix == ".svg":
            ElementTree.parse(path)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "vectors.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows[1:]] == texts
    assert float(rows[1][2]) == pytest.approx(found.points[0][0], abs=1e-4)


def test_too_few_sentences_or_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="2 different sentences are too few"):
        vectors_of(translator(), ["a", "b", "a"])
    with pytest.raises(UsageError, match="3 sentences have 2 groups"):
        vectors_of(translator(), ["a", "b", "c"], ["x", "y"])


# -- the command -----------------------------------------------------------------------------------

ROWS = [{"line": f"eins {i} zwei", "n": i % 3, "odd": bool(i % 2)} for i in range(12)]


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl", "txt"])
def test_a_file_is_shown_by_command(
    form: str,
    pair_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    file = tmp_path / f"lines.{form}"
    comma = {"tsv": "\t", "csv": ","}.get(form, "")
    if form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif comma:
        rows = [ROWS[0].keys(), *(row.values() for row in ROWS)]
        file.write_text("".join(comma.join(map(str, row)) + "\n" for row in rows))
    else:
        file.write_text("".join(f"{row['line']}\n" for row in ROWS))
    by = [] if form == "txt" else ["--colour-by", "n"]
    words = ["inspect", str(pair_run), "--vectors", str(file), "--out", str(tmp_path / "seen")]
    capsys.readouterr()
    assert main([*words, *by]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "of the variance of 12 vectors of 16 numbers" in said
    assert ("is of the same n in" in said) == bool(by)
    assert main([*words, *by, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["texts"] == [row["line"] for row in ROWS]
    assert values["groups"] == ([str(row["n"]) for row in ROWS] if by else [])
    if form == "txt":
        stdin = io.TextIOWrapper(io.BytesIO(file.read_bytes()), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["inspect", str(pair_run), "--vectors", "-", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["texts"] == values["texts"]
        assert main([*words, "--colour-by", "n"]) == 2
        assert "has no columns" in " ".join(capsys.readouterr().err.split())
        return
    assert main([*words, "--colour-by", "odds"]) == 3
    assert "no column 'odds'; did you mean 'odd'" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--text-column", "line", "--colour-by", "odd", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["groups"]) in (
        {"true", "false"},
        {"True", "False"},
    )
    assert main(["inspect", "extra", *words[1:]]) == 2
