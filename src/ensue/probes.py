"""Probes: small made-up tasks that show what an architecture can do, whatever text it was given.

`recall` trains fresh models of each architecture, all of one size, to name a symbol that was seen k
tokens ago (`ensue.tasks.recall`), and measures for which k they can.

All candidates get the same rows, the same number of updates and the same three learning rates: the
first seed is trained at each of them, and the rate with the lowest loss on validation rows serves
the other seeds too. A seed that diverges at that rate is left out, which is said. Accuracy is
measured on rows that none of this has seen.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ensue import __version__
from ensue.data import DataConfig
from ensue.distributed.env import Env
from ensue.errors import NonFiniteError, StoppedError, UsageError
from ensue.inspection import reach_of
from ensue.models import step_of
from ensue.models.custom import CustomConfig, has_width
from ensue.planning import build_empty, count_parameters, fitted
from ensue.runs import Run
from ensue.tasks.recall import CHANCE, LAGS, TEST_ROWS, VOCAB_SIZE, Recall, recall_by_lag
from ensue.threads import torch_threads
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.loop import Loop
from ensue.training.optim import usual_rates
from ensue.training.plan import Machine, Plan
from ensue.training.tracking import Tracker
from ensue.views.looks import write_recall
from ensue.views.text import duration

PARAMETERS = 57_000
"""Weights of each candidate: widths of whole heads come within 2 % of it in sizes xs and s."""
UNEQUAL = 0.02
"""Candidates whose weights are further from that, as a share, are named."""
RATES = (0.3, 1.0, 3.0)
"""Learning rates tried, as multiples of the usual ones."""
ROWS = 32
"""Rows of an update: 340 updates of 32 teach more than 170 of 64 (a CNN 1.00 at lag 96, 0.27)."""
LEAST_STEPS = 100
"""Fewer updates than this leave every model at chance."""
HELD = 0.9
"""What is recalled as often as this is remembered: a simple RNN fades slowly, and half way between
a guess and all (0.56) it still stood at the longest lag."""
RESERVE = 0.15
"""Share of a time budget for scores and checkpoints."""
TIMED = 8
"""Updates that are timed; all candidates are timed on the same rows."""
_HERE = Env(rank=0, world_size=1, device=torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """What one architecture recalls."""

    name: str
    """As given."""
    parameters: int
    """Weights of its model."""
    reach: int | None
    """Tokens that a prediction can depend on; None: all that came before."""
    rate: float
    """The one of `RATES` that was chosen."""
    seconds: float
    """Training, all seeds and rates."""
    accuracy: tuple[tuple[float, ...], ...]
    """Share of symbols named rightly, for each seed and lag."""
    diverged: tuple[int, ...] = ()
    """Seeds that are not in `accuracy`: the loss was no longer a number."""

    @property
    def by_lag(self) -> list[tuple[float, float, float]]:
        """Mean, lowest and highest accuracy over the seeds, for each lag."""
        columns = list(zip(*self.accuracy, strict=True))
        return [(sum(c) / len(c), min(c), max(c)) for c in columns]


@dataclass(frozen=True, kw_only=True)
class RecallResult:
    """What several architectures recall, at equal size and training."""

    lags: tuple[int, ...]
    """Tokens between the symbol and the query, the latter included."""
    steps: int
    """Updates of each model, of `ROWS` rows."""
    models: tuple[Recalled, ...]
    """In the order given."""

    def falls_at(self, accuracy: Sequence[float]) -> int | None:
        """Give the first lag at which recall is less than nine in ten."""
        return _falls_at(self.lags, accuracy)

    def to_json(self) -> dict[str, Any]:
        """Give plain values; ``falls_at`` is null where recall holds at every lag."""
        return {
            "lags": list(self.lags),
            "chance": CHANCE,
            "held": HELD,
            "steps": self.steps,
            "rows_per_step": ROWS,
            "test_rows": TEST_ROWS,
            "rates": list(RATES),
            "models": [
                {
                    "name": m.name,
                    "parameters": m.parameters,
                    "reach": m.reach,
                    "rate": m.rate,
                    "seconds": m.seconds,
                    "accuracy": [list(seed) for seed in m.accuracy],
                    "mean": [mean for mean, _, _ in m.by_lag],
                    "low": [low for _, low, _ in m.by_lag],
                    "high": [high for _, _, high in m.by_lag],
                    "falls_at": [self.falls_at(seed) for seed in m.accuracy],
                    "diverged": list(m.diverged),
                }
                for m in self.models
            ],
        }

    def save(self, folder: Path | str) -> list[Path]:
        """Write recall.html, .svg, .csv and, where matplotlib is installed, .png."""
        return write_recall(Path(folder), self.to_json(), __version__)


def _falls_at(lags: Sequence[int], accuracy: Sequence[float]) -> int | None:
    below = (lag for lag, share in zip(lags, accuracy, strict=True) if share < HELD)
    return next(below, None)


def recall(
    configs: Mapping[str, Any],
    *,
    seeds: int = 3,
    budget_seconds: float = 30.0,
    steps: int = 0,
    lags: Sequence[int] = (),
    parameters: int = PARAMETERS,
    tracker: Tracker | None = None,
) -> RecallResult:
    """Measure how well architectures recall a symbol by how long ago they saw it.

    Args:
        configs: Model configs by name; vocabulary, dropout and width are set here.
        seeds: Models of each that are scored.
        budget_seconds: Time for each seed of each model, its share of the learning-rate trials
            included; the whole takes models x seeds times as long.
        steps: Updates of each training, instead of a time; 0: as many as the time allows.
        lags: Where recall is measured, ascending; training goes up to the last. Empty: up to 512.
        parameters: Weights of each model; of a person's own class that takes no ``d_model``, and so
            cannot be made wider, as many as it has.
        tracker: Hears how it goes.

    Raises:
        UsageError: Nothing to probe, or seeds, steps, lags or a budget that cannot be.
        NonFiniteError: A model diverges at every learning rate.
        StoppedError: Interrupted; nothing is kept.
    """
    if not configs:
        raise UsageError("no model to probe", "Name runs: ensue inspect RUN ... --probe recall")
    if seeds < 1:
        raise UsageError(f"seeds is {seeds}; it must be at least 1", "For instance: --seeds 3")
    if steps < 0:
        raise UsageError(f"steps is {steps}; it must be at least 1", "Or 0: a time, --budget 30s")
    if any(before >= lag for before, lag in pairwise((0, *lags))):
        raise UsageError(
            f"lags are {', '.join(map(str, lags))}; they must be at least 1 and ascend",
            "For instance: lags=(1, 2, 4, 8, 16)",
        )
    tracker = tracker or Tracker()
    shapes = {name: _shape(config, parameters) for name, config in configs.items()}
    for name, config in shapes.items():
        _tell_of_another_size(name, config, parameters, tracker)
    if not steps:
        tracker.notice(
            f"the probe takes about {duration(len(shapes) * seeds * budget_seconds)}:"
            f" {duration(budget_seconds)} for each seed ({seeds}) of each model ({len(shapes)})"
        )
    # Up to 256 two of three RNNs recall all that an LSTM does. Up to 512 updates take 1.5 times as
    # long, and with as many fewer of them RNNs fall at lags 24 to 48, LSTMs at none.
    lags = tuple(lags) or LAGS
    # On one core: models this small gain nothing from two, and lose where one is busy.
    with torch_threads(1):
        return _recall(shapes, seeds, budget_seconds, steps, lags, tracker)


def _recall(
    shapes: Mapping[str, Any],
    seeds: int,
    budget_seconds: float,
    steps: int,
    lags: tuple[int, ...],
    tracker: Tracker,
) -> RecallResult:
    each = len(RATES) + seeds - 1  # trainings of one candidate: the first seed at every rate
    if not steps:
        spent = _seconds_per_step(list(shapes.values()), lags) * each / (len(shapes) * seeds)
        steps = int((1 - RESERVE) * budget_seconds / spent)
        if steps < LEAST_STEPS:
            raise UsageError(
                f"the budget pays for {steps} updates of each model; {LEAST_STEPS} are the least",
                f"Give at least --budget {math.ceil(LEAST_STEPS * spent / (1 - RESERVE))}s",
            )
    progress = _Progress(tracker, len(shapes) * each * steps)
    found = [_probe(name, c, seeds, steps, lags, progress) for name, c in shapes.items()]
    return RecallResult(lags=lags, steps=steps, models=tuple(found))


def _shape(config: Any, parameters: int) -> Any:
    """Give the same architecture for the probe's vocabulary and size."""
    filled = replace(step_of(config).filled(config, "xs"), vocab_size=VOCAB_SIZE, dropout=0.0)
    if isinstance(filled, CustomConfig) and not has_width(filled):
        return filled
    return fitted(filled, parameters)


