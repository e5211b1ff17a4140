"""Which redirects are followed; what cannot be shown with servers of this machine alone."""

from __future__ import annotations

import pytest

from zml_dask.errors import NetworkError
from zml_dask.net.urls import redirected

PUBLIC = "https://zenodo.org/api/records/1/files/a.zip/content"

PRIVATE = [
    "localhost", "localhost.", "LOCALHOST", "api.localhost", "127.0.0.1", "127.0.0.1.", "127.1",
    "127.000.000.001", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "0", "0.0.0.0",
    "\u2460\u2461\u2466.0.0.1", "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021",
    "127\uff0e1", "10.1.2.3", "10.66051", "172.16.0.1", "192.168.0.1", "169.254.169.254",
    "2852039166", "100.64.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]",
    "[fe80::1]", "[fd00::1]", "[::127.0.0.1]", "[::10.0.0.1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a00:1]", "[64:ff9b:1::808:808]", "[2002:7f00:1::]", "[2002:a00:1::1]",
    "[2001::1]", "[fe80::5efe:a00:1]", "[2606:4700::5efe:7f00:1]", "[ff02::1]", "[ff0e::1]",
    "224.0.0.1", "239.1.2.3", "[fec0::1]", "255.255.255.255",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_nobody_outside_leads_into_the_private_network(host: str) -> None:
    """Least of all to where a cloud tells its machines' keys."""
    with pytest.raises(
        NetworkError,
        match="into the private network",
        check=lambda error: error.kind == "bad_redirect",
    ):
        redirected(PUBLIC, f"https://{host}/latest/meta-data")
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"):
        redirected("http://zenodo.org/f", f"//{host}:8787/")


@pytest.mark.parametrize("host", PRIVATE)
def test_what_is_inside_may_lead_about_there(host: str) -> None:
    """A sandbox, or a mirror of the institute's own."""
    assert redirected("http://127.0.0.1:8000/a", f"http://{host}/b") == f"http://{host}/b"


@pytest.mark.parametrize(
    "host",
    [
        "zenodo.org",
        "objects.example.org",
        "8.8.8.8",
        "[2606:4700::1]",
        "localhost.org",
        "[64:ff9b::808:808]",
        "[2002:808:808::1]",
        "[::ffff:8.8.8.8]",
    ],
)
def test_a_server_outside_may_lead_to_another(host: str) -> None:
    assert redirected(PUBLIC, f"https://{host}/f") == f"https://{host}/f"


def test_nobody_hides_a_host_behind_a_backslash() -> None:
    """Of which some readers of URLs think that it ends the host, and others do not."""
    with pytest.raises(NetworkError, check=lambda error: error.kind == "bad_redirect"):
        redirected(PUBLIC, "https://127.0.0.1\\.example.org/f")


def test_nobody_leads_out_of_encryption() -> None:
    with pytest.raises(
        NetworkError, match="unencrypted", check=lambda error: error.kind == "bad_redirect"
    ):
        redirected(PUBLIC, "http://zenodo.org/api/records/1/files/a.zip/content")
    assert redirected("http://zenodo.org/f", "https://zenodo.org/f") == "https://zenodo.org/f"
