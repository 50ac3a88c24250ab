"""Labels: their names and order, a stratified split, and what about them looks like a mistake."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensue.data.notes import Notes
from ensue.errors import DataError, UsageError

UNBALANCED = 10
"""The commonest class has so many times the rows of the rarest one: worth a remark."""
UNKNOWN = -1
"""Number of a label that train lacks: whatever a model says of it is wrong."""
_NAMED = 5
LISTED = 12
"""So many classes are named with their counts; of more the commonest and the rarest."""


def class_names(labels: Iterable[str]) -> list[str]:
    """Give the distinct labels, in the order of their names, numbers in them as numbers."""
    return sorted(set(labels), key=_in_order)


def _in_order(label: str) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"([0-9]+)", label)
    # Digits stand at odd places.
    return [(int(p), "") if i % 2 else (0, p.casefold()) for i, p in enumerate(parts)], label


def check_classes(counts: Mapping[str, int], notes: Notes) -> None:
    """Refuse what cannot be learnt, and say what looks like a mistake.

    Args:
        counts: Rows of each class in train and valid together.
        notes: Takes remarks.

    Raises:
        DataError: There is one class only.
    """
    if len(counts) < 2:
        only = f", {next(iter(counts))!r}" if counts else ""
        raise DataError(
            f"there is nothing to tell apart: {len(counts)} class{'' if counts else 'es'}{only}",
            "At least two classes are needed; is it the column, or the folder, of the labels?",
        )
    notes.say(_balance(counts))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        alike["".join(name.casefold().split())].append(name)
    for names in alike.values():
        if len(names) > 1:
            shown = " and ".join(f"{name!r} ({counts[name]:,})" for name in names)
            notes.say(
                f"labels that differ in case or spaces alone are classes of their own: {shown};"
                " write them alike to make them one"
            )
    once = [name for name, count in counts.items() if count == 1]
    if once:
        notes.say(
            f"{len(once):,} classes have one example, which is learnt from and not validated on:"
            f" {some(once)}"
        )
    most, least = _extremes(counts)
    if counts[most] >= UNBALANCED * counts[least]:
        notes.say(
            f"unbalanced: {most!r} has {counts[most]:,} examples, {least!r} {counts[least]:,};"
            " --train.class-weights 0.5 lets rare classes count more"
        )


def _extremes(counts: Mapping[str, int]) -> tuple[str, str]:
    """Give the commonest class and the rarest one."""
    return max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)


def _balance(counts: Mapping[str, int]) -> str:
    """Name the classes, and how many examples each has."""
    head = f"{len(counts):,} classes"
    if len(counts) > LISTED:
        most, least = _extremes(counts)
        return f"{head}, from {most!r} ({counts[most]:,}) to {least!r} ({counts[least]:,})"
    return f"{head}: " + ", ".join(f"{name!r} ({n:,})" for name, n in counts.items())


def some(names: Sequence[str]) -> str:
    """Name the first few."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def numbered(labels: Sequence[str], names: Sequence[str], what: str, notes: Notes) -> list[int]:
    """Number labels by the classes that were learnt.

    Another case or other spaces are overlooked where they can mean one class only; a label that
    is none of them is `UNKNOWN`, and said.

    Args:
        labels: To be numbered.
        names: The classes, in order.
        what: What the labels are of, for the remark.
        notes: Takes remarks.
    """
    exact = {name: i for i, name in enumerate(names)}
    loose: dict[str, set[int]] = defaultdict(set)
    for name, i in exact.items():
        loose["".join(name.casefold().split())].add(i)
    found, unknown, bent = [], Counter[str](), Counter[str]()
    for label in labels:
        if label in exact:
            found.append(exact[label])
            continue
        near = loose.get("".join(label.casefold().split()), set())
        found.append(next(iter(near)) if len(near) == 1 else UNKNOWN)
        (bent if len(near) == 1 else unknown)[label] += 1
    if bent:
        notes.say(
            f"{what}: {sum(bent.values()):,} labels differ from train's in case or spaces, and are"
            f" taken for the same: {some(list(bent))}"
        )
    if unknown:
        notes.say(
            f"{what}: {sum(unknown.values()):,} labels are not among train's, and count as"
            f" mistakes: {some(list(unknown))}"
        )
    return found


def check_shares(valid_fraction: float, test_fraction: float) -> None:
    """Refuse shares to hold out that leave nothing to choose on, or to learn from."""
    if not 0 < valid_fraction < 1:
        raise UsageError(
            f"data.valid_fraction is {valid_fraction}; it must lie between 0 and 1",
            "Give for instance: --valid-fraction 0.1",
        )
    if not 0 <= test_fraction < 1 - valid_fraction:
        raise UsageError(
            f"data.test_fraction is {test_fraction}; with valid_fraction it must leave"
            " something to learn from",
            "Give for instance: --test-fraction 0.1",
        )


