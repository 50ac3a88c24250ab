"""Checkpoints: what is saved comes back to the last bit, on any number of ranks."""

import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from ensue import files
from ensue.distributed.env import Env
from ensue.errors import DiskFullError, EnsueError, RunError
from ensue.training import checkpoint as module
from ensue.training.checkpoint import (
    Checkpoint,
    load_tensors,
    newest_checkpoint,
    prune,
    rng_state,
    save_checkpoint,
    saved_shapes,
    set_rng_state,
)


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "model.block.0.weight": torch.randn(5, 3, generator=g),
        "model.one_row": torch.randn(1, 4, generator=g),
        "optimizer.step": torch.tensor(float(seed)),
        "ids": torch.randint(0, 1 << 60, (7,), generator=g),
        "half": torch.randn(6, generator=g).bfloat16(),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False]),
        "turned": torch.randn(4, 2, generator=g).t(),
        "slice": torch.randn(9, generator=g)[2:5],
    }


def zeros_like(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name]), name


def newest(folder: Path) -> Checkpoint:
    checkpoint, skipped = newest_checkpoint(folder)
    assert checkpoint is not None
    assert skipped == []
    return checkpoint


def test_tensors_and_state_come_back_to_the_last_bit(tmp_path):
    state = {"best": 0.1 + 0.2, "tiny": 5e-324, "seed": 2**127 + 1, "none": None, "name": "ä"}
    tensors = some_tensors()
    path = save_checkpoint(tmp_path / "checkpoints", 200, tensors, state)
    checkpoint = newest(tmp_path / "checkpoints")
    assert (path.name, checkpoint.path, checkpoint.step) == ("step-00000200", path, 200)
    assert checkpoint.state == state
    into = zeros_like(tensors)
    pointers = {name: tensor.data_ptr() for name, tensor in into.items()}
    load_tensors(checkpoint, into)
    assert_equal(into, tensors)
    assert pointers == {name: tensor.data_ptr() for name, tensor in into.items()}
    assert saved_shapes(checkpoint) == {name: tuple(t.shape) for name, t in tensors.items()}


def test_parameters_can_be_filled_and_a_part_can_be_asked_for(tmp_path):
    save_checkpoint(tmp_path, 1, some_tensors(), {})
    weight = nn.Parameter(torch.zeros(5, 3))
    load_tensors(newest(tmp_path), {"model.block.0.weight": weight})
    assert torch.equal(weight, some_tensors()["model.block.0.weight"])


@pytest.mark.parametrize(
    ("into", "message"),
    [
        ({"model.other": torch.zeros(1)}, "has no tensor 'model.other'"),
        ({"ids": torch.zeros(6, dtype=torch.int64)}, "has 'ids' as"),
        ({"ids": torch.zeros(7)}, "has 'ids' as"),
        ({"ids": torch.zeros(7, 1, dtype=torch.int64)}, "has 'ids' as"),
        ({"empty": torch.zeros(0, 5)}, "has 'empty' as"),
    ],
)
def test_another_model_is_refused_before_anything_is_filled(tmp_path, into, message):
    """A copy would cast the dtype silently, and a smaller shape would be filled with a slice."""
    save_checkpoint(tmp_path, 1, some_tensors(), {})
    weight = torch.zeros(5, 3)
    with pytest.raises(RunError, match=message):
        load_tensors(newest(tmp_path), {"model.block.0.weight": weight} | into)
    assert not weight.any()


def test_a_state_that_is_not_json_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path / "c", 1, {}, {"best": math.inf})
    assert not (tmp_path / "c").exists()


