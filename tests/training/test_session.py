"""From a request to a run folder: what is in it, and what is refused before anything is spent."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EVERY, MODELS

from ensue.data.corpus import DataConfig
from ensue.distributed.env import Env
from ensue.errors import DataError, RunError, UsageError
from ensue.models.gpt2 import GPT2Config
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.tokenizers import train_tokenizer
from ensue.training import session
from ensue.training.choose import average_of
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.plan import Plan
from ensue.training.session import build, load_model, train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

Make = Callable[..., RunConfig[Any]]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.chdir(tmp_path)
    chosen = random.Random(0)
    words = [chosen.choice("the a cat dog sat ran on far mat".split()) for _ in range(800)]
    (tmp_path / "book.txt").write_text(" ".join(words))

    def make(model: str = "gpt2", **kwargs: Any) -> RunConfig[Any]:
        train_config = TrainConfig(threads=1, precision="fp32", compile="no", global_batch_size=4)
        return RunConfig(
            data=DataConfig(sources=(str(tmp_path / "book.txt"),)),
            model=kwargs.pop("shape", MODELS[model]),
            train=kwargs.pop("train", train_config),
            **{"size": "xs", "steps": 4, **kwargs},
        )

    return make


class Listener(Tracker):
    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.finished: list[dict[str, Any]] = []
        self.steps: list[int] = []

    def start(self, info: dict[str, Any]) -> None:
        self.started.append(info)

    def step(self, record: dict[str, Any]) -> None:
        self.steps.append(record["step"])

    def finish(self, summary: dict[str, Any]) -> None:
        self.finished.append(summary)


@EVERY
def test_a_run_has_all_its_parts(tmp_path: Path, config: Make, model: str) -> None:
    """The folder is what people keep: each part must be there, and be what the plan says."""
    listener = Listener()
    run = train(config(model), tmp_path / "run", listener)
    present = {p.name for p in run.path.iterdir()}
    assert present >= {
        "README.md",
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "model.safetensors",
        "plan.json",
        "report.html",
        "run.json",
        "tokenizer.json",
    }
    assert not [name for name in present if name.startswith(".tmp")]
    plan = Plan.from_json(run.read_plan(), "plan.json")
    assert plan.config.steps == 4
    weights, metadata = load_weights(run)
    assert metadata["model"] == model
    assert sum(t.numel() for t in weights.values()) == plan.parameters
    assert listener.steps == [1, 2, 3, 4]
    assert [s["parameters"] for s in listener.started] == [plan.parameters]
    assert listener.finished[0]["score"]["bits_per_byte"] > 0
    assert Run.open(run.path) == run


@EVERY
def test_a_tokenizer_of_another_run_is_refused(tmp_path: Path, config: Make, model: str) -> None:
    """It fits as well as not, and every word would be another one."""
    run = train(config(model), tmp_path / "run")
    assert load_model(run)[1].fingerprint
    other = train_tokenizer("char", ["another text altogether"])
    other.save(run.tokenizer_path)
    with pytest.raises(RunError, match="not the one that its model was trained with"):
        load_model(run)
    run.tokenizer_path.unlink()
    with pytest.raises(RunError):
        load_model(run)


def test_a_plan_comes_back_as_it_was(tmp_path: Path, config: Make) -> None:
    """A float rounded on the way is another learning rate after the first kill."""
    request = config(train=TrainConfig(lr=0.1 + 0.2, threads=1, precision="fp32", compile="no"))
    run = train(request, tmp_path / "run")
    plan = Plan.from_json(run.read_plan(), "plan.json")
    assert plan.config.train.lr == 0.1 + 0.2
    assert Plan.from_json(json.loads(json.dumps(plan.to_json())), "again") == plan


def test_without_a_folder_each_run_gets_a_new_one(config: Make) -> None:
    first = train(config())
    second = train(config("lstm"))
    third = train(config())
    names = [run.path.name for run in (first, second, third)]
    assert names == ["book-gpt2-001", "book-lstm-001", "book-gpt2-002"]
    assert all(run.path.parent == Path("runs") for run in (first, second, third))


@EVERY
def test_first_weights_depend_on_the_seed_alone(tmp_path: Path, config: Make, model: str) -> None:
    """Not on what was drawn before, nor on the number of processes."""
    plan = Plan.from_json(train(config(model), tmp_path / "a").read_plan(), "plan.json")
    one = Env(rank=0, world_size=1, device=torch.device("cpu"))
    four = Env(rank=3, world_size=4, device=torch.device("cpu"))
    first = build(plan, one).state_dict()
    torch.rand(100)
    again = build(plan, four).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = build(replace(plan, config=replace(plan.config, seed=1)), one).state_dict()
    embedding = next(name for name in first if "embedding" in name)
    assert not torch.equal(first[embedding], other[embedding])


def test_two_runs_of_one_request_are_equal(tmp_path: Path, config: Make) -> None:
    a, b = (train(config(), tmp_path / name) for name in "ab")
    for name, tensor in load_weights(a)[0].items():
        assert torch.equal(tensor, load_weights(b)[0][name])


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, config: Make) -> None:
    """--out ~/Documents must not be filled with checkpoints."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="not empty and is not a run"):
        train(config(), tmp_path / "home")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_a_run_in_use_is_refused(tmp_path: Path, config: Make) -> None:
    """Two processes that save into one folder would each delete the other's checkpoints."""
    run = train(config(), tmp_path / "run")
    with run.lock(), pytest.raises(RunError, match="another process"):
        train(config(), run.path)


