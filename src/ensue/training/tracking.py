"""Who is told how a run goes; the metrics file is written by the loop in any case."""

from typing import Any


class Tracker:
    """Hears of a run's events and does nothing; consoles and loggers override what they need."""

    def notice(self, text: str) -> None:
        """Something that a person should know: what was guessed, chosen, skipped."""

    def progress(self, what: str, done: int, total: int) -> None:
        """A long preparation goes on (bytes tokenised, candidates measured)."""

    def counted(self, what: str, done: int, total: int) -> None:
        """The same of things and not of bytes, however many there are (sentences translated)."""
        self.progress(what, done, total)

    def start(self, info: dict[str, Any]) -> None:
        """Training begins; `info` holds model, parameters, steps and what it is followed by."""

    def step(self, record: dict[str, Any]) -> None:
        """One update is done; see `ensue.training.loop` for the keys."""

    def refit(self, steps: int) -> None:
        """The end was moved to `steps` updates in all, to keep a time budget."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """The validation split was scored."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is complete."""
