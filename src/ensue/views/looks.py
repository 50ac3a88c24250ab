"""What a model does with a text, and what an architecture recalls: pictures, and their pages."""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ensue.files import make_folder, write_atomic
from ensue.views import lines
from ensue.views.page import escaped, facts, footer, page, table
from ensue.views.pictures import STYLE, Bars, Heat, Picture
from ensue.views.text import duration, visible

SHOWN = 64
"""Tokens in a picture: more labels than these cannot be read side by side."""
UNITS = 12
"""Units of a layer that are shown: those that vary the most along the text."""
LAST = slice(-SHOWN, None)
"""The end of a text: what is drawn of one that is longer."""
LONGEST_LABEL = 12
LEAST_SHARE = 1e-4
"""Of the gradient: what is less is drawn at the bottom, what is nothing is not drawn."""

Map = Float[np.ndarray, "..."]
Labels = Mapping[str, Sequence[str]]
"""Of the places of each axis: ``T`` the token that is read there, ``W`` the one that is written
next, ``S`` the source's."""
Draw = Callable[[Mapping[str, Map], Labels], list[Picture]]
"""Draws what the layers' taps of one kind showed, over the labels of the tokens."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """What a model expects at one place of a text, and what comes."""

    token: str
    """What comes, made visible; empty after the last one."""
    probability: float | None
    """What the model gave it."""
    bits: float | None
    """Its surprisal: minus the binary logarithm of that."""
    top: tuple[tuple[str, float], ...]
    """The tokens that the model finds likeliest, and their probabilities."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a model that translates was told, and what its encoder made of it."""

    text: str
    """What was read of the source."""
    tokens: tuple[str, ...]
    """The same token by token, made visible; the last is its end."""
    vector: Float[np.ndarray, " D"]
    """What the encoder makes of the whole: see `ensue.translator.Translator.embed`."""
    maps: Mapping[str, Map]
    """What the encoder's taps showed: attention (H, S, S)."""


def label(text: str) -> str:
    """Make a token fit an axis: visible, on one line, not too long."""
    shown = visible(text).replace("\n", "↵").replace("\t", "→")
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"


def percent(share: float) -> str:
    """Write a share with two digits: ``41 %``, ``0.3 %``."""
    if share < 1e-4:
        return "< 0.01 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


# --- pictures of a look ---------------------------------------------------------------------------


def pictures(
    tokens: Sequence[str],
    positions: Sequence[Position],
    by_distance: Sequence[float],
    reach: int | None,
    maps: Mapping[str, Map],
    source: Source | None = None,
    given: str = "all before it",
) -> list[Picture]:
    """Draw what was seen of a model at work: its guesses, how far back it looks, its insides.

    Args:
        tokens: What was read; all but the last `SHOWN` are left out.
        positions: What was expected after each of them.
        by_distance: Share of the gradient that falls on the token so far back; empty: unknown.
        reach: Tokens that a prediction can depend on; None: all.
        maps: Attention (H, T, T), alignment (H, T, S), gates (T, 3, D) and states (T, D), by the
            tap's name; one of another name or shape is left out.
        source: What a model that translates was told.
        given: What the model knew of each token's surroundings, in words.
    """
    drawn = [_surprise(positions[-SHOWN:], given)]
    if by_distance:
        drawn.append(_influence(by_distance, reach))
    axes = {"T": tokens, "W": [position.token for position in positions]}
    if source is None:
        return drawn + insides(maps, axes)
    aligned = {name: shown for name, shown in maps.items() if name.endswith(ALIGNED)}
    first = [_vector(source.vector)]
    if aligned:
        first = insides(aligned, {**axes, "S": source.tokens})
    others = {name: shown for name, shown in maps.items() if name not in aligned}
    encoder = [
        replace(p, name=f"source-{p.name}", title=f"{p.title}, within the source")
        for p in insides(source.maps, {"T": source.tokens})
    ]
    return first + drawn + insides(others, axes) + encoder