def test_a_sound_checkpoint_is_never_rewritten_and_a_damaged_one_gives_way(tmp_path):
    path = save_checkpoint(tmp_path, 1, some_tensors(1), {})
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert save_checkpoint(tmp_path, 1, some_tensors(2), {}) == path
    assert before == {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    (path / "state.json").write_text("{}")
    save_checkpoint(tmp_path, 1, some_tensors(2), {})
    into = zeros_like(some_tensors())
    load_tensors(newest(tmp_path), into)
    assert_equal(into, some_tensors(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]


def test_no_checkpoint_yet(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])
    prune(tmp_path / "nowhere", keep=1)


def test_prune_keeps_the_newest_sound_ones(tmp_path):
    for step in range(1, 7):
        save_checkpoint(tmp_path, step, {"a": torch.tensor(step)}, {})
    (tmp_path / f"{files.TEMPORARY}step-00000009").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for step in (4, 6):
        (tmp_path / f"step-{step:08d}" / "state.json").unlink()
    prune(tmp_path, keep=2)
    # 6 is damaged and stays as evidence; 4 is damaged and older, so 3 is the second to keep.
    kept = {"step-00000006", "step-00000005", "step-00000003", "notes.txt"}
    assert {entry.name for entry in tmp_path.iterdir()} == kept
    checkpoint, skipped = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 5
    [(path, why)] = skipped
    assert path.name == "step-00000006"
    assert "state.json is missing" in why


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, {}, {})
    assert newest(tmp_path).step == 100_000_000


def test_a_renamed_folder_is_not_another_step(tmp_path):
    save_checkpoint(tmp_path, 1, {}, {}).rename(tmp_path / "step-00000002")
    checkpoint, [(_, why)] = newest_checkpoint(tmp_path)
    assert checkpoint is None
    assert "is not the manifest of step-00000002" in why


@pytest.mark.parametrize(("version", "age"), [(1, "an older"), (99, "a newer")])
def test_a_checkpoint_of_another_version_is_refused(tmp_path, version, age):
    """Skipped as if it were damaged, it would let the run begin anew in its place."""
    path = save_checkpoint(tmp_path, 1, {}, {})
    manifest = files.read_sealed(path / "manifest.json") | {"format": version}
    (path / "manifest.json").write_bytes(files.seal(manifest))
    with pytest.raises(RunError, match=f"written by {age} version of ensue") as caught:
        newest_checkpoint(tmp_path)
    assert "--out" in caught.value.hint


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_pickle_is_read(tmp_path):
    """Torch's default reader unpickles `.metadata`: code that comes with a checkpoint would run."""
    path = save_checkpoint(tmp_path / "c", 1, some_tensors(), {})
    assert {f.name for f in path.iterdir()} == {
        "shard-00001-of-00001.safetensors",
        "state.json",
        "manifest.json",
    }
    for name in (".metadata", "x.distcp", "data.pkl"):
        (path / name).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    load_tensors(newest(tmp_path / "c"), some_tensors())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("offsets", [None, [], [0], [0, -1], [0, 0.5], [0, 1 << 60], [1, 0]])
def test_crafted_offsets_are_refused(tmp_path, monkeypatch, offsets):
    """A checkpoint from elsewhere may carry the right checksums and wrong places."""
    dump = files.dump_json

    def crafted(value):
        if "a" in value:
            value = {"a": {"saved_offsets": offsets}} if offsets is not None else {}
        return dump(value)

    monkeypatch.setattr(module, "dump_json", crafted)
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2, 3)}, {})
    with pytest.raises(RunError):
        load_tensors(newest(tmp_path), {"a": torch.zeros(2, 3)})


