"""Batches: every image once, the same by seed, whatever the number of workers."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_builders import write_dataset
from hypothesis import given
from hypothesis import strategies as st

import zml_dask as zml
from zml_dask.errors import DatasetDamagedError, UsageError
from zml_dask.query import batches as batches_module
from zml_dask.query import labelled as labelled_module
from zml_dask.query.batches import encode
from zml_dask.query.dataset import Dataset
from zml_dask.store.image_reader import ImageReader
from zml_dask.store.storage import Storage


@pytest.fixture(scope="module")
def ds(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    base = tmp_path_factory.mktemp("batches")
    write_dataset(Storage.open(base / "ds"), base)
    return zml.open_dataset(base / "ds")


def keys(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_without_a_seed_the_order_is_the_datasets(ds: Dataset) -> None:
    batches = ds.batches(batch_size=50)
    got = list(batches)
    assert [len(batch) for batch in got[:-1]] == [50] * (len(got) - 1)
    assert len(batches) == len(got)
    np.testing.assert_array_equal(np.concatenate(got), ds.images)
    full = ds.batches(batch_size=50, drop_last=True)
    assert [len(batch) for batch in full] == [50] * len(full)


@pytest.mark.parametrize(("size", "buffer"), [(7, 64), (64, 64), (128, 64), (300, 100), (64, 1)])
def test_batches_that_buffers_do_not_end_with_are_whole(
    ds: Dataset, size: int, buffer: int
) -> None:
    got = list(ds.batches(batch_size=size, buffer=buffer))
    assert [len(batch) for batch in got[:-1]] == [size] * (len(got) - 1)
    np.testing.assert_array_equal(np.concatenate(got), ds.images)


def test_reading_ahead_ends_with_the_loop_and_says_what_is_damaged(
    ds: Dataset, tmp_path: Path
) -> None:
    for _ in ds.batches(batch_size=10, buffer=64):
        break
    assert not [each for each in threading.enumerate() if each.name.startswith("zml-batches")]
    shutil.copytree(ds.url, tmp_path / "ds")
    shard = tmp_path / "ds/images.zarr/images/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetDamagedError, match="run zml-dask verify"):
        list(zml.open_dataset(tmp_path / "ds").batches(batch_size=10, seed=1))


@pytest.mark.parametrize("workers", [1, 3, 50])
def test_workers_divide_the_images_among_themselves(ds: Dataset, workers: int) -> None:
    batches = ds.batches(batch_size=20, seed=5, buffer=100)
    shares = []
    for worker in range(workers):
        batches.set_epoch(3)
        shares.append(list(batches.share(worker, workers)))
    assert sum(map(len, shares)) == len(batches)
    images = np.concatenate([batch for share in shares for batch in share])
    assert keys(images) == keys(ds.images.compute())


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("size", "buffer", "seed"), [(20, 100, 5), (64, 64, None), (7, 512, 0)])
@pytest.mark.parametrize(("ranks", "workers"), [(2, 1), (3, 2), (7, 3), (250, 1)])
def test_every_rank_gets_as_many_batches(
    ds: Dataset, ranks: int, workers: int, size: int, buffer: int, seed: int | None, drop_last: bool
) -> None:
    view = ds.select("language in ['Python', 'C']")
    n = len(view)
    got = []
    for rank in range(ranks):
        batches = view.batches(
            size, seed=seed, buffer=buffer, rank=rank, world_size=ranks, drop_last=drop_last
        )
        shares = []
        for worker in range(workers):
            batches.set_epoch(4)
            shares += list(batches.share(worker, workers))
        assert len(shares) == len(batches)
        if drop_last:
            assert all(len(batch) == size for batch in shares)
        got.append(shares)
    assert len({len(shares) for shares in got}) == 1
    everything = [batch for shares in got for batch in shares]
    images = keys(np.concatenate([view.images[:0].compute(), *everything]))
    whole = keys(view.images.compute())
    if drop_last:
        assert len(images) == ranks * (n // ranks // size) * size
        assert not Counter(images) - Counter(whole)
    else:
        assert len(images) == ranks * -(-n // ranks)
        assert not Counter(whole) - Counter(images)


def test_an_epoch_that_is_left_early_is_over(ds: Dataset) -> None:
    batches = ds.batches(batch_size=20, seed=1)
    firsts = [next(iter(batches)).tobytes() for _ in range(3)]
    assert len(set(firsts)) == 3
    batches.set_epoch(1)
    assert next(iter(batches)).tobytes() == firsts[1]
    assert batches.epoch == 2


@pytest.mark.parametrize("given", [0, 1, 5, 12])
def test_an_epoch_goes_on_where_another_was(ds: Dataset, given: int) -> None:
    options = {"batch_size": 20, "seed": 1, "buffer": 64, "labels": "file_id"}
    batches = ds.batches(**options)
    next(iter(batches))
    batches.set_epoch(2)
    whole = list(batches)
    batches.set_epoch(2)
    epoch = iter(batches)
    for _ in range(given):
        next(epoch)
    state = json.loads(json.dumps(batches.state_dict()))
    again = ds.batches(**options)
    again.load_state_dict(state)
    rest = list(again)
    assert len(rest) == len(whole) - given
    for one, other in zip(rest, whole[given:], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert again.state_dict()["epoch"] == 3
    with pytest.raises(UsageError, match="its batch_size was 20 and is now 30"):
        ds.batches(30, seed=1, buffer=64).load_state_dict(state)


def test_the_first_batch_reads_no_more_than_it_needs(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ImageReader.read
    asked = []

    def counted(self: ImageReader, rows: np.ndarray, **options: Any) -> np.ndarray:
        asked.append(rows.size)
        return read(self, rows, **options)

    monkeypatch.setattr(ImageReader, "read", counted)
    epoch = iter(ds.batches(batch_size=16, seed=1, buffer=512))
    next(epoch)
    epoch.close()
    assert asked[0] <= 64  # an eighth
    assert len(asked) <= 2  # and the next one, ahead


def test_a_seed_shuffles_and_repeats_itself(ds: Dataset) -> None:
    one, two = ds.batches(batch_size=64, seed=1), ds.batches(batch_size=64, seed=1)
    first = np.concatenate(list(one))
    np.testing.assert_array_equal(first, np.concatenate(list(two)))
    second = np.concatenate(list(one))  # the next epoch
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, ds.images.compute())
    assert keys(first) == keys(second)


def test_labels_go_with_their_images(ds: Dataset) -> None:
    view = ds.select("language in ['Python', 'C'] and n_lines > 50")
    labelled = view.batches(batch_size=10, seed=3, labels="language", buffer=70)
    assert labelled.classes == ("C", "Python")
    expected = {
        image.tobytes(): labelled.classes.index(language)
        for image, language in zip(
            view.images.compute(), view.to_xarray().language.values, strict=True
        )
    }
    for images, codes in labelled:
        assert [expected[image.tobytes()] for image in images] == codes.tolist()
    numbers = [label for _, labels in view.batches(labels="record_id") for label in labels]
    assert sorted(set(numbers)) == [10, 20, 30, 40]
    with_missing = np.concatenate([codes for _, codes in ds.batches(labels="license")])
    assert set(with_missing.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("name", ["language", "license", "publication_date", "n_lines"])
def test_labels_do_not_depend_on_how_many_are_read_at_once(
    ds: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ds.split({"a": 0.7, "b": 0.3}, by="file")["a"]
    views = (ds, part, ds.select("n_lines > 50"))
    at_once = [view.batches(labels=name) for view in views]
    monkeypatch.setattr(batches_module, "AT_ONCE", 7)
    for view, whole in zip(views, at_once, strict=True):
        pieces = view.batches(labels=name)
        assert pieces.classes == whole.classes
        for (_, labels), (_, expected) in zip(pieces, whole, strict=True):
            assert labels.dtype == expected.dtype
            assert labels.tolist() == expected.tolist()


def test_parts_of_a_split_share_their_codes(ds: Dataset) -> None:
    parts = ds.select("language != 'Fortran'").split({"a": 0.5, "b": 0.5}, by="file")
    narrow = parts["a"].select(language="Python").batches(labels="language")
    assert narrow.classes == ("C", "Python")
    days = np.concatenate([codes for _, codes in parts["a"].batches(labels="publication_date")])
    assert days.min() >= 0


def test_what_cannot_be_is_said(ds: Dataset) -> None:
    with pytest.raises(UsageError, match=r"labels has to be text .* not \['language'"):
        ds.batches(2, labels=["language", "license"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lists"):
        ds.batches(labels="keywords")
    with pytest.raises(UsageError, match="missing"):
        ds.batches(labels="n_cut")
    with pytest.raises(UsageError, match="did you mean 'Python'"):
        ds.batches(labels="language", classes=["Pyhton"])
    with pytest.raises(UsageError, match="onehot"):
        ds.batches(encoding="two-hot")
    with pytest.raises(TypeError, match="batch_sise"):
        ds.batches(batch_sise=3)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match=r"rank .* from 0 to 1 .* not 2"):
        ds.batches(rank=2, world_size=2)
    with pytest.raises(UsageError, match=r"world_size .* processes, 1 or more, not 0"):
        ds.batches(world_size=0)
    with pytest.raises(UsageError, match="seed"):
        ds.batches(seed=-1)
    with pytest.raises(UsageError, match="epoch"):
        ds.batches(seed=1).set_epoch(-1)
    with pytest.raises(UsageError, match=r"batch_size .* 1 or more, not 0"):
        ds.batches(batch_size=0)
    with pytest.raises(UsageError, match="not 'all'"):
        ds.batches("all")  # type: ignore[arg-type]


def test_batches_say_how_many_they_are(ds: Dataset) -> None:
    assert len(next(iter(ds.batches(2)))) == 2
    assert repr(ds.batches(2)) == f"<Batches: {len(ds.batches(2))} of 2 images per epoch>"


@given(st.text(min_size=1, max_size=20), st.lists(st.characters(), unique=True, max_size=300))
def test_one_hot_planes_say_what_the_indices_say(text: str, vocabulary: list[str]) -> None:
    image = np.array([[[ord(char) for char in text]]], np.uint32)
    letters = "".join(vocabulary)
    indices = encode(image, "index", letters)
    assert [letters[i - 1] if i else None for i in indices[0, 0].tolist()] == [
        char if char in vocabulary else None for char in text
    ]
    np.testing.assert_array_equal(encode(image, "onehot", letters).argmax(axis=1), indices)


def test_pytorch_gets_tensors(ds: Dataset) -> None:
    torch = pytest.importorskip("torch")
    loader = ds.select("language == 'C'").to_torch(16, labels="language", encoding="onehot")
    images, labels = next(iter(loader))
    assert images.shape == (16, 96, 80, 80)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert next(iter(ds.to_torch(4))).dtype == torch.int32
    halves = [list(ds.to_torch(8, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sum(len(batch) for half in halves for batch in half) == len(ds)
    again = pickle.loads(pickle.dumps(ds.to_torch(8, seed=0)))
    again.set_epoch(1)
    assert not torch.equal(next(iter(again)), next(iter(ds.to_torch(8, seed=0))))


def test_two_worker_processes_give_every_image_once(ds: Dataset) -> None:
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(ds.to_torch(16, seed=2), batch_size=None, num_workers=2)
    images = np.concatenate([batch.numpy().astype(np.uint32) for batch in loader])
    assert keys(images) == keys(ds.images.compute())


def test_a_missing_extra_is_named(ds: Dataset) -> None:
    script = (
        "import sys; sys.modules['torch'] = sys.modules['xarray'] = None\n"
        "import zml_dask as zml\n"
        f"ds = zml.open_dataset({ds.url!r})\n"
        "for wanted in (ds.to_torch, ds.to_xarray):\n"
        "    try: wanted()\n"
        "    except zml.errors.UsageError as error: print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path("/")
    )
    assert "pip install 'zml-dask[ml]'" in ran.stdout
    assert "xarray" in ran.stdout


def test_xarray_groups_looks_up_and_drops(ds: Dataset) -> None:
    pytest.importorskip("xarray")
    labelled = ds.to_xarray()
    expected = ds.counts("language").images
    groups = {name: len(group.image) for name, group in labelled.groupby("language")}
    assert groups == {name: n for name, n in expected.items() if isinstance(name, str)}
    only_c = labelled.where(labelled.language == "C", drop=True)
    np.testing.assert_array_equal(only_c.images, ds.select("language == 'C'").images)
    of_record = labelled.sel(record_id=20)
    np.testing.assert_array_equal(of_record.images, ds.select(record_id=20).images)
    file_id = int(labelled.file_id[7])
    of_file = labelled.sel(file_id=file_id)
    np.testing.assert_array_equal(of_file.images, ds.select(file_id=file_id).images)


def test_xarray_reads_coordinates_of_many_images_when_they_are_asked_for(
    ds: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xarray")
    small = ds.to_xarray()
    monkeypatch.setattr(labelled_module, "SMALL", 10)
    large = ds.to_xarray()
    assert large.language.chunks is not None
    known = small.language.isin(["C", "Python", "Fortran"]).values
    np.testing.assert_array_equal(large.language.values[known], small.language.values[known])
    assert known.sum() == sum(map(len, small.groupby("language").groups.values()))
    loaded = large.assign_coords(language=large.language.compute())
    assert len(loaded.groupby("language")) == len(small.groupby("language"))


def test_a_generator_gives_fixed_shapes_epoch_after_epoch(ds: Dataset) -> None:
    """What tf.data.Dataset.from_generator does: the callable anew for every epoch."""
    view = ds.select("language in ['Python', 'C']")
    batches = view.batches(16, seed=0, labels="language", encoding="float32", drop_last=True)
    epochs = [list((lambda: iter(batches))()) for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(batches)
        for images, codes in epoch:
            assert (images.shape, images.dtype) == ((16, 80, 80), np.float32)
            assert (codes.shape, codes.dtype) == ((16,), np.int64)
    assert not np.array_equal(epochs[0][0][0], epochs[1][0][0])


JAX = """
import sys
import jax
import numpy as np
import zml_dask as zml

batches = zml.open_dataset(sys.argv[1]).batches(
    16, seed=0, labels="record_id", encoding="float32", drop_last=True,
    rank=jax.process_index(), world_size=jax.process_count(),
)
images, _ = next(iter(batches))

def loss_of(weights, pixels):
    return jax.numpy.mean(pixels * weights)

_, gradients = jax.value_and_grad(loss_of)(jax.numpy.ones((80, 80)), jax.numpy.asarray(images))
np.testing.assert_allclose(gradients * 6400, images.mean(axis=0), rtol=1e-4, atol=1e-6)
print("taken", images.shape)
"""


def test_jax_takes_the_batches(ds: Dataset) -> None:
    if importlib.util.find_spec("jax") is None:
        pytest.skip("needs jax")
    # A process of its own: JAX has threads, and other tests fork.
    command = [sys.executable, "-c", JAX, ds.url]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout == "taken (16, 80, 80)\n", ran.stderr
