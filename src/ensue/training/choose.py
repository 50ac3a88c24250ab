"""Choose what the request leaves open, by measuring this machine for a few seconds.

Order: the shape for the budget, then threads, precision and compile, then the number of steps that
fits. Every choice is made from numbers that all processes share, so that all choose alike.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ensue.distributed.env import Env
from ensue.errors import UsageError
from ensue.models import step_of
from ensue.planning import build_empty, count_parameters, peak_flops, train_flops
from ensue.runs import Run
from ensue.tasks import Kind, find_kind
from ensue.tasks.task import Material
from ensue.training.budget import Budget, parse_budget
from ensue.training.config import SIZES, RunConfig, TrainConfig, config_to_dict
from ensue.training.loop import Loop
from ensue.training.optim import usual_rates
from ensue.training.plan import Machine, Plan
from ensue.training.tracking import Tracker

DEFAULT_BUDGET = "3min"
LEAST_STEPS = 20
"""Fewer updates than this train nothing worth keeping."""
ROWS_TOKENS = {"xs": 2048, "s": 4096, "m": 8192, "l": 16384}
"""Tokens of one update, by size."""
COMPILE_FROM_SECONDS = 1200.0
"""Compiling takes 20 to 60 s on two cores: measured only where a budget can pay that back."""
THREADS = torch.get_num_threads()
"""What torch took for this machine, before any run has set another number in this process."""
TUNING = 0.5
"""Of a model's usual rates, the share for weights that know something already (--from)."""
RESERVE = 0.06
"""Share of a time budget for evaluations, checkpoints and the final report."""


