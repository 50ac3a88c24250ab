"""Trained models as objects: text in, text out.

`Generator` joins three that know nothing of each other: the tokenizer (text and ids), the engine
(ids and events) and the model (ids and logits).
"""

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ensue.bleu import TranslationScore, require, score_translations
from ensue.chat import Chat, Partner, Talk
from ensue.classification import evaluate_labels
from ensue.comparison import CompareConfig, Result
from ensue.comparison import compare as run_comparison
from ensue.config import to_dict
from ensue.data import Corpus, DataConfig, Tokens, tokenise
from ensue.data.dialogues import tokenise_dialogues
from ensue.data.pairs import PairsConfig, PairTokens, read_pair_files
from ensue.decoding.decoder import Decoder
from ensue.decoding.engine import Engine, Event, PastContext
from ensue.decoding.logits import Sampling, derive_seed
from ensue.decoding.search import Beam
from ensue.distributed.env import start_env
from ensue.diversity import Diversity, diversity
from ensue.embedding import Embedder
from ensue.errors import DataError, UsageError
from ensue.filler import MaskFiller
from ensue.floors import Floor, floor_of
from ensue.models import find_step, step_of
from ensue.models.custom import allow
from ensue.runs import Run
from ensue.tasks.chat import Dialogues, pairs_of, score_replies
from ensue.tasks.lm import Text, score
from ensue.tasks.mlm import MaskedRows, MaskedText
from ensue.tasks.mlm import score as score_masked
from ensue.tasks.task import Score
from ensue.tasks.translate import translator_of
from ensue.tokenizers import Tokenizer, load_tokenizer
from ensue.training.config import DEFAULT_MODEL, RunConfig, TrainConfig
from ensue.training.plan import Plan
from ensue.training.session import (
    card_of,
    check_same,
    frozen,
    load_model,
    load_network,
    open_run,
    read_data,
    require_task,
)
from ensue.training.session import train as run_session
from ensue.training.tracking import Tracker
from ensue.translator import Search, Translator
from ensue.views.report import write_report


@dataclass(frozen=True, kw_only=True)
class Generation(Sampling):
    """What to generate from each prompt: the sampling of a row, and what concerns its text."""

    stop: tuple[str, ...] = ()
    """Strings that end the text, and are not part of it; also when they straddle tokens."""
    num_samples: int = 1
    """Texts for each prompt, each with a seed of its own; at least 1."""
    past_context: PastContext = "stop"
    """When the context is full: stop, or slide: go on from its last half."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1:
            raise UsageError(f"num_samples is {self.num_samples}; it must be at least 1")
        if "" in self.stop:
            raise UsageError("stop holds an empty string, which would end every text at once")

    def sampling(self, sample: int) -> Sampling:
        """Give the row settings of one sample, with the seed that belongs to its number.

        The prompt's place does not enter the seed: a prompt gets the same texts in any company.
        """
        return self.row(derive_seed(self.seed, sample))


@dataclass(frozen=True, kw_only=True, repr=False)
class Completion:
    """One finished text."""

    prompt: str
    """What it continues."""
    text: str
    """The continuation alone, without a stop string."""
    reason: str
    """Why it ends: "stop" (end of text, or a stop string), "length" or "context_full"."""
    index: int = 0
    """Which of the prompts, from 0."""
    sample: int = 0
    """Which of the prompt's samples, from 0."""
    tokens: tuple[int, ...] = ()
    """All generated ids, those of an end of text or of a stop string included."""
    logprobs: tuple[float, ...] = ()
    """Natural log probability of each under the model itself (temperature 1, nothing cut)."""
    notices: tuple[str, ...] = ()
    """What a reader should know: what was cut, slid or could not be spelt."""

    def to_json(self) -> str:
        """Give all fields as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        return (
            f"Completion({_short(self.prompt)} -> {_short(self.text)}, "
            f"{len(self.tokens)} tokens, {self.reason})"
        )

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "prompt", self.prompt
        yield "text", self.text
        yield "reason", self.reason
        yield "tokens", len(self.tokens)
        if self.notices:
            yield "notices", self.notices


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of one text while it is made: whole characters, and never part of a stop string."""

    index: int
    """Which of the prompts, from 0."""
    sample: int
    """Which of the prompt's samples, from 0."""
    text: str = ""
    """What comes next; empty at most in the last chunk of a text, or beside a notice."""
    notice: str = ""
    """What a reader should know from here on; usually empty."""
    completion: Completion | None = None
    """The whole, in the last chunk of a text only."""


