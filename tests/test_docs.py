"""The guides and the lineage pages do what they say."""

import re
import shlex
from pathlib import Path

import pytest

from ensue.cli import VERBS, _allow_code
from ensue.commands import (
    DataArgs,
    EvaluateArgs,
    GenerateArgs,
    LineageArgs,
    parse,
    parse_train,
)
from ensue.commands.chat import ChatArgs
from ensue.commands.classify import ClassifyArgs
from ensue.commands.compare import parse_compare
from ensue.commands.demo import DemoArgs
from ensue.commands.embed import EmbedArgs
from ensue.commands.fill import FillArgs
from ensue.commands.inspect import PROBES, InspectArgs
from ensue.comparison.request import parse_models
from ensue.models import LINEAGE, step_of
from ensue.models.custom import CustomConfig, allow, build, has_width
from ensue.testing import check_laws

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
GUIDE = (ROOT / "docs" / "guides" / "own-model.md").read_text(encoding="utf-8")

ARGS: dict[str, type] = {
    "demo": DemoArgs,
    "generate": GenerateArgs,
    "embed": EmbedArgs,
    "fill": FillArgs,
    "chat": ChatArgs,
    "classify": ClassifyArgs,
    "evaluate": EvaluateArgs,
    "inspect": InspectArgs,
    "data": DataArgs,
    "lineage": LineageArgs,
}

SOURCES = {
    "lm": ("book.txt",),
    "chat": ("dialogues.jsonl",),
    "classify": ("reviews.csv",),
    "pictures": ("pictures/", "mnist/"),
    "mlm": ("corpus.txt", "reviews.csv"),
}
"""What the pages call data of each task."""


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            lines = block.replace("\\\n", "").splitlines()  # a long one goes on in the next
            found += [line.split("  #")[0][2:] for line in lines]
        rows = re.findall(r"^\|.*$", page.read_text(encoding="utf-8"), re.M)
        found += [command for row in rows for command in re.findall(r"`(ensue [^`]+)`", row)]
    return [c for c in found if c.startswith("ensue ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_docs_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked_run: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("bert", "near"):
        (tmp_path / "runs" / name).symlink_to(masked_run)
    (tmp_path / "gru.py").write_text("class GRU: ...")
    (tmp_path / "dialogues.jsonl").write_text('{"messages": []}\n')
    (tmp_path / "reviews.csv").write_text("text,label\nfine,good\n")
    (tmp_path / "train_5500.label").write_text("NUM:date When was it ?\n")
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / "1.png").touch()
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").touch()
    verb, *words = _allow_code(shlex.split(command)[1:])
    assert verb in VERBS
    if verb in ("train", "plan"):
        if "dates" in words:
            pytest.importorskip("babel")
        config, _ = parse_train(words, "", verb)
        if "dates" in words:
            assert Path(config.data.sources[0]).name == "train.tsv"
        elif config.task == "translate":
            assert (config.data.src, config.data.tgt) == (("train.de",), ("train.en",))
        else:
            (source,) = config.data.sources
            assert source in SOURCES[config.task]
        if "--model" in words:
            assert step_of(config.model).name.endswith(words[words.index("--model") + 1])
        return
    if verb == "compare":
        assert parse_models(parse_compare(words, "").models)
        return
    args = parse(ARGS[verb], words, verb, "")
    if verb == "inspect":
        assert args.probe in ("", *PROBES)


def test_the_guides_model_keeps_the_laws_and_can_be_made_wider(tmp_path: Path) -> None:
    """A newcomer pastes it: it must work as it stands."""
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    file = tmp_path / "gru.py"
    file.write_text(block)
    config = CustomConfig(file=allow(file), classname="GRU", vocab_size=257, d_model=48)
    assert has_width(config)
    model = build(config)
    assert model.gru.hidden_size == 48
    check_laws(model)


def test_the_model_that_the_comparison_is_tested_with_is_the_guides() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    tested = (ROOT / "tests" / "comparison" / "gru.py").read_text(encoding="utf-8")
    assert block[block.index("class GRU(") :].strip() in tested


def test_every_link_of_the_docs_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)


def test_every_model_has_its_page() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "lineage").glob("*.md")}
    assert {step.name for step in LINEAGE} <= pages
