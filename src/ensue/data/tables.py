"""Rows of text out of JSON lines, CSV, TSV, Parquet and hub data sets."""

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NoReturn

from ensue.data import encodings
from ensue.data.notes import Notes
from ensue.data.source import Source, open_bytes
from ensue.errors import DataError, MissingExtraError, nearest

_USUAL = ("text", "content", "body", "sentence")
_MAX_ROW_CHARS = 64 << 20
_MAX_REPORTED = 5
_SAMPLE_ROWS = 100

Row = tuple[str, tuple[str, ...]]
"""Where it stands ("file:line"), and the text of the columns that were picked."""
Samples = Sequence[Mapping[str, Any]]
Pick = Callable[[Samples], tuple[str, ...]]
"""Chooses columns by the first rows."""


def read_rows(
    source: Source, notes: Notes, text_column: str, encoding: str
) -> Iterator[tuple[str, str]]:
    """Give every row's place and text; rows without text are skipped and counted.

    Raises:
        DataError: Malformed rows (the first five, with file and line), or no text column.
    """

    def pick(samples: Samples) -> tuple[str, ...]:
        return (choose_column(samples, text_column, source.name, notes),)

    empty, named = 0, (text_column,) if text_column else ()
    for where, (text,) in read_columns(source, notes, pick, encoding, named):
        if text:
            yield where, text
        else:
            empty += 1
    if empty:
        notes.say(f"{source.name}: {empty:,} rows without text skipped")


def read_columns(
    source: Source,
    notes: Notes,
    pick: Pick,
    encoding: str,
    named: Sequence[str],
    numbers: bool = False,
) -> Iterator[Row]:
    """Give every row's place, and its text in the columns that `pick` chooses.

    Args:
        source: A table.
        notes: Takes remarks.
        pick: Chooses, from the first rows.
        encoding: Of text files; empty to find out.
        named: Columns that the user has named, so that the first row must hold names; or by their
            numbers, where it does not.
        numbers: Take numbers, true and false of typed tables for the text that they are written
            as: for labels, never for a text to learn from.

    Raises:
        DataError: Malformed rows (the first five, with file and line).
    """
    if source.form == "parquet":
        rows = _parquet(source, pick, numbers)
    elif source.form == "hub":
        rows = _hub(source, pick, numbers)
    else:
        rows = _from_lines(source, notes, pick, encoding, named, numbers)
    for where, texts in rows:
        yield where, tuple(text.replace("\r\n", "\n") for text in texts)


def choose_column(
    samples: Sequence[Mapping[str, Any]],
    wanted: str,
    name: str,
    notes: Notes,
    flag: str = "--text-column",
) -> str:
    """Choose the column that holds the text: the one wanted, a usual name, or the longest.

    Args:
        samples: The first rows.
        wanted: The user's choice, or empty.
        name: The source's name, for messages.
        notes: Takes the remark on the choice.
        flag: What chooses otherwise.
    """
    columns = list(dict.fromkeys(chain.from_iterable(samples)))
    if wanted:
        if wanted not in columns:
            raise DataError(
                f"{name}: no column {wanted!r}{nearest(wanted, columns)}",
                f"Its columns: {', '.join(map(repr, columns[:20]))}",
            )
        return wanted
    lengths = {
        column: sum(len(row[column]) for row in samples if isinstance(row.get(column), str))
        for column in columns
    }
    strings = [column for column in columns if lengths[column]]
    if columns and not any(value for row in samples for value in row.values()):
        raise DataError(f"{name}: no row below the names of its columns", "Is it the whole file?")
    if not strings:
        raise DataError(
            f"{name}: no column holds text",
            f"Its columns: {', '.join(map(repr, columns[:20])) or 'none'}",
        )
    usual = [c for u in _USUAL for c in strings if c.strip().lower() == u]
    chosen = usual[0] if usual else max(strings, key=lambda column: lengths[column])
    if len(columns) > 1:
        notes.add(f"text taken from column {chosen!r} (choose with {flag})", name)
    return chosen


