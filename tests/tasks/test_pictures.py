"""Picture classifiers: what is scored, how pictures are changed, and that both models learn."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import PICTURE_MODELS

from ensue.data.labels import UNKNOWN
from ensue.data.order import RowOrder, random_shares
from ensue.data.pictures import PicturesConfig
from ensue.errors import UsageError
from ensue.models import step_of
from ensue.tasks.labels import (
    calibration_error,
    class_loss,
    class_score,
    class_scores,
    class_weights,
    confusion,
    fitted_temperature,
)
from ensue.tasks.measures import ACCURACY, CALIBRATION, LOSS, MACRO_F1, TEMPERATURE
from ensue.tasks.pictures import Pictures, changed, prepare
from ensue.training.config import RunConfig, TrainConfig

CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Bars: upright ones, lying ones, and none; in grey of two strengths."""
    generator = np.random.default_rng(0)
    pictures, labels = np.zeros((90, 12, 12), np.uint8), []
    for i in range(90):
        place, what = int(generator.integers(2, 10)), i % 3
        if what == 0:
            pictures[i, :, place] = 200
        elif what == 1:
            pictures[i, place, :] = 200
        pictures[i] += generator.integers(0, 40, (12, 12)).astype(np.uint8)
        labels.append(["upright", "lying", "none"][what])
    np.savez(tmp_path / "bars.npz", x=pictures, y=labels)
    return tmp_path / "bars.npz"


def config_of(source: Path, model: str = "mlp", **settings: Any) -> RunConfig[Any]:
    data = {name: settings.pop(name) for name in ("elastic", "cutout", "flip") if name in settings}
    train = {"global_batch_size": 12, "threads": 1, "precision": "fp32", **settings}
    return RunConfig(
        task="pictures",
        data=PicturesConfig(sources=(str(source),), **data),
        model=PICTURE_MODELS[model],
        size="xs",
        steps=10,
        train=TrainConfig(**train),
    )


def made(source: Path, model: str = "mlp", **settings: Any) -> tuple[Pictures, Any, Any]:
    config = config_of(source, model, **settings)
    material = prepare(config.data, lambda *_: None)
    shape = material.filled(config.model)
    config = replace(config, model=shape)
    return material, config, step_of(shape).model(shape)


def test_an_epoch_visits_every_row_once_and_another_in_another_order() -> None:
    order = RowOrder(17, seed=3)
    first, second = order.rows(0, 17), order.rows(17, 17)
    assert sorted(first) == sorted(second) == list(range(17))
    assert (first != second).any()
    assert (order.rows(5, 20) == np.concatenate([first, second])[5:25]).all()
    assert (RowOrder(17, seed=4).rows(0, 17) != first).any()


def test_drawn_numbers_are_even_and_belong_to_their_row() -> None:
    drawn = random_shares(1, 0, 4000, 3)
    assert 0 <= drawn.min() < 0.01
    assert 0.99 < drawn.max() < 1
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.03
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.05
    assert (random_shares(1, 10, 5, 3) == drawn[10:15]).all()
    assert (random_shares(2, 0, 5, 3) != drawn[:5]).any()


CHANGES = {
    "shift": {"shift": 0.2},
    "rotate": {"rotate": 45.0},
    "zoom": {"zoom": 0.3},
    "elastic": {"elastic": 0.1},
    "cutout": {"cutout": 0.4},
    "flip": {"flip": True},
}
STILL = {"shift": 0.0, "rotate": 0.0, "zoom": 0.0}


@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_change_depends_on_seed_and_place_alone(kind: str) -> None:
    """A resumed run, and any cut into micro-batches, must see the same pictures."""
    how = PicturesConfig(sources=("a",), **{**STILL, **CHANGES[kind]})
    pictures = torch.randn(6, 2, 9, 11)
    whole = changed(pictures, how, 5, 100)
    assert whole.shape == pictures.shape
    assert not torch.equal(whole, pictures)
    parts = [changed(pictures[i : i + 2], how, 5, 100 + i) for i in (0, 2, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, changed(pictures, how, 6, 100))
    assert not torch.equal(whole, changed(pictures, how, 5, 106))


def test_what_is_not_asked_for_does_not_happen() -> None:
    pictures = torch.randn(4, 1, 8, 8)
    assert changed(pictures, PicturesConfig(sources=("a",), **STILL), 0, 0) is pictures


def test_a_mirrored_picture_is_the_picture_mirrored() -> None:
    pictures = torch.randn(40, 1, 6, 8)
    after = changed(pictures, PicturesConfig(sources=("a",), **STILL, flip=True), 0, 0)
    mirrored = [
        torch.allclose(a, b.flip(-1), atol=1e-5) for a, b in zip(after, pictures, strict=True)
    ]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(after, pictures, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 10 < sum(mirrored) < 30


def test_an_oblong_picture_is_turned_and_not_sheared() -> None:
    """On a plane of -1 to 1 both ways, an oblong picture would be sheared."""
    height, width = 21, 41
    y, x = torch.meshgrid(torch.arange(height) - 10.0, torch.arange(width) - 20.0, indexing="ij")
    disc = (-(x**2 + y**2) / 20).exp()[None, None]
    turned = changed(disc, PicturesConfig(sources=("a",), **{**STILL, "rotate": 180.0}), 1, 3)
    assert float((turned - disc).abs().max()) < 0.03  # what is round stays as it is


def test_valid_is_scored_as_it_is_and_the_score_is_torchs(source: Path) -> None:
    material, config, network = made(source, elastic=0.2, label_smoothing=0.2)
    task = material.task(config, CPU)
    with torch.no_grad():
        network.head.weight.normal_()
    score = task.evaluate(network)
    valid = material.gallery.valid
    pictures = material.showing.shown(valid.pixels[valid.rows])
    assert float(pictures.mean()) == pytest.approx(0, abs=0.1)
    logits, labels = network.eval()(pictures).detach(), torch.from_numpy(valid.labels)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert score[ACCURACY] == pytest.approx(
        100 * float((logits.argmax(1) == labels).float().mean())
    )
    assert score.targets == len(valid) == 9
    assert task.evaluate(network, 4).targets == 4
    assert task.evaluate(network, 4).sampled
    assert not score.sampled


def test_micro_batches_are_the_batch(source: Path) -> None:
    material, config, _ = made(source, micro_batch_size=4)
    whole = material.task(replace(config, train=replace(config.train, micro_batch_size=12)), CPU)
    parts = material.task(config, CPU).batches(2)
    (one,) = whole.batches(2)
    assert [len(part.labels) for part in parts] == [4, 4, 4]
    assert torch.equal(torch.cat([p.pictures for p in parts]), one.pictures)
    assert torch.equal(torch.cat([p.labels for p in parts]), one.labels)
    ranks = [whole.batches(2, rank, 2)[0].pictures for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), one.pictures)
    assert whole.ids(2) == list(range(24, 36))


def test_the_loss_is_torchs_with_smoothing_and_weights() -> None:
    logits, labels = torch.randn(8, 3), torch.tensor([0, 1, 2, 0, 0, 0, 1, 0])
    weights = class_weights(labels.numpy(), 3, 1.0)
    assert weights is not None
    assert float(weights[labels].mean()) == pytest.approx(1)
    assert float(weights[2] / weights[0]) == pytest.approx(5)
    loss = class_loss(logits, labels, 0.1, weights)
    expected = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=0.1)
    assert (float(loss.total), loss.count) == (float(expected), 8)
    assert class_weights(labels.numpy(), 3, 0.0) is None


