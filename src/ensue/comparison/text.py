"""Comparing language models: bits per byte, and what counting n-grams achieves."""

from collections.abc import Sequence
from typing import Any

import torch

from ensue.comparison.request import CompareConfig
from ensue.data.corpus import DataConfig, tokenise
from ensue.data.shards import Tokens
from ensue.decoding.engine import generate
from ensue.decoding.logits import Sampling
from ensue.floors import floor_of
from ensue.runs import Run
from ensue.tasks.lm import Text, score
from ensue.tasks.measures import BITS
from ensue.tokenizers import load_tokenizer
from ensue.training.session import load_model
from ensue.training.tracking import Tracker

SAMPLE_TOKENS = 120


class TextJudge:
    """See `ensue.comparison.judge.Judge`.

    Args:
        request: What is compared.
        material: The text.
        tracker: Hears how it goes.
        measure: Is always bits per byte.

    Raises:
        DataError: The test text cannot be read.
    """

    measures = (BITS,)

    def __init__(
        self, request: CompareConfig, material: Text, tracker: Tracker, measure: str = ""
    ) -> None:
        data = request.data
        assert isinstance(data, DataConfig)
        self.request, self.material, self.tracker = request, material, tracker
        self._test: Tokens | None = None
        if request.test:  # now, not after hours of training: its name may be misspelt
            self._test, _ = tokenise(
                request.test,
                material.tokenizer,
                text_column=data.text_column,
                encoding=data.encoding,
                cache_folder=data.cache,
                load_tokenizer=load_tokenizer,
            )
        self.test = self._test.fingerprint if self._test else ""

    def lengths(self) -> list[dict[str, Any]]:
        """Give none: nothing is scored by its length."""
        return []

    def facts(self) -> dict[str, Any]:
        """Give names and sizes of the texts."""
        corpus, tokenizer, data = self.material.corpus, self.material.tokenizer, self.request.data
        return {
            "sources": list(data.sources),
            "valid": list(data.valid),
            "test": list(self.request.test),
            "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} entries",
            "train_bytes": corpus.train.num_bytes,
            "valid_bytes": corpus.valid.num_bytes,
            "test_bytes": self._test.num_bytes if self._test else 0,
        }

    def shared(self, leading: Any) -> dict[str, Any]:
        """Give the window, since the score depends on it."""
        return {"context_length": leading.context_length}

    def score(self, run: Run, split: str) -> dict[str, Any]:
        """Score a run on the test text; on valid it has scored itself."""
        if split == "valid":
            return {}
        text = self._text(split)
        model, _ = load_model(run)
        length = run.read_plan()["config"]["model"]["context_length"]
        bits = score(model, text, length, split, torch.device("cpu"))[BITS]
        return {BITS.key: bits}

    def floors(self, split: str) -> list[dict[str, Any]]:
        """Count n-grams."""
        self.tracker.progress("counting n-grams", 0, 0)
        floor = floor_of(self.material.corpus.train, self._text(split), self.material.tokenizer)
        return [
            {
                "name": f"{floor.order}-gram counts of bytes",
                "doing": f"counting {floor.order}-grams",
                "seconds": floor.seconds,
                "note": floor.note,
                BITS.key: floor.bits_per_byte,
            }
        ]

    def _text(self, split: str) -> Tokens:
        text = self.material.corpus.valid if split == "valid" else self._test
        assert text is not None
        return text

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Let a run write from an empty page."""
        model, tokenizer = load_model(run)
        settings = [Sampling(max_new_tokens=SAMPLE_TOKENS, seed=0)]
        stop = frozenset([tokenizer.eos_id])
        events = generate(
            model, [[tokenizer.eos_id]], settings, stop_ids=stop, past_context="slide"
        )
        return [{"prompt": "", "text": tokenizer.decode([event.token for event in events])}]

    def updates(self, configs: Sequence[dict[str, Any]]) -> str:
        """Say how long windows are, and how many tokens an update has."""
        model, train = configs[-1]["model"], configs[-1]["train"]
        rows = {c["train"]["global_batch_size"] for c in configs}
        tokens = f"{train['global_batch_size'] * model['context_length']:,}"
        return (
            f"Windows of {model['context_length']} tokens for all,"
            f" {f'updates of {tokens} tokens, ' if len(rows) == 1 else ''}"
        )

    def scoring(self, outcomes: Sequence[Any]) -> list[str]:
        """Say how bits per byte are measured."""
        scored = {(o.targets, o.sampled) for o in outcomes}
        which = "every byte scored once"
        if any(sampled for _, sampled in scored):
            targets = " or ".join(f"{targets:,}" for targets, _ in sorted(scored))
            which = f"an evenly spread sample of {targets} tokens of valid scored once"
        return [
            f"Bits per byte: non-overlapping windows, {which}, what the tokenizer cannot spell"
            " charged 8 bits a byte. The winner was chosen on valid.",
            "Generating: the candidate's shape with random weights and a context as long as is"
            " shown, one row, one thread of the processor, fp32.",
        ]
