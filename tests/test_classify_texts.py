"""``ensue train``, ``classify`` and ``evaluate`` of labelled texts, as a person meets them."""

import csv
import io
import json
import os
import signal
from pathlib import Path

import pytest
import torch

import ensue
from ensue.classifier import TextClassifier
from ensue.cli import main
from ensue.data.labelled import LabelledConfig
from ensue.errors import DataError, StoppedError
from ensue.models import find_step
from ensue.runs import Run
from ensue.tasks.measures import ACCURACY
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

QUICK = [
    *("--steps", "60", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--train.lr", "0.01"),
]
GOOD = "fine lovely great superb pleasing".split()
BAD = "dull awful poor boring dreadful".split()


def write_table(file: Path, count: int = 80) -> Path:
    lines = ["id,review,sentiment"]
    for i in range(count):
        words, label = (GOOD, "positive") if i % 2 else (BAD, "negative")
        said = f"number {i}: {words[i // 2 % 5]} and {words[i // 3 % 5]}, all of it"
        lines.append(f'{i},"{said}",{label}')
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("reviews") / "reviews.csv")


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def run(request: pytest.FixtureRequest, table: Path) -> Path:
    out = table.parent / request.param
    words = [str(table), "--model", request.param, *QUICK, "--test-fraction", "0.2"]
    assert main(["train", *words, "--out", str(out)]) == 0
    return out


