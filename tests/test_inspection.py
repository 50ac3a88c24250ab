"""Looking at a model: the numbers are the model's own, and reach where it reaches."""

import html
import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from pages import PAYLOAD, Page, assert_harmless
from small import EVERY, MODELS
from torch import nn

from ensue import probes
from ensue.cli import main
from ensue.commands.inspect import _named
from ensue.errors import RunError, UsageError
from ensue.inspection import NO_DISTANCE, Look, influence, look, look_at, reach_of
from ensue.models import step_of
from ensue.models.cnn import CNNConfig
from ensue.models.gpt2 import GPT2Config
from ensue.models.mlp import MLPConfig
from ensue.nn.capture import tap
from ensue.runs import Run
from ensue.tokenizers import train_tokenizer

BYTES = train_tokenizer("byte", [])
TEXT = "the cat sat"


def made(model: str | Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = MODELS[model] if isinstance(model, str) else model
    config = replace(config, vocab_size=BYTES.vocab_size, dropout=0.0, **changes)
    return step_of(config).model(config)


def seen(model: str | Any, text: str = TEXT, **changes: Any) -> Look:
    return look_at(made(model, **changes), BYTES, text)


@EVERY
def test_probabilities_are_those_of_the_model(model: str) -> None:
    """Shifted by one, or read from a state, they would be of another token."""
    net = made(model, context_length=32)
    look = look_at(net, BYTES, TEXT)
    ids = [BYTES.eos_id, *BYTES.encode(TEXT)]
    logprobs = net.head(net(torch.tensor([ids]))[0])[0].log_softmax(dim=-1).detach()
    assert len(look.positions) == len(look.tokens) == len(ids)
    for i, (position, comes) in enumerate(zip(look.positions, ids[1:], strict=False)):
        assert position.probability == pytest.approx(float(logprobs[i, comes].exp()), rel=1e-4)
        assert position.bits == pytest.approx(-float(logprobs[i, comes]) / math.log(2), rel=1e-4)
        assert position.token == look.tokens[i + 1]
    for i, position in enumerate(look.positions):
        shares = [share for _, share in position.top]
        assert shares == sorted(shares, reverse=True)
        best = int(logprobs[i].argmax())
        name = "(end)" if best == BYTES.eos_id else BYTES.token_text(best)
        assert position.top[0] == (name, pytest.approx(float(logprobs[i, best].exp()), rel=1e-4))
    assert (look.positions[-1].bits, look.positions[-1].probability) == (None, None)
    assert len(look.positions[-1].top) == 5
    assert look.text == TEXT


SHAPES = {
    "mlp": {"layers.0/h": (12, 64), "layers.1/h": (12, 64)},
    "cnn": {"blocks.0/maps": (12, 16), "blocks.1/maps": (12, 16)},
    "rnn": {"layers.0/h": (12, 16)},
    "lstm": {"layers.0/gates": (12, 3, 16), "layers.0/c": (12, 16)},
    "gpt2": {"blocks.0.attention/weights": (2, 12, 12)},
}


@EVERY
def test_every_model_shows_its_insides(model: str) -> None:
    """A tap that is gone leaves a page with nothing of the model on it."""
    look = seen(model, context_length=32)
    assert {name: values.shape for name, values in look.maps.items()} == SHAPES[model]
    shown = [panel.title for picture in look.pictures[2:] for panel in picture.panels]
    layers = {title.split(":")[0].split(",")[0] for title in shown}
    assert layers == {f"layer {i + 1}" for i in range(MODELS[model].num_layers)}
    assert all(np.isfinite(values).all() for values in look.maps.values())


def test_attention_is_causal_and_adds_up_to_one() -> None:
    """Weights before the softmax, or of another mask, would still make a fine picture."""
    config = GPT2Config(context_length=32, d_model=16, num_layers=2, num_heads=4)
    for weights in seen(config).maps.values():
        assert weights.sum(axis=2) == pytest.approx(np.ones(weights.shape[:2]), abs=1e-5)
        assert not np.triu(weights, k=1).any()


CNN = CNNConfig(context_length=8, d_model=16, num_layers=3, kernel_size=3)


@pytest.mark.parametrize(
    ("config", "reach"),
    [(CNN, 15), (MLPConfig(context_length=8, window=5, d_model=16, num_layers=2), 5)],
)
def test_the_gradient_ends_exactly_at_the_reach(config: Any, reach: int) -> None:
    """One token more or less, and the page would contradict the model's own slide."""
    look = seen(config, "a sentence of forty letters, or even more")
    assert look.reach == reach
    assert all(share > 0 for share in look.by_distance[:reach])
    assert set(look.by_distance[reach:]) == {0.0}
    assert len(look.by_distance) > 30


def nudged_logit(net: Any, tokens: Any, place: int, unit: int, step: float, best: int) -> float:
    """The last position's logit when one number of one token's vector is another."""
    table = next(m for m in net.modules() if isinstance(m, nn.Embedding))

    def nudge(module: Any, given: Any, vectors: Any) -> Any:
        vectors = vectors.clone()
        vectors[0, vectors.shape[1] - tokens.shape[1] + place, unit] += step
        return vectors

    hook = table.register_forward_hook(nudge)
    logit = float(net.head(net(tokens)[0])[0, -1, best])
    hook.remove()
    return logit


@EVERY
@torch.no_grad()
def test_influence_is_the_slope_of_the_logit(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured by nudging each number of each vector: a flipped axis would show here."""
    monkeypatch.setattr("ensue.inspection.PROBED", 1)
    net = made(model, context_length=32).eval()
    tokens, step = torch.tensor([BYTES.encode("abcdef")]), 1e-2
    best = int(net.head(net(tokens)[0])[0, -1].argmax())
    slopes = [
        [
            nudged_logit(net, tokens, place, unit, step, best)
            - nudged_logit(net, tokens, place, unit, -step, best)
            for unit in range(16)
        ]
        for place in reversed(range(6))
    ]
    norms = np.linalg.norm(slopes, axis=1)
    expected = norms / norms.sum()
    found = influence(net, tokens)
    assert found is not None
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.05, abs=1e-3)


class Weighted(nn.Module):
    """Says at place t the sum of A[t, s] times the number of token s."""

    def __init__(self, weights: list[list[float]]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 1)
        self.weights = torch.tensor(weights).float()

    def forward(self, tokens: Any, state: Any = None) -> Any:
        return self.weights @ self.embedding(tokens), state

    def head(self, hidden: Any) -> Any:
        return hidden


def test_influence_is_averaged_by_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """By place instead, or without each probe's own share, other numbers come out."""
    monkeypatch.setattr("ensue.inspection.PROBED", 2)
    net = Weighted([[9, 0, 0], [1, -3, 0], [2, 0, 2]])  # the first place is not probed
    # Shares by distance: (3/4, 1/4) and (1/2, 0, 1/2). Their means are 5/8, 1/8 and, of one probe
    # only, 1/2: together 5/4.
    found = influence(net, torch.tensor([[0, 1, 2]]))
    assert found is not None
    assert found.tolist() == pytest.approx([0.5, 0.1, 0.4], abs=1e-6)


@EVERY
def test_a_look_leaves_the_model_as_it_was(model: str) -> None:
    """A hook that stays would feed every later call from a detached copy."""
    net = made(model, context_length=32).train()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    look_at(net, BYTES, TEXT)
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.grad is None and torch.equal(p, before[n]) for n, p in net.named_parameters())


def test_reach_is_what_the_shape_allows() -> None:
    """The context of an RNN is no limit; a window's context is not its reach."""
    reaches = {name: reach_of(made(name)) for name in MODELS}
    assert reaches == {"mlp": 3, "cnn": 4, "rnn": None, "lstm": None, "gpt2": 8}


def test_of_a_long_text_the_end_is_read_and_that_is_said() -> None:
    """A crash at the first long sentence, or a picture of half of it without a word."""
    look = seen("gpt2", "abcdefghijkl")  # 12 letters and a mark; the context has 8
    assert look.notices == ("Of 13 tokens the last 8 are read: the model's context.",)
    assert look.text == "efghijkl"
    assert look.tokens == tuple("efghijkl")
    look = seen("lstm", "x" * 300)
    assert len(look.tokens) == 256
    assert "as many as are looked at" in look.notices[0]
    assert look.notices[1] == "Pictures show the last 64 tokens."
    assert all(len(p.rows) <= 256 for p in look.pictures)


@EVERY
def test_a_single_letter_is_a_text(model: str) -> None:
    """The shortest text has one prediction and a gradient over two tokens."""
    look = seen(model, "a")
    assert len(look.tokens) == 2
    assert len(look.by_distance) == 2
    assert "<svg" in look._repr_html_().replace("&lt;", "<")


def test_an_empty_text_is_refused() -> None:
    """There is no surprise in it to show."""
    with pytest.raises(UsageError, match="the text is empty") as caught:
        seen("lstm", "")
    assert "ensue inspect RUN" in caught.value.hint


def test_bytes_that_the_tokenizer_cannot_spell_are_counted() -> None:
    """Unknown pieces look like any other token otherwise."""
    characters = train_tokenizer("char", ["abc"])
    torch.manual_seed(0)
    config = replace(MODELS["rnn"], vocab_size=characters.vocab_size, dropout=0.0)
    look = look_at(step_of(config).model(config), characters, "abc語")
    assert "cannot spell 3 bytes" in look.notices[0]


def test_a_model_without_an_embedding_is_looked_at_without_its_distances() -> None:
    """A person's own model may turn ids into vectors by hand; all else can be seen."""

    class Odd(nn.Module):
        vocab_size, max_length = BYTES.vocab_size, None

        def init_state(self, rows: int, memory: Any = None) -> Any:
            return None

        def forward(self, tokens: Any, state: Any = None) -> Any:
            return tokens[..., None].float(), state

        def head(self, hidden: Any) -> Any:
            return hidden.expand(*hidden.shape[:-1], self.vocab_size)

    look = look_at(Odd(), BYTES, TEXT)
    assert look.notices == (NO_DISTANCE,)
    assert [picture.name for picture in look.pictures] == ["surprise"]
    assert "surprise" in look._repr_html_()


class Own(nn.Module):
    """A table of positions that comes first, and taps of every kind."""

    vocab_size, max_length = BYTES.vocab_size, 64

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(64, 8)
        self.tokens = nn.Embedding(self.vocab_size, 8)
        self.head = nn.Linear(8, self.vocab_size)

    def init_state(self, rows: int, memory: Any = None) -> Any:
        return None

    def forward(self, tokens: Any, state: Any = None) -> Any:
        hidden = self.looked_up(tokens) + self.positions(torch.arange(tokens.shape[1])[None])
        tap(self, "h", hidden)
        tap(self, "weights", hidden)
        tap(self, "mine", hidden.sum())
        return hidden, state

    def looked_up(self, tokens: Any) -> Any:
        return self.tokens(tokens)


def test_the_distance_is_to_the_tokens_and_not_to_a_table_of_positions() -> None:
    """The first table of a model's own was taken, whatever it was for."""

    class Late(Own):
        def looked_up(self, tokens: Any) -> Any:
            return self.tokens(tokens).roll(1, dims=1)  # so a token matters one place later

    shares = influence(Late(), torch.tensor([BYTES.encode(TEXT)]))
    assert shares is not None
    assert shares.tolist()[:3] == pytest.approx([0.0, 1.0, 0.0])


def test_a_model_that_goes_step_by_step_is_looked_at_without_its_distances() -> None:
    """One vector a call: taking the last T of them was an IndexError."""

    class Steps(Own):
        def looked_up(self, tokens: Any) -> Any:
            return torch.cat([self.tokens(t) for t in tokens.split(1, dim=1)], dim=1)

    look = look_at(Steps(), BYTES, TEXT)
    assert NO_DISTANCE in look.notices
    assert not look.by_distance


def test_maps_that_are_not_drawn_are_named() -> None:
    """Silence, or a crash in the middle of a picture."""
    look = look_at(Own(), BYTES, TEXT)
    assert [picture.name for picture in look.pictures] == ["surprise", "distance", "states-h"]
    assert [notice.split(",")[0] for notice in look.notices] == ["weights", "mine"]


@EVERY
def test_a_hostile_text_stays_text(model: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A page that somebody sends on must run nothing that its text says."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # PNGs take seconds
    look = seen(model, f"{PAYLOAD}$x$", context_length=128)
    for path in look.save(tmp_path):
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            page = Page(text)
            assert_harmless(text, page)
            assert "alert(1)" in page.text
        if path.suffix == ".svg":
            ElementTree.parse(path)
    (frame,) = [attributes for tag, attributes in Page(look._repr_html_()).tags if tag == "iframe"]
    assert "sandbox" in frame
    assert html.unescape(frame["srcdoc"] or "").startswith("<!doctype html>")


def test_tokens_of_every_script_and_whitespace_are_drawn() -> None:
    """Half of a character, a newline or a space would be an empty label."""
    look = seen("rnn", "a b\n\té語")
    assert look.tokens[1:6] == ("a", "·", "b", "↵", "→")
    assert look.tokens[6:] == ("\\xc3", "\\xa9", "\\xe8", "\\xaa", "\\x9e")


# -- runs and the command line ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspected")
    (folder / "book.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 200)
    quick = ["--steps", "2", "--size", "xs", "--tokenizer", "char", "--model", "rnn"]
    quick += ["--train.threads", "1", "--train.precision", "fp32", "--train.compile", "no"]
    quick += ["--train.global-batch-size", "2", "--model.d-model", "8"]
    quick += ["--model.context-length", "16", "--cache", str(folder / "cache")]
    run = folder / "run"
    assert main(["train", str(folder / "book.txt"), "--out", str(run), *quick]) == 0
    return run


def test_a_run_is_looked_at_by_command(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Words on the terminal, a page beside the run."""
    assert main(["inspect", str(trained), "The dog"]) == 0
    said = capsys.readouterr().out
    assert "likeliest before it was seen" in said
    assert str(trained / "inspect" / "inspect.html") in said.replace("\n", "")
    names = {path.name for path in (trained / "inspect").iterdir()}
    assert {"inspect.html", "surprise.svg", "distance.svg", "states-h.svg"} <= names
    Run.open(trained)  # still a run


def test_json_holds_the_numbers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts read one object, and nothing else is on standard output."""
    out = tmp_path / "seen"
    assert main(["inspect", str(trained), "The dog", "--out", str(out), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["tokens"][1:] == ["T", "h", "e", "·", "d", "o", "g"]
    assert sum(values["by_distance"]) == pytest.approx(1.0, abs=1e-5)
    assert values["positions"][0]["token"] == "T"
    assert 0 < values["positions"][0]["probability"] < 1
    assert (out / "inspect.html").exists()


def test_a_run_can_be_looked_at_from_python(trained: Path) -> None:
    """The notebook's way: by path or by Run, the same."""
    first, second = look(str(trained), "fox"), look(Run.open(trained), "fox")
    assert first.to_json() == second.to_json()
    assert first.title == "run (RNN)"
    assert repr(first) == f"Look('run (RNN)', 4 tokens, {len(first.maps)} maps)"


def test_runs_are_probed_by_command(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """From two run folders to a table, with the names that tell them apart."""
    recall = probes.recall

    def small(configs: Any, **given: Any) -> Any:
        assert (given["seeds"], given["budget_seconds"]) == (1, 30.0)
        return recall(configs, seeds=1, steps=2, lags=(1, 2), parameters=2000)

    monkeypatch.setattr(probes, "recall", small)
    words = [str(trained), "--probe", "recall", "--seeds", "1", "--out", str(tmp_path)]
    assert main(["inspect", *words]) == 0
    said = capsys.readouterr().out
    assert "recall falls at lag" in said
    assert "rnn" in said
    assert (tmp_path / "recall.csv").exists()
    assert main(["inspect", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["name"] == "rnn"


def test_two_runs_of_one_model_are_named_by_their_folders(trained: Path) -> None:
    """Under one name the second would silently take the place of the first."""
    assert list(_named([Run.open(trained)], "lm")) == ["rnn"]
    other = trained.parent / "other"
    if not other.exists():
        other.symlink_to(trained)
    assert list(_named([Run.open(trained), Run.open(other)], "lm")) == [str(trained), str(other)]


def wrong(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["inspect", *args])
    return code, " ".join(capsys.readouterr().err.split())


def test_mistakes_are_answered_with_what_to_do(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Each of these is typed within the first five minutes."""
    monkeypatch.chdir(tmp_path)
    run = str(trained)
    for args, code, said in (
        ([], 2, 'ensue inspect RUN "Once upon'),
        ([""], 2, "there is no text to look at"),
        ([str(tmp_path)], 2, "is a folder, but not a run"),
        (["a text of more than 255 bytes " * 10], 4, "there is no run in runs"),
        (["a text of more than 255 bytes " * 10, run], 4, "The run comes first, then the text"),
        ([run, "text", "--seeds", "5"], 2, "--seeds belongs to --probe recall"),
        ([run, "text", "--budget", "5s"], 2, "--budget belongs to --probe recall"),
        ([run, "text", "--colour-by", "x"], 2, "--colour-by belongs to --vectors FILE"),
        ([run, "--probe", "recall", "--target", "x"], 2, "--target belongs to a text"),
        ([run, "--probe", "recall", "--split", "test"], 2, "belongs to --probe alignment"),
        ([run, "--probe", "recall", "--vectors", "x"], 2, "two questions"),
        ([run, "--probe", "alignment"], 2, "was trained to continue a text"),
        ([run, "--vectors", __file__], 2, "was trained to continue a text"),
        ([run], 2, "is a run, and there is no text to look at it with"),
        ([run, ""], 2, "the text is empty"),
        ([run, "Once", "upon", "a"], 2, "a text stands in quotes"),
        (["Once upon a time"], 4, "there is no run in runs"),
        ([str(trained.parent / "ran"), "text"], 4, "did you mean 'run'"),
        ([str(tmp_path), "text"], 4, "is not a run"),
        ([run, "--probe", "recal"], 2, "did you mean 'recall'"),
        ([run, "--probe", "recall", "--seeds", "0"], 2, "seeds is 0"),
        ([run, "--probe", "recall", "--budget", "soon"], 2, "cannot read 'soon'"),
        ([run, "--probe", "recall", "--budget", "1e9flop"], 2, "is not a time"),
        ([str(tmp_path), "--probe", "recall"], 4, "is not a run"),
    ):
        assert wrong(args, capsys)[0] == code
        assert said in wrong(args, capsys)[1]


def test_runs_that_are_unfinished_or_damaged_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights drawn as pictures would look like knowledge."""
    for name, harm, said in (
        ("unfinished", lambda run: (run / "model.safetensors").unlink(), "model.safetensors"),
        ("damaged", lambda run: (run / "model.safetensors").write_bytes(b"no"), "safetensors"),
        ("changed", lambda run: (run / "plan.json").write_text("{}"), "plan.json"),
    ):
        run = tmp_path / name
        shutil.copytree(trained, run)
        harm(run)
        code, words = wrong([str(run), "text"], capsys)
        assert code == 4
        assert said in words
    with pytest.raises(RunError):
        look(tmp_path / "unfinished", "text")
