"""``ensue chat``: a conversation in a terminal, or turns in and replies out."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from ensue import api
from ensue.chat import Chat, Talk
from ensue.console import Console, print_error, print_table
from ensue.errors import DataError, EnsueError, UsageError, nearest
from ensue.runs import NoRunError
from ensue.views.text import short, visible

FIRST_WORD = (
    "The first word names a run; the conversation is typed or piped afterwards, or follows in"
    ' quotes: ensue chat runs/talk "How are you?"'
)
TRAIN_FIRST = "A run learns from dialogues: ensue train dialogues.jsonl --out runs/talk"

with contextlib.suppress(ImportError):  # line editing in input(), where the system has it
    import readline  # noqa: F401


@dataclass(frozen=True, kw_only=True)
class ChatArgs:
    """With whom, and how it answers."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The run; or the run and one or more turns of yours, which are answered one after the other.
    Without turns a conversation begins; from a pipe, each line is a turn, a blank line a new
    conversation."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    system: str = ""
    """A system turn before every conversation, where the training data had such turns."""
    json: bool = False
    """Print one JSON object for each reply."""
    talk: tyro.conf.OmitArgPrefixes[Talk] = field(default_factory=Talk)
    """How replies are chosen."""


def run_chat(args: ChatArgs, console: Console) -> None:
    """Talk until there is nothing more to answer."""
    run, said = _run_and_turns(args)
    try:
        chat = api.load_chat(run, args.talk, system=args.system)
    except NoRunError as error:
        hints = [TRAIN_FIRST] if args.run or not run else [FIRST_WORD, TRAIN_FIRST]
        raise NoRunError(error.what, "\n".join(hints)) from None
    session = Session(chat, console, args.json)
    if said or not sys.stdin.isatty():
        session.answer_all(said or _piped())
    else:
        session.converse()


def _run_and_turns(args: ChatArgs) -> tuple[str, list[str]]:
    """Sort the positionals: the run comes first, so that a mistyped one is not said to another."""
    words, run = list(args.words), args.run
    if not run and words:
        run = words.pop(0)
    return run, words


def _piped() -> Iterator[str]:
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not {error.encoding.upper()}",
            "Convert it first, for instance: iconv -f latin1 -t utf-8 turns.txt",
        ) from None


