"""``ensue compare``: its arguments, and the one call that it makes."""

import dataclasses
import sys
from dataclasses import dataclass, field

import tyro

from ensue.commands import TrainData, data_of
from ensue.comparison import CompareConfig, Result, compare
from ensue.comparison.request import LANGUAGE_MODELS, parse_models
from ensue.console import Console, print_table
from ensue.training.config import TrainConfig
from ensue.views.text import size as in_bytes
from ensue.views.text import visible


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """A comparison, as flags."""

    data: tyro.conf.OmitArgPrefixes[TrainData] = field(default_factory=TrainData)
    """What is read."""
    test: tuple[str, ...] = ()
    """Text that is scored once, after all was chosen on valid; a public set brings its own."""
    models: str = ",".join(LANGUAGE_MODELS)
    """Candidates, separated by commas: names of the lineage, or classes of yours (gru.py:GRU,
    mine=gru.py:GRU)."""
    equal: str = "params"
    """What all get alike: params (weights, and tokens seen), flops (operations of training) or time
    (wall clock)."""
    budget: str = "3min"
    """What one run may take, its share of the learning-rate trials included (a fifth)."""
    seeds: int = 3
    """Runs of each candidate."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Factors on the learning rates that are tried for each candidate; a single one: no trial."""
    size: str = ""
    """xs, s, m or l; empty: chosen for the budget."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How the weights are found, the same for all."""
    jobs: int = 1
    """Runs at a time, each on a GPU of its own where there are several. Several machines that share
    a folder share the work: give each the same command."""
    out: str = ""
    """The folder; the same command again goes on with it. Default: a new one below runs/."""


def run_compare(args: CompareArgs, console: Console) -> None:
    """Compare, then print the table, the verdict and where everything lies."""
    data, test = data_of(args.data, "compare")
    same = {f.name for f in dataclasses.fields(CompareConfig)} - {"data", "test", "models"}
    request = CompareConfig(
        data=data,
        test=args.test or test,
        models=parse_models(args.models),
        **{name: getattr(args, name) for name in same},
    )
    print_result(compare(request, args.out, console, args.jobs), console)


def print_result(result: Result, console: Console) -> None:
    """Print the table, best first."""
    rows = []
    for row in result.table():
        bits, test = row["bits per byte"], row["on test"]
        cells = [row["model"], row["error"] or "not finished" if bits is None else f"{bits:.4f}"]
        cells += [f"{row['±']:.4f}" if row["±"] else "", f"{test:.4f}" if test else ""]
        cells += [f"{row[k]:,.0f}" if row[k] else "" for k in ("parameters", "tokens")]
        cells += [f"{row['FLOPs']:.2e}" if row["FLOPs"] else ""]
        cells += [f"{row[k]:,.0f}" if row[k] else "" for k in ("seconds", "tokens/s")]
        rows.append([*cells, in_bytes(row["memory"]) if row["memory"] else ""])
    heads = ["model", "bits/byte", "±", "test", "parameters", "tokens", "FLOPs", "s", "tokens/s"]
    print_table([*heads, "memory"], rows)
    sys.stdout.write(f"{visible(result.verdict)}\n")
    for line in result.values["unfair"]:
        sys.stdout.write(f"not equal: {visible(line)}\n")
    console.notice(f"report: {result.folder.resolve() / 'report.html'}")
    if result.winner:
        console.notice(f'go on: ensue generate {result.winner} "Once upon a time"')
