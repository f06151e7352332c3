"""The measured operations, one function each; targets.toml holds a row of the same name with its target.

A core row is a function of the loop and a count that performs `count` operations and returns. A server row is a
coroutine function that starts a server on a bound socket and names the client's load; it is driven from outside.
To add a row: write the function here and its title, group and target in targets.toml.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from .. import native
from ..load import Load

Loop = asyncio.AbstractEventLoop


@dataclasses.dataclass(frozen=True)
class Row:
    """How to measure one operation: `counts` are the operations of warm-up, short and long section.

    The system calls are the fewest of so many `takes`: more than one where threads race, and the machine decides too.
    """

    name: str
    run: Callable[..., Any]
    counts: tuple[int, int, int]
    load: Load | None = None
    takes: int = 1


ROWS: dict[str, Row] = {}


def core(*counts: int, takes: int = 1) -> Callable[[Callable[[Loop, int], None]], Callable[[Loop, int], None]]:
    """Registers a row that needs no client; `counts` and `takes` as in Row."""

    def register(function: Callable[[Loop, int], None]) -> Callable[[Loop, int], None]:
        ROWS[function.__name__] = Row(function.__name__, function, counts, takes=takes)
        return function

    return register


def server(*counts: int, **load: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a row whose client sends `load` (fields of bench.load.Load); `counts` as in Row."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ROWS[function.__name__] = Row(function.__name__, function, counts, Load(**load))
        return function

    return register


def coroutine(function: Callable[[Loop, int], Any]) -> Callable[[Loop, int], None]:
    """Lets a core row be written as a coroutine function."""

    @functools.wraps(function)
    def run(loop: Loop, count: int) -> None:
        loop.run_until_complete(function(loop, count))

    return run


def nothing() -> None:
    """The cheapest callback."""


def take(_value: object) -> None:
    """The cheapest callback with an argument."""


def turns(loop: Loop, count: int, tick: Callable[[], None]) -> None:
    """Runs `tick` in `count` consecutive turns of the loop; it schedules what the turn is to do beside itself."""
    left = count

    def turn() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            loop.stop()
        else:
            tick()
            loop.call_soon(turn)

    loop.call_soon(turn)
    loop.run_forever()


# Core ----------------------------------------------------------------------------------------------------------------


@core(2_000, 1_000, 21_000)
def call_soon(loop: Loop, count: int) -> None:
    def tick() -> None:
        for _ in range(99):
            loop.call_soon(nothing)

    turns(loop, count // 100, tick)


@core(2_000, 1_000, 21_000)
def call_soon_arg(loop: Loop, count: int) -> None:
    def tick() -> None:
        for _ in range(99):
            loop.call_soon(take, None)

    turns(loop, count // 100, tick)


@core(2_000, 1_000, 11_000)
def call_soon_single(loop: Loop, count: int) -> None:
    left = count

    def tick() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(tick)
        else:
            loop.stop()

    loop.call_soon(tick)
    loop.run_forever()


@core(2_000, 1_000, 11_000)
def call_later_fire(loop: Loop, count: int) -> None:
    # Deadlines in mixed order, of whole milliseconds since uvloop knows no others; the last fires alone.
    delays = [0.001 * (1 + i * 7 % 3) for i in range(999)]
    left = count

    def batch() -> None:
        nonlocal left
        left -= 1000
        if left < 0:
            loop.stop()
            return
        for delay in delays:
            loop.call_later(delay, nothing)
        loop.call_later(0.004, batch)

    loop.call_soon(batch)
    loop.run_forever()


@core(2_000, 1_000, 11_000)
def call_later_cancel(loop: Loop, count: int) -> None:
    def tick() -> None:
        handles = [loop.call_later(10, nothing) for _ in range(1000)]
        for handle in handles:
            handle.cancel()

    turns(loop, count // 1000, tick)


@core(2_000, 1_000, 11_000)
def call_later_resident(loop: Loop, count: int) -> None:
    # The usual case is a timeout of the same length as those that are running: later than all of them.
    resident = [loop.call_later(100 + i / 1000, nothing) for i in range(1000)]

    def tick() -> None:
        for _ in range(100):
            loop.call_later(102, nothing).cancel()

    turns(loop, count // 100, tick)
    for handle in resident:
        handle.cancel()


@core(2_000, 1_000, 11_000)
@coroutine
async def sleep0(_loop: Loop, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@core(2_000, 1_000, 11_000)
@coroutine
async def sleep0_tasks(loop: Loop, count: int) -> None:
    async def sleeper() -> None:
        for _ in range(count // 100):
            await asyncio.sleep(0)

    await asyncio.gather(*[loop.create_task(sleeper()) for _ in range(100)])


@core(1_000, 500, 5_500)
@coroutine
async def future(loop: Loop, count: int) -> None:
    for _ in range(count):
        waiter = loop.create_future()
        loop.call_soon(waiter.set_result, None)
        await waiter


@core(1_000, 500, 5_500)
@coroutine
async def gather(loop: Loop, count: int) -> None:
    async def empty() -> None:
        pass

    for _ in range(count // 100):
        await asyncio.gather(*[loop.create_task(empty()) for _ in range(100)])


@core(2_000, 1_000, 21_000)
def threadsafe_other(loop: Loop, count: int) -> None:
    def caller() -> None:
        for _ in range(count - 1):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=caller)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()


@core(2_000, 1_000, 11_000)
def threadsafe_own(loop: Loop, count: int) -> None:
    left = count

    def tick() -> None:
        nonlocal left
        left -= 10
        for _ in range(9):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(tick if left > 0 else loop.stop)

    loop.call_soon(tick)
    loop.run_forever()


@core(200, 100, 1_100, takes=5)
@coroutine
async def executor(loop: Loop, count: int) -> None:
    for _ in range(count):
        await loop.run_in_executor(None, nothing)


# TCP -----------------------------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class HeaderAndBody(Echo):
    """Answers as HTTP servers do: a header and a body, each with a write of its own."""

    header = b"h" * 100

    def data_received(self, data: bytes) -> None:
        self.transport.write(self.header)
        self.transport.write(data)


class EchoInTwo(Echo):
    """Sends back what it receives in two pieces; cutting them is the user's cost, about 1500 instructions."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data[:100])
        self.transport.write(data[100:])


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it receives in its own buffer; the copy is the user's, the buffer being used again."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(65536))

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(bytes(self.buffer[:nbytes]))


