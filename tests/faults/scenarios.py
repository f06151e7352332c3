"""What a loop is used for, in small: each scenario is run with one of its calls failing.

A scenario returns when all it wanted has happened, and raises when something failed. It gives back what it opened in
any case. What a protocol hears of a failure it notes in `Setting.heard`: so a stall is not a silent one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from file_scenarios import FILE_SCENARIOS

LOCALHOST = "127.0.0.1"
SMALL = b"0123456789" * 10
# More than the kernel's buffers for one connection take at once.
LARGE = bytes(range(256)) * 12_000


def unbuffered(file: Any, mode: str) -> Any:
    """Open a path or a descriptor for somebody else to close."""
    return open(file, mode, 0)


class Setting:
    """What a scenario works in: the running loop, a folder, TLS contexts, and what its protocols were told."""

    def __init__(self, folder: Path, new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.folder = folder
        self.new_event_loop = new_event_loop
        self.heard: list[BaseException] = []
        self.file = folder / "file"
        if not self.file.exists():
            self.file.write_bytes(LARGE)
        self.server_context = self.client_context = None
        if (folder / "cert.pem").exists():
            self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.server_context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            self.client_context = ssl.create_default_context(cafile=folder / "cert.pem")

    def hear(self, exc: BaseException | None) -> None:
        if exc is not None:
            self.heard.append(exc)

    def socket_path(self) -> str:
        """A name for a UNIX socket that nobody has."""
        return tempfile.mktemp(dir=self.folder, prefix="socket-")


class Echo(asyncio.Protocol):
    """Sends back what it gets, and the end of it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.setting.hear(exc)


