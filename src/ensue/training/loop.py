"""The one training loop.

A loss is a sum and a count. The loop gathers the micro-batches of an update, adds their counts over
all processes, and divides once by the global count; so two processes equal one, and accumulation
equals the big batch. After a kill the newest checkpoint and the same plan give the same bits.
"""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ensue.distributed.env import Env
from ensue.distributed.shard import (
    clip_gradients,
    compile_blocks,
    last_micro_batch,
    replicate,
    settle,
    shard,
    whole,
)
from ensue.errors import NonFiniteError, StoppedError
from ensue.files import write_json
from ensue.memory import Heap, peak_bytes
from ensue.nn.precision import precision
from ensue.runs import Run
from ensue.tasks.task import Score, Task
from ensue.training.checkpoint import load_tensors, newest_checkpoint, prune, save_checkpoint
from ensue.training.optim import Optimizer
from ensue.training.plan import Plan
from ensue.training.schedule import lr_share
from ensue.training.tracking import Tracker

KEEP = 2
"""Checkpoints kept: the newest, and the one before should the newest be damaged."""


END_SECONDS = 2.0
"""What a time budget keeps for the weights, the samples and the report of a finished run."""


@dataclass(frozen=True)
class Result:
    """What a finished run gives."""

    score: Score
    """Of the weights kept, on the validation split."""
    weights: dict[str, Tensor]
    """Whole and on the CPU, one name per tied tensor."""
    kept: str
    """Which they are: last, best or averaged."""
    step: int
    """Updates that they have seen."""


