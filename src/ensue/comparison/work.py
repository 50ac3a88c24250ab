"""The runs of a comparison: each an ordinary `ensue train`, in a process of its own.

A candidate that diverges or runs out of memory harms no other. The same command again goes on where
it stopped; the same command on several machines that share the folder shares the work, since every
run is held by one process at a time.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ensue.comparison.judge import Judge
from ensue.comparison.labels import LabelsJudge
from ensue.comparison.pairs import PairsJudge
from ensue.comparison.plan import ComparisonPlan, Task, make_plan
from ensue.comparison.request import CompareConfig, named_files
from ensue.comparison.results import Prepared, Result, Trials, gather, read_outcome
from ensue.comparison.text import TextJudge
from ensue.config import differences, to_dict, to_toml
from ensue.distributed.env import start_env
from ensue.errors import (
    DataError,
    DiskFullError,
    NonFiniteError,
    RunError,
    StoppedError,
    UsageError,
)
from ensue.files import read_json, read_sealed, seal, write_atomic, write_json, writing
from ensue.models import find_step
from ensue.models.custom import CustomConfig
from ensue.runs import HeldError, Run, holding, new_run_path, stem_of
from ensue.tasks import find_kind
from ensue.tasks.translate import SRC_TOKENIZER, TGT_TOKENIZER
from ensue.training.config import RunConfig, config_from_dict, config_to_dict
from ensue.training.session import read_data
from ensue.training.tracking import Tracker

JUDGES: dict[str, Any] = {"lm": TextJudge, "translate": PairsJudge, "classify": LabelsJudge}
"""Each task's part of a comparison."""
POLL_SECONDS = 0.25
"""Between two looks at a run."""
WAIT_SECONDS = 2.0
"""Before asking again whether another process has finished a run."""


def compare(
    request: CompareConfig,
    out: str | Path = "",
    tracker: Tracker | None = None,
    jobs: int = 1,
) -> Result:
    """Train every candidate at an equal cost, or go on with that.

    Args:
        request: What is compared.
        out: The folder; empty: a new one below ``runs/``.
        tracker: Hears how it goes.
        jobs: Runs at a time; on one machine they share its cores, and times mean less.

    Returns:
        What came out; its tables and its report lie in the folder, and the winner is a run there.

    Raises:
        UsageError: A budget that some candidate cannot use.
        RunError: The folder holds another comparison.
        StoppedError: Interrupted; the same call goes on.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}: at least one run at a time")
    tracker = tracker or Tracker()
    stem = stem_of(next(iter(named_files(request.data)), "")) or "data"
    folder = Path(out or new_run_path(f"{stem}-compare"))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "Name a folder for the comparison: --out DIR")
    with writing(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
    with _turn(folder):
        prepared = _prepare(request, folder, tracker)
    work = Work(folder, prepared.plan, tracker, jobs)
    for kind in ("trials", "runs"):
        work.carry_out([t for t in prepared.plan.tasks if t.name.startswith(kind)])
        with _turn(folder):
            work.settle_rates()
    with _turn(folder):
        shared = jobs > max(1, torch.cuda.device_count())
        return gather(folder, prepared, work.trials, work.errors, tracker, shared)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process plans or gathers this comparison."""
    while True:
        with contextlib.suppress(HeldError), holding(folder / "compare.lock", str(folder)):
            yield
            return
        time.sleep(WAIT_SECONDS)


def _prepare(request: CompareConfig, folder: Path, tracker: Tracker) -> Prepared:
    """Read the texts; make the plan, or find it and check that it is the one asked for."""
    path, own = folder / "comparison.json", ("compare.lock", TGT_TOKENIZER, SRC_TOKENIZER)
    kind, data, plan = find_kind(request.task), request.data, None
    if path.exists():
        plan = ComparisonPlan.from_json(read_sealed(path))
        changed = differences(plan.request, json.loads(json.dumps(request.to_json())))
        if changed:
            raise RunError(
                f"{folder} holds another comparison:\n  " + "\n  ".join(changed),
                "Repeat the old command to go on, or compare in another folder with --out.",
            )
        data = kind.frozen(data, folder)
    elif any(p.name not in own for p in folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty and is not a comparison", "Name another folder with --out."
        )
    # One text for all, whatever the model.
    reading = RunConfig(task=kind.name, data=data, model=find_step(kind.model, kind.name).default)
    material = read_data(reading, start_env(), tracker)
    judge: Judge = JUDGES[kind.name](request, material, tracker, plan.measure if plan else "")
    if plan is None:
        material.save(folder, reading.model)
        plan = make_plan(request, judge, folder, tracker)
        write_atomic(path, seal(json.loads(json.dumps(plan.to_json()))))
    elif (material.fingerprint, judge.test) != (plan.corpus, plan.test):
        raise DataError(
            f"the {'test text' if material.fingerprint == plan.corpus else 'data'} is not what"
            f" {folder} was begun with",
            "Put the old data back, or compare in another folder with --out.",
        )
    return Prepared(plan, judge)