def assert_torch_reads_it(path: Path, expected: dict[str, Tensor]) -> None:
    into = zeros_like(expected)
    dcp.load(into, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    assert_equal(into, expected)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_torchs_own_reader_reads_it(tmp_path):
    assert_torch_reads_it(save_checkpoint(tmp_path, 1, some_tensors(), {}), some_tensors())


def test_every_random_generator_goes_on_where_it_was(tmp_path):
    def draw() -> tuple[float, ...]:
        return (
            random.random(),
            random.gauss(0, 1),
            np.random.rand(),  # noqa: NPY002
            np.random.randn(),  # noqa: NPY002
            torch.rand(()).item(),
        )

    before = rng_state()
    try:
        draw()  # leaves the second of a pair of Gaussian numbers waiting in both libraries
        state = rng_state("rng.0.")
        expected = [draw() for _ in range(3)]  # at once: beartype itself draws from Python's
        save_checkpoint(tmp_path, 1, state, {})
        into = rng_state("rng.0.")
        load_tensors(newest(tmp_path), into)
        set_rng_state(into, "rng.0.")
        assert [draw() for _ in range(3)] == expected
    finally:
        set_rng_state(before)


# --- two ranks ------------------------------------------------------------------------------------


def model() -> nn.Module:
    """Odd shapes: 5 rows on 2 ranks split as 3 and 2, and 1 row leaves a rank with none."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 1), nn.LayerNorm(1, bias=False))


def one_step(net: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.arange(8.0).view(2, 4)).square().sum().backward()
    optimizer.step()
    return optimizer


def named(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {f"model.{name}": p.detach() for name, p in net.named_parameters()}
    for name, p in net.named_parameters():
        tensors |= {f"optimizer.{name}.{key}": t for key, t in optimizer.state[p].items()}
    return tensors


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in tensors.items()}


def worker(rank: int, folder: Path) -> None:
    """What each of the two ranks does."""
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    net = model()
    for block in net:
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    tensors = named(net, one_step(net))
    parts = [t.to_local().numel() for t in tensors.values() if isinstance(t, DTensor)]
    assert parts
    assert (0 in parts) == (rank == 1)
    expected = {name: tensor.clone() for name, tensor in whole(tensors).items()}

    # 2 -> 2, with a plain tensor that only rank 1 has, and one that is copied, not cut
    copies = distribute_tensor(torch.arange(6.0), mesh, [Replicate()])
    columns = distribute_tensor(torch.arange(10.0).view(2, 5), mesh, [Shard(1)])
    extra = {"copies": copies, "columns": columns, f"rng.{rank}": torch.tensor([rank, 9])}
    save_checkpoint(folder / "two", 1, tensors | extra, {"rank": rank})
    checkpoint = newest(folder / "two")
    assert checkpoint.state == {"rank": 0}
    into = zeros_like(tensors | extra)
    load_tensors(checkpoint, into)
    assert_equal(whole(into), expected | whole(extra))

    # 1 -> 2
    into = zeros_like(tensors)
    load_tensors(newest(folder / "one"), into)
    assert_equal(whole(into), {name: t for name, t in load_one(folder).items()})

    # a failure on one rank ends the save on both, and leaves nothing behind
    write = module.write_tensors

    def fail(*arguments):
        if rank == 1:
            raise OSError(28, "No space left on device")
        return write(*arguments)

    module.write_tensors = fail
    with pytest.raises(DiskFullError, match="needs"):
        save_checkpoint(folder / "two", 2, tensors, {})
    module.write_tensors = write
    prune(folder / "two", keep=1)
    if rank == 0:  # which clears up, while the other is on its way already
        assert [entry.name for entry in (folder / "two").iterdir()] == ["step-00000001"]
    Env(rank, 2, torch.device("cpu")).close()


def load_one(folder: Path) -> dict[str, Tensor]:
    net = model()
    into = zeros_like(named(net, one_step(net)))
    load_tensors(newest_checkpoint(folder / "one")[0], into)  # type: ignore[arg-type]
    return into


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_ranks_read_each_others_checkpoints(tmp_path):
    net = model()
    tensors = named(net, one_step(net))
    save_checkpoint(tmp_path / "one", 1, tensors, {})
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(outputs)
    # 2 -> 1: sharded arithmetic rounds otherwise, so only nearly the same numbers
    checkpoint = newest(tmp_path / "two")
    into = zeros_like(tensors) | {"rng.1": torch.zeros(2, dtype=torch.int64)}
    into |= {"copies": torch.zeros(6), "columns": torch.zeros(2, 5)}
    load_tensors(checkpoint, into)
    assert into["rng.1"].tolist() == [1, 9]
    assert torch.equal(into["copies"], torch.arange(6.0))
    assert torch.equal(into["columns"], torch.arange(10.0).view(2, 5))
    for name, tensor in tensors.items():
        torch.testing.assert_close(into[name], tensor, rtol=1e-5, atol=1e-6)
    assert len(list(checkpoint.path.glob("shard-*"))) == 2
    assert_torch_reads_it(checkpoint.path, into)


def test_a_shard_that_is_missing_is_found(tmp_path, monkeypatch):
    """Each shard alone looks whole; only the manifest knows how many there were."""
    path = save_checkpoint(tmp_path, 1, some_tensors(), {})
    (path / "shard-00001-of-00001.safetensors").unlink()
    checkpoint, [(_, why)] = newest_checkpoint(tmp_path)
    assert checkpoint is None
    assert "shard-00001-of-00001.safetensors is missing" in why


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(EnsueError, match="cannot write"):
        save_checkpoint(tmp_path / "checkpoints", 1, {}, {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker(int(sys.argv[1]), Path(sys.argv[2]))
