"""Before anything runs: the same number of weights, and what the slowest candidate can afford.

What is equal:

- *params*: every candidate has as many weights as the last was given by its size (within 2 %) and
  sees as many tokens; the slowest sets how many.
- *flops*: the same weights; every run gets as many operations, by each model's formula.
- *time*: every candidate chooses its own size, as `ensue train` does, and every run gets as long.

All predict within windows of one length, since the score depends on it. Of each candidate's budget
(one run's, times the seeds) a fifth goes to its learning-rate trials, shared equally by them.
"""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ensue.comparison.request import CompareConfig
from ensue.config import to_dict
from ensue.data.corpus import Corpus
from ensue.distributed.env import start_env
from ensue.errors import NonFiniteError, UsageError
from ensue.models import step_of
from ensue.models.custom import CustomConfig, has_width
from ensue.planning import build_empty, fitted
from ensue.runs import Run
from ensue.testing import check_laws
from ensue.tokenizers import Tokenizer
from ensue.training.budget import parse_budget
from ensue.training.choose import DROPOUT_FROM_EPOCHS, LEAST_STEPS, Chooser
from ensue.training.config import RunConfig, config_from_dict, config_to_dict
from ensue.training.plan import Machine
from ensue.training.tracking import Tracker

TRIALS_SHARE = 0.2
"""Of a candidate's whole budget, for finding its learning rate."""
START_SECONDS = 5.0
"""What a run takes beside its updates: starting Python and torch, the report."""
OVERHEAD = 1.12
"""A run's time in all over the time of its updates: evaluations, checkpoints."""
UNEQUAL = 0.02
"""Weights may differ by so much before the table says that they do."""


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
    error: str = ""
    """Why it could not be measured."""

    @property
    def tokens_per_step(self) -> int:
        """Targets of one update."""
        return self.config.train.global_batch_size * self.config.model.context_length


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
    protocol: tuple[str, ...]
    """What is equal, and how it was measured, in sentences."""
    unfair: tuple[str, ...]
    """What is not, and why."""
    machine: dict[str, Any]
    """Where the speeds were measured."""

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return to_dict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ComparisonPlan":
        """Read what `to_json` gave."""
        tasks = tuple(Task(**task) for task in values["tasks"])
        tuples = {key: tuple(values[key]) for key in ("candidates", "protocol", "unfair")}
        return cls(**{**values, **tuples, "tasks": tasks})


def make_plan(
    request: CompareConfig, corpus: Corpus, tokenizer: Tokenizer, folder: Path, tracker: Tracker
) -> ComparisonPlan:
    """Shape the candidates, check that each can run, and share out the budget.

    Args:
        request: What is compared.
        corpus: The tokenised text.
        tokenizer: Its tokenizer, which lies in `folder`.
        folder: Of the comparison.
        tracker: Hears how it goes.

    Raises:
        UsageError: The budget is too small for a candidate.
        LawError: A person's own model breaks a law of decoders.
        NonFiniteError: No candidate can be trained at all.
    """
    data = replace(request.data, tokenizer=str(folder.resolve() / "tokenizer.json"))
    data = replace(data, sources=_absolute(data.sources), valid=_absolute(data.valid))
    shaped = _shaped(replace(request, data=data), corpus, tokenizer, tracker)
    candidates = [c for c in shaped if not c.error]
    if not candidates:
        raise NonFiniteError(
            "every candidate diverged while it was measured: "
            + "; ".join(f"{c.name}: {c.error}" for c in shaped),
            f"Try a lower learning rate: --train.lr {shaped[0].config.train.lr / 10:g}",
        )
    seconds = parse_budget(request.budget).seconds
    share = TRIALS_SHARE if len(request.rates) > 1 else 0.0
    run_share = 1 - share
    trial_share = share * request.seeds / len(request.rates)
    tasks = []
    for kind, part in (("trials", trial_share), ("runs", run_share)):
        if not part:
            continue
        lengths = _lengths(request.equal, candidates, seconds * part)
        choices = [(r, 0) for r in request.rates]
        if kind == "runs":
            rate = 0.0 if share else request.rates[0]
            choices = [(rate, seed) for seed in range(request.seeds)]
        for rate, seed in choices:
            for candidate in candidates:
                label = f"{rate:g}" if kind == "trials" else str(seed)
                config = replace(candidate.config, seed=seed, **lengths[candidate.name])
                values = config_to_dict(config)
                tasks.append(
                    Task(f"{kind}/{candidate.name}-{label}", candidate.name, rate, seed, values)
                )
    here = Machine.here(start_env().device, 1)
    return ComparisonPlan(
        request=request.to_json(),
        corpus=corpus.fingerprint,
        data={
            "sources": list(request.data.sources),
            "valid": list(request.data.valid),
            "test": list(request.test),
            "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} entries",
            "train_bytes": corpus.train.num_bytes,
            "valid_bytes": corpus.valid.num_bytes,
        },
        tasks=tuple(tasks),
        candidates=tuple(c.name for c in shaped),
        parameters={c.name: c.parameters for c in shaped},
        failed={c.name: c.error for c in shaped if c.error},
        protocol=_protocol(request, candidates, seconds, share),
        unfair=_unfair(request, candidates),
        machine=to_dict(here),
    )


