"""The manifests of deploy/kubernetes, run by containers that share nothing but an object store.

Driver, scheduler and three workers run the very commands of the manifests, as their user, on a
read-only root and on networks of their own; Zenodo and the store are hosts too.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import moto.server
import pytest
import yaml
from serving import Faults, Sandbox

from zml_dask.sandbox.distributions import installed_corpus

from .containers import Switch, missing
from .runs import finish, need, run, until

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
BUCKET = "example-bucket"  # of the manifests
WORKERS = ("worker-0", "worker-1", "worker-2")
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def switch() -> Iterator[Switch]:
    need(missing())
    with Switch(("zml-scheduler", "driver", "local", *WORKERS, "zenodo", "store")) as made:
        yield made


@pytest.fixture(scope="module")
def store(switch: Switch) -> Iterator[str]:
    """A server that speaks S3, on a host of its own; its URL."""
    host = switch["store"]
    server = moto.server.ThreadedMotoServer(ip_address=host.address, port=9000)
    with host.inside(), pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        server.start()
        url = f"http://{host.address}:9000"
        boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)
        yield url
        server.stop()


@pytest.fixture(scope="module")
def zenodo(switch: Switch) -> Iterator[Sandbox]:
    host = switch["zenodo"]
    corpus = installed_corpus(10, most_bytes=600_000)
    with host.inside(), Sandbox(corpus, host=host.address) as served:
        yield served


def test_manifests_build_the_same_bytes_though_a_worker_dies_and_another_is_cut_off(
    switch: Switch, store: str, zenodo: Sandbox, tmp_path: Path
) -> None:
    tls = tmp_path / "tls"
    subprocess.run([DEPLOY / "make-certificates.sh", tls], check=True, capture_output=True)
    cluster = yaml.safe_load((DEPLOY / "kubernetes" / "cluster.yaml").read_text())["spec"]
    job = yaml.safe_load((DEPLOY / "kubernetes" / "build.yaml").read_text())["spec"]["template"]
    # Beside the keys of the store: where it is, and where Zenodo is.
    settings = {"AWS_ENDPOINT_URL": store, "ZENODO_API_URL": zenodo.api_url}
    secrets = {"zml-tls": tls, "zml-storage": KEYS | settings}
    with ExitStack() as stack:

        def container(host: str, pod: dict) -> tuple[subprocess.Popen[bytes], Path]:
            log = tmp_path / f"{host}.log"
            process = switch.container(host, pod, secrets, log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process, log

        with switch["driver"].inside():
            catalogue = tmp_path / "catalogue.jsonl"
            run("harvest", catalogue, "--api-url", zenodo.api_url, log=tmp_path / "harvest.log")
            s3 = boto3.client("s3", endpoint_url=store)
            for path in sorted(tmp_path.glob("catalogue.jsonl*")):  # and what is known of it
                s3.upload_file(str(path), BUCKET, path.name)
        zenodo.requests.clear()
        zenodo.faults = Faults(delay=0.5)
        _, scheduler = container("zml-scheduler", cluster["scheduler"]["spec"])
        workers = {name: container(name, cluster["worker"]["spec"])[0] for name in WORKERS}
        driver, log = container("driver", job["spec"])
        until(lambda: len(zenodo.requests.downloads) >= 3, "three downloads")
        # The last worker alone is not to be done before it is time.
        zenodo.faults = Faults(delay=12)
        workers["worker-0"].kill()
        switch.cut("worker-1")
        # By the same image, for what made a dataset is part of it.
        local, local_log = container("local", _built_locally(job["spec"]))
        address = f"tls://{switch['worker-1'].address}:"
        # After half a minute, which is what Dask waits for a host that says nothing.
        until(lambda: f"Remove worker addr: {address}" in scheduler.read_text(), "it is dropped")
        switch.reconnect("worker-1")
        # It ends by itself, and a kubelet starts it anew.
        workers["worker-1"].wait()
        container("worker-1", cluster["worker"]["spec"])
        until(lambda: _registered(scheduler, address) == 2, "it is there again")
        assert driver.poll() is None
        zenodo.faults = Faults()
        finish(driver, log)
        finish(local, local_log)
        with switch["driver"].inside():
            assert _content_of_bucket(s3, "zenodo-ml") == _content_of_bucket(s3, "local")


def _built_locally(pod: dict) -> dict:
    """The driver's pod, with workers of its own and another dataset."""
    (container,) = pod["containers"]
    zml_dask, build, catalogue, *_ = container["args"]
    options = ("--workers", "1", "--dashboard", "off")
    words = [zml_dask, build, catalogue, f"s3://{BUCKET}/local", *options]
    return pod | {"containers": [container | {"args": words}]}


def _registered(scheduler: Path, address: str) -> int:
    return scheduler.read_text().count(f"Register worker addr: {address}")


def _content_of_bucket(s3: Any, dataset: str) -> dict[str, str]:
    """Every object of a dataset but the diary of its builds, by its digest."""
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{dataset}/"):
        for key in (each["Key"] for each in page["Contents"]):
            body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            found[key.removeprefix(f"{dataset}/")] = hashlib.sha256(body).hexdigest()
    found.pop("build.log.jsonl")
    return found
