"""What a run's end means for the others."""

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ensue.comparison.plan import Task
from ensue.comparison.results import Trials
from ensue.comparison.work import Work, _environment, _last_words
from ensue.errors import DiskFullError, StoppedError
from ensue.runs import HeldError
from ensue.training.tracking import Tracker

TASK = Task("runs/mlp-0", "mlp", 1.0, 0, {})


@pytest.fixture
def work(tmp_path: Path) -> Work:
    plan: Any = SimpleNamespace(tasks=(TASK,), request={})
    made = Work.__new__(Work)  # no plan of a real comparison is needed for what is tested
    made.folder, made.plan, made.tracker, made.jobs, made.errors = tmp_path, plan, Tracker(), 1, {}
    return made


def words_in(folder: Path, text: str, before: str = "error: of an earlier attempt\n") -> str:
    path = folder / "mlp-0.log"
    path.write_text(before + text)
    return _last_words(path, len(before))


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (6, "error: step 3: the loss is nan\nTry half", "diverged: step 3: the loss is nan"),
        (-9, "step 1/9", "killed by the system"),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory: 9 TB", "out of memory"),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried", "out of memory"),
        (1, "KeyError: 'x'", "KeyError: 'x'"),
        (1, "", ""),
    ],
)
def test_a_candidates_own_failure_is_noted_and_the_others_go_on(
    work: Work, tmp_path: Path, code: int, text: str, words: str
) -> None:
    work._failed(TASK, code, words_in(tmp_path, text))
    assert words in work.errors["runs/mlp-0"]
    assert work.errors["runs/mlp-0"]


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (5, "error: the disk is full: 3 MB are needed", DiskFullError),
        (5, "", DiskFullError),  # the log lies on the same disk
        (130, "error: stopped after step 3", StoppedError),
        (-15, "", StoppedError),
        (4, "error: runs/mlp-0 is being trained by another process (pid 7)", HeldError),
    ],
)
def test_what_concerns_all_of_them_stops_the_comparison(
    work: Work, tmp_path: Path, code: int, text: str, error: type[Exception]
) -> None:
    """A full disk fails every run that follows: each noted as its own failure would be a lie."""
    with pytest.raises(error, match=r"."):
        work._failed(TASK, code, words_in(tmp_path, text))
    assert not work.errors


def test_each_job_gets_one_of_the_gpus_that_a_batch_system_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM names them: all jobs on the first would be slower than one alone."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    given = [(_environment(worker) or {})["CUDA_VISIBLE_DEVICES"] for worker in range(4)]
    assert given == ["4", "6", "7", "4"]


def test_a_failure_of_one_job_is_what_is_told_not_that_the_others_stopped(work: Work) -> None:
    work.jobs, work.stop, work.speaking = 2, threading.Event(), threading.Lock()

    def run(task: Task, worker: int) -> None:
        if task.name == "runs/b":
            raise DiskFullError("the disk is full")
        work.stop.wait(10)
        raise StoppedError("stopped")

    work._run = run  # type: ignore[method-assign]
    with pytest.raises(DiskFullError):
        work.carry_out([replace(TASK, name=f"runs/{name}") for name in "ab"])


def test_a_learning_rate_once_settled_stays(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that failed and succeeds at the next attempt must not divide a candidate's runs."""
    scores = {"trials/mlp-1": 2.0}

    def outcome(path: Path) -> Any:
        name = f"trials/{path.name}"
        return SimpleNamespace(score=scores[name]) if name in scores else None

    monkeypatch.setattr("ensue.comparison.work.read_outcome", outcome)
    trials = tuple(Task(f"trials/mlp-{r:g}", "mlp", r, 0, {}) for r in (1.0, 2.0))
    work.plan = SimpleNamespace(tasks=trials)  # type: ignore[assignment]
    work.errors["trials/mlp-2"] = "out of memory"
    work.settle_rates()
    scores["trials/mlp-2"] = 1.0
    work.settle_rates()
    assert work.trials == Trials({"mlp": 1.0}, {"trials/mlp-2": "out of memory"})
