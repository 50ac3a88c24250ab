"""What reaches a terminal or a log while a run goes on, and when it fails."""

import io
import os
import re

import pytest

from ensue.console import Console, print_error, print_table
from ensue.errors import RunError
from ensue.memory import resident_bytes

INFO = {"run": "runs/book", "model": "gpt2", "parameters": 10_800, "steps": 200}
INFO |= {"tokens_per_step": 8192}
HOSTILE = "[bold red]book[/] :smile: \x1b[2J\u202etxt"
ROWS = [["lstm", 1997, "gates decide what is written, kept and said", 0.5]]
ROWS += [["gpt2", 2019, "attention to all of the past, nothing else", 12345]]
COLUMNS = ["name", "year", "idea", "score"]


class Screen(io.StringIO):
    """A terminal that remembers what was sent to it."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, loss: float | None = 2.5) -> dict[str, object]:
    return {"kind": "step", "step": number, "loss": loss, "lr": 0.1, "tokens_per_second": 46_000.0}


def train(console: Console, clock: Clock, seconds: float = 0.1, steps: int = 200) -> None:
    console.start(INFO | {"steps": steps})
    for number in range(1, steps + 1):
        clock.now += seconds
        console.step(step(number))
        if number % (steps // 4) == 0:
            console.evaluated({"step": number, "split": "valid", "bits_per_byte": 2.2})


def finish(console: Console) -> None:
    console.finish(
        {"run": "runs/book", "score": {"bits_per_byte": 2.1132}, "kept": "averaged", "step": 200}
        | {"report": "runs/book/report.html"}
        | {"next": 'ensue generate runs/book "Once upon a time"'}
    )


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return Screen()


def words(screen: io.StringIO) -> list[str]:
    """What was sent, less the control sequences, line by line."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()))


def test_without_a_terminal_there_are_a_few_plain_lines():
    """A log full of escape codes, or with a line for each of 100,000 steps, is of no use."""
    log, clock = io.StringIO(), Clock()
    with Console(log, clock) as console:
        console.notice("read as UTF-8")
        train(console, clock)
        finish(console)
    text = log.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "note: read as UTF-8"
    assert lines[1] == "training gpt2, 10.8k parameters, 200 steps of 8,192 tokens"
    steps = [line for line in lines if line.startswith("step ") and "/200" in line]
    assert 10 <= len(steps) <= 14
    assert "step 50: 2.2000 bits per byte on valid" in lines
    assert "100%  loss 2.500  2.200 bits per byte  0:20 so far  46k tok/s" in steps[-1]
    assert lines[-1] == 'next    ensue generate runs/book "Once upon a time"'
    assert "score   2.1132 bits per byte on valid" in lines


def test_sentences_are_never_bytes():
    """Of 20,000 lines "12 kB of 20 kB" were translated."""
    log = io.StringIO()
    with Console(log) as console:
        console.counted("translating lines", 12_000, 20_000)
        console.counted("translating lines of a pipe", 12_000, 0)
        console.progress("reading", 12_000, 20_000)
    lines = log.getvalue().splitlines()
    assert "12,000 of 20,000" in lines[0]
    assert "12,000" in lines[1]
    assert "kB of" in lines[2]


def test_a_long_run_says_something_every_minute_but_not_more():
    """A watchdog kills what is silent for ten minutes; nobody reads 3,600 lines."""
    log, clock = io.StringIO(), Clock()
    train(Console(log, clock), clock, seconds=3.6, steps=10_000)  # ten hours
    steps = [line for line in log.getvalue().splitlines() if "/10,000" in line]
    assert 600 <= len(steps) <= 900


def test_each_line_is_out_before_the_next_step(tmp_path):
    """Buffered, the last lines before a crash would be lost."""
    with open(tmp_path / "log", "w") as log:
        Console(log).notice("hello")
        assert (tmp_path / "log").read_text() == "note: hello\n"


def test_the_live_line_fits_and_leaves_no_trace(terminal):
    clock = Clock()
    with Console(terminal, clock) as console:
        for done in range(0, 110, 10):
            clock.now += 1
            console.progress("tokenising", done * 1_000_000, 100_000_000)
        train(console, clock)
        finish(console)
    lines = words(terminal)
    assert max(map(len, lines)) < 80
    assert any(
        re.search(r"step 1\d\d/200 +\S+ +loss 2.500 +2.200 bits per byte +0:\d\d left", s)
        for s in lines
    )
    assert any("tokenising" in line and "50 MB of 100 MB" in line for line in lines)
    assert "\x1b[2K" in terminal.getvalue()  # the line was taken away
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize("width", ["20", "60", "200"])
def test_the_live_line_never_wraps(terminal, monkeypatch, width):
    """A wrapped line cannot be redrawn: the screen fills with its remains."""
    monkeypatch.setenv("COLUMNS", width)
    clock = Clock()
    with Console(terminal, clock) as console:
        train(console, clock)
    assert max(len(line) for line in words(terminal) if line.startswith("step")) <= int(width)


def test_the_cursor_is_shown_while_the_line_lives(terminal):
    """A process killed by SIGKILL or SIGTERM cannot show it again."""
    console = Console(terminal)
    console.progress("tokenising", 1, 2)
    text = terminal.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    console.close()


