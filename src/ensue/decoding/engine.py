"""The one loop that generates: rows of any length join, advance together by a token, and leave.

Prompts of equal length are prefilled together and then join the running batch; no row is padded. A
row's tokens depend on its prompt and its sampling alone, never on the rows beside it. The command
line, the server, the scorers and the tests all read the same events.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ensue.decoding.decoder import Decoder
from ensue.decoding.logits import Sampling, sample
from ensue.errors import DataError, UsageError
from ensue.nn.state import join_rows, select_rows

PastContext = Literal["stop", "slide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One new token of one row."""

    row: int
    """What `Engine.add` gave."""
    token: int
    """The id; the last one may be a stop id."""
    logprob: float
    """Natural logarithm of its probability under the model itself, at temperature 1."""
    reason: str = ""
    """Empty while the row runs; then "stop", "length" or "context_full"."""
    notice: str = ""
    """What a person should know about this row from here on; usually empty."""


@dataclass(slots=True)
class _Row:
    """A row's own account; what the decoder remembers of it lies in the batch's state."""

    id: int
    tokens: list[int]  # prompt and text
    prompt_length: int
    start: int  # the first token that the decoder has seen: above 0 once the row slid
    sampling: Sampling
    memory: Any = None
    notice: str = ""
    done: bool = False

    @property
    def window(self) -> list[int]:
        return self.tokens[self.start :]


def _kind(row: _Row) -> tuple[int, bool]:
    """Give what rows share that are read in one call: the tokens of a prompt, and a source."""
    return len(row.window), row.memory is not None


class _Batch(NamedTuple):
    """Rows, what the decoder remembers of them, and what it expects next."""

    rows: list[_Row]
    state: Any
    logits: Float[Tensor, "R V"]


