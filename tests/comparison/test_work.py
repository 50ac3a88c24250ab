"""What a run's end means for the others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ensue.comparison.plan import Task
from ensue.comparison.work import Work
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


def log(folder: Path, text: str) -> Path:
    path = folder / "mlp-0.log"
    path.write_text(text)
    return path


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
    work._failed(TASK, code, log(tmp_path, text))
    assert words in work.errors["runs/mlp-0"]
    assert work.errors["runs/mlp-0"]


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (5, "error: the disk is full: 3 MB are needed", DiskFullError),
        (130, "error: stopped after step 3", StoppedError),
        (-15, "", StoppedError),
        (4, "error: runs/mlp-0 is being trained by another process (pid 7)", HeldError),
    ],
)
def test_what_concerns_all_of_them_stops_the_comparison(
    work: Work, tmp_path: Path, code: int, text: str, error: type[Exception]
) -> None:
    """A full disk fails every run that follows: each noted as its own failure would be a lie."""
    with pytest.raises(error):
        work._failed(TASK, code, log(tmp_path, text))
    assert not work.errors
