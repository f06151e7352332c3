"""What the tests of the sock_* coroutines share: one way to call each that waits, and stepping a coroutine by hand."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from support import LOCALHOST, settle, tcp_pair

# Each receives up to 100 bytes from a connected socket, and gives the bytes back.
RECEIVERS: dict[str, Callable[[Any, Any], Any]] = {}


def receiver(function: Any) -> Any:
    RECEIVERS[function.__name__] = function
    return function


@receiver
async def sock_recv(loop: Any, sock: Any) -> bytes:
    return await loop.sock_recv(sock, 100)


@receiver
async def sock_recv_into(loop: Any, sock: Any) -> bytes:
    buffer = bytearray(100)
    return bytes(buffer[: await loop.sock_recv_into(sock, buffer)])


@receiver
async def sock_recvfrom(loop: Any, sock: Any) -> bytes:
    data, _ = await loop.sock_recvfrom(sock, 100)
    return data


@receiver
async def sock_recvfrom_into(loop: Any, sock: Any) -> bytes:
    buffer = bytearray(100)
    count, _ = await loop.sock_recvfrom_into(sock, buffer)
    return bytes(buffer[:count])


# Calls of every coroutine with arguments that are right but for the socket.
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "sock_recv": lambda loop, sock: loop.sock_recv(sock, 10),
    "sock_recv_into": lambda loop, sock: loop.sock_recv_into(sock, bytearray(10)),
    "sock_recvfrom": lambda loop, sock: loop.sock_recvfrom(sock, 10),
    "sock_recvfrom_into": lambda loop, sock: loop.sock_recvfrom_into(sock, bytearray(10)),
    "sock_sendall": lambda loop, sock: loop.sock_sendall(sock, b"data"),
    "sock_sendto": lambda loop, sock: loop.sock_sendto(sock, b"data", (LOCALHOST, 9)),
    "sock_connect": lambda loop, sock: loop.sock_connect(sock, (LOCALHOST, 9)),
    "sock_accept": lambda loop, sock: loop.sock_accept(sock),
}


def first_step(coroutine: Any) -> Any:
    """Run *coroutine*, which must end without waiting, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waited")


@contextlib.contextmanager
def pair(*, send_buffer: int | None = None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two non-blocking sockets connected over TCP."""
    mine, peer = tcp_pair()
    with mine, peer:
        if send_buffer is not None:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        yield mine, peer


@contextlib.contextmanager
def udp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two non-blocking datagram sockets, bound and not connected."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
        for sock in (one, other):
            sock.bind((LOCALHOST, 0))
            sock.setblocking(False)
        yield one, other


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    """A non-blocking listening TCP socket."""
    with socket.create_server((LOCALHOST, 0)) as sock:
        sock.setblocking(False)
        yield sock


async def waiting(coroutine: Any) -> asyncio.Task[Any]:
    """Start *coroutine*, which must wait, and return its task."""
    task = asyncio.ensure_future(coroutine)
    await settle()
    assert not task.done(), f"it did not wait: {task!r}"
    return task


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel *task* and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
        raise AssertionError("it was not cancelled")


def fill(sock: socket.socket) -> int:
    """Write until the socket takes no more; return how many bytes."""
    total = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            total += sock.send(bytes(1 << 16))
    return total
