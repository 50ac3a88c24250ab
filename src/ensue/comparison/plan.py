"""Before anything runs: the same number of weights, and what the slowest candidate can afford.

What is equal:

- *params*: every candidate has as many weights as the leader was given by its size (within 2 %) and
  sees as many tokens (of pairs: target tokens, with their sources); the slowest sets how many.
- *flops*: the same weights; every run gets as many operations, by each model's formula.
- *time*: every candidate chooses its own size, as `ensue train` does, and every run gets as long.

The leader is the last candidate of the lineage: it is given a size, and of language models its
window is everyone's, since the score depends on it. Of each candidate's budget (one run's, times
the seeds) a fifth goes to its learning-rate trials, shared equally by them.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ensue.comparison.judge import Judge
from ensue.comparison.request import FILES, CompareConfig
from ensue.config import to_dict
from ensue.distributed.env import Env, start_env
from ensue.errors import NonFiniteError, UsageError
from ensue.models import find_step
from ensue.models.custom import CustomConfig, has_width
from ensue.planning import fitted
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.testing import check_custom
from ensue.training.budget import parse_budget
from ensue.training.choose import LEAST_STEPS, Chooser
from ensue.training.config import RunConfig, TrainConfig, config_from_dict, config_to_dict
from ensue.training.optim import usual_rates
from ensue.training.plan import Machine
from ensue.training.tracking import Tracker

TRIALS_SHARE = 0.2
"""Of a candidate's whole budget, for finding its learning rate."""
START_SECONDS = 5.0
"""What a run takes beside its updates: starting Python and torch, the report."""
OVERHEAD = 1.16
"""A run's time in all over the time of its updates: evaluations, checkpoints."""
SCORED = 0.25
"""Targets of valid that the last evaluation reads, at most, for each target of training: forward
passes alone, a twelfth of the run. The number is one for all candidates."""


@dataclass(frozen=True)
class Candidate:
    """One model of a comparison, with its shape and speed settled."""

    name: str
    """What it is called here."""
    config: RunConfig[Any]
    """Of its runs; rates at the factor 1, seed 0, length still open."""
    seconds_per_step: float
    """As measured."""
    flops_per_step: float
    """By the model's formula."""
    parameters: int
    """Weights."""
    tokens_per_step: float
    """Targets of one update, on average."""
    error: str = ""
    """Why it could not be measured."""
    most_steps: int = 1 << 60
    """Updates after which it learns no more."""


@dataclass(frozen=True)
class Task:
    """One run of a comparison: a recipe and a folder, both below the comparison's."""

    name: str
    """``trials/lstm-0.5`` or ``runs/lstm-0``: the folder; the recipe is the same with ``.toml``."""
    candidate: str
    """Whose."""
    rate: float
    """Factor on the learning rates; 0: the one that won the trials."""
    seed: int
    """Of the run."""
    config: Mapping[str, Any]
    """The recipe, at the factor 1."""


@dataclass(frozen=True)
class ComparisonPlan:
    """All that is decided beforehand; written once, and repeated by every resume."""

    request: dict[str, Any]
    """What was asked for."""
    corpus: str
    """Fingerprint of text and tokenizer."""
    test: str
    """SHA-256 of the test text; empty: there is none."""
    data: dict[str, Any]
    """Sizes of the splits, for the report."""
    tasks: tuple[Task, ...]
    """Every run, in the order in which they are begun."""
    candidates: tuple[str, ...]
    """Names, in the order asked for."""
    parameters: dict[str, int]
    """Weights of each."""
    failed: dict[str, str]
    """Those that could not even be measured, and why."""
    leader: str
    """The candidate whose weights and window the others were given."""
    trial_seconds: float
    """What one trial may take in all; 0: there are none."""
    run_seconds: float
    """What one run may take in all."""
    machine: dict[str, Any]
    """Where the speeds were measured."""
    measure: str
    """Key of the measure that decides."""

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return to_dict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ComparisonPlan":
        """Read what `to_json` gave."""
        tasks = tuple(Task(**task) for task in values["tasks"])
        return cls(**{**values, "tasks": tasks, "candidates": tuple(values["candidates"])})


