"""Checkpoints: each one a new folder that is never written again, and is whole or absent.

    checkpoints/step-00000200/
        shard-00001-of-00002.safetensors    what rank 0 holds
        shard-00002-of-00002.safetensors    what rank 1 holds
        state.json                          all that is not a tensor
        manifest.json                       size and SHA-256 of each file above, and of itself

The folder is written under a temporary name, every file flushed to the disk, the manifest last;
then it is renamed and its parent flushed. A kill, a full disk or a flipped bit can therefore cost
the newest checkpoint, never the one before.

The shards follow the layout of torch.distributed.checkpoint's safetensors storage, so that its
reader reads them, but they are written here: its writer holds all tensors a second time in
memory, refuses what is not contiguous, turns Ctrl-C into an error, and needs 20 ms for 0.3 MB.
"""

import os
import random
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from ensue.errors import EnsueError, RunError
from ensue.files import (
    TEMPORARY,
    Digest,
    dump_json,
    fsync_dir,
    parse_json,
    read_json,
    read_sealed,
    remove_temporaries,
    remove_tree,
    require_free,
    seal,
    sha256_file,
    write_file,
    writing,
)
from ensue.weights import Entry, read_header, tensor_bytes, write_tensors

FORMAT = 2  # 2: the tokens so far stand in the state
KIND = "ensue checkpoint"
STATE = "state.json"
MANIFEST = "manifest.json"
SHARDING = "DCP_SHARDING_INFO"  # torch's key for where in the whole tensor a shard begins
OVERHEAD_BYTES = 512  # per tensor and per file, generously: the headers and the manifest

_NAME = re.compile(r"step-(\d{8,18})")
T = TypeVar("T")


class VersionError(RunError):
    """A checkpoint is whole, and of another version: nothing else may be begun in its place."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was verified."""

    path: Path
    """Its folder."""
    step: int
    """Updates done when it was taken."""
    state: dict[str, Any]
    """All that is not a tensor."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The part of a tensor that this rank holds; the whole of it, mostly."""

    tensor: Tensor
    """The values, in the storage of the tensor itself."""
    offsets: tuple[int, ...]
    """Where in the whole tensor they begin."""


# --- saving ---------------------------------------------------------------------------------------


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write a new checkpoint; under torch.distributed every rank calls this.

    A sound checkpoint of the same step is kept as it is; a damaged one gives way.

    Args:
        folder: Where all checkpoints of the run lie; the same for every rank.
        step: Updates done.
        tensors: One name per tied tensor. Of a DTensor each rank writes its own shard; any other
            tensor is written by the lowest rank that has the name.
        state: JSON with text keys, taken from rank 0. Floats come back to the last bit.

    Returns:
        The folder of the checkpoint.

    Raises:
        DiskFullError: On one rank, and so on all. Older checkpoints are unharmed.
        EnsueError: The system refused to write, likewise.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    parts = _parts_to_write(tensors)
    state_json = dump_json(dict(state))
    needed = sum(_on_every_rank(lambda: _estimate(parts) + len(state_json)))

    def write_shard() -> tuple[str, Digest]:
        with writing(final, needed):
            return _write_shard(temporary, parts)

    def complete() -> None:
        with writing(final, needed):
            _complete(temporary, final, step, dict(shards), state_json)

    try:
        if not _on_first_rank(lambda: _prepare(final, temporary, needed)):
            shards = _on_every_rank(write_shard)
            _on_first_rank(complete)
    except BaseException:
        if _rank() == 0:
            remove_tree(temporary)
        raise
    return final


def _parts_to_write(tensors: Mapping[str, Tensor]) -> dict[str, _Part]:
    names = _on_every_rank(
        lambda: [name for name, tensor in tensors.items() if not isinstance(tensor, DTensor)]
    )
    taken = {name for lower in names[: _rank()] for name in lower}
    return {
        name: _local_part(tensor)
        for name, tensor in tensors.items()
        if (_is_ours(tensor) if isinstance(tensor, DTensor) else name not in taken)
    }


def _is_ours(tensor: DTensor) -> bool:
    """Say whether this rank writes its part: not an empty one, and not a second copy."""
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    if tensor.numel() and not tensor.to_local().numel():  # 1 row on 2 ranks leaves one with none
        return False
    return all(
        position == 0
        for position, placement in zip(coordinate, tensor.placements, strict=True)
        if placement.is_replicate() or not tensor.numel()
    )


