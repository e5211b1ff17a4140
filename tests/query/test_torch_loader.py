"""Training with PyTorch: processes that train together, worker processes, and resuming."""

from __future__ import annotations

import datetime
import hashlib
import multiprocessing.heap as heap
import pickle
import resource
from typing import Any

import numpy as np
import pytest
from dataset_builders import write_dataset

import zml_dask as zml
from zml_dask.errors import UsageError
from zml_dask.query.dataset import Dataset
from zml_dask.store.storage import Storage

torch = pytest.importorskip("torch")
DataLoader = torch.utils.data.DataLoader


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base = tmp_path_factory.mktemp("torch")
    write_dataset(Storage.open(base / "ds"), base)
    return zml.open_dataset(base / "ds")


def content(batches: Any) -> str:
    """A hash of all batches of an epoch, whatever their order."""
    images = sorted(image.numpy().tobytes() for batch in batches for image in batch)
    return hashlib.sha256(b"".join(images)).hexdigest()


def first(batches: Any) -> bytes:
    """The first batch; the epoch is left then."""
    return next(iter(batches)).numpy().tobytes()


def train(rank: int, world_size: int, port: int, url: str, drop_last: bool) -> None:
    """Train an epoch with gloo; every backward pass waits for all processes."""
    distributed = torch.distributed
    distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=60),
    )
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(6400, 1))
    view = zml.open_dataset(url).select("language in ['Python', 'C']")
    # The rank is taken from torch.distributed.
    loader = DataLoader(
        view.to_torch(16, seed=0, encoding="float32", drop_last=drop_last), batch_size=None
    )
    for batch in loader:
        net(batch.reshape(len(batch), -1)).mean().backward()
    counted = torch.ones(1)
    distributed.all_reduce(counted)
    assert counted.item() == world_size
    distributed.destroy_process_group()