def _tell_of_another_size(name: str, config: Any, parameters: int, tracker: Tracker) -> None:
    has = count_parameters(build_empty(step_of(config).model, config))
    if abs(has - parameters) > UNEQUAL * parameters:
        fixed = isinstance(config, CustomConfig) and not has_width(config)
        why = "its class takes no d_model" if fixed else "no width comes nearer"
        tracker.notice(f"{name}: {has:,} parameters instead of {parameters:,}: {why}")


def _probe(
    name: str, config: Any, seeds: int, steps: int, lags: Sequence[int], progress: "_Progress"
) -> Recalled:
    begun = time.monotonic()
    trials = [_train(config, 0, rate, steps, lags, progress) for rate in RATES]
    best = min(trials, key=lambda trial: trial.loss)
    if not math.isfinite(best.loss):
        raise NonFiniteError(
            f"{name} diverges at every learning rate that was tried",
            "Probe the others without it.",
        )
    others = [_train(config, seed, best.rate, steps, lags, progress) for seed in range(1, seeds)]
    kept = [trial for trial in (best, *others) if math.isfinite(trial.loss)]
    diverged = tuple(s for s, trial in enumerate(others, 1) if not math.isfinite(trial.loss))
    recalled = Recalled(
        name=name,
        parameters=count_parameters(best.model),
        reach=reach_of(best.model),
        rate=best.rate,
        seconds=time.monotonic() - begun,
        accuracy=tuple(recall_by_lag(trial.model, lags) for trial in kept),
        diverged=diverged,
    )
    if diverged:
        which = ", ".join(map(str, diverged))
        progress.outer.notice(
            f"{name}: {len(diverged)} of {seeds} seeds diverged and are left out ({which})"
        )
    ends = [_falls_at(lags, seed) for seed in recalled.accuracy]
    words = [f"at lag {lag}" if lag else f"beyond lag {lags[-1]}" for lag in ends]
    progress.outer.notice(f"{name}: recall falls {', '.join(dict.fromkeys(words))}")
    return recalled


