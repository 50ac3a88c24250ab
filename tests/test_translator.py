"""Lines in, lines out: order, blank lines, long lines, loops; and `ensue translate` around it."""

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import PAIR_MODELS
from torch import Tensor

from ensue import api
from ensue.cli import main
from ensue.commands import parse_train
from ensue.commands.translate import run_and_texts
from ensue.errors import UsageError
from ensue.models.transformer import Transformer, TransformerConfig
from ensue.threads import torch_threads
from ensue.tokenizers.train import train_tokenizer
from ensue.translator import (
    FIRST_LINES,
    Search,
    Sides,
    Translated,
    Translator,
    loops,
    rejoined,
    sentences,
)

BYTES = train_tokenizer("byte", [])
STUCK = "~"


@dataclass(frozen=True)
class Source:
    tokens: Tensor
    length: Tensor


@dataclass(frozen=True)
class Place:
    source: Source
    said: Tensor


class Copies:
    """Writes the source once more; at a ``~`` it can only go on with that, or end."""

    max_length: int | None = None
    vocab_size = BYTES.vocab_size

    def __init__(self) -> None:
        self.rows: list[int] = []  # of each batch

    def encode(self, tokens: Tensor, length: Tensor) -> Source:
        self.rows.append(len(tokens))
        return Source(tokens, length)

    def init_state(self, rows: int, memory: Any = None) -> Place:
        return Place(memory, torch.full((rows,), -1))

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        source, said = state.source, state.said
        now = source.tokens.gather(1, said.clamp(min=0)[:, None])[:, 0]
        stuck = (now == ord(STUCK)) & (said >= 0)
        said = torch.where(stuck, said, (said + 1).minimum(source.length - 1))
        word = source.tokens.gather(1, said[:, None])
        return word[..., None].float(), Place(source, said)

    def head(self, hidden: Tensor) -> Tensor:
        logits = 30.0 * F.one_hot(hidden[..., 0].long(), self.vocab_size)
        logits[..., BYTES.eos_id] += 10.0
        return logits


class Keeps(Copies):
    """Writes no more than the first letters of the source."""

    def __init__(self, kept: int) -> None:
        super().__init__()
        self.kept = kept

    def encode(self, tokens: Tensor, length: Tensor) -> Source:
        tokens = tokens.clone()
        tokens[:, self.kept :] = BYTES.eos_id
        return super().encode(tokens, length.clamp(max=self.kept + 1))


def copier(max_tokens: int = 200) -> Translator:
    return Translator(Copies(), BYTES, BYTES, max_tokens)


