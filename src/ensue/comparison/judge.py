"""What a comparison asks of a task: by which measures models are told apart, and the floors."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from ensue.runs import Run
from ensue.tasks.measures import Measure
from ensue.tasks.task import Material


@runtime_checkable
class Judge(Protocol):
    """One task's part of a comparison."""

    material: Material
    """What is learnt from, and what is chosen on."""
    measures: tuple[Measure, ...]
    """The first decides."""
    test: str
    """Fingerprint of what is scored once, at the end; empty: there is none."""

    def lengths(self) -> list[dict[str, Any]]:
        """Give the groups of sources by which scores have ``by_length``; none: they have none."""
        ...

    def facts(self) -> dict[str, Any]:
        """Give names and sizes of what is read, for the report."""
        ...

    def shared(self, leading: Any) -> dict[str, Any]:
        """Give the fields that every model's config gets alike, whose leader's is given."""
        ...

    def score(self, run: Run, split: str) -> dict[str, Any]:
        """Score a finished run on valid or test, by measure; what it recorded itself is known."""
        ...

    def floors(self, split: str) -> list[dict[str, Any]]:
        """Score what needs no network: each has ``name``, ``doing``, ``seconds``, ``note``."""
        ...

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Let a run write what holds no row of the data: prompts and texts."""
        ...

    def updates(self, configs: Sequence[dict[str, Any]]) -> str:
        """Say what an update reads, in these runs."""
        ...

    def scoring(self, outcomes: Sequence[Any]) -> list[str]:
        """Say how it was scored, and how the speed of generating was measured."""
        ...
