"""The lineage: one file for each step of the lecture, in order."""

from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ensue.errors import UsageError, nearest


@dataclass(frozen=True)
class Form:
    """One class of a step's file, for the tasks that it can learn."""

    classname: str
    """Name of the model class; its config is the same with ``Config``."""
    tasks: tuple[str, ...] = ("lm",)
    """See `ensue.tasks`."""
    sizes: str = "SIZES"
    """Name of its configs for the values of the size dial."""
    rate: float = 1.0
    """Factor on the usual learning rates at which it learns best: docs/experiments.md."""
    rest: float = 1.0
    """Further factor on the rate of what Muon does not move, embeddings above all."""
    optimizer: str = "muon"
    """By which it learns best."""
    shifted: float = 1.0
    """Factor on the usual length of the shifts that it learns against (--train.adversarial)."""
    readings: float = 1.0
    """Factor on how often a set is read at most (`ensue.tasks.Kind.epochs`)."""
    reads: str = "words"
    """Of a text that is classified: words, a bag of n-grams, or the pieces of a tokenizer."""
    idea: str = ""
    """What it does, where that is not what the step's row says."""


@dataclass(frozen=True)
class Step:
    """One step of the lineage, in one of its forms: a row of the table."""

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
    forms: tuple[Form, ...]
    """What there is in its file; the first is the usual one."""
    form: Form = Form("")
    """The one that is meant."""

    def __post_init__(self) -> None:
        if not self.form.classname:
            object.__setattr__(self, "form", self.forms[0])

    @property
    def title(self) -> str:
        """What pages and folders call it."""
        return self.name

    @property
    def tasks(self) -> tuple[str, ...]:
        """What this form can learn."""
        return self.form.tasks

    @property
    def rate(self) -> float:
        """Factor on Muon's usual learning rates."""
        return self.form.rate

    @property
    def config(self) -> type[Any]:
        """The config class."""
        return self._get(f"{self.form.classname}Config")

    @property
    def default(self) -> Any:
        """A config in which all is open."""
        return self.config()

    @property
    def model(self) -> type[Any]:
        """The model class."""
        return self._get(self.form.classname)

    @property
    def sizes(self) -> dict[str, Any]:
        """Configs for the values of the size dial."""
        return self._get(self.form.sizes)

    def filled(self, config: Any, size: str) -> Any:
        """Take from a size what a config leaves open: the fields that have their defaults."""
        given = {f.name: getattr(config, f.name) for f in fields(config)}
        opened = {f.name: f.default for f in fields(config)}
        return replace(self.sizes[size], **{k: v for k, v in given.items() if v != opened[k]})

    def for_task(self, task: str) -> "Step":
        """Give the form that can learn a task; where there is none, the usual one."""
        form = next((f for f in self.forms if task in f.tasks), self.forms[0])
        return replace(self, form=form, idea=form.idea or self.idea)

    def _get(self, name: str) -> Any:
        return getattr(import_module(f"ensue.models.{self.name}"), name)


