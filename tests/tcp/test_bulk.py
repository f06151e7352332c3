"""Large messages: what is read is what was sent, whatever the protocol does with the pieces."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest
from support import pattern, until

SIZES = [
    1,
    1000,
    32 * 1024 - 1,
    32 * 1024,
    120 * 1024 - 1,
    120 * 1024,
    120 * 1024 + 1,
    256 * 1024,
    256 * 1024 + 1,
    10**6,
]


class Keeper(asyncio.Protocol):
    """Keeps every piece, or a part of them, as `keep` says; knows the whole all the same."""

    def __init__(self, keep):
        self.keep = keep
        self.whole = bytearray()
        self.pieces = []
        self.places = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        assert type(data) is bytes and data
        # A hash that a bytes object remembers must not outlive its content.
        assert hash(data) == hash(bytes(memoryview(data)))
        if self.keep(data):
            self.pieces.append(data)
            self.places.append(len(self.whole))
        self.whole += data

    def check(self, expected):
        assert self.whole == expected
        for place, piece in zip(self.places, self.pieces, strict=True):
            assert piece == expected[place : place + len(piece)]


KEEPERS = {
    "all": lambda data: True,
    "none": lambda data: False,
    "some": lambda data: data[0] % 3 == 0,
    "small": lambda data: len(data) < 100_000,
    "large": lambda data: len(data) >= 100_000,
}


async def send(loop, sock, data):
    for start in range(0, len(data), 1 << 20):
        await loop.sock_sendall(sock, data[start : start + (1 << 20)])


@pytest.mark.parametrize("keep", KEEPERS)
@pytest.mark.parametrize("connections", [1, 3])
async def test_pieces_stay_as_they_are(loop, keep, connections):
    random_sizes = random.Random(1).choices(SIZES, k=30)
    data = pattern(sum(random_sizes))
    protocols = []

    def factory():
        protocols.append(Keeper(KEEPERS[keep]))
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    clients = []
    for _ in range(connections):
        client = socket.socket()
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        clients.append(client)

    async def talk(client):
        start = 0
        for size in random_sizes:
            await send(loop, client, data[start : start + size])
            start += size
            await asyncio.sleep(0)

    await asyncio.gather(*(talk(client) for client in clients))
    await until(lambda: all(len(protocol.whole) == len(data) for protocol in protocols))
    for protocol in protocols:
        protocol.check(data)
        protocol.transport.close()
    for client in clients:
        client.close()
    server.close()


async def test_echo_of_large_messages(loop):
    """Pieces that are written back at once, and are still on their way when the next ones are read."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            self.transport.write(data)

        def pause_writing(self):
            self.transport.pause_reading()

        def resume_writing(self):
            self.transport.resume_reading()

    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    data = pattern(5_000_000)
    for _ in range(3):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
    writer.close()
    server.close()


async def test_set_protocol_in_the_middle(loop):
    """From large pieces to a buffer of the protocol's own, and back."""
    data = pattern(3_000_000)
    received = bytearray()

    class Buffered(asyncio.BufferedProtocol):
        def __init__(self, transport):
            self.transport = transport
            self.memory = bytearray(70_000)

        def get_buffer(self, hint):
            return self.memory

        def buffer_updated(self, count):
            received.extend(self.memory[:count])
            self.transport.set_protocol(plain)

    class Plain(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, piece):
            received.extend(piece)
            self.transport.set_protocol(Buffered(self.transport))

    plain = Plain()
    server = await loop.create_server(lambda: plain, "127.0.0.1", 0)
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, server.sockets[0].getsockname())
    await send(loop, client, data)
    await until(lambda: len(received) == len(data))
    assert received == data
    plain.transport.close()
    client.close()
    server.close()
