"""Training a tokenizer in bounded memory.

The ``tokenizers`` library takes 75 times the text's size in memory when it is given large texts.
Here words are counted first (a table of at most 1.5 million), and the library learns merges from
a digest: each word repeated in proportion to its count, 1 million words at most. On Tiny
Shakespeare that takes 0.3 s, the library alone 1.8 s, with equal merges.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import models, pre_tokenizers, trainers

from ensue.errors import DataError, EnsueError, UsageError, nearest
from ensue.tokenizers.spec import (
    EOS,
    INSIDE,
    KINDS,
    MARKS,
    PIECES,
    SUBWORD,
    UNK,
    UNK_PIECE,
    Spec,
    byte_to_char,
)
from ensue.tokenizers.split import BertSplitter, WordSplitter
from ensue.tokenizers.tokenizer import Tokenizer

# A counted word costs about 110 bytes: 1.5 million are 165 MB. Pruned to words seen twice or more.
_MAX_COUNTED = 1_500_000
_MAX_DIGEST = 1_000_000
# Longer words (scripts without spaces, base64) are counted in parts, so that a count stays short.
_MAX_WORD_CHARS = 64
_DEFAULT_VOCAB = {"char": 16_384, "word": 16_384}
_DEFAULT_SUBWORDS = 4_096
_ALPHABET = 1_000
"""Letters that word pieces begin with, as of the published ones; rarer ones are unknown."""
MAX_VOCAB = 1 << 20

Progress = Callable[[int], None]


def train_tokenizer(
    kind: str, texts: Iterable[str], *, vocab_size: int = 0, on_progress: Progress | None = None
) -> Tokenizer:
    """Learn a tokenizer from texts.

    Args:
        kind: One of `KINDS`.
        texts: The texts, in pieces of any size; read once.
        vocab_size: Number of ids wanted, with the special tokens; 0 for the kind's default. Fewer
            are made when the texts have no more; ``byte`` always has 257.
        on_progress: Called with the number of characters read so far.

    Raises:
        UsageError: An unknown kind or a vocabulary that cannot be.
        DataError: The texts are empty.
    """
    if kind not in KINDS:
        raise UsageError(
            f"unknown tokenizer {kind!r}{nearest(kind, KINDS)}", f"Choose from: {', '.join(KINDS)}"
        )
    is_pieces = kind.startswith(PIECES)
    smallest = 64 if is_pieces else {"byte": 0, "bpe": 257, "unigram": 257}.get(kind, 3)
    if vocab_size and not smallest <= vocab_size <= MAX_VOCAB:
        raise UsageError(
            f"a vocabulary of {vocab_size:,} cannot be made for a {kind} tokenizer",
            f"Give a size from {smallest:,} to {MAX_VOCAB:,}.",
        )
    if kind == "byte":
        return Tokenizer(_byte_spec(kind, [], []))
    size = vocab_size or _DEFAULT_VOCAB.get(kind, _DEFAULT_SUBWORDS)
    counts = _count(kind, texts, on_progress)
    if not counts:
        raise DataError("there is no text to learn a tokenizer from", "Give more text.")
    if kind == "bpe":
        return Tokenizer(_learn_merges(counts, size))
    if kind == "unigram":
        return Tokenizer(_learn_pieces(counts, size))
    if is_pieces:
        return Tokenizer(_learn_word_pieces(counts, size, lowercase=kind == PIECES))
    return Tokenizer(_word_level_spec(kind, counts, size))


def _count(kind: str, texts: Iterable[str], on_progress: Progress | None) -> Counter[str]:
    """Count words, or characters, forgetting the rarest words when there are too many."""
    counts: Counter[str] = Counter()
    split: Callable[[str], Iterable[str]] = list
    if kind.startswith(PIECES):
        split = BertSplitter(lowercase=kind == PIECES)
    elif kind != "char":
        split = WordSplitter("bpe" if kind in SUBWORD else kind)
    done, floor = 0, 1
    for text in texts:
        text = text.encode("utf-8", "replace").decode()  # lone surrogates become "?"
        counts.update(split(text) if kind == "char" else _parts(split(text)))
        done += len(text)
        while len(counts) > _MAX_COUNTED:
            floor += 1
            counts = Counter({word: n for word, n in counts.items() if n >= floor})
        if on_progress is not None:
            on_progress(done)
    return counts


def _parts(words: Iterable[str]) -> list[str]:
    size = _MAX_WORD_CHARS
    return [word[i : i + size] for word in words for i in range(0, len(word), size)]


def _by_frequency(counts: Counter[str]) -> list[str]:
    """Order words by falling count, then by spelling, so that the same text gives the same ids."""
    return sorted(counts, key=lambda word: (-counts[word], word))


def _word_level_spec(kind: str, counts: Counter[str], size: int) -> Spec:
    kept = _by_frequency(counts)[: size - 2]
    vocab = {token: i for i, token in enumerate([*sorted(kept), UNK, EOS])}
    return Spec(kind=kind, vocab=vocab, specials={UNK: vocab[UNK], EOS: vocab[EOS]})


def _byte_spec(kind: str, merges: list[tuple[str, str]], words: list[str]) -> Spec:
    """Ids 0-255 are the bytes by value, then the merges in order, then end of text."""
    vocab = {token: i for i, token in enumerate([*byte_to_char().values(), *words, EOS])}
    return Spec(kind=kind, vocab=vocab, merges=merges, specials={EOS: vocab[EOS]})


def _learn_merges(counts: Counter[str], size: int) -> Spec:
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,
        initial_alphabet=list(byte_to_char().values()),
        show_progress=False,
    )
    return _spec_of(_learn(models.BPE(), trainer, _spelt_in_bytes(counts)))


def _learn_pieces(counts: Counter[str], size: int) -> Spec:
    """Learn a unigram model: the pieces under which the text is most probable (Kudo 2018)."""
    alphabet = list(byte_to_char().values())
    trainer = trainers.UnigramTrainer(
        vocab_size=size - 1, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    found = json.loads(_learn(models.Unigram(), trainer, _spelt_in_bytes(counts)))
    learnt = dict(found["model"]["vocab"])
    # Bytes by value, as of the other kinds; one that the text has not is as improbable as can be.
    least = min(learnt.values()) - 10
    words = sorted((w for w in learnt if w not in alphabet), key=lambda w: (-learnt[w], w))
    pieces = [*alphabet, *words[: size - 1 - len(alphabet)]]
    scores = [min(0.0, learnt.get(piece, least)) for piece in pieces]
    vocab = {token: i for i, token in enumerate(pieces)}
    return Spec(kind="unigram", vocab=vocab, scores=scores, specials={EOS: len(vocab)})


def _learn_word_pieces(counts: Counter[str], size: int, lowercase: bool) -> Spec:
    """Learn word pieces: ids 0-4 are the marks, then letters, then pieces as they were learnt.

    The library numbers letters as it meets them, which is never the same twice, and breaks ties by
    these numbers: so it is given them.
    """
    letters: Counter[str] = Counter()
    for word, count in counts.items():
        letters.update({letter: count for letter in word})
    kept = {*_by_frequency(letters)[:_ALPHABET]}
    known = Counter({w: n for w, n in _in_order(counts).items() if kept.issuperset(w)})
    first = {word[0] for word in known}
    inside = {INSIDE + letter for word in known for letter in word[1:]}
    single = [*sorted(first), *sorted(inside)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(size - len(MARKS), len(single)),
        min_frequency=2,
        special_tokens=single,
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    learnt = json.loads(_learn(models.WordPiece(unk_token=UNK_PIECE), trainer, known))
    found: dict[str, int] = learnt["model"]["vocab"]
    words = sorted(found, key=found.__getitem__)
    vocab = {token: i for i, token in enumerate([*MARKS, *words])}
    specials = {mark: vocab[mark] for mark in MARKS}
    return Spec(kind=PIECES, vocab=vocab, specials=specials, lowercase=lowercase)


def _learn(model: models.Model, trainer: Any, counts: Counter[str]) -> str:
    tokenizer = LibraryTokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    try:
        tokenizer.train_from_iterator(_digest(counts), trainer)
        return str(LibraryTokenizer.to_str(tokenizer))
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic of the library is a BaseException
        raise EnsueError(
            f"learning the tokenizer failed: {str(error)[:200]}",
            "Try --tokenizer byte, which needs no learning.",
        ) from None


def _spec_of(learnt: str) -> Spec:
    """Renumber the library's tokens: bytes by value, then merges in the order learnt."""
    merges = [(left, right) for left, right in json.loads(learnt)["model"]["merges"]]
    words = list(dict.fromkeys(left + right for left, right in merges))
    return _byte_spec("bpe", merges, words)


def _in_order(counts: Counter[str]) -> Counter[str]:
    return Counter({word: counts[word] for word in _by_frequency(counts)})


def _spelt_in_bytes(counts: Counter[str]) -> Counter[str]:
    """Spell words in GPT-2's stand-ins for bytes, among which there is no white space."""
    stand_ins = str.maketrans(byte_to_char())
    ordered = _in_order(counts).items()
    return Counter({w.encode().decode("latin-1").translate(stand_ins): n for w, n in ordered})


def _digest(counts: Counter[str]) -> Iterator[str]:
    """Give each word as often as its share of the text asks, rarest left out when there are many.

    No word has white space in it.
    """
    scale = min(1.0, _MAX_DIGEST / counts.total())
    for word, count in counts.items():
        times = round(count * scale)
        for start in range(0, times, 1000):
            yield " ".join([word] * min(1000, times - start))
