"""What came out of a comparison: the table, the test text read once, and the winner as a run."""

import json
import math
import shutil
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ensue import __version__
from ensue.comparison.plan import ComparisonPlan
from ensue.comparison.speed import measure_generation
from ensue.data.corpus import Corpus, tokenise
from ensue.data.shards import Tokens
from ensue.decoding.engine import generate
from ensue.decoding.logits import Sampling
from ensue.errors import RunError
from ensue.files import TEMPORARY, read_json, remove_tree, write_json
from ensue.floors import Floor, floor_of
from ensue.runs import Run
from ensue.tasks.lm import score
from ensue.tokenizers import Tokenizer, load_tokenizer
from ensue.training.config import config_from_dict
from ensue.training.session import load_model
from ensue.training.tracking import Tracker
from ensue.views.comparison import write_comparison
from ensue.views.text import command, few

CONTEXTS = (64, 256, 1024, 4096)
"""Tokens before the first that is generated, where its speed is measured."""
SAMPLE_TOKENS = 120
SHARED = "Several runs at a time shared this machine: seconds and tokens/s are not each one's own."


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one finished run cost and gave."""

    bits_per_byte: float
    """On valid."""
    seconds: float
    """Wall clock, from the start of its process."""
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
    final = next((r for r in reversed(run.read_metrics()) if r.get("kind") == "final"), None)
    if final is None:
        return None
    plan = run.read_plan()
    config, steps = plan["config"], int(final["step"])
    per_step = config["train"]["global_batch_size"] * config["model"]["context_length"]
    return Outcome(
        bits_per_byte=float(final["bits_per_byte"]),
        seconds=float(final["spent"]),
        tokens=steps * per_step,
        flops=steps * float(plan["flops_per_step"]),
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
    plan: ComparisonPlan,
    corpus: Corpus,
    tokenizer: Tokenizer,
    errors: Mapping[str, str],
    tracker: Tracker,
    shared: bool = False,
) -> Result:
    """Make the table, choose the winner on valid, read the test text once, write the report.

    Args:
        folder: Of the comparison.
        plan: It, fixed.
        corpus: The text.
        tokenizer: Its tokenizer.
        errors: By task, why it came to no end.
        tracker: Hears how it goes.
        shared: Whether several runs at a time shared a processor.
    """
    tracker.progress("counting n-grams", 0, 0)
    floor = floor_of(corpus.train, corpus.valid, tokenizer)
    candidates = [_candidate(folder, plan, name, errors) for name in plan.candidates]
    finished = [c for c in candidates if c["bits_per_byte"] is not None]
    finished.sort(key=lambda c: float(c["bits_per_byte"]))
    values: dict[str, Any] = {
        "version": __version__,
        "command": _command(plan, folder),
        "data": plan.data,
        "equal": plan.request["equal"],
        "budget": plan.request["budget"],
        "seeds": plan.request["seeds"],
        "rates": list(plan.request["rates"]),
        "machine": plan.machine,
        "protocol": list(plan.protocol),
        "unfair": [*plan.unfair, *_unfair(folder, plan), *([SHARED] if shared else [])],
        "floor": _floor_values(floor),
        "candidates": candidates,
        "winner": finished[0]["name"] if finished else "",
        "verdict": _verdict(finished, floor),
    }
    if plan.request["test"]:
        _test(folder, plan, values, corpus, tokenizer, tracker)
    for number, candidate in enumerate(candidates):
        tracker.progress("generating", number, len(candidates))
        _generation(folder, plan, candidate)
        _samples(folder, candidate)
    tracker.progress("generating", len(candidates), len(candidates))
    if finished:
        _leave_winner(folder, finished[0])
    write_json(folder / "results.json", values)
    write_comparison(folder, values)
    return Result(folder, values)


def _candidate(
    folder: Path, plan: ComparisonPlan, name: str, errors: Mapping[str, str]
) -> dict[str, Any]:
    trials, runs, outcomes = [], [], []
    for task in plan.tasks:
        if task.candidate != name:
            continue
        outcome = read_outcome(folder / task.name)
        bits = outcome.bits_per_byte if outcome else None
        common = {"bits_per_byte": bits, "run": task.name, "error": errors.get(task.name, "")}
        if task.name.startswith("trials"):
            trials.append({"rate": task.rate, **common})
            continue
        again = f"again-{task.name.rpartition('/')[2]}"
        recipe = folder / f"{task.name}.toml"
        runs.append(
            {
                "seed": task.seed,
                **common,
                "test_bits_per_byte": None,
                "seconds": outcome.seconds if outcome else None,
                "peak_bytes": outcome.peak_bytes if outcome else None,
                "command": command("ensue", "train", recipe, "--out", again),
            }
        )
        if outcome:
            outcomes.append(outcome)
    failed = [r["error"] for r in runs if r["error"]]
    tried = {t["rate"]: t["bits_per_byte"] for t in trials if t["bits_per_byte"] is not None}
    rate = min(tried, key=lambda r: float(tried[r])) if tried else plan.request["rates"][0]

    def mean(key: str) -> float | None:
        return statistics.fmean(getattr(o, key) for o in outcomes) if outcomes else None

    seconds, tokens = mean("seconds"), mean("tokens")
    return {
        "name": name,
        "error": plan.failed.get(name) or (failed[0] if failed and not outcomes else ""),
        "parameters": plan.parameters[name],
        "flops": mean("flops"),
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds and tokens else None,
        "peak_bytes": mean("peak_bytes"),
        "bits_per_byte": mean("bits_per_byte"),
        "spread": _spread([o.bits_per_byte for o in outcomes]),
        "test_bits_per_byte": None,
        "test_spread": None,
        "rate": rate,
        "trials": trials,
        "runs": runs,
        "generation": [],
        "samples": [],
    }


def _spread(values: list[float]) -> float | None:
    if not values:
        return None
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _floor_values(floor: Floor) -> dict[str, Any]:
    return {
        "name": f"{floor.order}-gram counts of bytes",
        "bits_per_byte": floor.bits_per_byte,
        "test_bits_per_byte": None,
        "seconds": floor.seconds,
        "note": floor.note,
    }


def _verdict(finished: list[dict[str, Any]], floor: Floor) -> str:
    """Say what came out, as plainly as the spread allows."""
    if not finished:
        return "No network came to the end of its training."
    best, *others = finished
    bits = best["bits_per_byte"]
    words = f"{best['name']} is best on valid: {bits:.3f} bits per byte"
    if others:
        other = others[0]
        gap = other["bits_per_byte"] - bits
        spread = best["spread"] + other["spread"]
        words += f", {gap:.3f} below {other['name']}"
        if len(best["runs"]) > 1:
            words += (
                "; that is more than the spread over seeds."
                if gap > spread
                else "; that is within the spread over seeds, so the two are not told apart."
            )
        else:
            words += "; with one seed, nobody knows how much of that is chance."
    else:
        words += "."
    if bits >= floor.bits_per_byte:
        return (
            f"No network beats counting {floor.order}-grams ({floor.bits_per_byte:.3f} bits per"
            f" byte) at this budget. {words}"
        )
    behind = [c["name"] for c in finished if c["bits_per_byte"] >= floor.bits_per_byte]
    words += f" Counting {floor.order}-grams gives {floor.bits_per_byte:.3f}"
    return words + (f", which is not beaten by {', '.join(behind)}." if behind else ".")


def _unfair(folder: Path, plan: ComparisonPlan) -> list[str]:
    """Find what was not equal after all."""
    lines, machines = [], set()
    wall: dict[str, list[float]] = {}
    for task in plan.tasks:
        if not task.name.startswith("runs"):
            continue
        outcome = read_outcome(folder / task.name)
        if outcome:
            wall.setdefault(task.candidate, []).append(outcome.seconds)
            machines.add(json.dumps(Run(folder / task.name).read_plan()["machine"]))
    if len(machines) > 1:
        lines.append("The runs were made on machines that differ: their times do not compare.")
    means = {name: statistics.fmean(seconds) for name, seconds in wall.items()}
    if (
        plan.request["equal"] == "time"
        and means
        and max(means.values()) > 1.1 * min(means.values())
    ):
        longest, shortest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        lines.append(
            f"Times differ by more than 10 %: {longest} had {means[longest]:.0f} s,"
            f" {shortest} {means[shortest]:.0f} s."
        )
    return lines


def _command(plan: ComparisonPlan, folder: Path) -> str:
    request = plan.request
    tables = {name: request["models"][name]["name"] for name in plan.candidates}
    models = [name if of == name else f"{name}={of}" for name, of in tables.items()]
    words: list[object] = ["ensue", "compare", *few(request["data"]["sources"])]
    for flag, value in (("--valid", request["data"]["valid"]), ("--test", request["test"])):
        words += [flag, *value] if value else []
    words += ["--models", ",".join(models), "--equal", request["equal"]]
    words += ["--budget", request["budget"], "--seeds", request["seeds"]]
    words += ["--rates", *(f"{r:g}" for r in request["rates"])]
    words += ["--size", request["size"]] if request["size"] else []
    return command(*words, "--out", folder)


# -- what is measured once all runs are done ---------------------------------------------------


def _test(
    folder: Path,
    plan: ComparisonPlan,
    values: dict[str, Any],
    corpus: Corpus,
    tokenizer: Tokenizer,
    tracker: Tracker,
) -> None:
    """Score every finished run on the test text, once: what was read before is not read again."""
    sources = list(plan.request["test"])
    text, _ = tokenise(sources, tokenizer, load_tokenizer=load_tokenizer)
    path = folder / "test.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    for candidate in values["candidates"]:
        for row in candidate["runs"]:
            if row["bits_per_byte"] is None:
                continue
            if row["run"] not in known:
                tracker.progress(f"scoring {row['run']} on test", 0, 0)
                known[row["run"]] = _score(Run(folder / row["run"]), text)
                write_json(path, known)
            row["test_bits_per_byte"] = known[row["run"]]
        scores = [r["test_bits_per_byte"] for r in candidate["runs"] if r["test_bits_per_byte"]]
        candidate["test_bits_per_byte"] = statistics.fmean(scores) if scores else None
        candidate["test_spread"] = _spread(scores)
    if "floor" not in known:
        known["floor"] = floor_of(corpus.train, text, tokenizer).bits_per_byte
        write_json(path, known)
    values["floor"]["test_bits_per_byte"] = known["floor"]
    values["data"] = {**values["data"], "test_bytes": text.num_bytes}
    values["protocol"].append(
        "The test text was read once by each run and by the counts, after all was chosen on valid;"
        f" sha256 {text.fingerprint[:12]}."
    )


def _score(run: Run, text: Tokens) -> float:
    model, _ = load_model(run)
    length = run.read_plan()["config"]["model"]["context_length"]
    return score(model, text, length, "test", torch.device("cpu")).bits_per_byte


def _generation(folder: Path, plan: ComparisonPlan, candidate: dict[str, Any]) -> None:
    """Measure how fast a shape generates, and what it keeps; found again where it was measured."""
    path = folder / "generation.json"
    known: dict[str, Any] = read_json(path) if path.exists() else {}
    name = candidate["name"]
    if name not in known:
        task = next((t for t in plan.tasks if t.candidate == name), None)
        if task is None:
            return
        config = config_from_dict(dict(task.config), name)
        known[name] = [asdict(row) for row in measure_generation(config.model, CONTEXTS)]
        write_json(path, known)
    candidate["generation"] = known[name]


def _samples(folder: Path, candidate: dict[str, Any]) -> None:
    """Let a candidate's best run write from an empty page: no row of the data is shown."""
    best = _best_run(candidate)
    if best is None:
        return
    model, tokenizer = load_model(Run(folder / best["run"]))
    settings = [Sampling(max_new_tokens=SAMPLE_TOKENS, seed=0)]
    stop = frozenset([tokenizer.eos_id])
    events = generate(model, [[tokenizer.eos_id]], settings, stop_ids=stop, past_context="slide")
    text = tokenizer.decode([event.token for event in events])
    candidate["samples"] = [{"prompt": "", "text": text}]


def _best_run(candidate: dict[str, Any]) -> dict[str, Any] | None:
    runs = [run for run in candidate["runs"] if run["bits_per_byte"] is not None]
    return min(runs, key=lambda run: float(run["bits_per_byte"])) if runs else None


def _leave_winner(folder: Path, candidate: dict[str, Any]) -> None:
    """Copy the winner's best run, without its checkpoints, to where it is found."""
    best = _best_run(candidate)
    if best is None:
        raise RunError(f"{folder}: the runs of {candidate['name']} have gone")
    final = folder / "winner"
    temporary = folder / f"{TEMPORARY}winner"
    remove_tree(temporary)
    shutil.copytree(
        folder / best["run"], temporary, ignore=shutil.ignore_patterns("checkpoints", "run.lock")
    )
    remove_tree(final)
    temporary.rename(final)