class _Faults:
    """Malformed rows: a few are gathered, so that a person can mend several at once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: list[str] = []

    def add(self, line: int, why: str) -> None:
        self._found.append(f"{self._name}:{line}: {why}")
        if len(self._found) >= _MAX_REPORTED:
            self.finish()

    def finish(self) -> None:
        if self._found:
            raise DataError(
                "malformed rows:\n  " + "\n  ".join(self._found),
                "Mend or remove these lines.",
            )


def _from_lines(
    source: Source,
    notes: Notes,
    pick: Pick,
    encoding: str,
    named: Sequence[str],
    numbers: bool,
) -> Iterator[Row]:
    codec = encoding or encodings.detect(lambda: open_bytes(source), source.name, notes)
    with open_bytes(source) as stream:
        lines = lines_of(encodings.decode(stream, codec, source.name, notes), source.name)
        if source.form == "jsonl":
            yield from _jsonl(lines, source.name, pick, numbers)
        else:
            yield from _csv(lines, source, notes, pick, named)


def lines_of(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Give lines without their ends; only a line feed ends a line."""
    tail = ""
    for piece in pieces:
        parts = (tail + piece).split("\n")
        tail = parts.pop()
        yield from parts
        if len(tail) > _MAX_ROW_CHARS:
            raise DataError(
                f"{name}: a line of more than {_MAX_ROW_CHARS:,} characters",
                "Is this the format that its name says?",
            )
    if tail:
        yield tail


def _jsonl(lines: Iterable[str], name: str, pick: Pick, numbers: bool) -> Iterator[Row]:
    faults = _Faults(name)
    objects = _json_objects(lines, faults)
    if numbers:
        objects = ((number, _worded(value)) for number, value in objects)
    first = list(islice(objects, _SAMPLE_ROWS))
    samples = [value for _, value in first if isinstance(value, dict)]
    chosen = pick(samples) if samples else ("",)
    for number, value in chain(first, objects):
        row = value if isinstance(value, dict) else dict.fromkeys(chosen[:1], value)
        texts = [row.get(key, _ABSENT) for key in chosen]
        wrong = [_wrong(k, t) for k, t in zip(chosen, texts, strict=True)]
        if any(wrong):
            faults.add(number, next(filter(None, wrong)))
        else:
            yield f"{name}:{number}", tuple(text or "" for text in texts)
    faults.finish()


def _worded(value: Any) -> Any:
    """Write the numbers, true and false of a row as text, as JSON does."""
    if not isinstance(value, dict):
        return value
    return {k: json.dumps(v) if isinstance(v, int | float) else v for k, v in value.items()}


def _wrong(key: str, text: Any) -> str:
    if text is _ABSENT:
        return f"no key {key!r}"
    if text is None or isinstance(text, str):
        return ""
    return f"{key!r} is not text but {type(text).__name__}"


_ABSENT = object()


def _json_objects(lines: Iterable[str], faults: _Faults) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            faults.add(number, f"not JSON: {error.msg} at character {error.pos + 1}")
        except (RecursionError, ValueError) as error:
            faults.add(number, f"not usable JSON ({type(error).__name__})")
        else:
            if isinstance(value, dict | str):
                yield number, value
            else:
                faults.add(number, f"neither an object nor a string but {type(value).__name__}")


