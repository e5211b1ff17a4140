"""A catalogue of over a hundred real packages, from Debian's sources, npm and PyPI.

    python benchmarks/real_packages.py FOLDER

downloads the packages with their ordinary clients (``apt-get source``, ``pip
download``, ``npm pack``) into FOLDER and writes ``FOLDER/catalogue.jsonl``, one record a package
with the metadata that its maintainers published, and each archive as a
``file://`` URL. `zml-dask build FOLDER/catalogue.jsonl DATASET` then reads them
as it reads Zenodo's. The report's and the viewer's screenshots, the figures on
languages and the experiments of ``docs/learning.md`` are made from it. A package
that the mirror no longer has is passed over and named.
"""

from __future__ import annotations

import email
import email.utils
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

MAX_BYTES = 9_000_000
"""Archives beyond are passed over: the corpus is to be broad, not deep."""

SUITES = ("bookworm", "trixie", "sid")
"""Searched in turn: a mirror need not hold every source of every suite."""

DEBIAN = {
    "C": "jq cjson libyaml lz4 figlet tree libpng1.6 zlib libsodium gsl uthash cmark",
    "C++": "fmtlib tinyxml2 yaml-cpp libjsoncpp re2 leveldb snappy pugixml googletest nanoflann",
    "Fortran": "arpack scalapack healpix-fortran netcdf-fortran fortran-language-server ftnchek "
    "gftl fyba plplot lapack netlib-java elkcode",
    "Go": "golang-github-spf13-cobra golang-github-gorilla-mux golang-github-pkg-errors "
    "golang-testify golang-logrus golang-github-spf13-pflag golang-yaml.v2 "
    "golang-github-google-uuid golang-github-fatih-color golang-github-mitchellh-mapstructure",
    "Haskell": "haskell-aeson haskell-vector haskell-lens haskell-conduit haskell-attoparsec "
    "haskell-scientific haskell-random haskell-split haskell-hashable haskell-statistics",
    "Java": "junit4 commons-io commons-math3 jsoup commons-csv libcommons-codec-java "
    "libcommons-lang3-java args4j libgoogle-gson-java libcommons-cli-java commons-text",
    "MATLAB": "octave-statistics octave-signal octave-image octave-control octave-io "
    "octave-struct octave-geometry octave-optim octave-interval octave-mapping",
    "OCaml": "yojson cmdliner ocamlgraph lwt ocaml-re menhir ocaml-csv ppx-deriving findlib cppo",
    "Perl": "libmoose-perl libdbi-perl libwww-perl libmojolicious-perl libdatetime-perl "
    "libtry-tiny-perl liburi-perl libpath-tiny-perl libjson-perl libtest-deep-perl",
    "Python": "python-click requests flask jinja2 python-attrs toolz networkx "
    "seaborn emcee lmfit-py uncertainties astroplan",
    "R": "r-cran-dplyr r-cran-ggplot2 r-cran-glue r-cran-stringr r-cran-vegan mgcv survival "
    "nlme boot zoo r-cran-purrr r-cran-ape",
    "Ruby": "ruby-rack ruby-sinatra ruby-thor ruby-builder rake ruby-i18n ruby-mustache "
    "ruby-sequel ruby-haml ruby-kramdown",
    "Rust": "rust-itertools rust-regex rust-rand rust-nom rust-bytes rust-serde rust-clap "
    "rust-rayon rust-num-traits rust-petgraph",
    "Prolog": "logol",
    "GNUstep": "gnustep-base gnustep-gui gnustep-netclasses gnustep-performance gworkspace",
}
ARCHIVE = r"\.orig\.tar\.\w+$|_[^-]+\.tar\.\w+$"

PYPI = "click requests flask attrs toolz networkx emcee uncertainties bottle pyparsing pluggy tqdm \
tabulate simplejson docopt sortedcontainers"
"""Sources whose metadata is quick to have; pip asks their build for it."""

NPM = "lodash express d3-array d3-scale three-mesh-bvh rxjs date-fns commander zod \
vue-router preact mobx chalk immer ml-matrix d3-force async \
underscore backbone ramda yargs uuid typescript-eslint fp-ts io-ts superstruct"


def main(folder: Path) -> None:
    """Download what is missing, and write the catalogue."""
    folder.mkdir(parents=True, exist_ok=True)
    apt = private_apt(folder / "apt")
    names = [name for several in DEBIAN.values() for name in several.split()]
    hits = [debian_hit(apt, name, folder / "debian") for name in names]
    hits += [pypi_hit(name, folder / "pypi") for name in PYPI.split()]
    hits += [npm_hit(name, folder / "npm") for name in NPM.split()]
    found = [hit for hit in hits if hit]
    with (folder / "catalogue.jsonl").open("w") as catalogue:
        for number, hit in enumerate(found):
            numbered = hit | {"id": 9_000_001 + 2 * number, "conceptrecid": 9_000_000 + 2 * number}
            numbered["doi"] = f"10.5072/zenodo.{numbered['id']}"  # DataCite's prefix for tests
            catalogue.write(json.dumps(numbered, sort_keys=True) + "\n")
    print(f"{len(found)} packages, {sum(h['files'][0]['size'] for h in found) / 1e6:.0f} MB")


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


