"""A comparison in sentences: what was equal, what was not, what came out, how to do it again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensue.comparison.judge import Judge
from ensue.comparison.plan import ComparisonPlan, can_be_fitted
from ensue.comparison.request import CompareConfig
from ensue.config import to_dict
from ensue.models import step_of
from ensue.planning import build_empty
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.tasks.measures import Measure
from ensue.training.choose import DROPOUT_FROM_EPOCHS
from ensue.training.config import config_from_dict
from ensue.views.text import command, place

UNEQUAL = 0.02
"""Weights, tokens or operations may differ by so much before the table says that they do."""
LATE = 1.1
"""Times may differ by this factor."""
MANY = 8
"""Files that a command names one by one."""


def protocol(plan: ComparisonPlan, outcomes: Sequence[Any], judge: Judge) -> list[str]:
    """Say how it was measured.

    Args:
        plan: What was decided.
        outcomes: Of the runs that finished: whether valid was scored whole.
        judge: What was learnt from, and how it was scored.
    """
    request, shapes = plan.request, [dict(t.config) for t in plan.tasks if t.name[:4] == "runs"]
    like = f"as {plan.leader} has at its size"
    equal = {
        "params": f"Equal: weights (within 2 %, {like}) and tokens seen. The slowest candidate sets"
        f" how many tokens: its runs take about {plan.run_seconds:.0f} s.",
        "flops": f"Equal: weights (within 2 %, {like}) and the operations of training, by each"
        " model's formula (matrix products, convolutions, attention; no look-ups). The slowest"
        f" candidate sets how many: its runs take about {plan.run_seconds:.0f} s.",
        "time": f"Equal: wall clock, {plan.run_seconds:.0f} s a run from the start of its process."
        " Each candidate chooses its own size for it, unless one was given.",
    }[request["equal"]]
    factors = ", ".join(f"{r:g}" for r in request["rates"])
    trials = (
        "No learning rates were tried: each model began at its own, as in `ensue train`"
        f"{'' if factors == '1' else f', times {factors}'}."
    )
    if plan.trial_seconds:
        share = plan.trial_seconds * len(request["rates"]) / request["seeds"]
        share /= share + plan.run_seconds
        trials = (
            f"Of each candidate's budget {share:.0%} went to {len(request['rates'])} trials of its"
            f" learning rates (factors {factors} on one rate for all), each"
            f" {plan.trial_seconds / plan.run_seconds:.0%} as long as a run, seed 0; the best on"
            " valid was taken."
        )
    lines = [equal, trials]
    if shapes:
        train = shapes[-1]["train"]
        lines.append(
            f"{judge.updates(shapes)}{train['optimizer']}, {train['schedule']} decay; one"
            " tokenizer for all. Precision, threads and batch: those that are fastest for each"
            " (Shapes)."
        )
    lines.append(
        f"Seeds: {request['seeds']}; they change first weights, order of the data and dropout. ±:"
        " the sample standard deviation over them."
    )
    lines += [
        *judge.scoring(outcomes),
        f"Dropout is 0.1 for a run that reads the data {DROPOUT_FROM_EPOCHS:.0f} times or more.",
        "Seconds: from the start of a run's process to its end; tokens/s: in updates alone. Memory:"
        " the most that the process had, Python and torch included.",
    ]
    return lines


def unfair(
    folder: Path, plan: ComparisonPlan, candidates: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Find what was not equal after all."""
    return [
        *_unequal_weights(plan),
        *_unequal_cost(plan, candidates),
        *_edges(plan, candidates),
        *_missing(candidates),
        *_machines(folder, plan),
    ]


def _unequal_weights(plan: ComparisonPlan) -> list[str]:
    lines, goal = [], plan.parameters[plan.leader]
    for name, count in plan.parameters.items():
        task = next((t for t in plan.tasks if t.candidate == name), None)
        if task is None:
            continue
        config = config_from_dict(dict(task.config), name).model
        if plan.request["equal"] != "time" and abs(count / goal - 1) > UNEQUAL:
            fits = can_be_fitted(plan.request["models"][name], config)
            why = "the nearest that its shape allows" if fits else "its width is fixed"
            lines.append(
                f"{name} has {count:,} weights, {count / goal - 1:+.0%} of the {goal:,} of"
                f" {plan.leader}: {why}."
            )
        if not hasattr(build_empty(step_of(config).model, config), "train_flops"):
            lines.append(
                f"{name} has no formula for its operations: 6 for each weight and token is taken."
            )
    return lines


