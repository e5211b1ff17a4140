"""What a release is made of, and that its version is the same everywhere it is named."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = "zml_dask/publish/page"
NOT_IN_THE_WHEEL = (f"{PAGE}/src/", f"{PAGE}/package", f"{PAGE}/node_modules/", "/__pycache__/")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_the_package_and_what_it_reads_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"zml_dask-{PROJECT['version']}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = {name.split(".dist-info/")[1] for name in archive.namelist() if "dist-info" in name}
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "zml_dask").rglob("*"))
    sources = {name for name in files if (ROOT / name).is_file()}
    assert names == {n for n in sources if not any(part in n for part in NOT_IN_THE_WHEEL)}
    wanted = {"py.typed", "raster/data/linguist.json", "analysis/templates/report.html"}
    assert {f"zml_dask/{name}" for name in wanted} <= names
    assert {f"{PAGE}/{name}" for name in ("index.html", "viewer.js", "viewer.css")} <= names
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= about
    # The licences of what others wrote come along.
    assert f"licenses/{PAGE}/THIRD-PARTY.txt" in about
    assert "licenses/zml_dask/raster/data/LICENSE.linguist" in about


def test_the_source_release_can_be_tested_and_built(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/run"} <= names
    assert {f"{PAGE}/src/main.mjs", "tests/conftest.py", "deploy/requirements.lock"} <= names
    assert [name for name in names if "node_modules" in name or "__pycache__" in name] == []


def test_every_file_that_names_the_version_names_the_same() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    manifests = "".join(path.read_text() for path in (ROOT / "deploy/kubernetes").glob("*.yaml"))
    assert set(re.findall(r"/zml-dask:(\S+)", manifests)) == {version}
    assert f"{version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_oldest_python_is_the_same_for_the_installer_the_linter_and_the_lock() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    named = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert named[0] == oldest
    assert f"--python-version {oldest} " in (ROOT / ".ci/lock").read_text()
