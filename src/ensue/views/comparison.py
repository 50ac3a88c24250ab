"""The report of a comparison: which model predicts the text best at an equal cost, and how sure.

All numbers come from ``results.json``, the curves from the runs that it names. A candidate that
failed is shown as such.
"""

import contextlib
import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.errors import MissingExtraError
from ensue.files import write_atomic
from ensue.views.lines import STYLE as LINES_STYLE
from ensue.views.lines import Line, Panel, picture, sheet, write_png
from ensue.views.page import (
    ROWS,
    block,
    escaped,
    facts,
    folded,
    footer,
    number,
    page,
    sample,
    table,
)
from ensue.views.plots import is_number, spread
from ensue.views.text import PROMPT, command, few, part, place, plain, power, short, size, visible
from ensue.views.tracks import FIELDS, Moment, Scale, Track, choose_scale, curve_panels, read_track

EQUAL = {"params": "parameters", "flops": "training FLOPs", "time": "training time"}
"""What may be equal, in words."""
SCALARS = (
    *("name", "error", "parameters", "flops", "seconds", "tokens", "tokens_per_second"),
    *("peak_bytes", "bits_per_byte", "spread", "test_bits_per_byte", "test_spread", "rate"),
)
"""Columns of ``table.csv``, before those of generating."""

FACTOR = "×{:g}".format
"""Writes a factor on the default learning rates."""

Candidate = Mapping[str, Any]