LINEAGE = (
    Step(
        "mlp",
        2003,
        "Rosenblatt 1958; Bengio et al.",
        "a fully connected network reads a window of text",
        "the last N-1 tokens",
        "nothing",
        (
            Form("MLP", rate=4.0),
            Form(
                "MLPClassifier",
                ("pictures",),
                "CLASSIFIER_SIZES",
                rate=2 / 3,
                optimizer="adamw",
                idea="a fully connected network reads all pixels at once",
            ),
            Form(
                "NgramMLP",
                ("classify",),
                "NGRAM_SIZES",
                rate=5.0,
                optimizer="sgd",
                reads="bag",
                idea="a fully connected network reads which n-grams a text has",
            ),
        ),
    ),
    Step(
        "cnn",
        2017,
        "LeCun et al. 1989; Dauphin et al.",
        "small filters, the same at every place, one layer on another",
        "what the filters of each layer reach back to",
        "nothing",
        (
            Form("CNN", rate=4.0),
            Form("PictureCNN", ("pictures",), "PICTURE_SIZES"),
            Form("TextCNN", ("classify",), "TEXT_SIZES", rate=2 / 3, optimizer="adamw"),
        ),
    ),
    Step(
        "rnn",
        1990,
        "Elman",
        "one vector, carried along the text and rewritten at each step",
        "h of each layer",
        "nothing",
        (
            Form("RNN", rate=2.0),
            Form("RNNClassifier", ("classify",), "CLASSIFIER_SIZES", rest=0.27, readings=0.5),
        ),
    ),
    Step(
        "lstm",
        1997,
        "Hochreiter & Schmidhuber",
        "gates decide what is written, kept and said",
        "h and c of each layer",
        "nothing",
        (
            Form("LSTM", rate=4.0),
            Form("LSTMClassifier", ("classify",), "CLASSIFIER_SIZES", rest=0.27, readings=0.5),
        ),
    ),
    Step(
        "seq2seq",
        2014,
        "Sutskever et al.; Cho et al.",
        "one network reads the source into a vector, another writes the target from it",
        "the vector; h and c of each layer",
        "nothing",
        (Form("Seq2Seq", ("translate", "chat"), rate=4.0),),
    ),
    Step(
        "seq2seq_attention",
        2015,
        "Bahdanau et al.; Luong et al.",
        "before each word, the decoder looks back at the source",
        "a vector for each word of the source; h and c of each layer",
        "the source",
        (Form("Seq2SeqAttention", ("translate", "chat"), rate=4.0),),
    ),
    Step(
        "transformer",
        2017,
        "Vaswani et al.",
        "attention in place of recurrence, in encoder and decoder",
        "keys and values of the source and of every token",
        "the source and the text",
        (Form("Transformer", ("translate", "chat")),),
    ),
    Step(
        "gpt2",
        2019,
        "Radford et al.",
        "attention to all of the past, nothing else",
        "keys and values of every token",
        "the text, up to the context",
        (Form("GPT2", ("lm", "chat")),),
    ),
    Step(
        "bert",
        2019,
        "Devlin et al.",
        "the encoder alone, trained to fill in what is masked, then put to other tasks",
        "nothing: it reads, and does not write",
        "–",
        (
            Form("MaskedLM", ("mlm",), rest=0.1),
            Form(
                "TextBert",
                ("classify",),
                "TEXT_SIZES",
                rest=0.1,
                shifted=0.25,  # at 1 it never leaves chance on SST-2: docs/experiments.md
                reads="pieces",
                idea="the encoder reads all of a text at once, perhaps after learning to fill in",
            ),
        ),
    ),
)


def step_of(config: Any) -> Step:
    """Give the row that a config belongs to, in its form."""
    name = type(config).__name__
    if name == "CustomConfig":
        return _custom(config.file, config.classname)
    return next(
        replace(step, form=form)
        for step in LINEAGE
        for form in step.forms
        if f"{form.classname}Config" == name
    )


def steps_for(task: str) -> list[Step]:
    """Give the models that can learn a task, in the order of the lecture."""
    steps = [step.for_task(task) for step in LINEAGE]
    return [step for step in steps if task in step.tasks]


def find_step(name: str, task: str = "") -> Step:
    """Give the row of a model; an unknown name is a UsageError that names the nearest.

    Args:
        name: Of a step, or of a class of the user's own: ``FILE.py:CLASS``.
        task: Of its forms that which can learn this is meant; empty: the usual one.
    """
    for step in LINEAGE:
        if step.name == name:
            return step.for_task(task)
    file, _, classname = name.rpartition(":")
    if file.endswith(".py"):
        return _custom(file, classname)
    names = [step.name for step in LINEAGE]
    raise UsageError(
        f"there is no model {name!r}{nearest(name, names)}",
        f"Models: {', '.join(names)}, or a class of yours: FILE.py:CLASS. See: ensue lineage",
    )


def _custom(file: str, classname: str) -> Step:
    form = Form(classname)
    return Custom(f"{file}:{classname}", 0, "yours", "a model of yours", "", "", (form,))


@dataclass(frozen=True)
class Custom(Step):
    """The row of a person's own model; see `ensue.models.custom`."""

    @property
    def title(self) -> str:
        """The class alone: where its file lies is nobody else's business."""
        return self.form.classname

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
