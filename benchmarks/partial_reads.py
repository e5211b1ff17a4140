"""Three ways to the scripts of a large zip file: whole, by its parts, through Zenodo's container.

Run ``python benchmarks/partial_reads.py``: prints a Markdown table of requests
and bytes, counted by the client, against the sandbox over HTTP; the times are
what these would take a guest of Zenodo (one request a second) on a line of
10 MB/s. Needs 600 MB of scratch.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path

from zml_dask.fetch.fetched import FetchOptions
from zml_dask.fetch.member import FetchLimits
from zml_dask.fetch.origins import open_record
from zml_dask.net.client import HttpClient
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.sandbox.server import Sandbox

MEGABYTE = 1024 * 1024
LINE = 10 * MEGABYTE
REQUESTS_A_SECOND = 1.0


def make_archive(path: Path, megabytes: int, n_scripts: int, pieces: int) -> None:
    """Scripts in `pieces` clusters, with incompressible data between them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for piece in range(pieces):
            for number in range(n_scripts // pieces):
                target.writestr(f"o-n-1/{piece:03}/{number}.py", os.urandom(3000).hex())
            size = megabytes * MEGABYTE // pieces
            data = zipfile.ZipInfo(f"o-n-1/{piece:03}/data.bin")
            target.writestr(data, os.urandom(size), compress_type=zipfile.ZIP_STORED)


def by_download(record: Record, client: HttpClient, scratch: Path, threshold: int | None) -> int:
    """Bytes fetched through `open_record`, in parts from `threshold` on."""
    options = FetchOptions(partial_threshold=threshold)
    with open_record(record, client, scratch, options) as fetched:
        list(fetched.members())
        return fetched.archives[0].bytes


def by_container(archive: Path) -> tuple[int, int]:
    """Requests and bytes of a container's listing and one request per member, counted."""
    with zipfile.ZipFile(archive) as source:
        sizes = [member.file_size for member in source.infolist()]
    small = [size for size in sizes if size <= FetchLimits().max_file_bytes]
    return 1 + len(small), sum(small)


def main() -> None:
    """Measure and print."""
    cases = [(70, 100, 1), (500, 100, 1), (500, 900, 10), (500, 900, 100)]
    print("| archive, scripts, places | way | requests | MB | s as a guest |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for megabytes, n_scripts, pieces in cases:
            path = scratch / "archive.zip"
            make_archive(path, megabytes, n_scripts, pieces)
            with (
                Sandbox(Corpus([make_record(7, {"archive.zip": path})])) as served,
                HttpClient() as client,
            ):
                hit = client.get_json(f"{served.api_url}/records/7").payload
                record = parse_record(hit, api_url=served.api_url)
                found = {}
                for way, threshold in {"whole": None, "parts": 1}.items():
                    before = client.requests_sent
                    fetched = by_download(record, client, scratch, threshold)
                    found[way] = client.requests_sent - before, fetched
                found["container"] = by_container(path)
                for way, (requests, fetched) in found.items():
                    seconds = max(requests / REQUESTS_A_SECOND, fetched / LINE)
                    case = f"{megabytes} MB, {n_scripts}, {pieces}"
                    print(
                        f"| {case} | {way} | {requests} | {fetched / MEGABYTE:.1f} "
                        f"| {seconds:.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
