"""The recall probe: fresh models, equal terms, a result that can be read and kept."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from small import MODELS

from ensue import probes
from ensue.errors import NonFiniteError, StoppedError, UsageError
from ensue.inspection import reach_of
from ensue.models import steps_for
from ensue.models.custom import CustomConfig, allow
from ensue.models.mlp import MLPConfig
from ensue.planning import build_empty
from ensue.probes import RATES, Recalled, RecallResult, recall
from ensue.tasks.recall import CHANCE, VOCAB_SIZE
from ensue.training.loop import Loop
from ensue.training.tracking import Tracker
from ensue.views.looks import RECALL_HEADS, recall_rows

WINDOW = MLPConfig(context_length=8, window=3, d_model=16, num_layers=1)


class Heard(Tracker):
    def __init__(self) -> None:
        self.shares: list[int] = []
        self.said: list[str] = []

    def progress(self, what: str, done: int, total: int) -> None:
        self.shares.append(done)

    def notice(self, text: str) -> None:
        self.said.append(text)


def probe(**kwargs: Any) -> RecallResult:
    usual = {"seeds": 1, "steps": 3, "lags": (1, 2), "parameters": 3000}
    return recall(kwargs.pop("configs", {"mlp": WINDOW}), **{**usual, **kwargs})


def result(names: tuple[str, ...] = ("gpt2", "lstm"), seeds: int = 2) -> RecallResult:
    lags = (1, 2, 4, 8)
    made = []
    for i, name in enumerate(names):
        accuracy = tuple(
            (1.0, 0.9 - 0.1 * s, 0.5 + 0.1 * i + 0.2 * s, CHANCE) for s in range(seeds)
        )
        made.append(
            Recalled(
                name=name,
                parameters=9000,
                reach=None if i else 8,
                rate=1.0,
                seconds=1.5,
                accuracy=accuracy,
            )
        )
    return RecallResult(lags=lags, steps=10, models=tuple(made))


def test_a_window_recalls_what_is_in_it_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way from config to curve: trained, scored, and a cliff where it must be."""
    monkeypatch.setattr(probes, "RATES", (1.0,))
    found = probe(steps=200, lags=(1, 2, 3, 6))
    (mlp,) = found.models
    assert mlp.reach == 3
    assert min(mlp.accuracy[0][:2]) > 0.95
    assert mlp.accuracy[0][2:] == pytest.approx((CHANCE, CHANCE), abs=0.06)
    assert found.falls_at(mlp.accuracy[0]) == 3


def test_the_same_probe_gives_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this nobody can say whether a curve moved or the dice did."""
    monkeypatch.setattr(probes, "RATES", (1.0, 3.0))
    first, second = (probe(configs={"gpt2": MODELS["gpt2"]}, steps=6) for _ in range(2))
    assert [m.accuracy for m in first.models] == [m.accuracy for m in second.models]
    assert [m.rate for m in first.models] == [m.rate for m in second.models]


def test_all_candidates_are_alike_but_for_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unequal sizes, updates, rows or rates would decide before the architecture does."""
    trained: list[tuple[str, int, float, str]] = []
    fit = Loop.fit

    def watched(self: Loop, begun: float = 0.0) -> Any:
        rows = str([p.tokens.tolist() for batch in self.task.batches(self.done) for p in batch])
        trained.append((type(self.model).__name__, self.config.seed, self.train.lr, rows))
        assert self.config.steps == 2
        return fit(self, begun)

    monkeypatch.setattr(Loop, "fit", watched)
    configs = {name: MODELS[name] for name in ("mlp", "cnn", "lstm")}
    found = probe(configs=configs, seeds=2, steps=2, parameters=probes.PARAMETERS)
    assert [m.parameters for m in found.models] == pytest.approx([probes.PARAMETERS] * 3, rel=0.02)
    by_model = [[t[1:] for t in trained if t[0] == name] for name in ("MLP", "CNN", "LSTM")]
    for runs in by_model:
        assert [seed for seed, _, _ in runs] == [0] * len(RATES) + [1]
        assert [lr for _, lr, _ in runs[:3]] == [rate * 0.015 for rate in RATES]
    for rows in zip(*[[(seed, r) for seed, _, r in runs] for runs in by_model], strict=True):
        assert len(set(rows)) == 1


