"""Look at a trained model while it reads: what it expects, how far back it looks, its insides.

    look = ensue.look("runs/book", "Once upon a time")
    look.positions[-1].top      # the likeliest next tokens
    look.save("pictures")       # a page, and each picture as SVG and PNG

Of a model that translates: what it writes, and where in the source it looks meanwhile.

    look = ensue.look("runs/de-en", "Ein Hund schläft.")
    look.alignment              # a row for each token that is written, adding up to one

In a notebook the last line of a cell shows it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue import __version__
from ensue.decoding.engine import device_of, evaluating
from ensue.errors import UsageError
from ensue.filler import MaskFiller
from ensue.models.custom import allow
from ensue.nn.capture import Maps, capture
from ensue.runs import Run
from ensue.tasks.translate import translator_of
from ensue.tokenizers import CLS, MASK, SEP, Tokenizer
from ensue.training.session import load_model, open_run, require_task
from ensue.translator import Search, Translator
from ensue.views.looks import (
    ALIGNED,
    INSIDES,
    SHOWN,
    WAYS,
    Position,
    Source,
    fits,
    look_page,
    pictures,
    surprise_facts,
    write_pictures,
)
from ensue.views.page import framed
from ensue.views.pictures import Picture
from ensue.views.text import command

READ = 256
"""Tokens that are read at most: attention keeps a weight for each pair of them."""
TOP = 5
"""Likeliest tokens of a position."""
TINY = 1e-30
"""Keeps the shares of a model whose weights are all zero at zero."""
PROBED = 8
"""Last places of a text whose gradients are averaged."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Look:
    """What was seen of a model while it read a text."""

    title: str
    """Which model."""
    text: str
    """What was read of the text."""
    tokens: tuple[str, ...]
    """The same token by token, made visible, after the mark of a document's beginning."""
    positions: tuple[Position, ...]
    """What was expected after each of them."""
    by_distance: tuple[float, ...]
    """Share of the gradient of a prediction that falls on the token 0, 1, 2 … back; empty where no
    embedding turns the tokens into vectors."""
    reach: int | None
    """Tokens that a prediction can depend on, by the model's shape; None: all that came before."""
    maps: Mapping[str, Float[np.ndarray, "..."]]
    """What the model's taps showed: attention (H, T, T), alignment (H, T, S), gates i f o
    (T, 3, D), states (T, D)."""
    notices: tuple[str, ...]
    """What was cut or could not be spelt."""
    source: Source | None = None
    """What a model that translates was told; the text is then what it writes."""
    given: str = "all before it"
    """What the model knew when it expected a token, in words."""

    @cached_property
    def pictures(self) -> list[Picture]:
        """Everything drawn."""
        return pictures(
            self.tokens,
            self.positions,
            self.by_distance,
            self.reach,
            self.maps,
            self.source,
            self.given,
        )

    @property
    def alignment(self) -> Float[np.ndarray, "T S"] | None:
        """Where in the source the model looks while it writes: the mean over all heads and layers.

        None: it does not translate, or looks at no place of the source.
        """
        layers = [shown for name, shown in self.maps.items() if name.endswith(ALIGNED)]
        return np.concatenate(layers).mean(axis=0) if layers else None

    def to_json(self) -> dict[str, Any]:
        """Give all numbers but the maps as plain values."""
        told: dict[str, Any] = {}
        if self.source:
            told["source"] = {
                "text": self.source.text,
                "tokens": list(self.source.tokens),
                "vector": self.source.vector.tolist(),
            }
        if self.alignment is not None:
            told["alignment"] = self.alignment.tolist()
        return {
            "title": self.title,
            **told,
            "text": self.text,
            "tokens": list(self.tokens),
            "positions": [asdict(position) for position in self.positions],
            "by_distance": list(self.by_distance),
            "reach": self.reach,
            "notices": list(self.notices),
        }

    def save(self, folder: Path | str) -> list[Path]:
        """Write inspect.html, and each picture as SVG and, with matplotlib, as PNG."""
        return write_pictures(Path(folder), "inspect.html", self._page(), self.pictures)

    def _page(self) -> str:
        texts = [self.source.text, self.text] if self.source else [self.text]
        found = surprise_facts(self.positions)
        return look_page(self.title, texts, self.notices, found, self.pictures, __version__)

    def _repr_html_(self) -> str:
        return framed(self._page(), "ensue inspect")

    def __repr__(self) -> str:
        return f"Look({self.title!r}, {len(self.tokens)} tokens, {len(self.maps)} maps)"


