"""A comparison from the request to the winner: real processes, tiny models."""

import html
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensue.comparison import CompareConfig, Result, compare, plan
from ensue.comparison.text import TextJudge
from ensue.data.corpus import DataConfig
from ensue.distributed.env import start_env
from ensue.errors import DataError, NonFiniteError, RunError, UsageError
from ensue.models.custom import allow
from ensue.models.gpt2 import GPT2Config
from ensue.runs import Run
from ensue.tasks.lm import Text
from ensue.testing import LawError
from ensue.training.config import RunConfig, TrainConfig
from ensue.training.session import load_model, read_data
from ensue.training.tracking import Tracker

OWN = str(Path(__file__).with_name("gru.py"))
MODELS: dict[str, dict[str, Any]] = {
    "gru": {"name": f"{OWN}:GRU"},
    "bad": {"name": f"{OWN}:Diverging"},
    "worse": {"name": f"{OWN}:NeverANumber"},
    "gpt2": {"name": "gpt2", "num_layers": 1, "num_heads": 2, "d_model": 48, "context_length": 16},
}
FAILING = ("bad", "worse")
TRAIN = TrainConfig(threads=1, precision="fp32", compile="no", global_batch_size=8)


def request_in(folder: Path, **changes: Any) -> CompareConfig:
    chosen = random.Random(0)
    words = "the a cat dog sat ran on far mat under tree and then again".split()
    for name, count in (("book.txt", 4000), ("test.txt", 400)):
        text = " ".join(chosen.choice(words) for _ in range(count))
        if not (folder / name).exists():
            (folder / name).write_text(text)
    values: dict[str, Any] = {
        "data": DataConfig(sources=(str(folder / "book.txt"),), cache=str(folder / "cache")),
        "test": (str(folder / "test.txt"),),
        "models": MODELS,
        "budget": "8s",
        "seeds": 2,
        "rates": (0.5, 1.0),
        "size": "xs",
        "train": TRAIN,
    }
    return CompareConfig(**{**values, **changes})


class Listener(Tracker):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compare")


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    allow(OWN)
    patch = pytest.MonkeyPatch()
    patch.setattr(plan, "START_SECONDS", 0.0)  # it takes longer here: tests want few updates
    patch.setattr(plan, "OVERHEAD", 5.0)
    patch.setattr(plan, "LEAST_STEPS", 4)
    try:
        return compare(request_in(folder), folder / "out", Listener())
    finally:
        patch.undo()


def test_every_candidate_has_its_row_and_its_runs(result: Result) -> None:
    assert [c["name"] for c in result.values["candidates"]] == list(MODELS)
    for c in result.values["candidates"]:
        if c["name"] == "worse":
            continue
        assert [run["seed"] for run in c["runs"]] == [0, 1]
        assert [trial["rate"] for trial in c["trials"]] == [0.5, 1.0]
        if c["name"] not in FAILING:
            assert c["bits_per_byte"] < 8
            assert c["bits_per_byte_spread"] > 0
            assert c["peak_bytes"] > 1 << 20
            assert c["shape"]["precision"] == "fp32"
            assert len({run["targets"] for run in c["runs"]}) == 1
            assert {run["bits_per_byte"] is not None for run in c["runs"]} == {True}


def test_weights_and_tokens_are_equal(result: Result) -> None:
    """The claim of the table: unequal, the rest of it says nothing."""
    sound = [c for c in result.values["candidates"] if c["name"] not in FAILING]
    leader = sound[-1]
    for c in sound:
        assert c["parameters"] == pytest.approx(leader["parameters"], rel=0.02)
        assert c["tokens"] == pytest.approx(leader["tokens"], rel=0.02)


def test_a_candidate_that_diverges_stops_no_other_and_the_table_says_so(result: Result) -> None:
    (bad,) = [c for c in result.values["candidates"] if c["name"] == "bad"]
    assert "none of its trials came to an end: diverged: step" in bad["error"]
    assert bad["bits_per_byte"] is None
    assert all("diverged" in trial["error"] for trial in bad["trials"])
    (worse,) = [c for c in result.values["candidates"] if c["name"] == "worse"]
    assert "diverged while it was measured" in worse["error"]


def test_the_rate_that_did_best_in_the_trials_is_the_one_of_the_runs(result: Result) -> None:
    for c in result.values["candidates"]:
        if c["bits_per_byte"] is None:
            continue
        best = min(c["trials"], key=lambda t: t["bits_per_byte"])["rate"]
        assert c["rate"] == best
        config = Run(result.folder / c["runs"][1]["run"]).read_plan()["config"]
        assert config["train"]["matrix_lr"] == pytest.approx(0.02 * best)
        assert config["seed"] == 1


