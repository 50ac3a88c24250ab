"""``ensue demo``: the main job, on text that every machine already has."""

import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ensue import api
from ensue.commands.compare import print_result
from ensue.comparison import CompareConfig, compare
from ensue.comparison.request import LANGUAGE_MODELS
from ensue.console import Console
from ensue.data.corpus import DataConfig
from ensue.views.text import visible

PROMPTS = ('def parse(self, text):\n    """', "import os\nimport ")
LEADER = {"name": "gpt2", "d_model": 96, "num_heads": 2}
"""Half a million weights, where the others get as many: in so short a time more learn less."""


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """How long, and where."""

    budget: str = "38s"
    """Time of each of the five trainings; the whole takes about a minute more than all of them."""
    out: str = "runs/demo"
    """The folder of the comparison; the winner is a run in it."""


def run_demo(args: DemoArgs, console: Console) -> None:
    """Compare five models on the standard library of this Python, and continue prompts."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = source_files(library)
    console.notice(f"text: {len(files)} source files of this Python's own library, {library}")
    request = CompareConfig(
        data=DataConfig(sources=tuple(map(str, files))),
        models={name: {"name": name} for name in LANGUAGE_MODELS} | {"gpt2": LEADER},
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
    print_result(result, console)


def source_files(library: Path) -> list[Path]:
    """Give the library's own modules: no tests, no installed packages, no empty files."""
    skipped = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__"}
    files = [f for f in library.rglob("*.py") if not skipped & set(f.relative_to(library).parts)]
    return sorted(f for f in files if f.stat().st_size)
