"""A conversation: what is streamed is said, likelihoods agree; and `ensue chat` around it."""

import builtins
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensue import api
from ensue.chat import Chat, Partner, Reply, Talk
from ensue.cli import main
from ensue.data.turns import Turn, is_talk
from ensue.decoding.search import Beam
from ensue.diversity import distinct, diversity, words_of
from ensue.errors import UsageError
from ensue.models.gpt2 import GPT2, GPT2Config
from ensue.models.seq2seq_attention import Seq2SeqAttention, Seq2SeqAttentionConfig
from ensue.models.transformer import Transformer, TransformerConfig
from ensue.tasks.measures import BITS
from ensue.tokenizers.train import train_tokenizer

BYTES = train_tokenizer("byte", [])
SHAPE: dict[str, Any] = {"vocab_size": 257, "d_model": 16, "num_layers": 1, "dropout": 0.0}
HEADS = {"num_heads": 2, "context_length": 48}
RANDOM: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2(GPT2Config(**SHAPE, **HEADS)),
    "transformer": lambda: Transformer(TransformerConfig(**SHAPE, **HEADS)),
    "seq2seq_attention": lambda: Seq2SeqAttention(Seq2SeqAttentionConfig(**SHAPE)),
}
EVERY = pytest.mark.parametrize("model", list(RANDOM))


def random_partner(model: str, max_turns: int = 2) -> Partner:
    torch.manual_seed(2)
    network = RANDOM[model]().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(4.0)
    return Partner(network, BYTES, max_turns, 24)


CONTEXTS = ["hi", "how are you?", "what is it", "no"]


@EVERY
def test_what_is_streamed_is_what_is_said(model: str) -> None:
    for seed in range(4):
        chat = Chat(random_partner(model), Talk(seed=seed, temperature=1.0))
        pieces = list(chat.stream("how are you?"))
        assert chat.last is not None
        assert "".join(pieces) == chat.last.text
        assert len(pieces) > 2
        assert len(chat.last.tokens) <= 24
        assert chat.history == [Turn("user", "how are you?"), Turn("assistant", chat.last.text)]


@EVERY
def test_a_reply_is_as_likely_as_the_engine_says(model: str) -> None:
    """Scored from scratch, in any company: padding must not count, nor the context."""
    partner = random_partner(model)
    contexts = [partner.context([text]) for text in CONTEXTS]
    drawn = partner.draw(contexts, Talk(rerank=3, temperature=1.0), [5, 6, 7, 8])
    flat = [reply for replies in drawn for reply in replies]
    table = partner.logprobs(contexts, [reply.tokens for reply in flat])
    for i, replies in enumerate(drawn):
        for j, reply in enumerate(replies):
            assert table[i][3 * i + j] == pytest.approx(reply.logprob, rel=1e-4)
    assert len({round(row[0], 3) for row in table}) == 4  # another context, another probability


@EVERY
def test_the_likeliest_is_likelier_than_what_is_drawn(model: str) -> None:
    partner = random_partner(model)
    contexts = [partner.context([text]) for text in CONTEXTS]
    found = partner.likeliest(contexts, Beam(num_beams=2, length_penalty=0.0))
    drawn = partner.draw(contexts, Talk(temperature=1.0), [1, 2, 3, 4])
    for reply, (other,), context in zip(found, drawn, contexts, strict=True):
        ((value,),) = partner.logprobs([context], [reply.tokens])
        assert value == pytest.approx(reply.logprob, rel=1e-4)
        assert reply.logprob / len(reply.tokens) > other.logprob / len(other.tokens)


@EVERY
def test_company_changes_no_reply(model: str) -> None:
    partner, talk = random_partner(model), Talk(rerank=2)
    contexts = [partner.context([text]) for text in CONTEXTS]
    together = partner.draw(contexts, talk, [1, 2, 3, 4])
    for i, context in enumerate(contexts):
        (alone,) = partner.draw([context], talk, [i + 1])
        assert [r.tokens for r in alone] == [r.tokens for r in together[i]]


def test_a_seed_repeats_a_conversation() -> None:
    partner = random_partner("gpt2")

    def talked(seed: int) -> list[str]:
        chat = Chat(partner, Talk(seed=seed))
        return [chat.reply("hi") for _ in range(3)]

    assert talked(1) == talked(1)
    assert talked(1) != talked(2)
    assert len(set(talked(1))) > 1