@dataclass(frozen=True)
class _Trial:
    """One trained model."""

    rate: float
    loss: float  # on validation rows; infinite where training diverged
    model: Any


def _train(
    config: Any, seed: int, rate: float, steps: int, lags: Sequence[int], progress: "_Progress"
) -> _Trial:
    with _loop(config, seed, rate, steps, lags, progress) as loop:
        try:
            result = loop.fit()
        except NonFiniteError:
            progress.skip(steps - loop.done)
            return _Trial(rate, math.inf, loop.model)
        except StoppedError as error:
            raise StoppedError(
                "the probe was stopped; nothing of it is kept", "A smaller one: --budget 10s"
            ) from error
    loop.model.load_state_dict(result.weights)
    return _Trial(rate, result.score.loss, loop.model)


@contextlib.contextmanager
def _loop(
    config: Any, seed: int, rate: float, steps: int, lags: Sequence[int], tracker: Tracker
) -> Iterator[Loop]:
    """Make the training loop of one model, with a run folder that goes when it is done."""
    train = TrainConfig(
        global_batch_size=ROWS,
        warmup_steps=steps // 20,
        eval_every=max(1, steps // 2),
        precision="fp32",
        compile="no",
    )
    train = usual_rates(train, rate)
    torch.manual_seed(seed)
    model = step_of(config).model(config)
    run_config: RunConfig[Any] = RunConfig(
        data=DataConfig(sources=()),
        model=config,
        steps=steps,
        seed=seed,
        checkpoint_every=steps,
        train=train,
    )
    plan = Plan(
        request={},
        config=run_config,
        corpus="",
        valid_text="",
        parameters=count_parameters(model),
        flops_per_step=0.0,
        seconds_per_step=0.0,
        final_eval_tokens=0,
        machine=Machine.here(_HERE.device, _HERE.world_size),
    )
    with tempfile.TemporaryDirectory() as folder:
        task = Recall(max(lags), seed, ROWS)
        yield Loop(plan, model, task, Run.create(folder), _HERE, tracker)


def _seconds_per_step(shapes: Sequence[Any], lags: Sequence[int]) -> float:
    """Time an update of each model, on the same rows, and give the sum."""
    spent = 0.0
    for config in shapes:
        with _loop(config, 0, 1.0, TIMED + 1, lags, Tracker()) as loop:
            loop.update()  # the first one is slower
            begun = time.perf_counter()
            for _ in range(TIMED):
                loop.update()
            spent += (time.perf_counter() - begun) / TIMED
    return spent


class _Progress(Tracker):
    """Tells of all trainings as of one piece of work, in hundredths."""

    def __init__(self, outer: Tracker, total: int) -> None:
        self.outer = outer
        self.total = total
        self.done = 0

    def step(self, record: dict[str, Any]) -> None:
        """Count an update."""
        self.skip(1)

    def skip(self, steps: int) -> None:
        """Count updates that will not be made."""
        self.done += steps
        self.outer.progress("recall probe", self.done * 100 // self.total, 100)