def insides(maps: Mapping[str, Map], axes: Labels, part: slice = LAST) -> list[Picture]:
    """Draw what the taps of each kind showed, over the tokens of each axis.

    Args:
        maps: By the tap's name; one of another name or shape is left out.
        axes: The tokens.
        part: Which of them are drawn; more than `SHOWN` cannot be read.
    """
    drawn: list[Picture] = []
    sizes = {axis: len(tokens) for axis, tokens in axes.items()}
    labels = {axis: [label(t) for t in tokens[part]] for axis, tokens in axes.items()}
    fitting = {n: m for n, m in maps.items() if fits(n, m, sizes, part)}
    for what, (shape, draw) in INSIDES.items():
        within = tuple(part if size in labels else slice(None) for size in shape)
        layers: dict[str, Map] = {}
        for name, shown in fitting.items():
            owner, _, kind = name.rpartition("/")
            if kind == what:  # of an encoder and a decoder each has a first layer
                layers[owner if layer_of(name) in layers else layer_of(name)] = shown[within]
        if layers:
            drawn += draw(layers, labels)
    return drawn


def fits(name: str, shown: Map, sizes: Mapping[str, int], part: slice = LAST) -> bool:
    """Whether there is a picture for what a tap showed: by its last word, shape and values.

    Args:
        name: The tap's.
        shown: What it showed.
        sizes: Places of each axis, as of `Labels`.
        part: Which of them are drawn.
    """
    shape, _ = INSIDES.get(name.rpartition("/")[2], ((), None))
    wanted = [sizes.get(str(size), size) for size in shape]
    return (
        len(wanted) == shown.ndim > 0
        and all(w in (n, "any") for w, n in zip(wanted, shown.shape, strict=True))
        and shown.size > 0
        and bool(np.isfinite(shown).all())
        and (
            shape not in (WEIGHTS, ALIGNMENT)
            or (bool((shown >= 0).all()) and bool(shown[:, part, part].any()))
        )
    )


def layer_of(name: str) -> str:
    """Name the part that a tap shows as people count: the first layer is layer 1."""
    part = name.rpartition("/")[0]
    number = re.search(r"\.(\d+)", part)
    ways = [f", {way}" for way in WAYS if way in part.split(".")]
    return f"layer {int(number[1]) + 1}{''.join(ways)}" if number else part or "the model"


WAYS = ("ahead", "back")
"""How the parts are called that read a text from its start, and from its end."""


def _surprise(positions: Sequence[Position], given: str) -> Picture:
    known = [p for p in positions if p.bits is not None and p.probability is not None]
    return Picture(
        name="surprise",
        title="How surprising each token is",
        caption=f"Bits of surprise at each token, given {given}: 0 was certain, 1 as a coin's fall,"
        " 8 as a byte that nobody can guess. In words: the probability that the model gave.",
        panels=[
            Bars(
                title="bits of surprise",
                labels=[label(p.token) for p in known],
                values=[p.bits or 0.0 for p in known],
                notes=[f"{p.bits:.1f}  ({percent(p.probability or 0.0)})" for p in known],
                full=1.0,
            )
        ],
        heads=POSITION_HEADS,
        rows=position_rows(positions),
    )


POSITION_HEADS = ("comes", "bits", "probability", "likeliest before it was seen")


def position_rows(positions: Sequence[Position]) -> list[list[str]]:
    """Give what was expected and what came, for the terminal and the page."""
    rows = []
    for p in positions:
        guesses = ", ".join(f"{label(token)} {percent(share)}" for token, share in p.top)
        if p.bits is None or p.probability is None:
            rows.append([label(p.token) or "(the end)", "–", "–", guesses])
        else:
            rows.append([label(p.token), f"{p.bits:.2f}", percent(p.probability), guesses])
    return rows


