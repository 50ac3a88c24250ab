"""A trained encoder-decoder as an object: sentences in, sentences out.

Lines are cut into sentences where they are longer than what the model was trained on, sorted by
length into batches, and come back in their order; blank lines stay blank. What a reader should
know about a line (it was cut, it ran into a loop, a word could not be spelt) comes with it.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.pairs import SHORT, PairTokens
from ensue.decoding.engine import device_of, encode, evaluating
from ensue.decoding.search import Beam, Hypothesis, beam_search
from ensue.embedding import Embedded
from ensue.errors import UsageError
from ensue.nn.precision import precision
from ensue.threads import side_by_side
from ensue.tokenizers import Tokenizer

CHUNK_LINES = 1024
"""Lines that are sorted by length together: results come after so many at the latest."""
FIRST_LINES = 64
"""The first ones, by themselves: a reader sees something soon."""
BATCH_TOKENS = 4096
"""Tokens of sources that are searched at a time, times beams."""
MAX_RATIO = 3.0
"""Where nothing is known of the training pairs."""
WORKERS = 4
"""Searches side by side, at most: each has its own memory, and they share one Python."""
SWAPPED_BITS = 30.0
"""So many bits shorter in the code of targets, and a tenth, a text must be to be taken for one."""
SHORTER = 4
"""So many times shorter than usual something is lacking: training leaves such pairs out too."""
LOOP = 4
"""So often in a row the same words are a loop, unless the source repeats itself as often."""
NO_REPEAT = 3
"""Words in a row that a second search may not write twice, where the first one ran into a loop."""


@dataclass(frozen=True, kw_only=True)
class Search(Beam):
    """How a translation is searched for."""

    max_ratio: float = 0.0
    """A translation is cut at so many tokens for each of the source's, and 20 more; 0: a good deal
    above what the training pairs had."""
    precision: str = "fp32"
    """Matrix products in fp32, or in bf16: about half the time where the processor has it, and here
    and there another word."""
    repair: bool = True
    """Search again, without repetitions, where a translation runs into a loop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision is {self.precision!r}; it is fp32 or bf16")
        if not self.max_ratio >= 0:
            raise UsageError(f"max_ratio is {self.max_ratio}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What a run's pairs looked like: tells a source from a target, and how long a target gets."""

    src_counts: tuple[int, ...]
    """How often each id of the source's tokenizer stood in a source."""
    tgt_counts: tuple[int, ...]
    """The same of targets."""
    ratio: float
    """Tokens of a target for each of its source."""
    room: int
    """Tokens by which one target in a thousand is longer than that, or more."""

    @classmethod
    def of(cls, pairs: PairTokens, src: Tokenizer, tgt: Tokenizer) -> "Sides":
        """Count a training split."""
        ratio = int(pairs.tgt_lengths.sum()) / int(pairs.src_lengths.sum())
        longer = pairs.tgt_lengths - ratio * pairs.src_lengths
        return cls(
            src_counts=tuple(np.bincount(pairs.src.ids, minlength=src.vocab_size).tolist()),
            tgt_counts=tuple(np.bincount(pairs.tgt.ids, minlength=tgt.vocab_size).tolist()),
            ratio=ratio,
            room=math.ceil(np.quantile(longer, 0.999)),
        )

    def most(self, tokens: int) -> int:
        """Give the length at which a target of so long a source is no target any more."""
        return int(self.ratio * tokens) + 2 * max(self.room, 4)

    def bits(self, text: str, tokenizers: tuple[Tokenizer, Tokenizer]) -> tuple[float, float]:
        """Give the length of a text in a code for sources, and in one for targets."""
        lengths = []
        for tokenizer, code in zip(tokenizers, self._codes, strict=True):
            ids, unspelt = tokenizer.encode_array(text)
            lengths.append(float(code[ids].sum()) + 8 * unspelt)
        return lengths[0], lengths[1]

    @cached_property
    def _codes(self) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " W"]]:
        """Give the bits of each id, in a source and in a target."""
        src, tgt = (np.array(counts) + 0.5 for counts in (self.src_counts, self.tgt_counts))
        return -np.log2(src / src.sum()), -np.log2(tgt / tgt.sum())


