'''The laws of a decoder as a public check, for people's own models.

A model that passes may be trained, compared, generated from and served beside ours::

    @dataclass(frozen=True)
    class GRUState:
        h: Tensor  # (rows, d_model): the row comes first, in every tensor of a state


    class GRU(nn.Module):
        max_length = None  # what it remembers does not grow, so there is no limit

        def __init__(self, vocab_size=257, d_model=128):
            super().__init__()
            self.vocab_size = vocab_size
            self.embedding = nn.Embedding(vocab_size, d_model)
            self.gru = nn.GRU(d_model, d_model, batch_first=True)
            self.output = nn.Linear(d_model, vocab_size)

        def init_state(self, rows, memory=None):
            return GRUState(self.output.weight.new_zeros(rows, self.gru.hidden_size))

        def forward(self, tokens, state=None):
            start = self.init_state(len(tokens)) if state is None else state
            hidden, last = self.gru(self.embedding(tokens), start.h[None])
            return hidden, state and GRUState(last[0])

        def head(self, hidden):
            return self.output(hidden)

    check_laws(GRU())
'''

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ensue.decoding.decoder import Decoder
from ensue.decoding.engine import Event, device_of, evaluating, generate
from ensue.decoding.logits import Sampling
from ensue.errors import EnsueError, UsageError
from ensue.nn.state import join_rows, select_rows

ROWS = 3


class LawError(EnsueError, AssertionError):
    """A decoder breaks one of the laws.

    Args:
        law: Its name: contract, state, causal, rows, split, ragged or seed.
        what: What was seen, on the smallest example that shows it.
        hint: What usually causes it.
    """

    def __init__(self, law: str, what: str, hint: str = "") -> None:
        super().__init__(f"law {law!r} is broken: {what}", hint)
        self.law = law


def check_laws(
    decoder: Decoder, *, seed: int = 0, steps: int = 12, tolerance: float = 1e-5
) -> None:
    """Check that a decoder keeps the laws of `ensue.decoding.decoder`; silent when it does.

    The checks come in such an order that a mistake is found by the law it breaks: contract, state
    (nothing is kept on the module, and `select_rows` gives copies), causal, rows, split, ragged,
    seed. Dropout is off meanwhile. Weights that are all zero, or that make a layer do nothing, keep
    every law: check a model whose weights are random.

    Args:
        decoder: The model, not its class; on any device.
        seed: For the random tokens.
        steps: Longest text that is tried, cut to the decoder's `max_length`; at least 3. Try more
            than one block where a model has blocks of its own (chunks, cache slots).
        tolerance: Largest difference of two logits that should be equal, relative to the largest
            logit where that is above 1. The default fits float32; bfloat16 needs about 0.05.

    Raises:
        LawError: A law is broken; it names the law and shows the smallest example.
        UsageError: `steps` or `tolerance` is out of range, or a class was given.
    """
    if steps < 3:
        raise UsageError(f"steps is {steps}; it must be at least 3")
    if not tolerance > 0:
        raise UsageError(f"tolerance is {tolerance}; it must be above 0")
    if isinstance(decoder, type):
        raise UsageError(
            f"{decoder.__name__} is a class; the laws are about a model",
            f"Give one: check_laws({decoder.__name__}(...))",
        )
    with torch.inference_mode(), evaluating(decoder):
        trial = _trial(decoder, seed, steps, tolerance)
        for law in (_state, _causal, _rows, _split, _ragged, _seed):
            law(trial)


@dataclass(frozen=True)
class _Trial:
    """A decoder with the tokens it is tried on."""

    decoder: Decoder
    tokens: Int[Tensor, "B T"]
    other: Int[Tensor, "B T"]
    """Differs from `tokens` everywhere."""
    tolerance: float

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def read(
        self, tokens: Int[Tensor, "B T"], state: Any = None
    ) -> tuple[Float[Tensor, "B T V"], Any]:
        """Give the logits of all positions; without a state, as in training."""
        hidden, state = self.decoder(tokens, state)
        return self.decoder.head(hidden), state

    def fresh(self, tokens: Int[Tensor, "B T"]) -> tuple[Float[Tensor, "B T V"], Any]:
        """Read from the beginning, with a state."""
        return self.read(tokens, self.decoder.init_state(len(tokens)))

    def pieces(self, tokens: Int[Tensor, "B T"], sizes: Sequence[int]) -> Float[Tensor, "B T V"]:
        """Read from the beginning, in pieces of these sizes."""
        state = self.decoder.init_state(len(tokens))
        logits = []
        for piece in torch.split(tokens, list(sizes), dim=1):
            given, state = self.read(piece, state)
            logits.append(given)
        return torch.cat(logits, dim=1)

    def distance(self, a: Tensor, b: Tensor) -> float:
        """Largest difference, in units of the tolerance: above 1 is too much (NaN as well)."""
        a, b = a.double(), b.double()
        never = (a == b) & a.isinf()  # minus infinity on both sides is agreement
        gap = torch.where(never, 0.0, a - b).abs().max()
        scale = torch.where(b.isfinite(), b, 0.0).abs().max().clamp(min=1.0)
        return float(gap / scale) / self.tolerance

    def differ(self, a: Tensor, b: Tensor) -> bool:
        return not self.distance(a, b) <= 1

    def gap(self, a: Tensor, b: Tensor) -> str:
        return f"the logits differ by {self.distance(a, b) * self.tolerance:.1e}"