def _influence(by_distance: Sequence[float], reach: int | None) -> Picture:
    last = len(by_distance) - 1
    # Places are one more than the tokens back: a logarithm has no zero.
    points = [(d + 1, max(s, LEAST_SHARE)) for d, s in enumerate(by_distance) if s > 0]
    points = points or [(1, LEAST_SHARE)]  # a model whose weights are all zero
    seen = points[-1][0] - 1
    low = 10.0 ** min(-1, math.floor(math.log10(min(share for _, share in points))))
    drawn = [lines.Line("gradient", points, 0)]
    if reach is not None and reach <= last:
        words = f"By its shape a prediction depends on the last {reach:,} tokens, and no further."
        drawn.append(lines.Line(f"reach {reach}", [(reach + 0.5, low), (reach + 0.5, 1.0)], 1))
    elif reach is not None:
        here = "as many as are" if reach == last + 1 else "more than are"
        words = f"By its shape a prediction depends on up to {reach:,} tokens, {here} here."
    else:
        words = "By its shape a prediction depends on all that came before."
    words += f" The furthest token with any influence here is {seen:,} back."
    return Picture(
        name="distance",
        title="How far back the prediction looks",
        caption="The gradient of the likeliest token's logit with respect to the vector of the"
        " token so far back (0: the last one read): its norm, as a share of all, and the mean over"
        f" the last places of the text. {words}",
        panels=lines.Panel(
            name="distance",
            title="share of the gradient",
            words=words,
            x_title="tokens back",
            lines=drawn,
            low=low,
            high=1.0,
            x_min=1,
            x_max=last + 1,
            log=True,
            x_log=True,
            x_ticks=_doubling(last),
            x_words=lambda place: f"{place - 1:g}",
            y_words=lambda share: f"{100 * share:g} %",
        ),
        heads=["tokens back", "share of the gradient"],
        rows=[[str(d), f"{share:.3g}"] for d, share in enumerate(by_distance)],
    )


def _doubling(last: int) -> list[int]:
    """Give places for 0, 1, 2, 4, 8 … tokens back, and the last where there is room for it."""
    backs = [0, *(2**i for i in range(12) if 1.5 * 2**i < last), last]
    return [back + 1 for back in backs]


def _attention(layers: Mapping[str, Map], labels: Labels) -> list[Picture]:
    words = "Each row is a token that looks, each column a token that is looked at"
    return [
        _weights(f"Attention, {layer}", layer, words, weights, labels["T"], labels["T"])
        for layer, weights in layers.items()
    ]


def _alignment(layers: Mapping[str, Map], labels: Labels) -> list[Picture]:
    words = (
        "Each row is a token that the model writes, each column a token of the source, at which it"
        " looks while it writes"
    )
    if right_to_left(labels["S"]):
        words += "; columns stand in the order of reading, from the left"
    only = len(layers) == 1
    return [
        _weights(
            "Alignment" if only else f"Alignment, {layer}",
            "" if only else layer,
            words,
            weights,
            labels["W"],
            labels["S"],
        )
        for layer, weights in layers.items()
    ]


def right_to_left(tokens: Sequence[str]) -> bool:
    """Whether a script that is written from the right is among these."""
    return any(unicodedata.bidirectional(c) in ("R", "AL") for token in tokens for c in token)


def _weights(
    title: str, layer: str, words: str, weights: Map, rows: Sequence[str], columns: Sequence[str]
) -> Picture:
    """Draw the weights of a layer's heads; each row of them adds up to one, or its rest is cut."""
    heads = [f"head {i + 1}" if len(weights) > 1 or layer else "" for i in range(len(weights))]
    best = weights.argmax(axis=2)
    # One token alone always weighs 1: with it as the full colour all else would be pale.
    full = float(np.quantile(weights[weights > 0], 0.99))
    cut = (
        " What the tokens shown give to others is left out."
        if weights.sum(axis=2).min() < 0.999
        else ""
    )
    return Picture(
        name=_stem(title),
        title=title,
        caption=f"{words}; a row's weights add up to 1. A cell's shade grows with the square root"
        f" of its weight; the full colour is {percent(full)}{' or more' * (full < 0.995)}.{cut}",
        panels=[
            Heat(", ".join(filter(None, (layer, head))) or title, rows, columns, roots, full**0.5)
            for head, roots in zip(heads, np.sqrt(weights), strict=True)
        ],
        heads=["token", *(f"{head} most at".strip() for head in heads)],
        rows=[
            [
                token,
                *(
                    f"{columns[s]} {percent(float(w[t, s]))}"
                    for w, s in zip(weights, at, strict=True)
                ),
            ]
            for t, (token, at) in enumerate(zip(rows, best.T, strict=True))
        ],
    )


