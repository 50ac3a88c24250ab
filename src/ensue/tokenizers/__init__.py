"""Byte, character, word and subword tokenizers; each is saved as one ``tokenizer.json``."""

from ensue.tokenizers.spec import (
    CLS,
    EOS,
    INSIDE,
    KINDS,
    LOSSLESS,
    MASK,
    PAD_PIECE,
    PIECES,
    SEP,
    UNK,
)
from ensue.tokenizers.tokenizer import StreamDecoder, Tokenizer, load_tokenizer
from ensue.tokenizers.train import train_tokenizer

__all__ = [
    "CLS",
    "EOS",
    "INSIDE",
    "KINDS",
    "LOSSLESS",
    "MASK",
    "PAD_PIECE",
    "PIECES",
    "SEP",
    "UNK",
    "StreamDecoder",
    "Tokenizer",
    "load_tokenizer",
    "train_tokenizer",
]
