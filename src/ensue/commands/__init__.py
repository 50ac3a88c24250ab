"""What each verb takes, and the one call that it makes; imported by `ensue.cli` when needed."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic

import tyro

from ensue import api
from ensue.config import read_toml
from ensue.console import Console, print_table
from ensue.data import catalog
from ensue.data.corpus import DataConfig
from ensue.errors import UsageError
from ensue.models import LINEAGE, find_step
from ensue.models.custom import allow
from ensue.training.config import DEFAULT_MODEL, M, RunConfig, config_from_dict
from ensue.views.text import visible


def parse(kind: Any, argv: Sequence[str], verb: str, about: str | None, default: Any = None) -> Any:
    """Parse a verb's arguments; on a mistake tyro names the nearest flag and exits with 2.

    Args:
        kind: The class of the arguments, perhaps with its type parameters filled in.
        argv: The words after the verb.
        verb: Its name, for the help.
        about: What it does, for the help.
        default: Values of what is not given.
    """
    options: dict[str, Any] = {"args": list(argv), "prog": f"ensue {verb}", "description": about}
    if default is not None:
        options["default"] = default
    try:
        return tyro.cli(kind, console_outputs=False, **options)
    except SystemExit as stop:
        # A value that a config refuses: our own message says more than tyro's frame around it.
        error: BaseException | None = stop
        while error is not None and not isinstance(error, UsageError):
            error = error.__context__
        if error is not None:
            raise error from None
    return tyro.cli(kind, **options)  # help, or a flag that does not exist: now said


# -- train -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TrainData(DataConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Text: files, folders, .gz, .jsonl, .csv, .parquet, - (standard input), hub:NAME, the name of
    a public set (ensue data), or one recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainArgs(RunConfig[M], Generic[M]):
    """A run, as flags."""

    data: tyro.conf.OmitArgPrefixes[TrainData] = field(default_factory=TrainData)
    """What is read."""
    model_name: Annotated[str, tyro.conf.arg(name="model")] = DEFAULT_MODEL
    """Which step of the lineage (ensue lineage)."""
    out: str = ""
    """The run folder; the same command again goes on with it. Default: a new one below runs/."""


def parse_train(
    argv: Sequence[str], about: str | None, verb: str = "train"
) -> tuple[RunConfig[Any], str]:
    """Read flags and recipe. The model's name comes first: its config class has the other flags."""
    recipe = next((a for a in argv if a.endswith(".toml") and not a.startswith("-")), "")
    values = read_toml(Path(recipe)) if recipe else {}
    name = _flag(argv, "--model") or dict(values.get("model", {})).get("name", DEFAULT_MODEL)
    step = find_step(str(name))
    file = _flag(argv, "--model").rpartition(":")[0]
    if file.endswith(".py"):
        allow(file)  # the command itself names it
    if recipe:
        base = config_from_dict(
            values | {"model": {**values.get("model", {}), "name": name}}, recipe
        )
    else:
        base = RunConfig(data=DataConfig(sources=()), model=step.default)
    parts = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    default = TrainArgs(**{**parts, "data": TrainData(**_fields(base.data))}, model_name=step.name)
    rest = [a for a in argv if a != recipe] if recipe else argv
    args = parse(TrainArgs[step.config], rest, verb, about, default)  # type: ignore[name-defined]
    kept = {f.name: getattr(args, f.name) for f in dataclasses.fields(base)}
    data, _ = data_of(args.data, verb)
    return RunConfig(**{**kept, "data": data}), args.out


def data_of(data: DataConfig, verb: str) -> tuple[DataConfig, tuple[str, ...]]:
    """Put files in the place of public sets' names; a set's own validation split is used.

    Returns:
        What is read, and the test texts of the sets.

    Raises:
        UsageError: Nothing is named.
    """
    if not data.sources:
        raise UsageError("nothing to read", f"Name a text: ensue {verb} book.txt")
    sources, valid, test = [], list(data.valid), []
    for source in data.sources:
        files = catalog.resolve(source, data.cache)
        sources.append(source if files is None else str(files["train"]))
        if files is not None and "valid" in files and not data.valid:
            valid.append(str(files["valid"]))
        if files is not None and "test" in files:
            test.append(str(files["test"]))
    named = {"sources": tuple(sources), "valid": tuple(valid)}
    return DataConfig(**_fields(data) | named), tuple(test)


