"""What the behaviour tests share: recording protocols, connected pairs, programs in a process of their own."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import importlib.util
import os
import pkgutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

LOCALHOST = "127.0.0.1"
# How many times longer than usual anything may take: a sanitized build is slower. Every limit of a test grows with it.
SLOWNESS = float(os.environ.get("LOOPFAST_TEST_SLOWNESS", "1"))


def new_event_loop(kind: str) -> asyncio.AbstractEventLoop:
    """Return a new loop of *kind*: "loopfast", or "asyncio" for the interpreter's own."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    import loopfast

    return loopfast.new_event_loop()


class Reports(list[dict[str, Any]]):
    """An exception handler that keeps the contexts it gets."""

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.append(context)

    def take(self) -> dict[str, Any]:
        """Return the oldest context, which the test expected."""
        assert self, "nothing was reported to the exception handler"
        return self.pop(0)

    def assert_none(self) -> None:
        found = [(context.get("message"), context.get("exception")) for context in self]
        self.clear()
        assert found == [], "unexpected calls of the exception handler"


# ---------------------------------------------------------------------------------------------------------- descriptors


#: What is there for users of another package derives from its classes.
NEEDED = {"loopfast.serving": "uvicorn", "loopfast.workers": "gunicorn"}


def importable_modules() -> list[str]:
    """The names of loopfast's modules that can be imported here, but for commands, scripts and the benchmarks."""
    import loopfast

    names = [info.name for info in pkgutil.walk_packages(loopfast.__path__, "loopfast.")]
    commands = ("loopfast.__main__", "loopfast.uv._build", "loopfast.bench.", "loopfast._boot", "loopfast._lib")
    absent = {name for name, package in NEEDED.items() if importlib.util.find_spec(package) is None}
    return [name for name in names if not name.startswith(commands) and name not in absent]


def open_descriptors() -> set[int]:
    """Return the numbers of this process's open descriptors."""
    # The listing's own descriptor is in the list, and closed by the time it is looked at.
    found = set()
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


def take_all_descriptors() -> list[int]:
    """Leave this process, for good, no more than the descriptors it has; return those that may be closed again."""
    import resource

    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    return taken


@contextlib.contextmanager
def gc_disabled() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------------------------------ protocols


class Recorder(asyncio.Protocol):
    """Records what happens to a connection, in order: in `events` the names, in `data` the bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        loop = loop or asyncio.get_running_loop()
        self.events: list[str] = []
        self.data = bytearray()
        self.transport: Any = None
        self.connected = loop.create_future()
        # The argument of connection_lost().
        self.lost = loop.create_future()
        self.eof = loop.create_future()
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = transport
        if not self.connected.done():
            self.connected.set_result(transport)

    def data_received(self, data: bytes) -> None:
        if self.events[-1] != "data":
            self.events.append("data")
        self.data += data
        self._more.set()

    def eof_received(self) -> bool | None:
        self.events.append("eof")
        if not self.eof.done():
            self.eof.set_result(None)
        self._more.set()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        if not self.lost.done():
            self.lost.set_result(exc)
        self._more.set()

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    async def received(self, size: int) -> bytes:
        """Wait until at least *size* bytes have come; return all."""
        while len(self.data) < size:
            assert not self.lost.done(), f"connection lost after {len(self.data)} bytes"
            self._more.clear()
            await self._more.wait()
        return bytes(self.data)


class BufferedRecorder(asyncio.BufferedProtocol, Recorder):
    """A Recorder that lends a buffer of *size* bytes."""

    def __init__(self, size: int = 64, loop: asyncio.AbstractEventLoop | None = None) -> None:
        Recorder.__init__(self, loop)
        self.buffer = bytearray(size)
        self.hints: list[int] = []

    def get_buffer(self, sizehint: int) -> Any:
        self.hints.append(sizehint)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        Recorder.data_received(self, bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        # BufferedProtocol comes first and has one that does nothing.
        return Recorder.eof_received(self)


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class DatagramRecorder(asyncio.DatagramProtocol):
    """Records what happens to a datagram endpoint: in `events` the names, in `datagrams` pairs of data and address."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.events: list[str] = []
        self.datagrams: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.transport: Any = None
        # The argument of connection_lost().
        self.lost = self.loop.create_future()
        self._more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.events.append("made")
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.events.append("datagram")
        self.datagrams.append((data, addr))
        self._more.set()

    def error_received(self, exc: Exception) -> None:
        self.events.append("error")
        self.errors.append(exc)
        self._more.set()

    def pause_writing(self) -> None:
        self.events.append("pause")

    def resume_writing(self) -> None:
        self.events.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost")
        if not self.lost.done():
            self.lost.set_result(exc)
        self._more.set()

    async def received(self, count: int) -> list[bytes]:
        """Wait until at least *count* datagrams have come; return the data of all."""
        while len(self.datagrams) < count:
            assert not self.lost.done(), f"endpoint lost after {len(self.datagrams)} datagrams"
            self._more.clear()
            await self._more.wait()
        return [data for data, _ in self.datagrams]

    async def failed(self, count: int = 1) -> list[Exception]:
        """Wait until error_received() was called at least *count* times; return its arguments."""
        while len(self.errors) < count:
            assert not self.lost.done(), "endpoint lost"
            self._more.clear()
            await self._more.wait()
        return self.errors


def unbuffered(file: Any, mode: str) -> Any:
    """Open a path or a descriptor for somebody else to close."""
    return open(file, mode, 0)


