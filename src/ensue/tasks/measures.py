"""The numbers by which models are told apart: what each is called, and which side is better."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number that says how good a model is."""

    key: str
    """In ``metrics.jsonl``, ``results.json`` and ``table.csv``."""
    name: str
    """At the head of its column."""
    unit: str
    """Behind its value in a sentence."""
    digits: int
    """After the point, where models are told apart; a single run is shown one more."""
    more: bool = False
    """Whether more is better."""

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.name[0].upper() + self.name[1:]

    def shown(self, value: float, more_digits: int = 0) -> str:
        """Write a value in a sentence."""
        return f"{value:.{self.digits + more_digits}f} {self.unit}"

    def cost(self, value: float) -> float:
        """Give what is less where the model is better: to sort by."""
        return -value if self.more else value


BITS = Measure(key="bits_per_byte", name="bits per byte", unit="bits per byte", digits=3)
"""Of a text or of the targets of pairs, whatever the tokenizer."""
LOSS = Measure(key="loss", name="loss", unit="nats", digits=3)
"""Of labels: the mean negative log-likelihood of the right one."""
BLEU = Measure(key="bleu", name="BLEU", unit="BLEU", digits=2, more=True)
GREEDY_BLEU = replace(BLEU, name="BLEU (greedy)", unit="BLEU (greedy)")
"""As runs record it, where their weights are kept by it."""
CHRF = Measure(key="chrf", name="chrF", unit="chrF", digits=2, more=True)
EXACT = Measure(key="exact", name="% exact match", unit="% exactly right", digits=1, more=True)
ACCURACY = Measure(key="accuracy", name="% right", unit="% right", digits=2, more=True)
MACRO_F1 = Measure(key="macro_f1", name="macro F1", unit="macro F1", digits=2, more=True)
"""Of each class F1 in per cent, all classes counting alike."""
CALIBRATION = Measure(
    key="calibration", name="calibration error, %", unit="% calibration error", digits=2
)
"""By how much confidence and accuracy differ, once the temperature is fitted."""
TEMPERATURE = Measure(key="temperature", name="temperature", unit="temperature", digits=3)
"""What logits are divided by for that; neither more nor less of it is better."""

FOLLOWING = Measure(
    key="following", name="% of halves told", unit="% of halves told", digits=1, more=True
)
"""Of masked texts: whether the second half of a row followed the first."""

SAID = (ACCURACY, MACRO_F1, FOLLOWING, BITS, GREEDY_BLEU)
"""What is said of a run, as far as it is recorded, in this order; the loss where it has no bits."""


def said(record: Mapping[str, Any]) -> list[Measure]:
    """Give what is said of a run's score: the first is the headline."""
    known = [measure for measure in SAID if measure.key in record]
    return known if BITS in known else [*known, LOSS]
