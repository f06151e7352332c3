"""The client processes of a soak run: peaceful ones verify every byte, hostile ones reset, abort and send junk."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import hashlib
import json
import random
import socket
import ssl
import struct
import sys
from pathlib import Path
from typing import Any

from member import PATIENCE, Member, Pattern, require, run, same, settled, transports
from member import descriptors as open_descriptors
from served import DIGEST, FILE, FILE_SIZE, REQUEST

PAUSE = 0.02


class Talk(asyncio.Protocol):
    """Sends a pattern to an echo server and compares what comes back as it comes, now and then reading slowly."""

    def __init__(self, chooser: random.Random, pattern: Pattern, size: int, *, half_close: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.chooser, self.pattern, self.size = chooser, pattern, size
        self.start = chooser.randrange(100_000)
        self.half_close = half_close
        self.sent = self.got = 0
        self.is_slow = chooser.random() < 0.15
        self.is_paused = False
        self.done = self.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Write until told to pause; a few pieces in one turn, so that gathering happens."""
        while self.sent < self.size and not self.is_paused and not self.transport.is_closing():
            size = min(self.size - self.sent, self.chooser.choice((1, 100, 5000, 70_000)))
            piece = self.pattern.piece(self.start + self.sent, size)
            self.sent += size
            if self.chooser.random() < 0.2 and size > 2:
                self.transport.writelines([piece[:1], bytearray(piece[1:-1]), memoryview(piece)[-1:]])
            else:
                self.transport.write(piece)
            if self.chooser.random() < 0.1:
                self.loop.call_soon(self.send)
                return
        if self.sent == self.size and self.half_close and not self.transport.is_closing():
            self.half_close = False
            self.transport.write_eof()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self.send()

    def data_received(self, data: bytes) -> None:
        try:
            same(data, self.pattern.piece(self.start + self.got, len(data)), f"echo at {self.got} of {self.size}")
            self.got += len(data)
            require(self.got <= self.sent, f"{self.got} bytes came back of {self.sent}")
        except Exception as exc:
            self.end(exc)
            return
        if self.got == self.size:
            self.end(None)
        elif self.is_slow and self.chooser.random() < 0.3:
            self.transport.pause_reading()
            self.loop.call_later(PAUSE, self.read_on)

    def read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def end(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc) if exc else self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(exc or ConnectionError(f"closed after {self.got} of {self.size} bytes"))