class Session:
    """What a person or a pipe sees of a conversation.

    Args:
        chat: The conversation.
        console: Takes notices.
        json: One JSON object for each reply.
    """

    def __init__(self, chat: Chat, console: Console, json: bool = False) -> None:
        self.chat, self.console, self.json = chat, console, json
        self.commands: dict[str, tuple[str, Callable[[str], None]]] = {
            "/help": ("show this", self._help),
            "/reset": ("begin a new conversation", self._reset),
            "/undo": ("forget your last turn and the reply", self._undo),
            "/save": (
                "/save FILE.jsonl: add the conversation to a file that ensue train reads",
                self._save,
            ),
            "/set": ("show the settings; /set temperature 0.9 changes one", self._set),
            "/quit": ("end; so does Ctrl-D. Ctrl-C cuts a reply short", self._help),
        }

    def answer_all(self, lines: Iterable[str]) -> None:
        """Answer each line on a line of its own; a blank one begins a new conversation.

        Raises:
            UsageError: A line is a command that does not exist or cannot be followed.
        """
        for number, line in enumerate(lines, 1):
            if not line.strip():
                self.chat.reset()
                sys.stdout.write("" if self.json else "\n")
            elif line.strip() == "/quit":
                return
            elif line.startswith("/"):
                try:
                    self._follow(line)
                except UsageError as error:
                    raise UsageError(f"line {number}: {error.what}", error.hint) from None
            else:
                self._answer(line)
            sys.stdout.flush()

    def converse(self) -> None:
        """Talk with the person at the terminal until they leave."""
        card = self.chat.card
        size = f", {short(card['parameters'])} parameters" if "parameters" in card else ""
        sys.stdout.write(f"{visible(str(card.get('model', 'a model')))}{size}.")
        sys.stdout.write(" /help shows what you can do; Ctrl-D ends.\n")
        while True:
            try:
                line = input("you: ")
            except EOFError:
                sys.stdout.write("\n")
                return
            except KeyboardInterrupt:
                sys.stdout.write("\n(Ctrl-D or /quit ends)\n")
                continue
            if line.strip() == "/quit":
                return
            try:
                if line.startswith("/"):
                    self._follow(line)
                elif line.strip():
                    sys.stdout.write("bot: ")
                    self._answer(line)
            except EnsueError as error:
                print_error(error)
            except KeyboardInterrupt:
                sys.stdout.write(" … (stopped)\n")
                if not line.startswith("/"):
                    self._notify()

    def _answer(self, said: str) -> None:
        shown = visible if sys.stdout.isatty() else str
        with contextlib.closing(self.chat.stream(said)) as pieces:
            for piece in pieces:
                if not self.json:
                    sys.stdout.write(shown(piece))
                    sys.stdout.flush()
        reply = self.chat.last
        assert reply is not None
        if self.json:
            values = {
                "said": said,
                "reply": reply.text,
                "reason": reply.reason,
                "tokens": len(reply.tokens),
                "logprob": reply.logprob,
                "notices": list(reply.notices),
            }
            sys.stdout.write(json.dumps(values, ensure_ascii=False, allow_nan=False))
        sys.stdout.write("\n")
        self._notify()

    def _notify(self) -> None:
        """Say what a reader should know of the newest reply."""
        reply, most = self.chat.last, self.chat.partner.most
        if reply is None:  # Ctrl-C came before anything was asked
            return
        for notice in reply.notices:
            self.console.notice(notice)
        if reply.reason == "length":
            longest = f"the model writes {most:,} tokens at most"
            why = longest if len(reply.tokens) >= most else "max_new_tokens"
            self.console.notice(f"the reply has no end: it was cut ({why})")

    def _follow(self, line: str) -> None:
        """Carry out a command.

        Raises:
            UsageError: There is none of that name, or it cannot be carried out.
        """
        name, _, rest = line.strip().partition(" ")
        if name not in self.commands:
            raise UsageError(
                f"there is no command {name}{nearest(name, self.commands)}",
                f"Commands: {' '.join(self.commands)}",
            )
        self.commands[name][1](rest.strip())

    def _help(self, rest: str) -> None:
        print_table(["command", ""], [[name, what] for name, (what, _) in self.commands.items()])

    def _reset(self, rest: str) -> None:
        self.chat.reset()
        self.console.notice("a new conversation")

    def _undo(self, rest: str) -> None:
        done = self.chat.undo()
        self.console.notice("forgotten" if done else "there is nothing to forget")

    def _save(self, rest: str) -> None:
        if not rest:
            raise UsageError("/save wants the name of a file", "For instance: /save talks.jsonl")
        path = Path(rest)
        if path.suffix.lower() != ".jsonl":  # by any other name it is a text, braces and all
            name = path.with_suffix(".jsonl") if path.name else "talks.jsonl"
            raise UsageError(
                f"{rest}: ensue train reads conversations from files whose names end in .jsonl",
                f"For instance: /save {name}",
            )
        if len(self.chat.history) < 2:
            raise UsageError("there is no conversation to save yet")
        try:
            _add_line(path.expanduser(), self.chat.to_json())
        except (OSError, RuntimeError) as error:  # RuntimeError: a ~ without a home
            raise UsageError(f"{rest}: {getattr(error, 'strerror', None) or error}") from None
        self.console.notice(f"{len(self.chat.history)} turns added to {rest}")

    def _set(self, rest: str) -> None:
        talk = self.chat.talk
        names = [f.name for f in dataclasses.fields(talk)]
        if not rest:
            print_table(["setting", "value"], [[name, getattr(talk, name)] for name in names])
            return
        name, _, value = rest.replace("=", " ").partition(" ")
        name = name.strip("-").replace("-", "_")
        if name not in names:
            raise UsageError(
                f"there is no setting {name}{nearest(name, names)}", f"Settings: {', '.join(names)}"
            )
        kind = type(getattr(talk, name))
        try:
            self.chat.talk = dataclasses.replace(talk, **{name: kind(value)})
        except UsageError:
            raise
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(
                f"/set {name} wants {what}, and not {value.strip() or 'nothing'}"
            ) from None
        self.console.notice(f"{name} is {getattr(self.chat.talk, name)}")


def _add_line(path: Path, text: str) -> None:
    """Add a line to a file; one that others left without its end gets it first."""
    line = text.encode(errors="replace") + b"\n"
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        file.write(line if file.read() in (b"", b"\n") else b"\n" + line)
