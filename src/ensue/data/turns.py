"""Turns: who said what, out of the forms in which people keep conversations.

Read are JSON lines, or one JSON document, with ``messages`` (role, content) or ``conversations``
(from, value); tables with two columns, what was said and what was answered; plain text with a turn
on each line and a blank line between dialogues, or a dialogue on each line with ``__eou__`` between
its turns. A dialogue that cannot be used comes with the reason. White space of any kind becomes one
space: a turn is one line.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ensue.data.notes import Notes
from ensue.data.pairs import Pair, read_table, source_lines
from ensue.data.source import Source, list_sources, open_bytes
from ensue.errors import DataError

USER, ASSISTANT, SYSTEM, ANYONE = "user", "assistant", "system", ""
"""Roles; of a plain turn nobody knows whose it is."""
ROLES = {
    USER: "user human prompter customer client visitor guest caller patient student".split(),
    ASSISTANT: "assistant gpt bot model agent ai chatbot chatgpt bing bard support".split(),
    SYSTEM: "system developer".split(),
}
"""What others call them, in small letters."""
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
LISTS = ("messages", "conversations", "conversation", "turns", "dialog", "dialogue")
"""Keys under which JSON holds the turns of a dialogue."""
WHO, WHAT = ("role", "from", "speaker"), ("content", "value", "text")
"""Keys of a turn."""
COLUMNS = (
    ("question", "answer"),
    ("query", "response"),
    ("prompt", "response"),
    ("utterance", "reply"),
)
"""Columns whose names say that a table is talk; pairs by other names may be translations."""
EOU = "__eou__"
"""End of utterance: how DailyDialog writes several turns on a line."""
_SNIFFED_DIALOGUES = 1_000
_HEAD_BYTES = 1 << 16
_SPACED = re.compile(r"\s+([,.!?;:%)…]+)(?=\s|$)|(?<=\w) (['’]) (?=\w)")
_POINTS = re.compile(r"(\s?)[,.](?=\s|$)")


class Turn(NamedTuple):
    """What one of them said."""

    role: str
    """user, assistant, system, or empty: nobody knows."""
    text: str


class Unusable(NamedTuple):
    """Why a dialogue is left out."""

    why: str
    """As in: a dialogue …"""
    what: str = ""
    """What was found, where that helps."""


Turns = tuple[Turn, ...]
Found = tuple[str, Turns | Unusable]
"""``file:line``, and the dialogue that stands there."""


def is_talk(name: str) -> bool:
    """Whether a file looks like dialogues: by its first bytes, or the names of its columns."""
    if not os.path.isfile(name):  # unlike Path's, false where a name is too long
        return False
    notes = Notes()
    try:
        (source,) = list_sources([name], notes, Path(), documents=True)
        with open_bytes(source) as stream:
            head = stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except (DataError, OSError):
        return False
    line = next((line for line in head.split("\n") if line.strip()), "")
    if source.form == "jsonl" and (value := _parsed(line)) is not None:
        return isinstance(value, dict) and (_holds_turns(value) or _talks(value))
    if source.form in ("json", "jsonl"):  # a document, or a dialogue longer than what was read
        return any(f'"{key}"' in head for key in LISTS)
    if source.form in ("csv", "tsv"):
        return _talks(re.split(r"[,;\t|]", line))
    return source.form == "text" and EOU in line


def _talks(columns: Iterable[str]) -> bool:
    names = {c.strip().strip('"').lower() for c in columns}
    return any({a, b} <= names for a, b in COLUMNS)


def read_turns(
    source: Source, notes: Notes, encoding: str, columns: tuple[str, str]
) -> Iterator[Found]:
    """Read what a file holds, usable or not.

    Args:
        source: The file.
        notes: Takes remarks.
        encoding: Of text; empty to find out.
        columns: Of tables: what was said, and the reply; empty to look for them.

    Raises:
        DataError: It cannot be read, or which of its columns is which cannot be told.
    """
    if source.form == "json":
        found = _from_document(source)
    elif source.form == "text":
        found = _from_text(source_lines(source, notes, encoding), source.name)
    elif source.form == "jsonl" and _first_holds_turns(source, notes, encoding):
        found = _from_json_lines(source_lines(source, notes, encoding), source.name)
    else:
        found = _chained(read_table(source, notes, encoding, *columns))
    return _tidied(((where, _checked(turns)) for where, turns in found), source.name, notes)


def _first_holds_turns(source: Source, notes: Notes, encoding: str) -> bool:
    lines = (line for line in source_lines(source, notes, encoding) if line.strip())
    values = map(_parsed, islice(lines, 20))
    return any(isinstance(value, dict) and _holds_turns(value) for value in values)


def _holds_turns(row: dict[str, Any]) -> bool:
    return any(isinstance(row.get(key), list) for key in LISTS)


def _parsed(text: str) -> Any:
    """Give what JSON says; of what is none, nothing."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _from_json_lines(lines: Iterable[str], name: str) -> Iterator[Found]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            value = _parsed(line)
            bad = Unusable("that are not JSON")
            yield f"{name}:{number}", bad if value is None else _turns(value)


