"""Which part of the text is held out for validation."""

import numpy as np
from numpy.typing import NDArray

from ensue.data.spool import Spool, View

# With fewer documents than this, the split is by position over all of them.
MANY_DOCUMENTS = 20


def split(spool: Spool, valid_fraction: float) -> tuple[View, View, str]:
    """Split a spool into train and valid.

    Few documents: the first characters train, the last ``valid_fraction`` of them valid, to the
    character as nanoGPT does. Many: whole documents, by a hash of their content, so that
    duplicates land on one side and a new document moves few others.

    Returns:
        The two views, and a remark that says which way was taken.
    """
    percent = f"{100 * valid_fraction:.3g} %"
    if spool.num_documents >= MANY_DOCUMENTS:
        held_out = _by_hash(spool, valid_fraction)
        if held_out.any():
            view = spool.whole()
            remark = (
                f"{int(held_out.sum()):,} of {spool.num_documents:,} documents, chosen by a hash "
                f"of their content, are valid (about {percent} of the text)"
            )
            # Document of each piece: how many ended before it.
            document: NDArray[np.int64] = np.cumsum(view.closes) - view.closes
            mask = held_out[document]
            return masked(view, ~mask), masked(view, mask), remark
    train, valid = _by_position(spool, int(spool.num_chars * (1 - valid_fraction)))
    return train, valid, f"the last {percent} of the characters are valid"


def masked(view: View, mask: NDArray[np.bool_]) -> View:
    """Give the pieces of a view for which the mask is true."""
    return View(view.path, view.starts[mask], view.ends[mask], view.closes[mask])


def _by_hash(spool: Spool, fraction: float) -> NDArray[np.bool_]:
    """Hold out documents in the order of their hashes until they make up the fraction.

    One that would overshoot twofold (a book among notes) is passed over. Equal hashes are one.
    """
    view = spool.whole()
    last = np.flatnonzero(view.closes)
    ends = view.ends[last]
    sizes = np.diff(ends, prepend=0)
    hashes, group = np.unique(spool.hashes, return_inverse=True)
    weight = np.bincount(group, weights=sizes, minlength=len(hashes))
    target = fraction * spool.num_bytes
    chosen = np.zeros(len(hashes), dtype=np.bool_)
    total = 0.0
    for i, size in enumerate(weight):
        if total >= target:
            break
        if total + size <= 2 * target:
            chosen[i] = True
            total += size
    held_out: NDArray[np.bool_] = chosen[group]
    return held_out if not held_out.all() else np.zeros_like(held_out)


def _by_position(spool: Spool, num_train: int) -> tuple[View, View]:
    """Cut after ``num_train`` characters, inside a piece if need be."""
    view = spool.whole()
    chars = np.cumsum(spool.piece_chars)
    k = int(np.searchsorted(chars, num_train, "right"))  # pieces wholly in train
    inside = num_train - (int(chars[k - 1]) if k else 0)
    if not inside:
        train = View(view.path, view.starts[:k], view.ends[:k], view.closes[:k].copy())
        valid = View(view.path, view.starts[k:], view.ends[k:], view.closes[k:])
    else:
        start, end = int(view.starts[k]), int(view.ends[k])
        with view.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start).decode()
        middle = start + len(text[:inside].encode())
        train_ends = np.append(view.ends[:k], middle)
        train = View(view.path, view.starts[: k + 1], train_ends, view.closes[: k + 1].copy())
        valid_starts = np.concatenate([[middle], view.starts[k + 1 :]])
        valid = View(view.path, valid_starts, view.ends[k:], view.closes[k:])
    if len(train.closes):
        train.closes[-1] = True  # the cut ends a document
    return train, valid