def test_the_winner_is_a_run_that_works(result: Result) -> None:
    scores = {
        c["name"]: c["bits_per_byte"]
        for c in result.values["candidates"]
        if c["bits_per_byte"] is not None
    }
    assert result.values["winner"] == min(scores, key=lambda name: scores[name])
    assert result.winner is not None
    run = Run.open(result.winner)
    model, tokenizer = load_model(run)
    assert model.vocab_size == tokenizer.vocab_size
    assert not (run.path / "checkpoints").exists()


def test_the_floor_and_the_test_text_are_in_the_same_table(result: Result) -> None:
    (floor,) = result.values["floors"]
    assert 0 < floor["bits_per_byte"] < 8
    assert 0 < floor["test_bits_per_byte"] < 8
    rows = result.table()
    assert len(rows) == len(MODELS) + 1
    scores = [r["bits per byte"] for r in rows if r["bits per byte"] is not None]
    assert scores == sorted(scores)
    for c in result.values["candidates"]:
        assert (c["test_bits_per_byte"] is None) == (c["bits_per_byte"] is None)
    assert "read once" in result.values["protocol"][-1]


def test_memory_grows_with_the_text_for_attention_alone(result: Result) -> None:
    kept = {
        c["name"]: [row["state_bytes"] for row in c["generation"]]
        for c in result.values["candidates"]
    }
    assert len(set(kept["gru"])) == 1
    assert kept["gpt2"] == sorted(set(kept["gpt2"]))
    assert len(kept["gpt2"]) == 4


def test_the_pages_are_there(result: Result) -> None:
    assert json.loads((result.folder / "results.json").read_text()) == result.values
    page = (result.folder / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in MODELS)
    assert "Result(" in repr(result)
    assert html.escape(page) in result._repr_html_()  # in a frame: its style is for a page


def test_the_same_call_again_does_nothing_again(result: Result, folder: Path) -> None:
    """What was trained stays, and the test text is not read a second time."""
    before = {path: path.stat().st_mtime_ns for path in result.folder.glob("*/*/model.safetensors")}
    (folder / "test.txt").rename(folder / "kept.txt")
    (folder / "test.txt").write_text("another text altogether, which nobody may read")
    try:
        with pytest.raises(DataError, match="the test text is not what"):
            compare(request_in(folder), folder / "out")
    finally:
        (folder / "kept.txt").replace(folder / "test.txt")
    scored = (folder / "out" / "test.json").read_bytes()
    again = compare(request_in(folder), folder / "out")
    assert (folder / "out" / "test.json").read_bytes() == scored
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [c["test_bits_per_byte"] for c in again.values["candidates"]] == [
        c["test_bits_per_byte"] for c in result.values["candidates"]
    ]
    assert [c["bits_per_byte"] for c in again.values["candidates"]] == [
        c["bits_per_byte"] for c in result.values["candidates"]
    ]


@pytest.mark.usefixtures("result")
def test_another_request_into_the_same_folder_is_refused_with_the_difference(folder: Path) -> None:
    with pytest.raises(RunError, match=r"budget: '8s' -> '9s'"):
        compare(request_in(folder, budget="9s"), folder / "out")


@pytest.mark.usefixtures("result")
def test_other_data_under_the_same_name_are_refused(folder: Path) -> None:
    book = folder / "book.txt"
    text = book.read_text()
    book.write_text(text.replace("cat", "cow"))
    try:
        with pytest.raises(DataError, match="not what"):
            compare(request_in(folder), folder / "out")
    finally:
        book.write_text(text)


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not a comparison"):
        compare(request_in(tmp_path), tmp_path / "out")


