"""A trained chat model as an object: turns in, replies out.

`Partner` is the model with its template and its tokenizer: what it would answer, and how likely an
answer is. `Chat` is one conversation with it.

The likeliest reply to nearly anything is one that fits everything: "I don't know." The cure is to
draw several, and to give the one that this context makes likelier than others do:

    score = (log P(reply | context) - weight * log P(reply)) / tokens of the reply

Reference: Li et al. 2016, arXiv:1510.03055, section 3 (MMI-antiLM). Departures: P(reply) is the
mean of P(reply | other contexts), so that no second model is needed; the score is of a token, so
that no length is favoured. The other contexts are what the model says when it talks to itself: a
run folder holds no row of its training data.
"""

import json
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ensue.data.dialogues import context_of, longest_side
from ensue.data.turns import ASSISTANT, SYSTEM, USER, Turn
from ensue.decoding.engine import Engine, Event, device_of, encode, evaluating, events
from ensue.decoding.logits import Sampling, derive_seed
from ensue.decoding.search import Beam, beam_search
from ensue.errors import UsageError
from ensue.nn.state import select_rows
from ensue.tokenizers import Tokenizer

USUAL_CONTEXTS, USUAL_ROUNDS = 16, 3
"""Contexts over which a reply's own probability is averaged, and turns until they are as varied as
what the model says: docs/lineage/chat.md."""
SCORED_LOGITS = 1 << 22
"""Logits formed at a time where replies are scored: 16 MB in fp32."""
SEARCHED_ROWS = 16
"""Contexts searched at a time."""


@dataclass(frozen=True, kw_only=True)
class Talk(Sampling):
    """How replies are chosen."""

    max_new_tokens: int = 60
    """A reply is cut after so many tokens; what it was trained on is the most in any case."""
    temperature: float = 0.7
    """Logits are divided by it: below 1 likely words become likelier; 0: always the likeliest."""
    top_p: float = 0.9
    """Only the likeliest tokens that together reach this probability; in (0, 1], 1: all."""
    no_repeat: int = 3
    """So many tokens in a row are written at most once in a reply; 0: as often as it likes."""
    rerank: int = 1
    """Replies that are drawn, of which the one that fits this context best is given; 1: no choice,
    and it is shown while it is written."""
    weight: float = 1.0
    """With rerank: how much a reply loses by being likely everywhere; 0: the likeliest is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rerank < 1:
            raise UsageError(f"rerank is {self.rerank}; it must be at least 1 (no choice)")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UsageError(f"weight is {self.weight}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply."""

    text: str
    """What is said."""
    tokens: tuple[int, ...]
    """Its ids; the last is the end, unless it was cut."""
    logprob: float
    """Sum of their natural log probabilities under the model itself."""
    reason: str
    """Why it ends: stop (it is over), length (it was cut), stopped (by whoever listened)."""
    notices: tuple[str, ...] = ()
    """What a reader should know."""


