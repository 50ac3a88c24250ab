"""What every test needs: quiet caches, one thread, a seed, and the mark for real data."""

import os
from pathlib import Path

# Before torch is imported, here and in all that tests start: files of tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from ensue.cli import main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that read public data where there is none."""
    if os.environ.get("ENSUE_DATA"):
        return
    skip = pytest.mark.skip(reason="ENSUE_DATA is not set")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caches of tests away from the user's own."""
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path_factory.getbasetemp() / "ensue-cache"))


torch.set_num_threads(1)  # tiny tensors: a second thread only waits


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Begin each test from the same random state."""
    torch.manual_seed(0)


QUICK = [
    *("--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--model.d-model", "16", "--model.num-layers", "1"),
]
"""A training of a moment."""


@pytest.fixture(scope="session")
def pair_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that translates, a little trained."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = [f"eins {i} zwei {7 * i % 90}" for i in range(90)]
    (folder / "a.de").write_text("".join(f"{row}\n" for row in rows))
    (folder / "a.en").write_text("".join(f"{row}!\n" for row in rows))
    pairs = ["--src", str(folder / "a.de"), "--tgt", str(folder / "a.en")]
    cache = ["--cache", str(folder / "cache"), "--out", str(folder / "run")]
    assert main(["train", *pairs, "--model", "seq2seq_attention", *QUICK, *cache]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that continues a text, a little trained."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "book.txt").write_text("The quick brown fox sleeps.\n" * 100)
    book = [str(folder / "book.txt"), "--model", "rnn", "--model.context-length", "16"]
    cache = ["--cache", str(folder / "cache"), "--out", str(folder / "run")]
    assert main(["train", *book, *QUICK, *cache]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def masked_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that fills in masked words, a little trained."""
    folder = tmp_path_factory.mktemp("masked")
    lines = [f"the quick brown fox number {i} sleeps near {7 * i % 90} dogs." for i in range(90)]
    (folder / "book.txt").write_text("\n\n".join(lines))
    book = [str(folder / "book.txt"), "--task", "mlm", "--model.context-length", "16"]
    shape = ["--model.num-heads", "2", "--model.d-ff", "32"]
    cache = ["--cache", str(folder / "cache"), "--out", str(folder / "run")]
    assert main(["train", *book, *QUICK, *shape, *cache]) == 0
    return folder / "run"


@pytest.fixture
def public_data() -> Path:
    """The folder of public data sets."""
    return Path(os.environ["ENSUE_DATA"])
