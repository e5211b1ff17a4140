"""The build: the same bytes however it was run, resumable, one at a time."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import random
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import distributed
import pytest
from serving import Faults, Sandbox

import zml_dask
from zml_dask.engine.executors import DaskExecutor
from zml_dask.engine.lock import dataset_lock
from zml_dask.errors import StorageError, UsageError, ZmlError
from zml_dask.pipeline.build import build, build_on
from zml_dask.pipeline.build_options import BuildOptions, options_from
from zml_dask.pipeline.status import read_status
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.parse import parse_record
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.store.info import committed_info
from zml_dask.store.layout import ImageShape
from zml_dask.store.storage import Storage
from zml_dask.store.verify import verify

from .datasets import archive, array_bytes, harvested, small_records, tables

MakeSandbox = Callable[..., Sandbox]
SMALL = BuildOptions(partition_records=3)


class Lines:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, int, int]] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def update(self, stage: str, counts: object) -> None:
        self.stages.append((stage, counts.done, counts.total))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def served() -> Sandbox:
    records = [
        *small_records(24),
        make_record(2000),
        make_record(2001, {"x.zip": b"7z\xbc\xaf\x27\x1c" + b"\0" * 200}),
    ]
    with Sandbox(Corpus(records)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def reference(
    catalogue: Path, client: distributed.Client, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The dataset as one worker builds it."""
    dataset = tmp_path_factory.mktemp("reference") / "ds"
    result = build(catalogue, dataset, client=client, options=SMALL)
    assert (result.n_staged, result.n_failed, result.committed) == (24, 2, True)
    assert result.failures == {"no_files": 1, "unreadable_archive": 1}
    return dataset


def test_the_dataset_is_whole(reference: Path) -> None:
    assert verify(str(reference), deep=True).ok
    assert not (reference / "staging").exists()
    assert not (reference / "build.lock").exists()
    dataset = zml_dask.open_dataset(str(reference))
    assert len(dataset.records) == 24


def test_four_workers_give_the_same_bytes(
    reference: Path, catalogue: Path, four_workers: distributed.Client, tmp_path: Path
) -> None:
    build(catalogue, tmp_path / "ds", client=four_workers, options=SMALL)
    assert array_bytes(tmp_path / "ds") == array_bytes(reference)
    assert tables(tmp_path / "ds") == tables(reference)


def test_another_order_gives_the_same_bytes(
    reference: Path, catalogue: Path, served: Sandbox, client: distributed.Client, tmp_path: Path
) -> None:
    lines = catalogue.read_text().splitlines()
    random.Random(1).shuffle(lines)
    records = [parse_record(json.loads(line), api_url=served.api_url) for line in lines]
    options = BuildOptions(partition_records=5, prefetch=0)
    build(records, tmp_path / "ds", client=client, options=options)
    assert array_bytes(tmp_path / "ds") == array_bytes(reference)
    assert tables(tmp_path / "ds") == tables(reference)
    assert not (tmp_path / "ds/staging").exists()


def test_two_halves_give_the_same_bytes(
    reference: Path, catalogue: Path, client: distributed.Client, tmp_path: Path
) -> None:
    for limit in (11, None):
        build_on(
            catalogue,
            tmp_path / "ds",
            lambda: nullcontext(DaskExecutor(client)),
            limit=limit,
            options=SMALL,
        )
    assert array_bytes(tmp_path / "ds") == array_bytes(reference)
    assert tables(tmp_path / "ds") == tables(reference)


def test_building_again_does_nothing_and_asks_for_no_cluster(
    reference: Path, catalogue: Path, served: Sandbox
) -> None:
    before = array_bytes(reference), (reference / "dataset.json").read_bytes()
    served.requests.clear()
    lines = Lines()
    result = build_on(
        catalogue, reference, lambda: pytest.fail("a cluster was opened"), progress=lines
    )
    assert not result.committed
    assert result.n_records == 24
    assert "none to build" in lines.said[0]
    assert "2 failed permanently" in lines.said[0]
    assert len(served.requests) == 0
    assert (array_bytes(reference), (reference / "dataset.json").read_bytes()) == before