class Partner:
    """A trained chat model with its tokenizer and its template.

    Args:
        model: An encoder-decoder, or a decoder alone.
        tokenizer: The one that it was trained with.
        max_turns: Turns of a context that it was trained with.
        max_tokens: Tokens of a context, and of a reply.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, max_turns: int, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_turns = model, tokenizer, max_turns
        self.together = not hasattr(model, "encode")
        self.most = longest_side(max_tokens, model.max_length, self.together)

    def turn(self, text: str) -> list[int]:
        """Give the ids of a turn with its end; white space as in training."""
        return [*self.tokenizer.encode(" ".join(text.split())), self.tokenizer.eos_id]

    def unread(self, text: str) -> list[str]:
        """Say what of a turn the model cannot read: what does not fit, and what it cannot spell."""
        ids, unspelt = self.tokenizer.encode_array(" ".join(text.split()))
        said = []
        if len(ids) >= self.most:  # the end of the turn takes a place
            said.append(
                f"your turn has {len(ids):,} tokens; the model reads the last {self.most - 1:,}"
            )
        if unspelt:
            said.append(f"the tokenizer cannot spell {unspelt:,} bytes of what you said")
        return said

    def context(self, turns: Sequence[str]) -> list[int]:
        """Give the context of what comes after some turns."""
        last = turns[-self.max_turns :]
        return context_of([self.turn(text) for text in last], self.max_turns, self.most)

    def begin(self, contexts: Sequence[Sequence[int]]) -> tuple[list[list[int]], Any]:
        """Give what the decoder reads before each reply, and what the encoder made of contexts."""
        eos = self.tokenizer.eos_id
        if self.together:
            return [[eos, *context] for context in contexts], None
        with torch.inference_mode(), evaluating(self.model):
            return [[eos] for _ in contexts], encode(self.model, contexts, eos)

    def events(
        self, contexts: Sequence[Sequence[int]], samplings: Sequence[Sequence[Sampling]]
    ) -> Generator[tuple[int, int, Event]]:
        """Draw replies, each context's as many as it has samplings.

        Returns:
            Events, each with the numbers of its context and of its sampling.
        """
        engine = self._engine()
        rows: list[tuple[int, int]] = []
        prompts, memory = self.begin(contexts)
        for i, (prompt, mine) in enumerate(zip(prompts, samplings, strict=True)):
            place = torch.tensor([i], device=device_of(self.model))
            told = None if memory is None else select_rows(memory, place)
            for j, sampling in enumerate(mine):
                most = min(sampling.max_new_tokens, self.most)
                engine.add(prompt, replace(sampling, max_new_tokens=most), told)
                rows.append((i, j))
        return ((*rows[event.row], event) for event in events(engine))

    def draw(
        self, contexts: Sequence[Sequence[int]], talk: Talk, seeds: Sequence[int]
    ) -> list[list[Reply]]:
        """Draw `talk.rerank` replies to each context; each context has a seed of its own."""
        samplings = [[talk.row(derive_seed(s, j)) for j in range(talk.rerank)] for s in seeds]
        said: dict[tuple[int, int], list[Event]] = {}
        for i, j, event in self.events(contexts, samplings):
            said.setdefault((i, j), []).append(event)
        numbers = range(talk.rerank)
        return [[self.reply_of(said[i, j]) for j in numbers] for i in range(len(contexts))]

    def reply_of(self, said: Sequence[Event]) -> Reply:
        """Put a reply together."""
        tokens = tuple(event.token for event in said)
        reason = (said[-1].reason if said else "") or "stopped"
        return Reply(
            text=" ".join(self.tokenizer.decode(tokens).split()),
            tokens=tokens,
            logprob=sum((event.logprob for event in said), 0.0),
            reason="length" if reason == "context_full" else reason,
        )

    def likeliest(self, contexts: Sequence[Sequence[int]], beam: Beam) -> list[Reply]:
        """Search for the likeliest reply to each context."""
        found = []
        # Prompts of one search have one length: where they hold the context, each stands alone.
        rows = 1 if self.together else SEARCHED_ROWS
        for first in range(0, len(contexts), rows):
            prompts, memory = self.begin(contexts[first : first + rows])
            found += beam_search(
                self.model,
                torch.tensor(prompts, device=device_of(self.model)),
                memory,
                beam,
                stop_id=self.tokenizer.eos_id,
                most=[self.most] * len(prompts),
                banned_ids=sorted(self.tokenizer.unspeakable(self.model.vocab_size)),
            )
        return [
            Reply(
                text=" ".join(self.tokenizer.decode(best.tokens).split()),
                tokens=best.tokens,
                logprob=best.logprob,
                reason=best.reason,
            )
            for best, *_ in found
        ]

    # -- how likely a reply is -----------------------------------------------------------------

    @torch.inference_mode()
    def logprobs(
        self, contexts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Give log P(reply | context) of every reply under every context, its end included.

        Returns:
            For each context, one number for each reply.
        """
        prompts, memory = self.begin(contexts)
        pairs = [(i, j) for i in range(len(contexts)) for j in range(len(replies))]
        pairs.sort(key=lambda p: len(prompts[p[0]]) + len(replies[p[1]]))
        given = [[0.0] * len(replies) for _ in contexts]
        with evaluating(self.model):
            for some in self._fitting(pairs, prompts, replies):
                texts = [(prompts[i], replies[j]) for i, j in some]
                places = torch.tensor([i for i, _ in some], device=device_of(self.model))
                told = None if memory is None else select_rows(memory, places)
                for (i, j), value in zip(some, self._scored(texts, told), strict=True):
                    given[i][j] = value
        return given

    def _fitting(
        self,
        pairs: Sequence[tuple[int, int]],
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
    ) -> Iterator[list[tuple[int, int]]]:
        """Cut pairs, the shortest first, into batches whose logits fit into memory."""
        room = SCORED_LOGITS // self.model.vocab_size
        batch: list[tuple[int, int]] = []
        for i, j in pairs:
            if (len(batch) + 1) * (len(prompts[i]) + len(replies[j])) > room and batch:
                yield batch
                batch = []
            batch.append((i, j))
        if batch:
            yield batch

    def _scored(
        self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], memory: Any
    ) -> list[float]:
        """Sum the log probabilities of what stands behind each prompt."""
        device = device_of(self.model)
        inputs = [torch.tensor([*prompt, *reply][:-1], device=device) for prompt, reply in texts]
        targets = [
            torch.tensor([-1] * (len(prompt) - 1) + list(reply), device=device)
            for prompt, reply in texts
        ]
        tokens = pad_sequence(inputs, batch_first=True, padding_value=self.tokenizer.eos_id)
        wanted = pad_sequence(targets, batch_first=True, padding_value=-1)
        hidden: Tensor = self.model(tokens, memory)[0]
        logits = self.model.head(hidden).float()
        losses = F.cross_entropy(logits.mT, wanted, reduction="none", ignore_index=-1)
        values: list[float] = (-losses.sum(dim=1)).tolist()
        return values

    @cached_property
    def usual(self) -> list[list[int]]:
        """Contexts as others would have them: what the model says when it talks to itself."""
        plain = Talk(temperature=1.0, top_p=1.0, no_repeat=0, max_new_tokens=self.most)
        eos = self.tokenizer.eos_id
        contexts = [[eos]] * USUAL_CONTEXTS
        for turn in range(USUAL_ROUNDS):
            seeds = [derive_seed(turn + 1, i + 1) for i in range(USUAL_CONTEXTS)]
            replies = self.draw(contexts, plain, seeds)
            turns = [[t for t in reply.tokens if t != eos] + [eos] for (reply,) in replies]
            contexts = [context_of([turn], 1, self.most) for turn in turns]
        return contexts

    def choose(self, context: Sequence[int], replies: Sequence[Reply], weight: float) -> Reply:
        """Give the reply that fits this context best; see the module for the score.

        An empty one is given only where all are: in the training data nobody says nothing.
        """
        replies = [reply for reply in replies if reply.text] or replies
        texts = [reply.tokens for reply in replies]
        (here,) = self.logprobs([context], texts)
        anywhere = torch.tensor(self.logprobs(self.usual, texts)).logsumexp(dim=0)
        mean = (anywhere - math.log(len(self.usual))).tolist()
        scores = [(a - weight * b) / len(t) for a, b, t in zip(here, mean, texts, strict=True)]
        return replies[max(range(len(scores)), key=scores.__getitem__)]

    def _engine(self) -> Engine:
        stop = frozenset([self.tokenizer.eos_id])
        banned = self.tokenizer.unspeakable(self.model.vocab_size)
        return Engine(self.model, stop_ids=stop, banned_ids=banned)


