"""Step 2: convolution, the same small filters at every place.

The window network has weights of its own for each place in its window. A convolution has few, of k
taps, and slides them along the text; layers of them see further, each with its taps twice as far
apart as the one below. Made causal by looking to the left only, it predicts the next token. It
still forgets what lies outside its reach: with 7 layers of 2 taps, 128 tokens.

    x = tokens E
    for each layer:  a_t, g_t = sum_j F_j norm(x)_{t - (k-1-j) d} + c    (taps j = 0 … k-1)
                     x = x + a * s(g)                (half of the filters are gates)
    logits = norm(x) E^T + b                         (d: 1, 2, 4, …; the last tap is on t itself)

Reference: LeCun et al. 1989 (shared filters); van den Oord et al. 2016, arXiv:1609.03499 (dilated,
causal); Dauphin et al. 2017, arXiv:1612.08083 (gates, as a language model).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ensue.errors import UsageError
from ensue.nn.capture import tap
from ensue.nn.conv import CausalConv, PictureConv
from ensue.nn.dropout import Dropout
from ensue.nn.linear import Linear, SideBySide, gelu
from ensue.nn.shape import check_shape, check_span
from ensue.nn.vocabulary import Vocabulary
from ensue.nn.words import Words, WordVectors, most_of


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Shape of a causal CNN. A zero (of dropout: -1) means: chosen with the size; see `SIZES`."""

    vocab_size: int = 0
    """Entries of the vocabulary; 0: the tokenizer's."""
    context_length: int = 0
    """Tokens of a training row; when decoding there is no limit."""
    d_model: int = 0
    """Channels of each layer."""
    num_layers: int = 0
    """Convolutions, one on another."""
    kernel_size: int = 2
    """Taps of a filter."""
    dilation_cycle: int = 7
    """Layers after which the distance between taps starts again at 1, having doubled at each."""
    dropout: float = -1.0
    """Dropped in training from the embedding and from each layer's addition."""
    untie_embeddings: bool = False
    """Learn the output layer apart, instead of scoring the vocabulary with the embedding."""

    def __post_init__(self) -> None:
        check_shape(self)

    @property
    def dilations(self) -> list[int]:
        """Distance between a filter's taps, by layer."""
        return [2 ** (i % self.dilation_cycle) for i in range(self.num_layers)]

    @property
    def reach(self) -> int:
        """Tokens that a prediction can depend on."""
        return 1 + sum((self.kernel_size - 1) * d for d in self.dilations)


SIZES = {
    "xs": CNNConfig(context_length=128, d_model=160, num_layers=7),
    "s": CNNConfig(context_length=256, d_model=416, num_layers=7),
    "m": CNNConfig(context_length=256, d_model=608, num_layers=7),
    "l": CNNConfig(context_length=512, d_model=1216, num_layers=14),
}


@dataclass(frozen=True, slots=True)
class CNNState:
    """All that a causal CNN remembers: what its filters reach back to."""

    frames: Float[Tensor, "B R D"]
    """Inputs of each layer's last (k-1) d places, layer after layer; zeros before the text."""


class CNNBlock(nn.Module):
    """One gated convolution on a residual branch."""

    def __init__(self, d_model: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.conv = CausalConv(d_model, 2 * d_model, kernel_size, dilation)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T D"], past: Float[Tensor, "B P D"] | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B P D"]]:
        """Add what the filters find here, and give what later places will look back to."""
        maps, past = self.conv(self.norm(x), past)
        found = F.glu(maps, dim=-1)
        tap(self, "maps", found)
        return x + self.dropout(found), past