def _absolute(sources: tuple[str, ...]) -> tuple[str, ...]:
    """Let the recipes be read from anywhere."""
    return tuple(str(Path(s).resolve()) if Path(s).exists() else s for s in sources)


# -- shapes ------------------------------------------------------------------------------------


def _shaped(
    request: CompareConfig, corpus: Corpus, tokenizer: Tokenizer, tracker: Tracker
) -> list[Candidate]:
    """Give every candidate its size, and measure it.

    The last that was named sets the size, the window and the number of weights.
    """
    env = start_env()
    with tempfile.TemporaryDirectory() as scratch:
        choosers = {}
        for name, table in request.models.items():
            config = config_from_dict(
                {
                    "data": to_dict(request.data),
                    "model": dict(table),
                    "size": request.size,
                    "budget": request.budget,
                    "train": to_dict(request.train),
                },
                name,
            )
            begun = time.monotonic()
            choosers[name] = Chooser(
                config, corpus, tokenizer, Run(Path(scratch)), env, tracker, begun
            )
        *_, leader = choosers.values()
        leading = leader.choose_size()
        context_length = leading.model.context_length
        parameters = leader.parameters(leading)
        candidates = []
        for number, (name, chooser) in enumerate(choosers.items()):
            tracker.progress(f"measuring {name}", number, len(choosers))
            chooser.begun = time.monotonic()
            model = replace(chooser.config.model, context_length=context_length)
            chooser.config = replace(chooser.config, model=model)
            if request.equal == "time" and not request.size:
                shaped = chooser.choose_size()
            else:
                shaped = chooser.shaped(leading.size)
                if _can_be_fitted(shaped.model):
                    shaped = replace(shaped, model=fitted(shaped.model, parameters))
            if isinstance(shaped.model, CustomConfig):
                check_laws(step_of(shaped.model).model(shaped.model))
            candidates.append(_measured(name, chooser, shaped))
        tracker.progress("measuring", len(choosers), len(choosers))
    return candidates


def _can_be_fitted(model: Any) -> bool:
    return not isinstance(model, CustomConfig) or has_width(model)


def _measured(name: str, chooser: Chooser, shaped: RunConfig[Any]) -> Candidate:
    seconds, error = 0.0, ""
    try:
        shaped = chooser.choose_speed(shaped)
        quick = chooser.seconds_per_step(shaped, 2)
        seconds = chooser.seconds_per_step(shaped, max(3, min(30, int(2.0 / quick))))
    except NonFiniteError as failure:
        error = f"diverged while it was measured: {failure.what}"
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
        error=error,
    )


# -- lengths -----------------------------------------------------------------------------------


