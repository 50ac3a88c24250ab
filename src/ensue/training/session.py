"""From a request to a finished run: prepare the data, freeze the plan, train, leave a run folder.

The same call again finds the plan and goes on; a changed request is refused with the difference.
"""

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ensue.config import differences, to_dict
from ensue.decoding.engine import generate
from ensue.decoding.logits import Sampling
from ensue.distributed.env import Env, start_env
from ensue.errors import DataError, RunError, UsageError
from ensue.models import step_of
from ensue.models.custom import CustomConfig
from ensue.planning import build_empty
from ensue.runs import Run, new_run_path, newest_run, stem_of
from ensue.tasks import find_kind
from ensue.tasks.measures import TEMPERATURE
from ensue.tasks.task import Material
from ensue.testing import check_custom
from ensue.tokenizers import Tokenizer, load_tokenizer
from ensue.training.checkpoint import newest_checkpoint
from ensue.training.choose import choose
from ensue.training.config import RunConfig, config_to_dict
from ensue.training.loop import Loop, Result
from ensue.training.plan import Machine, Plan
from ensue.training.tracking import Tracker
from ensue.views.card import write_card
from ensue.views.report import write_report
from ensue.views.text import command, use_command
from ensue.weights import load_weights, save_weights, weights_digest

SAMPLES, SAMPLE_TOKENS = 2, 150


def train(
    config: RunConfig[Any],
    out: str | Path = "",
    tracker: Tracker | None = None,
    begun: float = 0.0,
) -> Run:
    """Train a language model, or go on with one.

    Args:
        config: What to read, which model, how long; zeros are chosen and written into the plan.
        out: The run folder; empty: a new one below ``runs/``.
        tracker: Hears how it goes.
        begun: `time.monotonic` from which a time budget counts; 0: now.

    Returns:
        The finished run.

    Raises:
        DataError: The data cannot be used, or is not what the run was begun with.
        RunError: The folder holds another run, or is damaged.
        StoppedError: Interrupted; the same call goes on.
        LawError: A model of the user's own breaks a law of decoders.
        NonFiniteError: The loss is no longer a number.
    """
    begun = begun or time.monotonic()
    tracker = tracker or Tracker()
    torch.set_flush_denormal(True)  # denormal numbers are slow, and too small to matter
    env = start_env()
    try:
        # Asked of the first process alone: the others might find its new folder taken.
        path = Path(out or env.share("" if env.rank else str(new_run_path(_stem(config)))))
        run = _on_first(env, lambda: Run.create(path), lambda: Run(path))
        if env.rank:
            return _train(config, run, env, Tracker(), begun)
        with run.lock():
            return _train(config, run, env, tracker, begun)
    finally:
        env.close()


def _train(config: RunConfig[Any], run: Run, env: Env, tracker: Tracker, begun: float) -> Run:
    if run.plan_path.exists():
        plan = _same_plan(run, config)
        _compare_machines(plan, env, tracker)
        material = read_data(plan.config, env, tracker)
        if material.fingerprint != plan.corpus:
            raise DataError(
                f"the data is not what {run.path} was begun with",
                "Put the old data back, or train into another folder with --out.",
            )
        if _is_finished(run, tracker):
            if env.rank == 0 and not (run.card_path.exists() and run.report_path.exists()):
                _write_pages(run)  # killed between the weights and these
            tracker.notice(f"{run.path} is already trained to its end")
            return run
    else:
        check_custom(config.model)
        filled, start = inherited(config)
        material = read_data(filled, env, tracker)
        plan = choose(filled, material, run, env, tracker, begun, config)
        plan = replace(plan, start=start)
        if env.rank == 0:
            material.save(run.path, plan.config.model)
            plan.write(run)
        env.barrier()
    result = _fit(plan, material, run, env, tracker, begun)
    if env.rank == 0:
        _leave(plan, result, run, tracker)
    env.barrier()
    return run


def _same_plan(run: Run, config: RunConfig[Any]) -> Plan:
    """Read the plan of a run that was begun, and check that the same is asked for."""
    plan = Plan.from_json(run.read_plan(), str(run.plan_path))
    changed = differences(plan.request, config_to_dict(config))
    if changed:
        raise RunError(
            f"{run.path} was begun with another configuration:\n  " + "\n  ".join(changed),
            "Repeat the old command to go on, or train into another folder with --out.",
        )
    return replace(plan, config=frozen(plan.config, run))