def _fields(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def _flag(argv: Sequence[str], flag: str) -> str:
    """Give a flag's value before the real parser can know what other flags there are."""
    for i, arg in enumerate(argv):
        if arg == flag and i + 1 < len(argv):
            return argv[i + 1]
        if arg.startswith(f"{flag}="):
            return arg.split("=", 1)[1]
    return ""


def run_train(config: RunConfig[Any], out: str, console: Console, begun: float = 0.0) -> None:
    """Train, with progress on the console."""
    from ensue.training.session import train

    train(config, out, console, begun)


# -- generate ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class GenerateArgs:
    """A prompt and how to continue it."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The prompt; or the run and one or more prompts."""
    run: str = ""
    """The run folder; default: the newest below runs/."""
    file: str = ""
    """Read prompts from a file, one on each line; - reads standard input."""
    json: bool = False
    """Print one JSON object for each continuation, when it is complete."""
    options: tyro.conf.OmitArgPrefixes[api.Generation] = field(default_factory=api.Generation)
    """How it continues."""


def run_generate(args: GenerateArgs, console: Console) -> None:
    """Stream continuations to standard output; several are printed as they are complete."""
    run, prompts = _run_and_prompts(args)
    several = len(prompts) * args.options.num_samples > 1
    chunks = api.load(run).stream(prompts, args.options)
    if not several and not args.json:
        sys.stdout.write(visible(prompts[0]))
    for chunk in chunks:
        done = chunk.completion
        if chunk.notice:
            console.notice(chunk.notice)
        if args.json:
            sys.stdout.write(f"{done.to_json()}\n" if done else "")
        elif several and done:
            head = f"--- prompt {done.index + 1}, sample {done.sample + 1} ({done.reason})"
            sys.stdout.write(f"{head}\n{visible(done.prompt + done.text)}\n")
        elif not several:
            sys.stdout.write(visible(chunk.text))
            sys.stdout.write("\n" if done else "")
        sys.stdout.flush()
        if done and done.reason == "context_full":
            console.notice("the context is full; to go on: --past-context slide")


def _run_and_prompts(args: GenerateArgs) -> tuple[str, list[str]]:
    """Sort the positionals: one is the prompt; of several the first is the run."""
    words = list(args.words)
    run = args.run
    if args.file:
        if len(words) > 1 or (words and run):
            raise UsageError("give prompts or --file, not both")
        run = run or (words[0] if words else "")
        return run, _lines(args.file)
    if not run and len(words) > 1:
        run = words.pop(0)
    return run, words or [""]


def _lines(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}") from None
    lines = [line for line in text.splitlines() if line]
    if not lines:
        raise UsageError(f"{file} has no prompts")
    return lines


# -- evaluate ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """A run and a text."""

    run: tyro.conf.Positional[str] = ""
    """The run folder; default: the newest below runs/."""
    data: tuple[str, ...] = ()
    """The text; default: the run's own validation split."""
    floor: bool = False
    """Also score the text by counting byte 5-grams in the training text: what a model must beat."""
    json: bool = False
    """Print one JSON object."""


def run_evaluate(args: EvaluateArgs, console: Console) -> None:
    """Print the score and its protocol."""
    score = api.evaluate(args.run, args.data)
    floor = api.floor(args.run, args.data) if args.floor else None
    if args.json:
        values = dataclasses.asdict(score)
        if floor:
            values["floor_bits_per_byte"] = floor.bits_per_byte
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        return
    sys.stdout.write(
        f"{score.bits_per_byte:.4f} bits per byte on {visible(score.split)}"
        f" ({score.bytes:,} bytes, sha256 {score.fingerprint[:12]})\n"
        f"{score.loss:.4f} nats per token, {score.targets:,} tokens;"
        " non-overlapping windows of the context length, every byte scored once\n"
    )
    if floor:
        verdict = "beats" if score.bits_per_byte < floor.bits_per_byte else "does not beat"
        sys.stdout.write(
            f"{floor.bits_per_byte:.4f} bits per byte by counting {floor.order}-grams"
            f" of {floor.train_bytes:,} bytes; the model {verdict} it. {floor.note}\n"
        )


# -- plan --------------------------------------------------------------------------------------


def run_plan(argv: Sequence[str], about: str | None, console: Console) -> None:
    """Show what a published size, a recipe or a text would cost."""
    from ensue.models.gpt2 import PUBLISHED
    from ensue.training.preview import preview, preview_published

    names = [a for a in argv if not a.startswith("-")]
    if names and names[0] in PUBLISHED:
        rows = preview_published(names[0])
    else:
        config, _ = parse_train(argv, about, "plan")
        rows = preview(config, console)
    if "--json" in argv:
        sys.stdout.write(json.dumps(dict(rows)) + "\n")
        return
    print_table(["what", "value"], [[k, v] for k, v in rows])


# -- data --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataArgs:
    """Which data set."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """get NAME; nothing: list all."""


def run_data(args: DataArgs, console: Console) -> None:
    """List the catalog, or fetch one of it."""
    match args.words:
        case () | ("list",):
            rows = [[s.name, f"{s.size_bytes:,}", s.licence, s.title] for s in catalog.CATALOG]
            print_table(["name", "bytes", "licence", "what"], rows)
        case ("get", name):
            public = catalog.entry(name)
            console.notice(f"{public.title}: {public.size_bytes:,} bytes, {public.licence}")
            for split, path in catalog.get(name, console.progress).items():
                sys.stdout.write(f"{split}: {path}\n")
        case _:
            raise UsageError("ensue data knows: list, get NAME")


# -- lineage -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LineageArgs:
    """Nothing to choose."""


def run_lineage(args: LineageArgs, console: Console) -> None:
    """Print the table: fixed memory against growing memory."""
    rows = [[s.name, str(s.year), s.paper, s.idea, s.memory, s.grows] for s in LINEAGE]
    print_table(["model", "year", "paper", "idea", "memory of a row", "grows with"], rows)
