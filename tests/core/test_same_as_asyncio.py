"""Random programs of timers, callbacks, descriptors, socket calls, transports and endpoints, run on both loops.

The same must happen in the same order. Each step of a program touches one socket only: which of two that became ready
together is served first is the kernel's to say. Sockets of one host deliver before send() returns, so that nothing
depends on time.

What loopfast does otherwise on purpose is left out:
- What an event schedules on an idle loop runs before the next poll: a step on an idle loop makes nothing ready but
  at its beginning.
- Several datagrams are received at once: only their own order counts.
- sock_recv() takes its data when it goes on, so that none is lost with a call that is cancelled after its arrival: one
  call receives at a time, and nothing else waits for its socket meanwhile.
- A transport that was paused and resumed after data came may deliver that a turn earlier.
- An event that a KeyboardInterrupt kept from running is not queued a second time: a busy step has no interrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any

import pytest
from support import LOCALHOST, Reports, new_event_loop

STEPS = 40
# Names of what an action can do, and how often it is chosen.
ACTIONS = {
    "soon": 6,
    "later": 4,
    "past": 2,
    "cancel_handle": 2,
    "resolve": 2,
    "fail": 1,
    "interrupt": 1,
    "stop": 1,
    "send": 8,
    "add_reader": 4,
    "remove_reader": 2,
    "add_writer": 2,
    "recv": 5,
    "recv_into": 3,
    "sendall": 3,
    "cancel_task": 3,
    "write": 5,
    "pause": 2,
    "resume": 2,
    "new_protocol": 1,
    "endpoint_sends": 3,
    "hear": 4,
}
# Those that make a socket ready.
EVENTS = {"send", "hear", "add_reader", "add_writer", "resume"}
# Those that need the socket of a step to be of one kind.
OF_PAIRS = {"add_reader", "remove_reader", "add_writer", "recv", "recv_into", "sendall"}
OF_TRANSPORTS = {"write", "pause", "resume", "new_protocol"}
OF_ENDPOINTS = {"endpoint_sends", "hear"}
SOCKETS = {"pair": OF_PAIRS, "transport": OF_TRANSPORTS, "endpoint": OF_ENDPOINTS}


def make_program(seed: int) -> list[Any]:
    """Return the steps of a program: the kind of its socket, how it begins, and a tree of actions."""
    chance = random.Random(seed)
    program = []
    for _ in range(STEPS):
        kind = chance.choice(list(SOCKETS))
        busy = chance.random() < 0.6
        begin = chance.choice(["task", "timer", "sleep"])
        others = set().union(*(names for other, names in SOCKETS.items() if other != kind))
        others |= {"send"} if kind == "endpoint" else set()
        others |= {"interrupt"} if busy else set()
        names = [name for name in ACTIONS if name not in others]
        quiet = [name for name in names if name not in EVENTS]

        def actions(depth: int, names: Any = names, later: Any = names if busy else quiet) -> list[Any]:
            names = later if depth else names
            chosen = chance.choices(names, [ACTIONS[name] for name in names], k=chance.randint(1, 4 if depth else 6))
            return [(name, chance.randrange(100), actions(depth + 1) if depth < 3 else []) for name in chosen]

        program.append((kind, begin, busy, actions(0 if busy or begin == "task" else 1)))
    return program


class World:
    """Runs a program on a loop, and notes what happened in `log`."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.log: list[Any] = []
        self.near, self.far = socket.socketpair()
        self.stream, self.peer = socket.socketpair()
        for sock in (self.near, self.far, self.stream, self.peer):
            sock.setblocking(False)
        self.socket = self.near
        self.outside = self.far
        self.handles: list[Any] = []
        self.tasks: list[Any] = []
        self.transport: Any = None
        self.speaker: Any = None
        self.listener: Any = None
        self.count = 0

    def note(self, *what: Any) -> None:
        self.log.append(what)

    async def open(self) -> None:
        self.transport, _ = await self.loop.create_connection(lambda: Noting(self), sock=self.stream)
        self.listener, _ = await self.loop.create_datagram_endpoint(lambda: Hearing(self), local_addr=(LOCALHOST, 0))
        self.speaker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.speaker.bind((LOCALHOST, 0))
        self.speaker.setblocking(False)

    async def close(self) -> None:
        self.transport.close()
        self.listener.close()
        await asyncio.sleep(0.001)
        for sock in (self.near, self.far, self.peer, self.speaker):
            sock.close()

    async def step(self, kind: str, begin: str, busy: bool, actions: list[Any]) -> None:
        self.note("step", kind, begin, busy)
        self.busy = busy
        self.reading = self.writing = self.sent = False
        self.receiving = None
        if busy:
            self.spin()
        self.outside = self.peer if kind == "transport" else self.far
        self.pending: list[Any] = []
        if begin == "task":
            self.perform(actions)
        elif begin == "timer":
            self.loop.call_later(0.002, self.perform, actions)
        else:
            self.loop.call_soon(self.perform, actions)
            await asyncio.sleep(0.0003)
        before = None
        while before != len(self.log):
            before = len(self.log)
            await asyncio.sleep(0.003)
            for _ in range(4):
                await asyncio.sleep(0)
        self.note("settled")
        self.busy = False
        self.tidy_up()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def tidy_up(self) -> None:
        """End what the step has left waiting."""
        self.pending.clear()
        self.loop.remove_reader(self.near)
        self.loop.remove_writer(self.near)
        self.transport.resume_reading()
        for handle in self.handles:
            handle.cancel()
        for task in self.tasks:
            task.cancel()
        self.handles.clear()
        self.tasks.clear()
        for sock in (self.near, self.far, self.peer, self.speaker):
            with contextlib.suppress(BlockingIOError):
                while True:
                    sock.recv(65536)

    def perform(self, actions: list[Any]) -> None:
        for name, number, then in actions:
            self.note("do", name, number)
            getattr(self, "do_" + name)(number, then)

    def spin(self) -> None:
        if self.busy:
            self.loop.call_soon(self.spin)

    # What a callback does when it is called: it notes that, and goes on with its part of the tree.

    def called(self, name: str, number: int, then: list[Any]) -> None:
        self.note(name, number)
        self.perform(then)

    def do_soon(self, number: int, then: list[Any]) -> None:
        self.handles.append(self.loop.call_soon(self.called, "soon", number, then))

    def do_later(self, number: int, then: list[Any]) -> None:
        self.handles.append(self.loop.call_later(0, self.called, "later", number, then))

    def do_past(self, number: int, then: list[Any]) -> None:
        self.handles.append(self.loop.call_at(-number, self.called, "past", number, then))

    def do_cancel_handle(self, number: int, then: list[Any]) -> None:
        if self.handles:
            self.handles.pop(number % len(self.handles)).cancel()

    def do_resolve(self, number: int, then: list[Any]) -> None:
        future = self.loop.create_future()
        future.add_done_callback(lambda _: self.called("resolved", number, then))
        future.set_result(None)

    def do_fail(self, number: int, then: list[Any]) -> None:
        self.loop.call_soon(fail, number)

    def do_interrupt(self, number: int, then: list[Any]) -> None:
        self.loop.call_soon(interrupt)

    def do_stop(self, number: int, then: list[Any]) -> None:
        self.loop.stop()

    def do_send(self, number: int, then: list[Any]) -> None:
        self.sent = True
        with contextlib.suppress(BlockingIOError):
            self.outside.send(b"%03d" % number)
        if then:
            self.pending.append(then)

    def next_pending(self) -> None:
        if self.pending:
            self.perform(self.pending.pop(0))

    def do_add_reader(self, number: int, then: list[Any]) -> None:
        if not self.is_receiving():
            self.reading = True
            self.loop.add_reader(self.near, self.readable, number)

    def readable(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self.note("readable", number, self.near.recv(1 + number % 7 if self.busy else 1000))
            self.next_pending()

    def do_remove_reader(self, number: int, then: list[Any]) -> None:
        if not self.is_receiving():
            self.reading = False
            self.note("removed", self.loop.remove_reader(self.near))

    def do_add_writer(self, number: int, then: list[Any]) -> None:
        if not self.is_receiving():
            self.writing = True
            self.loop.add_writer(self.near, self.writable, number, then)

    def writable(self, number: int, then: list[Any]) -> None:
        self.writing = False
        self.loop.remove_writer(self.near)
        self.called("writable", number, then)

    def run(self, name: str, number: int, then: list[Any], call: Any) -> None:
        async def task() -> None:
            try:
                result = await call()
            except asyncio.CancelledError:
                self.note(name, number, "cancelled")
                raise
            self.note(name, number, result)
            self.perform(then)

        self.tasks.append(self.loop.create_task(task()))

    def is_receiving(self) -> bool:
        return self.receiving is not None and not self.receiving.done()

    def receive(self, name: str, number: int, then: list[Any], call: Any) -> None:
        if not self.reading and not self.writing and not self.is_receiving():
            self.run(name, number, then, call)
            self.receiving = self.tasks[-1]

    def do_recv(self, number: int, then: list[Any]) -> None:
        self.receive("recv", number, then, lambda: self.loop.sock_recv(self.near, 3))

    def do_recv_into(self, number: int, then: list[Any]) -> None:
        buffer = bytearray(3)
        self.receive("recv_into", number, then, lambda: self.loop.sock_recv_into(self.near, buffer))

    def do_sendall(self, number: int, then: list[Any]) -> None:
        self.run("sendall", number, then, lambda: self.loop.sock_sendall(self.near, bytes(number)))

    def do_cancel_task(self, number: int, then: list[Any]) -> None:
        if self.tasks and not (self.sent and self.is_receiving()):
            self.tasks.pop(number % len(self.tasks)).cancel()

    def do_write(self, number: int, then: list[Any]) -> None:
        self.transport.write(bytes(number))

    def do_pause(self, number: int, then: list[Any]) -> None:
        if not self.sent:
            self.transport.pause_reading()

    def do_resume(self, number: int, then: list[Any]) -> None:
        self.transport.resume_reading()

    def do_new_protocol(self, number: int, then: list[Any]) -> None:
        self.transport.set_protocol((Filling if number % 2 else Noting)(self))

    def do_endpoint_sends(self, number: int, then: list[Any]) -> None:
        self.listener.sendto(b"%d" % number, self.speaker.getsockname())

    def do_hear(self, number: int, then: list[Any]) -> None:
        self.speaker.sendto(b"%d" % number, self.listener.get_extra_info("sockname"))
        if then:
            self.pending.append(then)


def fail(number: int) -> None:
    raise ValueError(number)


def interrupt() -> None:
    raise KeyboardInterrupt


class Noting(asyncio.Protocol):
    def __init__(self, world: World) -> None:
        self.world = world

    def data_received(self, data: bytes) -> None:
        self.world.note("data", data)
        self.world.next_pending()


class Filling(asyncio.BufferedProtocol):
    def __init__(self, world: World) -> None:
        self.world = world
        self.buffer = bytearray(1000)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.world.note("data", bytes(self.buffer[:nbytes]))
        self.world.next_pending()


class Hearing(asyncio.DatagramProtocol):
    def __init__(self, world: World) -> None:
        self.world = world

    def datagram_received(self, data: bytes, addr: Any) -> None:
        # Several arrive at once, where asyncio goes round between them: they do nothing but come in order.
        self.world.note("heard", data)


def run(loop: Any, coroutine: Any, world: World) -> None:
    """run_until_complete() that goes on after stop() and KeyboardInterrupt."""
    task = loop.create_task(coroutine)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
            if not task.done():
                world.note("stopped")
        except KeyboardInterrupt:
            world.note("interrupted")
    task.result()


def history(kind: str, seed: int) -> list[Any]:
    """Run the program of *seed*; return what happened."""
    loop = new_event_loop(kind)
    world = World(loop)
    reports = Reports()
    loop.set_exception_handler(lambda loop, context: (reports(loop, context), world.note(str(context["exception"]))))

    async def main() -> None:
        await world.open()
        for step in make_program(seed):
            await world.step(*step)
        await world.close()

    try:
        run(loop, main(), world)
    finally:
        loop.close()
    return world.log


def by_steps(log: list[Any]) -> list[list[Any]]:
    steps: list[list[Any]] = [[]]
    for entry in log:
        if entry[0] == "step":
            steps.append([])
        steps[-1].append(entry)
    return [[e for e in step if e[0] != "heard"] + [e for e in step if e[0] == "heard"] for step in steps]


@pytest.mark.parametrize("seed", range(12))
def test_the_same_happens_in_the_same_order(seed):
    expected = by_steps(history("asyncio", seed))
    found = by_steps(history("loopfast", seed))
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == theirs
