"""Report, model card and picture of runs of every kind: finished, broken off, empty, very long."""

import base64
import hashlib
import json
import shlex
from pathlib import Path

import pytest
from pages import PAYLOAD, Page, assert_harmless

from ensue.models import steps_for
from ensue.runs import Run
from ensue.tasks import find_kind
from ensue.views.card import write_card
from ensue.views.plots import read_curves, smooth, thin
from ensue.views.report import write_report
from ensue.views.text import train_command

FLOOR = {"name": "5-gram", "bits_per_byte": 2.41}


def records(steps: int, eval_every: int = 0, final: bool = False) -> list[dict[str, object]]:
    made: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        loss = 2.0 + 5.0 / step + (0.05 if step % 2 else -0.05)
        made.append({"kind": "step", "step": step, "loss": loss, "lr": 0.01 / step})
        made[-1] |= {"grad_norm": 0.5, "tokens": step * 64, "seconds": step * 0.25}
        made[-1] |= {"tokens_per_second": 256.0}
        if eval_every and step % eval_every == 0:
            score = {
                "split": "valid",
                "loss": loss + 0.2,
                "bits_per_byte": loss / 2,
                "sampled": True,
            }
            made.append(
                {"kind": "eval", "step": step, **score, "bits_per_byte_averaged": loss / 2.1}
            )
    if final:
        made.append({"kind": "final", "step": steps, "kept": "averaged", "kept_step": steps})
        made[-1] |= {"split": "valid", "loss": 2.61, "bits_per_byte": 2.113, "bytes": 111540}
        made[-1] |= {"targets": 9, "sampled": False, "fingerprint": "3fd2" * 16}
    return made


def make(tmp_path: Path, lines: list[dict[str, object]], name: str = "book-gpt2-001") -> Run:
    run = Run.create(tmp_path / name)
    if lines:
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def plan(source: str = "/home/alice/private/book.txt") -> dict[str, object]:
    model = {"name": "gpt2", "context_length": 64, "d_model": 32}
    config = {"data": {"sources": [source]}, "model": model, "steps": 20, "seed": 7}
    request = config | {"model": {"name": "gpt2", "context_length": 0, "d_model": 32}, "steps": 0}
    return {
        "config": config | {"train": {"lr": 0.02, "weight_decay": 0.1}},
        "request": request | {"budget": "3min", "train": {"lr": 0.0, "weight_decay": 0.2}},
        "parameters": 12345,
        "valid_text": "3fd2" * 16,
        "corpus": "ab12" * 16,
        "version": "0.1.0",
        "notes": ["read as UTF-8 (guessed)"],
        "machine": {"torch_version": "2.13.0"},
    }


def report(run: Run, values: dict[str, object] | None = None, **more: object) -> tuple[Page, str]:
    text = write_report(run, plan() if values is None else values, **more).read_text("utf-8")
    return Page(text), text


def test_a_finished_run_is_told_whole(tmp_path):
    page, text = report(make(tmp_path, records(20, 5, True)), floor=FLOOR, samples=[("A ", "b")])
    for words in (
        "2.113 bits per byte on valid",
        "0.30 below the floor: counting alone (5-gram) reaches 2.410",
        "non-overlapping windows of 64 tokens",
        "3fd23fd23fd2…",
        "Weights kept: averaged, of step 20",
        "read as UTF-8 (guessed)",
        "ensue generate book-gpt2-001 A",
        "ensue train book.txt --model gpt2 --budget 3min --seed 7 --model.d-model 32"
        " --train.weight-decay 0.2",
    ):
        assert words in page.text
    assert "alice" not in text, "a report is made to be shared"


def test_the_table_beside_the_picture_has_its_numbers(tmp_path):
    """Who cannot see the picture, or wants a value, has only the table."""
    page, _ = report(make(tmp_path, records(20, 5, True)))
    assert ["5", "1.2", "1.5250", "1.4524", "3.2500", "a sample"] in page.rows
    assert ["20", "5.0", "2.1130", "–", "2.6100", "all"] in page.rows
    assert ["1", "0.2", "7.0500", "0.01", "0.5", "256"] in page.rows
    assert len([row for row in page.rows if row[-1:] == ["256"]]) == 20


