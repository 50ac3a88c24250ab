"""Tables read row by row, and written again with what was found out about each row beside it."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensue.data import encodings, tables
from ensue.data.notes import Notes
from ensue.data.source import Source, open_bytes
from ensue.errors import DataError


@dataclass
class AnnotatedTable:
    """A table that is written again, with further columns.

    Args:
        source: The table: .csv, .tsv, .jsonl; or .parquet, of which `line` makes no Parquet.
        wanted: Columns of the text, joined; where one is missing, a text column is looked for.
        heads: Names of the further columns.
        notes: Takes remarks.
        asked: Columns that the user names instead.
        encoding: Of text files; empty to find out.
    """

    source: Source
    wanted: Sequence[str]
    heads: Sequence[str]
    notes: Notes
    asked: Sequence[str] = ()
    encoding: str = ""
    columns: tuple[str, ...] = field(default=(), init=False)
    """All columns, when the first row is read."""
    texts: tuple[str, ...] = field(default=(), init=False)
    """Those of the text."""
    delimiter: str = field(default=",", init=False)
    """Of a CSV, between cells."""

    def rows(self) -> Iterator[tuple[Any, str]]:
        """Give each row, to be given back to `line`, and its text.

        Raises:
            DataError: It is damaged, or no column holds text.
        """
        if self.source.form == "jsonl":
            yield from self._objects()
            return

        def pick(samples: tables.Samples) -> tuple[str, ...]:
            self.columns = tuple(samples[0]) if samples else ()
            self._choose(samples)
            return self.columns

        with open_bytes(self.source) as stream:
            first = stream.read(1 << 16).splitlines()[:1]
        self.delimiter = tables.delimiter_in(b"".join(first).decode(errors="replace"))
        numbers = tuple(self.wanted) if all(map(str.isdigit, self.wanted)) else ()
        named = tuple(self.asked) or numbers
        for _, cells in tables.read_columns(self.source, self.notes, pick, self.encoding, named):
            text = (cells[self.columns.index(c)].strip() for c in self.texts)
            yield cells, " ".join(filter(None, text))

    def _choose(self, samples: tables.Samples) -> None:
        known = set(self.columns)
        name, flag = self.source.name, "--text-columns"
        if self.asked or not self.wanted or not known >= {*self.wanted}:
            asked = self.asked or ("",)
            self.texts = tuple(
                tables.choose_column(samples, column, name, self.notes, flag) for column in asked
            )
        else:
            self.texts = tuple(self.wanted)
        if known & {*self.heads}:
            self.heads = [f"predicted_{head}" for head in self.heads]
            self.notes.add(f"the answers are in {' and '.join(self.heads)}", self.source.name)

    def _objects(self) -> Iterator[tuple[Any, str]]:
        name = self.source.name
        codec = self.encoding or encodings.detect(lambda: open_bytes(self.source), name, self.notes)
        with open_bytes(self.source) as stream:
            pieces = encodings.decode(stream, codec, name, self.notes)
            for number, line in enumerate(tables.lines_of(pieces, name), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{name}:{number}: not JSON: {error}", "Mend it.") from None
                if not isinstance(row, dict):
                    raise DataError(f"{name}:{number}: not an object", "Give one in each line.")
                if not self.columns:
                    self.columns = tuple(row)
                    self._choose([row])
                texts = [row.get(c) for c in self.texts]
                yield row, " ".join(t.strip() for t in texts if isinstance(t, str) and t.strip())

    def head(self) -> str:
        """Give the line of column names; empty where the table has none."""
        if self.source.form == "jsonl" or all(map(str.isdigit, self.columns)):
            return ""
        return self._joined([*self.columns, *self.heads])

    def line(self, row: Any, found: Sequence[Any]) -> str:
        """Give a row with what was found out about it."""
        if self.source.form == "jsonl":
            values = row | dict(zip(self.heads, found, strict=True))
            return json.dumps(values, ensure_ascii=False) + "\n"
        return self._joined([*row, *("" if value is None else str(value) for value in found)])

    def _joined(self, cells: Sequence[str]) -> str:
        if self.source.form == "tsv":
            return "\t".join(cells) + "\n"
        out = io.StringIO()
        csv.writer(out, delimiter=self.delimiter, lineterminator="\n").writerow(cells)
        return out.getvalue()
