"""The one family of errors that a user may see, and the exit code of each.

A message says what happened, where, why, and what to do next. The command line prints it without
a traceback (``--debug`` shows one); library users catch `EnsueError`.
"""

import difflib
from collections.abc import Iterable


class EnsueError(Exception):
    """Base class: everything that ensue refuses on purpose.

    Args:
        what: One sentence: what went wrong, naming the file and line where there is one.
        hint: What to do next, ideally a command that can be pasted.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class UsageError(EnsueError, ValueError):
    """A flag, value, model or key that does not exist or does not fit."""

    exit_code = 2


class DataError(EnsueError, ValueError):
    """Input that is missing, empty, unreadable, or of the wrong shape."""

    exit_code = 3


class RunError(EnsueError):
    """A run folder that is missing, damaged, of a newer version or another configuration."""

    exit_code = 4


class DiskFullError(EnsueError):
    """The disk cannot hold what must be written; nothing that was there before is harmed."""

    exit_code = 5


class NonFiniteError(EnsueError):
    """The loss or a gradient is not a number; the update was not applied."""

    exit_code = 6


class MissingExtraError(EnsueError):
    """A feature needs an optional package.

    Args:
        package: The import name that is missing.
        extra: The extra of ensue that brings it.
    """

    exit_code = 7

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            f'Install it with: pip install "ensue[{extra}]"',
        )


class StoppedError(EnsueError):
    """The user or the system asked the run to stop; it was saved and can go on."""

    exit_code = 130


def nearest(name: str, options: Iterable[str]) -> str:
    """Give ``; did you mean 'x'?`` for the closest option, or an empty string."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