ACROSS = 32
"""Numbers of a vector in a row of its picture."""


def _vector(vector: Float[np.ndarray, " D"]) -> Picture:
    """Draw all that a decoder without attention is told."""
    starts = range(0, len(vector), ACROSS)
    shown = np.zeros((len(starts), min(ACROSS, len(vector))))
    shown.flat[: len(vector)] = vector
    full = float(np.abs(vector).max()) or 1.0
    return Picture(
        name="vector",
        title="The vector: all that the decoder is told",
        caption="The decoder looks at no place of the source: nothing can be aligned. However long"
        f" the source is, these {len(vector):,} numbers say it, the same at every step. Blue is"
        f" above zero, orange below; the full colour is {full:.2g}.",
        panels=[
            Heat(
                f"the source in {len(vector):,} numbers",
                [f"from {start + 1}" for start in starts],
                [str(i + 1) for i in range(shown.shape[1])],
                shown,
                full,
            )
        ],
        heads=["number", "value"],
        rows=[[str(i + 1), f"{value:.4f}"] for i, value in enumerate(vector)],
    )


GATES = (
    "input gate i: what is written",
    "forget gate f: what is kept",
    "output gate o: what is said",
)


def _gates(layers: Mapping[str, Map], axes: Labels) -> list[Picture]:
    panels, labels = [], axes["T"]
    for layer, gates in layers.items():
        for i, name in enumerate(GATES):
            units, values = _most_varying(gates[:, i])
            rows = np.vstack([gates[:, i].mean(axis=1), values])
            panels.append(Heat(f"{layer}, {name}", ["mean of all", *units], labels, rows, 1.0))
    words = (
        "The mean over all units, and the units that vary the most along the text. The full colour"
        " is 1, an open gate; none is 0, a closed one."
    )
    return [_shades("gates", "Gates", words, panels, labels)]


def _states(kind: str, words: str) -> Draw:
    def draw(layers: Mapping[str, Map], axes: Labels) -> list[Picture]:
        panels, labels = [], axes["T"]
        for layer, states in layers.items():
            units, values = _most_varying(states)
            full = float(np.abs(values).max()) or 1.0
            title = f"{layer}: full colour is {full:.2g}"
            panels.append(Heat(title, units, labels, values, full))
        caption = (
            f"{words} Shown are the units that vary the most along the text. Blue is above zero,"
            " orange below."
        )
        return [_shades(_stem(kind), kind, caption, panels, labels)]

    return draw


def _shades(
    name: str, title: str, caption: str, panels: Sequence[Heat], labels: Sequence[str]
) -> Picture:
    return Picture(
        name=name,
        title=title,
        caption=caption,
        panels=panels,
        heads=["", *labels],
        rows=[
            [f"{panel.title.split(':')[0]}, {row}", *(f"{value:.2f}" for value in values)]
            for panel in panels
            for row, values in zip(panel.rows, panel.values, strict=True)
        ],
    )


def _most_varying(
    states: Float[np.ndarray, "T D"],
) -> tuple[list[str], Float[np.ndarray, "U T"]]:
    """Name the units that vary the most along the text, and give each one's course."""
    chosen = np.sort(np.argsort(-states.std(axis=0), kind="stable")[:UNITS])
    return [f"unit {unit}" for unit in chosen], states[:, chosen].T


