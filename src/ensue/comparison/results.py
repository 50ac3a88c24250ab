"""What came out of a comparison: the table, the test text read once, and the winner as a run."""

import math
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ensue import __version__
from ensue.comparison.plan import ComparisonPlan, Task
from ensue.comparison.speed import measure_generation
from ensue.comparison.words import protocol, unfair, verdict, whole_command
from ensue.data.corpus import Corpus
from ensue.data.shards import Tokens
from ensue.decoding.engine import generate
from ensue.decoding.logits import Sampling
from ensue.files import TEMPORARY, read_json, remove_tree, write_json, writing
from ensue.floors import Floor, floor_of
from ensue.runs import Run
from ensue.tasks.lm import score
from ensue.tokenizers import Tokenizer
from ensue.training.config import config_from_dict
from ensue.training.session import load_model
from ensue.training.tracking import Tracker
from ensue.views.comparison import write_comparison
from ensue.views.text import command, place

CONTEXTS = (64, 256, 1024, 4096)
"""Tokens before the first that is generated, where its speed is measured."""
SAMPLE_TOKENS = 120
SHARED = (
    "Several runs at a time shared this machine: seconds and tokens/s are not each one's own, nor,"
    " at equal time, what was learnt in them."
)


@dataclass(frozen=True)
class Prepared:
    """A comparison that can begin."""

    plan: ComparisonPlan
    """All that was decided."""
    corpus: Corpus
    """What is learnt from, and what is chosen on."""
    test: Tokens | None
    """What is scored once, at the end."""
    tokenizer: Tokenizer
    """One for all."""


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

    bits_per_byte: float
    """On valid."""
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
        bits_per_byte=float(final["bits_per_byte"]),
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

    def table(self) -> list[dict[str, Any]]:
        """Give one row for each candidate and one for the floor, best first."""
        rows = [
            {
                "model": c["name"],
                "bits per byte": c["bits_per_byte"],
                "±": c["spread"],
                "on test": c["test_bits_per_byte"],
                "parameters": c["parameters"],
                "FLOPs": c["flops"],
                "seconds": c["seconds"],
                "tokens": c["tokens"],
                "tokens/s": c["tokens_per_second"],
                "memory": c["peak_bytes"],
                "error": c["error"],
            }
            for c in self.values["candidates"]
        ]
        floor = self.values["floor"]
        blank = dict.fromkeys(rows[0])
        rows.append(
            blank
            | {
                "model": floor["name"],
                "bits per byte": floor["bits_per_byte"],
                "on test": floor["test_bits_per_byte"],
                "seconds": floor["seconds"],
                "error": "",
            }
        )
        return sorted(rows, key=lambda r: math.inf if (b := r["bits per byte"]) is None else b)

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}, winner {self.values['winner']!r}: {self.verdict})"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "folder", str(self.folder)
        yield "verdict", self.verdict
        for row in self.table():
            yield row["model"], row["bits per byte"]

    def _repr_html_(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")


def gather(
    folder: Path,
    prepared: Prepared,
    trials: Trials,
    errors: Mapping[str, str],
    tracker: Tracker,
    shared: bool = False,
) -> Result:
    """Make the table, choose the winner on valid, read the test text once, write the report.

    Args:
        folder: Of the comparison.
        prepared: Its plan and its text.
        trials: What they gave.
        errors: By task, why a run came to no end.
        tracker: Hears how it goes.
        shared: Whether several runs at a time shared a processor.
    """
    plan, corpus = prepared.plan, prepared.corpus
    tracker.progress("counting n-grams", 0, 0)
    floor = floor_of(corpus.train, corpus.valid, prepared.tokenizer)
    outcomes = {t.name: o for t in plan.tasks if (o := read_outcome(folder / t.name))}
    reasons = {**trials.errors, **errors}
    candidates = [_candidate(plan, n, outcomes, trials, reasons) for n in plan.candidates]
    finished = [c for c in candidates if c["bits_per_byte"] is not None]
    finished.sort(key=lambda c: float(c["bits_per_byte"]))
    values: dict[str, Any] = {
        "version": __version__,
        "command": whole_command(plan.request, plan.candidates, folder),
        "data": plan.data,
        "equal": plan.request["equal"],
        "budget": plan.request["budget"],
        "seeds": plan.request["seeds"],
        "rates": list(plan.request["rates"]),
        "machine": plan.machine,
        "protocol": protocol(plan, [o for t, o in outcomes.items() if t.startswith("runs")]),
        "unfair": unfair(folder, plan, candidates) + ([SHARED] if shared else []),
        "floor": _floor_values(floor),
        "candidates": candidates,
        "winner": finished[0]["name"] if finished else "",
        "verdict": verdict(finished, floor),
    }
    if prepared.test:
        _test(folder, prepared, values, tracker)
    for number, candidate in enumerate(candidates):
        tracker.progress("generating", number, len(candidates))
        _generation(folder, plan, candidate, values["unfair"])
        _samples(folder, candidate)
    tracker.progress("generating", len(candidates), len(candidates))
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
    tried, runs = [], []
    for task in tasks:
        outcome = outcomes.get(task.name)
        common = {
            "run": task.name,
            "bits_per_byte": outcome.bits_per_byte if outcome else None,
            "error": errors.get(task.name, ""),
        }
        if task.name.startswith("trials"):
            tried.append({"rate": task.rate, **common})
        else:
            measured = asdict(outcome) if outcome else {}
            runs.append(
                {
                    **measured,
                    **common,
                    "seed": task.seed,
                    "test_bits_per_byte": None,
                    "command": _run_command(task),
                }
            )
    done = [run for run in runs if run["bits_per_byte"] is not None]
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
        "best_run": min(done, key=lambda run: float(run["bits_per_byte"]))["run"] if done else "",
        **{key: mean(key) for key in ("flops", "seconds", "tokens", "peak_bytes")},
        "tokens_per_second": tokens / seconds if tokens and seconds else None,
        "bits_per_byte": mean("bits_per_byte"),
        "spread": _spread([run["bits_per_byte"] for run in done]),
        "test_bits_per_byte": None,
        "test_spread": None,
        "generation": [],
        "samples": [],
    }


