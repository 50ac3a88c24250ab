"""The report: one HTML file that shows a run to people who have nothing but a browser.

No script, no font, no request: the page's own policy forbids all but the style sheet below, by its
hash. Pictures are SVG, each with its words and its numbers beside it.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.errors import EnsueError
from ensue.files import write_atomic
from ensue.models import find_step
from ensue.runs import Run
from ensue.views.plots import Curves, gist, loss_axes, loss_svg, lr_svg, read_curves, spread
from ensue.views.text import (
    PROMPT,
    command,
    data_names,
    duration,
    few,
    model_name,
    part,
    place,
    plain,
    protocol,
    short,
    size,
    train_command,
    visible,
)

ROWS = 120
"""Rows of a table at most; all of them are in metrics.jsonl."""


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
    curves = read_curves(run.read_metrics())
    body = [
        _header(run, plan),
        _result(plan, curves, floor),
        _facts(plan, curves),
        _pictures(curves, floor),
        _samples(samples),
        _use(run, plan, curves, samples),
        _plan(plan),
        _notes(plan),
        f"<footer>Made by ensue {_text(plan.get('version') or '')}."
        " This page asks nothing of the network and runs no script.</footer>",
    ]
    write_atomic(run.report_path, _page(f"{_name(run)} · ensue", "\n".join(filter(None, body))))
    return run.report_path


def _page(title: str, body: str) -> str:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(value: object) -> str:
    return html.escape(visible(str(value)))


def _name(run: Run) -> str:
    return _text(run.path.resolve().name)


# --- what was trained, and how good it is ---------------------------------------------------------


def _header(run: Run, plan: Mapping[str, Any]) -> str:
    name = model_name(plan)
    try:
        step = find_step(name)
        idea = f"{_text(step.idea)} ({_text(step.paper)} {step.year})"
    except EnsueError:  # a person's own model
        idea = ""
    names = " + ".join(data_names(plan))
    return (
        f'<header><p class="over">{_name(run)}</p>'
        f"<h1>{_text(name)} trained on <span>{_text(names)}</span></h1>"
        f"<p>{idea}</p></header>"
    )


def _result(plan: Mapping[str, Any], curves: Curves, floor: Mapping[str, Any] | None) -> str:
    if not curves.final:
        last = curves.steps[-1]["step"] if curves.steps else 0
        total = part(plan, "config").get("steps") or 0
        planned = f" of {total:,}" if total else ""
        words = f"<p><strong>Not finished:</strong> {last:,}{planned} steps are done."
        if curves.evals:
            best = min(curves.evals, key=lambda r: float(r["bits_per_byte"]))
            words += (
                f" Lowest so far: {best['bits_per_byte']:.3f} bits per byte"
                f" at step {best['step']:,}{' (a sample of valid)' if best.get('sampled') else ''}."
            )
        return f'<section class="result">{words}</p></section>'
    score = curves.final["bits_per_byte"]
    return (
        f'<section class="result"><p class="big"><b>{score:.3f}</b> bits per byte'
        f" on {_text(curves.final.get('split', 'valid'))}</p>"
        f"{_against(score, floor)}<p>{_text(protocol(plan, curves.final))}</p></section>"
    )


def _against(score: int | float, floor: Mapping[str, Any] | None) -> str:
    if not floor:
        return ""
    bound, name = float(floor["bits_per_byte"]), _text(floor["name"])
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
    facts = {
        "parameters": short(plan["parameters"]) if plan.get("parameters") else "",
        "training text": size(plan["train_bytes"]) if plan.get("train_bytes") else "",
        "steps": f"{last['step']:,}" if last else "",
        "tokens read": short(last.get("tokens") or 0) if last else "",
        "time in steps": duration(curves.seconds) if curves.seconds else "",
        "tokens per second": short(speed) if speed else "",
    }
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value
    )
    return f'<dl class="facts">{cells}</dl>'


# --- pictures, with their numbers -----------------------------------------------------------------


def _pictures(curves: Curves, floor: dict[str, Any] | None) -> str:
    if not curves.steps:
        return "<section><h2>Curve</h2><p>No step has been recorded yet.</p></section>"
    keys = ['<span class="key train">training loss, smoothed</span>']
    keys += ['<span class="key raw">each step</span>']
    keys += ['<span class="key valid">valid</span>'] if curves.valid else []
    keys += ['<span class="key averaged">valid, averaged weights</span>'] if curves.averaged else []
    keys += ['<span class="key kept">kept</span>'] if curves.kept else []
    if floor and curves.bits_per_nat:
        keys.append(f'<span class="key floor">floor: {_text(floor["name"])}</span>')
    converted = (
        " The training loss, in nats per token, is turned into bits per byte by what a token of the"
        " validation text spells."
        if curves.bits_per_nat
        else ""
    )
    scale = "; logarithmic" if loss_axes(curves, floor, 900, 400).log else ""
    return (
        f"<section><h2>Curve <small>{curves.unit}, lower is better{scale}</small></h2>"
        f'<figure><p class="keys">{"".join(keys)}</p>'
        f"{loss_svg(curves, floor, 900, 400)}{loss_svg(curves, floor, 360, 300)}"
        f"<figcaption>Below: step and time spent in steps.{converted}"
        f' <span class="print">{_text(gist(curves, floor))}</span></figcaption></figure>'
        f"{_evaluations(curves)}{_steps(curves)}"
        "<h2>Learning rate</h2><figure>"
        f"{lr_svg(curves, 900, 150)}{lr_svg(curves, 360, 140)}"
        "<figcaption>Its values stand in the table of steps above.</figcaption></figure></section>"
    )


def _evaluations(curves: Curves) -> str:
    records = [*curves.evals, curves.final] if curves.final else curves.evals
    if not records:
        return ""
    averaged = bool(curves.averaged)
    heads = ["step", "seconds", "bits per byte", *(["averaged"] if averaged else [])]
    rows = [
        [
            f"{r['step']:,}",
            f"{curves.seconds_at(r['step']):.1f}",
            f"{r['bits_per_byte']:.4f}",
            *([_number(r.get("bits_per_byte_averaged"), ".4f")] if averaged else []),
            f"{r['loss']:.4f}",
            "a sample" if r.get("sampled") else "all",
        ]
        for r in spread(records, ROWS)
    ]
    return _table("Evaluations", [*heads, "nats per token", "text scored"], rows, len(records))


def _steps(curves: Curves) -> str:
    rows = [
        [
            f"{r['step']:,}",
            _number(r.get("seconds"), ".1f"),
            f"{r['loss']:.4f}",
            _number(r.get("lr"), ".3g"),
            _number(r.get("grad_norm"), ".3g"),
            _number(r.get("tokens_per_second"), ",.0f"),
        ]
        for r in spread(curves.steps, ROWS)
    ]
    heads = ["step", "seconds", "loss (nats per token)", "learning rate", "gradient norm"]
    return _table("Steps", [*heads, "tokens per second"], rows, len(curves.steps))


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _table(title: str, heads: Iterable[str], rows: Sequence[Sequence[str]], total: int) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    shown = f"{len(rows)} of {total:,}; all in metrics.jsonl" if len(rows) < total else f"{total:,}"
    return (
        f"<details><summary>{title} as a table ({shown})</summary>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


# --- samples, commands, plan ----------------------------------------------------------------------


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    if not samples:
        return ""
    # lang="": nobody knows the language, and a browser must not guess English for CJK or Arabic.
    shown = "".join(
        f'<p class="sample" dir="auto" lang=""><b>{_text(prompt)}</b>{_text(text)}</p>'
        for prompt, text in samples
    )
    return f"<section><h2>Samples <small>prompt in bold</small></h2>{shown}</section>"


def _use(
    run: Run, plan: Mapping[str, Any], curves: Curves, samples: Sequence[tuple[str, str]]
) -> str:
    folder = place(run.path)
    lines = (prompt.strip() for prompt, _ in samples)
    prompt = next((line for line in lines if line and "\n" not in line), PROMPT)
    again = train_command(plan)
    commands = {
        "Continue a text": command("ensue", "generate", folder, prompt),
        "Score another text": command("ensue", "evaluate", folder, "--data", "FILE"),
        "Train it again": again,
    }
    if not curves.final:
        commands = {"Go on": f"{again} --out {command(folder)}"}
    shown = "".join(
        f'<p>{title}</p><pre tabindex="0"><code>{html.escape(line)}</code></pre>'
        for title, line in commands.items()
    )
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
        cells = f'<th scope="row">{_text(key)}</th><td>{mark}{html.escape(_value(key, value))}</td>'
        rows.append(f"<tr>{cells}</tr>")
    return f"<table><caption>{title}</caption><tbody>{''.join(rows)}</tbody></table>"


def _value(key: str, value: Any) -> str:
    if isinstance(value, list) and key in ("sources", "valid"):
        return ", ".join(few(map(place, value))) or "–"
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return place(value)
    return plain(value)


def _notes(plan: Mapping[str, Any]) -> str:
    notes = "".join(f"<li>{_text(note)}</li>" for note in plan.get("notes") or ())
    return f"<section><h2>Notes</h2><ul>{notes}</ul></section>" if notes else ""


STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d7dce1; --paper: #fff; --tile: #f4f6f8;
  --train: #0072b2; --valid: #c14a00; --averaged: #00795a; --floor: #6b6b6b; --bad: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a424b;
  --paper: #14181c; --tile: #1e242a; --train: #56b4e9; --valid: #f0a04b; --averaged: #3fc79a;
  --floor: #b0b0b0; --bad: #ff8f8f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.25rem); line-height: 1.2; margin: 0 0 .5rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h2 small { font-weight: 400; font-size: .9rem; color: var(--soft); margin-left: .5rem; }
p { margin: .4rem 0; } header p, figcaption, .over, footer { color: var(--soft); }
.over { margin: 0; font-size: .9rem; overflow-wrap: anywhere; }
.result { margin: 1.25rem 0; padding: 1rem 1.25rem; background: var(--tile); border-radius: .6rem;
  border-left: .3rem solid var(--valid); overflow-wrap: anywhere; }
.big { font-size: 1.2rem; margin: 0; } .big b { font-size: 2.6rem; line-height: 1.1; }
.verdict { font-weight: 600; } .bad { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0; }
.facts div { border-top: 1px solid var(--line); padding-top: .4rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
figure { margin: 0; } figcaption { font-size: .85rem; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; font-size: .85rem; }
.key::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .45rem;
  vertical-align: .25em; border-top: .18rem solid; }
.key.train::before { color: var(--train); } .key.raw::before { color: var(--train); opacity: .35; }
.key.valid::before { color: var(--valid); border-top-width: .3rem; }
.key.averaged::before { color: var(--averaged); border-top-style: dotted; }
.key.floor::before { color: var(--floor); border-top-style: dashed; }
.key.kept::before { width: .8rem; height: .8rem; border: .15rem solid var(--ink);
  border-radius: 50%; vertical-align: -.1em; }
svg { display: block; width: 100%; height: auto; } svg.wide { display: none; }
svg.narrow { max-width: 30rem; }
svg svg { overflow: hidden; }
@media (min-width: 640px), print { svg.wide { display: block; } svg.narrow { display: none; } }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .time { font-size: 11px; } svg .score { fill: var(--ink); font-weight: 700; font-size: 13px;
  paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg path { fill: none; } .grid { stroke: var(--line); } .axis { stroke: var(--soft); }
path.raw { stroke: var(--train); opacity: .3; } path.train { stroke: var(--train); }
path.train, path.valid, path.rate { stroke-width: 2; stroke-linejoin: round; }
path.valid { stroke: var(--valid); } circle.valid { fill: var(--valid); }
path.averaged { stroke: var(--averaged); stroke-width: 2; stroke-dasharray: 2 4; }
circle.averaged { fill: var(--paper); stroke: var(--averaged); stroke-width: 1.5; }
circle.train, circle.raw, circle.rate { fill: var(--train); } path.rate { stroke: var(--train); }
path.floor { stroke: var(--floor); stroke-width: 1.8; stroke-dasharray: 7 5; }
circle.kept { fill: none; stroke: var(--ink); stroke-width: 2; }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.scroll { overflow: auto; max-height: 24rem; margin-top: .5rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
details th, details td { text-align: right; white-space: nowrap; padding: .25rem .6rem; }
details thead th { position: sticky; top: 0; background: var(--paper); }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tile); margin: .6rem 0;
  padding: .8rem 1rem; border-radius: .5rem; tab-size: 4;
  font-family: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", "Noto Sans Mono", monospace;
  font-size: .9rem; }
pre { overflow-x: auto; background: var(--tile); padding: .6rem 1rem; border-radius: .5rem;
  margin: .2rem 0 .8rem; font-size: .9rem; }
.plan { columns: 22rem; column-gap: 2.5rem; }
.plan table { width: 100%; break-inside: avoid; margin-bottom: 1.25rem; }
caption { text-align: left; font-weight: 600; font-size: .95rem; padding-bottom: .2rem; }
.plan th { text-align: left; font-weight: 400; color: var(--soft); vertical-align: top; }
.plan td { text-align: right; overflow-wrap: anywhere; padding-right: 0; }
.plan i { font-size: .75rem; color: var(--averaged); margin-right: .3rem; }
li { overflow-wrap: anywhere; } footer { margin-top: 3rem; font-size: .85rem; }
.print { display: none; }
@media print { main { max-width: none; padding: 0; }
  .print { display: inline; }
  pre { white-space: pre-wrap; } details { display: none; } section, figure { break-inside: avoid; }
}
"""
