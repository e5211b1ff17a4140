"""Parts of real sites' networks: a SOCKS proxy, an HTTP proxy, and servers with certificates."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *args: object) -> None:
        """A client that hangs up is nothing to talk about."""


def pump(one: socket.socket, other: socket.socket) -> None:
    """Copy what comes from one socket to the other until it ends."""
    try:
        while data := one.recv(65_536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@dataclass
class Socks:
    """A SOCKS5 proxy.

    Attributes
    ----------
    url : str
    asked : list of tuple
        Kind of address (1: IPv4, 3: a name), host and port of each connection.
    names : dict
        What the proxy's own resolver says.
    """

    url: str = ""
    asked: list[tuple[int, str, int]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)


@contextmanager
def socks_proxy() -> Iterator[Socks]:
    """Run a SOCKS5 proxy without authentication."""
    proxy = Socks()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection = self.request
            _, n = connection.recv(2)
            connection.recv(n)
            connection.sendall(b"\x05\x00")
            _, _, _, kind = connection.recv(4)
            if kind == 3:
                host = connection.recv(connection.recv(1)[0]).decode()
            else:
                host = socket.inet_ntoa(connection.recv(4))
            (port,) = struct.unpack("!H", connection.recv(2))
            proxy.asked.append((kind, host, port))
            try:
                server = socket.create_connection((proxy.names.get(host, host), port), 5)
            except OSError:
                connection.sendall(b"\x05\x05\x00\x01" + bytes(6))
                return
            connection.sendall(b"\x05\x00\x00\x01" + bytes(6))
            with server:
                thread = threading.Thread(target=pump, args=(server, connection), daemon=True)
                thread.start()
                pump(connection, server)
                thread.join()

    server = _Threads(("127.0.0.1", 0), Handler)
    proxy.url = f"127.0.0.1:{server.server_address[1]}"
    with running(server):
        yield proxy


def certificate(
    folder: Path, host: str = "127.0.0.1", *, days: tuple[int, int] = (-1, 1), name: str = "cert"
) -> tuple[Path, Path]:
    """Make a certificate that signs itself; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=days[0]))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


@contextmanager
def web_server(
    answer: Callable[[BaseHTTPRequestHandler], None],
    *,
    host: str = "127.0.0.1",
    tls: tuple[Path, Path] | None = None,
) -> Iterator[str]:
    """Serve by a function; return the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_CONNECT = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Keep the tests' output clean."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """A client that does not trust us is nothing to talk about."""

        def get_request(self) -> tuple[socket.socket, object]:
            connection, address = super().get_request()
            if context is not None:
                # The handshake comes with the first read, in the connection's own thread.
                connection = context.wrap_socket(
                    connection, server_side=True, do_handshake_on_connect=False
                )
            return connection, address

    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    server = Server((host, 0), Handler)
    with running(server):
        yield f"http{'s' if tls else ''}://{host}:{server.server_port}"


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    """Answer a request."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
