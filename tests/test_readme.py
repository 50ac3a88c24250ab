"""Every command and block of the README works as written (with smaller budgets)."""

import re
import shlex
from pathlib import Path

import pytest

from ensue.cli import main
from ensue.commands import parse, parse_train
from ensue.commands.compare import CompareArgs
from ensue.comparison.request import parse_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
LINES = [line.split("  #")[0][2:] for block in BLOCKS for line in block.splitlines()]
TABLE = re.findall(r"`(ensue [^`]+)`", README)
COMMANDS = [c.strip() for c in [*LINES, *TABLE] if c.startswith("ensue ")]
SMALL = ["--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"]
BOOK = "Once upon a time there was a fox. A quick one, and it jumped over a dog.\n" * 300


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ENSUE_DATA", raising=False)
    for name in ("book.txt", "other.txt", "more.txt", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(BOOK, encoding="utf-8")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.fixture
def book(desk: Path) -> Path:
    assert main(["train", "book.txt", "--out", "runs/book", *SMALL]) == 0
    return desk / "runs" / "book"


def test_the_python_block_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = "\n".join(line for line in block.splitlines() if not line.startswith("print("))
    exec(compile(block, "README.md", "exec"), {})
    assert "import ensue" in code
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] in ("train", "plan")])
def test_train_and_plan_commands_parse(command: str, desk: Path) -> None:
    """A flag that was renamed must not stay in the README."""
    words = shlex.split(command)[2:]
    if "--help" in words:
        pytest.skip("help is tested with all verbs")
    if "shakespeare" in command or "wikitext-2" in command:
        pytest.skip("needs the public set; its own test is in tests/data")
    config, _ = parse_train(words, "", "train")
    assert config.data.sources


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.split()[1] in ("generate", "evaluate")]
)
def test_commands_on_a_run_work(command: str, book: Path) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "generate":
        words += [] if "--max-new-tokens" in words else ["--max-new-tokens", "5"]
        words = ["40" if w == "2000" else w for w in words]
    assert main(words) == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] == "compare"])
def test_compare_commands_parse(command: str, desk: Path) -> None:
    words = shlex.split(command)[2:]
    args = parse(CompareArgs, words, "compare", "")
    (desk / "gru.py").write_text("class GRU: ...")
    assert parse_models(args.models)
    assert args.data.sources == ("book.txt",)


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile


def test_every_file_that_is_linked_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists()