class CNN(nn.Module):
    """A causal convolutional language model; a decoder (see `ensue.decoding.decoder`)."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.max_length: int | None = None
        self.vocabulary = Vocabulary(config.vocab_size, config.d_model, config.untie_embeddings)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            CNNBlock(config.d_model, config.kernel_size, d, config.dropout)
            for d in config.dilations
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise filters so that they keep the variance of what they read."""
        if self.vocabulary.bias.is_meta:
            return
        self.vocabulary.init_weights()
        for conv in self._convolutions():
            nn.init.normal_(conv.weight, std=conv.weight.shape[1] ** -0.5)
            nn.init.zeros_(conv.bias)

    def _convolutions(self) -> list[CausalConv]:
        return [m for m in self.modules() if isinstance(m, CausalConv)]

    def init_state(self, rows: int, memory: Any = None) -> CNNState:
        """Give the state of rows that have read nothing: zeros."""
        c = self.config
        return CNNState(self.vocabulary.bias.new_zeros(rows, c.reach - 1, c.d_model))

    def forward(
        self, tokens: Int[Tensor, "B T"], state: CNNState | None = None
    ) -> tuple[Float[Tensor, "B T D"], CNNState | None]:
        """Read T more tokens of each row; see `ensue.decoding.decoder.Decoder`."""
        x = self.dropout(self.vocabulary(tokens))
        lengths = [conv.reach for conv in self._convolutions()]
        pasts = state.frames.split(lengths, dim=1) if state else [None] * len(lengths)
        kept = []
        for block, past in zip(self.blocks, pasts, strict=True):
            x, past = block(x, past)
            kept.append(past)
        return self.norm(x), state and CNNState(torch.cat(kept, dim=1))

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Score the vocabulary."""
        return self.vocabulary.score(hidden)

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: filters and output layer."""
        c = self.config
        weights = c.num_layers * 2 * c.kernel_size * c.d_model**2 + c.vocab_size * c.d_model
        return rows * steps * 6 * weights


@dataclass(frozen=True, kw_only=True)
class PictureCNNConfig:
    """Shape of a CNN over pictures. A zero (of dropout: -1) means: chosen with the size."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    channels: int = 0
    """Of a picture, 1 (grey) or 3; 0: the data's."""
    height: int = 0
    """Pixels; 0: the data's."""
    width: int = 0
    """Pixels; 0: the data's."""
    d_model: int = 0
    """Filters of the first stage; each further stage has twice as many."""
    num_stages: int = 0
    """Stages; each begins with a stride of 2, which halves the picture."""
    num_layers: int = 0
    """Convolutions of each stage, besides that which it begins with."""
    kernel_size: int = 3
    """Taps of a filter on a side, odd; those of the first layer have two more."""
    dropout: float = -1.0
    """Dropped in training from what is said of the whole picture."""

    def __post_init__(self) -> None:
        check_shape(self)
        if self.kernel_size % 2 == 0:
            raise UsageError(
                f"kernel_size is {self.kernel_size}; it must be odd, for a filter to have a middle",
                "For instance: --model.kernel-size 3",
            )


PICTURE_SIZES = {
    "xs": PictureCNNConfig(d_model=32, num_stages=2, num_layers=1),
    "s": PictureCNNConfig(d_model=64, num_stages=2, num_layers=1),
    "m": PictureCNNConfig(d_model=64, num_stages=3, num_layers=1),
    "l": PictureCNNConfig(d_model=96, num_stages=3, num_layers=2),
}


def normed(x: Float[Tensor, "B C H W"], norm: nn.LayerNorm) -> Float[Tensor, "B C H W"]:
    """Normalise the channels at each place; they lie last in memory."""
    gain, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    places = F.layer_norm(x.permute(0, 2, 3, 1), gain.shape, gain, bias, norm.eps)
    return places.permute(0, 3, 1, 2)


