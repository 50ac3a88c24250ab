"""A trained masked language model as an object: texts with gaps in, words out; lines in, vectors.

filler = ensue.load_filler("runs/bert")
filler.fill("The capital of France is [MASK].").gaps[0].top

A gap is one piece of the tokenizer. Several gaps of a text are filled independently: each is asked
for while the others are masked, so that together they may not make sense.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ensue.decoding.engine import device_of, evaluating
from ensue.embedding import Embedded
from ensue.errors import DataError
from ensue.nn.attention import mean_of_places
from ensue.tokenizers import CLS, INSIDE, MASK, PAD_PIECE, SEP, Tokenizer

TOGETHER = 64
"""Lines that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """One gap, and what may stand there."""

    top: tuple[tuple[str, float], ...]
    """The likeliest pieces with their probabilities, the likeliest first; ``##`` goes on within a
    word."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """One text, and what fills its gaps."""

    source: str
    """The text."""
    text: str
    """The same with the likeliest piece in each gap; empty where there is an error."""
    gaps: tuple[Gap, ...]
    """One for each [MASK], in their order."""
    notices: tuple[str, ...] = ()
    """What a reader should know."""
    error: str = ""
    """Why nothing was filled in."""

    def to_json(self) -> str:
        """Give all of it as one line."""
        values = asdict(self)
        values["gaps"] = [
            [{"piece": piece, "probability": share} for piece, share in gap.top]
            for gap in self.gaps
        ]
        return json.dumps(values, ensure_ascii=False)


class MaskFiller:
    """A masked language model with its tokenizer.

    Args:
        model: Its weights loaded.
        tokenizer: Word pieces.
        card: Facts to show with it.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, card: Any = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.card: dict[str, Any] = card or {}
        self.room = model.config.context_length - 2

    def fill(self, text: str, top_k: int = 5) -> Filled:
        """Fill the gaps of one text.

        Args:
            text: With [MASK] where a word is missing.
            top_k: Pieces that are named for each gap.

        Raises:
            DataError: There is no gap in it, or none in what the model can read of it.
        """
        (one,) = self.stream([text], top_k)
        if one.error:
            raise DataError(
                f"{text[:60]!r}: {one.error}",
                'Write [MASK] where a word is missing: "It was a [MASK] day."',
            )
        return one

    def stream(self, texts: Iterable[str], top_k: int = 5) -> Iterator[Filled]:
        """Fill the gaps of texts, in their order; one without a gap has an error."""
        texts = iter(texts)
        while chunk := list(islice(texts, TOGETHER)):
            yield from self._filled(chunk, top_k)

    def embed(
        self, lines: Iterable[str], on_progress: Callable[[int], None] | None = None
    ) -> Iterator[Embedded]:
        """Give a vector for each line, in their order: the mean of its places, of length 1.

        Of a line that is too long the beginning is read; a blank one has zeros.

        Args:
            lines: Read as they are needed: a file may be longer than memory.
            on_progress: Called with how many lines that are not blank are read so far.

        Reference: Reimers & Gurevych 2019, arXiv:1908.10084.
        """
        lines, done = iter(lines), 0
        while chunk := list(islice(lines, TOGETHER)):
            read = [self.tokenizer.encode(line) for line in chunk]
            kept = [i for i, ids in enumerate(read) if ids]
            vectors = np.zeros((len(chunk), self.model.config.d_model), dtype=np.float32)
            if kept:
                vectors[kept] = self._vectors([read[i][: self.room] for i in kept])
            done += len(kept)
            if on_progress:
                on_progress(done)
            for line, ids, vector in zip(chunk, read, vectors, strict=True):
                yield Embedded(source=line, vector=vector, notices=self._cut(len(ids)))

    def _vectors(self, rows: Sequence[list[int]]) -> Float[np.ndarray, "B D"]:
        tokens, length = self._framed(rows)
        with evaluating(self.model), torch.inference_mode():
            hidden = self.model(tokens, length).float()
            inside = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]
            mean = mean_of_places(hidden, inside)
        found: Float[np.ndarray, "B D"] = torch.nn.functional.normalize(mean).cpu().numpy()
        return found

    def _framed(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Put rows between marks, side by side."""
        ids = self.tokenizer.specials
        length = torch.tensor([len(row) + 2 for row in rows])
        tokens = torch.full((len(rows), int(length.max())), ids[PAD_PIECE])
        for line, row in zip(tokens, rows, strict=True):
            line[: len(row) + 2] = torch.tensor([ids[CLS], *row, ids[SEP]])
        device = device_of(self.model)
        return tokens.to(device), length.to(device)

    def _cut(self, count: int) -> tuple[str, ...]:
        return (f"read up to its piece {self.room:,}",) if count > self.room else ()

    def _filled(self, texts: Sequence[str], top_k: int) -> Iterator[Filled]:
        read = [self.ids(text) for text in texts]
        rows = [row[: self.room] for row in read]
        counts = [row.count(self.tokenizer.specials[MASK]) for row in rows]
        usable = [row for row, count in zip(rows, counts, strict=True) if count]
        gaps = self._gaps(self.logprobs(usable), top_k) if usable else iter(())
        for i, text in enumerate(texts):
            gaps_of, count = list(islice(gaps, counts[i])), text.count(MASK)
            if not gaps_of:
                why = f"there is no {MASK} in it"
                if count:
                    why = f"its first {MASK} stands behind the {self.room:,} pieces that are read"
                yield Filled(source=text, text="", gaps=(), error=why)
                continue
            notices = self._cut(len(read[i]))
            if len(gaps_of) < count:
                notices += (f"{len(gaps_of)} of {count} gaps are in what is read",)
            yield Filled(
                source=text, text=_written(text, gaps_of), gaps=tuple(gaps_of), notices=notices
            )

    def logprobs(self, rows: Sequence[list[int]]) -> Float[Tensor, "N V"]:
        """Say what may stand in each gap of rows, one after another; marks may not."""
        tokens, length = self._framed(rows)
        with evaluating(self.model), torch.inference_mode():
            hidden = self.model(tokens, length)
            gaps = hidden[tokens == self.tokenizer.specials[MASK]]
            logits = self.model.head(gaps).float()[:, : self.tokenizer.vocab_size]
            logits = logits.index_fill(1, self._marks.to(logits.device), -torch.inf)
            return logits.log_softmax(dim=1).cpu()

    @cached_property
    def _marks(self) -> Int[Tensor, " M"]:
        return torch.tensor([*self.tokenizer.specials.values()])

    def ids(self, text: str) -> list[int]:
        """Give the ids of a text in which [MASK] is a gap; elsewhere it is text like any other."""
        mask, ids = self.tokenizer.specials[MASK], list[int]()
        for i, part in enumerate(text.split(MASK)):
            ids += [mask] if i else []
            ids += self.tokenizer.encode(part)
        return ids

    def _gaps(self, logprobs: Float[Tensor, "N V"], top_k: int) -> Iterator[Gap]:
        """Name the likeliest pieces of each gap."""
        best, ids = logprobs.exp().topk(min(top_k, logprobs.shape[1]), dim=1)
        for values, pieces in zip(best.tolist(), ids.tolist(), strict=True):
            named = [self.tokenizer.token_text(piece) for piece in pieces]
            yield Gap(top=tuple(zip(named, values, strict=True)))

    def __repr__(self) -> str:
        return f"MaskFiller({type(self.model).__name__}, {self.tokenizer!r})"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "model", type(self.model).__name__
        yield "tokenizer", self.tokenizer
        yield from self.card.items()


def _written(text: str, gaps: Sequence[Gap]) -> str:
    """Put the likeliest piece into each gap; one that goes on within a word, without a space."""
    written, *parts = text.split(MASK, len(gaps))
    for gap, part in zip(gaps, parts, strict=True):
        piece = gap.top[0][0]
        if piece.startswith(INSIDE):
            written, piece = written.removesuffix(" "), piece.removeprefix(INSIDE)
        written += piece + part
    return written
