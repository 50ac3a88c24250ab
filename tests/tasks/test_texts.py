"""Text classifiers: what they read, that padding is nothing, that all of them learn."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import TEXT_MODELS

from ensue.data.labelled import LabelledConfig
from ensue.errors import UsageError
from ensue.models import step_of, steps_for
from ensue.models.mlp import NgramMLP
from ensue.nn.words import Bag, Words
from ensue.tasks.classify import (
    TextBatch,
    TextRows,
    Texts,
    adversarial_loss,
    prepare,
    shown,
    text_logits,
    text_rows,
)
from ensue.tasks.labels import class_loss
from ensue.tasks.measures import ACCURACY
from ensue.training.config import RunConfig, TrainConfig

CPU = torch.device("cpu")
EVERY = pytest.mark.parametrize("model", list(TEXT_MODELS))
ANIMALS = ("cat", "dog", "owl")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Sentences of several lengths about three animals."""
    generator = np.random.default_rng(0)
    words = "the a very old and big grey one that I saw there".split()
    lines = ["text,label"]
    for i in range(90):
        chosen = generator.choice(words, generator.integers(1, 12)).tolist()
        chosen.insert(int(generator.integers(0, len(chosen) + 1)), ANIMALS[i % 3])
        lines.append(f"{' '.join(chosen)},{ANIMALS[i % 3]}")
    (tmp_path / "animals.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "animals.csv"


def made(source: Path, model: str = "cnn", **settings: Any) -> tuple[Texts, Any, Any]:
    train = {"global_batch_size": 12, "threads": 1, "precision": "fp32", **settings}
    config: RunConfig[Any] = RunConfig(
        task="classify",
        data=LabelledConfig(sources=(str(source),)),
        model=TEXT_MODELS[model],
        size="xs",
        steps=10,
        train=TrainConfig(**train),
    )
    material = prepare(config.data, lambda *_: None)
    shape = material.filled(config.model)
    return material, replace(config, model=shape), step_of(shape).model(shape)


def rows_of(material: Texts, config: Any, texts: list[str]) -> TextRows:
    return text_rows(texts, material.reading, config.model, material.learnt(config.model))


def awake(network: Any) -> Any:
    """Give a network whose last layer says something."""
    with torch.no_grad():
        head = getattr(network, "head", None)
        (head.weight if head is not None else network.buckets.weight).normal_()
    return network.eval()


@EVERY
def test_rows_do_not_see_each_other_nor_what_lies_behind_their_ends(
    source: Path, model: str
) -> None:
    material, config, network = made(source, model)
    texts = material.labelled.train.texts[:9]
    awake(network)
    rows = rows_of(material, config, [*texts, "", "x " * 40])
    together = text_logits(network, rows, np.arange(11), CPU)
    for i, text in enumerate([*texts, "", "x " * 40]):
        alone = text_logits(network, rows_of(material, config, [text]), np.arange(1), CPU)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(together).all()


@EVERY
def test_eight_texts_are_learnt_by_heart(source: Path, model: str) -> None:
    material, config, network = made(source, model)
    task = material.task(replace(config, train=replace(config.train, global_batch_size=8)), CPU)
    batch = task.batch(0, 8)
    rate = 1e-2 if model == "bert" else 2e-2  # at which attention still learns
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    for _ in range(60):
        loss = task.loss(network.train(), batch).total / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert network.eval()(*batch.inputs).argmax(dim=1).tolist() == batch.labels.tolist()


@EVERY
def test_bf16_is_near_fp32(source: Path, model: str) -> None:
    from ensue.nn.precision import precision

    material, config, network = made(source, model)
    batch = material.task(config, CPU).batch(0, 12)
    awake(network)
    with torch.no_grad():
        exact = network(*batch.inputs)
        with precision("bf16"):
            rough = network(*batch.inputs)
    assert float((exact - rough.float()).norm() / exact.norm()) < 0.03


def test_the_score_is_torchs_and_a_sample_is_said(source: Path) -> None:
    material, config, network = made(source)
    task = material.task(config, CPU)
    score = task.evaluate(awake(network))
    valid = material.labelled.valid
    rows = rows_of(material, config, list(valid.texts))
    logits = text_logits(network, rows, np.arange(len(valid)), CPU)
    labels = torch.from_numpy(valid.labels)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    right = float((logits.argmax(1) == labels).float().mean())
    assert score[ACCURACY] == pytest.approx(100 * right)
    assert score.targets == len(valid) == 9
    assert task.evaluate(network, 4).sampled


@pytest.mark.parametrize("word_dropout", [0.0, 0.3])
def test_micro_batches_and_processes_share_the_batch(source: Path, word_dropout: float) -> None:
    material, config, network = made(source, micro_batch_size=4, word_dropout=word_dropout)
    whole = material.task(replace(config, train=replace(config.train, micro_batch_size=12)), CPU)
    parts = material.task(config, CPU).batches(2)
    (one,) = whole.batches(2)
    assert [len(part.labels) for part in parts] == [4, 4, 4]
    assert torch.equal(torch.cat([p.labels for p in parts]), one.labels)
    awake(network)
    said = torch.cat([network(*part.inputs) for part in parts])
    torch.testing.assert_close(said, network(*one.inputs), rtol=1e-4, atol=1e-5)
    ranks = [whole.batches(2, rank, 2)[0].labels for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), one.labels)


