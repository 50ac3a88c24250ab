"""Stop anywhere, repeat the call: the same losses and the same weights, to the last bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EVERY, MODELS, TWO
from torch import nn

from ensue.data.corpus import DataConfig
from ensue.errors import DataError, RunError, StoppedError, UsageError
from ensue.runs import Run
from ensue.tasks.lm import LanguageModelling
from ensue.tasks.measures import BITS
from ensue.tasks.task import Score
from ensue.training.checkpoint import newest_checkpoint
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

TIMES = (
    "seconds",
    "tokens_per_second",
    "spent",
    "peak_bytes",
)  # what two runs of one plan may differ in


def text(seed: int = 0, words: int = 800) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice("the a cat dog sat ran on far mat".split()) for _ in range(words))


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., RunConfig[Any]]:
    (tmp_path / "text.txt").write_text(text())

    def make(model: str = "gpt2", steps: int = 12, every: int = 3, **kwargs: Any) -> RunConfig[Any]:
        settings: dict[str, Any] = {
            "threads": 1,
            "precision": "fp32",
            "compile": "no",
            "global_batch_size": 4,
            "eval_every": 4,
            "eval_tokens": 128,
            **kwargs,
        }
        return RunConfig(
            data=DataConfig(sources=(str(tmp_path / "text.txt"),)),
            model=replace(MODELS[model], dropout=0.1),
            size="xs",
            steps=steps,
            checkpoint_every=every,
            train=TrainConfig(**settings),
        )

    return make


class Stopper(Tracker):
    """Sends this process a signal after some update, and keeps what it is told."""

    def __init__(self, at: int = 0, number: int = signal.SIGTERM) -> None:
        self.at, self.number = at, number
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), self.number)


class StopAtSecondFit(Tracker):
    """Stops in the middle of a run that keeps a time budget."""

    fits = 0

    def refit(self, steps: int) -> None:
        self.fits += 1
        if self.fits == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def records(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMES} for r in run.read_metrics()]


def assert_same(run: Run, reference: Run) -> None:
    assert records(run) == records(reference)
    ours, theirs = load_weights(run)[0], load_weights(reference)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def stopped(config: RunConfig[Any], out: Path, at: int, number: int = signal.SIGTERM) -> Stopper:
    tracker = Stopper(at, number)
    with pytest.raises(StoppedError) as caught:
        train(config, out, tracker)
    assert caught.value.exit_code == 130
    return tracker


SETTINGS: dict[str, dict[str, Any]] = {
    "muon": {"average": 0.9},
    "adamw": {"optimizer": "adamw", "average": 0.9, "micro_batch_size": 2, "schedule": "cosine"},
    "bf16": {"precision": "bf16"},
    "patience": {"schedule": "constant", "patience": 3},
}


def score_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the score grow worse as the model learns, as it does when a model overfits."""
    evaluate = LanguageModelling.evaluate

    def backwards(self: LanguageModelling, model: nn.Module, max_targets: int = 0) -> Score:
        score = evaluate(self, model, max_targets)
        return replace(score, measures={BITS.key: 20 - score[BITS]})

    monkeypatch.setattr(LanguageModelling, "evaluate", backwards)


@EVERY
@pytest.mark.parametrize("settings", list(SETTINGS))
def test_a_stopped_run_goes_on_to_the_last_bit(
    tmp_path: Path,
    config: Callable[..., RunConfig[Any]],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    settings: str,
) -> None:
    """Dropout's random state, moments, averages, best weights, patience: each can be forgotten."""
    steps = 40 if settings == "patience" else 12
    if settings == "patience":
        score_backwards(monkeypatch)
    request = config(model, steps=steps, every=5, **SETTINGS[settings])
    reference = train(request, tmp_path / "reference")
    for at, number in ((2, signal.SIGINT), (8, signal.SIGTERM)):
        stopped(request, tmp_path / "run", at, number)
        last = newest_checkpoint(tmp_path / "run" / "checkpoints")[0]
        assert last is not None
        assert last.step in (at, at + 1)  # within a step, and saved
    run = train(request, tmp_path / "run")
    assert_same(run, reference)
    final = records(run)[-1]
    assert final["kind"] == "final"
    if settings == "patience":
        assert final["step"] == 16
        assert (final["kept"], final["kept_step"]) == ("best", 4)


