"""Pictures of a look: every number where it belongs, readable, well-formed, whatever the text."""

import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from pages import PAYLOAD, Page, assert_harmless

from ensue.errors import MissingExtraError
from ensue.views.axes import new_figure
from ensue.views.looks import (
    SHOWN,
    UNITS,
    Position,
    fits,
    label,
    look_page,
    percent,
    pictures,
    surprise_facts,
)
from ensue.views.pictures import Bars, Heat, Picture

TOKENS = ["<|endoftext|>", "the", "·", "<b>", "語", "$x$"]
SIZES = {"T": len(TOKENS)}


def position(token: str, bits: float | None = 2.0) -> Position:
    share = None if bits is None else 2.0**-bits
    return Position(token=token, probability=share, bits=bits, top=(("a", 0.5), (token, 0.25)))


def drawn(maps: dict[str, Any], tokens: list[str] = TOKENS, **options: Any) -> list[Picture]:
    positions = [*(position(token) for token in tokens[1:]), position("", None)]
    by_distance = [0.5**i for i in range(len(tokens))]
    given = {"by_distance": by_distance, "reach": None, **options}
    return pictures(tokens, positions, given["by_distance"], given["reach"], maps)


def causal(heads: int, steps: int) -> np.ndarray:
    weights = np.tril(np.random.default_rng(0).random((heads, steps, steps)))
    return weights / weights.sum(axis=2, keepdims=True)


MAPS = {
    "blocks.1.attention/weights": causal(3, 6),
    "layers.0/gates": np.random.default_rng(1).random((6, 3, 20)),
    "layers.0/c": np.random.default_rng(2).normal(size=(6, 20)),
    "layers.1/h": np.random.default_rng(3).normal(size=(6, 5)),
    "blocks.2/maps": np.random.default_rng(4).normal(size=(6, 40)),
}


def test_each_kind_of_map_has_its_picture_under_its_layer() -> None:
    """Two layers under one file name would overwrite each other."""
    names = [
        picture.name for picture in drawn({**MAPS, "blocks.2.attention/weights": causal(1, 6)})
    ]
    assert names == [
        "surprise",
        "distance",
        "attention-layer-2",
        "attention-layer-3",
        "gates",
        "memory-c",
        "states-h",
        "feature-maps",
    ]
    assert [p.name for p in drawn({"mine/odd": np.zeros((6, 6))})] == ["surprise", "distance"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mine/odd", np.zeros((6, 6))),
        ("mine/weights", np.zeros((2, 6, 6))),
        ("mine/weights", -causal(2, 6)),
        ("mine/weights", causal(2, 5)),
        ("mine/gates", np.zeros((6, 4, 3))),
        ("mine/h", np.zeros((2, 6, 3))),
        ("mine/c", np.full((6, 3), np.nan)),
        ("mine/maps", np.zeros(())),
    ],
)
def test_what_has_no_picture_is_left_out(name: str, shown: np.ndarray) -> None:
    """A tap of one's own may show anything: it must not take the other pictures with it."""
    assert not fits(name, shown, SIZES)
    assert [p.name for p in drawn({name: shown})] == ["surprise", "distance"]
    assert all(fits(name, shown, SIZES) for name, shown in MAPS.items())


def test_two_parts_that_count_their_layers_alike_are_both_drawn() -> None:
    """The second took the place of the first."""
    states = MAPS["layers.1/h"]
    (picture,) = drawn({"reader.0/h": states, "writer.0/h": states})[2:]
    titles = [panel.title.split(":")[0] for panel in picture.panels]
    assert titles == ["layer 1", "writer.0"]


def test_the_reach_is_told_beside_what_was_read() -> None:
    """A text cut to the context has exactly as many tokens: not "more than are here"."""
    said = [drawn({}, reach=reach)[1].caption for reach in (5, 6, 7, None)]
    words = ("last 5 tokens, and", "6 tokens, as many as are here", "7 tokens, more than", "all")
    assert all(word in text for word, text in zip(words, said, strict=True))


def test_an_unknown_distance_has_no_picture() -> None:
    assert [p.name for p in drawn({}, by_distance=[])] == ["surprise"]


def test_files_are_well_formed_and_harmless(tmp_path: Path) -> None:
    """Labels are text of anybody: one that closes a tag breaks the page of everyone."""
    tokens = [*TOKENS, PAYLOAD, "\\x1b", "a" * 99]
    maps = {
        name: np.concatenate([values] * 2, axis=0)[: len(tokens)] for name, values in MAPS.items()
    }
    maps["blocks.1.attention/weights"] = causal(3, len(tokens))
    shown = drawn(maps, tokens)
    for picture in shown:
        svg, png = picture.save(tmp_path)
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert png.read_bytes().startswith(b"\x89PNG")
    found = surprise_facts([position(token) for token in tokens])
    text = look_page(PAYLOAD, [PAYLOAD], [PAYLOAD], found, shown, "0.1")
    page = Page(text)
    assert_harmless(text, page)
    pictured = [
        attributes for tag, attributes in page.tags if tag == "svg" and "role" in attributes
    ]
    assert len(pictured) == 1 + 1 + 3 + 3 + 1 + 1 + 1
    assert all(a.get("aria-label") or a.get("aria-labelledby") for a in pictured)