@pytest.mark.parametrize("drop_last", [False, True])
def test_two_processes_train_an_epoch_together(
    ds: Dataset, free_port: int, drop_last: bool
) -> None:
    torch.multiprocessing.spawn(train, args=(2, free_port, ds.url, drop_last), nprocs=2)


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("workers", "options"),
    [
        (0, {}),
        (2, {}),
        (2, {"persistent_workers": True}),
        pytest.param(2, {"multiprocessing_context": "spawn"}, marks=pytest.mark.slow),
        (2, {"multiprocessing_context": "forkserver", "persistent_workers": True}),
    ],
)
def test_every_epoch_has_an_order_of_its_own(
    ds: Dataset, workers: int, options: dict[str, Any]
) -> None:
    images = ds.to_torch(16, seed=0)
    loader = DataLoader(images, batch_size=None, num_workers=workers, **options)
    assert len(loader) == len(images) == -(-len(ds) // 16)
    epochs = [list(loader) for _ in range(2)]
    left_early = [first(loader) for _ in range(2)]
    firsts = [epoch[0].numpy().tobytes() for epoch in epochs] + left_early
    assert len(set(firsts)) == 4
    assert [len(epoch) for epoch in epochs] == [len(loader)] * 2
    expected = content([torch.from_numpy(ds.images.compute().view(np.int32))])
    assert [content(epoch) for epoch in epochs] == [expected] * 2
    images.set_epoch(1)
    assert first(loader) == firsts[1]
    assert first(loader) == firsts[2]


def test_workers_and_none_may_take_turns(ds: Dataset) -> None:
    images = ds.to_torch(16, seed=0)
    loaders = [DataLoader(images, batch_size=None, num_workers=workers) for workers in (0, 2, 3)]
    expected = content(ds.to_torch(240))
    epochs = [list(loader) for _ in range(2) for loader in loaders]
    assert {content(epoch) for epoch in epochs} == {expected}
    assert len({epoch[0].numpy().tobytes() for epoch in epochs}) == len(epochs)


def test_a_copy_counts_for_itself(ds: Dataset) -> None:
    images = ds.to_torch(8, seed=0)
    firsts = [first(images) for _ in range(3)]
    again = pickle.loads(pickle.dumps(ds.to_torch(8, seed=0)))
    again.set_epoch(1)
    assert first(again) == firsts[1]
    assert first(pickle.loads(pickle.dumps(again))) == firsts[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stray_batch_size_is_refused(ds: Dataset, workers: int) -> None:
    loader = DataLoader(ds.to_torch(16), batch_size=4, num_workers=workers)
    with pytest.raises(UsageError, match="give the DataLoader batch_size=None"):
        next(iter(loader))


def _allow_small_files_only(worker: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))


def test_batches_arrive_where_shared_memory_is_too_small(ds: Dataset) -> None:
    options = {"batch_size": None, "num_workers": 2, "timeout": 60}
    loader = DataLoader(ds.to_torch(16), worker_init_fn=_allow_small_files_only, **options)
    batches = list(loader)
    assert {type(batch) for batch in batches} == {torch.Tensor}
    assert content(batches) == content(DataLoader(ds.to_torch(16), batch_size=None))
    batches[0][:] = 7  # in memory of its own, which can be written
    [labelled, *_] = DataLoader(
        ds.to_torch(2, labels="language", encoding="float32"),
        collate_fn=lambda batch: (batch[0] / 2, batch[1]),
        worker_init_fn=_allow_small_files_only,
        **options,
    )
    assert [type(tensor) for tensor in labelled] == [torch.Tensor] * 2


def test_shared_memory_that_cannot_be_written_is_named(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.heap.Arena._choose_dir", lambda *_: "/proc/self/fdinfo")
    monkeypatch.setattr("multiprocessing.heap.BufferWrapper._heap", heap.Heap())
    with pytest.raises(UsageError, match="make /dev/shm writable"):
        ds.to_torch(16)


@pytest.mark.parametrize("given", [1, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_resumes_in_the_middle_of_an_epoch(ds: Dataset, workers: int, given: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        images = ds.to_torch(16, seed=3, buffer=64)
        return stateful.StatefulDataLoader(images, batch_size=None, num_workers=workers)

    whole = loader()
    first_epoch, second_epoch = list(whole), list(whole)
    stopped = loader()
    list(stopped)
    epoch = iter(stopped)
    for _ in range(given):
        next(epoch)
    state = pickle.loads(pickle.dumps(stopped.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(second_epoch) - given
    assert all(map(torch.equal, rest, second_epoch[given:]))
    third = list(resumed)
    assert content(third) == content(first_epoch)
    assert not torch.equal(third[0], second_epoch[0])


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("ended", [False, True])
def test_torchdata_resumes_after_the_last_batch(ds: Dataset, workers: int, ended: bool) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        images = ds.sample(100).to_torch(10 if workers else 16, seed=3)
        return stateful.StatefulDataLoader(images, batch_size=None, num_workers=workers)

    whole = loader()
    n, following = len(list(whole)), list(whole)
    stopped = loader()
    epoch = iter(stopped)
    for _ in range(n):
        next(epoch)
    if ended:
        assert next(epoch, None) is None
    resumed = loader()
    resumed.load_state_dict(pickle.loads(pickle.dumps(stopped.state_dict())))
    if not ended:
        assert list(resumed) == []
    assert all(torch.equal(*pair) for pair in zip(resumed, following, strict=True))


def test_the_rank_is_known_or_asked_for(ds: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="give the rank of this process"):
        ds.to_torch(16, world_size=2)
    environment = {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}
    for name, value in environment.items():  # as torchrun sets them
        monkeypatch.setenv(name, value)
    second = torch.cat(list(ds.to_torch(16)))
    assert torch.equal(second, torch.cat(list(ds.to_torch(16, rank=1, world_size=2))))
    assert len(ds.to_torch(16, world_size=1)) == -(-len(ds) // 16)


def test_the_state_is_checked(ds: Dataset) -> None:
    images = ds.to_torch(16, seed=0)
    for state in ({}, {"a": 1}, {"epoch": 0, "batch": 1, "of": None}):
        with pytest.raises(UsageError, match="no state of batches"):
            images.load_state_dict(state)
    images.load_state_dict(ds.batches(16, seed=0).state_dict())
    epoch = iter(images)
    next(epoch)
    state = images.state_dict()
    expected = next(epoch)
    again = ds.to_torch(16, seed=0)
    again.load_state_dict(state)
    assert torch.equal(next(iter(again)), expected)
    with pytest.raises(UsageError, match="its seed was 0 and is now 1"):
        ds.to_torch(16, seed=1).load_state_dict(state)
    with pytest.raises(UsageError, match="the same num_workers"):
        again.load_state_dict({**state, "worker": [0, 2]})


def test_floats_lie_between_0_and_1_and_the_vocabulary_has_a_size(ds: Dataset) -> None:
    floats = next(iter(ds.to_torch(16, encoding="float32")))
    points = next(iter(ds.to_torch(16)))
    assert floats.dtype == torch.float32
    assert 0 <= float(floats.min()) <= float(floats.max()) <= 1
    assert torch.equal((floats * 255).round().int(), points.clamp(max=255))
    hot = ds.to_torch(16, encoding="onehot", vocabulary="ab ")
    assert next(iter(hot)).shape[1] == hot.vocabulary_size == 4
    index = ds.batches(16, encoding="index")
    assert max(int(batch.max()) for batch in index) < index.vocabulary_size == 96
    assert ds.to_torch().vocabulary_size is None