# ---------------------------------------------------------------------------------------------------------- connections


def tcp_pair(*, nonblocking: bool = True) -> tuple[socket.socket, socket.socket]:
    """Return two sockets connected with each other over TCP."""
    with socket.socket() as listener:
        listener.bind((LOCALHOST, 0))
        listener.listen(1)
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(not nonblocking)
    return one, other


def udp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two non-blocking datagram sockets connected with each other."""
    pair = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in pair:
        sock.bind((LOCALHOST, 0))
        sock.setblocking(False)
    for sock, other in (pair, reversed(pair)):
        sock.connect(other.getsockname())
    return pair[0], pair[1]


@contextlib.asynccontextmanager
async def transport_and_peer(
    protocol: Callable[[], Any] = Recorder, *, send_buffer: int | None = None
) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """A transport of the running loop, its protocol, and the non-blocking socket at the other end.

    Args:
        protocol: makes the protocol; called in the running loop.
        send_buffer: bytes of the kernel's send buffer; the peer's receive buffer takes some hundred KiB more.
    """
    mine, peer = tcp_pair()
    if send_buffer is not None:
        # Not the peer's receive buffer: less than a loopback segment of 64 KiB stalls the connection.
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    loop = asyncio.get_running_loop()
    transport, proto = await loop.create_connection(protocol, sock=mine)
    try:
        yield transport, proto, peer
    finally:
        peer.close()
        if not transport.is_closing():
            transport.abort()
        await settle()


@contextlib.asynccontextmanager
async def serving(protocol: Callable[[], Any], **options: Any) -> AsyncIterator[tuple[asyncio.AbstractServer, Any]]:
    """A server on localhost and its address."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(protocol, LOCALHOST, 0, **options)
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()
        await settle()


@contextlib.asynccontextmanager
async def datagram_endpoint(
    protocol: Callable[[], Any] = DatagramRecorder, **options: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """A datagram endpoint of the running loop; on localhost if no keyword says where."""
    if not options:
        options["local_addr"] = (LOCALHOST, 0)
    transport, proto = await asyncio.get_running_loop().create_datagram_endpoint(protocol, **options)
    try:
        yield transport, proto
    finally:
        # asyncio's own breaks on abort() after a close() that had a queue to send.
        if not transport.is_closing():
            transport.abort()
        await settle()


async def receive_datagram(sock: socket.socket) -> tuple[bytes, Any]:
    """Receive from a non-blocking datagram socket that the loop knows nothing of, without a watcher."""
    while True:
        try:
            return sock.recvfrom(1 << 17)
        except BlockingIOError:
            await asyncio.sleep(0.0005)


def kill_when_asleep(loop: asyncio.AbstractEventLoop, number: int) -> threading.Thread:
    """Have a thread, which is returned, send the signal to this process when the loop runs and has nothing to do.

    It is started before: Thread.start() in a callback may still run when the signal comes.
    """
    running = threading.Event()

    def work() -> None:
        running.wait()
        time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=work)
    thread.start()
    loop.call_soon(running.set)
    return thread


async def settle(turns: int = 5) -> None:
    """Let the loop run what is ready, including what that schedules in turn."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], Any]) -> None:
    """Wait until *condition* holds. The test's timeout is the limit."""
    while not condition():
        await asyncio.sleep(0.001)


async def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read *size* bytes from a non-blocking socket that the loop knows nothing of, without a watcher."""
    data = bytearray()
    while len(data) < size:
        try:
            piece = sock.recv(min(size - len(data), 1 << 20))
        except BlockingIOError:
            await asyncio.sleep(0.0005)
            continue
        assert piece, f"end of stream after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


async def read_to_end(sock: socket.socket) -> bytes:
    """Read from a non-blocking socket up to the end of the stream."""
    data = bytearray()
    while True:
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            await asyncio.sleep(0.0005)
            continue
        if not piece:
            return bytes(data)
        data += piece


def pattern(size: int) -> bytes:
    """Return *size* bytes in which a lost, repeated or exchanged piece shows."""
    words = array.array("I", range(size // 4 + 1))
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()[:size]


# ------------------------------------------------------------------------------------------------------------- programs

PROGRAM_PRELUDE = """
import asyncio, sys, os, signal, socket, threading, time, gc, warnings
sys.path[:] = {paths!r}
from support import new_event_loop as _new_event_loop
def new_event_loop():
    return _new_event_loop({kind!r})
def run(main, **options):
    with asyncio.Runner(loop_factory=new_event_loop, **options) as runner:
        return runner.run(main)
"""


def program(kind: str, code: str, *options: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python on *code*, in which ``new_event_loop()`` and ``run()`` use the loop of *kind*.

    Args:
        options: options of the interpreter.
        environment: added to the environment of the process.
    """
    text = PROGRAM_PRELUDE.format(paths=sys.path, kind=kind) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, *options, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONFAULTHANDLER": "1", **environment},
    )


def preloaded(library: Any) -> str:
    """What is to be loaded first: the library, behind what this process has (a sanitizer wants to be the first)."""
    return " ".join(filter(None, (os.environ.get("LD_PRELOAD"), str(library))))


def run_program(kind: str, code: str, *options: str, **environment: str) -> str:
    """Run *code* as `program` does to a clean end and return what it printed."""
    with program(kind, code, *options, **environment) as process:
        try:
            out, err = process.communicate(timeout=25 * SLOWNESS)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    assert err == "", err
    return out