def make_plan(
    request: CompareConfig, judge: Judge, folder: Path, tracker: Tracker
) -> ComparisonPlan:
    """Shape the candidates, check that each can run, and share out the budget.

    Args:
        request: What is compared.
        judge: What is learnt from, and how that is scored.
        folder: Of the comparison; the tokenizers lie in it.
        tracker: Hears how it goes.

    Raises:
        UsageError: The budget is too small for a candidate.
        LawError: A person's own model breaks a law of decoders.
        NonFiniteError: No candidate can be trained at all.
    """
    data = find_kind(request.task).frozen(request.data, folder.resolve())
    named = {name: getattr(data, name) for name in FILES if hasattr(data, name)}
    data = replace(data, **{name: _absolute(files) for name, files in named.items()})
    seconds = parse_budget(request.budget).seconds
    share = TRIALS_SHARE if len(request.rates) > 1 else 0.0
    run_seconds = seconds * (1 - share)
    trial_seconds = seconds * share * request.seeds / len(request.rates)
    asked = replace(request, data=data, budget=f"{run_seconds:g}s")
    shaped, leader = _shaped(asked, judge, tracker)
    candidates = [c for c in shaped if not c.error]
    if not candidates:
        raise NonFiniteError(
            "no candidate can be trained: " + "; ".join(f"{c.name}: {c.error}" for c in shaped),
            "If it diverged, try a lower learning rate: --train.lr 0.001",
        )
    tasks = []
    if trial_seconds:
        for rate in request.rates:
            tasks += _tasks("trials", request, candidates, judge, trial_seconds, rate, 0)
    for seed in range(request.seeds):
        rate = 0.0 if trial_seconds else request.rates[0]
        tasks += _tasks("runs", request, candidates, judge, run_seconds, rate, seed)
    return ComparisonPlan(
        request=request.to_json(),
        corpus=judge.material.fingerprint,
        test=judge.test,
        data=judge.facts(),
        tasks=tuple(tasks),
        candidates=tuple(c.name for c in shaped),
        parameters={c.name: c.parameters for c in shaped},
        failed={c.name: c.error for c in shaped if c.error},
        leader=leader,
        trial_seconds=trial_seconds,
        run_seconds=run_seconds,
        machine=to_dict(Machine.here(start_env().device, 1)),
        measure=judge.measures[0].key,
    )


def _tasks(
    kind: str,
    request: CompareConfig,
    candidates: list[Candidate],
    judge: Judge,
    seconds: float,
    rate: float,
    seed: int,
) -> list[Task]:
    """Give each candidate one run of so many seconds."""
    updates = _updates(request.equal, candidates, seconds)
    least = min(updates[c.name] * c.tokens_per_step for c in candidates)
    # All are scored on the same targets: a sample of each one's own would be noise between them.
    scored = min(judge.material.valid_targets, max(2048, int(SCORED * least)))
    tasks = []
    for c in candidates:
        train = replace(c.config.train, final_eval_tokens=scored)
        config = replace(c.config, seed=seed, train=train)
        if request.equal == "time":
            config = replace(config, budget=f"{seconds:.0f}s")
        else:
            config = replace(config, steps=updates[c.name])
        label = f"{rate:g}" if kind == "trials" else str(seed)
        name = f"{kind}/{c.name}-{label}"
        tasks.append(Task(name, c.name, rate, seed, config_to_dict(config)))
    return tasks


