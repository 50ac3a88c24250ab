"""Names in many languages: the same every time, none in two splits, each of one language alone."""

from collections import Counter
from pathlib import Path

import pytest

from ensue.cli import main
from ensue.commands import parse_train
from ensue.commands.compare import parse_compare, request_of
from ensue.data import catalog, languages
from ensue.data.languages import LANGUAGES, labelled_names

QUICK = [
    *("--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--model", "mlp"),
]


@pytest.fixture(scope="module")
def made() -> dict[str, list[tuple[str, str]]]:
    return labelled_names()


def test_names_are_of_one_language_and_in_one_split(made: dict[str, list[tuple[str, str]]]) -> None:
    """Tyskland is Danish, Norwegian and Swedish: whatever a model says of it would be wrong."""
    names = [name.casefold() for rows in made.values() for name, _ in rows]
    assert len(names) == len(set(names))
    assert "tyskland" not in names
    assert "angola" not in names


def test_every_language_is_there_as_often(made: dict[str, list[tuple[str, str]]]) -> None:
    for split, count in (("valid", 30), ("test", 30)):
        assert set(Counter(label for _, label in made[split]).values()) == {count}
    learnt = Counter(label for _, label in made["train"])
    assert len(learnt) == len(LANGUAGES) == 32
    assert min(learnt.values()) > 250  # Danish: the most of it is Norwegian too
    assert {"Danish", "Norwegian Bokmål", "Japanese"} < set(learnt)
    assert all("\t" not in name and "\n" not in name for name, _ in made["train"])


def test_the_same_is_made_every_time(made: dict[str, list[tuple[str, str]]]) -> None:
    assert labelled_names() == made


def test_the_set_is_trained_on_scored_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(languages, "EACH", {"valid": 2, "test": 2, "train": 4})
    config, _ = parse_train(["languages"], None)
    assert config.task == "classify"
    assert [Path(file).name for file in config.data.sources] == ["train.tsv"]
    assert [Path(file).name for file in config.data.valid] == ["valid.tsv"]
    request = request_of(parse_compare(["languages"], None))
    assert [Path(file).name for file in request.test] == ["test.tsv"]
    out = str(tmp_path / "run")
    assert main(["train", "languages", *QUICK, "--out", out]) == 0
    assert "32 classes, from" in capsys.readouterr().err
    assert main(["evaluate", out, "--data", "languages/test"]) == 0
    assert "of 64 on" in capsys.readouterr().out
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    assert catalog.entry("languages").licence in shown
    assert "Names in 32 languages" in shown