class PictureBlock(nn.Module):
    """One convolution on a residual branch, or, with other filters or a stride, on the way."""

    def __init__(self, d_input: int, d_output: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_input)
        self.conv = PictureConv(d_input, d_output, kernel_size, stride, kernel_size // 2)
        self.adds = stride == 1 and d_input == d_output

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F I J"]:
        """Give what the filters find."""
        found = gelu(self.conv(normed(x, self.norm)))
        tap(self, "maps", found)
        return x + found if self.adds else found


class PictureCNN(nn.Module):
    """Names the class of a picture; see `ensue.tasks.labels`."""

    def __init__(self, config: PictureCNNConfig) -> None:
        super().__init__()
        self.config = c = config
        self.classes = c.classes
        looks = c.kernel_size + 2
        self.first = PictureConv(c.channels, c.d_model, looks, stride=2, padding=looks // 2)
        blocks, width = [], c.d_model
        for stage in range(c.num_stages):
            if stage:
                blocks.append(PictureBlock(width, 2 * width, c.kernel_size, 2))
                width *= 2
            blocks += [PictureBlock(width, width, c.kernel_size, 1) for _ in range(c.num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(c.dropout)
        self.head = Linear(width, c.classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise filters so that they keep the variance of what they read."""
        if self.head.weight.is_meta:
            return
        for conv in self._convolutions():
            conv.init_weights()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _convolutions(self) -> list[PictureConv]:
        return [m for m in self.modules() if isinstance(m, PictureConv)]

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Give a logit for each class."""
        x = gelu(self.first(pictures))
        tap(self.first, "maps", x)
        for block in self.blocks:
            x = block(x)
        whole = x.mean(dim=(2, 3), dtype=torch.float32)
        return self.head(self.dropout(self.norm(whole)))

    def train_flops(self, rows: int, steps: int = 1) -> int:
        """Floating-point operations of one forward and backward pass: the convolutions."""
        height, width, total = self.config.height, self.config.width, 0
        for conv in self._convolutions():
            height, width = -(-height // conv.stride), -(-width // conv.stride)
            total += conv.weight.numel() * height * width
        return 6 * rows * (total + self.head.weight.numel())


@dataclass(frozen=True, kw_only=True)
class TextCNNConfig:
    """Shape of a CNN over the words of a text. A zero (of dropout: -1): chosen with the size."""

    classes: int = 0
    """What it tells apart; 0: the data's."""
    buckets: int = 0
    """N-grams of characters that can be told apart; see `ensue.data.words`."""
    shortest_gram: int = 3
    """Characters of the shortest of them."""
    longest_gram: int = 5
    """Characters of the longest of them."""
    d_model: int = 0
    """Width of a word's vector."""
    d_filters: int = 0
    """Filters of each width."""
    shortest_filter: int = 3
    """Words that the narrowest filters look at."""
    longest_filter: int = 5
    """Words that the widest filters look at."""
    dropout: float = -1.0
    """Dropped in training from the words' vectors and from what is said of the whole text."""

    def __post_init__(self) -> None:
        check_shape(self)
        check_span("gram", self.shortest_gram, self.longest_gram)
        check_span("filter", self.shortest_filter, self.longest_filter)


TEXT_SIZES = {
    "xs": TextCNNConfig(buckets=1 << 14, d_model=64, d_filters=64, dropout=0.4),
    "s": TextCNNConfig(buckets=1 << 15, d_model=128, d_filters=100, dropout=0.4),
    "m": TextCNNConfig(buckets=1 << 16, d_model=192, d_filters=200, dropout=0.4),
    "l": TextCNNConfig(buckets=1 << 18, d_model=320, d_filters=400, dropout=0.4),
}


class TextCNN(nn.Module):
    """Names the class of a text by what its filters find anywhere; see `ensue.tasks.labels`.

    Filters of each width k lie on every place; of each the most that it finds counts:

        z_k = max_t f(F_k [x_{t-k/2}, …, x_{t+k/2}] + b_k)
        logits = V [z_3, z_4, z_5] + c

    Reference: Kim 2014, arXiv:1408.5882. Departures: GELU; words' vectors are made of n-grams.
    """

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__()
        self.config = c = config
        self.classes = c.classes
        self.words = WordVectors(c.buckets, c.d_model)
        self.widths = list(range(c.shortest_filter, c.longest_filter + 1))
        self.layers = SideBySide(Linear(k * c.d_model, c.d_filters) for k in self.widths)
        self.dropout = Dropout(c.dropout)
        self.head = Linear(len(self.widths) * c.d_filters, c.classes)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialise filters so that they keep the variance of what they read."""
        if self.head.weight.is_meta:
            return
        self.words.init_weights()
        layer: Any
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        length: Int[Tensor, " B"],
        grams: Int[Tensor, "U G"],
        shift: Float[Tensor, "B T D"] | None = None,
    ) -> Float[Tensor, "B K"]:
        """Give a logit for each class; the input is `ensue.nn.words.Words`."""
        x = self.dropout(self.words(Words(ids, length, grams), shift))
        steps, found = x.shape[1], []
        for width, layer in zip(self.widths, self.layers, strict=True):
            before = (width - 1) // 2
            wide = F.pad(x, (0, 0, before, width - 1 - before))
            taps = torch.cat([wide[:, i : i + steps] for i in range(width)], dim=2)
            maps = gelu(layer(taps))
            tap(layer, "maps", maps)
            found.append(most_of(maps, length))
        return self.head(self.dropout(torch.cat(found, dim=1)))

    def train_flops(self, rows: int, steps: int) -> int:
        """Floating-point operations of one forward and backward pass: the matrix products."""
        filters = sum(k * self.config.d_model * self.config.d_filters for k in self.widths)
        return 6 * rows * (steps * filters + self.head.weight.numel())
