"""Every command and block of the README works as written (with smaller budgets)."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from ensue.cli import main
from ensue.commands import parse_train
from ensue.commands.compare import parse_compare, request_of
from ensue.comparison.request import named_files

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
LINES = [line.split("  #")[0][2:] for block in BLOCKS for line in block.splitlines()]
TABLE = re.findall(r"`(ensue [^`]+)`", README)
COMMANDS = [c.strip() for c in [*LINES, *TABLE] if c.startswith("ensue ")]
SMALL = ["--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"]
BOOK = "Once upon a time there was a fox. A quick one, and it jumped over a dog.\n" * 300
PAIRS = [(f"Ein Hund {i} läuft.", f"A dog {i} runs.") for i in range(60)]


def dot(shade: int) -> bytes:
    """A picture of one pixel, as PGM, whatever its name says."""
    return b"P5 1 1 255 " + bytes([shade])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked_run: Path) -> Path:
    """A folder with the files that the README names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSUE_DATA", raising=False)
    for name in ("book.txt", "other.txt", "more.txt", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(BOOK, encoding="utf-8")
    for name, lines in {"train": PAIRS, "test": PAIRS[:3]}.items():
        for side, ending in enumerate(("de", "en")):
            text = "".join(f"{pair[side]}\n" for pair in lines)
            (tmp_path / f"{name}.{ending}").write_text(text, encoding="utf-8")
    rows = ["source\ttarget", *map("\t".join, PAIRS)]
    (tmp_path / "pairs.tsv").write_text("\n".join(rows), encoding="utf-8")
    found = [f"A {w} thing {i},{w}" for i in range(20) for w in ("good", "bad")]
    for name in ("reviews.csv", "new.csv"):
        (tmp_path / name).write_text("\n".join(["text,stars", *found]), encoding="utf-8")
    lines = [f"{line.split(',')[1]}:x {line.split(',')[0]}" for line in found]
    (tmp_path / "questions.label").write_text("\n".join(lines), encoding="utf-8")
    rows = ["text\ttopic", *(f"{german}\t{len(german)}" for german, _ in PAIRS)]
    (tmp_path / "table.tsv").write_text("\n".join(rows), encoding="utf-8")
    turns = [{"role": "user", "content": f"How is dog {i}?"} for i in range(60)]
    replies = [{"role": "assistant", "content": f"Dog {i} is fine."} for i in range(60)]
    lines = (json.dumps({"messages": pair}) for pair in zip(turns, replies, strict=True))
    (tmp_path / "dialogues.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "page.txt").write_text("Ein Hund 1 läuft.\n\nEin Hund 2.\n", encoding="utf-8")
    for i, name in enumerate(["dog", "cat"] * 15):
        path = tmp_path / "pictures" / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dot(i))
    (tmp_path / "cat.jpg").write_bytes(dot(31))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / "corpus.txt").write_text(BOOK, encoding="utf-8")
    (tmp_path / "gaps.txt").write_text("A [MASK] fox.\n\nThe [MASK] one.\n", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    for name in ("bert", "near"):
        (tmp_path / "runs" / name).symlink_to(masked_run)
    return tmp_path


@pytest.fixture
def book(desk: Path) -> Path:
    assert main(["train", "book.txt", "--out", "runs/book", *SMALL]) == 0
    return desk / "runs" / "book"


def test_the_python_block_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert "import ensue" in block
    assert float(capsys.readouterr().out.splitlines()[-1]) > 0  # bits per byte


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] in ("train", "plan")])
def test_train_and_plan_commands_parse(command: str, desk: Path) -> None:
    """A flag that was renamed must not stay in the README."""
    words = shlex.split(command)[2:]
    if "--help" in words:
        pytest.skip("help is tested with all verbs")
    if any(name in command for name in ("shakespeare", "wikitext-2", "multi30k")):
        pytest.skip("needs the public set; its own test is in tests/data")
    if "digits" in words:
        pytest.importorskip("sklearn")
    config, _ = parse_train(words, "", "train")
    assert config.data.sources or (config.data.src and config.data.tgt)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.split()[1] in ("generate", "evaluate")]
)
def test_commands_on_a_run_work(command: str, book: Path) -> None:
    words = shlex.split(command)[1:]
    if {"--src", "runs/talk", "runs/reviews", "runs/pets"} & {*words}:
        pytest.skip("on a run of another task, below")
    if words[0] == "generate":
        words += [] if "--max-new-tokens" in words else ["--max-new-tokens", "5"]
        words = ["40" if w == "2000" else w for w in words]
    assert main(words) == 0


def test_commands_on_pairs_work(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in COMMANDS if "de-en" in c]
    trained = ["train", "--src", "train.de", "--tgt", "train.en", "--out", "runs/other", *SMALL]
    assert main(trained) == 0
    for command in commands:
        words = shlex.split(command)[1:]
        assert main([*words, *(SMALL if words[0] == "train" else [])]) == 0
    assert {c.split()[1] for c in commands} == {
        "train",
        "translate",
        "evaluate",
        "inspect",
        "embed",
    }
    page = ["--file", "page.txt", "--out", "page.en.txt", "--num-beams", "1"]
    assert main(["translate", "runs/de-en", *page]) == 0
    assert (desk / "page.en.txt").read_text(encoding="utf-8").count("\n") == 3


def test_commands_on_dialogues_work(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [c for c in COMMANDS if "runs/talk" in c]
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)[1:]
        stdin = io.TextIOWrapper(io.BytesIO(b"How are you?\n"), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main([*words, *(SMALL if words[0] == "train" else [])]) == 0


def test_commands_on_labelled_texts_work(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in COMMANDS if "runs/reviews" in c]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command)[1:]
        small = [*SMALL, "--test-fraction", "0.1"] if words[0] == "train" else []
        assert main([*words, *small]) == 0
    assert "A good thing 0,good,good," in capsys.readouterr().out.replace(",bad,", ",good,")


def test_commands_on_pictures_work(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("PIL")
    commands = [c for c in COMMANDS if "runs/pets" in c]
    assert len(commands) == 7
    for command in commands:
        words = shlex.split(command)[1:]
        held_out = ["--test-fraction", "0.1"] if words[0] == "train" else []
        assert main([*words, *(SMALL if words[0] == "train" else []), *held_out]) == 0


def test_commands_on_masked_words_work(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [c for c in COMMANDS if "runs/bert" in c or "runs/near" in c]
    assert [c.split()[1] for c in commands][:5] == ["train", "fill", "train", "train", "embed"]
    for name in ("bert", "near"):  # the first of them make these
        (desk / "runs" / name).unlink()
    for command in commands:
        words = shlex.split(command)[1:]
        small = [w for w in SMALL if "--from" not in words or w not in ("--size", "xs")]
        assert main([*words, *(small if words[0] == "train" else [])]) == 0
    assert "in the gap" in capsys.readouterr().out
    assert (desk / "filled.txt").read_text(encoding="utf-8").count("\n") == 3


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] == "compare"])
def test_compare_commands_parse(command: str, desk: Path) -> None:
    words = shlex.split(command)[2:]
    (desk / "gru.py").write_text("class GRU: ...")
    request = request_of(parse_compare(words, ""))
    known = (("book.txt",), ("train.de", "train.en"), ("reviews.csv",))
    assert named_files(request.data) in known


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile


def test_every_file_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists()