def cells(heat: Heat) -> np.ndarray:
    """Read the shades back from the drawing."""
    read = np.zeros(heat.values.shape)
    pattern = r'class="shade( minus)?" stroke-opacity="([\d.]+)" d="([^"]*)"'
    for minus, opacity, path in re.findall(pattern, heat.marks()):
        for column, row, length in re.findall(r"M(\d+) (\d+)\.5h(\d+)", path):
            cut = read[int(row), int(column) : int(column) + int(length)]
            assert not cut.any()
            cut[:] = -float(opacity) if minus else float(opacity)
    return read


def test_shades_are_the_values() -> None:
    """A transposed or shifted heatmap looks as good as a right one."""
    values = np.random.default_rng(0).uniform(-2, 2, size=(5, 9))
    values[2, 3:7] = 1.0  # a run of equal cells
    heat = Heat("a title", list("abcde"), list("123456789"), values, 2.0)
    assert cells(heat) == pytest.approx(values / 2, abs=0.026)
    assert cells(Heat("", list("ab"), list("cd"), np.zeros((2, 2)), 1.0)) == pytest.approx(0)
    row, column = np.unravel_index(np.abs(values).argmax(), values.shape)
    assert f"{'abcde'[row]}, {column + 1}" in heat.gist()


def test_every_cell_stands_between_its_labels() -> None:
    """A label one row off names the wrong token for the whole picture."""
    heat = Heat("", ["first", "second"], ["x", "y", "z"], np.eye(2, 3), 1.0)
    marks = heat.marks()
    left = float(re.search(r"translate\(([\d.]+) 0\) scale", marks)[1])
    rows = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>(\w+)<', marks)
    assert [(name, float(y)) for _, y, name in rows] == [("first", 7.0), ("second", 21.0)]
    assert all(float(x) < left for x, _, _ in rows)
    columns = re.findall(r"translate\(([\d.]+) [\d.]+\) rotate\(-90\)\"[^>]*>(\w+)<", marks)
    places = [(name, float(x) - left) for x, name in columns]
    assert [name for name, _ in places] == ["x", "y", "z"]
    assert [place for _, place in places] == pytest.approx([7, 21, 35], abs=0.11)


def test_attention_names_what_each_token_looks_at() -> None:
    """The table is the picture for those who do not see it."""
    weights = np.zeros((1, 6, 6))
    weights[0, range(6), [0, 0, 1, 3, 2, 5]] = 1.0
    (picture,) = [
        p for p in drawn({"blocks.0.attention/weights": weights}) if "attention" in p.name
    ]
    looked = [row[1].split(" ")[0] for row in picture.rows]
    assert looked == ["<|endoftext…", "<|endoftext…", "the", "<b>", "·", "$x$"]
    assert [row[0] for row in picture.rows][1:] == TOKENS[1:]


def test_only_the_end_of_a_long_text_is_drawn_and_rows_stay_aligned() -> None:
    """64 labels fit; of 200 tokens the last must be the last."""
    tokens = [f"t{i}" for i in range(200)]
    maps = {
        "blocks.0.attention/weights": causal(1, 200),
        "layers.0/h": np.arange(200.0)[:, None] * np.ones((1, 30)),
    }
    shown = {picture.name: picture for picture in drawn(maps, tokens)}
    (heat,) = shown["attention-layer-1"].panels
    assert heat.values.shape == (SHOWN, SHOWN)
    assert heat.rows[-1] == heat.columns[-1] == "t199"
    assert np.square(heat.values) == pytest.approx(causal(1, 200)[0, -SHOWN:, -SHOWN:])
    assert "left out" in shown["attention-layer-1"].caption
    (heat,) = shown["states-h"].panels
    assert heat.values.shape == (UNITS, SHOWN)
    assert heat.values[0, -1] == 199
    assert len(shown["surprise"].rows) == SHOWN


def test_the_most_varying_units_are_shown_under_their_own_numbers() -> None:
    """Unit 17 of the picture must be unit 17 of the model."""
    states = np.zeros((6, 40))
    lively = [3, 17, 30]
    states[:, lively] = np.random.default_rng(0).normal(size=(6, 3))
    (picture,) = [p for p in drawn({"layers.0/h": states}) if "states" in p.name]
    (heat,) = picture.panels
    for unit in lively:
        row = heat.rows.index(f"unit {unit}")
        assert heat.values[row] == pytest.approx(states[:, unit])


def test_gates_begin_with_the_mean_of_all_units() -> None:
    """A few lively units say nothing about how open a gate is."""
    (picture,) = [p for p in drawn(MAPS) if "gates" in p.name]
    for i, panel in enumerate(picture.panels):
        assert panel.rows[0] == "mean of all"
        assert panel.values[0] == pytest.approx(MAPS["layers.0/gates"][:, i].mean(axis=1))
    assert [panel.title.split(", ")[1][:6] for panel in picture.panels] == [
        "input ",
        "forget",
        "output",
    ]


