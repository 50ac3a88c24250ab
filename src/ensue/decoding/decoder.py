"""The contract that every generator keeps, and on which the engine, the laws and training rest.

``hidden, state = decoder(tokens, state)`` continues each row by any number of tokens;
``logits = decoder.head(hidden)`` is called only where logits are needed. Training is the same
function without a state.

The laws (checked by `ensue.testing.check_laws`):

- *split*: one call equals any pieces of it;
- *causal*: a later token changes no earlier logit;
- *rows*: rows do not see each other;
- *ragged*: rows at different positions decode together as each would alone;
- *seed*: a sampled row depends on its own seed, and not on the company it is in;
- *beam*: the score of a beam is that of its tokens, read at once.
"""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Decoder(Protocol):
    """What the engine and the training loop need of a model."""

    vocab_size: int
    max_length: int | None
    """Tokens that a row's state can hold; None: unbounded (recurrent models)."""

    def init_state(self, rows: int, memory: Any = None) -> Any:
        """Give the state of `rows` rows that have seen nothing yet."""
        ...

    def __call__(
        self, tokens: Int[Tensor, "B T"], state: Any = None
    ) -> tuple[Float[Tensor, "B T D"], Any]:
        """Read T more tokens of each row.

        Args:
            tokens: Ids in [0, vocab_size).
            state: What `init_state` or an earlier call gave; it is consumed. None: start fresh and
                keep nothing for later (training).

        Returns:
            Hidden states, and the state after these tokens.
        """
        ...

    def head(self, hidden: Float[Tensor, "*n D"]) -> Float[Tensor, "*n V"]:
        """Turn hidden states into logits over the vocabulary."""
        ...