def _local_part(tensor: Tensor) -> _Part:
    if not isinstance(tensor, DTensor):
        return _Part(tensor=tensor, offsets=(0,) * tensor.ndim)
    chunks = tensor.__create_chunk_list__()  # as DCP asks it
    return _Part(tensor=tensor.to_local(), offsets=tuple(chunks[0].offsets))


def _estimate(parts: Mapping[str, _Part]) -> int:
    data = tensor_bytes({name: part.tensor for name, part in parts.items()})
    return data + OVERHEAD_BYTES * (len(parts) + 3)


def _prepare(final: Path, temporary: Path, needed: int) -> bool:
    """Make the temporary folder, or say that the checkpoint is there already."""
    if final.exists():
        with suppress(RunError):
            _verify(final)
            return True
    with writing(final, needed):
        remove_tree(temporary)
        require_free(final, needed)
        temporary.mkdir(parents=True)
        fsync_dir(final.parent.parent)
    return False


def _write_shard(temporary: Path, parts: Mapping[str, _Part]) -> tuple[str, Digest]:
    if not temporary.is_dir():
        raise RunError(
            f"rank {_rank()} does not see the folder that rank 0 made: {temporary}",
            "All machines must share the folder of the run.",
        )
    name = f"shard-{_rank() + 1:05d}-of-{_world_size():05d}.safetensors"
    offsets = {name: {"saved_offsets": part.offsets} for name, part in parts.items()}
    metadata = {"format": "pt", "DCP_VERSION": "1.0", SHARDING: dump_json(offsets).decode()}
    tensors = {name: part.tensor for name, part in parts.items()}
    return name, write_tensors(temporary / name, tensors, metadata)


def _complete(
    temporary: Path, final: Path, step: int, files: dict[str, Digest], state_json: bytes
) -> None:
    files[STATE] = write_file(temporary / STATE, [state_json])
    manifest = {
        "format": FORMAT,
        "kind": KIND,
        "step": step,
        "files": {name: asdict(digest) for name, digest in files.items()},
    }
    write_file(temporary / MANIFEST, [seal(manifest)])
    fsync_dir(temporary)
    if final.exists():  # and is damaged, as `_prepare` has found
        _discard(final)
    os.rename(temporary, final)
    fsync_dir(final.parent)


# --- finding --------------------------------------------------------------------------------------


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    """Find the newest checkpoint that is whole; under torch.distributed every rank calls this.

    Returns:
        The checkpoint, if there is one, and the newer ones that were skipped, each with the reason.

    Raises:
        VersionError: The newest that is whole was written by another version of ensue.
    """
    return _on_first_rank(lambda: _find(folder))


def _find(folder: Path) -> tuple[Checkpoint | None, list[tuple[Path, str]]]:
    skipped: list[tuple[Path, str]] = []
    for path in _newest_first(folder):
        try:
            return _verify(path), skipped
        except VersionError:
            raise
        except RunError as error:
            skipped.append((path, error.what))
    return None, skipped


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=_step_of, reverse=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _verify(path: Path) -> Checkpoint:
    """Check every byte of a checkpoint.

    Raises:
        RunError: Naming the file that is missing or damaged.
    """
    for name, digest in _read_manifest(path).items():
        try:
            actual = sha256_file(path / name)
        except OSError as error:
            raise RunError(f"cannot read {path / name}: {error.strerror or error}") from error
        if actual != digest.sha256:
            raise RunError(f"{path / name} is damaged: its checksum does not fit")
    state = read_json(path / STATE)
    if not isinstance(state, dict):
        raise RunError(f"{path / STATE} is damaged: it is not a table")
    return Checkpoint(path, _step_of(path), state)


def _read_manifest(path: Path) -> dict[str, Digest]:
    """Read which files make up a checkpoint, and see that they are there at their full length."""
    manifest = read_sealed(path / MANIFEST)
    files: dict[str, Digest] = {}
    match manifest:
        case {"kind": str(kind), "format": int(version)} if kind == KIND and version != FORMAT:
            age = "a newer" if version > FORMAT else "an older"
            raise VersionError(
                f"{path} was written by {age} version of ensue (format {version}; this one reads"
                f" {FORMAT})",
                "Go on with that version, or train anew into another folder with --out.",
            )
        case {"kind": str(kind), "format": int(), "step": int(step), "files": dict(entries)} if (
            kind == KIND and step == _step_of(path) and STATE in entries
        ):
            files = {name: _parse_digest(path, name, entry) for name, entry in entries.items()}
    if not files:
        raise RunError(f"{path / MANIFEST} is not the manifest of {path.name}")
    for name, digest in files.items():
        if not (path / name).is_file():
            raise RunError(f"{path / name} is missing")
        if (path / name).stat().st_size != digest.size:
            raise RunError(f"{path / name} is damaged: it is not {digest.size:,} bytes long")
    return files


