"""Does a model look at the part of the source that it is about to write?

The dates of `ensue.data.dates` say which part of a source is the year, the month and the day. The
model writes the true targets of dates that it was not trained on. Each token that writes a part has
asked every place of the source how well it matches: the place of the largest weight lies in the
same part, or it does not.

    right = share of the tokens whose largest weight lies in their part
    inside = mean weight that lies there

Tokens that belong to no part (the dashes, the end) have no true place and are not counted; nor are
those that hold two parts, which no tokenizer of ours makes. Each head is measured by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ensue.api import load_translator
from ensue.data.dates import TARGET_SPANS, DatePair, date_pairs
from ensue.decoding.engine import device_of, evaluating
from ensue.errors import DataError, UsageError
from ensue.nn.capture import capture
from ensue.runs import Run
from ensue.tokenizers import Tokenizer
from ensue.translator import Translator
from ensue.views.looks import ALIGNED, layer_of

ROWS = 100
"""Dates that are written at a time."""
PARTS = tuple(TARGET_SPANS)
"""Year, month, day."""
TRAIN_FIRST = "Train one: ensue train dates --model seq2seq_attention"


@dataclass(frozen=True, kw_only=True)
class Head:
    """How well one head of attention aligns."""

    layer: str
    """The layer as people count; of a model with one, what the part is called."""
    head: int
    """From 1."""
    right: float
    """Share of the tokens whose largest weight lies in their part."""
    by_part: Mapping[str, float]
    """The same of year, month and day."""
    inside: float
    """Mean weight that lies in the part."""

    @property
    def name(self) -> str:
        """Which it is."""
        return f"{self.layer}, head {self.head}"


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How well a model aligns."""

    model: str
    """Its class."""
    split: str
    """Which dates were written."""
    pairs: int
    """How many of them."""
    left_out: int
    """Dates that the tokenizers cannot spell."""
    tokens: int
    """Tokens of the targets whose true part is known."""
    written: float
    """Share of these that the model finds likeliest itself."""
    chance: float
    """Share of right ones, if every place of a source were as likely."""
    heads: tuple[Head, ...]
    """In the order of the layers."""

    @property
    def best(self) -> Head:
        """The head that is right most often."""
        return max(self.heads, key=lambda head: head.right)

    def to_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {**asdict(self), "best": self.best.name}


def measure_alignment(run: str | Path | Run = "", *, split: str = "valid") -> Alignment:
    """Measure where a run looks while it writes held-out dates.

    Args:
        run: Its folder; empty: the newest below ``runs/``. It was trained on ``dates``.
        split: ``valid``, or ``test``, which is there to be reported once.

    Raises:
        UsageError: The run does not translate, or looks at no place of the source.
        DataError: It cannot spell dates.
        MissingExtraError: Babel is not installed.
    """
    return alignment_of(load_translator(run), date_pairs(split), split)


def alignment_of(translator: Translator, pairs: Iterable[DatePair], split: str = "") -> Alignment:
    """Measure where any encoder-decoder looks; see `measure_alignment`."""
    told = [_Told.of(pair, translator) for pair in pairs]
    known = sorted((one for one in told if one), key=lambda one: len(one.src))
    seen = [_seen(translator, known[i : i + ROWS]) for i in range(0, len(known), ROWS)]
    tokens = sum(len(some.part) for some in seen)
    if not tokens:
        raise DataError("the run's tokenizers can spell none of the dates", TRAIN_FIRST)
    part, right, inside = (
        torch.cat([getattr(some, name) for some in seen]) for name in ("part", "right", "inside")
    )
    heads = []
    for h, (layer, number) in enumerate(seen[0].heads):
        by_part = {
            name: float(right[part == i, h].sum() / (part == i).sum().clamp(min=1))
            for i, name in enumerate(PARTS)
        }
        share, weight = float(right[:, h].float().mean()), float(inside[:, h].mean())
        heads.append(Head(layer=layer, head=number, right=share, by_part=by_part, inside=weight))
    return Alignment(
        model=type(translator.model).__name__,
        split=split,
        pairs=len(known),
        left_out=len(told) - len(known),
        tokens=tokens,
        written=sum(int(some.likeliest.sum()) for some in seen) / tokens,
        chance=sum(float(some.by_lot.sum()) for some in seen) / tokens,
        heads=tuple(heads),
    )


