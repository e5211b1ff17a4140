"""build, status, show, update, fetch and demo from the command line."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import distributed
import numpy as np
import pytest
from PIL import Image
from serving import Faults, Sandbox

import zml_dask as zml
from zml_dask.cli.main import main
from zml_dask.engine.lock import dataset_lock
from zml_dask.net.client import HttpClient
from zml_dask.pipeline.build import build
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.sandbox.archives import Source, zip_bytes
from zml_dask.sandbox.corpus import Corpus, make_record
from zml_dask.store.storage import Storage

HOSTILE = "evil\x1b[31m\u202e.py"
COMMAND = Path(sys.executable).with_name("zml-dask")


def archive(files: dict[str, bytes]) -> bytes:
    sources = [Source(path, data) for path, data in files.items()]
    return zip_bytes("o-r-1a2b3c4", sources, when=datetime(2024, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def served() -> Iterator[Sandbox]:
    good = {
        "src/main.py": b"".join(b"print(%d)\n" % n for n in range(100)),
        f"src/{HOSTILE}": b"x = '\x1b[2J'\n",
        "logo.png": b"\x89PNG\0",
        "docs/main.py": b"pass\n",
    }
    records = [
        make_record(7, {"o/r.zip": archive(good)}, title="Seven \x1b[1mbold", license="mit"),
        make_record(8, {"o/r.zip": archive({"a.f90": b"end\n"})}),
        make_record(9),
    ]
    with Sandbox(Corpus(records)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def catalogue(served: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _harvested(served, tmp_path_factory.mktemp("catalogue") / "catalogue.jsonl")


def _harvested(served: Sandbox, path: Path) -> Path:
    with HttpClient() as client:
        harvest(path, HarvestOptions(api_url=served.api_url), client)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    """A cluster that stands already, so that no command has to start one."""
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        protocol="tcp",
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def dataset(
    catalogue: Path, cluster: distributed.LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("dataset") / "ds"
    with distributed.Client(cluster) as client:
        build(catalogue, path, client=client)
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_build_says_what_it_did_and_the_second_time_that_there_is_nothing_to_do(
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ("build", catalogue, tmp_path / "ds", "--cluster", cluster.scheduler_address)
    assert run(*words, "--export", "pickle") == 0
    said = capfd.readouterr()
    assert "2 records, 5 files, 5 images" in said.out
    assert "failed: 1 no_files" in said.out
    assert "record 9 failed: no_files" in said.err
    assert (tmp_path / "ds/legacy/7/images_7.pkl").exists()
    assert run(*words) == 0
    assert capfd.readouterr().out.startswith("nothing to do: ")
    assert run("--quiet", *words) == 0
    assert capfd.readouterr().err == ""


def test_records_without_text_are_counted_and_those_that_could_not_be_read_fail(
    cluster: distributed.LocalCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nested = archive({"inner.zip": archive({"a.py": b"x = 1\n"})})
    records = [
        make_record(7, {"data.zip": archive({"a.bin": bytes(50)})}),
        make_record(8, {"code.zip": nested}),
        make_record(9, {"broken.7z": b"7z\xbc\xaf\x27\x1c" + bytes(200)}),
        make_record(10, {"deep.zip": archive({"code.zip": nested})}),
    ]
    with Sandbox(Corpus(records)) as served:
        catalogue = _harvested(served, tmp_path / "c.jsonl")
        words = ("build", catalogue, tmp_path / "ds", "--cluster", cluster.scheduler_address)
        assert run(*words) == 0
        assert "failed: 2 unreadable_archive" in capfd.readouterr().out
    assert run("status", tmp_path / "ds") == 0
    assert "no images  1 of the committed records\n" in capfd.readouterr().out
    assert run("status", tmp_path / "ds", "--failures") == 0
    said = capfd.readouterr().out
    assert "broken.7z" in said
    assert "an archive within an archive within an archive is not opened" in said
    files = zml.open_dataset(tmp_path / "ds").files
    paths = list(files.path[files.record_id == 8])
    assert [path.partition("/")[2] for path in paths] == [
        "inner.zip",
        f"inner.zip/{paths[0].partition('/')[0]}/a.py",
    ]


def test_what_is_left_out_for_its_size_is_said(
    cluster: distributed.LocalCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = {"a.py": 50, "b.py": 100_000, "c.py": 100_001, "frame.py": 400_000, "d.csv": 2_000_000}
    files = {name: (b"x = 1\n" * size)[:size] for name, size in sizes.items()}
    catalogue = tmp_path / "c.jsonl"
    records = [make_record(n, {"o/r.zip": archive(files)}) for n in (7, 8)]
    with Sandbox(Corpus(records)) as served:
        _harvested(served, catalogue)
        on = ("--cluster", cluster.scheduler_address)
        assert run("build", catalogue, tmp_path / "ds", *on, "--limit", 1) == 0
        line = "3 files of 2,500,001 bytes left out, each larger than 100,000 (--max-file-size)"
        assert capfd.readouterr().out.rstrip().endswith(f"; {line}")
        assert run("status", tmp_path / "ds") == 0
        assert f"too large  {line}\n" in capfd.readouterr().out
        assert line in repr(zml.open_dataset(tmp_path / "ds"))
        # Another dataset with another limit, in any unit; it keeps its limit in later builds.
        words = ("build", catalogue, tmp_path / "large", *on)
        assert run(*words, "--limit", 1, "--max-file-size", "400kB") == 0
        assert "; 1 file of 2,000,000 bytes left out, larger than 400,000" in capfd.readouterr().out
        assert run(*words) == 0
        said = capfd.readouterr()
        assert "2 files of 4,000,000 bytes left out" in said.out
        assert zml.open_dataset(tmp_path / "large").files.query("status == 'ok'").shape[0] == 8
        assert "note:" not in said.err
        # A dataset of two limits says so.
        assert run("build", catalogue, tmp_path / "ds", *on, "--max-file-size", "1MB") == 0
        assert "note: files of up to 1,000,000 bytes are read of new records only" in (
            capfd.readouterr().err
        )
    for size in ("1 potato", "-5", "0"):
        assert run("build", catalogue, tmp_path / "none", "--max-file-size", size) == 2
        assert f"--max-file-size {size!r} is not a size" in capfd.readouterr().err


@pytest.mark.slow
def test_a_server_that_is_gone_is_said_while_it_is_tried_again(
    cluster: distributed.LocalCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    catalogue = tmp_path / "c.jsonl"
    with Sandbox(Corpus([make_record(7, {"o/r.zip": archive({"a.py": b"1\n"})})])) as served:
        _harvested(served, catalogue)
        host = served.api_url.removeprefix("http://").partition("/")[0]
    words = ("build", catalogue, tmp_path / "ds", "--cluster", cluster.scheduler_address)
    assert run(*words) == 1
    said = capfd.readouterr().err
    assert said.index(f"{host} does not answer; trying again\n") < said.index("record 7 failed")


def test_an_update_says_that_its_sandbox_is_gone(
    cluster: distributed.LocalCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Sandbox(Corpus([make_record(7, {"a.py": b"1\n"})])) as served:
        catalogue = _harvested(served, tmp_path / "c.jsonl")
        on = ("--cluster", cluster.scheduler_address)
        assert run("build", catalogue, tmp_path / "ds", *on) == 0
        assert run("update", tmp_path / "ds", *on) == 0
    capfd.readouterr()
    assert run("update", tmp_path / "ds", *on) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"{served.api_url}, which no longer runs: the sandbox of a demo ends with it" in said


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o644, True)])
def test_a_token_that_others_can_read_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("secret-word\n")
    token.chmod(mode)
    with Sandbox(Corpus([make_record(7, {"a.py": b"1\n"})])) as served:
        words = ("harvest", tmp_path / "c.jsonl", "--api-url", served.api_url)
        assert run(*words, "--token-file", token) == 0
        said = capfd.readouterr().err
        assert ("warning: others can read the token in" in said) == warned
        assert run("fetch", tmp_path / "c.jsonl", tmp_path / "cache", "--token-file", token) == 0
        assert ("chmod 600" in capfd.readouterr().err) == warned
    assert "secret-word" not in said


def test_where_nothing_could_be_built_the_run_has_failed(
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["build", catalogue, tmp_path / "ds", "--cluster", cluster.scheduler_address]
    assert run(*words, "--offline", "--cache", tmp_path / "empty") == 1
    said = capfd.readouterr()
    assert "failed: 3 not_in_cache" in said.out
    assert said.err.endswith("ds holds no record: all that were tried failed\n")
    assert run(*words) == 0


def test_a_scratch_folder_that_cannot_be_is_named(
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ["build", catalogue, tmp_path / "ds", "--cluster", cluster.scheduler_address]
    assert run(*words, "--scratch", tmp_path / "none") == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("zml-dask: no folder for downloaded archives can be made in ")
    assert "none' of " in last


@pytest.mark.parametrize(
    "name", ["7", "zenodo.7", "10.5281/zenodo.7", "https://doi.org/10.5281/zenodo.7", "records/7"]
)
def test_a_record_goes_by_its_number_or_its_doi(
    dataset: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert run("show", dataset, name) == 0
    assert capfd.readouterr().out.startswith("7  Seven")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["build", "missing.jsonl", "ds"], 2, "there is no catalogue .*missing.jsonl"),
        (["build", "{catalogue}", "{foreign}"], 2, "holds 'thesis.tex' and no dataset"),
        (["build", "{catalogue}", "{foreign}/thesis.tex"], 2, "is a file"),
        (["build", "{catalogue}", "ds", "--export", "png"], 2, "unknown format 'png'"),
        (["build", "{catalogue}", "ds", "--limit", "0"], 2, "--limit"),
        (["build", "{catalogue}", "ds", "--offline"], 2, "needs a cache"),
        (["build", "{catalogue}", "ds", "--config", "none.toml"], 2, "none.toml"),
        (["build", "{catalogue}", "ds", "--adapt", "4"], 2, "MIN:MAX"),
        (["build", "{catalogue}", "ds", "--max-archive-size", "much"], 2, "not a size"),
        (["build", "{catalogue}", "/proc/ds"], 1, "cannot write .* folder cannot .*/proc/ds"),
        (["build", "{catalogue}", "ds", "--dashboard", "no.such.invalid"], 1, "no.such.invalid"),
        (["harvest", "new.jsonl", "--api-url", "zenodo.org/api"], 2, "not the root of an API"),
        (["harvest", "new.jsonl", "--api-url", "https://zenodo.org"], 2, "not the root of an API"),
        (["build", "{empty}", "ds"], 2, "names no record"),
        (["status", "ds"], 2, "holds no dataset"),
        (["show", "ds", "7"], 2, "holds no committed dataset"),
        (["update", "ds"], 2, "not built from a finished harvest"),
        (["fetch", "missing.jsonl", "cache"], 2, "there is no catalogue"),
    ],
)
def test_a_mistake_is_one_clear_line_and_harms_nothing(
    catalogue: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    (tmp_path / "empty.jsonl").touch()
    places = {"catalogue": catalogue, "foreign": foreign, "empty": tmp_path / "empty.jsonl"}
    assert run(*[word.format(**places) for word in words]) == status
    said = capfd.readouterr()
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("zml-dask: ")
    assert re.search(message, last)
    assert "Traceback" not in said.err
    assert said.out == ""
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "ds" / "build.lock").exists()


def test_a_locked_dataset_is_refused_in_one_line(
    catalogue: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with dataset_lock(Storage.open(tmp_path / "ds")):
        assert run("build", catalogue, tmp_path / "ds") == 1
    said = capfd.readouterr().err
    assert len(said.strip().splitlines()) == 1
    assert "another build is running" in said


def test_status_counts_and_costs(
    dataset: Path, catalogue: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("status", dataset, "--json") == 0
    status = json.loads(capfd.readouterr().out)
    assert status["committed"] == {"records": 2, "files": 5, "images": 5}
    assert status["staged"] == {"records": 0, "files": 0, "images": 0}
    assert status["failed"] == {"no_files": 1}
    assert status["to_do"] == 0
    images = next(cost for cost in status["arrays"] if cost["name"] == "images")
    assert (images["rows"], images["size"]) == (5, 5 * 80 * 80 * 4)
    on_disk = sum(
        path.stat().st_size
        for path in (dataset / "images.zarr/images").rglob("*")
        if path.is_file()
    )
    assert images["stored"] == on_disk
    assert images["codec"].startswith("blosc zstd")
    assert {table["name"] for table in status["tables"]} >= {"files", "records", "failures"}
    assert run("status", dataset) == 0
    assert "committed  2 records, 5 files, 5 images" in capfd.readouterr().out
    assert run("status", dataset, "--failures") == 0
    out = capfd.readouterr().out
    assert "1 no_files, permanent: " in out
    assert "record 9, at fetch, tried once: " in out


def test_status_tells_what_is_left_to_do_and_only_an_unfinished_harvest_is_noted(
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    state = json.loads(Path(f"{catalogue}.state.json").read_text())
    unfinished = tmp_path / "catalogue.jsonl"
    shutil.copy(catalogue, unfinished)
    begun = json.dumps({**state, "complete_until": None, "finished": False})
    Path(f"{unfinished}.state.json").write_text(begun)
    compressed = tmp_path / "compressed.jsonl.gz"
    compressed.write_bytes(gzip.compress(catalogue.read_bytes()))
    words = ("--cluster", cluster.scheduler_address, "--limit", "1")
    for given, noted in ((catalogue, False), (compressed, False), (unfinished, True)):
        dataset = tmp_path / f"{given.name}-{noted}"
        assert run("build", given, dataset, *words) == 0
        assert (f"the harvest of {given} is not finished" in capfd.readouterr().err) == noted
        assert run("status", dataset, "--json") == 0
        status = json.loads(capfd.readouterr().out)
        assert (status["to_do"], status["catalogue"]) == (2, str(given))


def test_status_counts_what_the_last_builds_condition_chose(
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first = json.loads(catalogue.read_text().splitlines()[0])["id"]
    words = ("--cluster", cluster.scheduler_address, "--where", f"record_id = {first}")
    assert run("build", catalogue, tmp_path / "ds", *words) == 0
    capfd.readouterr()
    assert run("status", tmp_path / "ds", "--json") == 0
    assert json.loads(capfd.readouterr().out)["to_do"] == 0
    # Whoever names the catalogue asks about all of it.
    assert run("status", tmp_path / "ds", "--catalogue", catalogue, "--json") == 0
    assert json.loads(capfd.readouterr().out)["to_do"] == 2


def test_show_prints_a_tree_that_no_name_can_break(
    dataset: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("show", dataset, 7) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "Seven \\x1b[1mbold" in out
    assert "license: mit" in out
    assert "  src/\n" in out
    assert "main.py  (0.97 kiB, Python, 2 images)" in out
    assert "logo.png  (5 B, binary)" in out


def test_show_prints_a_file_as_text_and_images(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("show", dataset, 7, "src/main.py") == 0
    out = capfd.readouterr().out
    assert "2 images)\n\nprint(0)\n" in out
    assert "print(99)\n" in out
    assert "█" in out
    assert run("show", dataset, 7, "src/main.py", "--image", "1", "--png", tmp_path / "i.png") == 0
    with Image.open(tmp_path / "i.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (80, 80)
    assert "".join(map(chr, pixels[0, :9])) == "print(80)"
    capfd.readouterr()
    hostile = r"evil\x1b[31m\u202e.py"
    assert run("show", dataset, 7, hostile) == 0
    assert "\x1b" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["5"], "holds no record 5"),
        (["9"], "record 9 is not in the dataset: no_files"),
        (["7", "none.py"], "holds no file 'none.py'"),
        (["7", "main.py"], "several files end in 'main.py'"),
        (["7", "logo.png"], "has no image, it is binary"),
        (["7", "src/main.py", "--image", "2"], "has 2 images, 0 to 1"),
        (["7", "--png", "x.png"], "need the PATH"),
    ],
)
def test_show_says_what_it_cannot_show(
    dataset: Path, capfd: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run("show", dataset, *words) == 2
    assert message in capfd.readouterr().err


def test_a_cache_stands_in_for_the_network(
    served: Sandbox,
    catalogue: Path,
    cluster: distributed.LocalCluster,
    dataset: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    assert run("fetch", catalogue, cache) == 0
    assert "2 records fetched" in capfd.readouterr().out
    assert run("fetch", catalogue, cache) == 0
    assert "0 records fetched (0 B), 2 there before" in capfd.readouterr().out
    served.requests.clear()
    words = ("--cache", cache, "--offline", "--cluster", cluster.scheduler_address)
    assert run("build", catalogue, tmp_path / "ds", *words) == 0
    assert len(served.requests) == 0
    assert "failed: 1 not_in_cache" in capfd.readouterr().out
    shard = "images.zarr/images/c/0/0/0"
    assert (tmp_path / "ds" / shard).read_bytes() == (dataset / shard).read_bytes()


def test_where_nothing_could_be_fetched_the_run_has_failed(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    served = make_sandbox([make_record(9), make_record(10)])
    catalogue = _harvested(served, tmp_path / "catalogue.jsonl")
    assert run("fetch", catalogue, tmp_path / "cache") == 1
    said = capfd.readouterr()
    assert "failed: 2 no_files" in said.out
    assert said.err.endswith("cache holds no record: all that were tried failed\n")
    served.corpus.add(make_record(11, {"o/r.zip": archive({"a.py": b"1\n"})}))
    # One is there, which is something to build from.
    for _ in range(2):
        assert run("fetch", _harvested(served, tmp_path / "other.jsonl"), tmp_path / "cache") == 0


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_fetch_waits_for_no_download(
    make_sandbox: Callable[..., Sandbox], tmp_path: Path, asked: signal.Signals
) -> None:
    code = {"o/r.zip": archive({"a.py": b"1\n"})}
    served = make_sandbox([make_record(number, code) for number in range(11, 17)])
    catalogue = _harvested(served, tmp_path / "catalogue.jsonl")
    served.faults = Faults(stall_every=1, stall_seconds=1000)
    words = [COMMAND, "fetch", str(catalogue), str(tmp_path / "cache")]
    fetch = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while len(served.requests.downloads) < 4:
            assert fetch.poll() is None
            time.sleep(0.02)
        fetch.send_signal(asked)
        _, said = fetch.communicate(timeout=500)
    finally:
        fetch.kill()
    assert fetch.returncode == 130
    assert "interrupted; run the same command again" in said
    assert "Traceback" not in said


def test_update_appends(
    served: Sandbox,
    catalogue: Path,
    cluster: distributed.LocalCluster,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = ("--cluster", cluster.scheduler_address)
    assert run("build", catalogue, tmp_path / "ds", *words) == 0
    capfd.readouterr()
    assert run("update", tmp_path / "ds", *words) == 0
    assert capfd.readouterr().out.startswith("nothing new for ")


@pytest.mark.slow
def test_the_demo_runs_twice(tmp_path: Path) -> None:
    words = ["demo", "zenodo-ml", "--limit", "16", "--workers", "1"]

    def demo(*by: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*by, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    ours = tmp_path / "types.py"
    ours.write_text("raise RuntimeError('of the current folder, not of the library')")
    first = demo(COMMAND)
    ours.unlink()
    second = demo(sys.executable, "-m", "zml_dask")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "16 records" in first.stdout
    assert "images by language: " in first.stdout
    assert "16 archives fetched over HTTP" in first.stdout
    assert "█" in first.stdout
    assert second.stdout.startswith("nothing to do: ")
    assert "Next: python -m zml_dask status zenodo-ml" in second.stdout
    assert (tmp_path / "catalogue.jsonl").exists()
    assert "Traceback" not in first.stderr


def test_the_demo_leaves_anothers_catalogue_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "catalogue.jsonl").write_text('{"id": 1}\n')
    assert run("demo") == 2
    assert "is no demo's catalogue" in capfd.readouterr().err
    assert (tmp_path / "catalogue.jsonl").read_text() == '{"id": 1}\n'


def test_a_demo_adds_nothing_to_anothers_dataset(
    catalogue: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.jsonl"  # without the state of its harvest
    copy.write_bytes(catalogue.read_bytes())
    assert run("build", copy, tmp_path / "ds", "--workers", "1") == 0
    before = (tmp_path / "ds" / "dataset.json").read_bytes()
    assert run("demo", tmp_path / "ds") == 2
    assert "is no demo's dataset" in capfd.readouterr().err
    assert (tmp_path / "ds" / "dataset.json").read_bytes() == before


def test_a_demo_into_a_folder_of_others_leaves_the_former_demo_as_it_is(
    tmp_path: Path, served: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("harvest", "catalogue.jsonl", "--api-url", served.api_url) == 0
    before = (tmp_path / "catalogue.jsonl").read_bytes()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "api.md").touch()
    assert run("demo", "docs") == 2
    assert (tmp_path / "catalogue.jsonl").read_bytes() == before


def test_verify_fetches_again_with_the_token_and_the_cache_that_it_is_given(
    make_sandbox: Callable[..., Sandbox], cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    served = make_sandbox(
        [
            make_record(
                7,
                {
                    "a.zip": zip_bytes(
                        "o-r-1a2b3c4",
                        [Source("a.py", b"x = 1\n")],
                        when=datetime(2024, 1, 1, tzinfo=UTC),
                    )
                },
            )
        ]
    )
    catalogue = _harvested(served, tmp_path / "catalogue.jsonl")
    dataset, cache = tmp_path / "ds", tmp_path / "cache"
    assert run("build", catalogue, dataset, "--cluster", cluster.scheduler_address) == 0
    assert run("fetch", catalogue, cache) == 0
    token = tmp_path / "token"
    token.write_text("secret\n")
    token.chmod(0o600)
    served.requests.clear()
    assert run("verify", dataset, "--source", 1, "--token-file", token) == 0
    assert [seen.is_authenticated for seen in served.requests.downloads] == [True]
    served.requests.clear()
    assert run("verify", dataset, "--source", 1, "--cache", cache, "--offline") == 0
    assert not served.requests.downloads
    assert run("verify", dataset, "--source", 1, "--cache", tmp_path / "none", "--offline") == 1