def _from_document(source: Source) -> Iterator[Found]:
    """Read a document: a list of dialogues, or one dialogue."""
    with open_bytes(source) as stream:
        data = bytearray()
        while block := stream.read(1 << 20):
            data += block
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source.name}: not a JSON document: {str(error)[:100]}",
            "Give it valid JSON; a file with an object on each line is named .jsonl.",
        ) from None
    several = isinstance(value, list) and not all(map(_is_turn, value))
    for number, one in enumerate(value if several else [value], 1):
        yield f"{source.name}: dialogue {number}", _turns(one)


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(key), str) for key in WHO)


def _turns(value: Any) -> Turns | Unusable:
    """Read the turns of one dialogue."""
    if isinstance(value, dict):
        value = next((value[key] for key in LISTS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list):
        return Unusable(f"without a list of turns ({', '.join(LISTS[:2])})")
    turns: list[Turn] = []
    for one in value:
        text, role = _text_of(one), ANYONE
        if text is None:
            return Unusable("with a turn that is not text")
        if isinstance(one, dict):
            name = next((one[key] for key in WHO if isinstance(one.get(key), str)), "")
            role = ROLE_OF.get(name.strip().lower(), "?")
            if role == "?":
                return Unusable("with an unknown role", repr(name[:40]))
        turns.append(Turn(role, " ".join(text.split())))
    return tuple(turns)


def _text_of(turn: Any) -> str | None:
    """Give the text of a turn: its content, or the text parts that make it up; None: no text."""
    value = (
        next((turn[key] for key in WHAT if key in turn), None) if isinstance(turn, dict) else turn
    )
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        return " ".join(texts) if len(texts) == len(parts) else None
    return value if isinstance(value, str) else None


def _from_text(lines: Iterator[str], name: str) -> Iterator[Found]:
    """Read plain turns: one on each line, or a whole dialogue on each."""
    head = list(islice(lines, 100))
    by_line = any(EOU in line for line in head)
    begun: list[str] = []
    number = 0
    for number, line in enumerate(chain(head, lines), 1):
        if line.strip() and by_line:
            yield f"{name}:{number}", _plain(line.strip().removesuffix(EOU).split(EOU))
        elif line.strip():
            begun.append(line)
        elif begun:
            yield f"{name}:{number - len(begun)}", _plain(begun)
            begun = []
    if begun:
        yield f"{name}:{number + 1 - len(begun)}", _plain(begun)


def _plain(texts: Iterable[str]) -> Turns:
    return tuple(Turn(ANYONE, " ".join(text.split())) for text in texts)


def _chained(rows: Iterable[Pair]) -> Iterator[Found]:
    """Join rows of a table that go on from each other: one begins with what the last ended with."""
    where, turns = "", list[str]()
    for row in rows:
        src, tgt = (" ".join(side.split()) for side in (row.src, row.tgt))
        if turns and src and src == turns[-1]:
            turns.append(tgt)
            continue
        if turns:
            yield where, _plain(turns)
        where, turns = row.where, [src, tgt]
    if turns:
        yield where, _plain(turns)


def _checked(turns: Turns | Unusable) -> Turns | Unusable:
    """Let a dialogue pass that can be learnt from."""
    if isinstance(turns, Unusable):
        return turns
    roles = [turn.role for turn in turns]
    twice = [a for a, b in pairwise(roles) if a == b != ANYONE]
    if not all(turn.text for turn in turns):
        return Unusable("with an empty turn")
    if len(turns) < 2:
        return Unusable("of one turn" if turns else "without turns")
    if SYSTEM in roles[1:] or twice:
        return Unusable("whose turns are out of order", f"{twice[0]} twice" if twice else "")
    if not any(replies_of(turns)):
        return Unusable("in which nobody answers")
    return turns


def replies_of(turns: Turns) -> list[bool]:
    """Say which turns are replies: the assistant's; of plain turns each but the first."""
    return [i > 0 and turn.role in (ASSISTANT, ANYONE) for i, turn in enumerate(turns)]


def _tidied(found: Iterator[Found], name: str, notes: Notes) -> Iterator[Found]:
    """Take out the spaces of text that was cut into tokens: ``you ?`` is what nobody types."""
    head = list(islice(found, _SNIFFED_DIALOGUES))
    before: Counter[str] = Counter()
    for _, turns in head:
        if not isinstance(turns, Unusable):
            before.update(chain.from_iterable(_POINTS.findall(turn.text) for turn in turns))
    if before[" "] <= before[""]:
        yield from chain(head, found)
        return
    notes.add("the spaces that stand before commas and full stops are taken out", name)
    for where, turns in chain(head, found):
        if isinstance(turns, Unusable):
            yield where, turns
        else:
            yield where, tuple(t._replace(text=_SPACED.sub(r"\1\2", t.text)) for t in turns)