@dataclass(frozen=True)
class _Told:
    """A date in ids, and the part that each of them belongs to; -1: to none."""

    src: list[int]
    tgt: list[int]
    src_part: list[int]
    tgt_part: list[int]

    @classmethod
    def of(cls, pair: DatePair, translator: Translator) -> "_Told | None":
        """Give none where a side cannot be spelt to the letter."""
        sides = (
            (translator.src_tokenizer, pair.src, pair.spans),
            (translator.tgt_tokenizer, pair.tgt, TARGET_SPANS),
        )
        found = [_parts(*side) for side in sides]
        if not all(found):
            return None
        (src, src_part), (tgt, tgt_part) = filter(None, found)
        return cls(src, tgt, src_part, tgt_part)


def _parts(
    tokenizer: Tokenizer, text: str, spans: Mapping[str, tuple[int, int]]
) -> tuple[list[int], list[int]] | None:
    """Give a text's ids, and the part that each belongs to; None: they do not spell it."""
    even = " ".join(text.split())  # as in training
    ids, unspelt = tokenizer.encode_array(even)
    lengths = tokenizer.byte_lengths(ids.tolist())
    if unspelt or len(even) != len(text) or sum(lengths) != len(even.encode()):
        return None
    # A byte knows its character: one of several bytes may be cut by a tokenizer.
    part_of = np.full(len(text), -1)
    for i, part in enumerate(PARTS):
        part_of[slice(*spans[part])] = i
    bytes_of = np.repeat(part_of, [len(letter.encode()) for letter in even])
    pieces = [set(piece.tolist()) - {-1} for piece in np.split(bytes_of, np.cumsum(lengths)[:-1])]
    return ids.tolist(), [piece.pop() if len(piece) == 1 else -1 for piece in pieces]


@dataclass(frozen=True)
class _Seen:
    """What was seen while some targets were written: of each token whose part is known."""

    part: Int[Tensor, " N"]
    likeliest: Bool[Tensor, " N"]  # the model would have written it itself
    by_lot: Float[Tensor, " N"]  # share of the source's places that are in its part
    right: Bool[Tensor, "N H"]  # of the heads of all layers: the largest weight is in its part
    inside: Float[Tensor, "N H"]  # the weight that is
    heads: list[tuple[str, int]]  # layer, and number in it


def _seen(translator: Translator, batch: Sequence[_Told]) -> _Seen:
    """Let the model write the true targets."""
    model, eos = translator.model, translator.tgt_tokenizer.eos_id
    src_part = _padded([told.src_part for told in batch], 1, -1)
    tgt = _padded([told.tgt for told in batch], 0, eos)
    tgt_part = _padded([told.tgt_part for told in batch], 0, -1)
    inputs = torch.cat([torch.full((len(batch), 1), eos), tgt[:, :-1]], dim=1)
    with evaluating(model), torch.inference_mode():
        memory = translator.encode([told.src for told in batch])
        with capture(model) as maps:
            hidden, _ = model(inputs.to(device_of(model)), memory)
        likeliest = model.head(hidden).argmax(dim=-1).cpu() == tgt
    layers = {layer_of(name): shown[0] for name, shown in maps.items() if name.endswith(ALIGNED)}
    if not layers:
        raise UsageError(
            f"{type(model).__name__} looks at no place of the source: there is nothing to align",
            TRAIN_FIRST,
        )
    weights = torch.cat(list(layers.values()), dim=1).float().cpu()  # (B, H, T, S)
    true = src_part[:, None] == tgt_part[..., None]  # (B, T, S)
    right = true[:, None].expand_as(weights).gather(3, weights.argmax(dim=3, keepdim=True))
    places = torch.tensor([len(told.src) + 1 for told in batch])
    known = tgt_part >= 0
    return _Seen(
        part=tgt_part[known],
        likeliest=likeliest[known],
        by_lot=(true.sum(dim=2) / places[:, None])[known],
        right=right[..., 0].transpose(1, 2)[known],
        inside=(weights * true[:, None]).sum(dim=3).transpose(1, 2)[known],
        heads=[(name, i + 1) for name, one in layers.items() for i in range(one.shape[1])],
    )


def _padded(rows: Sequence[Sequence[int]], ends: int, pad: int) -> Int[Tensor, "B N"]:
    """Put rows of uneven length together, with room for `ends` more."""
    width = max(map(len, rows)) + ends
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
