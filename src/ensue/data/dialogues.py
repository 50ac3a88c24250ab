"""Dialogues: turns that answer each other, checked, split and tokenised.

A dialogue that cannot be used is left out, counted and said with its place; whole dialogues are
held out. All turns of a split become one token stream, each turn a document. So the end of a text
is the mark between turns, and a reply and what it answers are neighbouring slices: nothing is
stored twice.

    <eos> How are you? <eos> Fine, and you? <eos> Tired. <eos>
          |----------- context -----------------||-- reply --|

`contexts` is the one place that says where a context begins: training, scoring and talking call it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ensue.data import cache, encodings, shards
from ensue.data.corpus import MakeTokenizer, check_tokenizer
from ensue.data.notes import Notes, shown
from ensue.data.pairs import MOST_HELD_OUT, PairTokens, choose_tokenizer, documents_of, key_of
from ensue.data.shards import Tokens
from ensue.data.source import list_sources
from ensue.data.split import masked
from ensue.data.spool import Progress, Spool, View
from ensue.data.text import Document
from ensue.data.turns import Turns, Unusable, read_turns, replies_of
from ensue.data.worker import Loader, Tok
from ensue.errors import DataError, UsageError


@dataclass(frozen=True, kw_only=True)
class DialogueConfig:
    """Which dialogues, and how they become tokens."""

    sources: tuple[str, ...]
    """Files: .jsonl or .json with messages or conversations, tables of pairs, plain turns."""
    valid: tuple[str, ...] = ()
    """Files to validate on; empty to hold out a part of the others."""
    valid_fraction: float = 0.05
    """How many dialogues are held out, above 0 and below 1; at most 2,000."""
    max_turns: int = 4
    """A reply is given the last so many turns before it."""
    max_tokens: int = 128
    """Tokens of these turns at most, whole turns; and of a reply: longer ones are left out."""
    tokenizer: str = "auto"
    """auto, byte, char, word, bpe, unigram, or the path of a tokenizer.json."""
    vocab_size: int = 0
    """Ids in a tokenizer that is learnt; 0 to choose by the amount of text."""
    src_column: str = ""
    """The column of tables that holds what was said; empty to look for it."""
    tgt_column: str = ""
    """The column that holds the reply."""
    encoding: str = ""
    """The encoding of text files; empty to find out."""
    cache: str = ""
    """Folder for token streams; empty for ENSUE_CACHE or the system's cache folder."""

    def __post_init__(self) -> None:
        if not 0 < self.valid_fraction < 1:
            raise UsageError(
                f"data.valid_fraction is {self.valid_fraction}; it must lie between 0 and 1",
                "Give for instance: --valid-fraction 0.05",
            )
        if self.max_turns < 1:
            raise UsageError(f"data.max_turns is {self.max_turns}: a reply answers at least one")
        if self.max_tokens < 2:
            raise UsageError(f"data.max_tokens is {self.max_tokens}: a word and the end are two")
        if self.vocab_size < 0:
            raise UsageError(
                f"data.vocab_size is {self.vocab_size}", "Give 0 to have it chosen, or a size."
            )
        check_tokenizer(self.tokenizer)
        if self.encoding:
            encodings.check_codec(self.encoding)


# -- the template ------------------------------------------------------------------------------


def contexts(
    starts: NDArray[np.int64],
    first: NDArray[np.int64],
    replies: NDArray[np.int64],
    max_turns: int,
    most: int,
) -> NDArray[np.int64]:
    """Give where the context of each reply begins: the last turns before it, as many as fit.

    Of a single turn that is too long the end is kept.

    Args:
        starts: Where each turn begins in its stream.
        first: Of each turn, the first one of its dialogue.
        replies: Turns that are replies; none is the first one.
        max_turns: Turns of a context at most.
        most: Tokens of it at most, the ends of its turns counted.
    """
    fits = np.searchsorted(starts, starts[replies] - most)
    begin = np.maximum.reduce([fits, first[replies], replies - max_turns])
    return np.where(begin < replies, starts[begin], starts[replies] - most)


