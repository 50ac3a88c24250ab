"""A person's own class: what may be in it, where its file may lie, and what is refused in words."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ensue
from ensue.cli import _allow_code
from ensue.errors import UsageError
from ensue.models import custom, find_step
from ensue.models.custom import CustomConfig, allow, build
from ensue.planning import build_empty, count_parameters, fitted
from ensue.runs import Run
from ensue.tasks.measures import BITS
from ensue.testing import LawError, check_custom
from ensue.training.config import TrainConfig
from ensue.training.session import load_model, set_weights
from ensue.views.text import part
from ensue.weights import load_weights

OWN = """
from dataclasses import dataclass
import torch
from torch import Tensor, nn
from layers import WIDTH

@dataclass(frozen=True)
class State:
    h: Tensor

class GRU(nn.Module):
    max_length = None

    def __init__(self, vocab_size, d_model=WIDTH, dropout=0.1):
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(d_model, d_model, batch_first=True)
        self.output = nn.Linear(d_model, vocab_size)

    def init_state(self, rows, memory=None):
        return State(self.output.weight.new_zeros(rows, self.gru.hidden_size))

    def forward(self, tokens, state=None):
        start = self.init_state(len(tokens)) if state is None else state
        hidden, last = self.gru(self.dropout(self.embedding(tokens)), start.h[None])
        return hidden, state and State(last[0])

    def head(self, hidden):
        return self.output(hidden)

class Tied(GRU):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.output.weight = self.embedding.weight
        self.register_buffer("kept", torch.randn(8))
        self.register_buffer("made", torch.ones(8), persistent=False)
        self.plain = torch.full((8,), 2.0)
        self.number = self.plain[0].item()

    def head(self, hidden):
        return super().head(hidden * self.kept * self.made * self.plain * self.number)

class Heads(GRU):
    def __init__(self, vocab_size, d_model=16):
        super().__init__(vocab_size, d_model)
        self.unused = nn.MultiheadAttention(d_model, 8)

class NoWidth(GRU):
    def __init__(self, vocab_size, d_model=16):
        super().__init__(vocab_size, 16)

class Greedy(GRU):
    def __init__(self, vocab_size, layers, d_model=16):
        super().__init__(vocab_size, d_model)

class Short(GRU):
    max_length = 8
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.position = nn.Embedding(8, WIDTH)

    def forward(self, tokens, state=None):
        if state is None:
            self.position(torch.arange(tokens.shape[1]))  # an IndexError where there are more
        return super().forward(tokens, state)

class Small(GRU):
    def __init__(self):
        super().__init__(20)

class Peeking(GRU):
    def forward(self, tokens, state=None):
        hidden, state = super().forward(tokens, state)
        return hidden + hidden.roll(-1, 1), state
