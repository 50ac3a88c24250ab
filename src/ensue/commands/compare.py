"""``ensue compare``: its arguments, and the one call that it makes."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import tyro

from ensue.commands import DATA, F, files_of, flag, parse, task_of
from ensue.comparison import CompareConfig, Result, compare
from ensue.comparison.request import parse_models
from ensue.console import Console, print_table
from ensue.data import catalog
from ensue.errors import UsageError
from ensue.models import steps_for
from ensue.tasks import TASKS, find_kind
from ensue.tasks.measures import Measure
from ensue.training.config import TrainConfig
from ensue.views.text import command, visible
from ensue.views.text import size as in_bytes


@dataclass(frozen=True, kw_only=True)
class CompareArgs(Generic[F]):
    """A comparison, as flags."""

    data: tyro.conf.OmitArgPrefixes[F]
    """What is read."""
    task: str = ""
    """What is learnt: lm, translate, classify; empty: told by the data."""
    test: tuple[str, ...] = ()
    """Text, or tables of pairs, that is scored once, after all was chosen on valid; a public set
    brings its own."""
    test_src: tuple[str, ...] = ()
    """Of pairs: files of sources that are translated once, instead of tables."""
    test_tgt: tuple[str, ...] = ()
    """Their translations by a person, line by line."""
    models: str = ""
    """Candidates, separated by commas: names of the lineage, or classes of yours (gru.py:GRU,
    mine=gru.py:GRU)."""
    equal: str = "params"
    """What all get alike: params (weights, and tokens seen), flops (operations of training) or time
    (wall clock)."""
    budget: str = "3min"
    """What one run may take, its share of the learning-rate trials included (a fifth)."""
    seeds: int = 3
    """Runs of each candidate."""
    rates: tuple[float, ...] = ()
    """Factors on the learning rates that are tried for each candidate; a single one: no trial;
    none: 0.5 1 2 4, of labelled texts 0.25 1 4."""
    size: str = ""
    """xs, s, m or l; empty: chosen for the budget."""
    num_beams: int = 5
    """Of pairs: beams of the translations that are scored; 1: greedy."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How the weights are found, the same for all."""
    jobs: int = 1
    """Runs at a time, each on a GPU of its own where there are several. Several machines that share
    a folder share the work: give each the same command."""
    out: str = ""
    """The folder; the same command again goes on with it. Default: a new one below runs/."""


def parse_compare(argv: Sequence[str], about: str | None) -> CompareArgs[Any]:
    """Read flags. The task comes first: the class of its data has the other ones."""
    named = flag(argv, "--models")
    models = parse_models(named) if named else {}
    first = next((str(table["name"]) for table in models.values()), "")
    kind = find_kind(flag(argv, "--task") or task_of(argv, first))
    usual = ",".join(step.name for step in steps_for(kind.name))
    flags = DATA[kind.name]
    default = CompareArgs(data=flags(), task=kind.name, models=usual)
    shape = CompareArgs[flags]  # type: ignore[valid-type]
    args: CompareArgs[Any] = parse(shape, argv, "compare", about, default)
    return args


def request_of(args: CompareArgs[Any]) -> CompareConfig:
    """Give what is asked for, with files in the place of public sets' names.

    Raises:
        UsageError: A recipe is named: it is of one model.
    """
    for source in args.data.sources:
        if source.endswith(".toml"):
            raise UsageError(
                f"{source} is a recipe of one model, and a comparison is of several",
                "Give its data and settings as flags: ensue compare --help",
            )
    kind = next(kind for kind in TASKS if isinstance(args.data, kind.config))
    data, test = files_of(kind, args.data, "compare")
    own = {f.name for f in dataclasses.fields(CompareConfig)} - {"task", "data", "test", "models"}
    values = {name: getattr(args, name) for name in own}
    for name in ("test_src", "test_tgt"):
        values[name] = tuple(catalog.resolve_file(file, data.cache) for file in values[name])
    return CompareConfig(
        task=kind.name,
        data=data,
        test=args.test or (() if args.test_src else test),
        models=parse_models(args.models),
        **values,
    )


def run_compare(args: CompareArgs[Any], console: Console) -> None:
    """Compare, then print the table, the verdict and where everything lies."""
    print_result(compare(request_of(args), args.out, console, args.jobs), console)


def print_result(result: Result, console: Console) -> None:
    """Print the table, best first."""
    main, *others = result.measures
    rows = []
    for row in result.table():
        score, test = row[main.name], row["on test"]
        failed = row["error"] or "not finished"
        cells = [row["model"], failed if score is None else _digits(score, main)]
        cells += [_digits(row["±"], main), _digits(test, main)]
        cells += [_digits(row[measure.name], measure) for measure in others]
        cells += [f"{row[k]:,.0f}" if row[k] else "" for k in ("parameters", "tokens")]
        cells += [f"{row['FLOPs']:.2e}" if row["FLOPs"] else ""]
        cells += [f"{row[k]:,.0f}" if row[k] else "" for k in ("seconds", "tokens/s")]
        rows.append([*cells, in_bytes(row["memory"]) if row["memory"] else ""])
    names = [measure.name for measure in others]
    heads = ["model", main.name, "±", "test", *names]
    kind = find_kind(result.values["task"])
    heads += ["parameters", kind.targets, "FLOPs", "s", f"{kind.targets}/s", "memory"]
    print_table(heads, rows)
    sys.stdout.write(f"{visible(result.verdict)}\n")
    for line in result.values["unfair"]:
        sys.stdout.write(f"not equal: {visible(line)}\n")
    console.notice(f"report: {result.folder.resolve() / 'report.html'}")
    if result.winner:
        console.notice(f"go on: {command('ensue', kind.verb, result.winner, kind.example)}")


def _digits(value: float | None, measure: Measure) -> str:
    """Write a score with one digit more than a page does."""
    return "" if value is None else f"{value:.{measure.digits + 1}f}"
