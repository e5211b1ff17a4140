"""A build over hostile archives mixed with good ones: every good file in, every refusal named."""

from __future__ import annotations

import gzip
import stat
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import Sandbox

import zml_dask as zml
from zml_dask.net.client import HttpClient
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.sandbox.corpus import make_record

from .archives import (
    RawMember,
    make_tar,
    make_zip,
    raw_zip,
    tar_header,
    tar_info,
    tar_of,
)

MEGABYTE = 1024 * 1024
ZEROS = tar_header("zeros", 900 * MEGABYTE)


def link(name: bytes, target: bytes) -> RawMember:
    mode = (stat.S_IFLNK | 0o777) << 16
    return RawMember.of(name, target, made_by=3 << 8, attributes=mode)


HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "understates.zip": (
        raw_zip(RawMember.of(b"bomb", bytes(40 * MEGABYTE), size=5)),
        {"bomb": "damaged"},
    ),
    "ratio.tar.gz": (
        gzip.compress(ZEROS) + gzip.compress(bytes(100 * MEGABYTE)) * 9,
        {"zeros": "refused"},
    ),
    "header.tar": (tar_header("x", 8 * 1024**3 - 1, tarfile.XHDTYPE), {"": "damaged"}),
    "paths.zip": (
        make_zip({"../../escaped": b"x", "/tmp/zml-escaped": b"y", "a\x1b[31m\n.py": b"z"}),
        {"../../escaped": "ok", "/tmp/zml-escaped": "ok", "a\\x1b[31m\\n.py": "ok"},
    ),
    "links.zip": (raw_zip(link(b"passwd", b"/etc/passwd")), {"passwd": "refused"}),
    "devices.tar": (
        tar_of(
            tar_info("null", tarfile.CHRTYPE),
            tar_info("pipe", tarfile.FIFOTYPE),
            tar_info("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ),
        {"null": "refused", "pipe": "refused", "hard": "refused"},
    ),
    "secret.zip": (raw_zip(RawMember.of(b"s", b"s", flags=1)), {"s": "encrypted"}),
    "method.zip": (raw_zip(RawMember.of(b"m", b"m", method=98)), {"m": "unsupported"}),
    "crc.zip": (raw_zip(RawMember.of(b"c", b"c", crc=7)), {"c": "damaged"}),
    "cut.zip": (make_zip({"whole": b"w\n", "cut": b"c" * 90})[:80], {"whole": "ok"}),
    "cut.tar": (make_tar({"whole": b"w\n", "cut": b"c" * 5000})[:3000], {"cut": "damaged"}),
    "twice.zip": (
        raw_zip(RawMember.of(b"t", b"first\n"), RawMember.of(b"t", b"second\n")),
        {"t": "duplicate"},
    ),
    "rar.zip": (b"Rar!\x1a\x07\x01\x00" + bytes(500), {"": "damaged"}),
}
MANY = "many.zip"


@pytest.mark.slow
def test_every_good_file_is_in_and_every_refusal_is_named(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path
) -> None:
    hostile = {name: archive for name, (archive, _) in HOSTILE.items()}
    hostile[MANY] = make_zip({f"{number}": b"" for number in range(30_000)})
    records = [
        make_record(
            100 + 2 * number,
            {name: archive, "good.zip": make_zip({f"top/{number}.py": f"n = {number}\n".encode()})},
        )
        for number, (name, archive) in enumerate(hostile.items())
    ]
    sandbox = make_sandbox(records)
    for folder in ("place", "scratch"):
        (tmp_path / folder).mkdir()
    with HttpClient() as client:
        harvest(tmp_path / "catalogue.jsonl", HarvestOptions(api_url=sandbox.api_url), client)
    script = textwrap.dedent(
        """
        import re
        from pathlib import Path
        from distributed import Client, LocalCluster
        import zml_dask as zml
        from zml_dask.pipeline.build_options import BuildOptions
        from zml_dask.fetch.member import FetchLimits
        if __name__ == "__main__":
            options = BuildOptions(scratch="../scratch", limits=FetchLimits(max_members=20_000))
            with (
                LocalCluster(n_workers=1, threads_per_worker=1, processes=False,
                             dashboard_address=":0") as cluster,
                Client(cluster) as client,
            ):
                zml.build("../catalogue.jsonl", "../dataset", client=client, options=options)
            # Not ru_maxrss: that begins with what the tests' own process held.
            status = Path("/proc/self/status").read_text()
            print(int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024)
        """
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "place", capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert int(ran.stdout.split()[-1]) < 1024

    dataset = zml.open_dataset(tmp_path / "dataset")
    files = dataset.files
    assert sorted(dataset.records.record_id) == [record.record_id for record in records]
    for number, name in enumerate(hostile):
        rows = files[files.record_id == 100 + 2 * number]
        fates = set(zip(rows.path, rows.status, strict=True))
        path = f"top/{number}.py"
        good = f"good.zip/{path}"
        assert (good, "ok") in fates
        assert dataset.text(rows.file_id[rows.path == good].iloc[0]) == f"n = {number}\n"
        for member, status in HOSTILE.get(name, (b"", {}))[1].items():
            assert (f"{name}/{member}" if member else name, status) in fates, name
    refused = files[files.status == "refused"]
    assert refused.reason.notna().all()
    assert refused.path.str.startswith(f"{MANY}/").sum() == 1
    # Nothing anywhere but where it belongs.
    assert {path.name for path in tmp_path.iterdir()} <= {
        "place", "scratch", "dataset", "catalogue.jsonl", "catalogue.jsonl.state.json",
    }  # fmt: skip
    assert not any((tmp_path / "place").iterdir())
    assert not any((tmp_path / "scratch").iterdir())
    assert not Path("/tmp/zml-escaped").exists()
