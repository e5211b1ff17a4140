"""A catalogue is one file: copies, subsets, other JSON and Parquet build from where they came."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from serving import Faults, Sandbox
from synthetic import synthetic_corpus

from zml_dask.errors import RecordError, UsageError, ZmlError
from zml_dask.net.client import HttpClient
from zml_dask.records.catalogue import Catalogue
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.journal import load_state, state_path
from zml_dask.sandbox.corpus import make_record

from .harvests import Interruption, interrupt_after

Run = Callable[..., tuple[int, str, str]]


def hit(record_id: int, server: str | None = "https://rdm.example.org/api", **more: Any) -> Any:
    links = {"links": {"self": f"{server}/records/{record_id}"}} if server else {}
    files = [{"key": "ä b.zip", "size": record_id * 10}]
    metadata = {
        "title": f"Zürich {record_id}",
        "license": {"id": "mit" if record_id % 2 else "isc"},
    }
    return {"id": record_id, "metadata": metadata, "files": files, **links, **more}


@pytest.fixture
def harvested(make_sandbox: Callable[..., Sandbox], tmp_path: Path) -> Path:
    served = make_sandbox(synthetic_corpus(40))
    with HttpClient() as client:
        harvest(tmp_path / "c.jsonl", HarvestOptions(api_url=served.api_url), client)
    return tmp_path / "c.jsonl"


HITS = [hit(n) for n in (30, 7, 12)]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(one) for one in HITS),
        "\r\n".join(json.dumps(one, ensure_ascii=False) for one in HITS) + "\r\n",
        "\ufeff" + "\n".join(json.dumps(one) for one in HITS),
        json.dumps(HITS),
        json.dumps(HITS, indent=2, ensure_ascii=False),
        "\n".join(json.dumps(one, indent=2) for one in HITS),
        json.dumps({"hits": {"hits": HITS, "total": 3}, "links": {}}),
        json.dumps({"took": 3, "hits": {"total": 3, "hits": HITS}, "hits_": []}, indent=1),
        "\n".join(json.dumps({"hits": {"hits": [one], "total": 3}}) for one in HITS),
        json.dumps([{"hits": 3, **one} for one in HITS]),
        json.dumps([HITS[0]]) + json.dumps(HITS[1:]),
    ],
)
def test_any_json_of_records_is_a_catalogue(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode())
    catalogue = Catalogue.open(path)
    assert catalogue.refs.record_ids.tolist() == [7, 12, 30]
    assert catalogue.refs.archive_bytes.tolist() == [70, 120, 300]
    for ref in catalogue.refs:
        record = catalogue.read(ref)
        assert record.title == f"Zürich {ref.record_id}"
        assert record.files[0].url == (
            f"https://rdm.example.org/api/records/{ref.record_id}/files/%C3%A4%20b.zip/content"
        )
    assert [json.loads(one)["id"] for one in catalogue.hits()] == [30, 7, 12]


@pytest.mark.parametrize(
    "text",
    ["[", "[3]", '{"hits": {"hits": [', json.dumps(HITS)[:-3], "hello", '{"hits": {"hits": [{}]}}'],
)
def test_what_is_no_catalogue_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="one JSON record per line") as caught:
        Catalogue.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_catalogue_in_utf_16_is_named_as_such(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(map(json.dumps, HITS)), encoding=encoding)
    with pytest.raises(UsageError, match=r"in UTF-16, .*save it in UTF-8"):
        Catalogue.open(path)


def test_records_of_several_servers_need_a_word(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    both = [hit(1), hit(2, "https://other.example.org/api"), hit(3, None)]
    path.write_text("\n".join(map(json.dumps, both)))
    with pytest.raises(UsageError, match="several servers"):
        Catalogue.open(path)
    named = Catalogue.open(path, api_url="https://other.example.org/api/")
    assert named.api_url == "https://other.example.org/api"
    path.write_text("\n".join(map(json.dumps, both[1:])))
    assert Catalogue.open(path).api_url == "https://other.example.org/api"


@pytest.mark.parametrize("pick", [lambda lines: lines[:2], lambda lines: lines[::-1], lambda x: x])
def test_a_part_of_a_harvest_builds_from_the_same_server(
    harvested: Path, tmp_path: Path, pick: Callable[[list[str]], list[str]]
) -> None:
    whole = Catalogue.open(harvested)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(pick(harvested.read_text().splitlines(keepends=True))))
    catalogue = Catalogue.open(part)
    assert catalogue.api_url == whole.api_url != "https://zenodo.org/api"
    assert catalogue.harvest is None
    for ref in catalogue.refs:
        expected = whole.refs.find(ref.record_id)
        assert expected is not None
        assert catalogue.read(ref) == whole.read(expected)


def test_a_record_cut_down_to_its_files_still_names_its_server(harvested: Path) -> None:
    part = harvested.with_name("part.jsonl")
    hits = map(json.loads, harvested.read_text().splitlines())
    part.write_text("".join(json.dumps({"id": h["id"], "files": h["files"]}) + "\n" for h in hits))
    assert Catalogue.open(part).api_url == Catalogue.open(harvested).api_url


def test_a_harvested_record_names_no_file_of_this_machine_in_a_copy_either(tmp_path: Path) -> None:
    evil = [{"key": "a.zip", "url": "file:///etc/passwd"}]
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(hit(7, files=evil)) + "\n" + json.dumps(hit(8, None, files=evil)))
    catalogue = Catalogue.open(path)
    copied, mine = (catalogue.read(ref).files[0].url for ref in catalogue.refs)
    assert copied == "https://rdm.example.org/api/records/7/files/a.zip/content"
    assert mine == "file:///etc/passwd"


def test_a_changed_byte_of_a_harvest_is_noticed_wherever_it_is(harvested: Path) -> None:
    content = harvested.read_bytes()
    for seed in range(30):
        place = random.Random(seed).randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1
        harvested.write_bytes(flipped)
        with pytest.raises(UsageError, match=r"not what its harvest wrote|is not a record"):
            Catalogue.open(harvested)
        state = load_state(harvested)
        assert state is not None
        with (
            pytest.raises(UsageError, match=r"not what its harvest wrote|shorter|not a record"),
            HttpClient() as client,
        ):
            harvest(harvested, state.options, client)
    # Another order is no damage.
    harvested.write_bytes(b"".join(content.splitlines(keepends=True)[::-1]))
    assert len(Catalogue.open(harvested).refs) == 40


def test_a_cut_harvest_is_noticed_and_a_filtered_one_is_a_subset(harvested: Path) -> None:
    lines = harvested.read_bytes().splitlines(keepends=True)
    harvested.write_bytes(b"".join(lines[:9])[:-20])
    with pytest.raises(UsageError, match="not what its harvest wrote"):
        Catalogue.open(harvested)
    harvested.write_bytes(b"".join(lines[3:9]))
    assert len(Catalogue.open(harvested).refs) == 6


def test_parquet_holds_the_same_records_and_the_harvest(harvested: Path, tmp_path: Path) -> None:
    whole = Catalogue.open(harvested)
    target = tmp_path / "c.parquet"
    assert whole.write(target) == 40
    table = Catalogue.open(target)
    assert table.harvest == whole.harvest
    assert not table.trusted
    assert table.api_url == whole.api_url
    assert table.refs.record_ids.tolist() == whole.refs.record_ids.tolist()
    assert table.refs.archive_bytes.tolist() == whole.refs.archive_bytes.tolist()
    assert list(map(table.read, table.refs)) == list(map(whole.read, whole.refs))
    Path(state_path(str(harvested))).unlink()
    again = tmp_path / "again.jsonl"
    table.write(again)
    assert again.read_bytes() == harvested.read_bytes()
    assert Catalogue.open(again).harvest == whole.harvest
    with pytest.raises(UsageError, match="there already"):
        whole.write(target)


def test_parquet_of_another_kind_or_damaged_is_refused(harvested: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="no column hit"):
        Catalogue.open(tmp_path / "other.parquet")
    target = tmp_path / "c.parquet"
    whole = Catalogue.open(harvested)
    whole.write(target)
    opened = Catalogue.open(target)
    content = bytearray(target.read_bytes())
    for seed in range(20):
        flipped = content.copy()
        flipped[random.Random(seed).randrange(len(content))] ^= 1
        target.write_bytes(flipped)
        try:
            again = Catalogue.open(target)
            found = list(map(again.read, again.refs))
        except ZmlError:
            continue
        # Only what no page holds, such as a name in the footer, may have changed.
        assert found == list(map(whole.read, whole.refs))
    assert len(opened.refs) == 40


@pytest.mark.parametrize("form", ["c.jsonl", "c.parquet"])
def test_a_condition_chooses_records(harvested: Path, tmp_path: Path, form: str) -> None:
    whole = Catalogue.open(harvested)
    if form.endswith("parquet"):
        whole.write(tmp_path / form)
    catalogue = Catalogue.open(tmp_path / form)
    chosen = catalogue.where("license = 'mit' and n_files = 1 -- and so on")
    records = list(map(chosen.read, chosen.refs))
    assert [record.record_id for record in records] == [
        record.record_id for record in map(whole.read, whole.refs) if record.license == "mit"
    ]
    assert 0 < len(records) < 40
    assert chosen.harvest is None
    assert not chosen.trusted
    deep = catalogue.where(
        "hit ->> '$.metadata.keywords[0]' = 'synthetic' and created >= '2018-01-01'"
    )
    assert 0 < len(deep.refs) < 40
    for wrong in ("nosuch = 1", "true); drop table x; select (1", "", "record_id in (select 1"):
        with pytest.raises(UsageError, match=r"not a condition|more than one") as caught:
            catalogue.where(wrong)
        assert "\n" not in str(caught.value)


def test_the_command_counts_lists_and_writes(harvested: Path, tmp_path: Path, run: Run) -> None:
    status, out, _ = run("catalogue", harvested)
    assert status == 0
    assert "40 records from http://127.0.0.1" in out
    status, out, err = run("catalogue", harvested, "license = 'mit'", "--format", "json")
    assert status == 0
    ids = [json.loads(line)["id"] for line in out.splitlines()]
    assert "14 of 40 records" in err
    status, out, _ = run(
        "catalogue", harvested, "license = 'mit'", "--output", tmp_path / "m.parquet"
    )
    assert status == 0
    assert Catalogue.open(tmp_path / "m.parquet").refs.record_ids.tolist() == sorted(ids)
    status, _, err = run("catalogue", harvested, "licence = 'mit'")
    assert status == 2
    assert "did you mean 'license'?" in err
    assert "license" in err


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, zstandard.compress]
)
@pytest.mark.parametrize("form", ["lines", "parquet"])
def test_a_compressed_catalogue_is_read(
    harvested: Path, tmp_path: Path, run: Run, form: str, compress: Callable[[bytes], bytes]
) -> None:
    source = harvested
    if form == "parquet":
        source = tmp_path / "c.parquet"
        Catalogue.open(harvested).write(source)
    packed = tmp_path / "copy.packed"
    packed.write_bytes(compress(source.read_bytes()))
    opened = Catalogue.open(packed, into=tmp_path / "unpacked")
    assert opened.refs.record_ids.tolist() == Catalogue.open(harvested).refs.record_ids.tolist()
    assert opened.api_url == Catalogue.open(harvested).api_url
    status, out, _ = run("catalogue", packed)
    assert (status, "40 records from http://127.0.0.1" in out) == (0, True)


def test_a_record_that_is_not_utf_8_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    lines = [json.dumps(one, ensure_ascii=False) for one in HITS]
    path.write_bytes(lines[0].encode("latin-1") + b"\n" + lines[1].encode() + b"\n")
    catalogue = Catalogue.open(path)
    seven, thirty = catalogue.refs
    assert catalogue.read(seven).title == "Zürich 7"
    with pytest.raises(RecordError, match=r"record 30 in .* is not UTF-8"):
        catalogue.read(thirty)


def test_a_compressed_catalogue_that_cannot_be_read_is_named(
    harvested: Path, tmp_path: Path, run: Run
) -> None:
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(harvested.read_bytes())[:-9])
    with pytest.raises(UsageError, match=r"c\.jsonl\.gz breaks off"):
        Catalogue.open(packed, into=tmp_path / "unpacked")
    packed.write_bytes(gzip.compress(gzip.compress(harvested.read_bytes())))
    with pytest.raises(UsageError, match=r"c\.jsonl\.gz is compressed twice"):
        Catalogue.open(packed, into=tmp_path / "unpacked")
    packed.write_bytes(gzip.compress(b"no record"))
    with pytest.raises(UsageError, match=r"c\.jsonl\.gz is not a catalogue"):
        Catalogue.open(packed, into=tmp_path / "unpacked")
    for command in (("harvest", "--api-url", "http://127.0.0.1:9/api"), ("catalogue", harvested)):
        where = ["--output", packed] if command[0] == "catalogue" else [packed]
        packed.unlink(missing_ok=True)
        status, _, err = run(*command, *where)
        assert (status, packed.exists()) == (2, False)
        assert "compress it afterwards" in err


def test_a_condition_chooses_what_is_built(harvested: Path, tmp_path: Path, run: Run) -> None:
    run("catalogue", harvested, "--output", tmp_path / "c.parquet")
    status, out, err = run(
        "build",
        tmp_path / "c.parquet",
        tmp_path / "ds",
        "--workers",
        1,
        "--where",
        "license = 'isc'",
    )
    assert (status, "names no record" in err) == (2, True)
    status, out, err = run(
        "build",
        tmp_path / "c.parquet",
        tmp_path / "ds",
        "--workers",
        1,
        "--where",
        "license = 'mit'",
    )
    assert status == 0, err
    assert "14 records" in out


def test_a_token_goes_where_the_harvest_or_the_user_says_and_not_where_a_copy_does(
    harvested: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    whole = Catalogue.open(harvested)
    assert whole.token_url == whole.api_url
    part = tmp_path / "part.jsonl"
    part.write_text("".join(harvested.read_text().splitlines(keepends=True)[:2]))
    assert Catalogue.open(part).token_url == "https://zenodo.org/api"
    assert Catalogue.open(part, api_url=whole.api_url).token_url == whole.api_url
    monkeypatch.setenv("ZENODO_TOKEN", "secret")
    status, _, err = run("fetch", part, tmp_path / "cache")
    assert status == 0, err


def test_a_harvest_into_parquet_goes_on_and_survives_an_interruption(
    make_sandbox: Callable[..., Sandbox], harvested: Path, tmp_path: Path
) -> None:
    served = make_sandbox(synthetic_corpus(60))
    options = HarvestOptions(api_url=served.api_url)
    path, lines = tmp_path / "p.parquet", tmp_path / "lines.jsonl"
    with HttpClient() as client:
        with pytest.raises(Interruption):
            harvest(path, options, client, progress=interrupt_after(2))
        assert not path.exists()
        searches = len(served.requests.searches)
        assert harvest(path, options, client).finished
        assert len(served.requests.searches) - searches <= 3
        assert harvest(path, options, client).written == 0
        served.corpus.add(make_record(9_000_001, created=datetime.now(UTC)))
        assert harvest(path, options, client).written == 1
        harvest(lines, options, client)
    one, other = Catalogue.open(path), Catalogue.open(lines)
    assert list(one.hits()) == [line.rstrip(b"\n") for line in other.hits()]
    assert len(one.refs) == 61
    assert one.harvest is not None
    assert one.harvest.finished
    assert not list(tmp_path.glob("p.parquet.*"))


def test_a_server_that_fails_is_told_apart_from_one_without_the_catalogue(
    make_sandbox: Callable[..., Sandbox],
) -> None:
    served = make_sandbox([], faults=Faults(unavailable=100))
    url = f"{served.api_url}/c.jsonl"
    with pytest.raises(UsageError, match=r"c\.jsonl cannot be read: the server answers 503$"):
        Catalogue.open(url)
    served.faults = Faults()
    # Nobody can harvest to a URL, and it is not advised.
    with pytest.raises(UsageError, match=r"^there is no catalogue http://\S+$"):
        Catalogue.open(url)
    with pytest.raises(UsageError, match=r"cannot be read: connection refused; check the network"):
        Catalogue.open("http://127.0.0.1:9/c.jsonl")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.json_()], ids=str)
def test_parquet_of_other_tools_is_read_whatever_its_kind_of_text(
    tmp_path: Path, kind: pa.DataType
) -> None:
    hits = pa.array([json.dumps(hit(7)), json.dumps(hit(8))])
    column = pa.ExtensionArray.from_storage(kind, hits) if kind == pa.json_() else hits.cast(kind)
    table = pa.table({"record_id": pa.array([7, 8], pa.int32()), "hit": column})
    pq.write_table(table, tmp_path / "c")
    opened = Catalogue.open(tmp_path / "c")
    assert [opened.read(ref).title for ref in opened.refs] == ["Zürich 7", "Zürich 8"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"record_id": [7, None], "hit": ["{}", "{}"]}, "column record_id holds"),
        ({"record_id": ["7"], "hit": ["{}"]}, "column record_id holds"),
        ({"record_id": [7], "hit": [[1, 2]]}, "column hit holds"),
    ],
)
def test_parquet_with_other_columns_of_those_names_is_refused(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "c")
    with pytest.raises(UsageError, match=f"cannot be read: its {said} something else"):
        Catalogue.open(tmp_path / "c")
