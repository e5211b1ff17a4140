"""``zml-dask sandbox`` and ``zml-dask harvest``, from a shell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

ZML = [sys.executable, "-c", "from zml_dask.cli.main import main; main()"]


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ZML, *arguments], capture_output=True, text=True)


@contextmanager
def serving(how: signal.Signals) -> Iterator[str]:
    """The URL of a sandbox that is told to end by a signal."""
    served = subprocess.Popen(
        [*ZML, "sandbox", "--port", "0", "--limit", "3"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None
        yield served.stdout.readline().split()[0]
    finally:
        served.send_signal(how)
        assert served.wait() == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_sandbox_ends_when_it_is_told_to(session: requests.Session, how: signal.Signals) -> None:
    with serving(how) as api_url:
        assert session.get(f"{api_url}/records", timeout=100).json()["hits"]["total"]


def test_a_sandbox_is_served_and_harvested(tmp_path: Path) -> None:
    with serving(signal.SIGINT) as api_url:
        catalogue = str(tmp_path / "c.jsonl")
        token = tmp_path / "token"
        token.write_text("secret\n")
        token.chmod(0o600)
        options = ("--api-url", api_url, "--token-file", str(token))
        done = shell("harvest", catalogue, *options)
        assert done.returncode == 0, done.stderr
        assert "7 new records, 7 in" in done.stdout
        assert "1 left out" in done.stdout
        again = shell("harvest", catalogue, *options)
        assert "0 new records, 7 in" in again.stdout
        other = shell("harvest", catalogue, *options, "--query", "tides")
        assert other.returncode == 2
        assert other.stderr.count("\n") == 1
        taken = shell("sandbox", "--limit", "3", "--port", api_url.split(":")[2].split("/")[0])
        assert taken.returncode == 1
        assert "--port" in taken.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["--since", "last week"], 2, "--since"),
        (["--exclude", "("], 2, "--exclude"),
        (["--limit", "0"], 2, "--limit"),
        (["--token-file", "/no/such/file"], 2, "token"),
        (["--api-url", "ftp://127.0.0.1/api"], 2, "http"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    arguments: list[str],
    status: int,
    word: str,
) -> None:
    ended, out, err = run("harvest", str(tmp_path / "c.jsonl"), *arguments)
    assert ended == status
    assert word in err
    assert err.count("\n") == 1
    assert out == ""