def test_every_picture_says_in_words_what_it_shows(tmp_path):
    page, _ = report(make(tmp_path, records(20, 5, True)), floor=FLOOR)
    pictures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(pictures) == 4  # curve and learning rate, wide and narrow
    assert "Final score 2.113 bits per byte" in str(pictures[0]["aria-label"])
    assert "Floor (5-gram) 2.41" in str(pictures[0]["aria-label"])


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    """A report opened from a mail must not call home, nor run what a text file held."""
    values = plan(PAYLOAD) | {"notes": [PAYLOAD], "version": PAYLOAD, "valid_text": PAYLOAD}
    values["config"]["model"] |= {"name": PAYLOAD, PAYLOAD: PAYLOAD}  # type: ignore[index]
    run = make(tmp_path, records(20, 5, True))
    floor = FLOOR | {"name": PAYLOAD}
    page, text = report(run, values, samples=[(PAYLOAD, PAYLOAD)], floor=floor)
    assert_harmless(text, page)
    assert "\\x1b[31m" in page.text


def test_the_policy_allows_the_style_sheet_alone(tmp_path):
    """A wrong hash would leave the page unstyled; a wide policy would let injected styles in."""
    page, text = report(make(tmp_path, records(3)))
    policy = next(a["content"] for _, a in page.tags if "http-equiv" in a)
    style = text[text.index("<style>") + 7 : text.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_samples_keep_their_spaces_and_find_their_direction(tmp_path):
    samples = [("في", " البداية"), ("東京は", "夏\n\t夜")]
    page, _ = report(make(tmp_path, records(3)), samples=samples)
    shown = [attrs for _, attrs in page.tags if attrs.get("class") == "sample"]
    assert [(a["dir"], a["lang"]) for a in shown] == [("auto", "")] * 2
    assert "東京は夏\n\t夜" in page.text


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "0 of 20 steps are done"),
        (records(1), "1 of 20 steps are done"),
        (records(12), "12 of 20 steps are done"),
        (records(12, 4), "Lowest so far: 1.183 bits per byte at step 12 (a sample of valid)"),
        (records(20, 0, True), "2.113"),
        (records(0, 0, True), "2.113"),
        ([{"kind": "step", "step": 1, "loss": None}, {"kind": "odd"}], "0 of 20 steps are done"),
        ([{"kind": "step", "step": 1, "loss": 2.0}] * 3, "1 of 20 steps are done"),
    ],
    ids=["empty", "one step", "no evals", "unfinished", "only final", "no steps", "odd", "bare"],
)
def test_any_run_has_a_report(tmp_path, lines, words):
    """A run that broke off is the one whose report is needed most."""
    run = make(tmp_path, lines)
    for floor in (None, FLOOR):
        page, _ = report(run, floor=floor)
        assert words in page.text
    write_card(run, plan())
    page, _ = report(run, {})
    assert "ensue" in page.text


def test_a_network_that_counting_beats_is_called_so(tmp_path):
    page, _ = report(make(tmp_path, records(20, 0, True)), floor=FLOOR | {"bits_per_byte": 2.0})
    assert "No better than counting" in page.text


def test_a_long_run_still_has_a_small_report(tmp_path):
    """A point for each of 100,000 steps is an SVG of 3 MB, and a browser that stands still."""
    run = make(tmp_path, records(20_000, 20, True))
    page, text = report(run, floor=FLOOR)
    assert len(text.encode()) < 200_000
    assert "120 of 20,000; all in metrics.jsonl" in page.text


def test_a_thousand_files_are_not_a_title(tmp_path):
    """The demo reads some 700 files; a heading of all of them is a page of its own."""
    values = plan()
    values["config"]["data"] = {"sources": [f"/lib/{i}.py" for i in range(700)]}  # type: ignore[index]
    page, text = report(make(tmp_path, records(3)), values)
    assert "trained on 0.py + 1.py + 698 more" in page.text
    assert "ensue train FILES --model gpt2" in page.text
    assert "/lib" not in text
    write_card(make(tmp_path, []), values)


