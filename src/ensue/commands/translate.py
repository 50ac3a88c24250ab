"""``ensue translate``: lines in, lines out, in their order."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import tyro

from ensue import api
from ensue.console import Console
from ensue.data.notes import Notes
from ensue.data.pairs import source_lines
from ensue.data.source import list_sources
from ensue.errors import UsageError
from ensue.runs import Run
from ensue.translator import CHUNK_LINES, Search, Translated
from ensue.views.text import visible


@dataclass(frozen=True, kw_only=True)
class TranslateArgs:
    """What is translated, and how."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The text; or the run and one or more texts. Without a text, standard input is read."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Translate a file, line by line; - reads standard input."""
    out: str = ""
    """Write the lines to this file; default: standard output."""
    scores: bool = False
    """Put the score before each translation, with a tab; with several for a line (--n-best) the
    line's number stands before it."""
    json: bool = False
    """Print one JSON object for each line, with all that is known of it."""
    search: tyro.conf.OmitArgPrefixes[Search] = field(default_factory=Search)
    """How it is searched for."""


def run_translate(args: TranslateArgs, console: Console) -> None:
    """Translate, and give each line as soon as it and those before it are done."""
    run, texts = run_and_texts(args.words, args.run, args.file)
    translator = api.load_translator(run)
    with ExitStack() as stack:
        notes = Notes()
        typed = not texts and not args.file and sys.stdin.isatty()
        lines, total = iter(texts), sum(map(bool, map(str.strip, texts)))
        if typed:
            lines = _typed()
        elif not texts:
            lines, total = stack.enter_context(read_lines(args.file or "-", notes))
        # Created when the lines are open: what cannot be read costs no old file.
        out = stack.enter_context(created(args.out, args.file)) if args.out else sys.stdout
        done = 0

        told = progress_of(console, "translating lines", total, args.out)
        for one in translator.stream(lines, args.search, 1 if typed else CHUNK_LINES, told):
            done += 1
            out.write(_shown(done, one, args))
            if not texts:
                out.flush()
            for notice in one.notices:
                console.notice(f"line {done}: {notice}" if not texts or len(texts) > 1 else notice)
        for note in notes.lines():
            console.notice(note)


def run_and_texts(given: Sequence[str], run: str, file: str) -> tuple[str, list[str]]:
    """Sort the positionals: a folder of a run comes first, all else is text."""
    words = list(given)
    if not run and words and (len(words) > 1 or file or _names_a_folder(words[0])):
        run = words.pop(0)
    if words and file:
        raise UsageError("give texts or --file, not both")
    return run, [line for text in words for line in text.split("\n")]


def _names_a_folder(word: str) -> bool:
    """Whether a word alone is a run, or a misspelt one, and not a text such as "and/or"."""
    try:
        return Run.exists(word) or ("/" in word and " " not in word and Path(word).parent.is_dir())
    except OSError:  # too long for a name
        return False


def progress_of(console: Console, what: str, total: int, out: str) -> Callable[[int], None]:
    """Tell of progress, unless the lines that appear on the terminal are the progress."""

    def told(lines: int) -> None:
        if out or not sys.stdout.isatty():
            console.counted(what, lines, total)

    return told


def _typed() -> Iterator[str]:
    for line in sys.stdin:
        yield line.removesuffix("\n")


@contextmanager
def read_lines(file: str, notes: Notes, encoding: str = "") -> Iterator[tuple[Iterator[str], int]]:
    """Open a file, or standard input, and give its lines, and how many are not blank."""
    with tempfile.TemporaryDirectory() as scratch:
        sources = list_sources([file], notes, Path(scratch))
        if len(sources) != 1:
            raise UsageError(f"{file} is not one file", "Name one file: --file page.txt")
        (source,) = sources
        total = sum(bool(line.strip()) for line in source_lines(source, Notes(), encoding))
        yield source_lines(source, notes, encoding), total


def created(file: str, read: str) -> TextIO:
    """Open a file to write lines to, unless it is the one that is read."""
    try:
        if read not in ("", "-") and os.path.exists(file) and os.path.samefile(file, read):
            raise UsageError(
                f"{file} is read and would be written over", "Name another file: --out FILE"
            )
        return Path(file).open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def _shown(number: int, one: Translated, args: TranslateArgs) -> str:
    if args.json:
        return one.to_json() + "\n"
    to_person = not args.out and sys.stdout.isatty()
    shown = ""
    for row in (one, *one.others):
        line = f"{number}\t" if args.search.n_best > 1 else ""
        score = f"{row.score:.4f}\t" if args.scores else ""
        shown += f"{line}{score}{visible(row.text) if to_person else row.text}\n"
    return shown