def look(run: str | Path | Run, text: str, *, target: str = "", code: str | Path = "") -> Look:
    """Look at a finished run while it reads a text, or translates it.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        text: A sentence or a few; of a longer one a part is read, and a notice says so.
        target: The translation that a model has to write; empty: its own.
        code: The Python file of a model of yours: a run never brings code with it.

    Raises:
        RunError: The run is missing, unfinished, damaged, or of a newer version.
        UsageError: The text is empty, the file of a model of yours was not named, or a target is
            given to a run that does not translate.
    """
    if code:
        allow(code)
    opened, plan = open_run(run)
    task = plan.config.task
    require_task(opened, plan, ("lm", "mlm", "translate"))
    model, tokenizer = load_model(opened)
    name = opened.path.resolve().name
    if task == "translate":
        translator = translator_of(model, opened.path, plan.config.data.max_tokens)
        return look_at_translation(translator, text, target, name)
    if target:
        raise UsageError(
            f"{opened.path} does not translate: there is no target",
            f"Without one: {command('ensue', 'inspect', opened.path, text)}",
        )
    if task == "mlm":
        return look_at_masked(MaskFiller(model, tokenizer), text, name)
    return look_at(model, tokenizer, text, name)


def look_at(model: Any, tokenizer: Tokenizer, text: str, name: str = "") -> Look:
    """Look at any decoder while it reads a text; see `look`.

    Args:
        model: A decoder; its parts show what they pass to `ensue.nn.capture.tap`.
        tokenizer: The one that it was trained with.
        text: What it reads.
        name: What to call it, beside its class.
    """
    if not text:
        raise UsageError("the text is empty", 'For instance: ensue inspect RUN "Once upon a time"')
    ids, unspelt = tokenizer.encode_array(text)
    read = [tokenizer.eos_id, *ids.tolist()]  # a text begins where another ended
    longest = min(READ, model.max_length or READ)
    notices = _notices(len(read), longest, unspelt)
    read = read[-longest:]
    tokens = torch.tensor([read], device=device_of(model))
    with evaluating(model):
        with torch.inference_mode(), capture(model) as maps:
            logits = model.head(model(tokens)[0])[0]
        logprobs = logits.float().log_softmax(dim=-1)
        distances = influence(model, tokens)
    if distances is None:
        notices.append(NO_DISTANCE)
    shown = whole(maps)
    sizes = {"T": len(read)}
    notices += [_undrawn(n, m, len(read)) for n, m in shown.items() if not fits(n, m, sizes)]
    return Look(
        title=_title(model, name),
        text=tokenizer.decode(read),
        tokens=tuple(_spelt(tokenizer, token, "(start)") for token in read),
        positions=_positions(logprobs.cpu(), read[1:], tokenizer, "(start)"),
        by_distance=() if distances is None else tuple(distances.tolist()),
        reach=reach_of(model),
        maps=shown,
        notices=tuple(notices),
    )


