"""What the leak tests repeat: for each group of operations one scenario, completed, failed and cancelled.

A scenario is a coroutine function of the loop and the contexts of TLS; each call is one repeat and cleans up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from support import LOCALHOST, Echo, settle, udp_pair

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Scenario = Callable[[asyncio.AbstractEventLoop, Contexts], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


class Asking(asyncio.Protocol):
    """Sends some bytes and is done when they are back, or when the connection is."""

    def __init__(self, data: bytes = b"x" * 5000) -> None:
        self.data, self.got = data, 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self.data)

    def data_received(self, data: bytes) -> None:
        self.got += len(data)
        if self.got == len(self.data):
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(exc)


class Lost(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


class EchoAndLost(Echo, Lost):
    pass


class Answer(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, address: Any) -> None:
        if not self.got.done():
            self.got.set_result(data)


class Broken(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        raise ValueError("a protocol that fails")


@scenario
async def callbacks(loop: Any, contexts: Contexts) -> None:
    for number in range(20):
        loop.call_soon(int, number)
        loop.call_soon(int, number).cancel()
        loop.call_soon_threadsafe(int, number)
    await asyncio.sleep(0)


@scenario
async def timers(loop: Any, contexts: Contexts) -> None:
    for number in range(20):
        loop.call_later(0.0005, int, number)
        loop.call_later(3600, int, number).cancel()
        loop.call_at(loop.time() + 3600, int, number).cancel()
    await asyncio.sleep(0.001)


@scenario
async def tasks(loop: Any, contexts: Contexts) -> None:
    sleeping = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(5)]
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(5)))
    for task in sleeping:
        task.cancel()
    await asyncio.wait(sleeping)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(loop.create_future(), 0.0005)


@scenario
async def threads(loop: Any, contexts: Contexts) -> None:
    def work() -> None:
        for number in range(20):
            loop.call_soon_threadsafe(int, number)
        loop.call_soon_threadsafe(done.set_result, None)

    done = loop.create_future()
    thread = threading.Thread(target=work)
    thread.start()
    await done
    await loop.run_in_executor(None, thread.join)


@scenario
async def names(loop: Any, contexts: Contexts) -> None:
    await loop.getaddrinfo("localhost", 80)
    await loop.getaddrinfo("127.0.0.1", 80)
    await loop.getnameinfo((LOCALHOST, 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)


async def exchange(server: Any, connect: Callable[[Callable[[], Asking]], Awaitable[Any]]) -> None:
    """Serve three connections: one closed, one aborted, one ended by the server's own protocol."""
    for way in ("close", "abort"):
        transport, protocol = await connect(Asking)
        await protocol.done
        getattr(transport, way)()
    server.close()
    await server.wait_closed()
    await settle()


@scenario
async def tcp(loop: Any, contexts: Contexts) -> None:
    server = await loop.create_server(Echo, LOCALHOST, 0)
    address = server.sockets[0].getsockname()
    await exchange(server, lambda protocol: loop.create_connection(protocol, *address))


@scenario
async def tcp_with_data_left(loop: Any, contexts: Contexts) -> None:
    """Megabytes are waiting to be sent when the connection ends."""
    one, other = socket.socketpair()
    transport, protocol = await loop.create_connection(Lost, sock=one)
    transport.writelines([bytes(1000), bytearray(1_000_000), memoryview(bytes(1_000_000))])
    transport.write(bytes(1_000_000))
    other.close()
    await protocol.lost


@scenario
async def tls(loop: Any, contexts: Contexts) -> None:
    server = await loop.create_server(Echo, LOCALHOST, 0, ssl=contexts[0])
    address = server.sockets[0].getsockname()
    await exchange(
        server,
        lambda protocol: loop.create_connection(protocol, *address, ssl=contexts[1], server_hostname="localhost"),
    )