def _shape(task: Task, rate: float) -> dict[str, Any]:
    """Say what was trained and how, as far as candidates may differ in it."""
    model = {k: v for k, v in task.config["model"].items() if k not in ("name", "file", "dropout")}
    train = task.config["train"]
    keys = ("global_batch_size", "precision", "threads", "compile")
    rates = {key: train[key] * rate for key in ("lr", "matrix_lr")}
    return {**model, **{key: train[key] for key in keys}, **rates}


def _run_command(task: Task) -> str:
    again = f"again-{task.name.rpartition('/')[2]}"
    code = task.config["model"].get("file")
    words = ["ensue", "train", f"{task.name}.toml", "--out", again]
    return command(*words, *(["--code", place(code)] if code else []))


def _spread(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _floor_values(floor: Floor) -> dict[str, Any]:
    return {
        "name": f"{floor.order}-gram counts of bytes",
        "bits_per_byte": floor.bits_per_byte,
        "test_bits_per_byte": None,
        "seconds": floor.seconds,
        "note": floor.note,
    }


# -- what is measured once all runs are done ---------------------------------------------------


def _test(folder: Path, prepared: Prepared, values: dict[str, Any], tracker: Tracker) -> None:
    """Score every finished run on the test text, once: what was read before is not read again."""
    text, path = prepared.test, folder / "test.json"
    assert text is not None
    known: dict[str, float] = read_json(path) if path.exists() else {}
    for candidate in values["candidates"]:
        done = [run for run in candidate["runs"] if run["bits_per_byte"] is not None]
        for run in done:
            if run["run"] not in known:
                tracker.progress(f"scoring {run['run']} on test", 0, 0)
                known[run["run"]] = _score(Run(folder / run["run"]), text)
                write_json(path, known)
            run["test_bits_per_byte"] = known[run["run"]]
        scores = [run["test_bits_per_byte"] for run in done]
        candidate["test_bits_per_byte"] = statistics.fmean(scores) if scores else None
        candidate["test_spread"] = _spread(scores)
    if "floor" not in known:
        floor = floor_of(prepared.corpus.train, text, prepared.tokenizer)
        known["floor"] = floor.bits_per_byte
        write_json(path, known)
    values["floor"]["test_bits_per_byte"] = known["floor"]
    values["protocol"].append(
        "The test text was read once by each run and by the counts, after all was chosen on valid;"
        f" sha256 {text.fingerprint[:12]}."
    )


def _score(run: Run, text: Tokens) -> float:
    model, _ = load_model(run)
    length = run.read_plan()["config"]["model"]["context_length"]
    return score(model, text, length, "test", torch.device("cpu")).bits_per_byte


def _generation(
    folder: Path, plan: ComparisonPlan, candidate: dict[str, Any], unfair: list[str]
) -> None:
    """Measure how fast a shape generates, and what it keeps; found again where it was measured."""
    path = folder / "generation.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    name = candidate["name"]
    task = next((t for t in plan.tasks if t.candidate == name), None)
    if task is None or not candidate["best_run"]:
        return
    if name not in known:
        config = config_from_dict(dict(task.config), name)
        try:
            known[name] = [asdict(row) for row in measure_generation(config.model, CONTEXTS)]
        except Exception as error:  # a person's own model may do anything in a long context
            unfair.append(f"{name} cannot generate after {CONTEXTS[-1]:,} tokens: {error}")
            return
        write_json(path, known)
    candidate["generation"] = known[name]


def _samples(folder: Path, candidate: dict[str, Any]) -> None:
    """Let a candidate's best run write from an empty page: no row of the data is shown."""
    if not candidate["best_run"]:
        return
    model, tokenizer = load_model(Run(folder / candidate["best_run"]))
    settings = [Sampling(max_new_tokens=SAMPLE_TOKENS, seed=0)]
    stop = frozenset([tokenizer.eos_id])
    events = generate(model, [[tokenizer.eos_id]], settings, stop_ids=stop, past_context="slide")
    text = tokenizer.decode([event.token for event in events])
    candidate["samples"] = [{"prompt": "", "text": text}]


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
