"""The report of a run: its score, curve, samples and plan on one page."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.files import write_atomic
from ensue.models import LINEAGE
from ensue.runs import Run
from ensue.tasks.measures import BITS, LOSS, Measure, said
from ensue.views.page import ROWS, block, escaped, facts, folded, footer, number, page, sample
from ensue.views.plots import Curves, gist, loss_axes, loss_svg, lr_svg, read_curves, spread
from ensue.views.text import (
    command,
    data_names,
    duration,
    few,
    kind_of,
    model_name,
    own_code,
    part,
    place,
    plain,
    protocol,
    score_command,
    short,
    size,
    train_command,
    use_command,
)

METRICS = "metrics.jsonl"
"""The file that has all rows of the tables."""


def write_report(
    run: Run,
    plan: dict[str, Any],
    *,
    samples: Sequence[tuple[str, str]] = (),
    floor: dict[str, Any] | None = None,
) -> Path:
    """Write the report of a run, finished or not.

    Args:
        run: The run; its metrics are read.
        plan: The frozen plan, as plain values.
        samples: Pairs of a prompt and its continuation.
        floor: A score to beat: ``{"name": "5-gram", "bits_per_byte": 2.41}``.

    Returns:
        The file.
    """
    curves = read_curves(run.read_metrics(), kind_of(plan))
    body = [
        _header(run, plan),
        _result(plan, curves, floor),
        _facts(plan, curves),
        _pictures(curves, floor),
        _samples(samples),
        _use(run, plan, curves, samples),
        _plan(plan),
        _notes(plan),
        footer(plan.get("version")),
    ]
    title = f"{run.path.resolve().name} · ensue"
    write_atomic(run.report_path, page(title, "\n".join(filter(None, body)), STYLE))
    return run.report_path


# --- what was trained, and how good it is ---------------------------------------------------------


def _header(run: Run, plan: Mapping[str, Any]) -> str:
    name = model_name(plan)
    code, task = own_code(plan), kind_of(plan).name
    step = next((s.for_task(task) for s in LINEAGE if s.name == name), None)
    if code:
        idea = f"a class of its own, in {escaped(code)}"
    else:
        idea = f"{escaped(step.idea)} ({escaped(step.paper)} {step.year})" if step else ""
    names = " + ".join(data_names(plan))
    return (
        f'<header><p class="over">{escaped(run.path.resolve().name)}</p>'
        f"<h1>{escaped(name)} trained on <span>{escaped(names)}</span></h1>"
        f"<p>{idea}</p></header>"
    )


def _result(plan: Mapping[str, Any], curves: Curves, floor: Mapping[str, Any] | None) -> str:
    if not curves.final:
        last = curves.steps[-1]["step"] if curves.steps else 0
        total = part(plan, "config").get("steps") or 0
        planned = f" of {total:,}" if total else ""
        words = f"<p><strong>Not finished:</strong> {last:,}{planned} steps are done."
        if curves.evals:
            key = curves.measure.key
            best = min(curves.evals, key=lambda r: float(r[key]))
            words += (
                f" Lowest so far: {curves.measure.shown(best[key])}"
                f" at step {best['step']:,}{' (a sample of valid)' if best.get('sampled') else ''}."
            )
        return f'<section class="result">{words}</p></section>'
    first, *others = said(curves.final)
    score = curves.final[first.key]
    more = "".join(f", {m.shown(curves.final[m.key])}" for m in others)
    return (
        f'<section class="result"><p class="big"><b>{score:.{first.digits}f}</b>'
        f" {first.unit}{more} on {escaped(curves.final.get('split', 'valid'))}</p>"
        f"{_against(score, floor, first)}<p>{escaped(protocol(plan, curves.final))}</p></section>"
    )


def _against(score: int | float, floor: Mapping[str, Any] | None, measure: Measure) -> str:
    if not floor:
        return ""
    bound, name = float(floor[measure.key]), escaped(floor["name"])
    if score < bound:
        return (
            f'<p class="verdict">{bound - score:.2f} below the floor: counting alone'
            f" ({name}) reaches {bound:.3f}.</p>"
        )
    return (
        f'<p class="verdict bad">No better than counting: the floor ({name}) reaches'
        f" {bound:.3f}. More data, time or steps are needed.</p>"
    )


def _facts(plan: Mapping[str, Any], curves: Curves) -> str:
    last = curves.steps[-1] if curves.steps else {}
    speed = last["tokens"] / curves.seconds if curves.seconds and last.get("tokens") else 0
    return facts(
        {
            "parameters": short(plan["parameters"]) if plan.get("parameters") else "",
            "training text": size(plan["train_bytes"]) if plan.get("train_bytes") else "",
            "steps": f"{last['step']:,}" if last else "",
            f"{curves.target}s read": short(last.get("tokens") or 0) if last else "",
            "time in steps": duration(curves.seconds) if curves.seconds else "",
            f"{curves.target}s per second": short(speed) if speed else "",
        }
    )


# --- pictures, with their numbers -----------------------------------------------------------------


def _pictures(curves: Curves, floor: dict[str, Any] | None) -> str:
    if not curves.steps:
        return "<section><h2>Curve</h2><p>No step has been recorded yet.</p></section>"
    keys = ['<span class="key train">training loss, smoothed</span>']
    keys += ['<span class="key raw">each step</span>']
    keys += ['<span class="key valid">valid</span>'] if curves.valid else []
    keys += ['<span class="key averaged">valid, averaged weights</span>'] if curves.averaged else []
    keys += ['<span class="key kept">kept</span>'] if curves.kept else []
    if floor and curves.per_nat:
        keys.append(f'<span class="key floor">floor: {escaped(floor["name"])}</span>')
    converted = (
        " The training loss, in nats per token, is turned into bits per byte by what a token of the"
        " validation text spells."
        if curves.measure == BITS and curves.per_nat
        else ""
    )
    scale = "; logarithmic" if loss_axes(curves, floor, 900, 400).log else ""
    return (
        f"<section><h2>Curve <small>{curves.unit}, lower is better{scale}</small></h2>"
        f'<figure><p class="keys">{"".join(keys)}</p>'
        f"{loss_svg(curves, floor, 900, 400)}{loss_svg(curves, floor, 360, 300)}"
        f"<figcaption>Below: step and time spent in steps.{converted}"
        f' <span class="print">{escaped(gist(curves, floor))}</span></figcaption></figure>'
        f"{_evaluations(curves)}{_steps(curves)}"
        "<h2>Learning rate</h2><figure>"
        f"{lr_svg(curves, 900, 150)}{lr_svg(curves, 360, 140)}"
        "<figcaption>Its values stand in the table of steps above.</figcaption></figure></section>"
    )


def _evaluations(curves: Curves) -> str:
    records = [*curves.evals, curves.final] if curves.final else curves.evals
    if not records:
        return ""
    measure, averaged = curves.measure, bool(curves.averaged)
    others = [other for other in said(records[-1]) if other != measure]
    digits = f".{measure.digits + 1}f"
    heads = ["step", "seconds", measure.name, *(["averaged"] if averaged else [])]
    rows = [
        [
            f"{r['step']:,}",
            f"{curves.at(r['step'], 'seconds'):.1f}",
            f"{r[measure.key]:{digits}}",
            *([number(r.get(f"{measure.key}_averaged"), digits)] if averaged else []),
            *(number(r.get(other.key), f".{other.digits}f") for other in others),
            *([] if measure == LOSS else [f"{r['loss']:.4f}"]),
            "a sample" if r.get("sampled") else "all",
        ]
        for r in spread(records, ROWS)
    ]
    heads += [other.name for other in others]
    heads += [*([] if measure == LOSS else [f"nats per {curves.target}"]), "scored"]
    return folded("Evaluations", heads, rows, len(records), METRICS)


def _steps(curves: Curves) -> str:
    rows = [
        [
            f"{r['step']:,}",
            number(r.get("seconds"), ".1f"),
            f"{r['loss']:.4f}",
            number(r.get("lr"), ".3g"),
            number(r.get("grad_norm"), ".3g"),
            number(r.get("tokens_per_second"), ",.0f"),
        ]
        for r in spread(curves.steps, ROWS)
    ]
    loss = f"loss (nats per {curves.target})"
    heads = ["step", "seconds", loss, "learning rate", "gradient norm"]
    heads.append(f"{curves.target}s per second")
    return folded("Steps", heads, rows, len(curves.steps), METRICS)


# --- samples, commands, plan ----------------------------------------------------------------------


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    if not samples:
        return ""
    shown = "".join(sample(prompt, text) for prompt, text in samples)
    return f"<section><h2>Samples <small>prompt in bold</small></h2>{shown}</section>"


def _use(
    run: Run, plan: Mapping[str, Any], curves: Curves, samples: Sequence[tuple[str, str]]
) -> str:
    folder = place(run.path)
    lines = (prompt.strip() for prompt, _ in samples)
    prompt = next((line for line in lines if line and "\n" not in line), "")
    again = train_command(plan)
    commands = {
        "Use it": use_command(plan, folder, prompt),
        "Score another text": score_command(plan, folder),
        "Train it again": again,
    }
    if not curves.final:
        commands = {"Go on": f"{again} --out {command(folder)}"}
    shown = "".join(block(title, line) for title, line in commands.items())
    return f"<section><h2>Use it</h2>{shown}</section>"


def _plan(plan: Mapping[str, Any]) -> str:
    config, request = part(plan, "config"), part(plan, "request")
    tables = {
        "Run": ({k: v for k, v in config.items() if not isinstance(v, Mapping)}, request),
        "Model": (part(config, "model"), part(request, "model")),
        "Data": (part(config, "data"), part(request, "data")),
        "Training": (part(config, "train"), part(request, "train")),
        "Measured": (
            {k: v for k, v in plan.items() if k not in ("config", "request", "machine", "notes")},
            {},
        ),
        "Machine": (part(plan, "machine"), {}),
    }
    shown = "".join(_values(title, *pair) for title, pair in tables.items() if pair[0])
    if not shown:
        return ""
    return (
        "<section><h2>Plan <small>frozen before the first step</small></h2>"
        f'<p>Marked values were chosen by ensue.</p><div class="plan">{shown}</div></section>'
    )


def _values(title: str, values: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    rows = []
    for key, value in values.items():
        chosen = key in asked and asked[key] != value
        mark = "<i>chosen</i> " if chosen else ""
        shown = html.escape(_value(value))
        cells = f'<th scope="row">{escaped(key)}</th><td>{mark}{shown}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return f"<table><caption>{title}</caption><tbody>{''.join(rows)}</tbody></table>"


def _value(value: Any) -> str:
    if isinstance(value, list):  # all lists of a plan name files
        return ", ".join(few(map(place, value))) or "–"
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return place(value)
    return plain(value)


def _notes(plan: Mapping[str, Any]) -> str:
    notes = "".join(f"<li>{escaped(note)}</li>" for note in plan.get("notes") or ())
    return f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else ""


STYLE = """
:root { --train: #0072b2; --valid: #c14a00; --averaged: #00795a; --floor: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --train: #56b4e9; --valid: #f0a04b;
  --averaged: #3fc79a; --floor: #b0b0b0; } }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; }
.key::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .45rem;
  vertical-align: .25em; border-top: .18rem solid; }
