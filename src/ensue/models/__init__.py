"""The lineage: one file for each step of the lecture, in order."""

from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ensue.errors import UsageError, nearest


@dataclass(frozen=True)
class Step:
    """One step of the lineage: a row of the table."""

    name: str
    """What ``--model`` calls it; also its file in ``ensue/models``."""
    year: int
    """Year of the paper."""
    paper: str
    """Who wrote it."""
    idea: str
    """What this step changes."""
    memory: str
    """What a row keeps while text is generated."""
    grows: str
    """What that memory grows with."""
    classname: str
    """Name of the model class in its file; its config is the same with ``Config``."""
    rate: float = 1.0
    """Factor on Muon's usual learning rates at which it learns best: docs/experiments.md."""
    tasks: tuple[str, ...] = ("lm",)
    """What it can learn; see `ensue.tasks`."""

    @property
    def title(self) -> str:
        """What pages and folders call it."""
        return self.name

    @property
    def config(self) -> type[Any]:
        """The config class."""
        return self._get(f"{self.classname}Config")

    @property
    def default(self) -> Any:
        """A config in which all is open."""
        return self.config()

    @property
    def model(self) -> type[Any]:
        """The model class."""
        return self._get(self.classname)

    @property
    def sizes(self) -> dict[str, Any]:
        """Configs for the values of the size dial."""
        return self._get("SIZES")

    def filled(self, config: Any, size: str) -> Any:
        """Take from a size what a config leaves open: the fields that have their defaults."""
        given = {f.name: getattr(config, f.name) for f in fields(config)}
        opened = {f.name: f.default for f in fields(config)}
        return replace(self.sizes[size], **{k: v for k, v in given.items() if v != opened[k]})

    def _get(self, name: str) -> Any:
        return getattr(import_module(f"ensue.models.{self.name}"), name)


LINEAGE = (
    Step(
        "mlp",
        2003,
        "Bengio et al.",
        "a fully connected network reads a window of text",
        "the last N-1 tokens",
        "nothing",
        "MLP",
        rate=4.0,
    ),
    Step(
        "cnn",
        2017,
        "Dauphin et al.; LeCun et al. 1989",
        "small filters, the same at every place, one layer on another",
        "what the filters of each layer reach back to",
        "nothing",
        "CNN",
        rate=4.0,
    ),
    Step(
        "rnn",
        1990,
        "Elman",
        "one vector, carried along the text and rewritten at each step",
        "h of each layer",
        "nothing",
        "RNN",
        rate=2.0,
    ),
    Step(
        "lstm",
        1997,
        "Hochreiter & Schmidhuber",
        "gates decide what is written, kept and said",
        "h and c of each layer",
        "nothing",
        "LSTM",
        rate=4.0,
    ),
    Step(
        "seq2seq",
        2014,
        "Sutskever et al.; Cho et al.",
        "one network reads the source into a vector, another writes the target from it",
        "the vector; h and c of each layer",
        "nothing",
        "Seq2Seq",
        rate=4.0,
        tasks=("translate", "chat"),
    ),
    Step(
        "seq2seq_attention",
        2015,
        "Bahdanau et al.; Luong et al.",
        "before each word, the decoder looks back at the source",
        "a vector for each word of the source; h and c of each layer",
        "the source",
        "Seq2SeqAttention",
        rate=4.0,
        tasks=("translate", "chat"),
    ),
    Step(
        "transformer",
        2017,
        "Vaswani et al.",
        "attention in place of recurrence, in encoder and decoder",
        "keys and values of the source and of every token",
        "the source and the text",
        "Transformer",
        tasks=("translate", "chat"),
    ),
    Step(
        "gpt2",
        2019,
        "Radford et al.",
        "attention to all of the past, nothing else",
        "keys and values of every token",
        "the text, up to the context",
        "GPT2",
        tasks=("lm", "chat"),
    ),
)


def step_of(config: Any) -> Step:
    """Give the row that a config belongs to."""
    if type(config).__name__ == "CustomConfig":
        return _custom(config.file, config.classname)
    return next(s for s in LINEAGE if f"{s.classname}Config" == type(config).__name__)


def steps_for(task: str) -> list[Step]:
    """Give the models that can learn a task, in the order of the lecture."""
    return [step for step in LINEAGE if task in step.tasks]


def find_step(name: str) -> Step:
    """Give the row of a model; an unknown name is a UsageError that names the nearest."""
    for step in LINEAGE:
        if step.name == name:
            return step
    file, _, classname = name.rpartition(":")
    if file.endswith(".py"):
        return _custom(file, classname)
    names = [step.name for step in LINEAGE]
    raise UsageError(
        f"there is no model {name!r}{nearest(name, names)}",
        f"Models: {', '.join(names)}, or a class of yours: FILE.py:CLASS. See: ensue lineage",
    )


def _custom(file: str, classname: str) -> Step:
    return Custom(f"{file}:{classname}", 0, "yours", "a model of yours", "", "", classname)


@dataclass(frozen=True)
class Custom(Step):
    """The row of a person's own model; see `ensue.models.custom`."""

    @property
    def title(self) -> str:
        """The class alone: where its file lies is nobody else's business."""
        return self.classname

    @property
    def config(self) -> type[Any]:
        """The config class; its fields name the file and the class."""
        return self._get("CustomConfig")

    @property
    def default(self) -> Any:
        """A config in which all but the class is open."""
        file, _, classname = self.name.rpartition(":")
        return self.config(file=str(Path(file).resolve()), classname=classname)

    @property
    def model(self) -> Any:
        """What makes the model of a config."""
        return self._get("build")

    def filled(self, config: Any, size: str) -> Any:
        """Take from a size what is open; a window that nobody asked for fits the class."""
        filled = super().filled(config, size)
        return filled if config.context_length else self._get("cut")(filled)

    def _get(self, name: str) -> Any:
        return getattr(import_module("ensue.models.custom"), name)
