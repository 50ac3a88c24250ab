"""Masked language modelling: sums and counts, padding is nothing, it is learnt and scored."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import MASKED

from ensue.data.masked import NOT_ASKED, MaskedConfig
from ensue.errors import DataError, UsageError
from ensue.models import step_of, steps_for
from ensue.models.bert import MaskedLM, TextBert, TextBertConfig
from ensue.tasks import mlm
from ensue.tasks.measures import ACCURACY, FOLLOWING
from ensue.tasks.mlm import MaskedLanguageModelling, MaskedRows, MaskedText, prepare, score
from ensue.tokenizers import MASK
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train

CPU = torch.device("cpu")
NEXT = pytest.mark.parametrize("next_sentence", [False, True])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of 1 to 40 words, each with words of its own half of the alphabet."""
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("text")
    words = "the old grey cat saw a very big dog there and then ran far away from it".split()
    lines = [" ".join(generator.choice(words, generator.integers(1, 40))) for _ in range(120)]
    rows = "".join(f'{{"text": "{line}"}}\n' for line in lines)
    (folder / "text.jsonl").write_text(rows)
    return folder / "text.jsonl"


def made(
    source: Path, next_sentence: bool = False, **settings: Any
) -> tuple[MaskedText, RunConfig[Any], Any]:
    data = MaskedConfig(
        sources=(str(source),), cache=str(source.parent / "cache"), next_sentence=next_sentence
    )
    train = {"batch_tokens": 96, "threads": 1, "precision": "fp32", **settings}
    material = prepare(data, lambda *_: None)
    shape = material.filled(MASKED)
    config: RunConfig[Any] = RunConfig(
        task="mlm", data=data, model=shape, size="xs", steps=5, train=TrainConfig(**train)
    )
    torch.manual_seed(0)
    return material, config, MaskedLM(shape)


def task_of(material: MaskedText, config: RunConfig[Any]) -> MaskedLanguageModelling:
    return material.task(config, CPU)


