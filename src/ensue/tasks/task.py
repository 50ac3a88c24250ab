"""The contract between a task and the training loop: sums and counts."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A sum and how many things it sums, so that batches of any shape add up to the same mean."""

    total: Float[Tensor, ""]
    """Sum of the losses, in nats."""
    count: int
    """Targets scored."""


@dataclass(frozen=True)
class Score:
    """How good a model is on one split."""

    split: str
    """Which split, by name."""
    loss: float
    """Mean loss, nats per target."""
    bits_per_byte: float
    """Bits for each byte of the text, whatever the tokenizer."""
    targets: int
    """Targets scored."""
    bytes: int
    """Bytes of text that they spell."""
    fingerprint: str
    """SHA-256 of the text scored."""
    sampled: bool = False
    """Whether only a part of the split was scored."""


@runtime_checkable
class Task(Protocol):
    """What the training loop needs of a task."""

    def batch(self, first: int, rows: int) -> Any:
        """Give rows `first` to `first + rows` of the endless, seeded order of training rows."""
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

    def describe(self, first: int, rows: int) -> list[str]:
        """Show training rows as a person reads them, for `ensue plan` and for error reports."""
        ...