def test_what_a_dataset_says_of_itself_can_be_set_later_and_stays(
    catalogue: Path, reference: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    shutil.copytree(reference, dataset)
    before = committed_info(Storage.open(dataset)).counts

    def again(**about: object) -> dict[str, object]:
        options = options_from({"partition_records": 3, "about": about})
        build_on(catalogue, dataset, lambda: pytest.fail("a cluster was opened"), options=options)
        info = committed_info(Storage.open(dataset))
        assert info.counts == before
        return info.options["about"]

    said = {"title": "Set", "creators": ["Roe, Ada"], "doi": "10.5072/zenodo.7"}
    assert again(**said) == said
    assert again() == said
    assert verify(Storage.open(dataset)).ok
    assert again(title="Other") == {"title": "Other"}


def test_what_failed_for_good_is_tried_again_when_asked(
    catalogue: Path, served: Sandbox, client: distributed.Client, tmp_path: Path
) -> None:
    build(catalogue, tmp_path / "ds", client=client, options=SMALL)
    served.requests.clear()
    again = build(
        catalogue, tmp_path / "ds", client=client, options=BuildOptions(retry_failed=True)
    )
    assert (again.n_staged, again.n_failed) == (0, 2)
    rows = tables(tmp_path / "ds")["failures"]
    assert [(row["record_id"], row["attempts"]) for row in rows] == [(2000, 2), (2001, 2)]


def test_failures_that_may_pass_are_tried_by_the_next_build(
    make_sandbox: MakeSandbox, client: distributed.Client, tmp_path: Path
) -> None:
    served = make_sandbox(small_records(4))
    catalogue = harvested(served, tmp_path)
    served.faults = Faults(wrong_checksums=frozenset({1000}), corrupt_every=1)
    lines = Lines()
    first = build(catalogue, tmp_path / "ds", client=client, progress=lines)
    assert first.n_failed == 4
    assert first.failures == {"checksum": 4}
    assert any(line.startswith("record 1000 failed: checksum: ") for line in lines.said)
    served.faults = Faults()
    options = BuildOptions(retry_failed=True)
    assert build(catalogue, tmp_path / "ds", client=client, options=options).n_staged == 4
    assert tables(tmp_path / "ds")["failures"] == []


def test_progress_and_log_tell_of_every_record(
    catalogue: Path, client: distributed.Client, tmp_path: Path
) -> None:
    lines = Lines()
    build(catalogue, tmp_path / "ds", client=client, options=SMALL, progress=lines)
    assert lines.stages[-1][0] == "commit"
    assert ("records", 26, 26) in lines.stages
    events = [json.loads(line) for line in (tmp_path / "ds/build.log.jsonl").open()]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    records = [event for event in events if event["event"] == "record"]
    assert len(records) == 26
    staged = next(event for event in records if event["outcome"] == "staged")
    assert staged["worker"]
    assert staged["fetch_s"] > 0
    assert staged["read_s"] > 0


def test_a_second_build_is_refused(
    catalogue: Path, client: distributed.Client, tmp_path: Path
) -> None:
    with dataset_lock(Storage.open(tmp_path / "ds")):
        with pytest.raises(ZmlError, match="another build is running"):
            build(catalogue, tmp_path / "ds", client=client)
        assert read_status_running(tmp_path / "ds") is not None
    build(catalogue, tmp_path / "ds", client=client)
    assert read_status_running(tmp_path / "ds") is None


def read_status_running(dataset: Path) -> str | None:
    (dataset / "build.log.jsonl").touch()
    return read_status(str(dataset)).running


def test_a_foreign_folder_is_left_alone(
    catalogue: Path, client: distributed.Client, tmp_path: Path
) -> None:
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.tex").write_text("precious")
    with pytest.raises(UsageError, match=r"holds 'chapter1\.tex'"):
        build(catalogue, mine, client=client)
    (mine / "dataset.json").write_text('{"format": "another"}')
    with pytest.raises(ZmlError, match="not of a zml-dask dataset"):
        build(catalogue, mine, client=client)
    assert {path.name for path in mine.iterdir()} == {"chapter1.tex", "dataset.json"}
    with pytest.raises(UsageError, match="is a file"):
        build(catalogue, mine / "chapter1.tex", client=client)


def test_a_catalogue_replaced_meanwhile_stops_the_build_and_costs_no_record(
    catalogue: Path, client: distributed.Client, tmp_path: Path
) -> None:
    mine = tmp_path / "catalogue.jsonl"
    for suffix in ("", ".state.json"):
        shutil.copy(f"{catalogue}{suffix}", f"{mine}{suffix}")
    opened = Catalogue.open(mine)
    mine.write_text("".join(sorted(mine.read_text().splitlines(True), reverse=True)))
    with pytest.raises(ZmlError, match="start the command again"):
        build(opened, tmp_path / "ds", client=client)
    assert build(mine, tmp_path / "ds", client=client).n_records == 24
    assert {row["record_id"] for row in tables(tmp_path / "ds")["failures"]} == {2000, 2001}


def test_another_image_size_is_refused_before_anything_is_fetched(
    catalogue: Path,
    reference: Path,
    served: Sandbox,
    client: distributed.Client,
    tmp_path: Path,
) -> None:
    other = BuildOptions(image=ImageShape(40, 60))
    served.requests.clear()
    with pytest.raises(UsageError, match=r"80 lines by 80 .* into another folder"):
        build(catalogue, reference, client=client, options=other)
    assert len(served.requests) == 0
    opened = Catalogue.open(catalogue)
    zml_dask.process(1000, tmp_path / "ds", catalogue=opened, options=other)
    served.requests.clear()
    with pytest.raises(UsageError, match="staged for images of 40 lines by 60"):
        build(catalogue, tmp_path / "ds", client=client)
    assert len(served.requests) == 0
    assert not (tmp_path / "ds" / "build.lock").exists()
    assert build(catalogue, tmp_path / "ds", client=client, options=other).n_records == 24
    # Where none is named, a dataset goes on with its own.
    assert not build(catalogue, tmp_path / "ds", client=client).committed


def test_an_empty_or_missing_catalogue_makes_nothing(
    client: distributed.Client, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UsageError, match="names no record"):
        build(tmp_path / "empty.jsonl", tmp_path / "ds", client=client)
    with pytest.raises(ZmlError, match="no catalogue"):
        build(tmp_path / "missing.jsonl", tmp_path / "ds", client=client)
    assert not (tmp_path / "ds").exists()


def test_records_of_several_addresses_need_a_catalogue_of_their_own(
    client: distributed.Client, tmp_path: Path
) -> None:
    hit = {"id": 7, "files": [{"key": "a.zip", "url": "file:///etc/passwd"}]}
    with pytest.raises(UsageError, match="write a catalogue"):
        build([parse_record(hit, trusted=True)], tmp_path / "ds", client=client)


def test_the_users_own_catalogue_may_name_files(client: distributed.Client, tmp_path: Path) -> None:
    code = tmp_path / "code.zip"
    code.write_bytes(archive({"a.py": b"print(1)\n"}))
    hit = {"id": 7, "title": "Mine", "files": [{"key": "code.zip", "url": code.as_uri()}]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(hit))
    assert build(tmp_path / "mine.jsonl", tmp_path / "ds", client=client).n_images == 1
    assert tables(tmp_path / "ds")["records"][0]["origin"] == "url"


def test_the_stages_are_plain_functions(catalogue: Path, tmp_path: Path) -> None:
    import dask.bag as db

    ids = [ref.record_id for ref in Catalogue.open(catalogue).refs][:4]
    bag = db.from_sequence(ids, npartitions=2).map(
        zml_dask.process, dataset=str(tmp_path / "ds"), catalogue=str(catalogue)
    )
    outcomes = bag.compute(scheduler="sync")
    assert [outcome.status for outcome in outcomes] == ["staged"] * 4


def _run_out(url: str, catalogue: str) -> None:
    """Build, and die when the third task of the commit has been written."""
    from zml_dask.store import storage as operations

    shards = []

    def die(operation: str, path: str) -> None:
        if operation == "rename" and "images.zarr" in path:
            shards.append(path)
            if len(shards) == 3:
                os._exit(9)

    operations.before_operation = die
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        build(catalogue, url, client=client)


def test_a_driver_that_dies_in_the_commit_finishes_when_run_again(
    reference: Path, catalogue: Path, served: Sandbox, client: distributed.Client, tmp_path: Path
) -> None:
    dataset = tmp_path / "ds"
    process = multiprocessing.get_context("spawn").Process(
        target=_run_out, args=(str(dataset), str(catalogue))
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (dataset / "dataset.json").exists()
    served.requests.clear()
    result = build(catalogue, dataset, client=client)
    assert result.committed
    assert served.requests.downloads == []
    assert array_bytes(dataset) == array_bytes(reference)
    assert tables(dataset) == tables(reference)


def test_a_full_disk_stops_the_build_and_loses_nothing(
    reference: Path,
    catalogue: Path,
    client: distributed.Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import errno

    from zml_dask.store import storage as operations

    staged: list[str] = []

    def fill_up(operation: str, path: str) -> None:
        if operation == "write" and path.startswith("staging/records/"):
            staged.append(path)
            if len(staged) > 5:
                raise OSError(errno.ENOSPC, "No space left on device")

    dataset = tmp_path / "ds"
    # The worker of this cluster lives in this process, and so does its hook.
    monkeypatch.setattr(operations, "before_operation", fill_up)
    with pytest.raises(StorageError, match="no space is left; free some"):
        build(catalogue, dataset, client=client, options=SMALL)
    monkeypatch.undo()
    assert not (dataset / "build.lock").exists()
    assert not (dataset / "dataset.json").exists()
    lines = Lines()
    build(catalogue, dataset, client=client, options=SMALL, progress=lines)
    # Or more: a worker finishes what it has in hand when the build stops.
    found = re.search(r"(\d+) staged", lines.said[0])
    assert found is not None
    assert int(found[1]) >= 5
    assert array_bytes(dataset) == array_bytes(reference)
    assert tables(dataset) == tables(reference)


def test_a_catalogue_of_2018_is_built_like_any_other(
    reference: Path, catalogue: Path, served: Sandbox, client: distributed.Client, tmp_path: Path
) -> None:
    hits = {hit["id"]: hit for hit in map(json.loads, catalogue.read_text().splitlines())}
    (tmp_path / "records.pkl").write_bytes(pickle.dumps(hits))
    options = BuildOptions(api_url=served.api_url)
    build(tmp_path / "records.pkl", tmp_path / "ds", client=client, options=options)
    assert array_bytes(tmp_path / "ds") == array_bytes(reference)
    assert tables(tmp_path / "ds") == tables(reference)
    assert not (tmp_path / "ds/staging").exists()


def test_every_text_can_be_read_back(reference: Path) -> None:
    dataset = zml_dask.open_dataset(str(reference))
    records = {record.record_id: record for record in small_records(24)}
    checked = 0
    for file in dataset.files.itertuples():
        if file.status != "ok":
            continue
        (content,) = records[file.record_id].files.values()
        with zipfile.ZipFile(io.BytesIO(content.read(0, content.size))) as packed:
            assert dataset.text(file.file_id) == packed.read(file.path).decode()
        checked += 1
    assert checked > 24