def test_a_spike_survives_thinning():
    points = [(i, 1.0) for i in range(10_000)]
    points[5_432] = (5_432, 99.0)
    few = thin(points)
    assert len(few) <= 500
    assert (5_432, 99.0) in few
    assert few == sorted(few)
    assert few[0] == points[0]
    assert few[-1] == points[-1]


def test_smoothing_neither_lags_where_the_curve_is_steep_nor_shifts_a_line():
    line = [(i, 100.0 - i) for i in range(100)]
    assert [y for _, y in smooth(line)[:95]] == pytest.approx([y for _, y in line[:95]])
    assert smooth([(1, 2.0)]) == [(1, 2.0)]
    assert smooth([]) == []


def test_training_loss_stands_on_the_axis_of_the_score():
    """Nats for each token and bits for each byte on one axis, unconverted, would lie."""
    curves = read_curves(records(20, 5, True), find_kind("lm"))
    assert curves.unit == "bits per byte"
    assert curves.per_nat == pytest.approx(2.113 / 2.61)
    assert read_curves(records(3), find_kind("lm")).unit == "nats per token"


def asked(task, step, **data):
    """Give a plan, as plain values, in which nothing is asked for but model and data."""
    from ensue.training.config import RunConfig, config_to_dict

    config = RunConfig(task=task, data=find_kind(task).config(**data), model=step.config())
    request = json.loads(json.dumps(config_to_dict(config)))
    return config, {"request": request, "config": request}


@pytest.mark.parametrize("step", steps_for("lm"), ids=lambda step: step.name)
def test_defaults_need_no_flag(step):
    """The usual values of the views and the defaults of the configs are the same, or this fails."""
    _, values = asked("lm", step, sources=("book.txt",))
    assert train_command(values) == f"ensue train book.txt --model {step.name}"


@pytest.mark.parametrize("step", steps_for("pictures"), ids=lambda step: step.name)
def test_the_command_of_a_picture_classifier_makes_the_same_run(step):
    from ensue.commands import parse_train

    config, values = asked("pictures", step, sources=("a/",))
    command = train_command(values)
    assert command == f"ensue train a --task pictures --model {step.name}"
    again, _ = parse_train(shlex.split(command)[2:], "")
    assert again.model == config.model
    _, values = asked("pictures", step, sources=("a",), flip=True, rotate=20.0)
    assert train_command(values).endswith("--rotate 20.0 --flip")


def test_the_command_of_what_fills_in_makes_the_same_run():
    """What is on unless it is switched off needs ``--no-``: it was left out, or given no value."""
    from ensue.commands import parse_train

    (step,) = steps_for("mlm")
    config, values = asked("mlm", step, sources=("book.txt",))
    command = train_command(values)
    assert command == "ensue train book.txt --task mlm --model bert"
    assert parse_train(shlex.split(command)[2:], "")[0] == config
    config, values = asked(
        "mlm", step, sources=("book.txt",), whole_words=False, next_sentence=True
    )
    command = train_command(values)
    assert command.endswith("--no-whole-words --next-sentence")
    assert parse_train(shlex.split(command)[2:], "")[0] == config


@pytest.mark.parametrize("step", steps_for("classify"), ids=lambda step: step.name)
def test_the_command_of_a_text_classifier_makes_the_same_run(step):
    from ensue.commands import parse_train

    config, values = asked("classify", step, sources=("a.csv",))
    command = train_command(values)
    assert command == f"ensue train a.csv --task classify --model {step.name}"
    assert parse_train(shlex.split(command)[2:], "")[0] == config


def test_the_command_and_the_card_name_the_run_that_was_begun_with(tmp_path):
    """Without it the same command trains from nothing, and the card said that this one did."""
    values = plan()
    values |= {"request": {"task": "classify", "model": {"name": "bert"}, "start": "/home/al/pre"}}
    values["config"] |= {"task": "classify", "start": "/home/al/pre"}  # type: ignore[operator]
    assert "--model gpt2 --from pre" in train_command(values)
    run = make(tmp_path, records(20, 5, True), "run")
    write_card(run, values)
    card = run.card_path.read_text("utf-8")
    assert "trained from the weights of `pre` to name the class of a text" in card
    assert "from nothing" not in card
    assert "/home/al" not in card


