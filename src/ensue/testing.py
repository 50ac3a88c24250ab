"""The laws of a decoder as a public check, for people's own models.

`ensue.check_laws(model)`: one that passes may be trained, compared, generated from and served
beside ours::

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
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ensue.decoding.decoder import Decoder
from ensue.decoding.engine import Event, device_of, evaluating, generate
from ensue.decoding.logits import Sampling
from ensue.decoding.search import Beam, Hypothesis, beam_search
from ensue.errors import EnsueError, UsageError
from ensue.models import step_of
from ensue.models.custom import ANY_VOCABULARY, CustomConfig
from ensue.nn.state import join_rows, select_rows

ROWS = 3
SOURCE = 5
"""Tokens of the source that an encoder-decoder is told."""
BEAM = Beam(num_beams=4, n_best=4)
"""How each row is searched."""


class LawError(EnsueError, AssertionError):
    """A decoder breaks one of the laws.

    Args:
        law: Its name: contract, state, causal, rows, split, ragged, seed or beam.
        what: What was seen, on the smallest example that shows it.
        hint: What usually causes it.
    """

    def __init__(self, law: str, what: str, hint: str = "") -> None:
        super().__init__(f"the law {law!r} is broken: {what}", hint)
        self.law = law
        self.seen = what


def check_laws(decoder: object, *, seed: int = 0, steps: int = 12, tolerance: float = 1e-5) -> None:
    """Check that a decoder keeps the laws of `ensue.decoding.decoder`; silent when it does.

    In this order, a mistake is found by the law it breaks: contract, state (nothing is kept
    on the module, and `select_rows` gives copies), causal, rows, split, ragged, seed, beam. Dropout
    is off meanwhile. A layer with weights of zero keeps every law: check a model with random ones.

    Args:
        decoder: The model, not its class; on any device.
        seed: For the random tokens.
        steps: Longest text that is tried, cut to the decoder's `max_length`; at least 3. Where a
            model works in blocks (chunks, cache slots), try more than one block.
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
    checked = _as_decoder(decoder)
    if hasattr(checked, "encode"):
        checked = cast(Decoder, _Told(checked, seed))
    with torch.inference_mode(), evaluating(checked):
        trial = _trial(checked, seed, steps, tolerance)
        _contract(trial)
        for name, law, hint in LAWS:
            for n in sorted({1, 2, 3, trial.length // 2 + 1, trial.length}):
                if n <= trial.length and _tried(partial(law, trial, n), name, f"{n} tokens", hint):
                    smaller = (law(trial, fewer) for fewer in range(1, n + 1))
                    raise LawError(name, next(what for what in smaller if what), hint)


def check_custom(config: Any) -> None:
    """Check the laws of a person's own model before anything is spent on it.

    Args:
        config: A model's config, complete or still open. Ours are tested, and not checked here.

    Raises:
        LawError: A law is broken; it names the class.
        UsageError: The class cannot be found or made.
    """
    if not isinstance(config, CustomConfig):
        return
    step = step_of(config)
    filled = step.filled(config, "xs")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same weights, so the same answer, at every call
        model = step.model(replace(filled, vocab_size=config.vocab_size or ANY_VOCABULARY))
        try:
            check_laws(model)
        except LawError as error:
            raise LawError(error.law, f"{step.title}, {error.seen}", error.hint) from error


def _as_decoder(decoder: object) -> Decoder:
    if isinstance(decoder, type):
        raise UsageError(
            f"{decoder.__name__} is a class; the laws are about a model",
            f"Give one: check_laws({decoder.__name__}(...))",
        )
    # Not isinstance with the protocol: from Python 3.12 that misses a head that is an nn.Linear.
    names = ("vocab_size", "max_length", "init_state", "head", "__call__")
    missing = [name for name in names if not hasattr(decoder, name)]
    if missing:
        raise LawError(
            "contract",
            f"{type(decoder).__name__} has no {', '.join(missing)}",
            "See ensue.decoding.decoder.Decoder for what each of them is.",
        )
    return cast(Decoder, decoder)


class _Told:
    """An encoder-decoder that was told a source, the same in every row: a decoder like others.

    Where rows are given their own memories, they were told these.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.vocab_size, self.max_length = model, model.vocab_size, model.max_length
        self.head, self.parameters = model.head, model.parameters
        entries = model.config.src_vocab_size or model.vocab_size
        generator = torch.Generator().manual_seed(seed)
        self.sources = torch.randint(entries, (ROWS, SOURCE), generator=generator)

    def memory(self, rows: int) -> Any:
        """Encode the first source, once for each row."""
        return self.memory_of([0] * rows, [SOURCE] * rows)

    def memory_of(self, sources: Sequence[int], lengths: Sequence[int]) -> Any:
        """Encode so many tokens of each of these sources."""
        device = device_of(self.model)
        tokens = self.sources[list(sources), : max(lengths)].to(device)
        with evaluating(self.model):
            return self.model.encode(tokens, torch.tensor(lengths, device=device))

    def init_state(self, rows: int, memory: Any = None) -> Any:
        """Start after the source."""
        return self.model.init_state(rows, self.memory(rows) if memory is None else memory)

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Go on, or start fresh as in training."""
        with evaluating(self.model):
            return self.model(tokens, self.memory(len(tokens)) if state is None else state)


def _tried(call: Callable[[], Any], law: str, what: str, hint: str) -> Any:
    """Call a model's code; an error in it breaks the law, and is shown with the call."""
    try:
        return call()
    except EnsueError:
        raise
    except Exception as error:
        raise LawError(law, f"{what}: {type(error).__name__}: {error}", hint) from error


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

    def logits(self, tokens: Int[Tensor, "B T"], mode: str) -> Float[Tensor, "B T V"]:
        """Read from the beginning in one of the `MODES`."""
        return (self.read if mode == MODES[0] else self.fresh)(tokens)[0]

    def pieces(self, tokens: Int[Tensor, "B T"], sizes: Sequence[int]) -> Float[Tensor, "B T V"]:
        """Read from the beginning, in pieces of these sizes."""
        state = self.decoder.init_state(len(tokens))
        logits = []
        for piece in torch.split(tokens, list(sizes), dim=1):
            given, state = self.read(piece, state)
            logits.append(given)
        return torch.cat(logits, dim=1)

    def gap(self, a: Tensor, b: Tensor) -> str:
        """Say by how much two logits differ; empty when they agree."""
        a, b = a.double(), b.double()
        never = (a == b) & a.isinf()  # minus infinity on both sides is agreement
        gap = float(torch.where(never, 0.0, a - b).abs().max())
        scale = float(torch.where(b.isfinite(), b, 0.0).abs().max().clamp(min=1.0))
        # "not <=" rather than ">": NaN does not agree
        return f"the logits differ by {gap:.1e}" if not gap <= self.tolerance * scale else ""


MODES = ("without a state", "with a state")


def _trial(decoder: Decoder, seed: int, steps: int, tolerance: float) -> _Trial:
    """Make the tokens."""
    vocab_size: Any = decoder.vocab_size
    limit: Any = decoder.max_length
    if not isinstance(vocab_size, int) or vocab_size < 2:
        raise LawError("contract", f"vocab_size is {vocab_size}; the laws need two tokens to tell")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise LawError("contract", f"max_length is {limit}, not a number of tokens, or None")
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, steps if limit is None else min(steps, limit))
    tokens = torch.randint(vocab_size, shape, generator=generator)
    shift = torch.randint(1, vocab_size, shape, generator=generator)
    device = device_of(decoder)
    return _Trial(decoder, tokens.to(device), ((tokens + shift) % vocab_size).to(device), tolerance)


STATE = "A state is a frozen dataclass of tensors whose first dimension is the row."
FORWARD = "forward(tokens, state=None) gives hidden states (rows, steps, width), and the state."
HEAD = "head gives logits for hidden states (rows, steps, width), and in training (places, width)."


def _contract(trial: _Trial) -> None:
    """Every part can be called, gives what belongs there, and a state is a value."""
    decoder = trial.decoder
    for n in (1, trial.length):
        tokens = trial.tokens[:, :n]
        call = f"init_state({ROWS})"
        state = _tried(partial(decoder.init_state, ROWS), "contract", call, STATE)
        _check_state(state, call)
        call = f"model(tokens) with tokens of shape {(ROWS, n)}"
        _check_call(trial, call, _tried(partial(decoder, tokens), "contract", call, FORWARD), n)
        call = f"model(tokens, state) with tokens of shape {(ROWS, n)}"
        given = _tried(partial(decoder, tokens, state), "contract", call, FORWARD)
        _check_call(trial, call, given, n)
        if type(given[1]) is not type(state):
            names = type(given[1]).__name__, type(state).__name__
            raise LawError("contract", f"{call} gave a {names[0]} for a {names[1]}", FORWARD)
        _check_state(given[1], call)


def _check_state(state: Any, call: str) -> None:
    """Check that a state can be copied and joined row by row."""
    if not is_dataclass(state):
        raise LawError("contract", f"{call} gave a {type(state).__name__}", STATE)
    for field in fields(state):
        value, name = getattr(state, field.name), f"{type(state).__name__}.{field.name}"
        if is_dataclass(value):
            _check_state(value, call)
        elif isinstance(value, Tensor):
            if value.shape[:1] != (ROWS,):
                shape = tuple(value.shape)
                what = (
                    f"{call} gave {name} of shape {shape}: the first of it is not the {ROWS} rows"
                )
                raise LawError("contract", what, STATE)
        elif not isinstance(value, int):
            kind = type(value).__name__
            hint = f"{STATE} A field may also be an int, or such a dataclass; of several layers,"
            hint += " stack the tensors, rows first."
            raise LawError("contract", f"{call} gave {name}, a {kind}", hint)


def _check_call(trial: _Trial, call: str, given: Any, n: int) -> None:
    """Check what a call gave, and the logits that come of it."""
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[0], Tensor):
        what = f"a {type(given).__name__}"
        what += f" of shape {tuple(given.shape)}" if isinstance(given, Tensor) else ""
        raise LawError("contract", f"{call} gave {what}, not (hidden, state)", FORWARD)
    hidden = given[0]
    if hidden.shape[:2] != (ROWS, n):
        what = f"{call} gave hidden states of shape {tuple(hidden.shape)}"
        raise LawError("contract", what, FORWARD)
    for part in (hidden, hidden[:, -1]):
        call = f"head(hidden) with hidden of shape {tuple(part.shape)}"
        logits = _tried(partial(trial.decoder.head, part), "contract", call, HEAD)
        expected = (*part.shape[:-1], trial.decoder.vocab_size)
        if not isinstance(logits, Tensor) or logits.shape != expected:
            shape = tuple(getattr(logits, "shape", ()))
            what = f"{call} gave logits of shape {shape}, not {tuple(expected)}"
            raise LawError("contract", what, HEAD)
        if bool(logits.isnan().any()):
            raise LawError("contract", f"{call} gave logits that hold NaN")


