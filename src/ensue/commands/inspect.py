"""``ensue inspect``: look inside a run, or probe what architectures can do."""

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ensue import __version__, probes
from ensue.alignment import measure_alignment
from ensue.classification import LABELLED
from ensue.console import Console, print_table
from ensue.data import catalog, tables
from ensue.data.notes import Notes
from ensue.data.pairs import source_lines
from ensue.data.source import list_sources
from ensue.errors import UsageError, nearest
from ensue.inspection import Look, look
from ensue.models import step_of
from ensue.picture_look import PictureLook, look_at_picture
from ensue.runs import Run, newest_run
from ensue.text_look import TextLook, look_at_text
from ensue.training.budget import parse_budget
from ensue.training.session import open_run
from ensue.vectors import look_at_vectors
from ensue.views.alignment import (
    ALIGNMENT_HEADS,
    alignment_protocol,
    alignment_rows,
    write_alignment,
)
from ensue.views.looks import (
    POSITION_HEADS,
    RECALL_HEADS,
    label,
    position_rows,
    recall_protocol,
    recall_rows,
)
from ensue.views.text import command, visible
from ensue.views.vectors import vector_words

PROBES = ("recall", "alignment")
EXAMPLE = 'For instance: ensue inspect RUN "Once upon a time"'


@dataclass(frozen=True, kw_only=True)
class InspectArgs:
    """A run and a text or picture to look at it with; runs and a probe; a run and sentences."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The text, in quotes, or the picture's file; before it perhaps the run. With --probe: one or
    more runs; with --vectors: the run."""
    target: str = ""
    """Of a run that translates: what it has to write; default: its own translation."""
    vectors: str = ""
    """Show a file's sentences as the run's encoder says them, in two dimensions: lines, a table
    (.tsv, .csv, .jsonl, .parquet), or a file of a public set: dates/valid."""
    colour_by: str = ""
    """With --vectors: the column of the table that points are coloured by."""
    text_column: str = ""
    """With --vectors: the column of the table that holds the sentences; empty to look for it."""
    probe: str = ""
    """recall: train fresh models of the runs' architectures, all of one size, to recall a symbol
    seen k tokens ago. alignment: whether runs that were trained on dates look at the part of the
    source that they are about to write."""
    seeds: int = 3
    """With --probe recall: models of each architecture that are scored."""
    budget: str = "30s"
    """With --probe recall: time for each seed of each architecture, its share of the learning-rate
    trials included. In all it takes architectures x seeds x budget: five, 3 and 30s are 7.5
    minutes."""
    split: Literal["valid", "test"] = "valid"
    """With --probe alignment: which dates; test is there to be reported once."""
    out: str = ""
    """Folder for page and pictures; default: inspect/ in the (first) run."""
    json: bool = False
    """Print the numbers as one JSON object."""


def run_inspect(args: InspectArgs, console: Console) -> None:
    """Look or probe, write page and pictures, print the numbers and where they are."""
    if args.probe and args.probe not in PROBES:
        raise UsageError(
            f"there is no probe {args.probe!r}{nearest(args.probe, PROBES)}",
            f"Probes: {', '.join(PROBES)}",
        )
    if args.probe and args.vectors:
        raise UsageError("--probe and --vectors are two questions", "Ask them one by one.")
    asked = f"--probe {args.probe}" if args.probe else "--vectors FILE" * bool(args.vectors)
    for flag, owner in BELONGS.items():
        value = getattr(args, flag)
        if value != getattr(InspectArgs, flag) and owner != asked:
            words = command(f"--{flag.replace('_', '-')}", value)
            raise UsageError(
                f"{words.split()[0]} belongs to {owner or 'a text'}",
                f"For instance: ensue inspect RUN {owner or 'TEXT'} {words}",
            )
    if args.probe == "recall":
        _recall(args, console)
    elif args.probe == "alignment":
        _alignment(args, console)
    elif args.vectors:
        _vectors(args, console)
    else:
        _look(args, console)


BELONGS = {
    "target": "",
    "colour_by": "--vectors FILE",
    "text_column": "--vectors FILE",
    "seeds": "--probe recall",
    "budget": "--probe recall",
    "split": "--probe alignment",
}
"""What each flag has a meaning with; empty: a text."""


def _look(args: InspectArgs, console: Console) -> None:
    run, text = _run_and_text(args.words)
    task = open_run(run)[1].config.task
    if task in LABELLED:
        if args.target:
            raise UsageError("--target is of a run that translates", "Leave it out.")
        seen = look_at_text(run, text) if task == "classify" else look_at_picture(run, text)
        _print_classes(args, run, seen, console)
        return
    looked = look(run, text, target=args.target)
    for notice in looked.notices:
        console.notice(notice)
    paths = looked.save(args.out or run.path / "inspect")
    if args.json:
        _print_json(looked.to_json(), paths)
        return
    print_look(looked)
    _print_page(paths)


def _print_classes(
    args: InspectArgs, run: Run, seen: TextLook | PictureLook, console: Console
) -> None:
    for notice in seen.notices:
        console.notice(notice)
    paths = seen.save(args.out or run.path / "inspect")
    if args.json:
        _print_json(seen.to_json(), paths)
        return
    rows = [[visible(label), f"{share:.1%}"] for label, share in seen.answer.top]
    if isinstance(seen, TextLook):
        print_table(["class", "confidence"], rows)
        print_table(seen.heads, seen.rows)
    else:
        print_table([visible(seen.answer.source), "confidence"], rows)
    _print_page(paths)