def gradients(model: Any) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@NEXT
@pytest.mark.parametrize("micro", [1, 2, 3])
def test_accumulation_equals_the_big_batch(source: Path, next_sentence: bool, micro: int) -> None:
    """Other padding must not change what is masked, nor a mean of means what halves weigh."""
    material, config, model = made(source, next_sentence)
    cut = replace(config, train=replace(config.train, micro_batch_size=micro))
    for update in range(3):
        (whole,) = task_of(material, config).batches(update)
        parts = task_of(material, cut).batches(update)
        assert max(len(part.tokens) for part in parts) <= micro
        found = []
        for batches in ([whole], parts):
            model.zero_grad()
            task = task_of(material, config)
            losses = [task.loss(model, batch) for batch in batches]
            total = sum((loss.total for loss in losses), torch.zeros(()))
            count = sum(loss.count for loss in losses)
            (total / count).backward()
            found.append((float(total.detach()), count, gradients(model)))
        assert found[0][1] == found[1][1]
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
        for one, other in zip(found[0][2], found[1][2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@NEXT
def test_processes_share_an_update_and_their_counts_add_up(
    source: Path, next_sentence: bool
) -> None:
    material, config, model = made(source, next_sentence)
    task = task_of(material, config)
    for update in range(3):
        (whole,) = task.batches(update)
        for world in (2, 3):
            shares = [task.batches(update, rank, world) for rank in range(world)]
            rows = [row for (part,) in shares for row in part.targets.tolist()]
            asked = [[t for t in row if t != NOT_ASKED] for row in rows]
            expected = [[t for t in row if t != NOT_ASKED] for row in whole.targets.tolist()]
            assert asked[: len(expected)] == expected
            assert sum(task.count(part) for (part,) in shares) == task.count(whole)
            sums = [float(task.loss(model, part).total.detach()) for (part,) in shares]
            assert sum(sums) == pytest.approx(float(task.loss(model, whole).total.detach()))


@NEXT
def test_more_processes_than_rows_are_no_harm(source: Path, next_sentence: bool) -> None:
    """A process without rows must still take part, and add nothing."""
    material, config, model = made(source, next_sentence)
    task = task_of(material, config)
    rows = len(task.order.rows(0))
    (spare,) = task.batches(0, rows, rows + 1)
    loss = task.loss(model, spare)
    assert loss.count == 0
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert float(loss.total.detach()) == 0
    assert all(not grad.any() for grad in gradients(model))


def test_an_update_that_asks_nothing_is_no_harm(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves may be exchanged with such as the tokenizer knows no word of."""
    usual = MaskedLanguageModelling.batches

    def nothing_at_first(self: Any, update: int, rank: int = 0, world: int = 1) -> Any:
        found = usual(self, update, rank, world)
        if update:
            return found
        return [replace(b, targets=torch.full_like(b.targets, NOT_ASKED)) for b in found]

    monkeypatch.setattr(MaskedLanguageModelling, "batches", nothing_at_first)
    _, config, _ = made(source)
    run = train(config, out=tmp_path / "run")
    records = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    found = [r["loss"] for r in records if r["kind"] == "step"]
    assert found[0] == 0
    assert all(loss > 0 for loss in found[1:])


@NEXT
def test_padding_and_company_change_no_row(source: Path, next_sentence: bool) -> None:
    """Rows of an update differ in length: what lies behind an end is nothing."""
    material, config, model = made(source, next_sentence)
    with torch.no_grad():
        model.bias.normal_()
    rows = material.rows(material.corpus.train, config.model)
    some = np.argsort(rows.lengths)[np.linspace(0, len(rows.lengths) - 1, 9).astype(int)]
    batch = rows.batch(some, 0, 0, CPU)
    assert len({*batch.length.tolist()}) > 3
    for mode in (model.eval(), model.train()):
        with torch.no_grad():
            together = mode(batch.tokens, batch.length, batch.segments)
        for i, size in enumerate(batch.length.tolist()):
            one = rows.batch(some[i : i + 1], 0, i, CPU)
            assert one.tokens[0].tolist() == batch.tokens[i, :size].tolist()
            with torch.no_grad():
                alone = mode(one.tokens, one.length, one.segments)[0]
            torch.testing.assert_close(together[i, :size], alone, rtol=1e-4, atol=1e-5)


def test_rows_are_framed_and_halves_told_apart(source: Path) -> None:
    material, config, _ = made(source, next_sentence=True)
    marks, rows = (lambda r: (r.marks, r))(material.rows(material.corpus.train, config.model))
    for update in range(3):
        batch = task_of(material, config).batches(update)[0]
        for ids, length, segments in zip(batch.tokens, batch.length, batch.segments, strict=True):
            row, size = ids.tolist(), int(length)
            assert size <= MASKED.context_length
            assert (row[0], row[size - 1]) == (marks.cls, marks.sep)
            assert row[:size].count(marks.sep) == 2
            middle = row.index(marks.sep)
            assert segments.tolist()[:size] == [0] * (middle + 1) + [1] * (size - middle - 1)
            assert set(row[size:]) <= {marks.pad}
    strange = rows.batch(np.arange(len(rows.lengths)), 0, 0, CPU).strange.float().mean()
    assert 0.4 < float(strange) < 0.6


def test_a_half_that_stands_elsewhere_is_another_rows(source: Path) -> None:
    """Were the strange half its own, there would be nothing to tell."""
    material, config, _ = made(source, next_sentence=True)
    rows = material.rows(material.corpus.train, config.model)
    plain = MaskedRows(
        material.corpus.train,
        material.tokenizer,
        replace(config.data, mask_fraction=1e-9),
        MASKED.context_length,
    )
    every = np.arange(len(rows.lengths))
    batch = plain.batch(every, 0, 0, CPU)
    ids = torch.where(batch.targets == NOT_ASKED, batch.tokens, batch.targets)
    same = []
    for i in every.tolist():
        own = [*rows._cut(i)[0].tolist(), *rows._cut(i)[1].tolist()]
        said = [t for t in ids[i, : int(batch.length[i])].tolist() if t not in (2, 3)]
        if not batch.strange[i]:
            assert said == own
        else:
            same.append(said == own)
            assert said[: len(own) - len(own) // 2] == own[: len(own) - len(own) // 2]
    assert np.mean(same) < 0.2


def test_eight_rows_are_learnt_by_heart(source: Path) -> None:
    """Head, bias or embeddings left out of the gradient would still fall to the share of words."""
    material, config, model = made(source)
    rows = material.rows(material.corpus.train, config.model)
    long = np.flatnonzero(rows.lengths > 8)[:8]
    batch = rows.batch(long, 0, 0, CPU)
    task = task_of(material, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = task.loss(model.train(), batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.total.detach()) / loss.count < 0.05
    asked = batch.targets != NOT_ASKED
    with torch.no_grad():
        said = model.eval().head(model(batch.tokens, batch.length)[asked]).argmax(dim=1)
    assert said.tolist() == batch.targets[asked].tolist()


def test_whether_a_half_followed_is_learnt_and_recorded(tmp_path: Path) -> None:
    """Each document has few words of its own: a strange half shows at once."""
    generator = np.random.default_rng(0)
    topics = [[f"{a}{b}" for b in "aeiou"] for a in "bdf"]
    lines = [" ".join(generator.choice(topics[i % 3], 10)) for i in range(400)]
    (tmp_path / "text.jsonl").write_text("".join(f'{{"text": "{line}"}}\n' for line in lines))
    material, config, _ = made(tmp_path / "text.jsonl", next_sentence=True, batch_tokens=512)
    task, model = task_of(material, config), MaskedLM(replace(config.model, d_model=32))
    before = task.evaluate(model)[FOLLOWING]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for update in range(300):
        (batch,) = task.batches(update)
        loss = task.loss(model.train(), batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = task.evaluate(model)
    # Of the strange halves a third are of the same topic: five sixths can be told.
    assert before < 65 < 78 < found[FOLLOWING]
    assert found.record()[FOLLOWING.key] == found[FOLLOWING]


@NEXT
def test_the_score_is_the_same_each_time_and_in_any_batches(
    source: Path, next_sentence: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs are compared by it: both must have been asked the same."""
    material, config, model = made(source, next_sentence)
    with torch.no_grad():
        model.bias.normal_()
    task = task_of(material, config)
    one = task.evaluate(model.train())
    assert model.training
    assert task.evaluate(model) == one
    other = task_of(material, replace(config, seed=99))
    assert other.evaluate(model) == one
    for tokens, rows in ((20, 512), (8192, 3), (50, 2)):
        monkeypatch.setattr(mlm, "EVAL_TOKENS", tokens)
        monkeypatch.setattr(mlm, "EVAL_ROWS", rows)
        again = task.evaluate(model)
        assert again.targets == one.targets
        assert again.loss == pytest.approx(one.loss, rel=1e-6)
        assert again.measures == pytest.approx(one.measures)
    assert not one.sampled
    assert (FOLLOWING.key in one.measures) == next_sentence


def test_the_score_is_torchs_and_a_sample_is_said(source: Path) -> None:
    material, config, model = made(source)
    with torch.no_grad():
        model.bias.normal_()
    rows = material.rows(material.corpus.valid, config.model)
    order = np.argsort(rows.lengths, kind="stable")
    batch = rows.batch(order, mlm.EVAL_SEED, 0, CPU)
    with torch.no_grad():
        logits = model.eval().head(model(batch.tokens, batch.length, batch.segments))
    asked = batch.targets != NOT_ASKED
    found = score(model, rows, "valid", CPU)
    assert found.loss == pytest.approx(
        float(F.cross_entropy(logits[asked], batch.targets[asked])), rel=1e-5
    )
    right = (logits[asked].argmax(dim=1) == batch.targets[asked]).float().mean()
    assert found[ACCURACY] == pytest.approx(100 * float(right), rel=1e-5)
    assert found.targets == int(asked.sum())
    sample = score(model, rows, "valid", CPU, max_targets=found.targets // 4)
    assert sample.sampled
    assert 0 < sample.targets < found.targets


def test_a_head_wider_than_the_tokenizer_is_filled_up(source: Path) -> None:
    material, _, _ = made(source)
    assert material.filled(replace(MASKED, vocab_size=2048)).vocab_size == 2048
    with pytest.raises(UsageError, match="smaller than the tokenizer's"):
        material.filled(replace(MASKED, vocab_size=9))
    with pytest.raises(UsageError, match="too short for a text with marks"):
        material.filled(replace(MASKED, context_length=7))


def test_settings_of_other_tasks_are_refused(source: Path) -> None:
    material, config, _ = made(source)
    for name, value in (("global_batch_size", 4), ("label_smoothing", 0.1), ("word_dropout", 0.1)):
        with pytest.raises(UsageError, match=name):
            material.sized(replace(config.train, **{name: value}), config.model, 2048, 1)
    assert material.sized(TrainConfig(), config.model, 2048, 1).batch_tokens == 2048


def test_what_there_is_is_said(source: Path) -> None:
    material, config, _ = made(source)
    facts = dict(material.facts())
    assert "bytes to learn from" in facts["text"]
    assert "wordpiece tokenizer" in facts["tokens"]
    assert facts["masked"] == "15% of the pieces"
    (first, *_) = task_of(material, config).describe(0)
    assert first.startswith("[CLS] ")
    assert MASK in first or "(asked: " in first
    assert " ##" not in first
    shapes = material.shapes(config)
    assert all(shape.steps <= MASKED.context_length for shape in shapes)
    assert [step.name for step in steps_for("mlm")] == ["bert"]


def test_an_empty_text_is_refused(source: Path) -> None:
    material, config, _ = made(source)
    sep, unknown = material.tokenizer.eos_id, material.tokenizer.unk_id
    for ids, why in (([sep, sep], "no text in it"), ([sep, unknown, sep], "knows no word of it")):
        empty = replace(material.corpus.train, ids=np.array(ids, np.uint16))
        with pytest.raises(DataError, match=why):
            MaskedRows(empty, material.tokenizer, config.data, 16)


def test_rows_of_which_nothing_is_known_are_left_out(source: Path) -> None:
    """They ask for nothing: an update or a split of them alone would be divided by zero."""
    material, config, _ = made(source)
    sep, unknown = material.tokenizer.eos_id, material.tokenizer.unk_id
    ids = np.array([sep, unknown, unknown, sep, unknown, 9, sep, unknown, sep], np.uint16)
    rows = MaskedRows(replace(material.corpus.train, ids=ids), material.tokenizer, config.data, 16)
    assert rows.pieces.starts.tolist() == [4]
    assert rows.lengths.tolist() == [2]


def test_a_classifier_has_the_names_of_the_encoder_that_it_begins_with() -> None:
    """By these names alone does it find the weights that were learnt by filling in."""
    shape = {"vocab_size": 30, "context_length": 16, "d_model": 16, "num_layers": 2}
    text = TextBertConfig(**shape, num_heads=2, classes=3, dropout=0.0)
    masked = MaskedLM(replace(MASKED, vocab_size=30, num_layers=2, next_sentence=True))
    ours = {n: p.shape for n, p in TextBert(text).named_parameters() if n.startswith("bert.")}
    theirs = {n: p.shape for n, p in masked.named_parameters() if n.startswith("bert.")}
    assert ours == theirs
    assert step_of(text).form.reads == "pieces"
