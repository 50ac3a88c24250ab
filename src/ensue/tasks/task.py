"""The contracts of a task: with the chooser, what there is to learn from; with the loop, sums."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ensue.errors import UsageError
from ensue.tasks.measures import BITS, Measure


@dataclass(frozen=True)
class Loss:
    """A sum and how many things it sums, so that batches of any shape add up to the same mean."""

    total: Float[Tensor, ""]
    """Sum of the losses, in nats."""
    count: int
    """Targets scored."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a model is on one split."""

    split: str
    """Which split, by name."""
    loss: float
    """Mean loss, nats per target."""
    measures: Mapping[str, float]
    """What else was measured, by the keys of `ensue.tasks.measures.Measure`."""
    targets: int
    """Targets scored."""
    fingerprint: str
    """SHA-256 of what was scored."""
    bytes: int = 0
    """Bytes of text that the targets spell; 0: they spell none."""
    sampled: bool = False
    """Whether only a part of the split was scored."""
    kept_by: Measure = BITS
    """By which measure one score is better than another."""

    def __getitem__(self, measure: Measure | str) -> float:
        """Give one number, by its measure or by the key of that."""
        return self.record()[measure if isinstance(measure, str) else measure.key]

    @property
    def cost(self) -> float:
        """By what one score is better than another: the lower one."""
        return self.kept_by.cost(self[self.kept_by])

    def record(self) -> dict[str, Any]:
        """Give what was measured, as ``metrics.jsonl`` holds it."""
        values = {name: value for name, value in vars(self).items() if name not in _INSIDE}
        return {**values, **self.measures}


_INSIDE = ("measures", "kept_by")


@runtime_checkable
class Task(Protocol):
    """What the training loop needs of a task."""

    def batches(self, update: int, rank: int = 0, world: int = 1) -> list[Any]:
        """Give one process's micro-batches of an update of the endless, seeded order."""
        ...

    def ids(self, update: int) -> list[int]:
        """Number the rows of an update: what is noted when it fails."""
        ...

    def count(self, batch: Any) -> int:
        """Count the targets of a batch, before anything is computed."""
        ...

    def loss(self, model: Any, batch: Any) -> Loss:
        """Compute the loss of a batch as a sum and a count."""
        ...

    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the model on the validation split (on an even sample of it, if so asked)."""
        ...

    def describe(self, update: int) -> list[str]:
        """Show an update's rows as a person reads them, for `ensue plan`."""
        ...


def refuse_unused(train: Any, names: Sequence[str], task: str) -> None:
    """Refuse settings that this task would not heed."""
    for name in names:
        if getattr(train, name):
            raise UsageError(
                f"train.{name} means nothing to the task {task!r}", f"Leave out --train.{name}."
            )


class RowTask:
    """A task whose updates are so many rows each, all of one kind.

    Args:
        rows: Rows of an update; the number of processes divides it.
        micro_rows: Rows computed at a time by one process; 0: all.
    """

    def __init__(self, rows: int, micro_rows: int = 0) -> None:
        self.rows, self.micro_rows = rows, micro_rows

    def batch(self, first: int, rows: int) -> Any:
        """Give rows `first` to `first + rows` of the endless, seeded order of training rows.

        Each task makes its own.
        """
        raise NotImplementedError

    def batches(self, update: int, rank: int = 0, world: int = 1) -> list[Any]:
        """Give one process's micro-batches of an update."""
        mine = self.rows // world
        first = update * self.rows + rank * mine
        micro = min(mine, self.micro_rows or mine)
        return [self.batch(first + i, min(micro, mine - i)) for i in range(0, mine, micro)]

    def ids(self, update: int) -> list[int]:
        """Number the rows of an update."""
        return list(range(update * self.rows, (update + 1) * self.rows))


class Shape(NamedTuple):
    """What a model is given in one call: what its operations are counted by."""

    rows: int
    steps: int
    """Tokens of a row that is written."""
    source_steps: int = 0
    """Tokens of a row that is read first, by an encoder."""


@runtime_checkable
class Material(Protocol):
    """What is learnt from, tokenised, before the model's shape is known."""

    fingerprint: str
    """Changes with text, split and tokenizers."""
    valid_text: str
    """SHA-256 of what is validated on."""
    notes: tuple[str, ...]
    """What was sniffed, guessed, left out and chosen."""
    train_targets: int
    """Targets of an epoch."""
    valid_targets: int
    """Targets to validate on."""

    def filled(self, model: Any) -> Any:
        """Give a model's config the vocabularies, and no longer a context than there is text for.

        Raises:
            UsageError: A vocabulary that was asked for is too small.
        """
        ...

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give a training config the batch of an update of about so many tokens, where it is open.

        Raises:
            UsageError: The processes cannot share the batch that was asked for.
        """
        ...

    def targets_per_update(self, config: Any) -> float:
        """Give how many targets an update has, on average."""
        ...

    def shapes(self, config: Any) -> Sequence[Shape]:
        """Give the shapes of an update, or of several that stand for all."""
        ...

    def task(self, config: Any, device: Any) -> Task:
        """Make the task of a run whose shape is known."""
        ...

    def save(self, folder: Path, model: Any) -> None:
        """Write into a run folder what using a model of this shape needs: the tokenizers."""
        ...

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`: (what, value)."""
        ...
