"""Fixtures of the fetch package: reading bytes as an archive, and a GitHub on loopback."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from zml_dask.fetch.member import FetchLimits, Member
from zml_dask.fetch.unpack import read_members
from zml_dask.net.client import HttpClient, HttpOptions

Read = Callable[..., list[Member]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads bytes as an archive, limits by name."""

    def read_bytes(data: bytes, name: str = "archive", **limits: float) -> list[Member]:
        path = tmp_path / "archive"
        path.write_bytes(data)
        members = list(read_members(path, name=name, limits=FetchLimits(**limits)))
        assert [one.name for one in tmp_path.iterdir()] == ["archive"]
        return members

    return read_bytes


@pytest.fixture
def client() -> Iterator[HttpClient]:
    options = HttpOptions(attempts=3, backoff=0.001, max_backoff=0.01)
    with HttpClient(options) as made:
        yield made


def good(members: list[Member]) -> dict[str, bytes]:
    """Path and content of what could be read."""
    return {one.path: one.data for one in members if one.status == "ok" and one.data is not None}


def fates(members: list[Member]) -> dict[str, str]:
    """Path and status of what could not."""
    return {one.path: one.status for one in members if one.status != "ok"}


@dataclass
class LoopbackGithub:
    """Serves repositories by git's own HTTP backend, and zips of their tags as GitHub does."""

    url: str
    root: Path
    archives: bool = True
    requests: list[str] = field(default_factory=list)

    def add(self, owner: str, name: str, commits: dict[str, dict[str, str]]) -> None:
        """A repository: for each tag (empty: none) a commit of files, in order."""
        work = self.root / "work" / name
        work.mkdir(parents=True)
        run(work, "init", "-q", "-b", "trunk")
        for tag, files in commits.items():
            for path, text in files.items():
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                (work / path).write_text(text)
            run(work, "add", "-A")
            run(work, "commit", "-q", "-m", tag or "on")
            if tag:
                run(work, "tag", tag)
        bare = self.root / owner / f"{name}.git"
        bare.parent.mkdir(parents=True, exist_ok=True)
        run(self.root, "clone", "-q", "--bare", str(work), str(bare))


def run(folder: Path, *arguments: str) -> bytes:
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "safe.directory=*"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True
    ).stdout


@pytest.fixture
def github(tmp_path: Path) -> Iterator[LoopbackGithub]:
    root = tmp_path / "github"
    root.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append(self.path)
            if "/archive/" in self.path:
                self.archive()
            else:
                self.backend(b"")

        def do_POST(self) -> None:
            self.backend(self.rfile.read(int(self.headers["Content-Length"])))

        def archive(self) -> None:
            repository, _, rest = unquote(self.path).partition("/archive/refs/tags/")
            tag = rest.removesuffix(".zip")
            try:
                assert served.archives
                prefix = f"--prefix={repository.rpartition('/')[2]}-{tag}/"
                bare = root / f"{repository[1:]}.git"
                body = run(bare, "archive", "--format=zip", prefix, f"refs/tags/{tag}")
            except (AssertionError, OSError, subprocess.CalledProcessError):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def backend(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            answer = subprocess.run(
                ["git", "-c", "safe.directory=*", "http-backend"],
                input=body,
                capture_output=True,
                check=False,
                env={
                    "PATH": os.environ["PATH"],
                    "GIT_PROJECT_ROOT": str(root),
                    "GIT_HTTP_EXPORT_ALL": "1",
                    "GIT_CONFIG_COUNT": "1",
                    "GIT_CONFIG_KEY_0": "safe.directory",
                    "GIT_CONFIG_VALUE_0": "*",
                    "PATH_INFO": path,
                    "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command,
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                },
            ).stdout
            head, _, content = answer.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
            self.send_response(int(headers.pop("Status", "200").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served = LoopbackGithub(f"http://127.0.0.1:{server.server_port}", root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def reason_of(read: Read, archive: bytes, path: str, **limits: float) -> str:
    (reason,) = [one.reason for one in read(archive, **limits) if one.path == path]
    return str(reason)
