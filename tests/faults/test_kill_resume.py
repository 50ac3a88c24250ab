"""kill -9 at any moment, then the same call: the losses and weights of a run never killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HARNESS = Path(__file__).with_name("kill_harness.py")
MODELS = [
    "mlp",
    "cnn",
    "rnn",
    "lstm",
    "gpt2",
    "seq2seq",
    "seq2seq_attention",
    "transformer",
    "bert",
    "bert-from",
    "cnn-words",
    "cnn-pictures",
]


def outcomes(*args: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(HARNESS), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(outcome: dict[str, Any], kills: int) -> None:
    assert outcome["error"] == ""
    assert outcome["lost"] == 0
    assert outcome["losses_equal"], outcome
    assert outcome["weights_equal"], outcome
    assert len(outcome["kills"]) == kills, outcome


@pytest.mark.timeout(300)
def test_three_kills_cost_no_bit_of_any_model() -> None:
    """A dropout state, an average or a record that a checkpoint forgets shows after one kill."""
    for outcome in outcomes("--kills", "3"):
        check(outcome, 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", MODELS)
def test_twenty_five_kills_cost_no_bit(model: str) -> None:
    """Half of them hit a save: what is half written must never be taken for a checkpoint."""
    (outcome,) = outcomes("--model", model, "--kills", "25", "--seed", "1")
    check(outcome, 25)
    assert sum("save" in where for where in outcome["kills"]) >= 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", MODELS)
def test_kills_on_the_default_path_cost_no_bit(model: str) -> None:
    """Here size, threads, precision and steps are measured: a resume must not measure again."""
    (outcome,) = outcomes("--model", model, "--kills", "6", "--path", "default")
    assert outcome["error"] == ""
    assert outcome["losses_equal"], outcome
    assert outcome["weights_equal"], outcome
    assert len(outcome["kills"]) >= 4, outcome
