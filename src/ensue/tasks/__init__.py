"""What can be learnt: one file for each task, and this table of them."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ensue.errors import UsageError, nearest
from ensue.tasks.measures import BITS, LOSS, Measure

PROMPT = "Once upon a time"
"""A beginning that any text may have."""


@dataclass(frozen=True)
class Kind:
    """One task: a row of the table."""

    name: str
    """What recipes call it; also its file in ``ensue/tasks``."""
    what: str
    """What is learnt."""
    data: str
    """Where the class of its data config is: ``module:class``."""
    model: str
    """The model that is taken where none is named."""
    verb: str
    """The command that uses a run."""
    example: str
    """What that command may be given; empty: it asks."""
    load: str
    """What opens a run from Python: ``ensue.load``."""
    scored: tuple[str, ...]
    """What names another text to ``ensue evaluate``."""
    followed_by: Measure = BITS
    """What each of its runs records: curves show it, and learning rates are chosen by it."""
    kept_by: tuple[str, ...] = ()
    """What weights may be kept by, besides the loss."""
    usually_kept_by: str = "loss"
    """What they are kept by where nothing is asked for."""
    target: str = "token"
    """What one loss is of."""
    targets_per_parameter: float = 4.0
    """A size is taken when the budget lets it see so many targets for each weight. Of text: in a
    minute on two cores, 4 layers of 128 (1.7 tokens a weight) beat 4 of 192 (0.4) by 0.07 bits."""
    adversarial: float = 0.0
    """Usual length of the shifts that are learnt against; 0: there are none."""
    averaged: float = 0.0
    """Share of the updates over which weights are usually averaged; 0: they are not."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Factors on the learning rates that a comparison tries, unless others are asked for."""
    epochs: float = 0.0
    """Readings of the data after which a model learns no more: a longer budget is not used up; 0:
    it always learns more."""

    @property
    def targets(self) -> str:
        """What is read in training, many of them: ``tokens``, ``texts``, ``pictures``."""
        return f"{self.target}s"

    @property
    def config(self) -> type[Any]:
        """The class of its data config."""
        module, _, name = self.data.partition(":")
        found: type[Any] = getattr(import_module(module), name)
        return found

    def prepare(self, config: Any, on_progress: Any) -> Any:
        """Read and tokenise; gives the task's `ensue.tasks.task.Material`."""
        return self._get("prepare")(config, on_progress)

    def frozen(self, config: Any, folder: Path) -> Any:
        """Give the data config of a run that was begun: its tokenizers are those in its folder."""
        return self._get("frozen")(config, folder)

    def _get(self, name: str) -> Any:
        return getattr(import_module(f"ensue.tasks.{self.name}"), name)


TASKS = (
    Kind(
        "lm",
        "to continue a text",
        "ensue.data.corpus:DataConfig",
        "gpt2",
        "generate",
        PROMPT,
        "load",
        ("--data", "FILE"),
    ),
    Kind(
        "translate",
        "to write a sequence, given another",
        "ensue.data.pairs:PairsConfig",
        "transformer",
        "translate",
        "TEXT",
        "load_translator",
        ("--src", "FILE", "--ref", "FILE"),
        kept_by=("bleu",),
    ),
    Kind(
        "chat",
        "to answer in a conversation",
        "ensue.data.dialogues:DialogueConfig",
        "transformer",
        "chat",
        "",
        "load_chat",
        ("--data", "FILE"),
    ),
    Kind(
        "mlm",
        "to fill in masked words",
        "ensue.data.masked:MaskedConfig",
        "bert",
        "fill",
        "It was a [MASK] day.",
        "load_filler",
        ("--data", "FILE"),
        followed_by=LOSS,
        target="masked piece",
        targets_per_parameter=0.6,  # as of text: a seventh of the tokens are asked for
    ),
    Kind(
        "classify",
        "to name the class of a text",
        "ensue.data.labelled:LabelledConfig",
        "cnn",
        "classify",
        "TEXT",
        "load_classifier",
        ("--data", "FILE"),
        followed_by=LOSS,
        kept_by=("accuracy",),
        usually_kept_by="accuracy",
        target="text",
        targets_per_parameter=0.02,  # of the weights most are n-grams that a text has few of
        adversarial=0.4,
        averaged=0.1,
        rates=(0.25, 1.0, 4.0),  # models lie further apart: the CNN at 2/3, bags of n-grams at 5
        epochs=10.0,
    ),
    Kind(
        "pictures",
        "to name what a picture shows",
        "ensue.data.pictures:PicturesConfig",
        "cnn",
        "classify",
        "PICTURE",
        "load_classifier",
        ("--data", "FOLDER"),
        followed_by=LOSS,
        kept_by=("accuracy",),
        usually_kept_by="accuracy",
        target="picture",
        targets_per_parameter=1.0,  # one has hundreds of numbers
        averaged=0.1,
    ),
)


def find_kind(name: str) -> Kind:
    """Give the row of a task; an unknown name is a UsageError that names the nearest."""
    for kind in TASKS:
        if kind.name == name:
            return kind
    names = [kind.name for kind in TASKS]
    raise UsageError(
        f"there is no task {name!r}{nearest(name, names)}", f"Tasks: {', '.join(names)}"
    )