def inherited(config: RunConfig[Any]) -> tuple[RunConfig[Any], str]:
    """Take from the run that a request begins with what the request leaves open.

    Returns:
        The request with that run's shape and tokenizers, and the digest of its weights; where it
        begins with none, the request as it is, and nothing.

    Raises:
        RunError: That run is missing, unfinished or damaged.
        UsageError: It is of another model, or another shape is asked for.
    """
    if not config.start:
        return config, ""
    if config.size:
        raise UsageError(
            f"size {config.size!r} is asked for, and a run to begin with, whose shape is taken",
            "Leave out --size.",
        )
    run, plan = open_run(config.start)
    theirs, ours = plan.config.model, config.model
    step = step_of(ours)
    if step_of(theirs).name != step.name:
        raise UsageError(
            f"{run.path} is of the model {step_of(theirs).title}, and {step.title} is asked for",
            f"Begin with its weights: --model {step_of(theirs).name}",
        )
    opened, values = {f.name: f.default for f in fields(ours)}, {}
    for name in {f.name for f in fields(theirs)} & {*opened} - NOT_INHERITED:
        asked, value = getattr(ours, name), getattr(theirs, name)
        if asked not in (opened[name], value):
            raise UsageError(
                f"model.{name} is {asked}, and {value} in {run.path}, whose weights are asked for",
                f"Leave out --model.{name.replace('_', '-')}.",
            )
        values[name] = value
    digest = weights_digest(run)
    kind = find_kind(config.task)
    data = kind.frozen(config.data, run.path.resolve())
    usual = {f.name: f.default for f in fields(config.data)}
    for name, asked in vars(config.data).items():
        heeded = getattr(data, name) == asked and name != "vocab_size"  # of a tokenizer to learn
        if not heeded and asked != usual[name]:
            raise UsageError(
                f"data.{name} {asked!r} is asked for, and a run to begin with, whose weights know"
                " its own tokenizer alone",
                f"Leave out --{name.replace('_', '-')}.",
            )
    model = replace(ours, **values)
    return replace(config, data=data, model=model, size=plan.config.size), digest


NOT_INHERITED = {"classes", "dropout", "next_sentence"}
"""What a run that begins with another's weights may have otherwise."""


def begin_with(model: torch.nn.Module, plan: Plan, tracker: Tracker) -> None:
    """Put the weights of the run that a plan begins with in the place of those just drawn.

    What that run has not, or in another shape (the head, of other classes), stays as drawn.

    Raises:
        RunError: The run is gone, or has other weights by now.
    """
    run = Run.open(plan.config.start)
    if weights_digest(run) != plan.start:
        raise RunError(
            f"{run.path} has other weights than when this run was begun",
            "Put the old ones back, or train into another folder with --out.",
        )
    weights, own = load_weights(run)[0], dict(model.named_parameters())
    known = {n for n, p in own.items() if n in weights and weights[n].shape == p.shape}
    with torch.no_grad():
        for name in known:
            own[name].copy_(weights[name])
    drawn = sorted({name.rpartition(".")[0] or name for name in own.keys() - known})
    anew = f"; drawn anew: {', '.join(drawn[:4])}" if drawn else ""
    tracker.notice(f"{len(known)} of {len(own)} weights are those of {run.path}{anew}")


def _compare_machines(plan: Plan, env: Env, tracker: Tracker) -> None:
    """Say what may cost the last bits, and refuse processes that the batch cannot be shared by."""
    rows = plan.config.train.global_batch_size
    if rows % env.world_size:
        raise UsageError(
            f"the plan's batch of {rows} rows cannot be shared by {env.world_size} processes",
            f"Go on with {plan.machine.world_size}, as begun, or a number that divides {rows}.",
        )
    here = Machine.here(env.device, env.world_size)
    changed = differences(to_dict(plan.machine), to_dict(here))
    if changed:
        tracker.notice(
            "going on in other circumstances than the plan was made in; the order of the data is"
            f" the same, the last digits may differ: {'; '.join(changed)}"
        )


