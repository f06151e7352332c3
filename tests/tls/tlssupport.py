"""What the TLS tests share: contexts, a TLS end that is moved by hand, connected pairs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from support import LOCALHOST, Recorder, pattern, settle, tcp_pair

SIDES = ("client", "server")
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class Contexts:
    """Makes contexts, each test its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _finished(self, context: ssl.SSLContext, version: str | None) -> ssl.SSLContext:
        if version is not None:
            context.minimum_version = context.maximum_version = VERSIONS[version]
        return context

    def load_chain(self, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLContext:
        files = ("cert.pem", "key.pem") if name == "localhost" else ("other.pem", "other-key.pem")
        context.load_cert_chain(*(self.folder / file for file in files))
        return context

    def server(self, name: str = "localhost", *, version: str | None = None, clients: str | None = None):
        """Return the context of the server called *name*; with *clients* it wants certificates that this one signed."""
        context = self.load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), name)
        if clients is not None:
            context.load_verify_locations(self.certificate(clients))
            context.verify_mode = ssl.CERT_REQUIRED
        return self._finished(context, version)

    def client(self, *, trusts: str = "localhost", version: str | None = None) -> ssl.SSLContext:
        return self._finished(ssl.create_default_context(cafile=self.certificate(trusts)), version)

    def certificate(self, name: str = "localhost") -> Path:
        return self.folder / ("cert.pem" if name == "localhost" else "other.pem")


class TlsPeer:
    """One end of a TLS connection over a non-blocking socket: sends and answers what it is told, and no more."""

    def __init__(self, sock: Any, context: ssl.SSLContext, **options: Any) -> None:
        self.sock = sock
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, **options)

    async def flush(self) -> None:
        """Send what TLS has written."""
        data = memoryview(self.outgoing.read())
        while data:
            try:
                data = data[self.sock.send(data) :]
            except BlockingIOError:
                await asyncio.sleep(0.0005)

    async def feed(self) -> None:
        """Give TLS the next bytes, or the end, of the stream."""
        while True:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                await asyncio.sleep(0.0005)
                continue
            self.incoming.write(data) if data else self.incoming.write_eof()
            return

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the SSLObject until it is done, moving bytes as needed."""
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                await self.flush()
                await self.feed()
            else:
                await self.flush()
                return result

    async def handshake(self) -> None:
        await self.call(self.tls.do_handshake)

    async def write(self, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(view), 1 << 17):
            await self.call(self.tls.write, view[start : start + (1 << 17)])

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = await self.call(self.tls.read, size - len(data))
            assert piece, f"closed after {len(data)} of {size} bytes"
            data += piece
        return bytes(data)

    async def read_to_end(self) -> tuple[bytes, str]:
        """Return all data, and how it ended: "close_notify", "eof" without one, or "reset"."""
        data = bytearray()
        while True:
            try:
                piece = await self.call(self.tls.read, 1 << 18)
            except ssl.SSLEOFError:
                return bytes(data), "eof"
            except ssl.SSLZeroReturnError:
                # How it is told to an end that has said goodbye itself.
                return bytes(data), "close_notify"
            except ConnectionError:
                return bytes(data), "reset"
            if not piece:
                return bytes(data), "close_notify"
            data += piece

    async def close_notify(self) -> None:
        """Send close_notify, without waiting for the other end's."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()

    async def unwrap(self) -> None:
        await self.call(self.tls.unwrap)

    def close(self) -> None:
        self.sock.close()


def tls_peer(contexts: Contexts, sock: Any, side: str, *, version: str | None = None, session: Any = None) -> TlsPeer:
    """Return the peer of the transport on *side*."""
    if side == "server":
        return TlsPeer(sock, contexts.client(version=version), server_hostname="localhost", session=session)
    return TlsPeer(sock, contexts.server(version=version), server_side=True)


async def open_tls(contexts: Contexts, side: str, sock: Any, protocol: Callable[[], Any], **options: Any) -> Any:
    """Make a TLS transport of the running loop, on *side* of the connection, from a connected socket."""
    loop = asyncio.get_running_loop()
    if side == "client":
        options = {"ssl": contexts.client(), "server_hostname": "localhost", **options}
        return await loop.create_connection(protocol, sock=sock, **options)
    return await loop.connect_accepted_socket(protocol, sock, **{"ssl": contexts.server(), **options})


@contextlib.asynccontextmanager
async def tls_and_peer(
    contexts: Contexts,
    side: str = "client",
    protocol: Callable[[], Any] = Recorder,
    *,
    version: str | None = None,
    send_buffer: int | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Any, Any, TlsPeer]]:
    """A TLS transport of the running loop, its protocol, and the peer that the test moves."""
    mine, sock = tcp_pair()
    if send_buffer is not None:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    peer = tls_peer(contexts, sock, side, version=version)
    try:
        (transport, proto), _ = await asyncio.gather(
            open_tls(contexts, side, mine, protocol, **options), peer.handshake()
        )
        try:
            yield transport, proto, peer
        finally:
            transport.abort()
            await settle()
    finally:
        peer.close()
        await settle()


@contextlib.asynccontextmanager
async def tls_pair(
    contexts: Contexts,
    client: Callable[[], Any] = Recorder,
    server: Callable[[], Any] = Recorder,
    *,
    version: str | None = None,
) -> AsyncIterator[tuple[Any, Any]]:
    """Two protocols of the running loop, connected by TLS."""
    one, other = tcp_pair()
    (_, client_end), (_, server_end) = await asyncio.gather(
        open_tls(contexts, "client", one, client, ssl=contexts.client(version=version)),
        open_tls(contexts, "server", other, server),
    )
    try:
        yield client_end, server_end
    finally:
        for end in (client_end, server_end):
            end.transport.abort()
        await settle()


@contextlib.asynccontextmanager
async def tls_server(contexts: Contexts, protocol: Callable[[], Any], **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A TLS server on localhost and its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, LOCALHOST, 0, **{"ssl": contexts.server(), **options})
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()
        await settle()


async def connect(contexts: Contexts, address: Any, protocol: Callable[[], Any] = Recorder, **options: Any) -> Any:
    """Connect to the TLS server at *address*."""
    options = {"ssl": contexts.client(), "server_hostname": "localhost", **options}
    return await asyncio.get_running_loop().create_connection(protocol, *address[:2], **options)


def write_until_paused(transport: Any, protocol: Recorder) -> bytes:
    """Write pattern by pattern until the protocol is told to pause; return all of it."""
    data = pattern(1 << 20)
    pauses = protocol.events.count("pause")
    written = 0
    while protocol.events.count("pause") == pauses:
        assert written < 20, "not paused"
        transport.write(data)
        written += 1
    return data * written