LINES = [
    "one",
    "",
    "A longer line than the others, by far.",
    "   ",
    "two",
    "ünï 語",
    *(f"line {i}" for i in range(40)),
    "",
]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
@pytest.mark.parametrize("room", [30, 100_000])
def test_order_and_blank_lines_are_kept(
    chunk: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines are sorted by length on their way; one that is lost shifts all that follow."""
    monkeypatch.setattr("ensue.translator.BATCH_TOKENS", room)
    translator = copier()
    done: list[int] = []
    got = list(translator.stream(LINES, Search(num_beams=1), chunk, done.append))
    assert [one.text for one in got] == [" ".join(line.split()) for line in LINES]
    assert [one.source for one in got] == LINES
    assert done == sorted(done)
    assert done[-1] == sum(translator.model.rows) == len([line for line in LINES if line.strip()])
    if room == 30:
        assert len(translator.model.rows) >= 15
    elif chunk == 1000:
        assert len(translator.model.rows) == 1
    assert translator.translate([]) == []
    assert translator.translate("one") == ["one"]


def test_lines_are_read_as_they_are_needed() -> None:
    """A file may be longer than memory, and a person waits at the terminal."""
    read: list[int] = []

    def lines() -> Any:
        for i in range(100):
            read.append(i)
            yield f"line {i}"

    stream = copier().stream(lines(), Search(num_beams=1), chunk_lines=10)
    assert next(stream).text == "line 0"
    assert len(read) == 10


def test_white_space_is_what_it_was_in_training() -> None:
    """Training makes a tab or a no-break space a space: another id would be read as unknown."""
    assert copier().translate(["a\tb\u00a0 c\r", "\u2028"]) == ["a b c", ""]


def random_translator(beams: int = 3, dropout: float = 0.0) -> tuple[Translator, Search]:
    torch.manual_seed(3)
    config = TransformerConfig(
        vocab_size=257, d_model=16, num_layers=2, num_heads=2, context_length=64, dropout=dropout
    )
    model = Transformer(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.0)
    return Translator(model, BYTES, BYTES, 64), Search(
        num_beams=beams, n_best=beams, repair=False, max_ratio=0.5
    )


def test_company_in_a_batch_changes_no_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    translator, search = random_translator()
    lines = ["a", "what is it", "x" * 50, "the end of it all", "b c"]
    together = list(translator.stream(lines, search))
    monkeypatch.setattr("ensue.translator.BATCH_TOKENS", 1)
    for line, one in zip(lines, together, strict=True):
        (alone,) = translator.stream([line], search)
        assert alone.text == one.text
        assert [o.text for o in alone.others] == [o.text for o in one.others]
        assert alone.score == pytest.approx(one.score, abs=1e-4)


def test_batches_side_by_side_change_no_translation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a model that is in training, and is so again when all of them are done."""
    translator, search = random_translator(dropout=0.5)
    translator.model.train()
    monkeypatch.setattr("ensue.translator.BATCH_TOKENS", 1)
    lines = [f"{'what is it ' * (i % 5)}{i}" for i in range(20)]
    with torch_threads(1):
        in_turn = list(translator.stream(lines, search))
    with torch_threads(4):
        at_once = list(translator.stream(lines, search))
    assert at_once == in_turn
    assert all(module.training for module in translator.model.modules())


def test_the_next_best_come_in_their_order() -> None:
    translator, search = random_translator(4)
    (one,) = translator.stream(["what is it"], search)
    scores = [one.score, *(other.score for other in one.others)]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert len({one.text, *(other.text for other in one.others)}) > 1
    values = json.loads(one.to_json())
    assert values["source"] == "what is it"
    assert [o["score"] for o in values["others"]] == scores[1:]
    assert "\n" not in one.to_json()


LONG = (
    "He came in. She went out, as it was late! Was it? It was: 3.5 degrees, i.e. cold. "
    "An endless sentence " + "goes on and on " * 12 + "until it ends."
)


def test_long_lines_are_cut_into_sentences_and_rejoined() -> None:
    """Nothing is lost, and words stay whole."""
    translator = copier(max_tokens=60)
    (one,) = translator.stream([LONG], Search(num_beams=1))
    assert one.text == LONG
    assert any("was cut: 59 are the most" in n for n in one.notices)
    assert any("it was taken in 8 parts" in n for n in one.notices)
    short = copier(max_tokens=len(LONG) + 1)
    (whole,) = short.stream([LONG], Search(num_beams=1))
    assert whole.text == LONG
    assert (whole.notices, sum(short.model.rows)) == ((), 1)
    for word in ("y" * 200, "x " + "y" * 200 + " z"):
        (one,) = translator.stream([word], Search(num_beams=1))
        assert one.text.replace(" ", "") == word.replace(" ", "")


def test_progress_counts_lines_however_many_parts_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 3,000 lines "2,800 of 2,800" stood there for half of the time."""
    monkeypatch.setattr("ensue.translator.BATCH_TOKENS", 1)
    done: list[int] = []
    lines = ["one", "", LONG, LONG, "two"]
    list(copier(60).stream(lines, Search(num_beams=1), on_progress=done.append))
    assert len(done) >= 8
    assert done == sorted(done)
    assert done[-1] == 4
    assert 0 in done[:3]


def test_no_piece_is_longer_than_what_was_trained_on() -> None:
    translator = copier(max_tokens=20)
    for piece in translator._pieces(0, LONG + " 語" * 30):
        assert 0 < len(piece.ids) < 20
        assert not piece.text.startswith("\ufffd")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ("At 3.5 degrees, i.e. cold, no. 7 won.", 1),
        ('"Stop." He left. (Why?) Nobody knew.', 4),
        ("これは本です。あれは何ですか！？「はい。」そうです", 4),
        ("ما هذا؟ هذا كتاب. شكرا", 3),
        ("यह एक किताब है। वह क्या है", 2),
        ("...", 1),
        ("", 0),
    ],
)
def test_sentences_end_where_they_seem_to(text: str, count: int) -> None:
    found = sentences(text)
    assert len(found) == count
    assert "".join("".join(found).split()) == "".join(text.split())


def test_a_reader_sees_something_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file of 1,000 lines nothing would appear before the last one is searched."""
    read: list[int] = []

    def lines() -> Any:
        for i in range(1000):
            read.append(i)
            yield f"line {i}"

    stream = copier().stream(lines(), Search(num_beams=1))
    assert next(stream).text == "line 0"
    assert len(read) == FIRST_LINES < 100
    assert [one.text for one in stream] == [f"line {i}" for i in range(1, 1000)]


def test_a_translation_that_lacks_most_of_its_source_is_reported() -> None:
    """An empty line in the output looks like a blank one in the input."""
    some = tuple([1] * BYTES.vocab_size)
    sides = Sides(src_counts=some, tgt_counts=some, ratio=1.0, room=5)
    said = {}
    for kept in (0, 5, 6):
        translator = Translator(Keeps(kept), BYTES, BYTES, 200, sides)
        (one,) = translator.stream(["nineteen letters ok"], Search(num_beams=1))
        assert len(one.text) == kept
        said[kept] = one.notices
    assert said[0] == ("nothing was written for it",)
    assert said[5] == ("its translation has 5 tokens, where 20 are usual",)
    assert said[6] == ()
    (short,) = Translator(Keeps(1), BYTES, BYTES, 200, sides).stream(["a few"])
    assert short.notices == ()


def test_a_limit_of_the_users_own_is_no_loop() -> None:
    """Where a target was to be half as long as usual, every line was searched a second time."""
    translator = Translator(Copies(), BYTES, BYTES, 200)
    (one,) = translator.stream(["abc def " * 8], Search(num_beams=1, max_ratio=0.1))
    assert one.notices == ("it has no end: it was cut",)


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["Good day.", "How are you?"], "Good day. How are you?"),
        (["你好。", "他说「走吧！」", "今天很好"], "你好。他说「走吧！」今天很好"),
        (["one", "", "two"], "one two"),
        ([""], ""),
    ],
)
def test_sentences_are_rejoined_as_their_script_is_written(parts: list[str], text: str) -> None:
    assert rejoined(parts) == text


