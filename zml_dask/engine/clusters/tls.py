"""Encrypted connections: one that breaks does not break the others.

OpenSSL keeps a queue of errors for each thread. Python's `ssl`, from 3.12.3 on, leaves there what
the operating system said of a connection that broke (python/cpython#148594); OpenSSL 3.0 puts
nothing there, later ones do. Whichever connection the thread reads next then fails with that error,
though nothing is wrong with it, and so does the one after it. A scheduler loses its workers and its
client because a peer closed some other connection, as happens all the time while a cluster starts.
Seen with Debian's Python 3.13 (OpenSSL 3.5) and 3.14 (OpenSSL 3.6).
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import distributed


class Security(distributed.Security):
    """Dask's security settings, for connections that leave no error to others.

    Examples
    --------
    >>> Security.temporary().get_listen_args("scheduler")["ssl_context"].sslsocket_class.__name__
    '_Socket'
    """

    # No __slots__: Dask takes those of the class for the names of its parameters.

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """As Dask's."""
        return _separated(super().get_connection_args(role))

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """As Dask's."""
        return _separated(super().get_listen_args(role))

    @classmethod
    def in_files(cls, folder: Path) -> Self:
        """Make a key pair for one cluster alone, in files that its jobs can read.

        Nobody else may be able to read `folder`. Raises `OSError` where they cannot be written.
        """
        made = cls.temporary()
        certificate, key = folder / "cluster.crt", folder / "cluster.key"
        for path, content in ((certificate, made.tls_worker_cert), (key, made.tls_worker_key)):
            path.touch(mode=0o600)
            path.write_text(content, encoding="ascii")
        roles = ("client", "scheduler", "worker")
        return cls(
            require_encryption=True,
            tls_ca_file=str(certificate),
            **{f"tls_{role}_cert": str(certificate) for role in roles},
            **{f"tls_{role}_key": str(key) for role in roles},
        )


def separate_connections(of: distributed.Client | distributed.core.Server) -> None:
    """Do for a client, scheduler or worker what `Security` does for those made with it.

    Its connections from here on leave no error of theirs to others.
    """
    _separated(of.connection_args)
    for listener in getattr(of, "listeners", ()):
        _separated(getattr(listener, "server_args", {}))


def _separated(arguments: dict[str, Any]) -> dict[str, Any]:
    """Make TLS connections with these arguments use this module's sockets."""
    for context in arguments.values():
        if isinstance(context, ssl.SSLContext):
            context.sslsocket_class = _Socket
    return arguments


class _Socket(ssl.SSLSocket):
    """Removes its errors from OpenSSL's queue when it raises them."""

    def recv_into(self, *arguments: Any, **named: Any) -> int:
        try:
            return super().recv_into(*arguments, **named)
        except OSError as error:
            _clear_after(error)
            raise

    def send(self, *arguments: Any, **named: Any) -> int:
        try:
            return super().send(*arguments, **named)
        except OSError as error:
            _clear_after(error)
            raise

    def do_handshake(self, *arguments: Any, **named: Any) -> None:
        """As the base class; a handshake that succeeds after the peer left leaves an error too."""
        try:
            super().do_handshake(*arguments, **named)
        finally:
            _clear()


def _clear_after(error: OSError) -> None:
    if not isinstance(error, ssl.SSLWantReadError | ssl.SSLWantWriteError):
        _clear()


def _clear() -> None:
    """Empty this thread's queue of errors, for which Python has no function.

    Python empties it as a side effect of refusing unknown ciphers.
    """
    with suppress(ssl.SSLError):
        _UNUSED.set_ciphers("none")


_UNUSED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