class Generator:
    """A trained language model with its tokenizer.

    Args:
        model: Any decoder.
        tokenizer: The one that it was trained with.
        card: Facts to show with it (name, size, score).
    """

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, card: Mapping[str, Any] | None = None
    ) -> None:
        if tokenizer.vocab_size > model.vocab_size:
            raise UsageError(
                f"the tokenizer has {tokenizer.vocab_size:,} entries, the model only "
                f"{model.vocab_size:,}",
                "Use the tokenizer.json that lies beside the model.",
            )
        self.model = model
        self.tokenizer = tokenizer
        self.card = dict(card or {})

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        no_repeat: int = 0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        num_samples: int = 1,
        past_context: PastContext = "stop",
    ) -> list[Completion]:
        """Continue one prompt or several of any lengths; the fields of `Generation` say how.

        Returns:
            The samples of the first prompt, then those of the next, and so on.

        Raises:
            DataError: A prompt does not fit the context.
            UsageError: A value is out of range.
        """
        options = Generation(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            no_repeat=no_repeat,
            seed=seed,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            num_samples=num_samples,
            past_context=past_context,
        )
        chunks = self.stream(prompts, options)
        done = [chunk.completion for chunk in chunks if chunk.completion]
        return sorted(done, key=lambda completion: (completion.index, completion.sample))

    def stream(
        self, prompts: str | Sequence[str], options: Generation | None = None
    ) -> Iterator[Chunk]:
        """Continue prompts, giving each piece of text as soon as it is certain.

        Prompts are checked here and now, before the first chunk is asked for. Whoever stops asking
        stops the work.

        Args:
            prompts: One or several.
            options: What to generate; the defaults of `Generation` where it is left out.

        Raises:
            DataError: A prompt does not fit the context.
        """
        options = options or Generation()
        engine = Engine(
            self.model,
            stop_ids=frozenset([self.tokenizer.eos_id]),
            banned_ids=self.tokenizer.unspeakable(self.model.vocab_size),
            past_context=options.past_context,
        )
        rows: dict[int, _Row] = {}
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for index, prompt in enumerate(prompts):
            ids, unspelt = self.tokenizer.encode_array(prompt)
            tokens = [self.tokenizer.eos_id, *ids.tolist()]  # a text begins where another ended
            for sample in range(options.num_samples):
                try:
                    number = engine.add(tokens, options.sampling(sample))
                except DataError as error:
                    if len(prompts) == 1:
                        raise
                    where = f"prompt {index + 1} of {len(prompts)}"
                    raise DataError(f"{where}: {error.what}", error.hint) from None
                row = _Row(self.tokenizer, options.stop, prompt, index, sample)
                if unspelt:
                    row.notices.append(
                        f"the tokenizer cannot spell {unspelt:,} bytes of the prompt; the model "
                        "reads them as unknown"
                    )
                rows[number] = row
        return _chunks(engine, rows)

    def __repr__(self) -> str:
        return f"Generator({type(self.model).__name__}, {self.tokenizer!r})"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        yield "model", type(self.model).__name__
        yield "tokenizer", self.tokenizer
        yield from self.card.items()


def _chunks(engine: Engine, rows: dict[int, "_Row"]) -> Iterator[Chunk]:
    """Turn the engine's events into text."""
    while engine.live:
        for event in engine.step():
            chunk = rows[event.row].take(event)
            if chunk.completion:
                engine.drop(event.row)  # a stop string: the engine does not know that it is over
                del rows[event.row]
            if chunk.text or chunk.notice or chunk.completion:
                yield chunk