class Question(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.answers.put_nowait(data)


def reset(sock: socket.socket) -> None:
    """Close with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Clients:
    """The loads of a client process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.member = Member(options.seed)
        self.loop = self.member.loop
        self.places = json.loads(options.places)
        self.patterns = [Pattern(number) for number in range(4)]
        self.trust = ssl.create_default_context(cafile=options.folder / "cert.pem")

    def address(self, name: str) -> tuple[str, int]:
        host, port = self.places[name]
        return host, port

    def size(self, chooser: random.Random) -> int:
        return chooser.choice((1, 300, 20_000, 200_000, chooser.randrange(1, 1_500_000)))

    # ---- peaceful

    async def echo(self, name: str, chooser: random.Random) -> None:
        half_close = name != "tls" and chooser.random() < 0.5
        talk = functools.partial(
            Talk, chooser, chooser.choice(self.patterns), self.size(chooser), half_close=half_close
        )
        if name == "unix":
            transport, protocol = await self.loop.create_unix_connection(talk, self.places["unix"])
        elif name == "tls":
            transport, protocol = await self.loop.create_connection(
                talk,
                *self.address("tls"),
                ssl=self.trust,
                server_hostname="localhost",
                ssl_handshake_timeout=PATIENCE,
            )
        else:
            transport, protocol = await self.loop.create_connection(talk, *self.address(name))
        try:
            await protocol.done
            self.member.counts[f"{name} bytes"] += protocol.got
        finally:
            transport.abort() if chooser.random() < 0.2 else transport.close()

    async def requests(self, chooser: random.Random) -> None:
        """Streams: requests one after another, with a read that is cancelled in between."""
        reader, writer = await asyncio.open_connection(*self.address("stream"))
        try:
            for _ in range(chooser.randrange(1, 6)):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.readexactly(1), 0.0005)
                kind, size, wanted = chooser.choice((DIGEST, FILE)), self.size(chooser) // 2, self.size(chooser)
                body = self.patterns[1].piece(size, size)
                writer.write(REQUEST.pack(kind, size, wanted))
                writer.write(body)
                await writer.drain()
                same(await reader.readexactly(32), hashlib.sha256(body).digest(), "digest of a request")
                start = size % 1000 if kind == FILE else size
                wanted = min(wanted, FILE_SIZE - start) if kind == FILE else wanted
                same(await reader.readexactly(wanted), self.patterns[0].piece(start, wanted), f"answer of kind {kind}")
                self.member.counts["stream bytes"] += size + wanted
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def datagrams(self, chooser: random.Random) -> None:
        transport, protocol = await self.loop.create_datagram_endpoint(Question, remote_addr=self.address("udp"))
        try:
            asked = {}
            for number in range(chooser.randrange(1, 40)):
                data = number.to_bytes(4, "big") + self.patterns[2].piece(number, chooser.choice((0, 10, 1400, 9000)))
                asked[data] = None
                transport.sendto(data)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while asked:
                        answer = await protocol.answers.get()
                        require(answer in asked, f"a datagram of {len(answer)} bytes that nobody sent, or twice")
                        del asked[answer]
                        self.member.counts["datagrams verified"] += 1
            # The kernel drops datagrams when the server has no time.
            self.member.counts["datagrams lost"] += len(asked)
        finally:
            transport.close()

    async def http(self, chooser: random.Random) -> None:
        reader, writer = await asyncio.open_connection(*self.address("http"))
        try:
            for _ in range(chooser.randrange(1, 8)):
                if chooser.random() < 0.5:
                    body = self.patterns[3].piece(chooser.randrange(1000), self.size(chooser) // 3)
                    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    wanted = body
                else:
                    size, count = chooser.randrange(1, 50_000), chooser.randrange(1, 20)
                    writer.write(b"GET /pieces?size=%d&count=%d HTTP/1.1\r\nHost: x\r\n\r\n" % (size, count))
                    wanted = self.patterns[0].piece(0, size * count)
                await writer.drain()
                same(await self.http_answer(reader), wanted, "body of an HTTP answer")
                self.member.counts["http bytes"] += len(wanted)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def http_answer(self, reader: asyncio.StreamReader) -> bytes:
        """Read one answer: of a stated length, or in chunks."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        require(head.startswith(b"http/1.1 200 "), f"HTTP answer {head[:40]!r}")
        for line in head.split(b"\r\n"):
            if line.startswith(b"content-length:"):
                return await reader.readexactly(int(line.partition(b":")[2]))
        body = bytearray()
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return bytes(body)

    # ---- hostile

    async def hostile(self, chooser: random.Random) -> None:
        """One misdeed. What becomes of the connection is not looked at; the server is to survive it."""
        misdeed = chooser.choice((self.resets, self.junk, self.aborts, self.deserts, self.gives_up, self.tls_resets))
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            await misdeed(chooser)
        self.member.counts[misdeed.__name__.replace("_", " ")] += 1

    async def connected(self, name: str) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        try:
            await asyncio.wait_for(self.loop.sock_connect(sock, self.address(name)), 5)
        except BaseException:
            sock.close()
            raise
        return sock

    async def resets(self, chooser: random.Random) -> None:
        """A few connections that are reset at once, or after some data."""
        for _ in range(chooser.randrange(1, 15)):
            sock = await self.connected(chooser.choice(("tcp", "lent", "tls", "stream")))
            with contextlib.suppress(OSError):
                sock.send(self.patterns[0].piece(0, chooser.choice((1, 30_000))))
            if chooser.random() < 0.5:
                await asyncio.sleep(chooser.uniform(0, 0.01))
            reset(sock)

    async def junk(self, chooser: random.Random) -> None:
        """No TLS, or TLS with bytes in between that are none."""
        sock = await self.connected("tls")
        with sock:
            hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
            await self.loop.sock_sendall(sock, chooser.choice((b"", hello)) + chooser.randbytes(700))
            await asyncio.wait_for(self.loop.sock_recv(sock, 1000), chooser.choice((0.01, 7)))

    async def aborts(self, chooser: random.Random) -> None:
        """A transfer that is broken off in the middle, by whoever reads or writes."""
        name = chooser.choice(("tcp", "lent", "tls"))
        talk = functools.partial(Talk, chooser, self.patterns[0], 3_000_000, half_close=False)
        more = {"ssl": self.trust, "server_hostname": "localhost"} if name == "tls" else {}
        transport, protocol = await self.loop.create_connection(talk, *self.address(name), **more)
        protocol.done.add_done_callback(lambda future: future.cancelled() or future.exception())
        await asyncio.sleep(chooser.uniform(0, 0.05))
        transport.abort()

    async def deserts(self, chooser: random.Random) -> None:
        """Asks for megabytes, reads none of them, and goes."""
        sock = await self.connected("stream")
        await self.loop.sock_sendall(sock, REQUEST.pack(chooser.choice((DIGEST, FILE)), 0, 2_900_000))
        await asyncio.sleep(chooser.uniform(0, 0.3))
        chooser.choice((reset, socket.socket.close))(sock)

    async def gives_up(self, chooser: random.Random) -> None:
        """Connects, with TLS or without, and is cancelled on the way."""
        more = chooser.choice(({}, {"ssl": self.trust, "server_hostname": "localhost"}))
        opening = asyncio.ensure_future(
            self.loop.create_connection(asyncio.Protocol, *self.address("tls" if more else "tcp"), **more)
        )
        await asyncio.wait([opening], timeout=chooser.uniform(0, 0.004))
        opening.cancel()
        await asyncio.wait([opening])
        if not opening.cancelled() and not opening.exception():
            opening.result()[0].abort()

    async def tls_resets(self, chooser: random.Random) -> None:
        """A reset in the middle of a handshake, or of TLS that was fine until then."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
        sock = await self.connected("tls")
        try:
            for _ in range(chooser.randrange(1, 4)):
                try:
                    tls.do_handshake()
                    tls.write(b"x" * 1000)
                except ssl.SSLWantReadError:
                    pass
                await self.loop.sock_sendall(sock, outgoing.read())
                incoming.write(await asyncio.wait_for(self.loop.sock_recv(sock, 1 << 16), 1))
        finally:
            reset(sock)

    # ---- the life of the process

    async def run(self) -> None:
        member = self.member
        # What a loop opens once, on its first need, is there before anything is counted: its kernel sets, its threads,
        # and with the first stream a spare descriptor of libuv.
        await self.loop.getaddrinfo("localhost", 80)
        (await asyncio.open_connection(*self.address("tcp")))[1].close()
        sock = await self.connected("tcp")
        await self.loop.sock_sendall(sock, b"x")
        await self.loop.sock_recv(sock, 1)
        sock.close()
        before = open_descriptors()
        if self.options.hostile:
            member.load("misdeeds", self.hostile, 6)
        else:
            for name in ("tcp", "lent", "tls", "unix"):
                member.load(name, functools.partial(self.echo, name), 3)
            member.load("stream", self.requests, 3)
            member.load("udp", self.datagrams, 2)
            if "http" in self.places:
                member.load("http", self.http, 3)
        await member.report_until_stopped()
        await member.finish()
        for text in await settled(before):
            member.problem(f"a descriptor is left: {text}")
        await asyncio.sleep(0.1)
        gc.collect()
        if left := transports():
            member.problem(f"transports are left: {dict(left)}")
        member.tell(end=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", default="loopfast")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--places", required=True)
    parser.add_argument("--hostile", action="store_true")
    options = parser.parse_args()

    async def clients() -> None:
        await Clients(options).run()

    run(clients, options.loop)


if __name__ == "__main__":
    sys.exit(main())
