"""``ensue embed``: lines in, the encoder's vectors out, in their order."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import tyro

from ensue import api
from ensue.commands.translate import created, progress_of, read_lines, run_and_texts
from ensue.console import Console, print_table
from ensue.data.notes import Notes
from ensue.embedding import Embedded, Embedder, nearest
from ensue.errors import UsageError
from ensue.files import replacing, writing
from ensue.views.text import visible

NAMED = 5
"""Lines with a notice that are named one by one."""


@dataclass(frozen=True, kw_only=True)
class EmbedArgs:
    """What is turned into vectors, and where they go."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The text; or the run and one or more texts. Without a text, standard input is read."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Read a file, line by line; - reads standard input."""
    out: str = ""
    """Write to this file, by its name: .npy (lines x numbers, fp32), .jsonl or .tsv (text and
    vector). Default: JSON lines on standard output."""
    nearest: str = ""
    """Find the lines of this file that mean most nearly what each text does; they are printed with
    how near they are (cosine), the nearest first."""
    top_k: int = 5
    """With --nearest: lines that are given."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UsageError(f"top_k is {self.top_k}; at least 1 is given")
        if self.nearest and self.out:
            raise UsageError("--nearest prints lines, --out writes vectors", "Give one of them.")


def run_embed(args: EmbedArgs, console: Console) -> None:
    """Give the vectors, and say what a reader should know of single lines."""
    if args.nearest:
        _nearest(args, console)
        return
    write = _writer(args.out)
    run, texts = run_and_texts(args.words, args.run, args.file)
    embedder = api.load_embedder(run)
    with ExitStack() as stack:
        notes = Notes()
        lines: Iterator[str] = iter(texts)
        total = sum(map(bool, map(str.strip, texts)))
        if not texts:
            lines, total = stack.enter_context(read_lines(args.file or "-", notes))
        told = progress_of(console, "reading lines", total, args.out)

        heard = _Heard(console)
        write(args, heard.all(embedder.embed(lines, told)))
        console.close()
        heard.finish()
        for note in notes.lines():
            console.notice(note)
    if args.out:
        size = embedder.model.config.d_model
        console.notice(f"{heard.lines:,} vectors of {size:,} numbers in {args.out}")


def _nearest(args: EmbedArgs, console: Console) -> None:
    """Print the lines of a file that are nearest to each text."""
    run, texts = run_and_texts(args.words, args.run, args.file)
    embedder: Embedder = api.load_embedder(run)
    with ExitStack() as stack:
        notes, heard = Notes(), _Heard(console)
        asked: Iterator[str] = iter(texts)
        if not texts:
            asked = stack.enter_context(read_lines(args.file or "-", notes))[0]
        queries = [one for one in embedder.embed(asked) if one.vector.any()]
        if not queries:
            raise UsageError("there is nothing to look for", "Give a text, in quotes.")
        lines, total = stack.enter_context(read_lines(args.nearest, notes))
        told = progress_of(console, "reading lines", total, "")
        found = nearest(queries, heard.all(embedder.embed(lines, told)), args.top_k)
        console.close()
        heard.finish()
        for note in notes.lines():
            console.notice(note)
    for query, near in zip(queries, found, strict=True):
        rows = [[f"{n.similarity:.3f}", f"{n.line:,}", visible(n.source)] for n in near]
        print_table(["near", "line", visible(query.source)], rows)


class _Heard:
    """Says what a reader should know of single lines; of many, the first few one by one."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lines, self.blank, self.noticed = 0, 0, 0

    def all(self, vectors: Iterator[Embedded]) -> Iterator[Embedded]:
        """Pass them on."""
        for one in vectors:
            self.lines += 1
            self.blank += not one.source.strip()
            self.noticed += bool(one.notices)
            if one.notices and self.noticed <= NAMED:
                self.console.notice(f"line {self.lines}: {'; '.join(one.notices)}")
            yield one

    def finish(self) -> None:
        """Count the others."""
        if self.noticed > NAMED:
            self.console.notice(f"the like of {self.noticed - NAMED:,} more lines")
        if self.blank:
            lines = (
                "line is blank: its vector is" if self.blank == 1 else "lines are blank: theirs are"
            )
            self.console.notice(f"{self.blank:,} {lines} zeros")


Write = Callable[[EmbedArgs, Iterator[Embedded]], None]


def _writer(out: str) -> Write:
    """Choose how vectors are written, by the file's name."""
    kinds: dict[str, Write] = {".npy": _write_npy, ".jsonl": _write_jsonl, ".tsv": _write_tsv}
    suffix = Path(out).suffix.lower() if out else ".jsonl"
    if suffix not in kinds:
        raise UsageError(
            f"{out}: its name does not say how vectors are to be written",
            f"Name a file that ends in {', '.join(kinds)}, for instance: --out vectors.npy",
        )
    return kinds[suffix]


def _write_npy(args: EmbedArgs, vectors: Iterator[Embedded]) -> None:
    rows = [one.vector for one in vectors]
    path = Path(args.out)
    with writing(path, 0), replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32))


def _write_jsonl(args: EmbedArgs, vectors: Iterator[Embedded]) -> None:
    with _opened(args) as file:
        for one in vectors:
            text = json.dumps(one.source, ensure_ascii=False)
            file.write(f'{{"text": {text}, "vector": [{", ".join(_digits(one))}]}}\n')


def _write_tsv(args: EmbedArgs, vectors: Iterator[Embedded]) -> None:
    with _opened(args) as file:
        for i, one in enumerate(vectors):
            if not i:
                names = (str(number) for number in range(1, len(one.vector) + 1))
                file.write("\t".join(["text", *(f"v{name}" for name in names)]) + "\n")
            text = " ".join(one.source.split())  # a tab would be one column more
            file.write("\t".join([text, *_digits(one)]) + "\n")


@contextmanager
def _opened(args: EmbedArgs) -> Iterator[TextIO]:
    if not args.out:
        yield sys.stdout
        return
    with created(args.out, args.file) as file:
        yield file


def _digits(one: Embedded) -> list[str]:
    """Write each number with as many digits as fp32 needs to be read back unchanged."""
    digits: list[str] = one.vector.astype(str).tolist()
    return digits
