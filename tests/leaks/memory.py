"""Programs of test_memory.py, each run in a process of its own: what connections leave, and what an idle one takes.

They print their measurements as one line of JSON. What is allocated is asked of glibc, in bytes; all that the
interpreter takes must come from there, by PYTHONMALLOC=malloc.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import ssl
import subprocess
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import LOCALHOST, open_descriptors, until

TOGETHER = 20


class Information(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


# Without the GIL the interpreter has an allocator of its own, in all cases: its blocks are asked of tracemalloc.
HAS_OWN_ALLOCATOR = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
if HAS_OWN_ALLOCATOR:
    tracemalloc.start()
LIBC = ctypes.CDLL(None)
HAS_MALLINFO = hasattr(LIBC, "mallinfo2")
if HAS_MALLINFO:
    LIBC.mallinfo2.restype = Information


def allocated() -> int:
    """Bytes handed out by malloc() and not given back, those in mappings of their own included."""
    found = LIBC.mallinfo2()
    taken = int(found.uordblks + found.hblkhd)
    if HAS_OWN_ALLOCATOR:
        taken += tracemalloc.get_traced_memory()[0] - tracemalloc.get_tracemalloc_memory()
    return taken


def resident() -> int:
    """Bytes of memory in use, after the allocator gave back what it can."""
    LIBC.malloc_trim(0)
    with open("/proc/self/statm", "rb", 0) as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def contexts(folder: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(Path(folder, "cert.pem"), Path(folder, "key.pem"))
    return server, ssl.create_default_context(cafile=Path(folder, "cert.pem"))


class Echo(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Asking(asyncio.Protocol):
    __slots__ = ("ended", "transport")

    def __init__(self, ended: asyncio.Future[None]) -> None:
        self.ended = ended

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(b"x" * 100)

    def data_received(self, data: bytes) -> None:
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


async def connect_repeatedly(address: Any, times: int, options: dict[str, Any]) -> None:
    """Make `times` connections, one after another: connect, exchange a message, close."""
    loop = asyncio.get_running_loop()
    for _ in range(times):
        ended = loop.create_future()
        await loop.create_connection(lambda ended=ended: Asking(ended), *address, **options)
        await ended


def growth(factory: Callable[[], Any], times: int, folder: str | None) -> None:
    """Measure what `times` connections leave behind, the collector being off; `folder` has a certificate: TLS."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server_options, client_options = {}, {}
        if folder is not None:
            server_options["ssl"], client_options["ssl"] = contexts(folder)
            client_options["server_hostname"] = "localhost"
        server = await loop.create_server(Echo, LOCALHOST, 0, **server_options)
        address = server.sockets[0].getsockname()

        async def run(times: int) -> None:
            await asyncio.gather(
                *(connect_repeatedly(address, times // TOGETHER, client_options) for _ in range(TOGETHER))
            )
            await asyncio.sleep(0.01)

        # Free lists, caches of sessions and of the kernel's answers fill first.
        await run(1000)
        gc.collect()
        gc.disable()
        # The collector has emptied the free lists.
        await run(10 * TOGETHER)
        before = allocated(), resident(), len(gc.get_objects()), len(open_descriptors())
        await run(times)
        after = allocated(), resident(), len(gc.get_objects()), len(open_descriptors())
        print(json.dumps([now - then for now, then in zip(after, before, strict=True)]))
        server.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


PEERS = """
import socket, ssl, sys
port, count, certificate = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=certificate) if certificate else None
kept = []
for _ in range(count):
    sock = socket.create_connection(("127.0.0.1", port))
    if context:
        sock = context.wrap_socket(sock, server_hostname="localhost")
    sock.sendall(b"x" * 100)
    assert sock.recv(1000)
    kept.append(sock)
print("connected", flush=True)
sys.stdin.read()
"""


def idle(factory: Callable[[], Any], count: int, folder: str | None) -> None:
    """Measure the bytes that one of `count` idle connections takes, which have echoed a message before."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        options = {"ssl": contexts(folder)[0]} if folder is not None else {}
        protocols: list[Echo] = []

        def made() -> Echo:
            protocols.append(Echo())
            return protocols[-1]

        server = await loop.create_server(made, LOCALHOST, 0, **options)
        port = server.sockets[0].getsockname()[1]

        async def connected(count: int) -> subprocess.Popen[bytes]:
            before = len(protocols)
            certificate = str(Path(folder, "cert.pem")) if folder is not None else ""
            peers = subprocess.Popen(
                [sys.executable, "-c", PEERS, str(port), str(count), certificate],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # The buffers would be measured: 256 KiB, depending on the version.
                bufsize=0,
            )
            assert peers.stdout
            assert await loop.run_in_executor(None, peers.stdout.readline) == b"connected\n"
            assert len(protocols) == before + count
            return peers

        first = await connected(20)
        # The list grows beforehand, so that its growth is not measured.
        protocols.extend([Echo()] * count)
        del protocols[-count:]
        gc.collect()
        before = allocated()
        second = await connected(count)
        gc.collect()
        taken = (allocated() - before) / count
        unused = [Echo() for _ in range(count)]
        protocol = (allocated() - before) / count - taken
        del unused
        print(json.dumps([taken - protocol, protocol]))
        for peers in (first, second):
            peers.communicate()
        await until(lambda: len(open_descriptors()) < count)
        server.close()

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
