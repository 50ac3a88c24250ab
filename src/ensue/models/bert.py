"""Step 9: BERT, the Transformer's encoder alone, trained to fill in what is masked.

The decoder is gone, and with it the order of writing: every place looks at all others, before it
and after it. So it cannot be asked what comes next. It is asked what stood where a word was masked,
and whether the second of two segments followed the first. What it learns of text in this way is
then the start of a classifier, which needs few labels.

    x = norm(tokens E + positions P + segments S)
    for each layer:  x = norm(x + attention(x));  x = norm(x + mlp(x))
    what is masked:  logits = norm(gelu(W x + b)) E^T + c
    the whole text:  pooled = tanh(W' x_1 + b'),  of the first place alone
                     logits = V pooled + d        (the next sentence, or classes)

Reference: Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", arXiv:1810.04805; names of parts and small sizes: github.com/google-research/bert.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ensue.errors import UsageError, nearest
from ensue.nn.attention import Groups, SelfAttention, mean_of_places
from ensue.nn.capture import is_captured, tap
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, empty_embedding, linear
from ensue.nn.positions import sinusoids
from ensue.nn.shape import check_shape

EPS = 1e-12
"""Added to the variance in all norms, as published; in torch it is 1e-5 unless said otherwise."""
STD = 0.02
"""Deviation of first weights."""
MASKED = 0.15
"""Share of the places that are asked for in training. Reference: the paper, section 3.1."""
WORDS = 1024
"""Words that are encoded at a time where nothing is learnt: what a layer makes of them (BERT-base:
16 MB) stays in the processor's cache, and is no fresh memory each time."""


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Shape of an encoder. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Positions: the longest text, with its marks."""
    d_model: int = 0
    """Width of the residual stream."""
    num_layers: int = 0
    """Layers."""
    num_heads: int = 0
    """Attention heads of each layer; divides d_model."""
    d_ff: int = 0
    """Width between the two layers of the MLP; 0: four times d_model."""
    type_vocab_size: int = 2
    """Segments that are told apart: of a pair of texts, the first and the second."""
    dropout: float = -1.0
    """Dropped in training from embeddings, attention weights and residual branches."""

    def __post_init__(self) -> None:
        check_shape(self)
        if self.num_heads and self.d_model % self.num_heads:
            raise UsageError(
                f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}"
            )


@dataclass(frozen=True, kw_only=True)
class MaskedLMConfig(BertConfig):
    """Shape of a `MaskedLM`: that of its encoder, and what it is asked."""

    next_sentence: bool = False
    """Whether it also says if one segment followed the other; as the data are asked."""


@dataclass(frozen=True, kw_only=True)
class TextBertConfig(BertConfig):
    """Shape of a `TextBert`: that of its encoder, and the classes."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    pooling: str = ""
    """What the pooler reads: the first place, as published and where nothing is said, or the mean
    of all places of a text, which an encoder that only filled in says more with; see `SIZES`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise UsageError(
                f"pooling: unknown value {self.pooling!r}{nearest(self.pooling, POOLINGS)}",
                f"Known: {', '.join(filter(None, POOLINGS))}",
            )


POOLINGS = ("", "first", "mean")


def _published(d_model: int, num_layers: int) -> BertConfig:
    return BertConfig(
        vocab_size=30522,
        context_length=512,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=d_model // 64,
        dropout=0.1,
    )


PUBLISHED = {
    "bert-tiny": _published(128, 2),  # 4M
    "bert-mini": _published(256, 4),  # 11M
    "bert-small": _published(512, 4),  # 29M
    "bert-medium": _published(512, 8),  # 41M
    "bert-base": _published(768, 12),  # 110M
    "bert-large": _published(1024, 24),  # 335M
}


def _sizes(make: Any) -> dict[str, Any]:
    return {
        "xs": make(context_length=128, d_model=128, num_layers=2, num_heads=2),
        "s": make(context_length=128, d_model=256, num_layers=4, num_heads=4),
        "m": make(context_length=256, d_model=512, num_layers=4, num_heads=8),
        "l": make(context_length=512, d_model=768, num_layers=12, num_heads=12),
    }


SIZES: dict[str, MaskedLMConfig] = _sizes(MaskedLMConfig)
TEXT_SIZES: dict[str, TextBertConfig] = _sizes(partial(TextBertConfig, pooling="mean"))


def end_to_end(length: Int[Tensor, " B"], steps: int) -> Iterator[tuple[Int[Tensor, " N"], Groups]]:
    """Order rows by length, and let about `WORDS` words at a time stand end to end, unpadded.

    Args:
        length: Words of each row, at least 1.
        steps: Places of each row, with its padding.

    Yields:
        Which of the B x steps places stand there, and how many rows there are of which length.
    """
    places = torch.arange(steps)
    rows_at_a_time = max(1, WORDS * len(length) // int(length.sum()))
    for rows in length.argsort(stable=True).split(rows_at_a_time):
        words = length[rows]
        inside = places < words[:, None]
        lengths, counts = words.unique(return_counts=True)
        groups = list(zip(counts.tolist(), lengths.tolist(), strict=True))
        yield (rows[:, None] * steps + places)[inside], groups


class MLP(nn.Module):
    """Two layers at each place, wider between them, with GELU (its erf form, as published)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff)
        self.down = Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        """Apply to each place alone."""
        return self.down(F.gelu(self.up(x)))


