"""Comparing encoder-decoders: how good their translations are, and by the length of the source.

A run records the bits that it needs for each byte of the targets of valid; by these its learning
rates are chosen. What a reader wants to know is how good its translations are: the pairs of valid
are translated, and counted by sacreBLEU's measures and as exactly right. BLEU decides, unless most
references have fewer than the four words that it counts: then it is chrF, where they are long all
the same (a script without spaces), and else, as of dates, the share that is exactly right.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ensue import bleu
from ensue.comparison.request import CompareConfig, named_files
from ensue.data.cache import key_of
from ensue.data.notes import Notes
from ensue.data.pairs import Pair, PairsConfig, check_test, read_splits, read_whole
from ensue.dictionary import Dictionary, count_dictionary
from ensue.runs import Run
from ensue.tasks.measures import BITS, BLEU, CHRF, EXACT
from ensue.tasks.translate import Pairs, translator_of
from ensue.training.choose import THREADS
from ensue.training.session import load_model
from ensue.training.tracking import Tracker
from ensue.translator import Search

COUNT: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {
    "exact": bleu.exact_share,
    "bleu": lambda texts, references: bleu.corpus_score("BLEU", texts, references).value,
    "chrf": lambda texts, references: bleu.corpus_score("chrF", texts, references).value,
}
"""What counts each measure over a whole text."""
WORDS, LETTERS = 4, 12
"""Of most references: with so many words BLEU decides, with fewer but so many letters chrF."""
MOST_TRANSLATED = 2_000
"""Pairs of valid, evenly spread: each run translates them, and BLEU hardly changes with more."""
GROUPS, GROUP_PAIRS = 8, 50
"""Groups of sources by length, at most, and pairs of each, at least: fewer are mostly chance."""


@dataclass(frozen=True, kw_only=True)
class LengthGroup:
    """Sources of about one length."""

    shortest: int
    """Tokens."""
    longest: int
    """Tokens."""
    mean: float
    """Tokens."""
    pairs: int
    """How many there are."""


class PairsJudge:
    """See `ensue.comparison.judge.Judge`.

    Args:
        request: What is compared.
        material: The pairs.
        tracker: Hears how it goes.
        measure: Key of the one that decides, where a plan says so; empty: to be chosen.

    Raises:
        DataError: The test pairs cannot be read, or their sides are the other way round.
        MissingExtraError: A plan says BLEU, and sacrebleu is no longer installed.
    """

    def __init__(
        self, request: CompareConfig, material: Pairs, tracker: Tracker, measure: str = ""
    ) -> None:
        assert isinstance(request.data, PairsConfig)
        self.request, self.material, self.tracker = request, material, tracker
        self.data: PairsConfig = request.data
        notes = Notes()
        test = self._read_test(notes)  # now, not after hours: its name may be misspelt
        self._test = [(pair.src, pair.tgt) for pair in test]
        self.test = key_of(self._test) if test else ""
        with read_splits(self.data, tracker.progress) as (train, valid):
            self._valid = self._translated(list(valid.texts()))
            self._remarks = check_test(test, train, valid) if test else ()
        for line in (*notes.lines(), *self._remarks):
            tracker.notice(line)
        main = measure or self._main()
        if main in (BLEU.key, CHRF.key):
            bleu.require()
        known = [EXACT, *([BLEU, CHRF] if bleu.is_installed() else []), BITS]
        self.measures = tuple(sorted(known, key=lambda m: m.key != main))

    def _read_test(self, notes: Notes) -> list[Pair]:
        asked = self.request
        if not (asked.test or asked.test_src):
            return []
        alone = replace(self.data, valid=(), valid_src=(), valid_tgt=())
        config = replace(alone, sources=asked.test, src=asked.test_src, tgt=asked.test_tgt)
        return read_whole(config, notes)

    def _translated(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Give those pairs of valid that each run translates."""
        assert len(pairs) == len(self.material.corpus.valid), "valid is not what was tokenised"
        places = np.linspace(0, len(pairs) - 1, min(MOST_TRANSLATED, len(pairs)))
        return [pairs[i] for i in places.astype(np.int64)]

    def _main(self) -> str:
        words = statistics.median(len(tgt.split()) for _, tgt in self._valid)
        letters = statistics.median(sum(map(str.isalpha, tgt)) for _, tgt in self._valid)
        if not bleu.is_installed():
            return EXACT.key
        return BLEU.key if words >= WORDS else CHRF.key if letters >= LETTERS else EXACT.key

    @cached_property
    def _dictionary(self) -> Dictionary:
        self.tracker.progress("counting a dictionary", 0, 0)
        with read_splits(self.data, self.tracker.progress) as (train, _):
            return count_dictionary(train.texts())

    @cached_property
    def _grouped(self) -> tuple[list[LengthGroup], list[NDArray[np.int64]]]:
        """Group valid by the length of the source; gives the groups and the places of each."""
        encode = self.material.src_tokenizer.encode_array
        lengths = np.array([len(encode(src)[0]) for src, _ in self._valid])
        groups, places = [], []
        for shortest, longest in length_bins(lengths):
            inside = np.flatnonzero((shortest <= lengths) & (lengths <= longest))
            mean = float(lengths[inside].mean())
            size = len(inside)
            groups.append(LengthGroup(shortest=shortest, longest=longest, mean=mean, pairs=size))
            places.append(inside)
        return groups, places

    def lengths(self) -> list[dict[str, Any]]:
        """Give the groups by which ``by_length`` is counted."""
        return [asdict(group) for group in self._grouped[0]]

    def facts(self) -> dict[str, Any]:
        """Give names and sizes of the splits."""
        corpus, asked = self.material.corpus, self.request
        tokenizer = self.material.tgt_tokenizer
        learnt = replace(self.data, valid=(), valid_src=(), valid_tgt=())
        return {
            "sources": list(named_files(learnt)),
            "valid": [*self.data.valid, *self.data.valid_src, *self.data.valid_tgt],
            "test": [*asked.test, *asked.test_src, *asked.test_tgt],
            "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} entries"
            + (" for both sides" if self.material.joint else ""),
            "train_pairs": len(corpus.train),
            "valid_pairs": len(corpus.valid),
            "test_pairs": len(self._test),
        }

    def shared(self, leading: Any) -> dict[str, Any]:
        """Give positions for the longest pair that is learnt from: all read the same pairs."""
        given = getattr(leading, "context_length", 0)
        return {"context_length": max(given, self.data.max_tokens)}

    def score(self, run: Run, split: str) -> dict[str, Any]:
        """Translate a split, and count how good that is."""
        torch.set_num_threads(THREADS)
        model, _ = load_model(run)
        translator = translator_of(model, run.path, self.data.max_tokens)
        pairs = self._pairs(split)

        def told(done: int) -> None:
            self.tracker.progress(f"translating with {run.path.name}", done, len(pairs))

        search = Search(num_beams=self.request.num_beams)
        lines = translator.stream([src for src, _ in pairs], search, on_progress=told)
        return self._counted([line.text for line in lines], split)

    def floors(self, split: str) -> list[dict[str, Any]]:
        """Copy the source; translate it word by word."""
        sources = [src for src, _ in self._pairs(split)]
        dictionary = self._dictionary
        return [
            {
                "name": "source copied",
                "doing": "copying the source",
                "seconds": 0.0,
                "note": "",
                **self._counted(sources, split),
            },
            {
                "name": "word by word",
                "doing": "a dictionary of words",
                "seconds": dictionary.seconds,
                "note": dictionary.note,
                **self._counted([dictionary.translate(src) for src in sources], split),
            },
        ]

    def _pairs(self, split: str) -> list[tuple[str, str]]:
        return self._valid if split == "valid" else self._test

    def _counted(self, texts: list[str], split: str) -> dict[str, Any]:
        """Count all measures, and on valid the one that decides by the length of the source."""
        references = [tgt for _, tgt in self._pairs(split)]
        keys = [m.key for m in self.measures if m.key in COUNT]
        values: dict[str, Any] = {key: COUNT[key](texts, references) for key in keys}
        if split == "valid":
            count = COUNT[self.measures[0].key]
            values["by_length"] = [
                count([texts[i] for i in places], [references[i] for i in places])
                for places in self._grouped[1]
            ]
        return values

    def samples(self, run: Run) -> list[dict[str, str]]:
        """Give none: a source is a row of the data."""
        return []

    def updates(self, configs: Sequence[dict[str, Any]]) -> str:
        """Say how pairs are put together."""
        tokens = {c["train"]["batch_tokens"] for c in configs}
        size = f"of at most {tokens.pop():,} tokens a side " if len(tokens) == 1 else ""
        return f"Updates {size}from pairs of like length, the same for all, "

    def scoring(self, outcomes: Sequence[Any]) -> list[str]:
        """Say how translations are made and counted."""
        beams = self.request.num_beams
        how = f"by beam search, {beams} beams" if beams > 1 else "greedily"
        lines = [
            f"Translations: {len(self._valid):,} pairs of valid, {how}, as `ensue translate"
            f" --num-beams {beams}` does."
            f" {self.measures[0].name} decides; the winner was chosen on valid. Exact match: the"
            " line is its reference, letter by letter."
        ]
        if bleu.is_installed():
            signed = [bleu.corpus_score(name, ["a"], ["a"]) for name in ("BLEU", "chrF")]
            lines.append(f"sacreBLEU: {'; '.join(f'{m.name} {m.signature}' for m in signed)}.")
        lines += [f"Test: {remark}." for remark in self._remarks]
        whole = "every byte" if not any(o.sampled for o in outcomes) else "an even sample"
        return [
            *lines,
            f"Bits per byte: each target of valid given its source, {whole} scored once; by these"
            " learning rates and the best weights of a run were chosen.",
            "By length: groups of like size by the tokens of the source; lengths that are equal"
            " stay together.",
            "Generating: the candidate's shape with random weights, after a source as long as is"
            " shown, one row, one thread of the processor, fp32.",
        ]


def length_bins(
    lengths: NDArray[np.int64], most: int = GROUPS, least: int = GROUP_PAIRS
) -> list[tuple[int, int]]:
    """Cut lengths into groups as equal as can be without parting those that are equal.

    Args:
        lengths: One of each source.
        most: Groups, at most.
        least: Sources of each, on average at least.

    Returns:
        The shortest and the longest length of each group.
    """
    count = max(1, min(most, len(lengths) // least))
    values, sizes = np.unique(lengths, return_counts=True)
    middle = np.cumsum(sizes) - sizes / 2  # how many sources are shorter than half of these
    of = (middle * count / len(lengths)).astype(np.int64)
    groups = [values[of == group] for group in np.unique(of)]
    return [(int(group[0]), int(group[-1])) for group in groups]
