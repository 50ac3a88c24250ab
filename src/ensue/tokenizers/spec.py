"""What a ``tokenizer.json`` says, checked before any other code sees it.

The file format is Hugging Face's, so that the ``tokenizers`` library and everything built on it
read our files. A crafted file can make that library panic, so it is never given a file: the file
is parsed and checked here, and the library is built from the checked parts.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ensue.errors import DataError

KINDS = ("byte", "char", "word", "bpe", "unigram", "wordpiece", "wordpiece-cased")
"""What a tokenizer can be learnt as; a cased one is of the kind wordpiece too."""
LOSSLESS = KINDS[:5]
"""Those whose ids spell the text as it was: what is continued or translated is written so."""
SUBWORD = ("bpe", "unigram")
"""Those that spell rare words in pieces: words of GPT-2's pattern, in GPT-2's bytes."""
EOS = "<|endoftext|>"  # begins a stream and separates documents
UNK = "<unk>"
PIECES = "wordpiece"
"""The kind of BERT's tokenizers. Words are lower-cased, unless it is a cased one, and lose their
spaces; what goes on within a word begins with ``##``."""
PAD_PIECE, UNK_PIECE, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
MARKS = (PAD_PIECE, UNK_PIECE, CLS, SEP, MASK)
"""Its special tokens; [SEP] ends a text."""
INSIDE = "##"
MAX_PIECED_CHARS = 100
"""A longer word is unknown, as in the published tokenizers."""
# GPT-2's file is 2 MB, Llama 3's 9 MB.
MAX_FILE_BYTES = 64 << 20
CHAR_PATTERN = r"[\s\S]"
# Lossless: every character is a word character, white space, or neither.
WORD_PATTERN = r" ?[\p{L}\p{M}\p{N}_]+| ?[^\s\p{L}\p{M}\p{N}_]+|\s"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The checked content of a ``tokenizer.json``."""

    kind: str
    """One of `KINDS`."""
    vocab: Mapping[str, int]
    """Token to id; the ids are 0 .. n-1."""
    merges: Sequence[tuple[str, str]] = ()
    """Byte-pair merges, first learnt first."""
    scores: Sequence[float] = ()
    """Log probability of each token of a unigram model, by id."""
    specials: Mapping[str, int]
    """Special tokens to ids; never made from text."""
    ignore_merges: bool = False
    """Take a whole word that is in the vocabulary without merging."""
    lowercase: bool = False
    """Of word pieces: letters are lower-cased, and lose their accents."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.vocab.keys() | self.specials.keys())

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a text."""
        return self.specials[SEP if self.kind == PIECES else EOS]

    @property
    def unk(self) -> str:
        """The token of what cannot be spelt; kinds that spell all have none of it."""
        return UNK_PIECE if self.kind == PIECES else UNK


def byte_to_char() -> dict[int, str]:
    """Give GPT-2's printable stand-in for each byte, in the order of the bytes' values."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [b for b in range(256) if b not in printable]
    stand_in = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return dict(sorted(stand_in.items()))


def to_json(spec: Spec) -> str:
    """Write a spec in the format of the ``tokenizers`` library."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    pre: dict[str, Any] = byte_level | {"use_regex": spec.kind in SUBWORD}
    decoder = byte_level | {"use_regex": True}
    normalizer: dict[str, Any] | None = None
    frame: dict[str, Any] | None = None
    model: dict[str, Any]
    if spec.kind == PIECES:
        normalizer = normalizer_of(spec.lowercase)
        pre = {"type": "BertPreTokenizer"}
        decoder = {"type": "WordPiece", "prefix": INSIDE, "cleanup": True}
        frame = _frame(spec)
        model = {
            "type": "WordPiece",
            "unk_token": UNK_PIECE,
            "continuing_subword_prefix": INSIDE,
            "max_input_chars_per_word": MAX_PIECED_CHARS,
            "vocab": dict(spec.vocab),
        }
    elif spec.kind == "unigram":
        by_id = sorted(spec.vocab, key=spec.vocab.__getitem__)
        pieces = [[token, score] for token, score in zip(by_id, spec.scores, strict=True)]
        model = {"type": "Unigram", "unk_id": None, "vocab": pieces, "byte_fallback": False}
    elif spec.kind in ("byte", "bpe"):
        model = {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": spec.ignore_merges,
            "vocab": dict(spec.vocab),
            "merges": [list(pair) for pair in spec.merges],
        }
    else:
        pattern = CHAR_PATTERN if spec.kind == "char" else WORD_PATTERN
        pre = {
            "type": "Split",
            "pattern": {"Regex": pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        decoder = {"type": "Fuse"}
        model = {"type": "WordLevel", "vocab": dict(spec.vocab), "unk_token": UNK}
    added = [
        {
            "id": id_,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, id_ in sorted(spec.specials.items(), key=lambda item: item[1])
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre,
        "post_processor": frame,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def normalizer_of(lowercase: bool) -> dict[str, Any]:
    """Give BERT's normaliser: control characters go, white space becomes a space."""
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,  # as lowercase says
        "lowercase": lowercase,
    }


