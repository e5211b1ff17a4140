"""Where a record's code is looked for, in which order, and what each origin gives."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from serving import Faults, Sandbox

from zml_dask.errors import NetworkError, RecordError
from zml_dask.fetch.fetched import FetchOptions
from zml_dask.fetch.member import Member
from zml_dask.fetch.origins import embargo_end, open_record
from zml_dask.net.client import HttpClient
from zml_dask.records.parse import parse_record
from zml_dask.records.record import Record, RecordFile
from zml_dask.sandbox.corpus import Corpus, Withdrawal, make_record

from .archives import GOOD, RawMember, make_tar, make_zip, raw_zip
from .conftest import LoopbackGithub, fates, good
from .records import FILES, bare_record, links
from .test_foreign import rar5_volumes
from .test_reference import require

MakeSandbox = Callable[..., Sandbox]


def read_all(record: Record, client: HttpClient, scratch: Path) -> list[Member]:
    with open_record(record, client, scratch) as fetched:
        return list(fetched.members())


class Broken:
    """A server that refuses whatever it is asked; with 200, one that breaks off in every body."""

    def __init__(self, status: int = 500) -> None:
        self.status = status

    def __enter__(self) -> str:
        status = self.status

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "9" if status == 200 else "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                """Keep the tests' output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/x"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def harvested(sandbox: Sandbox, client: HttpClient, record_id: int = 7) -> Record:
    """A record as the sandbox gives it, or as it was before it was withdrawn."""
    answer = client.get_json(f"{sandbox.api_url}/records/{record_id}")
    return parse_record(answer.payload, api_url=sandbox.api_url)


# A record's own files


