"""Eleven hundred real packages in sixty languages, from Debian's sources, npm and PyPI, pinned.

    python benchmarks/real_packages.py FOLDER

downloads what ``real_packages.csv`` lists, with the ordinary clients (``apt-get source``, ``pip
download``, ``npm pack``), into FOLDER, checks every archive's SHA-256, and writes one record per
package, with the metadata that its maintainers published and each archive as a ``file://``
URL: ``FOLDER/catalogue.jsonl``, and ``FOLDER/held-out.jsonl`` of packages that were drawn at
random and that nothing was tuned on. `zml-dask build FOLDER/catalogue.jsonl DATASET` then reads
them as it reads Zenodo's. Run again, it downloads only what is missing. A package that a
mirror no longer has is passed over and named.

A *family* is what one group of people wrote: the owner of the repository that a package names
as its home, or else the project. It is the record's concept, so that a split never divides
it: Debian's and PyPI's packages of one project, and the many of one organisation, are one.
"""

from __future__ import annotations

import csv
import email
import email.utils
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

LIST = Path(__file__).with_suffix(".csv")
SUITES = ("bookworm", "trixie")
"""Stable releases: their packages stay."""


class Package(NamedTuple):
    """A row of the list.

    Attributes
    ----------
    registry : str
        ``debian``, ``npm`` or ``pypi``.
    name, version : str
    kind : str
        Why it was chosen: a language, or how it is built.
    family : str
        Who wrote it.
    part : str
        ``benchmark`` or ``held-out``.
    size : int
        Of the archive, in bytes.
    sha256 : str
        Of the archive.
    file : str
        The archive's name.
    date : str
        Of the newest file in it, ``YYYY-MM-DD``; empty where archives carry no true one,
        as those of npm and of Hackage.
    """

    registry: str
    name: str
    version: str
    kind: str
    family: str
    part: str
    size: int
    sha256: str
    file: str
    date: str


def packages() -> list[Package]:
    """Read the list."""
    with LIST.open(newline="") as rows:
        return [Package(**{**row, "size": int(row["size"])}) for row in csv.DictReader(rows)]


def main(folder: Path) -> None:
    """Download what is missing, and write the catalogues."""
    listed = packages()
    numbers = {name: i for i, name in enumerate(sorted({p.family for p in listed}))}
    for registry in ("debian", "npm", "pypi"):
        (folder / registry).mkdir(parents=True, exist_ok=True)
    download([p for p in listed if not is_there(folder, p)], folder)
    describe = {"debian": debian_hit, "npm": npm_hit, "pypi": pypi_hit}
    lines: dict[str, list[str]] = {"benchmark": [], "held-out": []}
    size = 0
    for number, package in enumerate(listed):
        path = folder / package.registry / package.file
        if not is_there(folder, package):
            print(f"passed over: {package.name} {package.version} (not to be had)")
            continue
        record = describe[package.registry](package, path)
        record["id"] = 9_100_000 + number
        record["conceptrecid"] = 9_000_000 + numbers[package.family]
        record["doi"] = f"10.5072/zenodo.{record['id']}"  # DataCite's prefix for tests
        lines[package.part].append(json.dumps(record, sort_keys=True) + "\n")
        size += package.size
    (folder / "catalogue.jsonl").write_text("".join(lines["benchmark"]))
    (folder / "held-out.jsonl").write_text("".join(lines["held-out"]))
    counts = " and ".join(f"{len(several)} ({part})" for part, several in lines.items())
    print(f"{counts} packages, {size / 1e6:.0f} MB")


def is_there(folder: Path, package: Package) -> bool:
    """Say whether the archive has been downloaded, whole and as it was pinned."""
    path = folder / package.registry / package.file
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def download(missing: list[Package], folder: Path) -> None:
    """Have each registry's client fetch what is missing of it; what it lacks stays missing."""
    of = {name: [p for p in missing if p.registry == name] for name in ("debian", "npm", "pypi")}
    apt = private_apt(folder / "apt") if of["debian"] else []
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary")

    def from_debian(several: list[Package]) -> None:
        _run("apt-get", *apt, "source", "--download-only", "-qq", "--only-source",
             *(f"{p.name}={p.version}" for p in several), cwd=folder / "debian")  # fmt: skip
        # Of several nothing is fetched where one is not listed any more.
        if len(several) > 1 and not any(is_there(folder, p) for p in several):
            for package in several:
                from_debian([package])

    def from_npm(package: Package) -> None:
        _run("npm", "pack", "--silent", f"{package.name}@{package.version}", cwd=folder / "npm")

    def from_pypi(package: Package) -> None:
        wanted = f"{package.name}=={package.version}"
        _run(*pip, package.name, wanted, cwd=folder / "pypi")

    # A client waits for its registry most of the time.
    with ThreadPoolExecutor(4) as pool:
        starts = range(0, len(of["debian"]), 25)
        wanted = [pool.submit(from_debian, of["debian"][at : at + 25]) for at in starts]
        wanted += [pool.submit(from_npm, package) for package in of["npm"]]
        wanted += [pool.submit(from_pypi, package) for package in of["pypi"]]
        for each in wanted:
            each.result()


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, capture_output=True, timeout=600)


