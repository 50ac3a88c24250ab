"""The bottleneck figure: how good translations are, by the length of the source.

Whoever says the source in one vector loses more of it the longer it is; whoever may look back at it
does not. Reference: Bahdanau et al. 2015, figure 2, arXiv:1409.0473.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ensue.tasks.measures import Measure
from ensue.views.lines import Line, Panel
from ensue.views.plots import is_number

Values = Mapping[str, Any]


def length_panels(
    ones: Sequence[Values], groups: Sequence[Values], measure: Measure
) -> list[Panel]:
    """Draw a line for each candidate and each floor; fewer than two groups are no curve.

    Args:
        ones: Rows of ``results.json`` with ``name`` and ``by_length``.
        groups: Their groups of lengths.
        measure: What is drawn, from 0; more of it is better.
    """
    lines = []
    for style, one in enumerate(ones):
        scores = one.get("by_length") or ()
        points = [(g["mean"], score["mean"]) for g, score in zip(groups, scores, strict=False)]
        spreads = [score["spread"] or 0.0 for score in scores]
        if points:
            lines.append(Line(str(one["name"]), points, style, spreads=spreads))
    if not lines or len(groups) < 2:
        return []
    high = max(y + by for one in lines for (_, y), by in zip(one.points, one.spreads, strict=True))
    digits = f".{measure.digits}f"
    return [
        Panel(
            name="bottleneck",
            title=f"{measure.name} by the length of the source",
            words=" ".join(
                f"{line.name}: {line.points[0][1]:{digits}} for sources of"
                f" {line.points[0][0]:.0f} tokens, {line.points[-1][1]:{digits}} for"
                f" {line.points[-1][0]:.0f}."
                for line in lines
            ),
            x_title="tokens of the source",
            lines=lines,
            low=0,
            high=1.05 * high or 1,
            x_min=0.9 * groups[0]["mean"],
            x_max=1.02 * groups[-1]["mean"],
        )
    ]


def length_table(
    ones: Sequence[Values], groups: Sequence[Values], measure: Measure
) -> tuple[list[str], list[list[str]]]:
    """Give the same as a table: heads, and a row for each group."""
    told = [one for one in ones if one.get("by_length")]
    rows = []
    for i, group in enumerate(groups):
        ends = dict.fromkeys((group["shortest"], group["longest"]))
        cells = [_cell(one["by_length"][i], measure) for one in told]
        rows.append(["–".join(map(str, ends)), f"{group['pairs']:,}", *cells])
    return ["tokens of the source", "pairs", *(str(one["name"]) for one in told)], rows


def _cell(score: Values, measure: Measure) -> str:
    digits = f".{measure.digits}f"
    more = f" ± {score['spread']:{digits}}" if is_number(score["spread"]) else ""
    return f"{score['mean']:{digits}}{more}"
