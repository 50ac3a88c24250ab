"""From logits to one token per row, by rules that may differ from row to row.

Randomness is counter-based: the uniform number behind a row's n-th token is a hash of (seed, n). It
needs no generator to carry about, is the same on every device, and cannot depend on the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ensue.errors import NonFiniteError, UsageError

WORD = (1 << 64) - 1
HEADS = (
    128,
    2048,
)  # nuclei are sought among so many tokens first: sorting all of 50k costs 40x more
BLOCK = (
    256  # weights are summed by blocks, then within one: a float64 sum over 50k ids costs 15x more
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the tokens of one row are chosen, and how many.

    The order is: banned ids, repetition penalty, repeated passages, temperature, top-k, top-p,
    min-p.
    """

    max_new_tokens: int = 200
    """The row ends after so many tokens, with reason "length"; at least 1."""
    temperature: float = 0.8
    """Logits are divided by it; 0 takes the likeliest token; at least 0."""
    top_k: int = 0
    """Only the k likeliest tokens (and those equal to the k-th); 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together reach this probability; in (0, 1], 1: all."""
    min_p: float = 0.0
    """Only tokens at least this many times as likely as the likeliest; in [0, 1], 0: all."""
    repetition_penalty: float = 1.0
    """Logits of tokens in prompt and text are divided (if negative: multiplied) by it; 1: none. An
    end is no repetition."""
    no_repeat: int = 0
    """So many tokens in a row are written at most once; 0: as often as it likes."""
    seed: int = 0
    """The row's own randomness; any integer."""

    def __post_init__(self) -> None:
        _check("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, self.temperature >= 0, "0 (greedy) or more")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (all) or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1 (all)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "between 0 (all) and 1")
        _check(
            "repetition_penalty",
            self.repetition_penalty,
            self.repetition_penalty > 0,
            "above 0 (1: none)",
        )
        _check("no_repeat", self.no_repeat, self.no_repeat >= 0, "0 (none) or more")

    def row(self, seed: int) -> "Sampling":
        """Give these settings alone, without what a subclass adds, with a row's own seed."""
        fields = {name: getattr(self, name) for name in Sampling.__dataclass_fields__}
        return Sampling(**{**fields, "seed": seed})


def _check(field: str, value: float | int, fits: bool, allowed: str) -> None:
    if not (fits and math.isfinite(value)):
        raise UsageError(f"{field} is {value}; it must be {allowed}")


class Picked(NamedTuple):
    """One token of each row."""

    tokens: list[int]
    """The chosen ids."""
    logprobs: list[float]
    """Their log probabilities under the model itself: temperature 1, no penalty, nothing cut."""


def sample(
    logits: Float[Tensor, "R V"],
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    steps: Sequence[int],
    banned: Int[Tensor, " N"] | None = None,
    ends: frozenset[int] = frozenset(),
) -> Picked:
    """Choose the next token of each row.

    Args:
        logits: What the model says; not changed. Minus infinity is allowed ("never"), NaN is not.
        samplings: The settings of each row.
        histories: The ids of each row so far, prompt included (for the repetition penalty).
        steps: How many tokens each row has been given; with its seed, this is its randomness.
        banned: Ids that no row may take.
        ends: Ids that end a text: no repetition penalty applies to them.

    Returns:
        Per row the id, and its log probability under the model itself.

    Raises:
        NonFiniteError: A row's logits hold NaN or infinity, or are all minus infinity.
    """
    if logits.device.type == "mps":  # has no float64, which the inverse CDF needs
        logits = logits.cpu()
    logits = logits.float()
    top = logits.amax(dim=-1)
    # logsumexp, in a fifth of its time; finite exactly when the row is usable
    normaliser = top + (logits - top[:, None]).exp().sum(dim=-1).log()  # (R,)
    _check_finite(normaliser.tolist())
    scores = _penalised(logits, samplings, histories, ends)
    scores = _unrepeated(scores, samplings, histories, steps)
    if banned is not None:
        scores = scores.index_fill(1, banned.to(scores.device), -math.inf)
    tokens = scores.argmax(dim=-1)
    if any(s.temperature > 0 for s in samplings):
        greedy = _column(scores, [s.temperature for s in samplings])[:, 0] == 0
        tokens = torch.where(greedy, tokens, _draw(scores, samplings, steps))
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - normaliser
    return Picked(tokens.tolist(), logprobs.tolist())


def uniform(seed: int, step: int) -> float:
    """Hash (seed, step) to a number in [0, 1): the same on every machine.

    It has 52 bits, not 53, so that for every total t > 0, ``uniform * t`` rounds to less than t.
    """
    return (_mix(_mix(seed) + step) >> 12) / (1 << 52)


def derive_seed(seed: int, index: int) -> int:
    """Give the seed of the index-th of several samples; the first keeps the seed itself."""
    return _mix(_mix(seed) ^ index) if index else seed


def _mix(x: int) -> int:
    """Spread an integer over 64 bits. Reference: Steele et al. 2014, SplitMix64."""
    x = (x + 0x9E3779B97F4A7C15) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def _penalised(
    logits: Float[Tensor, "R V"],
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    ends: frozenset[int],
) -> Float[Tensor, "R V"]:
    """Make tokens that were seen less likely. Reference: Keskar et al. 2019 (CTRL), section 4.1."""
    if all(s.repetition_penalty == 1 for s in samplings):
        return logits
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, (sampling, history) in enumerate(zip(samplings, histories, strict=True)):
        if sampling.repetition_penalty != 1:
            seen[row, torch.tensor(sorted(set(history) - ends), device=logits.device).long()] = True
    penalty = _column(logits, [s.repetition_penalty for s in samplings])
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _unrepeated(
    scores: Float[Tensor, "R V"],
    samplings: Sequence[Sampling],
    histories: Sequence[Sequence[int]],
    steps: Sequence[int],
) -> Float[Tensor, "R V"]:
    """Take away the tokens that would end a passage which a row has written before."""
    places = [
        (row, token)
        for row, (sampling, history, step) in enumerate(
            zip(samplings, histories, steps, strict=True)
        )
        for token in _repeats(history[len(history) - step :], sampling.no_repeat)
    ]
    if not places:
        return scores
    rows, tokens = (torch.tensor(ids, device=scores.device) for ids in zip(*places, strict=True))
    return scores.index_put((rows, tokens), scores.new_tensor(-math.inf))


def _repeats(written: Sequence[int], width: int) -> set[int]:
    """Give the ids after which the last `width` tokens would stand there a second time."""
    if not width or len(written) < width:
        return set()
    tail = list(written[len(written) - width + 1 :])
    starts = range(len(written) - width + 1)
    return {written[i + width - 1] for i in starts if list(written[i : i + width - 1]) == tail}


def _draw(
    scores: Float[Tensor, "R V"], samplings: Sequence[Sampling], steps: Sequence[int]
) -> Int[Tensor, " R"]:
    """Draw by inverse CDF in the order of the ids, so that nearly equal scores cannot swap."""
    # Greedy rows come along at temperature 1, unused; far below 1e-6 a float32 would be 0.
    temperatures = [max(s.temperature, 1e-6) if s.temperature else 1.0 for s in samplings]
    scores = scores - scores.amax(dim=-1, keepdim=True)  # the likeliest is at 0
    scores = scores / _column(scores, temperatures)
    weights = torch.where(scores >= _lowest(scores, samplings), scores.exp(), 0.0)
    draws = [uniform(s.seed, step) for s, step in zip(samplings, steps, strict=True)]
    u = torch.tensor(draws, dtype=torch.float64, device=scores.device)[:, None]
    blocks = F.pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(u), -1, BLOCK)  # (R, N, K)
    block, rest = _locate(blocks.sum(dim=-1, dtype=torch.float64), u)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block]  # (R, K)
    place, _ = _locate(inside.double(), rest)
    return block * BLOCK + place