def test_a_failure_before_the_plan_leaves_a_folder_that_can_be_used(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the data, mended, and the same command again: not "another run is there"."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "choose", lambda *args: (_ for _ in ()).throw(DataError("bad")))
        with pytest.raises(DataError):
            train(config(), tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()
    train(config(steps=5), tmp_path / "run")


def test_a_text_shorter_than_the_context_shortens_it(tmp_path: Path, config: Make) -> None:
    """GPT-2's 64 positions, and a valid split of 30 characters."""
    (tmp_path / "book.txt").write_text("abc " * 75)
    run = train(config(shape=GPT2Config(d_model=16, num_layers=1, num_heads=2)), tmp_path / "run")
    assert 1 <= run.read_plan()["config"]["model"]["context_length"] < 64


@pytest.mark.parametrize("content", ["", "a", "\n"])
def test_hardly_any_text_is_refused(tmp_path: Path, config: Make, content: str) -> None:
    (tmp_path / "book.txt").write_text(content)
    with pytest.raises(DataError):
        train(config(), tmp_path / "run")


def test_a_budget_too_small_is_refused_with_one_that_is_not(tmp_path: Path, config: Make) -> None:
    """Zero updates, scored and saved, would look like a run."""
    with pytest.raises(UsageError, match="too small") as caught:
        train(config(steps=0, budget="1s"), tmp_path / "run", begun=1e-9)
    assert "--budget" in caught.value.hint
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_budget_of_work_gives_its_steps(tmp_path: Path, config: Make) -> None:
    run = train(config(steps=0, budget="2e7flop"), tmp_path / "run")
    plan = run.read_plan()
    assert plan["config"]["steps"] == int(2e7 / plan["flops_per_step"]) > 1


def test_a_budget_of_work_that_pays_for_nothing_is_refused(tmp_path: Path, config: Make) -> None:
    """One update trains nothing, and would be called a finished run."""
    with pytest.raises(UsageError, match="are the least"):
        train(config(steps=0, budget="1e6flop"), tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_batch_size": 8, "micro_batch_size": 3}, "multiple"),
        ({"optimizer": "lion"}, "train.optimizer"),
        ({"schedule": "linaer"}, "did you mean 'linear'"),
        ({"precision": "fp16"}, "train.precision"),
        ({"lr": -1.0}, "negative"),
        ({"average": 1.0}, r"\[0, 1\)"),
        ({"average": -0.5}, r"\[0, 1\)"),
        ({"beta1": -0.1}, r"\[0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    ("task", "asked", "steps", "decay"),
    [
        ("classify", -1.0, 1000, 0.99),
        ("pictures", -1.0, 200, 0.95),
        ("pictures", -1.0, 20, 0.5),
        ("classify", -1.0, 3, 0.0),
        ("classify", 0.0, 1000, 0.0),
        ("classify", 0.9, 1000, 0.9),
        ("lm", -1.0, 1000, 0.0),
        ("lm", 0.9, 1000, 0.9),
    ],
)
def test_weights_are_averaged_as_asked_or_as_usual(
    task: str, asked: float, steps: int, decay: float
) -> None:
    found = average_of(TrainConfig(average=asked), find_kind(task), steps)
    assert found == pytest.approx(decay)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "negative"),
        ({"steps": 1, "budget": "3min"}, "not both"),
        ({"size": "xxl"}, "size"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"checkpoint_every": -1}, "negative"),
    ],
)
def test_requests_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RunConfig(data=DataConfig(sources=("a",)), model=GPT2Config(), **settings)