class Collector(asyncio.Protocol):
    """Collects what comes; `lost` is done, or fails, when the connection is."""

    def __init__(self, setting: Setting, expected: int) -> None:
        self.setting = setting
        self.expected = expected
        self.data = bytearray()
        loop = asyncio.get_running_loop()
        self.complete = loop.create_future()
        self.lost = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) >= self.expected and not self.complete.done():
            self.complete.set_result(bytes(self.data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.setting.hear(exc)
        if not self.complete.done():
            self.complete.set_exception(exc or ConnectionError("the end came early"))
            # Somebody may have given up waiting.
            self.complete.exception()
        if not self.lost.done():
            self.lost.set_result(exc)


@contextlib.asynccontextmanager
async def closing_server(server: Any):
    try:
        yield server
    finally:
        server.close()


def address_of(server: Any) -> Any:
    """Return the address of a server's one socket."""
    if not server.sockets:
        # asyncio of Python 3.11 takes a failing socket() for a family that the system has not.
        raise OSError("a server without sockets")
    return server.sockets[0].getsockname()


async def exchange(setting: Setting, connect: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
    """Send through an echo server and back, first a little, then more than the buffers take."""
    transport, protocol = await connect(lambda: Collector(setting, len(SMALL) + len(LARGE)))
    try:
        transport.write(SMALL[:50])
        transport.writelines([SMALL[50:70], SMALL[70:]])
        while len(protocol.data) < len(SMALL) and not protocol.lost.done():
            await asyncio.sleep(0)
        transport.write(LARGE)
        assert await protocol.complete == SMALL + LARGE, "what came back is not what was sent"
        transport.close()
        await protocol.lost
    finally:
        transport.abort()


async def first_loop(setting: Setting) -> None:
    """Nothing but a loop that turns, a timer and a call from another thread."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    await asyncio.sleep(0.002)
    called = asyncio.Event()
    threading.Timer(0.001, lambda: loop.call_soon_threadsafe(called.set)).start()
    await called.wait()


async def tcp(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(setting), LOCALHOST, 0)
    async with closing_server(server):
        await exchange(setting, lambda make: loop.create_connection(make, *address_of(server)))


async def unix(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    path = setting.socket_path()
    server = await loop.create_unix_server(lambda: Echo(setting), path)
    async with closing_server(server):
        await exchange(setting, lambda make: loop.create_unix_connection(make, path))


async def tls(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(setting), LOCALHOST, 0, ssl=setting.server_context)
    async with closing_server(server):
        address = address_of(server)
        await exchange(
            setting,
            lambda make: loop.create_connection(
                make, *address, ssl=setting.client_context, server_hostname="localhost"
            ),
        )


async def streams(setting: Setting) -> None:
    served = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
            await writer.drain()
        except OSError as exc:
            setting.hear(exc)
        finally:
            writer.close()
            if not served.done():
                served.set_result(None)

    server = await asyncio.start_server(serve, LOCALHOST, 0)
    async with closing_server(server):
        reader, writer = await asyncio.open_connection(*address_of(server))
        try:
            for _ in range(3):
                writer.write(SMALL)
                await writer.drain()
                assert await reader.readexactly(len(SMALL)) == SMALL
            writer.write_eof()
            assert await reader.read() == b""
            await served
            writer.close()
            await writer.wait_closed()
        finally:
            writer.transport.abort()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, setting: Setting, answer: bool) -> None:
        self.setting = setting
        self.answer = answer
        self.came: asyncio.Queue[bytes | Exception] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self.answer:
            self.transport.sendto(data, addr)
        else:
            self.came.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        self.setting.hear(exc)
        self.came.put_nowait(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.setting.hear(exc)


async def udp(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        server, _ = await loop.create_datagram_endpoint(lambda: Datagrams(setting, True), local_addr=(LOCALHOST, 0))
        stack.callback(server.abort)
        address = server.get_extra_info("sockname")
        if address is None:
            raise OSError("the endpoint does not know its name")
        client, protocol = await loop.create_datagram_endpoint(lambda: Datagrams(setting, False), remote_addr=address)
        stack.callback(client.abort)
        for number in range(20):
            client.sendto(b"%d" % number)
        # Datagrams may get lost where an error was told, and come again after it.
        for number in range(20):
            answer = await protocol.came.get()
            if isinstance(answer, Exception):
                raise answer
            if answer != b"%d" % number and setting.heard:
                # It was lost, and the server was told.
                raise setting.heard[-1]
            assert answer == b"%d" % number
        for _ in range(200):
            client.sendto(bytes(30_000))
        await protocol.came.get()
        client.close()
        await asyncio.sleep(0)


async def pipes(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        read_end, write_end = os.pipe()
        readable = stack.enter_context(unbuffered(read_end, "rb"))
        writable = stack.enter_context(unbuffered(write_end, "wb"))
        reader, collector = await loop.connect_read_pipe(lambda: Collector(setting, 300_000), readable)
        stack.callback(reader.close)
        writer, protocol = await loop.connect_write_pipe(lambda: Collector(setting, 0), writable)
        # asyncio's own breaks on abort() once the connection is lost.
        stack.callback(lambda: protocol.lost.done() or writer.abort())
        writer.write(LARGE[:300_000])
        await asyncio.wait([collector.complete, protocol.lost], return_when=asyncio.FIRST_COMPLETED)
        assert await collector.complete == LARGE[:300_000]
        writer.close()
        await protocol.lost
        await collector.lost


async def process(setting: Setting) -> None:
    child = await asyncio.create_subprocess_exec(
        "/bin/cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await child.communicate(SMALL)
        assert (out, err, child.returncode) == (SMALL, b"", 0)
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def names(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert found
    await loop.getnameinfo((LOCALHOST, 80))
    assert await loop.run_in_executor(None, sum, [1, 2]) == 3


async def sendfile(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        collectors = []

        def make() -> Collector:
            collectors.append(Collector(setting, len(LARGE)))
            return collectors[-1]

        server = await stack.enter_async_context(closing_server(await loop.create_server(make, LOCALHOST, 0)))
        transport, protocol = await loop.create_connection(lambda: Collector(setting, 0), *address_of(server))
        stack.callback(transport.abort)
        file = stack.enter_context(unbuffered(setting.file, "rb"))
        assert await loop.sendfile(transport, file) == len(LARGE)
        while not collectors:
            await asyncio.sleep(0)
        assert await collectors[0].complete == LARGE
        transport.close()
        await protocol.lost


async def sock_sendfile(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        one, other = socket.socketpair()
        for sock in (one, other):
            stack.enter_context(sock)
            sock.setblocking(False)
        file = stack.enter_context(unbuffered(setting.file, "rb"))

        async def receive() -> bytes:
            data = bytearray()
            while len(data) < len(LARGE):
                piece = await loop.sock_recv(other, 1 << 20)
                if not piece:
                    break
                data += piece
            return bytes(data)

        async def send() -> int:
            try:
                return await loop.sock_sendfile(one, file)
            finally:
                one.shutdown(socket.SHUT_WR)

        sent, data = await asyncio.gather(send(), receive())
        assert sent == len(LARGE) and data == LARGE


async def signals(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    try:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.add_signal_handler(number, came.set)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            came.clear()
            loop.call_soon(os.kill, os.getpid(), number)
            await came.wait()
    finally:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            loop.remove_signal_handler(number)


async def threads(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    came: asyncio.Queue[int] = asyncio.Queue()

    def work() -> None:
        for number in range(5):
            done = threading.Event()
            loop.call_soon_threadsafe(came.put_nowait, number)
            loop.call_soon_threadsafe(done.set)
            done.wait(3)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(5):
            assert await came.get() == number
    finally:
        await loop.run_in_executor(None, thread.join)


async def sockets(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:

        def opened(*kind: int) -> socket.socket:
            sock = stack.enter_context(socket.socket(*kind))
            sock.setblocking(False)
            return sock

        listener = opened()
        listener.bind((LOCALHOST, 0))
        listener.listen()
        client = opened()

        async def accept() -> socket.socket:
            return stack.enter_context((await loop.sock_accept(listener))[0])

        accepting = asyncio.ensure_future(accept())
        try:
            await loop.sock_connect(client, listener.getsockname())
            server = await accepting
        finally:
            accepting.cancel()

        async def receive() -> bytes:
            data = bytearray()
            buffer = bytearray(1 << 18)
            try:
                while size := await loop.sock_recv_into(server, buffer):
                    data += buffer[:size]
            finally:
                server.shutdown(socket.SHUT_RDWR)
            return bytes(data)

        async def send() -> None:
            try:
                await loop.sock_sendall(client, LARGE)
            finally:
                client.shutdown(socket.SHUT_WR)

        receiving = asyncio.ensure_future(receive())
        try:
            await send()
            assert await receiving == LARGE
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        one, other = opened(socket.AF_INET, socket.SOCK_DGRAM), opened(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((LOCALHOST, 0))
        await loop.sock_sendto(other, SMALL, one.getsockname())
        assert (await loop.sock_recvfrom(one, 1000))[0] == SMALL


async def readers(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        for _ in range(3):
            written, came = loop.create_future(), loop.create_future()

            def on_writable(done: Any = written) -> None:
                if not done.done():
                    done.set_result(one.send(SMALL))

            def on_readable(done: Any = came) -> None:
                if not done.done():
                    done.set_result(other.recv(1000))

            try:
                loop.add_reader(other, on_readable)
                loop.add_writer(one, on_writable)
                loop.add_reader(one, int)
                assert await written == len(SMALL)
                assert await came == SMALL
            finally:
                for sock in (one, other):
                    loop.remove_reader(sock)
                    loop.remove_writer(sock)


async def fork(setting: Setting) -> None:
    """A child process that leaves the loop of its parent, closes it and runs one of its own."""
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        loop.add_reader(one, int)
        try:
            await asyncio.sleep(0.001)
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    asyncio._set_running_loop(None)
                    with contextlib.suppress(OSError, MemoryError, RuntimeError):
                        own = setting.new_event_loop()
                        try:
                            own.run_until_complete(asyncio.sleep(0.001))
                        finally:
                            own.close()
                    status = 0
                finally:
                    os._exit(status)
            while True:
                # Its own call may be the one that fails.
                with contextlib.suppress(InterruptedError, ChildProcessError):
                    _, status = os.waitpid(pid, 0)
                    break
            if status:
                raise SystemError(f"the forked child ended with {os.waitstatus_to_exitcode(status)}")
        finally:
            loop.remove_reader(one)


async def first_lookup(setting: Setting) -> None:
    """The first thing that needs libuv's threads, and nothing else that may need one."""
    assert await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


async def lookups(setting: Setting) -> None:
    """More names at once than libuv takes, one given up, and one that is connected to."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Echo(setting), LOCALHOST, 0)
    async with closing_server(server):
        port = address_of(server)[1]
        given_up = asyncio.ensure_future(loop.getaddrinfo("localhost", port, family=socket.AF_INET))
        await asyncio.sleep(0)
        given_up.cancel()
        found = await asyncio.gather(
            given_up,
            *(loop.getaddrinfo("localhost", port, family=socket.AF_INET, type=socket.SOCK_STREAM) for _ in range(4)),
            return_exceptions=True,
        )
        for outcome in found[1:]:
            if isinstance(outcome, BaseException):
                raise outcome
            assert outcome[0][4] == (LOCALHOST, port)
        await exchange(setting, lambda make: loop.create_connection(make, "localhost", port, family=socket.AF_INET))


SCENARIOS: dict[str, Callable[[Setting], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        first_loop, tcp, unix, tls, streams, udp, pipes, process, names, sendfile, sock_sendfile, signals, threads,
        sockets, readers, fork, first_lookup, lookups, *FILE_SCENARIOS,
    )
}  # fmt: skip
# asyncio's own loop cannot do these.
LOOPFAST_ONLY = frozenset(scenario.__name__ for scenario in FILE_SCENARIOS)
# What happens once per process only can fail only in a process that has done nothing yet.
FRESH = frozenset({"first_loop", "first_lookup", "first_file"})