def context_of(turns: Sequence[Sequence[int]], max_turns: int, most: int) -> list[int]:
    """Give the context of what comes after some turns of one dialogue, each with its end."""
    starts = np.cumsum([0, *map(len, turns)])
    first, reply = np.zeros(len(starts), np.int64), np.array([len(turns)])
    (begin,) = contexts(starts, first, reply, max_turns, most)
    return list(chain.from_iterable(turns))[begin:]


def longest_side(max_tokens: int, positions: int | None, together: bool) -> int:
    """Give the tokens of a context, and of a reply, at most.

    Args:
        max_tokens: As in the config.
        positions: What the model holds; None: any number.
        together: The model reads both as one sequence: each has one half of it.
    """
    if positions is None:
        return max_tokens
    return min(max_tokens, positions // 2 if together else positions)


# -- from files to streams ---------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DialogueTokens:
    """One split: the turns of all dialogues as one token stream."""

    tokens: Tokens
    """The stream; each turn is a document."""
    starts: NDArray[np.int64]
    """Where each turn begins; one more: the end."""
    first: NDArray[np.int64]
    """Of each turn, the first one of its dialogue."""
    replies: NDArray[np.int64]
    """Turns that are replies."""
    bytes: NDArray[np.int64]
    """Of each turn, the bytes of its text."""
    unspelt_bytes: NDArray[np.int64]
    """Of each turn, those of them that the tokenizer cannot spell."""

    def pairs(self, max_turns: int, most: int) -> tuple[PairTokens, int]:
        """Give each reply with its context, and how many replies are left out as too long.

        Args:
            max_turns: Turns of a context at most.
            most: Tokens of a context, and of a reply, at most.
        """
        lengths = np.diff(self.starts)
        replies = self.replies[lengths[self.replies] <= most]
        starts, ends = contexts(self.starts, self.first, replies, max_turns, most), self.starts
        pairs = PairTokens(
            self.tokens,
            self.tokens,
            src_starts=starts,
            tgt_starts=ends[replies],
            src_lengths=ends[replies] - starts,
            tgt_lengths=lengths[replies],
            tgt_bytes=int(self.bytes[replies].sum()),
            tgt_unspelt_bytes=int(self.unspelt_bytes[replies].sum()),
        )
        return pairs, len(self.replies) - len(replies)


@dataclass(frozen=True, kw_only=True)
class DialogueCorpus:
    """Dialogues ready to be trained on."""

    tokenizer_path: Path
    """The ``tokenizer.json``."""
    train: DialogueTokens
    """What is learnt from."""
    valid: DialogueTokens
    """What is held out."""
    fingerprint: str
    """Changes with the text, the split, who said it and the tokenizer."""
    notes: tuple[str, ...]
    """What was sniffed, guessed, left out and chosen."""


class _Split(NamedTuple):
    """Turns in a spool."""

    view: View
    dialogue: NDArray[np.int64]
    """Of each turn, the number of its dialogue."""
    is_reply: NDArray[np.bool_]
    keys: NDArray[np.uint64]
    """Of each turn, what dialogues share that answer the same."""

    def taken(self, mask: NDArray[np.bool_]) -> "_Split":
        view = masked(self.view, mask)
        return _Split(view, self.dialogue[mask], self.is_reply[mask], self.keys[mask])


NAMED = 10
"""Dialogues that are named of each reason; a converter's mistake is in thousands of them."""


class Sieve:
    """Leaves out dialogues that cannot be used, counts them, and remembers where they stand."""

    def __init__(self, held_out: NDArray[np.uint64], what: str = "dialogues") -> None:
        self.left_out: dict[str, list[str]] = {}
        self.kept = 0
        self.what = what
        self._held_out = frozenset(held_out.tolist())
        self._seen: set[int] = set()

    def keeps(self, where: str, turns: Turns | Unusable) -> bool:
        """Whether a dialogue is used; why not is remembered."""
        bad = turns if isinstance(turns, Unusable) else self._why_not(turns)
        if bad:
            place = f"{shown(where)} {bad.what}".rstrip()
            self.left_out.setdefault(bad.why, []).append(place)
        self.kept += not bad
        return not bad

    def _why_not(self, turns: Turns) -> Unusable | None:
        if question_of(turns) in self._held_out:
            return Unusable("whose replies answer what the validation set asks too")
        double = hash(turns)
        if double in self._seen:
            return Unusable("seen before")
        self._seen.add(double)
        return None

    def lines(self) -> list[str]:
        """Say what was left out: a line for each reason."""
        lines = []
        for why, places in self.left_out.items():
            more = f" and {len(places) - NAMED:,} more" if len(places) > NAMED else ""
            first = f"the first: {', '.join(places[:NAMED])}{more}"
            lines.append(f"{len(places):,} {self.what} left out {why} ({first})")
        return lines


def question_of(turns: Turns) -> int:
    """Hash all that stands before the last turn: two answers to one question must not be parted."""
    return int(cache.key_of(*(key_of(turn.text).decode() for turn in turns[:-1]))[:16], 16)


def prepare_dialogues(
    config: DialogueConfig,
    *,
    make_tokenizer: MakeTokenizer,
    load_tokenizer: Loader,
    on_progress: Progress,
) -> DialogueCorpus:
    """Make or find the token streams of dialogues; arguments as of `corpus.prepare`.

    Raises:
        DataError: The data is missing or unreadable, or no dialogue is left.
    """
    root = cache.cache_root(config.cache)
    notes = Notes()
    with cache.scratch(root) as folder:
        train, valid = _read(config, folder, notes, on_progress)
        path, tokenizer = choose_tokenizer(
            config.tokenizer,
            config.vocab_size,
            [train.view],
            root,
            (make_tokenizer, load_tokenizer),
            on_progress,
            notes,
            small="bpe",  # however little text there is: replies must end within max_tokens
        )
        source = (path, load_tokenizer)
        streams = [
            _tokenised(part, tokenizer, source, root, folder, on_progress)
            for part in (train, valid)
        ]
    unspelt = int(streams[1].unspelt_bytes[streams[1].replies].sum())
    if unspelt:
        notes.say(
            f"the tokenizer cannot spell {unspelt:,} bytes of the replies of valid; they score 8"
            " bits each"
        )
    return DialogueCorpus(
        tokenizer_path=path,
        train=streams[0],
        valid=streams[1],
        fingerprint=cache.key_of(
            *(s.tokens.fingerprint for s in streams),
            *(cache.key_of(s.first.tolist(), s.replies.tolist()) for s in streams),
            tokenizer.fingerprint,
        ),
        notes=notes.lines(),
    )


def tokenise_dialogues(
    config: DialogueConfig, tokenizer: Tok, load_tokenizer: Loader
) -> tuple[DialogueTokens, tuple[str, ...]]:
    """Tokenise all dialogues of a config's sources with a tokenizer that exists, for evaluation.

    Args:
        config: ``sources`` are read; ``tokenizer`` is the path of this one.
        tokenizer: Makes the ids.
        load_tokenizer: Lets long texts be tokenised in several processes.

    Returns:
        The stream, and the readers' notes.
    """
    root, notes = cache.cache_root(config.cache), Notes()
    none = np.zeros(0, np.uint64)
    with cache.scratch(root) as folder:
        whole = _spooled(config, config.sources, none, folder, notes, _quiet)
        source = (Path(config.tokenizer), load_tokenizer)
        return _tokenised(whole, tokenizer, source, root, folder, _quiet), notes.lines()


def _quiet(stage: str, done: int, total: int) -> None:
    """Take progress and show none."""


def _read(
    config: DialogueConfig, folder: Path, notes: Notes, progress: Progress
) -> tuple[_Split, _Split]:
    """Read, check and split."""
    if not config.sources:
        raise DataError("no dialogues were named", "Name a file: ensue train dialogues.jsonl")
    held_out = np.zeros(0, np.uint64)
    if config.valid:
        valid = _spooled(config, config.valid, held_out, folder, notes, progress, "valid")
        train = _spooled(config, config.sources, valid.keys, folder, notes, progress)
        return train, valid
    train = _spooled(config, config.sources, held_out, folder, notes, progress)
    return _parted(train, config.valid_fraction, notes)


def _spooled(
    config: DialogueConfig,
    names: Sequence[str],
    held_out: NDArray[np.uint64],
    folder: Path,
    notes: Notes,
    progress: Progress,
    split: str = "train",
) -> _Split:
    """Read all files of a split into a spool, a document for each turn."""
    sieve = Sieve(held_out, "dialogues" if split == "train" else "dialogues of valid")
    dialogue: list[int] = []
    is_reply: list[bool] = []
    keys: list[int] = []
    spool = Spool(folder / f"{split}.turns")
    columns = (config.src_column, config.tgt_column)
    with spool.writing(notes, progress) as add:
        for source in list_sources(names, notes, folder, documents=True):
            for where, turns in read_turns(source, notes, config.encoding, columns):
                if not sieve.keeps(where, turns) or isinstance(turns, Unusable):
                    continue
                for turn in turns:
                    add(Document(where, iter([turn.text])))
                dialogue += [sieve.kept] * len(turns)
                is_reply += replies_of(turns)
                keys += [question_of(turns)] * len(turns)
    if not sieve.kept:
        raise DataError(
            "\n  ".join([f"{', '.join(names)}: no dialogue is left", *sieve.lines()]),
            'A dialogue on a line: {"messages": [{"role": "user", "content": "Hi"},'
            ' {"role": "assistant", "content": "Hello!"}]}',
        )
    for line in sieve.lines():
        notes.say(line)
    return _Split(
        spool.whole(),
        np.array(dialogue, np.int64),
        np.array(is_reply, np.bool_),
        np.array(keys, np.uint64),
    )


def _parted(whole: _Split, fraction: float, notes: Notes) -> tuple[_Split, _Split]:
    """Hold out whole dialogues, by a hash of what their last turns answer."""
    distinct = np.unique(whole.keys)
    count = min(MOST_HELD_OUT, int(fraction * len(distinct)))
    dialogues = len(np.unique(whole.dialogue))
    if not count:
        raise DataError(
            f"{dialogues:,} dialogues are too few to hold out {100 * fraction:.3g} % of them",
            "Give more, or others to validate on: --valid FILE. In plain text a blank line ends a"
            " dialogue.",
        )
    mask = np.isin(whole.keys, distinct[:count])
    parts = whole.taken(~mask), whole.taken(mask)
    held = len(np.unique(parts[1].dialogue))
    notes.say(
        f"{held:,} of {dialogues:,} dialogues, chosen by a hash of what their last turn answers,"
        " are valid"
    )
    return parts


def _tokenised(
    part: _Split,
    tokenizer: Tok,
    source: tuple[Path, Loader],
    root: Path,
    folder: Path,
    progress: Progress,
) -> DialogueTokens:
    text = part.view.fingerprint()
    tokens = shards.find(root, text, tokenizer)
    if tokens is None:
        tokens = shards.build(root, folder, part.view, text, tokenizer, source, progress)
    number = np.arange(len(part.dialogue))
    begins = np.diff(part.dialogue, prepend=-1) != 0
    unspelt = np.zeros(len(number), np.int64)
    if tokens.unspelt_bytes:
        unspelt[:] = [tokenizer.encode_array(turn)[1] for turn in part.view.texts()]
    starts = documents_of(tokens, tokenizer.eos_id)
    assert len(starts) == len(number) + 1, "the stream has another number of turns"
    return DialogueTokens(
        tokens,
        starts=starts,
        first=np.maximum.accumulate(np.where(begins, number, 0)),
        replies=np.flatnonzero(part.is_reply),
        bytes=part.view.ends - part.view.starts,
        unspelt_bytes=unspelt,
    )