class Told(Partner):
    """Knows how likely each reply is: here, and anywhere."""

    def __init__(self, here: list[float], anywhere: list[float]) -> None:
        self.here, self.anywhere = here, anywhere
        self.__dict__["usual"] = [[1], [2]]

    def logprobs(self, contexts: Any, replies: Any) -> list[list[float]]:
        return [self.here] if len(contexts) == 1 else [self.anywhere, [-math.inf] * len(replies)]


def test_a_reply_that_fits_everything_loses() -> None:
    """By hand: log of the mean over two contexts, one of which excludes it, is log P - log 2."""
    replies = [
        Reply(text=text, tokens=(1,) * size, logprob=0.0, reason="stop")
        for text, size in (("I don't know.", 4), ("At noon, by train.", 5))
    ]
    told = Told([-4.0, -10.0], [-4.0, -30.0])
    assert told.choose([], replies, 0.0).text == "I don't know."
    # weight w: (-4 + w (4 + log 2)) / 4 against (-10 + w (30 + log 2)) / 5
    assert told.choose([], replies, 0.19).text == "I don't know."
    assert told.choose([], replies, 0.21).text == "At noon, by train."


def test_usual_contexts_are_the_models_own_words_and_always_the_same() -> None:
    """A run folder holds no row of its data."""
    one, other = random_partner("seq2seq_attention"), random_partner("seq2seq_attention")
    assert one.usual == other.usual
    assert len({tuple(context) for context in one.usual}) > 8
    assert all(0 < len(context) <= one.most for context in one.usual)
    chat = Chat(one, Talk(rerank=3))
    assert list(chat.stream("hi")) == [chat.last.text if chat.last else ""]


@dataclass(frozen=True)
class Source:
    tokens: Tensor
    length: Tensor


@dataclass(frozen=True)
class Place:
    source: Source
    said: Tensor