@dataclass(eq=False, repr=False)
class Engine:
    """Generates for many rows at once; rows may be added and dropped between any two steps."""

    decoder: Decoder
    """What is asked for the next token; run without dropout and without gradients."""
    _: KW_ONLY
    stop_ids: frozenset[int] = frozenset()
    """Ids that end a row with reason "stop"."""
    banned_ids: frozenset[int] = frozenset()
    """Ids that are never chosen (for instance the one for unknown words)."""
    past_context: PastContext = "stop"
    """When a row fills the context: end with "context_full", or slide: read its last half anew."""
    prefill_chunk: int = 512
    """Tokens of each prompt that are read in one call: bounds the memory of a long prompt."""
    max_rows: int = 64
    """Rows that run at a time; more wait for their turn, in order."""
    _count: int = field(default=0, init=False)
    _waiting: list[_Row] = field(default_factory=list, init=False)
    _running: list[_Row] = field(default_factory=list, init=False)
    _state: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        vocab_size = self.decoder.vocab_size
        for name in ("prefill_chunk", "max_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.past_context not in ("stop", "slide"):
            raise UsageError(f'past_context is {self.past_context!r}; it must be "stop" or "slide"')
        for name, ids in (("stop_ids", self.stop_ids), ("banned_ids", self.banned_ids)):
            if outside := [i for i in ids if not 0 <= i < vocab_size]:
                raise UsageError(
                    f"{name} holds {outside[0]}; ids must be from 0 to {vocab_size - 1}"
                )
        if len(self.banned_ids) == vocab_size:
            raise UsageError("banned_ids holds the whole vocabulary; nothing is left to choose")
        self._device = device_of(self.decoder)
        self._banned = torch.tensor(sorted(self.banned_ids), device=self._device).long()

    @property
    def live(self) -> int:
        """Rows that run or wait."""
        return sum(not row.done for row in self._waiting + self._running)

    def add(self, prompt: Sequence[int], sampling: Sampling, memory: Any = None) -> int:
        """Take in a row; its first token comes with the next step that has room.

        Args:
            prompt: At least one id. Longer than the context: refused, or, where rows may slide,
                its last half-window is used and its first event carries a notice.
            sampling: How its tokens are chosen.
            memory: What an encoder made of the row's source, a batch of one; None: there is none.

        Returns:
            The row's number: 0, 1, 2, ... in the order of adding.

        Raises:
            DataError: The prompt is empty, too long, or holds an id outside the vocabulary.
        """
        tokens = [int(token) for token in prompt]
        row = _Row(self._count, tokens, len(tokens), 0, sampling, memory)
        self._check_ids(tokens)
        limit = self.decoder.max_length
        if limit is not None and len(tokens) > limit:
            if self.past_context == "stop":
                raise DataError(
                    f"the prompt has {len(tokens):,} tokens; the model's context holds {limit:,}",
                    'Shorten it, or let it slide: past_context="slide" (--past-context slide).',
                )
            self._slide(row, limit)
        self._waiting.append(row)
        self._count += 1
        return row.id

    def drop(self, row: int) -> None:
        """Forget a row: its reader went away, or has what it wanted. Ended rows are ignored."""
        for one in self._waiting + self._running:
            if one.id == row:
                one.done = True
        self._rest()

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Give each row one token; a row that ends here has its reason, and is gone.

        Returns:
            One event for each row that runs; empty when there is none.

        Raises:
            NonFiniteError: The model gives logits that are not numbers. After this, or any other
                error in here, the engine's rows are lost.
        """
        with evaluating(self.decoder):
            batches = [*self._continued(), *self._prefilled()]
        if not batches:
            return []
        rows = [row for batch in batches for row in batch.rows]
        # A lone batch is passed on as it is: joining would copy its whole state at every step.
        joined = len(batches) > 1
        self._state = join_rows([b.state for b in batches]) if joined else batches[0].state
        self._running = rows
        picked = sample(
            torch.cat([b.logits for b in batches]),
            [row.sampling for row in rows],
            [row.tokens for row in rows],
            [len(row.tokens) - row.prompt_length for row in rows],
            self._banned if self.banned_ids else None,
            self.stop_ids,
        )
        given = [self._event(*one) for one in zip(rows, *picked, strict=True)]
        self._rest()
        return given

    def _rest(self) -> None:
        """Hold no memory while there is nothing to do."""
        if not self.live:
            self._waiting, self._running, self._state = [], [], None

    def _continued(self) -> list[_Batch]:
        """Let rows that ended leave, and give the others their newest token to read."""
        limit = self.decoder.max_length
        live = [row for row in self._running if not row.done]
        full = [row for row in live if limit is not None and len(row.window) > limit]
        for row in full:  # only where rows may slide: others have ended
            assert limit is not None
            self._slide(row, limit)
        self._waiting = full + [row for row in self._waiting if not row.done]
        stay = [i for i, row in enumerate(self._running) if not row.done and row not in full]
        if stay and len(stay) < len(self._running):
            self._state = select_rows(self._state, torch.tensor(stay, device=self._device))
        self._running = [self._running[i] for i in stay]
        if not stay:
            return []
        newest = [[row.tokens[-1]] for row in self._running]
        logits, self._state = self._read(newest, self._state)
        return [_Batch(self._running, self._state, logits)]

    def _prefilled(self) -> Iterator[_Batch]:
        """Read the prompts of rows that have room now, those of equal length together."""
        room = self.max_rows - len(self._running)
        fresh, self._waiting = self._waiting[:room], self._waiting[room:]
        fresh.sort(key=_kind)
        for (_, told), group in groupby(fresh, key=_kind):
            rows = list(group)
            memory = join_rows([row.memory for row in rows]) if told else None
            state = self.decoder.init_state(len(rows), memory)
            logits, state = self._read([row.window for row in rows], state)
            yield _Batch(rows, state, logits)

    def _read(self, tokens: list[list[int]], state: Any) -> tuple[Float[Tensor, "R V"], Any]:
        """Read the same number of tokens for each row; logits only for the one after the last."""
        batch: Int[Tensor, "R T"] = torch.tensor(tokens, device=self._device)
        hidden = None
        for begin in range(0, batch.shape[1], self.prefill_chunk):
            chunk = batch[:, begin : begin + self.prefill_chunk]
            hidden, state = self.decoder(chunk, state)
        assert hidden is not None
        return self.decoder.head(hidden[:, -1]), state

    def _event(self, row: _Row, token: int, logprob: float) -> Event:
        """Write a token into its row's account, and see whether the row ends here."""
        row.tokens.append(token)
        reason = self._reason(row, token)
        row.done = reason != ""
        notice, row.notice = row.notice, ""
        return Event(row=row.id, token=token, logprob=logprob, reason=reason, notice=notice)

    def _reason(self, row: _Row, token: int) -> str:
        if token in self.stop_ids:
            return "stop"
        if len(row.tokens) - row.prompt_length >= row.sampling.max_new_tokens:
            return "length"
        limit = self.decoder.max_length
        # The newest token is still to be read, and there must be a place for it.
        if self.past_context == "stop" and limit is not None and len(row.window) > limit:
            return "context_full"
        return ""

    def _slide(self, row: _Row, limit: int) -> None:
        """Let a row go on from the last half of the context; say so the first time."""
        half = max(1, limit // 2)
        if row.start == 0:
            row.notice = (
                f"longer than the context of {limit:,} tokens: goes on from the last {half:,}"
            )
        row.start = len(row.tokens) - half

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise DataError("the prompt has no tokens", "Begin with the end-of-text id.")
        vocab_size = self.decoder.vocab_size
        for place, token in enumerate(tokens):
            if not 0 <= token < vocab_size:
                raise DataError(
                    f"token {place} of the prompt is {token}; ids are from 0 to {vocab_size - 1}",
                    "Was the text encoded with this model's own tokenizer?",
                )


def generate(
    decoder: Decoder,
    prompts: Iterable[Sequence[int]],
    samplings: Iterable[Sampling],
    *,
    stop_ids: frozenset[int] = frozenset(),
    banned_ids: frozenset[int] = frozenset(),
    past_context: PastContext = "stop",
) -> Iterator[Event]:
    """Generate for all prompts; an event's row is the number of its prompt.

    Prompts are checked at once, before the first event is asked for.
    """
    engine = Engine(decoder, stop_ids=stop_ids, banned_ids=banned_ids, past_context=past_context)
    for prompt, sampling in zip(prompts, samplings, strict=True):
        engine.add(prompt, sampling)
    return events(engine)


def events(engine: Engine) -> Iterator[Event]:
    """Step until no row is left; rows may be added and dropped while this runs."""
    while engine.live:
        yield from engine.step()


def encode(encoder: Any, sources: Sequence[Sequence[int]], pad_id: int) -> Any:
    """Give what an encoder-decoder makes of sources, in one batch: its memory.

    Args:
        encoder: The model.
        sources: Ids of each, its end included.
        pad_id: What stands behind the shorter ones, and is not read.
    """
    device = device_of(encoder)
    rows = [torch.tensor(list(ids), device=device) for ids in sources]
    length = torch.tensor([len(row) for row in rows], device=device)
    return encoder.encode(pad_sequence(rows, batch_first=True, padding_value=pad_id), length)


def device_of(model: Any) -> torch.device:
    """Where a model's weights lie, and its tokens must."""
    if isinstance(model, nn.Module):
        for weight in model.parameters():
            return weight.device
    return torch.device("cpu")


@contextmanager
def evaluating(decoder: Any) -> Iterator[None]:
    """Switch dropout and the like off, and afterwards on again exactly where it was on."""
    if not (isinstance(decoder, nn.Module) and decoder.training):
        yield
        return
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
