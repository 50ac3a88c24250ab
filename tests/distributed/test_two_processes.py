"""Two processes train what one trains: the same rows, the same losses, the same checkpoints."""

import contextlib
import importlib.util
import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ensue.runs import Run
from ensue.weights import load_weights

WORKER = Path(__file__).with_name("worker.py")
STEPS = 50
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"name": "gpt2", "context_length": 8, "d_model": 16, "num_layers": 2, "num_heads": 2},
    "lstm": {"name": "lstm", "context_length": 8, "d_model": 16, "num_layers": 2},
}
CASES = [(model, kind) for model in MODELS for kind in ("ddp", "fsdp")]
BERT = {"name": "bert", "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 2}
EACH = pytest.mark.parametrize(("model", "kind"), CASES)
TIMES = ("seconds", "tokens_per_second", "spent", "peak_bytes")


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("ensue_test_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Folder:
    """Where the runs of these tests lie, and how they are made."""

    path: Path
    killed: list[int] = field(default_factory=list)
    """Exit codes of the launch in which a process was killed."""

    def job(
        self, out: str, model: str, kind: str, optimizer: str = "adamw", **how: int
    ) -> dict[str, Any]:
        train: dict[str, Any] = {
            "threads": 1,
            "precision": "fp32",
            "compile": "no",
            "optimizer": optimizer,
            "shard": kind,
            "global_batch_size": 4,
            "eval_every": 20,
            "eval_tokens": 256,
            "average": 0.9,
        }
        config: dict[str, Any] = {
            "data": {"sources": [str(self.path / "text.txt")], "cache": str(self.path / "cache")},
            "model": MODELS.get(model, BERT),
            "size": "xs",
            "steps": STEPS,
            "checkpoint_every": 10,
            "train": train,
        }
        if model == "bert":
            config["task"], config["data"]["next_sentence"] = "mlm", True
            del train["global_batch_size"]
            train["batch_tokens"] = 64
        return {"config": config, "out": str(self.path / f"{out}-{model}-{kind}"), **how}

    def alone(self, *jobs: dict[str, Any]) -> None:
        worker = load_worker()
        for job in jobs:
            worker.run_job(job)

    def together(self, *jobs: dict[str, Any], restarts: int = 0, ranks: int = 2) -> Any:
        listed = self.path / "jobs.json"
        listed.write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
        command += [str(WORKER), str(listed)]
        return run(command, seconds=200)

    def run(self, out: str, model: str, kind: str) -> Run:
        return Run(self.path / f"{out}-{model}-{kind}")


def run(command: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """Run torchrun; end it in time by a signal that it passes on, or its children outlive it."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            out, errors = process.communicate(timeout=60)
            pytest.fail(f"torchrun hangs\n{errors[-4000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def make_folder(path: Path) -> Folder:
    chosen = random.Random(0)
    words = [chosen.choice("the a cat dog sat ran on far mat".split()) for _ in range(1500)]
    (path / "text.txt").write_text(" ".join(words))
    return Folder(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Every run of the default tier, from two launches of torchrun; the first one fails."""
    folder = make_folder(tmp_path_factory.mktemp("two"))
    for model, kind in CASES:
        if kind == "ddp":
            folder.alone(folder.job("one", model, kind))
            folder.alone(folder.job("muon-one", model, kind, "muon"))
        folder.alone(folder.job("one-two", model, kind, stop=25))
    folder.alone(folder.job("one", "bert", "ddp"))
    jobs = [folder.job("two-one-two", model, kind, stop=12) for model, kind in CASES]
    jobs.append(folder.job("killed", "gpt2", "ddp", die=33))
    folder.killed.append(folder.together(*jobs).returncode)
    for model, kind in CASES:
        folder.alone(folder.job("two-one-two", model, kind, stop=25))
    jobs = [folder.job("killed", "gpt2", "ddp")]
    jobs += [folder.job("two", "bert", kind) for kind in ("ddp", "fsdp")]
    for model, kind in CASES:
        jobs.append(folder.job("two", model, kind))
        jobs.append(folder.job("muon-two", model, kind, "muon"))
        jobs.append(folder.job("one-two", model, kind))
        jobs.append(folder.job("two-one", model, kind, stop=25))
        jobs.append(folder.job("two-two", model, kind, stop=25))
        jobs.append(folder.job("two-two", model, kind))
        jobs.append(folder.job("two-one-two", model, kind))
    done = folder.together(*jobs)
    assert done.returncode == 0, done.stderr[-4000:]
    for model, kind in CASES:
        folder.alone(folder.job("two-one", model, kind))
    return folder


def losses(run: Run, key: str = "loss") -> list[float]:
    found = [(r["step"], r[key]) for r in run.read_metrics() if r["kind"] == "step"]
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    return [loss for _, loss in found]


def scores(run: Run) -> list[float]:
    return [r["bits_per_byte"] for r in run.read_metrics() if r["kind"] != "step"]


def rows(run: Run, ranks: int) -> list[Any]:
    parts = [json.loads((run.path / f"rows-{rank}.json").read_text()) for rank in range(ranks)]
    return [[row for part in step for row in part] for step in zip(*parts, strict=True)]


@EACH
def test_two_processes_lose_what_one_loses(runs: Folder, model: str, kind: str) -> None:
    """Gradients averaged instead of summed, a mean of means, weights drawn after sharding."""
    one, two = runs.run("one", model, "ddp"), runs.run("two", model, kind)
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    # AdamW moves as far with half the gradient: the norm shows what the losses cannot.
    assert losses(two, "grad_norm") == pytest.approx(losses(one, "grad_norm"), rel=1e-5)
    assert scores(two) == pytest.approx(scores(one), rel=1e-6)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_mask_what_one_masks(runs: Folder, kind: str) -> None:
    """A process has rows of its own padding: draws by place in its own part mask other words."""
    one, two = runs.run("one", "bert", "ddp"), runs.run("two", "bert", kind)
    shown = [[[i for i in row if i] for row in step] for step in rows(one, 1)]
    assert [[[i for i in row if i] for row in step] for step in rows(two, 2)] == shown
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    assert losses(two, "grad_norm") == pytest.approx(losses(one, "grad_norm"), rel=1e-5)
    ours, theirs = (
        [r["loss"] for r in run.read_metrics() if r["kind"] != "step"] for run in (two, one)
    )
    assert ours == pytest.approx(theirs, rel=1e-6)


@EACH
def test_two_processes_see_the_rows_of_one_in_the_same_order(
    runs: Folder, model: str, kind: str
) -> None:
    """Each seeing all rows, or the same half twice, trains nearly as well, and is wrong."""
    assert rows(runs.run("two", model, kind), 2) == rows(runs.run("one", model, "ddp"), 1)


@EACH
def test_muon_agrees_as_far_as_its_bf16_does(runs: Folder, model: str, kind: str) -> None:
    """A shard orthogonalised alone is another update."""
    one, two = runs.run("muon-one", model, "ddp"), runs.run("muon-two", model, kind)
    assert losses(two) == pytest.approx(losses(one), rel=2e-3)


@EACH
@pytest.mark.parametrize("out", ["one-two", "two-one"])
def test_a_checkpoint_of_one_world_goes_on_in_the_other(
    runs: Folder, out: str, model: str, kind: str
) -> None:
    """A batch job gets another number of machines after each restart."""
    run, one = runs.run(out, model, kind), runs.run("one", model, "ddp")
    assert losses(run) == pytest.approx(losses(one), rel=1e-6)
    weights, expected = load_weights(run)[0], load_weights(one)[0]
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in expected.items()}


@EACH
def test_the_number_of_processes_may_change_again_and_again(
    runs: Folder, model: str, kind: str
) -> None:
    """What rank 1 keeps for itself is not in a checkpoint of one process."""
    run = runs.run("two-one-two", model, kind)
    assert losses(run) == pytest.approx(losses(runs.run("one", model, "ddp")), rel=1e-6)


@EACH
def test_two_processes_resume_to_the_last_bit(runs: Folder, model: str, kind: str) -> None:
    """A signal to one of them stops both at the same step."""
    resumed, straight = runs.run("two-two", model, kind), runs.run("two", model, kind)
    ours, theirs = (
        [{k: v for k, v in r.items() if k not in TIMES} for r in run.read_metrics()]
        for run in (resumed, straight)
    )
    assert ours == theirs
    weights, expected = load_weights(resumed)[0], load_weights(straight)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_killed_process_ends_the_job_and_the_same_command_goes_on(runs: Folder) -> None:
    """The others wait in a sum that never comes: the job must fail, not hang."""
    assert runs.killed[0] != 0
    killed, straight = runs.run("killed", "gpt2", "ddp"), runs.run("two", "gpt2", "ddp")
    assert losses(killed) == losses(straight)
    weights, expected = load_weights(killed)[0], load_weights(straight)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
@EACH
def test_torchrun_restarts_a_killed_process_to_the_same_bits(
    tmp_path: Path, model: str, kind: str
) -> None:
    """Elastic restart: nobody is there to repeat the command."""
    folder = make_folder(tmp_path)
    done = folder.together(
        folder.job("straight", model, kind), folder.job("killed", model, kind, die=33), restarts=1
    )
    assert done.returncode == 0, done.stderr[-4000:]
    killed, straight = (folder.run(out, model, kind) for out in ("killed", "straight"))
    assert losses(killed) == losses(straight)
    weights, expected = load_weights(killed)[0], load_weights(straight)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
@EACH
def test_four_processes_lose_what_one_loses(tmp_path: Path, model: str, kind: str) -> None:
    """One row each: and 1, 4 and 2 processes share one run."""
    folder = make_folder(tmp_path)
    folder.alone(folder.job("one", model, "ddp"), folder.job("changed", model, kind, stop=15))
    jobs = folder.job("four", model, kind), folder.job("changed", model, kind, stop=30)
    done = folder.together(*jobs, ranks=4)
    assert done.returncode == 0, done.stderr[-4000:]
    done = folder.together(folder.job("changed", model, kind))
    assert done.returncode == 0, done.stderr[-4000:]
    one = folder.run("one", model, "ddp")
    for out in ("four", "changed"):
        assert losses(folder.run(out, model, kind)) == pytest.approx(losses(one), rel=1e-6)
    assert rows(folder.run("four", model, kind), 4) == rows(one, 1)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["data", "lock", "config"])
def test_what_the_first_process_refuses_ends_the_job(tmp_path: Path, problem: str) -> None:
    """The second one waits for it at a barrier."""
    folder = make_folder(tmp_path)
    job = folder.job("run", "gpt2", "ddp")
    folder.alone({**job, "stop": 5})
    match problem:
        case "data":
            (tmp_path / "text.txt").write_text("another text, and hardly any of it " * 50)
        case "config":
            job["config"]["seed"] = 7
    with contextlib.ExitStack() as stack:
        if problem == "lock":
            stack.enter_context(Run(Path(job["out"])).lock())
        done = folder.together(job)
    assert done.returncode != 0
    expected = {"data": "DataError", "lock": "HeldError", "config": "seed: 0 -> 7"}
    assert expected[problem] in done.stderr