def test_a_model_that_breaks_a_law_is_named_before_anything_runs(tmp_path: Path) -> None:
    allow(OWN)
    models = {"peeking": {"name": f"{OWN}:Peeking"}, "gru": MODELS["gru"]}
    with pytest.raises(LawError, match="causal"):  # also where a size is to be chosen
        compare(request_in(tmp_path, models=models, size=""), tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_candidates_that_all_diverge_at_once_are_an_error_with_a_way_out(tmp_path: Path) -> None:
    """There is nothing to share the budget among: not an index error."""
    allow(OWN)
    with pytest.raises(NonFiniteError, match="no candidate can be trained") as caught:
        compare(request_in(tmp_path, models={"worse": MODELS["worse"]}), tmp_path / "out")
    assert "--train.lr" in str(caught.value)


def test_a_budget_too_small_for_one_is_said_before_anything_runs(tmp_path: Path) -> None:
    slow = {"name": "rnn", "num_layers": 1, "d_model": 64}
    request = request_in(tmp_path, models={"rnn": slow}, budget="1s")
    with pytest.raises(UsageError, match="too small for rnn"):
        compare(request, tmp_path / "out")
    assert not (tmp_path / "out" / "trials").exists()


def test_own_code_is_not_run_for_a_run_folder_that_names_it(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder from elsewhere must not be able to start a Python file that lies here."""
    monkeypatch.setattr("ensue.models.custom._allowed", set())
    with pytest.raises(UsageError, match="--code"):
        load_model(Run(result.folder / "runs" / "gru-0"))


def test_a_misspelt_test_text_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    request = request_in(tmp_path, test=(str(tmp_path / "tset.txt"),))
    with pytest.raises(DataError, match=r"tset\.txt"):
        compare(request, tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()


def test_text_that_grows_meanwhile_is_noticed(result: Result, folder: Path) -> None:
    """Later runs would learn from other text than the earlier ones, and split it elsewhere."""
    out, book = folder / "grown", folder / "book.txt"
    out.mkdir()
    for name in ("comparison.json", "tokenizer.json"):
        (out / name).write_bytes((result.folder / name).read_bytes())
    text = book.read_text()

    class Growing(Tracker):
        def progress(self, stage: str, done: int, total: int) -> None:
            if stage.startswith("trials/"):
                book.write_text(text + " and so on" * 50)

    try:
        with pytest.raises(DataError, match="changed while it was compared"):
            compare(request_in(folder), out, Growing())
    finally:
        book.write_text(text)


def test_the_last_of_the_lineage_leads_not_a_model_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes of a person's own class change its window alone: led by it, GPT-2 gets 12 layers."""
    allow(OWN)
    monkeypatch.setattr(plan, "_measured", lambda *args: _as_it_is(*args))
    models = {"gpt2": {"name": "gpt2"}, "gru": MODELS["gru"]}
    request = request_in(tmp_path, models=models, size="", train=TrainConfig(threads=1))
    reading = RunConfig(data=request.data, model=GPT2Config())
    text = read_data(reading, start_env(), Tracker())
    assert isinstance(text, Text)
    judge = TextJudge(replace(request, test=()), text, Tracker())
    candidates, leader = plan._shaped(request, judge, Tracker())
    assert leader == "gpt2"
    gpt2, gru = candidates
    assert gpt2.config.size == "xs"
    assert gru.parameters == pytest.approx(gpt2.parameters, rel=0.02)
    assert gru.config.model.context_length == gpt2.config.model.context_length


def _as_it_is(name: str, chooser: Any, shaped: Any, error: str) -> Any:
    return plan.Candidate(name, shaped, 1.0, 1.0, chooser.parameters(shaped), 1.0, error)


@pytest.mark.slow
def test_two_jobs_give_the_same_table_as_one(result: Result, folder: Path) -> None:
    """Which run goes first, and beside which other, must not enter the numbers."""
    allow(OWN)
    out = folder / "two"
    out.mkdir()
    for name in ("comparison.json", "tokenizer.json"):
        (out / name).write_bytes((result.folder / name).read_bytes())
    again = compare(replace(request_in(folder)), out, jobs=2)
    for a, b in zip(again.values["candidates"], result.values["candidates"], strict=True):
        assert a["bits_per_byte"] == b["bits_per_byte"]
        assert a["test_bits_per_byte"] == b["test_bits_per_byte"]


@pytest.mark.slow
def test_equal_time_is_equal_within_ten_percent(tmp_path: Path) -> None:
    """Two models of very different pace; each run is fitted to the clock."""
    mlp = {"name": "mlp", "window": 3, "num_layers": 1}
    models = {"mlp": mlp, "rnn": {"name": "rnn", "num_layers": 2, "d_model": 64}}
    request = request_in(tmp_path, models=models, equal="time", budget="25s", seeds=1, rates=(1.0,))
    result = compare(request, tmp_path / "out")
    seconds = [c["seconds"] for c in result.values["candidates"]]
    assert max(seconds) <= 1.1 * min(seconds)
    assert max(seconds) <= 27.5
    assert not [line for line in result.values["unfair"] if "Times differ" in line]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_comparison_that_is_asked_to_stop_takes_its_run_with_it(tmp_path: Path) -> None:
    """A batch system's SIGTERM must not leave a training behind that nobody knows of."""
    request_in(tmp_path)
    code = (
        "import sys; sys.argv = ['ensue', 'compare', *sys.argv[1:]];"
        "from ensue.cli import main; sys.exit(main())"
    )
    words = [str(tmp_path / "book.txt"), "--models", "mlp", "--budget", "2min", "--seeds", "1"]
    words += ["--rates", "1", "--size", "xs", "--train.threads", "1", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "o" / "runs" / "mlp-0" / "metrics.jsonl"
    for _ in range(1200):
        if metrics.exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Go on with the same command" in said
    with Run(metrics.parent).lock():  # nobody holds it
        assert list((metrics.parent / "checkpoints").glob("step-*"))
