"""What came out of a comparison: the table, the test set read once, and the winner as a run."""

import math
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ensue import __version__
from ensue.comparison.judge import Judge
from ensue.comparison.plan import ComparisonPlan, Task
from ensue.comparison.speed import measure_generation
from ensue.comparison.words import protocol, unfair, verdict, whole_command
from ensue.files import TEMPORARY, read_json, remove_tree, write_json, writing
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.tasks.measures import Measure
from ensue.training.config import config_from_dict
from ensue.training.tracking import Tracker
from ensue.views.comparison import write_comparison
from ensue.views.page import framed
from ensue.views.text import command, kind_of, place

CONTEXTS: dict[str, tuple[int, ...]] = {
    "lm": (64, 256, 1024, 4096),
    "translate": (16, 64, 256, 1024),
}
"""Tokens before the first that is generated, or of the source, where speed is measured: of tasks
whose models generate."""
SHARED = (
    "Several runs at a time shared this machine: seconds and tokens/s are not each one's own, nor,"
    " at equal time, what was learnt in them."
)


@dataclass(frozen=True)
class Prepared:
    """A comparison that can begin."""

    plan: ComparisonPlan
    """All that was decided."""
    judge: Judge
    """What is learnt from, chosen on and scored once at the end, and how."""


@dataclass(frozen=True)
class Trials:
    """What the learning-rate trials gave; settled before the first run begins."""

    rates: Mapping[str, float] = field(default_factory=dict)
    """The factor that did best, of each candidate that finished a trial."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """By task, why it came to no end."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one finished run cost and gave."""

    score: float
    """On valid, by what runs of its task are followed by."""
    targets: int
    """Tokens of valid that were scored for it."""
    sampled: bool
    """Whether that is not all of them."""
    seconds: float
    """Wall clock, from the start of its process."""
    update_seconds: float
    """Of that, in updates."""
    steps: int
    """Updates."""
    tokens: int
    """Seen in training."""
    flops: float
    """Of training, by the model's formula."""
    peak_bytes: int
    """Most memory that its process had."""


def read_outcome(path: Path) -> Outcome | None:
    """Read what a run gave; None: it is not finished."""
    run = Run(path)
    if not (run.weights_path.exists() and run.report_path.exists()):
        return None
    records = run.read_metrics()
    final = next((r for r in reversed(records) if r.get("kind") == "final"), None)
    if final is None:
        return None
    last = next(r for r in reversed(records) if r.get("kind") == "step")
    plan = run.read_plan()
    return Outcome(
        score=float(final[kind_of(plan).followed_by.key]),
        targets=int(final["targets"]),
        sampled=bool(final["sampled"]),
        seconds=float(final["spent"]),
        update_seconds=float(last["seconds"]),
        steps=int(last["step"]),
        tokens=int(last["tokens"]),
        flops=int(last["step"]) * float(plan["flops_per_step"]),
        peak_bytes=int(final["peak_bytes"]),
    )


@dataclass(frozen=True, repr=False)
class Result:
    """A finished comparison."""

    folder: Path
    """Its folder; ``report.html`` in it shows everything."""
    values: dict[str, Any]
    """The content of ``results.json``."""

    @property
    def winner(self) -> Path | None:
        """The run of the best candidate, ready for `ensue.load`; None: no network finished."""
        return self.folder / "winner" if self.values["winner"] else None

    @property
    def verdict(self) -> str:
        """What came out, in a sentence or two."""
        return str(self.values["verdict"])

    @property
    def measures(self) -> list[Measure]:
        """By what was compared; the first decides."""
        return [Measure(**values) for values in self.values["measures"]]

    def table(self) -> list[dict[str, Any]]:
        """Give one row for each candidate and each floor, best first."""
        main, *others = self.measures
        columns = {
            "model": "name",
            main.name: main.key,
            "±": f"{main.key}_spread",
            "on test": f"test_{main.key}",
            **{measure.name: measure.key for measure in others},
            "parameters": "parameters",
            "FLOPs": "flops",
            "seconds": "seconds",
            "tokens": "tokens",
            "tokens/s": "tokens_per_second",
            "memory": "peak_bytes",
            "error": "error",
        }
        ones = [*self.values["candidates"], *({"error": "", **f} for f in self.values["floors"])]
        ones.sort(key=lambda one: _cost(main, one))
        return [{head: one.get(key) for head, key in columns.items()} for one in ones]

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}, winner {self.values['winner']!r}: {self.verdict})"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "folder", str(self.folder)
        yield "verdict", self.verdict
        for row in self.table():
            yield row["model"], row[self.measures[0].name]

    def _repr_html_(self) -> str:
        content = (self.folder / "report.html").read_text(encoding="utf-8")
        return framed(content, "ensue compare")


