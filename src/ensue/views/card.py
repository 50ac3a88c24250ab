"""The model card: README.md of a run folder, filled from the run. It holds no row of the data."""

import json
from collections.abc import Mapping
from typing import Any

from ensue.files import write_atomic
from ensue.models import LINEAGE
from ensue.runs import Run
from ensue.tasks import Kind, find_kind
from ensue.views.plots import Curves, read_curves
from ensue.views.text import (
    NAMED,
    data_names,
    duration,
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
    curves = read_curves(run.read_metrics())
    kind = _kind(plan)
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


def _limits(kind: Kind, measure: str) -> str:
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


def _kind(plan: Mapping[str, Any]) -> Kind:
    return find_kind(str(part(plan, "config").get("task") or "lm"))


def _what(plan: Mapping[str, Any]) -> str:
    kind = _kind(plan)
    name, parameters = model_name(plan), plan.get("parameters") or 0
    code, step = own_code(plan), next((s for s in LINEAGE if s.name == name), None)
    if code:
        origin = f" The model is a class of its own, in {_code(code)}, which is not in this folder."
    else:
        origin = f" {step.paper} {step.year}: {step.idea}." if step else ""
    return (
        f"A model of {parameters:,} parameters (`{name}`), trained from nothing {kind.what}, with"
        f" ensue {_line(plan.get('version', ''))}.{origin}"
    )


def _score(plan: Mapping[str, Any], curves: Curves) -> str:
    if not curves.final:
        done = curves.steps[-1]["step"] if curves.steps else 0
        return f"Not finished: {done:,} steps are done, and no final score was measured."
    score = curves.final
    return (
        f"**{score['bits_per_byte']:.4f} bits per byte** on {_line(score.get('split', 'valid'))}"
        f" ({score['loss']:.4f} nats per token). {_line(protocol(plan, score))}"
    )


def _data(plan: Mapping[str, Any]) -> str:
    names = ", ".join(map(_code, data_names(plan)))
    rows = [
        f"- Read: {names}",
        f"- Fingerprint of text and tokenizer: `{plan.get('corpus') or 'unknown'}`",
        f"- SHA-256 of the validation text: `{plan.get('valid_text') or 'unknown'}`",
    ]
    return "\n".join([*rows, "", "None of it is in this folder, but for the tokenizer's entries."])


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
