"""One encrypted connection that breaks leaves the thread's others alone."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import distributed
import pytest

from zml_dask.engine.clusters import use_client
from zml_dask.engine.clusters.tls import Security

Pair = tuple[ssl.SSLSocket, ssl.SSLSocket]


def _until_done(socket_: ssl.SSLSocket) -> bool:
    try:
        socket_.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _connected(server: ssl.SSLContext, client: ssl.SSLContext) -> Pair:
    """Both ends of a connection through the loopback device, neither of which blocks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = socket.create_connection(listening.getsockname())
        here, _ = listening.accept()
    for each in (here, there):
        each.setblocking(False)
    mine = server.wrap_socket(here, server_side=True, do_handshake_on_connect=False)
    theirs = client.wrap_socket(there, do_handshake_on_connect=False)
    done = [False, False]
    while not all(done):
        done = [done[0] or _until_done(mine), done[1] or _until_done(theirs)]
    return mine, theirs


def _break(pair: Pair) -> None:
    """Have the peer reset the connection, and read and write what is no more."""
    mine, theirs = pair
    # Linger for no time: what is closed is reset.
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with suppress(ConnectionError, ssl.SSLEOFError):
        mine.recv_into(bytearray(1))
    with pytest.raises((ConnectionError, ssl.SSLEOFError)):
        mine.send(b"to nobody")
    mine.close()


def test_a_broken_connection_breaks_no_other() -> None:
    security = Security.temporary()
    server = security.get_listen_args("scheduler")["ssl_context"]
    client = security.get_connection_args("client")["ssl_context"]
    sound, peer = _connected(server, client)
    _break(_connected(server, client))
    with pytest.raises(ssl.SSLWantReadError):  # there is nothing to read, which is no error
        sound.recv_into(bytearray(1))
    peer.send(b"!")
    received = bytearray(1)
    while not received.strip(b"\0"):
        try:
            sound.recv_into(received)
        except ssl.SSLWantReadError:
            continue
    assert received == b"!"
    sound.close()
    peer.close()


def _sockets(server: distributed.core.Server) -> set[str]:
    arguments = [server.connection_args, *(each.server_args for each in server.listeners)]
    contexts = [value for each in arguments for value in each.values()]
    kinds = [each.sslsocket_class for each in contexts if isinstance(each, ssl.SSLContext)]
    assert len(kinds) == 2  # it connects, and it is connected to
    return {kind.__module__ for kind in kinds}


def test_scheduler_and_workers_of_another_cluster_are_given_the_same() -> None:
    with (
        distributed.LocalCluster(
            n_workers=1, processes=False, security=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        servers = [cluster.scheduler, *cluster.workers.values()]
        assert [_sockets(server) for server in servers] == [{"ssl"}, {"ssl"}]
        with use_client(client):
            ours = {Security.__module__}
            assert [_sockets(server) for server in servers] == [ours, ours]
        assert client.connection_args["ssl_context"].sslsocket_class.__module__ in ours