@dataclass
class Chooser:
    """The state of the choice: what is known so far.

    Args are the fields of the call to `choose`.
    """

    config: RunConfig[Any]
    material: Material
    run: Run
    env: Env
    tracker: Tracker
    begun: float
    asked: RunConfig[Any] | None = None

    def __post_init__(self) -> None:
        self.machine = Machine.here(self.env.device, self.env.world_size)
        self.budget = _budget(self.config)
        self.notes: list[str] = []
        self.dropout = 0.0
        self.peak_flops = peak_flops(self.env.device)

    def say(self, text: str) -> None:
        """Tell the tracker, and note it in the plan."""
        self.notes.append(text)
        self.tracker.notice(text)

    # -- shapes --------------------------------------------------------------------------------

    def shaped(self, size: str) -> RunConfig[Any]:
        """Fill in the model and the batch of one size."""
        model = step_of(self.config.model).filled(self.config.model, size)
        model = self.material.filled(model)
        if model.dropout < 0:
            model = replace(model, dropout=self.dropout)
        return replace(
            self.config, size=size, budget="", model=model, train=self._train(size, model)
        )

    def _train(self, size: str, model: Any) -> TrainConfig:
        train = self.config.train
        sized = self.material.sized(train, model, ROWS_TOKENS[size], self.env.world_size)
        form = step_of(model).form
        kind = find_kind(self.config.task)
        rate = form.rate * (TUNING if self.config.start else 1.0)
        return replace(
            usual_rates(sized, rate, form.optimizer, form.rest),
            adversarial=kind.adversarial * form.shifted
            if train.adversarial < 0
            else train.adversarial,
            # Of a budget the updates are not known yet; that there is an average costs time now.
            average=average_of(train, kind, self.config.steps or 1000),
            keep_by=kind.usually_kept_by if train.keep_by == "auto" else train.keep_by,
            threads=train.threads or THREADS,
            precision="fp32" if train.precision == "auto" else train.precision,
            compile="no" if train.compile == "auto" else train.compile,
            eval_every=train.eval_every or 1 << 40,
        )

    # -- measuring -----------------------------------------------------------------------------

    def seconds_per_step(self, config: RunConfig[Any], steps: int) -> float:
        """Time whole updates, the mean of all processes; the first, slower one is left out."""
        torch.set_num_threads(config.train.threads)
        torch.manual_seed(0)
        model = step_of(config.model).model(config.model).to(self.env.device)
        task = self.material.task(config, self.env.device)
        plan = self.plan(replace(config, steps=1 << 30))
        loop = Loop(plan, model, task, self.run, self.env, Tracker())
        loop.update()
        seconds = [_time(loop.update) for _ in range(steps)]
        # The mean, not the median: a run meets the machine's hiccups too.
        return self.env.sum([sum(seconds) / steps])[0] / self.env.world_size

    def left(self) -> float:
        """Seconds of the budget that are left, the same number in all processes."""
        spent = self.env.sum([time.monotonic() - self.begun])[0] / self.env.world_size
        return self.budget.seconds - spent

    # -- choices -------------------------------------------------------------------------------

    def choose_size(self) -> RunConfig[Any]:
        """Take the largest size that sees enough text for its weights within the budget.

        Of data that are read so many times at most, s is taken where there is time for that: after
        ten readings of 500 questions of TREC-6 it tells 69 % right, xs 64 %.
        """
        if self.config.size or not self.budget.seconds:
            return self.shaped(self.config.size or self._size_for_flops())
        chosen, ratio = self.shaped("xs"), find_kind(self.config.task).targets_per_parameter
        for size in SIZES[2:]:
            config = self.shaped(size)
            enough = ratio * self.parameters(config)
            if size == "s":
                enough = min(enough, self._seen(config, 0.0))
            if self._seen(config, self.least_seconds(config)) < enough:
                break  # not even at this machine's peak: not worth a measurement
            if self._seen(config, self.seconds_per_step(config, 2)) < enough:
                break
            chosen = config
        return chosen

    def _seen(self, config: RunConfig[Any], seconds: float) -> float:
        """Give the targets that a run sees whose updates take so long; 0: no time at all."""
        updates: float = self.most_steps(config)
        if seconds:
            updates = min(updates, self.left() / seconds)
        return self.material.targets_per_update(config) * updates

    def least_seconds(self, config: RunConfig[Any]) -> float:
        """Give the time of an update at the machine's peak: no measurement takes less."""
        return self.flops(config) / (self.peak_flops * self.env.world_size)

    def _size_for_flops(self) -> str:
        return "s"

    def choose_speed(self, config: RunConfig[Any]) -> RunConfig[Any]:
        """Take the fastest of the threads, precisions and compile modes left open."""
        asked = self.config.train
        options: list[dict[str, Any]] = []
        if asked.precision == "auto":
            options.append({"precision": "bf16"})
        if not asked.threads and THREADS > 1 and self.env.device.type == "cpu":
            options.append({"threads": THREADS // 2})
        # Where updates differ in shape (pairs), each shape would be compiled anew.
        one_shape = len(set(self.material.shapes(config))) == 1
        compiling = asked.compile == "auto" and one_shape and self.left() > COMPILE_FROM_SECONDS
        if not options and not compiling:
            return config
        best = self.seconds_per_step(config, 3)
        for option in options:
            other = replace(config, train=replace(config.train, **option))
            seconds = self.seconds_per_step(other, 3)
            if seconds < 0.97 * best:  # less is noise
                config, best = other, seconds
        return self._compiled(config, best) if compiling else config

    def _compiled(self, config: RunConfig[Any], best: float) -> RunConfig[Any]:
        """Compile the blocks where what it gains within the budget is more than it costs."""
        other = replace(config, train=replace(config.train, compile="yes"))
        left = self.left()
        try:
            seconds = self.seconds_per_step(other, 3)
        except RuntimeError as error:  # no C++ compiler, or one that fails
            self.say(f"not compiled: {str(error).splitlines()[0][:120]}")
            return config
        cost = left - self.left()
        return other if self.left() * (1 - seconds / best) > cost else config

    def parameters(self, config: RunConfig[Any]) -> int:
        """Count the weights of a shape."""
        return count_parameters(build_empty(step_of(config.model).model, config.model))

    def choose_steps(self, config: RunConfig[Any]) -> tuple[RunConfig[Any], float]:
        """Fit the number of updates to the budget; also gives the measured seconds of one."""
        if self.config.steps:
            return config, 0.0
        if self.budget.flops:
            steps = int(self.budget.flops / self.flops(config))
            if steps < LEAST_STEPS:
                least = LEAST_STEPS * self.flops(config)
                raise UsageError(
                    f"the budget {self.config.budget} pays for {steps} updates;"
                    f" {LEAST_STEPS} are the least",
                    f"Give at least --budget {least:.1e}flop, or a smaller --size.",
                )
            return replace(config, steps=steps), 0.0
        # A fiftieth of the budget for the number that decides on all of it.
        quick = self.seconds_per_step(config, 2)
        count = max(3, min(50, int(0.02 * self.left() / quick)))
        seconds = self.seconds_per_step(config, count)
        steps = int(self.left() * (1 - RESERVE) / seconds)
        if steps < LEAST_STEPS:
            self._refuse(seconds, "")
        return replace(config, steps=min(steps, self.most_steps(config))), seconds

    def most_steps(self, config: RunConfig[Any]) -> int:
        """Give the updates after which a model learns no more of these data."""
        readings = _readings(config)
        if not readings:
            return 1 << 60
        rows = self.material.train_targets / self.material.targets_per_update(config)
        return max(LEAST_STEPS, round(readings * rows))

    def check_possible(self, config: RunConfig[Any]) -> None:
        """Refuse at once what cannot fit even at the machine's peak."""
        seconds = self.least_seconds(config)
        # Eight times: beside other work the peak is measured as several times less than it is.
        if self.budget.seconds and 8 * self.left() < LEAST_STEPS * seconds:
            self._refuse(seconds, "at least ")

    def _refuse(self, seconds: float, how: str) -> None:
        spent = self.budget.seconds - self.left()
        need = math.ceil((spent + LEAST_STEPS * seconds) / (1 - RESERVE) + 1)
        raise UsageError(
            f"the budget {self.config.budget or DEFAULT_BUDGET} is too small to train this model:"
            f" reading and measuring took {spent:.1f} s, an update takes {how}{seconds:.2g} s,"
            f" and {LEAST_STEPS} updates are the least",
            f"Give at least --budget {need}s"
            + ("." if self.config.size == "xs" else ", or a smaller --size."),
        )

    def choose_dropout(self, config: RunConfig[Any]) -> RunConfig[Any]:
        """Drop a tenth where the text will be read many times."""
        targets = self.material.targets_per_update(config) * config.steps
        epochs = targets / self.material.train_targets
        if self.config.model.dropout >= 0 or epochs < DROPOUT_FROM_EPOCHS:
            return config
        self.say(f"the data will be read about {epochs:.0f} times: dropout 0.1")
        return replace(config, model=replace(config.model, dropout=0.1))

    def flops(self, config: RunConfig[Any]) -> float:
        """Give the operations of an update, by the model's formula."""
        model: Any = build_empty(step_of(config.model).model, config.model)
        shapes = self.material.shapes(config)
        return sum(train_flops(model, *shape) for shape in shapes) / len(shapes)

    def finish(self, config: RunConfig[Any], seconds: float) -> RunConfig[Any]:
        """Fit warm-up, evaluations and checkpoints to the number of steps."""
        train, steps = config.train, config.steps
        every = round(30 / seconds) if seconds else steps // 4
        targets = int(self.material.targets_per_update(config) * steps)
        return replace(
            config,
            checkpoint_every=config.checkpoint_every or max(1, every),
            train=replace(
                train,
                average=average_of(self.config.train, find_kind(config.task), steps),
                warmup_steps=self.config.train.warmup_steps or min(200, steps // 20),
                eval_every=self.config.train.eval_every or max(1, steps // 8),
                # A forward pass costs a third of a step: eight of these, 3 % of the budget.
                eval_tokens=self.config.train.eval_tokens or max(2048, targets // 90),
            ),
        )

    def plan(self, config: RunConfig[Any], seconds: float = 0.0) -> Plan:
        """Put the choices into a plan."""
        targets = int(self.material.targets_per_update(config) * config.steps)
        most = config.train.final_eval_tokens or max(2 * config.train.eval_tokens, targets // 8)
        ends_early = config.steps == self.most_steps(config)
        return Plan(
            request=config_to_dict(self.asked or self.config),
            config=config,
            corpus=self.material.fingerprint,
            valid_text=self.material.valid_text,
            parameters=self.parameters(config),
            flops_per_step=self.flops(config),
            seconds_per_step=seconds,
            budget_seconds=self.budget.seconds,
            fit_every=max(1, config.steps // 8) if self.budget.seconds and not ends_early else 0,
            final_eval_tokens=min(most, self.material.valid_targets),
            machine=self.machine,
            notes=(*self.material.notes, *self.notes),
        )


DROPOUT_FROM_EPOCHS = 14.0
"""Tiny Shakespeare, 9 epochs in three minutes: 2.12 bits per byte without, 2.16 with a tenth."""


def choose(
    config: RunConfig[Any],
    material: Material,
    run: Run,
    env: Env,
    tracker: Tracker,
    begun: float,
    asked: RunConfig[Any] | None = None,
) -> Plan:
    """Turn a request into a plan.

    Args:
        config: The request; of a run that begins with another's weights, its shape is filled in.
        material: What it is to learn from.
        run: The run folder; nothing is written to it here.
        env: This process.
        tracker: Hears what was chosen.
        begun: `time.monotonic` at the start of the command, from which a time budget counts.
        asked: The request as it was given; None: the same.

    Raises:
        UsageError: The budget is too small to train anything.
    """
    chooser = Chooser(config, material, run, env, tracker, begun, asked)
    tracker.progress("measuring this machine", 0, 0)
    shaped = chooser.choose_size()
    chooser.check_possible(shaped)
    shaped = chooser.choose_speed(shaped)
    shaped, seconds = chooser.choose_steps(shaped)
    dropped = chooser.choose_dropout(shaped)
    if dropped is not shaped:
        shaped, seconds = chooser.choose_steps(dropped)
    if shaped.steps == chooser.most_steps(shaped):
        times = f"{_readings(shaped):g} times"
        chooser.say(f"the data are read {times}, less than the budget has time for")
    final = chooser.finish(shaped, seconds)
    return chooser.plan(final, seconds)


def average_of(train: TrainConfig, kind: Kind, steps: int) -> float:
    """Give the decay of averaged weights: what is asked for, or what is usual in so many updates.

    Of 766 to 1,401 updates a mean over the last hundred gained an LSTM 1.1 points and CNNs 0.1 and
    0.4 (docs/experiments.md).
    """
    if train.average >= 0:
        return train.average
    return max(0.0, 1 - 1 / (kind.averaged * steps)) if kind.averaged else 0.0


def _readings(config: RunConfig[Any]) -> float:
    """Give how often a model reads the data of its task at most; 0: as often as there is time."""
    return find_kind(config.task).epochs * step_of(config.model).form.readings


def _budget(config: RunConfig[Any]) -> Budget:
    if config.steps:
        return Budget()
    return parse_budget(config.budget or DEFAULT_BUDGET)


def _time(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
