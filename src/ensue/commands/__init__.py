"""What each verb takes, and the one call that it makes; imported by `ensue.cli` when needed."""

import contextlib
import dataclasses
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from ensue import api
from ensue.chat import Talk
from ensue.classification import LABELLED, evaluate_labels
from ensue.config import read_toml
from ensue.console import Console, print_table
from ensue.data import catalog
from ensue.data.corpus import DataConfig
from ensue.data.dialogues import DialogueConfig
from ensue.data.labelled import LabelledConfig, are_labelled
from ensue.data.masked import MaskedConfig
from ensue.data.pairs import PairsConfig
from ensue.data.pictures import PicturesConfig, are_pictures
from ensue.data.turns import is_talk
from ensue.decoding.search import Beam
from ensue.errors import UsageError
from ensue.files import make_folder
from ensue.models import LINEAGE, find_step, step_of
from ensue.models.custom import allow
from ensue.runs import Run
from ensue.tasks import Kind, find_kind
from ensue.tasks.measures import ACCURACY, BITS, CALIBRATION, FOLLOWING, MACRO_F1
from ensue.training.config import M, RunConfig, config_from_dict
from ensue.training.session import open_run
from ensue.translator import Search
from ensue.views.classes import confusion_picture
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
        # tyro frames a value's error on its own, whatever console_outputs says.
        with contextlib.redirect_stderr(io.StringIO()):
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
    """Text: files, folders, .gz, .jsonl, .csv, .parquet, hub:NAME, the name of a public set (ensue
    data); to train on, also - (standard input), or one recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainMasked(MaskedConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Text: files, folders, .gz, .jsonl, .csv, .parquet, hub:NAME, the name of a public set (ensue
    data); to train on, also - (standard input), or one recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainPairs(PairsConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tables of pairs (.tsv, .csv, .jsonl, .parquet); or give --src, --tgt; to train on, also one
    recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainDialogues(DialogueConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Dialogues: .jsonl or .json (messages, conversations), tables of pairs, plain turns; or one
    recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainLabelled(LabelledConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Tables (.csv, .tsv, .jsonl, .parquet) with a column of texts and one of labels; files whose
    lines begin with the label; a public set (languages); or one recipe.toml."""


@dataclass(frozen=True, kw_only=True)
class TrainPictures(PicturesConfig):
    """What is read."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders or zips with a folder for each class; IDX, .npz, .csv of pixels; a public set
    (digits); or one recipe.toml."""


DATA: dict[str, type[Any]] = {
    "lm": TrainData,
    "mlm": TrainMasked,
    "translate": TrainPairs,
    "chat": TrainDialogues,
    "classify": TrainLabelled,
    "pictures": TrainPictures,
}
"""What is read, as flags, by task."""
D = TypeVar("D", bound=DataConfig)
F = TypeVar("F")


@dataclass(frozen=True, kw_only=True)
class TrainArgs(RunConfig[M], Generic[F, M]):
    """A run, as flags."""

    data: tyro.conf.OmitArgPrefixes[F]
    """What is read."""
    model_name: Annotated[str, tyro.conf.arg(name="model")] = ""
    """Which step of the lineage (ensue lineage)."""
    start: Annotated[str, tyro.conf.arg(name="from")] = ""
    """Begin with the weights of this run, with its shape and tokenizer: of the same model, on other
    data or for another task; bert learns to fill in first, then from labels."""
    out: str = ""
    """The run folder; the same command again goes on with it. Default: a new one below runs/."""


def parse_train(
    argv: Sequence[str], about: str | None, verb: str = "train"
) -> tuple[RunConfig[Any], str]:
    """Read flags and recipe. Task and model come first: their classes have the other flags."""
    recipe = next((a for a in argv if a.endswith(".toml") and not a.startswith("-")), "")
    values = read_toml(Path(recipe)) if recipe else {}
    name = str(flag(argv, "--model") or dict(values.get("model", {})).get("name", ""))
    start = flag(argv, "--from") or str(values.get("start", ""))
    if start and not name:
        # A run that was begun knows its model, and no longer needs the one that it began with.
        begun = Run(Path(flag(argv, "--out")))
        name = step_of(open_run(begun if begun.plan_path.exists() else start)[1].config.model).name
    task = flag(argv, "--task") or values.get("task") or task_of(argv, name)
    if task == "classify" and any(map(are_pictures, argv)):
        task = "pictures"  # they are classified too
        argv = _with_task(argv, task)
    kind = find_kind(str(task))
    step = find_step(name or kind.model, kind.name)
    file = flag(argv, "--model").rpartition(":")[0]
    if file.endswith(".py"):
        allow(file)  # the command itself names it
    if recipe:
        model = {**values.get("model", {}), "name": step.name}
        base = config_from_dict(values | {"task": task, "model": model}, recipe)
    else:
        base = RunConfig(task=kind.name, data=kind.config(sources=()), model=step.default)
    parts, flags = _fields(base), DATA[kind.name]
    default = TrainArgs(**{**parts, "data": flags(**_fields(base.data))}, model_name=step.name)
    rest = [a for a in argv if a != recipe] if recipe else argv
    shape = TrainArgs[flags, step.config]  # type: ignore[valid-type,name-defined]
    args = parse(shape, rest, verb, about, default)
    data, _ = files_of(kind, args.data, verb)
    return RunConfig(**{**{name: getattr(args, name) for name in parts}, "data": data}), args.out