def _frame(spec: Spec) -> dict[str, Any]:
    """Say how other programs that read the file put marks around one text, or two."""

    def mark(name: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    one = [mark(CLS, 0), text("A", 0), mark(SEP, 0)]
    marks = {
        name: {"id": name, "ids": [spec.specials[name]], "tokens": [name]} for name in (CLS, SEP)
    }
    return {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, text("B", 1), mark(SEP, 1)],
        "special_tokens": marks,
    }


def parse(raw: bytes, name: str) -> Spec:
    """Check the bytes of a ``tokenizer.json`` and give what they say.

    Args:
        raw: The file's content.
        name: The file's name, for messages.

    Raises:
        DataError: The file is not a tokenizer that ensue can use; the message says why.
    """
    check = _Checker(name)
    document = check.mapping(check.json(raw), "the file")
    model = check.mapping(document.get("model"), "model")
    is_unigram = model.get("type") == "Unigram"
    pieces = check.pieces(model.get("vocab")) if is_unigram else []
    vocab = check.vocab(
        {token: i for i, (token, _) in enumerate(pieces)} if is_unigram else model.get("vocab")
    )
    specials = check.added(document.get("added_tokens") or [])
    pre = check.mapping(document.get("pre_tokenizer"), "pre_tokenizer")
    if model.get("type") == "WordPiece":
        lowercase = check.word_pieces(model, pre, document.get("normalizer"))
        for mark in MARKS:
            if specials.setdefault(mark, vocab.get(mark, -1)) < 0:
                check.refuse(f"it has no special token {mark!r}")
        check.ids(vocab, specials)
        return Spec(kind=PIECES, vocab=vocab, specials=specials, lowercase=lowercase)
    if EOS not in specials:
        check.refuse(f"it has no special token {EOS!r}")
    if document.get("normalizer") is not None:
        check.refuse("it has a normalizer, which would change the text")
    ignore_merges, merges = False, list[tuple[str, str]]()
    if model.get("type", "BPE") == "BPE":
        kind = check.byte_level(model, pre)
        merges = check.merges(model.get("merges"), vocab)
        kind = kind if merges or kind == "bpe" else "byte"
        ignore_merges = bool(model.get("ignore_merges"))
        check.bytes(vocab)
    elif is_unigram:
        kind = "unigram"
        if check.byte_level(model, pre) != "bpe" or len(vocab) != len(pieces):
            check.refuse("its pieces are not of words in bytes, each there once")
        check.bytes(vocab)
    elif model.get("type") == "WordLevel":
        kind = check.word_level(model, pre, vocab)
        specials.setdefault(UNK, vocab[UNK])
    else:
        found = str(model.get("type"))[:40]
        check.refuse(f"its model type is {found!r}, not BPE, Unigram, WordPiece or WordLevel")
    check.ids(vocab, specials)
    return Spec(
        kind=kind,
        vocab=vocab,
        merges=merges,
        scores=[score for _, score in pieces],
        specials=specials,
        ignore_merges=ignore_merges,
    )


