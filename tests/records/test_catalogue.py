"""The catalogue: JSON Lines by offset, its sidecar, and 2018's pickle turned into one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import RecordError, UsageError, ZmlError
from zml_dask.records.catalogue import Catalogue, RecordRef, RefTable, read_record
from zml_dask.records.journal import HarvestOptions, HarvestState, save_state
from zml_dask.records.parse import canonical_json
from zml_dask.safe_pickle import ForbiddenPickleError


def hit(record_id: int, **more: Any) -> dict[str, Any]:
    files = [{"key": "ä.zip", "size": record_id * 10}]
    return {"id": record_id, "metadata": {"title": f"Record {record_id} ☃"}, "files": files} | more


def write(path: Path, *hits: dict[str, Any], tail: str = "") -> Path:
    path.write_text("".join(canonical_json(one) + "\n" for one in hits) + tail)
    return path


def test_records_are_read_by_reference_in_id_order(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", hit(30), hit(7), hit(12))
    catalogue = Catalogue.open(path)
    assert [ref.record_id for ref in catalogue.refs] == [7, 12, 30]
    assert [ref.archive_bytes for ref in catalogue.refs] == [70, 120, 300]
    for ref in catalogue.refs:
        record = catalogue.read(ref)
        assert (record.record_id, record.title) == (ref.record_id, f"Record {ref.record_id} ☃")
        assert record == read_record(str(path), ref)


def test_the_last_line_of_an_id_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", hit(7, doi="old"), hit(9), hit(7, doi="new"))
    catalogue = Catalogue.open(path)
    assert len(catalogue.refs) == 2
    assert catalogue.read(catalogue.refs[0]).doi == "new"


def test_a_torn_last_line_is_said_and_a_torn_middle_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torn = canonical_json(hit(8))[:-9]
    assert len(Catalogue.open(write(tmp_path / "a.jsonl", hit(7), tail=torn)).refs) == 1
    assert "a.jsonl breaks off in line 2, which is not read" in caplog.text
    with pytest.raises(UsageError, match="line 2"):
        Catalogue.open(write(tmp_path / "b.jsonl", hit(7), tail=torn + "\n"))


def test_a_whole_last_line_needs_no_end(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", hit(7), tail="\n\n" + canonical_json(hit(8)))
    assert [ref.record_id for ref in Catalogue.open(path).refs] == [7, 8]


def test_a_missing_catalogue_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zml-dask harvest"):
        Catalogue.open(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="nosuchprotocol"):
        Catalogue.open("nosuchprotocol://x/y.jsonl")


def test_a_catalogue_that_changes_under_a_reference_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", hit(7), hit(8))
    ref = Catalogue.open(path).refs[1]
    write(path, hit(8), hit(7))
    with pytest.raises(ZmlError, match="changed") as caught:
        read_record(str(path), ref)
    # It is no fault of the record's, which would be written off.
    assert not isinstance(caught.value, RecordError)
    path.write_text("7\n" * 500)
    with pytest.raises(ZmlError, match="changed"):
        read_record(str(path), ref)


def test_any_fsspec_url_holds_a_catalogue(tmp_path: Path) -> None:
    text = write(tmp_path / "c.jsonl", hit(7), hit(8)).read_bytes()
    with fsspec.open("memory://catalogues/c.jsonl", "wb") as stream:
        stream.write(text)
    catalogue = Catalogue.open("memory://catalogues/c.jsonl")
    assert catalogue.read(catalogue.refs[1]).record_id == 8


def test_only_the_user_s_own_catalogue_may_name_files(tmp_path: Path) -> None:
    mine = hit(7, files=[{"key": "a.zip", "url": "file:///data/a.zip"}])
    path = write(tmp_path / "c.jsonl", mine)
    own = Catalogue.open(path)
    assert own.trusted
    assert own.read(own.refs[0]).files[0].url == "file:///data/a.zip"
    save_state(path, HarvestState(HarvestOptions(api_url="http://127.0.0.1:1/api")))
    harvested = Catalogue.open(path)
    assert not harvested.trusted
    [file] = harvested.read(harvested.refs[0]).files
    assert file.url == "http://127.0.0.1:1/api/records/7/files/a.zip/content"


def test_a_state_survives_its_sidecar_and_damage_is_told(tmp_path: Path) -> None:
    state = HarvestState(pending=(("2020-01-01", None),), offset=3, started="2020-01-01T00:00:00Z")
    assert HarvestState.from_json(state.to_json(), "x") == state
    for text in ("{}", "[1]", "null", "", '{"format": 1, "pending": 3}', '{"format": 99}'):
        with pytest.raises(UsageError, match=r"damaged|another version"):
            HarvestState.from_json(text, "x")


rows = st.lists(st.tuples(*[st.integers(0, 50)] * 4), max_size=40)


@given(rows)
def test_a_table_of_references_is_a_dict_in_id_order(made: list[tuple[int, int, int, int]]) -> None:
    table = RefTable.of(RecordRef(*row) for row in made)
    expected = {row[0]: RecordRef(*row) for row in made}
    assert list(table) == [expected[key] for key in sorted(expected)]
    assert all(table.find(key) == expected.get(key) for key in range(51))
    assert list(table[1:3]) == list(table)[1:3]


def test_a_pickle_of_2018_becomes_a_catalogue(tmp_path: Path) -> None:
    source = tmp_path / "records.pkl"
    hits = {9: hit(9, created="2018-02-01"), 3: hit(3, created="2018-01-01")}
    source.write_bytes(pickle.dumps(hits, protocol=3))
    with pytest.raises(UsageError, match="convert"):
        Catalogue.open(source)
    catalogue = Catalogue.open(source, into=tmp_path / "c.jsonl")
    assert [catalogue.read(ref).metadata for ref in catalogue.refs] == [hits[3], hits[9]]
    # Its records came from a server, so they name no files of this machine.
    assert not catalogue.trusted
    assert catalogue.harvest is not None
    assert catalogue.harvest.complete_until == "2018-02-01"


@pytest.mark.parametrize("content", [3, {"a": 1}, {1: {"no": "id"}}, {1: hit(1, x={1, 2})}])
def test_a_pickle_of_something_else_is_no_catalogue(tmp_path: Path, content: Any) -> None:
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError):
        Catalogue.open(tmp_path / "r.pkl", into=tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()


def test_a_pickle_that_names_a_value_without_end_is_refused(tmp_path: Path) -> None:
    """Two kilobytes that would be written as 2**60 records' keywords."""
    words: list[Any] = ["code"]
    for _ in range(60):
        words = [words, words]
    source = tmp_path / "records.pkl"
    source.write_bytes(pickle.dumps({7: hit(7, keywords=words)}))
    with pytest.raises(UsageError, match="again and again"):
        Catalogue.open(source, into=tmp_path / "c.jsonl")
    assert not (tmp_path / "c.jsonl").exists()


class Hostile:
    """Makes a file when unpickled by an ordinary unpickler."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    source = tmp_path / "records.pkl"
    source.write_bytes(pickle.dumps({1: hit(1, doi=Hostile(trap))}, protocol=protocol))
    with pytest.raises(ForbiddenPickleError, match="mkdir"):
        Catalogue.open(source, into=tmp_path / "c.jsonl")
    assert not trap.exists()
    pickle.loads(source.read_bytes())
    assert trap.exists(), "the pickle was not hostile at all"


def test_sizes_beyond_any_disk_end_nothing(tmp_path: Path) -> None:
    """One record's word must not cost the others."""
    most = 2**63 - 1
    files = [{"key": name, "size": most} for name in "ab"]
    catalogue = write(tmp_path / "c.jsonl", {"id": 1, "files": files}, {"id": most})
    opened = Catalogue.open(catalogue)
    assert [ref.archive_bytes for ref in opened.refs] == [most, 0]
    assert [opened.read(ref).record_id for ref in opened.refs] == [1, most]