async def handshake(
    loop: Any, contexts: Contexts, interfere: Callable[[asyncio.Future[Any], socket.socket], Any]
) -> None:
    """Begin a handshake that does not succeed."""
    one, other = socket.socketpair()
    one.setblocking(False)
    opening = asyncio.ensure_future(
        loop.create_connection(asyncio.Protocol, sock=one, ssl=contexts[1], server_hostname="localhost")
    )
    with other:
        await settle()
        interfere(opening, other)
        await asyncio.wait([opening])
    assert opening.cancelled() or isinstance(opening.exception(), OSError)
    await settle()


@scenario
async def tls_cancelled(loop: Any, contexts: Contexts) -> None:
    await handshake(loop, contexts, lambda opening, other: opening.cancel())


@scenario
async def tls_refused(loop: Any, contexts: Contexts) -> None:
    await handshake(loop, contexts, lambda opening, other: other.send(b"no TLS at all"))
    await handshake(loop, contexts, lambda opening, other: other.shutdown(socket.SHUT_WR))


@scenario
async def tls_server_with_bad_clients(loop: Any, contexts: Contexts) -> None:
    """Clients that talk no TLS, leave at once, or are silent beyond the timeout."""
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: None)
    server = await loop.create_server(
        Echo, LOCALHOST, 0, ssl=contexts[0], ssl_handshake_timeout=0.02, ssl_shutdown_timeout=0.02
    )
    for data in (b"no TLS at all", b"", b"\x16\x03\x01"):
        client = socket.create_connection(server.sockets[0].getsockname())
        client.setblocking(False)
        if data:
            client.send(data)
        else:
            client.shutdown(socket.SHUT_WR)
        with client, contextlib.suppress(ConnectionError):
            while await loop.sock_recv(client, 1000):
                pass
    server.close()
    await server.wait_closed()
    await settle()
    loop.set_exception_handler(handler)


@scenario
async def start_tls(loop: Any, contexts: Contexts) -> None:
    one, other = socket.socketpair()
    (left, client), (right, served) = await asyncio.gather(
        loop.create_connection(Asking, sock=one), loop.create_connection(EchoAndLost, sock=other)
    )
    await client.done
    upgraded = await asyncio.gather(
        loop.start_tls(left, client, contexts[1], server_hostname="localhost"),
        loop.start_tls(right, served, contexts[0], server_side=True),
    )
    upgraded[0].close()
    await served.lost
    await settle()


@scenario
async def unix(loop: Any, contexts: Contexts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = await loop.create_unix_server(Echo, folder + "/socket")
        await exchange(server, lambda protocol: loop.create_unix_connection(protocol, folder + "/socket"))


@scenario
async def udp(loop: Any, contexts: Contexts) -> None:
    first, one = await loop.create_datagram_endpoint(Answer, local_addr=(LOCALHOST, 0))
    second, _ = await loop.create_datagram_endpoint(Answer, remote_addr=first.get_extra_info("sockname"))
    second.sendto(b"a question")
    await one.got
    first.close()
    second.abort()
    await settle()


@scenario
async def connections_that_fail(loop: Any, contexts: Contexts) -> None:
    with socket.socket() as unused:
        unused.bind((LOCALHOST, 0))
        with contextlib.suppress(ConnectionRefusedError):
            await loop.create_connection(asyncio.Protocol, *unused.getsockname())
    with contextlib.suppress(OSError):
        await loop.create_unix_connection(asyncio.Protocol, "/nowhere/socket")
    server = await loop.create_server(Echo, LOCALHOST, 0)
    opening = asyncio.ensure_future(loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname()))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    server.close()
    await server.wait_closed()
    await settle(10)


@scenario
async def streams(loop: Any, contexts: Contexts) -> None:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(served, LOCALHOST, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.0005)
    writer.write(b"a line\n")
    assert await reader.read() == b"a line\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    await settle()


@scenario
async def pipes(loop: Any, contexts: Contexts) -> None:
    source, sink = (os.fdopen(fd, mode, 0) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    _, reading = await loop.connect_read_pipe(Lost, source)
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sink)
    writing.write(b"x" * 100_000)
    writing.close()
    await reading.lost
    await settle()


