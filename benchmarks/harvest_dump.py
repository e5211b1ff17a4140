"""Harvest a synthetic metadata dump: records a second, memory, catalogue on disk, planning.

Two million records, a quarter of them software, are written as Zenodo's dump has
them; a sandbox serves it, a process of its own harvests it, and what opening,
filtering and planning of the catalogue cost is measured.

    python benchmarks/harvest_dump.py [--records 2000000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from isal import igzip

WORDS = [
    *("analysis", "model", "data", "simulation", "python", "climate", "protein", "network"),
    *("learning", "image", "genome", "solver", "pipeline", "toolkit", "library", "ocean"),
    *("particle", "neural", "survey", "spectra", "mesh", "parser", "toolbox"),
]
LICENCES = ("mit", "gpl-3.0-only", "apache-2.0", "bsd-3-clause", "cc-by-4.0")
FIRST = datetime(2014, 1, 1, tzinfo=UTC)


# Stand for what differs between records of one pattern: text repeats after so many
# records alone, further apart than a compressor looks back.
PATTERNS = 5_000
ID, CONCEPT, CREATED = "7070707070", "6060606060", "2019-09-09T09:09:09.090909+00:00"


def pattern(number: int, rng: random.Random) -> bytes:
    """Write one native record of a size such as Zenodo's have: about 2.8 kB."""
    is_software = number % 4 == 0
    record_id, concept, created = ID, CONCEPT, CREATED
    owner, name = rng.choice(WORDS), f"{rng.choice(WORDS)}-{rng.choice(WORDS)}-{record_id}"
    words = " ".join(rng.choices(WORDS, k=60))
    base = f"https://zenodo.org/api/records/{record_id}"
    key = f"{owner}/{name}-v1.{number % 30}.zip"
    md5 = hashlib.md5(key.encode()).hexdigest()
    kind = "software" if is_software else rng.choice(("dataset", "publication-article", "poster"))
    entry = {
        "id": record_id,
        "created": created,
        "updated": created,
        "revision_id": 4,
        "parent": {
            "id": concept,
            "communities": {},
            "pids": {"doi": {"identifier": f"10.5281/zenodo.{concept}", "provider": "d"}},
        },
        "versions": {"is_latest": True, "index": 1},
        "pids": {
            "doi": {"identifier": f"10.5281/zenodo.{record_id}", "provider": "datacite"},
            "oai": {"identifier": f"oai:zenodo.org:{record_id}", "provider": "oai"},
        },
        "metadata": {
            "resource_type": {"id": kind, "title": {"de": kind.title(), "en": kind.title()}},
            "creators": [
                {
                    "person_or_org": {
                        "type": "personal",
                        "name": f"{rng.choice(WORDS).title()}, {rng.choice(WORDS).title()}",
                        "identifiers": [
                            {
                                "identifier": f"0000-0001-{rng.randrange(10**8):08d}",
                                "scheme": "orcid",
                            }
                        ],
                    },
                    "affiliations": [{"name": f"University of {rng.choice(WORDS).title()}"}],
                }
                for _ in range(rng.randrange(1, 5))
            ],
            "title": f"{owner}/{name}: {words[:40]}",
            "publisher": "Zenodo",
            "publication_date": created[:10],
            "subjects": [{"subject": word} for word in rng.sample(WORDS, 3)],
            "related_identifiers": [
                {
                    "identifier": f"https://github.com/{owner}/{name}/tree/v1.{number % 30}",
                    "scheme": "url",
                    "relation_type": {"id": "issupplementto", "title": {"en": "Is supplement to"}},
                }
            ],
            "version": f"v1.{number % 30}",
            "rights": [{"id": LICENCES[number % 5], "title": {"en": LICENCES[number % 5]}}],
            "description": f"<p>{words}</p>",
        },
        "custom_fields": {"code:codeRepository": f"https://github.com/{owner}/{name}"},
        "access": {
            "record": "public",
            "files": "public",
            "embargo": {"active": False, "reason": None},
            "status": "open",
        },
        "files": {
            "enabled": True,
            "order": [],
            "count": 1,
            "total_bytes": 1000 + number,
            "entries": {
                key: {
                    "id": f"{md5[:8]}-{md5[8:12]}-{md5[12:16]}-{md5[16:20]}-{md5[20:]}",
                    "key": key,
                    "ext": "zip",
                    "size": rng.randrange(10_000, 40_000_000),
                    "checksum": f"md5:{md5}",
                    "mimetype": "application/zip",
                    "links": {"content": f"{base}/files/{key}/content"},
                }
            },
        },
        "links": {"self": base, "files": f"{base}/files"},
    }
    return json.dumps(entry).encode()


