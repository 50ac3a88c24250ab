"""``ensue fill``: texts with gaps in, the likeliest words out."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass

import tyro

from ensue import api
from ensue.commands.translate import created, progress_of, read_lines, run_and_texts
from ensue.console import Console, print_table
from ensue.data.notes import Notes
from ensue.errors import DataError, UsageError
from ensue.filler import Filled
from ensue.views.text import visible


@dataclass(frozen=True, kw_only=True)
class FillArgs:
    """What has gaps, and how they are filled."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The text, with [MASK] where a word is missing; or the run and one or more texts. Without a
    text, standard input is read."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Fill a file's lines; - reads standard input."""
    out: str = ""
    """Write to this file; default: standard output."""
    top_k: int = 5
    """Pieces that are named for each gap."""
    json: bool = False
    """Print one JSON object for each text, with all that is known of it."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; at least 1 is named")


def run_fill(args: FillArgs, console: Console) -> None:
    """Show what may stand in each gap; of lines from a file, each with its gaps filled."""
    run, texts = run_and_texts(args.words, args.run, args.file)
    filler = api.load_filler(run)
    if texts and not (args.out or args.json):
        for text in texts:
            one = filler.fill(text, args.top_k)
            _show(one)
            for notice in one.notices:
                console.notice(notice)
        return
    with ExitStack() as stack:
        notes, failed, done = Notes(), 0, 0
        lines, total = iter(texts), len(texts)
        if not texts:
            lines, total = stack.enter_context(read_lines(args.file or "-", notes))
        out = stack.enter_context(created(args.out, args.file)) if args.out else sys.stdout
        told = progress_of(console, "filling lines", total, args.out)
        for done, one in enumerate(filler.stream(lines, args.top_k), 1):
            is_blank = not one.source.strip()
            failed += bool(one.error) and not is_blank
            out.write((one.to_json() if args.json else _line(one, args)) + "\n")
            for said in filter(None, (*one.notices, "" if is_blank else one.error)):
                console.notice(f"line {done}: {said}")
            told(done)
        console.close()
        for note in notes.lines():
            console.notice(note)
    if failed:
        raise DataError(f"{failed:,} of {done:,} lines have no gap", "They are named above.")


def _line(one: Filled, args: FillArgs) -> str:
    """Give a line filled; as it was, where it has no gap."""
    text = one.text or one.source
    return text if args.out or not sys.stdout.isatty() else visible(text)


def _show(one: Filled) -> None:
    sys.stdout.write(f"{visible(one.text)}\n")
    for number, gap in enumerate(one.gaps, 1):
        which = "in the gap" if len(one.gaps) == 1 else f"in gap {number}"
        rows = [[visible(piece), f"{share:.1%}"] for piece, share in gap.top]
        print_table([which, "probability"], rows)