"""
TEXT = "the cat sat on the mat and the dog ran far. " * 40
TRAIN = TrainConfig(threads=1, precision="fp32", compile="no", global_batch_size=2)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Own models that import a neighbour; nothing else is allowed, and nothing remembered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ensue.models.custom._allowed", set())
    monkeypatch.delitem(sys.modules, "layers", raising=False)
    (tmp_path / "layers.py").write_text("WIDTH = 8\n")
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


@pytest.fixture
def own(file: Path) -> Callable[..., CustomConfig]:
    def make(classname: str, **given: Any) -> CustomConfig:
        return CustomConfig(file=allow(file), classname=classname, **{"vocab_size": 30, **given})

    return make


def trained(model: Any, file: Path) -> Run:
    options: dict[str, Any] = {"steps": 2, "size": "xs", "settings": TRAIN}
    return ensue.train(file.parent / "book.txt", model=model, tokenizer="char", **options)


def test_a_run_of_ones_own_is_whole_and_can_be_moved(file: Path) -> None:
    """Buffers, ties and plain tensors were lost after the last step; a moved file for good."""
    run = trained("own.py:Tied", file)
    assert run.path.name == "book-Tied-001"
    model, _ = load_model(run)
    torch.manual_seed(0)
    fresh = build(CustomConfig(file=str(file), classname="Tied", vocab_size=model.vocab_size))
    assert torch.equal(model.kept, fresh.kept)  # drawn from the run's seed, as when it was trained
    assert model.output.weight is model.embedding.weight
    assert {model.made.device.type, model.plain.device.type} == {"cpu"}
    score = ensue.evaluate(run)[BITS]
    assert score == pytest.approx(run.read_metrics()[-1]["bits_per_byte"], rel=1e-5)
    assert str(file.parent) not in str(load_weights(run)[1])

    custom._allowed.clear()
    (file.parent / "elsewhere").mkdir()
    moved = shutil.move(file, file.parent / "elsewhere" / "own.py")
    with pytest.raises(UsageError, match="run only when you say so") as caught:
        ensue.load(run)
    assert "--code own.py" in caught.value.hint
    assert ensue.load(run, code=moved).generate("the", max_new_tokens=2)[0].tokens
    assert ensue.look(run, "the cat", code=moved).by_distance


def test_a_class_itself_is_trained_as_it_is_compared(file: Path) -> None:
    from importlib.util import module_from_spec, spec_from_file_location

    (file.parent / "mine.py").write_text(OWN.replace("from layers import WIDTH", "WIDTH = 8"))
    spec = spec_from_file_location("mine", file.parent / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["mine"] = module
    spec.loader.exec_module(module)
    model = trained(module.GRU, file).read_plan()["config"]["model"]
    assert (Path(model["file"]).name, model["classname"]) == ("mine.py", "GRU")


def test_two_files_of_one_name_are_not_taken_for_each_other(
    own: Callable[..., CustomConfig], file: Path
) -> None:
    config = own("GRU")
    for folder in ("a", "b"):
        (file.parent / folder).mkdir()
        allow(shutil.copy(file, file.parent / folder / "own.py"))
    custom._allowed.discard(file)
    with pytest.raises(UsageError, match="run only when you say so"):
        build(config)


@pytest.mark.parametrize("words", [["--code", "own.py"], ["--code=own.py"]])
def test_the_file_is_named_with_and_without_an_equals_sign(words: list[str], file: Path) -> None:
    assert _allow_code(["generate", *words, "run"]) == ["generate", "run"]
    assert custom._allowed == {file}


def test_a_dropout_that_is_chosen_later_is_none_so_far(own: Callable[..., CustomConfig]) -> None:
    assert build(own("GRU", dropout=-1.0)).dropout.p == 0.0
    assert build(own("GRU", dropout=0.3)).dropout.p == 0.3


def test_weights_are_copied_where_buffers_are(own: Callable[..., CustomConfig]) -> None:
    """The probe loads what the loop kept: parameters alone."""
    model, other = build(own("Tied")), build(own("Tied"))
    set_weights(model, dict(other.named_parameters()))
    assert torch.equal(model.output.weight, other.output.weight)
    assert not torch.equal(model.kept, other.kept)


def test_a_width_that_the_class_refuses_ends_the_search(own: Callable[..., CustomConfig]) -> None:
    """Eight heads want a multiple of eight: the finest widths raised the class's own error."""
    goal = 41_000  # between two multiples of eight, and nowhere near a rounder one
    config = fitted(own("Heads"), goal)
    assert config.d_model % 8 == 0
    sizes = [
        count_parameters(build_empty(build, own("Heads", d_model=config.d_model + by)))
        for by in (-8, 0, 8)
    ]
    assert abs(sizes[1] - goal) == min(abs(size - goal) for size in sizes)


def test_a_width_that_changes_nothing_is_said(own: Callable[..., CustomConfig]) -> None:
    """The search went on for ever."""
    with pytest.raises(UsageError, match="NoWidth has no more weights when d_model is larger"):
        fitted(own("NoWidth"), 10**6)


def test_an_argument_that_nobody_gives_is_named(own: Callable[..., CustomConfig]) -> None:
    with pytest.raises(UsageError, match=r"Greedy\(vocab_size, layers, d_model=16\).*layers") as e:
        build(own("Greedy"))
    for name in ("vocab_size", "context_length", "d_model", "dropout"):
        assert name in e.value.hint


def test_an_error_of_the_class_is_told_with_the_call(own: Callable[..., CustomConfig]) -> None:
    with pytest.raises(
        UsageError, match=r"Heads\(vocab_size=30, d_model=12\) cannot be made: Asse"
    ):
        build(own("Heads", d_model=12))


def test_a_vocabulary_that_is_too_small_is_said(own: Callable[..., CustomConfig]) -> None:
    with pytest.raises(UsageError, match="Small has a vocabulary of 20, the text one of 30"):
        build(own("Small"))


def test_a_class_with_a_limit_of_its_own_gets_windows_that_fit(
    own: Callable[..., CustomConfig], file: Path
) -> None:
    """Windows of 128 tokens were an IndexError of its table of positions."""
    plan = trained("own.py:Short", file).read_plan()
    assert part(plan, "config", "model")["context_length"] == 8
    with pytest.raises(UsageError, match=r"at most 8 tokens \(its max_length\), and the windows"):
        build(own("Short", context_length=16))


def test_the_laws_are_checked_before_anything_is_spent(
    own: Callable[..., CustomConfig], file: Path
) -> None:
    """One that peeks trains wonderfully, and the report says so."""
    with pytest.raises(LawError, match="'causal' is broken: Peeking, 2 tokens"):
        trained("own.py:Peeking", file)
    assert not list(file.parent.glob("runs/*/plan.json"))
    check_custom(own("GRU"))
    check_custom(find_step("gpt2").default)  # ours: nothing to do


def test_a_run_leaves_the_random_state_alone(own: Callable[..., CustomConfig]) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check_custom(own("GRU"))
    assert torch.equal(torch.rand(3), expected)
