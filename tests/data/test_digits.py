"""The digits that come with scikit-learn: a set of pictures that needs no download."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ensue.cli import main
from ensue.commands import parse_train
from ensue.data import catalog
from ensue.data.digits import TEST, VALID
from ensue.errors import MissingExtraError

QUICK = [
    *("--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--model", "mlp"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path / "cache"))


def test_the_set_is_made_trained_on_and_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    config, _ = parse_train(["digits"], None)
    assert config.task == "pictures"
    (file,) = config.data.sources
    with np.load(file) as arrays:
        assert [len(arrays[f"x_{s}"]) for s in ("train", "valid", "test")] == [1257, VALID, TEST]
        again = np.concatenate([arrays[f"x_{split}"] for split in ("train", "valid", "test")])
    theirs = datasets.load_digits().images
    assert np.abs(again / 255 * 16 - theirs).max() < 0.05
    out = str(tmp_path / "run")
    assert main(["train", "digits", *QUICK, "--out", out]) == 0
    assert "10 classes: '0' (" in capsys.readouterr().err
    assert main(["evaluate", out, "--split", "test"]) == 0
    assert "of 360 on test" in capsys.readouterr().out


def test_without_scikit_learn_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An ImportError's traceback would be the answer to the first command of a newcomer."""
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"ensue\[floors\]"):
        catalog.resolve("digits")
    assert main(["train", "digits"]) == MissingExtraError.exit_code
    assert 'pip install "ensue[floors]"' in capsys.readouterr().err
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert catalog.task_of("digits") == "pictures"
