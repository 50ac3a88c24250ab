"""The command line: one function for each verb, and nothing but a call into the library.

Neither ``ensue`` nor ``ensue --help`` imports torch: heavy imports stand inside the verbs.
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ensue import __version__
from ensue.errors import EnsueError, UsageError, nearest

if TYPE_CHECKING:
    from ensue.console import Console


def demo(argv: Sequence[str]) -> None:
    """Compare six models: on this Python's own library, and on dates (3 minutes)."""
    from ensue.commands import parse
    from ensue.commands.demo import DemoArgs, run_demo

    run_demo(parse(DemoArgs, argv, "demo", demo.__doc__), _console())


def train(argv: Sequence[str]) -> None:
    """Train a model on your own text, or go on with a run that was stopped.

    The flags below are those of a text. Of pairs: ensue train --task translate --help; of
    dialogues: --task chat; of labelled texts: --task classify; of pictures: --task pictures; to
    fill in masked words: --task mlm; of a model: ensue train --model lstm --help.
    """
    from ensue.commands import parse_train, run_train

    config, out = parse_train(argv, train.__doc__)
    run_train(config, out, _console(), BEGUN)


def compare(argv: Sequence[str]) -> None:
    """Train several models at an equal cost, and keep the winner and the evidence.

    The flags below are those of a text. Of pairs: ensue compare --task translate --help; of
    labelled texts: --task classify.
    """
    from ensue.commands.compare import parse_compare, run_compare

    run_compare(parse_compare(argv, compare.__doc__), _console())


def generate(argv: Sequence[str]) -> None:
    """Continue a prompt with a trained run."""
    from ensue.commands import GenerateArgs, parse, run_generate

    run_generate(parse(GenerateArgs, argv, "generate", generate.__doc__), _console())


def translate(argv: Sequence[str]) -> None:
    """Translate a text, a file or standard input with a trained run."""
    from ensue.commands import parse
    from ensue.commands.translate import TranslateArgs, run_translate

    run_translate(parse(TranslateArgs, argv, "translate", translate.__doc__), _console())


def classify(argv: Sequence[str]) -> None:
    """Name the classes of texts, or what pictures show, with a trained run."""
    from ensue.commands import parse
    from ensue.commands.classify import ClassifyArgs, run_classify

    run_classify(parse(ClassifyArgs, argv, "classify", classify.__doc__), _console())


def fill(argv: Sequence[str]) -> None:
    """Say which words may stand where a text has [MASK], with a run trained for it."""
    from ensue.commands import parse
    from ensue.commands.fill import FillArgs, run_fill

    run_fill(parse(FillArgs, argv, "fill", fill.__doc__), _console())


def embed(argv: Sequence[str]) -> None:
    """Give the vector that a run's encoder makes of each sentence."""
    from ensue.commands import parse
    from ensue.commands.embed import EmbedArgs, run_embed

    run_embed(parse(EmbedArgs, argv, "embed", embed.__doc__), _console())


def chat(argv: Sequence[str]) -> None:
    """Talk with a trained run, in the terminal or through a pipe."""
    from ensue.commands import parse
    from ensue.commands.chat import ChatArgs, run_chat

    run_chat(parse(ChatArgs, argv, "chat", chat.__doc__), _console())


def evaluate(argv: Sequence[str]) -> None:
    """Score a run: bits per byte; BLEU, chrF, TER; variety of replies; classes told right."""
    from ensue.commands import EvaluateArgs, parse, run_evaluate

    run_evaluate(parse(EvaluateArgs, argv, "evaluate", evaluate.__doc__), _console())


def inspect(argv: Sequence[str]) -> None:
    """Look inside a run while it reads, translates or names; probe it; show sentences as points."""
    from ensue.commands import parse
    from ensue.commands.inspect import InspectArgs, run_inspect

    run_inspect(parse(InspectArgs, argv, "inspect", inspect.__doc__), _console())


def plan(argv: Sequence[str]) -> None:
    """Show parameters, operations, memory, time and data problems before anything is spent."""
    from ensue.commands import run_plan

    run_plan(argv, plan.__doc__, _console())


def data(argv: Sequence[str]) -> None:
    """List or fetch named public data sets."""
    from ensue.commands import DataArgs, parse, run_data

    run_data(parse(DataArgs, argv, "data", data.__doc__), _console())


def lineage(argv: Sequence[str]) -> None:
    """Print the models in the order of the lecture, and what each of them remembers."""
    from ensue.commands import LineageArgs, parse, run_lineage

    run_lineage(parse(LineageArgs, argv, "lineage", lineage.__doc__), _console())


BEGUN = time.monotonic()
"""When the command began: a time budget counts from here."""

VERBS = {
    v.__name__: v
    for v in (
        demo,
        train,
        compare,
        generate,
        translate,
        chat,
        classify,
        fill,
        embed,
        evaluate,
        inspect,
        plan,
        data,
        lineage,
    )
}

TRAINING = ("demo", "train", "compare")
"""Verbs that leave runs, which can go on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit code: 0, or that of the error (see `ensue.errors`).
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    _readable_streams()
    try:
        args = _allow_code(args)
        if not args or args[0] in ("-h", "--help", "help"):
            sys.stdout.write(_help())
            return 0
        if args[0] in ("--version", "version"):
            sys.stdout.write(f"ensue {__version__}\n")
            return 0
        _verb(args[0])(args[1:])
        return 0
    except EnsueError as error:
        if debug:
            raise
        from ensue.console import print_error

        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        on = "; a run goes on from its last checkpoint: repeat the command with --out RUN"
        sys.stderr.write(f"\nstopped at once{on if args and args[0] in TRAINING else ''}\n")
        return 130
    except BrokenPipeError:  # the reader of our output left: ensue generate … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _allow_code(args: list[str]) -> list[str]:
    """Take ``--code FILE.py`` out: the classes in it may be used as models."""
    kept, words = [], iter(args)
    for word in words:
        flag, _, file = word.partition("=")
        if flag != "--code":
            kept.append(word)
            continue
        file = file or next(words, "")
        if not file:
            raise UsageError("--code wants the Python file of your own model")
        from ensue.models.custom import allow

        allow(file)
    return kept


def _verb(name: str) -> Any:
    if name not in VERBS:
        raise UsageError(
            f"there is no command {name!r}{nearest(name, VERBS)}", "See all of them: ensue --help"
        )
    return VERBS[name]


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {n:<{width}}  {(v.__doc__ or '').strip()}" for n, v in VERBS.items())
    return f"""\
ensue {__version__}: train the models of one lecture on your own text, and run them.

Usage: ensue COMMAND ...        (ensue COMMAND --help explains each)

{verbs}

Begin with:
  ensue demo                     everything, on text that this machine already has
  ensue train book.txt           three minutes, all else chosen and said
  ensue generate "Once upon"     continue a text with the newest run

--debug after any command shows where in the code an error arose.
--code FILE.py lets a run use your own model's class; a run never brings code with it.
"""


def _readable_streams() -> None:
    """Let no text fail on a console with an old encoding: replace what it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _console() -> "Console":
    from ensue.console import Console

    return Console()


if __name__ == "__main__":
    sys.exit(main())
