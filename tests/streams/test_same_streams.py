"""Random programs of reads, writes, cancellations and arrivals on one stream: on both loops the same must come out.

Between the bursts of a program both loops come to rest, so that nothing depends on which turn something happened in.
Sockets of one host deliver before send() returns.
"""

from __future__ import annotations

import asyncio
import gc
import random
import re
import socket
import sys
from typing import Any

import pytest
from support import Reports, new_event_loop, settle

BURSTS = 40
LIMITS = (1, 3, 10, 40, 200, 2**16)
SEPARATORS: list[Any] = [b"\n", b";", b"ab", b";\n", b"aba", b"", bytearray(b"\n"), "x"]
if sys.version_info >= (3, 13):
    SEPARATORS += [(b";", b"\n"), (b"ab", b"a;"), ()]
# Names of what an action can do, and how often it is chosen.
ACTIONS = {
    "send": 12,
    "read": 6,
    "exactly": 6,
    "until": 6,
    "line": 5,
    "next": 2,
    "cancel": 3,
    "forget": 1,
    "write": 4,
    "drain": 4,
    "feed": 1,
    "limit": 1,
    "attribute": 1,
}
ENDINGS = ("eof", "close", "abort", "exception", "feed_eof", "nothing")


def make_program(seed: int) -> list[list[tuple[str, Any]]]:
    """Bursts of actions with their arguments; the ending comes at some point, and the rest after it."""
    chance = random.Random(seed)

    def some_bytes() -> bytes:
        return bytes(chance.choices(b"ab;\n", k=chance.choice((1, 2, 7, 30, 100, 300))))

    def argument(name: str) -> Any:
        match name:
            case "send" | "feed":
                return some_bytes()
            case "write":
                return chance.choice((b"", b"x", b"y" * 100, bytearray(b"z")))
            case "read":
                return chance.choice((-1, 0, 1, 2, 5, 20, 1000, -7, True, None, 2.0))
            case "exactly":
                return chance.choice((-1, 0, 1, 2, 5, 20, 150, True, None))
            case "until":
                return chance.choice(SEPARATORS)
            case "limit":
                return chance.choice(LIMITS)
        return None

    names = chance.choices(list(ACTIONS), list(ACTIONS.values()), k=3 * BURSTS)
    actions = [(name, argument(name)) for name in names]
    actions.insert(chance.randrange(len(actions) // 2, len(actions)), (chance.choice(ENDINGS), None))
    bursts: list[list[tuple[str, Any]]] = [[]]
    for action in actions:
        bursts[-1].append(action)
        if chance.random() < 0.7:
            bursts.append([])
    return bursts


class World:
    """A stream, the socket at its other end, and what has happened."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Any) -> None:
        # asyncio's own attributes, which its users look at, too.
        self.reader: Any = reader
        self.writer = writer
        self.peer = peer
        self.tasks: list[tuple[str, asyncio.Task[Any]]] = []
        self.log: list[Any] = []

    def begin(self, name: str, coroutine: Any) -> None:
        self.tasks.append((name, asyncio.ensure_future(coroutine)))

    async def next_line(self) -> bytes:
        async for line in self.reader:
            return line
        return b"the end"

    def act(self, name: str, argument: Any) -> None:
        match name:
            case "send":
                try:
                    self.peer.write(argument)
                except OSError as exc:
                    self.log.append(repr(exc))
            case "read":
                self.begin(name, self.reader.read(argument))
            case "exactly":
                self.begin(name, self.reader.readexactly(argument))
            case "until":
                self.begin(name, self.reader.readuntil(argument))
            case "line":
                self.begin(name, self.reader.readline())
            case "next":
                self.begin(name, self.next_line())
            case "cancel" if self.tasks:
                self.tasks[-1][1].cancel("enough")
            case "forget":
                self.reader.read(1).close()
            case "write":
                self.writer.write(argument)
            case "drain":
                self.begin(name, self.writer.drain())
            case "feed":
                self.reader.feed_data(argument)
            case "limit":
                self.reader._limit = argument
            case "attribute":
                self.reader.users_own = 1
            case "eof":
                self.peer.shut_down()
            case "close":
                self.peer.close()
            case "abort":
                self.writer.transport.abort()
            case "exception":
                self.reader.set_exception(LookupError("set by the user"))
            case "feed_eof":
                self.reader.feed_eof()

    def note(self) -> None:
        """Write down how everything stands, and what has ended."""
        for name, task in self.tasks:
            if task.done():
                self.log.append((name, "cancelled" if task.cancelled() else outcome(task)))
        self.tasks = [entry for entry in self.tasks if not entry[1].done()]
        reader = self.reader
        self.log.append((len(self.tasks), bytes(reader._buffer), reader._eof, reader._paused, reader.at_eof()))
        self.log.append((repr(reader.exception()), reader._waiter is None, self.writer.is_closing()))
        self.log.append(re.sub(r"transport=<[^<>]*(<[^<>]*>)?[^<>]*>", "", repr(reader)))
        assert isinstance(reader, asyncio.StreamReader) and isinstance(self.writer, asyncio.StreamWriter)


def outcome(task: asyncio.Task[Any]) -> Any:
    exc = task.exception()
    if exc is None:
        return task.result()
    details = [getattr(exc, name, None) for name in ("partial", "expected", "consumed")]
    return (type(exc).__name__, str(exc), details, exc is task.exception())


class PlainPeer:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def shut_down(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()


def run_history(kind: str, seed: int, *, served: bool) -> list[Any]:
    """Run the program of *seed* on a loop of *kind*; return what happened."""
    mine, theirs = socket.socketpair()
    limit = LIMITS[seed % len(LIMITS)]
    reports = Reports()

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(reports)
        if served:
            accepted = loop.create_future()
            reader = asyncio.StreamReader(limit=limit)
            protocol = asyncio.StreamReaderProtocol(reader, lambda *both: accepted.set_result(both))
            await loop.create_connection(lambda: protocol, sock=mine)
            reader, writer = await accepted
        else:
            reader, writer = await asyncio.open_connection(sock=mine, limit=limit)
        if kind == "loopfast":
            # An error of write() must come when asyncio's does.
            writer.transport.set_write_gathering(False)
        world = World(reader, writer, PlainPeer(theirs))
        for burst in make_program(seed):
            for name, argument in burst:
                try:
                    world.act(name, argument)
                except Exception as exc:
                    world.log.append((name, repr(exc)))
            await settle(20)
            world.note()
        world.log.append("end")
        writer.transport.abort()
        theirs.close()
        for _, task in world.tasks:
            task.cancel()
        await settle(20)
        world.note()
        return world.log

    loop = new_event_loop(kind)
    try:
        log = loop.run_until_complete(main())
    finally:
        loop.close()
    log += [(context["message"], repr(context.get("exception"))) for context in reports]
    return log


@pytest.mark.filterwarnings("ignore:socket.send")
@pytest.mark.parametrize("served", [False, True], ids=["opened", "served"])
@pytest.mark.parametrize("seed", [*range(60), 1005, 1352, 1409, 1760, 2084, 2106, 2161])
def test_the_same_comes_out(seed, served):
    expected = run_history("asyncio", seed, served=served)
    found = run_history("loopfast", seed, served=served)
    for number, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours == theirs, f"entry {number}, after {expected[max(0, number - 8) : number]}"


async def test_a_reader_that_the_collector_empties_while_a_call_waits(loop, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.read()
    waiting = asyncio.StreamReader()
    waiting.__class__ = type(reader)
    call = waiting.read(10)
    next(call.__await__())
    waiting.call = call
    del waiting, call
    gc.collect()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert unraisable == []