def _locate(
    weights: Float[Tensor, "R N"], u: Float[Tensor, "R 1"]
) -> tuple[Int[Tensor, " R"], Float[Tensor, "R 1"]]:
    """Find where a share u of the whole weight is reached, and how far into that entry it lies."""
    cdf = weights.cumsum(dim=-1)
    target = u * cdf[:, -1:]
    # right=True: the first entry whose sum exceeds the target, so never one of weight 0.
    index = torch.searchsorted(cdf, target, right=True)
    mine = weights.gather(1, index)
    into = (target - (cdf.gather(1, index) - mine)) / mine
    return index[:, 0], into.clamp(0.0, 1.0 - 2.0**-52)


def _lowest(scores: Float[Tensor, "R V"], samplings: Sequence[Sampling]) -> Float[Tensor, "R 1"]:
    """Give the lowest score that may be drawn: each rule is such a bound, the highest counts."""
    bound = _column(scores, [math.log(s.min_p) if s.min_p else -math.inf for s in samplings])
    if any(s.top_k or s.top_p < 1 for s in samplings):
        bound = torch.maximum(bound, _lowest_of_head(scores, samplings))
    return bound


def _lowest_of_head(
    scores: Float[Tensor, "R V"], samplings: Sequence[Sampling]
) -> Float[Tensor, "R 1"]:
    """Give the lowest score that passes top-k and then, of what is left, top-p."""
    vocab_size = scores.shape[1]
    bound = scores.new_full((len(samplings), 1), -math.inf)
    cut = [i for i, s in enumerate(samplings) if s.top_k or s.top_p < 1]
    rows = torch.tensor(cut, device=scores.device)
    k = _column(scores, [min(samplings[i].top_k or vocab_size, vocab_size) for i in cut])
    # infinity for "all": p * total then stops nothing, whatever the rounding
    p = _column(scores, [samplings[i].top_p if samplings[i].top_p < 1 else math.inf for i in cut])
    for width in (*(w for w in HEADS if w < vocab_size), vocab_size):
        mine = scores[rows]
        head = mine.topk(width, dim=-1).values  # (R, W) descending
        allowed = torch.arange(width, device=scores.device) < k
        mass = torch.where(allowed, head.exp(), 0.0)
        known = mass.sum(dim=-1, keepdim=True)
        total = torch.where(k <= width, known, mine.exp().sum(dim=-1, keepdim=True))
        likelier = mass.cumsum(dim=-1) - mass  # what stands above each
        kept = (allowed & (likelier < p * total)).sum(dim=-1, keepdim=True)
        bound[rows] = head.gather(1, kept - 1)
        # A row is settled when its k lies in the head, or its nucleus does: few need all.
        settled = (k <= width) | ((k == vocab_size) & (known >= p * total))
        rows, k, p = (t[~settled[:, 0]] for t in (rows, k, p))
        if not len(rows):
            break
    return bound


def _column(like: Tensor, values: Sequence[float | int]) -> Float[Tensor, "R 1"]:
    """Put one number per row into a column beside `like`."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def _check_finite(normalisers: Sequence[float]) -> None:
    for row, value in enumerate(normalisers):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the model's logits for row {row} of the batch are not numbers",
                "Its weights may be damaged, or training diverged: try an earlier checkpoint.",
            )
