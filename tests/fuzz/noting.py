"""Protocols that note what they are told and act on a script, and what can be done with a stream transport."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Any

from hypothesis import strategies as st
from twins import Bang, World, content, outcome, shown

ERRORS: dict[str, type[BaseException]] = {
    "ValueError": ValueError,
    "OSError": ConnectionAbortedError,
    "Bang": Bang,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": SystemExit,
}

sizes = st.integers(0, 3000)
writes = st.one_of(
    st.tuples(st.just("write"), st.tuples(st.sampled_from(["bytes", "bytearray", "memoryview"]), sizes)),
    st.tuples(st.just("write_wrong"), st.sampled_from(["text", None, 5, (b"bytes",)])),
    # An empty piece stays in asyncio's queue for ever.
    st.tuples(st.just("writelines"), st.lists(st.integers(1, 3000), max_size=3)),
)
changes = st.one_of(
    st.tuples(st.sampled_from(["close", "abort", "write_eof", "pause_reading", "resume_reading"]), st.none()),
    st.tuples(st.just("limits"), st.sampled_from([(None, None), (0, 0), (0, None), (10, 5), (5, 10), (1000, None)])),
    st.tuples(st.just("protocol"), st.sampled_from(["plain", "buffered", "small"])),
)
questions = st.tuples(
    st.sampled_from(
        ["is_closing", "is_reading", "can_write_eof", "is_empty", "get_limits", "get_protocol", "get_extra"]
    ),
    st.none(),
)
# What a callback of the protocol does the first time it is called.
reactions = st.lists(st.one_of(writes, changes, st.tuples(st.just("raise"), st.sampled_from(list(ERRORS)))), max_size=3)
events = ["made", "data", "eof", "lost", "pause", "resume"]
scripts = st.fixed_dictionaries(
    {"eof_result": st.sampled_from([None, True, False])},
    optional=dict.fromkeys(events, reactions),
)


def without_closing(script: dict[str, Any]) -> dict[str, Any]:
    """asyncio closes a second time when resume_writing() has closed, and looks for ever at an empty queue when that has
    ended the run."""
    for event in ("resume", "pause"):
        script[event] = [step for step in script.get(event, ()) if step[0] not in ("close", "abort", "raise")]
    return script


class Noting(asyncio.BaseProtocol):
    """Notes what it is told under its subject, and does what its script says."""

    def __init__(self, world: World, subject: str, script: dict[str, Any]) -> None:
        self.world, self.subject, self.script = world, subject, dict(script)
        self.transport: Any = None
        #: connection_lost() has returned: asyncio's transport has no loop any more, which some of its methods need.
        self.is_lost = False
        #: connection_lost() has begun.
        self.is_ending = False

    def act(self, event: str) -> None:
        for name, value in self.script.pop(event, ()):
            if name == "raise":
                self.world.cut.add(self.subject)
                raise ERRORS[value]
            self.world.note(self.subject, "in " + event, name, outcome(OPERATIONS[name], self, value))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.world.note(self.subject, "made")
        self.act("made")

    def eof_received(self) -> Any:
        self.world.note(self.subject, "eof")
        self.act("eof")
        return self.script["eof_result"]

    def connection_lost(self, exc: Any) -> None:
        if exc is not None:
            self.world.cut.add(self.subject)
        self.world.note(self.subject, "lost", shown(exc))
        self.is_ending = True
        try:
            self.act("lost")
        finally:
            # set_protocol() may have put another in its place.
            for end in (self, self.world.things.get(self.subject) or self):
                end.is_lost = True

    def pause_writing(self) -> None:
        self.world.note(self.subject, "pause")
        self.act("pause")

    def resume_writing(self) -> None:
        self.world.note(self.subject, "resume")
        self.act("resume")


class Plain(Noting, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.world.note(self.subject, "data", data)
        self.act("data")


class Buffered(Noting, asyncio.BufferedProtocol):
    size = 100_000

    def __init__(self, world: World, subject: str, script: dict[str, Any]) -> None:
        super().__init__(world, subject, script)
        self.buffer = bytearray(self.size)

    def get_buffer(self, sizehint: int) -> Any:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.world.note(self.subject, "data", bytes(self.buffer[:nbytes]))
        self.act("data")


class Small(Buffered):
    size = 64


PROTOCOLS: dict[str, type[Noting]] = {"plain": Plain, "buffered": Buffered, "small": Small}


# Each takes the protocol of the transport and a value.


def write(end: Noting, value: tuple[str, int]) -> Any:
    if end.is_lost:
        return "not called"
    form, size = value
    data: Any = content(size, size)
    if form == "bytearray":
        data = bytearray(data)
    elif form == "memoryview":
        data = memoryview(data)
    return end.transport.write(data)


def write_wrong(end: Noting, value: Any) -> Any:
    if end.is_lost:
        return "not called"
    return end.transport.write(value)


def writelines(end: Noting, value: list[int]) -> Any:
    if end.transport.is_closing():
        # asyncio's looks at a loop that is gone.
        return "not called"
    return end.transport.writelines([content(size, size) for size in value])


def set_limits(end: Noting, value: tuple[Any, Any]) -> Any:
    return end.transport.set_write_buffer_limits(*value)


def set_protocol(end: Noting, value: str) -> Any:
    other = PROTOCOLS[value](end.world, end.subject, end.script)
    other.transport, other.is_lost = end.transport, end.is_lost
    if end.world.things.get(end.subject) is not None:
        end.world.things[end.subject] = other
    return end.transport.set_protocol(other)


def get_extra(end: Noting, value: None) -> Any:
    sock = end.transport.get_extra_info("socket")
    found = [type(end.transport.get_extra_info(name)).__name__ for name in ("sockname", "peername")]
    return (sock.fileno() >= 0, sock.family, *found, end.transport.get_extra_info("nothing", 5))


def abort(end: Noting, value: None) -> Any:
    if end.is_lost:
        return "not called"
    end.world.cut.add(end.subject)
    if end.is_ending and end.world.kind == "asyncio":
        # It closes a second time what close() has left with data to send.
        return None
    return end.transport.abort()


OPERATIONS: dict[str, Any] = {
    "write": write,
    "write_wrong": write_wrong,
    "writelines": writelines,
    "limits": set_limits,
    "protocol": set_protocol,
    "get_extra": get_extra,
    "close": lambda end, value: end.transport.close(),
    "abort": abort,
    "write_eof": lambda end, value: end.transport.write_eof(),
    "pause_reading": lambda end, value: end.transport.pause_reading(),
    "resume_reading": lambda end, value: end.transport.resume_reading(),
    "is_closing": lambda end, value: end.transport.is_closing(),
    "is_reading": lambda end, value: end.transport.is_reading(),
    "can_write_eof": lambda end, value: end.transport.can_write_eof(),
    "is_empty": lambda end, value: end.transport.get_write_buffer_size() == 0,
    "get_limits": lambda end, value: end.transport.get_write_buffer_limits(),
    "get_protocol": lambda end, value: end.transport.get_protocol() is end,
}


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
