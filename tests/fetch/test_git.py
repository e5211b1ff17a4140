"""Clones by git: bounded, and of nothing but the repository."""

from __future__ import annotations

import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from net.networks import certificate, send, socks_proxy, web_server

from zml_dask.errors import NetworkError, RecordError
from zml_dask.fetch.git import GithubSource, GitLimits, find_repository, snapshot
from zml_dask.net.client import HttpClient

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
    with pytest.raises(RecordError, check=lambda error: error.kind == "git"):
        snapshot(source, "v1", scratch, GitLimits(60, 100_000))
    with pytest.raises(RecordError, match=r"0\.001 s", check=lambda error: error.kind == "git"):
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
    with pytest.raises(RecordError, match="not installed", check=lambda error: error.kind == "git"):
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
    with pytest.raises(
        RecordError, match="git clone fails with", check=lambda error: error.kind == "git"
    ) as error:
        snapshot(source, None, scratch, GitLimits(300, 100_000))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()
    assert not list(scratch.iterdir())


class Redirecting(BaseHTTPRequestHandler):
    """Sends everything elsewhere."""

    target = ""

    def do_GET(self) -> None:
        self.send_response(301)
        self.send_header("Location", self.target + self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def redirecting(target: str) -> Iterator[str]:
    handler = type("To", (Redirecting,), {"target": target})
    with ThreadingHTTPServer(("127.0.0.2", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.2:{server.server_port}"
        server.shutdown()


def test_a_repository_that_was_renamed_is_found(github: LoopbackGithub, scratch: Path) -> None:
    github.add("owner", "name", {"v1": FILES})
    with redirecting(github.url) as base, HttpClient() as client:
        source = GithubSource(base, "owner", "name", ("v1",))
        url = find_repository(source, client)
        assert url == f"{github.url}/owner/name.git"
        snapshot(source, "v1", scratch, GitLimits(60, 10**9), url=url)
        assert (scratch / "git.tar").exists()
        # git follows nobody: what was not checked is not asked for.
        with pytest.raises(RecordError, check=lambda error: error.kind.startswith("git")):
            snapshot(source, "v1", scratch, GitLimits(60, 10**9))


def test_no_repository_leads_into_the_private_network(
    github: LoopbackGithub, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where 127.0.0.2 stands for a public server: neither by a redirect nor by a name."""

    def is_public(address: str) -> bool:
        return str(ip_address(address)) == "127.0.0.2"

    for module in ("net.urls", "net.connection", "net.client", "fetch.git"):
        monkeypatch.setattr(f"zml_dask.{module}.is_public", is_public)
    github.add("owner", "name", {"v1": FILES})
    with redirecting(github.url) as base, HttpClient() as client:
        source = GithubSource(base, "owner", "name", ("v1",))
        with pytest.raises(
            RecordError, match="private network", check=lambda error: error.kind.startswith("git")
        ):
            find_repository(source, client)
        moved = f"{github.url.replace('127.0.0.1', 'localhost')}/owner/name.git"
        with pytest.raises(
            NetworkError, match="private network", check=lambda error: error.kind == "bad_redirect"
        ):
            snapshot(source, "v1", scratch, GitLimits(60, 10**9), url=moved)


def test_git_goes_to_the_address_that_was_checked(
    github: LoopbackGithub, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name means to git's own resolver: here, nothing."""
    github.add("owner", "name", {"v1": FILES})
    system = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **options: system(
            "127.0.0.1" if host == "git.invalid" else host, *args, **options
        ),
    )
    base = github.url.replace("127.0.0.1", "git.invalid")
    snapshot(GithubSource(base, "owner", "name", ()), "v1", scratch, GitLimits(60, 10**9))
    assert (scratch / "git.tar").exists()


def test_git_trusts_the_certificates_that_requests_trust(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = certificate(tmp_path)
    for name in ("GIT_SSL_CAINFO", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    source = GithubSource("", "owner", "name", ())
    with web_server(lambda handler: send(handler, 404, b""), tls=pair) as url:
        source = replace(source, base=url)
        with pytest.raises(
            RecordError, match=r"(?i)certificate", check=lambda error: error.kind.startswith("git")
        ):
            snapshot(source, None, scratch, GitLimits(60, 10**9))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pair[0]))
        with pytest.raises(RecordError, match="not found", check=lambda error: error.kind == "git"):
            snapshot(source, None, scratch, GitLimits(60, 10**9))


def test_git_goes_by_the_proxy_of_everything_else(
    github: LoopbackGithub, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.add("owner", "name", {"v1": FILES})
    with socks_proxy() as proxy:
        proxy.names["github.example"] = "127.0.0.1"
        monkeypatch.setenv("ALL_PROXY", f"socks5h://{proxy.url}")
        base = github.url.replace("127.0.0.1", "github.example")
        with HttpClient() as client:
            url = find_repository(GithubSource(base, "owner", "name", ()), client)
        snapshot(
            GithubSource(base, "owner", "name", ()), "v1", scratch, GitLimits(60, 10**9), url=url
        )
        assert (scratch / "git.tar").exists()
        assert {host for _, host, _ in proxy.asked} == {"github.example"}
