"""``ensue classify``: pictures in, the names of their classes out, in their order."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from ensue.classification import load_classifier
from ensue.classifier import Answering, Classified
from ensue.commands.translate import created
from ensue.console import Console
from ensue.errors import DataError, UsageError
from ensue.runs import Run
from ensue.views.text import visible


@dataclass(frozen=True, kw_only=True)
class ClassifyArgs:
    """What is classified, and how it is answered."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Pictures, folders or zips of pictures; before them perhaps the run."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Read the names of pictures from a file, one on each line; - reads standard input."""
    out: str = ""
    """Write the answers to this file; default: standard output."""
    json: bool = False
    """Print one JSON object for each picture, with all that is known of it."""
    answering: tyro.conf.OmitArgPrefixes[Answering] = field(default_factory=Answering)
    """How it is answered."""


def run_classify(args: ClassifyArgs, console: Console) -> None:
    """Name the class of each picture as soon as its batch is done; say at the end what failed."""
    run, names = _run_and_pictures(args)
    classifier = load_classifier(run)
    out = created(args.out, args.file) if args.out else sys.stdout
    done, failed = 0, 0
    try:
        for one in classifier.stream(names, args.answering):
            done += 1
            failed += bool(one.error)
            out.write(_line(one, args))
            if one.error:
                console.notice(f"{one.source}: {one.error}")
            for notice in one.notices:
                console.notice(f"{one.source}: {notice}")
    finally:
        if args.out:
            out.close()
    if args.out:
        console.notice(f"{done:,} answers in {args.out}")
    if failed:
        raise DataError(f"{failed:,} of {done:,} pictures cannot be read", "They are named above.")


def _run_and_pictures(args: ClassifyArgs) -> tuple[str, Iterator[str]]:
    """Sort the positionals: a folder of a run comes first, all else are pictures."""
    words, run = list(args.words), args.run
    several = len(words) > 1 or bool(args.file)
    if not run and words and (Run.exists(words[0]) or (several and not Path(words[0]).exists())):
        run = words.pop(0)
    if words and args.file:
        raise UsageError("give pictures or --file, not both")
    if not words and not args.file:
        raise UsageError("no pictures to classify", "Name some: ensue classify RUN cat.jpg dogs/")
    return run, _names(args.file) if args.file else iter(words)


def _names(file: str) -> Iterator[str]:
    try:
        stream = sys.stdin if file == "-" else Path(file).open(encoding="utf-8-sig")
        with stream:
            for line in stream:
                if name := line.strip():
                    yield name
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}") from None


def _line(one: Classified, args: ClassifyArgs) -> str:
    """Write an answer: name, class and confidence, with tabs between; then the further classes."""
    if args.json:
        return one.to_json() + "\n"
    named = [("" if one.error else one.label or "unsure", one.confidence), *one.top[1:]]
    shown = visible if not args.out and sys.stdout.isatty() else str
    cells = [one.source, *(c for label, share in named for c in (label, f"{share:.4f}"))]
    return "\t".join(shown(" ".join(cell.split("\t"))) for cell in cells) + "\n"
