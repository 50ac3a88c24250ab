"""What a person reads: text made safe to show, numbers and a plan in words.

Text from data or from a model may hold an escape sequence that repaints a terminal, or a mark that
turns the reading order round (CVE-2021-42574). It passes through `visible` before it reaches a
terminal, a log or a page.
"""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from ensue.tasks import Kind, find_kind

BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides, isolates. Plain direction marks and joiners stay: scripts need them."""

_VISIBLE: dict[int, str] = {
    # In ASCII: many fonts and Windows code pages lack the pictures of control characters.
    **{code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))},
    ord("\r"): "\\r",
    **{code: f"\\u{code:04x}" for code in (*BIDI, 0x2028, 0x2029)},
    # Halves of a pair, as Python makes them of file names that are not UTF-8: no file takes them.
    **{code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)},
    ord("\n"): "\n",
    ord("\t"): "\t",
}

MANY = 8
"""Files that are named one by one."""
CHOSEN: tuple[Any, ...] = (0, "", "auto", [], None)
"""Values that ask for nothing."""
USUAL: dict[str, tuple[Any, ...]] = {
    "dropout": (-1.0,),
    "valid_fraction": (0.1,),
    "shift": (0.08,),
    "rotate": (8.0,),
    "zoom": (0.08,),
    "optimizer": ("auto",),
    "layer_decay": (1.0,),
    "mask_fraction": (0.15,),
    "whole_words": (True,),
    "short_rows": (True,),
    "type_vocab_size": (2,),
    "adversarial": (-1.0,),
    "average": (-1.0,),
    "schedule": ("linear",),
    "keep_by": ("auto",),
    "weight_decay": (0.1,),
    "beta1": (0.9,),
    "beta2": (0.95,),
    "momentum": (0.95,),
    "grad_clip": (1.0,),
    "shard": ("ddp",),
    "window": (4,),
    "kernel_size": (2,),
    "dilation_cycle": (7,),
    "score": ("dot",),
    "activation": ("relu",),
    "positions": ("sinusoidal",),
    "max_ratio": (4.0,),
    "max_tokens": (256,),
}
"""What a config holds without being asked, where that is more: tested equal to the defaults."""
USUAL_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    "translate": {"valid_fraction": (0.05,)},
    "chat": {"valid_fraction": (0.05,), "max_turns": (4,), "max_tokens": (128,)},
    "classify": {
        "max_words": (256,),
        "shortest_gram": (2, 3),
        "longest_gram": (5,),
        "shortest_filter": (3,),
        "longest_filter": (5,),
    },
    "pictures": {"kernel_size": (3,)},
}
"""The same where a task has another."""

NAMED = ("sources", "name", "file", "classname", "cache")
"""What stands elsewhere in a command, or is this machine's own."""


def visible(text: str) -> str:
    r"""Make control characters visible: ESC becomes ``\x1b``; newline and tab stay."""
    return text.translate(_VISIBLE)


def command(*words: object) -> str:
    """Write a command that can be pasted: quoted for POSIX shells and mostly for Windows."""
    return " ".join(_quoted(visible(str(word))) for word in words)


def _quoted(word: str) -> str:
    quoted = shlex.quote(word)
    # Single quotes mean nothing to Windows; double ones mean the same on both, less these.
    return f'"{word}"' if quoted != word and not set(word) & set('"$`\\!%\n') else quoted


def size(count: int | float) -> str:
    """Write a number of bytes: ``1.1 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def short(count: int | float) -> str:
    """Write a large number in at most five characters: ``10.8M``."""
    for unit in ("", "k", "M", "G"):
        if abs(count) < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def power(count: int | float) -> str:
    """Write a number of operations as ``--budget`` reads it: ``1.2e13``."""
    mantissa, _, exponent = f"{count:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def clock(seconds: int | float) -> str:
    """Write a time as a clock shows it: ``0:41``, ``1:02:03``."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(seconds: int | float) -> str:
    """Write a time in words: ``2 min 55 s``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def plain(value: Any) -> str:
    """Write a value of a plan: numbers readable, an empty one as a dash."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case None | "" | [] | ():
            return "–"
        case list() | tuple():
            return ", ".join(plain(item) for item in value)
        case Mapping():
            return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    return visible(str(value))


def place(path: object) -> str:
    """Name a file or folder without telling where on this machine it lies.

    Reports and cards are made to be shared: a relative path stays, of any other only the name.
    """
    pure = PurePath(str(path).replace("\\", "/"))  # a Windows path is the same on every system
    inside = not pure.is_absolute() and ":" not in pure.parts[0][1:2] if pure.parts else False
    keep = inside and not {"..", "~"} & set(pure.parts)
    return visible(str(pure) if keep else pure.name or str(pure))


# --- a plan and a score in words ------------------------------------------------------------------