def _with_task(argv: Sequence[str], task: str) -> list[str]:
    """Put another task in the place of that which the flag names."""
    named = [f"--task={task}" if a.startswith("--task=") else a for a in argv]
    return [task if before == "--task" else a for before, a in zip(["", *named], named)]  # noqa: B905


def task_of(argv: Sequence[str], model: str) -> str:
    """Tell the task by the data (pairs are named by flags, talk looks so), else by the model."""
    if any(a.partition("=")[0] in ("--src", "--tgt") for a in argv):
        return "translate"
    if any(map(is_talk, argv)):
        return "chat"
    if any(map(are_pictures, argv)):
        return "pictures"
    if any(map(are_labelled, argv)):
        return "classify"
    able = find_step(model).tasks if model else ("lm",)
    return next(filter(None, map(catalog.task_of, argv)), able[0])


def files_of(kind: Kind, flags: Any, verb: str) -> tuple[Any, tuple[str, ...]]:
    """Give a task's data config by its flags, with files in the place of public sets' names.

    Returns:
        What is read, and the test files of the sets.
    """
    data = kind.config(**_fields(flags))
    own = {
        "lm": data_of,
        "mlm": data_of,
        "translate": pairs_of,
        "chat": dialogues_of,
        "classify": labelled_of,
        "pictures": pictures_of,
    }[kind.name]
    found: tuple[Any, tuple[str, ...]] = own(data, verb)  # type: ignore[operator]
    return found


def pairs_of(data: PairsConfig, verb: str) -> tuple[PairsConfig, tuple[str, ...]]:
    """Put files in the place of what is named below a public set: ``multi30k/train.de.gz``.

    Returns:
        What is read, and the test tables of the sets.

    Raises:
        UsageError: Nothing is named.
    """
    if not (data.src or data.sources):
        raise UsageError(
            "no pairs to read", f"Name two files: ensue {verb} --src train.de --tgt train.en"
        )
    named: dict[str, Any] = {
        name: tuple(catalog.resolve_file(s, data.cache) for s in getattr(data, name))
        for name in ("src", "tgt", "valid_src", "valid_tgt")
    }
    sources, valid, test = _files_of(data.sources, data.valid, data.cache, verb)
    return dataclasses.replace(data, **named, sources=sources, valid=valid), test


def dialogues_of(data: DialogueConfig, verb: str) -> tuple[DialogueConfig, tuple[str, ...]]:
    """Put files in the place of public sets' names.

    Returns:
        What is read, and the test files of the sets.

    Raises:
        UsageError: Nothing is named.
    """
    if not data.sources:
        raise UsageError("no dialogues to read", f"Name a file: ensue {verb} dialogues.jsonl")
    sources, valid, test = _files_of(data.sources, data.valid, data.cache, verb)
    return dataclasses.replace(data, sources=sources, valid=valid), test


def labelled_of(data: LabelledConfig, verb: str) -> tuple[LabelledConfig, tuple[str, ...]]:
    """Put files in the place of public sets' names.

    Returns:
        What is read, and the test files of the sets.

    Raises:
        UsageError: Nothing is named.
    """
    if not data.sources:
        raise UsageError("no labelled texts to read", f"Name a table: ensue {verb} reviews.csv")
    sources, valid, test = _files_of(data.sources, data.valid, data.cache, verb)
    return dataclasses.replace(data, sources=sources, valid=valid), test


def pictures_of(data: PicturesConfig, verb: str) -> tuple[PicturesConfig, tuple[str, ...]]:
    """Put files in the place of public sets' names.

    Returns:
        What is read, and no test files: a set has its test part inside.

    Raises:
        UsageError: Nothing is named.
    """
    if not data.sources:
        raise UsageError("no pictures to read", f"Name a folder: ensue {verb} pictures/")
    sources, valid, _ = _files_of(data.sources, data.valid, data.cache, verb)
    return dataclasses.replace(data, sources=sources, valid=valid), ()


