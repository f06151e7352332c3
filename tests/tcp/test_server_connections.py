"""What a server knows of its connections: counting, ending and waiting for them; transports that were dropped."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import warnings
import weakref

import pytest
from support import settle, until

pytestmark = pytest.mark.skipif(sys.version_info < (3, 13), reason="servers know their clients from Python 3.13 on")


class Silent(asyncio.Protocol):
    def __init__(self, transports):
        self.transports = transports

    def connection_made(self, transport):
        self.transports.append(transport)


async def accepted(loop, count):
    """A server, the transports of `count` connections to it, and the sockets at their other ends."""
    transports = []
    server = await loop.create_server(lambda: Silent(transports), "127.0.0.1", 0)
    clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(count)]
    await until(lambda: len(transports) == count)
    return server, transports, clients


async def test_all_are_known(loop):
    server, transports, clients = await accepted(loop, 5)
    assert len(server._clients) == 5
    assert set(server._clients) == set(server._clients.copy()) == set(transports)
    for client in clients:
        client.close()
    await until(lambda: len(server._clients) == 0)
    assert set(server._clients) == set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=repr)
async def test_they_leave_in_any_order(loop, order):
    server, transports, clients = await accepted(loop, 3)
    left = set(transports)
    for number in order:
        left.remove(transports[number])
        transports[number].abort()
        await settle()
        assert set(server._clients) == left
    for client in clients:
        client.close()
    server.close()


async def test_the_last_one_wakes_those_that_wait(loop):
    server, transports, clients = await accepted(loop, 2)
    waiters = [loop.create_task(server.wait_closed()) for _ in range(2)]
    server.close()
    for transport in transports:
        await settle()
        assert not any(waiter.done() for waiter in waiters)
        transport.abort()
    await asyncio.gather(*waiters)
    for client in clients:
        client.close()


async def test_ending_them_while_they_end(loop):
    """close_clients() walks over the connections; what it calls may end others."""
    server, transports, clients = await accepted(loop, 4)
    first = transports[0]
    original = first.close

    def close():
        for transport in transports[1:]:
            transport.abort()
        original()

    first.close = close
    server.close_clients()
    await until(lambda: len(server._clients) == 0)
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()


async def test_a_dropped_transport_is_forgotten(loop):
    """A paused transport that nobody holds: the server does not keep it alive either."""
    server, transports, clients = await accepted(loop, 2)
    transports[0].pause_reading()
    reference = weakref.ref(transports[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        # The server was asked for its clients before: nothing of that may stay.
        assert len(server._clients.copy()) == 2
        del transports[0]
        gc.collect()
    assert reference() is None
    assert set(server._clients) == set(transports)
    server.close_clients()
    for client in clients:
        client.close()
    server.close()
    await server.wait_closed()


async def test_transports_of_other_kinds(loop):
    """Those that asyncio's own code makes are among them (a socket object of the user's own kind)."""

    class Watched(socket.socket):
        pass

    listener = Watched(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    transports = []
    server = await loop.create_server(lambda: Silent(transports), sock=listener)
    client = socket.create_connection(listener.getsockname())
    await until(lambda: transports)
    assert set(server._clients) == set(transports)
    server.close_clients()
    await until(lambda: len(server._clients) == 0)
    client.close()
    server.close()
    await server.wait_closed()


async def test_attaching_by_hand(loop):
    """Server._attach() and _detach() are what libraries with transports of their own call."""
    server, transports, clients = await accepted(loop, 1)

    class Other:
        closed = False

        def close(self):
            self.closed = True

    other = Other()
    server._attach(other)
    server._attach(other)
    server._attach(transports[0])
    assert set(server._clients) == {other, transports[0]} and len(server._clients) == 2
    server.close_clients()
    assert other.closed
    await until(lambda: set(server._clients) == {other})
    waiter = loop.create_task(server.wait_closed())
    server.close()
    await settle()
    assert not waiter.done()
    server._detach(other)
    await waiter
    clients[0].close()


async def test_attaching_after_close(loop):
    server, transports, clients = await accepted(loop, 1)
    server.close()
    with pytest.raises(AssertionError):
        server._attach(transports[0])
    transports[0].abort()
    await server.wait_closed()
    clients[0].close()
