"""Programs written on asyncio streams alone: a proxy under load, with resets, half-closes, a slow client, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct

import pytest
from relay import proxying
from support import LOCALHOST, pattern, until

pytestmark = pytest.mark.interop

BODY = pattern(1_500_000)


async def digesting(reader, writer):
    """Answer with the digest of all that came, then with all of it: needs a half-close to arrive."""
    data = await reader.read()
    writer.write(hashlib.sha256(data).hexdigest().encode() + b"\n")
    writer.writelines([data[start : start + 100_000] for start in range(0, len(data), 100_000)])
    # The client may be gone; which of the two is told is a question of time.
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def target(handler=digesting):
    server = await asyncio.start_server(handler, LOCALHOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def exchange(port, body):
    reader, writer = await asyncio.open_connection(LOCALHOST, port)
    writer.write(body)
    await writer.drain()
    writer.write_eof()
    digest = await reader.readline()
    assert digest.decode().strip() == hashlib.sha256(body).hexdigest()
    assert await reader.read() == body
    writer.close()
    await writer.wait_closed()


async def test_many_clients_through_two_proxies(loop):
    async with target() as port, proxying(port) as inner, proxying(inner.port) as outer:
        await asyncio.gather(*(exchange(outer.port, BODY[: number * 50_000]) for number in range(30)))
        await exchange(outer.port, BODY)
        assert (outer.served, inner.served) == (31, 31)


async def test_clients_and_targets_that_reset(loop):
    """The other side hears of it, the proxy lets go of both, and the rest is not disturbed."""

    async def resetting(reader, writer):
        await reader.readexactly(1000)
        writer.transport.abort()

    async with target() as port, target(resetting) as bad, proxying(port) as proxy, proxying(bad) as to_bad:
        for _ in range(5):
            with socket.create_connection((LOCALHOST, proxy.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(b"x" * 5000)
                await until(lambda: proxy.open == 1)
            reader, writer = await asyncio.open_connection(LOCALHOST, to_bad.port)
            writer.write(b"y" * 5000)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await until(lambda: proxy.open == to_bad.open == 0)
        await exchange(proxy.port, BODY)


async def test_a_client_that_does_not_read_stops_the_source(loop):
    """Back-pressure reaches through the proxy: the source gets stuck long before the end, and goes on afterwards."""
    sent = 0
    total = 200

    async def source(reader, writer):
        nonlocal sent
        for number in range(total):
            writer.write(bytes([number]) * 500_000)
            await writer.drain()
            sent += 1
        writer.close()

    async with target(source) as port, proxying(port) as proxy:
        reader, writer = await asyncio.open_connection(LOCALHOST, proxy.port)
        before = -1
        while sent != before:  # nothing more for a while: it is stuck
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < total / 2, "the source was not stopped"
        seen = hashlib.sha256()
        while piece := await reader.read(1 << 16):
            seen.update(piece)
        assert sent == total
        assert seen.hexdigest() == hashlib.sha256(b"".join(bytes([n]) * 500_000 for n in range(total))).hexdigest()
        writer.close()
        await writer.wait_closed()


async def test_tls_through_connect_through_tls(loop, certificate):
    """TLS to a server, tunnelled through a proxy that is itself reached over TLS, upgraded with start_tls()."""

    async def shout(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(shout, LOCALHOST, 0, ssl=certificate.server())
    port = server.sockets[0].getsockname()[1]
    async with proxying(context=certificate.server()) as proxy:
        reader, writer = await asyncio.open_connection(
            "localhost", proxy.port, ssl=certificate.client(), server_hostname="localhost", family=socket.AF_INET
        )
        writer.write(f"CONNECT {LOCALHOST}:{port} HTTP/1.1\r\n\r\n".encode())
        assert b"200" in await reader.readuntil(b"\r\n\r\n")
        await writer.start_tls(certificate.client(), server_hostname="localhost")
        for size in (1, 1000, 60_000):
            writer.write(b"a" * size + b"\n")
            assert await reader.readline() == b"A" * size + b"\n"
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
