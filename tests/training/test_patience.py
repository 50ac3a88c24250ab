"""Patience counts evaluations without a better one: better by what the weights are kept by."""

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import PAIR_MODELS

from ensue.data.pairs import PairsConfig
from ensue.errors import StoppedError
from ensue.runs import Run
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

EVERY, PATIENCE, STEPS = 4, 2, 400
TIMES = ("seconds", "tokens_per_second", "spent", "peak_bytes")


@pytest.fixture
def pairs(tmp_path: Path) -> PairsConfig:
    """Words, and the same backwards in capitals."""
    chosen = random.Random(5)
    rows: dict[str, str] = {}
    while len(rows) < 120:
        words = chosen.choices("ab cd efg h ij".split(), k=chosen.randint(2, 7))
        rows[" ".join(words)] = " ".join(words[::-1]).upper()
    (tmp_path / "a.src").write_text("".join(f"{line}\n" for line in rows))
    (tmp_path / "a.tgt").write_text("".join(f"{line}\n" for line in rows.values()))
    src, tgt = (str(tmp_path / "a.src"),), (str(tmp_path / "a.tgt"),)
    return PairsConfig(src=src, tgt=tgt, valid_fraction=0.2, tokenizer="word")


def request_of(pairs: PairsConfig, **settings: Any) -> RunConfig[Any]:
    settings = {"batch_tokens": 96, "precision": "fp32", "threads": 1, "compile": "no", **settings}
    return RunConfig(
        task="translate",
        data=pairs,
        model=replace(PAIR_MODELS["seq2seq_attention"], dropout=0.0),
        size="xs",
        steps=STEPS,
        checkpoint_every=EVERY,
        train=TrainConfig(eval_every=EVERY, schedule="constant", **settings),
    )


class Stopper(Tracker):
    """Sends this process a signal after some update."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, record: dict[str, Any]) -> None:
        if record["step"] == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def last_step(records: list[dict[str, Any]], better: Any) -> int:
    """Say where patience ends, from the scores alone; 0: it does not."""
    best, worse = records[0], 0
    for record in records[1:]:
        worse = 0 if better(record, best) else worse + 1
        best = record if better(record, best) else best
        if worse == PATIENCE:
            return int(record["step"])
    return 0


def test_a_run_whose_bleu_no_longer_rises_ends(tmp_path: Path, pairs: PairsConfig) -> None:
    """By the loss it would have gone on; and a resume in between must not begin to count anew."""
    request = request_of(pairs, keep_by="bleu", patience=PATIENCE)
    run = train(request, tmp_path / "run")
    *records, final = run.read_metrics()
    evals = [r for r in records if r["kind"] == "eval"]
    assert final["kind"] == "final"
    assert final["step"] == last_step(evals, lambda a, b: a["bleu"] > b["bleu"]) < STEPS
    best = max(evals, key=lambda r: r["bleu"])
    assert best["bleu"] > 0
    assert (final["kept"], final["kept_step"]) == ("best", best["step"])
    assert best["step"] == final["step"] - PATIENCE * EVERY
    assert last_step(evals, lambda a, b: a["bits_per_byte"] < b["bits_per_byte"]) == 0
    again = tmp_path / "again"
    with pytest.raises(StoppedError):
        train(request, again, Stopper(final["step"] - EVERY // 2))
    assert_same(train(request, again), run)


def assert_same(run: Run, reference: Run) -> None:
    records = [
        [{k: v for k, v in r.items() if k not in TIMES} for r in one.read_metrics()]
        for one in (run, reference)
    ]
    assert records[0] == records[1]
    ours, theirs = load_weights(run)[0], load_weights(reference)[0]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