def print_look(seen: Look) -> None:
    """Print what was expected at each place, and where of a source the model looked for it."""
    heads, rows = list(POSITION_HEADS), position_rows(seen.positions)
    if seen.source:
        sys.stdout.write(f"{visible(seen.source.text)}\n{visible(seen.text)}\n")
        heads[0] = "writes"
    if seen.source and seen.alignment is not None:
        heads.insert(1, "looks most at")
        for row, place in zip(rows, seen.alignment.argmax(axis=1), strict=True):
            row.insert(1, label(seen.source.tokens[place]))
    print_table(heads, rows)


def _run_and_text(words: Sequence[str]) -> tuple[Run, str]:
    match list(words):
        case [] | [""]:
            raise UsageError("there is no text to look at", EXAMPLE)
        case [word] if os.path.isdir(word):  # unlike Path's, false where a text is too long a name
            if not Run.exists(word):
                raise UsageError(
                    f"{word} is a folder, but not a run, and there is no text",
                    f"If it is the text itself: {command('ensue', 'inspect', 'RUN', word)}",
                )
            raise UsageError(
                f"{word} is a run, and there is no text to look at it with",
                f"For instance: {command('ensue', 'inspect', word, 'Once upon a time')}",
            )
        case [word]:
            return newest_run(), word
        case [run, text]:
            return Run.open(run), text
    raise UsageError(f"{len(words)} words are too many: a text stands in quotes", EXAMPLE)


def _vectors(args: InspectArgs, console: Console) -> None:
    if len(args.words) > 1:
        raise UsageError("--vectors shows one run", "ensue inspect RUN --vectors FILE")
    run = Run.open(args.words[0]) if args.words else newest_run()
    notes = Notes()
    texts, groups = _sentences(args, notes)
    seen = look_at_vectors(run, texts, groups, args.colour_by or "group")
    for note in (*notes.lines(), *seen.notices):
        console.notice(note)
    paths = seen.save(args.out or run.path / "inspect")
    values = seen.to_json()
    if args.json:
        _print_json(values, paths)
        return
    sys.stdout.write(f"{vector_words(values)}\n")
    _print_page(paths)


def _sentences(args: InspectArgs, notes: Notes) -> tuple[list[str], list[str]]:
    """Read sentences, and what they are coloured by: none where nothing is named."""
    wanted = [name for name in (args.text_column, args.colour_by) if name]
    with tempfile.TemporaryDirectory() as scratch:
        file = catalog.resolve_file(args.vectors)
        sources = list_sources([file], notes, Path(scratch))
        if len(sources) != 1:
            raise UsageError(f"{file} is not one file", "Name one file: --vectors lines.txt")
        (source,) = sources
        if source.form == "text":
            if wanted:
                raise UsageError(
                    f"{file} has no columns: it is read line by line",
                    "Give a table, by its name: .tsv, .csv, .jsonl or .parquet",
                )
            return list(source_lines(source, notes)), []

        def pick(samples: tables.Samples) -> tuple[str, ...]:
            names = (args.text_column, *([args.colour_by] if args.colour_by else []))
            return tuple(tables.choose_column(samples, n, source.name, notes) for n in names)

        rows = list(tables.read_columns(source, notes, pick, "", wanted, numbers=True))
    texts = [row[0] for _, row in rows]
    return texts, [row[1] for _, row in rows] if args.colour_by else []


def _alignment(args: InspectArgs, console: Console) -> None:
    runs = [Run.open(word) for word in args.words] or [newest_run()]
    results: list[dict[str, Any]] = []
    for name, run in _named(runs, "translate").items():
        console.progress("writing dates", len(results), len(runs))
        results.append({"name": name, **measure_alignment(run, split=args.split).to_json()})
    console.close()
    paths = write_alignment(Path(args.out or runs[0].path / "inspect"), results, __version__)
    if args.json:
        _print_json({"runs": results}, paths)
        return
    print_table(ALIGNMENT_HEADS, alignment_rows(results), title="Alignment")
    sys.stdout.write(f"{alignment_protocol(results)}\n")
    _print_page(paths)


def _recall(args: InspectArgs, console: Console) -> None:
    budget = parse_budget(args.budget)
    if not budget.seconds:
        raise UsageError(f"budget: {args.budget!r} is not a time", "For instance: --budget 30s")
    runs = [Run.open(word) for word in args.words] or [newest_run()]
    with console:
        configs = {n: open_run(run)[1].config.model for n, run in _named(runs, "lm").items()}
        result = probes.recall(
            configs, seeds=args.seeds, budget_seconds=budget.seconds, tracker=console
        )
    paths = result.save(args.out or runs[0].path / "inspect")
    values = result.to_json()
    if args.json:
        _print_json(values, paths)
        return
    print_table(RECALL_HEADS, recall_rows(values), title="Recall")
    sys.stdout.write(f"{recall_protocol(values)}\n")
    _print_page(paths)


def _named(runs: Sequence[Run], task: str) -> dict[str, Run]:
    """Name each run by its model where that tells them apart, else by its folder."""
    models = [step_of(open_run(run, task)[1].config.model).title for run in runs]
    often = Counter(models)
    names = [
        model if often[model] == 1 else str(run.path)
        for model, run in zip(models, runs, strict=True)
    ]
    return dict(zip(names, runs, strict=True))


def _print_json(values: dict[str, object], paths: Sequence[Path]) -> None:
    files = [str(path) for path in paths]
    sys.stdout.write(json.dumps({**values, "files": files}, ensure_ascii=False) + "\n")


def _print_page(paths: Sequence[Path]) -> None:
    """Say where the page is; its pictures lie beside it."""
    sys.stdout.write(f"page and pictures: {visible(str(paths[0].resolve()))}\n")