def test_stopping_after_the_last_step_loses_nothing(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    request = config()
    reference = train(request, tmp_path / "reference")
    stopped(request, tmp_path / "run", at=11)
    tracker = Stopper(at=12)
    assert_same(train(request, tmp_path / "run", tracker), reference)


def test_handlers_of_signals_are_given_back(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """A program that calls `train` would be deaf to Ctrl-C ever after."""
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    stopped(config(), tmp_path / "run", at=2)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


CHILD = """
import sys
from pathlib import Path
from ensue.errors import EnsueError
from ensue.training.config import config_from_dict
from ensue.training.session import train
from ensue.training.tracking import Tracker
import json
class Speaker(Tracker):
    def step(self, record):
        print(record["step"], flush=True)
try:
    train(config_from_dict(json.loads(sys.argv[1]), "argv"), sys.argv[2], Speaker())
except EnsueError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -TERM ends a process at once there")
def test_a_child_process_obeys_sigterm(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """What a scheduler sends before it kills: out within a step and a save, with its own code."""
    from ensue.training.config import config_to_dict

    request = config(steps=100_000, every=50_000)
    args = [json.dumps(config_to_dict(request)), str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, *args], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "20\n":
                child.terminate()
                break
        said = child.stdout.read()
        assert child.wait(30) == 130
    last = newest_checkpoint(tmp_path / "run" / "checkpoints")[0]
    assert last is not None
    assert f"stopped after step {last.step} of 100000" in said


def flip_a_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@TWO
@pytest.mark.parametrize("damage", ["tensors", "state", "gone", "all"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_gives_the_same_bits(
    tmp_path: Path, config: Callable[..., RunConfig[Any]], model: str, damage: str
) -> None:
    """Going on from half a checkpoint, or refusing to go on at all, loses the run."""
    request = config(model, average=0.5)
    reference = train(request, tmp_path / "reference")
    stopped(request, tmp_path / "run", at=7)
    folders = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(folders) == 2
    shard = next(folders[-1].glob("shard-*"))
    match damage:
        case "tensors":
            flip_a_byte(shard)
        case "state":
            flip_a_byte(folders[-1] / "state.json")
        case "gone":
            shard.unlink()
        case "all":
            for folder in folders:
                flip_a_byte(folder / "manifest.json")
    tracker = Stopper()
    assert_same(train(request, tmp_path / "run", tracker), reference)
    skipped = [n for n in tracker.notices if "skipped the checkpoint" in n]
    assert [str(folders[-1]) in n for n in skipped[:1]] == [True]
    assert len(skipped) == (2 if damage == "all" else 1)


def test_another_configuration_is_refused_with_the_difference(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """Half a run with one learning rate and half with another is no run of either."""
    request = config()
    stopped(request, tmp_path / "run", at=4)
    before = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    other = replace(request, seed=3, train=replace(request.train, lr=0.5))
    with pytest.raises(RunError) as caught:
        train(other, tmp_path / "run")
    assert "seed: 0 -> 3" in caught.value.what
    assert "train.lr: 0.0 -> 0.5" in caught.value.what
    assert caught.value.exit_code == 4
    with pytest.raises(RunError, match=r"model\.name: 'gpt2' -> 'lstm'"):
        train(replace(request, model=MODELS["lstm"]), tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == before
    reference = train(request, tmp_path / "reference")
    assert_same(train(request, tmp_path / "run"), reference)


def test_other_data_is_refused_and_the_old_data_goes_on(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """One more line moves every window: the order of the data would change in mid-run."""
    request = config()
    stopped(request, tmp_path / "run", at=4)
    (tmp_path / "text.txt").write_text(text() + " the end")
    with pytest.raises(DataError, match=r"not what .* was begun with") as caught:
        train(request, tmp_path / "run")
    assert caught.value.exit_code == 3
    (tmp_path / "text.txt").write_text(text())
    reference = train(request, tmp_path / "reference")
    assert_same(train(request, tmp_path / "run"), reference)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in folder.rglob("*")
        if p.is_file() and p.name != "run.lock"
    }


def test_a_finished_run_is_left_alone(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """The same command once too often must cost nothing."""
    run = train(config(), tmp_path / "run")
    before = contents(run.path)
    tracker = Stopper()
    train(config(), tmp_path / "run", tracker)
    assert contents(run.path) == before
    assert any("already trained to its end" in n for n in tracker.notices)


@pytest.mark.parametrize("lost", ["report.html", "README.md"])
def test_a_kill_after_the_weights_costs_no_page(
    tmp_path: Path, config: Callable[..., RunConfig[Any]], lost: str
) -> None:
    """The weights are written first: whoever takes them for the end never writes the rest."""
    run = train(config(), tmp_path / "run")
    (run.path / lost).unlink()
    train(config(), tmp_path / "run")
    assert (run.path / lost).exists()


def test_a_kill_before_the_weights_gives_one_final_record(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """The last record was there already, and was written again."""
    reference = train(config(), tmp_path / "reference")
    run = train(config(), tmp_path / "run")
    for name in ("model.safetensors", "report.html", "README.md"):
        (run.path / name).unlink()
    marker = json.loads((run.path / "run.json").read_text())
    marker["parts"].remove("model.safetensors")
    (run.path / "run.json").write_text(json.dumps(marker))
    assert_same(train(config(), tmp_path / "run"), reference)


def test_damaged_weights_are_made_again_from_the_last_checkpoint(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """`load_weights` says so, and the run said "already trained to its end" instead."""
    reference = train(config(), tmp_path / "reference")
    run = train(config(), tmp_path / "run")
    flip_a_byte(run.weights_path)
    tracker = Stopper()
    train(config(), tmp_path / "run", tracker)
    assert_same(run, reference)
    assert any("made again from the last checkpoint" in n for n in tracker.notices)


def test_another_machine_is_noticed(tmp_path: Path, config: Callable[..., RunConfig[Any]]) -> None:
    """Another version gives other bits: whoever compares two runs must be told."""
    stopped(config(), tmp_path / "run", at=4)
    run = Run.open(tmp_path / "run")
    plan = run.read_plan()
    fields = plan["machine"]
    plan["machine"] = {k: "other" if isinstance(v, str) else v + 1 for k, v in fields.items()}
    run.write_plan(plan)
    tracker = Stopper()
    train(config(), run.path, tracker)
    (said,) = [n for n in tracker.notices if "other circumstances" in n]
    assert fields.keys() >= {"processor", "world_size"}
    assert all(field in said for field in fields)


def test_the_same_machine_is_not_remarked_on(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    stopped(config(), tmp_path / "run", at=4)
    tracker = Stopper()
    train(config(), tmp_path / "run", tracker)
    assert not any("circumstances" in n for n in tracker.notices)


@pytest.mark.parametrize("damage", ["plan", "marker", "newer", "half"])
def test_a_run_folder_that_is_not_what_was_written_is_refused(
    tmp_path: Path, config: Callable[..., RunConfig[Any]], damage: str
) -> None:
    """A plan edited by hand would go on silently with other numbers."""
    stopped(config(), tmp_path / "run", at=4)
    run = tmp_path / "run"
    match damage:
        case "plan":
            plan = json.loads((run / "plan.json").read_text())
            plan["config"]["train"]["lr"] = 1.0
            (run / "plan.json").write_text(json.dumps(plan))
        case "marker":
            (run / "run.json").write_text("{")
        case "newer":
            (run / "run.json").write_text('{"format": 99, "kind": "ensue run", "parts": []}')
        case "half":
            (run / "tokenizer.json").unlink()
    with pytest.raises(RunError, match=r"json|newer version|half-copied"):
        train(config(), run)


def test_a_checkpoint_of_an_older_version_is_refused(
    tmp_path: Path, config: Callable[..., RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lacked the tokens so far; skipped, the run would begin anew in its place."""
    with monkeypatch.context() as older:
        older.setattr("ensue.training.checkpoint.FORMAT", 1)
        stopped(config(), tmp_path / "run", at=4)
    before = contents(tmp_path / "run" / "checkpoints")
    with pytest.raises(RunError, match="written by an older version of ensue") as caught:
        train(config(), tmp_path / "run")
    assert caught.value.exit_code == 4
    assert contents(tmp_path / "run" / "checkpoints") == before


def test_a_run_that_was_moved_goes_on(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """A run folder is what people keep and move: no path inside may point back."""
    reference = train(config(), tmp_path / "reference")
    stopped(config(), tmp_path / "run", at=4)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert_same(train(config(), tmp_path / "elsewhere"), reference)


def test_a_plan_of_a_batch_that_cannot_be_shared_is_refused(
    tmp_path: Path, config: Callable[..., RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 rows on 3 processes trained on 3 of them, without a word."""
    from ensue.distributed.env import Env
    from ensue.training import session

    stopped(config(), tmp_path / "run", at=4)
    three = Env(rank=0, world_size=3, device=torch.device("cpu"))
    monkeypatch.setattr(session, "start_env", lambda: three)
    monkeypatch.setattr(Env, "barrier", lambda self: None)
    monkeypatch.setattr(Env, "close", lambda self: None)
    with pytest.raises(UsageError, match="4 rows cannot be shared by 3 processes"):
        train(config(), tmp_path / "run")


def test_a_time_budget_is_fitted_to_the_clock_and_the_fits_are_repeated(
    tmp_path: Path, config: Callable[..., RunConfig[Any]]
) -> None:
    """The clock differs each time, the bits may not: a resume finds each fit in the plan."""
    request = replace(config(every=20, eval_every=0), steps=0, budget="5s")
    tracker = StopAtSecondFit()
    out = tmp_path / "run"
    with pytest.raises(StoppedError):
        train(request, out, tracker)
    run = Run.open(out)
    saved = newest_checkpoint(run.checkpoints_dir)[0]
    assert saved is not None
    fits = run.read_plan()["fits"]
    assert len(fits) == 2
    # Killed rather than stopped: the checkpoint that goes on lies before the second fit.
    if saved.step > fits[1][0]:
        shutil.rmtree(saved.path)
    train(request, out)
    plan = run.read_plan()
    assert plan["fits"][:2] == fits
    assert len(plan["fits"]) > 2
    (final,) = [r for r in run.read_metrics() if r["kind"] == "final"]
    assert final["step"] == plan["config"]["steps"]
    reference = Run.create(tmp_path / "reference")
    for name in ("config.toml", "tokenizer.json", "plan.json"):
        shutil.copy2(run.path / name, reference.path / name)
    train(request, reference.path)
    assert reference.read_plan() == plan
    assert_same(run, reference)
