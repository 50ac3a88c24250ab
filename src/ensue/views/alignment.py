"""How well heads of attention align, on the dates whose alignment is known: table and page."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.files import write_atomic
from ensue.views.looks import write_pictures
from ensue.views.page import escaped, footer, page, table
from ensue.views.pictures import STYLE, Bars, Picture
from ensue.views.text import visible

ALIGNMENT_HEADS = ("run", "head", "right", "year", "month", "day", "weight inside", "by lot")


def write_alignment(folder: Path, results: Sequence[Mapping[str, Any]], version: str) -> list[Path]:
    """Write alignment-probe.html, .csv, .svg and, with matplotlib, .png.

    Args:
        folder: Made where it is missing.
        results: As `ensue.alignment.Alignment.to_json` gives them, each with its ``name``.
        version: Of ensue.
    """
    drawn = alignment_picture(results)
    numbers = io.StringIO()
    rows = csv.writer(numbers, lineterminator="\n")
    rows.writerow(["run", "layer", "head", "right", "year", "month", "day", "inside"])
    for result in results:
        for head in result["heads"]:
            shares = (head["right"], *head["by_part"].values(), head["inside"])
            rows.writerow([result["name"], head["layer"], head["head"], *shares])
    content = _page(results, drawn, version)
    paths = write_pictures(folder, "alignment-probe.html", content, [drawn])
    write_atomic(folder / "alignment-probe.csv", numbers.getvalue())
    return [*paths, folder / "alignment-probe.csv"]


def alignment_picture(results: Sequence[Mapping[str, Any]]) -> Picture:
    """Draw a bar for each head, and one for a place that is drawn by lot."""
    return Picture(
        name="alignment-probe",
        title="How often the head looks at the right part",
        caption="Share of the tokens of a year, a month or a day at which a head looks most at that"
        " part of the source. The last bar: a place that is drawn by lot.",
        panels=[
            Bars(
                title=visible(result["name"]),
                labels=[*map(_name, result["heads"]), "by lot"],
                values=[*(head["right"] for head in result["heads"]), result["chance"]],
                notes=[
                    f"{100 * share:.1f} %"
                    for share in (*(head["right"] for head in result["heads"]), result["chance"])
                ],
                full=1.0,
            )
            for result in results
        ],
        heads=(),
        rows=(),
    )


def alignment_rows(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Give the table's rows, for the terminal and the page: of each run the best head first."""
    rows = []
    for result in results:
        for head in sorted(result["heads"], key=lambda head: -head["right"]):
            shares = (head["right"], *head["by_part"].values(), head["inside"], result["chance"])
            rows.append(
                [visible(result["name"]), _name(head), *(f"{100 * s:.1f} %" for s in shares)]
            )
    return rows


def _name(head: Mapping[str, Any]) -> str:
    return f"{head['layer']}, head {head['head']}"


def alignment_protocol(results: Sequence[Mapping[str, Any]]) -> str:
    """Say in words what was measured."""
    first = results[0]
    words = (
        f"The models write the true targets of the {first['split']} dates, which they were not"
        " trained on. Each token of a year, a month or a day is right where the place of the"
        " largest weight, before it is written, lies in that part of the source."
    )
    for result in results:
        words += (
            f" {visible(result['name'])}: {result['tokens']:,} tokens of {result['pairs']:,} dates;"
            f" {100 * result['written']:.1f} % are the likeliest to the model itself."
        )
        if result["left_out"]:
            words += f" {result['left_out']:,} dates that it cannot spell are left out."
        if result["written"] < 0.9:
            words += " Where a model looks that does not know what to write means little."
    return words


def _page(results: Sequence[Mapping[str, Any]], drawn: Picture, version: str) -> str:
    words = alignment_protocol(results)
    body = [
        '<header><p class="over">ensue inspect --probe alignment</p>'
        "<h1>Where each head looks while it writes a date</h1></header>",
        drawn.section("alignment-probe.csv"),
        table("All heads, of each run the best first", ALIGNMENT_HEADS, alignment_rows(results)),
        f"<section><h2>How it was measured</h2><p>{escaped(words)}</p></section>",
        footer(version),
    ]
    return page("Alignment · ensue", "\n".join(body), STYLE)
