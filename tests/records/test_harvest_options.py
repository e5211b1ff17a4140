"""What a harvest is asked for, and the catalogue that it leaves or refuses to touch."""

from __future__ import annotations

import errno
import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from synthetic import synthetic_corpus

from zml_dask.errors import UsageError, ZmlError
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestOptions, HarvestProgress, harvest
from zml_dask.records.journal import load_state
from zml_dask.sandbox.corpus import SandboxRecord, make_record

from .harvests import ClientOf, Make, ids_in, ids_of


def day(number: int) -> datetime:
    return datetime(2024, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 3, 5, 9]),
        ({"exclude": ""}, [1, 3, 5, 7, 9]),
        ({"exclude": r"^tides|\.tar"}, [1, 7]),
        ({"query": "title:tides"}, [3, 5]),
        ({"query": "title:tides OR title:plain"}, [1, 3, 5]),
        ({"since": "2024-01-02"}, [3, 5, 9]),
        ({"until": "2024-01-02"}, [1, 3]),
        ({"since": "2024-01-02", "until": "2024-01-02"}, [3]),
        ({"since": "2024-01-02T13:00:00+01:00", "until": "2024-01-02T12:00:00Z"}, [3]),
        ({"all_versions": True}, [1, 3, 5, 9, 11]),
        ({"limit": 2}, [1, 3]),
        ({"limit": 3, "query": "tides OR soundings"}, [3, 5, 9]),
    ],
)
def test_what_is_asked_for_is_what_comes(
    make_sandbox: Make,
    client_of: ClientOf,
    tmp_path: Path,
    options: dict[str, Any],
    expected: list[int],
) -> None:
    records = [
        make_record(1, title="Plain", created=day(0)),
        make_record(3, title="Tides one", created=day(1)),
        make_record(5, title="Tides two", created=day(2)),
        make_record(7, title="The gCube service", created=day(3)),
        make_record(9, {"soundings.tar.gz": b""}, title="Soundings", created=day(4)),
        make_record(11, title="Old", created=day(5), is_latest=False),
    ]
    served = make_sandbox(records)
    asked = HarvestOptions(api_url=served.api_url, **options)
    harvest(tmp_path / "c.jsonl", asked, client_of(served))
    assert ids_in(tmp_path / "c.jsonl") == expected


def test_a_limit_may_be_raised_later(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(130))
    path = tmp_path / "c.jsonl"
    for limit in (30, 30, 40, None):
        options = HarvestOptions(api_url=served.api_url, limit=limit)
        result = harvest(path, options, client_of(served))
        assert result.records == (limit or 130)
        assert result.finished == (limit is None)
    assert sorted(ids_in(path)) == ids_of(served.corpus)


def test_excluded_and_foreign_records_do_not_count_towards_the_limit(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    gcube = [make_record(2 * n + 1, title="gcube", created=day(n)) for n in range(40)]
    served = make_sandbox([*gcube, make_record(99, created=day(50))])
    options = HarvestOptions(api_url=served.api_url, limit=1)
    result = harvest(tmp_path / "c.jsonl", options, client_of(served))
    assert (result.records, result.excluded) == (1, 40)


def test_a_catalogue_of_another_harvest_is_left_alone(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url, query="tool*")
    harvest(path, options, client_of(served))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="tool"):
        harvest(path, HarvestOptions(api_url=served.api_url), client_of(served))
    own = tmp_path / "own.jsonl"
    own.write_text('{"id": 1}\n')
    with pytest.raises(UsageError, match="new file"):
        harvest(own, options, client_of(served))
    assert path.read_bytes() == before
    assert own.read_text() == '{"id": 1}\n'


def test_a_catalogue_shorter_than_its_state_is_refused(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(5))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    harvest(path, options, client_of(served))
    os.truncate(path, 10)
    with pytest.raises(UsageError, match="shorter"):
        harvest(path, options, client_of(served))


def test_a_disk_that_takes_no_more_is_one_line_and_loses_nothing(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(150))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file may grow over so many bytes: the fourth page breaks off in a line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with pytest.raises(ZmlError, match="free some space"):
            harvest(path, options, client_of(served))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.read_bytes().endswith(b"\n")
    assert harvest(path, options, client_of(served)).records == 150
    assert sorted(ids_in(path)) == ids_of(served.corpus)


def test_a_file_system_without_locks_is_harvested_to(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("zml_dask.records.journal.fcntl.flock", unknown)
    served = make_sandbox(synthetic_corpus(5))
    options = HarvestOptions(api_url=served.api_url)
    assert harvest(tmp_path / "c.jsonl", options, client_of(served)).records == 5


def test_two_harvests_of_one_catalogue_do_not_meet(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    path, options = tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url)

    def second(_: HarvestProgress) -> None:
        with pytest.raises(UsageError, match="another harvest"):
            harvest(path, options, client_of(served))

    harvest(path, options, client_of(served), progress=second)
    assert len(ids_in(path)) == 60


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (HarvestOptions(since="yesterday"), UsageError),
        (HarvestOptions(until="2024-13-01"), UsageError),
        (HarvestOptions(since=""), UsageError),  # a variable of the shell that is not set
        (HarvestOptions(exclude="("), UsageError),
    ],
)
def test_options_that_cannot_be_leave_nothing_behind(
    tmp_path: Path, options: HarvestOptions, error: type[Exception]
) -> None:
    with pytest.raises(error):
        harvest(tmp_path / "c.jsonl", options)
    assert list(tmp_path.iterdir()) == []


def test_the_catalogue_says_where_it_came_from(
    make_sandbox: Make, client_of: ClientOf, tmp_path: Path
) -> None:
    record: SandboxRecord = make_record(7, {"a b.zip": b"x"})
    served = make_sandbox([record])
    path = tmp_path / "c.jsonl"
    harvest(path, HarvestOptions(api_url=served.api_url), client_of(served, token=True))
    catalogue = Catalogue.open(path)
    assert not catalogue.trusted
    [file] = catalogue.read(catalogue.refs[0]).files
    assert file.url == f"{served.api_url}/records/7/files/a%20b.zip/content"
    state = load_state(path)
    assert state is not None
    assert state.finished
    # Neither the catalogue nor its sidecar knows of the token.
    assert "secret" not in path.read_text() + state.to_json()
