"""What deploys the package, checked as far as one machine can."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from referencing.jsonschema import DRAFT4

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
KUBERNETES = "1.33.0"


def _check(*words: object) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_sound_bash() -> None:
    files = [path for path in (*DEPLOY.iterdir(), *(ROOT / ".ci").iterdir()) if path.is_file()]
    scripts = [path for path in files if path.read_text().startswith("#!/usr/bin/env bash\n")]
    assert len(scripts) >= 9
    for script in scripts:
        assert "\nset -euo pipefail\n" in script.read_text(), script
    _check("shellcheck", *scripts)


def test_dockerfile_is_pinned_small_and_not_root() -> None:
    _check("hadolint", DEPLOY / "Dockerfile")
    text = (DEPLOY / "Dockerfile").read_text()
    (base,) = re.findall(r"^ARG BASE=(\S+)", text, re.MULTILINE)
    assert re.search(r":\d+\.\d+\.\d+-slim", base), base
    stages = text.split("\nFROM ")
    assert {stage.split()[0] for stage in stages[1:]} == {"${BASE}"}
    users = re.findall(r"^USER (\S+)", stages[-1], re.MULTILINE)
    assert users
    assert users[-1].partition(":")[0] not in {"0", "root"}
    assert "--require-hashes" in text


def test_images_install_the_lock_file_that_is_there() -> None:
    definition = (DEPLOY / "zml-dask.def").read_text()
    sections = re.findall(r"^%(\w+)", definition, re.MULTILINE)
    assert {"arguments", "files", "post", "environment", "runscript", "test"} <= set(sections)
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    base = re.compile(r"^(?:    |ARG )BASE=(python:\S+)", re.MULTILINE)
    assert base.findall(definition) == base.findall(dockerfile)
    assert "libarchive13" in definition
    assert "libarchive13=" in dockerfile
    files_of = definition.split("%files")[1].split("%")[0]
    sources = [line.split()[0] for line in files_of.splitlines() if line.strip()]
    assert "deploy/requirements.lock" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
    for copied in re.findall(r"^COPY (?!--)(.+)", dockerfile, re.MULTILINE):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
    scripts = [definition.split(f"%{name}\n")[1].split("\n%")[0] for name in ("post", "runscript")]
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_lock_file_fulfils_what_the_package_requires() -> None:
    lock = (DEPLOY / "requirements.lock").read_text()
    pinned = {
        _canonical(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)(?:\[.*\])?==([^\s;]+)", lock, re.MULTILINE)
    }
    unhashed = [entry for entry in re.split(r"\n(?=\w)", lock) if "--hash=" not in entry]
    assert all(entry.startswith("#") for entry in unhashed)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    installed = ("archives", "s3", "dashboard", "fast")
    for text in [*project["dependencies"], *(each for name in installed for each in extras[name])]:
        wanted = Requirement(text)
        assert pinned[_canonical(wanted.name)] in wanted.specifier, text


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_the_schemas(manifest: Path) -> None:
    document = yaml.safe_load(manifest.read_text())
    if document["apiVersion"].startswith("kubernetes.dask.org/"):
        _check_dask_resource(document)
        # The operator makes pods of these; the schema of Dask's own leaves them open.
        for part in ("scheduler", "worker"):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": part},
                "spec": document["spec"][part]["spec"],
            }
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def _check_dask_resource(document: dict[str, Any]) -> None:
    """Against the operator's own definition; Kubernetes' part of it is checked for itself."""

    def retrieve(uri: str) -> referencing.Resource[Any]:
        content: dict[str, Any] = {"definitions": defaultdict(dict)}
        if uri.startswith("python://dask_kubernetes/"):
            path = uri.removeprefix("python://dask_kubernetes/")
            content = yaml.safe_load((files("dask_kubernetes") / path).read_text())
        return referencing.Resource(content, DRAFT4)

    folder = "python://dask_kubernetes/operator/customresources"
    schema = {"$ref": f"{folder}/templates.yaml#/definitions/dask.k8s.api.v1.DaskCluster"}
    registry: referencing.Registry[Any] = referencing.Registry(retrieve=retrieve)
    jsonschema.Draft4Validator(schema, registry=registry).validate(document)
    assert set(document["spec"]) <= {"idleTimeout", "scheduler", "worker"}


def test_pods_are_not_root_and_see_no_more_than_they_need() -> None:
    specs = []
    for manifest in MANIFESTS:
        document = yaml.safe_load(manifest.read_text())
        if document["kind"] == "DaskCluster":
            specs += [document["spec"][part]["spec"] for part in ("scheduler", "worker")]
        if document["kind"] == "Job":
            specs.append(document["spec"]["template"]["spec"])
    assert len(specs) == 3
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert not container["image"].endswith(":latest")
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"]["memory"]


def test_worker_limit_leaves_the_nanny_room_to_act() -> None:
    document = yaml.safe_load((DEPLOY / "kubernetes" / "cluster.yaml").read_text())
    (container,) = document["spec"]["worker"]["spec"]["containers"]
    limit = container["args"][container["args"].index("--memory-limit") + 1]
    assert limit == "3GiB"
    assert container["resources"]["limits"]["memory"] == "4Gi"


TEMPLATE = ROOT / "dask-jobqueue.yaml"


def test_template_names_settings_that_dask_jobqueue_knows() -> None:
    known = yaml.safe_load((files("dask_jobqueue") / "jobqueue.yaml").read_text())["jobqueue"]
    settings = yaml.safe_load(TEMPLATE.read_text())["jobqueue"]
    assert set(settings) <= set(known)
    assert set(settings["slurm"]) <= set(known["slurm"])
    hidden = re.findall(r"^    #([a-z-]+):(?: |$)", TEMPLATE.read_text(), re.MULTILINE)
    assert len(hidden) > 5
    assert set(hidden) <= set(known["slurm"]), set(hidden) - set(known["slurm"])


def test_template_is_yaml_with_every_comment_taken_off() -> None:
    text = re.sub(r"^( *)#((?:  )*(?! ))", r"\1\2", TEMPLATE.read_text(), flags=re.MULTILINE)
    settings = yaml.safe_load(text)
    assert settings["jobqueue"]["slurm-highmem"]["memory"] == "32GiB"
    assert settings["distributed"]["comm"]["tls"]["worker"]["key"]