def test_the_temperature_is_the_best_one() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2000, 5, generator=generator)
    labels = torch.distributions.Categorical(logits=truth).sample()
    found = fitted_temperature(4 * truth, labels)
    assert found == pytest.approx(4, rel=0.1)

    def loss(temperature: float) -> float:
        return float(F.cross_entropy(4 * truth / temperature, labels))

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))


def test_the_calibration_error_is_the_gap() -> None:
    confidence = np.repeat([0.6, 0.9], 300)
    right = np.concatenate([np.arange(300) % 10 < 6, np.arange(300) % 10 < 7])
    assert calibration_error(confidence, right) == pytest.approx(0.1, abs=0.005)


def test_f1_is_counted_by_class() -> None:
    labels, said = np.array([0, 0, 0, 1, 1, UNKNOWN]), np.array([0, 0, 1, 1, 0, 1])
    zero, one, two = class_scores(labels, said, ["a", "b", "c"])
    assert (zero.precision, zero.recall, zero.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (one.precision, one.recall, one.f1) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert math.isnan(two.f1)
    assert confusion(labels, said, 3) == ((2, 1, 0), (1, 1, 0), (0, 0, 0))
    logits = F.one_hot(torch.from_numpy(said), 3).float() * 9
    score = class_score(logits, labels, split="test", fingerprint="f", temperature=1.0)
    assert score[ACCURACY] == pytest.approx(50)
    assert score[MACRO_F1] == pytest.approx(100 * (2 / 3 + 2 / 5) / 2)
    assert {CALIBRATION.key, TEMPERATURE.key} <= score.measures.keys()
    assert score.cost == score[LOSS] == score.loss


@pytest.mark.parametrize("model", list(PICTURE_MODELS))
def test_rows_do_not_see_each_other_and_eight_are_learnt_by_heart(source: Path, model: str) -> None:
    material, _, network = made(source, model)
    pixels = material.gallery.train.pixels[material.gallery.train.rows[:8]]
    pictures = material.showing.shown(pixels)
    labels = torch.from_numpy(material.gallery.train.labels[:8])
    with torch.no_grad():
        network.head.weight.normal_()
    together = network.eval()(pictures)
    alone = torch.cat([network(picture[None]) for picture in pictures])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(150):
        loss = class_loss(network.train()(pictures), labels).total / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01
    assert network.eval()(pictures).argmax(dim=1).tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_tokens": 9}, "batch_tokens"),
        ({"word_dropout": 0.1}, "word_dropout"),
    ],
)
def test_settings_of_other_tasks_are_refused(
    source: Path, settings: dict[str, Any], words: str
) -> None:
    material, config, _ = made(source)
    with pytest.raises(UsageError, match=words):
        material.sized(replace(config.train, **settings), config.model, 2048, 1)
    with pytest.raises(UsageError, match="keep weights by"):
        config_of(source, keep_by="bleu")
    with pytest.raises(UsageError, match=r"model\.classes is 7"):
        material.filled(replace(PICTURE_MODELS["mlp"], classes=7))


def test_an_update_is_shown_as_a_person_reads_it(source: Path) -> None:
    material, config, _ = made(source)
    first = material.task(config, CPU).describe(0)[0].splitlines()
    assert first[0] in material.gallery.classes
    assert len(first) == 7  # 12 pixels of height, characters being twice as high as wide
    facts = dict(material.facts())
    assert "81 to learn from, 9 held out; 12 by 12 pixels, grey" in facts["pictures"]
    assert facts["classes"] == "lying (27), none (27), upright (27)"
