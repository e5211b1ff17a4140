"""Who may talk to a cluster: TLS between its parts, and a dashboard with a secret address.

Who reaches an open scheduler can run anything as its owner, and any user of a machine
reaches its loopback device.
"""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from socket import gethostname
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import distributed

from zml_dask.engine.clusters.options import ClusterOptions
from zml_dask.engine.clusters.settings import ResolvedSection
from zml_dask.errors import UsageError


def security_of(
    section: ResolvedSection, options: ClusterOptions, stack: ExitStack
) -> distributed.Security | None:
    """Certificates of the configuration, else temporary ones in a folder of the user's own.

    Parameters
    ----------
    section : ResolvedSection
    options : ClusterOptions
    stack : ExitStack
        Removes the temporary ones in the end.

    Returns
    -------
    distributed.Security or None
        None where the user wants none.

    Raises
    ------
    UsageError
        Where there is no folder for temporary ones.
    """
    configured = distributed.Security()
    if configured.tls_ca_file is not None or not options.tls:
        return configured if configured.tls_ca_file is not None else None
    parent = section["shared-temp-directory"] or Path("~/.cache/zml-dask").expanduser()
    folder = Path(parent) / "tls"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Its mode is 0700, which keeps the key from other users of the shared disk.
        mine = Path(stack.enter_context(TemporaryDirectory(prefix="run-", dir=folder)))
        return _temporary_security(mine)
    except OSError as error:
        raise UsageError(
            f"no folder for the cluster's certificates at {folder} ({error.strerror}): set "
            f"jobqueue.{section.name}.shared-temp-directory to one that all nodes see"
        ) from error


def local_security() -> distributed.Security:
    """A key pair for a cluster of this machine; it is in the memory of its processes alone."""
    return distributed.Security.temporary()


def dashboard_of(client: distributed.Client, options: ClusterOptions) -> None:
    """Say where the dashboard is, with the part of its address that nobody can guess."""
    if options.dashboard == "off" or find_spec("bokeh") is None:
        return
    port = client.scheduler_info(n_workers=0)["services"].get("dashboard")
    if port is not None:
        host = urlsplit(client.dashboard_link).hostname
        url = f"http://{host}:{port}{options.http_prefix}status"
        options.say(f"dashboard: {url} (on {gethostname()})")


def _temporary_security(folder: Path) -> distributed.Security:
    """A key pair for this cluster alone, in files that its jobs can read."""
    made = distributed.Security.temporary()
    certificate, key = folder / "cluster.crt", folder / "cluster.key"
    for path, content in ((certificate, made.tls_worker_cert), (key, made.tls_worker_key)):
        path.touch(mode=0o600)
        path.write_text(content, encoding="ascii")
    roles = ("client", "scheduler", "worker")
    return distributed.Security(
        require_encryption=True,
        tls_ca_file=str(certificate),
        **{f"tls_{role}_cert": str(certificate) for role in roles},
        **{f"tls_{role}_key": str(key) for role in roles},
    )