def test_loops_are_counted() -> None:
    assert loops([1, 2, 3, 4]) == loops([]) == loops([7]) == 1
    assert loops([5, 5, 5, 5]) == 4
    assert loops([9, 1, 2, 1, 2, 1, 2, 8]) == 3
    assert loops([1, 2, 3, 4, 5, 6, 7, 8] * 5) == 5


def test_loops_are_repaired_and_reported() -> None:
    lines = ["fine", f"stuck{STUCK} here", "fine too"]
    got = list(copier().stream(lines))
    assert [one.text for one in got] == ["fine", f"stuck{STUCK * 3}", "fine too"]
    assert got[1].notices == ("it ran into a loop, and was searched again without repetitions",)
    assert not got[0].notices
    assert not got[2].notices


def test_loops_are_reported_where_they_are_not_repaired() -> None:
    (one,) = copier().stream([f"a{STUCK}"], Search(repair=False, max_ratio=2.0))
    assert one.text == "a" + STUCK * 25
    assert one.notices == ("it ran into a loop", "it has no end: it was cut")


def test_what_stands_there_twice_is_searched_for_once() -> None:
    translator = copier()
    lines = ["same", "other", "same", f"a{STUCK}", "", "same", f"a{STUCK}"]
    done: list[int] = []
    got = list(translator.stream(lines, Search(num_beams=1), on_progress=done.append))
    assert [one.text for one in got[:3]] == ["same", "other", "same"]
    assert got[3] == got[6]
    assert any("loop" in notice for notice in got[6].notices)
    assert not any(got[i].notices for i in (0, 1, 2, 5))
    assert sum(translator.model.rows) == 3 + 1  # one of them twice, for its loop
    assert done[-1] == 6


