"""Translation: write the target, given the source."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ensue.bleu import corpus_score
from ensue.bleu import require as require_bleu
from ensue.config import from_dict
from ensue.data.order import BucketOrder
from ensue.data.pairs import PairCorpus, PairsConfig, PairTokens, prepare_pairs
from ensue.data.spool import Progress
from ensue.decoding.engine import evaluating
from ensue.decoding.search import Beam, beam_search
from ensue.errors import DataError, UsageError
from ensue.files import read_json, write_json
from ensue.nn.loss import cross_entropy_sum
from ensue.tasks.measures import BITS, GREEDY_BLEU
from ensue.tasks.task import Loss, Score, Shape, refuse_unused
from ensue.tokenizers import Tokenizer, load_tokenizer, train_tokenizer
from ensue.translator import Sides, Translator

TGT_TOKENIZER, SRC_TOKENIZER = "tokenizer.json", "tokenizer.src.json"
"""In a run folder; the second only where source and target do not share the first."""
SHAPES = 64
"""Updates whose shapes stand for all."""
SIDES = "sides.json"
"""In a run folder: what its pairs looked like; see `ensue.translator.Sides`."""
EVAL_TOKENS = 8192
"""Tokens in one batch of evaluation."""
PAD = -1
"""In targets: nothing is scored here."""


@dataclass(frozen=True)
class PairBatch:
    """Pairs of about one length."""

    src: Int[Tensor, "B S"]
    """Sources with their end, padded with the end."""
    src_length: Int[Tensor, " B"]
    """Tokens of each that count."""
    inputs: Int[Tensor, "B T"]
    """Targets behind the mark that begins them, padded with it."""
    targets: Int[Tensor, "B T"]
    """Targets with their end; -1: padding."""


class Translation:
    """Pairs in a seeded order, and bits per byte of the target.

    Args:
        train: The training split.
        valid: The validation split.
        tokenizers: The source's and the target's; the same one where they share it.
        order: Which rows make an update.
        rows: Those that it numbers.
        micro_rows: Rows computed at a time by one process; 0: all.
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
        word_dropout: Share of words that the model is not shown in training.
        with_bleu: Whether a score has the BLEU of greedy translations too.
        device: Where batches go.
    """

    def __init__(
        self,
        train: PairTokens,
        valid: PairTokens,
        tokenizers: tuple[Tokenizer, Tokenizer],
        order: BucketOrder,
        rows: NDArray[np.int64],
        micro_rows: int,
        label_smoothing: float,
        word_dropout: float,
        with_bleu: bool,
        device: torch.device,
    ) -> None:
        self.train, self.valid, self.tokenizers = train, valid, tokenizers
        self.order, self.usable, self.micro_rows = order, rows, micro_rows
        self.label_smoothing, self.word_dropout = label_smoothing, word_dropout
        self.with_bleu, self.device = with_bleu, device

    def batches(self, update: int, rank: int = 0, world: int = 1) -> list[PairBatch]:
        """Give the micro-batches of an update that are this process's."""
        rows = self._rows(update)
        mine = np.array_split(rows, world)[rank]
        if not len(mine):  # more processes than rows: something must be computed, and not scored
            empty = self._batch(self.train, rows[:1])
            return [replace(empty, targets=torch.full_like(empty.targets, PAD))]
        micro = self.micro_rows or len(mine)
        return [self._batch(self.train, mine[i : i + micro]) for i in range(0, len(mine), micro)]

    def ids(self, update: int) -> list[int]:
        """Number the pairs of an update, from 0."""
        return [int(row) for row in self._rows(update)]

    def _rows(self, update: int) -> NDArray[np.int64]:
        return self.usable[self.order.rows(update)]

    def _batch(self, split: PairTokens, rows: NDArray[np.int64]) -> PairBatch:
        src_eos, tgt_eos = (tokenizer.eos_id for tokenizer in self.tokenizers)
        starts, lengths = split.src_starts[rows], split.src_lengths[rows]
        src = padded(split.src.ids, starts, lengths, src_eos)
        tgt_starts, tgt_lengths = split.tgt_starts[rows], split.tgt_lengths[rows]
        # A target's stream has an end before it too: the mark that begins it.
        inputs = padded(split.tgt.ids, tgt_starts - 1, tgt_lengths, tgt_eos)
        targets = padded(split.tgt.ids, tgt_starts, tgt_lengths, PAD)
        tensors = (src, lengths, inputs, targets)
        return PairBatch(*(torch.from_numpy(t).to(self.device) for t in tensors))

    def count(self, batch: PairBatch) -> int:
        """Count the target tokens, ends included."""
        return int((batch.targets != PAD).sum())

    def loss(self, model: Any, batch: PairBatch) -> Loss:
        """Sum the negative log-likelihood of each target token, smoothed."""
        hidden = self._hidden(model, self._blanked(batch))
        total = cross_entropy_sum(
            model.head, hidden, batch.targets, model.vocab_size, self.label_smoothing
        )
        return Loss(total, self.count(batch))

    def _blanked(self, batch: PairBatch) -> PairBatch:
        """Put an end, which says nothing where it stands, in the place of some words.

        Reference: Bowman et al. 2016, arXiv:1511.06349, section 3.1 (there of the decoder alone).
        """
        if not self.word_dropout:
            return batch
        sides = []
        for tokens, tokenizer in zip((batch.src, batch.inputs), self.tokenizers, strict=True):
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            sides.append(tokens.masked_fill(dropped, tokenizer.eos_id))
        return replace(batch, src=sides[0], inputs=sides[1])

    def _hidden(self, model: Any, batch: PairBatch) -> Float[Tensor, "B T D"]:
        hidden: Tensor = model(batch.inputs, model.encode(batch.src, batch.src_length))[0]
        return hidden

    def _sizes(self, split: PairTokens) -> NDArray[np.int64]:
        """Give the tokens that each pair takes up in a batch."""
        return longer_sides(split)

    @torch.inference_mode()
    def evaluate(self, model: Any, max_targets: int = 0) -> Score:
        """Score the validation split, or an even sample of its pairs; nothing is smoothed."""
        rows = np.arange(len(self.valid))
        lengths = self.valid.tgt_lengths
        if 0 < max_targets < int(lengths.sum()):
            keep = max(1, int(len(rows) * max_targets / int(lengths.sum())))
            rows = rows[np.linspace(0, len(rows) - 1, keep).astype(np.int64)]
        longest = self._sizes(self.valid)
        rows = rows[np.argsort(longest[rows], kind="stable")]
        total, count = 0.0, 0
        translations: list[str] = []
        references: list[str] = []
        with evaluating(model):
            while len(rows):
                n = max(1, EVAL_TOKENS // int(longest[rows[0]]))
                while n > 1 and n * int(longest[rows[:n]].max()) > EVAL_TOKENS:
                    n -= 1
                some, rows = rows[:n], rows[n:]
                batch = self._batch(self.valid, some)
                hidden = self._hidden(model, batch)
                total += float(
                    cross_entropy_sum(model.head, hidden, batch.targets, model.vocab_size)
                )
                count += self.count(batch)
                if self.with_bleu:
                    translations += self._translated(model, batch)
                    references += [self._text(self.valid.tgt_ids(row)) for row in some.tolist()]
        num_bytes = self.valid.tgt_bytes
        share = count / int(lengths.sum())
        bits = total / math.log(2) + 8 * self.valid.tgt_unspelt_bytes * share
        measures = {BITS.key: bits / (num_bytes * share)}
        if self.with_bleu:
            measures[GREEDY_BLEU.key] = corpus_score("BLEU", translations, references).value
        return Score(
            split="valid",
            loss=total / count,
            measures=measures,
            targets=count,
            bytes=round(num_bytes * share),
            fingerprint=self.valid.fingerprint,
            sampled=share < 1,
            kept_by=GREEDY_BLEU if self.with_bleu else BITS,
        )

    def _translated(self, model: Any, batch: PairBatch) -> list[str]:
        """Translate greedily; what has no end stops at twice its reference, which costs it BLEU."""
        tokenizer = self.tokenizers[1]
        found = beam_search(
            model,
            batch.inputs[:, :1],
            model.encode(batch.src, batch.src_length),
            Beam(num_beams=1),
            stop_id=tokenizer.eos_id,
            most=(2 * (batch.targets != PAD).sum(dim=1)).tolist(),
            banned_ids=sorted(tokenizer.unspeakable(model.vocab_size)),
        )
        return [self._text(best[0].tokens) for best in found]

    def _text(self, ids: Sequence[int]) -> str:
        tokenizer = self.tokenizers[1]
        return tokenizer.decode([i for i in ids if i != tokenizer.eos_id]).strip()

    def describe(self, update: int) -> list[str]:
        """Decode the pairs of an update."""
        lines = []
        for row in self._rows(update).tolist():
            ids = self.train.src_ids(row), self.train.tgt_ids(row)
            sides = zip(self.tokenizers, ids, strict=True)
            lines.append(" -> ".join(_in_words(tokenizer, ids) for tokenizer, ids in sides))
        return lines


def _in_words(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Decode one side; several turns, each with its end, have a bar between them."""
    ends = [0, *(i + 1 for i, token in enumerate(ids) if token == tokenizer.eos_id)]
    return " | ".join(tokenizer.decode(ids[a:b]) for a, b in pairwise(ends))


def longer_sides(split: PairTokens) -> NDArray[np.int64]:
    """Give the tokens of each pair's longer side."""
    longest: NDArray[np.int64] = np.maximum(split.src_lengths, split.tgt_lengths)
    return longest


def padded(
    ids: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64], pad: int
) -> NDArray[np.int64]:
    """Cut rows out of a stream, (rows, longest); what is beyond a row's length is `pad`."""
    places = np.arange(int(lengths.max()))
    inside = places < lengths[:, None]
    index = np.minimum(starts[:, None] + places, len(ids) - 1)
    return np.where(inside, ids[index].astype(np.int64), pad)


class Pairs:
    """Tokenised pairs: what translation models are trained on; see `ensue.tasks.task.Material`.

    Args:
        corpus: The pairs.
        src_tokenizer: What made the ids of the sources.
        tgt_tokenizer: What made those of the targets; the same one where they share it.
        max_tokens: Pairs with a longer side are left out of training.
    """

    def __init__(
        self,
        corpus: PairCorpus,
        src_tokenizer: Tokenizer,
        tgt_tokenizer: Tokenizer,
        max_tokens: int,
    ) -> None:
        self.corpus, self.max_tokens = corpus, max_tokens
        self.src_tokenizer, self.tgt_tokenizer = src_tokenizer, tgt_tokenizer
        self.joint = corpus.src_tokenizer_path == corpus.tgt_tokenizer_path
        self.fingerprint, self.notes = corpus.fingerprint, corpus.notes
        too_long = int((longer_sides(corpus.train) > max_tokens).sum())
        if too_long:
            self.notes += (f"{too_long:,} pairs of more than {max_tokens} tokens are left out",)
        self.valid_text = corpus.valid.fingerprint
        self.train_targets = int(corpus.train.tgt_lengths.sum())
        self.valid_targets = int(corpus.valid.tgt_lengths.sum())

    def filled(self, model: Any) -> Any:
        """Give a config the vocabularies."""
        found = {"vocab_size": self.tgt_tokenizer.vocab_size}
        own: int = getattr(model, "src_vocab_size", 0)  # none without an encoder
        if own or not self.joint:
            found["src_vocab_size"] = self.src_tokenizer.vocab_size
        for name, entries in found.items():
            asked = getattr(model, name) or entries
            if asked < entries:
                raise UsageError(f"model.{name} {asked} is smaller than the tokenizer's {entries}")
            model = replace(model, **{name: asked})
        return model

    def sized(self, train: Any, model: Any, tokens: int, world: int) -> Any:
        """Give an update its tokens; pairs are shared among the processes as they come."""
        refuse_unused(train, ("global_batch_size", "class_weights"), "translate")
        return replace(train, batch_tokens=train.batch_tokens or tokens)

    def splits(self, model: Any) -> tuple[PairTokens, PairTokens]:
        """Give train and valid as a model of this shape is to read them."""
        return self.corpus.train, self.corpus.valid

    def sides(self, split: PairTokens, model: Any) -> list[NDArray[np.int64]]:
        """Give the tokens of each pair: what an encoder reads first, then what is written."""
        return [split.src_lengths, split.tgt_lengths]

    def most(self, model: Any) -> int:
        """Give the tokens that a side has at most in training."""
        limit: int = getattr(model, "context_length", self.max_tokens)
        return min(self.max_tokens, limit)

    def learns(self, model: Any) -> type[Translation]:
        """Give the class of the task of a model of this shape."""
        return Translation

    def _order(self, config: Any, seed: int) -> tuple[NDArray[np.int64], BucketOrder]:
        """Give the usable rows, and the order over them."""
        sides = self.sides(self.splits(config.model)[0], config.model)
        limit = self.most(config.model)
        rows = np.flatnonzero(np.maximum.reduce(sides) <= limit)
        if not len(rows):
            raise DataError(
                f"every pair is longer than {limit} tokens", "Allow longer ones: --max-tokens 512"
            )
        return rows, BucketOrder([side[rows] for side in sides], config.train.batch_tokens, seed)

    def targets_per_update(self, config: Any) -> float:
        """Give the mean over an epoch."""
        rows, order = self._order(config, 0)
        lengths = self.splits(config.model)[0].tgt_lengths
        return float(lengths[rows].sum() / order.updates_per_epoch)

    def shapes(self, config: Any) -> list[Shape]:
        """Give the shapes of updates spread over an epoch."""
        rows, order = self._order(config, 0)
        sides = self.sides(self.splits(config.model)[0], config.model)
        updates = order.updates_per_epoch
        some = np.unique(np.linspace(0, updates - 1, min(updates, SHAPES)).astype(np.int64))
        shapes = []
        for update in some.tolist():
            mine = rows[order.rows(update)]
            shapes.append(Shape(len(mine), *(int(side[mine].max()) for side in reversed(sides))))
        return shapes

    def task(self, config: Any, device: torch.device) -> Translation:
        """Make the task of a run whose shape is known."""
        if config.train.keep_by == "bleu":
            require_bleu()
        rows, order = self._order(config, config.seed)
        train, valid = self.splits(config.model)
        longest = int(np.maximum.reduce(self.sides(valid, config.model)).max())
        if getattr(config.model, "positions", "") == "learned":
            if longest > config.model.context_length:
                raise DataError(
                    f"a pair of the validation set has {longest:,} tokens, and the model has"
                    f" learned positions for {config.model.context_length:,}",
                    f"Give it more: --model.context-length {longest}",
                )
        return self.learns(config.model)(
            train,
            valid,
            (self.src_tokenizer, self.tgt_tokenizer),
            order,
            rows,
            config.train.micro_batch_size,
            config.train.label_smoothing,
            config.train.word_dropout,
            config.train.keep_by == "bleu",
            device,
        )

    def save(self, folder: Path, model: Any) -> None:
        """Write into a run folder what translating needs: the tokenizers, and the sides' looks."""
        self.tgt_tokenizer.save(folder / TGT_TOKENIZER)
        if not self.joint:
            self.src_tokenizer.save(folder / SRC_TOKENIZER)
        sides = Sides.of(self.corpus.train, self.src_tokenizer, self.tgt_tokenizer)
        write_json(folder / SIDES, asdict(sides))

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        train, valid = self.corpus.train, self.corpus.valid
        rows = [
            ("pairs", f"{len(train):,} to learn from, {len(valid):,} held out"),
            (
                "tokens",
                f"{int(train.src_lengths.sum()):,} of sources, {self.train_targets:,} of targets;"
                f" {self.tgt_tokenizer.kind} tokenizer, {self.tgt_tokenizer.vocab_size:,} ids"
                f"{' for both' if self.joint else ''}",
            ),
        ]
        unspelt = sum(t.unspelt_bytes for t in (train.src, train.tgt, valid.src, valid.tgt))
        if unspelt:
            rows.append(("problem", f"the tokenizers cannot spell {unspelt:,} bytes"))
        return rows


def prepare(config: PairsConfig, on_progress: Progress) -> Pairs:
    """Read, check and tokenise pairs, or find what was made of them before.

    Raises:
        DataError: As of `ensue.data.pairs.prepare_pairs`.
    """
    corpus = prepare_pairs(
        config,
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=on_progress,
    )
    tgt = load_tokenizer(corpus.tgt_tokenizer_path)
    joint = corpus.src_tokenizer_path == corpus.tgt_tokenizer_path
    src = tgt if joint else load_tokenizer(corpus.src_tokenizer_path)
    return Pairs(corpus, src, tgt, config.max_tokens)


def load_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Read the source's and the target's from a run folder; the same one where they share it."""
    own = folder / SRC_TOKENIZER
    tgt = load_tokenizer(folder / TGT_TOKENIZER)
    return (load_tokenizer(own) if own.exists() else tgt), tgt


def translator_of(model: Any, folder: Path, max_tokens: int, card: Any = None) -> Translator:
    """Give a run's model what it needs to translate.

    Args:
        model: Its weights loaded.
        folder: Of the run.
        max_tokens: Longest source it was trained on.
        card: Facts to show with it.
    """
    sides = from_dict(Sides, read_json(folder / SIDES), SIDES)
    return Translator(model, *load_tokenizers(folder), max_tokens, sides, card)


def frozen(config: PairsConfig, folder: Path) -> PairsConfig:
    """Give the config of a run that was begun: its tokenizers are those in its folder."""
    own = folder / SRC_TOKENIZER
    return replace(
        config,
        tokenizer=str(folder / TGT_TOKENIZER),
        src_tokenizer=str(own) if own.exists() else "",
    )