@dataclass(frozen=True, kw_only=True)
class Translated:
    """One line, translated."""

    source: str
    """The line."""
    text: str
    """Its translation."""
    score: float
    """By which hypotheses are ordered (see `ensue.decoding.search`); of several sentences the mean,
    of a blank line 0."""
    others: tuple["Translated", ...] = ()
    """The next best, where more than one was asked for."""
    notices: tuple[str, ...] = ()
    """What a reader should know."""

    def to_json(self) -> str:
        """Give all fields as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)


@dataclass(slots=True)
class _Piece:
    """A sentence of a line, on its way."""

    line: int
    text: str
    ids: list[int]
    found: list[Hypothesis]
    notices: list[str]
    share: float = 1.0  # of its line
    looped: str = ""


class Translator:
    """A trained encoder-decoder with its tokenizers.

    Args:
        model: The encoder-decoder.
        src_tokenizer: What makes ids of a source.
        tgt_tokenizer: What makes text of a target; the same one where they share it.
        max_tokens: Longest source it was trained on: longer lines are cut into sentences.
        sides: What its pairs looked like; None: not known.
        card: Facts to show with it (name, size, score).
    """

    def __init__(
        self,
        model: Any,
        src_tokenizer: Tokenizer,
        tgt_tokenizer: Tokenizer,
        max_tokens: int,
        sides: Sides | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.model, self.sides = model, sides
        self.src_tokenizer, self.tgt_tokenizer = src_tokenizer, tgt_tokenizer
        limit = model.max_length
        self.max_tokens = max_tokens if limit is None else min(max_tokens, limit)
        self.card = dict(card or {})

    def translate(self, lines: str | Sequence[str], search: Search | None = None) -> list[str]:
        """Translate one line or several.

        Raises:
            UsageError: A value is out of range.
        """
        lines = [lines] if isinstance(lines, str) else lines
        return [done.text for done in self.stream(lines, search)]

    def stream(
        self,
        lines: Iterable[str],
        search: Search | None = None,
        chunk_lines: int = CHUNK_LINES,
        on_progress: Callable[[int], None] | None = None,
    ) -> Iterator[Translated]:
        """Translate lines, giving them in their order, some at a time.

        Args:
            lines: Read as they are needed: a file may be longer than memory.
            search: How; the defaults of `Search` where it is left out.
            chunk_lines: How many are sorted by length together, at most.
            on_progress: Called with how many lines that are not blank are translated so far.
        """
        search = search or Search()
        lines = iter(lines)
        done = 0.0
        seen = _Seen(self)
        together = min(FIRST_LINES, chunk_lines)
        while chunk := list(islice(lines, together)):
            together = chunk_lines
            warnings = [seen.warning(line) for line in chunk]
            pieces = [piece for i, line in enumerate(chunk) for piece in self._pieces(i, line)]
            # What a document says twice is searched for once.
            firsts: dict[tuple[int, ...], _Piece] = {}
            twins = [firsts.setdefault(tuple(piece.ids), piece) for piece in pieces]
            shares: dict[int, float] = defaultdict(float)
            for piece, first in zip(pieces, twins, strict=True):
                shares[id(first)] += piece.share
            batches = list(_batches(list(firsts.values()), search.num_beams))
            for batch in self._searched(batches, search):
                done += sum(shares[id(piece)] for piece in batch)
                if on_progress:
                    on_progress(round(done))
            for piece, first in zip(pieces, twins, strict=True):
                piece.found, piece.looped = first.found, first.looped
            of_line: dict[int, list[_Piece]] = {}
            for piece in pieces:
                of_line.setdefault(piece.line, []).append(piece)
            for i, (line, warning) in enumerate(zip(chunk, warnings, strict=True)):
                one = self._joined(line, of_line.get(i, []), search.n_best)
                yield replace(one, notices=(*warning, *one.notices))

    def embed(
        self, lines: Iterable[str], on_progress: Callable[[int], None] | None = None
    ) -> Iterator[Embedded]:
        """Give the encoder's vector of each line, in their order, some hundreds at a time.

        It is the one vector of a model that has one, else the mean of the encoder's places; of a
        line that is cut, the mean over its parts, weighted by their tokens. A blank line has zeros.

        Args:
            lines: Read as they are needed: a file may be longer than memory.
            on_progress: Called with how many lines that are not blank are read so far.
        """
        lines = iter(lines)
        done = 0.0
        while chunk := list(islice(lines, CHUNK_LINES)):
            pieces = [piece for i, line in enumerate(chunk) for piece in self._pieces(i, line)]
            sums = np.zeros((len(chunk), self.model.config.d_model), dtype=np.float32)
            tokens = np.zeros((len(chunk), 1), dtype=np.float32)
            notices: list[list[str]] = [[] for _ in chunk]
            for batch in _batches(pieces, 1):
                for piece, vector in zip(batch, self._vectors(batch), strict=True):
                    sums[piece.line] += vector * (len(piece.ids) + 1)
                    tokens[piece.line] += len(piece.ids) + 1
                    notices[piece.line] += piece.notices
                done += sum(piece.share for piece in batch)
                if on_progress:
                    on_progress(round(done))
            for line, vector, said in zip(chunk, sums / tokens.clip(min=1), notices, strict=True):
                yield Embedded(source=line, vector=vector, notices=tuple(said))

    def _vectors(self, batch: list[_Piece]) -> Float[np.ndarray, "B D"]:
        with evaluating(self.model), torch.inference_mode():
            vectors: Tensor = self.encode([piece.ids for piece in batch]).vector
        found: NDArray[np.float32] = vectors.float().cpu().numpy()
        return found

    def _pieces(self, number: int, line: str) -> list[_Piece]:
        """Cut a line where it is too long: at the ends of sentences, else at spaces."""
        text = " ".join(line.split())  # as in training
        if not text:
            return []
        ids, unspelt = self.src_tokenizer.encode_array(text)
        room = self.max_tokens - 1  # the end of the text
        notices = [f"the tokenizer cannot spell {unspelt:,} bytes of it"] if unspelt else []
        if len(ids) <= room:
            return [_Piece(number, text, ids.tolist(), [], notices)]
        parts: list[list[int]] = []
        texts: list[str] = []
        for sentence in sentences(text):
            own = self.src_tokenizer.encode_array(sentence)[0].tolist()
            if len(own) <= room:
                parts.append(own)
                texts.append(sentence)
                continue
            notices.append(f"a sentence of {len(own):,} tokens was cut: {room:,} are the most")
            cut = self._cut(sentence, room)
            parts += cut
            texts += [self.src_tokenizer.decode(ids) for ids in cut]
        if len(parts) > 1:
            notices.append(
                f"its {len(ids):,} tokens are more than the {room:,} that the model was trained on:"
                f" it was taken in {len(parts):,} parts"
            )
        notes = [notices, *([] for _ in parts[1:])]
        joined = zip(texts, parts, notes, strict=True)
        return [_Piece(number, t, ids, [], n, 1 / len(parts)) for t, ids, n in joined]

    def _cut(self, sentence: str, room: int) -> list[list[int]]:
        """Cut at spaces; where there is none in so many tokens, anywhere."""
        parts: list[list[int]] = [[]]
        text = ""
        for word in sentence.split():
            longer = f"{text} {word}".lstrip()
            ids = self.src_tokenizer.encode_array(longer)[0].tolist()
            if len(ids) <= room:
                parts[-1], text = ids, longer
                continue
            ids = self.src_tokenizer.encode_array(word)[0].tolist()
            parts += [ids[i : i + room] for i in range(0, len(ids), room)]
            text = word if len(ids) <= room else ""
            if not text:
                parts.append([])
        return [ids for ids in parts if ids]

    def _searched(self, batches: list[list[_Piece]], search: Search) -> Iterator[list[_Piece]]:
        """Search batches, giving each when it is done: on a processor several at once."""
        on_cpu = device_of(self.model).type == "cpu"
        workers = min(WORKERS, torch.get_num_threads()) if on_cpu else 1
        with evaluating(self.model):  # here: the first that is done would end it for the others
            yield from side_by_side(lambda batch: self._search(batch, search), batches, workers)

    def _search(self, batch: list[_Piece], search: Search) -> None:
        for piece, found in zip(batch, self._found(batch, search, 0), strict=True):
            piece.found = found
        again = [p for p in batch if self._fails(p, search)]
        if not again:
            return
        for piece in again:
            looped = loops(piece.found[0].tokens) >= LOOP
            piece.looped = "it ran into a loop" if looped else "it came to no end"
        if search.repair:
            for piece, found in zip(again, self._found(again, search, NO_REPEAT), strict=True):
                piece.found = found
                piece.looped += ", and was searched again without repetitions"

    def _found(self, batch: list[_Piece], search: Search, no_repeat: int) -> list[list[Hypothesis]]:
        return self.search([piece.ids for piece in batch], search, no_repeat)

    def search(
        self, sources: Sequence[Sequence[int]], search: Search, no_repeat: int = 0
    ) -> list[list[Hypothesis]]:
        """Translate ids into ids, all at once: of each source the best hypotheses, best first.

        Args:
            sources: Ids of each, without the end.
            search: How.
            no_repeat: So many tokens in a row are written at most once; 0: as often as it likes.
        """
        device = device_of(self.model)
        with torch.inference_mode(), precision(search.precision):
            return beam_search(
                self.model,
                torch.full((len(sources), 1), self.tgt_tokenizer.eos_id, device=device),
                self.encode(sources),
                search,
                stop_id=self.tgt_tokenizer.eos_id,
                most=[self._most(len(ids) + 1, search) for ids in sources],
                banned_ids=sorted(self.tgt_tokenizer.unspeakable(self.model.vocab_size)),
                no_repeat=no_repeat,
            )

    def _most(self, tokens: int, search: Search) -> int:
        if self.sides and not search.max_ratio:
            return self.sides.most(tokens)
        return int((search.max_ratio or MAX_RATIO) * tokens) + 20

    def encode(self, sources: Sequence[Sequence[int]]) -> Any:
        """Give what the model makes of sources, in one batch: its memory.

        Args:
            sources: Ids of each, without the end.
        """
        eos = self.src_tokenizer.eos_id
        return encode(self.model, [[*ids, eos] for ids in sources], eos)

    def _fails(self, piece: _Piece, search: Search) -> bool:
        """Whether a translation repeats itself, or has no end where the user has set none."""
        best = piece.found[0]
        endless = best.reason == "length" and not search.max_ratio
        return endless or loops(best.tokens) > max(LOOP - 1, loops(piece.ids))

    def _joined(self, line: str, pieces: list[_Piece], n_best: int) -> Translated:
        """Put a line's sentences together; the n-th best of each make the n-th best line."""
        if not pieces:
            return Translated(source=line, text="", score=0.0)
        notices = [n for p in pieces for n in (*p.notices, p.looped) if n]
        notices += ["it has no end: it was cut" for p in pieces if p.found[0].reason == "length"]
        notices += [notice for p in pieces if (notice := self._shortness(p))]
        ranked = []
        for rank in range(min(n_best, *(len(p.found) for p in pieces))):
            found = [p.found[rank] for p in pieces]
            texts = [self.tgt_tokenizer.decode(list(h.tokens)).strip() for h in found]
            ranked.append((rejoined(texts), sum(h.score for h in found) / len(found)))
        others = tuple(Translated(source=line, text=t, score=s) for t, s in ranked[1:])
        text, score = ranked[0]
        return Translated(
            source=line,
            text=_one_line(text),
            score=score,
            others=tuple(replace(o, text=_one_line(o.text)) for o in others),
            notices=tuple(dict.fromkeys(notices)),
        )

    def _shortness(self, piece: _Piece) -> str:
        """Say that a translation lacks most of what its source says; empty: it does not."""
        found = len(piece.found[0].tokens) - 1  # the end
        ratio = self.sides.ratio if self.sides else 1.0
        usual = round(ratio * (len(piece.ids) + 1))
        if not found:
            return "nothing was written for it"
        if len(piece.text) < SHORT or SHORTER * found > usual:
            return ""
        return f"its translation has {found:,} tokens, where {usual:,} are usual"

    def __repr__(self) -> str:
        return f"Translator({type(self.model).__name__}, {self.tgt_tokenizer!r})"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "model", type(self.model).__name__
        yield "tokenizer", self.tgt_tokenizer
        yield from self.card.items()


