"""A proxy on asyncio streams as people write them: HTTP's CONNECT and a plain relay, with half-closes passed on."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

from support import LOCALHOST


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy up to the end of the stream and pass that on."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: tuple[asyncio.StreamReader, asyncio.StreamWriter]
) -> None:
    """Copy in both directions until both have ended, or either is reset."""
    async with asyncio.TaskGroup() as group:
        group.create_task(pump(reader, other[1]))
        group.create_task(pump(other[0], writer))


class Proxy:
    """Connects each client with `target`, or with what its CONNECT request names."""

    def __init__(self, target: int | None = None) -> None:
        self.port = 0
        self.target = target
        self.served = 0
        self.open = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.served += 1
        self.open += 1
        writers = [writer]
        try:
            host, port = LOCALHOST, self.target
            if port is None:
                head = await reader.readuntil(b"\r\n\r\n")
                method, address, _ = head.split(maxsplit=2)
                assert method == b"CONNECT", head
                host, _, number = address.decode().rpartition(":")
                port = int(number)
            # No more than asked for: a proxy must not hold megabytes for a client that does not read.
            other = await asyncio.open_connection(host, port, limit=1 << 14)
            writers.append(other[1])
            if self.target is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with contextlib.suppress(ExceptionGroup):  # a reset
                await relay(reader, writer, other)
        finally:
            for one in writers:
                one.close()
            for one in writers:
                with contextlib.suppress(OSError, ssl.SSLError):
                    await one.wait_closed()
            self.open -= 1


@contextlib.asynccontextmanager
async def proxying(target: int | None = None, context: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy in the running loop; TLS towards its clients if there is a *context*."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy, LOCALHOST, 0, ssl=context)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await server.wait_closed()
        while proxy.open:
            await asyncio.sleep(0.001)
