"""Clones by git: bounded, and of nothing but the repository."""

from __future__ import annotations

import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from zml_dask.errors import RecordError
from zml_dask.fetch.errors import GitError
from zml_dask.fetch.git import GitLimits, snapshot
from zml_dask.fetch.github import GithubSource

from .conftest import LoopbackGithub, run
from .records import FILES


def test_git_runs_nothing_and_reads_no_local_file(
    github: LoopbackGithub, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"
    home = tmp_path / "home"
    (home / "hooks").mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction"):
        hook = home / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
        hook.chmod(0o755)
    (home / ".gitconfig").write_text(f"[core]\n hooksPath = {home}/hooks\n")
    submodule = '[submodule "x"]\n path = x\n url = file:///etc\n'
    github.add("owner", "name", {"v1": FILES | {".gitmodules": submodule}})
    monkeypatch.setenv("HOME", str(home))
    source = GithubSource(github.url, "owner", "name", ("v1",))
    snapshot(source, "v1", scratch, GitLimits(60, 10**9))
    assert not proof.exists()
    assert [path.name for path in scratch.iterdir()] == ["git.tar"]


def test_git_does_not_see_the_settings_of_whoever_runs_the_build(
    github: LoopbackGithub, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.add("owner", "name", {"v1": FILES})
    elsewhere = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{tmp_path.as_uri()}/.insteadOf",
        "GIT_CONFIG_VALUE_0": f"{github.url}/",
        "GIT_DIR": str(tmp_path / "another.git"),
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    source = GithubSource(github.url, "owner", "name", ("v1",))
    snapshot(source, "v1", scratch, GitLimits(60, 10**9))
    assert [path.name for path in scratch.iterdir()] == ["git.tar"]
    assert not (tmp_path / "another.git").exists()


@pytest.mark.parametrize("base", ["file:///tmp", "ext::sh -c touch% /tmp/x", "ssh://host", "/tmp"])
def test_git_speaks_http_alone(scratch: Path, base: str) -> None:
    with pytest.raises(RecordError):
        snapshot(GithubSource(base, "o", "n", ()), None, scratch, GitLimits(60, 10**9))


def test_git_is_bounded(github: LoopbackGithub, scratch: Path) -> None:
    github.add("owner", "name", {"v1": {"big": os.urandom(400_000).hex()}})
    source = GithubSource(github.url, "owner", "name", ("v1",))
    with pytest.raises(GitError):
        snapshot(source, "v1", scratch, GitLimits(60, 100_000))
    with pytest.raises(GitError, match=r"0\.001 s"):
        snapshot(source, "v1", scratch, GitLimits(0.001, 10**9))
    assert not (scratch / "git").exists()


def test_a_plain_file_server_will_do(github: LoopbackGithub, scratch: Path) -> None:
    github.add("owner", "name", {"v1": FILES, "v2": {"src/a.py": "later\n"}})
    run(github.root / "owner" / "name.git", "update-server-info")
    handler = partial(QuietFiles, directory=str(github.root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        snapshot(GithubSource(base, "owner", "name", ()), "v1", scratch, GitLimits(60, 10**9))
        server.shutdown()
    with tarfile.open(scratch / "git.tar") as tar:
        assert sum(name.endswith("src/a.py") for name in tar.getnames()) == 1


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""


def test_git_that_is_not_there_says_so(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, github: LoopbackGithub
) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    with pytest.raises(GitError, match="not installed"):
        snapshot(GithubSource(github.url, "o", "n", ()), None, scratch, GitLimits(60, 10**9))


def test_what_git_says_is_bounded(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's own words come out of git, and it may go on for ever."""
    talkative = tmp_path / "git"
    talkative.write_text("#!/bin/sh\nexec yes 'remote: \x1b[2J' >&2\n")
    talkative.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = GithubSource("http://127.0.0.1:9", "o", "n", ())
    with pytest.raises(GitError, match="git clone fails with") as error:
        snapshot(source, None, scratch, GitLimits(300, 100_000))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()
    assert not list(scratch.iterdir())
