"""The update: sums and counts, numbers that are not finite, a disk that fills."""

import errno
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import EVERY, MODELS, TWO
from torch import Tensor

from ensue.data.corpus import DataConfig, prepare
from ensue.errors import DiskFullError, NonFiniteError
from ensue.models import step_of
from ensue.runs import Run
from ensue.tasks.lm import score
from ensue.tasks.measures import BITS
from ensue.tokenizers import load_tokenizer, train_tokenizer
from ensue.training import checkpoint, session
from ensue.training.checkpoint import newest_checkpoint
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.loop import Loop
from ensue.training.schedule import lr_share
from ensue.training.session import train
from ensue.weights import load_weights

Make = Callable[..., RunConfig[Any]]


@pytest.fixture
def config(tmp_path: Path) -> Make:
    chosen = random.Random(0)
    words = [chosen.choice("the a cat dog sat ran on far mat".split()) for _ in range(800)]
    (tmp_path / "text.txt").write_text(" ".join(words))

    def make(model: str = "gpt2", steps: int = 10, every: int = 4, **kwargs: Any) -> RunConfig[Any]:
        settings = {"global_batch_size": 8, "eval_every": 4, "eval_tokens": 128, **kwargs}
        fixed = {"threads": 1, "precision": "fp32", "compile": "no"}
        return RunConfig(
            data=DataConfig(sources=(str(tmp_path / "text.txt"),)),
            model=MODELS[model],
            size="xs",
            steps=steps,
            checkpoint_every=every,
            train=TrainConfig(**{**fixed, **settings}),
        )

    return make


class Watched(Loop):
    """A loop that shows what it did, and can be spoilt."""

    made: "list[Watched]" = []  # noqa: RUF012
    before: dict[str, Tensor]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows: list[Any] = []
        self.task.batches = self._noted(self.task.batches)
        Watched.made.append(self)

    def update(self) -> dict[str, Any]:
        self.before = {n: t.clone() for n, t in self.tensors().items()}
        return super().update()

    def _noted(self, batches: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def noted(*place: int) -> list[Any]:
            given = batches(*place)
            self.rows += [row.tolist() for batch in given for row in batch.inputs]
            return given

        return noted


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    monkeypatch.setattr(session, "Loop", Watched)
    monkeypatch.setattr(Watched, "made", [])
    return Watched.made


def losses(run: Run) -> list[float]:
    return [r["loss"] for r in run.read_metrics() if r["kind"] == "step"]


def norms(run: Run) -> list[float]:
    return [r["grad_norm"] for r in run.read_metrics() if r["kind"] == "step"]


# -- sums and counts -------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_equal_the_big_batch(
    tmp_path: Path, config: Make, watched: list[Watched], model: str, micro: int
) -> None:
    """A mean of means, or a loss divided once too often, moves every weight by a wrong amount."""
    # Few steps: AdamW divides by the root of what may be the rounding of a zero.
    big = train(config(model, optimizer="adamw"), tmp_path / "big")
    small = train(config(model, optimizer="adamw", micro_batch_size=micro), tmp_path / "small")
    assert losses(small) == pytest.approx(losses(big), rel=1e-6)
    assert norms(small) == pytest.approx(norms(big), rel=1e-5)
    ours, theirs = load_weights(small)[0], load_weights(big)[0]
    for name in theirs:
        if name.endswith("qkv.bias"):  # the gradient of k's bias is zero but for rounding
            q, _, v = ours[name].chunk(3)
            q2, _, v2 = theirs[name].chunk(3)
            torch.testing.assert_close((q, v), (q2, v2), rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)
    assert watched[0].rows == watched[1].rows


@TWO
def test_a_remainder_of_rows_counts_as_much_as_the_others(
    tmp_path: Path, config: Make, watched: list[Watched], model: str
) -> None:
    """8 rows are 3 + 3 + 2: a mean over three micro-batches would weigh the last two more."""
    big = train(config(model, steps=3), tmp_path / "big")
    train(config(model, steps=3, every=1), tmp_path / "odd")
    loop = watched[-1]
    loop.task.micro_rows = 3
    assert [len(b.inputs) for b in loop.task.batches(loop.done)] == [3, 3, 2]
    model_now = {n: p.detach().clone() for n, p in loop.parameters.items()}
    odd = loop.update()["loss"]
    with torch.no_grad():
        for name, p in loop.parameters.items():
            p.copy_(model_now[name])
    loop.done -= 1
    loop.task.micro_rows = 8
    assert loop.update()["loss"] == pytest.approx(odd, rel=1e-6)
    assert len(losses(big)) == 3


