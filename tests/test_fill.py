"""``ensue fill`` and `ensue.load_filler`: gaps in, words out, line by line; what is refused."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ensue
from ensue.cli import main
from ensue.errors import DataError
from ensue.filler import MaskFiller
from ensue.models.bert import MaskedLMConfig
from ensue.tokenizers import MASK, Tokenizer, train_tokenizer

TEXT = "the cat sat on the mat and the dogs played unhappily near a player\n" * 30
PIECES = train_tokenizer("wordpiece", [TEXT], vocab_size=90)
ROOM = 14


class Says(nn.Module):
    """Is sure of one piece after another, gap by gap; then as sure of all others."""

    def __init__(self, *pieces: str) -> None:
        super().__init__()
        self.config = MaskedLMConfig(vocab_size=PIECES.vocab_size + 6, context_length=ROOM + 2)
        self.weight = nn.Parameter(torch.zeros(()))
        ids = {PIECES.token_text(i): i for i in range(PIECES.vocab_size)}
        self.said = [ids[piece] for piece in pieces]
        self.specials = 0.0

    def forward(self, tokens: Tensor, length: Tensor, segments: Tensor | None = None) -> Tensor:
        assert tokens.shape[1] <= self.config.context_length
        return torch.zeros((*tokens.shape, 3))

    def head(self, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), self.config.vocab_size)
        logits[:, [*PIECES.specials.values()]] = 50.0  # a model likes [UNK] and [SEP] well
        logits[:, PIECES.vocab_size :] = 50.0  # what pads its vocabulary, too
        for row in range(len(hidden)):
            logits[row, self.said[row % len(self.said)]] = 9.0
        return logits


def filler(*pieces: str) -> MaskFiller:
    return MaskFiller(Says(*pieces), PIECES)


def test_one_gap_is_filled_and_its_likeliest_named() -> None:
    one = filler("cat").fill(f"The {MASK} sat.", top_k=3)
    assert one.text == "The cat sat."
    assert one.source == f"The {MASK} sat."
    (gap,) = one.gaps
    assert len(gap.top) == 3
    assert gap.top[0][0] == "cat"
    shares = [share for _, share in gap.top]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9


def test_several_gaps_keep_their_order_and_their_places() -> None:
    found = list(filler("cat", "mat", "dogs").stream([f"{MASK}, {MASK}!", f"a {MASK}"]))
    assert [one.text for one in found] == ["cat, mat!", "a dogs"]
    assert [len(one.gaps) for one in found] == [2, 1]


def test_a_piece_that_goes_on_is_joined_to_its_word() -> None:
    """Written as it stands there would be ``##ed`` in the middle of a sentence."""
    inside = next(t for t in map(PIECES.token_text, range(90)) if t.startswith("##"))
    letters = inside.removeprefix("##")
    assert filler(inside).fill(f"they play {MASK} there").text == f"they play{letters} there"
    assert filler(inside).fill(f"they play{MASK}").text == f"they play{letters}"
    assert filler(inside).fill(f"{MASK}").text == letters
    odd = "a \0## b"  # what marks a join in one implementation may stand in a text
    assert filler("cat").fill(f"{odd} {MASK}").text == f"{odd} cat"


def test_marks_and_what_pads_the_vocabulary_are_no_words() -> None:
    top = filler("cat").fill(MASK, top_k=1000).gaps[0].top
    assert len(top) == PIECES.vocab_size
    likely = {piece for piece, share in top if share > 0}
    assert not likely & {*PIECES.specials}
    assert sum(share for _, share in top) == pytest.approx(1.0)


def test_other_marks_spelt_in_a_text_are_text() -> None:
    """[SEP] in a line of a file would end it for the model."""
    seen: list[list[int]] = []

    class Listens(Says):
        def forward(self, tokens: Tensor, length: Tensor, segments: Tensor | None = None) -> Tensor:
            seen.append(tokens[0].tolist())
            return super().forward(tokens, length, segments)

    MaskFiller(Listens("cat"), PIECES).fill(f"a [SEP] {MASK}")
    ids = PIECES.specials
    assert seen[0].count(ids["[SEP]"]) == 1
    assert seen[0].count(ids[MASK]) == 1


@pytest.mark.parametrize("text", ["no gap here", "", "[mask]", "[MASK"])
def test_a_text_without_a_gap_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"there is no \[MASK\] in it") as caught:
        filler("cat").fill(text)
    assert "Write [MASK] where a word is missing" in str(caught.value.hint)


def test_a_gap_behind_what_is_read_is_said() -> None:
    """Nothing is cut silently: its place and the limit are in the message."""
    made = filler("cat", "mat")
    with pytest.raises(DataError, match=f"behind the {ROOM} pieces that are read"):
        made.fill("the " * 20 + MASK)
    long = made.fill(f"a {MASK} " + "the " * 2000 + MASK)
    assert long.text.startswith("a cat the")
    assert long.text.endswith(MASK)
    assert long.notices == (f"read up to its piece {ROOM}", "1 of 2 gaps are in what is read")


def test_lines_in_company_are_filled_as_alone(masked_run: Path) -> None:
    """Lines are padded side by side; what is likely must not change with the neighbours."""
    made = ensue.load_filler(masked_run)
    lines = [f"the {MASK} fox", "no gap", f"{MASK}", f"number {MASK} sleeps near {MASK} dogs ."]
    for text, one in zip(lines, made.stream(iter(lines)), strict=True):
        if MASK not in text:
            assert one.error
            continue
        alone = made.fill(text)
        assert one.text == alone.text
        for gap, other in zip(one.gaps, alone.gaps, strict=True):
            assert [s for _, s in gap.top] == pytest.approx([s for _, s in other.top], abs=1e-5)