def test_a_source_that_repeats_itself_is_no_loop() -> None:
    (one,) = copier().stream(["no no no no no no no no"])
    assert one.text == "no no no no no no no no"
    assert one.notices == ()


def test_unspelt_bytes_are_said_and_unknown_pieces_never_written() -> None:
    """A word that was rare in training would be written as U+FFFD."""
    torch.manual_seed(0)
    words = train_tokenizer("word", ["a b c"])
    config = PAIR_MODELS["transformer"]
    shape = {"vocab_size": words.vocab_size + 7, "dropout": 0.0, "context_length": 16}
    model = Transformer(type(config)(d_model=16, num_layers=1, num_heads=2, **shape)).eval()
    with torch.no_grad():
        model.vocabulary.bias[words.unk_id] = 50.0
        model.vocabulary.bias[words.vocab_size :] = 50.0  # what pads the vocabulary
    (one,) = Translator(model, words, words, 16).stream(["a 語"])
    assert any("the tokenizer cannot spell" in notice for notice in one.notices)
    assert "\ufffd" not in one.text


def test_a_long_document_keeps_its_number_of_lines() -> None:
    """Blank lines, very long ones and repeated ones among 3,000."""
    kinds = ["", "a b c", "x", LONG, "same same", f"l{STUCK}", "One. Two."]
    lines = [kinds[i * i % 7] if i % 3 else f"line {i}" for i in range(3000)]
    got = list(copier(60).stream(lines, Search(num_beams=1, max_ratio=1.0)))
    assert len(got) == 3000
    assert [one.source for one in got] == lines
    for one in got:
        assert "\n" not in one.text
        if STUCK not in one.source:
            assert one.text == one.source
        else:
            assert any("loop" in notice for notice in one.notices)


def test_a_text_of_the_other_side_is_said_once() -> None:
    """Counts of letters tell the sides apart where they share a tokenizer."""
    counts = {side: [1] * BYTES.vocab_size for side in ("src", "tgt")}
    for letter in b"abcdefgh":
        counts["src"][letter] = 500
    for letter in b"stuvwxyz":
        counts["tgt"][letter] = 500
    sides = Sides(
        src_counts=tuple(counts["src"]), tgt_counts=tuple(counts["tgt"]), ratio=1.0, room=3
    )
    translator = Translator(Copies(), BYTES, BYTES, 200, sides)
    lines = ["abc", "", "stu", "vw xyz", "zyx", "stuv stuv"]
    said = [one.notices for one in translator.stream(lines)]
    assert [any("swapped?" in n for n in notices) for notices in said] == [False] * 3 + [
        True,
        False,
        False,
    ]
    assert not any(one.notices for one in translator.stream(["abc", "hgf edc bad cab head"] * 9))


def test_a_translation_is_cut_where_no_target_is_as_long() -> None:
    some = tuple([1] * BYTES.vocab_size)
    sides = Sides(src_counts=some, tgt_counts=some, ratio=2.0, room=5)
    translator = Translator(Copies(), BYTES, BYTES, 200, sides)
    (one,) = translator.stream([f"a{STUCK}"], Search(repair=False))
    assert len(one.text) == 2 * 3 + 2 * 5  # the end is a token of the source too
    (one,) = translator.stream([f"a{STUCK}"], Search(repair=False, max_ratio=1.0))
    assert len(one.text) == 3 + 20