def debian_hit(apt: list[str], name: str, folder: Path) -> dict[str, Any] | None:
    """Download a source package; return its record, or None where there is none to be had."""
    shown = subprocess.run(
        ["apt-cache", *apt, "showsrc", "--only-source", name], capture_output=True, text=True
    ).stdout
    folder.mkdir(exist_ok=True)
    for stanza in shown.split("\n\n"):
        listed = re.findall(r"^ ([0-9a-f]{32}) (\d+) (\S+)$", stanza, re.MULTILINE)
        archives = [item for item in listed if re.search(ARCHIVE, item[2])]
        if not archives or int(archives[0][1]) > MAX_BYTES:
            continue
        field = dict(re.findall(r"^([A-Z][\w-]*): (.+)$", stanza, re.MULTILINE))
        if not all((folder / item[2]).exists() for item in listed):
            wanted = f"{name}={field['Version']}"
            command = ["apt-get", *apt, "source", "--download-only", "-qq", "--only-source", wanted]
            if subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL).returncode:
                continue
        packaging = [folder / item[2] for item in listed if ".debian.tar." in item[2]]
        licence, date = packaging_facts(packaging[0]) if packaging else (None, None)
        md5, size, key = archives[0]
        return hit(
            title=f"{name}: {field.get('Homepage', 'Debian source package')}",
            version=field["Version"],
            date=date,
            licence=licence,
            keywords=[word for word in (field.get("Section"), "debian") if word],
            creator=email.utils.parseaddr(field["Maintainer"])[0],
            file=(folder / key, int(size), md5),
        )
    print(f"passed over: {name} (no source of at most {MAX_BYTES:,} bytes to be had)")
    return None


def packaging_facts(archive: Path) -> tuple[str | None, str | None]:
    """Return the licence of ``Files: *`` and the date of the last change."""
    licence = date = None
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name == "debian/copyright":
                text = tar.extractfile(member).read().decode(errors="replace")
                found = re.search(r"^Files: \*$.*?^License: *(\S+)", text, re.MULTILINE | re.DOTALL)
                licence = found[1].lower() if found else None
            elif member.name == "debian/changelog":
                text = tar.extractfile(member).read().decode(errors="replace")
                signed = re.search(r"^ -- .*>  (.+)$", text, re.MULTILINE)
                date = email.utils.parsedate_to_datetime(signed[1]).date().isoformat()
    return licence, date


def npm_hit(name: str, folder: Path) -> dict[str, Any] | None:
    """Download an npm package; return its record, or None where there is none to be had."""
    folder.mkdir(exist_ok=True)
    file_name = name.replace("@", "").replace("/", "-")
    archives = list(folder.glob(f"{file_name}-[0-9]*.tgz"))
    if not archives:
        packed = subprocess.run(
            ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True
        )
        if packed.returncode:
            print(f"passed over: {name} (not in the registry)")
            return None
        archives = [folder / packed.stdout.split()[-1]]
    size = archives[0].stat().st_size
    if size > MAX_BYTES:
        print(f"passed over: {name} (too large)")
        return None
    with tarfile.open(archives[0]) as tar:
        about = json.load(tar.extractfile("package/package.json"))
    author = about.get("author") or "the authors"
    return hit(
        title=f"{name}: {about.get('description', 'npm package')}",
        version=about["version"],
        date=None,
        licence=about["license"].lower() if isinstance(about.get("license"), str) else None,
        keywords=["npm", *about.get("keywords", [])[:4]],
        creator=author["name"] if isinstance(author, dict) else author,
        file=(archives[0], size, None),
    )


def pypi_hit(name: str, folder: Path) -> dict[str, Any] | None:
    """Download a source distribution from PyPI; return its record, or None."""
    folder.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    archives = list(folder.glob(f"{name}-[0-9]*.tar.gz"))
    if not archives:
        got = subprocess.run([*pip, name], cwd=folder, stderr=subprocess.DEVNULL, timeout=120)
        archives = list(folder.glob(f"{name}-[0-9]*.tar.gz"))
        if got.returncode or not archives:
            print(f"passed over: {name} (not to be had from PyPI)")
            return None
    with tarfile.open(archives[0]) as tar:
        member = next(
            m for m in tar.getmembers() if m.name.count("/") == 1 and "PKG-INFO" in m.name
        )
        about = email.message_from_binary_file(tar.extractfile(member))
    licence = about.get("License-Expression") or (about.get("License") or "").partition("\n")[0]
    return hit(
        title=f"{name}: {about.get('Summary', 'PyPI package')}",
        version=about["Version"],
        date=None,
        licence=licence.lower() or None,
        keywords=["python", "pypi"],
        creator=(about.get("Author") or "the authors").partition("\n")[0],
        file=(archives[0], archives[0].stat().st_size, None),
    )


def hit(
    *,
    title: str,
    version: str,
    date: str | None,
    licence: str | None,
    keywords: list[str],
    creator: str,
    file: tuple[Path, int, str | None],
) -> dict[str, Any]:
    """Return a record as Zenodo's API would, but for the file's URL."""
    path, size, md5 = file
    entry = {"key": path.name, "size": size, "url": f"file://{path.absolute()}"}
    if md5:
        entry["checksum"] = f"md5:{md5}"
    metadata: dict[str, Any] = {
        "title": title,
        "version": version,
        "publication_date": date or "2024-01-01",
        "keywords": keywords,
        "creators": [{"name": creator}],
        "resource_type": {"type": "software"},
        "access_right": "open",
    }
    if licence:
        metadata["license"] = {"id": licence}
    return {"metadata": metadata, "files": [entry]}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
