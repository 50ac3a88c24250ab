"""What is compared, and what shall be equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensue.config import to_dict
from ensue.data.corpus import DataConfig
from ensue.errors import UsageError, nearest
from ensue.models import LINEAGE, find_step
from ensue.models.custom import allow
from ensue.training.budget import parse_budget
from ensue.training.config import SIZES, TrainConfig

EQUAL = ("params", "flops", "time")
LANGUAGE_MODELS = ("mlp", "cnn", "rnn", "lstm", "gpt2")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """One comparison."""

    data: DataConfig
    """What is read."""
    test: tuple[str, ...] = ()
    """Text that is scored once, after the winner was chosen on valid."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Candidates: what each is called, and its model table, as in a recipe; empty: all five."""
    equal: str = "params"
    """params (weights, and tokens seen), flops (operations of training), or time (wall clock)."""
    budget: str = "3min"
    """What one run may take, its share of the learning-rate trials included; of the slowest
    candidate, unless it is time that shall be equal."""
    seeds: int = 3
    """Runs of each candidate, which differ in first weights, order of the data and dropout."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Factors on the learning rates that are tried for each candidate; a single one: no trial."""
    size: str = ""
    """xs, s, m or l; empty: chosen for the budget."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How the weights are found, the same for all."""

    def __post_init__(self) -> None:
        if not self.models:
            object.__setattr__(self, "models", {n: {"name": n} for n in LANGUAGE_MODELS})
        _refuse_pipes(self.data.sources + self.data.valid + self.test)
        for name, table in self.models.items():
            find_step(str(table["name"]))
            if not name or "/" in name or name.startswith("."):
                raise UsageError(f"a candidate cannot be called {name!r}")
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
        if not self.rates or min(self.rates) <= 0 or len(set(self.rates)) < len(self.rates):
            raise UsageError("rates: give different factors above 0, such as 0.5 1 2")
        if self.size not in SIZES:
            raise UsageError(f"size: unknown value {self.size!r}{nearest(self.size, SIZES)}")

    def to_json(self) -> dict[str, Any]:
        """Give plain values, for the plan and for telling two requests apart."""
        return {**to_dict(self), "models": {n: dict(t) for n, t in self.models.items()}}


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
        known = ",".join(s.name for s in LINEAGE)
        raise UsageError("models: none named", f"Such as: --models {known}")
    return models