def _absolute(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Let the recipes be read from anywhere."""
    return tuple(str(Path(s).resolve()) if Path(s).exists() else s for s in sources)


# -- shapes ------------------------------------------------------------------------------------


def _shaped(request: CompareConfig, judge: Judge, tracker: Tracker) -> tuple[list[Candidate], str]:
    """Give every candidate its size, and measure it; also names the leader."""
    env = start_env()
    with tempfile.TemporaryDirectory() as scratch:
        choosers = {
            name: _chooser(name, request, judge, Path(scratch), env, tracker)
            for name in request.models
        }
        for chooser in choosers.values():
            check_custom(chooser.shaped("xs").model)
        of_lineage = [n for n, c in choosers.items() if not _is_own(c.config.model)]
        leader = (of_lineage or list(choosers))[-1]
        chooser = choosers[leader]
        leading = chooser.shaped(request.size or "xs")
        if not _is_own(leading.model):  # the size of a person's own model changes its window alone
            with _failures() as failed:
                leading = chooser.choose_size()
            if failed:
                raise NonFiniteError(
                    f"{leader}, which the others take their size from, cannot be trained:"
                    f" {failed[0]}",
                    f"Leave it out of --models, or name a size: --size {leading.size}",
                )
        shared = judge.shared(leading.model)
        parameters = chooser.parameters(leading)
        candidates = []
        for number, (name, chooser) in enumerate(choosers.items()):
            tracker.progress(f"measuring {name}", number, len(choosers))
            chooser.begun = time.monotonic()
            model = chooser.config.model
            model = replace(model, **{k: v for k, v in shared.items() if hasattr(model, k)})
            chooser.config = replace(chooser.config, model=model)
            shaped = chooser.shaped(leading.size)
            with _failures() as failed:
                if request.equal == "time" and not request.size:
                    shaped = chooser.choose_size()
                elif can_be_fitted(request.models[name], shaped.model):
                    shaped = replace(shaped, model=fitted(shaped.model, parameters))
            candidates.append(_measured(name, chooser, shaped, "".join(failed)))
        tracker.progress("measuring", len(choosers), len(choosers))
    if env.device.type == "cuda":
        torch.cuda.empty_cache()  # the runs, processes of their own, need it
    return candidates, leader


def _chooser(
    name: str,
    request: CompareConfig,
    judge: Judge,
    scratch: Path,
    env: Env,
    tracker: Tracker,
) -> Chooser:
    config = config_from_dict(
        {
            "task": request.task,
            "data": to_dict(request.data),
            "model": dict(request.models[name]),
            "size": request.size,
            "budget": request.budget,
            "train": to_dict(_rates_to_try(request, name)),
        },
        name,
    )
    return Chooser(config, judge.material, Run(scratch), env, tracker, time.monotonic())


def _rates_to_try(request: CompareConfig, name: str) -> TrainConfig:
    """The same for all of one optimiser: a rate that suits a model would be one more trial for it.

    Without trials each begins at its own, as `ensue train` does.
    """
    form = find_step(str(request.models[name]["name"]), request.task).form
    trials = len(request.rates) > 1
    return usual_rates(request.train, optimizer=form.optimizer) if trials else request.train


def _is_own(model: Any) -> bool:
    return isinstance(model, CustomConfig)


def can_be_fitted(table: Mapping[str, Any], model: Any) -> bool:
    """Whether a candidate's width is ours to choose: there, not given, not fixed by its class."""
    there = has_width(model) if _is_own(model) else getattr(model, "hidden", True)
    return "d_model" not in table and there


@contextlib.contextmanager
def _failures() -> Iterator[list[str]]:
    """Note why a candidate cannot be measured, in place of ending the comparison."""
    failed: list[str] = []
    try:
        yield failed
    except NonFiniteError as failure:
        failed.append(f"diverged while it was measured: {failure.what}")
    except (RuntimeError, MemoryError) as failure:  # torch has no class for memory that is out
        first = (str(failure) or type(failure).__name__).splitlines()[0]
        failed.append(f"failed while it was measured: {first}")


def _measured(name: str, chooser: Chooser, shaped: RunConfig[Any], error: str) -> Candidate:
    seconds = 0.0
    if not error:
        with _failures() as failed:
            shaped = chooser.choose_speed(shaped)
            quick = chooser.seconds_per_step(shaped, 2)
            seconds = chooser.seconds_per_step(shaped, max(3, min(30, int(2.0 / quick))))
        error = "".join(failed)
    asked = chooser.config
    return Candidate(
        name=name,
        # Left open for each run, which knows how often it will read the text, and score it.
        config=replace(
            shaped,
            model=replace(shaped.model, dropout=asked.model.dropout),
            train=replace(shaped.train, eval_every=asked.train.eval_every),
        ),
        seconds_per_step=seconds,
        flops_per_step=chooser.flops(shaped),
        parameters=chooser.parameters(shaped),
        tokens_per_step=chooser.material.targets_per_update(shaped),
        most_steps=chooser.most_steps(shaped),
        error=error,
    )


# -- lengths -----------------------------------------------------------------------------------


def _updates(equal: str, candidates: list[Candidate], seconds: float) -> dict[str, int]:
    """Give the updates of a run that may take so many seconds; at equal time: about how many.

    Raises:
        UsageError: Some candidate can make too few.
    """
    net = (seconds - START_SECONDS) / OVERHEAD
    for c in candidates:
        if net < LEAST_STEPS * c.seconds_per_step:
            least = START_SECONDS + OVERHEAD * LEAST_STEPS * c.seconds_per_step
            raise UsageError(
                f"the budget is too small for {c.name}: a trial or a run has {seconds:.0f} s, and"
                f" {LEAST_STEPS} updates take it {least:.0f} s with all around them",
                f"Give at least {least / seconds:.1f} times as much, fewer --rates, or a smaller"
                " --size.",
            )
    if equal == "time":
        return {c.name: int(min(net / c.seconds_per_step, c.most_steps)) for c in candidates}
    longest = max(c.most_steps for c in candidates)  # none is stopped while another still learns
    affords = {c.name: min(net / c.seconds_per_step, longest) for c in candidates}
    price = {
        c.name: c.tokens_per_step if equal == "params" else c.flops_per_step for c in candidates
    }
    least = min(affords[name] * price[name] for name in price)
    return {name: round(least / price[name]) for name in price}
