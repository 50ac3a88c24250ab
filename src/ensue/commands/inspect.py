"""``ensue inspect``: look inside a run, or probe what architectures can do."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from ensue import probes
from ensue.console import Console, print_table
from ensue.errors import RunError, UsageError, nearest
from ensue.inspection import look
from ensue.models import step_of
from ensue.runs import Run, newest_run
from ensue.training.budget import parse_budget
from ensue.training.plan import Plan
from ensue.views.looks import (
    POSITION_HEADS,
    RECALL_HEADS,
    position_rows,
    recall_protocol,
    recall_rows,
)
from ensue.views.text import command, visible

PROBES = ("recall",)
EXAMPLE = 'For instance: ensue inspect RUN "Once upon a time"'


@dataclass(frozen=True, kw_only=True)
class InspectArgs:
    """A run and a text to look at it with; or runs and a probe."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The text, in quotes; or the run and the text. With --probe: one or more runs."""
    probe: str = ""
    """recall: train fresh models of the runs' architectures, all of one size, to recall a symbol
    seen k tokens ago."""
    seeds: int = 3
    """With --probe: models of each architecture that are scored."""
    budget: str = "30s"
    """With --probe: time for each seed of each architecture, its share of the learning-rate trials
    included. In all it takes architectures x seeds x budget: five, 3 and 30s are 7.5 minutes."""
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
    for flag in ("seeds", "budget"):
        if getattr(args, flag) != getattr(InspectArgs, flag) and not args.probe:
            raise UsageError(
                f"--{flag} belongs to a probe, and there is none",
                f"For instance: ensue inspect RUN --probe recall --{flag} {getattr(args, flag)}",
            )
    if args.probe:
        _probe(args, console)
    else:
        _look(args, console)


def _look(args: InspectArgs, console: Console) -> None:
    run, text = _run_and_text(args.words)
    seen = look(run, text)
    for notice in seen.notices:
        console.notice(notice)
    paths = seen.save(args.out or run.path / "inspect")
    if args.json:
        _print_json(seen.to_json(), paths)
        return
    print_table(POSITION_HEADS, position_rows(seen.positions))
    _print_page(paths)


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
            return _open(run), text
    raise UsageError(f"{len(words)} words are too many: a text stands in quotes", EXAMPLE)


def _open(run: str) -> Run:
    try:
        return Run.open(run)
    except OSError as error:  # a text in the place of the run: too long a name
        name = run if len(run) <= 60 else f"{run[:60]} …"
        raise RunError(
            f"{name} cannot be opened as a run: {error.strerror}",
            "The run comes first, then the text, each in quotes.",
        ) from None


def _probe(args: InspectArgs, console: Console) -> None:
    budget = parse_budget(args.budget)
    if not budget.seconds:
        raise UsageError(f"budget: {args.budget!r} is not a time", "For instance: --budget 30s")
    runs = [_open(word) for word in args.words] or [newest_run()]
    with console:
        result = probes.recall(
            _named(runs), seeds=args.seeds, budget_seconds=budget.seconds, tracker=console
        )
    paths = result.save(args.out or runs[0].path / "inspect")
    values = result.to_json()
    if args.json:
        _print_json(values, paths)
        return
    print_table(RECALL_HEADS, recall_rows(values), title="Recall")
    sys.stdout.write(f"{recall_protocol(values)}\n")
    _print_page(paths)


def _named(runs: Sequence[Run]) -> dict[str, object]:
    """Name each run's architecture by its model where that tells them apart, else by its folder."""
    configs = [Plan.from_json(run.read_plan(), str(run.plan_path)).config.model for run in runs]
    models = [step_of(config).title for config in configs]
    often = Counter(models)
    names = [
        model if often[model] == 1 else str(run.path)
        for model, run in zip(models, runs, strict=True)
    ]
    return dict(zip(names, configs, strict=True))


def _print_json(values: dict[str, object], paths: Sequence[Path]) -> None:
    files = [str(path) for path in paths]
    sys.stdout.write(json.dumps({**values, "files": files}, ensure_ascii=False) + "\n")


def _print_page(paths: Sequence[Path]) -> None:
    """Say where the page is; its pictures lie beside it."""
    sys.stdout.write(f"page and pictures: {visible(str(paths[0].resolve()))}\n")
