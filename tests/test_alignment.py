"""The alignment probe: right where it must be, wrong where it must be, of what is known alone."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from pages import Page, assert_harmless
from small import PAIR_MODELS
from torch import Tensor, nn

from ensue import alignment
from ensue.alignment import alignment_of
from ensue.cli import main
from ensue.data.dates import DatePair
from ensue.errors import DataError, UsageError
from ensue.models import step_of
from ensue.nn.capture import tap
from ensue.tokenizers import train_tokenizer
from ensue.translator import Translator

BYTES = train_tokenizer("byte", [])
PAIRS = [
    DatePair("5. März 1998", "1998-03-05", "de", {"day": (0, 1), "month": (3, 7), "year": (8, 12)}),
    DatePair(
        "2001年12月31日", "2001-12-31", "zh", {"year": (0, 4), "month": (5, 7), "day": (8, 10)}
    ),
]


@dataclass(frozen=True)
class Memory:
    tokens: Tensor
    length: Tensor


class Pointer(nn.Module):
    """Looks, while it writes token t of a target, at the place of the source that it is told.

    Args:
        places: Of each source, for every token that is written.
    """

    vocab_size, max_length = BYTES.vocab_size, None

    def __init__(self, places: dict[str, Sequence[int]]) -> None:
        super().__init__()
        self.places = places

    def encode(self, tokens: Tensor, length: Tensor) -> Memory:
        return Memory(tokens, length)

    def init_state(self, rows: int, memory: Any = None) -> Any:
        return memory

    def forward(self, tokens: Tensor, memory: Any = None) -> Any:
        texts = [
            BYTES.decode(row[:n].tolist())
            for row, n in zip(memory.tokens, memory.length, strict=True)
        ]
        looked = torch.tensor([list(self.places[text])[: tokens.shape[1]] for text in texts])
        weights = F.one_hot(looked, memory.tokens.shape[1]).float()
        uniform = (torch.arange(weights.shape[2]) < memory.length[:, None]).float()
        uniform = (uniform / uniform.sum(dim=1, keepdim=True))[:, None].expand_as(weights)
        tap(self, "alignment", torch.stack([weights, uniform], dim=1))
        return tokens[..., None].float(), memory

    def head(self, hidden: Tensor) -> Tensor:
        return F.one_hot(hidden[..., 0].long(), self.vocab_size).float()


def true_places(pair: DatePair) -> list[int]:
    """The first byte of the part that each of the ten letters comes from; of a dash the end."""
    starts = {part: len(pair.src[:a].encode()) for part, (a, _) in pair.spans.items()}
    end = len(pair.src.encode())
    parts = ["year"] * 4 + [""] + ["month"] * 2 + [""] + ["day"] * 2
    return [starts.get(part, end) for part in parts]


def pointed(shift: int = 0) -> alignment.Alignment:
    places = {}
    for pair in PAIRS:
        true = true_places(pair)
        places[pair.src] = [*true[shift:], *true[:shift]]
    return alignment_of(Translator(Pointer(places), BYTES, BYTES, 200), iter(PAIRS), "valid")


def test_who_looks_at_the_true_part_is_always_right() -> None:
    found = pointed()
    assert (found.pairs, found.left_out, found.tokens) == (2, 0, 16)  # 8 digits each
    head = found.heads[0]
    assert (head.right, head.inside) == (1.0, 1.0)
    assert head.by_part == {"year": 1.0, "month": 1.0, "day": 1.0}
    assert found.best == head


def test_who_looks_one_token_late_is_wrong_at_every_border() -> None:
    """A measure that is itself off by one would praise it."""
    head = pointed(shift=1).heads[0]
    assert head.by_part == {"year": 0.75, "month": 0.5, "day": 0.5}
    assert head.right == head.inside == pytest.approx(10 / 16)


def test_who_looks_everywhere_alike_is_right_by_chance() -> None:
    """The parts' share of a source's places, its end among them."""
    found = pointed()
    de, zh = 14, 18  # bytes and the end
    shares = [4 / de] * 4 + [5 / de] * 2 + [1 / de] * 2 + [4 / zh] * 4 + [2 / zh] * 4
    assert found.chance == pytest.approx(sum(shares) / 16)
    assert found.heads[1].inside == pytest.approx(found.chance)


def test_words_are_measured_as_letters_are() -> None:
    """A tokenizer that cuts a character, or joins a space to a word, moves no border."""
    bpe = train_tokenizer("bpe", [f"{p.src} {p.tgt}" for p in PAIRS] * 5, vocab_size=300)
    for pair in PAIRS:
        found = alignment._parts(bpe, pair.src, pair.spans)
        assert found is not None
        ids, parts = found
        for i, part in enumerate(alignment.PARTS):
            own = bpe.decode([t for t, p in zip(ids, parts, strict=True) if p == i])
            assert own.strip() == pair.src[slice(*pair.spans[part])]
    both = train_tokenizer("word", [p.src for p in PAIRS])
    found = alignment._parts(both, PAIRS[1].src, PAIRS[1].spans)
    assert found is None or all(part == -1 for part in found[1])


@pytest.mark.parametrize("model", ["seq2seq_attention", "transformer"])
def test_every_head_is_measured_whatever_the_batch(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(PAIR_MODELS[model], vocab_size=BYTES.vocab_size, dropout=0.3)
    if model == "transformer":
        config = replace(config, context_length=64, num_layers=2)
    torch.manual_seed(0)
    net = step_of(config).model(config).train()
    made = Translator(net, BYTES, BYTES, 64)
    together = alignment_of(made, iter(PAIRS * 3))
    assert net.training
    monkeypatch.setattr(alignment, "ROWS", 1)
    alone = alignment_of(made, iter(PAIRS * 3))
    assert len(together.heads) == (4 if model == "transformer" else 1)
    for one, other in zip(together.heads, alone.heads, strict=True):
        assert (one.name, one.right) == (other.name, other.right)
        assert one.inside == pytest.approx(other.inside, abs=1e-5)
    if model == "transformer":
        names = [head.name for head in together.heads]
        assert names == [f"layer {i}, head {j}" for i in (1, 2) for j in (1, 2)]


def test_what_cannot_be_measured_is_refused() -> None:
    config = replace(PAIR_MODELS["seq2seq"], vocab_size=BYTES.vocab_size, dropout=0.0)
    made = Translator(step_of(config).model(config), BYTES, BYTES, 64)
    with pytest.raises(UsageError, match="looks at no place of the source") as caught:
        alignment_of(made, iter(PAIRS))
    assert "ensue train dates" in caught.value.hint
    strange = train_tokenizer("char", ["abc"])
    with pytest.raises(DataError, match="can spell none of the dates"):
        alignment_of(Translator(made.model, strange, strange, 64), iter(PAIRS))


def test_dates_that_cannot_be_spelt_are_counted() -> None:
    letters = train_tokenizer("char", [PAIRS[0].src, PAIRS[0].tgt])
    config = replace(PAIR_MODELS["seq2seq_attention"], vocab_size=letters.vocab_size, dropout=0.0)
    made = Translator(step_of(config).model(config), letters, letters, 64)
    found = alignment_of(made, iter(PAIRS))
    assert (found.pairs, found.left_out) == (1, 1)


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("pair_run")
def test_runs_are_measured_by_command(
    pair_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Digits and spaces are all that the small run can spell: dates are made of them here."""
    spans = {"year": (0, 4), "month": (5, 6), "day": (7, 9)}
    pairs = [DatePair(f"1998 7 {d}", f"1998 07 {d}", "xx", spans) for d in range(10, 28)]
    asked: list[str] = []

    def made(split: str) -> Any:
        asked.append(split)
        return iter(pairs)

    monkeypatch.setattr(alignment, "date_pairs", made)
    monkeypatch.setenv("COLUMNS", "300")  # a run's long name would fold the heads of the table
    capsys.readouterr()
    words = ["inspect", str(pair_run), "--probe", "alignment", "--out", str(tmp_path)]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weight inside" in said
    assert "valid dates, which they were not trained on" in said
    assert "does not know what to write means little" in said
    assert main([*words, "--json", "--split", "test"]) == 0
    assert asked == ["valid", "test"]
    (values,) = json.loads(capsys.readouterr().out)["runs"]
    assert values["best"] == "attention, head 1"
    with open(tmp_path / "alignment-probe.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["right"]) == values["heads"][0]["right"]
    page = (tmp_path / "alignment-probe.html").read_text("utf-8")
    assert_harmless(page, Page(page))
    ElementTree.parse(tmp_path / "alignment-probe.svg")
    assert (tmp_path / "alignment-probe.png").exists()


@pytest.mark.slow
def test_recurrent_attention_finds_its_place(tmp_path: Path) -> None:
    """The law of the picture: nine of ten tokens look at the part that they write."""
    pytest.importorskip("babel")
    run = str(tmp_path / "run")
    words = ["train", "dates", "--model", "seq2seq_attention", "--steps", "400", "--size", "xs"]
    assert main([*words, "--train.compile", "no", "--out", run]) == 0
    found = alignment.measure_alignment(run)
    assert found.best.right >= 0.9
    assert found.written >= 0.95