Modes = Iterator[tuple[str, Callable[[Tensor], Tensor]]]


def _modes(trial: _Trial) -> Modes:
    yield "without a state", lambda tokens: trial.read(tokens)[0]
    yield "with a state", lambda tokens: trial.fresh(tokens)[0]


def _trial(decoder: Decoder, seed: int, steps: int, tolerance: float) -> _Trial:
    """Make the tokens, and check the contract: shapes, and a state that is a value."""
    vocab_size, limit = decoder.vocab_size, decoder.max_length
    if vocab_size < 2:
        raise LawError("contract", f"vocab_size is {vocab_size}; the laws need two tokens to tell")
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, steps if limit is None else min(steps, limit))
    tokens = torch.randint(vocab_size, shape, generator=generator)
    step = torch.randint(1, vocab_size, shape, generator=generator)
    device = device_of(decoder)
    trial = _Trial(decoder, tokens.to(device), ((tokens + step) % vocab_size).to(device), tolerance)
    state = decoder.init_state(ROWS)
    if not hasattr(state, "__dataclass_fields__"):
        raise LawError(
            "contract",
            f"init_state gave a {type(state).__name__}",
            "A state is a frozen dataclass of tensors whose first dimension is the row.",
        )
    hidden, after = decoder(trial.tokens, state)
    logits = decoder.head(hidden)
    for name, got, expected in (
        ("hidden states", hidden.shape[:2], shape),
        ("logits", logits.shape, (*shape, vocab_size)),
    ):
        if tuple(got) != expected:
            raise LawError(
                "contract", f"{name} have shape {tuple(got)} for tokens {shape}, not {expected}"
            )
    if type(after) is not type(state):
        raise LawError("contract", f"a call with a state gave {type(after).__name__} for a state")
    if bool(logits.isnan().any()):
        raise LawError("contract", "the logits hold NaN")
    return trial


def _state(trial: _Trial) -> None:
    """All memory is in the state, and `select_rows` copies it."""
    hint = "Keep nothing on the module between calls; give all memory back in the state."
    every = torch.arange(ROWS, device=trial.tokens.device)
    for mode, logits_of in _modes(trial):
        first = logits_of(trial.tokens)
        logits_of(trial.other)
        again = logits_of(trial.tokens)
        if trial.differ(again, first):
            gap = trial.gap(again, first)
            raise LawError("state", f"the same call, {mode}, twice: {gap}", hint)
    for n in range(2, trial.length + 1):
        tokens, other = trial.tokens[:, :n], trial.other[:, n - 1 : n]
        expected = trial.pieces(tokens, [n - 1, 1])[:, -1:]
        state = trial.fresh(tokens[:, :-1])[1]
        copy = select_rows(state, every)
        trial.read(other, state)
        got = trial.read(tokens[:, -1:], copy)[0]
        if trial.differ(got, expected):
            raise LawError(
                "state",
                f"after {n - 1} tokens the state was copied by select_rows, the original read on, "
                f"and the copy changed: {trial.gap(got, expected)}",
                hint,
            )


def _causal(trial: _Trial) -> None:
    for mode, logits_of in _modes(trial):
        for n in range(2, trial.length + 1):  # the shortest text that shows it comes first
            tokens = trial.tokens[:, :n]
            changed = torch.cat([tokens[:, :-1], trial.other[:, n - 1 : n]], dim=1)
            before, after = logits_of(tokens)[:, :-1], logits_of(changed)[:, :-1]
            if trial.differ(after, before):
                raise LawError(
                    "causal",
                    f"in {n} tokens read at once, {mode}, another last token changes what stands "
                    f"before it: {trial.gap(after, before)}",
                    "A position may look at itself and earlier ones only: see the mask.",
                )


def _rows(trial: _Trial) -> None:
    hint = "No statistic, buffer or softmax may run over the row dimension."
    for mode, logits_of in _modes(trial):
        for n in range(1, trial.length + 1):
            tokens = trial.tokens[:, :n]
            changed = torch.cat([tokens[:1], trial.other[1:, :n]])
            for name, seen in (
                ("another row changes it", logits_of(changed)[:1]),
                ("alone it gets something else", logits_of(tokens[:1])),
            ):
                expected = logits_of(tokens)[:1]
                if trial.differ(seen, expected):
                    gap = trial.gap(seen, expected)
                    raise LawError("rows", f"a row of {n} tokens, {mode}: {name}: {gap}", hint)