# -- the command -------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["fill", *words])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_a_text_is_filled_in_a_table(masked_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, str(masked_run), f"the quick {MASK} fox", "--top-k", "3")
    assert code == 0
    assert out.startswith("the quick ")
    assert MASK not in out.splitlines()[0]
    assert "in the gap" in out
    assert out.count("%") == 3
    code, out, _ = run(capsys, str(masked_run), f"{MASK} quick {MASK} fox")
    assert "in gap 1" in out
    assert "in gap 2" in out


def test_no_gap_is_an_error_with_what_to_write(
    masked_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(masked_run), "the quick fox")
    assert (code, out) == (3, "")
    assert "there is no [MASK] in it" in err
    assert "Write [MASK] where a word is missing" in err
    assert run(capsys, str(masked_run), MASK, "--top-k", "0")[0] == 2


def test_a_file_keeps_its_lines(
    masked_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line lost shifts all that follow against the file that they are laid beside."""
    file, out = tmp_path / "in.txt", tmp_path / "out.txt"
    file.write_text(f"the {MASK} fox\n\n{MASK} dogs\n   \nnumber {MASK}\n")
    code, said, _ = run(capsys, str(masked_run), "--file", str(file), "--out", str(out))
    assert (code, said) == (0, "")
    lines = out.read_text().split("\n")
    assert len(lines) == 6
    assert (lines[1], lines[3], lines[5]) == ("", "   ", "")
    assert MASK not in out.read_text()
    code, said, _ = run(capsys, str(masked_run), "--file", str(file))
    assert said == out.read_text()


def test_lines_without_a_gap_stand_as_they_were_and_are_counted(
    masked_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.txt"
    file.write_text(f"the {MASK} fox\nno gap\n\n{'the ' * 2000}{MASK}\n")
    code, out, err = run(capsys, str(masked_run), "--file", str(file))
    err = " ".join(err.split())
    assert code == 3
    assert out.split("\n")[1:3] == ["no gap", ""]
    assert len(out.splitlines()) == 4
    assert "line 2: there is no [MASK] in it" in err
    assert "line 4: its first [MASK] stands behind" in err
    assert "line 3" not in err
    assert "2 of 4 lines have no gap" in err


def test_json_has_all_that_is_known(
    masked_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.TextIOWrapper(io.BytesIO(f"ünï {MASK} fox\n".encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", lines)
    code, out, _ = run(capsys, str(masked_run), "--json", "--file", "-", "--top-k", "2")
    assert code == 0
    found: dict[str, Any] = json.loads(out)
    assert found["source"] == f"ünï {MASK} fox"
    assert found["text"].startswith("ünï ")
    assert [{*one} for one in found["gaps"][0]] == [{"piece", "probability"}] * 2
    assert found["error"] == ""


def test_control_characters_reach_no_terminal(
    masked_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of a strange file could clear the screen, or write over what stands there."""
    code, out, _ = run(capsys, str(masked_run), f"a\x1b[2J {MASK} \x07fox")
    assert code == 0
    assert "\x1b" not in out
    assert "\x07" not in out


def test_the_length_of_a_text_is_said_beside_it(
    masked_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(masked_run), f"{MASK} " + "fox " * 2000)
    assert code == 0
    assert out.count("fox") >= 2000
    assert "read up to its piece 14" in err


def test_a_run_of_another_task_is_refused_with_its_own_command(
    masked_run: Path, text_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, str(text_run), f"a {MASK}")
    said = " ".join(err.split())
    assert code == 2
    assert "was trained to continue a text, and not to fill in masked words" in said
    assert "ensue generate" in said
    for verb in ("generate", "translate", "chat", "classify"):
        words = [] if verb == "chat" else ["a text"]
        assert main([verb, str(masked_run), *words]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert "was trained to fill in masked words" in said
        assert "ensue fill" in said
        assert "[MASK]" in said


def test_a_missing_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path / "none"), f"a {MASK}")
    assert code != 0
    assert "none" in err
    assert "Traceback" not in err


# -- evaluate ----------------------------------------------------------------------------------


def test_evaluate_says_the_score_that_the_run_has(
    masked_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked twice it must say the same, and the same as the run's own last record."""
    assert main(["evaluate", str(masked_run)]) == 0
    first = capsys.readouterr().out
    assert main(["evaluate", str(masked_run)]) == 0
    assert capsys.readouterr().out == first
    assert "masked pieces on valid" in first
    assert "perplexity" in first
    assert main(["evaluate", str(masked_run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    records = [json.loads(line) for line in (masked_run / "metrics.jsonl").read_text().splitlines()]
    last = next(r for r in reversed(records) if r["kind"] != "step")
    assert found["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert ensue.evaluate(masked_run).loss == pytest.approx(found["loss"])
    (tmp_path / "other.txt").write_text("the quick dogs sleep near the brown fox\n" * 5)
    assert main(["evaluate", str(masked_run), "--data", str(tmp_path / "other.txt")]) == 0
    assert f"masked pieces on {tmp_path / 'other.txt'}"[:40] in capsys.readouterr().out
    (tmp_path / "strange.txt").write_text("語彙 語彙 語彙\n")
    assert main(["evaluate", str(masked_run), "--data", str(tmp_path / "strange.txt")]) == 3
    assert "knows no word of it" in " ".join(capsys.readouterr().err.split())


def test_floors_of_other_tasks_are_refused(
    masked_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(masked_run), "--floor"]) == 2
    assert "here words are masked" in " ".join(capsys.readouterr().err.split())


def test_the_tokenizer_of_another_run_is_no_help(masked_run: Path) -> None:
    assert isinstance(ensue.load_filler(masked_run).tokenizer, Tokenizer)
    assert (masked_run / "report.html").exists()
    card = (masked_run / "README.md").read_text()
    assert "ensue fill" in card