def test_one_archive_costs_one_request_and_leaves_nothing(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    archive = make_zip()
    sandbox = make_sandbox([make_record(7, {"owner/name-v1.zip": archive})])
    record = harvested(sandbox, client)
    before = client.requests_sent
    with open_record(record, client, scratch) as fetched:
        assert client.requests_sent - before == 1
        assert fetched.origin == "zenodo"
        (one,) = fetched.archives
        assert (one.name, one.bytes) == ("owner/name-v1.zip", len(archive))
        assert one.checksum == "md5:" + hashlib.md5(archive).hexdigest()
        assert good(list(fetched.members())) == GOOD
        assert any(scratch.iterdir())
    assert not any(scratch.iterdir())


def test_several_archives_are_all_kept_under_their_names(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {
        "a.zip": make_zip({"x": b"1"}),
        "b.tar.gz": gzip.compress(make_tar({"x": b"2"})),
        "README.md": b"read me",
        "notes.txt.gz": gzip.compress(b"notes"),
    }
    sandbox = make_sandbox([make_record(7, files)])
    with open_record(harvested(sandbox, client), client, scratch) as fetched:
        assert good(list(fetched.members())) == {
            "a.zip/x": b"1",
            "b.tar.gz/x": b"2",
            "README.md": b"read me",
            "notes.txt": b"notes",
        }


def test_a_file_beside_the_only_archive_may_share_a_path_with_it(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {"code.zip": make_zip({"LICENSE": b"1", "a": b"2"}), "LICENSE": b"3"}
    sandbox = make_sandbox([make_record(7, files)])
    with open_record(harvested(sandbox, client), client, scratch) as fetched:
        members = list(fetched.members())
    assert good(members) == {"LICENSE": b"3", "a": b"2"}
    assert fates(members) == {"LICENSE": "duplicate"}


def test_what_holds_no_source_is_not_downloaded(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    data = os.urandom(20_000_000)
    files = {"code.zip": make_zip(), "data.bin": data, "old.sit": b"StuffIt (c)" + data}
    sandbox = make_sandbox([make_record(7, files)])
    with open_record(harvested(sandbox, client), client, scratch) as fetched:
        assert [one.name for one in fetched.archives] == ["code.zip"]
        members = list(fetched.members())
        # The folder holds the archive alone.
        held = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
        assert held == len(files["code.zip"])
    assert fates(members) == {"data.bin": "too_large", "old.sit": "unsupported"}
    assert good(members) == GOOD


def test_the_limit_holds_for_all_files_of_a_record_together(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {f"{name}.zip": make_zip({name: os.urandom(30_000)}) for name in "abc"}
    sandbox = make_sandbox([make_record(7, files)])
    options = FetchOptions()
    options = replace(options, limits=replace(options.limits, max_archive_bytes=70_000))
    with open_record(harvested(sandbox, client), client, scratch, options) as fetched:
        assert [one.name for one in fetched.archives] == ["a.zip", "b.zip"]
        assert fates(list(fetched.members())) == {"c.zip": "too_large"}


def test_a_file_over_the_limit_does_not_cost_the_record(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    big = make_zip({"x": os.urandom(90_000), "y": os.urandom(90_000)})
    sandbox = make_sandbox([make_record(7, {"big.zip": big, "small.zip": make_zip()})])
    record = harvested(sandbox, client)
    options = FetchOptions()
    options = replace(options, limits=replace(options.limits, max_archive_bytes=100_000))
    with open_record(record, client, scratch, options) as fetched:
        members = list(fetched.members())
    assert good(members) == GOOD
    assert fates(members) == {"big.zip": "too_large"}
    # Its size is in the catalogue, so nobody is asked for it.
    alone = replace(record, files=record.files[:1])
    before = client.requests_sent
    with (
        pytest.raises(NetworkError, check=lambda error: error.kind == "too_large"),
        open_record(alone, client, scratch, options),
    ):
        pass
    assert client.requests_sent == before


def test_every_body_cut_loses_no_record(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    records = [
        make_record(number, {"code.zip": make_zip({"a": os.urandom(50_000)})})
        for number in range(10, 40, 2)
    ]
    sandbox = make_sandbox(records)
    wanted = [harvested(sandbox, client, one.record_id) for one in records]
    for faults in (
        Faults(cut_every=3),
        Faults(lie_every=3),
        Faults(corrupt_every=3),
        Faults(cut_every=3, no_range=True),
        Faults(unavailable=2),
    ):
        sandbox.faults = faults
        for record in wanted:
            with open_record(record, client, scratch) as fetched:
                assert set(good(list(fetched.members()))) == {"a"}


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        ("wrong md5", "checksum"),
        ("blocked", "blocked"),
        ("withdrawn", "gone"),
        ("unknown", "not_found"),
        ("restricted", "forbidden"),
        ("redirect", "bad_redirect"),
    ],
)
def test_what_cannot_be_had_says_why(
    make_sandbox: MakeSandbox,
    client: HttpClient,
    scratch: Path,
    trouble: str,
    kind: str,
) -> None:
    corpus = Corpus([make_record(7, {"code.zip": make_zip()})])
    sandbox = make_sandbox(corpus)
    record = harvested(sandbox, client)
    if trouble == "withdrawn":
        corpus.withdraw(7, Withdrawal())
    elif trouble == "unknown":
        record = replace(
            record, files=(replace(record.files[0], url=record.files[0].url + "/none"),)
        )
    elif trouble == "restricted":
        corpus.add(make_record(7, {"code.zip": make_zip()}, access="restricted"))
    else:
        sandbox.faults = {
            "wrong md5": Faults(corrupt_every=1),
            "blocked": Faults(blocked=True),
            "redirect": Faults(redirect_to="file:///etc"),
        }[trouble]
    with pytest.raises(RecordError) as caught, open_record(record, client, scratch):
        pass
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert not any(scratch.iterdir())


@pytest.mark.parametrize(
    ("access", "kind", "permanent"),
    [
        ("restricted", "restricted", True),
        ("embargoed", "embargoed", False),
        ("closed", "restricted", True),
    ],
)
def test_restricted_records_are_left_alone(
    client: HttpClient,
    scratch: Path,
    github: LoopbackGithub,
    access: str,
    kind: str,
    permanent: bool,
) -> None:
    github.add("owner", "name", {"v1": FILES})
    record = bare_record(access=access, related=links("https://github.com/owner/name/tree/v1"))
    options = FetchOptions(github_url=github.url)
    with pytest.raises(RecordError) as caught, open_record(record, client, scratch, options):
        pass
    assert (caught.value.kind, caught.value.permanent) == (kind, permanent)
    assert github.requests == []


@pytest.mark.parametrize(
    "hit",
    [
        {"metadata": {"access_right": "embargoed", "embargo_date": "2030-01-31"}},
        {"metadata": {"access_right": "embargoed", "embargo_date": "2030-01-31T00:00:00Z"}},
        {"access": {"status": "embargoed", "embargo": {"active": True, "until": "2030-01-31"}}},
        {"access": {"files": "restricted", "embargo": {"active": True, "until": "2030-01-31"}}},
    ],
)
def test_the_end_of_an_embargo_in_every_form(
    client: HttpClient, scratch: Path, hit: dict[str, Any]
) -> None:
    with (
        pytest.raises(RecordError) as caught,
        open_record(parse_record({"id": 7, **hit}), client, scratch),
    ):
        pass
    assert (caught.value.kind, caught.value.permanent) == ("embargoed", False)
    assert embargo_end(str(caught.value)) == "2030-01-31"


def test_metadata_alone(client: HttpClient, scratch: Path) -> None:
    for access in ("metadata-only", "open"):
        with (
            pytest.raises(RecordError, check=lambda error: error.kind == "no_files"),
            open_record(bare_record(access=access), client, scratch),
        ):
            pass


def test_archives_that_nobody_here_reads_fail_the_record(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    sandbox = make_sandbox([make_record(7, {"code.7z": b"7z\xbc\xaf\x27\x1c" + bytes(200_000)})])
    record = harvested(sandbox, client)
    with (
        pytest.raises(
            RecordError, match="7z", check=lambda error: error.kind == "unreadable_archive"
        ),
        open_record(record, client, scratch),
    ):
        pass


def test_the_ruins_of_an_archive_are_read_where_there_is_nothing_else(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    ruin = make_zip({f"{n}": os.urandom(450).hex().encode() for n in range(9)})[:3000]
    sandbox = make_sandbox([make_record(7, {"code.zip": ruin})])
    with open_record(harvested(sandbox, client), client, scratch) as fetched:
        assert 3 < len(good(list(fetched.members()))) < 9


# A fault costs only what it touches


@pytest.mark.parametrize("trouble", ["404", "md5", "500", "200"])
@pytest.mark.parametrize("name", ["a-first.txt", "z-last.txt", "b.zip", "code.tar.gz"])
def test_a_file_that_cannot_be_had_costs_itself_alone(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, trouble: str, name: str
) -> None:
    sandbox = make_sandbox([make_record(7, {"good.zip": make_zip(), name: b"lost"})])
    record = harvested(sandbox, client)
    lost = {"md5": {"checksum": "md5:" + "0" * 32}, "404": {"url": "/none"}}.get(trouble, {})

    def spoil(file: RecordFile) -> RecordFile:
        if file.key != name:
            return file
        return replace(file, **{key: file.url + value if key == "url" else value
                                for key, value in lost.items()})  # fmt: skip

    record = replace(record, files=tuple(spoil(file) for file in record.files))
    if not lost:
        with Broken(int(trouble)) as url:
            record = replace(record, files=tuple(
                replace(file, url=url) if file.key == name else file for file in record.files
            ))  # fmt: skip
            members = read_all(record, client, scratch)
            files = tuple(file for file in record.files if file.key == name)
            kind = "server_error" if trouble == "500" else "truncated"
            with pytest.raises(RecordError, check=lambda error: error.kind == kind) as caught:
                read_all(replace(record, files=files), client, scratch)
            assert not caught.value.permanent
    else:
        members = read_all(record, client, scratch)
    assert good(members) == GOOD
    assert fates(members) == {name: "damaged"}
    (reason,) = [str(one.reason) for one in members if one.path == name]
    assert reason.startswith("it cannot be fetched: ")


@pytest.mark.parametrize("name", ["a-first.txt", "z-last.txt"])
@pytest.mark.parametrize("status", [401, 403, 410, 451])
def test_a_file_that_is_withheld_costs_itself_and_not_the_record(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, status: int, name: str
) -> None:
    sandbox = make_sandbox([make_record(7, {"good.zip": make_zip(), name: b"lost"})])
    record = harvested(sandbox, client)
    with Broken(status) as url:
        files = (replace(f, url=url) if f.key == name else f for f in record.files)
        members = read_all(replace(record, files=tuple(files)), client, scratch)
        assert good(members) == GOOD
        assert fates(members) == {name: "damaged"}
        # Where all are withheld no more than two are asked for, and no other origin is.
        withheld = tuple(replace(record.files[0], key=f"{n}.zip", url=url) for n in range(5))
        before = client.requests_sent
        with pytest.raises(RecordError) as caught:
            read_all(replace(record, files=withheld), client, scratch)
        assert caught.value.kind == ("gone" if status == 410 else "forbidden")
        assert client.requests_sent - before == 2


def test_code_that_cannot_be_had_is_looked_for_elsewhere_though_a_text_is_there(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, github: LoopbackGithub
) -> None:
    github.add("owner", "name", {"v1": FILES})
    sandbox = make_sandbox([make_record(7, {"code.zip": make_zip(), "README.md": b"read me"})])
    record = harvested(sandbox, client)
    lost = replace(record.files[-1], url=record.files[-1].url + "/none")
    assert lost.key == "code.zip"
    record = replace(record, files=(record.files[0], lost))
    members = read_all(record, client, scratch)
    assert good(members) == {"README.md": b"read me"}  # nowhere else to look
    record = replace(record, related=links("https://github.com/owner/name/tree/v1"))
    with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
        assert fetched.origin == "github-archive"


UNREADABLE = {
    "password.zip": raw_zip(RawMember.of(b"a.py", b"x", flags=1)),
    "damaged.zip": raw_zip(RawMember.of(b"a.py", b"x", crc=1)),
    "method.zip": raw_zip(RawMember.of(b"a.py", b"x", method=98)),
    "nested.zip": make_zip({"a.zip": make_zip({"b.zip": make_zip({"c.py": b"c"})})}),
    "broken.7z": b"7z\xbc\xaf\x27\x1c" + bytes(200),
    "small.deb": b"!<arch>\n"
    b"debian-binary   0           0     0     100644  4         `\n2.0\n" + bytes(100),
    "old.arj": b"\x60\xea\x2b\0\x22" + bytes(300),
    "broken.tar.gz": gzip.compress(make_tar({"a.py": b"x" * 5000}))[:30] + b"\xff" * 50,
}


@pytest.mark.parametrize("padding", [0, 200_000])
@pytest.mark.parametrize("name", UNREADABLE)
def test_of_what_nothing_could_be_read_the_record_fails(
    make_sandbox: MakeSandbox,
    client: HttpClient,
    scratch: Path,
    github: LoopbackGithub,
    name: str,
    padding: int,
) -> None:
    sandbox = make_sandbox([make_record(7, {name: UNREADABLE[name] + bytes(padding)})])
    record = harvested(sandbox, client)
    with pytest.raises(
        RecordError,
        match=re.escape(name.partition(".")[2]),
        check=lambda error: error.kind == "unreadable_archive",
    ) as caught:
        read_all(record, client, scratch)
    assert caught.value.permanent
    github.add("owner", "name", {"v1": FILES})
    record = replace(record, related=links("https://github.com/owner/name/tree/v1"))
    with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
        assert fetched.origin == "github-archive"


def test_what_is_no_text_and_was_read_is_no_failure(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    for files in ({"data.bin": bytes(100)}, {"data.zip": make_zip({"a.bin": bytes(100)})}):
        record = harvested(make_sandbox([make_record(7, files)]), client)
        assert len(good(read_all(record, client, scratch))) == 1


# Split archives


def split(whole: bytes, names: list[str]) -> dict[str, bytes]:
    size = -(-len(whole) // len(names))
    return {name: whole[n * size : (n + 1) * size] for n, name in enumerate(names)}


CODE = {f"p/{n}.py": os.urandom(2000).hex().encode() for n in range(200)}
SPLIT = {
    "7-Zip": (make_zip(CODE, 0), ["v.zip.001", "v.zip.002", "v.zip.003"], "v.zip"),
    "split": (gzip.compress(make_tar(CODE)), ["c.tar.gz.partaa", "c.tar.gz.partab"], "c.tar.gz"),
    "split, bare": (gzip.compress(make_tar(CODE)), ["c.tgzaa", "c.tgzab", "c.tgzac"], "c.tgz"),
    "numbers": (make_tar(CODE), ["c.tar.part1", "c.tar.part2"], "c.tar"),
    "split, capitals": (gzip.compress(make_tar(CODE)), ["c.tgz.AA", "c.tgz.AB"], "c.tgz"),
    "split -d": (gzip.compress(make_tar(CODE)), ["c.tgz.00", "c.tgz.01", "c.tgz.02"], "c.tgz"),
    "from zero": (make_zip(CODE, 0), ["c.zip.part00", "c.zip.part01"], "c.zip"),
    "before the suffix": (make_zip(CODE, 0), ["c_part1.zip", "c_part2.zip"], "c.zip"),
    "of so many": (make_zip(CODE, 0), ["c.zip.part1of2", "c.zip.part2of2"], "c.zip"),
}


@pytest.mark.parametrize("how", SPLIT)
def test_the_parts_of_an_archive_are_joined(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, how: str
) -> None:
    whole, names, joined = SPLIT[how]
    files = split(whole, names)
    record = harvested(make_sandbox([make_record(7, files)]), client)
    with open_record(record, client, scratch) as fetched:
        assert [(one.name, one.bytes) for one in fetched.archives] == [(joined, len(whole))]
        assert good(list(fetched.members())) == CODE
    # Without the last it is read as far as it goes, without the first it is not.
    cut = replace(record, files=tuple(file for file in record.files if file.key != names[-1]))
    members = read_all(cut, client, scratch)
    assert 0 < len(good(members)) < len(CODE)
    assert "damaged" in fates(members).values()


def test_rar_s_volumes(make_sandbox: MakeSandbox, client: HttpClient, scratch: Path) -> None:
    data = b"print('of two volumes')\n" * 900
    for names in (("v.part1.rar", "v.part2.rar"), ("v.rar", "v.r00")):
        files = dict(zip(names, rar5_volumes("a.py", data), strict=True))
        record = harvested(make_sandbox([make_record(7, files)]), client)
        members = read_all(record, client, scratch)
        assert good(members) == {"a.py": data}
        assert fates(members) == {}
        alone = replace(record, files=tuple(f for f in record.files if f.key == names[0]))
        with pytest.raises(RecordError, match="no text can be read"):
            read_all(alone, client, scratch)


def test_infozip_s_volumes(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, tmp_path: Path
) -> None:
    require("zip")
    source = tmp_path / "source"
    (source / "p").mkdir(parents=True)
    for path, data in CODE.items():
        (source / path).write_bytes(data)
    subprocess.run(["zip", "-qr", "-s", "200k", "v.zip", "p"], cwd=source, check=True)
    files = {path.name: path.read_bytes() for path in source.glob("v.z*")}
    assert len(files) > 2
    record = harvested(make_sandbox([make_record(7, files)]), client)
    members = read_all(record, client, scratch)
    assert good(members) == CODE
    assert fates(members) == {}
    last = replace(record, files=tuple(file for file in record.files if file.key == "v.zip"))
    members = read_all(last, client, scratch)
    assert "another volume" in str([one.reason for one in members])
    missing = replace(record, files=tuple(f for f in record.files if f.key != "v.z02"))
    members = read_all(missing, client, scratch)
    assert 0 < len(good(members)) < len(CODE)
    assert good(members).items() <= CODE.items()


def test_parts_whose_first_is_missing_say_so(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = split(make_zip(CODE, 0), ["v.zip.001", "v.zip.002", "v.zip.003"])
    del files["v.zip.001"]
    files["v.zip.003"] = files["v.zip.003"][:5000]
    files["README"] = b"read me"
    record = harvested(make_sandbox([make_record(7, files)]), client)
    members = read_all(record, client, scratch)
    assert good(members) == {"README": b"read me"}
    assert set(fates(members)) == {"v.zip.002", "v.zip.003"}


def test_archives_that_are_numbered_are_no_parts(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    for make, end in ((make_zip, "zip"), (make_tar, "tar")):
        files = {f"code_part{n}.{end}": make({f"{n}.py": b"x = 1\n" * 9}) for n in (1, 2)}
        record = harvested(make_sandbox([make_record(7, files)]), client)
        found = good(read_all(record, client, scratch))
        assert set(found) == {f"code_part{n}.{end}/{n}.py" for n in (1, 2)}


def test_texts_that_are_numbered_are_no_parts(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {"run.001": b"one\n", "run.002": b"two\n", "x.aa": b"three\n", "x.ab": b"four\n"}
    record = harvested(make_sandbox([make_record(7, files)]), client)
    assert good(read_all(record, client, scratch)) == files


def test_a_large_file_that_holds_an_archive_is_found_and_one_that_does_not_is_not_fetched(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    noise = os.urandom(150_000)
    code = make_zip({"a.py": b"x = 1\n", "data": os.urandom(300_000)})
    files = {
        "setup.exe": b"MZ" + bytes(200_000) + code,
        "other.exe": b"MZ" + os.urandom(300_000),
        "install.run": b"#!/bin/sh\n" + gzip.compress(make_tar({"b.py": b"y = 2\n", "z": noise})),
        "tape.tar": bytes(1024) + make_tar({"c.py": b"z = 3\n", "z": noise}),
        "newline.tgz": b"\n" + gzip.compress(make_tar({"d.py": b"d = 4\n", "z": noise})),
        "letters.sh": b"#!/bin/sh\n" + base64.encodebytes(
            gzip.compress(make_tar({"e.py": b"e = 5\n", "z": noise}))
        ),
        "zeros.dat": bytes(300_000),
        "paper.docx": make_zip({"[Content_Types].xml": b"", "word/document.xml": b"",
                                "x": os.urandom(200_000)}),
    }  # fmt: skip
    record = harvested(make_sandbox([make_record(7, files)]), client)
    with open_record(record, client, scratch) as fetched:
        assert [one.name for one in fetched.archives] == [
            "install.run", "letters.sh", "newline.tgz", "setup.exe", "tape.tar",
        ]  # fmt: skip
        members = list(fetched.members())
    assert good(members) == {
        "setup.exe/a.py": b"x = 1\n", "install.run/b.py": b"y = 2\n",
        "tape.tar/c.py": b"z = 3\n", "newline.tgz/d.py": b"d = 4\n",
        "letters.sh/e.py": b"e = 5\n",
    }  # fmt: skip
    assert {"other.exe", "paper.docx", "zeros.dat", "setup.exe/data"} <= set(fates(members))
    assert set(fates(members).values()) == {"too_large"}
    unknown = (replace(file, size=None, checksum=None) for file in record.files)
    found = read_all(replace(record, files=tuple(unknown)), client, scratch)
    assert good(found) == good(members)


# URLs of the user's own catalogue


def test_a_file_system_only_where_the_catalogue_is_trusted(
    client: HttpClient, scratch: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "mine.zip"
    archive.write_bytes(make_zip())
    digest = "md5:" + hashlib.md5(archive.read_bytes()).hexdigest()
    for url in (archive.as_uri(), str(archive)):
        record = bare_record(files=(RecordFile("mine.zip", None, digest, url),))
        with (
            pytest.raises(NetworkError, check=lambda error: error.kind == "bad_url"),
            open_record(record, client, scratch),
        ):
            pass
        with open_record(record, client, scratch, FetchOptions(trusted=True)) as fetched:
            assert fetched.origin == "url"
            assert good(list(fetched.members())) == GOOD


def test_what_is_wrong_with_such_a_url(client: HttpClient, scratch: Path, tmp_path: Path) -> None:
    archive = tmp_path / "mine.zip"
    archive.write_bytes(make_zip())
    options = FetchOptions(trusted=True)
    small = replace(options, limits=replace(options.limits, max_archive_bytes=10))
    none = RecordFile("a", None, None, (tmp_path / "none").as_uri())
    for file, given, kind in (
        (none, options, "source"),
        (replace(none, url="nosuch://x"), options, "source"),
        (replace(none, url=archive.as_uri(), checksum="md5:" + "0" * 32), options, "checksum"),
        (replace(none, url=archive.as_uri()), small, "too_large"),
    ):
        record = bare_record(files=(file,))
        with pytest.raises(RecordError) as caught, open_record(record, client, scratch, given):
            pass
        assert caught.value.kind == kind


@pytest.fixture
def broken(make_sandbox: MakeSandbox, client: HttpClient) -> Callable[..., Record]:
    """A record whose own archive can be had no more, with links."""

    def make(*identifiers: str, version: str | None = None) -> Record:
        sandbox = make_sandbox([make_record(7, {"code.zip": make_zip()})])
        record = harvested(sandbox, client)
        lost = replace(record.files[0], url=record.files[0].url + "/none")
        return replace(record, files=(lost,), related=links(*identifiers), version=version)

    return make


def test_the_archive_of_the_tag_comes_second(
    client: HttpClient, scratch: Path, github: LoopbackGithub, broken: Callable[..., Record]
) -> None:
    github.add("owner", "name", {"v1": FILES, "v2": {"src/a.py": "later\n"}})
    record = broken("https://github.com/owner/name/tree/v1")
    with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
        assert fetched.origin == "github-archive"
        members = good(list(fetched.members()))
        assert members["name-v1/src/a.py"] == b"print('a')\n"
        assert len(members) == 2
        assert fetched.archives[0].checksum.startswith("md5:")
    assert not any(scratch.iterdir())


def test_a_clone_of_the_tag_comes_third(
    client: HttpClient, scratch: Path, github: LoopbackGithub, broken: Callable[..., Record]
) -> None:
    github.add("owner", "name", {"v1": FILES, "v2": {"src/a.py": "later\n"}})
    github.archives = False
    record = broken("git+https://www.github.com/owner/name.git", version="1")
    with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
        assert fetched.origin == "git-tag"
        commit = fetched.archives[0].checksum.removeprefix("git:")
        members = good(list(fetched.members()))
        assert members[f"owner-name-{commit[:7]}/src/a.py"] == b"print('a')\n"
    assert not any(scratch.iterdir())


def test_the_default_branch_comes_last(
    client: HttpClient, scratch: Path, github: LoopbackGithub, broken: Callable[..., Record]
) -> None:
    github.add("owner", "name", {"v1": FILES, "": {"src/a.py": "later\n"}})
    for record in (
        broken("https://github.com/owner/name"),
        broken("https://github.com/owner/name/tree/no-such-tag"),
    ):
        with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
            assert fetched.origin == "git-branch"
            assert b"later\n" in good(list(fetched.members())).values()


def test_where_nothing_is_anywhere_the_first_failure_counts(
    client: HttpClient, scratch: Path, github: LoopbackGithub, broken: Callable[..., Record]
) -> None:
    record = broken("https://github.com/owner/nowhere/tree/v1")
    with (
        pytest.raises(
            NetworkError,
            match="nor is it in its repository",
            check=lambda error: error.kind == "not_found",
        ) as caught,
        open_record(record, client, scratch, FetchOptions(github_url=github.url)),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not any(scratch.iterdir())


def test_where_github_cannot_be_asked_the_record_is_tried_again_later(
    client: HttpClient, scratch: Path, broken: Callable[..., Record]
) -> None:
    nobody = FetchOptions(github_url="http://127.0.0.1:9")
    for link in ("https://github.com/owner/name/tree/v1", "https://github.com/owner/name"):
        with (
            pytest.raises(RecordError, match="its repository cannot be asked") as caught,
            open_record(broken(link), client, scratch, nobody),
        ):
            pass
        assert not caught.value.permanent
    assert not any(scratch.iterdir())


def test_a_small_file_whose_size_nobody_says_is_read(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {"a.py": b"x = 1\n", "b.py": b"y = 2\n" * 1000, "c.bin": bytes(200_000)}
    record = harvested(make_sandbox([make_record(7, files)]), client)
    record = replace(record, files=tuple(replace(each, size=None) for each in record.files))
    with open_record(record, client, scratch) as fetched:
        members = list(fetched.members())
    assert good(members).keys() == {"a.py", "b.py"}
    assert fates(members) == {"c.bin": "too_large"}


def test_two_files_of_one_path_are_not_both_read(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path
) -> None:
    files = {"a.py": b"x = 1\n", "a.py.gz": gzip.compress(b"y = 2\n")}
    record = harvested(make_sandbox([make_record(7, files)]), client)
    with open_record(record, client, scratch) as fetched:
        members = list(fetched.members())
    assert [(one.path, one.status) for one in members] == [("a.py", "ok"), ("a.py", "duplicate")]
    assert good(members) == {"a.py": b"x = 1\n"}


def test_an_unreadable_archive_is_replaced_by_its_repository(
    make_sandbox: MakeSandbox, client: HttpClient, scratch: Path, github: LoopbackGithub
) -> None:
    github.add("owner", "name", {"v1": FILES})
    sandbox = make_sandbox(
        [
            make_record(
                7,
                {"code.zip": make_zip()[:300]},
                related=(("https://github.com/owner/name/tree/v1", "isSupplementTo", "url"),),
            )
        ]
    )
    record = harvested(sandbox, client)
    with open_record(record, client, scratch, FetchOptions(github_url=github.url)) as fetched:
        assert fetched.origin == "github-archive"
