"""What is compared, and what shall be equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensue.config import to_dict
from ensue.data.corpus import DataConfig
from ensue.data.dialogues import DialogueConfig
from ensue.data.labelled import LabelledConfig
from ensue.data.pairs import PairsConfig, in_both
from ensue.data.pictures import PicturesConfig
from ensue.errors import UsageError, nearest
from ensue.models import Step, find_step, steps_for
from ensue.models.custom import allow
from ensue.tasks import find_kind
from ensue.training.budget import parse_budget
from ensue.training.config import SIZES, TrainConfig

COMPARED = ("lm", "translate", "classify")
"""Tasks whose models can be compared; each has a judge in `ensue.comparison.work`."""
EQUAL = ("params", "flops", "time")
FILES = ("sources", "src", "tgt", "valid", "valid_src", "valid_tgt")
"""Fields of data configs that name files."""

Data = DataConfig | PairsConfig | DialogueConfig | LabelledConfig | PicturesConfig
"""What some task reads, also one whose models are not compared: that is then said."""


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """One comparison."""

    task: str = "lm"
    """What is learnt; see `ensue.tasks`."""
    data: Data
    """What is read; its class is the task's."""
    test: tuple[str, ...] = ()
    """Text, or tables of pairs, that is scored once, after the winner was chosen on valid."""
    test_src: tuple[str, ...] = ()
    """Of pairs: files of sources that are translated once, instead of tables."""
    test_tgt: tuple[str, ...] = ()
    """Their translations by a person, line by line."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Candidates: what each is called, and its model table, as in a recipe; empty: all that can
    learn the task."""
    equal: str = "params"
    """params (weights, and tokens seen), flops (operations of training), or time (wall clock)."""
    budget: str = "3min"
    """What one run may take, its share of the learning-rate trials included; of the slowest
    candidate, unless it is time that shall be equal."""
    seeds: int = 3
    """Runs of each candidate, which differ in first weights, order of the data and dropout."""
    rates: tuple[float, ...] = ()
    """Factors on the learning rates that are tried for each candidate; a single one: no trial;
    none: as is usual for the task."""
    size: str = ""
    """xs, s, m or l; empty: chosen for the budget."""
    num_beams: int = 5
    """Of pairs: beams of the translations that are scored; 1: greedy."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How the weights are found, the same for all."""

    def __post_init__(self) -> None:
        self._check_task()
        if not self.rates:
            object.__setattr__(self, "rates", find_kind(self.task).rates)
        if not self.models:
            names = [step.name for step in steps_for(self.task)]
            object.__setattr__(self, "models", {n: {"name": n} for n in names})
        self._check_files()
        for name, table in self.models.items():
            self._check_model(name, find_step(str(table["name"]), self.task))
        if self.equal not in EQUAL:
            raise UsageError(
                f"equal: unknown value {self.equal!r}{nearest(self.equal, EQUAL)}",
                f"Known: {', '.join(EQUAL)}",
            )
        if not parse_budget(self.budget).seconds:
            raise UsageError(
                f"budget: {self.budget!r} is not a time",
                "A comparison is bounded by time: --budget 3min; what is equal: --equal flops",
            )
        if self.seeds < 1:
            raise UsageError(f"seeds is {self.seeds}: at least one run is needed")
        if self.num_beams < 1:
            raise UsageError(f"num_beams is {self.num_beams}: 1 is the least, and greedy")
        if min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise UsageError("rates: give different factors above 0, such as 0.5 1 2")
        if self.size not in SIZES:
            raise UsageError(f"size: unknown value {self.size!r}{nearest(self.size, SIZES)}")

    def _check_task(self) -> None:
        kind = find_kind(self.task)
        if kind.name not in COMPARED:
            contexts = " --contexts 200" if kind.name == "chat" else ""
            raise UsageError(
                f"comparing {kind.name} models is not offered yet",
                "Train each (ensue train FILE --model NAME --out RUN), then score each on the same"
                f" data: ensue evaluate RUN{contexts}",
            )
        if not isinstance(self.data, kind.config):
            raise UsageError(f"the data are not those of the task {self.task!r}")

    def _check_files(self) -> None:
        _refuse_pipes(named_files(self.data) + self.test + self.test_src + self.test_tgt)
        if (self.test_src or self.test_tgt) and self.task != "translate":
            raise UsageError("test_src and test_tgt are of pairs", "Name a file: --test FILE")
        if len(self.test_src) != len(self.test_tgt):
            raise UsageError(
                f"{len(self.test_src)} files for test_src, {len(self.test_tgt)} for test_tgt: pairs"
                " need both",
                "Name them in the same order: --test-src a.de --test-tgt a.en",
            )
        for file in in_both(self.test_src, self.test_tgt):
            raise UsageError(
                f"{file} is given as test_src and as test_tgt",
                "Name the file of the other language.",
            )

    def _check_model(self, name: str, step: Step) -> None:
        if self.task not in step.tasks:
            able = [s.name for s in steps_for(self.task)]
            own = ", or a class of yours: FILE.py:CLASS" if self.task == "lm" else ""
            raise UsageError(
                f"{step.title} cannot learn {find_kind(self.task).what}",
                f"Models that can: {', '.join(able)}{own}",
            )
        if not name or "/" in name or name.startswith("."):
            raise UsageError(f"a candidate cannot be called {name!r}")

    def to_json(self) -> dict[str, Any]:
        """Give plain values, for the plan and for telling two requests apart."""
        return {**to_dict(self), "models": {n: dict(t) for n, t in self.models.items()}}


def named_files(data: Data) -> tuple[str, ...]:
    """Give all that a data config names to be read, what is learnt from first."""
    named = (getattr(data, name, ()) for name in FILES)
    return tuple(file for files in named for file in files)


def _refuse_pipes(sources: tuple[str, ...]) -> None:
    if any(source == "-" or Path(source).is_fifo() for source in sources):
        raise UsageError(
            "a comparison reads its text once for each run: it cannot come from a pipe",
            "Write it to a file first, and name that.",
        )


def parse_models(text: str) -> dict[str, dict[str, Any]]:
    """Read ``mlp,lstm,mine=gru.py:GRU``: names of the lineage, or classes of the user's own.

    Raises:
        UsageError: A name is empty, unknown or there twice.
    """
    models: dict[str, dict[str, Any]] = {}
    for word in filter(None, (w.strip() for w in text.split(","))):
        name, _, spec = word.rpartition("=")
        name = name or spec.rpartition(":")[2].lower()
        if name in models:
            raise UsageError(f"models: {name!r} is there twice", "Name each: a=gru.py:GRU")
        file = spec.rpartition(":")[0]
        if file.endswith(".py"):
            spec = f"{allow(file)}:{spec.rpartition(':')[2]}"  # the command itself names it
        models[name] = {"name": find_step(spec).name}
    if not models:
        known = ",".join(step.name for step in steps_for("lm"))
        raise UsageError("models: none named", f"Such as: --models {known}")
    return models