def test_training_tells_what_is_there_and_how_good_it_is(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(table), *QUICK, "--out", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().err
    assert "text taken from 'review', label from 'sentiment'" in shown
    assert "8 of 80 texts are valid: the same share of each class" in shown
    assert "training cnn," in shown
    assert "steps of 8 texts" in shown
    assert f"ensue classify {tmp_path / 'r'} TEXT" in shown
    assert main(["plan", str(table), *QUICK, "--model", "lstm"]) == 0
    planned = capsys.readouterr().out
    assert "72 to learn from, 8 held out" in planned
    assert "FLOP an update of 8 texts" in planned
    assert "negative (36), positive (36)" in planned


def test_texts_and_lines_are_classified_in_order(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["classify", str(run), "a superb film", "a dreadful film"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["positive", "negative"]
    assert all(0.5 < float(line[1]) <= 1 for line in lines)

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"so great\n\nso awful\n")))
    assert main(["classify", str(run), "--file", "-", "--top-k", "2"]) == 0
    caught = capsys.readouterr()
    rows = [line.split("\t") for line in caught.out.split("\n")[:3]]
    assert [row[0] for row in rows] == ["positive", "", "negative"]
    assert rows[0][2] == "negative"
    assert "there is no word in it (1 times)" in caught.err

    (tmp_path / "lines.txt").write_text("great\nawful\n" * 100)
    words = ["--file", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "out.tsv")]
    assert main(["classify", str(run), *words]) == 0
    found = (tmp_path / "out.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in found] == ["positive", "negative"] * 100


def test_a_table_comes_back_with_answers(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new.csv"
    file.write_bytes('\ufeffid;review\r\n7;"superb; ""great""\nand lovely"\r\n8;\r\n'.encode())
    assert main(["classify", str(run), "--file", str(file)]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out), delimiter=";"))
    assert rows[0] == ["id", "review", "label", "confidence"]
    assert rows[1][:3] == ["7", 'superb; "great"\nand lovely', "positive"]
    assert rows[2] == ["8", "", "", ""]

    file = tmp_path / "new.tsv"
    file.write_text('awful "thing\t7\n')
    assert main(["classify", str(run), "--file", str(file)]) == 0
    assert capsys.readouterr().out.startswith('awful "thing\t7\tnegative\t')

    file = tmp_path / "new.jsonl"
    file.write_text('{"review": "great", "label": "?", "more": [1]}\n\n{"review": null}\n')
    assert main(["classify", str(run), "--file", str(file), "--top-k", "2"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["label"] == "?"
    assert first["predicted_label"] == "positive"
    assert first["predicted_confidence"] > 0.5
    assert first["more"] == [1]
    assert second["predicted_label_2"] is None


def test_a_table_without_the_columns_of_training_is_looked_through(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("n,comment\n1,a superb one\n")
    assert main(["classify", str(run), "--file", str(tmp_path / "a.csv")]) == 0
    caught = capsys.readouterr()
    assert "1,a superb one,positive," in caught.out
    assert "text taken from column 'comment'" in caught.err


def test_a_tables_answers_as_json_are_of_its_rows(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json a table was read as lines: its names and commas were classified too."""
    words = ["classify", str(run), "--json", "--file"]
    (tmp_path / "a.csv").write_text('id,review,label\n1,"a superb\none",?\n2,,?\n')
    assert main([*words, str(tmp_path / "a.csv")]) == 0
    caught = capsys.readouterr()
    first, second = map(json.loads, caught.out.splitlines())
    assert (first["source"], first["label"]) == ("a superb\none", "positive")
    assert (second["label"], second["error"]) == (None, "there is no word in it")
    assert "the answers are in" not in caught.err
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"review": ["so awful"]}), tmp_path / "a.parquet")
    assert main([*words, str(tmp_path / "a.parquet")]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "negative"


def test_a_table_of_names_alone_comes_back(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("id,review\n")
    assert main(["classify", str(run), "--file", str(tmp_path / "a.csv")]) == 0
    assert capsys.readouterr().out == "id,review,label,confidence\n"


def test_the_text_is_where_the_user_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of other columns was read by the longest, and the hint named a flag of train."""
    file = tmp_path / "a.csv"
    file.write_bytes(
        "head,more,note\na superb,caf\xe9,an awful thing said of it\n".encode("cp1252")
    )
    words = ["classify", str(run), "--file", str(file), "--encoding", "cp1252"]
    assert main([*words, "--text-columns", "head", "more"]) == 0
    assert "a superb,café,an awful thing said of it,positive," in capsys.readouterr().out
    assert main(words) == 0
    assert "'note' (choose with --text-columns)" in capsys.readouterr().err
    assert main([*words, "--text-columns", "heads"]) == DataError.exit_code
    assert "no column 'heads'; did you mean 'head'?" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"review\nzero \0 byte\n", b'review\n"never closed\n'])
def test_what_cannot_be_read_costs_no_old_answers(
    content: bytes, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of answers was emptied before the table was looked at."""
    (tmp_path / "a.csv").write_bytes(content)
    out = tmp_path / "answers.csv"
    out.write_text("old")
    words = ["--file", str(tmp_path / "a.csv"), "--out", str(out)]
    assert main(["classify", str(run), *words]) == DataError.exit_code
    assert out.read_text() == "old"


def test_labels_that_train_lacks_are_scored_as_mistakes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class without examples had a recall of NaN, which is not JSON, and "nan%" in the table."""
    file = tmp_path / "a.csv"
    for label, right in (("positive", 100.0), ("unheard of", 0.0)):
        file.write_text(f"review,sentiment\na superb one,{label}\nso great,{label}\n")
        assert main(["evaluate", str(run), "--data", str(file), "--json"]) == 0
        out = capsys.readouterr().out
        assert "NaN" not in out
        assert json.loads(out)["score"]["accuracy"] == right
        assert main(["evaluate", str(run), "--data", str(file)]) == 0
        assert "nan" not in capsys.readouterr().out


def test_a_validation_set_of_other_labels_is_said_and_costs_no_run(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no loss of what has no class: NaN must not end a run at its first score."""
    (tmp_path / "valid.csv").write_text("review,sentiment\nfine,unheard\ngood,of\n")
    words = [str(table), "--valid", str(tmp_path / "valid.csv"), "--model", "mlp", *QUICK]
    assert main(["train", *words, "--out", str(tmp_path / "r")]) == DataError.exit_code
    assert "none of the labels of valid is among train's" in capsys.readouterr().err


def test_a_doubtful_answer_is_not_given(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["classify", str(run), "neither", "--unsure-below", "1.0"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("unsure\t")
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["label"], found["source"]) == (None, "neither")
    assert sum(t["confidence"] for t in found["top"]) <= 1


WRONG = {
    "missing": (["RUN", "--file", "missing.csv"], "missing.csv"),
    "parquet": (["RUN", "--file", "a.parquet"], "not written again"),
    "both": (["RUN", "some text", "--file", "a.txt"], "not both"),
    "no run": (["no/such/run", "some text"], "no/such/run"),
    "ragged": (["RUN", "--file", "ragged.csv"], "ragged.csv:3: 1 fields"),
    "json": (["RUN", "--file", "bad.jsonl"], "bad.jsonl:1: not JSON"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_mistakes_are_answered_in_words(
    kind: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ragged.csv").write_text("a,text\n1,fine\n2\n")
    (tmp_path / "bad.jsonl").write_text("{\n")
    (tmp_path / "a.parquet").write_text("PAR1")
    words, said = WRONG[kind]
    assert main(["classify", *(str(run) if w == "RUN" else w for w in words)]) != 0
    assert said in capsys.readouterr().err


def test_a_run_is_scored_beside_its_floor(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    assert main(["evaluate", str(run), "--split", "test", "--floor"]) == 0
    shown = capsys.readouterr().out
    assert "of 16 on test" in shown
    assert "50.00 % right by the commonest class; the model beats it." in shown
    assert "% right by TF-IDF and a linear model" in shown
    assert "confusion-test.svg" in shown
    other = write_table(tmp_path / "other.csv", 20)
    assert main(["evaluate", str(run), "--data", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["score"]["targets"] == 20
    assert found["score"]["accuracy"] > 80
    assert found["looks"] == 1
    assert main(["evaluate", str(run), "--split", "tset"]) == 2


def test_from_python(run: Path) -> None:
    classifier = ensue.load_classifier(run)
    assert isinstance(classifier, TextClassifier)
    one = classifier.classify("a lovely, superb thing")
    assert one.label == "positive"
    with pytest.raises(DataError, match="there is no word in it"):
        classifier.classify(" \n")
    long = classifier.classify("superb " * 100_000)
    assert long.label == "positive"
    assert long.notices == ("read up to its word 256",)
    found = ensue.evaluate_labels(run, split="test")
    assert found.score[ACCURACY] > 80
    assert ensue.evaluate(run)[ACCURACY] > 80


def test_the_pages_name_classes_and_nothing_of_bytes(run: Path) -> None:
    card, report = Run(run).card_path.read_text(), Run(run).report_path.read_text()
    assert "% right**" in card
    assert "load_classifier" in card
    assert "All were scored once, as they are: 8 texts" in card
    assert "texts read" in report
    for page in (card, report):
        assert "tokenizer cannot" not in page
        assert "byte" not in page.split("Plan")[0].replace("bytes", "")


def test_other_verbs_send_to_classify(
    run: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("generate", "translate", "chat", "embed"):
        assert main([verb, str(run), "hello"]) == 2
        assert f"ensue classify {run} TEXT" in capsys.readouterr().err
    assert main(["train", str(table), "--model", "gpt2"]) == 2
    assert "Models: mlp, cnn, rnn, lstm" in capsys.readouterr().err
    assert main(["inspect", str(run), "hello"]) == 0


@pytest.mark.parametrize(("model", "times"), [("mlp", 10), ("lstm", 5)])
def test_a_long_budget_is_not_used_up(
    model: str, times: int, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a small set learnt by a large model, however long there would be time for it."""
    # The budget counts from the start of pytest.
    words = [str(table), "--model", model, "--budget", "2h", "--train.threads", "1"]
    words += ["--train.precision", "fp32", "--train.compile", "no"]
    assert main(["train", *words, "--out", str(tmp_path / "r")]) == 0
    said = f"the data are read {times} times, less than the budget has time for"
    assert said in capsys.readouterr().err
    plan = Run(tmp_path / "r").read_plan()
    assert plan["fit_every"] == 0
    assert plan["config"]["steps"] <= 500
    assert plan["config"]["size"] == "s"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_comparison_has_its_floors_in_the_table(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--models", "mlp,cnn", "--budget", "20s", "--seeds", "1", "--rates", "1"]
    test = ["--test", str(write_table(tmp_path / "test.csv", 20))]
    out = ["--size", "xs", "--out", str(tmp_path / "c")]
    assert main(["compare", str(table), *words, *test, *out]) == 0
    found = json.loads((tmp_path / "c" / "results.json").read_text())
    assert found["floors"][0]["name"] == "the commonest class"
    assert found["winner"] in ("mlp", "cnn")
    assert {c["name"]: c["generation"] for c in found["candidates"]} == {"mlp": [], "cnn": []}
    assert all(c["test_accuracy"] > 80 for c in found["candidates"])
    assert "texts/s" in capsys.readouterr().out
    page = (tmp_path / "c" / "report.html").read_text()
    assert "texts read" in page
    assert "tokens read" not in page
    assert main(["classify", str(tmp_path / "c" / "winner"), "a superb one"]) == 0
    assert capsys.readouterr().out.startswith("positive")


@pytest.mark.parametrize("model", ["mlp", "cnn", "rnn", "lstm"])
def test_stopped_and_gone_on_to_the_same_bits(table: Path, tmp_path: Path, model: str) -> None:
    class Stopper(Tracker):
        def step(self, record: dict[str, object]) -> None:
            if record["step"] == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    config: RunConfig[object] = RunConfig(
        task="classify",
        data=LabelledConfig(sources=(str(table),)),
        model=find_step(model, "classify").default,
        size="xs",
        steps=10,
        checkpoint_every=3,
        train=TrainConfig(
            threads=1,
            precision="fp32",
            compile="no",
            global_batch_size=8,
            average=0.9,
            word_dropout=0.1,
            adversarial=0.3,
        ),
    )
    with pytest.raises(StoppedError):
        train(config, tmp_path / "a", Stopper())
    ours = train(config, tmp_path / "a")
    theirs = train(config, tmp_path / "b")
    a, b = load_weights(ours)[0], load_weights(theirs)[0]
    assert all(torch.equal(a[name], b[name]) for name in a)
    losses = [[r["loss"] for r in run.read_metrics()] for run in (ours, theirs)]
    assert losses[0] == losses[1]
