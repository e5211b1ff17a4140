"""Which repository a record's links name, and one commit of it as a tar file.

The clone is bare and shallow. It has no working tree, so that no filter, submodule,
symbolic link or hook of the repository has an effect on this machine.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote, urlsplit

from zml_dask.errors import NetworkError, RecordError
from zml_dask.net.client import HttpClient
from zml_dask.net.connection import resolve
from zml_dask.net.responses import CA_BUNDLE_VARIABLES, proxy_of
from zml_dask.net.urls import check_url, is_private_host, is_public
from zml_dask.records.record import Record, forge_link
from zml_dask.text_safety import redact_url

_CONFIG: Final = {
    "protocol.allow": "never",
    "protocol.http.allow": "always",
    "protocol.https.allow": "always",
    "core.hooksPath": os.devnull,
    "core.askPass": "",
    "credential.helper": "",
    "submodule.recurse": "false",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "gc.auto": "0",
}
_SAID: Final = 4096
_NO_ANSWER: Final = "unable to access"
"""What git says of a server that it cannot reach, or that fails."""
_PASSED_ON: Final = frozenset(
    {"PATH", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
     "all_proxy", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
     "LD_LIBRARY_PATH"}
)  # fmt: skip


_TAG_FORMS: Final = (
    re.compile(r"(?:tree|commit|commits)/(?P<tag>.+)"),
    re.compile(r"(?:blob|raw)/(?P<tag>[^/]+)/.+"),
    re.compile(r"releases/tag/(?P<tag>.+)"),
    re.compile(r"releases/download/(?P<tag>[^/]+)/.+"),
    re.compile(r"archive/(?:refs/(?:tags|heads)/)?(?P<tag>.+?)\.(?:zip|tar\.gz|tgz)"),
    re.compile(r"(?:zipball|tarball|zip|tar\.gz)/(?:refs/(?:tags|heads)/)?(?P<tag>.+)"),
)
# What git itself allows in the name of a tag, less what would read as an option.
_TAG: Final = re.compile(r"(?!-)(?!.*\.\.)(?!.*@\{)[^\x00-\x20\x7f~^:?*\[\\]{1,250}\Z")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FIRST_RELATIONS: Final = ("issupplementto", "isderivedfrom", "isidenticalto")


@dataclass(frozen=True, slots=True)
class GithubSource:
    """A repository and the tags to try, the likeliest first."""

    base: str  # root of the server, "https://github.com"
    owner: str
    name: str
    tags: tuple[str, ...]  # empty if the record names none

    @property
    def clone_url(self) -> str:
        """The URL that git clones."""
        return f"{self.base}/{self.owner}/{self.name}.git"

    def archive_url(self, tag: str) -> str:
        """Return the URL of the zip that GitHub makes of a tag, or of a commit in its place."""
        reference = tag if _COMMIT.fullmatch(tag) else f"refs/tags/{quote(tag)}"
        return f"{self.base}/{self.owner}/{self.name}/archive/{reference}.zip"


def github_source(record: Record, base: str = "https://github.com") -> GithubSource | None:
    """Return the repository of a record; None if it names none on GitHub.

    Links with a tag come before those without, and ``isSupplementTo``, which GitHub's
    integration writes, before other relations. If no link has a tag, the record's version is
    tried as one. `base` is the root of the server that stands for ``github.com``.
    """
    found = [parsed for link in _links(record) if (parsed := parse_link(link, base)) is not None]
    if not found:
        return None
    owner, name, _ = next((each for each in found if each[2] is not None), found[0])
    same = [tag for o, n, tag in found if (o.lower(), n.lower()) == (owner.lower(), name.lower())]
    tags = [tag for tag in same if tag is not None]
    if not tags and record.version is not None:
        version = record.version.strip()
        other = version.removeprefix("v") if version.startswith("v") else f"v{version}"
        tags = [tag for tag in (version, other) if _TAG.match(tag)]
    return GithubSource(base.rstrip("/"), owner, name, tuple(dict.fromkeys(tags)))


def parse_link(link: str, base: str = "https://github.com") -> tuple[str, str, str | None] | None:
    """Owner, name and tag (None for none) in a link to GitHub; None for any other link.

    Examples
    --------
    >>> parse_link("https://github.com/owner/name/tree/v1.0")
    ('owner', 'name', 'v1.0')
    >>> parse_link("git+https://www.github.com/owner/name.git")
    ('owner', 'name', None)
    >>> parse_link("https://example.org/owner/name")
    """
    hosts = {"github.com", urlsplit(base).netloc.lower()}
    found = forge_link(link, *hosts)
    if found is None or found.host not in hosts:
        return None
    rest = unquote(found.rest).strip("/")
    tags = (match["tag"] for form in _TAG_FORMS if (match := form.fullmatch(rest)) is not None)
    tag = next(tags, found.tag)
    return found.owner, found.name, tag if tag is not None and _TAG.match(tag) else None


def _links(record: Record) -> Iterator[str]:
    ordered = sorted(
        record.related, key=lambda related: related.relation.lower() not in _FIRST_RELATIONS
    )
    yield from (related.identifier for related in ordered)
    if record.repository is not None:
        yield record.repository


@dataclass(frozen=True, slots=True)
class GitLimits:
    """Seconds and bytes that one clone may cost."""

    seconds: float
    max_bytes: int


def find_repository(source: GithubSource, client: HttpClient) -> str:
    """Return the current URL of a repository: servers redirect from its former names.

    git itself follows no redirect; here each one is checked (see `HttpClient`).
    """
    asked = "/info/refs"
    try:
        found = client.resolve_redirects(f"{source.clone_url}{asked}?service=git-upload-pack")
    except NetworkError as error:
        kind = "git" if error.permanent else "git_unreachable"
        raise RecordError(kind, f"the repository cannot be cloned: {error}") from None
    url, separator, _ = found.partition(asked)
    if not separator:
        raise RecordError(
            "git", f"{source.clone_url} redirects to {redact_url(found)}, no repository"
        )
    return url


def snapshot(
    source: GithubSource,
    tag: str | None,
    folder: Path,
    limits: GitLimits,
    *,
    url: str | None = None,
) -> str:
    """Clone one commit, write it as ``folder / "git.tar"`` and return its hash (hex).

    `tag` None is the default branch; `url` is that of `find_repository`, by default the
    source's own. The clone in `folder` is removed. As in GitHub's own archives, the tar's top
    folder is ``owner-name-<7 digits of the hash>/``. Raises `RecordError`.
    """
    url = check_url(source.clone_url if url is None else url)
    clone = folder / "git"
    at = [] if tag is None else [f"--branch={tag}"]
    plain = ["--quiet", "--single-branch", "--no-tags", "--bare", "--template=", *at]
    try:
        try:
            pinned = _pinned(url, source)
            _git([*pinned, "clone", "--depth=1", *plain, "--", url, str(clone)], folder, limits)
        except RecordError as error:
            # A plain file server (git's "dumb" protocol) has no shallow clones.
            if "shallow" not in str(error):
                raise
            shutil.rmtree(clone, ignore_errors=True)
            _git([*pinned, "clone", *plain, "--", url, str(clone)], folder, limits)
        at_clone = [f"--git-dir={clone}"]
        commit = _git([*at_clone, "rev-parse", "HEAD"], folder, limits).strip()
        prefix = f"--prefix={source.owner}-{source.name}-{commit[:7]}/"
        target = f"--output={folder / 'git.tar'}"
        _git([*at_clone, "archive", "--format=tar", prefix, target, "HEAD"], folder, limits)
    finally:
        shutil.rmtree(clone, ignore_errors=True)
    return commit


def _pinned(url: str, source: GithubSource) -> list[str]:
    """Return options by which git connects only to the address that is checked here.

    Raises `RecordError` if the host has no address, and `NetworkError` if the repository of a
    public server has been redirected into the private network.
    """
    parts, base = urlsplit(url), urlsplit(source.base)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if proxy_of(url) is not None:
        return []
    try:
        is_elsewhere = host != base.hostname and not is_private_host(base.hostname)
        public_only = is_elsewhere and any(map(is_public, resolve(base.hostname or "", port)))
        address = resolve(host, port, public_only=public_only)[0]
    except (OSError, UnicodeError):
        raise RecordError(
            "git_unreachable", f"{redact_url(url)} has no address; check the network"
        ) from None
    shown = f"[{address}]" if ":" in address else address
    # Git before 2.37 does not know the option, and resolves the name once more.
    return ["-c", f"http.curloptResolve={host}:{port}:{shown}"]


def unbundle(bundle: IO[bytes], folder: Path, limits: GitLimits) -> Path:
    """Write the head commit of a git bundle as a tar file in `folder`.

    That is the commit of ``HEAD`` if the bundle has it, else of its main branch. Raises
    `RecordError` if the bundle is damaged, or holds only the changes since another commit.
    """
    copied = folder / "bundle"
    bundle.seek(0)
    with copied.open("wb") as target:
        shutil.copyfileobj(bundle, target)
    at = f"--git-dir={folder / 'git'}"
    _git(["init", "--quiet", "--bare", "--template=", str(folder / "git")], folder, limits)
    said = _git([at, "bundle", "unbundle", str(copied)], folder, limits)
    heads = {name: commit for commit, _, name in (line.partition(" ") for line in said.split("\n"))}
    heads.pop("", None)
    preferred = ("HEAD", "refs/heads/main", "refs/heads/master")
    head = next((name for name in preferred if name in heads), min(heads, default=None))
    if head is None:
        raise RecordError("git", "the git bundle has no head")
    tar = folder / "git.tar"
    _git([at, "archive", "--format=tar", f"--output={tar}", heads[head]], folder, limits)
    return tar


def _git(arguments: list[str], folder: Path, limits: GitLimits) -> str:
    """Run git with a small environment, and limits of time and file size."""
    config = [part for key, value in _CONFIG.items() for part in ("-c", f"{key}={value}")]
    command = ["git", *config, *arguments]
    limiter = shutil.which("prlimit")
    if limiter is not None:
        command = [limiter, f"--fsize={limits.max_bytes}", "--core=0", *command]
    commands = {"archive", "bundle", "clone", "init", "rev-parse"}
    what = next(part for part in arguments if part in commands)
    # The output of git may come from the server, which may send any amount of it. So it
    # goes to a file, whose size is limited like that of any other.
    with tempfile.TemporaryFile(dir=folder) as out, tempfile.TemporaryFile(dir=folder) as err:
        try:
            process = subprocess.Popen(
                command,
                env=_environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise RecordError(
                "git", "git is not installed; install it to have records by their tag"
            ) from None
        with process:
            try:
                process.wait(timeout=limits.seconds)
            except subprocess.TimeoutExpired:
                raise RecordError("git", f"git {what} takes over {limits.seconds:g} s") from None
            finally:
                _end(process)
        if process.returncode:
            said = " ".join(_tail(err).split())[-200:]
            kind = "git_unreachable" if _NO_ANSWER in said else "git"
            raise RecordError(kind, f"git {what} fails with {process.returncode}: {said!r}")
        return _tail(out)


def _tail(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SAID))
    return file.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End git and its helpers, if any still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON}
    bundle = next((os.environ[n] for n in CA_BUNDLE_VARIABLES if os.environ.get(n)), None)
    if bundle is not None:
        # The certificates that our own requests trust.
        kept.setdefault("GIT_SSL_CAPATH" if Path(bundle).is_dir() else "GIT_SSL_CAINFO", bundle)
    return kept | {
        "HOME": str(folder),
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "http:https",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
