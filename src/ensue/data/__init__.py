"""Text from anywhere, as cached token streams, in an order that is a pure function."""

from ensue.data.corpus import Corpus, DataConfig, choose_tokenizer, prepare, tokenise
from ensue.data.notes import Notes
from ensue.data.order import WindowOrder, max_window
from ensue.data.shards import Tokens
from ensue.data.text import Document, open_documents

__all__ = [
    "Corpus",
    "DataConfig",
    "Document",
    "Notes",
    "Tokens",
    "WindowOrder",
    "choose_tokenizer",
    "max_window",
    "open_documents",
    "prepare",
    "tokenise",
]
