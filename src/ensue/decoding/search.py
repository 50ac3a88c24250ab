"""Beam search: keep the k likeliest beginnings of each row, and give the best whole ones.

A hypothesis is scored by

    score = log P(tokens) / length ^ length_penalty

where the length counts all its tokens, the end too; 0: the sum alone, 1: the mean. The search of a
row ends when no beginning can become better than what is found. That is exact: log P only falls, so
log P now / (longest length allowed) ^ length_penalty bounds all that may come of it. With one beam
it ends at the first end: greedy.

Rows leave the batch as they end. Reference: Graves 2012, arXiv:1211.3711, algorithm 1; the length
penalty as in Hugging Face's transformers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ensue.decoding.decoder import Decoder
from ensue.decoding.engine import evaluating
from ensue.errors import NonFiniteError, UsageError
from ensue.nn.state import select_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """How beams are searched."""

    num_beams: int = 5
    """Beginnings that are kept; 1: the likeliest token at each step (greedy)."""
    n_best: int = 1
    """Hypotheses to give; at most `num_beams`."""
    length_penalty: float = 1.0
    """Exponent of the length that a log probability is divided by; above 1 favours long ones."""

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise UsageError(f"num_beams is {self.num_beams}; it must be at least 1")
        if not 1 <= self.n_best <= self.num_beams:
            raise UsageError(
                f"n_best is {self.n_best}; it lies from 1 to num_beams, {self.num_beams}",
                f"Search wider: --num-beams {self.n_best}",
            )
        if not math.isfinite(self.length_penalty):
            raise UsageError(f"length_penalty is {self.length_penalty}; it must be a number")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One way to write a row."""

    tokens: tuple[int, ...]
    """Its ids; the last is the end, unless it was cut."""
    logprob: float
    """Sum of their natural log probabilities."""
    score: float
    """By which hypotheses are ordered; see the module."""
    reason: str
    """``stop``, or ``length``: the longest allowed."""


@dataclass(slots=True)
class _Row:
    """One row's search: what is found of it."""

    number: int
    most: int  # tokens at most
    found: list[Hypothesis] = field(default_factory=list)

    def take(self, tokens: Sequence[int], logprob: float, reason: str, beam: Beam) -> None:
        """Keep a hypothesis that is among the best so far."""
        score = logprob / len(tokens) ** beam.length_penalty
        one = Hypothesis(tokens=tuple(tokens), logprob=logprob, score=score, reason=reason)
        self.found = sorted([*self.found, one], key=lambda h: -h.score)[: beam.n_best]

    def is_over(self, best: float, steps: int, beam: Beam) -> bool:
        """Whether nothing better can come of any beam, of which the likeliest is given."""
        if best == -math.inf or steps == self.most:
            return True
        if len(self.found) < beam.n_best:
            return False
        if beam.num_beams == 1:
            return True  # the likeliest token was the end
        # A log probability is negative: divided by the most it is best.
        longest = (steps + 1, self.most)[beam.length_penalty > 0]
        return best / longest**beam.length_penalty <= self.found[-1].score


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    prompts: Int[Tensor, "B P"],
    memory: Any,
    beam: Beam,
    *,
    stop_id: int,
    most: Sequence[int],
    banned_ids: Sequence[int] = (),
    no_repeat: int = 0,
) -> list[list[Hypothesis]]:
    """Search all rows at once.

    Args:
        decoder: What is asked for the next token; run without dropout.
        prompts: What each row begins with, for instance the id that starts a target.
        memory: What the encoder made of each row's source; None: there is none.
        beam: How wide, and by which score.
        stop_id: The id that ends a hypothesis.
        most: Tokens of each row at most, the end included; the decoder's own limit holds too.
        banned_ids: Ids that are never chosen.
        no_repeat: So many tokens in a row are written at most once; 0: as often as it likes.

    Returns:
        For each row its best hypotheses, best first; at least one.

    Raises:
        NonFiniteError: The model gives logits that are not numbers.
    """
    limit = decoder.max_length
    room = math.inf if limit is None else limit - prompts.shape[1] + 1
    rows = [_Row(i, int(max(1, min(n, room)))) for i, n in enumerate(most)]
    every = list(rows)
    banned = torch.tensor(sorted(banned_ids), device=prompts.device).long()
    exact = torch.float32 if prompts.device.type == "mps" else torch.float64  # which it lacks
    beams = _Beams(
        prompts.new_empty(len(rows), 1, 0),
        torch.zeros(len(rows), 1, dtype=exact, device=prompts.device),
    )
    with evaluating(decoder):
        hidden, state = decoder(prompts, decoder.init_state(len(rows), memory))
        for steps in range(1, max(row.most for row in rows) + 1):
            values, tokens = _likeliest(
                decoder.head(hidden[:, -1]), beams, beam.num_beams, banned, no_repeat
            )
            beams, origin = _advance(rows, beams, values, tokens, stop_id, beam)
            best = beams.logprobs.amax(dim=1).tolist()
            on = [i for i, row in enumerate(rows) if not row.is_over(best[i], steps, beam)]
            if not on:
                break
            sources: Tensor | slice = slice(None)
            if len(on) < len(rows):
                rows, sources = [rows[i] for i in on], torch.tensor(on, device=prompts.device)
                origin = origin[sources]
                beams = _Beams(beams.texts[sources], beams.logprobs[sources])
            state = select_rows(state, origin.flatten(), sources)
            hidden, state = decoder(beams.texts[..., -1].reshape(-1, 1), state)
    return [row.found for row in every]