def protocol(plan: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """Say in words how a score was measured, on which text, and with which weights."""
    context = part(plan, "config", "model").get("context_length")
    windows = f"windows of {context:,} tokens" if context else "windows of the context length"
    whole, text, how = "Every byte", "text", f"in non-overlapping {windows}"
    if part(plan, "config").get("task") == "translate":
        whole, text, how = "Every byte of the targets", "pairs", "each target given its source"
    if part(plan, "config").get("task") == "chat":
        whole, text, how = "Every byte of the replies", "replies", "each reply given its context"
    if part(plan, "config").get("task") in ("classify", "pictures", "mlm"):
        return _protocol_of_labels(plan, score)
    what = f"An evenly spread sample of the {text}" if score.get("sampled") else whole
    words = [f"{what} was scored once, {how}; what the tokenizer"]
    words.append("cannot spell is charged 8 bits a byte.")
    digest = _short_hash(score.get("fingerprint") or plan.get("valid_text"))
    scored = f"{size(score['bytes'])}, " if score.get("bytes") else ""
    words.append(f"Text: {scored}SHA-256 {digest}")
    return " ".join([*words, *_kept(score)])


def _protocol_of_labels(plan: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    which = "An evenly spread sample of them was" if score.get("sampled") else "All were"
    count = f"{score.get('targets', 0):,} {kind_of(plan).targets}"
    as_what = "always masked alike" if kind_of(plan).name == "mlm" else "as they are"
    words = [f"{which} scored once, {as_what}: {count}, SHA-256"]
    words.append(_short_hash(score.get("fingerprint") or plan.get("valid_text")))
    if score.get("calibration") is not None:
        words.append(
            f"Confidence and accuracy differ by {score['calibration']:.1f} points in the mean, at a"
            f" temperature of {score['temperature']:.2f} fitted on the same."
        )
    return " ".join([*words, *_kept(score)])


def _kept(score: Mapping[str, Any]) -> list[str]:
    if not score.get("kept"):
        return []
    step = score.get("kept_step", score["step"])
    return [f"Weights kept: {score['kept']}, of step {step:,}."]


def _short_hash(value: object) -> str:
    return f"{visible(str(value))[:12]}…" if value else "unknown."


def train_command(plan: Mapping[str, Any]) -> str:
    """Write the command that was given, less what needs no flag."""
    request = part(plan, "request") or part(plan, "config")
    task, words = str(request.get("task") or "lm"), ["ensue", "train"]
    if not part(request, "data").get("src"):  # pairs are named by flags, which tell the task
        words += data_names(plan) if len(_sources(plan)) <= MANY else ["FILES"]
        words += ["--task", task] if task != "lm" else []
    if model_name(plan) != "model":
        words += ["--model", ":".join(filter(None, [own_code(plan), model_name(plan)]))]
    if request.get("start"):
        words += ["--from", place(request["start"])]
    for key in ("size", "budget", "steps", "seed", "checkpoint_every"):
        if request.get(key):
            words += [f"--{key.replace('_', '-')}", str(request[key])]
    usual = USUAL | USUAL_OF.get(task, {})
    for table in ("data", "model", "train"):
        for key, value in part(request, table).items():
            if key not in NAMED and value not in usual.get(key, CHOSEN):
                prefix = "" if table == "data" else f"{table}."
                prefix = f"no-{prefix}" if value is False else prefix
                words += [f"--{prefix}{key.replace('_', '-')}", *_flag_values(value)]
    return command(*words)


def _flag_values(value: Any) -> list[str]:
    match value:
        case bool():
            return []
        case list():
            return [place(item) for item in value]
    return [place(value) if isinstance(value, str) else str(value)]


def model_name(plan: Mapping[str, Any]) -> str:
    """Give the model's name in the lineage, the class of a person's own, or ``model``."""
    model = part(plan, "config", "model")
    return visible(str(model.get("classname") or model.get("name") or "model"))


def own_code(plan: Mapping[str, Any]) -> str:
    """Name the file of a person's own model, without its folder; empty: the model is ours."""
    file = part(plan, "config", "model").get("file")
    return place(file) if file else ""


def run_command(plan: Mapping[str, Any], *words: object) -> str:
    """Write a command that uses a run; one of a person's own model names its file."""
    code = own_code(plan)
    return command("ensue", *words, *(["--code", code] if code else []))


def use_command(plan: Mapping[str, Any], run: object, prompt: str = "") -> str:
    """Write the command that does with a run what it was trained for."""
    kind = kind_of(plan)
    words = filter(None, [prompt or kind.example])
    return run_command(plan, kind.verb, run, *words)


def score_command(plan: Mapping[str, Any], run: object) -> str:
    """Write the command that scores a run on another text."""
    return run_command(plan, "evaluate", run, *kind_of(plan).scored)


def kind_of(plan: Mapping[str, Any]) -> Kind:
    """Give what a run learns."""
    return find_kind(str(part(plan, "config").get("task") or "lm"))


def data_names(plan: Mapping[str, Any]) -> list[str]:
    """Name the data, without telling where on this machine it lies; of many files only a few."""
    return few(map(place, _sources(plan))) or ["DATA"]


def few(names: Iterable[str]) -> list[str]:
    """Shorten a long list: the first names, and how many there are more."""
    listed = list(names)
    if len(listed) <= MANY:
        return listed
    return [*listed[:2], f"{len(listed) - 2:,} more"]


def _sources(plan: Mapping[str, Any]) -> list[Any]:
    data = part(plan, "config", "data")
    return [*(data.get("sources") or ()), *(data.get("src") or ()), *(data.get("tgt") or ())]


def part(values: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Give a nested table; empty where there is none (a plan of another version)."""
    for key in keys:
        inner = values.get(key)
        values = inner if isinstance(inner, Mapping) else {}
    return values