def _is_finished(run: Run, tracker: Tracker) -> bool:
    """Whether the weights are there, and what was written."""
    if not run.weights_path.exists():
        return False
    try:
        load_weights(run)
    except RunError as error:
        tracker.notice(f"{error.what}; made again from the last checkpoint")
        return False
    return True


def frozen(config: RunConfig[Any], run: Run) -> RunConfig[Any]:
    """Give the config of a run that was begun: its tokenizers are those in its folder."""
    return replace(config, data=find_kind(config.task).frozen(config.data, run.path))


def read_data(config: RunConfig[Any], env: Env, tracker: Tracker) -> Material:
    """Tokenise, or find what was tokenised before; one process works, the others then find it."""
    kind = find_kind(config.task)

    told = tracker.progress if kind.target == "token" else tracker.counted

    def read() -> Material:
        material: Material = kind.prepare(config.data, told)
        return material

    material = _on_first(env, read, read)
    for note in material.notes:
        tracker.notice(note)
    return material


def open_run(
    run: str | Path | Run = "", task: str | tuple[str, ...] = (), verb: str = ""
) -> tuple[Run, Plan]:
    """Open a run, of a task where one is needed.

    Args:
        run: Its folder; empty: the newest below ``runs/``.
        task: The one or those that will do; none: any.
        verb: The command that asks, where it knows other tasks by other words.

    Raises:
        RunError: It is missing, damaged, or of a newer version.
        UsageError: It was trained for another task.
    """
    opened = run if isinstance(run, Run) else Run.open(run) if str(run) else newest_run()
    plan = Plan.from_json(opened.read_plan(), str(opened.plan_path))
    if task:
        require_task(opened, plan, task, verb)
    return opened, plan


def require_task(run: Run, plan: Plan, task: str | tuple[str, ...], verb: str = "") -> None:
    """Refuse a run of another task, with the command that uses it; see `open_run`."""
    kind = find_kind(plan.config.task)
    tasks = (task,) if isinstance(task, str) else task
    if kind.name in tasks:
        return
    words = (
        [verb, run.path, *kind.scored]
        if verb == "evaluate"
        else [kind.verb, run.path, *filter(None, [kind.example])]
    )
    raise UsageError(
        f"{run.path} was trained {kind.what}, and not"
        f" {' or '.join(find_kind(name).what for name in tasks)}",
        f"Use it: {command('ensue', *words)}",
    )


def build(plan: Plan, env: Env) -> torch.nn.Module:
    """Make the model with its first weights, which depend on the seed alone."""
    torch.manual_seed(plan.config.seed)
    model: torch.nn.Module = step_of(plan.config.model).model(plan.config.model)
    return model.to(env.device)


def _fit(
    plan: Plan,
    material: Material,
    run: Run,
    env: Env,
    tracker: Tracker,
    begun: float,
) -> Result:
    config = plan.config
    torch.set_num_threads(config.train.threads)
    model = build(plan, env)
    if plan.start and newest_checkpoint(run.checkpoints_dir)[0] is None:
        begin_with(model, plan, tracker)
    task = material.task(config, env.device)
    loop = Loop(plan, model, task, run, env, tracker)
    torch.manual_seed(config.seed + 1 + env.rank)  # dropout: each process its own
    tracker.start(
        {
            "run": str(run.path),
            "model": step_of(config.model).title,
            "parameters": plan.parameters,
            "steps": config.steps,
            "tokens_per_step": round(material.targets_per_update(config)),
            "kind": find_kind(config.task),
        }
    )
    return loop.fit(begun)


def _leave(plan: Plan, result: Result, run: Run, tracker: Tracker) -> None:
    """Write what a finished run holds beside its plan."""
    model = step_of(plan.config.model).title
    about = {"model": model, **_tokenizers(run)}
    if TEMPERATURE.key in result.score.measures:
        about[TEMPERATURE.key] = repr(result.score[TEMPERATURE])
    save_weights(run, result.weights, about)
    _write_pages(run)
    tracker.finish(
        {
            "run": str(run.path),
            "score": result.score.record(),
            "kept": result.kept,
            "step": result.step,
            "report": str(run.report_path),
            "next": use_command(run.read_plan(), run.path),
        }
    )