def _parse_digest(path: Path, name: str, entry: Any) -> Digest:
    match entry:
        case {"size": int(size), "sha256": str(sha256)} if Path(name).name == name:
            return Digest(size=size, sha256=sha256)
    raise RunError(f"{path / MANIFEST} says nothing sensible about {name[:80]!r}")


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, once the newest has been verified.

    Also clears away what a killed process left unfinished. What is newer than the newest sound
    one is damaged; it is left as evidence. Only rank 0 acts, and waits for no other.

    Args:
        folder: Where all checkpoints of the run lie.
        keep: How many remain, at least 1.
    """
    assert keep >= 1
    if _rank() != 0:
        return
    remove_temporaries(folder)
    newest, _ = _find(folder)
    if newest is None:
        return
    older = [path for path in _newest_first(folder) if _step_of(path) < newest.step]
    kept = [path for path in older if _looks_whole(path)][: keep - 1]
    for path in older:
        if path not in kept:
            with suppress(OSError):  # what cannot be deleted now is tried again at the next save
                _discard(path)


def _looks_whole(path: Path) -> bool:
    try:
        _read_manifest(path)
    except RunError:
        return False
    return True


def _discard(path: Path) -> None:
    """Delete a folder in one step: a kill leaves it whole, or as something to clear away."""
    doomed = path.with_name(f"{TEMPORARY}discarded-{path.name}")
    remove_tree(doomed)
    os.rename(path, doomed)
    remove_tree(doomed)


# --- loading --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """One stored part of a tensor."""

    shard: Path
    """The file it lies in."""
    entry: Entry
    """Its dtype and shape."""
    offsets: tuple[int, ...]
    """Where in the whole tensor it begins."""


def saved_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Give the names of all tensors in a checkpoint, with their whole shapes."""
    return {name: _whole_shape(parts) for name, parts in _index(checkpoint).items()}


def load_tensors(checkpoint: Checkpoint, into: Mapping[str, Tensor]) -> None:
    """Fill tensors from a checkpoint, in place, whatever the number of ranks it was taken on.

    Needs no other rank. The checkpoint may hold more than is asked for.

    Args:
        checkpoint: From `newest_checkpoint`.
        into: Tensors of the saved shapes and dtypes; of a DTensor, this rank's part is filled.

    Raises:
        RunError: A tensor is not in the checkpoint, or has another shape or dtype.
    """
    index = _index(checkpoint)
    for name, target in into.items():
        _check_fits(checkpoint, name, target, index.get(name, []))
    by_shard: dict[Path, list[tuple[str, _Saved]]] = {}
    for name in into:
        for saved in index[name]:
            by_shard.setdefault(saved.shard, []).append((name, saved))
    parts = {name: _local_part(tensor) for name, tensor in into.items()}
    missing = {name: part.tensor.numel() for name, part in parts.items()}
    with torch.no_grad():
        for shard, wanted in by_shard.items():
            try:
                with safe_open(shard, framework="pt") as file:
                    for name, saved in wanted:
                        missing[name] -= _copy(file.get_slice(name), saved, parts[name])
            except (SafetensorError, OSError) as error:
                raise RunError(f"cannot read {shard}: {error}") from error
    for name, count in missing.items():
        if count:
            raise RunError(f"{checkpoint.path} lacks {count:,} values of {name!r}")


def _index(checkpoint: Checkpoint) -> dict[str, list[_Saved]]:
    index: dict[str, list[_Saved]] = {}
    for file in _read_manifest(checkpoint.path):
        if file == STATE:
            continue
        shard = checkpoint.path / file
        header = read_header(shard)
        table = parse_json(header.metadata.get(SHARDING, "").encode(), shard)
        for name, entry in header.tensors.items():
            offsets = _parse_offsets(table, name, entry, shard)
            index.setdefault(name, []).append(_Saved(shard=shard, entry=entry, offsets=offsets))
    return index


def _parse_offsets(table: Any, name: str, entry: Entry, shard: Path) -> tuple[int, ...]:
    match table.get(name) if isinstance(table, dict) else None:
        case {"saved_offsets": list(offsets)} if len(offsets) == len(entry.shape) and all(
            type(offset) is int and 0 <= offset < 1 << 48 for offset in offsets
        ):
            return tuple(offsets)
    raise RunError(f"{shard} is damaged: it does not say where the part of {name[:80]!r} begins")


