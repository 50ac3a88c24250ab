"""The page that every report is: one HTML file for people who have nothing but a browser.

No script, no font, no request: the page's own policy forbids all but its style sheet, by its hash.
What comes from data, models or people passes through `escaped` on its way in.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ensue.views.text import visible

ROWS = 120
"""Rows of a folded table at most; what stands beside the page has them all."""


def page(title: str, body: str, style: str = "") -> str:
    """Make a page.

    Args:
        title: What the browser's tab says, as plain text.
        body: HTML.
        style: Rules beyond those that all pages share.
    """
    sheet = STYLE + style
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n<style>{sheet}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def footer(version: object) -> str:
    """Say who made the page, and what it does not do."""
    return (
        f"<footer>Made by ensue {escaped(version or '')}."
        " This page asks nothing of the network and runs no script.</footer>"
    )


def framed(content: str, title: str) -> str:
    """Give a page as a notebook can show it: in a frame, else its style would repaint all."""
    return (
        f'<iframe sandbox srcdoc="{html.escape(content)}" title="{escaped(title)}"'
        ' style="width: 100%; height: 40rem; border: 0"></iframe>'
    )


def escaped(value: object) -> str:
    """Make text safe in HTML, inside attributes too, and its control characters visible."""
    return html.escape(visible(str(value)))


def number(value: Any, form: str) -> str:
    """Format a number; a dash where there is none."""
    return format(value, form) if isinstance(value, int | float) else "–"


def facts(values: Mapping[str, str]) -> str:
    """Show a few values large, each with its name; empty ones are left out."""
    cells = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>"
        for name, value in values.items()
        if value
    )
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def table(caption: str, heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows of plain text, the first cell of each naming it; wide ones scroll on their own.

    Args:
        caption: What the table shows.
        heads: Names of the columns.
        rows: As many cells each.
    """
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{escaped(row[0])}</th>'
        + "".join(f"<td>{escaped(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table>'
        f"<caption><span>{escaped(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def folded(
    title: str, heads: Iterable[str], rows: Sequence[Sequence[str]], total: int, beside: str
) -> str:
    """Fold a table away under a line that names it.

    Args:
        title: What the table shows.
        heads: Names of the columns.
        rows: At most `ROWS` of them.
        total: How many rows there are in all.
        beside: The file that has all of them.
    """
    shown = f"{len(rows)} of {total:,}; all in {beside}" if len(rows) < total else f"{total:,}"
    return (
        f"<details><summary>{escaped(title)} as a table ({shown})</summary>"
        f"{table(title, heads, rows)}</details>"
    )


def sample(prompt: str, text: str) -> str:
    """Show what a model wrote, its prompt in bold."""
    # lang="": nobody knows the language, and a browser must not guess English for CJK or Arabic.
    return f'<p class="sample" dir="auto" lang=""><b>{escaped(prompt)}</b>{escaped(text)}</p>'


def block(title: str, lines: str) -> str:
    """Show commands that can be copied."""
    return f'<p>{escaped(title)}</p><pre tabindex="0"><code>{escaped(lines)}</code></pre>'


STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d7dce1; --paper: #fff; --tile: #f4f6f8;
  --accent: #c14a00; --bad: #a40e26; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #3a424b;
  --paper: #14181c; --tile: #1e242a; --accent: #f0a04b; --bad: #ff8f8f; } }
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
  border-left: .3rem solid var(--accent); overflow-wrap: anywhere; }
.big { font-size: 1.2rem; margin: 0; } .big b { font-size: 2.6rem; line-height: 1.1; }
.verdict { font-weight: 600; } .bad { color: var(--bad); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem;
  margin: 1rem 0; }
.facts div { border-top: 1px solid var(--line); padding-top: .4rem; }
.facts dt { color: var(--soft); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: 0; } figcaption { font-size: .85rem; }
:not(svg, g) > svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .second { font-size: 11px; } svg path { fill: none; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); }
details { margin: .5rem 0; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
.scroll { overflow: auto; margin-top: .5rem; } details .scroll { max-height: 24rem; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: .95rem; padding-bottom: .2rem; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
.scroll th, .scroll td { text-align: right; white-space: nowrap; padding: .25rem .6rem; }
.scroll caption span { position: sticky; left: 0; display: inline-block;
  max-width: calc(100vw - 3rem); }
.scroll thead th { position: sticky; top: 0; background: var(--paper); }
details tbody th { font-weight: 400; }
details caption { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--tile); margin: .6rem 0;
  padding: .8rem 1rem; border-radius: .5rem; tab-size: 4;
  font-family: ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", "Noto Sans Mono", monospace;
  font-size: .9rem; }
pre { overflow-x: auto; background: var(--tile); padding: .6rem 1rem; border-radius: .5rem;
  margin: .2rem 0 .8rem; font-size: .9rem; }
li { overflow-wrap: anywhere; } footer { margin-top: 3rem; font-size: .85rem; }
.print { display: none; }
@media print { main { max-width: none; padding: 0; }
  .print { display: inline; }
  pre { white-space: pre-wrap; } details { display: none; } section, figure { break-inside: avoid; }
}
"""
