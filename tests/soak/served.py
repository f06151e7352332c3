"""The server process of a soak run: every kind of server, and what a server does beside: timers, threads, processes.

From time to time it takes away its own descriptors (RLIMIT_NOFILE), so that nothing can be accepted or opened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import hashlib
import os
import random
import resource
import socket
import ssl
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

from member import LOCALHOST, Member, Pattern, require, resident, run, same, settled, transports
from member import descriptors as open_descriptors

#: Of a request to the stream server: what is asked for, bytes that follow, bytes wanted.
REQUEST = struct.Struct("!BII")
DIGEST, FILE = range(2)
FILE_SIZE = 3_000_000
SHORTAGES = (errno.EMFILE, errno.ENFILE)


class Echo(asyncio.Protocol):
    """Sends back what it gets, and stops reading while the other end does not."""

    member: Member
    # Bytes to falsify, for the trial of the program itself.
    spoil = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=1 << 16)

    def data_received(self, data: bytes) -> None:
        self.member.counts["bytes echoed"] += len(data)
        if Echo.spoil and len(data) > 100:
            Echo.spoil = False
            data = bytes(data[:50]) + bytes([data[50] ^ 1]) + bytes(data[51:])
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


class LentEcho(Echo, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.buffer = bytearray(8000)

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, size: int) -> None:
        Echo.data_received(self, bytes(self.buffer[:size]))


class DatagramEcho(asyncio.DatagramProtocol):
    member: Member

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.member.counts["datagrams echoed"] += 1
        self.transport.sendto(data, address)

    def error_received(self, exc: Exception) -> None:
        # The client's socket is gone by the time of the answer.
        if not isinstance(exc, ConnectionRefusedError):
            self.member.problem(f"udp: error_received({exc!r})")


class Served:
    """The servers, the loads of the process itself, and the shortages."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.member = Member(options.seed)
        Echo.member = DatagramEcho.member = self.member
        self.loop = self.member.loop
        self.pattern = Pattern(0)
        self.short_until = 0.0
        self.member.is_expected = self.is_expected
        self.servers: list[asyncio.AbstractServer] = []
        self.kept: list[Any] = []
        self.hoarded: list[bytearray] = []

    def is_short(self) -> bool:
        """A shortage is on, or was until a moment ago."""
        return self.loop.time() < self.short_until + 3

    def is_expected(self, context: dict[str, Any]) -> bool:
        error = context.get("exception")
        return self.is_short() and isinstance(error, OSError) and error.errno in SHORTAGES

    # ---- servers

    async def start(self, folder: Path) -> dict[str, Any]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.options.folder / "cert.pem", self.options.folder / "key.pem")
        loop, path = self.loop, str(folder / "echo")
        self.file = (folder / "file").open("w+b", 0)
        self.file.write(self.pattern.piece(0, FILE_SIZE))
        places = {}
        for name, factory, more in (
            ("tcp", Echo, {}),
            ("lent", LentEcho, {}),
            ("tls", Echo, {"ssl": context, "ssl_handshake_timeout": 5, "ssl_shutdown_timeout": 5}),
        ):
            server = await loop.create_server(factory, LOCALHOST, 0, backlog=500, **more)
            self.servers.append(server)
            places[name] = server.sockets[0].getsockname()
        self.servers.append(await loop.create_unix_server(Echo, path, backlog=500))
        self.servers.append(await asyncio.start_server(self.stream, LOCALHOST, 0, backlog=500))
        places["stream"] = self.servers[-1].sockets[0].getsockname()
        transport, _ = await loop.create_datagram_endpoint(DatagramEcho, local_addr=(LOCALHOST, 0))
        self.kept.append(transport)
        places["udp"] = transport.get_extra_info("sockname")
        http = await self.start_http()
        return {**places, "unix": path, **({"http": http} if http else {})}

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests for the digest of what is sent, or for a part of the file."""
        try:
            while True:
                kind, size, wanted = REQUEST.unpack(await reader.readexactly(REQUEST.size))
                body = await reader.readexactly(size)
                writer.write(hashlib.sha256(body).digest())
                if kind == FILE:
                    await self.send_file(writer.transport, size % 1000, wanted)
                else:
                    writer.write(self.pattern.piece(size, wanted))
                await writer.drain()
                self.member.counts["requests answered"] += 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.SendfileNotAvailableError):
            # The last is what a reset before the first byte comes to. A peaceful client would miss its answer.
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def send_file(self, transport: Any, start: int, count: int) -> None:
        """sendfile() needs a descriptor for itself; without one it fails before it sends anything."""
        while True:
            try:
                await self.loop.sendfile(transport, self.file, start, count, fallback=False)
                return
            except OSError as exc:
                if exc.errno not in SHORTAGES:
                    raise
                await self.refused(exc)

    async def start_http(self) -> Any:
        """A FastAPI application behind uvicorn, where both are installed."""
        try:
            import fastapi
            import uvicorn
        except ImportError:
            return None
        from fastapi.responses import StreamingResponse

        app = fastapi.FastAPI()

        async def echo(request: fastapi.Request) -> fastapi.Response:
            return fastapi.Response(await request.body())

        async def pieces(size: int, count: int) -> StreamingResponse:
            async def body() -> Any:
                for number in range(count):
                    await asyncio.sleep(0)
                    yield self.pattern.piece(number * size, size)

            return StreamingResponse(body())

        # Not as decorators: the annotations are text, whose names only this function knows.
        echo.__annotations__ = {"request": fastapi.Request}
        pieces.__annotations__ = {"size": int, "count": int}
        app.add_api_route("/echo", echo, methods=["POST"], response_model=None)
        app.add_api_route("/pieces", pieces, methods=["GET"], response_model=None)
        listener = socket.create_server((LOCALHOST, 0), backlog=500)
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=5)
        self.http = uvicorn.Server(config)
        self.http_task = self.loop.create_task(self.http.serve(sockets=[listener]))
        while not self.http.started:
            await asyncio.sleep(0.01)
        return listener.getsockname()

    # ---- what the process does beside serving

    async def timers(self, chooser: random.Random) -> None:
        fired: list[int] = []

        def fire(number: int, due: float) -> None:
            fired.append(number)
            require(self.loop.time() >= due - 1e-6, f"timer {number} was early")

        delays = [chooser.choice((0, chooser.uniform(0, 0.3))) for _ in range(60)]
        handles = []
        for number, delay in enumerate(delays):
            handles.append(self.loop.call_later(delay, fire, number, self.loop.time() + delay))
        cancelled = {number for number in range(len(delays)) if chooser.random() < 0.4}
        for number in cancelled:
            handles[number].cancel()
        await asyncio.sleep(0.31)
        require(
            sorted(fired) == sorted(set(range(len(delays))) - cancelled), "timers fired that were not to, or not all"
        )

    async def threads(self, chooser: random.Random) -> None:
        calls, seen = chooser.randrange(1, 2000), [0, 0, 0]
        done = asyncio.Event()

        def count(which: int) -> None:
            seen[which] += 1
            if sum(seen) == calls * len(seen):
                done.set()

        def work(which: int) -> None:
            for _ in range(calls):
                self.loop.call_soon_threadsafe(count, which)

        workers = [threading.Thread(target=work, args=(which,)) for which in range(len(seen))]
        for worker in workers:
            worker.start()
        await done.wait()
        await self.loop.run_in_executor(None, lambda: [worker.join() for worker in workers])
        await asyncio.sleep(0.01)
        require(seen == [calls] * len(seen), f"calls from threads: {seen} of {calls} each")

    async def descriptors(self, chooser: random.Random) -> None:
        """A pipe watched by add_reader() and add_writer()."""
        try:
            source, sink = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            return await self.refused(exc)
        wanted = self.pattern.piece(chooser.randrange(1000), chooser.randrange(1, 400_000))
        got, end, rest = bytearray(), self.loop.create_future(), memoryview(wanted)

        def readable() -> None:
            piece = os.read(source, 50_000)
            got.extend(piece)
            if not piece:
                self.loop.remove_reader(source)
                os.close(source)
                end.set_result(None)

        def writable() -> None:
            nonlocal rest
            rest = rest[os.write(sink, rest[:30_000]) :]
            if not rest:
                self.loop.remove_writer(sink)
                os.close(sink)

        self.loop.add_reader(source, readable)
        self.loop.add_writer(sink, writable)
        await end
        same(bytes(got), wanted, "add_reader")

    async def sockets(self, chooser: random.Random) -> None:
        """sock_sendall() and sock_recv() on a pair, with a receive that is cancelled."""
        try:
            one, other = socket.socketpair()
        except OSError as exc:
            return await self.refused(exc)
        wanted = self.pattern.piece(chooser.randrange(1000), chooser.randrange(1, 400_000))
        got = bytearray()
        with one, other:
            one.setblocking(False)
            other.setblocking(False)
            waiting = asyncio.ensure_future(self.loop.sock_recv(other, 10))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            sending = asyncio.ensure_future(self.loop.sock_sendall(one, wanted))
            buffer = bytearray(20_000)
            while len(got) < len(wanted):
                got += buffer[: await self.loop.sock_recv_into(other, buffer)]
            await sending
        same(bytes(got), wanted, "sock_recv_into")

    async def processes(self, chooser: random.Random) -> None:
        mode = chooser.choice(("echo", "echo", "status", "kill", "cancel"))
        pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
        command = ("cat",) if mode == "echo" else ("sh", "-c", "exit 7") if mode == "status" else ("sleep", "60")
        try:
            process = await asyncio.create_subprocess_exec(*command, **pipes)
        except OSError as exc:
            return await self.refused(exc)
        if mode == "echo":
            wanted = self.pattern.piece(chooser.randrange(1000), chooser.randrange(1, 300_000))
            got, _ = await process.communicate(wanted)
            same(got, wanted, "subprocess")
        elif mode == "kill":
            process.kill()
        elif mode == "cancel":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.communicate(b"x"), 0.01)
            process.terminate()
        status = {"echo": 0, "status": 7, "kill": -9, "cancel": -15}[mode]
        require(await process.wait() == status, f"{mode}: exit status {process.returncode}, not {status}")

    async def names(self, chooser: random.Random) -> None:
        try:
            found = await self.loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        except OSError as exc:
            return await self.refused(exc)
        require(found, "localhost has no address")

    async def refused(self, exc: OSError) -> None:
        """What failed for want of a descriptor was to fail; anything else was not."""
        if not self.is_short() or not (exc.errno in SHORTAGES or isinstance(exc, socket.gaierror)):
            raise exc
        self.member.counts["refused for want of descriptors"] += 1
        await asyncio.sleep(0.05)

    async def shortages(self) -> None:
        """Now and then, for a second, no descriptor can be opened."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        chooser = random.Random(self.options.seed)
        while not self.member.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.member.stopping.wait(), chooser.uniform(0.5, 1.5) * self.options.shortage)
                return
            self.short_until = self.loop.time() + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_descriptors()) + 1, hard))
            try:
                await asyncio.sleep(1)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                self.short_until = self.loop.time()
            self.member.counts["shortages"] += 1

    # ---- the life of the process

    def sabotage(self, what: str | None) -> None:
        """Do what the run has to notice."""
        if what == "byte":
            self.loop.call_later(1, setattr, Echo, "spoil", True)
        elif what == "descriptor":
            # At once, while there are descriptors to be had.
            self.kept.append(socket.socket())
        elif what == "report":
            self.loop.call_later(1, lambda: 1 / 0)
        elif what == "stall":
            self.loop.call_later(1, threading.Event().wait)
        elif what == "memory":
            self.loop.call_later(0.5, self.hoard)

    def hoard(self) -> None:
        self.hoarded.append(bytearray(os.urandom(200_000)))
        self.loop.call_later(0.5, self.hoard)

    async def run(self) -> None:
        member = self.member
        with tempfile.TemporaryDirectory() as folder:
            places = await self.start(Path(folder))
            # Threads, the process watcher and modules imported late are there before anything is counted.
            for step in (self.processes, self.threads, self.descriptors, self.sockets, self.names):
                await step(random.Random(1))
            (await asyncio.open_connection(*places["tcp"]))[1].close()
            await asyncio.sleep(0.2)
            before, tasks = open_descriptors(), len(asyncio.all_tasks())
            gc.collect()
            standing = transports()
            member.tell(places=places)
            for name in ("timers", "threads", "descriptors", "sockets", "processes", "names"):
                member.load(name, getattr(self, name), 2)
            shortages = self.loop.create_task(self.shortages())
            self.sabotage(self.options.sabotage)
            await member.report_until_stopped()
            await shortages
            await member.finish()
            for text in await settled(before):
                member.problem(f"a descriptor is left: {text}")
            await asyncio.sleep(0.1)
            if len(asyncio.all_tasks()) > tasks:
                member.problem(f"tasks are left: {[task.get_name() for task in asyncio.all_tasks()]}")
            gc.collect()
            if left := transports() - standing:
                member.problem(f"transports are left: {dict(left)}")
            await self.end()
            member.tell(end=resident())

    async def end(self) -> None:
        if hasattr(self, "http"):
            self.http.should_exit = True
            await self.http_task
        for server in self.servers:
            server.close()
            await server.wait_closed()
        self.file.close()
        for transport in self.kept:
            transport.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="loopfast")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shortage", type=float, required=True)
    parser.add_argument("--sabotage")
    options = parser.parse_args()

    async def served() -> None:
        await Served(options).run()

    run(served, options.loop)


if __name__ == "__main__":
    main()