class Chat:
    """A conversation with a trained model.

        chat = ensue.load_chat("runs/dialogues-gpt2-001")
        print(chat.reply("How are you?"))

    Args:
        partner: The model.
        talk: How replies are chosen; may be set anew between turns.
        system: What stands before every conversation, where the model was trained with such turns.
        card: Facts to show with it (name, size).
    """

    def __init__(
        self,
        partner: Partner,
        talk: Talk | None = None,
        system: str = "",
        card: dict[str, Any] | None = None,
    ) -> None:
        self.partner, self.talk = partner, talk or Talk()
        self.card = dict(card or {})
        self._before = [Turn(SYSTEM, system)] if system else []
        self._asked = 0
        self.history: list[Turn] = list(self._before)
        """Who said what so far."""
        self.last: Reply | None = None
        """The newest reply, whole."""

    def reply(self, text: str) -> str:
        """Say something, and hear the answer.

        Raises:
            UsageError: It is blank.
        """
        return "".join(self.stream(text))

    def stream(self, text: str) -> Generator[str]:
        """Say something, and hear the answer piece by piece, whole characters each.

        Whoever stops listening cuts the reply: what was heard is what was said.

        Raises:
            UsageError: It is blank.
        """
        said = " ".join(text.split())
        if not said:
            raise UsageError("there is nothing to answer: the turn is blank")
        return self._chosen(said) if self.talk.rerank > 1 else self._streamed(said)

    def _streamed(self, said: str) -> Generator[str]:
        context, seed = self._asks(said)
        heard: list[Event] = []
        characters, raw, told = self.partner.tokenizer.stream(), "", ""
        try:
            with closing(self.partner.events([context], [[self.talk.row(seed)]])) as given:
                for _, _, event in given:
                    heard.append(event)
                    raw += characters.push(event.token)
                    raw += characters.flush() if event.reason else ""
                    now = " ".join(raw.split())  # a turn is one line, and begins with no space
                    if len(now) > len(told):
                        yield now[len(told) :]
                        told = now
        finally:
            self._answers(self.partner.reply_of(heard))

    def _chosen(self, said: str) -> Generator[str]:
        context, seed = self._asks(said)
        reply = self.partner.reply_of([])
        try:
            (replies,) = self.partner.draw([context], self.talk, [seed])
            reply = self.partner.choose(context, replies, self.talk.weight)
        finally:
            self._answers(reply)
        yield reply.text

    def _asks(self, said: str) -> tuple[list[int], int]:
        """Put a turn of the user down; give the context, and the seed of its answer."""
        self.history.append(Turn(USER, said))
        self._asked += 1
        context = self.partner.context([turn.text for turn in self.history])
        return context, derive_seed(self.talk.seed, self._asked)

    def _answers(self, reply: Reply) -> None:
        """Put the answer down; where there is none, nothing was asked, and that is said.

        Two turns of the user in a row stand in no training data: such dialogues are left out.
        """
        notices = self.partner.unread(self.history[-1].text)
        if reply.text:
            self.history.append(Turn(ASSISTANT, reply.text))
        else:
            self.history.pop()
            notices.append(
                "there is no reply, and your turn is forgotten: say it again or in other words"
            )
        self.last = replace(reply, notices=tuple(notices))

    def undo(self) -> bool:
        """Forget the last turn of the user and what came after; false where there is none."""
        turns = [i for i, turn in enumerate(self.history) if turn.role == USER]
        del self.history[turns[-1] if turns else len(self.history) :]
        return bool(turns)

    def reset(self) -> None:
        """Begin a new conversation."""
        self.history = list(self._before)
        self.last = None

    def to_json(self) -> str:
        """Give the conversation as one line, as `ensue train` reads it."""
        messages = [{"role": turn.role, "content": turn.text} for turn in self.history]
        return json.dumps({"messages": messages}, ensure_ascii=False)

    def __repr__(self) -> str:
        turns = len(self.history)
        return f"Chat({type(self.partner.model).__name__}, {turns} turn{'s'[: turns != 1]})"