.key.train::before { color: var(--train); } .key.raw::before { color: var(--train); opacity: .35; }
.key.valid::before { color: var(--valid); border-top-width: .3rem; }
.key.averaged::before { color: var(--averaged); border-top-style: dotted; }
.key.floor::before { color: var(--floor); border-top-style: dashed; }
.key.kept::before { width: .8rem; height: .8rem; border: .15rem solid var(--ink);
  border-radius: 50%; vertical-align: -.1em; }
svg.wide { display: none; } svg.narrow { max-width: 30rem; }
@media (min-width: 640px), print { svg.wide { display: block; } svg.narrow { display: none; } }
svg .score { fill: var(--ink); font-weight: 700; font-size: 13px;
  paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
path.raw { stroke: var(--train); opacity: .3; } path.train { stroke: var(--train); }
path.train, path.valid, path.rate { stroke-width: 2; stroke-linejoin: round; }
path.valid { stroke: var(--valid); } circle.valid { fill: var(--valid); }
path.averaged { stroke: var(--averaged); stroke-width: 2; stroke-dasharray: 2 4; }
circle.averaged { fill: var(--paper); stroke: var(--averaged); stroke-width: 1.5; }
circle.train, circle.raw, circle.rate { fill: var(--train); } path.rate { stroke: var(--train); }
path.floor { stroke: var(--floor); stroke-width: 1.8; stroke-dasharray: 7 5; }
circle.kept { fill: none; stroke: var(--ink); stroke-width: 2; }
.plan { columns: 22rem; column-gap: 2.5rem; }
.plan table { width: 100%; break-inside: avoid; margin-bottom: 1.25rem; }
.plan th { text-align: left; font-weight: 400; color: var(--soft); vertical-align: top; }
.plan td { text-align: right; overflow-wrap: anywhere; padding-right: 0; }
.plan i { font-size: .75rem; color: var(--averaged); margin-right: .3rem; }
"""
