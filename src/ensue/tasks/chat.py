"""Chat: write the reply, given the last turns before it.

To an encoder-decoder that is translation: the context is the source, the reply the target. A model
that only continues reads both as one sequence, and is scored on the reply alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ensue.data.dialogues import (
    DialogueConfig,
    DialogueCorpus,
    DialogueTokens,
    longest_side,
    prepare_dialogues,
)
from ensue.data.order import BucketOrder
from ensue.data.pairs import PairCorpus, PairTokens
from ensue.data.spool import Progress
from ensue.decoding.engine import device_of
from ensue.errors import DataError
from ensue.models import step_of
from ensue.tasks.task import Score
from ensue.tasks.translate import (
    EVAL_TOKENS,
    PAD,
    TGT_TOKENIZER,
    PairBatch,
    Pairs,
    Translation,
    padded,
)
from ensue.tokenizers import Tokenizer, load_tokenizer, train_tokenizer


class Continuation(Translation):
    """Replies for a model without an encoder: the context comes first, and is not scored."""

    def _batch(self, split: PairTokens, rows: NDArray[np.int64]) -> PairBatch:
        eos = self.tokenizers[1].eos_id
        starts, told = split.src_starts[rows], split.src_lengths[rows]
        lengths = told + split.tgt_lengths[rows]  # a reply stands right behind its context
        inputs = padded(split.src.ids, starts - 1, lengths, eos)
        inputs[:, 0] = eos  # also where the first turn of a context was cut
        targets = padded(split.src.ids, starts, lengths, PAD)
        targets[np.arange(targets.shape[1]) < told[:, None]] = PAD
        nothing = np.zeros((len(rows), 0), np.int64)
        tensors = (nothing, np.zeros(len(rows), np.int64), inputs, targets)
        return PairBatch(*(torch.from_numpy(t).to(self.device) for t in tensors))

    def _hidden(self, model: Any, batch: PairBatch) -> Float[Tensor, "B T D"]:
        hidden: Tensor = model(batch.inputs)[0]
        return hidden

    def _sizes(self, split: PairTokens) -> NDArray[np.int64]:
        return both_sides(split)


def both_sides(split: PairTokens) -> NDArray[np.int64]:
    """Give the tokens of each context with its reply."""
    lengths: NDArray[np.int64] = split.src_lengths + split.tgt_lengths
    return lengths


class Dialogues(Pairs):
    """Tokenised dialogues: what chat models are trained on; see `ensue.tasks.task.Material`.

    Args:
        corpus: The dialogues.
        tokenizer: What made their ids.
        config: How long contexts and replies are.

    Raises:
        DataError: No reply of a split is short enough.
    """

    def __init__(
        self, corpus: DialogueCorpus, tokenizer: Tokenizer, config: DialogueConfig
    ) -> None:
        self.dialogues, self.config = corpus, config
        train, left_out = corpus.train.pairs(config.max_turns, config.max_tokens)
        valid, not_scored = corpus.valid.pairs(config.max_turns, config.max_tokens)
        for name, pairs in (("train", train), ("valid", valid)):
            if not len(pairs):
                raise DataError(
                    f"all replies of {name} have more than {config.max_tokens} tokens",
                    f"Allow longer ones: --max-tokens {4 * config.max_tokens}",
                )
        notes = corpus.notes
        if left_out or not_scored:
            notes += (
                f"{left_out:,} replies of train and {not_scored:,} of valid are left out: they have"
                f" more than {config.max_tokens} tokens (--max-tokens)",
            )
        both = PairCorpus(
            src_tokenizer_path=corpus.tokenizer_path,
            tgt_tokenizer_path=corpus.tokenizer_path,
            train=train,
            valid=valid,
            fingerprint=corpus.fingerprint,
            notes=notes,
        )
        super().__init__(both, tokenizer, tokenizer, config.max_tokens)

    def splits(self, model: Any) -> tuple[PairTokens, PairTokens]:
        """Give train and valid, the contexts as long as a model of this shape can read."""
        most = side_of(model, self.max_tokens)
        if most == self.max_tokens:
            return self.corpus.train, self.corpus.valid
        return (
            pairs_of(self.dialogues.train, self.config.max_turns, most),
            pairs_of(self.dialogues.valid, self.config.max_turns, most),
        )

    def sides(self, split: PairTokens, model: Any) -> list[NDArray[np.int64]]:
        """Give the tokens of each context and reply, together where there is no encoder."""
        return super().sides(split, model) if encodes(model) else [both_sides(split)]

    def most(self, model: Any) -> int:
        """Give the tokens of a side: what `splits` gives is short enough."""
        return side_of(model, self.max_tokens) * (1 if encodes(model) else 2)

    def learns(self, model: Any) -> type[Translation]:
        """Give the class of the task of a model of this shape."""
        return Translation if encodes(model) else Continuation

    def save(self, folder: Path, model: Any) -> None:
        """Write the tokenizer into a run folder."""
        self.tgt_tokenizer.save(folder / TGT_TOKENIZER)

    def facts(self) -> list[tuple[str, str]]:
        """Say what there is, for `ensue plan`."""
        train, valid = self.dialogues.train, self.dialogues.valid
        counts = [
            f"{len(np.unique(s.first)):,} ({len(s.replies):,} replies)" for s in (train, valid)
        ]
        return [
            ("dialogues", f"{counts[0]} to learn from, {counts[1]} held out"),
            (
                "contexts",
                f"the last {self.config.max_turns} turns, at most {self.max_tokens} tokens",
            ),
            *super().facts()[1:],
        ]


def encodes(model: Any) -> bool:
    """Whether a model of this config reads a source with an encoder of its own."""
    return hasattr(step_of(model).model, "encode")


def side_of(model: Any, max_tokens: int) -> int:
    """Give the tokens of a context, and of a reply, at most, for a model of this config."""
    return longest_side(max_tokens, getattr(model, "context_length", None), not encodes(model))


def pairs_of(split: DialogueTokens, max_turns: int, most: int) -> PairTokens:
    """Give the replies with their contexts that a model can read.

    Raises:
        DataError: There is none.
    """
    pairs, left_out = split.pairs(max_turns, most)
    if not len(pairs):
        raise DataError(
            f"all {left_out:,} replies are longer than the {most} tokens that the model can write",
            "Give it more room: --model.context-length 256 --max-tokens 128",
        )
    return pairs


def score_replies(model: Any, config: Any, pairs: PairTokens, tokenizer: Tokenizer) -> Score:
    """Score replies as a run is scored on its validation split.

    Args:
        model: A trained model.
        config: Its shape.
        pairs: Replies with their contexts.
        tokenizer: What made their ids.
    """
    task = Translation if encodes(config) else Continuation
    rows = np.arange(len(pairs))
    order = BucketOrder([both_sides(pairs)], EVAL_TOKENS, 0)
    tokenizers = (tokenizer, tokenizer)
    scorer = task(pairs, pairs, tokenizers, order, rows, 0, 0.0, 0.0, False, device_of(model))
    return scorer.evaluate(model)


def prepare(config: DialogueConfig, on_progress: Progress) -> Dialogues:
    """Read, check and tokenise dialogues, or find what was made of them before.

    Raises:
        DataError: As of `ensue.data.dialogues.prepare_dialogues`.
    """
    corpus = prepare_dialogues(
        config,
        make_tokenizer=lambda kind, texts, size: train_tokenizer(kind, texts, vocab_size=size),
        load_tokenizer=load_tokenizer,
        on_progress=on_progress,
    )
    return Dialogues(corpus, load_tokenizer(corpus.tokenizer_path), config)


def frozen(config: DialogueConfig, folder: Path) -> DialogueConfig:
    """Give the config of a run that was begun: its tokenizer is the one in its folder."""
    return replace(config, tokenizer=str(folder / TGT_TOKENIZER))
