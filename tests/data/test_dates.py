"""Made pairs: the same every time, no day in two splits, and the truth of every alignment known."""

from itertools import islice, pairwise
from pathlib import Path

import pytest

from ensue.cli import main
from ensue.commands import parse_train
from ensue.data import catalog, dates
from ensue.data.dates import DatePair, date_pairs
from ensue.errors import UsageError

DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹०१२३४५६७८९", "0123456789" * 3)
"""Arabic, Persian and Indian ones."""


@pytest.fixture(scope="module")
def made() -> dict[str, list[DatePair]]:
    return {split: list(islice(date_pairs(split), 4000)) for split in dates.SPLITS}


def test_spans_point_at_the_true_parts(made: dict[str, list[DatePair]]) -> None:
    """An alignment is scored by them: a wrong one would be an error of the measure."""
    months: dict[str, set[str]] = {}
    for pair in made["train"] + made["valid"]:
        assert set(pair.spans) == {"year", "month", "day"}
        said = {part: pair.src[a:b] for part, (a, b) in pair.spans.items()}
        true = {part: pair.tgt[a:b] for part, (a, b) in dates.TARGET_SPANS.items()}
        assert said["year"].translate(DIGITS) == true["year"]
        assert int(said["day"].translate(DIGITS)) == int(true["day"])
        number = said["month"].translate(DIGITS)
        if number.isdigit():
            assert int(number) == int(true["month"])
        else:
            months.setdefault(number, set()).add(true["month"])
        places = sorted(pair.spans.values())
        assert all(a < b for a, b in places)
        assert all(before[1] <= after[0] for before, after in pairwise(places))
    assert len(months) > 200
    # A name of a month is one month, but for Czech and Croatian "listopad" and the like.
    assert sum(len(meant) > 1 for meant in months.values()) < 10


def test_splits_share_no_day_and_are_the_same_every_time(
    made: dict[str, list[DatePair]],
) -> None:
    days = {split: {pair.tgt for pair in pairs} for split, pairs in made.items()}
    assert not days["valid"] & days["test"]
    assert not days["train"] & (days["valid"] | days["test"])
    assert [len(made[split]) for split in ("valid", "test")] == [dates.VALID, dates.TEST]
    assert list(islice(date_pairs("train"), 50)) == made["train"][:50]
    assert made["train"][:50] != made["valid"][:50]
    assert all(len(pair.tgt) == 10 for pair in made["train"])


def test_what_nobody_can_tell_is_left_out(made: dict[str, list[DatePair]]) -> None:
    """5/1/1998 is a day in January, and one in May."""
    assert dates._is_ambiguous([("field", ("M", 1)), ("chars", "/"), ("field", ("d", 1))])
    assert not dates._is_ambiguous([("field", ("M", 4)), ("field", ("d", 1))])
    assert not dates._is_ambiguous([("field", ("d", 1)), ("field", ("M", 1)), ("field", ("y", 4))])
    assert not dates._is_ambiguous([("field", ("y", 4)), ("field", ("M", 2)), ("field", ("d", 2))])
    for pair in made["train"]:
        month, day = (pair.spans[part] for part in ("month", "day"))
        if pair.src[slice(*month)].isdigit() and month < day:
            assert pair.spans["year"] < month


def test_every_language_is_written(made: dict[str, list[DatePair]]) -> None:
    text = " ".join(pair.src for pair in made["train"])
    for words in ("März", "janvier", "年", "월", "січня", "Ιανουαρίου", "มกราคม", "जनवरी", "يناير"):
        assert words in text
    assert len({pair.src for pair in made["train"]}) > 3900


def test_the_set_is_made_once_and_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENSUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(dates, "TRAIN", 300)
    config, _ = parse_train(["dates"], None)
    assert config.task == "translate"
    (train,), (valid,) = config.data.sources, config.data.valid
    assert (Path(train).name, Path(valid).name) == ("train.tsv", "valid.tsv")
    lines = Path(train).read_text("utf-8").splitlines()
    assert lines[0] == "src\ttgt\tlanguage\tmonth"
    expected = [
        f"{pair.src}\t{pair.tgt}\t{pair.language}\t{pair.tgt[5:7]}"
        for pair in islice(date_pairs("train"), 300)
    ]
    assert lines[1:] == expected
    assert not list((tmp_path / "cache" / "tmp").iterdir())
    before = Path(train).stat().st_mtime_ns
    found = catalog.resolve("data:dates")
    assert found is not None
    assert catalog.resolve_file("dates/test") == str(found["test"])
    with pytest.raises(UsageError, match="dates has no file 'tset'; did you mean 'test'"):
        catalog.resolve_file("dates/tset")
    assert main(["data", "get", "dates"]) == 0
    assert "train.tsv" in capsys.readouterr().out.replace("\n", "")
    quick = ["--steps", "2", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"]
    quick += ["--train.compile", "no", "--model.d-model", "16", "--model.num-layers", "1"]
    out = tmp_path / "run"
    assert main(["train", "dates", "--model", "seq2seq", *quick, "--out", str(out)]) == 0
    assert Path(train).stat().st_mtime_ns == before
    card = (out / "README.md").read_text("utf-8")
    assert str(tmp_path) not in card, "a card is made to be shared"


def test_a_file_of_that_name_is_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert catalog.task_of("dates") == catalog.task_of("data:dates") == "translate"
    (tmp_path / "dates").write_text("my own file")
    assert (catalog.task_of("dates"), catalog.task_of("data:dates")) == ("", "translate")
    assert catalog.task_of("shakespeare") == "lm"
    assert catalog.task_of("book.txt") == catalog.task_of("x" * 5000) == ""
    assert catalog.resolve_file("book/train.de") == "book/train.de"