class EncoderLayer(nn.Module):
    """Look at the whole text, then compute at each place; each adds to x, which is normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        d = config.d_model
        self.attention = SelfAttention(d, config.num_heads, config.dropout)
        self.norm1 = nn.LayerNorm(d, eps=EPS)
        self.mlp = MLP(d, config.d_ff or 4 * d)
        self.norm2 = nn.LayerNorm(d, eps=EPS)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "*n D"], mask: Bool[Tensor, "B T"] | Groups
    ) -> Float[Tensor, "*n D"]:
        """Apply to rows of which the places in the mask count, or to rows end to end."""
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        y: Tensor = self.norm2(x + self.dropout(self.mlp(x)))
        return y


class Bert(nn.Module):
    """The encoder, and what it says of a whole text.

    Args:
        config: Its shape.
        pooled: Whether it says something of the whole; else it has no weights for that.
    """

    def __init__(self, config: BertConfig, pooled: bool = True) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.token_embedding = empty_embedding(config.vocab_size, d)
        self.position_embedding = empty_embedding(config.context_length, d)
        self.segment_embedding = empty_embedding(config.type_vocab_size, d)
        self.norm = nn.LayerNorm(d, eps=EPS)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.pooler = Linear(d, d) if pooled else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise as published (see `init_weights`), but for positions, which begin as waves.

        Of them the published deviation is kept. What stands beside a place is then in the same
        direction for all places, and need not be learnt of each apart: after 300 updates of 2,048
        pieces 24.6 % of what was masked is told right, not 19.2 (docs/experiments.md).
        """
        init_weights(self)
        table = self.position_embedding.weight
        if not table.is_meta:
            waves = sinusoids(torch.arange(len(table)), table.shape[1])[:, : table.shape[1]]
            table.copy_(waves * (STD * math.sqrt(2)))

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        length: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
        shift: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Let every place of each text look at all of it.

        Args:
            tokens: Texts, at most `context_length` long, padded at their ends with any id.
            length: Tokens of each that count, at least 1; None: all.
            segments: Which of two texts each token belongs to; None: all to the first (0).
            shift: Added to the vectors that the first layer reads.

        Returns:
            A vector for each place. What stands at padding has no meaning.
        """
        if segments is None:
            segments = torch.zeros_like(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        if length is None:
            length = torch.full_like(tokens[:, 0], tokens.shape[1])
        is_whole = self._is_seen() or tokens.device.type != "cpu" or torch.compiler.is_compiling()
        if is_whole or shift is not None:
            return self._encoded(tokens, positions, segments, positions < length[:, None], shift)
        # The words alone, end to end: nothing is computed of padding. In training, whose batches
        # have rows of like length, many short rows would cost more calls than padding costs.
        inputs = [t.flatten() for t in (tokens, positions, segments)]
        hidden = self.norm.weight.new_zeros(tokens.numel(), self.config.d_model)
        for places, groups in end_to_end(length, tokens.shape[1]):
            words, where, which = (t[places] for t in inputs)
            hidden.index_copy_(0, places, self._encoded(words, where, which, groups))
        return hidden.view(*tokens.shape, -1)

    def _is_seen(self) -> bool:
        """Whether gradients or attention weights are wanted of what comes."""
        return torch.is_grad_enabled() or self.training or is_captured(self)

    def _encoded(
        self,
        tokens: Int[Tensor, "*n"],
        positions: Int[Tensor, "*n"],
        segments: Int[Tensor, "*n"],
        mask: Bool[Tensor, "B T"] | Groups,
        shift: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "*n D"]:
        where = self.position_embedding(positions) + self.segment_embedding(segments)
        x = self.norm(self.token_embedding(tokens) + where)
        tap(self, "vectors", x)
        x = self.dropout(x if shift is None else x + shift)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def pooled(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Say what the whole text is, from the first place: there stands [CLS]."""
        assert self.pooler is not None
        return torch.tanh(self.pooler(hidden[:, 0]))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass of (rows, steps) tokens.

        Matrix products (2 per weight forward, 4 backward) and attention with all of its weights; no
        look-ups, no pointwise work.
        """
        c, d = self.config, self.config.d_model
        weights = c.num_layers * (4 * d * d + 2 * d * (c.d_ff or 4 * d))
        pooler = 6 * d * d if self.pooler is not None else 0
        return rows * (steps * (6 * weights + 12 * c.num_layers * d * steps) + pooler)


class MaskedLM(nn.Module):
    """Fills in what is masked, and says whether the second segment followed the first."""

    def __init__(self, config: MaskedLMConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.context_length
        self.bert = Bert(config, pooled=config.next_sentence)
        self.dense = Linear(d, d)
        self.norm = nn.LayerNorm(d, eps=EPS)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.next_sentence = Linear(d, 2) if config.next_sentence else None
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise all but the encoder, which does so itself; see `init_weights`."""
        init_weights(self.dense)
        if self.next_sentence is not None:
            init_weights(self.next_sentence)
        if not self.bias.is_meta:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        length: Int[Tensor, " B"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Give a vector for each place; see `Bert.forward`."""
        return self.bert(tokens, length, segments)

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary, at chosen places: ``head(hidden[masked])``; few are asked for.

        Of 32 x 128 tokens and 30,522 entries all logits would take 500 MB.
        """
        x = self.norm(F.gelu(self.dense(hidden)).float())
        return linear(x, self.bert.token_embedding.weight, self.bias)

    def follows(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B 2"]:
        """Score that the second segment followed the first (0), and that it did not (1)."""
        assert self.next_sentence is not None
        return self.next_sentence(self.bert.pooled(hidden))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass; see `Bert.train_flops`.

        Logits are counted at the places that are masked.
        """
        d = self.config.d_model
        asked = round(MASKED * rows * steps)
        heads = asked * (d * d + self.vocab_size * d)
        if self.next_sentence is not None:
            heads += rows * 2 * d
        return self.bert.train_flops(rows, steps) + 6 * heads


class TextBert(nn.Module):
    """Names the class of a text. Its encoder may start with the weights of a `MaskedLM`'s."""

    def __init__(self, config: TextBertConfig) -> None:
        super().__init__()
        self.config = config
        self.classes = config.classes
        self.vocab_size = config.vocab_size
        self.max_length: int | None = config.context_length
        self.bert = Bert(config)
        self.dropout = Dropout(config.dropout)
        self.head = Linear(config.d_model, config.classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise all but the encoder, which does so itself; see `init_weights`."""
        init_weights(self.head)

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        length: Int[Tensor, " B"],
        shift: Float[Tensor, "B T D"] | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """Give a logit for each class; see `Bert.forward`."""
        hidden = self.bert(tokens, length, segments, shift)
        if self.config.pooling == "mean":
            places = torch.arange(tokens.shape[1], device=tokens.device)
            mean = mean_of_places(hidden, places < length[:, None])
            hidden = mean[:, None]
        return self.head(self.dropout(self.bert.pooled(hidden)))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass; see `Bert.train_flops`."""
        return self.bert.train_flops(rows, steps) + 6 * rows * self.head.weight.numel()


@torch.no_grad()
def init_weights(part: nn.Module) -> None:
    """Initialise as published: N(0, 0.02), drawn anew beyond two deviations; biases 0, gains 1.

    Reference: `create_initializer` in google-research/bert; other implementations cut nothing off.
    """
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Embedding) and not module.weight.is_meta:
            # nn.init.trunc_normal_ takes 6 s for BERT-base, this less than 2.
            flat = nn.init.normal_(module.weight, std=STD).view(-1)
            far = (flat.abs() > 2 * STD).nonzero()[:, 0]
            while len(far):
                flat[far] = flat.new_empty(len(far)).normal_(std=STD)
                far = far[flat[far].abs() > 2 * STD]
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
