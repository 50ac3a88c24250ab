"""``ensue demo``: the main job twice, on data that every machine already has or makes itself.

The first half compares language models on source of this Python's own library, the second the
three encoder-decoders on dates as people write them in many languages (`ensue.data.dates`).
"""

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensue import api
from ensue.alignment import measure_alignment
from ensue.commands.compare import print_result
from ensue.commands.inspect import print_look
from ensue.comparison import CompareConfig, Result, compare
from ensue.console import Console
from ensue.data import catalog
from ensue.data.corpus import DataConfig
from ensue.data.pairs import PairsConfig
from ensue.inspection import look
from ensue.models import steps_for
from ensue.translator import Search
from ensue.views.text import visible

PROMPTS = ('def parse(self, text):\n    """', "import os\nimport ")
TEXT_MODELS: dict[str, dict[str, Any]] = {
    "rnn": {"name": "rnn"},
    "lstm": {"name": "lstm"},
    "gpt2": {"name": "gpt2", "d_model": 96, "num_heads": 2},
}
"""Half a million weights each, as GPT-2 has: in so short a time more learn less. Two of the lineage
are left out, mlp and cnn: shared by five, the time is too short for any to learn much."""
LOOKS, LOOKED_AT = "transformer", "Dienstag, 11. März 1919"
"""The model whose attention is shown, and a date to see it with. After 160 updates it looks where a
person would; attention over LSTMs still reads month and day off the end of the source."""
SHOWN = 8
"""Dates of the test split that are translated, days that nothing was learnt from or chosen by."""
DATES_LEADER = {"name": "transformer", "d_model": 96}
"""0.7 million weights: in 200 updates of one core 99.8 % of 400 held-out dates were right."""
EVERY = 4
"""Of the library's modules one in so many is read, 1 MB: about as much as a model reads in its
time. Reading and counting all 11 MB would take as long as training one."""


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """How long, and where."""

    budget: str = "24s"
    """Time of each of the three trainings on text."""
    dates_budget: str = "24s"
    """Time of the slowest of the three trainings on dates."""
    out: str = "runs/demo"
    """The folder of the first comparison; that of the second has -dates behind it. The winner of
    each is a run in it."""


def run_demo(args: DemoArgs, console: Console) -> None:
    """Compare on text, and let the winner write; compare on dates, and let the winner translate."""
    told(compare_text(args, console), console)
    told(compare_dates(args, console), console)


def compare_text(args: DemoArgs, console: Console) -> Result:
    """Compare the language models on the library, and continue prompts."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = source_files(library)
    console.notice(f"1. text: {len(files)} modules of this Python's own library, {library}")
    request = CompareConfig(
        data=DataConfig(sources=tuple(map(str, files))),
        models=TEXT_MODELS,
        equal="time",
        budget=args.budget,
        seeds=1,
        rates=(1.0,),
        size="xs",
    )
    result = compare(request, args.out, console)
    if result.winner:
        for completion in api.load(result.winner).generate(PROMPTS, max_new_tokens=100):
            sys.stdout.write(f"---\n{visible(completion.prompt + completion.text)}\n")
        sys.stdout.write("---\n")
    return result


def compare_dates(args: DemoArgs, console: Console) -> Result:
    """Compare the encoder-decoders on dates, and translate some."""
    files = catalog.resolve("data:dates")
    assert files is not None
    console.notice("2. dates, as people write them in 33 languages (CLDR), into ISO 8601")
    request = CompareConfig(
        task="translate",
        data=PairsConfig(sources=(str(files["train"]),), valid=(str(files["valid"]),)),
        models={s.name: {"name": s.name} for s in steps_for("translate")}
        | {"transformer": DATES_LEADER},
        budget=args.dates_budget,
        seeds=1,
        rates=(1.0,),
        size="xs",
        num_beams=1,
    )
    result = compare(request, f"{args.out}-dates", console)
    if result.winner:
        show_dates(result.winner, files["test"])
    looking = result.folder / "runs" / f"{LOOKS}-0"
    if not any(row["model"] == LOOKS and row["error"] for row in result.table()):
        seen = look(looking, LOOKED_AT)
        print_look(seen)
        found = measure_alignment(looking)
        sys.stdout.write(
            f"{found.best.right:.1%} of {found.tokens:,} tokens of held-out dates look at the part"
            f" that they write ({found.best.name}; by chance {found.chance:.1%})\n"
        )
        console.notice(f"where it looks: {seen.save(looking / 'inspect')[0]}")
    return result


def show_dates(run: Path, test: Path) -> None:
    """Translate some dates of the test split, and say which are wrong."""
    rows = test.read_text(encoding="utf-8").splitlines()[1 : SHOWN + 1]
    pairs = [row.split("\t")[:2] for row in rows]
    translator = api.load_translator(run)
    texts = translator.translate([src for src, _ in pairs], Search(num_beams=1))
    for (src, tgt), text in zip(pairs, texts, strict=True):
        wrong = "" if text == tgt else f"   (wrong: it is {tgt})"
        sys.stdout.write(f"{visible(text)}  <-  {visible(src)}{wrong}\n")


def told(result: Result, console: Console) -> None:
    """Print the table, the verdict, the pictures and where all lies."""
    print_result(result, console)
    picture = result.folder.resolve() / "bottleneck.svg"
    if picture.exists():
        console.notice(f"quality by the length of the source: {picture}")


def source_files(library: Path) -> list[Path]:
    """Give some of the library's own modules: no packages, no empty files."""
    return sorted(f for f in library.glob("*.py") if f.stat().st_size)[::EVERY]