@EVERY
def test_the_loss_is_the_mean_over_all_targets(
    tmp_path: Path, config: Make, watched: list[Watched], model: str
) -> None:
    """What the metrics say must be what the model does on those very rows."""
    run = train(config(model, steps=1, micro_batch_size=2), tmp_path / "run")
    loop = watched[0]
    batch = loop.task.batch(0, 8)
    twin = type(loop.model)(loop.model.config)  # type: ignore[arg-type]
    twin.load_state_dict({n[6:]: t for n, t in loop.before.items() if n.startswith("model.")})
    hidden, _ = twin(batch.inputs)
    logits = twin.head(hidden).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, batch.targets.flatten())
    assert losses(run) == pytest.approx([float(expected.detach())], rel=1e-6)
    expected.backward()
    # AdamW and Muon look the same with a gradient twice as large; clipping does not.
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters()))
    assert norms(run) == pytest.approx([norm], rel=1e-5)


def test_no_row_comes_twice_within_an_epoch(
    tmp_path: Path, config: Make, watched: list[Watched]
) -> None:
    """The order's index is updates done times rows: one less, and each batch repeats a row."""
    train(config(steps=20, micro_batch_size=4), tmp_path / "run")
    loop = watched[0]
    assert loop.rows == [row.tolist() for row in loop.task.batch(0, 160).inputs]
    starts = loop.task.order.starts(0, 160)  # type: ignore[attr-defined]
    assert len(set(starts.tolist())) == 160


def test_the_rate_follows_the_schedule_of_the_plan(tmp_path: Path, config: Make) -> None:
    """Counted from the wrong end the last update is zero, or the run ends half-annealed."""
    run = train(config(lr=0.01, warmup_steps=3, schedule="cosine"), tmp_path / "run")
    rates = [r["lr"] for r in run.read_metrics() if r["kind"] == "step"]
    assert rates == pytest.approx([0.01 * lr_share(i, 10, 3, "cosine") for i in range(10)])
    assert max(rates) == pytest.approx(0.01)
    assert 0 < rates[-1] < 0.001


def test_gradients_are_clipped_to_the_norm(
    tmp_path: Path, config: Make, watched: list[Watched]
) -> None:
    """The record shows the norm before; the moments show that it was clipped after."""
    run = train(config(steps=1, optimizer="adamw", grad_clip=0.01), tmp_path / "run")
    (record,) = [r for r in run.read_metrics() if r["kind"] == "step"]
    assert record["grad_norm"] > 0.01
    moments = [t for n, t in watched[0].tensors().items() if n.endswith(".exp_avg")]
    norm = math.sqrt(sum(float(t.square().sum()) for t in moments)) / 0.1
    assert norm == pytest.approx(0.01, rel=1e-3)


@TWO
def test_the_weights_kept_are_the_best_on_valid(tmp_path: Path, config: Make, model: str) -> None:
    """The score that is reported belongs to the weights that are saved."""
    request = config(model, steps=12, average=0.8, lr=0.05, schedule="constant")
    run = train(request, tmp_path / "run")
    (final,) = [r for r in run.read_metrics() if r["kind"] == "final"]
    evals = [r for r in run.read_metrics() if r["kind"] == "eval"]
    assert all("bits_per_byte_averaged" in r for r in evals)
    corpus = prepare(
        request.data,
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
    )
    plan = run.read_plan()["config"]["model"]
    plan.pop("name")
    net = type(MODELS[model])(**plan)
    weights, _ = load_weights(run)
    net_model = step_of(net).model(net)
    net_model.load_state_dict(weights)
    limit = run.read_plan()["final_eval_tokens"]
    again = score(net_model, corpus.valid, 8, "valid", torch.device("cpu"), limit)
    assert again[BITS] == pytest.approx(final["bits_per_byte"], rel=1e-6)


# -- not a number ----------------------------------------------------------------------------------


