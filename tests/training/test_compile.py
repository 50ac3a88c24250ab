"""Compiled blocks compute what eager ones do."""

import subprocess
import sys
from pathlib import Path

import pytest

from ensue.runs import Run

SMALL = [
    *("--steps", "4", "--size", "xs", "--model.d-model", "16", "--model.num-layers", "1"),
    *("--model.context-length", "16", "--train.global-batch-size", "4", "--train.threads", "1"),
    *("--train.precision", "fp32"),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt2", "lstm"])
def test_compiled_losses_equal_eager_ones(model: str, tmp_path: Path) -> None:
    """Our own products are no operations that the compiler knows: it must get plain ones."""
    book = tmp_path / "book.txt"
    book.write_text("The quick brown fox jumps over the lazy dog.\n" * 200, encoding="utf-8")
    losses = []
    for compiled in ("no", "yes"):
        out = tmp_path / compiled
        command = ["train", str(book), "--model", model, "--train.compile", compiled]
        # Its own process: shape checks, on in these tests, are no code for the compiler.
        words = [sys.executable, "-m", "ensue.cli", *command, "--out", str(out), *SMALL]
        subprocess.run(words, check=True, capture_output=True)
        losses.append([r["loss"] for r in Run.open(out).read_metrics() if r["kind"] == "step"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
