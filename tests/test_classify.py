"""``ensue train``, ``classify`` and ``evaluate`` of pictures, as a person meets them."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import ensue
from ensue.classifier import PictureClassifier
from ensue.cli import main
from ensue.data.pictures import PicturesConfig
from ensue.errors import DataError, StoppedError, UsageError
from ensue.models import find_step
from ensue.models.mlp import MLPClassifier, MLPClassifierConfig
from ensue.runs import Run
from ensue.tasks.measures import ACCURACY
from ensue.tasks.pictures import Showing
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import train
from ensue.training.tracking import Tracker
from ensue.weights import load_weights

Image = pytest.importorskip("PIL.Image")

QUICK = [
    *("--steps", "40", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--train.lr", "0.01", "--train.optimizer", "adamw"),
]
COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200)}


def write_set(folder: Path, each: int = 30) -> Path:
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = generator.integers(-25, 25, (10, 10, 3))
            picture = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("pictures") / "colours")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    out = folder.parent / "run"
    words = [str(folder), "--model", "mlp", *QUICK, "--test-fraction", "0.2", "--out", str(out)]
    assert main(["train", *words]) == 0
    return out


def test_training_tells_what_is_there_and_how_good_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "r")]
    assert main(["train", str(folder), *QUICK, *out]) == 0
    shown = capsys.readouterr().err
    assert "6 of 60 pictures are valid: the same share of each class" in shown
    assert "training cnn," in shown
    assert "40 steps of 8 pictures" in shown
    assert "% right" in shown
    assert f"ensue classify {tmp_path / 'r'} PICTURE" in shown


def test_plan_shows_rows_before_anything_is_spent(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(folder), "--model", "mlp", *QUICK]) == 0
    shown = capsys.readouterr().out
    assert "54 to learn from, 6 held out; 10 by 10 pixels, in colours" in shown
    assert "FLOP an update of 8 pictures" in shown
    assert "blue (27), red (27)" in shown


def test_pictures_folders_and_lists_are_classified_in_order(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = folder / "red" / "0.png", folder / "blue" / "1.png"
    assert main(["classify", str(run), str(one), str(other)]) == 0
    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert first[:2] == [str(one), "red"]
    assert second[:2] == [str(other), "blue"]
    assert 0.5 < float(first[2]) <= 1

    assert main(["classify", str(folder / "red"), "--run", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30
    assert sum("\tred\t" in line for line in lines) >= 28

    (tmp_path / "list.txt").write_text(f"{other}\n\n{one}\n")
    out = tmp_path / "answers.tsv"
    words = ["--file", str(tmp_path / "list.txt"), "--top-k", "2", "--out", str(out)]
    assert main(["classify", str(run), *words]) == 0
    rows = [line.split("\t") for line in out.read_text().splitlines()]
    assert [row[1] for row in rows] == ["blue", "red"]
    assert [row[3] for row in rows] == ["red", "blue"]
    assert sum(float(share) for share in rows[0][2::2]) == pytest.approx(1, abs=1e-3)


def test_a_doubtful_answer_is_not_given(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", str(run), str(folder / "red" / "0.png"), "--unsure-below", "1.0"]
    assert main(words) == 0
    assert "\tunsure\t" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] is None
    assert found["top"][0]["label"] == "red"
    with pytest.raises(UsageError, match="unsure_below"):
        main_raising([*words[:-1], "2"])


def main_raising(argv: list[str]) -> None:
    main([*argv, "--debug"])


def test_a_picture_that_cannot_be_read_costs_no_other(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "b.png").write_bytes((folder / "red" / "0.png").read_bytes())
    assert main(["classify", str(run), str(tmp_path)]) == DataError.exit_code
    caught = capsys.readouterr()
    assert "b.png\tred\t" in caught.out
    assert "a.png: not a readable picture" in caught.err
    assert "1 of 2 pictures cannot be read" in caught.err


def test_a_name_that_is_not_there_costs_no_other(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name in a list ended all, and the answers before it were lost."""
    one, other = folder / "red" / "0.png", folder / "blue" / "1.png"
    words = ["classify", str(run), str(one), "nothing.png", str(other)]
    assert main(words) == DataError.exit_code
    caught = capsys.readouterr()
    assert [line.split("\t")[1] for line in caught.out.splitlines()] == ["red", "", "blue"]
    assert "nothing.png: no such file or folder" in caught.err