@dataclass(frozen=True, slots=True)
class _Beams:
    """The beginnings of all rows that are searched for, each row's likeliest first."""

    texts: Int[Tensor, "B K T"]
    logprobs: Float[Tensor, "B K"]  # -inf: none stands here


def _likeliest(
    logits: Float[Tensor, "R V"],
    beams: _Beams,
    num_beams: int,
    banned: Int[Tensor, " N"],
    no_repeat: int,
) -> tuple[Float[Tensor, "R W"], Int[Tensor, "R W"]]:
    """Give the log probabilities of each beam's likeliest next tokens, and these."""
    logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)
    if bool(logprobs[:, 0].isnan().any()):  # one such logit makes all of its row so
        raise NonFiniteError(
            "the model's logits are not numbers",
            "Its weights may be damaged, or training diverged: try an earlier checkpoint.",
        )
    if len(banned):
        logprobs = logprobs.index_fill(1, banned, -math.inf)
    if no_repeat:
        logprobs = logprobs.masked_fill(_repeating(beams, no_repeat, logits.shape[1]), -math.inf)
    # Of 2k candidates at most k end, so that k are left to go on.
    values, tokens = logprobs.topk(min(2 * num_beams, logits.shape[1]), dim=-1)
    return values, tokens


def _repeating(beams: _Beams, width: int, vocab_size: int) -> Bool[Tensor, "R V"]:
    """Say which tokens would end a group of `width` tokens that stands in the text already."""
    texts = beams.texts.flatten(0, 1)
    would = torch.zeros(len(texts), vocab_size, dtype=torch.bool, device=texts.device)
    if texts.shape[1] >= width:
        groups = texts.unfold(1, width, 1)  # (R, T - width + 1, width)
        newest = texts[:, texts.shape[1] - width + 1 :]
        row, at = (groups[..., :-1] == newest[:, None]).all(dim=-1).nonzero(as_tuple=True)
        would[row, groups[row, at, -1]] = True
    return would


def _advance(
    rows: list[_Row],
    beams: _Beams,
    values: Float[Tensor, "R W"],
    tokens: Int[Tensor, "R W"],
    stop_id: int,
    beam: Beam,
) -> tuple[_Beams, Int[Tensor, "B K"]]:
    """Lengthen every beam by its likeliest tokens, and keep the best of them all.

    Returns:
        The beams that go on, and for each where in the batch it comes from.
    """
    n, before = beams.logprobs.shape
    width, steps = values.shape[1], beams.texts.shape[2] + 1
    together = (beams.logprobs[..., None] + values.view(n, before, width)).flatten(1)
    logprobs, places = together.topk(min(2 * beam.num_beams, together.shape[1]), dim=1)
    parent = places // width
    newest = tokens.view(n, -1).gather(1, places)
    ends = newest == stop_id
    # In their order, first those that go on; a candidate that ends is none of them.
    kept = ends.to(torch.int8).argsort(dim=1, stable=True)[:, : beam.num_beams]
    parents = parent.gather(1, kept)
    texts = beams.texts.gather(1, parents[..., None].expand(-1, -1, steps - 1))
    after = _Beams(
        torch.cat([texts, newest.gather(1, kept)[..., None]], dim=2),
        logprobs.masked_fill(ends, -math.inf).gather(1, kept),
    )
    ended = ends[:, : beam.num_beams] & (logprobs[:, : beam.num_beams] > -math.inf)
    row, rank = ended.nonzero(as_tuple=True)
    finished = beams.texts[row, parent[row, rank]].tolist()  # all at once: a look-up costs as much
    for i, text, logprob in zip(row.tolist(), finished, logprobs[row, rank].tolist(), strict=True):
        rows[i].take([*text, stop_id], logprob, "stop", beam)
    dead = (after.logprobs[:, 0] == -math.inf).tolist()
    for i, one in enumerate(rows):
        if steps == one.most:
            _take_all(one, after, i, beam)
        if not one.found and dead[i]:
            # All that was likely would repeat: what there is, is given.
            _take_all(one, beams, i, beam, stop_id)
    first = torch.arange(n, device=places.device)[:, None] * before
    return after, first + parents


def _take_all(row: _Row, beams: _Beams, i: int, beam: Beam, stop_id: int = -1) -> None:
    """Keep a row's beams as what they are: texts without an end."""
    for text, logprob in zip(beams.texts[i].tolist(), beams.logprobs[i].tolist(), strict=True):
        if logprob > -math.inf:
            row.take(text or [stop_id], logprob, "length", beam)