def test_values_out_of_range_are_refused() -> None:
    for options in ({"max_ratio": -1.0}, {"precision": "int8"}, {"num_beams": 0}, {"n_best": 6}):
        with pytest.raises(UsageError):
            Search(**options)


# -- the commands ------------------------------------------------------------------------------

QUICK = [
    *("--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--model.d-model", "16", "--model.num-layers", "1"),
]
PAIRS_FLAGS = ["--model.num-heads", "2", "--model.context-length", "64"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that translates, and one that continues a text."""
    folder = tmp_path_factory.mktemp("translator")
    rows = [f"eins {i} zwei {7 * i % 90}" for i in range(90)]
    (folder / "a.de").write_text("".join(f"{row}\n" for row in rows))
    (folder / "a.en").write_text("".join(f"{row}!\n" for row in rows))
    (folder / "book.txt").write_text("The quick brown fox sleeps.\n" * 100)
    pairs = ["--src", str(folder / "a.de"), "--tgt", str(folder / "a.en")]
    cache = ["--cache", str(folder / "cache")]
    to = {"translate": str(folder / "tr"), "lm": str(folder / "lm")}
    assert main(["train", *pairs, *QUICK, *PAIRS_FLAGS, *cache, "--out", to["translate"]]) == 0
    book = [str(folder / "book.txt"), "--model", "lstm", "--model.context-length", "16"]
    assert main(["train", *book, *QUICK, *cache, "--out", to["lm"]]) == 0
    return {name: Path(path) for name, path in to.items()}


def test_a_run_translates_and_is_scored(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    pytest.importorskip("sacrebleu")
    monkeypatch.setattr("ensue.bleu.BOOTSTRAP", 20)
    run, lines = str(runs["translate"]), ["eins 5", "", "zwei"]
    (tmp_path / "in.txt").write_text("eins 5\r\n\r\nzwei")
    expected = api.load_translator(run).translate(lines)
    capsys.readouterr()
    assert main(["translate", run, "--file", str(tmp_path / "in.txt")]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == expected
    assert main(["translate", run, *lines, "--json", "--num-beams", "2"]) == 0
    assert [json.loads(x)["source"] for x in capsys.readouterr().out.splitlines()] == lines
    files = ["--src", str(tmp_path / "in.txt"), "--ref", str(tmp_path / "ref.txt")]
    (tmp_path / "ref.txt").write_text("eins 5!\n\nzwei!\n")
    assert main(["evaluate", run, *files, "--json", "--against", run, "--num-beams", "1"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert [m["name"] for m in score["measures"]] == ["BLEU", "BLEU lower-cased", "chrF", "TER"]
    assert sum(b["sentences"] for b in score["by_length"]) == score["sentences"] == 3
    assert score["against"]["p_value"] == 1.0
    assert main(["evaluate", run, *files, "--num-beams", "1"]) == 0
    assert "words of the source" in capsys.readouterr().out
    (tmp_path / "ref.txt").write_text("eins 5!\n\n")
    assert main(["evaluate", run, *files]) == 3
    assert "they are no pairs" in capsys.readouterr().err.replace("\n", " ")
    assert main(["evaluate", run]) == 0
    assert "each target given its source" in capsys.readouterr().out


def test_what_a_reader_should_know_of_lines_is_said_once_where_they_are_scored(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exchanged files had a BLEU near zero, and nobody said why."""
    pytest.importorskip("sacrebleu")
    for side, row in (("src", "zwei \N{SNOWMAN} {}"), ("ref", "zwei {}!")):
        text = "".join(row.format(i) + "\n" for i in range(5))
        (tmp_path / side).write_text(text, encoding="utf-8")
    files = ["--src", str(tmp_path / "src"), "--ref", str(tmp_path / "ref")]
    assert main(["evaluate", str(runs["translate"]), *files, "--num-beams", "1"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot spell") == 1
    assert "line 1: the tokenizer cannot spell 3 bytes of it, and 4 lines more like it" in said


@pytest.mark.parametrize("flag", ["--num-beams 2", "--rerank 3", "--contexts 9", "--n-best 2"])
def test_flags_that_would_not_be_heeded_are_refused(
    runs: dict[str, Path], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs.values():
        assert main(["evaluate", str(run), *flag.split()]) == 2
        assert flag.split()[0] in capsys.readouterr().err


MISUSED = [
    (["translate", "LM", "text"], "ensue generate"),
    (["generate", "TR", "text"], "ensue translate"),
    (["embed", "LM", "text"], "ensue generate"),
    (["inspect", "TR", "--probe", "recall"], "ensue translate"),
    (["evaluate", "TR", "--data", "FILE"], "--src FILE --ref FILE"),
    (["evaluate", "LM", "--src", "FILE", "--ref", "FILE"], "--data FILE"),
]


@pytest.mark.parametrize(("argv", "hint"), MISUSED, ids=[" ".join(m[0]) for m in MISUSED])
def test_a_run_of_another_task_is_refused_with_the_right_command(
    runs: dict[str, Path], argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended in a missing attribute, or in a translation of nothing."""
    names = {"LM": str(runs["lm"]), "TR": str(runs["translate"]), "FILE": __file__}
    capsys.readouterr()
    assert main([names.get(a, a) for a in argv]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "was trained to" in error
    assert "and not to" in error
    assert hint.split()[0] in error
    assert all(word in error for word in hint.split())
    assert "Traceback" not in error


def test_card_and_report_name_the_right_commands(runs: dict[str, Path]) -> None:
    card = (runs["translate"] / "README.md").read_text("utf-8")
    assert "to write a sequence, given another, in the manner of its data" in card
    assert "`ensue evaluate tr --src FILE --ref FILE`" in card
    assert "ensue evaluate tr --src FILE --ref FILE" in (
        runs["translate"] / "report.html"
    ).read_text("utf-8")
    card = (runs["lm"] / "README.md").read_text("utf-8")
    assert "to continue a text in the manner of its data" in card
    assert "`ensue evaluate lm --data FILE`" in card


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--src", "a"], "give both"),
        (["--ref", "a"], "give both"),
        (["--src", "a", "--ref", "b", "--data", "c"], "not both"),
        (["--against", "a"], "--against compares translations"),
    ],
)
def test_half_a_question_is_refused(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *flags]) == 2
    assert words in capsys.readouterr().err


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.api.load_translator", lambda run: copier(400))


@pytest.mark.usefixtures("fake")
def test_texts_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "--run", "x", "one\ntwo\n\nthree", "four"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n\nthree\nfour\n"
    assert main(["translate", "a" * 300]) == 0  # too long a name for a file
    assert capsys.readouterr().out == "a" * 300 + "\n"


@pytest.mark.usefixtures("fake")
def test_scores_and_the_next_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "--run", "x", "one", "--scores", "--n-best", "2"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2
    assert [row[0] for row in rows] == ["1", "1"]  # of the line they translate
    assert rows[0][2] == "one"
    assert float(rows[0][1]) > float(rows[1][1])


def test_a_misspelt_run_is_no_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """`cat file | ensue translate runs/typo` wrote the translation of "runs/typo"."""
    (tmp_path / "page.txt").write_text("one\n", encoding="utf-8")
    for words in ([f"{tmp_path}/typo"], ["typo", "--file", f"{tmp_path}/page.txt"]):
        assert main(["translate", *words]) != 0
        assert "there is no run" in capsys.readouterr().err
    assert run_and_texts(["and/or"], "", "") == ("", ["and/or"])
    assert run_and_texts(["x/" * 3000], "", "") == ("", ["x/" * 3000])
    assert run_and_texts(["run", "text"], "", "") == ("run", ["text"])
    assert run_and_texts(["run"], "", "page.txt") == ("run", [])


def as_stdin(monkeypatch: pytest.MonkeyPatch, text: str, tty: bool = False) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8")
    monkeypatch.setattr(stdin, "isatty", lambda: tty)
    monkeypatch.setattr(sys, "stdin", stdin)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("words", [[], ["--file", "-"]])
def test_standard_input_is_translated(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_stdin(monkeypatch, "one\r\n\r\nGrüße\nlast")
    assert main(["translate", "--run", "x", *words]) == 0
    captured = capsys.readouterr()
    assert captured.out == "one\n\nGrüße\nlast\n"
    assert "CRLF" in captured.err


def test_a_person_at_the_terminal_is_answered_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    translator = copier()
    monkeypatch.setattr("ensue.api.load_translator", lambda run: translator)
    as_stdin(monkeypatch, f"one\n\ntwo{STUCK}\n", tty=True)
    assert main(["translate", "--run", "x"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"one\n\ntwo{STUCK * 3}\n"
    assert translator.model.rows == [1, 1, 1]  # the last one twice
    assert "line 3: it ran into a loop" in captured.err


@pytest.mark.usefixtures("fake")
def test_a_terminal_is_not_repainted_and_a_pipe_gets_the_bytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["translate", "--run", "x", "\x1b[31mred"]) == 0
    assert capsys.readouterr().out == "\x1b[31mred\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["translate", "--run", "x", "\x1b[31mred"]) == 0
    assert capsys.readouterr().out == "\\x1b[31mred\n"


@pytest.mark.usefixtures("fake")
def test_a_file_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_bytes("\ufeffeins\n\nzwei drei\n".encode())

    def call(*words: object) -> int:
        return main(["translate", "--run", "x", *map(str, words)])

    assert call("--file", source, "--out", out) == 0
    assert out.read_bytes() == b"eins\n\nzwei drei\n"
    assert capsys.readouterr().out == ""
    assert call("--file", source, "--out", out, "--json") == 0
    assert len(out.read_text().splitlines()) == 3
    before = out.read_bytes()
    # The old file was emptied before the new lines were read.
    assert call("--file", out, "--out", out) == 2
    assert "would be written over" in capsys.readouterr().err
    assert call("--file", tmp_path / "none.txt", "--out", out) == 3
    assert out.read_bytes() == before
    assert call("--file", source, "--out", tmp_path / "no" / "out.txt") == 2
    assert call("text", "--file", source) == 2
    assert call("--file", tmp_path) in (2, 3)
    source.write_bytes(b"")
    assert call("--file", source) == 3


def test_the_task_is_told_by_the_model_where_it_has_one(tmp_path: Path) -> None:
    """`ensue train pairs.tsv --model transformer` said that it cannot learn the task 'lm'."""
    table = tmp_path / "pairs.tsv"
    table.write_text("src\ttgt\na\tb\n")
    for words in (["--model", "seq2seq"], ["--model=transformer"], ["--task", "translate"]):
        config, _ = parse_train([str(table), *words], None)
        assert config.task == "translate"
        assert config.data.sources == (str(table),)
    assert parse_train([str(table)], None)[0].task == "lm"
    recipe = tmp_path / "r.toml"
    recipe.write_text(f'steps = 3\n[data]\nsources = ["{table}"]\n[model]\nname = "seq2seq"\n')
    assert parse_train([str(recipe)], None)[0].task == "translate"
    with pytest.raises(UsageError, match="gpt2 cannot learn the task 'translate'"):
        parse_train(["--src", "a", "--tgt", "b", "--model", "gpt2"], None)


def test_a_result_is_shown_in_short() -> None:
    assert repr(copier()) == "Translator(Copies, Tokenizer(kind='byte', vocab_size=257))"
    assert json.loads(Translated(source="a", text="語", score=0.0).to_json())["text"] == "語"