@pytest.mark.parametrize(
    ("reach", "said", "marked"),
    [
        (3, "the last 3 tokens, and no further", True),
        (600, "up to 600 tokens, more than are here", False),
        (None, "depends on all that came before", False),
    ],
)
def test_the_reach_is_said_and_marked(reach: int | None, said: str, marked: bool) -> None:
    """A curve that stops is read wrongly without the reason why."""
    shares = [0.5, 0.3, 0.2, 0.0, 0.0, 0.0]
    _, picture, *_ = drawn({}, by_distance=shares, reach=reach)
    assert said in picture.caption
    assert "influence here is 2 back" in picture.caption
    assert ("reach 3" in picture.svg()) == marked
    assert [row[1] for row in picture.rows] == ["0.5", "0.3", "0.2", "0", "0", "0"]
    ElementTree.fromstring(picture.svg())


def test_a_gradient_of_nothing_can_be_drawn() -> None:
    """A model of one layer may look at the last token alone: no slope, no second point."""
    _, picture, *_ = drawn({}, tokens=["s", "a"], by_distance=[1.0, 0.0])
    ElementTree.fromstring(picture.svg())
    _, picture, *_ = drawn({}, by_distance=[0.0] * 6)
    ElementTree.fromstring(picture.svg())


def test_surprise_is_shown_in_bits_and_in_words() -> None:
    """Bits for those who add, percent for all others."""
    first, *_ = drawn({})
    assert first.rows[0] == ["the", "2.00", "25 %", "a 50 %, the 25 %"]
    assert first.rows[-1][0] == "(the end)"
    (bars,) = first.panels
    assert isinstance(bars, Bars)
    assert bars.notes[0] == "2.0  (25 %)"
    certain = Bars("t", ["a"], [0.0], ["0.0"])
    ElementTree.fromstring(f"<svg>{certain.marks()}</svg>")


def test_bars_for_and_against_start_at_one_line() -> None:
    """A bar to the right that is less than nothing says the opposite."""
    bars = Bars("for and against", ["a", "b", "c"], [1.5, -0.5, 0.0], ["+1.5", "-0.5", "+0.0"])
    pattern = r'<rect class="([a-z ]+)" x="([\d.]+)" y="\d+" width="([\d.]+)"'
    (one, x1, w1), (two, x2, w2), (_, x3, w3) = re.findall(pattern, bars.marks())
    assert (one, two) == ("bar", "bar minus")
    zero = float(x1)
    assert float(x2) + float(w2) == pytest.approx(zero, abs=0.11)
    assert (float(x3), float(w3)) == (zero, 0)
    assert float(w1) == pytest.approx(3 * float(w2), abs=0.3)
    assert float(w1) + float(w2) == pytest.approx(Bars.LENGTH, abs=0.11)
    assert bars.gist() == "Longest: a: 1.5."
    for values in ([-1.0, -2.0], [0.0, 0.0]):
        ElementTree.fromstring(f"<svg>{Bars('t', ['a', 'b'], values, ['', '']).marks()}</svg>")


def test_words_for_tokens_and_shares() -> None:
    """Labels that wrap, vanish or repaint make a picture unreadable."""
    assert label("a\nb\tc") == "a↵b→c"
    assert label("\x1b[0m") == "\\x1b[0m"
    assert label("x" * 40) == "x" * 11 + "…"
    assert [percent(s) for s in (1.0, 0.41, 0.0032, 1e-6)] == [
        "100 %",
        "41 %",
        "0.32 %",
        "< 0.01 %",
    ]


def test_without_matplotlib_the_svg_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra brings PNG, and only that."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for picture in drawn(MAPS):
        assert [path.suffix for path in picture.save(tmp_path)] == [".svg"]


def test_equal_numbers_give_equal_files() -> None:
    """Pictures are kept beside results: a second run must not differ."""
    assert [p.svg() for p in drawn(MAPS)] == [p.svg() for p in drawn(MAPS)]


def test_letters_of_every_script_are_asked_of_the_fonts_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of Chinese was boxes on machines that have a Chinese font; nothing of it must stay."""
    import matplotlib

    monkeypatch.setattr("ensue.views.axes.FONTS", ("DejaVu Serif", "No Such Font"))
    before = list(matplotlib.rcParams["font.family"])
    used: list[list[str]] = []

    class Watched(Bars):
        def draw(self, plot: Any) -> None:
            used.append(list(matplotlib.rcParams["font.family"]))
            super().draw(plot)

    bars = Watched("t", ["語"], [1.0], ["n"])
    Picture(name="p", title="", caption="", heads=(), rows=(), panels=[bars]).save(tmp_path)
    assert used == [["DejaVu Sans", "DejaVu Serif"]]
    assert list(matplotlib.rcParams["font.family"]) == before


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError) as caught:
        new_figure(1.0, 1.0)
    assert "ensue[plots]" in caught.value.hint