def poison_weight(loop: Loop) -> None:
    with torch.no_grad():
        next(iter(loop.parameters.values())).view(-1)[::2] = math.nan


def poison_gradient(loop: Loop) -> None:
    parameter = list(loop.parameters.values())[-1]
    parameter.register_hook(lambda grad: grad * math.inf)


@TWO
@pytest.mark.parametrize("poison", [poison_weight, poison_gradient])
@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_an_update_that_is_not_finite_is_not_applied(
    tmp_path: Path,
    config: Make,
    watched: list[Watched],
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    poison: Callable[[Loop], None],
    clip: float,
) -> None:
    """One such update makes every weight NaN, and the next checkpoint with it."""
    update = Watched.update

    def poisoned(self: Watched) -> dict[str, Any]:
        if self.done == 6:
            poison(self)
        return update(self)

    request = config(model, average=0.9, grad_clip=clip)
    reference = train(request, tmp_path / "reference")
    monkeypatch.setattr(Watched, "update", poisoned)
    with pytest.raises(NonFiniteError) as caught:
        train(request, tmp_path / "run")
    assert caught.value.exit_code == 6
    assert "step 7" in caught.value.what
    assert "not applied" in caught.value.what
    loop = watched[-1]
    for name, tensor in loop.tensors().items():
        torch.testing.assert_close(tensor, loop.before[name], rtol=0, atol=0, equal_nan=True)
    assert loop.done == 6

    said = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert (said["step"], said["rows"]) == (7, list(range(48, 56)))
    assert len(losses(Run(tmp_path / "run"))) == 6
    newest, skipped = newest_checkpoint(tmp_path / "run" / "checkpoints")
    assert newest is not None
    assert (newest.step, skipped) == (4, [])

    monkeypatch.undo()
    run = train(request, tmp_path / "run")  # the checkpoint is unharmed
    ours, theirs = load_weights(run)[0], load_weights(reference)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_absurd_learning_rate_is_refused_with_a_better_one(
    tmp_path: Path, config: Make, watched: list[Watched], optimizer: str
) -> None:
    """Trained on, it fills hours with NaN."""
    request = config(
        optimizer=optimizer, lr=1e30, schedule="constant", warmup_steps=1, weight_decay=0.0
    )
    with pytest.raises(NonFiniteError) as caught:
        train(request, tmp_path / "run")
    assert "--train.lr 5e+29" in caught.value.hint
    loop = watched[-1]
    torch.testing.assert_close(loop.tensors(), loop.before, rtol=0, atol=0, equal_nan=True)


# -- a disk that fills -----------------------------------------------------------------------------


@TWO
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_full_disk_ends_the_run_and_the_same_call_goes_on(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch, model: str, at: int
) -> None:
    """At the first save, a later one, the last one: what was there stays, and nothing is lost."""
    request = config(model, average=0.9)
    reference = train(request, tmp_path / "reference")
    write, saves = checkpoint.write_tensors, []

    def full(path: Path, *args: Any) -> Any:
        saves.append(path)
        if len(saves) == at:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *args)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    with pytest.raises(DiskFullError) as caught:
        train(request, tmp_path / "run")
    assert caught.value.exit_code == 5
    assert "bytes" in caught.value.what
    assert "free" in caught.value.what
    folder = tmp_path / "run" / "checkpoints"
    newest, skipped = newest_checkpoint(folder)
    assert (newest.step if newest else 0) == 4 * (at - 1)
    assert skipped == []
    assert not list(folder.glob(".tmp-*"))

    run = train(request, tmp_path / "run")
    keys = ("step", "kind", "loss")
    ours, theirs = ([[r[k] for k in keys] for r in x.read_metrics()] for x in (run, reference))
    assert ours == theirs
    weights, expected = load_weights(run)[0], load_weights(reference)[0]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_full_disk_while_a_record_is_written_loses_no_record(
    tmp_path: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a line in the metrics would be joined to the next one."""
    request = config()
    reference = train(request, tmp_path / "reference")
    append = Run.append_metrics

    def full(self: Run, record: dict[str, Any]) -> None:
        if record["step"] == 6:
            raise DiskFullError("the disk is full")
        append(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append_metrics", full)
        with pytest.raises(DiskFullError):
            train(request, tmp_path / "run")
    assert losses(train(request, tmp_path / "run")) == losses(reference)