def _whole_shape(parts: list[_Saved]) -> tuple[int, ...]:
    return tuple(
        max(ends)
        for ends in zip(
            *(
                [offset + size for offset, size in zip(part.offsets, part.entry.shape, strict=True)]
                for part in parts
            ),
            strict=True,
        )
    )


def _check_fits(checkpoint: Checkpoint, name: str, target: Tensor, parts: list[_Saved]) -> None:
    hint = "It was taken with another model or optimiser; repeat the command that made it."
    if not parts:
        raise RunError(f"{checkpoint.path} has no tensor {name!r}", hint)
    saved = (_whole_shape(parts), {part.entry.dtype for part in parts})
    if saved != (tuple(target.shape), {target.dtype}):
        raise RunError(
            f"{checkpoint.path} has {name!r} as {saved[1]} {saved[0]}, and wanted is"
            f" {target.dtype} {tuple(target.shape)}",
            hint,
        )


def _copy(source: Any, saved: _Saved, part: _Part) -> int:
    """Copy what a stored part and ours have in common; return the number of values."""
    read, write = [], []
    sizes = zip(saved.offsets, saved.entry.shape, part.offsets, part.tensor.shape, strict=True)
    for stored, stored_size, wanted, wanted_size in sizes:
        low = max(stored, wanted)
        high = min(stored + stored_size, wanted + wanted_size)
        if low >= high:
            return 0
        read.append(slice(low - stored, high - stored))
        write.append(slice(low - wanted, high - wanted))
    target = part.tensor[tuple(write)]
    target.copy_(source[tuple(read)])
    return target.numel()


# --- random numbers -------------------------------------------------------------------------------


def rng_state(prefix: str = "rng.") -> dict[str, Tensor]:
    """Take the state of every global random generator as tensors of fixed shapes.

    Args:
        prefix: Starts each name; with several ranks, give each its own: ``rng.0.``.

    Returns:
        Python's, numpy's and torch's generators, and the accelerator's where there is one. Also
        what to pass to `load_tensors` to get the same names and shapes.
    """
    _, python, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one, whoever uses it
    assert isinstance(numpy, dict)
    state = {
        "python": torch.tensor(python, dtype=torch.int64),
        "python_gauss": _optional(gauss is not None, gauss or 0.0),
        "numpy": torch.tensor([*numpy["state"]["key"], numpy["state"]["pos"]], dtype=torch.int64),
        "numpy_gauss": _optional(bool(numpy["has_gauss"]), numpy["gauss"]),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    elif torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return {prefix + name: tensor for name, tensor in state.items()}


def _optional(present: bool, value: float) -> Tensor:
    return torch.tensor([present, value], dtype=torch.float64)


def set_rng_state(tensors: Mapping[str, Tensor], prefix: str = "rng.") -> None:
    """Put back what `rng_state` took."""
    state = {name: tensors[name] for name in rng_state(prefix)}
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    present, gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss if present else None))
    *key, position = state["numpy"].tolist()
    has_gauss, gauss = state["numpy_gauss"].tolist()
    np.random.set_state(  # noqa: NPY002
        ("MT19937", np.array(key, dtype=np.uint32), position, int(has_gauss), gauss)
    )
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


# --- ranks ----------------------------------------------------------------------------------------


def _rank() -> int:
    return dist.get_rank() if _is_distributed() else 0


def _world_size() -> int:
    return dist.get_world_size() if _is_distributed() else 1


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _on_every_rank(work: Callable[[], T]) -> list[T]:
    """Run `work` on each rank, wait for all, and give everyone all results.

    A failure on one rank is raised on all, so that none waits for the others for ever.
    """
    if not _is_distributed():
        return [work()]
    ours: tuple[T | None, EnsueError | None] = (None, None)
    failure: Exception | None = None
    try:
        ours = (work(), None)
    except Exception as error:
        failure = error
        ours = (None, error if isinstance(error, EnsueError) else EnsueError(repr(error)))
    gathered: list[Any] = [None] * _world_size()
    dist.all_gather_object(gathered, ours)
    if failure is not None:
        raise failure
    for _, theirs in gathered:
        if theirs is not None:
            raise theirs
    return [result for result, _ in gathered]


def _on_first_rank(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 alone and give everyone its result."""
    result = _on_every_rank(lambda: work() if _rank() == 0 else None)[0]
    return result  # type: ignore[return-value]  # rank 0 did run it