class _Seen:
    """Listens to the lines, and says once if they look like targets."""

    def __init__(self, translator: Translator) -> None:
        self.sides = translator.sides
        self.tokenizers = (translator.src_tokenizer, translator.tgt_tokenizer)
        self.as_src, self.as_tgt = 0.0, 0.0

    def warning(self, line: str) -> tuple[str, ...]:
        """Take a line; give what is to be said of it."""
        if self.sides is None:
            return ()
        src, tgt = self.sides.bits(" ".join(line.split()), self.tokenizers)
        self.as_src, self.as_tgt = self.as_src + src, self.as_tgt + tgt
        if self.as_src - self.as_tgt < max(SWAPPED_BITS, 0.1 * self.as_src):
            return ()
        self.sides = None
        return ("the text looks like what this model writes, not like what it reads: swapped?",)


def _batches(pieces: list[_Piece], beams: int) -> Iterator[list[_Piece]]:
    """Group pieces of like length, the longest first: what is too much for memory fails at once."""
    room = max(1, BATCH_TOKENS // beams)
    left = sorted(pieces, key=lambda p: -len(p.ids))
    while left:
        rows = max(1, room // (len(left[0].ids) + 1))
        yield left[:rows]
        left = left[rows:]


_END = re.compile(
    r"""(?<=[.!?…؟।])["'”’»)\]]*\s+(?=["'“‘«(\[¿¡]*[^\W\d_a-z])"""  # an end, space, no small letter
    r"""|(?<=[。！？])["'”’」』）]*+(?![。！？])"""  # these need no space
)
_NO_SPACE = re.compile(r"""[。！？]["'”’」』）]*$""")


def sentences(text: str) -> list[str]:
    """Cut a text at what look like ends of sentences.

    Only lines that are too long for a model are cut: a wrong cut costs more than a long sentence.
    """
    places = [0, *(m.end() for m in _END.finditer(text)), len(text)]
    parts = [text[a:b].strip() for a, b in pairwise(places)]
    return [part for part in parts if part]


def rejoined(parts: Sequence[str]) -> str:
    """Make one text of sentences: with spaces, but behind an end that needs none."""
    spaced = (p if _NO_SPACE.search(p) else f"{p} " for p in parts if p)
    return "".join(spaced).rstrip()


def loops(tokens: Sequence[int]) -> int:
    """Give how often some words (one to eight tokens) stand there one time after another."""
    most = 1
    for width in range(1, min(8, len(tokens) // 2) + 1):
        run = 0
        for i in range(width, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - width] else 0
            most = max(most, run // width + 1)
    return most


def _one_line(text: str) -> str:
    """Keep the number of lines, whatever the model writes."""
    return " ".join(text.splitlines())
