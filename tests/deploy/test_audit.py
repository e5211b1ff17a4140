"""The audit of the dependencies, with the real tool against an advisory service of our own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit"
ADVISORY = {
    "id": "PYSEC-2099-1",
    "summary": "everything",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}],
        }
    ],
}


class _Advisories(BaseHTTPRequestHandler):
    """As OSV answers: advisories of the one package that has any."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        leaks = query["package"]["name"] == "leaky"
        body = json.dumps({"vulns": [ADVISORY]} if leaks else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Advisories) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


def _audit(folder: Path, url: str, *pins: str) -> subprocess.CompletedProcess[str]:
    (folder / "pins.txt").write_text("\n".join(pins))
    command = [sys.executable, AUDIT, "--requirement", "pins.txt", "--no-deps", "--disable-pip"]
    service = ["--vulnerability-service", "osv", "--osv-url", url]
    return subprocess.run([*command, *service], cwd=folder, capture_output=True, text=True)


def test_a_known_vulnerability_fails_the_audit(tmp_path: Path, service: str) -> None:
    ran = _audit(tmp_path, service, "leaky==1.0", "tight==1.0")
    assert ran.returncode == 1
    assert "leaky 1.0: PYSEC-2099-1, fixed in 2.0" in ran.stdout
    assert "2 of 2 packages audited, 1 known" in ran.stdout


def test_sound_dependencies_pass(tmp_path: Path, service: str) -> None:
    ran = _audit(tmp_path, service, "tight==1.0")
    assert ran.returncode == 0
    assert "1 of 1 packages audited, 0 known" in ran.stdout


def test_a_service_out_of_reach_fails_nothing_and_is_reported(tmp_path: Path) -> None:
    ran = _audit(tmp_path, "http://127.0.0.1:9/v1/query", "tight==1.0")
    assert ran.returncode == 0
    assert "NOTHING WAS AUDITED" in ran.stdout


def test_a_tool_that_fails_fails_the_audit(tmp_path: Path, service: str) -> None:
    ran = _audit(tmp_path, service, "no pin at all")
    assert ran.returncode == 1


def test_without_arguments_it_is_the_lock_that_is_audited(service: str) -> None:
    lock = AUDIT.parents[1] / "deploy" / "requirements.lock"
    names = re.findall(r"^([a-z0-9._-]+)==", lock.read_text(), re.MULTILINE)
    environment = {
        **os.environ,
        "PIP_AUDIT_VULNERABILITY_SERVICE": "osv",
        "PIP_AUDIT_OSV_URL": service,
    }
    ran = subprocess.run([sys.executable, AUDIT], env=environment, capture_output=True, text=True)
    audited = re.search(r"(\d+) of \1 packages audited, 0 known", ran.stdout)
    assert audited, ran.stdout
    # But for those that the lock has for other platforms and versions of Python.
    assert 0.8 * len(names) <= int(audited[1]) <= len(names)
