"""The translation task: batches, loss and score mean what they say, and a resume repeats them."""

import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import PAIR_MODELS

from ensue.bleu import Measure, corpus_score
from ensue.config import from_dict
from ensue.data.corpus import DataConfig
from ensue.data.pairs import PairsConfig
from ensue.errors import DataError, MissingExtraError, StoppedError, UsageError
from ensue.files import read_json
from ensue.models import find_step, step_of
from ensue.models.transformer import TransformerConfig
from ensue.runs import Run
from ensue.tasks.measures import BITS, BLEU
from ensue.tasks.task import Material, Task
from ensue.tasks.translate import PAD, SIDES, Pairs, Translation, prepare
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import load_model, train
from ensue.training.tracking import Tracker
from ensue.translator import Search, Sides, Translator
from ensue.weights import load_weights

EVERY_PAIR_MODEL = pytest.mark.parametrize("model", list(PAIR_MODELS))
CPU = torch.device("cpu")


def write_pairs(folder: Path, count: int = 120) -> tuple[str, str]:
    """Words, and the same backwards in capitals."""
    chosen = random.Random(5)
    rows: dict[str, str] = {}
    while len(rows) < count:
        words = chosen.choices("ab cd efg h ij".split(), k=chosen.randint(2, 7))
        rows[" ".join(words)] = " ".join(words[::-1]).upper()
    for name, lines in (("a.src", rows), ("a.tgt", rows.values())):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return str(folder / "a.src"), str(folder / "a.tgt")


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., RunConfig[Any]]:
    src, tgt = write_pairs(tmp_path)

    def make(model: str = "transformer", **options: Any) -> RunConfig[Any]:
        settings: dict[str, Any] = {"batch_tokens": 96, "precision": "fp32", "threads": 1}
        settings |= {"compile": "no", "eval_every": 4} | options.pop("train", {})
        data = {"valid_fraction": 0.2, "tokenizer": "word"} | options.pop("data", {})
        shape = replace(PAIR_MODELS[model], dropout=options.pop("dropout", 0.0))
        if model == "transformer":
            shape = replace(shape, context_length=32)
        return RunConfig(
            task="translate",
            data=PairsConfig(src=(src,), tgt=(tgt,), **data),
            model=shape,
            train=TrainConfig(**settings),
            **options,
        )

    return make


def prepared(config: RunConfig[Any]) -> tuple[Pairs, Translation, Any]:
    """Give the material of a request, its task, and a model with random weights."""
    material = prepare(config.data, lambda *_: None)
    shape = step_of(config.model).filled(material.filled(config.model), "xs")
    model = step_of(shape).model(shape).eval()
    return material, material.task(replace(config, model=shape), CPU), model


