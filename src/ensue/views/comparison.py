"""The report of a comparison: which model learns the task best at an equal cost, and how sure.

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
from ensue.tasks import Kind, find_kind
from ensue.tasks.measures import Measure
from ensue.views.bottleneck import length_panels, length_table
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
from ensue.views.text import command, few, part, place, plain, power, short, size, visible
from ensue.views.tracks import FIELDS, Moment, Scale, Track, choose_scale, curve_panels, read_track

EQUAL = {"params": "parameters", "flops": "training FLOPs", "time": "training time"}
"""What may be equal, in words."""
COSTS = ("parameters", "flops", "seconds", "tokens", "tokens_per_second", "peak_bytes", "rate")
"""Columns of ``table.csv`` between the measures and those of generating."""

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
    kind = _kind(results)
    measure = kind.followed_by
    tracks = [read_track(folder, c, kind) for c in results["candidates"]]
    write_atomic(folder / "table.csv", _table_csv(results))
    write_atomic(folder / "table.md", _table_md(results))
    write_atomic(folder / "curves.csv", _curves_csv(tracks, measure))
    scale = choose_scale(_floor_of_curves(results), tracks)
    read = _kind(results).targets
    pictures = {
        "curves": curve_panels(scale, tracks, measure, read),
        "bottleneck": length_panels(*_by_length(results)),
        "generation": _speed_panels(results),
    }
    for name, panels in pictures.items():
        if panels:
            title = {
                "curves": "Learning curves",
                "bottleneck": "Quality by the length of the source",
                "generation": "Generating",
            }[name]
            write_atomic(folder / f"{name}.svg", sheet(title, panels))
            with contextlib.suppress(MissingExtraError):
                write_png(panels, folder / f"{name}.png")
    body = [
        _header(folder, results),
        _result(results),
        _facts(results),
        _models(results),
        _unfair(results),
        _bottleneck(results, pictures["bottleneck"]),
        _curves(scale, tracks, pictures["curves"], measure, read),
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


def _measures(results: Mapping[str, Any]) -> list[Measure]:
    """Give by what was compared; the first decides."""
    return [Measure(**values) for values in results["measures"]]


def _kind(results: Mapping[str, Any]) -> Kind:
    """Give what was learnt."""
    return find_kind(str(results.get("task") or "lm"))


def _floors(results: Mapping[str, Any]) -> list[Candidate]:
    """Give what needs no network, as far as it has a score; the best first."""
    main = _measures(results)[0]
    known = [floor for floor in results.get("floors") or () if is_number(floor.get(main.key))]
    return sorted(known, key=lambda floor: _cost(floor, main))


def _floor_of_curves(results: Mapping[str, Any]) -> float:
    """Give where the floor lies among the curves; 0: it has no such score."""
    key = _kind(results).followed_by.key
    found = [floor[key] for floor in _floors(results) if is_number(floor.get(key))]
    return float(found[0]) if found else 0.0


def _cost(one: Candidate, measure: Measure) -> float:
    """Give what is less where the score is better; without a score: infinity."""
    score: Any = one.get(measure.key)
    return measure.cost(float(score)) if is_number(score) else math.inf


def _ranked(results: Mapping[str, Any]) -> list[Candidate]:
    main, other = _measures(results)[0], _kind(results).followed_by
    done = [c for c in results["candidates"] if is_number(c.get(main.key))]
    return sorted(done, key=lambda c: (_cost(c, main), _cost(c, other)))


def _shown(measure: Measure, value: float) -> str:
    return f"{value:.{measure.digits}f}"


def _result(results: Mapping[str, Any]) -> str:
    ranked, main, floors = _ranked(results), _measures(results)[0], _floors(results)
    if ranked and _beats(ranked[0], results):
        best = ranked[0]
        words = (
            f'<p class="big"><b>{escaped(best["name"])}</b>'
            f" {_shown(main, best[main.key])} {escaped(main.unit)} on valid</p>"
        )
    else:
        bound = floors[0].get("doing") or "counting" if floors else ""
        end = f"No network beats {bound}." if ranked else "No network finished."
        words = f'<p class="big bad"><strong>{escaped(end)}</strong></p>'
    words += f"<p>{escaped(results['verdict'])}</p>" if results.get("verdict") else ""
    return f'<section class="result">{words}</section>'


def _facts(results: Mapping[str, Any]) -> str:
    data, floors, main = part(results, "data"), _floors(results), _measures(results)[0]
    best, *others = _ranked(results) or [{}]
    count = "{:,}".format
    return facts(
        {
            **(_margin(best, others[0], str(others[0]["name"]), main) if others else {}),
            **(_margin(best, floors[0], "the floor", main) if best and floors else {}),
            "training text": _say(data.get("train_bytes"), size, ""),
            "validation text": _say(data.get("valid_bytes"), size, ""),
            "test text": _say(data.get("test_bytes") or None, size, ""),
            "training pairs": _say(data.get("train_pairs"), count, ""),
            "validation pairs": _say(data.get("valid_pairs"), count, ""),
            "test pairs": _say(data.get("test_pairs") or None, count, ""),
            "training texts": _say(data.get("train_texts"), count, ""),
            "validation texts": _say(data.get("valid_texts"), count, ""),
            "test texts": _say(data.get("test_texts") or None, count, ""),
            "tokenizer": str(data.get("tokenizer") or ""),
            "budget of a run": str(results.get("budget") or ""),
        }
    )


def _margin(best: Candidate, other: Candidate, what: str, measure: Measure) -> dict[str, str]:
    score, bound = float(best[measure.key]), float(other[measure.key])
    gap = abs(bound - score)
    side = "below" if score < bound else "above"
    share = f" ({gap / bound:.1%})" if bound and not measure.more else ""
    return {f"{best['name']} {side} {what}, {measure.name}": f"{_shown(measure, gap)}{share}"}


def _beats(candidate: Candidate, results: Mapping[str, Any]) -> bool:
    main, floors = _measures(results)[0], _floors(results)
    return not floors or _cost(candidate, main) < _cost(floors[0], main)


# --- the table ------------------------------------------------------------------------------------


def _columns(results: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """Give the main table: caption, heads, and a row for each candidate and for each floor."""
    candidates: list[Candidate] = list(results["candidates"])
    ones, context = [*candidates, *_floors(results)], min(_contexts(results), default=0)
    read = _kind(results).targets
    columns: list[tuple[str, Callable[[Candidate], str]]] = [("model", lambda c: str(c["name"]))]
    for place_, measure in enumerate(_measures(results)):
        columns += _score_columns(measure, ones, results, "failed" if not place_ else "–")
    columns += [
        ("parameters", lambda c: number(c.get("parameters"), ",.0f")),
        ("training FLOPs", lambda c: _say(c.get("flops"), power)),
        ("seconds", lambda c: number(c.get("seconds"), ",.1f")),
        (read, lambda c: _say(c.get("tokens"), short)),
        (f"{read}/s", lambda c: number(c.get("tokens_per_second"), ",.0f")),
        ("peak memory", lambda c: _say(c.get("peak_bytes"), size)),
        ("learning rate", lambda c: _say(c.get("rate"), FACTOR)),
    ]
    if context:
        head = f"generating, tokens/s after {context:,}"
        columns.append((head, lambda c: number(_generating(c, context)[0], ",.0f")))
    columns.append(("note", lambda c: _note(c, results)))
    rows = [[cell(c) for _, cell in columns] for c in ones]
    seeds = results.get("seeds") or 1
    over = f"means over {seeds} seeds, ± standard deviation" if seeds > 1 else "one seed"
    main = _measures(results)[0]
    better = "more is better" if main.more else "less is better"
    return f"Each model: {over}; {better}", [head for head, _ in columns], rows


def _score_columns(
    measure: Measure, ones: Sequence[Candidate], results: Mapping[str, Any], missing: str
) -> list[tuple[str, Callable[[Candidate], str]]]:
    """Give the columns of a measure: on valid, and on test where something was scored there."""
    key = measure.key

    def on_valid(one: Candidate) -> str:
        return _with_spread(one, key, measure, results) if is_number(one.get(key)) else missing

    columns: list[tuple[str, Callable[[Candidate], str]]]
    columns = [(f"{measure.name}, valid", on_valid)]
    if any(is_number(one.get(f"test_{key}")) for one in ones):
        name = "on test" if measure == _measures(results)[0] else f"{measure.name}, test"
        columns.append((name, lambda c: _with_spread(c, f"test_{key}", measure, results)))
    return columns


def _models(results: Mapping[str, Any]) -> str:
    laid_out = table(*_columns(results))
    return f'<section class="models"><h2>Result</h2>{laid_out}{_seeds(results)}</section>'


def _table_md(results: Mapping[str, Any]) -> str:
    """Write the main table as Markdown, best first, to be pasted into a page."""
    caption, heads, rows = _columns(results)
    main = _measures(results)[0]
    losses = [_cost(one, main) for one in (*results["candidates"], *_floors(results))]
    order = sorted(range(len(rows)), key=losses.__getitem__)
    lines = [heads, ["---"] * len(heads), *(rows[i] for i in order)]
    cells = ["| " + " | ".join(visible(c).replace("|", "\\|") for c in row) + " |" for row in lines]
    verdict = visible(str(results.get("verdict") or ""))
    return "\n".join([*cells, "", f"{caption}. {verdict}", ""])


def _seeds(results: Mapping[str, Any]) -> str:
    """Show each run with all that was measured of it."""
    runs = [(c, run) for c in results["candidates"] for run in c.get("runs") or ()]
    scores = [
        (f"{measure.name}, {split}", f"{prefix}{measure.key}", measure.digits + 1)
        for measure in _measures(results)
        for split, prefix in (("valid", ""), ("test", "test_"))
        if not prefix or any(f"test_{measure.key}" in run for _, run in runs)
    ]
    rows = [
        [
            str(c["name"]),
            str(run["seed"]),
            *(number(run.get(key), f".{digits}f") for _, key, digits in scores),
            number(run.get("seconds"), ",.1f"),
            _say(run.get("peak_bytes"), size),
            str(run.get("error") or ""),
        ]
        for c, run in runs
    ]
    heads = ["model", "seed", *(head for head, _, _ in scores), "seconds", "peak memory", "note"]
    return folded("Each seed", heads, rows, len(rows), "results.json") if rows else ""


def _with_spread(
    candidate: Candidate, key: str, measure: Measure, results: Mapping[str, Any]
) -> str:
    words, spread_ = number(candidate.get(key), f".{measure.digits}f"), f"{key}_spread"
    if is_number(candidate.get(spread_)) and (results.get("seeds") or 1) > 1:
        words += f" ± {_shown(measure, candidate[spread_])}"
    return words


def _note(candidate: Candidate, results: Mapping[str, Any]) -> str:
    floors = _floors(results)
    if candidate in floors:
        which = "the floor: no network" if len(floors) == 1 else "a floor: no network"
        return "; ".join(filter(None, [which, str(candidate.get("note") or "")]))
    runs, done = candidate.get("runs") or (), is_number(_measured(candidate, results))
    words = [f"failed: {candidate['error']}"] if candidate.get("error") else []
    if not candidate.get("error"):
        words += [f"seed {run['seed']} failed: {run['error']}" for run in runs if run.get("error")]
    if done and not _beats(candidate, results):
        words.append("no better than counting" if len(floors) == 1 else "no better than a floor")
    elif done and candidate["name"] == results.get("winner"):
        words.append("the winner")
    return "; ".join(words)


def _measured(candidate: Candidate, results: Mapping[str, Any]) -> Any:
    return candidate.get(_measures(results)[0].key)


def _unfair(results: Mapping[str, Any]) -> str:
    return _sentences("Where this is not fair", results.get("unfair") or ())


def _sentences(title: str, sentences: Sequence[str], more: str = "") -> str:
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f"<section><h2>{title}</h2><ul>{items}</ul>{more}</section>" if items or more else ""


def _say(value: Any, write: Callable[[Any], str], missing: str = "–") -> str:
    return write(value) if is_number(value) else missing


# --- curves ---------------------------------------------------------------------------------------


def _curves(
    scale: Scale, tracks: Sequence[Track], panels: Sequence[Panel], measure: Measure, read: str
) -> str:
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
            *(f"{m['seconds']:,.1f}", f"{m['score']:.{measure.digits + 1}f}"),
        ]
        for track in tracks
        for m in track.mean
    ]
    heads = ["model", "steps", read, "training FLOPs", "seconds", measure.name]
    return (
        f"<section><h2>Curves <small>validation, {measure.unit}, lower is better</small></h2>"
        f"{_figure(panels, ' '.join(words))}"
        f"{folded('Curves', heads, spread(rows, ROWS), len(rows), 'curves.csv')}</section>"
    )


def _is_outside(moment: Moment, scale: Scale) -> bool:
    return not scale.low <= moment["score"] <= scale.high


def _figure(panels: Sequence[Panel], caption: str) -> str:
    return (
        f'<figure><div class="panels">{"".join(map(picture, panels))}</div>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


# --- by the length of the source ------------------------------------------------------------------


def _by_length(results: Mapping[str, Any]) -> tuple[list[Candidate], list[Any], Measure]:
    """Give what the bottleneck figure is drawn from."""
    ones = [*results["candidates"], *_floors(results)]
    return ones, list(results.get("lengths") or ()), _measures(results)[0]


def _bottleneck(results: Mapping[str, Any], panels: Sequence[Panel]) -> str:
    if not panels:
        return ""
    heads, rows = length_table(*_by_length(results))
    caption = "Each point: a group of valid of about equal size."
    if (results.get("seeds") or 1) > 1:
        caption += " Bars: the standard deviation over seeds."
    what = escaped(f"{_measures(results)[0].name} by the length of the source")
    return (
        f"<section><h2>The bottleneck <small>{what}</small></h2>{_figure(panels, caption)}"
        f"{folded('By length', heads, rows, len(rows), 'results.json')}</section>"
    )


# --- learning rates, generating, samples ----------------------------------------------------------


def _trials(results: Mapping[str, Any]) -> str:
    rates = [rate for rate in results.get("rates") or () if is_number(rate)]
    rows, measure = [], _kind(results).followed_by
    for candidate in results["candidates"]:
        tried = {t["rate"]: t for t in candidate.get("trials") or ()}
        if tried:
            cells = [_trial(tried.get(rate, {}), measure) for rate in rates]
            rows.append([str(candidate["name"]), *cells, _chosen(candidate.get("rate"), rates)])
    if not rows:
        return ""
    heads = ["model", *map(FACTOR, rates), "chosen"]
    caption = f"{measure.title} of the trials, by factor on the learning rates"
    return f'<section class="models"><h2>Learning rates</h2>{table(caption, heads, rows)}</section>'


def _trial(trial: Mapping[str, Any], measure: Measure) -> str:
    return str(trial.get("error") or number(trial.get(measure.key), f".{measure.digits}f"))


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
                x_title=f"{_before(results)}; both scales logarithmic",
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


def _before(results: Mapping[str, Any]) -> str:
    """Say what was read before the tokens that were generated."""
    return "tokens of the source" if results.get("lengths") else "tokens before"


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
    heads = ["model", _before(results), "tokens/s", "bytes of state"]
    caption = f"By {_before(results)}: speed, and what must be remembered."
    return (
        "<section><h2>Generating <small>one row at a time</small></h2>"
        f"{_figure(panels, caption)}"
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
        kind = _kind(results)
        words = command("ensue", kind.verb, place(folder / "winner"), kind.example)
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
    contexts = _contexts(results)
    keys = [f"{prefix}{m.key}" for m in _measures(results) for prefix in ("", "test_")]
    columns = ["name", "error", *(k for key in keys for k in (key, f"{key}_spread")), *COSTS]
    heads = list(columns)
    for context in contexts:
        heads += [f"tokens_per_second_after_{context}", f"state_bytes_after_{context}"]
    rows = [
        [
            *(c.get(key) for key in columns),
            *(value for context in contexts for value in _generating(c, context)),
            _note(c, results),
        ]
        for c in [*results["candidates"], *_floors(results)]
    ]
    return _csv([*heads, "note"], rows)


def _curves_csv(tracks: Sequence[Track], measure: Measure) -> str:
    rows = [
        [track.name, seed, int(m["step"]), *(m[key] or None for key in FIELDS[1:])]
        for track in tracks
        for seed, run in track.seeds.items()
        for m in run
    ]
    return _csv(["name", "seed", *FIELDS[:-1], measure.key], rows)


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
