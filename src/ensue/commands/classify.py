"""``ensue classify``: texts or pictures in, the names of their classes out, in their order."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import tyro

from ensue.classification import load_classifier
from ensue.classifier import Answering, Classified, PictureClassifier, TextClassifier
from ensue.commands.translate import created, progress_of, read_lines, run_and_texts
from ensue.console import Console
from ensue.data.annotate import AnnotatedTable
from ensue.data.notes import Notes
from ensue.data.source import Source, form_of
from ensue.errors import DataError, UsageError
from ensue.runs import Run
from ensue.views.text import visible


@dataclass(frozen=True, kw_only=True)
class ClassifyArgs:
    """What is classified, and how it is answered."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts, in quotes; or pictures, folders or zips of pictures; before them perhaps the run.
    Without any, a run of texts reads standard input, line by line."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Texts: a table (.csv, .tsv, .jsonl), which comes back with columns label and confidence, or a
    file with a text on each line. Pictures: a file of their names. - reads standard input."""
    out: str = ""
    """Write the answers to this file; default: standard output."""
    json: bool = False
    """Print one JSON object for each answer, with all that is known of it; also of a .parquet."""
    text_columns: tuple[str, ...] = ()
    """The columns of a table that hold the text, joined; default: those that were learnt from."""
    encoding: str = ""
    """The encoding of a file of texts; empty to find out."""
    answering: tyro.conf.OmitArgPrefixes[Answering] = field(default_factory=Answering)
    """How it is answered."""


def run_classify(args: ClassifyArgs, console: Console) -> None:
    """Name the class of each text or picture as soon as its batch is done."""
    run, words = _run_and_words(args)
    classifier = load_classifier(run)
    if isinstance(classifier, TextClassifier):
        _classify_texts(args, classifier, words, console)
    else:
        assert isinstance(classifier, PictureClassifier)
        _classify_pictures(args, classifier, words, console)


def _run_and_words(args: ClassifyArgs) -> tuple[str, list[str]]:
    """Sort the positionals: a folder of a run comes first, all else is to be classified."""
    words = list(args.words)
    if args.run or not words or not Path(words[0]).exists() or Run.exists(words[0]):
        return run_and_texts(words, args.run, args.file)
    if args.file:
        raise UsageError("give pictures or --file, not both")
    return "", words  # a picture, for the newest run


# -- texts -------------------------------------------------------------------------------------


def _classify_texts(
    args: ClassifyArgs, classifier: TextClassifier, texts: list[str], console: Console
) -> None:
    form = form_of(Path(args.file)) if args.file and not Path(args.file).is_dir() else "text"
    if form == "parquet" and not args.json:
        raise UsageError(
            f"{args.file}: a Parquet table is not written again",
            "Give .csv, .tsv or .jsonl; or take the answers alone: --json",
        )
    notes = Notes()
    with ExitStack() as stack:
        total = len(texts)
        table: AnnotatedTable | None = None
        rows: Iterator[tuple[Any, str]] = iter(())
        lines: Iterable[str] = texts
        if form != "text":
            table = _table(args, classifier, notes)
            ahead, rows = tee(_begun(table.rows()))
            lines = (text for _, text in ahead)
        elif not texts:
            reading = read_lines(args.file or "-", notes, args.encoding)
            lines, total = stack.enter_context(reading)
        # Created when the first is read: what cannot be read costs no old file.
        out = stack.enter_context(created(args.out, args.file)) if args.out else sys.stdout
        remarks: Counter[str] = Counter()
        told = progress_of(console, "classifying texts", total, args.out)
        if table and not args.json:
            out.write(table.head())
        for done, one in enumerate(classifier.stream(lines, args.answering), 1):
            if table is None or args.json:
                out.write(one.to_json() + "\n" if args.json else _line(_cells(one), args))
            else:
                row, _ = next(rows)
                out.write(table.line(row, _found(one, args.answering.top_k)))
            remarks.update([one.error] if one.error else one.notices)
            if not texts:
                told(done)
        for remark in (*notes.lines(), *(f"{what} ({n:,} times)" for what, n in remarks.items())):
            console.notice(remark)


def _table(args: ClassifyArgs, classifier: TextClassifier, notes: Notes) -> AnnotatedTable:
    path = Path(args.file)
    source = Source(name=args.file, form=form_of(path), path=path)
    heads = [] if args.json else ["label", "confidence"]
    for place in range(2, args.answering.top_k + 1) if heads else ():
        heads += [f"label_{place}", f"confidence_{place}"]
    columns = classifier.reading.columns
    return AnnotatedTable(source, columns, heads, notes, args.text_columns, args.encoding)


def _begun(rows: Iterator[Any]) -> Iterator[Any]:
    """Read the first row now: a table that cannot be read is refused before anything is written."""
    return chain(list(islice(rows, 1)), rows)


def _cells(one: Classified) -> list[str]:
    """Give class and confidence, then those of the further classes."""
    if one.error:
        return ["", ""]
    named = [(one.label or "unsure", one.confidence), *one.top[1:]]
    return [cell for label, share in named for cell in (label, f"{share:.4f}")]


def _found(one: Classified, top_k: int) -> list[Any]:
    """Give what further columns of a table hold: None where there is nothing to say."""
    named = [(one.label or "unsure", one.confidence), *one.top[1:]] if not one.error else []
    cells = [cell for label, share in named for cell in (label, round(share, 4))]
    return [*cells, *[None] * (2 * top_k - len(cells))]


# -- pictures ----------------------------------------------------------------------------------


def _classify_pictures(
    args: ClassifyArgs, classifier: PictureClassifier, words: list[str], console: Console
) -> None:
    if not words and not args.file:
        raise UsageError("no pictures to classify", "Name some: ensue classify RUN cat.jpg dogs/")
    names = _names(args.file) if args.file else iter(words)
    out = created(args.out, args.file) if args.out else sys.stdout
    done, failed = 0, 0
    try:
        for one in classifier.stream(names, args.answering):
            done += 1
            failed += bool(one.error)
            out.write(
                one.to_json() + "\n" if args.json else _line([one.source, *_cells(one)], args)
            )
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


def _line(cells: list[str], args: ClassifyArgs) -> str:
    """Write an answer, with tabs between its cells."""
    shown: Callable[[str], str] = visible if not args.out and sys.stdout.isatty() else str
    return "\t".join(shown(" ".join(cell.split("\t"))) for cell in cells) + "\n"