WRONG = {
    "no picture": (["RUN"], "no pictures to classify"),
    "missing": (["RUN", "nothing.png"], "nothing.png: no such file or folder"),
    "no run": (["nothing", "PICTURE"], "nothing"),
    "both": (["RUN", "PICTURE", "--file", "a.txt"], "not both"),
    "no list": (["RUN", "--file", "missing.txt"], "missing.txt: No such file"),
    "empty folder": (["RUN", "EMPTY"], "no pictures in it"),
    "top": (["RUN", "PICTURE", "--top-k", "0"], "top_k is 0"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_mistakes_are_answered_in_words(
    kind: str, run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, said = WRONG[kind]
    named = {"RUN": str(run), "PICTURE": str(folder / "red" / "0.png"), "EMPTY": str(tmp_path)}
    assert main(["classify", *(named.get(word, word) for word in words)]) in (2, 3, 4)
    assert said in capsys.readouterr().err


def test_a_run_is_scored_on_its_splits_and_on_others(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "of 6 on valid" in shown
    assert "calibration error" in shown
    assert main(["evaluate", str(run), "--split", "test"]) == 0
    assert "of 12 on test" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--split", "test"]) == 0
    assert "look 2 of this run at these data" in capsys.readouterr().out
    other = write_set(tmp_path / "other", each=3)
    (other / "red").rename(other / "Red")
    (other / "green").mkdir()
    Image.new("RGB", (9, 9), (0, 200, 0)).save(other / "green" / "0.png")
    assert main(["evaluate", str(run), "--data", str(other), "--json"]) == 0
    caught = capsys.readouterr()
    found = json.loads(caught.out)
    assert found["score"]["targets"] == 7
    assert found["score"]["accuracy"] == pytest.approx(100 * 6 / 7, abs=15)
    assert [c["name"] for c in found["by_class"]] == ["blue", "red"]
    assert "1 labels are not among train's, and count as mistakes: 'green'" in caught.err
    assert "3 labels differ from train's in case or spaces" in caught.err
    for words in (["--split", "tset"], ["--split", "test", "--data", str(other)]):
        assert main(["evaluate", str(run), *words]) == 2
    assert main(["evaluate", str(run), "--src", "a", "--ref", "b"]) != 0


def test_what_was_taken_for_what_is_drawn(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--out", str(tmp_path / "drawn"), "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files[0] == str(tmp_path / "drawn" / "confusion-valid.svg")
    drawn = Path(files[0]).read_text()
    assert "valid, 6 examples" in drawn
    assert drawn.count(">blue<") == 2  # a row and a column


def test_a_look_shows_filters_and_what_speaks_for_the_answer(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(folder / "red" / "0.png")
    assert main(["inspect", str(run), picture]) == 0
    assert "red" in capsys.readouterr().out
    page = (run / "inspect" / "look.html").read_text()
    assert "for and against red" in page
    assert main(["inspect", str(run), picture, "--json", "--out", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top"][0]["label"] == "red"
    assert np.array(found["speaks"]).shape == (10, 10)
    assert main(["inspect", str(run), picture, "--target", "x"]) == 2
    assert main(["inspect", str(run), str(folder / "nothing.png")]) == DataError.exit_code


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_filters_are_pictures_and_maps_have_places(
    folder: Path, tmp_path: Path, model: str
) -> None:
    words = ["--model", model, *QUICK, "--model.d-model", "8"]
    words += ["--model.num-layers", "1"]
    assert main(["train", str(folder), *words, "--out", str(tmp_path / "run")]) == 0
    seen = ensue.look_at_picture(tmp_path / "run", folder / "blue" / "0.png")
    assert seen.filters.shape == ((8, 10, 10) if model == "mlp" else (8, 5, 5))
    names = [] if model == "mlp" else ["first", "blocks.0", "blocks.1", "blocks.2"]
    assert list(seen.maps) == names
    assert all(found.ndim == 3 for found in seen.maps.values())
    assert len(seen.pictures) == 2 + len(names)
    assert seen.pictures[1].svg() == seen.pictures[1]._repr_svg_()
    assert "&lt;svg" in seen._repr_html_()


def test_in_a_linear_model_what_speaks_adds_up_to_the_logit(folder: Path) -> None:
    config = MLPClassifierConfig(classes=2, channels=3, height=10, width=10)
    network = MLPClassifier(config).eval()
    with torch.no_grad():
        network.head.weight.normal_()
    thirds = (0.4, 0.4, 0.4)
    showing = Showing(classes=("a", "b"), shape=(3, 10, 10), mean=thirds, std=thirds)
    classifier = PictureClassifier(network, showing)
    picture = folder / "blue" / "0.png"
    seen = ensue.look_at_picture(classifier, picture)
    logits = network(showing.shown(classifier.pixels(picture)[None]))[0].detach()
    assert seen.answer.label == showing.classes[int(logits.argmax())]
    assert seen.speaks.sum() == pytest.approx(float(logits.max()), rel=1e-4)


def test_from_python(run: Path, folder: Path) -> None:
    classifier = ensue.load_classifier(run)
    one = classifier.classify(folder / "blue" / "0.png")
    assert one.label == "blue"
    assert str(one) == f"blue ({one.confidence:.1%})"
    with pytest.raises(DataError, match="no such file"):
        classifier.classify(folder / "nothing.png")
    found = ensue.evaluate_labels(run, split="test")
    assert found.score[ACCURACY] > 80
    assert ensue.evaluate(run)[ACCURACY] > 80
    assert ensue.evaluate(run, [str(folder)]).targets == 60


def test_the_pages_name_classes_and_nothing_of_texts(run: Path) -> None:
    card, report = Run(run).card_path.read_text(), Run(run).report_path.read_text()
    assert "% right**" in card
    assert "load_classifier" in card
    assert "will name one of them whatever it is shown" in card
    assert "nats per picture" not in card  # said with the score already
    for page in (card, report):
        assert "tokenizer cannot" not in page
        assert "byte" not in page.split("Plan")[0].replace("bytes", "")
    assert "pictures read" in report


def test_other_verbs_send_to_classify(
    run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in ("generate", "translate", "chat", "embed"):
        assert main([verb, str(run), "hello"]) == 2
        assert f"ensue classify {run} PICTURE" in capsys.readouterr().err
    assert main(["compare", str(folder), "--models", "mlp,cnn"]) == 2
    assert "not offered yet" in capsys.readouterr().err
    assert main(["train", str(folder), "--model", "gpt2"]) == 2
    assert "Models: mlp, cnn" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_stopped_and_gone_on_to_the_same_bits(folder: Path, tmp_path: Path, model: str) -> None:
    class Stopper(Tracker):
        def step(self, record: dict[str, object]) -> None:
            if record["step"] == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    config: RunConfig[object] = RunConfig(
        task="pictures",
        data=PicturesConfig(sources=(str(folder),), elastic=0.05, cutout=0.2, flip=True),
        model=find_step(model, "pictures").default,
        size="xs",
        steps=10,
        checkpoint_every=3,
        train=TrainConfig(
            threads=1, precision="fp32", compile="no", global_batch_size=8, average=0.9
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
