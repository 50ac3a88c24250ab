"""What a person at a terminal sees: a live line, notices, tables, errors.

Everything but tables goes to stderr, so that stdout holds results alone. Without a terminal there
are plain lines, a few each minute. Text is never read as markup, and its control characters are
made visible (`ensue.views.text`).
"""

import atexit
import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Protocol, cast, runtime_checkable

from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ensue.errors import EnsueError
from ensue.memory import resident_bytes
from ensue.tasks import find_kind
from ensue.tasks.measures import said
from ensue.training.tracking import Tracker
from ensue.views.text import clock, duration, short, size, visible

REFRESH = 0.2
"""Seconds between two drawings of the live line: drawn by the training itself, without a thread."""
INTERVAL = 10.0
"""Seconds between two plain lines; every 10 % there is one in any case."""


@runtime_checkable
class Stream(Protocol):
    """What can be written to: a terminal, a file, a buffer of a test."""

    def write(self, text: str, /) -> int:
        """Take text."""
        ...

    def flush(self) -> None:
        """Let nothing wait."""
        ...

    def isatty(self) -> bool:
        """Say whether a person is looking."""
        ...


class Console(Tracker):
    """Shows how a run goes. Use it in a ``with``: that leaves the terminal as it was.

    Args:
        file: Where to write; stderr if not given.
        clock: Seconds; tests have their own.
    """

    def __init__(
        self, file: Stream | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rich = _console(file or sys.stderr)
        self._clock = clock
        self._live: Live | None = None
        self._busy = False
        self._waiting: list[str] = []
        self._printed = (-1e9, -1)  # when, and at which tenth, the last plain line was
        self._what = ""
        self._run: dict[str, Any] = {}
        self._begun = clock()
        self._pace: deque[tuple[float, int]] = deque(maxlen=150)  # at REFRESH: the last 30 s
        self._loss, self._weight = 0.0, 0.0
        self._score: dict[str, Any] = {}
        self._kind = find_kind("lm")

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away."""
        live, self._live = self._live, None
        if live is not None:
            atexit.unregister(self.close)
            _showing.discard(self)
            with self._drawing():
                live.stop()

    # -- events --------------------------------------------------------------------------------

    def notice(self, text: str) -> None:
        """Show a line above the live line."""
        if self._busy:  # a signal's handler speaks in the middle of a drawing: after it
            self._waiting.append(text)
            return
        self._print(Text.assemble(("note: ", "bold cyan"), visible(text)))

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a preparation is; a total of zero: nobody knows."""
        self._progress(what, done, total, _amount)

    def counted(self, what: str, done: int, total: int) -> None:
        """Show the same of things, which are never bytes."""
        self._progress(what, done, total, _count)

    def _progress(
        self, what: str, done: int, total: int, amount: Callable[[int, int], str]
    ) -> None:
        if what != self._what:
            self._what, self._begun, self._printed = what, self._clock(), (-1e9, -1)
            self._pace.clear()
        share = min(1.0, done / total) if total > 0 else 0.0
        amounts = [amount(done, max(0, total))] if total > 0 or done else []
        self._show(Text(visible(what), "bold"), share, done, total, amounts)
        if 0 < total <= done:  # results may come next, on the same terminal
            self.close()

    def start(self, info: dict[str, Any]) -> None:
        """Say what is going to be trained."""
        self.close()
        self._kind = info.get("kind", self._kind)
        self._run, self._begun, self._printed = info, self._clock(), (self._clock(), -1)
        self._pace.clear()
        words = [f"training {info.get('model', 'a model')}"]
        if info.get("parameters"):
            words.append(f"{short(info['parameters'])} parameters")
        if info.get("steps"):
            of = f"{info.get('tokens_per_step', 0):,} {self._kind.targets}"
            words.append(f"{info['steps']:,} steps of {of}")
        self._print(Text(visible(", ".join(words)), "bold"))
        if info.get("run"):
            self._print(Text(visible(f"into {info['run']}"), "dim"))

    def step(self, record: dict[str, Any]) -> None:
        """Move the line on."""
        if record.get("loss") is not None:  # the mean of about 20 steps, unbiased from the first on
            self._loss = 0.95 * self._loss + 0.05 * record["loss"]
            self._weight = 0.95 * self._weight + 0.05
        done, total = record["step"], int(self._run.get("steps") or 0)
        parts = [f"loss {self._loss / self._weight:.3f}" if self._weight else ""]
        followed_by = self._kind.followed_by
        if self._score:
            parts.append(followed_by.shown(self._score[followed_by.key]))
        speed = record.get("tokens_per_second")
        unit = "tok" if self._kind.target == "token" else self._kind.targets
        title = Text(f"step {done:,}" + (f"/{total:,}" if total else ""), "bold")
        share, pace = done / total if total else 0.0, f"{short(speed)} {unit}/s" if speed else ""
        self._show(title, share, done, total, parts, pace)

    def refit(self, steps: int) -> None:
        """Count to the new end from now on."""
        self._run = {**self._run, "steps": steps}

    def evaluated(self, record: dict[str, Any]) -> None:
        """Remember the score; without a terminal, print it."""
        if record.get(self._kind.followed_by.key) is None:
            return
        self._score = record
        if self._rich.is_terminal or record.get("kind") == "final":
            return
        sampled = " (a sample)" if record.get("sampled") else ""
        self._print(Text(f"step {record.get('step', 0):,}: {self._said(record)}{sampled}"))

    def _said(self, record: dict[str, Any]) -> str:
        """Write a score and which split it is of."""
        words = [m.shown(record[m.key], int(m == self._kind.followed_by)) for m in said(record)]
        return f"{', '.join(words)} on {visible(str(record.get('split', 'valid')))}"

    def finish(self, summary: dict[str, Any]) -> None:
        """Say how good it is, where it is, and what to do with it."""
        self.close()
        rows = [
            ("score", self._said(summary["score"])),
            ("weights", f"{summary.get('kept', 'last')}, of step {summary.get('step', 0):,}"),
            ("time", duration(self._clock() - self._begun)),
            ("run", summary.get("run", "")),
            ("report", summary.get("report", "")),
            ("next", summary.get("next", "")),
        ]
        for name, value in rows:
            if value:
                bold = "bold" if name in ("score", "next") else ""
                self._print(Text.assemble((f"{name:<8}", "cyan"), (visible(str(value)), bold)))

    # -- drawing -------------------------------------------------------------------------------

    def _show(
        self, title: Text, share: float, done: int, total: int, parts: list[str], pace: str = ""
    ) -> None:
        now, last = self._clock(), total > 0 and done >= total
        if self._pace and now - self._pace[-1][0] < REFRESH and not last:
            return
        self._pace.append((now, done))
        left = self._left(done, total)
        times = [f"{clock(left)} left" if left else "", f"{clock(now - self._begun)} so far"]
        memory = resident_bytes()
        parts = [p for p in (*parts, *times, pace, size(memory) if memory else "") if p]
        if self._rich.is_terminal:
            self._draw(_line(title, share if total else None, parts, self._rich.width))
        elif self._is_due(now, share):
            percent = f" {share:4.0%}" if total else ""
            self._print(Text(f"{title.plain}{percent}  " + "  ".join(parts)))

    def _left(self, done: int, total: int) -> float | None:
        """Estimate the seconds to the end from the pace of the last half minute."""
        (then, before), (now, _) = self._pace[0], self._pace[-1]
        if not total or done <= before or now <= then:
            return None
        return (total - done) * (now - then) / (done - before)

    def _is_due(self, now: float, share: float) -> bool:
        # A long run needs fewer lines, but a watchdog that waits for output must not starve.
        interval = min(60.0, max(INTERVAL, (now - self._begun) / 50))
        if now - self._printed[0] < interval and int(share * 10) <= self._printed[1]:
            return False
        self._printed = (now, int(share * 10))
        return True

    def _draw(self, line: Table) -> None:
        with self._drawing():
            if self._live is None:
                self._live = Live(
                    line,
                    console=self._rich,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                )
                self._live.start()
                _showing.add(self)
                atexit.register(self.close)
                self._rich.show_cursor(True)  # a killed process must not leave it hidden
            self._live.update(line, refresh=True)

    def _print(self, text: Text) -> None:
        with self._drawing():
            self._rich.print(text, soft_wrap=True)

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draw alone, and outlive a terminal that has gone: training matters more."""
        self._busy = True
        try:
            yield
        except OSError:
            self._rich.quiet = True
        finally:
            self._busy = False
        while self._waiting:
            self.notice(self._waiting.pop(0))


def _line(title: Text, share: float | None, parts: list[str], width: int) -> Table:
    """One line that fits: what matters less stands further right, and gives way to the bar."""
    room, shown = width - 1 - cell_len(title.plain), []
    bar = 12 if share is not None and width >= 72 else 0
    for i, part in enumerate(parts):
        need = cell_len(part) + 2
        if need <= room - (bar if i > 2 else 0):
            room -= need
            shown.append(Text(part))
    cells: list[Any] = [title, *shown]
    if bar and room >= bar:
        cells.insert(1, ProgressBar(total=1.0, completed=share or 0.0, width=min(30, room - 2)))
    line = Table.grid(padding=(0, 2, 0, 0))
    for _ in cells:
        line.add_column(no_wrap=True)
    line.add_row(*cells)
    return line


def _count(done: int, total: int) -> str:
    return f"{done:,} of {total:,}" if total else f"{done:,}"


def _amount(done: int, total: int) -> str:
    """Large numbers are bytes: nothing else that is counted before a run reaches 10,000."""
    if max(done, total) < 10_000:
        return _count(done, total)
    return f"{size(done)} of {size(total)}" if total else size(done)


# --- results and errors ---------------------------------------------------------------------------

_showing: set[Console] = set()
"""Whose live line is on the screen: an error or a table must not be written into it."""


def _clear() -> None:
    for console in list(_showing):
        console.close()


def print_error(error: EnsueError, file: Stream | None = None) -> None:
    """Say what went wrong, then what to do; no traceback."""
    _clear()
    console = _console(file or sys.stderr)
    words = Text.assemble(("error: ", "bold red"), visible(error.what))
    with contextlib.suppress(OSError):
        console.print(words, soft_wrap=True)
        if error.hint:
            console.print(Text(visible(error.hint)), soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str = "",
    file: Stream | None = None,
    width: int = 0,
) -> None:
    """Print a table that reads at any width; where columns would be slivers, one block per row.

    Args:
        columns: Heads.
        rows: As many cells each; numbers are set to the right.
        title: A line above.
        file: Where to; stdout if not given.
        width: Columns of the screen; 0: as the terminal has; without one as many as it needs.
    """
    _clear()
    console = _console(file or sys.stdout, width)
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for i, name in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(Text(visible(name)), justify="right" if numbers else "left")
    for row in cells:
        table.add_row(*map(Text, row))
    if title:
        console.print(Text(visible(title), "bold"))
    need = Measurement.get(console, console.options.update(max_width=10_000), table)
    if not (console.is_terminal or width or "COLUMNS" in os.environ):
        console.width = need.maximum  # into a pipe or a file: one line for each row
    # Wrapped to less than half, a table is a column of words that nobody reads.
    if console.width >= max(need.minimum, need.maximum // 2):
        console.print(table)
    else:
        _print_blocks(console, [visible(name) for name in columns], cells)


def _print_blocks(console: RichConsole, columns: list[str], rows: list[list[str]]) -> None:
    names = max((cell_len(name) for name in columns[1:]), default=0)
    for row in rows:
        console.print(Text(row[0], "bold"))
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(style="dim", min_width=names + 2)
        block.add_column()
        for name, value in zip(columns[1:], row[1:], strict=True):
            block.add_row(Text(f"  {name}"), Text(value))
        console.print(block)


def _cell(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int() if abs(value) >= 10_000:  # a year has no comma
            return f"{value:,}"
        case float():
            return f"{value:.4g}"
    return visible(str(value))


class _Patient(RichConsole):
    """Falls silent when the reader has gone (``| head``); rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def _console(file: Stream, width: int = 0) -> RichConsole:
    # A Windows console may have an encoding that lacks most of Unicode: "?" rather than a crash.
    reconfigure = getattr(file, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
    live = file.isatty() and os.environ.get("TERM") != "dumb"
    return _Patient(
        file=cast(IO[str], file),
        force_terminal=live,
        color_system="auto" if live else None,
        width=width or None,
        markup=False,
        highlight=False,
        emoji=False,
    )