def _cost(measure: Measure, one: Mapping[str, Any]) -> float:
    """Give a row's place by a measure: what has none comes last."""
    value = one.get(measure.key)
    return math.inf if value is None else measure.cost(float(value))


def gather(
    folder: Path,
    prepared: Prepared,
    trials: Trials,
    errors: Mapping[str, str],
    tracker: Tracker,
    shared: bool = False,
) -> Result:
    """Make the table, choose the winner on valid, read the test set once, write the report.

    Args:
        folder: Of the comparison.
        prepared: Its plan and its data.
        trials: What they gave.
        errors: By task, why a run came to no end.
        tracker: Hears how it goes.
        shared: Whether several runs at a time shared a processor.
    """
    plan, judge = prepared.plan, prepared.judge
    outcomes = {t.name: o for t in plan.tasks if (o := read_outcome(folder / t.name))}
    runs = [o for t, o in outcomes.items() if t.startswith("runs")]
    reasons = {**trials.errors, **errors}
    candidates = [_candidate(plan, n, outcomes, trials, reasons) for n in plan.candidates]
    floors = _scored(folder, judge, "valid", candidates, tracker)
    told = protocol(plan, runs, judge)
    if judge.test:
        tested = _scored(folder, judge, "test", candidates, tracker)
        for floor, on_test in zip(floors, tested, strict=True):
            floor |= {f"test_{m.key}": on_test.get(m.key) for m in judge.measures}
        told.append(
            "The test set was read once by each run and by what needs no network, after all was"
            f" chosen on valid; sha256 {judge.test[:12]}."
        )
    main, followed_by = judge.measures[0], find_kind(plan.request["task"]).followed_by
    for candidate in candidates:
        _average(candidate, judge.measures)
    finished = [c for c in candidates if c[main.key] is not None]
    finished.sort(key=lambda c: (_cost(main, c), _cost(followed_by, c)))
    values: dict[str, Any] = {
        "version": __version__,
        "command": whole_command(plan.request, plan.candidates, folder),
        "task": plan.request["task"],
        "data": plan.data,
        "equal": plan.request["equal"],
        "budget": plan.request["budget"],
        "seeds": plan.request["seeds"],
        "rates": list(plan.request["rates"]),
        "machine": plan.machine,
        "measures": [asdict(measure) for measure in judge.measures],
        "lengths": judge.lengths(),
        "protocol": told,
        "unfair": unfair(folder, plan, candidates) + ([SHARED] if shared else []),
        "floors": floors,
        "candidates": candidates,
        "winner": finished[0]["name"] if finished else "",
        "verdict": verdict(finished, floors, main),
    }
    for number, candidate in enumerate(candidates):
        tracker.progress("writing the report", number, len(candidates))
        _generation(folder, plan, candidate, values["unfair"])
        if candidate["best_run"]:
            candidate["samples"] = judge.samples(Run(folder / candidate["best_run"]))
    tracker.progress("writing the report", len(candidates), len(candidates))
    if finished:
        _leave_winner(folder, finished[0])
    write_json(folder / "results.json", values)
    write_comparison(folder, values)
    return Result(folder, values)


def _candidate(
    plan: ComparisonPlan,
    name: str,
    outcomes: Mapping[str, Outcome],
    trials: Trials,
    errors: Mapping[str, str],
) -> dict[str, Any]:
    """Give a row of the table, with the trials and runs that it comes from."""
    tasks = [task for task in plan.tasks if task.candidate == name]
    followed_by = find_kind(plan.request["task"]).followed_by
    tried, runs = [], []
    for task in tasks:
        outcome = outcomes.get(task.name)
        measured = asdict(outcome) if outcome else {}
        common = {
            "run": task.name,
            followed_by.key: measured.pop("score", None),
            "error": errors.get(task.name, ""),
        }
        if task.name.startswith("trials"):
            tried.append({"rate": task.rate, **common})
        else:
            runs.append(
                {
                    **measured,
                    **common,
                    "seed": task.seed,
                    "command": _run_command(task),
                }
            )
    done = _done(runs)
    failed = [run["error"] for run in runs if run["error"]]

    def mean(key: str) -> float | None:
        return statistics.fmean(run[key] for run in done) if done else None

    tokens, seconds = mean("tokens"), mean("update_seconds")
    rate = trials.rates.get(name, plan.request["rates"][0])
    return {
        "name": name,
        "error": plan.failed.get(name) or (failed[0] if failed and not done else ""),
        "parameters": plan.parameters[name],
        "shape": _shape(tasks[-1], rate) if tasks else {},
        "rate": rate,
        "trials": tried,
        "runs": runs,
        **{key: mean(key) for key in ("flops", "seconds", "tokens", "peak_bytes")},
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "generation": [],
        "samples": [],
    }