def write_dump(path: Path, count: int) -> int:
    """Write the dump as a stream; give the bytes of its JSON."""
    rng, total = random.Random(1), 0
    patterns = [pattern(number, rng) for number in range(PATTERNS)]
    with igzip.open(path, "wb", compresslevel=1) as stream:
        for number in range(count):
            record_id = 1_000_000 + 2 * number
            created = (FIRST + timedelta(days=12 * 365) * (number / count)).isoformat()
            data = patterns[number % PATTERNS]
            for old, new in ((ID, record_id), (CONCEPT, record_id - 1), (CREATED, created)):
                data = data.replace(old.encode(), str(new).encode())
            header = tarfile.TarInfo(f"{record_id}.json")
            header.size = len(data)
            stream.write(header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
            total += len(data)
        stream.write(bytes(10_240))
    return total


def harvest_here(catalogue: str, api_url: str) -> None:
    """Harvest, and print seconds of the reading and the peak of memory; in a process alone."""
    from zml_dask.net.client import HttpClient
    from zml_dask.records.dump_harvest import DumpProgress
    from zml_dask.records.harvest import HarvestOptions, harvest

    began: list[float] = []

    def note(at: DumpProgress) -> None:
        if at.what == "read":
            began.append(time.perf_counter())

    said: list[tuple[float, str]] = []
    start = time.perf_counter()
    with HttpClient() as client:
        harvest(
            Path(catalogue),
            HarvestOptions(api_url=api_url),
            client,
            from_dump="newest",
            dump_progress=note,
            say=lambda line: said.append((time.perf_counter(), line)),
        )
    end = time.perf_counter()
    result = {
        "download": began[0] - start,
        "read": said[0][0] - began[0],
        "order": end - said[0][0],
        "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "said": said[0][1],
    }
    print(json.dumps(result))


def timed() -> Iterator[float]:
    start = time.perf_counter()
    while True:
        yield time.perf_counter() - start


def measure(folder: Path, count: int) -> None:
    from zml_dask.pipeline.build_options import BuildOptions
    from zml_dask.pipeline.stage import plan_partitions
    from zml_dask.records.catalogue import Catalogue
    from zml_dask.sandbox.corpus import Corpus
    from zml_dask.sandbox.exporter import JSON_DUMP
    from zml_dask.sandbox.server import Sandbox

    dump = folder / "dump.tar.gz"
    if not dump.exists():
        start = time.perf_counter()
        total = write_dump(dump, count)
        print(
            f"dump: {count:,} records, {total / count:,.0f} bytes of JSON each, "
            f"{dump.stat().st_size / 1e6:,.0f} MB, written in {time.perf_counter() - start:.0f} s"
        )
    with Sandbox(Corpus()) as sandbox:
        sandbox.exporter.make(sandbox.api_url, contents={JSON_DUMP: dump})
        sandbox.exporter.listing(sandbox.api_url)
        catalogue = folder / "c.jsonl"
        words = [sys.executable, __file__, "--harvest", str(catalogue), sandbox.api_url]
        got = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    print(got["said"])
    print(
        f"read: {count / got['read']:,.0f} records/s ({got['read']:.0f} s), put in order in "
        f"{got['order']:.0f} s; {got['cpu']:.0f} s of CPU with the download; peak memory "
        f"{got['peak'] / 1e6:.0f} MB"
    )
    clock = timed()

    def lap(what: str, since: float) -> float:
        now = next(clock)
        print(f"{what}: {now - since:.2f} s")
        return now

    at = next(clock)
    opened = Catalogue.open(catalogue)
    at = lap(f"open {len(opened.refs):,} records of JSON Lines", at)
    parquet = folder / "c.parquet"
    opened.write(parquet)
    at = lap("write Parquet", at)
    for path in (catalogue, parquet):
        print(f"{path.name}: {path.stat().st_size / len(opened.refs):,.0f} bytes per record")
    at = next(clock)
    table = Catalogue.open(parquet)
    at = lap("open Parquet", at)
    plan = plan_partitions(table.refs, BuildOptions(), workers=64, attempts={})
    at = lap(f"plan {len(table.refs):,} records in {len(plan):,} partitions", at)
    chosen = table.where("license = 'mit' and archive_bytes < 1e6")
    lap(f"choose {len(chosen.refs):,} by SQL", at)


def main() -> None:
    if sys.argv[1:2] == ["--harvest"]:
        harvest_here(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        measure(arguments.folder, arguments.records)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.records)


if __name__ == "__main__":
    main()