def _lengths(equal: str, candidates: list[Candidate], seconds: float) -> dict[str, dict[str, Any]]:
    """Share out: give what bounds a run of each candidate that may take so many seconds."""
    net = {c.name: (seconds - START_SECONDS) / OVERHEAD for c in candidates}
    for c in candidates:
        if net[c.name] < LEAST_STEPS * c.seconds_per_step:
            least = START_SECONDS + OVERHEAD * LEAST_STEPS * c.seconds_per_step
            raise UsageError(
                f"the budget is too small for {c.name}: a trial or a run has {seconds:.0f} s, and"
                f" {LEAST_STEPS} updates take it {least:.0f} s with all around them",
                f"Give at least {least / seconds:.1f} times as much, fewer --rates, or a smaller"
                " --size.",
            )
    if equal == "time":
        return {c.name: {"budget": f"{seconds:.0f}s"} for c in candidates}
    if equal == "params":
        tokens = min(net[c.name] / c.seconds_per_step * c.tokens_per_step for c in candidates)
        return {c.name: {"steps": round(tokens / c.tokens_per_step)} for c in candidates}
    flops = min(net[c.name] / c.seconds_per_step * c.flops_per_step for c in candidates)
    return {c.name: {"steps": round(flops / c.flops_per_step)} for c in candidates}


# -- words -------------------------------------------------------------------------------------


def _protocol(
    request: CompareConfig, candidates: list[Candidate], seconds: float, share: float
) -> tuple[str, ...]:
    equal = {
        "params": "Equal: weights (within 2 %) and tokens seen. The slowest candidate sets how"
        f" many tokens: its runs take about {seconds * (1 - share):.0f} s.",
        "flops": "Equal: weights (within 2 %) and the operations of training, by each model's"
        " formula (matrix products, convolutions, attention; no look-ups). The slowest candidate"
        f" sets how many: its runs take about {seconds * (1 - share):.0f} s.",
        "time": f"Equal: wall clock, {seconds * (1 - share):.0f} s a run from the start of its"
        " process. Each candidate chooses its own size for it, unless one was given.",
    }[request.equal]
    config = candidates[-1].config
    factors = ", ".join(f"{r:g}" for r in request.rates)
    trials = (
        f"Of each candidate's budget {share:.0%} went to {len(request.rates)} trials of its"
        f" learning rates (factors {factors} on the defaults), each as long as the others, seed 0;"
        " the best on valid was taken."
        if share
        else f"No learning rates were tried: the defaults, times {factors}."
    )
    return (
        equal,
        trials,
        f"Updates of {candidates[-1].tokens_per_step:,} tokens, windows of"
        f" {config.model.context_length}, {config.train.optimizer},"
        f" {config.train.schedule} decay; one tokenizer for all.",
        f"Seeds: {request.seeds}; they change first weights, order of the data and dropout. ±: the"
        " sample standard deviation over them.",
        "Bits per byte: non-overlapping windows, every byte scored once, what the tokenizer cannot"
        " spell charged 8 bits. The winner was chosen on valid.",
        f"Dropout is 0.1 for a run that reads the text {DROPOUT_FROM_EPOCHS:.0f} times or more.",
    )


def _unfair(request: CompareConfig, candidates: list[Candidate]) -> tuple[str, ...]:
    lines = []
    if request.equal != "time":
        goal = candidates[-1].parameters
        for c in candidates:
            if abs(c.parameters / goal - 1) > UNEQUAL:
                lines.append(
                    f"{c.name} has {c.parameters:,} weights, {c.parameters / goal - 1:+.0%} of the"
                    f" {goal:,} of {candidates[-1].name}: its width cannot be changed."
                )
    for c in candidates:
        model: Any = build_empty(step_of(c.config.model).model, c.config.model)
        if not hasattr(model, "train_flops"):
            lines.append(
                f"{c.name} has no formula for its operations: 6 for each weight and token is taken."
            )
    threads = {c.config.train.threads for c in candidates}
    if len(threads) > 1:
        lines.append("Threads differ: each candidate has the number that is fastest for it.")
    return tuple(lines)