def _done(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give those that came to their end, of which something was measured."""
    return [run for run in runs if "seconds" in run]


def _shape(task: Task, rate: float) -> dict[str, Any]:
    """Say what was trained and how, as far as candidates may differ in it."""
    model = {k: v for k, v in task.config["model"].items() if k not in ("name", "file", "dropout")}
    train = task.config["train"]
    batch = "global_batch_size" if train["global_batch_size"] else "batch_tokens"
    keys = (batch, "precision", "threads", "compile")
    rates = {key: train[key] * rate for key in ("lr", "matrix_lr")}
    return {**model, **{key: train[key] for key in keys}, **rates}


def _run_command(task: Task) -> str:
    again = f"again-{task.name.rpartition('/')[2]}"
    code = task.config["model"].get("file")
    words = ["ensue", "train", f"{task.name}.toml", "--out", again]
    return command(*words, *(["--code", place(code)] if code else []))


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


# -- what is measured once all runs are done ---------------------------------------------------


def _scored(
    folder: Path, judge: Judge, split: str, candidates: list[dict[str, Any]], tracker: Tracker
) -> list[dict[str, Any]]:
    """Score every finished run on a split, once: what was scored before is not scored again.

    Returns:
        The floors; those of the runs are put into them.
    """
    path = folder / f"{split}.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    prefix = "" if split == "valid" else f"{split}_"
    done = [run for c in candidates for run in _done(c["runs"])]
    for number, run in enumerate(done):
        if run["run"] not in known:
            tracker.progress(f"scoring on {split}", number, len(done))
            known[run["run"]] = judge.score(Run(folder / run["run"]), split)
            write_json(path, known)
        run |= {f"{prefix}{key}": value for key, value in known[run["run"]].items()}
    if "floors" not in known:
        known["floors"] = judge.floors(split)
        write_json(path, known)
    return [
        {**floor, "by_length": _by_length([floor["by_length"]] if "by_length" in floor else [])}
        for floor in known["floors"]
    ]


def _average(candidate: dict[str, Any], measures: Sequence[Measure]) -> None:
    """Put means and spreads over the finished runs into a row, and name the best of them."""
    done = _done(candidate["runs"])
    for measure in measures:
        for key in (measure.key, f"test_{measure.key}"):
            scores = [run[key] for run in done if key in run]
            candidate[key] = statistics.fmean(scores) if scores else None
            candidate[f"{key}_spread"] = _spread(scores)
    by_length = [run["by_length"] for run in done if "by_length" in run]
    candidate["by_length"] = _by_length(by_length)
    best = min(done, key=lambda run: _cost(measures[0], run)) if done else {"run": ""}
    candidate["best_run"] = best["run"]


def _by_length(runs: Sequence[Sequence[float]]) -> list[dict[str, float | None]]:
    """Give mean and spread over runs of each group of lengths."""
    groups = zip(*runs, strict=True)
    return [{"mean": statistics.fmean(g), "spread": _spread(list(g))} for g in groups]


def _generation(
    folder: Path, plan: ComparisonPlan, candidate: dict[str, Any], unfair: list[str]
) -> None:
    """Measure how fast a shape generates, and what it keeps; found again where it was measured."""
    path = folder / "generation.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    name, contexts = candidate["name"], CONTEXTS.get(plan.request["task"], ())
    task = next((t for t in plan.tasks if t.candidate == name), None)
    if task is None or not contexts or not candidate["best_run"]:
        return
    if name not in known:
        config = config_from_dict(dict(task.config), name)
        try:
            known[name] = [asdict(row) for row in measure_generation(config.model, contexts)]
        except Exception as error:  # a person's own model may do anything in a long context
            unfair.append(f"{name} cannot generate after {contexts[-1]:,} tokens: {error}")
            return
        write_json(path, known)
    candidate["generation"] = known[name]


def _leave_winner(folder: Path, candidate: dict[str, Any]) -> None:
    """Copy the winner's best run, without its checkpoints, to where it is found."""
    final = folder / "winner"
    temporary = folder / f"{TEMPORARY}winner"
    remove_tree(temporary)
    left_out = shutil.ignore_patterns("checkpoints", "run.lock")
    with writing(final, 0):
        shutil.copytree(folder / candidate["best_run"], temporary, ignore=left_out)
    remove_tree(final)
    temporary.rename(final)