def data_of(data: D, verb: str) -> tuple[D, tuple[str, ...]]:
    """Put files in the place of public sets' names; a set's own validation split is used.

    Returns:
        What is read, and the test texts of the sets.

    Raises:
        UsageError: Nothing is named.
    """
    if not data.sources:
        raise UsageError("nothing to read", f"Name a text: ensue {verb} book.txt")
    sources, valid, test = _files_of(data.sources, data.valid, data.cache, verb)
    return dataclasses.replace(data, sources=sources, valid=valid), test


def _files_of(
    names: tuple[str, ...], valid: tuple[str, ...], cache: str, verb: str
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Give sources, validation and test files: those of public sets in place of their names."""
    sources, own_valid, test = [], [], []
    for name in names:
        files = catalog.resolve(name, cache)
        if files is not None and "train" not in files:
            public = name.removeprefix("data:")
            one, other = list(files)[:2]
            raise UsageError(
                f"{public} has several languages: name two of its files",
                f"For instance: ensue {verb} --src {public}/{one} --tgt {public}/{other}",
            )
        sources.append(name if files is None else str(files["train"]))
        if files is not None and "valid" in files and not valid:
            own_valid.append(str(files["valid"]))
        if files is not None and "test" in files:
            test.append(str(files["test"]))
    return tuple(sources), (*valid, *own_valid), tuple(test)


def _fields(config: Any) -> dict[str, Any]:
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}


def flag(argv: Sequence[str], flag: str) -> str:
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
    """A run, and a text; two files (translations), dialogues (replies), or labelled data."""

    run: tyro.conf.Positional[str] = ""
    """The run folder; default: the newest below runs/."""
    data: tuple[str, ...] = ()
    """The text; default: the run's own validation split."""
    src: str = ""
    """A file to translate, a sentence on each line; scored by --ref."""
    ref: str = ""
    """Its translation by a person, line by line."""
    against: str = ""
    """A second run, to be compared with on the same sentences (paired bootstrap)."""
    search: tyro.conf.OmitArgPrefixes[Search] = field(default_factory=Search)
    """How translations, and the likeliest replies, are searched for."""
    contexts: int = 500
    """Contexts of dialogues that are answered, an even sample; all replies are scored. 0: none."""
    talk: tyro.conf.OmitArgPrefixes[Talk] = field(default_factory=lambda: Talk(rerank=10))
    """How replies are drawn."""
    split: str = ""
    """Of a run that names classes: which of its own splits is scored, valid (default) or test."""
    out: str = ""
    """Of a run that names classes: folder for the picture of what was taken for what; default:
    evaluate/ in the run."""
    floor: bool = False
    """Also score what needs no network, which a model must beat: of a text the byte 5-grams of the
    training text, of labelled data the commonest class and a linear model."""
    json: bool = False
    """Print one JSON object."""


HOW = {
    "lm": "non-overlapping windows of the context length, every byte scored once",
    "translate": "each target given its source, every byte of it scored once",
    "chat": "each reply given its context, every byte of it scored once",
}
"""How a run is scored, by its task."""


MEANT = {
    "search": "translations and replies",
    "contexts": "replies",
    "talk": "replies",
    "split": "labelled data",
    "out": "labelled data",
}
"""Flags that mean something to what is generated, and nothing to a text that is only read."""


def _refuse(args: EvaluateArgs, *names: str) -> None:
    """Refuse flags that would not be heeded."""
    usual = EvaluateArgs()
    for name in names:
        given, default = getattr(args, name), getattr(usual, name)
        if given == default:
            continue
        flag = name
        if dataclasses.is_dataclass(given):
            own = (f.name for f in dataclasses.fields(given))
            flag = next(f for f in own if getattr(given, f) != getattr(default, f))
        raise UsageError(
            f"--{flag.replace('_', '-')} is of {MEANT[name]}, which are not asked for here",
            "Leave it out, or see: ensue evaluate --help",
        )


def run_evaluate(args: EvaluateArgs, console: Console) -> None:
    """Print the score and its protocol."""
    if args.src or args.ref:
        _refuse(args, "contexts", "talk")
        _evaluate_translations(args, console)
        return
    if args.against:
        raise UsageError("--against compares translations", "Give too: --src FILE --ref FILE")
    run, plan = open_run(args.run)
    task = plan.config.task
    if task != "chat":
        _refuse(args, "search", "contexts", "talk")
    if task not in LABELLED:
        _refuse(args, "split", "out")
    scored = {
        "chat": _evaluate_chat,
        **dict.fromkeys(LABELLED, _evaluate_labels),
        "mlm": _evaluate_masked,
    }
    scored.get(task, _evaluate_text)(args, run, console)


def _evaluate_text(args: EvaluateArgs, run: Run, console: Console) -> None:
    score = api.evaluate(run, args.data)
    floor = api.floor(run, args.data) if args.floor else None
    if args.json:
        values = score.record()
        if floor:
            values[f"floor_{BITS.key}"] = floor.bits_per_byte
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        return
    how = HOW[open_run(run)[1].config.task]
    sys.stdout.write(
        f"{BITS.shown(score[BITS], 1)} on {visible(score.split)}"
        f" ({score.bytes:,} bytes, sha256 {score.fingerprint[:12]})\n"
        f"{score.loss:.4f} nats per token, {score.targets:,} tokens; {how}\n"
    )
    if floor:
        verdict = "beats" if score[BITS] < floor.bits_per_byte else "does not beat"
        sys.stdout.write(
            f"{floor.bits_per_byte:.4f} bits per byte by counting {floor.order}-grams"
            f" of {floor.train_bytes:,} bytes; the model {verdict} it. {floor.note}\n"
        )


def _evaluate_masked(args: EvaluateArgs, run: Run, console: Console) -> None:
    if args.floor:
        raise UsageError("--floor counts n-grams of what is continued; here words are masked")
    score = api.evaluate(run, args.data)
    if args.json:
        sys.stdout.write(json.dumps(score.record(), ensure_ascii=False) + "\n")
        return
    more = [FOLLOWING.shown(score[FOLLOWING])] if FOLLOWING.key in score.measures else []
    words = ", ".join([f"{score.loss:.4f} nats, perplexity {math.exp(score.loss):.2f}", *more])
    sys.stdout.write(
        f"{ACCURACY.shown(score[ACCURACY])} of {score.targets:,} masked pieces on"
        f" {visible(score.split)}, {words} (sha256 {score.fingerprint[:12]}; the same are masked"
        " each time)\n"
    )


def _evaluate_chat(args: EvaluateArgs, run: Run, console: Console) -> None:
    if args.floor:
        raise UsageError("--floor counts n-grams of texts; replies have none")
    found = api.evaluate_chat(
        run,
        args.data,
        contexts=args.contexts,
        talk=args.talk,
        beam=Beam(num_beams=args.search.num_beams, length_penalty=args.search.length_penalty),
        tracker=console,
    )
    console.close()
    if args.json:
        values = dataclasses.asdict(found) | {"score": found.score.record()}
        sys.stdout.write(json.dumps(values, ensure_ascii=False) + "\n")
        return
    score = found.score
    sys.stdout.write(
        f"{BITS.shown(score[BITS], 1)}, perplexity {found.perplexity:.2f} of a token, on"
        f" {visible(score.split)} ({score.targets:,} tokens of {found.of:,} replies, sha256"
        f" {score.fingerprint[:12]}); {HOW['chat']}\n"
    )
    if not found.ways:
        return
    rows = [
        [
            name,
            f"{way.distinct_1:.3f}",
            f"{way.distinct_2:.3f}",
            f"{way.commonest_share:.1%}",
            way.commonest,
            f"{way.words:.1f}",
            f"{way.overlap:.3f}",
        ]
        for name, way in found.ways.items()
    ]
    heads = ["replies", "distinct-1", "distinct-2", "commonest", "which", "words", "overlap"]
    print_table(heads, rows)
    talk, search = args.talk, args.search
    sys.stdout.write(
        f"{found.contexts:,} contexts, an even sample of {found.of:,}; likeliest: by"
        f" {search.num_beams} beams; drawn: temperature {talk.temperature:g}, top-p"
        f" {talk.top_p:g}, no {talk.no_repeat} tokens in a row twice, seed {talk.seed}; reranked:"
        f" of {found.rerank} by mutual information, weight {talk.weight:g}; overlap: F1 of words"
        " with the person's reply\n"
    )


def _evaluate_labels(args: EvaluateArgs, run: Run, console: Console) -> None:
    if args.data and args.split:
        raise UsageError("--split is of the run's own data", "Leave out --data or --split.")
    split = args.split or "valid"
    sources = tuple(catalog.resolve_file(name) for name in args.data)
    found = evaluate_labels(run, sources, split=split, floor=args.floor, tracker=console)
    console.close()
    names = [c.name for c in found.by_class]
    drawn = confusion_picture(names, found.confusion, "data" if args.data else split)
    paths = drawn.save(make_folder(Path(args.out or run.path / "evaluate")))
    if args.json:
        values = dataclasses.asdict(found) | {"score": found.score.record()}
        values["files"] = [str(path) for path in paths]
        sys.stdout.write(json.dumps(_known(values), ensure_ascii=False) + "\n")
        return
    score = found.score
    right = ACCURACY.shown(score[ACCURACY])
    loss = "no loss" if math.isnan(score.loss) else f"{score.loss:.4f} nats"
    sys.stdout.write(
        f"{right} of {score.targets:,} on {visible(score.split)}, macro F1"
        f" {score[MACRO_F1]:.2f}, {loss}, calibration error"
        f" {score[CALIBRATION]:.2f} % (sha256 {score.fingerprint[:12]}; look {found.looks} of this"
        " run at these data)\n"
    )
    for floor in found.floors:
        verdict = "beats" if score[ACCURACY] > floor.accuracy else "does not beat"
        sys.stdout.write(
            f"{ACCURACY.shown(floor.accuracy)} by {floor.name}; the model {verdict} it."
            f" {floor.note}".rstrip()
            + "\n"
        )
    rows = [
        [c.name, f"{c.examples:,}", *map(_share, (c.precision, c.recall, c.f1))]
        for c in found.by_class
    ]
    print_table(["class", "examples", "precision", "recall", "F1"], rows)
    wrong = sorted(
        ((n, i, j) for i, row in enumerate(found.confusion) for j, n in enumerate(row) if i != j),
        reverse=True,
    )[:CONFUSED]
    rows = [[names[i], names[j], f"{n:,}"] for n, i, j in wrong if n]
    if rows:
        print_table(["is", "was taken for", "times"], rows)
    sys.stdout.write(f"all of it as a picture: {visible(str(paths[0].resolve()))}\n")


def _share(value: float) -> str:
    """Write a share; of none there is none."""
    return "-" if math.isnan(value) else f"{value:.1%}"


def _known(value: Any) -> Any:
    """Put null in the place of what there is none of: NaN is not JSON."""
    if isinstance(value, dict):
        return {key: _known(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inside) for inside in value]
    return None if isinstance(value, float) and math.isnan(value) else value


CONFUSED = 5
"""Pairs of classes that are named as the most confused."""


def _evaluate_translations(args: EvaluateArgs, console: Console) -> None:
    if not (args.src and args.ref):
        raise UsageError("give both: --src FILE, and --ref FILE with its translation")
    if args.data or args.floor:
        raise UsageError(
            "give --src and --ref, or --data, not both: they are scored by other means"
        )
    src, ref = map(catalog.resolve_file, (args.src, args.ref))
    score = api.evaluate_translations(
        src, ref, args.run, against=args.against, search=args.search, tracker=console
    )
    console.close()
    if args.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(score), ensure_ascii=False) + "\n")
        return
    rows = [[m.name, f"{m.value:.2f}", m.signature] for m in score.measures]
    print_table(["measure", f"{score.sentences:,} sentences", "signature"], rows)
    bins = [
        [f"to {b.longest}" if b.longest else "longer", f"{b.sentences:,}", f"{b.bleu:.2f}"]
        for b in score.by_length
    ]
    print_table(["words of the source", "sentences", "BLEU"], bins)
    if score.against:
        other = score.against
        sys.stdout.write(
            f"{visible(args.against)}: BLEU {other.bleu:.2f}; p = {other.p_value:.3f} by"
            f" {other.samples:,} bootstrap samples\n"
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
            rows = [[s.name, _size(s), s.licence, s.title] for s in catalog.CATALOG]
            print_table(["name", "bytes", "licence", "what"], rows)
        case ("get", name):
            public = catalog.entry(name)
            console.notice(f"{public.title}: {_size(public)} bytes, {public.licence}")
            for split, path in catalog.get(name, console.progress).items():
                sys.stdout.write(f"{split}: {path}\n")
        case _:
            raise UsageError("ensue data knows: list, get NAME")


def _size(public: catalog.PublicSet) -> str:
    return f"{public.size_bytes:,}" if public.files else "no"


# -- lineage -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LineageArgs:
    """Nothing to choose."""


def run_lineage(args: LineageArgs, console: Console) -> None:
    """Print the table: fixed memory against growing memory."""
    rows = [[s.name, str(s.year), s.paper, s.idea, s.memory, s.grows] for s in LINEAGE]
    print_table(["model", "year", "paper", "idea", "memory of a row", "grows with"], rows)
