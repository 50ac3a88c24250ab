"""Pictures of classifiers: what was taken for what, filters, their maps, reasons for an answer."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
from jaxtyping import Float

from ensue.views.looks import label
from ensue.views.pictures import Bars, Heat, Picture
from ensue.views.text import visible

SHOWN_FILTERS, SHOWN_MAPS = 32, 12
"""Filters of the first layer, and maps of each layer, that are drawn."""


def confusion_picture(
    names: Sequence[str], confusion: Sequence[Sequence[int]], split: str
) -> Picture:
    """Draw how often each class (row) was taken for each (column).

    Args:
        names: Of the classes.
        confusion: Counts.
        split: What was scored, by name.
    """
    counts = np.array(confusion, dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = [visible(name) for name in names]
    return Picture(
        name=f"confusion-{split}",
        title="What was taken for what",
        caption="Rows: what it is; columns: what it was taken for. The darker, the larger the share"
        " of the row.",
        panels=[Heat(f"{split}, {int(counts.sum()):,} examples", shown, shown, shares, 1.0)],
        heads=["is", *shown],
        rows=[[name, *(f"{n:,}" for n in row)] for name, row in zip(shown, confusion, strict=True)],
    )


Shade = Float[np.ndarray, "H W"]


def _shaded(title: str, values: Shade) -> Heat:
    """Draw a small picture, each by its own strongest place."""
    height, width = values.shape
    most = float(np.abs(values).max()) or 1.0
    return Heat(title, [""] * height, [""] * width, values, most)


def look_pictures(
    shown: Shade,
    speaks: Shade,
    top: Sequence[tuple[str, float]],
    filters: Float[np.ndarray, "F K L"],
    maps: Mapping[str, Float[np.ndarray, "C I J"]],
) -> list[Picture]:
    """Draw what a classifier was shown, what speaks for its answer, its filters and their maps.

    Args:
        shown: The picture, brightness around the mean of the training pictures, over channels.
        speaks: Gradient of the answer's logit times the picture, over channels.
        top: The likeliest classes, with their confidence.
        filters: Weights of the first layer, a small picture each.
        maps: What each layer found, by its name; empty: it has no places.
    """
    answer = visible(top[0][0])
    drawn = [
        Picture(
            name="answer",
            title="What was seen, and what was said",
            caption="The picture as the model is shown it (blue: brighter than the mean of the"
            " training pictures, orange: darker); where it speaks for the answer (blue) and"
            " against it (orange): the slope of the answer's logit, mean over copies with a little"
            " noise, times the picture; and how sure the model is.",
            panels=[
                _shaded("the picture", shown),
                _shaded(f"for and against {answer}", speaks),
                _confidence(top),
            ],
            heads=("class", "confidence"),
            rows=[(visible(name), f"{share:.4f}") for name, share in top],
        ),
        _filters_picture(filters),
    ]
    return [*drawn, *(_maps_picture(name, found) for name, found in maps.items())]


def _confidence(top: Sequence[tuple[str, float]]) -> Bars:
    names, shares = zip(*top, strict=True)
    return Bars("confidence", [*map(visible, names)], shares, [f"{s:.1%}" for s in shares], 1.0)


def _filters_picture(filters: Float[np.ndarray, "F K L"]) -> Picture:
    strongest = np.argsort(-np.abs(filters).sum(axis=(1, 2)), kind="stable")[:SHOWN_FILTERS]
    return Picture(
        name="filters",
        title="What the first layer looks for",
        caption=f"Weights of {len(strongest)} of its {len(filters)} filters or hidden units, the"
        " strongest first, mean over channels; blue adds, orange takes away.",
        panels=[_shaded(f"{i + 1}", filters[i]) for i in strongest],
        heads=(),
        rows=(),
    )


def _maps_picture(name: str, maps: Float[np.ndarray, "C I J"]) -> Picture:
    strongest = np.argsort(-np.abs(maps).mean(axis=(1, 2)), kind="stable")[:SHOWN_MAPS]
    return Picture(
        name=f"maps-{name.replace('.', '-')}",
        title=f"What {name} found, and where",
        caption=f"The {len(strongest)} strongest of its {len(maps)} maps, in this picture.",
        panels=[_shaded(f"{i + 1}", maps[i]) for i in strongest],
        heads=(),
        rows=(),
    )


def answer_picture(
    tokens: Sequence[str],
    speaks: Float[np.ndarray, " T"],
    top: Sequence[tuple[str, float]],
    part: slice,
    measured: str,
) -> Picture:
    """Draw how much each word of a text speaks for the answer, and how sure the model is.

    Args:
        tokens: The words, or pieces of words.
        speaks: How much each speaks for the answer; less than nothing: against it.
        top: The likeliest classes, with their confidence.
        part: Which words are drawn; the table has all.
        measured: How that was measured.
    """
    values, names = speaks[part].tolist(), [label(token) for token in tokens]
    return Picture(
        name="answer",
        title="Which words speak for the answer",
        caption=f"Blue, to the right: for the answer; orange, to the left: against it. {measured}",
        panels=[
            Bars(
                f"for and against {visible(top[0][0])}",
                names[part],
                values,
                [signed(value) for value in values],
            ),
            _confidence(top),
        ],
        heads=("word", "speaks for it"),
        rows=[(name, f"{value:+.4f}") for name, value in zip(names, speaks.tolist(), strict=True)],
    )


def signed(value: float) -> str:
    """Write how much a word speaks, with its side; nothing has none."""
    words = f"{value:+.2f}"
    return words if words[1:] != "0.00" else "0.00"


SPEAKING = 8
"""Words that are named on either side."""
LEAST = 0.005
"""What speaks less than this would be written as nothing."""


def speaking_rows(tokens: Sequence[str], speaks: Float[np.ndarray, " T"]) -> list[list[str]]:
    """Name the words that speak most for the answer, and beside them those against it.

    A word that stands there several times is named once, with the sum.
    """
    sums: dict[str, float] = defaultdict(float)
    for token, value in zip(tokens, speaks.tolist(), strict=True):
        sums[token] += value
    times = Counter(tokens)
    ranked = sorted(sums, key=lambda token: -sums[token])
    sides = (
        [token for token in ranked if sums[token] >= LEAST],
        [token for token in reversed(ranked) if sums[token] <= -LEAST],
    )
    cells = (
        [
            (label(t) + f" ({times[t]} times)" * (times[t] > 1), signed(sums[t]))
            for t in side[:SPEAKING]
        ]
        for side in sides
    )
    return [[*a, *b] for a, b in zip_longest(*cells, fillvalue=("", ""))]


def speaking_heads(answer: str) -> list[str]:
    """Give the heads of `speaking_rows`."""
    return [f"for {visible(answer)}", "", "against it", ""]
