"""Text in, text out: stop strings, whole characters, samples, notices."""

import importlib.util
import inspect
import json
from dataclasses import MISSING, dataclass, fields
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import ensue
from ensue.api import Chunk, Completion, Generation, Generator, StopStrings
from ensue.errors import DataError, UsageError
from ensue.models.lstm import LSTM, LSTMConfig
from ensue.tokenizers.train import train_tokenizer

BYTES = train_tokenizer("byte", [])


@dataclass(frozen=True)
class Place:
    said: Tensor


class Recites:
    """Says a fixed text and then the end of text, whatever the prompt."""

    def __init__(self, text: str, max_length: int | None = None, padding: int = 0) -> None:
        ids = [*BYTES.encode(text), BYTES.eos_id]
        self.script = torch.tensor(ids)
        self.vocab_size = BYTES.vocab_size + padding
        self.max_length = max_length

    def init_state(self, rows: int, memory: Any = None) -> Place:
        return Place(torch.full((rows,), -1))

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        said = torch.where(state.said < 0, 0, state.said + 1)  # the prompt is one call
        hidden = said[:, None, None].expand(*tokens.shape, 1)
        return hidden.float(), Place(said)

    def head(self, hidden: Tensor) -> Tensor:
        ids = self.script[hidden[..., 0].long().clamp(max=len(self.script) - 1)]
        logits = F.one_hot(ids, self.vocab_size).float()
        logits[..., BYTES.vocab_size :] = 2.0  # what pads the vocabulary was never trained
        return 30.0 * logits


def reciter(text: str, **options: Any) -> Generator:
    return Generator(Recites(text, **options), BYTES)


def test_a_text_ends_at_the_end_of_text_and_the_rest_is_accounted_for():
    (done,) = reciter("so be it").generate("Amen: ")
    assert done.text == "so be it"
    assert (done.prompt, done.reason) == ("Amen: ", "stop")
    assert done.tokens == (*BYTES.encode("so be it"), BYTES.eos_id)
    assert len(done.logprobs) == len(done.tokens)
    assert done.notices == ()


def test_max_new_tokens_ends_it_with_the_reason_length():
    (done,) = reciter("so be it").generate("Amen: ", max_new_tokens=5)
    assert (done.text, done.reason) == ("so be", "length")


@pytest.mark.parametrize("stop", ["\n\n", ["xyz", "\n\n"]])
def test_a_stop_string_is_never_shown_not_even_half(stop):
    generator = reciter("one\ntwo\n\nthree")
    (done,) = generator.generate("", stop=stop)
    assert (done.text, done.reason) == ("one\ntwo", "stop")
    options = Generation(stop=(stop,) if isinstance(stop, str) else tuple(stop))
    texts = [chunk.text for chunk in generator.stream("", options)]
    assert "".join(texts) == "one\ntwo"
    assert "\n" not in texts  # held back until what follows it is known


def test_what_was_held_back_comes_out_when_no_stop_string_follows():
    (done,) = reciter("wait: ST").generate("", stop="STOP")
    assert done.text == "wait: ST"
    (cut,) = reciter("wait: STOP").generate("", stop="STOP", max_new_tokens=8)
    assert (cut.text, cut.reason) == ("wait: ST", "length")


def test_streamed_text_has_whole_characters_only():
    """Bytes of one character come in several tokens: no chunk may show a broken one."""
    text = "naïve 語 🙂 fin"
    chunks = list(reciter(text).stream("é"))
    assert "".join(chunk.text for chunk in chunks) == text
    assert all("\ufffd" not in chunk.text for chunk in chunks)
    assert [chunk.completion is not None for chunk in chunks].count(True) == 1
    assert chunks[-1].completion.text == text


def test_a_character_cut_off_by_the_length_is_marked():
    (done,) = reciter("a語").generate("", max_new_tokens=3)
    assert done.text == "a\ufffd"


def test_text_after_a_stop_string_is_not_generated():
    """A reader that has what it wanted must not pay for the rest."""
    (done,) = reciter("yes." + "x" * 150).generate("", stop=".")
    assert len(done.tokens) == 4


def lstm() -> Generator:
    torch.manual_seed(0)
    shape = {"context_length": 8, "d_model": 16, "num_layers": 1, "dropout": 0.0}
    return Generator(LSTM(LSTMConfig(vocab_size=BYTES.vocab_size, **shape)), BYTES, {"name": "x"})


def test_several_prompts_and_samples_come_back_in_order():
    done = lstm().generate(["a", "bcd", ""], num_samples=2, max_new_tokens=6)
    assert [(d.prompt, d.index, d.sample) for d in done] == [
        (prompt, index, sample)
        for index, prompt in enumerate(["a", "bcd", ""])
        for sample in (0, 1)
    ]
    assert done[0].tokens != done[1].tokens