def private_apt(folder: Path) -> list[str]:
    """Return apt's options for a package list of its own: the system's is left alone."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(
        "".join(f"deb-src http://deb.debian.org/debian {suite} main\n" for suite in SUITES)
    )
    options = [
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=-",
        f"Dir::State::lists={folder / 'lists'}",
        f"Dir::Cache={folder / 'cache'}",
        "APT::Sandbox::User=root",
    ]
    flags = [word for option in options for word in ("-o", option)]
    if not list((folder / "lists").glob("*Sources*")):
        subprocess.run(["apt-get", *flags, "update", "-qq"], check=True)
    return flags


def debian_hit(package: Package, path: Path) -> dict[str, Any]:
    """Describe a source package by what its packaging says."""
    upstream = package.version.partition(":")[2] or package.version
    packaging = list(path.parent.glob(f"{package.name}_{upstream}.debian.tar.*"))
    texts = packaging_texts(packaging[0] if packaging else path)
    licence = re.search(r"(?ms)^Files: \*$.*?^License: *(\S+)", texts["copyright"])
    section = re.search(r"^Section: *(?:[\w-]+/)?([\w-]+)", texts["control"], re.MULTILINE)
    summary = re.search(r"^Description: *(.+)", texts["control"], re.MULTILINE)
    maintainer = re.search(r"^Maintainer: *(.+)", texts["control"], re.MULTILINE)
    return hit(
        package,
        path,
        title=f"{package.name}: {summary[1] if summary else 'Debian source package'}",
        licence=licence[1].lower() if licence else None,
        keywords=["debian", *([section[1]] if section else [])],
        creator=email.utils.parseaddr(maintainer[1])[0] if maintainer else "the authors",
    )


def packaging_texts(archive: Path) -> dict[str, str]:
    """Read the files of ``debian/`` that describe a package; empty where there is none."""
    texts = dict.fromkeys(("control", "copyright"), "")
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.rpartition("debian/")[2]
            if member.isfile() and name in texts:
                texts[name] = tar.extractfile(member).read().decode(errors="replace")
    return texts


def npm_hit(package: Package, path: Path) -> dict[str, Any]:
    """Describe an npm package by its own ``package.json``."""
    with tarfile.open(path) as tar:
        name = next(m for m in tar.getnames() if re.fullmatch(r"[^/]+/package\.json", m))
        about = json.load(tar.extractfile(name))
    author = about.get("author") or "the authors"
    return hit(
        package,
        path,
        title=f"{package.name}: {about.get('description', 'npm package')}",
        licence=about["license"].lower() if isinstance(about.get("license"), str) else None,
        keywords=["npm", *about.get("keywords", [])[:4]],
        creator=author["name"] if isinstance(author, dict) else author,
    )


def pypi_hit(package: Package, path: Path) -> dict[str, Any]:
    """Describe a source distribution by its ``PKG-INFO``."""
    with tarfile.open(path) as tar:
        name = next(m for m in tar.getnames() if m.count("/") == 1 and "PKG-INFO" in m)
        about = email.message_from_binary_file(tar.extractfile(name))
    licence = about.get("License-Expression") or (about.get("License") or "").partition("\n")[0]
    return hit(
        package,
        path,
        title=f"{package.name}: {about.get('Summary', 'PyPI package')}",
        licence=licence.lower() or None,
        keywords=["python", "pypi"],
        creator=(about.get("Author") or "the authors").partition("\n")[0],
    )


def hit(
    package: Package,
    path: Path,
    *,
    title: str,
    licence: str | None,
    keywords: list[str],
    creator: str,
) -> dict[str, Any]:
    """Return a record as Zenodo's API would, but for the file's URL."""
    metadata: dict[str, Any] = {
        "title": title,
        "version": package.version,
        "keywords": keywords,
        "creators": [{"name": creator}],
        "resource_type": {"type": "software"},
        "access_right": "open",
    }
    if package.date:
        metadata["publication_date"] = package.date
    if licence:
        metadata["license"] = {"id": licence}
    entry = {"key": package.file, "size": package.size, "url": f"file://{path.absolute()}"}
    return {"metadata": metadata, "files": [entry]}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