def look_at_masked(filler: MaskFiller, text: str, name: str = "") -> Look:
    """Look at a model that fills in while it reads a text; see `look`.

    What it expects at a place it is asked with that place masked, all others as they are: the
    surprise is of each piece given all the others.

    Args:
        filler: The model with its tokenizer.
        text: What it reads; [MASK] is a gap.
        name: What to call it, beside its class.
    """
    tokenizer, notices = filler.tokenizer, list[str]()
    ids = filler.ids(text)
    if not ids:
        raise UsageError("the text is empty", 'For instance: ensue inspect RUN "A [MASK] day"')
    if len(ids) > filler.room:
        notices.append(f"Of {len(ids):,} pieces the first {filler.room:,} are read.")
    if min(len(ids), filler.room) > SHOWN:
        notices.append(f"Pictures show the last {SHOWN} tokens.")
    ids = ids[: filler.room]
    mask = tokenizer.specials[MASK]
    asked = [[*ids[:i], mask, *ids[i + 1 :]] for i in range(len(ids))]
    at_once = max(1, READ * READ // len(ids))
    logprobs = []
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        counts = [row.count(mask) for row in some]  # of a text with gaps more than the one
        own = [sum(counts[:i]) + some[i][: first + i].count(mask) for i in range(len(some))]
        logprobs.append(filler.logprobs(some)[own])
    with capture(filler.model) as maps:
        filler.logprobs([ids])
    marks = tokenizer.specials
    return Look(
        title=_title(filler.model, name),
        text=" ".join(map(tokenizer.token_text, ids)).replace(" ##", ""),
        tokens=tuple(tokenizer.token_text(i) for i in (marks[CLS], *ids, marks[SEP])),
        positions=_positions(torch.cat(logprobs), ids, tokenizer, MASK),
        by_distance=(),
        reach=None,
        maps=whole(maps),
        notices=tuple(notices),
        given="all the others, before it and after it",
    )


def look_at_translation(
    translator: Translator, text: str, target: str = "", name: str = ""
) -> Look:
    """Look at an encoder-decoder while it translates a text; see `look`.

    Args:
        translator: The model with its tokenizers.
        text: The source; of one that is too long the beginning is read.
        target: What it has to write; empty: its own translation.
        name: What to call it, beside its class.
    """
    model, tokenizer = translator.model, translator.tgt_tokenizer
    notices: list[str] = []
    room = min(READ, translator.max_tokens) - 1  # its end is one more
    src = _ids(translator.src_tokenizer, text, "source", room, notices)
    if not src:
        raise UsageError("the text is empty", 'For instance: ensue inspect RUN "Guten Tag"')
    room = min(READ, model.max_length or READ) - 1
    if target:
        tgt = _ids(tokenizer, target, "target", room, notices)
    else:
        tgt = _own_target(translator, src, room, notices)
    read = [tokenizer.eos_id, *tgt]  # a target begins where another ended
    tokens = torch.tensor([read], device=device_of(model))
    with evaluating(model), torch.inference_mode():
        with capture(model) as source_maps:
            memory = translator.encode([src])
        with capture(model) as maps:
            hidden, _ = model(tokens, memory)
        logprobs = model.head(hidden)[0].float().log_softmax(dim=-1)
    spelt = [_spelt(translator.src_tokenizer, token, "(end)") for token in src]
    source = Source(
        text=translator.src_tokenizer.decode(src),
        tokens=(*spelt, "(end)"),
        vector=memory.vector[0].float().cpu().numpy(),
        maps=whole(source_maps),
    )
    notices += _notices_of(source, len(read), maps)
    return Look(
        title=_title(model, name),
        text=tokenizer.decode(tgt),
        tokens=tuple(_spelt(tokenizer, token, "(start)") for token in read),
        positions=_positions(logprobs.cpu(), [*tgt, tokenizer.eos_id], tokenizer, "(end)"),
        by_distance=(),
        reach=None,
        maps=whole(maps),
        notices=tuple(notices),
        source=source,
    )


def _ids(tokenizer: Tokenizer, text: str, what: str, room: int, notices: list[str]) -> list[int]:
    """Give the ids of a text as in training, the first `room` of them."""
    found, unspelt = tokenizer.encode_array(" ".join(text.split()))
    ids: list[int] = found.tolist()
    if unspelt:
        notices.append(
            f"The tokenizer cannot spell {unspelt:,} bytes of the {what}: they are read as unknown."
        )
    if len(ids) > room:
        notices.append(f"Of {len(ids):,} tokens of the {what} the first {room:,} are read.")
    return ids[:room]


def _own_target(translator: Translator, src: list[int], room: int, notices: list[str]) -> list[int]:
    """Let the model translate, as `ensue translate` does."""
    (best,) = translator.search([src], Search())[0]
    if best.reason != "stop" or len(best.tokens) > room:
        notices.append("The translation has no end here: it was cut.")
    return [token for token in best.tokens if token != translator.tgt_tokenizer.eos_id][:room]


def _notices_of(source: Source, written: int, maps: Mapping[str, Any]) -> list[str]:
    notices = []
    if max(written, len(source.tokens)) > SHOWN:
        notices.append(f"Pictures show the last {SHOWN} tokens.")
    if not any(name.endswith(ALIGNED) for name in maps):
        notices.append(
            f"There is nothing to align: the decoder is told one vector of {len(source.vector):,}"
            " numbers, and looks at no place of the source."
        )
    return notices


def _title(model: Any, name: str) -> str:
    return f"{name} ({type(model).__name__})" if name else type(model).__name__


NO_DISTANCE = (
    "How far back it looks is not shown: no nn.Embedding turns all the tokens into vectors at once."
)


def _undrawn(name: str, shown: Float[np.ndarray, "..."], tokens: int) -> str:
    return (
        f"{name.strip('/')}, of shape {shown.shape} for {tokens} tokens, has no picture: there are"
        " some for weights (H, T, T), gates (T, 3, D), and h, c and maps (T, D)."
    )


def _notices(length: int, longest: int, unspelt: int) -> list[str]:
    notices = []
    if length > longest:
        why = "as many as are looked at" if longest == READ else "the model's context"
        notices.append(f"Of {length:,} tokens the last {longest:,} are read: {why}.")
    if min(length, longest) > SHOWN:
        notices.append(f"Pictures show the last {SHOWN} tokens.")
    if unspelt:
        notices.append(f"The tokenizer cannot spell {unspelt:,} bytes: they are read as unknown.")
    return notices


def _positions(
    logprobs: Float[Tensor, "T V"], comes: list[int], tokenizer: Tokenizer, mark: str
) -> tuple[Position, ...]:
    """Say what was expected after each token, and what came; after the last one perhaps nothing.

    Args:
        logprobs: What was expected.
        comes: What came: as many, or one less.
        tokenizer: Spells it.
        mark: What a text's end is where it comes.
    """
    found = []
    best = logprobs[:, : tokenizer.vocab_size].topk(min(TOP, tokenizer.vocab_size))
    shares, ids = best.values.exp().tolist(), best.indices.tolist()
    for i in range(len(logprobs)):
        logprob = float(logprobs[i, comes[i]]) if i < len(comes) else -math.inf
        known = math.isfinite(logprob)  # a gap is none of what may stand there
        found.append(
            Position(
                token=_spelt(tokenizer, comes[i], mark) if i < len(comes) else "",
                probability=math.exp(logprob) if known else None,
                bits=max(0.0, -logprob / math.log(2)) if known else None,
                top=tuple(
                    (_spelt(tokenizer, token, "(end)"), share)
                    for token, share in zip(ids[i], shares[i], strict=True)
                ),
            )
        )
    return tuple(found)


def _spelt(tokenizer: Tokenizer, token: int, mark: str) -> str:
    """Write a token visibly; what stands between two texts by what it means here."""
    return mark if token == tokenizer.eos_id else tokenizer.token_text(token)


def whole(maps: Maps) -> dict[str, Float[np.ndarray, "..."]]:
    """Put what each tap showed of the first row together, in the order of the text."""
    found = {}
    for name, shown in maps.items():
        tensors = [tensor[0] if tensor.ndim else tensor for tensor in shown]
        alike = len({tensor.shape for tensor in tensors}) == 1
        # Of a layer that goes step by step there is one tensor a step.
        joined = torch.stack(tensors) if len(tensors) > 1 and alike else tensors[0]
        part, _, kind = name.rpartition("/")
        shape, _ = INSIDES.get(kind, ((), None))
        if shape[:1] == ("T",) and WAYS[1] in part.split("."):
            joined = joined.flip(0)
        found[name] = joined.float().cpu().numpy()
    return found


def influence(model: Any, tokens: Int[Tensor, "1 T"]) -> Float[Tensor, " T"] | None:
    """Measure how much a prediction depends on the token 0, 1, 2 … places back.

    It is the gradient of the likeliest next token's logit with respect to the vector that the
    model's embedding gives for a token: its norm, as a share of all, averaged over the last
    `PROBED` places of the text.

    Args:
        model: A decoder, in evaluation mode.
        tokens: What it reads.

    Returns:
        The shares; None for a person's own model in which no nn.Embedding turns all the tokens into
        vectors at once.
    """
    steps = tokens.shape[1]
    vectors: list[Tensor] = []

    def leaf(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor | None:
        if not given or not _ends_with(given[0], tokens):
            return None  # such as a table of positions
        vectors.append(made.detach().requires_grad_())
        return vectors[-1]

    total, count = torch.zeros(steps), torch.zeros(steps)
    tables = [part for part in model.modules() if isinstance(part, nn.Embedding)]
    handles = [table.register_forward_hook(leaf) for table in tables]
    try:
        with torch.enable_grad():
            hidden, _ = model(tokens)
            logits = model.head(hidden)[0].amax(dim=-1)
            if not vectors or not logits.requires_grad:
                return None
            for t in range(max(0, steps - PROBED), steps):
                gradients = torch.autograd.grad(
                    logits[t], vectors, retain_graph=True, materialize_grads=True
                )
                parts = torch.cat([gradient[0, -steps:] for gradient in gradients], dim=-1)
                norms = parts.norm(dim=-1)[: t + 1].flip(0).cpu()
                total[: t + 1] += norms / norms.sum().clamp(min=TINY)
                count[: t + 1] += 1
    finally:
        for handle in handles:
            handle.remove()
    shares = total / count
    return shares / shares.sum().clamp(min=TINY)


def _ends_with(ids: Tensor, tokens: Int[Tensor, "1 T"]) -> bool:
    """Whether these are the tokens: a window also looks up what stands before the text."""
    last = ids[:, -tokens.shape[1] :] if ids.ndim == 2 else ids
    return last.shape == tokens.shape and bool((last == tokens).all())


def reach_of(model: Any) -> int | None:
    """Give how many tokens a prediction can depend on, by a model's shape; None: any number."""
    config = getattr(model, "config", None)
    return model.max_length or getattr(config, "reach", None) or getattr(config, "window", None)