class Echo:
    """Says the last turn once more."""

    max_length: int | None = None
    vocab_size = BYTES.vocab_size

    def encode(self, tokens: Tensor, length: Tensor) -> Source:
        return Source(tokens, length)

    def init_state(self, rows: int, memory: Any = None) -> Place:
        return Place(memory, torch.full((rows,), -1))

    def __call__(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        said = (state.said + 1).minimum(state.source.length - 1)
        word = state.source.tokens.gather(1, said[:, None])
        return word[..., None].float(), Place(state.source, said)

    def head(self, hidden: Tensor) -> Tensor:
        return 30.0 * F.one_hot(hidden[..., 0].long(), self.vocab_size).float()


def echo(**options: Any) -> Chat:
    return Chat(Partner(Echo(), BYTES, 1, 100), Talk(no_repeat=0), **options)


def test_white_space_is_what_it_was_in_training() -> None:
    chat = echo()
    assert chat.reply("  two\u00a0 \t words\n") == "two words"
    with pytest.raises(UsageError, match="the turn is blank"):
        chat.stream(" \n")
    assert len(chat.history) == 2


def test_turns_are_taken_back_and_conversations_begun_anew() -> None:
    chat = echo(system="be kind")
    assert not chat.undo()
    assert chat.history == [Turn("system", "be kind")]
    for said in ("one", "two"):
        chat.reply(said)
    assert chat.undo()
    assert [turn.text for turn in chat.history] == ["be kind", "one", "one"]
    chat.reset()
    assert [turn.role for turn in chat.history] == ["system"]
    assert repr(chat) == "Chat(Echo, 1 turn)"


def test_whoever_stops_listening_cuts_the_reply() -> None:
    """What was heard is what was said; where nothing was heard, nothing was asked."""
    chat = echo()
    pieces = chat.stream("hello there")
    heard = next(pieces) + next(pieces)
    pieces.close()
    assert chat.history == [Turn("user", "hello there"), Turn("assistant", heard)]
    assert chat.last is not None
    assert chat.last.reason == "stopped"
    chat.stream("never listened to").close()
    assert len(chat.history) == 2


def test_a_conversation_is_kept_as_training_reads_it(tmp_path: Path) -> None:
    chat = echo(system="be kind")
    chat.reply("eins")
    file = tmp_path / "talk.jsonl"
    file.write_text(chat.to_json() + "\n")
    assert is_talk(str(file))
    roles = [m["role"] for m in json.loads(chat.to_json())["messages"]]
    assert roles == ["system", "user", "assistant"]


@pytest.mark.parametrize("options", [{"rerank": 0}, {"weight": -1.0}, {"no_repeat": -1}])
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is"):
        Talk(**options)


LONG = "0123456789" * 200


@EVERY
@pytest.mark.parametrize("rerank", [1, 2])
def test_a_turn_that_does_not_fit_is_kept_and_said(model: str, rerank: int) -> None:
    """2,000 tokens: of a cut turn the reply is about its end, and nobody knew."""
    chat = Chat(random_partner(model), Talk(rerank=rerank, seed=3))
    assert chat.reply(LONG)
    assert chat.last is not None
    assert chat.last.notices == ("your turn has 2,000 tokens; the model reads the last 23",)
    assert chat.history[0] == Turn("user", LONG)


def test_what_is_read_of_a_long_turn_is_its_end_as_the_notice_says() -> None:
    chat = echo()
    chat.talk = Talk(no_repeat=0, max_new_tokens=100)
    for said, read in ((LONG, 99), ("x" * 100, 99), ("y" * 99, 0)):
        assert chat.reply(said) == said[-99:]
        assert chat.last is not None
        assert len(chat.last.notices) == bool(read)
        assert all(f"the model reads the last {read}" in n for n in chat.last.notices)


def mute(self: "Echo", hidden: Tensor) -> Tensor:
    """Say nothing but that it is over."""
    over = torch.full_like(hidden[..., 0].long(), BYTES.eos_id)
    return 30.0 * F.one_hot(over, self.vocab_size).float()


@pytest.mark.parametrize("rerank", [1, 2])
def test_a_turn_without_a_reply_is_forgotten_and_that_is_said(
    rerank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was dropped in silence; kept, it would make two turns of one side in a row."""
    chat = echo(system="be kind")
    chat.reply("hello")
    monkeypatch.setattr(Echo, "head", mute)
    monkeypatch.setattr(Partner, "choose", lambda *args: args[2][0])
    chat.talk = Talk(rerank=rerank)
    assert chat.reply("are you there?") == ""
    assert [turn.text for turn in chat.history] == ["be kind", "hello", "hello"]
    assert chat.last is not None
    (notice,) = chat.last.notices
    assert "there is no reply, and your turn is forgotten" in notice


def test_an_empty_reply_is_chosen_only_where_there_is_no_other() -> None:
    """An end alone is short and fits well; in the data nobody says nothing."""
    replies = [
        Reply(text=text, tokens=(1,) * size, logprob=0.0, reason="stop")
        for text, size in (("", 1), ("Yes.", 3))
    ]
    assert Told([-9.0], [-9.0]).choose([], replies, 1.0).text == "Yes."
    assert Told([-1.0], [-9.0]).choose([], replies[:1], 1.0).text == ""


# -- how varied replies are --------------------------------------------------------------------


def test_distinct_and_commonest_are_counted_by_hand() -> None:
    replies = ["I don't know.", "i don't know!", "At noon, I know."]
    people = ["At noon.", "I do.", "At noon, I know."]
    found = diversity(replies, people)
    assert words_of(replies[2]) == ["at", "noon", ",", "i", "know", "."]
    assert found.distinct_1 == 8 / 14  # i don't know . ! at noon ,
    assert found.distinct_2 == 8 / 11
    assert (found.commonest, found.commonest_share) == ("I don't know.", 2 / 3)
    assert found.words == 14 / 3
    assert found.overlap == pytest.approx((2 / 7 + 2 / 7 + 1) / 3)
    assert distinct([["a"]], 2) == 0


# -- the commands ------------------------------------------------------------------------------


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Chat:
    chat = echo(card={"model": "echo", "parameters": 1200})
    monkeypatch.setattr("ensue.api.load_chat", lambda *_, **__: chat)
    return chat


def as_stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def typed(monkeypatch: pytest.MonkeyPatch, lines: list[Any]) -> None:
    """Let a person type lines; an exception is a key like Ctrl-C; Ctrl-D comes last."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    rest: Iterator[Any] = iter([*lines, EOFError()])

    def ask(prompt: str) -> str:
        line = next(rest)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    monkeypatch.setattr(builtins, "input", ask)


def test_each_line_of_a_pipe_is_answered_on_one_line(
    spoken: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_stdin(monkeypatch, "one\ntwo\r\n\nthree")
    assert main(["chat", "--run", "x"]) == 0
    assert capsys.readouterr().out == "one\ntwo\n\nthree\n"
    assert len(spoken.history) == 2  # a blank line began a new conversation


@pytest.mark.usefixtures("spoken")
def test_replies_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_stdin(monkeypatch, "Grüße\n\nzwei\n/quit\nnever\n")
    assert main(["chat", "--run", "x", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["said"], row["reply"], row["reason"]) for row in rows] == [
        ("Grüße", "Grüße", "stop"),
        ("zwei", "zwei", "stop"),
    ]
    assert main(["chat", "--run", "x", "given as words", "and more"]) == 0
    assert capsys.readouterr().out == "given as words\nand more\n"
    as_stdin(monkeypatch, "one\n/sett temperature 1\n")
    assert main(["chat", "--run", "x"]) == 2
    error = capsys.readouterr().err
    assert "line 2: there is no command /sett; did you mean '/set'?" in error


def test_a_person_converses(
    spoken: Chat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "talks.jsonl"
    lines = ["hello", "  ", "/undo", "/undo", f"/save {file}", "again", f"/save {file}"]
    lines += ["/set temperature 0.3", "/set temperature", "/set temperature -1", "/set tempr 1"]
    lines += [
        "/set rerank=2.5",
        "/set",
        "/help",
        "/nonsense",
        "/save",
        KeyboardInterrupt(),
        "/reset",
    ]
    typed(monkeypatch, lines)
    assert main(["chat", "--run", "x"]) == 0
    shown = capsys.readouterr()
    words = " ".join((shown.out + shown.err).split())
    assert "echo, 1.2k parameters. /help shows what you can do" in words
    assert shown.out.count("bot: ") == 2
    assert "bot: hello" in words
    for expected in (
        "forgotten",
        "there is nothing to forget",
        "there is no conversation to save yet",
        "2 turns added to",
        "temperature is 0.3",
        "/set temperature wants a number, and not nothing",
        "temperature is -1.0; it must be 0",
        "there is no setting tempr; did you mean 'temperature'?",
        "/set rerank wants a whole number, and not 2.5",
        "repetition_penalty",
        "there is no command /nonsense",
        "/save wants the name of a file",
        "(Ctrl-D or /quit ends)",
        "a new conversation",
    ):
        assert expected in words, expected
    assert spoken.talk.temperature == 0.3
    assert spoken.history == []
    (saved,) = file.read_text().splitlines()
    assert [m["content"] for m in json.loads(saved)["messages"]] == ["again", "again"]


def test_a_conversation_is_saved_only_where_training_finds_it(
    spoken: Chat,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By another name it would be trained on as plain text, braces and all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.jsonl").write_text('{"messages": []}')  # its last line has no end
    names = ["talk.txt", "talk", "talk.json", "/", "a/b.jsonl", "~nobody-of-this-name/a.jsonl"]
    names += ["cut.jsonl", "cut.jsonl", "CAPITALS.JSONL"]
    typed(monkeypatch, ["hello", *(f"/save {name}" for name in names)])
    assert main(["chat", "--run", "x"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("/save talk.jsonl") == 3
    assert "/save talks.jsonl" in shown.err
    assert "a/b.jsonl: No such file or directory" in shown.err
    assert "~nobody-of-this-name/a.jsonl: " in shown.err
    assert shown.err.count("2 turns added to") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"cut.jsonl", "CAPITALS.JSONL"}
    rows = [json.loads(line) for line in (tmp_path / "cut.jsonl").read_text().splitlines()]
    assert rows == [{"messages": []}, *[json.loads(spoken.to_json())] * 2]
    assert is_talk("CAPITALS.JSONL")


def test_what_became_of_a_turn_is_said_at_the_terminal_and_in_json(
    spoken: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_stdin(monkeypatch, LONG)
    assert main(["chat", "--run", "x", "--json"]) == 0
    shown = capsys.readouterr()
    long = "your turn has 2,000 tokens; the model reads the last 99"
    assert json.loads(shown.out)["notices"] == [long]
    assert f"note: {long}\n" in shown.err
    assert "it was cut (max_new_tokens)" in shown.err
    spoken.talk = Talk(no_repeat=0, max_new_tokens=2000)
    as_stdin(monkeypatch, "y" * 200)
    whole = Echo.head

    def unending(self: Echo, hidden: Tensor) -> Tensor:
        logits = whole(self, hidden)
        logits[:, BYTES.eos_id] = -30.0
        return logits

    monkeypatch.setattr(Echo, "head", unending)
    assert main(["chat", "--run", "x"]) == 0
    assert "it was cut (the model writes 100 tokens at most)" in capsys.readouterr().err
    monkeypatch.setattr(Echo, "head", mute)
    typed(monkeypatch, ["are you there?"])
    assert main(["chat", "--run", "x"]) == 0
    shown = capsys.readouterr()
    assert "bot: \n" in shown.out
    assert "your turn is forgotten" in shown.err


@pytest.mark.usefixtures("spoken")
def test_ctrl_c_before_the_first_word_says_that_the_turn_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Echo, hidden: Tensor) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(Echo, "head", interrupted)
    typed(monkeypatch, ["hello"])
    assert main(["chat", "--run", "x"]) == 0
    shown = capsys.readouterr()
    assert "bot:  … (stopped)\n" in shown.out
    assert "your turn is forgotten" in shown.err


@pytest.mark.usefixtures("spoken")
def test_a_pipe_that_is_not_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Gr\xfc\xdfe\n"), "utf-8"))
    assert main(["chat", "--run", "x"]) == 3
    assert "standard input is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "what", "first_word"),
    [
        (["How are you?"], "there is no run How are you?", True),
        (["How are you? " * 30], "there is no run How are you? ", True),
        (["--run", "talk", "How are you?"], "there is no run talk", False),
        ([], "there is no run in runs", False),
    ],
)
def test_what_is_no_run_is_answered_with_how_to_talk(
    argv: list[str],
    what: str,
    first_word: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first thing that many type is a greeting; a run of book.txt would not answer it."""
    monkeypatch.chdir(tmp_path)
    assert main(["chat", *argv]) == 4
    error = capsys.readouterr().err
    assert what in error
    assert "ensue train dialogues.jsonl" in error
    assert "book.txt" not in error
    said = "The first word names a run; the conversation is typed or piped afterwards"
    assert (said in error) == first_word


def test_ctrl_c_cuts_a_reply_and_not_the_conversation(
    spoken: Chat, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, heard = Echo.head, []

    def interrupted(self: Echo, hidden: Tensor) -> Tensor:
        heard.append(1)
        if len(heard) == 5:
            raise KeyboardInterrupt
        return whole(self, hidden)

    monkeypatch.setattr(Echo, "head", interrupted)
    typed(monkeypatch, ["a long story", "then"])
    assert main(["chat", "--run", "x"]) == 0
    assert "bot: a lo … (stopped)\nbot: then\n" in capsys.readouterr().out
    assert [turn.text for turn in spoken.history] == ["a long story", "a lo", "then", "then"]


QUICK = [
    *("--steps", "3", "--size", "xs", "--train.threads", "1", "--train.precision", "fp32"),
    *("--train.compile", "no", "--model.d-model", "16", "--model.num-layers", "1"),
    *("--tokenizer", "byte"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that answer, with an encoder and without, and one that continues a text."""
    folder = tmp_path_factory.mktemp("chat")
    talks = [[f"what is {i}", f"{i} is {i % 7}", "really?", f"yes {i}"] for i in range(60)]
    lines = [json.dumps({"dialog": talk}) for talk in talks]
    (folder / "talk.jsonl").write_text("\n".join(lines))
    (folder / "book.txt").write_text("The quick brown fox sleeps.\n" * 100)
    heads = ["--model.num-heads", "2", "--model.context-length", "64"]
    cache = ["--cache", str(folder / "cache")]
    found = {}
    for name in ("gpt2", "transformer"):
        found[name] = folder / name
        words = [str(folder / "talk.jsonl"), "--model", name, "--out", str(found[name])]
        assert main(["train", *words, *QUICK, *heads, *cache]) == 0
    found["lm"] = folder / "lm"
    words = [str(folder / "book.txt"), "--model", "lstm", "--out", str(found["lm"])]
    assert main(["train", *words, *QUICK, *cache, "--model.context-length", "16"]) == 0
    return found | {"talk": folder / "talk.jsonl"}


@pytest.mark.parametrize("model", ["gpt2", "transformer"])
def test_a_run_answers_and_is_scored(
    runs: dict[str, Path], model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs[model])
    capsys.readouterr()
    expected = api.load_chat(run, Talk(seed=4)).reply("what is 3")
    assert main(["chat", run, "what is 3", "--seed", "4"]) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    words = ["evaluate", run, "--contexts", "5", "--rerank", "2", "--num-beams", "2"]
    words += ["--max-new-tokens", "6"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["ways"]) == ["people", "likeliest", "drawn", "reranked"]
    assert found["perplexity"] == pytest.approx(math.exp(found["score"]["loss"]))
    assert (found["contexts"], found["of"]) == (5, 9)
    assert found["ways"]["people"]["overlap"] == 1.0
    assert found["ways"]["people"]["replies"] == 5
    assert main([*words, "--data", str(runs["talk"])]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "perplexity" in out
    score = api.evaluate(run, [str(runs["talk"])])
    assert f"{score[BITS]:.4f} bits per byte" in out
    assert "5 contexts, an even sample of 180; likeliest: by 2 beams" in out
    card = (runs[model] / "README.md").read_text("utf-8")
    assert f"ensue chat {model}\n" in card
    assert "trained from nothing to answer in a conversation" in card


TYPIST = """
import os, pty, select, sys
pid, screen = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "ensue.cli", "chat", sys.argv[1]])
seen, keys, waited = b"", "", 0
for count, after in enumerate(["hello\\n", "/set top_p 0.5\\n", "\\x03", "/undo\\n", "\\x04"], 1):
    while seen.count(b"you: ") < count:
        if select.select([screen], [], [], 2)[0]:
            seen, waited = seen + os.read(screen, 4096), 0
        elif waited == 30:
            sys.exit(f"nothing more comes: {seen!r}")
        else:
            waited += 1
            # Between showing a prompt and waiting for keys, readline loses a Ctrl-C: press again.
            os.write(screen, keys.encode() if keys == "\\x03" else b"")
    keys = after
    os.write(screen, keys.encode())
try:
    while block := os.read(screen, 4096):
        seen += block
except OSError:  # the other end is closed
    pass
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
"""Types into a terminal; a process of its own, for a fork beside torch's threads may hang."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_a_terminal_is_talked_to_and_left_by_ctrl_d(runs: dict[str, Path]) -> None:
    """Ctrl-C must reach the reply, not the program; line editing must not print prompts twice."""
    command = [sys.executable, "-c", TYPIST, str(runs["gpt2"])]
    done = subprocess.run(command, capture_output=True, check=False)
    shown = done.stdout.decode(errors="replace")
    assert done.returncode == 0, (shown, done.stderr)
    for expected in ("bot: ", "top_p is 0.5", "(Ctrl-D or /quit ends)", "forgotten"):
        assert expected in shown
    assert "Traceback" not in shown


MISUSED = [
    (["chat", "LM", "hello"], "ensue generate"),
    (["generate", "CHAT", "text"], "ensue chat"),
    (["translate", "CHAT", "text"], "ensue chat"),
    (["inspect", "CHAT", "text"], "ensue chat"),
    (["evaluate", "CHAT", "--src", "FILE", "--ref", "FILE"], "--data FILE"),
    (["evaluate", "CHAT", "--floor"], "replies have none"),
    (["evaluate", "CHAT", "--contexts", "-1"], "0 (none) or more"),
]


@pytest.mark.parametrize(("argv", "hint"), MISUSED, ids=[" ".join(m[0]) for m in MISUSED])
def test_a_run_of_another_task_is_refused_with_the_right_command(
    runs: dict[str, Path], argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"LM": str(runs["lm"]), "CHAT": str(runs["gpt2"]), "FILE": __file__}
    capsys.readouterr()
    assert main([names.get(a, a) for a in argv]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert all(word in error for word in hint.split())
    assert "Traceback" not in error
    for one, other in pairwise(error.split()):
        assert (one, other) != ("''", "''")
