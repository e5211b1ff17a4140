"""Clusters of the caller's own: which are taken, and workers that lack something are named."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import distributed
import psutil
import pytest
from serving import Faults, Sandbox

from zml_dask.engine.clusters import ClusterOptions, check_client, open_cluster, use_client
from zml_dask.engine.clusters.opening import difference, own_versions
from zml_dask.errors import ClusterError, UsageError
from zml_dask.pipeline.build import build
from zml_dask.records.parse import parse_record
from zml_dask.sandbox.distributions import installed_corpus

from .runs import COMMAND, PATIENT, run, until
from .test_standing import standing

QUIET = {"dashboard_address": ":0", "processes": False, "threads_per_worker": 1}


@pytest.fixture
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(n_workers=1, **QUIET) as opened:
        yield opened


def test_a_cluster_and_an_address_are_as_good_as_a_client(
    cluster: distributed.LocalCluster,
) -> None:
    for given in (cluster, cluster.scheduler_address):
        with use_client(given) as client:
            assert client.submit(sum, [1, 2]).result() == 3
    with distributed.Client(cluster) as mine, use_client(mine) as client:
        assert client is mine
    assert cluster.status == distributed.core.Status.running


async def _asynchronous() -> None:
    async with distributed.Client(asynchronous=True, n_workers=1, **QUIET) as client:
        for given in (client, client.cluster):
            with pytest.raises(UsageError, match=r"is asynchronous.*to_thread"):
                build([], "nowhere", client=given)


def test_what_is_asynchronous_is_refused_at_once() -> None:
    import asyncio

    asyncio.run(_asynchronous())


@pytest.mark.parametrize("given", [4, 2.0, distributed.Client, object(), ["tcp://a:1"]])
def test_what_is_no_client_is_refused_at_once(given: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="client has to be a Client or a Cluster") as raised:
        build([], tmp_path / "ds", client=given)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_a_closed_client_is_refused(cluster: distributed.LocalCluster) -> None:
    client = distributed.Client(cluster)
    client.close()
    with pytest.raises(UsageError, match="is closed"):
        check_client(client)


def test_names_of_what_differs() -> None:
    ours = own_versions()
    assert ours["zml_dask"]
    assert ours["Python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert difference(ours, ours) is None
    for name in ours:
        assert difference(ours, {**ours, name: "0.0.1"}) == (
            f"has {name} 0.0.1 where the driver has {ours[name]}"
        )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has what this one has, but this package, NumPy and what needs NumPy."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    lacking = ("zml", "numpy", "pandas", "pyarrow", "numba", "__editable__", "_zml", "a1_")
    for each in Path(distributed.__file__).parents[1].iterdir():
        if not each.name.startswith(lacking) and each.suffix != ".pth":
            (packages / each.name).symlink_to(each)
    return folder / "bin" / "python"


def _fake(folder: Path, name: str, version: str) -> str:
    """A package of this name that has another version, for PYTHONPATH."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").touch()
    installed = folder / f"{name}-{version}.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    return str(folder)