@pytest.mark.parametrize("step", steps_for("translate"), ids=lambda step: step.name)
@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"src": ("a.de",), "tgt": ("a.en",)}, "--model {} --src a.de --tgt a.en"),
        ({"sources": ("pairs.tsv",)}, "pairs.tsv --task translate --model {}"),
    ],
    ids=["files", "table"],
)
def test_the_command_of_a_translation_makes_the_same_run(step, data, words):
    """Without the task a table would be read as a text; a default of another task is no default."""
    from ensue.commands import parse_train

    config, values = asked("translate", step, **data)
    command = train_command(values)
    assert command == f"ensue train {words.format(step.name)}"
    again, _ = parse_train(shlex.split(command)[2:], "")
    assert again == config


@pytest.mark.parametrize(("task", "usual"), [("lm", 0.1), ("translate", 0.05)])
def test_a_share_that_is_usual_for_another_task_is_named(task, usual):
    """Left out, the command would hold out another part of the data."""
    for share in (0.1, 0.05):
        _, values = asked(task, steps_for(task)[0], sources=("a.tsv",), valid_fraction=share)
        assert ("--valid-fraction" in train_command(values)) == (share != usual)


def test_a_dropout_of_nothing_that_was_asked_for_stays():
    """0 is not "chosen": without the flag ensue would choose a tenth."""
    model = {"name": "gpt2", "dropout": 0.0}
    assert train_command({"request": {"model": model}, "config": {"model": model}}).endswith(
        "--model gpt2 --model.dropout 0.0"
    )


def test_pages_of_a_persons_own_model_name_its_class_and_not_its_folder(tmp_path):
    """The command failed when pasted, and told where the author's home is."""
    file = "/home/alice/gru.py"
    own = {"name": f"{file}:GRU", "file": file, "classname": "GRU", "d_model": 48, "dropout": -1.0}
    values = plan()
    values |= {"request": {"model": own, "steps": 20}}
    values["config"] |= {"model": {**own, "context_length": 64}}  # type: ignore[operator]
    assert train_command(values) == (
        "ensue train book.txt --model gru.py:GRU --steps 20 --model.d-model 48"
    )
    run = make(tmp_path, records(20, 5, True))
    write_card(run, values)
    _, text = report(run, values)
    card = run.card_path.read_text("utf-8")
    for page in (card, text):
        assert "alice" not in page
        assert "yours" not in page
        assert "--code gru.py" in page
    assert 'ensue.load("book-gpt2-001", code="gru.py")' in card
    assert "(`GRU`)" in card
    assert "<h1>GRU trained on" in text


def test_pages_of_a_translation_say_how_it_is_used_and_was_scored(tmp_path):
    """They told to continue a text, and that it was scored in windows, which pairs have not."""
    values = plan()
    data = {"src": ["/home/alice/train.de"], "tgt": ["/home/alice/train.en"]}
    asked = {"task": "translate", "data": data}
    model = {"name": "transformer", "context_length": 512}
    values |= {"request": asked | {"model": {"name": "transformer"}}}
    values["config"] |= asked | {"model": model}  # type: ignore[operator]
    run = make(tmp_path, records(20, 5, True), "run")
    write_card(run, values)
    page, text = report(run, values)
    card = run.card_path.read_text("utf-8")
    for shown in (page.text, card):
        assert "Every byte of the targets was scored once, each target given its source" in shown
        assert "ensue translate run TEXT" in shown
        assert "ensue train --model transformer --src train.de --tgt train.en" in shown
        assert "windows" not in shown
        assert "generate" not in shown
    assert "alice" not in text + card
    assert 'ensue.load_translator("run")' in card
    assert "trained from nothing to write a sequence, given another" in card


def test_the_card_tells_all_but_the_data(tmp_path):
    run = make(tmp_path, records(20, 5, True))
    write_card(run, plan() | {"notes": ["a [link](javascript:x) <b>\x1b"]})
    text = run.card_path.read_text("utf-8")
    for words in ("12,345 parameters", "**2.1130 bits per byte**", "`book.txt`", "3fd2" * 16):
        assert words in text
    assert "ensue generate book-gpt2-001" in text
    assert "\\[link\\](javascript:x) \\<b\\>\\x1b".replace("\\x1b", "\\\\x1b") in text
    assert "alice" not in text