def _unequal_cost(plan: ComparisonPlan, candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Compare what was spent, not what was planned."""
    what, key, allowed = {
        "params": ("Tokens seen", "tokens", 1 + UNEQUAL),
        "flops": ("Training operations", "flops", 1 + UNEQUAL),
        "time": ("Times", "seconds", LATE),
    }[plan.request["equal"]]
    spent = {c["name"]: c[key] for c in candidates if c[key]}
    lines = []
    if spent and max(spent.values()) > allowed * min(spent.values()):
        most, least = max(spent, key=spent.__getitem__), min(spent, key=spent.__getitem__)
        lines.append(
            f"{what} differ by more than {allowed - 1:.0%}: {most} had {spent[most]:,.4g}, {least}"
            f" {spent[least]:,.4g}."
        )
    late = [c["name"] for c in candidates if (c["seconds"] or 0) > LATE * plan.run_seconds]
    if late:
        lines.append(
            f"{', '.join(late)}: over the {plan.run_seconds:.0f} s of a run by more than"
            f" {LATE - 1:.0%}."
        )
    return lines


def _edges(plan: ComparisonPlan, candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    rates = plan.request["rates"]
    lines = []
    for edge, word in ((max(rates), "largest"), (min(rates), "smallest")):
        there = [c["name"] for c in candidates if c["rate"] == edge and c["best_run"]]
        if plan.trial_seconds and there:
            lines.append(
                f"{', '.join(there)}: the {word} learning rate that was tried (×{edge:g}) did best;"
                " one beyond it may do better."
            )
    return lines


def _missing(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for c in candidates:
        failed = [run for run in c["runs"] if run["error"]]
        if c["best_run"] and failed:
            lines.append(
                f"{c['name']}: {len(failed)} of {len(c['runs'])} runs failed and are not in its"
                f" figures ({failed[0]['error']})."
            )
    return lines


def _machines(folder: Path, plan: ComparisonPlan) -> list[str]:
    runs = [Run(folder / t.name) for t in plan.tasks if t.name.startswith("runs")]
    machines = {json.dumps(run.read_plan()["machine"]) for run in runs if run.plan_path.exists()}
    if len(machines) < 2:
        return []
    return ["The runs were made on machines that differ: their times do not compare."]


def verdict(
    finished: Sequence[Mapping[str, Any]], floors: Sequence[Mapping[str, Any]], measure: Measure
) -> str:
    """Say what came out, as plainly as the spread allows.

    Args:
        finished: Rows of the candidates that have a score, best first.
        floors: What needs no network, with its score.
        measure: The one that decides.
    """
    if not finished:
        return "No network came to the end of its training."
    key = measure.key
    best, *others = finished
    words = f"{best['name']} is best on valid: {measure.shown(best[key])}"
    words += f", {_ahead_of(others[0], best, measure)}" if others else "."
    bound = min(floors, key=lambda floor: measure.cost(floor[key]))
    if _loss(best, measure) >= _loss(bound, measure):
        return (
            f"No network beats {bound['doing']} ({measure.shown(bound[key])}) at this"
            f" budget. {words}"
        )
    given = [f"{floor['doing']} gives {floor[key]:.{measure.digits}f}" for floor in floors]
    said = "; ".join(given)
    words += f" {said[0].upper()}{said[1:]}"
    which = "which is" if len(floors) == 1 else "the best of these is"
    behind = [c["name"] for c in finished if _loss(c, measure) >= _loss(bound, measure)]
    words += f", {which} not beaten by {', '.join(behind)}" if behind else ""
    close = [
        c["name"]
        for c in finished
        if 0 < _loss(bound, measure) - _loss(c, measure) <= (c[f"{key}_spread"] or 0.0)
    ]
    words += f"; {', '.join(close)} beat it by no more than their spread" if close else ""
    return f"{words}."


def _loss(one: Mapping[str, Any], measure: Measure) -> float:
    return measure.cost(float(one[measure.key]))


def _ahead_of(other: Mapping[str, Any], best: Mapping[str, Any], measure: Measure) -> str:
    """Say by how much the best is ahead of the next, and what that is worth."""
    spreads = [one[f"{measure.key}_spread"] for one in (best, other)]
    gap = _loss(other, measure) - _loss(best, measure)
    side = "above" if measure.more else "below"
    words = f"{gap:.{measure.digits}f} {side} {other['name']}"
    if None in spreads:
        return f"{words}; with one seed, nobody knows how much of that is chance."
    if gap > sum(spreads):
        return f"{words}; that is more than the spread over seeds."
    return f"{words}; that is within the spread over seeds, so the two are not told apart."


def whole_command(request: Mapping[str, Any], candidates: Sequence[str], folder: Path) -> str:
    """Write the command of a comparison; empty: it was asked for in Python, by what has no flag."""
    tables = [request["models"][name] for name in candidates]
    if any(set(table) != {"name"} for table in tables):
        return ""
    models = []
    for name, table in zip(candidates, tables, strict=True):
        file, colon, classname = str(table["name"]).rpartition(":")
        of = f"{place(file)}:{classname}" if colon else classname
        models.append(of if name == classname.lower() else f"{name}={of}")
    data, kind = request["data"], find_kind(request["task"])
    sources = data["sources"]
    words: list[object] = ["ensue", "compare"]
    words += map(place, sources) if len(sources) <= MANY else ["FILES"]
    nothing = kind.config(sources=())
    words += _flags("", data, to_dict(nothing), {"sources", "cache"})
    usual = to_dict(CompareConfig(task=kind.name, data=nothing))
    words += ["--models", ",".join(models)]
    always = {key: request[key] for key in ("equal", "budget", "seeds")}
    words += _flags("", always, {}, set())
    words += _flags("", request, usual, {"task", "data", "models", "train", *always})
    words += _flags("train.", request["train"], usual["train"], set())
    return command(*words, "--out", place(folder))


def _flags(
    prefix: str, values: Mapping[str, Any], usual: Mapping[str, Any], skipped: set[str]
) -> list[object]:
    """Write what is not as it usually is."""
    words: list[object] = []
    for key, value in values.items():
        if key in skipped or json.dumps(value) == json.dumps(usual.get(key)):
            continue
        listed = value if isinstance(value, list | tuple) else [value]
        shown = [place(v) if isinstance(v, str) else f"{v:g}" for v in listed]
        words += [f"--{prefix}{key.replace('_', '-')}", *shown]
    return words