class Work:
    """Carries out runs, some at a time.

    Args:
        folder: Of the comparison.
        plan: What is to be run.
        tracker: Hears how it goes.
        jobs: Runs at a time.
    """

    def __init__(self, folder: Path, plan: ComparisonPlan, tracker: Tracker, jobs: int) -> None:
        self.folder, self.plan, self.tracker, self.jobs = folder, plan, tracker, jobs
        self.errors: dict[str, str] = {}
        self.trials = Trials()
        self.stop = threading.Event()
        self.speaking = threading.Lock()

    def carry_out(self, tasks: list[Task]) -> None:
        """Run what is not yet done; those that another process holds are waited for."""
        waiting = deque(task for task in tasks if not self._is_done(task))
        if len(waiting) < len(tasks):
            self.tracker.notice(f"{len(tasks) - len(waiting)} of {len(tasks)} runs are done")
        with _stoppable(), ThreadPoolExecutor(self.jobs) as pool:
            workers = [pool.submit(self._work, waiting, n) for n in range(self.jobs)]
            try:
                wait(workers, return_when=FIRST_EXCEPTION)
            except KeyboardInterrupt:
                raise self._stopped() from None
            finally:
                self.stop.set()  # also where one of them failed: the others stop, and save
        self.stop.clear()
        failures = [f for f in (worker.exception() for worker in workers) if f]
        if failures:
            raise next((f for f in failures if not isinstance(f, StoppedError)), failures[0])

    def _stopped(self) -> StoppedError:
        return StoppedError(
            "stopped; what was trained is saved",
            f"Go on with the same command and --out {self.folder}",
        )

    def _work(self, waiting: deque[Task], worker: int) -> None:
        while not self.stop.is_set():
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                self._run(task, worker)
            except HeldError:
                waiting.append(task)
                self.stop.wait(WAIT_SECONDS)

    def _is_done(self, task: Task) -> bool:
        return read_outcome(self.folder / task.name) is not None

    def _run(self, task: Task, worker: int) -> None:
        """Run one task to its end, in a process of its own.

        Raises:
            HeldError: Another process is at it.
        """
        run = self.folder / task.name
        if Run.exists(run):
            with Run(run).lock():
                pass
        if self._is_done(task):
            return
        if task.name.startswith("trials") and self._trials_path.exists():
            return  # their candidate's rate is settled
        command = self.command(task)
        if not command:
            return
        log_path = run.with_name(f"{run.name}.log")
        with writing(log_path, 0), open(log_path, "ab") as log:
            said_before = log.tell()
            child = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=_environment(worker),
                # A group of its own: Ctrl-C reaches us alone, and we ask the run to stop, once.
                process_group=None if sys.platform == "win32" else 0,
            )
        try:
            self._watch(task, child)
        finally:
            if child.poll() is None:
                child.terminate()  # it saves a checkpoint first
                child.wait()
        if child.returncode:
            self._failed(task, child.returncode, _last_words(log_path, said_before))
        elif Run(run).read_plan()["corpus"] != self.plan.corpus:
            raise DataError(
                f"the data changed while it was compared: {task.name} read something else",
                f"Put the old data back, delete {run}, and repeat the command.",
            )

    def command(self, task: Task) -> list[str]:
        """Write the recipe of a run, and give the command that carries it out; empty: it cannot."""
        rate = task.rate or self.trials.rates.get(task.candidate, 0.0)
        if not rate:
            reasons = [e for t, e in self.trials.errors.items() if self._is_of(t, task.candidate)]
            self.errors[task.name] = f"none of its trials came to an end: {', '.join(reasons[:1])}"
            return []
        config = config_from_dict(dict(task.config), task.name)
        train = config.train
        rates = replace(train, lr=train.lr * rate, matrix_lr=train.matrix_lr * rate)
        run = self.folder / task.name
        with writing(run.parent, 0):
            run.parent.mkdir(exist_ok=True)
        recipe = run.with_name(f"{run.name}.toml")
        text = to_toml(config_to_dict(replace(config, train=rates)))
        if not recipe.exists() or recipe.read_text(encoding="utf-8") != text:
            write_atomic(recipe, text)
        code = []
        if isinstance(config.model, CustomConfig):
            code = ["--code", config.model.file]
        train_words = ["train", str(recipe), "--out", str(run)]
        return [sys.executable, "-m", "ensue.cli", *train_words, *code]

    @property
    def _trials_path(self) -> Path:
        return self.folder / "trials.json"

    def _is_of(self, task: str, candidate: str) -> bool:
        return any(t.name == task and t.candidate == candidate for t in self.plan.tasks)

    def settle_rates(self) -> None:
        """Choose each candidate's learning rate, once and for all.

        A trial that failed might succeed at the next attempt; runs already made at another rate
        would then stand beside runs at the new one.
        """
        if not self._trials_path.exists():
            scores: dict[str, dict[float, float]] = {}
            trials = [t for t in self.plan.tasks if t.name.startswith("trials")]
            for task in trials:
                outcome = read_outcome(self.folder / task.name)
                if outcome is not None:
                    scores.setdefault(task.candidate, {})[task.rate] = outcome.score
            settled = Trials({c: min(s, key=s.__getitem__) for c, s in scores.items()}, self.errors)
            write_json(self._trials_path, to_dict(settled))
        self.trials = Trials(**read_json(self._trials_path))

    def _watch(self, task: Task, child: "subprocess.Popen[bytes]") -> None:
        """Show how a run gets on, until its process ends."""
        done, said = 0, -1
        names = [t.name for t in self.plan.tasks]
        title = f"{task.name} ({names.index(task.name) + 1} of {len(names)})"
        while child.poll() is None:
            if self.stop.wait(POLL_SECONDS):
                raise self._stopped()
            total = _planned_steps(self.folder / task.name)
            done = _last_step(self.folder / task.name) if total else 0
            if done != said and self.speaking.acquire(blocking=self.jobs == 1):
                self.tracker.progress(title, done, total)
                self.speaking.release()
                said = done

    def _failed(self, task: Task, code: int, words: str) -> None:
        """Note why a run came to no end; raise what concerns all of them."""
        if code in (StoppedError.exit_code, -2, -15):
            raise self._stopped()
        if code == DiskFullError.exit_code:
            raise DiskFullError(words or f"the disk of {self.folder} is full")
        if code == RunError.exit_code and "by another process" in words:
            raise HeldError(words)
        if code == -9 or "alloc" in words.lower() or "out of memory" in words.lower():
            words = "out of memory" if code != -9 else "killed by the system: out of memory?"
        elif code == NonFiniteError.exit_code:
            words = f"diverged: {words}"
        self.errors[task.name] = words or f"ended with code {code}"
        self.tracker.notice(f"{task.name}: {words}")


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: without it the runs would go on without us."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        old = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _environment(worker: int) -> dict[str, str] | None:
    """Give each of several jobs a GPU of its own, where there are some."""
    if torch.cuda.device_count() < 2:
        return None
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")  # a batch system's, as SLURM sets it
    devices = given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
    return {**os.environ, "CUDA_VISIBLE_DEVICES": devices[worker % len(devices)]}


def _planned_steps(run: Path) -> int:
    try:
        return int(Run(run).read_plan()["config"]["steps"])
    except (RunError, KeyError):
        return 0


def _last_step(run: Path) -> int:
    """Read the end of the metrics: the number of the last update."""
    try:
        with open(Run(run).metrics_path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2048))
            lines = file.read().splitlines()
        return max((int(json.loads(line)["step"]) for line in lines[1:]), default=0)
    except (OSError, ValueError, KeyError):
        return 0


def _last_words(log: Path, start: int) -> str:
    """Give the error that a run ended with, in one line; what stood there before is not its own."""
    lines = log.read_bytes()[start:].decode("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "")