def test_an_error_takes_the_live_line_away(terminal):
    """Else it stands in the middle of a half-drawn line, and the line stays for ever."""
    console = Console(terminal)
    console.progress("tokenising", 1, 2)
    print_error(RunError("broken"), terminal)
    text = terminal.getvalue()
    assert text.rindex("\x1b[2K") > text.rindex("tokenising")
    assert text.rindex("broken") > text.rindex("\x1b[2K")


def test_a_preparation_that_is_done_takes_its_line_away(terminal):
    """A result on stdout would be written behind it."""
    console = Console(terminal)
    console.progress("tokenising", 2, 2)
    assert terminal.getvalue().rindex("\x1b[2K") > terminal.getvalue().rindex("tokenising")


def test_no_color_is_respected(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    clock = Clock()
    with Console(terminal, clock) as console:
        console.notice("x")
        train(console, clock)
        finish(console)
    print_error(RunError("what", "hint"), terminal)
    assert not re.search(r"\x1b\[[0-9;]*\b[349][0-7]\b[0-9;]*m", terminal.getvalue())


@pytest.mark.parametrize("screen", [io.StringIO, Screen])
def test_text_from_data_is_neither_markup_nor_control(screen, monkeypatch):
    """A file named ``[red]`` would lose its name; one with ESC in it would clear the screen."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    file = screen()
    shown = "[bold red]book[/] :smile: \\x1b[2J\\u202etxt"
    with Console(file) as console:
        console.notice(HOSTILE)
        console.progress(HOSTILE, 1, 2)
        console.start(INFO | {"model": HOSTILE})
        hostile = {"split": HOSTILE, "bits_per_byte": 2.0}
        console.evaluated({"step": 1, **hostile})
        console.finish({"run": HOSTILE, "score": hostile, "kept": HOSTILE, "report": HOSTILE})
    print_error(RunError(HOSTILE, HOSTILE), file)
    print_table([HOSTILE, "b"], [[HOSTILE, 1]], title=HOSTILE, file=file, width=200)
    text = file.getvalue()
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    plain = "\n".join(words(file))
    assert plain.count(shown) >= 10


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
@pytest.mark.parametrize("tty", [False, True])
def test_an_old_windows_console_does_not_crash(encoding, tty, monkeypatch):
    """UnicodeEncodeError after an hour of training, at the first 東."""
    monkeypatch.setenv("TERM", "xterm")
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(file, "isatty", lambda: tty, raising=False)
    clock = Clock()
    with Console(file, clock) as console:
        console.notice("東京 – ok")
        train(console, clock)
        finish(console)
    print_error(RunError("東京"), file)
    print_table(["東京"], [["–"]], file=file)
    assert b"?? " in file.buffer.getvalue()  # type: ignore[attr-defined]


class Gone(io.StringIO):
    """The other end of the pipe has been closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_run_outlives_its_terminal():
    """``ensue train … 2>&1 | head`` must not end hours of training."""
    clock = Clock()
    with Console(Gone(), clock) as console:
        console.notice("x")
        train(console, clock)
        finish(console)


def test_a_notice_from_a_signal_waits_for_the_drawing_to_end(terminal):
    """Writing to a stream from within a write to it raises RuntimeError."""
    console = Console(terminal)
    with console._drawing():
        console.notice("stopping")
        assert "stopping" not in terminal.getvalue()
    assert "note: stopping" in words(terminal)


def test_a_loss_that_is_no_number_does_not_stop_the_display():
    log, clock = io.StringIO(), Clock()
    console = Console(log, clock)
    console.start({})
    console.step(step(1, None))
    console.evaluated({"step": 1, "bits_per_byte": None})
    assert "step 1  0:00 so far" in log.getvalue()


def test_an_error_says_what_and_what_next_and_can_be_pasted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    log = io.StringIO()
    command = "Train one first: ensue train a-rather-long-name.txt --model gpt2"
    print_error(RunError("there is no run", command), log)
    assert log.getvalue() == f"error: there is no run\n{command}\n"


@pytest.mark.parametrize("width", [20, 60, 200])
def test_a_table_reads_at_any_width(width):
    file = io.StringIO()
    print_table(COLUMNS, ROWS, file=file, width=width)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(file.getvalue().split())
    for word in ("lstm", "1997", "gpt2", "12,345", "attention", "year"):
        assert word in text
    assert (lines[0].split() == COLUMNS) == (width > 20)


def test_a_table_into_a_pipe_has_one_line_for_each_row(monkeypatch):
    """Wrapped at 80 columns, it could be neither searched nor cut."""
    monkeypatch.delenv("COLUMNS", raising=False)
    file = io.StringIO()
    print_table(COLUMNS, [*ROWS, ["long", 1, "x" * 150, 1]], file=file)
    assert len(file.getvalue().splitlines()) == 2 + 3


def test_an_empty_table_is_its_head():
    file = io.StringIO()
    print_table(COLUMNS, [], file=file, width=60)
    assert file.getvalue().split()[:4] == COLUMNS


def test_memory_is_known_here():
    if os.path.exists("/proc/self/statm"):
        assert 1 << 20 < resident_bytes() < 1 << 40