def test_a_rate_that_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One hopeless rate must not end the probe; three must, by the model's name."""
    monkeypatch.setattr(probes, "RATES", (1e30, 1.0))
    assert probe(steps=4).models[0].rate == 1.0
    monkeypatch.setattr(probes, "RATES", (1e30, 1e31))
    with pytest.raises(NonFiniteError, match="mlp diverges at every learning rate"):
        probe(steps=4)


def test_progress_goes_from_nothing_to_all() -> None:
    """A bar that stops at 97 or runs past 100 looks like a fault."""
    heard = Heard()
    probe(tracker=heard, seeds=2, steps=5)
    assert heard.shares == sorted(heard.shares)
    assert heard.shares[-1] == 100


def test_what_is_said_of_a_model_is_what_the_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest lag held is another number, where recall falls and comes back."""
    curves = iter([(1.0, 0.5, 1.0), (1.0, 0.5, 1.0), (1.0, 1.0, 1.0)])
    monkeypatch.setattr(probes, "recall_by_lag", lambda model, lags: next(curves))
    heard = Heard()
    found = probe(tracker=heard, seeds=3, lags=(1, 2, 4))
    (row,) = recall_rows(found.to_json())
    assert row[RECALL_HEADS.index("recall falls at lag")] == "2, 2, beyond 4"
    assert heard.said[-1] == "mlp: recall falls at lag 2, beyond lag 4"


def test_a_seed_that_diverges_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored with the weights at which it stopped, it would be called forgetful."""
    fit = Loop.fit

    def fails(self: Loop, begun: float = 0.0) -> Any:
        if self.config.seed == 1:
            raise NonFiniteError("the loss is nan")
        return fit(self, begun)

    monkeypatch.setattr(Loop, "fit", fails)
    heard = Heard()
    found = probe(tracker=heard, seeds=3)
    assert found.models[0].diverged == (1,)
    assert len(found.models[0].accuracy) == 2
    assert found.to_json()["models"][0]["diverged"] == [1]
    assert "mlp: 1 of 3 seeds diverged and are left out (1)" in heard.said
    assert heard.shares[-1] == 100


FIXED = """
from ensue.models.rnn import RNN, RNNConfig

class Fixed(RNN):
    def __init__(self, vocab_size):
        super().__init__(RNNConfig(vocab_size=vocab_size, d_model=8, num_layers=1, dropout=0.0))
"""


@pytest.mark.timeout(60)
def test_a_class_without_a_width_is_probed_as_it_is(tmp_path: Path) -> None:
    """Searching for its width never ended."""
    file = tmp_path / "fixed.py"
    file.write_text(FIXED)
    heard = Heard()
    configs = {"mine": CustomConfig(file=allow(file), classname="Fixed")}
    found = probe(configs=configs, tracker=heard, parameters=3000)
    assert found.models[0].parameters == VOCAB_SIZE * 8 + VOCAB_SIZE + 2 * 8 * 8 + 8
    assert heard.said[0] == "mine: 505 parameters instead of 3,000: its class takes no d_model"


def test_a_model_of_another_size_is_named() -> None:
    """Curves are compared as those of equals."""
    heard = Heard()
    deep = replace(MODELS["gpt2"], num_heads=16)
    assert probe(configs={"gpt2": deep}, tracker=heard).models[0].parameters > 1.02 * 3000
    assert "parameters instead of 3,000: no width comes nearer" in heard.said[0]