def write_comparison(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write page, tables and pictures of a finished comparison.

    Args:
        folder: Where ``results.json`` and the runs lie; ``report.html``, ``table.csv`` and ``.md``,
            ``curves.csv`` and the pictures go there. PNG needs matplotlib, and is left out without.
        results: What ``results.json`` holds.

    Returns:
        The page.
    """
    tracks = [read_track(folder, c) for c in results["candidates"]]
    write_atomic(folder / "table.csv", _table_csv(results))
    write_atomic(folder / "table.md", _table_md(results))
    write_atomic(folder / "curves.csv", _curves_csv(tracks))
    scale = choose_scale(float(_floor(results).get("bits_per_byte") or 0.0), tracks)
    pictures = {"curves": curve_panels(scale, tracks), "generation": _speed_panels(results)}
    for name, panels in pictures.items():
        if panels:
            title = {"curves": "Learning curves", "generation": "Generating"}[name]
            write_atomic(folder / f"{name}.svg", sheet(title, panels))
            with contextlib.suppress(MissingExtraError):
                write_png(panels, folder / f"{name}.png")
    body = [
        _header(folder, results),
        _result(results),
        _facts(results),
        _models(results),
        _unfair(results),
        _curves(scale, tracks, pictures["curves"]),
        _trials(results),
        _shapes(results),
        _generation(results, pictures["generation"]),
        _samples(results),
        _protocol(results),
        _again(folder, results),
        footer(results.get("version")),
    ]
    title = f"{folder.resolve().name} · ensue"
    report = folder / "report.html"
    write_atomic(report, page(title, "\n".join(filter(None, body)), LINES_STYLE + STYLE))
    return report


# --- how it ended ---------------------------------------------------------------------------------


def _header(folder: Path, results: Mapping[str, Any]) -> str:
    data = part(results, "data")
    names = ", ".join(visible(str(c["name"])) for c in results["candidates"])
    text = " + ".join(few(map(place, data.get("sources") or ()))) or "a text"
    equal = EQUAL.get(str(results.get("equal")), "cost")
    return (
        f'<header><p class="over">{escaped(folder.resolve().name)}</p>'
        f"<h1>{escaped(names)} on {escaped(text)}</h1>"
        f"<p>Compared at equal {equal}.</p></header>"
    )


def _floor(results: Mapping[str, Any]) -> Mapping[str, Any]:
    floor = part(results, "floor")
    return floor if is_number(floor.get("bits_per_byte")) else {}


def _ranked(results: Mapping[str, Any]) -> list[Candidate]:
    done = [c for c in results["candidates"] if is_number(c.get("bits_per_byte"))]
    return sorted(done, key=lambda c: float(c["bits_per_byte"]))


def _result(results: Mapping[str, Any]) -> str:
    ranked, floor = _ranked(results), _floor(results)
    if ranked and _beats(ranked[0], floor):
        words = (
            f'<p class="big"><b>{escaped(ranked[0]["name"])}</b>'
            f" {ranked[0]['bits_per_byte']:.3f} bits per byte on valid</p>"
        )
    else:
        end = "No network beats counting." if ranked else "No network finished."
        words = f'<p class="big bad"><strong>{end}</strong></p>'
    words += f"<p>{escaped(results['verdict'])}</p>" if results.get("verdict") else ""
    return f'<section class="result">{words}</section>'


def _facts(results: Mapping[str, Any]) -> str:
    data, floor = part(results, "data"), _floor(results)
    best, *others = _ranked(results) or [{}]
    return facts(
        {
            **(_margin(best, others[0], str(others[0]["name"])) if others else {}),
            **(_margin(best, floor, "the floor") if best and floor else {}),
            "training text": _say(data.get("train_bytes"), size, ""),
            "validation text": _say(data.get("valid_bytes"), size, ""),
            "test text": _say(data.get("test_bytes") or None, size, ""),
            "tokenizer": str(data.get("tokenizer") or ""),
            "budget of a run": str(results.get("budget") or ""),
        }
    )


def _margin(best: Candidate, other: Candidate, what: str) -> dict[str, str]:
    score, bound = float(best["bits_per_byte"]), float(other["bits_per_byte"])
    gap = abs(bound - score)
    side = "below" if score < bound else "above"
    what = f"{best['name']} {side} {what}, bits per byte"
    return {what: f"{gap:.3f} ({gap / bound:.1%})" if bound else ""}


def _beats(candidate: Candidate, floor: Mapping[str, Any]) -> bool:
    return not floor or candidate["bits_per_byte"] < floor["bits_per_byte"]


# --- the table ------------------------------------------------------------------------------------


def _columns(results: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Give the main table: caption, heads, and a row for each candidate and for the floor."""
    candidates: list[Candidate] = list(results["candidates"])
    floor, context = _floor(results), min(_contexts(results), default=0)
    tested = [c for c in (*candidates, floor) if is_number(c.get("test_bits_per_byte"))]
    columns: list[tuple[str, Callable[[Candidate], str]]] = [
        ("model", lambda c: str(c["name"])),
        ("bits per byte, valid", lambda c: _score(c, results)),
        *([("on test", lambda c: _with_spread(c, "test_", results))] if tested else []),
        ("parameters", lambda c: number(c.get("parameters"), ",.0f")),
        ("training FLOPs", lambda c: _say(c.get("flops"), power)),
        ("seconds", lambda c: number(c.get("seconds"), ",.1f")),
        ("tokens", lambda c: _say(c.get("tokens"), short)),
        ("tokens/s", lambda c: number(c.get("tokens_per_second"), ",.0f")),
        ("peak memory", lambda c: _say(c.get("peak_bytes"), size)),
        ("learning rate", lambda c: _say(c.get("rate"), FACTOR)),
    ]
    if context:
        head = f"generating, tokens/s after {context:,}"
        columns.append((head, lambda c: number(_generating(c, context)[0], ",.0f")))
    columns.append(("note", lambda c: _note(c, results)))
    rows = [[cell(c) for _, cell in columns] for c in [*candidates, *([floor] if floor else [])]]
    seeds = results.get("seeds") or 1
    over = f"means over {seeds} seeds, ± standard deviation" if seeds > 1 else "one seed"
    caption = f"Each model: {over}; fewer bits are better"
    return caption, [head for head, _ in columns], rows


def _models(results: Mapping[str, Any]) -> str:
    laid_out = table(*_columns(results))
    return f'<section class="models"><h2>Result</h2>{laid_out}{_seeds(results)}</section>'


def _table_md(results: Mapping[str, Any]) -> str:
    """Write the main table as Markdown, best first, to be pasted into a page."""
    caption, heads, rows = _columns(results)
    scores = [one.get("bits_per_byte") for one in (*results["candidates"], _floor(results))]
    bits = [float(score) if is_number(score) else math.inf for score in scores]
    order = sorted(range(len(rows)), key=bits.__getitem__)
    lines = [heads, ["---"] * len(heads), *(rows[i] for i in order)]
    cells = ["| " + " | ".join(visible(c).replace("|", "\\|") for c in row) + " |" for row in lines]
    verdict = visible(str(results.get("verdict") or ""))
    return "\n".join([*cells, "", f"{caption}. {verdict}", ""])


def _seeds(results: Mapping[str, Any]) -> str:
    rows = [
        [
            str(c["name"]),
            str(run["seed"]),
            number(run.get("bits_per_byte"), ".4f"),
            number(run.get("test_bits_per_byte"), ".4f"),
            number(run.get("seconds"), ",.1f"),
            _say(run.get("peak_bytes"), size),
            str(run.get("error") or ""),
        ]
        for c in results["candidates"]
        for run in c.get("runs") or ()
    ]
    heads = ["model", "seed", "bits per byte, valid", "on test", "seconds", "peak memory", "note"]
    return folded("Each seed", heads, rows, len(rows), "results.json") if rows else ""


def _score(candidate: Candidate, results: Mapping[str, Any]) -> str:
    if is_number(candidate.get("bits_per_byte")):
        return _with_spread(candidate, "", results)
    return "failed"


def _with_spread(candidate: Candidate, which: str, results: Mapping[str, Any]) -> str:
    words, spread_ = number(candidate.get(f"{which}bits_per_byte"), ".3f"), f"{which}spread"
    if is_number(candidate.get(spread_)) and (results.get("seeds") or 1) > 1:
        words += f" ± {candidate[spread_]:.3f}"
    return words


def _note(candidate: Candidate, results: Mapping[str, Any]) -> str:
    floor = _floor(results)
    if candidate is floor:
        return "; ".join(filter(None, ["the floor: no network", str(floor.get("note") or "")]))
    score, runs = candidate.get("bits_per_byte"), candidate.get("runs") or ()
    words = [f"failed: {candidate['error']}"] if candidate.get("error") else []
    if not candidate.get("error"):
        words += [f"seed {run['seed']} failed: {run['error']}" for run in runs if run.get("error")]
    if is_number(score) and not _beats(candidate, floor):
        words.append("no better than counting")
    elif is_number(score) and candidate["name"] == results.get("winner"):
        words.append("the winner")
    return "; ".join(words)


def _unfair(results: Mapping[str, Any]) -> str:
    return _sentences("Where this is not fair", results.get("unfair") or ())


def _sentences(title: str, sentences: Sequence[str], more: str = "") -> str:
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f"<section><h2>{title}</h2><ul>{items}</ul>{more}</section>" if items or more else ""


def _say(value: Any, write: Callable[[Any], str], missing: str = "–") -> str:
    return write(value) if is_number(value) else missing


# --- curves ---------------------------------------------------------------------------------------


def _curves(scale: Scale, tracks: Sequence[Track], panels: Sequence[Panel]) -> str:
    if not panels:
        return "<section><h2>Curves</h2><p>No evaluation has been recorded yet.</p></section>"
    words = []
    if any(len(track.seeds) > 1 for track in tracks):
        words.append("Mean over seeds; thin lines: each seed.")
    words.append(
        "During training a sample of the validation text may be scored; the last point scores"
        " all that the table does."
    )
    if scale.cut:
        words.append(f"What lies above {scale.high:.2f}, as the steep start does, is cut.")
    outside = [t.name for t in tracks if t.mean and _is_outside(t.mean[-1], scale)]
    if outside:
        words.append(f"Outside of the picture (arrow): {', '.join(outside)}.")
    if scale.floor and not scale.low <= scale.floor <= scale.high:
        words.append(f"The floor of {scale.floor:.3f} is outside of it too (arrow).")
    rows = [
        [
            track.name,
            *(f"{m['step']:,.0f}", f"{m['tokens']:,.0f}", _say(m["flops"] or None, power)),
            *(f"{m['seconds']:,.1f}", f"{m['bits_per_byte']:.4f}"),
        ]
        for track in tracks
        for m in track.mean
    ]
    heads = ["model", "steps", "tokens", "training FLOPs", "seconds", "bits per byte"]
    return (
        "<section><h2>Curves <small>validation, bits per byte, lower is better</small></h2>"
        f"{_figure(panels, ' '.join(words))}"
        f"{folded('Curves', heads, spread(rows, ROWS), len(rows), 'curves.csv')}</section>"
    )


def _is_outside(moment: Moment, scale: Scale) -> bool:
    return not scale.low <= moment["bits_per_byte"] <= scale.high


def _figure(panels: Sequence[Panel], caption: str) -> str:
    return (
        f'<figure><div class="panels">{"".join(map(picture, panels))}</div>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


# --- learning rates, generating, samples ----------------------------------------------------------


def _trials(results: Mapping[str, Any]) -> str:
    rates = [rate for rate in results.get("rates") or () if is_number(rate)]
    rows = []
    for candidate in results["candidates"]:
        tried = {t["rate"]: t for t in candidate.get("trials") or ()}
        if tried:
            cells = [_trial(tried.get(rate, {})) for rate in rates]
            rows.append([str(candidate["name"]), *cells, _chosen(candidate.get("rate"), rates)])
    if not rows:
        return ""
    heads = ["model", *map(FACTOR, rates), "chosen"]
    caption = "Bits per byte of the trials, by factor on the learning rates"
    return f'<section class="models"><h2>Learning rates</h2>{table(caption, heads, rows)}</section>'


def _trial(trial: Mapping[str, Any]) -> str:
    return str(trial.get("error") or number(trial.get("bits_per_byte"), ".3f"))


def _chosen(rate: Any, rates: Sequence[float]) -> str:
    at_edge = is_number(rate) and len(rates) > 1 and rate in (min(rates), max(rates))
    return _say(rate, FACTOR) + (", at the edge of what was tried" if at_edge else "")


def _shapes(results: Mapping[str, Any]) -> str:
    """Show every candidate's shape: a row for each thing that some of them have."""
    shapes = {str(c["name"]): part(c, "shape") for c in results["candidates"]}
    keys = list(dict.fromkeys(key for shape in shapes.values() for key in shape))
    rows = [
        [key, *(plain(shape[key]) if key in shape else "–" for shape in shapes.values())]
        for key in keys
    ]
    return folded("Shapes", ["setting", *shapes], rows, len(rows), "results.json") if rows else ""


def _contexts(results: Mapping[str, Any]) -> list[int]:
    return sorted({g["context"] for c in results["candidates"] for g in c.get("generation") or ()})


def _generating(candidate: Candidate, context: int) -> tuple[Any, Any]:
    """Give tokens a second and bytes of state after a context; None: not measured."""
    for g in candidate.get("generation") or ():
        if g["context"] == context:
            return g.get("tokens_per_second"), g.get("state_bytes")
    return None, None


def _speed_panels(results: Mapping[str, Any]) -> list[Panel]:
    contexts, panels = _contexts(results), []
    for name, title, i, words in (
        ("speed", "Generating: tokens per second", 0, short),
        ("state", "Generating: memory of a row", 1, size),
    ):
        lines = []
        for style, c in enumerate(results["candidates"]):
            values = [(x, _generating(c, x)[i]) for x in contexts]
            points = [(x, y) for x, y in values if is_number(y) and y > 0]
            if points:
                lines.append(Line(str(c["name"]), points, style))
        if not lines:
            continue
        low = min(y for line in lines for _, y in line.points)
        high = max(y for line in lines for _, y in line.points)
        room = max(1.25, (high / low) ** 0.08)
        panels.append(
            Panel(
                name=f"generating-{name}",
                title=title,
                words=" ".join(
                    f"{line.name}: from {words(line.points[0][1])} after {line.points[0][0]:,} to"
                    f" {words(line.points[-1][1])} after {line.points[-1][0]:,} tokens."
                    for line in lines
                ),
                x_title="tokens before; both scales logarithmic",
                lines=lines,
                low=low / room,
                high=high * room,
                x_min=min(contexts) / 1.15,
                x_max=max(contexts) * 1.15,
                log=True,
                x_log=True,
                x_ticks=contexts,
                x_words="{:,}".format,
                y_words=words,
            )
        )
    return panels


def _generation(results: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    if not panels:
        return ""
    rows = [
        [
            str(c["name"]),
            f"{g['context']:,}",
            number(g.get("tokens_per_second"), ",.1f"),
            number(g.get("state_bytes"), ",.0f"),
        ]
        for c in results["candidates"]
        for g in c.get("generation") or ()
    ]
    heads = ["model", "tokens before", "tokens/s", "bytes of state"]
    return (
        "<section><h2>Generating <small>one row at a time</small></h2>"
        f"{_figure(panels, 'After so many tokens of text: speed, and what must be remembered.')}"
        f"{folded('Generating', heads, rows[:ROWS], len(rows), 'table.csv')}</section>"
    )


def _samples(results: Mapping[str, Any]) -> str:
    by_prompt: dict[str, list[str]] = {}
    for candidate in results["candidates"]:
        for one in candidate.get("samples") or ():
            by_prompt.setdefault(one["prompt"], []).append(
                f"<figure><figcaption><b>{escaped(candidate['name'])}</b></figcaption>"
                f"{sample(one['prompt'], one['text'])}</figure>"
            )
    shown = "".join(f'<div class="beside">{"".join(c)}</div>' for c in by_prompt.values())
    if not shown:
        return ""
    title = "Samples <small>from an empty page</small>"
    return f"<section><h2>{title}</h2>{shown}</section>"


# --- how it was done ------------------------------------------------------------------------------


def _protocol(results: Mapping[str, Any]) -> str:
    machine = part(results, "machine")
    more = f"<p>Machine: {escaped(plain(machine))}.</p>" if machine else ""
    return _sentences("How it was measured", results.get("protocol") or (), more)


def _again(folder: Path, results: Mapping[str, Any]) -> str:
    shown = []
    if results.get("command"):
        shown.append(block("The whole comparison; given again, it goes on", results["command"]))
    runs = [run for c in results["candidates"] for run in c.get("runs") or ()]
    if results.get("winner"):
        words = command("ensue", "generate", place(folder / "winner"), PROMPT)
        shown.append(block("Let the best one write", words))
    lines = [run["command"] for run in runs if run.get("command")]
    if lines:
        shown.append(
            f"<details><summary>Each run alone ({len(lines)})</summary>"
            f"{block('In the folder of the comparison', chr(10).join(lines))}</details>"
        )
    return f"<section><h2>Do it again</h2>{''.join(shown)}</section>" if shown else ""


# --- tables for other programs --------------------------------------------------------------------


def _table_csv(results: Mapping[str, Any]) -> str:
    contexts, floor = _contexts(results), _floor(results)
    heads = list(SCALARS)
    for context in contexts:
        heads += [f"tokens_per_second_after_{context}", f"state_bytes_after_{context}"]
    rows = [
        [
            *(c.get(key) for key in SCALARS),
            *(value for context in contexts for value in _generating(c, context)),
            _note(c, results),
        ]
        for c in [*results["candidates"], *([floor] if floor else [])]
    ]
    return _csv([*heads, "note"], rows)


def _curves_csv(tracks: Sequence[Track]) -> str:
    rows = [
        [track.name, seed, int(m["step"]), *(m[key] or None for key in FIELDS[1:])]
        for track in tracks
        for seed, run in track.seeds.items()
        for m in run
    ]
    return _csv(["name", "seed", *FIELDS], rows)


def _csv(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([visible(x) if isinstance(x, str) else x for x in row] for row in rows)
    return text.getvalue()


STYLE = """
.models > .scroll { margin-right: calc(50% - min(50vw - 1rem, 38rem)); padding-bottom: 1px; }
.models > .scroll table { font-size: .8rem; border-collapse: separate; border-spacing: 0; }
.models > .scroll th, .models > .scroll td { padding: .3rem .35rem; }
.models thead th { white-space: normal; vertical-align: bottom; }
.models th:first-child { text-align: left; position: sticky; left: 0; z-index: 1;
  background: var(--paper); min-width: 5.5rem; max-width: 12rem; white-space: normal;
  overflow-wrap: break-word; }
.models > .scroll td:last-child, .models > .scroll th:last-child { text-align: left; }
.models > .scroll td:last-child { min-width: 9rem; white-space: normal; color: var(--soft); }
.beside { display: grid; gap: 0 1rem; margin-bottom: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); }
"""