def _write_pages(run: Run) -> None:
    """Write card and report, from what lies in the run folder."""
    plan = run.read_plan()
    write_card(run, plan)
    write_report(run, plan, samples=_samples(run))


def _samples(run: Run) -> list[tuple[str, str]]:
    """Let the finished weights write from an empty page: no row of the data enters the report."""
    if Plan.from_json(run.read_plan(), str(run.plan_path)).config.task != "lm":
        return []
    model, tokenizer = load_model(run)
    settings = [Sampling(max_new_tokens=SAMPLE_TOKENS, seed=i) for i in range(SAMPLES)]
    tokens: list[list[int]] = [[] for _ in settings]
    stop = frozenset([tokenizer.eos_id])
    for event in generate(model, [[tokenizer.eos_id]] * SAMPLES, settings, stop_ids=stop):
        tokens[event.row].append(event.token)
    return [("", tokenizer.decode(ids)) for ids in tokens]


def load_model(run: Run) -> tuple[Any, Tokenizer]:
    """Build the model of a finished run with its weights, and read its tokenizer.

    Raises:
        RunError: As of `load_network`.
        UsageError: As of `load_network`.
    """
    return load_network(run)[0], load_tokenizer(run.tokenizer_path)


def load_network(run: Run) -> tuple[Any, Mapping[str, str]]:
    """Build the model of a finished run with its weights, on the processor.

    Returns:
        The model, and what the weights file says of itself.

    Raises:
        RunError: The run is unfinished or damaged, or its parts do not belong together.
        UsageError: It is of a class of the user's own, which was not named or cannot be made.
    """
    plan = Plan.from_json(run.read_plan(), str(run.plan_path))
    tensors, metadata = load_weights(run)
    # Another run's tokenizer fits as well as not, and every word would be another.
    named = {name: of for name, of in metadata.items() if name.startswith("tokenizer")}
    if named and named != _tokenizers(run):
        raise RunError(
            f"a tokenizer in {run.path} is not the one that its model was trained with",
            "Copy the whole folder again from where it was trained.",
        )
    config = plan.config.model
    own = isinstance(config, CustomConfig)
    model: Any = _own_model(plan) if own else build_empty(step_of(config).model, config)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != found:
        wrong = sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))
        raise RunError(
            f"{run.weights_path} does not belong to {run.plan_path}: {', '.join(wrong[:3])}",
            "Copy the whole folder again from where it was trained.",
        )
    if own:
        set_weights(model, tensors)
    else:
        model.load_state_dict(tensors, assign=True)
    return model.eval(), metadata


def card_of(run: Run, plan: Plan) -> dict[str, Any]:
    """Give facts to show with a model."""
    name = step_of(plan.config.model).title
    return {"run": str(run.path), "model": name, "parameters": plan.parameters}


def check_same(valid_text: str, plan: Plan) -> None:
    """Refuse to score a run on its own validation split, if that is another by now.

    Raises:
        DataError: It is.
    """
    if valid_text != plan.valid_text:
        raise DataError(
            "the run's own data has changed since it was trained",
            "Name what to score it on: --data FILE, or --src FILE --ref FILE",
        )


def _tokenizers(run: Run) -> dict[str, str]:
    """Give the fingerprint of each tokenizer in a run folder, by its file's name."""
    found = sorted(run.path.glob("tokenizer*.json"))
    return {path.name: load_tokenizer(path).fingerprint for path in found}


def _own_model(plan: Plan) -> torch.nn.Module:
    """Make a model of the user's own as it was made for training, seed included.

    Its code alone knows its buffers, ties and plain tensors: the weights file has parameters only.
    """
    with torch.random.fork_rng(devices=[]):
        return build(plan, Env(rank=0, world_size=1, device=torch.device("cpu")))


@torch.no_grad()
def set_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy weights into a model's parameters, a tied one once; its buffers stay as they are."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _stem(config: RunConfig[Any]) -> str:
    named = config.data.sources or getattr(config.data, "src", ())
    stem = stem_of(named[0] if named else "run") or "stdin"
    return f"{stem}-{step_of(config.model).title}"


def _on_first(env: Env, first: Any, others: Any) -> Any:
    """Let the first process do its part before the others do theirs."""
    if env.rank:
        env.barrier()
        return others()
    result = first()
    env.barrier()
    return result
