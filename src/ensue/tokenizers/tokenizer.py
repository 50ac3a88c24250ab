"""The tokenizer: text to ids and back, with fast paths in numpy and plain Python."""

import codecs
import hashlib
import os
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import models

from ensue.errors import DataError
from ensue.tokenizers.spec import (
    EOS,
    INSIDE,
    KINDS,
    MAX_FILE_BYTES,
    MAX_PIECED_CHARS,
    PIECES,
    SUBWORD,
    UNK,
    UNK_PIECE,
    Spec,
    byte_to_char,
    parse,
    to_json,
)
from ensue.tokenizers.split import BertSplitter, WordSplitter

Ids = NDArray[np.unsignedinteger[Any]]

_SURROGATES = re.compile("[\ud800-\udfff]")
_STAND_INS = str.maketrans(byte_to_char())
_BYTES = {char: byte for byte, char in byte_to_char().items()}
# Words of natural text repeat: 300,000 remembered words are about 60 MB and miss under 1 %.
_CACHED_WORDS = 300_000
_CACHED_WORD_LENGTH = 64
_VISIBLE = {" ": "·", "\n": "↵", "\t": "→"}


class Tokenizer:
    """Text to token ids and back.

    Args:
        spec: The checked content of a ``tokenizer.json``.
        raw: The file's text where there is one, so that it is saved unchanged.
    """

    def __init__(self, spec: Spec, raw: str = "") -> None:
        self._spec = spec
        self._json = raw or to_json(spec)
        self.kind: str = spec.kind
        self.vocab_size: int = spec.vocab_size
        self.eos_id: int = spec.eos_id
        self.unk_id: int | None = spec.specials.get(spec.unk)
        self.specials: dict[str, int] = dict(spec.specials)
        self.fingerprint: str = hashlib.sha256(self._json.encode()).hexdigest()
        self.dtype: type[np.uint16] | type[np.uint32] = (
            np.uint16 if self.vocab_size <= 1 << 16 else np.uint32
        )
        self._words: dict[str, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str) -> list[int]:
        """Give the ids of plain text; a special token spelt in it is text like any other."""
        return [int(i) for i in self.encode_array(text)[0]]

    def encode_array(self, text: str) -> tuple[Ids, int]:
        """Give the ids, and how many bytes of the text they cannot spell.

        Each character or word that is not in the vocabulary is one ``<unk>`` id. A lone
        surrogate, which no file can hold, is read as U+FFFD.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError:
            text = _SURROGATES.sub("\ufffd", text)
            data = text.encode()
        if self.kind == "byte":
            return self._byte_ids[np.frombuffer(data, dtype=np.uint8)], 0
        if self.kind == "char":
            return self._encode_chars(text, len(data))
        if self.kind == "word":
            return self._encode_words(text)
        return self._encode_subwords(text)

    def unspeakable(self, vocab_size: int) -> frozenset[int]:
        """Give the ids that are no text: the unknown piece, and what pads a model's vocabulary.

        Args:
            vocab_size: Entries of the model's vocabulary.
        """
        unknown = [] if self.unk_id is None else [self.unk_id]
        return frozenset([*range(self.vocab_size, vocab_size), *unknown])

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of ids; never fails on valid ids.

        Bytes that are not UTF-8 and pieces that were unknown become U+FFFD; the end-of-text
        token becomes nothing.
        """
        data = b"".join([self._token_bytes[i] for i in ids])
        return data.decode("utf-8", errors="replace")

    def byte_lengths(self, ids: Sequence[int]) -> list[int]:
        """Give how many bytes each id spells: of an unknown piece those of U+FFFD."""
        return [len(self._token_bytes[i]) for i in ids]

    def stream(self) -> "StreamDecoder":
        """Give a decoder that takes one id at a time and emits whole characters only."""
        return StreamDecoder(self._token_bytes)

    def token_text(self, id: int) -> str:
        r"""Give a printable form of one token: ``·`` for a space, ``\xNN`` for a lone byte.

        Of word pieces it is the piece, with ``##`` where it goes on within a word.
        """
        if id in self._names:
            return self._names[id]
        data = self._token_bytes[id]
        text = data.decode("utf-8", errors="backslashreplace")
        return "".join(_VISIBLE.get(c) or (c if c.isprintable() else _escape(c)) for c in text)

    def to_json(self) -> str:
        """Give the content of the ``tokenizer.json``."""
        return self._json

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ``tokenizer.json``: whole or not at all."""
        target = Path(path)
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(self._json)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)

    @cached_property
    def _names(self) -> dict[int, str]:
        named = self._spec.vocab if self.kind == PIECES else self._spec.specials
        return {id_: token for token, id_ in named.items()}

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        """The bytes of every id."""
        table = [b""] * self.vocab_size
        byte_level = self.kind in ("byte", *SUBWORD)
        for token, id_ in self._spec.vocab.items():
            if byte_level and all(c in _BYTES for c in token):
                table[id_] = bytes([_BYTES[c] for c in token])
            elif self.kind == PIECES:
                is_inside = token.startswith(INSIDE)
                table[id_] = (token.removeprefix(INSIDE) if is_inside else f" {token}").encode()
            else:
                table[id_] = token.encode()
        for token, id_ in self._spec.specials.items():
            table[id_] = "\ufffd".encode() if token == self._spec.unk else b""
        return table

    @cached_property
    def _byte_ids(self) -> Ids:
        vocab = self._spec.vocab
        ids: Ids = np.array([vocab[c] for c in byte_to_char().values()], dtype=self.dtype)
        return ids

    @cached_property
    def _char_ids(self) -> Ids:
        """Code point to id, as long as the largest known code point; ``<unk>`` elsewhere."""
        known = {ord(t): i for t, i in self._spec.vocab.items() if t not in (EOS, UNK)}
        table: Ids = np.full(max(known, default=0) + 2, self._spec.vocab[UNK], dtype=self.dtype)
        table[list(known)] = list(known.values())
        return table

    def _encode_chars(self, text: str, num_bytes: int) -> tuple[Ids, int]:
        if len(text) == num_bytes:  # all ASCII: one byte per character
            points: Ids = np.frombuffer(text.encode(), dtype=np.uint8)
        else:
            points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        table = self._char_ids  # its last entry is <unk>, for every larger code point
        if len(points) and int(points.max()) >= len(table):
            points = np.minimum(points, np.uint32(len(table) - 1))
        ids = table[points]
        unknown = np.flatnonzero(ids == self._spec.vocab[UNK])
        return ids, len("".join([text[i] for i in unknown]).encode())

    def _encode_words(self, text: str) -> tuple[Ids, int]:
        words = self._split(text)
        vocab, unknown = self._spec.vocab, self._spec.vocab[UNK]
        ids: Ids = np.array([vocab.get(w, unknown) for w in words], dtype=self.dtype)
        return ids, len("".join([words[i] for i in np.flatnonzero(ids == unknown)]).encode())

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """Tell of each id whether it goes on within a word (word pieces)."""
        found = np.zeros(self.vocab_size, dtype=np.bool_)
        found[[i for token, i in self._spec.vocab.items() if token.startswith(INSIDE)]] = True
        return found

    def _encode_subwords(self, text: str) -> tuple[Ids, int]:
        words = self._split(text)
        missing = set(words).difference(self._words)
        if len(self._words) + len(missing) > _CACHED_WORDS:
            self._words.clear()
            missing = set(words)
        keep = self._words if len(missing) < _CACHED_WORDS else {}
        long: dict[str, tuple[int, ...]] = {}
        for word in missing:
            spelt = word
            if self.kind != PIECES:
                spelt = word.encode().decode("latin-1").translate(_STAND_INS)
            ids = tuple([token.id for token in self._model.tokenize(spelt)])
            (keep if len(word) <= _CACHED_WORD_LENGTH else long)[word] = ids
        # Only the words at hand: merging all that are remembered would cost 10 ms a call.
        table = {w: keep[w] for w in set(words) if w in keep} | long if long else keep
        find = table.__getitem__
        every: Ids = np.fromiter(chain.from_iterable(map(find, words)), dtype=self.dtype)
        if self.unk_id is None:
            return every, 0
        # Word pieces: a word that cannot be spelt is unknown as a whole, one id.
        unknown = (self.unk_id,)
        return every, sum(len(word.encode()) for word in words if find(word) == unknown)

    @cached_property
    def _split(self) -> WordSplitter | BertSplitter:
        if self.kind == PIECES:
            return BertSplitter(self._spec.lowercase)
        return WordSplitter("bpe" if self.kind in SUBWORD else self.kind)

    @cached_property
    def _model(self) -> models.BPE | models.Unigram | models.WordPiece:
        spec = self._spec
        if self.kind == PIECES:
            return models.WordPiece(
                dict(spec.vocab),
                unk_token=UNK_PIECE,
                max_input_chars_per_word=MAX_PIECED_CHARS,
                continuing_subword_prefix=INSIDE,
            )
        if self.kind == "unigram":
            by_id = sorted(spec.vocab, key=spec.vocab.__getitem__)
            return models.Unigram(list(zip(by_id, spec.scores, strict=True)), None, False)
        return models.BPE(dict(spec.vocab), list(spec.merges), ignore_merges=spec.ignore_merges)


class StreamDecoder:
    """Decodes ids one by one, holding back the bytes of an unfinished character."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """Take one id; give the characters that are now whole."""
        return self._decoder.decode(self._token_bytes[id])

    def flush(self) -> str:
        """Give what is left: U+FFFD for an unfinished character, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Read a ``tokenizer.json`` from anywhere; its kind is inferred from its structure.

    Raises:
        DataError: There is no such file, or it is too large, damaged or of a foreign kind.
    """
    file = Path(path)
    name = str(path)
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(
                f"{name}: {size:,} bytes is too large for a tokenizer (limit {MAX_FILE_BYTES:,})",
                "Is this the right file? A tokenizer.json is seldom above 10 MB.",
            )
        raw = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{name}: the tokenizer cannot be read: {error.strerror or error}",
            f"Give the path of a tokenizer.json, or a kind: {', '.join(KINDS)}",
        ) from None
    spec = parse(raw, name)
    tokenizer = Tokenizer(spec, raw.decode("utf-8"))
    if spec.kind in (*SUBWORD, PIECES):
        _try_library(tokenizer, name)
    return tokenizer


def _try_library(tokenizer: Tokenizer, name: str) -> None:
    """Build the library's model now, so that whatever it dislikes is said here.

    The library's panics derive from BaseException alone, as a user's Ctrl-C does.
    """
    try:
        tokenizer.encode("ab")
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise DataError(
            f"{name}: the tokenizers library refuses it: {str(error)[:200]}",
            "Train another one: --tokenizer bpe",
        ) from None


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