def settle_splits(
    split: NDArray[Any],
    labels: Sequence[str],
    hashes: NDArray[np.uint64],
    shares: Mapping[str, float],
    what: str,
    notes: Notes,
) -> tuple[list[str], NDArray[np.int64]]:
    """Hold out what is not given, check the classes, and number all labels by train's.

    Args:
        split: Of each row ``train``, ``valid``, ``test``, or empty: of none; it is changed.
        labels: Of each row.
        hashes: Of each row's content.
        shares: How much of each class is ``test``, and ``valid``, where there is none.
        what: What the rows are, for remarks.
        notes: Takes remarks.

    Returns:
        The classes, and of each row the number of its class.

    Raises:
        DataError: There is nothing to learn from, one class only, or no class in common.
        UsageError: A test part is to be held out, and there is one.
    """
    if not (split == "train").any():
        only = " and ".join(sorted(set(split[split != ""]))) or "none"
        raise DataError(
            f"there is nothing to learn from, {only} alone", f"Name {what} to learn from too."
        )
    names = class_names(labels[i] for i in np.flatnonzero(split == "train").tolist())
    _hold_out(split, labels, hashes, shares, what, notes)
    known = np.flatnonzero(np.isin(split, ("train", "valid")))
    counts = Counter(labels[i] for i in known.tolist())
    check_classes({name: counts[name] for name in names}, notes)
    numbers = np.zeros(len(labels), dtype=np.int64)
    for of in ("train", "valid", "test"):
        rows = np.flatnonzero(split == of)
        numbers[rows] = numbered([labels[i] for i in rows.tolist()], names, of, notes)
        if len(rows) and (numbers[rows] == UNKNOWN).all():
            raise DataError(
                f"none of the labels of {of} is among train's:"
                f" {some(class_names(labels[i] for i in rows.tolist()))}; train has {some(names)}",
                "Are both written alike, and is it the same column?",
            )
    for of, other in (("valid", "train"), ("test", "train"), ("test", "valid")):
        if twice := repeated(hashes[split == of], hashes[split == other]):
            notes.say(f"{twice:,} {what} of {of} also stand in {other}: its score flatters")
    return names, numbers


def _hold_out(
    split: NDArray[Any],
    labels: Sequence[str],
    hashes: NDArray[np.uint64],
    shares: Mapping[str, float],
    what: str,
    notes: Notes,
) -> None:
    """Take out of train what is not given: the same share of each class."""
    if shares["test"] and "test" in split:
        raise UsageError(
            "--test-fraction holds a part out, and there is a test part already",
            "Leave it out, and score that: ensue evaluate --split test",
        )
    numbers = np.unique(np.array(labels), return_inverse=True)[1]
    left = 1.0
    for of, fraction in shares.items():
        if not fraction or of in split:
            continue
        rows = np.flatnonzero(split == "train")
        split[rows[held_out(numbers[rows], hashes[rows], fraction / left)]] = of
        left -= fraction
        notes.say(
            f"{int((split == of).sum()):,} of {len(rows):,} {what} are {of}: the same share of"
            " each class, chosen by a hash of their content"
        )
        if twice := len(rows) - len(np.unique(hashes[rows])):
            notes.say(f"{twice:,} {what} stand there more than once: on one side each time")


def held_out(
    labels: NDArray[np.int64], hashes: NDArray[np.uint64], fraction: float
) -> NDArray[np.bool_]:
    """Hold out the same share of each class, by a hash of the content.

    What is there twice lands on one side, and a new example moves few others. Of each class at
    least one example stays, and, where it has two different ones, at least one is held out.

    Args:
        labels: Of each row, the number of its class.
        hashes: Of each row's content.
        fraction: How much of each class.
    """
    mask = np.zeros(len(labels), dtype=np.bool_)
    if not fraction:
        return mask
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        distinct, group = np.unique(hashes[rows], return_inverse=True)
        if len(distinct) < 2:
            continue
        sizes = np.bincount(group)
        enough = np.cumsum(sizes) >= fraction * len(rows)
        count = min(max(1, int(np.argmax(enough)) + 1), len(distinct) - 1)
        mask[rows] = group < count
    return mask


def repeated(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> int:
    """Count which of ours are also among theirs, by the hashes of their content."""
    return int(np.isin(ours, theirs).sum())