def _state(trial: _Trial, n: int) -> str:
    """All memory is in the state, and `select_rows` copies it."""
    tokens, other = trial.tokens[:, :n], trial.other[:, :n]
    for mode in MODES:
        first = trial.logits(tokens, mode)
        trial.logits(other, mode)
        if gap := trial.gap(trial.logits(tokens, mode), first):
            return f"the same call with {n} tokens, {mode}, twice: {gap}"
    if n == 1:
        return ""
    expected = trial.pieces(tokens, [n - 1, 1])[:, -1:]
    state = trial.fresh(tokens[:, :-1])[1]
    copy = select_rows(state, torch.arange(ROWS, device=tokens.device))
    trial.read(other[:, -1:], state)
    if gap := trial.gap(trial.read(tokens[:, -1:], copy)[0], expected):
        return f"the state after {n - 1} tokens read on, and its copy by select_rows changed: {gap}"
    return ""


def _causal(trial: _Trial, n: int) -> str:
    """What comes later changes no earlier logit."""
    tokens = trial.tokens[:, :n]
    for mode in MODES:
        expected = trial.logits(tokens, mode)
        for same in {1, n // 2, n - 1} - {0, n}:
            changed = torch.cat([tokens[:, :same], trial.other[:, same:n]], dim=1)
            if gap := trial.gap(trial.logits(changed, mode)[:, :same], expected[:, :same]):
                return f"{n} tokens, {mode}; others after the first {same} change these: {gap}"
    return ""


def _rows(trial: _Trial, n: int) -> str:
    """A row gets the same beside other rows, and alone."""
    tokens = trial.tokens[:, :n]
    changed = torch.cat([tokens[:1], trial.other[1:, :n]])
    for mode in MODES:
        expected = trial.logits(tokens, mode)[:1]
        if gap := trial.gap(trial.logits(changed, mode)[:1], expected):
            return f"{ROWS} rows of {n} tokens, {mode}: the others change the first: {gap}"
        if gap := trial.gap(trial.logits(tokens[:1], mode), expected):
            return f"a row of {n} tokens, {mode}, alone and as one of {ROWS}: {gap}"
    return ""


def _split(trial: _Trial, n: int) -> str:
    """One call equals any pieces of it, and the form without a state."""
    tokens = trial.tokens[:, :n]
    whole = trial.fresh(tokens)[0]
    if gap := trial.gap(trial.read(tokens)[0], whole):
        return f"{n} tokens read with a state, and without one: {gap}"
    for sizes in ([1] * n, [n - 1, 1], [1, n - 1], [n // 3, n - n // 3]):
        sizes = [size for size in sizes if size]
        if gap := trial.gap(trial.pieces(tokens, sizes), whole):
            return f"{n} tokens read at once, and in pieces of {sizes}: {gap}"
    return ""


def _ragged(trial: _Trial, n: int) -> str:
    """Rows of different lengths join, advance, change places and leave: each as if it were alone.

    The longest row ends at n tokens.
    """
    more = min(3, n - 1)  # tokens that each row reads in company
    if not more:
        return ""
    lengths = [n - more, (n - more + 1) // 2, 1]
    ends = [length + more for length in lengths]
    alone = [
        trial.pieces(trial.tokens[i : i + 1, :end], [end - more] + [1] * more)[0]
        for i, end in enumerate(ends)
    ]
    state = join_rows([trial.fresh(trial.tokens[i : i + 1, :k])[1] for i, k in enumerate(lengths)])
    rows = list(range(ROWS))
    for step in range(more):
        if step == more - 1:  # the last step goes on without one row, and in another order
            rows = [2, 0]
            state = select_rows(state, torch.tensor(rows, device=trial.tokens.device))
        at = [lengths[i] + step for i in rows]
        newest = torch.stack([trial.tokens[i, t : t + 1] for i, t in zip(rows, at, strict=True)])
        logits, state = trial.read(newest, state)
        for place, (i, t) in enumerate(zip(rows, at, strict=True)):
            if gap := trial.gap(logits[place, 0], alone[i][t]):
                others = f"{lengths} tokens joined, {step + 1} more read by rows {rows}"
                return f"{others}: row {i} gets what it does not get alone: {gap}"
    return ""


def _seed(trial: _Trial, n: int) -> str:
    """Through the engine, a row gets the same tokens alone and beside others."""
    lengths = [n, 1, (n + 1) // 2]
    prompts = [trial.tokens[i, :k].tolist() for i, k in enumerate(lengths)]
    samplings = [
        Sampling(seed=7 + i, temperature=temperature, max_new_tokens=n)
        for i, temperature in enumerate((1.0, 0.0, 1.5))
    ]
    together = list(generate(trial.decoder, prompts, samplings))
    for i in range(ROWS):
        mine = [event for event in together if event.row == i]
        alone = list(generate(trial.decoder, [prompts[i]], [samplings[i]]))
        if not _agree(mine, alone, trial.tolerance):
            return (
                f"a prompt of {lengths[i]} tokens gives {[e.token for e in alone]} alone, and "
                f"{[e.token for e in mine]} beside prompts of {lengths} tokens"
            )
    return ""


def _agree(mine: list[Event], alone: list[Event], tolerance: float) -> bool:
    """Tell whether tokens are equal, and their log probabilities nearly so."""
    return len(mine) == len(alone) and all(
        a.token == b.token
        # a difference of two logits: twice their tolerance, and some for the sum over all
        and abs(a.logprob - b.logprob) <= 10 * tolerance * max(1.0, -b.logprob)
        for a, b in zip(mine, alone, strict=True)
    )


def _beam(trial: _Trial, n: int) -> str:
    """The score of a beam is that of its tokens, read in one call as in training.

    Rows are searched together, told sources of different lengths where there are any, and end one
    after another; none of them reads more than n tokens.
    """
    prompts = trial.tokens[:, : (n + 1) // 2]
    most = [n + 1 - prompts.shape[1]] * (ROWS - 1) + [1]
    memory: Any = None
    alone: list[Any] = [None] * ROWS
    if isinstance(trial.decoder, _Told):
        lengths = [SOURCE, 1, (SOURCE + 1) // 2]
        memory = trial.decoder.memory_of(range(ROWS), lengths)
        alone = [trial.decoder.memory_of([i], [k]) for i, k in enumerate(lengths)]
    found = beam_search(trial.decoder, prompts, memory, BEAM, stop_id=0, most=most)
    for i, hypothesis in ((i, one) for i, some in enumerate(found) for one in some):
        expected = _logprob(trial, prompts[i], hypothesis, alone[i])
        off = abs(hypothesis.logprob - expected)
        # as of `_agree`, for each token; "not <=" as of `gap`
        if not off <= 10 * trial.tolerance * max(len(hypothesis.tokens), -expected):
            return (
                f"{BEAM.num_beams} beams go on from the first {prompts.shape[1]} of row {i} with"
                f" {list(hypothesis.tokens)}, at a log probability of {hypothesis.logprob:.6f};"
                f" read at once these have {expected:.6f}"
            )
    return ""


def _logprob(
    trial: _Trial, prompt: Int[Tensor, " P"], hypothesis: Hypothesis, memory: Any
) -> float:
    """Score a row's continuation alone, in one call without a state."""
    written = prompt.new_tensor(hypothesis.tokens)
    logits, _ = trial.read(torch.cat([prompt, written[:-1]])[None], memory)
    logprobs = logits[0, len(prompt) - 1 :].log_softmax(dim=-1, dtype=torch.float32)
    return float(logprobs.gather(1, written[:, None]).sum())


LAWS: tuple[tuple[str, Callable[[_Trial, int], str], str], ...] = (
    ("state", _state, "Keep nothing on the module between calls: all memory is in the state."),
    ("causal", _causal, "A position may look at itself and at earlier ones: see the mask."),
    ("rows", _rows, "No statistic, buffer or softmax may run over the row dimension."),
    ("split", _split, "Does a call go on from the state it is given, at the right position?"),
    (
        "ragged",
        _ragged,
        "Is each row's position its own (a tensor in the state, not an int), and are slots beyond "
        "its length masked?",
    ),
    ("seed", _seed, "Does anything in the model draw random numbers, or depend on the batch?"),
    (
        "beam",
        _beam,
        "Rows of a state are repeated, one behind another, and those that are beams of one source "
        "share it: does each find its own (see `ensue.nn.state.SOURCE`)?",
    ),
)