@server(300, 200, 4_200)
async def tcp_echo(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(Echo, sock=listener)


@server(300, 200, 4_200, reply=1024 + len(HeaderAndBody.header))
async def tcp_echo_two_writes(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(HeaderAndBody, sock=listener)


@server(300, 200, 4_200)
async def tcp_echo_cut_in_two(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(EchoInTwo, sock=listener)


@server(300, 200, 4_200)
async def tcp_echo_buffered(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(BufferedEcho, sock=listener)


@server(100, 100, 1_100, fresh=True)
async def accept(loop: Loop, listener: socket.socket) -> Any:
    return await loop.create_server(Echo, sock=listener)


# Everything else -----------------------------------------------------------------------------------------------------


@server(300, 200, 2_200)
async def streams_read(_loop: Loop, listener: socket.socket) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    return await asyncio.start_server(serve, sock=listener)


@server(300, 200, 2_200)
async def streams_readexactly(_loop: Loop, listener: socket.socket) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await reader.readexactly(1024))

    return await asyncio.start_server(serve, sock=listener)


@server(300, 200, 2_200, protocol="tls")
async def tls_echo(loop: Loop, listener: socket.socket) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*certificate())
    return await loop.create_server(Echo, sock=listener, ssl=context)


@server(300, 200, 2_200)
async def sock_echo(loop: Loop, listener: socket.socket) -> Any:
    async def serve(connection: socket.socket) -> None:
        while data := await loop.sock_recv(connection, 65536):
            await loop.sock_sendall(connection, data)

    async def accept_all() -> None:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tasks.add(loop.create_task(serve(connection)))

    tasks = {loop.create_task(accept_all())}
    return tasks


@server(300, 200, 2_200, protocol="udp")
async def udp_echo(loop: Loop, listener: socket.socket) -> Any:
    class DatagramEcho(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data, address)

    return await loop.create_datagram_endpoint(DatagramEcho, sock=listener)


def certificate() -> tuple[str, str]:
    """Returns the paths of a self-signed certificate and its key, made on first use and kept under build/.

    Raises native.Unavailable where there is no openssl command.
    """
    folder = native.CACHE / "tls"
    files = folder / "certificate.pem", folder / "key.pem"
    if not all(file.exists() for file in files):
        folder.mkdir(parents=True, exist_ok=True)
        command = [native.tool("openssl", "openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:P-256", "-nodes", "-days", "3650", "-subj", "/CN=localhost"]
        command += ["-out", str(files[0]), "-keyout", str(files[1])]
        subprocess.run(command, check=True, capture_output=True)
    return str(files[0]), str(files[1])
