"""``--from RUN``: its weights, shape and tokenizer; what contradicts them; resume at any moment."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import MODELS

from ensue.cli import main
from ensue.data.corpus import DataConfig
from ensue.data.labelled import LabelledConfig
from ensue.data.masked import MaskedConfig
from ensue.errors import RunError, StoppedError, UsageError
from ensue.models.bert import MaskedLMConfig, TextBertConfig
from ensue.models.lstm import LSTMConfig
from ensue.runs import Run
from ensue.training import session
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.plan import Plan
from ensue.training.session import begin_with, build, load_network, train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

TRAIN = TrainConfig(threads=1, precision="fp32", compile="no", eval_tokens=64)
WORDS = "the a cat dog sat ran on far mat under tree".split()
Make = Callable[..., RunConfig[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, labelled texts, and a run that was pre-trained."""
    path = tmp_path_factory.mktemp("begin")
    chosen = random.Random(0)
    lines = [" ".join(chosen.choices(WORDS, k=3 + i % 7)) for i in range(200)]
    (path / "book.txt").write_text("\n\n".join(lines))
    (path / "other.txt").write_text("\n\n".join(reversed(lines[:150])))
    rows = "".join(f"{line},{'first' if line < 'd' else 'last'}\n" for line in lines)
    (path / "labels.csv").write_text(f"text,label\n{rows}")
    cache = str(path / "cache")
    shape = MaskedLMConfig(context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=24)
    data = MaskedConfig(sources=(str(path / "book.txt"),), cache=cache, next_sentence=True)
    config: RunConfig[Any] = RunConfig(
        task="mlm", data=data, model=shape, size="xs", steps=3, train=TRAIN
    )
    train(config, path / "pre")
    text = DataConfig(sources=(str(path / "book.txt"),), cache=cache)
    train(RunConfig(data=text, model=MODELS["gpt2"], size="xs", steps=3, train=TRAIN), path / "lm")
    return path


@pytest.fixture
def classify(folder: Path, tmp_path: Path) -> Make:
    """Requests of a classifier that begins with the weights of a copy of that run."""
    shutil.copytree(folder / "pre", tmp_path / "pre")

    def make(**kwargs: Any) -> RunConfig[Any]:
        data = {"sources": (str(folder / "labels.csv"),), "cache": str(folder / "cache")}
        settings = replace(TRAIN, global_batch_size=8, adversarial=0.0)
        return RunConfig(
            task="classify",
            data=LabelledConfig(**data, **kwargs.pop("data", {})),
            model=kwargs.pop("model", TextBertConfig(dropout=0.1)),
            train=settings,
            start=kwargs.pop("start", str(tmp_path / "pre")),
            **{"steps": 6, "checkpoint_every": 2, **kwargs},
        )

    return make


class Heard(Tracker):
    """Keeps notices; stops where it is told to."""

    def __init__(self, stop: int = 0) -> None:
        self.said: list[str] = []
        self.stop = stop

    def notice(self, text: str) -> None:
        self.said.append(text)

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.stop:
            raise KeyboardInterrupt