def _split(trial: _Trial) -> None:
    for n in range(1, trial.length + 1):
        tokens = trial.tokens[:, :n]
        whole = trial.fresh(tokens)[0]
        training = trial.read(tokens)[0]
        if trial.differ(whole, training):
            raise LawError(
                "split",
                f"{n} tokens read with a state and without one: {trial.gap(whole, training)}",
                "Training and decoding must be one function: positions from 0, the same mask.",
            )
        first = n // 3
        for sizes in ([1] * n, [n - 1, 1], [1, n - 1], [first, n - first]):
            sizes = [size for size in sizes if size]
            got = trial.pieces(tokens, sizes)
            if trial.differ(got, whole):
                raise LawError(
                    "split",
                    f"{n} tokens read at once, and in pieces of {sizes}: {trial.gap(got, whole)}",
                    "Does a call go on from the state, at the right position?",
                )


def _ragged(trial: _Trial) -> None:
    """Rows of different lengths join, one leaves, another comes: each gets what it gets alone."""
    for longest in range(1, trial.length):
        lengths = [longest, (longest + 1) // 2, 1]
        more = min(3, trial.length - longest)
        rows = [trial.tokens[i : i + 1, : n + more] for i, n in enumerate(lengths)]
        alone = [trial.pieces(row, [n] + [1] * more) for row, n in zip(rows, lengths, strict=True)]
        states = [trial.fresh(row[:, :n])[1] for row, n in zip(rows, lengths, strict=True)]
        joined = join_rows(states)
        for step in range(more):
            newest = [row[:, n + step] for row, n in zip(rows, lengths, strict=True)]
            logits, joined = trial.read(torch.stack(newest), joined)
            for i, n in enumerate(lengths):
                _compare_ragged(trial, lengths, step, i, logits[i, -1], alone[i][0, n + step])
        order = torch.tensor([2, 0], device=trial.tokens.device)
        _check_left(trial, joined, order, lengths, more)


def _check_left(trial: _Trial, joined: Any, order: Tensor, lengths: list[int], more: int) -> None:
    """Rows leave a ragged batch, and the others change places."""
    if lengths[0] + more >= trial.length:
        return
    kept = [int(i) for i in order]
    ends = [lengths[i] + more for i in kept]
    newest = torch.stack([trial.tokens[i, n : n + 1] for i, n in zip(kept, ends, strict=True)])
    logits, _ = trial.read(newest, select_rows(joined, order))
    for place, (i, n) in enumerate(zip(kept, ends, strict=True)):
        expected = trial.pieces(trial.tokens[i : i + 1, : n + 1], [n, 1])[0, -1]
        _compare_ragged(trial, lengths, more, i, logits[place, -1], expected)


def _compare_ragged(
    trial: _Trial, lengths: list[int], step: int, row: int, got: Tensor, expected: Tensor
) -> None:
    if trial.differ(got, expected):
        raise LawError(
            "ragged",
            f"rows of {lengths} tokens joined by join_rows, step {step + 1}: the row of "
            f"{lengths[row]} gets what it does not get alone: {trial.gap(got, expected)}",
            "Is each row's position its own (a tensor in the state, not an int), and are slots "
            "beyond its length masked?",
        )


def _seed(trial: _Trial) -> None:
    """Through the engine, a row gets the same tokens alone and beside others."""
    lengths = [max(1, trial.length // 2), 1, max(1, trial.length // 3)]
    prompts = [trial.tokens[i, :n].tolist() for i, n in enumerate(lengths)]
    samplings = [
        Sampling(seed=7 + i, temperature=temperature, max_new_tokens=trial.length)
        for i, temperature in enumerate((1.0, 0.0, 1.5))
    ]
    together = list(generate(trial.decoder, prompts, samplings))
    for i in range(ROWS):
        mine = [event for event in together if event.row == i]
        alone = list(generate(trial.decoder, [prompts[i]], [samplings[i]]))
        same = [event.token for event in mine] == [event.token for event in alone]
        if not (same and _close(mine, alone, trial.tolerance)):
            raise LawError(
                "seed",
                f"a prompt of {lengths[i]} tokens gives {[e.token for e in alone]} alone, and "
                f"{[e.token for e in mine]} beside prompts of {lengths} tokens",
                "Does anything in the model draw random numbers, or depend on the batch?",
            )


def _close(mine: list[Event], alone: list[Event], tolerance: float) -> bool:
    # A logprob is a difference of two logits: twice their tolerance, and some for the sum.
    pairs = zip(mine, alone, strict=True)
    return all(
        abs(a.logprob - b.logprob) <= 10 * tolerance * max(1.0, -b.logprob) for a, b in pairs
    )
