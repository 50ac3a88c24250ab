"""Look at a text classifier while it reads: which words speak for its answer, and its insides.

seen = ensue.look_at_text("runs/reviews", "a fine film")
seen.answer.label
seen.speaks                 # of each word, how much it speaks for the answer
seen.save("pictures")       # a page, and each picture as SVG and PNG
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ensue import __version__
from ensue.classification import load_classifier
from ensue.classifier import Answering, Classified, Classifier, TextClassifier
from ensue.decoding.engine import evaluating
from ensue.errors import UsageError
from ensue.inspection import whole
from ensue.nn.capture import Maps, capture
from ensue.nn.words import Bag
from ensue.runs import Run
from ensue.tasks.classify import BagTexts, shown
from ensue.views.classes import answer_picture, speaking_heads, speaking_rows
from ensue.views.looks import SHOWN, fits, insides, look_page, right_to_left, write_pictures
from ensue.views.page import framed, table
from ensue.views.pictures import Picture
from ensue.views.text import place, visible

TOP = 5
"""Classes that are named."""
STEPS = 32
"""From a text that says nothing to the one that is read. Ranked so, the words of 120 TREC questions
agree with what leaving each out does to the lead (Spearman, mean): LSTM 0.83, RNN 0.76, CNN 0.82;
by the slope at the text alone 0.65, 0.62, 0.81. In the sum the steps miss 1, 4 and 0.0 %."""
AT_ONCE = 8192
"""Words of the copies of a text through which slopes are taken together: all of a text of 256, for
the steps of a recurrent network cost as much for one row as for many."""


@dataclass(frozen=True, kw_only=True, repr=False)
class TextLook:
    """What was seen of a classifier while it read a text.

    What is asked of the words is the answer's lead: its logit less the mean of all classes'. (A
    logit alone may rise with all others, which changes no confidence.)
    """

    title: str
    """Which model."""
    answer: Classified
    """What it said."""
    tokens: tuple[str, ...]
    """What was read, word by word or piece by piece, made visible."""
    speaks: Float[np.ndarray, " T"]
    """How much each speaks for the answer: slope of the lead in its vector, mean over even steps
    from vectors of zero to those of the text, times the vector. Of a bag of n-grams the same in
    their weights, shared out among the words that they lie in. Up to the error of the steps all of
    them add up to `lead` less `silent`. Reference: Sundararajan et al. 2017, arXiv:1703.01365
    (integrated gradients)."""
    lead: float
    """Of the answer, for this text."""
    silent: float
    """Of the answer, for as many words that say nothing."""
    maps: Mapping[str, Float[np.ndarray, "..."]]
    """What the model's taps showed: attention (H, T, T), gates i f o (T, 3, D), states and feature
    maps (T, D), in the order of the text."""
    notices: tuple[str, ...]
    """What was cut, and what the pictures leave out."""
    how: str
    """How it was measured what speaks for the answer, in words."""

    @property
    def text(self) -> str:
        """What was read of the text, made visible: a file of megabytes would be a page of them."""
        source = self.answer.source
        return f"{' '.join(self.tokens)} …" if self.answer.notices else visible(source)

    @property
    def drawn(self) -> slice:
        """Words that the pictures show: those in a row that speak the most."""
        return _loudest(self.speaks)

    @cached_property
    def pictures(self) -> list[Picture]:
        """Everything drawn."""
        sums = f"All together bring it from {self.silent:+.2f} to {self.lead:+.2f}."
        first = answer_picture(
            self.tokens, self.speaks, self.answer.top, self.drawn, f"{self.how} {sums}"
        )
        return [first, *insides(self.maps, {"T": self.tokens}, self.drawn)]

    @property
    def heads(self) -> list[str]:
        """Heads of `rows`."""
        return speaking_heads(self.answer.top[0][0])

    @property
    def rows(self) -> list[list[str]]:
        """The words that speak most for the answer, and those that speak against it."""
        return speaking_rows(self.tokens, self.speaks)

    def to_json(self) -> dict[str, Any]:
        """Give all numbers but the maps as plain values."""
        return {
            "title": self.title,
            "text": self.text,
            "top": [{"label": label, "confidence": c} for label, c in self.answer.top],
            "tokens": list(self.tokens),
            "speaks": self.speaks.tolist(),
            "lead": self.lead,
            "silent": self.silent,
            "notices": list(self.notices),
        }

    def save(self, folder: str | Path) -> list[Path]:
        """Write look.html, and each picture as SVG and, with matplotlib, as PNG."""
        return write_pictures(Path(folder), "look.html", self._page(), self.pictures)

    def _page(self) -> str:
        found = {
            "answer": self.answer.label,
            "confidence": f"{self.answer.confidence:.1%}",
            "tokens read": f"{len(self.tokens):,}",
        }
        return look_page(
            self.title,
            [self.text],
            self.notices,
            found,
            self.pictures,
            __version__,
            table("The words that speak most", self.heads, self.rows),
        )

    def _repr_html_(self) -> str:
        return framed(self._page(), "ensue inspect")

    def __repr__(self) -> str:
        return f"TextLook({self.title!r}, {self.answer})"


def look_at_text(run: str | Path | Run | Classifier, text: str) -> TextLook:
    """Let a run that names the classes of texts read one, and look inside.

    Args:
        run: Its folder, empty: the newest below ``runs/``; or what `ensue.load_classifier` gave.
        text: Of any length: what follows `max_words` words is not read.

    Raises:
        RunError: The run is missing, unfinished or damaged.
        UsageError: It was trained for another task, or the text is empty.
        DataError: There is no word in the text.
    """
    if not text:
        raise UsageError("the text is empty", 'For instance: ensue inspect RUN "a fine film"')
    classifier = run if isinstance(run, Classifier) else load_classifier(run, "classify")
    assert isinstance(classifier, TextClassifier)
    model, classes = classifier.model, classifier.classes
    answer = classifier.classify(text, Answering(top_k=min(TOP, len(classes))))
    rows = classifier.rows([text])
    tokens = tuple(map(visible, rows.tokens(0)))
    inputs = shown(rows, np.arange(1))
    with evaluating(model):
        with torch.no_grad(), capture(model) as found:
            model(*inputs)
        said = _said(model, inputs, found, classes.index(answer.top[0][0]))
    speaks = said.parts.double().numpy()
    is_bag = isinstance(rows, BagTexts)
    if isinstance(rows, BagTexts):
        speaks = rows.spread(0, speaks)
    card = classifier.card
    return TextLook(
        title=f"{card.get('model', 'A model')} ({place(card.get('run', 'in memory'))})",
        answer=answer,
        tokens=tokens,
        speaks=speaks,
        lead=said.lead,
        silent=said.silent,
        maps=_fitting(found, len(tokens), getattr(model, "widths", ())),
        notices=(*answer.notices, *_notices(tokens, speaks)),
        how=HOW.format(BAG if is_bag else VECTORS),
    )


HOW = (
    "Measured is the answer's lead: its logit less the mean of all classes'. Each word's part is"
    " the slope of the lead in {}, mean over even steps from zero to this text."
)
VECTORS = "the word's vector, times that vector"
BAG = "the weight of each n-gram that lies in it, times that weight"


def _loudest(speaks: Float[np.ndarray, " T"]) -> slice:
    """Give the words in a row that speak the most, as many as a picture shows."""
    sums = np.cumsum(np.insert(np.abs(speaks), 0, 0.0))
    first = int(np.argmax(sums[SHOWN:] - sums[:-SHOWN])) if len(speaks) > SHOWN else 0
    return slice(first, min(first + SHOWN, len(speaks)))


def _notices(tokens: tuple[str, ...], speaks: Float[np.ndarray, " T"]) -> list[str]:
    notices, part = [], _loudest(speaks)
    if len(tokens) > SHOWN:
        notices.append(
            f"Pictures show tokens {part.start + 1:,} to {part.stop:,} of {len(tokens):,}: the"
            f" {SHOWN} in a row that speak the most, for or against."
        )
    if right_to_left(tokens):
        notices.append("Pictures show tokens in the order of reading, from the left or from above.")
    return notices


def _fitting(found: Maps, count: int, widths: Sequence[int]) -> dict[str, Float[np.ndarray, "..."]]:
    """Keep what there are pictures for, filters under the words that they look at."""
    names = {
        f"layers.{i}/maps": f"filters of {w} words, {-((w - 1) // 2):+d} to {w // 2:+d}/maps"
        for i, w in enumerate(widths)
    }
    return {
        names.get(name, name): seen
        for name, seen in whole(found).items()
        if fits(name, seen, {"T": count}, slice(None))
    }


@dataclass(frozen=True)
class _Said:
    """What each part of a text says."""

    parts: Float[Tensor, " N"]
    """Of a word, or of an n-gram in a bag."""
    lead: float
    silent: float


def _said(model: Any, inputs: Any, found: Maps, answer: int) -> _Said:
    """Measure what each word, or n-gram of a bag, says for an answer; see `TextLook.speaks`.

    Args:
        model: Takes a bag of n-grams, or rows and a shift of their words' vectors.
        inputs: One text.
        found: What its taps showed of it; one of the name ``vectors``, where it has no bag.
        answer: Number of the class.
    """
    if isinstance(inputs, Bag):
        given = inputs.weights[:, None]
    else:
        (vectors,) = (seen for name, seen in found.items() if name.endswith("/vectors"))
        given = vectors[0][0].float()

    def leads(scaled: Float[Tensor, "P N D"]) -> Float[Tensor, " P"]:
        logits = model(*_copies(inputs, given, scaled)).float()
        lead: Tensor = logits[:, answer] - logits.mean(dim=1)
        return lead

    silent, lead = leads(torch.stack([torch.zeros_like(given), given])).tolist()
    slopes = torch.zeros_like(given)
    steps = (torch.arange(STEPS) + 0.5) / STEPS
    for shares in steps.split(max(1, AT_ONCE // len(given))):
        scaled = (shares[:, None, None] * given).requires_grad_()
        slopes += torch.autograd.grad(leads(scaled).sum(), scaled)[0].sum(dim=0)
    return _Said((slopes / STEPS * given).sum(dim=1), lead, silent)


def _copies(
    inputs: Any, given: Float[Tensor, "N D"], scaled: Float[Tensor, "P N D"]
) -> tuple[Tensor, ...]:
    """Give what a model reads of a text with other weights of its bag, or other vectors."""
    count = len(scaled)
    if isinstance(inputs, Bag):
        starts = torch.arange(count) * len(inputs.ids)
        return inputs.ids.repeat(count), starts, scaled.flatten()
    ids, length, *rest = inputs
    return (ids.expand(count, -1), length.expand(count), *rest, scaled - given)
