"""The model card: README.md of a run folder, filled from the run. It holds no row of the data."""

import json
from collections.abc import Mapping
from typing import Any

from ensue.files import write_atomic
from ensue.models import LINEAGE
from ensue.runs import Run
from ensue.tasks import Kind
from ensue.tasks.measures import LOSS, said
from ensue.views.plots import Curves, read_curves
from ensue.views.text import (
    NAMED,
    data_names,
    duration,
    kind_of,
    model_name,
    own_code,
    part,
    place,
    plain,
    protocol,
    score_command,
    train_command,
    use_command,
    visible,
)


def write_card(run: Run, plan: dict[str, Any]) -> None:
    """Write the model card of a run, finished or not.

    Args:
        run: The run; its metrics are read.
        plan: The frozen plan, as plain values.
    """
    curves = read_curves(run.read_metrics(), kind_of(plan))
    kind = kind_of(plan)
    name, code = _line(run.path.resolve().name), own_code(plan)
    where = ", code=".join(json.dumps(w, ensure_ascii=False) for w in (place(run.path), code) if w)
    sections = [
        f"# {name}",
        _what(plan),
        f"## Score\n\n{_score(plan, curves)}",
        f"## Use\n\n{_block(use_command(plan, place(run.path)))}\n\n"
        "From Python:\n\n```python\nimport ensue\n\n"
        f"run = ensue.{kind.load}({where})\n"
        f'print(run.{kind.verb}("{kind.example}"))\n```',
        f"## Data\n\n{_data(plan)}",
        f"## How it was made\n\n{_block(train_command(plan))}\n\n{_made(plan, curves)}",
        f"## Limits\n\n{_limits(kind, score_command(plan, place(run.path)))}",
    ]
    if plan.get("notes"):
        notes = "\n".join(f"- {_line(note)}" for note in plan["notes"])
        sections.insert(-1, f"## Notes\n\n{notes}")
    write_atomic(run.card_path, "\n\n".join(sections) + "\n")


LIMITS = """\
- It was trained {what}{comma} in the manner of its data, and knows nothing else; what it says may
  be false, and takes over whatever is wrong or unfair in the data.
- It may repeat passages of its training text word for word. Share it only where you may share the
  data.
- The score is of the validation text named above; on other text, measure: {measure}."""


LIMITS_OF_LABELS = """\
- It was trained {what}, of the classes in its data, and will name one of them whatever it is shown;
  it takes over whatever is wrong or unfair in the data.
- Its confidence is what it is worth on data like those that it was chosen on, and not elsewhere.
- The score is of the validation data named above; on other data, measure: {measure}."""


def _limits(kind: Kind, measure: str) -> str:
    if kind.followed_by == LOSS:
        return LIMITS_OF_LABELS.format(what=kind.what, measure=_code(measure))
    # What has a comma in it, ends with one.
    comma = "," if "," in kind.what else ""
    return LIMITS.format(what=kind.what, comma=comma, measure=_code(measure))


def _line(value: object) -> str:
    """One line of plain Markdown: what comes from data must not become markup."""
    words = visible(" ".join(str(value).split()))
    for mark in "\\`*_[]<>#|":
        words = words.replace(mark, "\\" + mark)
    return words


def _code(value: str) -> str:
    return f"`{visible(' '.join(value.split())).replace('`', ' ')}`"


def _block(line: str) -> str:
    return f"```sh\n{line}\n```"


def _what(plan: Mapping[str, Any]) -> str:
    kind = kind_of(plan)
    name, parameters = model_name(plan), plan.get("parameters") or 0
    code = own_code(plan)
    step = next((s.for_task(kind.name) for s in LINEAGE if s.name == name), None)
    if code:
        origin = f" The model is a class of its own, in {_code(code)}, which is not in this folder."
    else:
        origin = f" {step.paper} {step.year}: {step.idea}." if step else ""
    start = str(part(plan, "config").get("start") or "")
    began = f"the weights of {_code(place(start))}" if start else "nothing"
    return (
        f"A model of {parameters:,} parameters (`{name}`), trained from {began} {kind.what}, with"
        f" ensue {_line(plan.get('version', ''))}.{origin}"
    )


def _score(plan: Mapping[str, Any], curves: Curves) -> str:
    if not curves.final:
        done = curves.steps[-1]["step"] if curves.steps else 0
        return f"Not finished: {done:,} steps are done, and no final score was measured."
    score = curves.final
    first, *others = (m.shown(score[m.key], int(m == curves.measure)) for m in said(score))
    if LOSS not in said(score):
        others.append(f"{score['loss']:.4f} nats per {curves.target}")
    return (
        f"**{first}** on {_line(score.get('split', 'valid'))} ({', '.join(others)})."
        f" {_line(protocol(plan, score))}"
    )


def _data(plan: Mapping[str, Any]) -> str:
    names = ", ".join(map(_code, data_names(plan)))
    rows = [
        f"- Read: {names}",
        f"- Fingerprint of the data as they were learnt: `{plan.get('corpus') or 'unknown'}`",
        f"- SHA-256 of what was validated on: `{plan.get('valid_text') or 'unknown'}`",
    ]
    entries = "names of the classes" if kind_of(plan).followed_by == LOSS else "tokenizer's entries"
    return "\n".join([*rows, "", f"None of it is in this folder, but for the {entries}."])


def _made(plan: Mapping[str, Any], curves: Curves) -> str:
    config = part(plan, "config")
    shape = {k: v for k, v in part(config, "model").items() if k not in NAMED}
    machine = part(plan, "machine")
    rows = [
        f"- Shape: {_code(plain(shape))}",
        f"- Steps: {plain(config.get('steps'))}, seed {plain(config.get('seed'))}"
        + (f", {duration(curves.seconds)} in steps" if curves.seconds else ""),
        f"- Training: {_code(plain(part(config, 'train')))}",
        f"- Machine: {_code(plain(machine))}",
        f"- Versions: ensue {_line(plan.get('version', 'unknown'))},"
        f" torch {_line(machine.get('torch_version', 'unknown'))}",
    ]
    return "\n".join(
        [*rows, "", "All that was chosen is in `plan.json`, the curve in `report.html`."]
    )