@EVERY_PAIR_MODEL
def test_micro_batches_sum_to_the_big_batch(
    request_of: Callable[..., RunConfig[Any]], model: str
) -> None:
    """Padding differs between them: it must add nothing, to the loss or to the count."""
    config = request_of(model)
    _, task, network = prepared(config)
    network.requires_grad_(False)
    _, small, _ = prepared(replace(config, train=replace(config.train, micro_batch_size=2)))
    assert isinstance(task, Task)
    for update in range(4):
        (whole,) = task.batches(update)
        parts = small.batches(update)
        assert len(parts) == -(-len(whole.src) // 2)
        losses = [small.loss(network, part) for part in parts]
        expected = task.loss(network, whole)
        assert sum(loss.count for loss in losses) == expected.count == task.count(whole)
        total = float(sum(loss.total for loss in losses))
        assert total == pytest.approx(float(expected.total), rel=1e-5)


def test_a_batch_is_what_the_files_say(request_of: Callable[..., RunConfig[Any]]) -> None:
    material, task, _ = prepared(request_of())
    tokenizer = material.tgt_tokenizer
    for update in range(5):
        (batch,) = task.batches(update)
        assert len(task.ids(update)) == len(task.describe(update)) == len(batch.src)
        for i, line in enumerate(task.describe(update)):
            src = batch.src[i, : batch.src_length[i]].tolist()
            tgt = [t for t in batch.targets[i].tolist() if t != PAD]
            assert (src[-1], tgt[-1]) == (tokenizer.eos_id, tokenizer.eos_id)
            assert f"{tokenizer.decode(src)} -> {tokenizer.decode(tgt)}" == line
            assert line.split(" -> ")[1].lower().split()[::-1] == line.split(" -> ")[0].split()
            assert batch.inputs[i, : len(tgt)].tolist() == [tokenizer.eos_id, *tgt[:-1]]
            assert (batch.src[i, batch.src_length[i] :] == tokenizer.eos_id).all()
            assert (batch.inputs[i, len(tgt) :] == tokenizer.eos_id).all()


@pytest.mark.parametrize("world", [2, 3, 50])
def test_processes_share_the_rows_of_an_update(
    request_of: Callable[..., RunConfig[Any]], world: int
) -> None:
    """With more processes than rows each must still compute: DDP waits for its gradients."""
    _, task, network = prepared(request_of())
    (whole,) = task.batches(3)
    shared = [task.batches(3, rank, world) for rank in range(world)]
    with torch.no_grad():
        expected = float(task.loss(network, whole).total)
        losses = [task.loss(network, batch) for batches in shared for batch in batches]
    assert sum(loss.count for loss in losses) == task.count(whole)
    total = float(sum(loss.total for loss in losses))
    assert total == pytest.approx(expected, rel=1e-5)
    idle = [batches[0] for batches in shared if not task.count(batches[0])]
    assert bool(idle) == (world == 50)
    for batch in idle[:1]:
        loss = task.loss(network, batch)
        loss.total.backward()
        assert float(loss.total.detach()) == 0.0
        assert all(
            float(p.grad.abs().sum()) == 0 for p in network.parameters() if p.grad is not None
        )


@EVERY_PAIR_MODEL
def test_the_score_equals_a_sum_over_single_pairs(
    request_of: Callable[..., RunConfig[Any]], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Company and padding change nothing, and bits are of the target's bytes."""
    monkeypatch.setattr("ensue.tasks.translate.EVAL_TOKENS", 60)
    material, task, network = prepared(request_of(model))
    valid = material.corpus.valid
    total, count, num_bytes = 0.0, 0, 0
    with torch.inference_mode():
        for i in range(len(valid)):
            src, tgt = (torch.tensor(ids) for ids in (valid.src_ids(i), valid.tgt_ids(i)))
            begin = torch.tensor([material.tgt_tokenizer.eos_id])
            memory = network.encode(src[None], torch.tensor([len(src)]))
            hidden, _ = network(torch.cat([begin, tgt[:-1]])[None], memory)
            total += float(F.cross_entropy(network.head(hidden)[0], tgt, reduction="sum"))
            count += len(tgt)
            num_bytes += len(material.tgt_tokenizer.decode(tgt.tolist()).encode())
    score = task.evaluate(network)
    assert (score.targets, score.bytes, score.sampled) == (count, num_bytes, False)
    assert score.loss == pytest.approx(total / count, rel=1e-5)
    assert score[BITS] == pytest.approx(total / count * count / np.log(2) / num_bytes, rel=1e-5)
    sample = task.evaluate(network, max_targets=count // 3)
    assert sample.sampled
    assert 0 < sample.targets < count
    assert score.fingerprint == material.valid_text


@EVERY_PAIR_MODEL
def test_a_score_has_the_bleu_of_greedy_translations_where_it_is_asked_for(
    request_of: Callable[..., RunConfig[Any]], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensue.tasks.translate.EVAL_TOKENS", 60)
    material, task, network = prepared(request_of(model, train={"keep_by": "bleu"}))
    valid, tokenizer = material.corpus.valid, material.tgt_tokenizer
    with torch.no_grad():
        network.vocabulary.bias[tokenizer.eos_id] += 1.0  # some end, some are cut
    translator = Translator(network, material.src_tokenizer, tokenizer, 32, None, None)
    said, wanted = [], []
    for i in range(len(valid)):
        src, tgt = valid.src_ids(i), valid.tgt_ids(i)
        (best,) = translator.search([src[:-1]], Search(num_beams=1))[0]
        written = best.tokens[: 2 * len(tgt)]
        said.append(tokenizer.decode([t for t in written if t != tokenizer.eos_id]).strip())
        wanted.append(tokenizer.decode(tgt[:-1]).strip())
    scored: list[tuple[str, list[str], list[str]]] = []

    def score_them(name: str, said: list[str], wanted: list[str]) -> Measure:
        scored.append((name, said, wanted))
        return corpus_score(name, wanted, wanted)

    monkeypatch.setattr("ensue.tasks.translate.corpus_score", score_them)
    score = task.evaluate(network)
    ((name, *sides),) = scored
    assert name == "BLEU"
    assert sorted(zip(*sides, strict=True)) == sorted(zip(said, wanted, strict=True))
    assert score[BLEU] == pytest.approx(100)
    assert score.cost == -score[BLEU]


def test_label_smoothing_is_torchs_and_is_not_scored(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    _, task, network = prepared(request_of(train={"label_smoothing": 0.2}))
    (batch,) = task.batches(0)
    with torch.inference_mode():
        hidden, _ = network(batch.inputs, network.encode(batch.src, batch.src_length))
        expected = F.cross_entropy(
            network.head(hidden).flatten(0, 1),
            batch.targets.flatten(),
            ignore_index=PAD,
            reduction="sum",
            label_smoothing=0.2,
        )
        assert float(task.loss(network, batch).total) == pytest.approx(float(expected), rel=1e-5)
    _, plain, _ = prepared(request_of())
    assert task.evaluate(network) == plain.evaluate(network)


def test_word_dropout_hides_words_from_the_model_and_no_target(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    material, task, network = prepared(request_of(train={"word_dropout": 0.5}))
    (batch,) = task.batches(0)
    seen: list[torch.Tensor] = []
    embedding = network.vocabulary.embedding
    with embedding.register_forward_hook(lambda _, args, __: seen.append(args[0])):
        first = float(task.loss(network, batch).total.detach())
        assert float(task.loss(network, batch).total.detach()) != first
    for tokens, shown in zip((batch.src, batch.inputs), seen[:2], strict=True):
        hidden = shown != tokens
        assert (shown[hidden] == material.tgt_tokenizer.eos_id).all()
        assert 0.3 < float(hidden.sum() / (tokens != material.tgt_tokenizer.eos_id).sum()) < 0.7
    _, plain, _ = prepared(request_of())
    assert task.evaluate(network) == plain.evaluate(network)


def test_what_the_pairs_looked_like_is_kept(
    request_of: Callable[..., RunConfig[Any]], tmp_path: Path
) -> None:
    material, _, _ = prepared(request_of())
    material.save(tmp_path, None)
    sides = from_dict(Sides, read_json(tmp_path / SIDES))
    train, words = material.corpus.train, material.tgt_tokenizer
    for counts, side in ((sides.src_counts, train.src), (sides.tgt_counts, train.tgt)):
        assert len(counts) == words.vocab_size
        assert sum(counts) == len(side.ids)
    assert sides.ratio == pytest.approx(1.0)
    assert (sides.room, sides.most(6)) == (0, 14)  # no target is longer than its source
    src, tgt = sides.bits("ab cd efg h", (words, words))
    assert 2 * src < tgt


def test_what_the_task_would_not_heed_is_refused(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    material, _, network = prepared(request_of())
    asked = TrainConfig(global_batch_size=8)
    with pytest.raises(UsageError, match="global_batch_size means nothing to the task 'translate'"):
        material.sized(asked, network.config, 96, world=1)


def test_what_is_too_long_is_left_out_of_training_and_said(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    material, task, _ = prepared(request_of(data={"max_tokens": 5}))
    assert isinstance(material, Material)
    (note,) = [n for n in material.notes if "tokens are left out" in n]
    left_out = int(note.split()[0])
    assert 0 < left_out == len(material.corpus.train) - len(task.usable)
    epoch = {r for u in range(task.order.updates_per_epoch) for r in task.ids(u)}
    assert len(epoch) == len(task.usable)
    assert max(int(task.train.src_lengths[r]) for r in epoch) <= 5
    with pytest.raises(DataError, match="every pair is longer than 2 tokens"):
        prepared(request_of(data={"max_tokens": 2}))


def test_learned_positions_hold_the_longest_pair_that_is_scored(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    """It was an index error, at the first evaluation."""
    config = request_of()
    learned = replace(config.model, positions="learned")
    _, task, network = prepared(replace(config, model=learned))
    assert task.evaluate(network).targets
    with pytest.raises(DataError, match="learned positions for 5") as caught:
        prepared(replace(config, model=replace(learned, context_length=5)))
    assert caught.value.hint == "Give it more: --model.context-length 8"


def test_vocabularies_are_filled_in_and_too_small_ones_refused(
    request_of: Callable[..., RunConfig[Any]],
) -> None:
    """A source embedding smaller than the tokenizer ends in an index error, in mid-training."""
    joint, _, _ = prepared(request_of())
    size = joint.tgt_tokenizer.vocab_size
    filled = joint.filled(TransformerConfig())
    assert (filled.vocab_size, filled.src_vocab_size) == (size, 0)
    own, _, network = prepared(request_of(data={"src_tokenizer": "char"}))
    filled = own.filled(TransformerConfig())
    assert filled.src_vocab_size == own.src_tokenizer.vocab_size != filled.vocab_size
    assert network.source.weight.shape[0] == filled.src_vocab_size
    for given in ({"vocab_size": size - 1}, {"src_vocab_size": 2}):
        with pytest.raises(UsageError, match="smaller than the tokenizer's"):
            joint.filled(TransformerConfig(**given))
    assert dict(own.facts())["pairs"] == "96 to learn from, 24 held out"


class Stopper(Tracker):
    """Sends this process a signal after some update."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


TIMES = ("seconds", "tokens_per_second", "spent", "peak_bytes")


def assert_same(run: Run, reference: Run) -> None:
    records = [
        [{k: v for k, v in r.items() if k not in TIMES} for r in one.read_metrics()]
        for one in (run, reference)
    ]
    assert records[0] == records[1]
    ours, theirs = load_weights(run)[0], load_weights(reference)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@EVERY_PAIR_MODEL
def test_a_stopped_run_on_pairs_goes_on_to_the_last_bit(
    tmp_path: Path, request_of: Callable[..., RunConfig[Any]], model: str
) -> None:
    """The order, dropout and the sum of tokens: an update has another number of them each time."""
    request = request_of(
        model,
        dropout=0.1,
        steps=14,  # two epochs
        size="xs",
        checkpoint_every=5,
        data={"src_tokenizer": "char" if model == "transformer" else ""},
        train={"label_smoothing": 0.1, "average": 0.9},
    )
    reference = train(request, tmp_path / "reference")
    for at in (3, 9):
        with pytest.raises(StoppedError):
            train(request, tmp_path / "run", Stopper(at))
    assert_same(train(request, tmp_path / "run"), reference)
    tokens = [r["tokens"] for r in reference.read_metrics() if r["kind"] == "step"]
    assert len({b - a for a, b in pairwise(tokens)}) > 1
    load_model(reference)
    assert (reference.path / "tokenizer.src.json").exists() == (model == "transformer")


def test_weights_are_kept_by_bleu_where_it_is_asked_for(
    tmp_path: Path, request_of: Callable[..., RunConfig[Any]]
) -> None:
    """The best by BLEU is not the best by loss here, and a resume remembers which it was."""
    request = request_of(
        "seq2seq_attention",
        steps=120,
        size="xs",
        checkpoint_every=5,
        train={"keep_by": "bleu", "eval_every": 10},
    )
    reference = train(request, tmp_path / "reference")
    records = [r for r in reference.read_metrics() if r["kind"] == "eval"]
    final = reference.read_metrics()[-1]
    best = max(records, key=lambda r: r["bleu"])
    assert best["bleu"] > 5
    assert (final["kept_step"], final["bleu"]) == (best["step"], best["bleu"])
    with pytest.raises(StoppedError):
        train(request, tmp_path / "run", Stopper(73))
    assert_same(train(request, tmp_path / "run"), reference)


def test_what_has_no_bleu_cannot_be_kept_by_it() -> None:
    by_bleu = TrainConfig(keep_by="bleu")
    lstm = find_step("lstm").default
    with pytest.raises(UsageError, match="the task 'lm' has no bleu to keep weights by"):
        RunConfig(task="lm", data=DataConfig(sources=("a",)), model=lstm, train=by_bleu)
    with pytest.raises(UsageError, match="keep_by: unknown value 'blue'"):
        TrainConfig(keep_by="blue")


def test_a_missing_sacrebleu_is_said_before_training(
    request_of: Callable[..., RunConfig[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match="bleu"):
        prepared(request_of(train={"keep_by": "bleu"}))