@scenario
async def processes(loop: Any, contexts: Contexts) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("echo", "x", stdout=pipe)
    assert await process.communicate() == (b"x\n", None)
    process = await asyncio.create_subprocess_exec("sleep", "60", stdout=pipe)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.001)
    process.kill()
    await process.wait()
    with contextlib.suppress(FileNotFoundError):
        await asyncio.create_subprocess_exec("/nowhere/program", stdout=pipe)
    await settle()


@scenario
async def processes_with_input(loop: Any, contexts: Contexts) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
    assert await process.communicate(b"x" * 1000) == (b"x" * 1000, None)


@scenario
async def socket_calls(loop: Any, contexts: Contexts) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        buffer = bytearray(100_000)
        receiving = asyncio.ensure_future(loop.sock_recv_into(other, buffer))
        await asyncio.sleep(0)
        await loop.sock_sendall(one, b"x" * 1000)
        assert await receiving == 1000
        for pending in (loop.sock_recv(other, 10), loop.sock_sendall(one, bytes(2_000_000))):
            task = asyncio.ensure_future(pending)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    with socket.create_server((LOCALHOST, 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        _, (accepted, _) = await asyncio.gather(
            loop.sock_connect(client, listener.getsockname()), loop.sock_accept(listener)
        )
        accepted.close()
        assert await loop.sock_recv(client, 1) == b""
    left, right = udp_pair()
    with left, right:
        await loop.sock_sendto(left, b"x", right.getsockname())
        assert (await loop.sock_recvfrom(right, 10))[0] == b"x"


@scenario
async def watched_descriptors(loop: Any, contexts: Contexts) -> None:
    one, other = socket.socketpair()
    with one, other:
        seen = loop.create_future()
        loop.add_reader(one, seen.set_result, None)
        loop.add_writer(one, int)
        other.send(b"x")
        await seen
        loop.remove_reader(one)
        loop.remove_writer(one)


@scenario
async def sendfile(loop: Any, contexts: Contexts) -> None:
    one, other = socket.socketpair()
    other.setblocking(False)
    with tempfile.TemporaryFile() as file:
        file.write(bytes(100_000))
        file.flush()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=one)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        got = 0
        while got < 100_000:
            got += len(await loop.sock_recv(other, 1 << 16))
        await sending
        cancelled = asyncio.ensure_future(loop.sendfile(transport, file, 0))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        transport.abort()
        other.close()
        await settle()


@scenario
async def reports(loop: Any, contexts: Contexts) -> None:
    """Callbacks and protocols that raise."""

    handler, seen = loop.get_exception_handler(), []
    loop.set_exception_handler(lambda loop, context: seen.append(context["message"]))
    one, other = socket.socketpair()
    try:
        loop.call_soon(int, "no number")
        transport, _ = await loop.create_connection(Broken, sock=one)
        other.send(b"x")
        while len(seen) < 2:
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(handler)
        other.close()
        transport.abort()
        await settle()


@scenario
async def files(loop: Any, contexts: Contexts) -> None:
    """Whole files, open ones, folders, errors, cancelled requests."""
    if type(loop).__module__.partition(".")[0] != "loopfast":
        return
    from loopfast import fs

    async with fs.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        await fs.write_bytes(path, b"line\n" * 60_000)
        assert len(await fs.read_bytes(path)) == 300_000
        async with fs.open(path, "r+", encoding="utf-8") as file:
            async for _ in file:
                break
            await file.write("x")
        for call in (fs.stat, fs.read_bytes, fs.listdir):
            with contextlib.suppress(FileNotFoundError):
                await call(os.path.join(folder, "missing"))
        async with fs.open(path, "rb") as binary:
            tasks = [asyncio.ensure_future(fs.stat(path)), asyncio.ensure_future(binary.read(200_000))]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await fs.copyfile(path, path + " copy")
        assert {entry.name async for entry in fs.scandir(folder)} == {"file", "file copy"}


if sys.platform != "win32":
    import signal

    @scenario
    async def signals(loop: Any, contexts: Contexts) -> None:
        seen = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR2, seen.set_result, None)
        os.kill(os.getpid(), signal.SIGUSR2)
        await seen
        loop.remove_signal_handler(signal.SIGUSR2)
