"""One tiny config for each model of the lineage: what the tests of everything else train."""

from typing import Any

import pytest

from ensue.models.bert import MaskedLMConfig, TextBertConfig
from ensue.models.cnn import CNNConfig, PictureCNNConfig, TextCNNConfig
from ensue.models.gpt2 import GPT2Config
from ensue.models.lstm import LSTMClassifierConfig, LSTMConfig
from ensue.models.mlp import MLPClassifierConfig, MLPConfig, NgramMLPConfig
from ensue.models.rnn import RNNClassifierConfig, RNNConfig
from ensue.models.seq2seq import Seq2SeqConfig
from ensue.models.seq2seq_attention import Seq2SeqAttentionConfig
from ensue.models.transformer import TransformerConfig

MODELS: dict[str, Any] = {
    "mlp": MLPConfig(context_length=8, window=3, d_model=16, num_layers=2),
    "cnn": CNNConfig(context_length=8, d_model=16, num_layers=2),
    "rnn": RNNConfig(context_length=8, d_model=16, num_layers=1),
    "lstm": LSTMConfig(context_length=8, d_model=16, num_layers=1),
    "gpt2": GPT2Config(context_length=8, d_model=16, num_layers=1, num_heads=2),
}
PAIR_MODELS: dict[str, Any] = {
    "seq2seq": Seq2SeqConfig(d_model=16, num_layers=1),
    "seq2seq_attention": Seq2SeqAttentionConfig(d_model=16, num_layers=1),
    "transformer": TransformerConfig(context_length=8, d_model=16, num_layers=1, num_heads=2),
}
"""The same for those that read a source first."""
PICTURE_MODELS: dict[str, Any] = {
    "mlp": MLPClassifierConfig(d_model=16, num_layers=1, dropout=0.0),
    "cnn": PictureCNNConfig(d_model=8, num_stages=2, num_layers=1, dropout=0.0),
}
"""Those that name what a picture shows."""
TEXT_MODELS: dict[str, Any] = {
    "mlp": NgramMLPConfig(buckets=512, hidden=True, d_model=16, dropout=0.0),
    "cnn": TextCNNConfig(buckets=256, d_model=16, d_filters=8, dropout=0.0),
    "rnn": RNNClassifierConfig(buckets=256, d_model=16, num_layers=1, dropout=0.0),
    "lstm": LSTMClassifierConfig(buckets=256, d_model=16, num_layers=1, dropout=0.0),
    "bert": TextBertConfig(context_length=48, d_model=16, num_layers=1, num_heads=2, dropout=0.0),
}
"""Those that name the class of a text."""
MASKED = MaskedLMConfig(context_length=16, d_model=16, num_layers=1, num_heads=2, dropout=0.0)
"""That which fills in what is masked."""
EVERY = pytest.mark.parametrize("model", list(MODELS))
TWO = pytest.mark.parametrize("model", ["lstm", "gpt2"])
"""Where the model hardly matters: two as unlike as can be."""