def test_the_encoder_is_the_runs_and_the_head_is_drawn(
    classify: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that does not match would leave a part as drawn, and the score a little worse."""
    seen: dict[str, torch.Tensor] = {}
    heard = Heard()

    class Loop(session.Loop):
        def fit(self, *args: Any) -> Any:
            seen.update({n: p.detach().clone() for n, p in self.model.named_parameters()})
            return super().fit(*args)

    monkeypatch.setattr(session, "Loop", Loop)
    run = train(classify(), tmp_path / "run", heard)
    theirs = load_weights(Run.open(tmp_path / "pre"))[0]
    shared = {name for name in seen if name.startswith("bert.")}
    assert len(shared) > 30
    for name in shared:
        assert torch.equal(seen[name], theirs[name]), name
    plan = Plan.from_json(run.read_plan(), "plan")
    drawn = dict(build(plan, session.start_env()).named_parameters())
    assert torch.equal(seen["head.weight"], drawn["head.weight"])
    assert seen.keys() - shared == {"head.weight", "head.bias"}
    (told,) = [said for said in heard.said if "weights are those of" in said]
    assert f"{len(shared)} of {len(seen)} weights are those of {tmp_path / 'pre'}" in told
    assert told.endswith("drawn anew: head")


def test_the_encoder_learns_against_short_shifts(classify: Make, tmp_path: Path) -> None:
    """Against those that suit the CNN it never left chance with all labels of SST-2."""
    request = classify()
    usual = replace(request, train=replace(request.train, adversarial=-1.0))
    plan = train(usual, tmp_path / "run").read_plan()
    assert plan["config"]["train"]["adversarial"] == pytest.approx(0.1)


def test_shape_and_tokenizer_are_the_runs(classify: Make, tmp_path: Path) -> None:
    run = train(classify(), tmp_path / "run")
    plan = Plan.from_json(run.read_plan(), "plan")
    model = plan.config.model
    assert (model.d_model, model.num_layers, model.d_ff, model.context_length) == (16, 2, 24, 16)
    assert (model.classes, model.dropout) == (2, 0.1)
    assert plan.config.size == "xs"
    assert run.tokenizer_path.read_bytes() == (tmp_path / "pre" / "tokenizer.json").read_bytes()
    assert plan.start
    assert load_network(run)[0].config == model


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "size": ({"size": "s"}, UsageError, "size 's' is asked for"),
    "width": ({"model": TextBertConfig(d_model=32)}, UsageError, "model.d_model is 32, and 16"),
    "layers": ({"model": TextBertConfig(num_layers=1)}, UsageError, "model.num_layers is 1, and 2"),
    "tokenizer": (
        {"data": {"tokenizer": "wordpiece-cased"}},
        UsageError,
        "its own tokenizer alone",
    ),
    "pieces": ({"data": {"vocab_size": 500}}, UsageError, "its own tokenizer alone"),
    "missing": ({"start": "no/such/run"}, RunError, "no/such/run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_the_run_is_refused(name: str, classify: Make, tmp_path: Path) -> None:
    """Heeded in silence, one of the two would be given up, and nobody would know which."""
    asked, error, why = REFUSED[name]
    with pytest.raises(error, match=why):
        train(classify(**asked), tmp_path / "run")
    assert not (tmp_path / "run" / "plan.json").exists()


def test_the_same_shape_asked_for_is_no_contradiction(classify: Make, tmp_path: Path) -> None:
    train(classify(model=TextBertConfig(d_model=16, num_layers=2), steps=1), tmp_path / "run")


def test_another_model_is_refused_with_the_one_that_fits(folder: Path, tmp_path: Path) -> None:
    data = DataConfig(sources=(str(folder / "book.txt"),), cache=str(folder / "cache"))
    config: RunConfig[Any] = RunConfig(
        data=data, model=LSTMConfig(), steps=2, train=TRAIN, start=str(folder / "lm")
    )
    with pytest.raises(UsageError, match="is of the model gpt2, and lstm is asked for") as caught:
        train(config, tmp_path / "run")
    assert "--model gpt2" in str(caught.value.hint)


def test_an_unfinished_run_is_refused(classify: Make, tmp_path: Path) -> None:
    (tmp_path / "pre" / "model.safetensors").unlink()
    with pytest.raises(RunError):
        train(classify(), tmp_path / "run")


@pytest.mark.parametrize("stop", [1, 3])
def test_stopped_and_begun_again_it_loses_no_bit(classify: Make, tmp_path: Path, stop: int) -> None:
    """Stopped before its first checkpoint it must take the weights again, later not."""
    whole = train(classify(), tmp_path / "whole")
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        train(classify(), tmp_path / "run", Heard(stop))
    if stop == 1:
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    heard = Heard()
    run = train(classify(), tmp_path / "run", heard)
    assert any("weights are those of" in said for said in heard.said) == (stop == 1)
    ours, theirs = load_weights(run)[0], load_weights(whole)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_another_request_does_not_resume(classify: Make, tmp_path: Path) -> None:
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        train(classify(), tmp_path / "run", Heard(3))
    with pytest.raises(RunError, match=r"start: .* -> ''"):
        train(classify(start=""), tmp_path / "run")


def test_a_run_that_changed_in_between_is_refused(
    classify: Make, folder: Path, tmp_path: Path
) -> None:
    """Trained again in the same folder it has other weights, and the result would be another's."""
    config = classify()
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        train(config, tmp_path / "run", Heard(1))
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    shutil.rmtree(tmp_path / "pre")
    plan = Plan.from_json(Run.open(folder / "pre").read_plan(), "plan")
    again = replace(classify_source(plan), seed=7)
    train(again, tmp_path / "pre")
    with pytest.raises(RunError, match="has other weights than when this run was begun"):
        train(config, tmp_path / "run")


def classify_source(plan: Plan) -> RunConfig[Any]:
    """The request that made the pre-trained run, resolved."""
    return replace(plan.config, data=replace(plan.config.data))


def test_with_a_checkpoint_the_run_is_no_longer_needed(
    classify: Make, folder: Path, tmp_path: Path
) -> None:
    """A checkpoint holds all weights: a disk that was tidied up must not end a training."""
    whole = train(classify(), tmp_path / "whole")
    with pytest.raises((StoppedError, KeyboardInterrupt)):
        train(classify(), tmp_path / "run", Heard(3))
    shutil.rmtree(tmp_path / "pre")
    run = train(classify(), tmp_path / "run")
    ours, theirs = load_weights(run)[0], load_weights(whole)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_that_are_gone_are_named(classify: Make, tmp_path: Path) -> None:
    run = train(classify(steps=1), tmp_path / "run")
    plan = Plan.from_json(run.read_plan(), "plan")
    shutil.rmtree(tmp_path / "pre")
    with pytest.raises(RunError, match="pre"):
        begin_with(build(plan, session.start_env()), plan, Tracker())


def test_a_language_model_goes_on_with_another_text(folder: Path, tmp_path: Path) -> None:
    """All of its weights are those of the run: nothing is drawn."""
    data = DataConfig(sources=(str(folder / "other.txt"),), cache=str(folder / "cache"))
    heard = Heard()
    config: RunConfig[Any] = RunConfig(
        data=data, model=type(MODELS["gpt2"])(), steps=2, train=TRAIN, start=str(folder / "lm")
    )
    run = train(config, tmp_path / "run", heard)
    (told,) = [said for said in heard.said if "weights are those of" in said]
    assert "drawn anew" not in told
    first = Run.open(folder / "lm")
    assert run.tokenizer_path.read_bytes() == first.tokenizer_path.read_bytes()


def test_the_command_takes_model_and_task_from_the_run_and_the_data(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command goes on, also when the run that it began with is gone by then."""
    shutil.copytree(folder / "pre", tmp_path / "pre")
    quick = ["--steps", "2", "--train.threads", "1", "--cache", str(folder / "cache")]
    words = [*("--from", str(tmp_path / "pre")), *quick, "--out", str(tmp_path / "run")]
    assert main(["train", str(folder / "labels.csv"), *words]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "weights are those of" in said
    assert "drawn anew: head" in said
    shutil.rmtree(tmp_path / "pre")
    assert main(["train", str(folder / "labels.csv"), *words]) == 0
    assert "already trained to its end" in " ".join(capsys.readouterr().err.split())
    more = ["--from", str(folder / "pre"), *quick, "--out", str(tmp_path / "more")]
    assert main(["train", str(folder / "other.txt"), *more]) == 0
    plan = Plan.from_json(Run.open(tmp_path / "more").read_plan(), "plan")
    assert plan.config.task == "mlm"
    refused = [*("--from", str(folder / "pre")), *quick, "--size", "s"]
    assert main(["train", str(folder / "labels.csv"), *refused]) == 2
    assert "Leave out --size" in " ".join(capsys.readouterr().err.split())