def test_words_are_dropped_anew_at_each_reading(source: Path) -> None:
    material, config, _ = made(source, word_dropout=0.5)
    task = material.task(config, CPU)
    shown = [(task.batch(i * 12, 12).inputs.ids > 0).sum().item() for i in (0, 0, 1)]
    plain = material.task(replace(config, train=replace(config.train, word_dropout=0.0)), CPU)
    whole = (plain.batch(0, 12).inputs.ids > 0).sum().item()
    assert shown[0] == shown[1] < 0.7 * whole
    assert task.batch(0, 12).inputs.length.tolist() == plain.batch(0, 12).inputs.length.tolist()


@pytest.mark.parametrize("model", ["cnn", "rnn", "lstm"])
def test_the_worst_shift_harms_more_than_any_other_of_its_length(source: Path, model: str) -> None:
    material, config, network = made(source, model)
    batch = material.task(config, CPU).batch(0, 12)
    awake(network)
    plain = class_loss(network(*batch.inputs), batch.labels).total.item()
    size = 0.05
    both = adversarial_loss(network, batch, size, (0.0, None))
    harmed = 2 * both.total.item() - plain
    assert both.count == 12
    assert harmed > plain
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        shift = torch.randn(*batch.inputs.ids.shape, 16, generator=generator)
        shift *= size * 4 / shift.flatten(1).norm(dim=1)[:, None, None]
        assert class_loss(network(*batch.inputs, shift), batch.labels).total.item() < harmed


def test_what_is_harmed_is_learnt_too(source: Path) -> None:
    material, config, network = made(source, adversarial=0.3)
    task = material.task(config, CPU)
    batch = task.batch(0, 12)
    loss = task.loss(awake(network).train(), batch)
    loss.total.backward()
    grads = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    with torch.no_grad():
        assert float(task.loss(network.eval(), batch).total) < float(loss.total)
    bags, bag_config, bag = made(source, "mlp", adversarial=0.3)
    assert bags.task(bag_config, CPU).loss(bag, bags.task(bag_config, CPU).batch(0, 4)).count == 4


def test_a_model_without_a_hidden_layer_is_linear(source: Path) -> None:
    material, config, _ = made(source, "mlp")
    network = NgramMLP(replace(config.model, hidden=False))
    awake(network)
    inputs = shown(rows_of(material, config, ["the cat", "an owl"]), np.arange(2))
    assert isinstance(inputs, Bag)
    said = network(*inputs) - network.bias
    twice = network(inputs.ids, inputs.starts, 2 * inputs.weights) - network.bias
    torch.testing.assert_close(2 * said, twice)


def test_a_word_that_training_never_saw_is_read_by_its_parts(source: Path) -> None:
    material, config, _ = made(source)
    known, slip, none = (
        shown(rows_of(material, config, [word]), np.arange(1)) for word in ("dogs", "dogz", "dogs")
    )
    assert isinstance(known, Words)
    assert isinstance(slip, Words)
    assert isinstance(none, Words)
    assert torch.equal(known.grams, none.grams)
    assert len({*known.grams[1].tolist()} & {*slip.grams[1].tolist()} - {0}) >= 4


def test_every_step_of_the_lineage_up_to_the_lstm_classifies() -> None:
    assert [step.name for step in steps_for("classify")][:4] == ["mlp", "cnn", "rnn", "lstm"]


def test_settings_of_other_tasks_are_refused(source: Path) -> None:
    material, config, _ = made(source)
    with pytest.raises(UsageError, match="batch_tokens"):
        material.sized(replace(config.train, batch_tokens=9), config.model, 2048, 1)
    with pytest.raises(UsageError, match="not a multiple of the 5 processes"):
        material.sized(config.train, config.model, 2048, 5)
    with pytest.raises(UsageError, match=r"model\.classes is 7"):
        material.filled(replace(TEXT_MODELS["cnn"], classes=7))
    with pytest.raises(UsageError, match="shortest_gram is 6"):
        replace(TEXT_MODELS["cnn"], shortest_gram=6)


def test_what_there_is_is_said(source: Path) -> None:
    material, config, _ = made(source)
    facts = dict(material.facts())
    assert "81 to learn from, 9 held out" in facts["texts"]
    assert facts["classes"] == "cat (27), dog (27), owl (27)"
    first = material.task(config, CPU).describe(0)[0]
    label, _, text = first.partition(": ")
    assert label in text
    batch = material.task(config, CPU).batch(0, 4)
    assert isinstance(batch, TextBatch)
    shape = material.shapes(config)[0]
    assert (shape.rows, 1 <= shape.steps <= 12) == (12, True)