def _csv(
    lines: Iterable[str], source: Source, notes: Notes, pick: Pick, named: Sequence[str]
) -> Iterator[Row]:
    # The csv module's own limit of 128 KB is for all its users, and too short for a document.
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_ROW_CHARS))
    name, iterator = source.name, iter(lines)
    first = next(iterator, "")
    faults = _Faults(name)
    ended = (line + "\n" for line in chain([first], iterator))
    if source.form == "tsv":  # a TSV has no quotes, by its IANA registration
        reader = csv.reader(ended, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(ended, delimiter=delimiter_in(first), strict=True)
    rows = _Rows(reader)
    try:
        header = next(reader, [])
        rest = iter(rows)
        sample = list(islice(rest, _SAMPLE_ROWS))
        if _is_header(header, [row for _, row in sample], named):
            notes.add("first row taken as column names", name)
        elif not named or all(map(str.isdigit, named)):
            notes.add("no column names found; columns are numbered from 1", name)
            sample.insert(0, (1, header))
            header = [str(i + 1) for i in range(len(header))]
        samples = [dict(zip(header, row, strict=False)) for _, row in sample]
        chosen = pick(samples or [dict.fromkeys(header, "")])
        places = [header.index(column) for column in chosen]
        for number, row in chain(sample, rest):
            if len(row) != len(header):
                faults.add(number, f"{len(row)} fields where the header has {len(header)}")
            else:
                yield f"{name}:{number}", tuple(row[place] for place in places)
    except csv.Error as error:
        if "end of data" in str(error):
            faults.add(rows.begun, "a quote that is opened in this row is never closed")
        else:
            faults.add(reader.line_num, str(error))
    faults.finish()


class _Rows:
    """Rows that are not empty, each with the line it ends in.

    Args:
        reader: Of the csv module.
    """

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self.begun = 1  # the line where the row begins that is being read

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        while True:
            self.begun = self.reader.line_num + 1
            row = next(self.reader, None)
            if row is None:
                return
            if row:
                yield self.reader.line_num, row


def delimiter_in(line: str) -> str:
    """Give what stands between the cells of a CSV's first line."""
    return max(",;\t|", key=line.count)


def _is_header(header: list[str], below: Sequence[list[str]], named: Sequence[str]) -> bool:
    """Tell whether the first row holds the names of the columns.

    Args:
        header: The first row.
        below: The rows after it.
        named: Columns that the user has named: by their names, or by their numbers.
    """
    if {*named} & {*header}:
        return True
    if (named and all(map(str.isdigit, named))) or not _names_columns(header):
        return False
    # A name does not stand in its own column too; a label does, and would be lost with its row. A
    # whole row that is there again is a name none the less: files were joined.
    usual = any(cell.strip().lower() in _USUAL for cell in header)
    others = (row for row in below if row != header)
    return usual or not any(a == b for row in others for a, b in zip(header, row, strict=False))


def _names_columns(header: Sequence[str]) -> bool:
    """Tell names from data: names are short, distinct, not empty and not numbers."""
    return len(set(header)) == len(header) and all(
        0 < len(cell.strip()) <= 64 and not cell.strip().replace(".", "").isdigit()
        for cell in header
    )


def _parquet(source: Source, pick: Pick, numbers: bool) -> Iterator[Row]:
    arrow = _need("pyarrow", "parquet")
    parquet = _need("pyarrow.parquet", "parquet")
    assert source.path is not None
    try:
        with parquet.ParquetFile(source.path) as file:
            schema = file.schema_arrow
            columns = [field.name for field in schema if _is_text(arrow, field.type, numbers)]
            first = next(file.iter_batches(batch_size=_SAMPLE_ROWS, columns=columns), None)
            chosen = pick([_worded(row) for row in first.to_pylist()] if first else [])
            number = 0
            # 256 rows at a time: a row may be a whole book.
            for batch in file.iter_batches(batch_size=256, columns=list(chosen)):
                for row in map(_worded, batch.to_pylist()):
                    number += 1
                    yield f"{source.name}: row {number}", tuple(row[c] or "" for c in chosen)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{source.name}: not a readable Parquet file: {str(error)[:200]}",
            "Fetch or make it again.",
        ) from None


def _is_text(arrow: Any, kind: Any, numbers: bool) -> bool:
    if arrow.types.is_dictionary(kind):
        kind = kind.value_type
    known = [arrow.types.is_string, arrow.types.is_large_string]
    if numbers:
        known += [arrow.types.is_integer, arrow.types.is_floating, arrow.types.is_boolean]
    return any(is_it(kind) for is_it in known)


def _hub(source: Source, pick: Pick, numbers: bool) -> Iterator[Row]:
    datasets = _need("datasets", "hub")
    # Old versions could run a data set's own script: never.
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    name, _, split = source.name.removeprefix("hub:").partition(":")
    try:
        loaded = datasets.load_dataset(name, split=split or "train", streaming=True)
        rows = map(_worded, loaded) if numbers else iter(loaded)
        first = list(islice(rows, _SAMPLE_ROWS))
    except Exception as error:
        _hub_failed(source.name, error)
    chosen = pick(first)
    for number, row in enumerate(chain(first, rows), 1):
        texts = (row.get(column) for column in chosen)
        yield (
            f"{source.name}: row {number}",
            tuple(text if isinstance(text, str) else "" for text in texts),
        )


def _hub_failed(name: str, error: Exception) -> NoReturn:
    raise DataError(
        f"{name}: the hub data set cannot be loaded: {type(error).__name__}: {str(error)[:300]}",
        "Check the name, the split and the network; the form is hub:NAME[:split].",
    ) from None


def _need(module: str, extra: str) -> Any:
    """Import an optional package, or name the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(module.partition(".")[0], extra) from None