class LossOf(nn.Module):
    """Task and model as one module: what DDP wraps, so that the head is inside too."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        """Give the summed loss of a batch."""
        return self.task.loss(self.model, batch).total


class Loop:
    """One run from its first missing step to its end.

    Args:
        plan: The frozen plan.
        model: With its first weights, drawn from the seed; it is compiled and sharded here.
        task: Batches, loss and score.
        run: The folder; checkpoints and metrics go there.
        env: This process.
        tracker: Hears what happens.
    """

    def __init__(
        self, plan: Plan, model: nn.Module, task: Task, run: Run, env: Env, tracker: Tracker
    ) -> None:
        self.plan, self.config, self.train = plan, plan.config, plan.config.train
        self.model, self.task, self.run, self.env, self.tracker = model, task, run, env, tracker
        shard(model, env, self.train.shard)
        if self.train.compile == "yes":
            compile_blocks(model)
        self.loss = replicate(LossOf(model, task), env, self.train.shard)
        self.optimizer = Optimizer(model, self.train)
        self.parameters = dict(model.named_parameters())
        self.best = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.average: dict[str, Tensor] = {}
        if self.train.average > 0:
            self.average = {n: t.clone() for n, t in self.best.items()}
        self.done = 0
        self.best_score, self.best_step, self.best_kind = math.inf, 0, "last"
        self.worse, self.seconds, self.tokens = 0, 0.0, 0
        self.seconds_per_score = 0.0  # for each target, as last measured
        self.begun = time.monotonic()  # when the budget began, less the time that kills cost
        self.ended = False  # whether the metrics have their last record
        self.asked = False  # to stop, by a signal to this process
        self.stop = False  # as agreed by all processes at the end of an update
        self.heap = Heap()

    # -- one update ----------------------------------------------------------------------------

    def update(self) -> dict[str, Any]:
        """Do one update and give its record.

        Raises:
            NonFiniteError: The loss or the gradient is not finite; no weight was touched.
        """
        begun = time.perf_counter()
        batches = self.task.batches(self.done, self.env.rank, self.env.world_size)
        # At least 1: where halves are exchanged with words unknown, nothing may be asked.
        count = max(1.0, self.env.sum([float(sum(map(self.task.count, batches)))])[0])
        # Gradients are averaged over processes; multiplied by their number they are summed.
        scale = self.env.world_size / count
        total = torch.zeros((), device=self.env.device)
        for i, batch in enumerate(batches):
            last_micro_batch(self.loss, self.model, i == len(batches) - 1)
            with precision(self.train.precision):
                loss = self.loss(batch)
            (loss * scale).backward()
            total += loss.detach()
        summed, stops = self.env.sum([float(total), float(self.asked)])
        value, self.stop = summed / count, stops > 0
        norm = clip_gradients(list(self.parameters.values()), self.train.grad_clip)
        if not math.isfinite(value) or not math.isfinite(norm):
            self._refuse(value, norm)
        share = lr_share(
            self.done,
            self.plan.config.steps,
            self.train.warmup_steps,
            self.train.schedule,
            self.plan.fits,
        )
        self.optimizer.step(share * self.train.lr, share * self.train.matrix_lr)
        self.model.zero_grad(set_to_none=True)
        if self.average:
            torch._foreach_lerp_(
                list(self.average.values()), list(self.parameters.values()), 1 - self.train.average
            )
        self.done += 1
        self.tokens += int(count)
        spent = time.perf_counter() - begun
        self.seconds += spent
        return {
            "kind": "step",
            "step": self.done,
            "loss": value,
            "lr": share * self.train.lr,
            "grad_norm": norm,
            "tokens": self.tokens,
            "tokens_per_second": count / spent,
            "seconds": self.seconds,
        }

    def _refuse(self, loss: float, norm: float) -> None:
        record = {
            "step": self.done + 1,
            "rows": self.task.ids(self.done),
            "loss": repr(loss),
            "grad_norm": repr(norm),
        }
        if self.env.rank == 0:
            write_json(self.run.path / "nonfinite.json", record)
        raise NonFiniteError(
            f"step {self.done + 1}: the loss is {loss}, the gradient's norm {norm};"
            " the update was not applied. Its rows are noted in nonfinite.json",
            f"Try half the learning rate in a new run: --train.lr {self.train.lr / 2:g}",
        )

    # -- scores --------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Score the weights, and the averaged ones where there are any; remember the best."""
        score = self._score(self.train.eval_tokens)
        record: dict[str, Any] = {"kind": "eval", "step": self.done, **score.record()}
        kind, weights = "last", dict[str, Tensor](self.parameters)
        if self.average:
            with self._weights(self.average):
                averaged = self._score(self.train.eval_tokens)
            record |= {f"{key}_averaged": value for key, value in averaged.measures.items()}
            if averaged.cost < score.cost:
                score, kind, weights = averaged, "averaged", self.average
        self.worse += 1
        if score.cost < self.best_score:
            self.best_score, self.best_step, self.worse = score.cost, self.done, 0
            self.best_kind = kind
            _copy(self.best, weights)
        return record

    def _score(self, max_targets: int) -> Score:
        begun = time.monotonic()
        with precision(self.train.precision):
            score = self.task.evaluate(self.model, max_targets)
        settle(self.model)
        self.seconds_per_score = (time.monotonic() - begun) / score.targets
        return score

    @contextlib.contextmanager
    def _weights(self, other: dict[str, Tensor]) -> Iterator[None]:
        """Let the model have other weights for a while."""
        own = {n: p.detach().clone() for n, p in self.parameters.items()}
        _copy(self.parameters, other)
        try:
            yield
        finally:
            _copy(self.parameters, own)

    # -- checkpoints ---------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Name every tensor that a resume needs."""
        named = {f"model.{n}": p.detach() for n, p in self.parameters.items()}
        named |= {f"optimizer.{n}": t for n, t in self.optimizer.tensors().items()}
        named |= {f"best.{n}": t for n, t in self.best.items()}
        named |= {f"average.{n}": t for n, t in self.average.items()}
        return named

    def save(self) -> None:
        """Write a checkpoint of this step."""
        state = {
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "best_step": self.best_step,
            "best_kind": self.best_kind,
            "worse": self.worse,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "seconds_per_score": self.seconds_per_score,
            "spent": time.monotonic() - self.begun,
            "flops": self.done * self.plan.flops_per_step,
            "world_size": self.env.world_size,
        }
        if self.env.rank == 0:
            self.run.sync_metrics()
        tensors = self.tensors() | {f"rng.{self.env.rank}": torch.get_rng_state()}
        if self.env.device.type == "cuda":
            tensors[f"rng_cuda.{self.env.rank}"] = torch.cuda.get_rng_state()
        save_checkpoint(self.run.checkpoints_dir, self.done, tensors, state)
        if self.env.rank == 0:
            prune(self.run.checkpoints_dir, KEEP)

    def restore(self) -> None:
        """Go on from the newest sound checkpoint, if there is one."""
        checkpoint, skipped = newest_checkpoint(self.run.checkpoints_dir)
        for path, why in skipped:
            self.tracker.notice(f"skipped the checkpoint {path}: {why}")
        if checkpoint is None:
            return
        tensors = self.tensors()
        rng = torch.get_rng_state()
        same_size = checkpoint.state["world_size"] == self.env.world_size
        if same_size:
            tensors[f"rng.{self.env.rank}"] = rng
        cuda = self.env.device.type == "cuda"
        rng_cuda = torch.cuda.get_rng_state() if cuda else rng
        if cuda and same_size:
            tensors[f"rng_cuda.{self.env.rank}"] = rng_cuda
        load_tensors(checkpoint, tensors)
        torch.set_rng_state(rng)
        if cuda:
            torch.cuda.set_rng_state(rng_cuda)
        state = checkpoint.state
        self.done = checkpoint.step
        self.begun = time.monotonic() - state["spent"]
        self.best_score = math.inf if state["best_score"] is None else state["best_score"]
        self.best_step, self.best_kind = state["best_step"], state["best_kind"]
        self.worse, self.seconds = state["worse"], state["seconds"]
        self.tokens = state["tokens"]
        self.seconds_per_score = state["seconds_per_score"]
        self.tracker.notice(f"going on from step {self.done} ({checkpoint.path.name})")

    # -- the run -------------------------------------------------------------------------------

    def fit(self, begun: float = 0.0) -> Result:
        """Train to the end of the plan.

        Args:
            begun: `time.monotonic` from which a time budget counts; 0: now.

        Raises:
            StoppedError: Asked to stop by a signal; a checkpoint was written.
            NonFiniteError: See `update`.
        """
        self.begun = begun or time.monotonic()
        self.restore()
        here, first = time.monotonic(), self.done
        if self.env.rank == 0:
            self.run.truncate_metrics(self.done)
            self.ended = any(r.get("kind") == "final" for r in self.run.read_metrics())
        self.model.train()
        with self._signals():
            while self.done < self.plan.config.steps and not self._finished_early():
                self._record(self.update())
                if self.done % self.train.eval_every == 0 and self.done < self.plan.config.steps:
                    self._record(self.evaluate())
                self.heap.tidy()
                # After a resume the first updates are slow: half an interval must have been timed.
                if self._fits_now() and 2 * (self.done - first) >= self.plan.fit_every:
                    self._fit_to_clock((time.monotonic() - here) / (self.done - first))
                if self.stop or self.done % self.config.checkpoint_every == 0:
                    self.save()
                if self.stop:
                    raise StoppedError(
                        f"stopped after step {self.done} of {self.plan.config.steps}; all is saved",
                        f"Go on with the same command and --out {self.run.path}",
                    )
            self.save()
        return self._result()

    def _fits_now(self) -> bool:
        every = self.plan.fit_every
        last = self.plan.fits[-1][0] if self.plan.fits else self.train.warmup_steps
        return every > 0 and self.done % every == 0 and last < self.done < self.plan.config.steps

    def _fit_to_clock(self, seconds: float) -> None:
        """Move the end to where the budget ends, at the seconds of an update, all included."""
        end = END_SECONDS + self.seconds_per_score * self.plan.final_eval_tokens
        left = self.plan.budget_seconds - end - (time.monotonic() - self.begun)
        updates = self.env.sum([left / seconds])[0] / self.env.world_size
        self.plan = self.plan.fitted(self.done, self.done + max(1, int(updates)))
        if self.env.rank == 0:
            self.plan.write(self.run)
        self.tracker.refit(self.plan.config.steps)

    def _finished_early(self) -> bool:
        return 0 < self.train.patience <= self.worse

    def _record(self, record: dict[str, Any]) -> None:
        if self.env.rank == 0:
            self.run.append_metrics(record)
        if record["kind"] == "step":
            self.tracker.step(record)
        else:
            self.tracker.evaluated(record)

    def _result(self) -> Result:
        """Score the best of what was seen, the last weights included, on the validation split."""
        self.evaluate()
        with self._weights(self.best):
            score = self._score(self.plan.final_eval_tokens)
        weights = {n: whole(t.detach()).cpu() for n, t in self.best.items()}
        kept = "best" if self.best_step < self.done else self.best_kind
        record = {
            "kind": "final",
            "step": self.done,
            "kept": kept,
            "kept_step": self.best_step,
            "spent": time.monotonic() - self.begun,
            "peak_bytes": self._peak_bytes(),
        }
        if not self.ended:  # else killed after this record, and before the weights were written
            self._record(record | score.record())
        return Result(score, weights, kept, self.best_step)

    def _peak_bytes(self) -> int:
        """Give the most memory that the run has had: on a GPU that of the GPU."""
        if self.env.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.env.device)
        return peak_bytes()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn Ctrl-C and SIGTERM into a stop at the next step boundary."""

        def ask(number: int, frame: Any) -> None:
            if self.asked:  # twice: now
                raise KeyboardInterrupt
            self.asked = True
            self.tracker.notice("stopping after this step; once more: at once, without saving")

        try:
            old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: signals are not ours
            yield
            return
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


@torch.no_grad()
def _copy(into: dict[str, Any], source: dict[str, Any]) -> None:
    for name, tensor in into.items():
        tensor.copy_(source[name])
