"""Servers on sockets: TCP by each of asyncio's interfaces, UDP, UNIX sockets, TLS. The client is the C generator."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

from ...budget.rows import certificate
from ..registry import KIB, SIZES, Loop, matrix, server

BACKLOG = 2048
HEADER = b"0123456789abcdef" * 8
BY_SIZE = [f"{size}.c10" for size in SIZES]
"""What the charts of throughput by message size show."""


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class HeaderAndBody(Echo):
    """Answers with a header and the message, written one after the other as HTTP servers do."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(HEADER)
        self.transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it receives, into a buffer of its own."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(256 * KIB))

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


class DatagramEcho(asyncio.DatagramProtocol):
    """Sends each datagram back to where it came from."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.transport.sendto(data, address)


@matrix(
    "tcp.protocol",
    "TCP echo, Protocol",
    default=[*BY_SIZE, "1KiB.c1", "1KiB.c100", "1KiB.c1000"],
    quick=["1KiB.c10", "64KiB.c10"],
)
@server("idle.tcp", "memory of an idle TCP connection, Protocol, 4,000 open", size=64, connections=4000, idle=True)
@server("tcp.pipelined.1KiB.c10", "TCP echo, Protocol, 1 KiB, 10 connections, 16 in flight on each", pipeline=16)
@server("accept.tcp", "TCP connection accepted, 1 KiB echoed, reset by the client", fresh=True)
async def tcp_protocol(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(Echo, sock=listener, backlog=BACKLOG)


@server("tcp.two_writes.1KiB.c10", "TCP answer in two writes, 128 B and 1 KiB, 10 connections", reply=len(HEADER) + KIB)
async def tcp_two_writes(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(HeaderAndBody, sock=listener, backlog=BACKLOG)


@matrix("tcp.buffered", "TCP echo, BufferedProtocol", default=BY_SIZE)
async def tcp_buffered(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(BufferedEcho, sock=listener, backlog=BACKLOG)


@matrix(
    "tcp.streams",
    "TCP echo, streams (read, write, drain)",
    default=[*BY_SIZE, "1KiB.c100"],
    quick=["1KiB.c10"],
)
@server("idle.streams", "memory of an idle TCP connection, streams, 4,000 open", size=64, connections=4000, idle=True)
async def tcp_streams(_loop: Loop, listener: socket.socket) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(256 * KIB):
            writer.write(data)
            await writer.drain()

    return await asyncio.start_server(serve, sock=listener, backlog=BACKLOG)


@matrix("tcp.sock", "TCP echo, sock_recv and sock_sendall", default=[*BY_SIZE, "1KiB.c100"], quick=["1KiB.c10"])
async def tcp_sock(loop: Loop, listener: socket.socket) -> Any:
    async def serve(connection: socket.socket) -> None:
        with connection:
            while data := await loop.sock_recv(connection, 256 * KIB):
                await loop.sock_sendall(connection, data)

    async def accept() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.add(loop.create_task(serve(connection)))

    listener.listen(BACKLOG)
    tasks = {loop.create_task(accept())}
    return tasks


@server("unix.protocol.1KiB.c10", "UNIX socket echo, Protocol, 1 KiB, 10 connections", protocol="unix", quick=True)
@server("unix.protocol.64KiB.c10", "UNIX socket echo, Protocol, 64 KiB, 10 connections", protocol="unix", size=64 * KIB)
async def unix_protocol(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_unix_server(Echo, sock=listener, backlog=BACKLOG)


@server("udp.1KiB.c10", "UDP echo, 1 KiB, 10 clients", protocol="udp", quick=True)
# No more in flight than the socket's buffer holds: nobody sends a lost datagram again.
@server("udp.1KiB.c10.burst", "UDP echo, 1 KiB, 10 clients, 3 in flight from each", protocol="udp", pipeline=3)
async def udp(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_datagram_endpoint(DatagramEcho, sock=listener)


@matrix(
    "tls.protocol",
    "TLS 1.3 echo, Protocol",
    default=[*BY_SIZE, "1KiB.c100"],
    quick=["1KiB.c10"],
    protocol="tls",
)
@server(
    "idle.tls",
    "memory of an idle TLS 1.3 connection, Protocol, 2,000 open",
    protocol="tls",
    size=64,
    connections=2000,
    idle=True,
)
@server("accept.tls", "TLS 1.3 handshake, 64 B echoed, reset by the client", protocol="tls", size=64, fresh=True)
async def tls(loop: Loop, listener: socket.socket) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*certificate())
    return await loop.create_server(Echo, sock=listener, ssl=context, backlog=BACKLOG)