def test_a_prompts_texts_do_not_depend_on_the_other_prompts():
    generator = lstm()
    together = generator.generate(
        ["long prompt", "b", "b"], num_samples=3, max_new_tokens=9, seed=5
    )
    alone = generator.generate("b", num_samples=3, max_new_tokens=9, seed=5)
    assert [d.tokens for d in together[3:6]] == [d.tokens for d in alone]
    assert [d.tokens for d in together[6:9]] == [d.tokens for d in alone]
    other = generator.generate("b", num_samples=3, max_new_tokens=9, seed=6)
    assert [d.tokens for d in other] != [d.tokens for d in alone]


def test_no_prompts_no_texts():
    assert lstm().generate([]) == []


def test_ids_that_only_pad_the_vocabulary_are_never_chosen():
    (done,) = reciter("ok", padding=7).generate("", temperature=0.0)
    assert done.text == "ok"


def test_a_prompt_too_long_is_named_among_several_before_anything_runs():
    generator = reciter("x", max_length=4)
    with pytest.raises(DataError, match="prompt 2 of 2: the prompt has 6 tokens"):
        generator.stream(["a", "abcde"])
    with pytest.raises(DataError, match=r"^the prompt has 6 tokens"):
        generator.generate("abcde")


def test_a_notice_is_streamed_and_kept():
    generator = reciter("xyz", max_length=4)
    chunks = list(generator.stream("abcde", Generation(past_context="slide")))
    assert "goes on from the last 2" in chunks[0].notice
    assert [bool(chunk.notice) for chunk in chunks].count(True) == 1
    assert chunks[-1].completion.notices == (chunks[0].notice,)


def test_a_prompt_that_cannot_be_spelt_is_read_with_a_notice():
    characters = train_tokenizer("char", ["abc"])
    shape = {"context_length": 8, "d_model": 16, "num_layers": 1, "dropout": 0.0}
    model = LSTM(LSTMConfig(vocab_size=characters.vocab_size, **shape))
    (done,) = Generator(model, characters).generate("abc語", max_new_tokens=3)
    assert done.notices == (
        "the tokenizer cannot spell 3 bytes of the prompt; the model reads them as unknown",
    )
    assert len(done.tokens) >= 1


def test_a_tokenizer_of_another_model_is_refused():
    shape = {"context_length": 8, "d_model": 16, "num_layers": 1, "dropout": 0.0}
    with pytest.raises(UsageError, match="257 entries, the model only 5"):
        Generator(LSTM(LSTMConfig(vocab_size=5, **shape)), BYTES)


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"stop": ("a", "")}, {"top_p": 2.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        Generation(**options)


def test_the_arguments_are_the_fields_of_generation():
    """The command line offers the fields, the library the arguments: they must not drift apart."""
    arguments = dict(inspect.signature(Generator.generate).parameters)
    del arguments["self"], arguments["prompts"]
    assert {name: a.default for name, a in arguments.items()} == {
        field.name: field.default for field in fields(Generation)
    }
    assert all(field.default is not MISSING for field in fields(Generation))


@pytest.mark.parametrize("name", ensue.__all__)
def test_every_public_name_is_there_and_is_no_module(name):
    """`ensue.look` must not become a module because somebody imported one of that name."""
    assert not inspect.ismodule(getattr(ensue, name))
    assert name in dir(ensue)
    assert importlib.util.find_spec(f"ensue.{name}") is None


def test_a_completion_is_one_line_of_json_and_a_short_repr():
    done = Completion(
        prompt="a\n" * 50, text="語", reason="stop", tokens=(1, 2), logprobs=(-0.5, -1.0)
    )
    line = done.to_json()
    assert "\n" not in line
    assert "語" in line
    assert json.loads(line)["logprobs"] == [-0.5, -1.0]
    assert len(repr(done)) < 120
    assert "語" in repr(done)
    assert dict(done.__rich_repr__())["tokens"] == 2
    assert repr(lstm()) == "Generator(LSTM, Tokenizer(kind='byte', vocab_size=257))"
    assert dict(lstm().__rich_repr__())["name"] == "x"
    assert Chunk(index=0, sample=0).completion is None


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_stop_strings_do_not_depend_on_where_the_text_is_cut(text, stop, cuts):
    """Whether a stop string falls into one token or straddles three must not be seen."""
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    expected = text[: min(ends)[1]] if ends else text
    until = StopStrings(stop)
    cuts = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    got = "".join(until.push(text[a:b]) for a, b in pairwise(cuts)) + until.flush()
    assert got == expected
    assert until.found == bool(ends)


def test_an_unknown_piece_is_never_generated():
    """A model may find it likely, having read many; it is no text, and would show as U+FFFD."""
    tokenizer = train_tokenizer("char", ["abcabc"])
    assert tokenizer.unk_id is not None
    model = LSTM(LSTMConfig(vocab_size=tokenizer.vocab_size, d_model=8, num_layers=1, dropout=0.0))
    with torch.no_grad():
        model.vocabulary.bias[tokenizer.unk_id] = 50.0
    (done,) = Generator(model, tokenizer).generate("ab", max_new_tokens=20)
    assert tokenizer.unk_id not in done.tokens
    assert "\ufffd" not in done.text
