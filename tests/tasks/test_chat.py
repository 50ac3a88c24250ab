"""The chat task: its loss is of the reply alone, by the template of talking; a resume repeats."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import MODELS, PAIR_MODELS

from ensue.chat import Partner
from ensue.data.dialogues import DialogueConfig
from ensue.data.pairs import PairTokens
from ensue.errors import DataError, StoppedError, UsageError
from ensue.models import step_of, steps_for
from ensue.tasks.chat import Dialogues, prepare, score_replies
from ensue.tasks.task import Material, Task
from ensue.tasks.translate import PAD
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

CHAT_MODELS = {**PAIR_MODELS, "gpt2": MODELS["gpt2"]}
EVERY_CHAT_MODEL = pytest.mark.parametrize("model", list(CHAT_MODELS))
TALKS = [[f"is {i} odd", f"{'no yes'.split()[i % 2]} it is"] * (1 + i % 3) for i in range(60)]


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., RunConfig[Any]]:
    file = tmp_path / "talk.jsonl"
    rows = [
        [{"role": ("user", "bot")[j % 2], "content": text} for j, text in enumerate(talk)]
        for talk in TALKS
    ]
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))

    def make(model: str, context_length: int = 64, **options: Any) -> RunConfig[Any]:
        settings: dict[str, Any] = {"batch_tokens": 96, "precision": "fp32", "threads": 1}
        settings |= {"compile": "no", "eval_every": 4} | options.pop("train", {})
        data = {"valid_fraction": 0.2, "tokenizer": "word"} | options.pop("data", {})
        shape = replace(CHAT_MODELS[model], dropout=options.pop("dropout", 0.0))
        if hasattr(shape, "context_length"):
            shape = replace(shape, context_length=context_length)
        return RunConfig(
            task="chat",
            data=DialogueConfig(sources=(str(file),), **data),
            model=shape,
            train=TrainConfig(**settings),
            **options,
        )

    return make


def prepared(config: RunConfig[Any]) -> tuple[Dialogues, Any, Any]:
    """Give the material of a request, its task, and a model with random weights."""
    material = prepare(config.data, lambda *_: None)
    shape = step_of(config.model).filled(material.filled(config.model), "xs")
    network = step_of(shape).model(shape).eval()
    return material, material.task(replace(config, model=shape), torch.device("cpu")), network


def partner_of(material: Dialogues, network: Any) -> Partner:
    config = material.config
    return Partner(network, material.tgt_tokenizer, config.max_turns, config.max_tokens)


def alone(network: Any, partner: Partner, pairs: PairTokens, row: int) -> torch.Tensor:
    """Give the log probability of each token of a reply, told what a conversation would tell."""
    context, reply = pairs.src_ids(row), torch.tensor(pairs.tgt_ids(row))
    ((prompt,), memory) = partner.begin([context])
    hidden, _ = network(torch.cat([torch.tensor(prompt), reply[:-1]])[None], memory)
    said = network.head(hidden)[0, len(prompt) - 1 :].log_softmax(dim=-1)
    return said.gather(1, reply[:, None])[:, 0]


@EVERY_CHAT_MODEL
@pytest.mark.parametrize("context_length", [64, 12])
def test_the_loss_is_of_the_reply_alone_by_the_template_of_talking(
    request_of: Callable[..., RunConfig[Any]], model: str, context_length: int
) -> None:
    """Computed by hand from what a conversation tells the model; the short one cuts contexts."""
    material, task, network = prepared(request_of(model, context_length))
    partner = partner_of(material, network)
    assert isinstance(task, Task)
    assert isinstance(material, Material)
    with torch.inference_mode():
        for update in range(3):
            (batch,) = task.batches(update)
            expected = [alone(network, partner, task.train, i) for i in task.ids(update)]
            loss = task.loss(network, batch)
            assert loss.count == task.count(batch) == sum(map(len, expected))
            total = -float(sum(one.sum() for one in expected))
            assert float(loss.total) == pytest.approx(total, rel=1e-5)
            for i, row in enumerate(task.ids(update)):
                scored = [t for t in batch.targets[i].tolist() if t != PAD]
                assert scored == task.train.tgt_ids(row)


@EVERY_CHAT_MODEL
@pytest.mark.parametrize("context_length", [64, 20])
def test_a_context_is_cut_in_training_as_in_talking(
    request_of: Callable[..., RunConfig[Any]], model: str, context_length: int
) -> None:
    """A dialogue that is talked through gives the contexts that were learnt from."""
    config = request_of(model, context_length, data={"max_turns": 3, "tokenizer": "byte"})
    material, task, network = prepared(config)
    partner, learnt = partner_of(material, network), set[tuple[int, ...]]()
    for row in range(len(task.train)):
        learnt.add(tuple(task.train.src_ids(row)))
    told = {tuple(partner.context(talk[:i])) for talk in TALKS for i in range(1, len(talk), 2)}
    assert learnt <= told
    assert len(learnt) > 30
    assert max(map(len, learnt)) <= partner.most


@EVERY_CHAT_MODEL
def test_the_score_equals_a_sum_over_single_replies(
    request_of: Callable[..., RunConfig[Any]], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.tasks.translate.EVAL_TOKENS", 60)
    material, task, network = prepared(request_of(model, data={"tokenizer": "byte"}))
    partner, valid = partner_of(material, network), task.valid
    with torch.inference_mode():
        single = [alone(network, partner, valid, row) for row in range(len(valid))]
    score = task.evaluate(network)
    count = sum(map(len, single))
    assert (score.targets, score.sampled) == (count, False)
    assert score.loss == pytest.approx(-float(sum(one.sum() for one in single)) / count, rel=1e-5)
    assert score.bytes == count - len(valid)  # a byte tokenizer: all but the ends
    again = score_replies(network, network.config, valid, material.tgt_tokenizer)
    assert again.loss == pytest.approx(score.loss, rel=1e-6)
    assert 0 < task.evaluate(network, max_targets=count // 3).targets < count


def test_replies_that_do_not_fit_are_left_out_and_said(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    material, task, _ = prepared(request_of("gpt2", 18, data={"tokenizer": "byte"}))
    lengths = task.train.tgt_lengths
    assert int(lengths.max()) == 9  # "no it is" and its end; the others have 10
    assert len(lengths) < len(material.dialogues.train.replies)
    assert int((task.train.src_lengths + lengths).max()) == 18
    with pytest.raises(DataError, match="longer than the 4 tokens that the model can write"):
        prepared(request_of("gpt2", 8, data={"tokenizer": "byte"}))
    options = {"tokenizer": "byte", "max_tokens": 9}
    material, _, _ = prepared(request_of("seq2seq", data=options))
    assert any("have more than 9 tokens (--max-tokens)" in note for note in material.notes)
    assert dict(material.facts())["contexts"] == "the last 4 turns, at most 9 tokens"
    assert "held out" in dict(material.facts())["dialogues"]


def test_a_split_without_a_short_reply_is_refused(
    request_of: Callable[..., RunConfig[Any]], tmp_path: Path
) -> None:
    """With nothing to validate on, the largest of no lengths was asked for."""
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"dialog": ["why", "because " * 9]}) + "\n")
    for data, name in (
        ({"max_tokens": 2}, "train"),
        ({"max_tokens": 9, "valid": (str(long),)}, "valid"),
    ):
        with pytest.raises(DataError, match=f"all replies of {name} have more than") as caught:
            prepared(request_of("seq2seq", data=data))
        assert f"--max-tokens {4 * data['max_tokens']}" in caught.value.hint


def test_an_update_is_shown_with_its_turns(request_of: Callable[..., RunConfig[Any]]) -> None:
    for model in ("gpt2", "transformer"):
        _, task, _ = prepared(request_of(model))
        lines = [line for update in range(9) for line in task.describe(update)]
        assert any(" odd | yes it is | is " in line for line in lines)
        assert all(line.split(" -> ")[1] in ("yes it is", "no it is") for line in lines)


def test_four_models_can_learn_to_answer() -> None:
    assert {step.name for step in steps_for("chat")} == set(CHAT_MODELS)
    with pytest.raises(UsageError, match="lstm cannot learn the task 'chat'"):
        RunConfig(task="chat", data=DialogueConfig(sources=("a",)), model=MODELS["lstm"])


class Stopper(Tracker):
    """Sends this process a signal after some update."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("model", ["gpt2", "seq2seq_attention"])
def test_a_stopped_run_on_dialogues_goes_on_to_the_last_bit(
    tmp_path: Path, request_of: Callable[..., RunConfig[Any]], model: str
) -> None:
    request = request_of(model, dropout=0.1, steps=9, size="xs", checkpoint_every=4)
    reference = train(request, tmp_path / "reference")
    with pytest.raises(StoppedError):
        train(request, tmp_path / "run", Stopper(6))
    run = train(request, tmp_path / "run")
    ours, theirs = load_weights(run)[0], load_weights(reference)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [
        [r["loss"] for r in one.read_metrics() if r["kind"] == "step"] for one in (run, reference)
    ]
    assert losses[0] == losses[1]