@pytest.mark.parametrize(
    ("fakes", "words"),
    [
        ({}, "has no zml_dask"),
        ({"zml_dask": None}, "has no numpy"),
        ({"zml_dask": "0.0.1"}, "has zml_dask 0.0.1 where the driver has"),
    ],
)
def test_a_worker_that_differs_is_named_at_once(
    bare: Path, tmp_path: Path, fakes: dict[str, str | None], words: str
) -> None:
    path = tmp_path / "fakes"
    for name, version in fakes.items():
        _fake(path, name, version or str(own_versions()[name]))
    environment = os.environ | {"PYTHONPATH": str(path)}
    with standing(tmp_path, workers=0) as (file, _):
        begun = [str(bare), "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
        worker = subprocess.Popen(
            [*begun, "--no-dashboard", "--nthreads", "1", "--name", "odd",
             "--local-directory", str(tmp_path)],
            env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with (
                pytest.raises(ClusterError, match=words) as raised,
                open_cluster(str(file), options=PATIENT),
            ):
                pass
        finally:
            worker.kill()
            worker.wait()
    assert "(odd)" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_worker_without_the_package_that_joins_later_takes_no_task(
    bare: Path, tmp_path: Path
) -> None:
    log = tmp_path / "odd.log"
    with standing(tmp_path) as (file, _), open_cluster(str(file), options=PATIENT) as client:
        begun = [str(bare), "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file)]
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [*begun, "--no-nanny", "--no-dashboard", "--name", "odd",
                 "--local-directory", str(tmp_path)],
                env=os.environ | {"PYTHONPATH": ""}, cwd=tmp_path, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            until(lambda: worker.poll() is not None, "the worker has ended")
        finally:
            worker.kill()
            worker.wait()
        assert "zml_dask" in log.read_text()
        assert client.submit(sum, [1, 2]).result() == 3


def test_a_worker_of_another_version_that_joins_later_is_let_go(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    installed = tmp_path / "site" / "zml_dask-0.0.1.dist-info"  # found before the real one
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Name: zml_dask\nVersion: 0.0.1\n")
    with (
        standing(tmp_path) as (file, _),
        open_cluster(str(file), options=replace(PATIENT, say=said.append)) as client,
    ):
        path = os.pathsep.join([str(installed.parent), *sys.path[1:]])
        worker = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(file),
             "--no-dashboard", "--name", "odd", "--local-directory", str(tmp_path)],
            env=os.environ | {"PYTHONPATH": path},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: worker.poll() is not None, "the worker has ended")
            until(lambda: bool(said), "it is said")
        finally:
            worker.kill()
            worker.wait()
        assert "has zml_dask 0.0.1 where the driver has" in said[0]
        assert client.submit(sum, [1, 2]).result() == 3


SCRIPT = """
import zml_dask as zml
from zml_dask.engine.clusters import open_cluster

def work():
    with open_cluster("local", 1) as client:
        print(client.submit(sum, [1, 2]).result())
"""


@pytest.mark.parametrize(
    ("last", "guarded"),
    [
        ("work()", False),
        ("for _ in range(1):\n    work()", False),
        ("if True:\n    work()", False),
        ("if __name__ == '__main__':\n    work()", True),
        ("work() if __name__ == '__main__' else None", True),
        ("__name__ == '__main__' and work()", True),
    ],
)
def test_a_script_without_a_main_guard_is_told_of_it(
    tmp_path: Path, last: str, guarded: bool
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + last + "\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode == 0) is guarded, done.stderr
    if guarded:
        assert (done.stdout, done.stderr) == ("3\n", "")
    else:
        *_, said = done.stderr.splitlines()
        assert 'put what it does under: if __name__ == "__main__":' in said
        assert f"script.py, line {len(script.read_text().splitlines())}" in said
        assert done.stderr.count("Traceback") == 1  # the script's own


def test_a_daemon_process_starts_no_workers(tmp_path: Path) -> None:
    record = parse_record({"id": 7, "files": [{"key": "a.zip"}]})
    with multiprocessing.get_context("fork").Pool(1) as pool:
        failing = pool.apply_async(build, ([record], tmp_path / "ds"))
        with pytest.raises(UsageError, match="this is a daemon process"):
            failing.get(timeout=60)


@pytest.fixture
def as_nobody() -> Callable[[str], SimpleNamespace]:
    """Runs Python as another user of this machine, with Dask imported already."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")

    def run(code: str) -> SimpleNamespace:
        body = textwrap.dedent(code)
        program = (
            "import distributed, os, ssl, asyncio, tempfile\n"
            "from distributed.security import Security\n"
            "os.chdir('/')\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n" + body
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        return SimpleNamespace(out=done.stdout.strip(), err=done.stderr, status=done.returncode)

    return run


def test_another_user_of_the_machine_is_refused_by_a_local_cluster(
    as_nobody: Callable[[str], SimpleNamespace],
) -> None:
    with open_cluster("local", 1, options=ClusterOptions(dashboard="off")) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        addresses = [client.scheduler.address, *workers]
        addresses += [worker["nanny"] for worker in workers.values()]
        assert all(address.startswith("tls://") for address in addresses)
        tried = as_nobody(f"""
            from distributed.core import rpc
            async def main():
                for address in {addresses!r}:
                    for address, security in [
                        (address.replace("tls://", "tcp://"), None),
                        (address, Security.temporary()),
                    ]:
                        args = security.get_connection_args("client") if security else {{}}
                        try:
                            async with rpc(address, timeout=3, connection_args=args) as other:
                                await asyncio.wait_for(other.identity(), 3)
                            print("let in", address)
                        except (OSError, asyncio.TimeoutError) as error:
                            print("refused")
            asyncio.run(main())
        """)
        assert tried.status == 0, tried.err
        assert set(tried.out.splitlines()) == {"refused"}
        assert len(tried.out.splitlines()) == 2 * len(addresses)
        assert client.submit(os.getuid).result() == os.getuid()


def test_the_pages_of_the_scheduler_have_an_address_that_nobody_guesses() -> None:
    options = ClusterOptions(dashboard="127.0.0.1:0")
    with open_cluster("local", 1, options=options) as client:
        root = "http://127.0.0.1:{}".format(client.scheduler_info()["services"]["dashboard"])
        with urllib.request.urlopen(f"{root}{options.http_prefix}health") as answer:
            assert answer.read() == b"ok"
        pages = ["/", "/status", "/health", "/metrics", "/json/counts.json"]
        pages += ["/info/main/workers.html", "/proxy/8787/127.0.0.1/status"]
        for path in pages:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(root + path)
    assert options.http_prefix != ClusterOptions().http_prefix


@pytest.mark.parametrize("at_work", [False, True])
def test_ctrl_c_says_one_line(tmp_path: Path, at_work: bool) -> None:
    """The terminal sends it to the driver and to every worker, also to those that still start."""
    with Sandbox(installed_corpus(4, most_bytes=200_000), faults=Faults(delay=5)) as zenodo:
        catalogue, log = tmp_path / "catalogue.jsonl", tmp_path / "log"
        run("harvest", catalogue, "--api-url", zenodo.api_url, log=tmp_path / "harvest")
        zenodo.requests.clear()
        with log.open("wb") as output:
            build_ = subprocess.Popen(
                [*COMMAND, "build", str(catalogue), str(tmp_path / "ds"), "--workers", "2"],
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            if at_work:
                until(lambda: bool(zenodo.requests.downloads), "a download")
            else:
                children = psutil.Process(build_.pid).children
                until(lambda: len(children(recursive=True)) >= 2, "workers start")
            os.killpg(build_.pid, signal.SIGINT)
            assert build_.wait() == 130
        finally:
            build_.kill()
            build_.wait()
    said = [line for line in log.read_text().splitlines() if line and "records: " not in line]
    assert said.pop().startswith("zml-dask: interrupted; run the same command again")
    assert [line for line in said if "to build" not in line and "worker" not in line] == []
    assert "Traceback" not in log.read_text()