def _stem(words: str) -> str:
    """Make words part of a file's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-").lower()


Shape = tuple[str | int, ...]
"""Sizes; letters as of `Labels`."""
WEIGHTS: Shape = ("any", "T", "T")
ALIGNMENT: Shape = ("any", "W", "S")
ALIGNED = "/alignment"
"""How the name of a tap ends that shows weights from a target to its source."""
STATES: Shape = ("T", "any")
INSIDES: dict[str, tuple[Shape, Draw]] = {
    "alignment": (ALIGNMENT, _alignment),
    "weights": (WEIGHTS, _attention),
    "gates": (("T", len(GATES), "any"), _gates),
    "c": (STATES, _states("Memory c", "What the cell remembers: only added to and scaled.")),
    "h": (STATES, _states("States h", "What the layer says at each token.")),
    "maps": (STATES, _states("Feature maps", "What the filters find at each place.")),
}
"""What a tap's last word means, and the shape that belongs to it."""


# --- the page of a look ---------------------------------------------------------------------------


def surprise_facts(positions: Sequence[Position]) -> dict[str, str]:
    """Give a text's score in words."""
    bits = [p.bits for p in positions if p.bits is not None]
    most = max(positions, key=lambda p: p.bits or 0.0)
    return {
        "tokens predicted": f"{len(bits):,}",
        "bits of surprise, mean": f"{sum(bits) / len(bits):.2f}",
        "most surprising": f"{label(most.token)} ({most.bits or 0.0:.1f} bits)",
    }


def look_page(
    title: str,
    texts: Sequence[str],
    notices: Sequence[str],
    found: Mapping[str, str],
    drawn: Sequence[Picture],
    version: str,
    numbers: str = "",
) -> str:
    """Make the page: the texts and what was found in words, then the pictures.

    Args:
        title: Which model.
        texts: What it read.
        notices: What a reader should know.
        found: A few values by their names.
        drawn: What was seen.
        version: Of ensue.
        numbers: A table, as HTML.
    """
    body = [
        f'<header><p class="over">ensue inspect</p><h1>{escaped(title)}</h1></header>',
        *(f'<p class="sample" dir="auto" lang="">{escaped(text)}</p>' for text in texts),
        facts(found),
        "".join(f"<p>{escaped(notice)}</p>" for notice in notices),
        numbers,
        *(picture.section("the --json output") for picture in drawn),
        footer(version),
    ]
    return page(f"{title} · ensue", "\n".join(filter(None, body)), STYLE)


def write_pictures(folder: Path, name: str, content: str, drawn: Sequence[Picture]) -> list[Path]:
    """Write a page and the files of its pictures into a folder, made where it is missing."""
    make_folder(folder)
    write_atomic(folder / name, content)
    return [folder / name, *(path for picture in drawn for path in picture.save(folder))]


# --- recall ---------------------------------------------------------------------------------------


def write_recall(folder: Path, result: Mapping[str, Any], version: str) -> list[Path]:
    """Write a result of the recall probe: recall.html, .csv, .svg and, with matplotlib, .png.

    Args:
        folder: Made where it is missing.
        result: As `ensue.probes.RecallResult.to_json` gives it.
        version: Of ensue.
    """
    drawn = recall_picture(result)
    numbers = io.StringIO()
    rows = csv.writer(numbers, lineterminator="\n")
    rows.writerow(["model", "parameters", "seed", "lag", "accuracy"])
    rows.writerows(_measured(result))
    paths = write_pictures(folder, "recall.html", _recall_page(result, drawn, version), [drawn])
    write_atomic(folder / "recall.csv", numbers.getvalue())
    return [*paths, folder / "recall.csv"]