class _Row:
    """The text of one row."""

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], prompt: str, index: int, sample: int
    ) -> None:
        self.notices: list[str] = []
        self._prompt, self._index, self._sample = prompt, index, sample
        self._characters = tokenizer.stream()
        self._until = StopStrings(stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._texts: list[str] = []
        self._told = 0  # notices that were given with a chunk

    def take(self, event: Event) -> Chunk:
        """Take one event; its last chunk carries the completion."""
        self._tokens.append(event.token)
        self._logprobs.append(event.logprob)
        if event.notice:
            self.notices.append(event.notice)
        # An end of text decodes to nothing.
        text = self._until.push(self._characters.push(event.token))
        if event.reason and not self._until.found:
            text += self._until.push(self._characters.flush()) + self._until.flush()
        self._texts.append(text)
        new, self._told = self.notices[self._told :], len(self.notices)
        chunk = Chunk(index=self._index, sample=self._sample, text=text, notice="; ".join(new))
        reason = "stop" if self._until.found else event.reason
        return replace(chunk, completion=self._completion(reason)) if reason else chunk

    def _completion(self, reason: str) -> Completion:
        return Completion(
            prompt=self._prompt,
            text="".join(self._texts),
            reason=reason,
            index=self._index,
            sample=self._sample,
            tokens=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            notices=tuple(self.notices),
        )


class StopStrings:
    """Passes text on up to the first stop string; holds back what may be the beginning of one.

    Args:
        stop: None of them empty. The one that is complete first ends the text.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.found = False
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> str:
        """Take a piece of text; give what certainly stands before any stop string."""
        if self.found:
            return ""
        text = self._held + text
        # (end, start): the first to be complete; of several, the longest
        ends = [(text.find(s) + len(s), text.find(s)) for s in self._stop if s in text]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        held = self._beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """Give what was held back: no more text comes."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(s) - 1 for s in self._stop), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(s.startswith(text[-length:]) for s in self._stop):
                return length
        return 0


def _short(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def load(run: str | Path | Run = "", *, code: str | Path = "") -> Generator:
    """Open a finished run for use.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        code: The Python file of a model of yours: a run never brings code with it.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It is of a model of yours, and its file was not named.
    """
    if code:
        allow(code)
    opened, plan = open_run(run, "lm")
    model, tokenizer = load_model(opened)
    return Generator(model, tokenizer, card_of(opened, plan))


def load_translator(run: str | Path | Run = "", *, verb: str = "") -> Translator:
    """Open a finished run that translates.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        verb: The command that asks, for the message on a run of another task.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, "translate", verb)
    model, _ = load_model(opened)
    return translator_of(model, opened.path, plan.config.data.max_tokens, card_of(opened, plan))


def load_filler(run: str | Path | Run = "") -> MaskFiller:
    """Open a finished run that fills in masked words.

    Args:
        run: Its folder; empty: the newest below ``runs/``.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, "mlm")
    model, tokenizer = load_model(opened)
    return MaskFiller(model, tokenizer, card_of(opened, plan))


def load_embedder(run: str | Path | Run = "") -> Embedder:
    """Open a finished run that makes vectors of sentences: one that translates, or fills in.

    Args:
        run: Its folder; empty: the newest below ``runs/``.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, ("translate", "mlm"), "embed")
    return load_filler(opened) if plan.config.task == "mlm" else load_translator(opened)


def load_chat(run: str | Path | Run = "", talk: Talk | None = None, *, system: str = "") -> Chat:
    """Open a finished run that answers, for one conversation.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        talk: How replies are chosen.
        system: What stands before every conversation, where the data had such turns.

    Raises:
        RunError: It is missing, unfinished, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened, plan = open_run(run, "chat")
    return Chat(_partner(opened, plan), talk, system, card_of(opened, plan))


def _partner(run: Run, plan: Plan) -> Partner:
    model, tokenizer = load_model(run)
    data = plan.config.data
    return Partner(model, tokenizer, data.max_turns, data.max_tokens)


def evaluate(
    run: str | Path | Run = "", sources: Sequence[str] = (), *, code: str | Path = ""
) -> Score:
    """Score a run on a text: bits per byte, as `ensue.tasks.lm.score` defines them.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        sources: Files or folders (of a run that answers: dialogues; of one that names what pictures
            show: pictures); none: the run's own validation split.
        code: As for `load`.

    Raises:
        DataError: The text cannot be read, or is not the one that the run was validated on.
    """
    if code:
        allow(code)
    opened, plan = open_run(run)
    if sources and plan.config.task == "chat":
        return evaluate_chat(opened, sources, contexts=0).score
    if sources and plan.config.task == "pictures":
        return evaluate_labels(opened, sources).score
    if sources:
        require_task(opened, plan, ("lm", "mlm"), "evaluate")
    if plan.config.task not in ("lm", "mlm"):
        return _own_score(opened, plan, load_network(opened)[0])
    model, tokenizer = load_model(opened)
    text = _text(opened, plan, tokenizer, sources)
    name = ", ".join(sources) or "valid"
    length = plan.config.model.context_length
    if plan.config.task == "mlm":
        rows = MaskedRows(text, tokenizer, plan.config.data, length)
        return score_masked(model, rows, name, torch.device("cpu"))
    return score(model, text, length, name, torch.device("cpu"))


def _own_score(run: Run, plan: Plan, model: Any) -> Score:
    """Score a run on its own validation split, whatever its task."""
    material = read_data(frozen(plan.config, run), start_env("cpu"), Tracker())
    check_same(material.valid_text, plan)
    task = material.task(plan.config, torch.device("cpu"))
    return task.evaluate(model)


def evaluate_translations(
    src: str | Path,
    ref: str | Path,
    run: str | Path | Run = "",
    *,
    against: str | Path | Run = "",
    search: Search | None = None,
    tracker: Tracker | None = None,
) -> TranslationScore:
    """Translate a file and score it by another: BLEU, chrF and TER, as sacreBLEU counts them.

    Args:
        src: Sources, one on each line.
        ref: What a person made of them, line by line.
        run: Its folder; empty: the newest below ``runs/``.
        against: A second run, to be compared with on the same sentences.
        search: How translations are searched for.
        tracker: Hears how it goes.

    Raises:
        DataError: The files have other numbers of lines, or cannot be read.
        MissingExtraError: sacrebleu is not installed.
    """
    require()
    named = [run, *([against] if str(against) else [])]
    translators = [load_translator(one, verb="evaluate") for one in named]
    pairs = list(read_pair_files(str(src), str(ref)))
    sources, references = [p.src for p in pairs], [p.tgt for p in pairs]
    tracker = tracker or Tracker()
    total = sum(map(bool, map(str.strip, sources)))

    def told(done: int) -> None:
        tracker.counted("translating", done, total)

    texts = []
    for translator in translators:
        lines = list(translator.stream(sources, search, on_progress=told))
        texts.append([line.text for line in lines])
        whose = f"{translator.card['run']}, " if against else ""
        for notice in _summed([line.notices for line in lines]):
            tracker.notice(whose + notice)
    return score_translations(sources, texts[0], references, *texts[1:])


def _summed(notices: Sequence[Sequence[str]]) -> Iterator[str]:
    """Say once what is said of several lines: how often, and of which first."""
    lines: dict[str, list[int]] = {}
    said: dict[str, str] = {}
    for number, some in enumerate(notices, 1):
        for notice in some:
            kind = re.sub(r"[\d,]+", "", notice)
            said.setdefault(kind, notice)
            lines.setdefault(kind, []).append(number)
    for kind, where in lines.items():
        more = f", and {len(where) - 1:,} lines more like it" if len(where) > 1 else ""
        yield f"line {where[0]:,}: {said[kind]}{more}"


@dataclass(frozen=True, kw_only=True)
class ChatScore:
    """How good a model's replies are, and how varied."""

    score: Score
    """Of the replies that people gave."""
    perplexity: float
    """Of a token of them: e to the power of the loss."""
    contexts: int
    """Contexts that were answered."""
    of: int
    """Contexts that there are."""
    rerank: int
    """Replies of which one was chosen."""
    ways: Mapping[str, Diversity]
    """What the replies are like: people's own; the model's likeliest; drawn; drawn and reranked."""


def evaluate_chat(
    run: str | Path | Run = "",
    sources: Sequence[str] = (),
    *,
    contexts: int = 500,
    talk: Talk | None = None,
    beam: Beam | None = None,
    tracker: Tracker | None = None,
) -> ChatScore:
    """Score a run's replies: how well it foresees people's, and how varied its own are.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        sources: Dialogues; none: the run's own validation split.
        contexts: So many are answered, an even sample; all of them are scored. 0: none.
        talk: How replies are drawn; ``rerank`` of them are drawn for each context.
        beam: How the likeliest one is searched for.
        tracker: Hears how it goes.

    Raises:
        DataError: The dialogues cannot be read, or are not those that the run was validated on.
    """
    if contexts < 0:
        raise UsageError(f"contexts is {contexts}; it must be 0 (none) or more")
    opened, plan = open_run(run, "chat", "evaluate")
    partner = _partner(opened, plan)
    tracker = tracker or Tracker()
    pairs = _replies(opened, plan, partner, sources, tracker)
    score = score_replies(partner.model, plan.config.model, pairs, partner.tokenizer)
    rows = np.linspace(0, len(pairs) - 1, min(contexts, len(pairs))).astype(int).tolist()
    talk, beam = talk or Talk(rerank=10), beam or Beam()
    ways = _ways(partner, pairs, rows, talk, beam, tracker) if rows else {}
    return ChatScore(
        score=replace(score, split=", ".join(sources) or "valid"),
        perplexity=math.exp(score.loss),
        contexts=len(rows),
        of=len(pairs),
        rerank=talk.rerank,
        ways=ways,
    )


def _replies(
    run: Run, plan: Plan, partner: Partner, sources: Sequence[str], tracker: Tracker
) -> PairTokens:
    """Give the replies to score with their contexts: the named ones, or the run's own."""
    config = frozen(plan.config, run)
    if sources:
        data = replace(config.data, sources=tuple(sources), valid=())
        dialogues, notes = tokenise_dialogues(data, partner.tokenizer, load_tokenizer)
        for note in notes:
            tracker.notice(note)
        pairs = pairs_of(dialogues, partner.max_turns, partner.most)
    else:
        material = read_data(config, start_env("cpu"), Tracker())
        assert isinstance(material, Dialogues)
        check_same(material.valid_text, plan)
        dialogues, pairs = material.dialogues.valid, material.splits(config.model)[1]
    if left_out := len(dialogues.replies) - len(pairs):
        tracker.notice(
            f"{left_out:,} of {len(dialogues.replies):,} replies are not scored: they have more"
            f" than {partner.most} tokens"
        )
    return pairs


ANSWERED = 25
"""Contexts that are answered at a time."""


def _ways(
    partner: Partner,
    pairs: PairTokens,
    rows: Sequence[int],
    talk: Talk,
    beam: Beam,
    tracker: Tracker,
) -> dict[str, Diversity]:
    people = [partner.tokenizer.decode(pairs.tgt_ids(row)) for row in rows]
    texts: dict[str, list[str]] = {"likeliest": [], "drawn": [], "reranked": []}
    for first in range(0, len(rows), ANSWERED):
        tracker.counted("answering contexts", first, len(rows))
        some = rows[first : first + ANSWERED]
        contexts = [pairs.src_ids(row) for row in some]
        seeds = [derive_seed(talk.seed, row + 1) for row in some]
        drawn = partner.draw(contexts, talk, seeds)
        texts["likeliest"] += [reply.text for reply in partner.likeliest(contexts, beam)]
        texts["drawn"] += [replies[0].text for replies in drawn]
        for context, replies in zip(contexts, drawn, strict=True):
            texts["reranked"].append(partner.choose(context, replies, talk.weight).text)
    tracker.counted("answering contexts", len(rows), len(rows))
    if talk.rerank == 1:
        del texts["reranked"]
    return {name: diversity(one, people) for name, one in {"people": people, **texts}.items()}


def floor(run: str | Path | Run = "", sources: Sequence[str] = ()) -> Floor:
    """Score the same text by counts of byte 5-grams in the run's training text: what to beat.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        sources: As for `evaluate`.
    """
    opened, plan = open_run(run, "lm")
    tokenizer = load_tokenizer(opened.tokenizer_path)
    text = _text(opened, plan, tokenizer, sources)
    return floor_of(_corpus(opened, plan).train, text, tokenizer)


def report(run: str | Path | Run = "", prompts: Sequence[str] = ("",)) -> Path:
    """Write the run's report anew, with the floor and with continuations of these prompts.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        prompts: What the samples continue.

    Returns:
        The page.
    """
    opened, _ = open_run(run, "lm")
    completions = load(opened).generate(list(prompts), max_new_tokens=150)
    counted = floor(opened)
    return write_report(
        opened,
        opened.read_plan(),
        samples=[(c.prompt, c.text) for c in completions],
        floor={"name": f"{counted.order}-gram", "bits_per_byte": counted.bits_per_byte},
    )


def _corpus(run: Run, plan: Plan) -> Corpus:
    material = read_data(frozen(plan.config, run), start_env("cpu"), Tracker())
    assert isinstance(material, Text | MaskedText)
    return material.corpus


def _text(run: Run, plan: Plan, tokenizer: Tokenizer, sources: Sequence[str]) -> Tokens:
    """Tokenise the text to score: the named one, or the run's own validation split."""
    if sources:
        return tokenise(list(sources), tokenizer, load_tokenizer=load_tokenizer)[0]
    text = _corpus(run, plan).valid
    check_same(text.fingerprint, plan)
    return text


def compare(
    data: str | Path | Sequence[str | Path] | DataConfig | PairsConfig,
    *,
    models: Sequence[str] | Mapping[str, Any] = (),
    equal: str = "params",
    budget: str = "3min",
    seeds: int = 3,
    rates: Sequence[float] = (),
    size: str = "",
    out: str | Path = "",
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    test_src: Sequence[str | Path] = (),
    test_tgt: Sequence[str | Path] = (),
    tokenizer: str = "auto",
    settings: TrainConfig | None = None,
    jobs: int = 1,
    tracker: Tracker | None = None,
) -> Result:
    """Train several models at an equal cost, beside what needs no network.

        class GRU(nn.Module): ...    # a decoder: see ensue.testing

        if __name__ == "__main__":   # each run is a process that reads this file again
            result = ensue.compare("book.txt", models={"gpt2": "gpt2", "gru": GRU})

        pairs = PairsConfig(src=("train.de",), tgt=("train.en",))    # of ensue.data.pairs
        result = ensue.compare(pairs)

    Args:
        data: Files, folders, or what else ``ensue train`` reads; or a data config: of pairs it is
            `ensue.data.pairs.PairsConfig`. With a config `valid` and `tokenizer` are its own.
        models: Names of the lineage; or, by the name in the table: a name of the lineage, a config
            (`ensue.models.gpt2.GPT2Config`), or a class of yours; empty: all that can learn it.
        equal: What is equal: params (and tokens), flops or time.
        budget: What one run may take, its share of the learning-rate trials included.
        seeds: Runs of each candidate.
        rates: Factors on the learning rates that are tried; a single one: no trial; none: as is
            usual for the task.
        size: xs, s, m or l; empty: chosen for the budget.
        out: The folder; empty: a new one below ``runs/``. The same call again goes on with it.
        valid: Text to choose on; empty: a tenth of the data is held out.
        test: Text, or tables of pairs, that is scored once, at the end.
        test_src: Of pairs: files of sources, instead of tables.
        test_tgt: Their translations, line by line.
        tokenizer: As for `train`.
        settings: Everything about the optimisation, the same for all.
        jobs: Runs at a time.
        tracker: Hears how it goes.

    Raises:
        UsageError: A model or value that does not exist; a budget that some candidate cannot use.
        LawError: A model of yours breaks a law of decoders.
    """
    named = models if isinstance(models, Mapping) else {name: name for name in models}
    if len(named) < len(models):
        raise UsageError("models: a name is there twice", 'Name each: {"a": GRU, "b": GRU}')
    request = CompareConfig(
        task="translate" if isinstance(data, PairsConfig) else "lm",
        data=_data_config(data, valid, tokenizer),
        test=tuple(map(str, test)),
        test_src=tuple(map(str, test_src)),
        test_tgt=tuple(map(str, test_tgt)),
        models={name: _model_table(model) for name, model in named.items()},
        equal=equal,
        budget=budget,
        seeds=seeds,
        rates=tuple(rates),
        size=size,
        train=settings or TrainConfig(),
    )
    return run_comparison(request, out, tracker, jobs)


def _data_config(
    data: Any, valid: Sequence[str | Path], tokenizer: str
) -> DataConfig | PairsConfig:
    if isinstance(data, DataConfig | PairsConfig):
        return data
    sources = [data] if isinstance(data, str | Path) else data
    return DataConfig(
        sources=tuple(map(str, sources)), valid=tuple(map(str, valid)), tokenizer=tokenizer
    )


def _model_table(model: Any) -> dict[str, Any]:
    """Write a model as a recipe does: a name, a config, or a class that lies in a file."""
    if isinstance(model, str | type):
        return {"name": _named(model)}
    return {"name": step_of(model).name, **to_dict(model)}


def _named(model: str | type) -> str:
    """Give a model's name; whoever names a file or a class of theirs lets it be used."""
    if isinstance(model, str):
        file, _, classname = find_step(model).name.rpartition(":")
        return f"{allow(file)}:{classname}" if file else model
    try:
        file = allow(inspect.getfile(model))
    except (TypeError, OSError, UsageError):
        raise UsageError(
            f"{model.__name__} lies in no file, and each run is a process that must find it",
            "Write the class into a Python file, and import it from there.",
        ) from None
    return f"{file}:{model.__name__}"


def train(
    data: str | Path | Sequence[str | Path],
    *,
    model: Any = DEFAULT_MODEL,
    size: str = "",
    budget: str = "",
    steps: int = 0,
    seed: int = 0,
    out: str | Path = "",
    valid: Sequence[str | Path] = (),
    tokenizer: str = "auto",
    settings: TrainConfig | None = None,
    tracker: Tracker | None = None,
) -> Run:
    """Train a language model on text, or go on with a run that was stopped.

    Args:
        data: Files, folders, or what else ``ensue train`` reads.
        model: The name of a step of the lineage, its config (`ensue.models.gpt2.GPT2Config`), or a
            class of yours, by name (``gru.py:GRU``) or itself.
        size: xs, s, m or l; empty: chosen for the budget.
        budget: Time or work, as ``3min`` or ``2e15flop``; the default is 3min.
        steps: Updates, instead of a budget.
        seed: Of the weights, the order of the data, and dropout.
        out: The run folder; empty: a new one below ``runs/``. The same call again resumes it.
        valid: Text to validate on; empty: a tenth of the data is held out.
        tokenizer: auto, byte, char, word, bpe, or the path of a tokenizer.json.
        settings: Everything about the optimisation; its zeros are chosen.
        tracker: Hears how it goes.

    Returns:
        The finished run; `load` opens it.
    """
    sources = [data] if isinstance(data, str | Path) else data
    config: RunConfig[Any] = RunConfig(
        data=DataConfig(
            sources=tuple(map(str, sources)), valid=tuple(map(str, valid)), tokenizer=tokenizer
        ),
        model=find_step(_named(model)).default if isinstance(model, str | type) else model,
        size=size,
        budget=budget,
        steps=steps,
        seed=seed,
        train=settings or TrainConfig(),
    )
    return run_session(config, out, tracker)
