"""Kill a training run again and again, and compare it with one that was never killed.

    python tests/faults/kill_harness.py --model gpt2 lstm --kills 25

Each try is a process of its own that calls `ensue.training.session.train` and is ended with
SIGKILL: while the text is tokenised and the machine measured, between steps, and inside saves (a
temporary folder among the checkpoints shows when). The reference gets the plan of the killed run,
with the fits to the clock that were made on the way, makes none of its own, and gets nothing else.
Prints one JSON object a model; used by ``test_kill_resume.py`` and ``bench/kill_resume.py``.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch._dynamo  # noqa: F401 - torch wants it while a plan is made: here once for all

from ensue.files import TEMPORARY, sha256_file
from ensue.runs import Run
from ensue.tasks.classify import IDF
from ensue.tasks.labels import CLASSES
from ensue.tasks.translate import SIDES
from ensue.training.config import config_from_dict
from ensue.training.plan import Plan
from ensue.training.session import train

TIMES = (
    "seconds",
    "tokens_per_second",
    "spent",
    "peak_bytes",
)  # what two runs of one plan may differ in
PATIENCE = 240.0  # seconds that one try may take

WORDS = (
    "the a cat dog bird sat ran flew on under over mat tree hill far away and then again".split()
)
DATA = {
    "lm": "text.txt",
    "mlm": "text.txt",
    "translate": "pairs.tsv",
    "classify": "labelled.csv",
    "pictures": "pictures.npz",
}
"""What is read, by task."""
TOKENIZERS: dict[str, dict[str, Any]] = {
    "lm": {"tokenizer": "bpe", "vocab_size": 300},
    "mlm": {"vocab_size": 120},
    "translate": {"tokenizer": "bpe", "vocab_size": 300},
}
"""Of the tasks whose tokens lie in the cache."""
UPDATES: dict[str, dict[str, Any]] = {
    "lm": {"global_batch_size": 4},
    "mlm": {"batch_tokens": 48},
    "translate": {"batch_tokens": 48, "label_smoothing": 0.1, "word_dropout": 0.1},
    "classify": {"global_batch_size": 4, "label_smoothing": 0.1, "word_dropout": 0.1},
    "pictures": {"global_batch_size": 4, "label_smoothing": 0.1},
}
"""What an update is made of."""


@dataclass(frozen=True)
class Case:
    """A model, and what it is trained for."""

    model: str
    """Its name in the lineage."""
    task: str = "lm"
    """What it learns."""
    shape: dict[str, Any] = field(default_factory=dict)
    """Of a tiny one, but for one layer of 16 with dropout."""
    train: dict[str, Any] = field(default_factory=dict)
    """Settings besides those of its task."""
    start: str = ""
    """The case whose weights it begins with, and has its shape from."""


HEADS = {"num_heads": 2}
CASES = {
    "mlp": Case("mlp", shape={"window": 3, "context_length": 8}),
    "cnn": Case("cnn", shape={"num_layers": 2, "context_length": 8}),
    "rnn": Case("rnn", shape={"context_length": 8}),
    "gpt2": Case("gpt2", shape={"context_length": 8, **HEADS}),
    "lstm": Case("lstm", shape={"context_length": 8}),
    "seq2seq": Case("seq2seq", "translate"),
    "seq2seq_attention": Case("seq2seq_attention", "translate"),
    "transformer": Case("transformer", "translate", HEADS),
    "bert": Case("bert", "mlm", {"context_length": 16, **HEADS}),
    "bert-from": Case("bert", "classify", train={"layer_decay": 0.8}, start="bert"),
    "cnn-words": Case("cnn", "classify", {"buckets": 256, "d_filters": 8, "num_layers": None}),
    "cnn-pictures": Case("cnn", "pictures", {"num_stages": 2}),
}


@dataclass
class Outcome:
    """What a series of kills did."""

    model: str
    """Which of the cases."""
    path: str
    """steps (tiny, by steps) or default (by a budget, all else chosen)."""
    steps: int = 0
    """Updates of the plan."""
    kills: list[str] = field(default_factory=list)
    """Where each one hit."""
    lost: int = 0
    """Times that a run could not go on."""
    losses_equal: bool = False
    """Every record of the metrics, but for times."""
    weights_equal: bool = False
    """The finished weights, byte by byte."""
    seconds: float = 0.0
    """Wall clock of all of it."""
    error: str = ""
    """What the run that could not go on said."""


class LostError(Exception):
    """A run could not go on after a kill."""


def request(case: Case, path: str, folder: Path, kills: int) -> dict[str, Any]:
    """Give the configuration of a run, as a recipe would."""
    data: dict[str, Any] = {"cache": str(folder / "cache")}
    data["sources"] = [str(folder / DATA[case.task])]
    common: dict[str, Any] = {"task": case.task, "model": {"name": case.model}, "data": data}
    common |= {"start": str(folder / "start")} if case.start else {"size": "xs"}
    if path == "default":
        # Threads, precision and steps are measured.
        return common | {"budget": "20s", "checkpoint_every": 5}
    train = {
        "threads": 1,
        "precision": "fp32",
        "compile": "no",
        "micro_batch_size": 2,
        "average": 0.9,
        "eval_every": 20,
        "eval_tokens": 256,
    }
    shape: dict[str, Any] = {"dropout": 0.1}
    if not case.start:
        shape |= {"d_model": 16, "num_layers": 1, **case.shape}
    return common | {
        "data": data | TOKENIZERS.get(case.task, {}),
        "model": common["model"] | {k: v for k, v in shape.items() if v is not None},
        "steps": 60 + 14 * kills,
        "checkpoint_every": 10,
        "train": train | UPDATES[case.task] | case.train,
    }


def write_data(folder: Path, chosen: random.Random, size: int) -> None:
    """Write what the cases read: as text about so many bytes."""
    words = [chosen.choice(WORDS) for _ in range(size // 4)]
    (folder / DATA["lm"]).write_text(" ".join(words))
    said = [" ".join(words[i : i + 2 + i % 5]) for i in range(0, len(words), 6)]
    rows = "".join(f"{line}\t{line.upper()}\n" for line in said)
    (folder / DATA["translate"]).write_text(f"src\ttgt\n{rows}")
    rows = "".join(f"{line},{'early' if line < 'g' else 'late'}\n" for line in said)
    (folder / DATA["classify"]).write_text(f"text,label\n{rows}")
    drawn = np.random.default_rng(chosen.randrange(1 << 30))
    pictures = drawn.integers(0, 60, (300, 12, 12)).astype(np.uint8)
    labels = ["dark", "light"] * 150
    pictures[1::2, 3:9, 3:9] += 150
    np.savez(folder / DATA["pictures"], x=pictures, y=labels)
    old = time.time() - 60  # a file changed just now would be read again at each start
    for name in DATA.values():
        os.utime(folder / name, (old, old))


class Harness:
    """One run, its killer and its reference."""

    def __init__(self, model: str, path: str, kills: int, seed: int, folder: Path) -> None:
        self.outcome, self.case = Outcome(model, path), CASES[model]
        self.wanted, self.folder = kills, folder
        self.random = random.Random(seed)
        self.run, self.reference = folder / "killed", folder / "reference"
        write_data(folder, self.random, 30_000 if path == "steps" else 150_000)
        if self.case.start:
            self.request = request(CASES[self.case.start], "steps", folder, 0)
            self._finish(folder / "start")
        self.request = request(self.case, path, folder, kills)

    def prove(self) -> Outcome:
        """Kill, resume, finish, compare."""
        begun = time.monotonic()
        try:
            self._before_the_plan()
            inside = self.wanted // 2
            for i in range(self.wanted - len(self.outcome.kills)):
                if i % 2 == 0 and inside:
                    inside -= 1
                    self._kill(self._in_a_save(), "inside a save")
                else:
                    self._kill(self._anywhere(), "between steps")
            self._finish(self.run)
            self._make_reference()
            self._compare()
        except LostError as error:
            self.outcome.lost += 1
            self.outcome.error = str(error)
        self.outcome.seconds = time.monotonic() - begun
        return self.outcome

    # -- when ----------------------------------------------------------------------------------

    def _before_the_plan(self) -> None:
        """Kill while tokenising and measuring, then once as soon as there is a plan."""
        early = max(1, self.wanted // (5 if self.outcome.path == "steps" else 2))
        for _ in range(early):
            wait = self.random.uniform(0.02, 0.4 if self.outcome.path == "steps" else 8.0)
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
            self._kill(_after(wait), "just after the plan")
            if (self.run / "plan.json").exists():
                return
        self._kill((self.run / "plan.json").exists, "just after the plan")

    def _in_a_save(self) -> Callable[[], bool]:
        saves, delay = self.random.randint(1, 2), self.random.choice((0.0, 0.0, 0.001, 0.003))
        seen: list[str] = []

        def now() -> bool:
            found = _unfinished(self.run / "checkpoints")
            if found and found not in seen:
                seen.append(found)
                if len(seen) == saves:
                    time.sleep(delay)
                    return True
            return False

        return now

    def _anywhere(self) -> Callable[[], bool]:
        if self.random.random() < 0.2:  # while it looks for its checkpoint
            return _after(self.random.uniform(0.0, 0.3))
        metrics = self.run / "metrics.jsonl"
        target = _lines(metrics) + self.random.randint(-5, 15)
        delay = self.random.uniform(0.0, 0.01)

        def now() -> bool:
            begun = metrics.exists() and metrics.stat().st_mtime > started
            if begun and _lines(metrics) >= target:
                time.sleep(delay)
                return True
            return False

        started = time.time()
        return now

    # -- how -----------------------------------------------------------------------------------

    def _kill(self, now: Callable[[], bool], where: str) -> None:
        pid = self._start(self.run)
        limit = time.monotonic() + PATIENCE
        while not now():
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._check(status)
                return  # it came to its end before the kill
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise LostError("the run hangs\n" + self._log())
            time.sleep(0.0002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.outcome.kills.append(self._where(where))

    def _where(self, where: str) -> str:
        if not (self.run / "plan.json").exists():
            if self.case.task not in TOKENIZERS:
                return "reading or measuring"
            cache = self.folder / "cache"
            if not list(cache.glob("tokenizers/*.json")):
                return "learning the tokenizer"
            return "tokenising" if not self._tokenised(cache) else "measuring"
        if _unfinished(self.run / "checkpoints"):
            return "inside a save"
        return "just after a save" if where == "inside a save" else where

    def _tokenised(self, cache: Path) -> bool:
        return len([f for f in cache.glob("streams/[!.]*") if f.is_dir()]) >= 2

    def _start(self, run: Path) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            log = os.open(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            train(config_from_dict(self.request, "harness"), run)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _finish(self, run: Path) -> None:
        _, status = os.waitpid(self._start(run), 0)
        self._check(status)

    def _check(self, status: int) -> None:
        if os.waitstatus_to_exitcode(status):
            raise LostError(self._log())

    def _log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")[-3000:]

    # -- compare -------------------------------------------------------------------------------

    def _make_reference(self) -> None:
        reference = Run.create(self.reference)
        for name in ("tokenizer.json", SIDES, CLASSES, IDF):  # what it has of what is learnt first
            if (self.run / name).exists():
                shutil.copy2(self.run / name, self.reference / name)
        plan = Plan.from_json(Run.open(self.run).read_plan(), str(self.run))
        # A life between two kills may be too short for a fit that the reference had time for.
        replace(plan, fit_every=0).write(reference)
        self._finish(self.reference)
        self.outcome.steps = plan.config.steps

    def _compare(self) -> None:
        ours, theirs = _records(self.run), _records(self.reference)
        self.outcome.losses_equal = len(ours) > self.outcome.steps and ours == theirs
        weights = [sha256_file(run / "model.safetensors") for run in (self.run, self.reference)]
        self.outcome.weights_equal = weights[0] == weights[1]
        for name in ("README.md", "report.html"):
            if not (self.run / name).exists():
                raise LostError(f"the finished run has no {name}")


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def _unfinished(folder: Path) -> str:
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except FileNotFoundError:
        return ""
    return next((name for name in names if name.startswith(f"{TEMPORARY}step-")), "")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _records(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def prove(model: str, path: str = "steps", kills: int = 3, seed: int = 0) -> Outcome:
    """Run one series in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="ensue-kill-") as folder:
        return Harness(model, path, kills, seed, Path(folder)).prove()


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill runs, resume them, compare.")
    parser.add_argument("--model", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--path", default="steps", choices=["steps", "default"])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for model in args.model:
        outcome = prove(model, args.path, args.kills, args.seed)
        sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