class _Checker:
    """Structure checks that name the file when they refuse."""

    def __init__(self, name: str) -> None:
        self.name = name

    def refuse(self, why: str) -> NoReturn:
        raise DataError(
            f"{self.name}: not a tokenizer that ensue can use: {why}",
            "Use a byte-level BPE tokenizer.json (as GPT-2's), one of BERT's, or one that ensue"
            " wrote; or let ensue learn one",
        )

    def json(self, raw: bytes) -> object:
        try:
            return json.loads(raw.decode("utf-8"), parse_constant=self._constant)
        except UnicodeDecodeError as error:
            self.refuse(f"byte {error.start} is not UTF-8")
        except json.JSONDecodeError as error:
            self.refuse(f"line {error.lineno}: {error.msg}")
        except (RecursionError, ValueError, MemoryError) as error:
            self.refuse(f"its JSON cannot be read ({type(error).__name__})")

    def _constant(self, name: str) -> NoReturn:
        raise ValueError(name)

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(f"{what} is not a JSON object")
        return value

    def vocab(self, value: object) -> dict[str, int]:
        vocab = self.mapping(value, "model.vocab")
        if not vocab:
            self.refuse("model.vocab is empty")
        for token, id_ in vocab.items():
            if type(id_) is not int:
                self.refuse(f"the id of token {token[:40]!r} is not a whole number")
            self.spelt(token)
        return vocab

    def pieces(self, value: object) -> list[tuple[str, float]]:
        if not isinstance(value, list) or not value:
            self.refuse("model.vocab is not a list of pieces")
        pieces = []
        for i, entry in enumerate(value):
            if not (isinstance(entry, list) and len(entry) == 2 and _is_str(entry[0])):
                self.refuse(f"piece {i} is not a token and its score")
            token, score = entry
            if type(score) not in (int, float) or not -1e9 < score <= 0:
                self.refuse(f"the score of piece {i} is not a log probability")
            pieces.append((token, float(score)))
        return pieces

    def bytes(self, vocab: dict[str, int]) -> None:
        missing = [c for c in byte_to_char().values() if c not in vocab]
        if missing:
            self.refuse(f"{len(missing)} of the 256 bytes have no token")

    def spelt(self, token: str) -> None:
        try:
            token.encode()
        except UnicodeEncodeError:
            self.refuse(f"token {token[:40]!r} holds half of a surrogate pair")

    def added(self, value: object) -> dict[str, int]:
        if not isinstance(value, list):
            self.refuse("added_tokens is not a list")
        specials: dict[str, int] = {}
        for entry in value:
            token = self.mapping(entry, "an added token")
            content, id_ = token.get("content"), token.get("id")
            if not isinstance(content, str) or type(id_) is not int or not content:
                self.refuse("an added token has no content or id")
            if token.get("special") is not True:
                self.refuse(f"added token {content[:40]!r} is not special: it would change text")
            self.spelt(content)
            specials[content] = id_
        return specials

    def word_pieces(self, model: dict[str, Any], pre: dict[str, Any], normalizer: object) -> bool:
        """Check that it is one of BERT's; gives whether it lower-cases."""
        if model.get("unk_token") != UNK_PIECE:
            self.refuse(f"its unknown token is not {UNK_PIECE!r}")
        if model.get("continuing_subword_prefix", INSIDE) != INSIDE:
            self.refuse(f"what goes on within a word does not begin with {INSIDE!r}")
        if model.get("max_input_chars_per_word", MAX_PIECED_CHARS) != MAX_PIECED_CHARS:
            self.refuse(f"its longest word is not of {MAX_PIECED_CHARS} characters")
        if pre.get("type") != "BertPreTokenizer":
            self.refuse("its pre_tokenizer is not BERT's")
        found = self.mapping(normalizer, "normalizer")
        lowercase = found.get("lowercase") is True
        if found.get("strip_accents") not in (None, lowercase) or {
            **found,
            "strip_accents": None,
        } != normalizer_of(lowercase):
            self.refuse("its normalizer is not BERT's")
        return lowercase

    def byte_level(self, model: dict[str, Any], pre: dict[str, Any]) -> str:
        for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(key):
                self.refuse(f"model.{key} is set")
        if model.get("byte_fallback") or model.get("fuse_unk"):
            self.refuse("its BPE is not byte-level")
        if pre.get("type") != "ByteLevel" or pre.get("add_prefix_space") is not False:
            self.refuse("its pre_tokenizer is not ByteLevel without a prefix space")
        return "bpe" if pre.get("use_regex", True) else "byte"

    def merges(self, value: object, vocab: dict[str, int]) -> list[tuple[str, str]]:
        if not isinstance(value, list):
            self.refuse("model.merges is not a list")
        merges = []
        for i, entry in enumerate(value):
            pair = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_str, pair)):
                self.refuse(f"merge {i} is not a pair of tokens")
            left, right = pair
            if left not in vocab or right not in vocab or left + right not in vocab:
                self.refuse(f"merge {i} uses a token that is not in model.vocab")
            merges.append((left, right))
        return merges

    def word_level(self, model: dict[str, Any], pre: dict[str, Any], vocab: dict[str, int]) -> str:
        if model.get("unk_token") != UNK or UNK not in vocab:
            self.refuse(f"its unknown token is not {UNK!r}")
        pattern = pre.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        isolated = pre.get("behavior") == "Isolated" and not pre.get("invert")
        if pre.get("type") != "Split" or not isolated:
            self.refuse("its pre_tokenizer is not an isolating Split")
        if regex == CHAR_PATTERN:
            if any(len(token) != 1 for token in vocab if token not in (EOS, UNK)):
                self.refuse("a character vocabulary holds longer tokens")
            return "char"
        if regex == WORD_PATTERN:
            return "word"
        self.refuse("its pre_tokenizer's pattern is not one of ensue's")

    def ids(self, vocab: dict[str, int], specials: dict[str, int]) -> None:
        for token, id_ in specials.items():
            if vocab.get(token, id_) != id_:
                self.refuse(f"special token {token[:40]!r} has two ids")
        ids = sorted({**vocab, **specials}.values())
        if ids != list(range(len(ids))):
            self.refuse("its ids are not 0, 1, 2, ... without gaps")


def _is_str(value: object) -> bool:
    return isinstance(value, str)