def _measured(result: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for model in result["models"]:
        seeds = set(range(len(model["accuracy"]) + len(model["diverged"]))) - {*model["diverged"]}
        for seed, accuracy in zip(sorted(seeds), model["accuracy"], strict=True):
            for lag, share in zip(result["lags"], accuracy, strict=True):
                yield model["name"], model["parameters"], seed, lag, share


def recall_picture(result: Mapping[str, Any]) -> Picture:
    """Draw accuracy by lag: the mean over seeds, and each seed thinly."""
    lags, seeds = result["lags"], max(len(model["accuracy"]) for model in result["models"])
    members = f" The thin lines are the {seeds} seeds, the thick ones their means." * (seeds > 1)
    caption = (
        f"Share of {result['test_rows']:,} symbols that are named rightly, by how many tokens ago"
        f" they were seen. A guess is right in {100 * result['chance']:g} %.{members}"
    )
    return Picture(
        name="recall",
        title="Recall by lag",
        caption=caption,
        panels=lines.Panel(
            name="recall",
            title="symbols recalled",
            words=caption,
            x_title="tokens ago",
            lines=[
                _recall_line(model, lags, style) for style, model in enumerate(result["models"])
            ],
            low=0.0,
            high=1.04,
            x_min=lags[0],
            x_max=max(lags[-1], lags[0] + 1),
            x_log=True,
            x_ticks=[lag for lag in lags if lag & (lag - 1) == 0],
            y_words=lambda share: f"{100 * share:.0f} %",
            level=("chance", result["chance"]),
        ),
        heads=["model", *(f"lag {lag}" for lag in lags)],
        rows=[
            [model["name"], *(f"{share:.2f}" for share in model["mean"])]
            for model in result["models"]
        ],
    )


def _recall_line(model: Mapping[str, Any], lags: Sequence[int], style: int) -> lines.Line:
    mean, *seeds = (list(zip(lags, y, strict=True)) for y in (model["mean"], *model["accuracy"]))
    return lines.Line(model["name"], mean, style, seeds if len(seeds) > 1 else ())


RECALL_HEADS = ("model", "parameters", "can look back", "recall falls at lag", "rate", "training")


def recall_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Give the summary's rows, for the terminal and the page; `RECALL_HEADS` are its heads."""
    return [
        [
            visible(model["name"]),
            f"{model['parameters']:,}",
            f"{model['reach']:,} tokens" if model["reach"] else "all",
            _falls(model["falls_at"], result["lags"][-1]),
            f"{model['rate']:g} x",
            duration(model["seconds"]),
        ]
        for model in result["models"]
    ]


def _falls(lags: Sequence[int | None], last: int) -> str:
    words = [f"beyond {last}" if lag is None else str(lag) for lag in lags]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def recall_protocol(result: Mapping[str, Any]) -> str:
    """Say in words what was done, the same for all."""
    rates = ", ".join(f"{rate:g}" for rate in result["rates"])
    lost = [
        f" {visible(model['name'])}: seeds that diverged are left out"
        f" ({', '.join(map(str, model['diverged']))})."
        for model in result["models"]
        if model["diverged"]
    ]
    symbols = round(1 / result["chance"])
    return (
        f"Each model is trained anew for {result['steps']:,} updates of"
        f" {result['rows_per_step']} rows, the same rows for all: one of {symbols} symbols,"
        f" k - 1 fillers, a query; k is drawn log-uniformly up to {result['lags'][-1]}. The"
        f" learning rate is the best of {rates} times the usual one for the first seed, by its"
        " loss on validation rows."
        " Recall falls at the first lag where it is less than nine in ten; of seeds that differ,"
        f" each has its number.{''.join(lost)}"
    )


def _recall_page(result: Mapping[str, Any], drawn: Picture, version: str) -> str:
    body = [
        '<header><p class="over">ensue inspect --probe recall</p>'
        "<h1>How well each architecture recalls what it saw k tokens ago</h1></header>",
        table("Summary", RECALL_HEADS, recall_rows(result)),
        drawn.section("recall.csv"),
        f"<section><h2>How it was measured</h2><p>{escaped(recall_protocol(result))}</p></section>",
        footer(version),
    ]
    return page("Recall by lag · ensue", "\n".join(body), STYLE)