def test_the_time_of_the_whole_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of 30 s takes five models of three seeds seven and a half minutes."""
    monkeypatch.setattr(probes, "_seconds_per_step", lambda shapes, lags: 0.01 * len(shapes))
    monkeypatch.setattr(probes, "_probe", lambda name, *rest: result((name,)).models[0])
    heard = Heard()
    names = ("a", "b", "c", "d", "e")
    recall(dict.fromkeys(names, WINDOW), tracker=heard, parameters=6000)
    said = "the probe takes about 7 min 30 s: 30 s for each seed (3) of each model (5)"
    assert heard.said[-1] == said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"configs": {}}, "no model to probe"),
        ({"steps": -1}, "steps is -1"),
        ({"lags": (0, 1)}, "lags are 0, 1; they must be at least 1 and ascend"),
        ({"lags": (4, 2)}, "must be at least 1 and ascend"),
        ({"lags": (2, 2)}, "must be at least 1 and ascend"),
        ({"steps": 0, "budget_seconds": 1e-3}, "the budget pays for 0 updates"),
    ],
)
def test_what_cannot_be_probed_is_refused(options: dict[str, Any], said: str) -> None:
    """An empty table or a division by zero would be the answer else."""
    with pytest.raises(UsageError, match=said) as caught:
        probe(**options)
    assert "--" in caught.value.hint or "lags=" in caught.value.hint


def test_a_time_budget_is_shared_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds and models multiply the time of one; the trials are within it."""
    monkeypatch.setattr(probes, "_seconds_per_step", lambda shapes, lags: 0.01 * len(shapes))
    monkeypatch.setattr(probes, "_probe", lambda name, *rest: result((name,)).models[0])
    found = recall({"a": WINDOW, "b": WINDOW}, seeds=3, budget_seconds=10.0, parameters=3000)
    # 2 models of 3 seeds have 60 s; an update of all 5 trainings of both takes 0.1 s; and
    # 15 % are kept for scores.
    assert found.steps == 510
    assert [model.name for model in found.models] == ["a", "b"]


def test_lags_go_beyond_what_the_usual_models_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured up to its end only, a limited memory looks like an unlimited one."""
    monkeypatch.setattr(probes, "_probe", lambda name, *rest: result((name,)).models[0])
    lags = probe(lags=()).lags
    for step in steps_for("lm"):
        reach = reach_of(build_empty(step.model, replace(step.sizes["xs"], vocab_size=8)))
        assert lags[-3] >= (reach or 0)


def test_a_probe_that_is_stopped_does_not_name_a_folder_that_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop's own words say how to go on with a run; the probe's runs are temporary."""

    def stopped(self: Loop, begun: float = 0.0) -> Any:
        raise StoppedError("stopped after step 3", f"Go on with --out {self.run.path}")

    monkeypatch.setattr(Loop, "fit", stopped)
    with pytest.raises(StoppedError, match="nothing of it is kept") as caught:
        probe()
    assert "--out" not in str(caught.value)


def test_where_recall_falls() -> None:
    """Below nine in ten for the first time; never, where it holds to the last lag."""
    lags = result()
    assert lags.falls_at((1.0, 0.9, 0.89, 1.0)) == 4
    assert lags.falls_at((0.2, 1.0, 1.0, 1.0)) == 1
    assert lags.falls_at((1.0, 1.0, 1.0, 0.9)) is None


def test_numbers_are_kept_as_files_that_read_back(tmp_path: Path) -> None:
    """A picture whose numbers cannot be had is no evidence."""
    found = result()
    paths = found.save(tmp_path / "new" / "folder")
    assert {path.name for path in paths} == {
        "recall.html",
        "recall.svg",
        "recall.png",
        "recall.csv",
    }
    with open(tmp_path / "new" / "folder" / "recall.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 4
    assert [float(row["accuracy"]) for row in rows[:4]] == list(found.models[0].accuracy[0])
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["models"][0]["mean"][1] == pytest.approx(0.85)
    assert (values["models"][0]["low"][1], values["models"][0]["high"][1]) == (0.8, 0.9)
    assert values["models"][0]["falls_at"] == [4, 2]
    ElementTree.parse(tmp_path / "new" / "folder" / "recall.svg")
    page = (tmp_path / "new" / "folder" / "recall.html").read_text(encoding="utf-8")
    for words in ("gpt2", "lstm", "8 tokens", "9,000", "0.85", "chance", "4, 2"):
        assert words in page


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    """A run folder's name comes from anybody."""
    found = result(("</svg><script>alert(1)</script>$x$", "\x1b[31m_under"), seeds=1)
    paths = {path.name: path for path in found.save(tmp_path)}
    page = paths["recall.html"].read_text(encoding="utf-8")
    assert "<script" not in page
    assert "\x1b" not in page
    ElementTree.parse(paths["recall.svg"])


def test_without_matplotlib_all_but_the_png_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An extra that is missing must cost its own picture only."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    names = [path.name for path in result().save(tmp_path)]
    assert sorted(names) == ["recall.csv", "recall.html", "recall.svg"]
